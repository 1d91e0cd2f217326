//! The scripts that run in Redis, each atomic. They are called by hash, and loaded again if a server
//! has lost them.

/// Declares a set of scripts. The text of each is that of its files, one after the other.
macro_rules! scripts {
    ($(#[$doc:meta])* $set:ident { $($name:ident: $($file:literal)+,)* }) => {
        $(#[$doc])*
        #[derive(Debug)]
        pub struct $set {
            $(pub $name: ::redis::Script,)*
        }

        impl Default for $set {
            fn default() -> Self {
                $set { $($name: ::redis::Script::new(concat!($(include_str!($file)),+)),)* }
            }
        }
    };
}

pub(crate) use scripts;

scripts! {
    /// The scripts of breakers, holds, limits and hosts. Those of one breaker get the keys `cb`, `cb:t`,
    /// `cb:x`, `cb:v:KEY`, `cb:l:KEY`, `cb:w:KEY` and `cb:h:KEY`.
    FleetScripts {
        vote: "../scripts/register.lua" "../scripts/vote.lua",
        lease: "../scripts/register.lua" "../scripts/lease.lua",
        renew: "../scripts/register.lua" "../scripts/renew.lua",
        result: "../scripts/register.lua" "../scripts/result.lua",
        assert: "../scripts/register.lua" "../scripts/assert.lua",
        heartbeat: "../scripts/heartbeat.lua",
        force: "../scripts/force.lua",
        hold: "../scripts/hold.lua",
        chunk: "../scripts/chunk.lua",
        snapshot: "../scripts/snapshot.lua",
        breaker_details: "../scripts/breaker_details.lua",
        benchmark_lease: "../scripts/benchmark_lease.lua",
        benchmark_settle: "../scripts/benchmark_settle.lua",
    }
}
