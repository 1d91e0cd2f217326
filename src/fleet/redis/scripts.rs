//! The scripts that Redis runs for us, each atomic; found by their hash, loaded again where a
//! server has forgotten them.

use std::fmt;

/// One of `src/fleet/scripts/*.lua`, behind what they have in common.
pub struct RedisScript(redis::Script);

impl RedisScript {
    pub fn of(body: &str) -> RedisScript {
        RedisScript(redis::Script::new(body))
    }

    pub(crate) fn redis(&self) -> &redis::Script {
        &self.0
    }
}

impl fmt::Debug for RedisScript {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.get_hash())
    }
}

macro_rules! with_register {
    ($file:literal) => {
        RedisScript::of(concat!(
            include_str!("../scripts/register.lua"),
            include_str!(concat!("../scripts/", $file))
        ))
    };
}

/// Of breakers, holds and hosts. Each is given the keys `cb`, `cb:t`, `cb:x`, `cb:v:KEY`, `cb:l:KEY`,
/// `cb:w:KEY`, `cb:h:KEY` where it speaks of one breaker.
#[derive(Debug)]
pub struct FleetScripts {
    pub vote: RedisScript,
    pub lease: RedisScript,
    pub renew: RedisScript,
    pub result: RedisScript,
    pub assert: RedisScript,
    pub heartbeat: RedisScript,
    pub force: RedisScript,
    pub hold: RedisScript,
    pub chunk: RedisScript,
    pub snapshot: RedisScript,
    pub look: RedisScript,
}

impl FleetScripts {
    pub fn new() -> FleetScripts {
        FleetScripts {
            vote: with_register!("vote.lua"),
            lease: with_register!("lease.lua"),
            renew: with_register!("renew.lua"),
            result: with_register!("result.lua"),
            assert: with_register!("assert.lua"),
            heartbeat: RedisScript::of(include_str!("../scripts/heartbeat.lua")),
            force: RedisScript::of(include_str!("../scripts/force.lua")),
            hold: RedisScript::of(include_str!("../scripts/hold.lua")),
            chunk: RedisScript::of(include_str!("../scripts/chunk.lua")),
            snapshot: RedisScript::of(include_str!("../scripts/snapshot.lua")),
            look: RedisScript::of(include_str!("../scripts/look.lua")),
        }
    }
}

impl Default for FleetScripts {
    fn default() -> Self {
        Self::new()
    }
}
