//! The access records of the last requests, for the admin API.
//!
//! A worker passes its records in batches, ten times a second, so a request pays for nothing but
//! its share of a lock and of a scan for line ends. Bounded by number and by bytes.

use std::collections::VecDeque;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::watch;

/// Records that are kept.
pub const KEPT: usize = 1000;
/// Bytes of the records that are kept: more than 1,000 of ordinary size.
const MAX_BYTES: usize = 4 << 20;

/// The newest records.
#[derive(Debug)]
pub struct RecentRequests {
    ring: Mutex<RecordRing>,
    /// The number of the newest record.
    newest: watch::Sender<u64>,
}

/// One access record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecentRequest {
    /// Ascending, from 1.
    pub number: u64,
    /// A JSON object on one line.
    pub record: Bytes,
}

#[derive(Debug, Default)]
struct RecordRing {
    records: VecDeque<RecentRequest>,
    bytes: usize,
    newest: u64,
}

impl Default for RecentRequests {
    fn default() -> Self {
        RecentRequests { ring: Mutex::default(), newest: watch::Sender::new(0) }
    }
}

impl RecentRequests {
    /// Adds records, each a line of JSON.
    pub fn push(&self, lines: &[u8]) {
        let ends: Vec<usize> = memchr::memchr_iter(b'\n', lines).collect();
        let skipped = ends.len().saturating_sub(KEPT);
        let start = skipped.checked_sub(1).map_or(0, |last| ends[last] + 1);
        // A copy has no spare capacity, and its records share it.
        let kept = Bytes::copy_from_slice(&lines[start..]);
        let mut ring = self.ring.lock();
        ring.newest += skipped as u64;
        let mut from = 0;
        for end in &ends[skipped..] {
            ring.push(kept.slice(from..end - start));
            from = end - start + 1;
        }
        let newest = ring.newest;
        drop(ring);
        self.newest.send_replace(newest);
    }

    /// All records, newest first.
    pub fn all(&self) -> Vec<RecentRequest> {
        self.ring.lock().records.iter().rev().cloned().collect()
    }

    /// The records after number `after`, oldest first.
    pub fn since(&self, after: u64) -> Vec<RecentRequest> {
        let ring = self.ring.lock();
        let first = ring.records.partition_point(|kept| kept.number <= after);
        ring.records.range(first..).cloned().collect()
    }

    /// Sees the number of the newest record change.
    pub fn watch(&self) -> watch::Receiver<u64> {
        self.newest.subscribe()
    }
}

impl RecordRing {
    fn push(&mut self, record: Bytes) {
        self.newest += 1;
        self.bytes += record.len();
        self.records.push_back(RecentRequest { number: self.newest, record });
        while self.records.len() > KEPT || self.bytes > MAX_BYTES {
            let Some(oldest) = self.records.pop_front() else { break };
            self.bytes -= oldest.record.len();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(numbers: std::ops::RangeInclusive<u64>) -> Vec<u8> {
        numbers.map(|number| format!("{{\"n\":{number}}}\n")).collect::<String>().into_bytes()
    }

    fn numbers(found: &[RecentRequest]) -> Vec<u64> {
        let is_own = |kept: &RecentRequest| kept.record == format!("{{\"n\":{}}}", kept.number);
        assert!(found.iter().all(is_own), "{found:?}");
        found.iter().map(|kept| kept.number).collect()
    }

    #[test]
    fn the_newest_records_are_kept_with_their_numbers() {
        let recent = RecentRequests::default();
        assert!(recent.all().is_empty());
        recent.push(&lines(1..=3));
        recent.push(b"");
        assert_eq!(numbers(&recent.all()), [3, 2, 1]);
        assert_eq!(numbers(&recent.since(1)), [2, 3]);
        recent.push(&lines(4..=4 + 2 * KEPT as u64));
        let newest = 4 + 2 * KEPT as u64;
        assert_eq!(*recent.watch().borrow(), newest);
        let all = numbers(&recent.all());
        assert_eq!((all.len(), all[0], all[KEPT - 1]), (KEPT, newest, newest + 1 - KEPT as u64));
        assert!(recent.since(newest).is_empty());
        assert_eq!(recent.since(0).len(), KEPT);
    }

    #[test]
    fn long_records_displace_older_ones() {
        let recent = RecentRequests::default();
        let long = vec![b'x'; MAX_BYTES / 2 - 1];
        for _ in 0..3 {
            recent.push(&[&long[..], b"\n"].concat());
        }
        let kept: Vec<_> = recent.all().iter().map(|kept| kept.number).collect();
        assert_eq!(kept, [3, 2]);
    }
}
