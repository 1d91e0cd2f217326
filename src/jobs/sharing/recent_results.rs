//! Ends of jobs of other hosts, kept for a moment: where Redis loses them before their owners fetched
//! them, they are told again, and nothing is run twice for that.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::{Duration, Instant};

use super::redis::{BorrowedJob, JobOutcome};
use crate::clock;

/// An owner that lives fetches within a second.
const KEPT: Duration = Duration::from_secs(10);
const BYTES: usize = 16 << 20;
/// What one takes beside its body.
const EACH: usize = 1 << 10;

#[derive(Default)]
pub struct RecentResults {
    /// The oldest first.
    told: RefCell<VecDeque<Rc<ReportedResult>>>,
    bytes: Cell<usize>,
}

/// An end that Redis took.
pub struct ReportedResult {
    at: Instant,
    /// Without what was asked.
    pub loan: BorrowedJob,
    pub attempts: u32,
    pub end: JobOutcome,
}

impl RecentResults {
    pub fn keep(&self, mut loan: BorrowedJob, attempts: u32, end: JobOutcome) {
        loan.request.body = bytes::Bytes::new();
        let told = ReportedResult { at: clock::now(), loan, attempts, end };
        self.bytes.set(self.bytes.get() + told.bytes());
        self.told.borrow_mut().push_back(Rc::new(told));
        self.forget(clock::now());
    }

    pub fn all(&self) -> Vec<Rc<ReportedResult>> {
        self.forget(clock::now());
        self.told.borrow().iter().cloned().collect()
    }

    fn forget(&self, now: Instant) {
        let mut all = self.told.borrow_mut();
        while let Some(told) = all.front()
            && (now.saturating_duration_since(told.at) > KEPT || self.bytes.get() > BYTES)
        {
            self.bytes.set(self.bytes.get() - told.bytes());
            all.pop_front();
        }
    }
}

impl ReportedResult {
    fn bytes(&self) -> usize {
        EACH + match &self.end {
            JobOutcome::Answered(answer) => answer.body.len() + answer.headers.len(),
            JobOutcome::Dead(why) => why.len(),
        }
    }
}
