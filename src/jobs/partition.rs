//! The in-memory state of a partition: the jobs of one queue, route and class.
//!
//! One job of a partition at a time seeks admission. A provider without capacity therefore delays
//! only its own partitions, and costs one waiter however many jobs there are.

use std::collections::{HashSet, VecDeque};
use std::time::Instant;

use crate::store::ReadyJob;

/// Jobs that one lookup reads.
pub const WINDOW: usize = 64;

#[derive(Debug, Default)]
pub struct PartitionState {
    upcoming: VecDeque<ReadyJob>,
    /// The flow that was served last.
    pub after_flow: Option<Vec<u8>>,
    /// Sequence numbers of the jobs that seek admission or run.
    pub active: HashSet<i64>,
    pub lookup: StoreLookup,
    pub admission: AdmissionState,
    paused_until: Option<Instant>,
    /// The dispatcher's counter of started jobs when one of this partition started last.
    pub last_served: u64,
}

/// Whether all ready jobs in the store are known here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum StoreLookup {
    /// The store may have more jobs than are known here.
    #[default]
    Needed,
    /// A lookup is running; `again`: jobs became ready since it started.
    Running { again: bool },
    /// The last lookup found nothing.
    Exhausted,
}

/// The one job of a partition that seeks admission.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AdmissionState {
    #[default]
    Idle,
    /// It is being admitted, and counts as a running job.
    Starting,
    /// It waits for capacity at a provider.
    Waiting,
}

impl PartitionState {
    /// Jobs may have become ready.
    pub fn mark_ready(&mut self) {
        self.lookup = match self.lookup {
            StoreLookup::Running { .. } => StoreLookup::Running { again: true },
            StoreLookup::Needed | StoreLookup::Exhausted => StoreLookup::Needed,
        };
    }

    pub fn needs_lookup(&self) -> bool {
        self.upcoming.is_empty() && self.lookup == StoreLookup::Needed
    }

    pub fn add_found(&mut self, found: Vec<(Vec<u8>, ReadyJob)>) {
        let again = self.lookup == StoreLookup::Running { again: true };
        // A job that starts may leave others of its flow behind, so only an empty result counts as
        // exhausted.
        let exhausted = found.is_empty() && !again;
        self.lookup = if exhausted { StoreLookup::Exhausted } else { StoreLookup::Needed };
        self.after_flow = found.last().map(|(flow, _)| flow.clone()).or(self.after_flow.take());
        self.upcoming.extend(found.into_iter().map(|(_, job)| job));
    }

    pub fn lookup_failed(&mut self, retry_at: Instant) {
        self.lookup = StoreLookup::Needed;
        self.paused_until = Some(retry_at);
    }

    pub fn is_busy(&self) -> bool {
        !self.upcoming.is_empty() || self.lookup != StoreLookup::Exhausted
    }

    pub fn may_start(&self, now: Instant) -> bool {
        self.admission == AdmissionState::Idle && !self.upcoming.is_empty() && !self.is_paused(now)
    }

    pub fn is_paused(&self, now: Instant) -> bool {
        self.paused_until.is_some_and(|until| until > now)
    }

    pub fn resume(&mut self) {
        self.paused_until = None;
    }

    pub fn paused_until(&self) -> Option<Instant> {
        self.paused_until
    }

    pub fn take(&mut self) -> Option<ReadyJob> {
        let job = self.upcoming.pop_front()?;
        self.active.insert(job.seq);
        self.admission = AdmissionState::Starting;
        Some(job)
    }

    /// Puts back a job that did not start: it stays the next one.
    pub fn put_back(&mut self, job: ReadyJob, pause_until: Option<Instant>) {
        self.upcoming.push_front(job);
        self.paused_until = pause_until;
    }

    /// The state holds nothing that the store does not hold.
    pub fn is_forgettable(&self) -> bool {
        !self.is_busy() && self.active.is_empty()
    }
}
