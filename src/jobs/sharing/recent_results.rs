//! Results of borrowed jobs that were sent recently. If Redis loses them before their owners have
//! fetched them, they are sent again, so that no job runs twice because of it.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::{Duration, Instant};

use super::redis::BorrowedJob;
use crate::clock;
use crate::store::JobOutcome;

/// A running owner fetches a result within a second.
const KEEP: Duration = Duration::from_secs(10);
const MAX_BYTES: usize = 16 << 20;
/// Size of an entry without its response.
const ENTRY_BYTES: usize = 1 << 10;

#[derive(Default)]
pub struct RecentResults {
    /// The oldest first.
    sent: RefCell<VecDeque<Rc<SentResult>>>,
    bytes: Cell<usize>,
}

/// A result that Redis accepted.
pub struct SentResult {
    at: Instant,
    /// Without the body of its request.
    pub job: BorrowedJob,
    pub attempts: u32,
    pub outcome: JobOutcome,
}

impl RecentResults {
    pub fn add(&self, mut job: BorrowedJob, attempts: u32, outcome: JobOutcome) {
        job.request.body = bytes::Bytes::new();
        let result = SentResult { at: clock::now(), job, attempts, outcome };
        self.bytes.set(self.bytes.get() + result.bytes());
        self.sent.borrow_mut().push_back(Rc::new(result));
        self.forget_old(clock::now());
    }

    pub fn all(&self) -> Vec<Rc<SentResult>> {
        self.forget_old(clock::now());
        self.sent.borrow().iter().cloned().collect()
    }

    fn forget_old(&self, now: Instant) {
        let mut sent = self.sent.borrow_mut();
        while let Some(result) = sent.front()
            && (now.saturating_duration_since(result.at) > KEEP || self.bytes.get() > MAX_BYTES)
        {
            self.bytes.set(self.bytes.get() - result.bytes());
            sent.pop_front();
        }
    }
}

impl SentResult {
    fn bytes(&self) -> usize {
        ENTRY_BYTES
            + match &self.outcome {
                Ok(response) => response.body.len() + response.headers.len(),
                Err(reason) => reason.len(),
            }
    }
}
