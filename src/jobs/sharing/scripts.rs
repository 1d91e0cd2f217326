//! The Redis scripts of jobs.

use crate::fleet::redis::scripts::Script;

macro_rules! of_jobs {
    ($file:literal) => {
        Script::of(concat!(
            include_str!("../scripts/job.lua"),
            include_str!(concat!("../scripts/", $file))
        ))
    };
}

/// Of jobs. Each is given one key, which all others begin with.
#[derive(Debug)]
pub struct JobScripts {
    pub publish: Script,
    pub known: Script,
    pub claim: Script,
    pub take: Script,
    pub renew: Script,
    pub back: Script,
    pub end: Script,
    pub fetch: Script,
    pub clear: Script,
    pub beat: Script,
    pub resign: Script,
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
