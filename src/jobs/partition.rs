//! What is in memory of a line: jobs of one queue, class and route, of which a few are next.
//!
//! One job of a line at a time seeks admission. So a provider without room holds up its own lines
//! and nobody else's, and costs one wait in the lane however many jobs there are.

use std::collections::{HashSet, VecDeque};
use std::time::Instant;

use crate::store::Due;

/// Jobs that are looked up at once.
pub const WINDOW: usize = 64;

#[derive(Debug, Default)]
pub struct LineState {
    coming: VecDeque<Due>,
    /// Whose turn it was last.
    pub after: Option<Vec<u8>>,
    /// Seek admission, or run.
    pub in_hand: HashSet<i64>,
    pub look: Look,
    pub seeks: Seeks,
    /// Nobody of it is begun before.
    rest: Option<Instant>,
    /// When a job of it was begun last, as a number that grows.
    pub served: u64,
}

/// What is known of the store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Look {
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
pub enum Seeks {
    #[default]
    Nobody,
    /// It is on its way, and counts as one that runs.
    OnItsWay,
    /// It waits at a provider.
    Waits,
}

impl LineState {
    /// Jobs may have become ready.
    pub fn news(&mut self) {
        self.look = match self.look {
            Look::Out(_) => Look::Out(true),
            Look::Due | Look::Dry => Look::Due,
        };
    }

    pub fn wants_look(&self) -> bool {
        self.coming.is_empty() && self.look == Look::Due
    }

    pub fn found(&mut self, found: Vec<(Vec<u8>, Due)>) {
        let news = self.look == Look::Out(true);
        // A job that is begun may leave others of its flow behind it, so only nothing is dry.
        self.look = if found.is_empty() && !news { Look::Dry } else { Look::Due };
        self.after = found.last().map(|(flow, _)| flow.clone()).or(self.after.take());
        self.coming.extend(found.into_iter().map(|(_, due)| due));
    }

    /// Nothing could be looked up.
    pub fn looked_in_vain(&mut self, until: Instant) {
        self.look = Look::Due;
        self.rest = Some(until);
    }

    pub fn is_busy(&self) -> bool {
        !self.coming.is_empty() || self.look != Look::Dry
    }

    pub fn may_seek(&self, now: Instant) -> bool {
        self.seeks == Seeks::Nobody && !self.coming.is_empty() && !self.rests(now)
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

    pub fn take(&mut self) -> Option<Due> {
        let due = self.coming.pop_front()?;
        self.in_hand.insert(due.seq);
        self.seeks = Seeks::OnItsWay;
        Some(due)
    }

    /// It was not begun: it is the next one still, after a rest.
    pub fn put_back(&mut self, due: Due, rest: Option<Instant>) {
        self.coming.push_front(due);
        self.rest = rest;
    }

    /// Nothing is known of it that the store does not know.
    pub fn is_forgettable(&self) -> bool {
        !self.is_busy() && self.in_hand.is_empty()
    }
}
