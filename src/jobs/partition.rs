//! What is in memory of a line: jobs of one queue, class and route, of which a few are next.
//!
//! One job of a line at a time seeks admission. So a provider without room holds up its own lines
//! and nobody else's, and costs one wait in the lane however many jobs there are.

use std::collections::{HashSet, VecDeque};
use std::time::Instant;

use crate::store::ReadyJob;

/// Jobs that are looked up at once.
pub const WINDOW: usize = 64;

#[derive(Debug, Default)]
pub struct PartitionState {
    coming: VecDeque<ReadyJob>,
    /// Whose turn it was last.
    pub after: Option<Vec<u8>>,
    /// Seek admission, or run.
    pub in_hand: HashSet<i64>,
    pub look: StoreLookup,
    pub seeks: AdmissionState,
    /// Nobody of it is begun before.
    rest: Option<Instant>,
    /// When a job of it was begun last, as a number that grows.
    pub served: u64,
}

/// What is known of the store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum StoreLookup {
    /// There may be more than is known here.
    #[default]
    Due,
    /// It is being looked; `true`: there is news since.
    Out(bool),
    /// There was nothing.
    Dry,
}

/// The one that seeks admission.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AdmissionState {
    #[default]
    Nobody,
    /// It is on its way, and counts as one that runs.
    OnItsWay,
    /// It waits at a provider.
    Waits,
}

impl PartitionState {
    /// Jobs may have become ready.
    pub fn news(&mut self) {
        self.look = match self.look {
            StoreLookup::Out(_) => StoreLookup::Out(true),
            StoreLookup::Due | StoreLookup::Dry => StoreLookup::Due,
        };
    }

    pub fn wants_look(&self) -> bool {
        self.coming.is_empty() && self.look == StoreLookup::Due
    }

    pub fn found(&mut self, found: Vec<(Vec<u8>, ReadyJob)>) {
        let news = self.look == StoreLookup::Out(true);
        // A job that is begun may leave others of its flow behind it, so only nothing is dry.
        self.look = if found.is_empty() && !news { StoreLookup::Dry } else { StoreLookup::Due };
        self.after = found.last().map(|(flow, _)| flow.clone()).or(self.after.take());
        self.coming.extend(found.into_iter().map(|(_, due)| due));
    }

    /// Nothing could be looked up.
    pub fn looked_in_vain(&mut self, until: Instant) {
        self.look = StoreLookup::Due;
        self.rest = Some(until);
    }

    pub fn is_busy(&self) -> bool {
        !self.coming.is_empty() || self.look != StoreLookup::Dry
    }

    pub fn may_seek(&self, now: Instant) -> bool {
        self.seeks == AdmissionState::Nobody && !self.coming.is_empty() && !self.rests(now)
    }

    pub fn rests(&self, now: Instant) -> bool {
        self.rest.is_some_and(|rest| rest > now)
    }

    pub fn rest_is_over(&mut self) {
        self.rest = None;
    }

    pub fn rest(&self) -> Option<Instant> {
        self.rest
    }

    pub fn take(&mut self) -> Option<ReadyJob> {
        let due = self.coming.pop_front()?;
        self.in_hand.insert(due.seq);
        self.seeks = AdmissionState::OnItsWay;
        Some(due)
    }

    /// It was not begun: it is the next one still, after a rest.
    pub fn put_back(&mut self, due: ReadyJob, rest: Option<Instant>) {
        self.coming.push_front(due);
        self.rest = rest;
    }

    /// Nothing is known of it that the store does not know.
    pub fn is_forgettable(&self) -> bool {
        !self.is_busy() && self.in_hand.is_empty()
    }
}
