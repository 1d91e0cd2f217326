//! The scripts that run in Redis, each atomic. They are called by hash, and loaded again if a server
//! has lost them.

use std::fmt;

/// A script, after the functions that it shares with others.
pub struct RedisScript(redis::Script);

impl RedisScript {
    pub fn new(body: &str) -> RedisScript {
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
        RedisScript::new(concat!(
            include_str!("../scripts/register.lua"),
            include_str!(concat!("../scripts/", $file))
        ))
    };
}

/// The scripts of breakers, holds, limits and hosts. Those of one breaker get the keys `cb`, `cb:t`,
/// `cb:x`, `cb:v:KEY`, `cb:l:KEY`, `cb:w:KEY` and `cb:h:KEY`.
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
    pub breaker_details: RedisScript,
}

impl FleetScripts {
    pub fn new() -> FleetScripts {
        FleetScripts {
            vote: with_register!("vote.lua"),
            lease: with_register!("lease.lua"),
            renew: with_register!("renew.lua"),
            result: with_register!("result.lua"),
            assert: with_register!("assert.lua"),
            heartbeat: RedisScript::new(include_str!("../scripts/heartbeat.lua")),
            force: RedisScript::new(include_str!("../scripts/force.lua")),
            hold: RedisScript::new(include_str!("../scripts/hold.lua")),
            chunk: RedisScript::new(include_str!("../scripts/chunk.lua")),
            snapshot: RedisScript::new(include_str!("../scripts/snapshot.lua")),
            breaker_details: RedisScript::new(include_str!("../scripts/breaker_details.lua")),
        }
    }
}

impl Default for FleetScripts {
    fn default() -> Self {
        Self::new()
    }
}
