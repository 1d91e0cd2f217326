//! The Redis scripts of shared jobs. Each gets one key: the prefix of all keys of jobs.

use crate::fleet::redis::scripts::RedisScript;

/// Declares the scripts; each file follows `job.lua`, the functions that they share.
macro_rules! job_scripts {
    ($($name:ident: $file:literal,)*) => {
        #[derive(Debug)]
        pub struct JobScripts {
            $(pub $name: RedisScript,)*
        }

        impl JobScripts {
            pub fn new() -> JobScripts {
                JobScripts {
                    $($name: RedisScript::new(concat!(
                        include_str!("../scripts/job.lua"),
                        include_str!(concat!("../scripts/", $file))
                    )),)*
                }
            }
        }
    };
}

job_scripts! {
    publish: "job_publish.lua",
    known: "job_known.lua",
    claim: "job_claim.lua",
    take: "job_take.lua",
    renew: "job_renew.lua",
    back: "job_back.lua",
    end: "job_end.lua",
    fetch: "job_fetch.lua",
    clear: "job_clear.lua",
    beat: "job_beat.lua",
    resign: "job_resign.lua",
}

impl Default for JobScripts {
    fn default() -> Self {
        Self::new()
    }
}
