//! When what stands at a URI was last changed (RFC 9111, 4.4): an answer asked for before that is
//! not used any more, whoever it was for and in whichever cache.
//!
//! URIs share marks, so that they take the same room however many are changed; a change of one makes
//! a few others be asked for anew, and never the other way.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::key::Key;
use crate::clock;

const MARKS: usize = 1 << 13;

#[derive(Debug)]
pub struct Marks {
    began: Instant,
    /// Nanoseconds since then, and one; 0: never.
    marks: Box<[AtomicU64]>,
}

impl Default for Marks {
    fn default() -> Marks {
        let marks = std::iter::repeat_with(AtomicU64::default).take(MARKS).collect();
        Marks { began: clock::now(), marks }
    }
}

impl Marks {
    /// Something has changed what is there.
    pub fn changed(&self, uri: &Key, now: Instant) {
        self.mark(uri).fetch_max(self.nanos(now) + 1, Ordering::AcqRel);
    }

    /// What was asked for at `asked` is from before a change.
    pub fn is_outdated(&self, uri: &Key, asked: Instant) -> bool {
        self.mark(uri).load(Ordering::Acquire) > self.nanos(asked)
    }

    fn mark(&self, uri: &Key) -> &AtomicU64 {
        &self.marks[uri.number() as usize % self.marks.len()]
    }

    fn nanos(&self, at: Instant) -> u64 {
        let since = at.checked_duration_since(self.began).unwrap_or(Duration::ZERO);
        u64::try_from(since.as_nanos()).unwrap_or(u64::MAX - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::super::key::Secret;
    use super::*;

    #[test]
    fn what_was_asked_for_before_a_change_is_outdated_and_what_came_after_is_not() {
        let (marks, secret) = (Marks::default(), Secret::new().expect("chance"));
        let uri = secret.make().end();
        let at = |ms| marks.began + Duration::from_millis(ms);
        assert!(!marks.is_outdated(&uri, at(0)));
        marks.changed(&uri, at(5));
        marks.changed(&uri, at(3));
        assert!(marks.is_outdated(&uri, at(4)) && marks.is_outdated(&uri, at(5)));
        assert!(!marks.is_outdated(&uri, at(6)));
    }
}
