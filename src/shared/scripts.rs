//! The scripts that Redis runs for us, each atomic; found by their hash, loaded again where a
//! server has forgotten them.

use std::fmt;

/// One of `src/shared/*.lua`, behind what they have in common.
pub struct Script(redis::Script);

impl Script {
    fn of(body: &str) -> Script {
        Script(redis::Script::new(body))
    }

    pub(super) fn redis(&self) -> &redis::Script {
        &self.0
    }
}

impl fmt::Debug for Script {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.get_hash())
    }
}

macro_rules! with_register {
    ($file:literal) => {
        Script::of(concat!(include_str!("register.lua"), include_str!($file)))
    };
}

/// Of breakers, holds and hosts. Each is given the keys `cb`, `cb:t`, `cb:x`, `cb:v:KEY`, `cb:l:KEY`,
/// `cb:w:KEY`, `cb:h:KEY` where it speaks of one breaker.
#[derive(Debug)]
pub struct Scripts {
    pub vote: Script,
    pub lease: Script,
    pub renew: Script,
    pub result: Script,
    pub assert: Script,
    pub heartbeat: Script,
    pub force: Script,
    pub hold: Script,
    pub chunk: Script,
    pub snapshot: Script,
    pub look: Script,
}

impl Scripts {
    pub fn new() -> Scripts {
        Scripts {
            vote: with_register!("vote.lua"),
            lease: with_register!("lease.lua"),
            renew: with_register!("renew.lua"),
            result: with_register!("result.lua"),
            assert: with_register!("assert.lua"),
            heartbeat: Script::of(include_str!("heartbeat.lua")),
            force: Script::of(include_str!("force.lua")),
            hold: Script::of(include_str!("hold.lua")),
            chunk: Script::of(include_str!("chunk.lua")),
            snapshot: Script::of(include_str!("snapshot.lua")),
            look: Script::of(include_str!("look.lua")),
        }
    }
}

impl Default for Scripts {
    fn default() -> Self {
        Self::new()
    }
}

macro_rules! of_jobs {
    ($file:literal) => {
        Script::of(concat!(include_str!("job.lua"), include_str!($file)))
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
