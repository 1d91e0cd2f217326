//! The Redis scripts of jobs.

use crate::fleet::redis::scripts::RedisScript;

macro_rules! of_jobs {
    ($file:literal) => {
        RedisScript::of(concat!(
            include_str!("../scripts/job.lua"),
            include_str!(concat!("../scripts/", $file))
        ))
    };
}

/// Of jobs. Each is given one key, which all others begin with.
#[derive(Debug)]
pub struct JobScripts {
    pub publish: RedisScript,
    pub known: RedisScript,
    pub claim: RedisScript,
    pub take: RedisScript,
    pub renew: RedisScript,
    pub back: RedisScript,
    pub end: RedisScript,
    pub fetch: RedisScript,
    pub clear: RedisScript,
    pub beat: RedisScript,
    pub resign: RedisScript,
}

impl JobScripts {
    pub fn new() -> JobScripts {
        JobScripts {
            publish: of_jobs!("job_publish.lua"),
            known: of_jobs!("job_known.lua"),
            claim: of_jobs!("job_claim.lua"),
            take: of_jobs!("job_take.lua"),
            renew: of_jobs!("job_renew.lua"),
            back: of_jobs!("job_back.lua"),
            end: of_jobs!("job_end.lua"),
            fetch: of_jobs!("job_fetch.lua"),
            clear: of_jobs!("job_clear.lua"),
            beat: of_jobs!("job_beat.lua"),
            resign: of_jobs!("job_resign.lua"),
        }
    }
}

impl Default for JobScripts {
    fn default() -> Self {
        Self::new()
    }
}
