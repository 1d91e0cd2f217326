//! The Redis scripts of shared jobs.

use crate::fleet::redis::scripts::scripts;

scripts! {
    /// Each gets one key: the prefix of all keys of jobs.
    JobScripts {
        publish: "../scripts/job.lua" "../scripts/job_publish.lua",
        known: "../scripts/job.lua" "../scripts/job_known.lua",
        claim: "../scripts/job.lua" "../scripts/job_claim.lua",
        take: "../scripts/job.lua" "../scripts/job_take.lua",
        renew: "../scripts/job.lua" "../scripts/job_renew.lua",
        back: "../scripts/job.lua" "../scripts/job_back.lua",
        end: "../scripts/job.lua" "../scripts/job_end.lua",
        fetch: "../scripts/job.lua" "../scripts/job_fetch.lua",
        clear: "../scripts/job.lua" "../scripts/job_clear.lua",
        beat: "../scripts/job.lua" "../scripts/job_beat.lua",
        resign: "../scripts/job.lua" "../scripts/job_resign.lua",
    }
}
