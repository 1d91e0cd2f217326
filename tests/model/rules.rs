//! The limits of an execution, the mutants, and the ground truth.

use std::fmt;
use std::time::{Duration, Instant};

use outrigger::resilience::breaker::shared_state::SharedState;

/// Stream entries that may still be undelivered to some host.
const MAX_ENTRIES: usize = 2;
/// One tick of the model; a replica counts in seconds.
pub const TICK: Duration = Duration::from_secs(1);

/// The fleet, and the events that may happen.
#[derive(Clone, Debug)]
pub struct Rules {
    pub hosts: u8,
    pub quorum: usize,
    pub probes: u32,
    pub threshold: u32,
    /// Ticks that a lease lasts.
    pub ttl: u32,
    /// The length of an execution.
    pub ticks: u32,
    /// Messages in flight at once.
    pub in_flight: usize,
    pub faults: FaultBudget,
    pub mutant: Option<Mutant>,
    /// The moment of tick 0.
    pub base: Instant,
}

/// How often each event may still happen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct FaultBudget {
    /// The provider fails, or recovers.
    pub turns: u8,
    pub crashes: u8,
    pub detaches: u8,
    /// A message is lost.
    pub losses: u8,
    /// A message is duplicated.
    pub doubles: u8,
    /// Redis loses everything, or the write that it has just acknowledged.
    pub wipes: u8,
    /// A client disconnects before its response.
    pub cancels: u8,
}

/// Injected faults that the model must detect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutant {
    /// A new epoch is one more than the stored one.
    StoredPlusOne,
    /// A new epoch respects the stored and the seen epoch, but not the clock.
    NoClock,
    /// A verdict counts even if its lease is not live.
    NoLeaseCheck,
    /// A verdict does not use up its lease.
    LeaseOutlivesItsResult,
    /// A host takes the last state received.
    AdoptsOlder,
    /// One vote opens.
    NoQuorum,
    /// A host requests a lease before its copy of the end.
    RequestsEarly,
    /// One success closes.
    OneSuccessCloses,
    /// Every lease request is granted.
    GrantsAll,
}

/// A process: a restarted host has another name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Name {
    pub host: u8,
    pub life: u8,
}

/// A violated invariant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Broken {
    I1,
    I3,
    I4,
    I5,
    I8,
    I10,
}

/// The truth that no host can see and no data loss undoes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Truth {
    /// The greatest epoch ever begun.
    newest: u64,
    /// Data was lost.
    pub wiped: bool,
    /// Each process that voted, and the newest epoch that it knew then.
    voted: Vec<(Name, u64)>,
    /// The newest entries of the stream.
    pub entries: Vec<SharedState>,
    broken: u8,
}

// === impl Rules ===

impl Rules {
    pub fn at(&self, tick: u32) -> Instant {
        self.base + TICK * tick
    }

    pub fn lease_lasts(&self) -> Duration {
        TICK * self.ttl
    }
}

// === impl Name ===

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", char::from(b'a' + self.host), self.life)
    }
}

// === impl Truth ===

impl Truth {
    pub fn newest(&self) -> u64 {
        self.newest
    }

    /// An epoch begins: greater than every one before.
    pub fn begun(&mut self, epoch: u64) {
        self.check(epoch > self.newest, Broken::I10);
        self.newest = self.newest.max(epoch);
    }

    pub fn publish(&mut self, shared_state: &SharedState) {
        if self.entries.len() == MAX_ENTRIES {
            self.entries.remove(0);
        }
        self.entries.push(shared_state.clone());
    }

    pub fn votes(&mut self, name: Name, seen: u64) {
        self.voted.retain(|(voter, _)| *voter != name);
        self.voted.push((name, seen));
        self.voted.sort();
    }

    /// Whether any process voted: until then nothing happens.
    pub fn has_begun(&self) -> bool {
        !self.voted.is_empty()
    }

    /// The processes that voted knowing this epoch or a newer one.
    pub fn voters(&self, epoch: u64) -> usize {
        self.voted.iter().filter(|(_, seen)| *seen >= epoch).count()
    }

    pub fn check(&mut self, holds: bool, what: Broken) {
        if !holds {
            self.broken |= 1 << what as u8;
        }
    }

    pub fn holds(&self, what: Broken) -> bool {
        self.broken & (1 << what as u8) == 0
    }
}
