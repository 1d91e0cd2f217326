//! The scripts that Redis runs for us, each atomic; found by their hash, loaded again where a
//! server has forgotten them.

use std::fmt;

/// One of `src/fleet/scripts/*.lua`, behind what they have in common.
pub struct Script(redis::Script);

impl Script {
    pub fn of(body: &str) -> Script {
        Script(redis::Script::new(body))
    }

    pub(crate) fn redis(&self) -> &redis::Script {
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
        Script::of(concat!(
            include_str!("../scripts/register.lua"),
            include_str!(concat!("../scripts/", $file))
        ))
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
            heartbeat: Script::of(include_str!("../scripts/heartbeat.lua")),
            force: Script::of(include_str!("../scripts/force.lua")),
            hold: Script::of(include_str!("../scripts/hold.lua")),
            chunk: Script::of(include_str!("../scripts/chunk.lua")),
            snapshot: Script::of(include_str!("../scripts/snapshot.lua")),
            look: Script::of(include_str!("../scripts/look.lua")),
        }
    }
}

impl Default for Scripts {
    fn default() -> Self {
        Self::new()
    }
}
