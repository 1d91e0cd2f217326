//! The access records of the last requests, for the admin API.
//!
//! A worker passes its records in batches, ten times a second, so a request pays for nothing but
//! its share of a lock and of a count of lines. Bounded by number and by bytes.

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
    /// Oldest first.
    batches: VecDeque<RecordBatch>,
    records: usize,
    bytes: usize,
    newest: u64,
}

/// Records that arrived together. A reader splits them into lines.
#[derive(Debug)]
struct RecordBatch {
    /// Each ends with a line feed.
    lines: Bytes,
    records: usize,
}

impl Default for RecentRequests {
    fn default() -> Self {
        RecentRequests { ring: Mutex::default(), newest: watch::Sender::new(0) }
    }
}

impl RecentRequests {
    /// Adds records, each a line of JSON.
    pub fn push(&self, lines: Bytes) {
        let records = memchr::memchr_iter(b'\n', &lines).count();
        if records == 0 {
            return;
        }
        let mut ring = self.ring.lock();
        ring.push(RecordBatch { lines, records });
        let newest = ring.newest;
        drop(ring);
        self.newest.send_replace(newest);
    }

    /// All records, newest first.
    pub fn all(&self) -> Vec<RecentRequest> {
        self.ring.lock().newest_first().collect()
    }

    /// The records after number `after`, oldest first.
    pub fn since(&self, after: u64) -> Vec<RecentRequest> {
        let ring = self.ring.lock();
        let mut found: Vec<_> =
            ring.newest_first().take_while(|kept| kept.number > after).collect();
        found.reverse();
        found
    }

    /// Sees the number of the newest record change.
    pub fn watch(&self) -> watch::Receiver<u64> {
        self.newest.subscribe()
    }
}

impl RecordRing {
    fn push(&mut self, batch: RecordBatch) {
        self.newest += batch.records as u64;
        self.records += batch.records;
        self.bytes += batch.lines.len();
        self.batches.push_back(batch);
        while let Some(oldest) = self.batches.front() {
            let is_surplus = self.records - oldest.records >= KEPT || self.bytes > MAX_BYTES;
            if !is_surplus || self.batches.len() == 1 {
                break;
            }
            self.records -= oldest.records;
            self.bytes -= oldest.lines.len();
            self.batches.pop_front();
        }
    }

    fn newest_first(&self) -> impl Iterator<Item = RecentRequest> {
        let records = self.batches.iter().rev().flat_map(|batch| {
            let lines = batch.lines.strip_suffix(b"\n").unwrap_or(&batch.lines);
            lines.rsplit(|byte| *byte == b'\n').map(|line| batch.lines.slice_ref(line))
        });
        let numbers = (1..=self.newest).rev();
        numbers.zip(records).take(KEPT).map(|(number, record)| RecentRequest { number, record })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(numbers: std::ops::RangeInclusive<u64>) -> Bytes {
        numbers.map(|number| format!("{{\"n\":{number}}}\n")).collect::<String>().into()
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
        recent.push(lines(1..=3));
        recent.push(Bytes::new());
        assert_eq!(numbers(&recent.all()), [3, 2, 1]);
        assert_eq!(numbers(&recent.since(1)), [2, 3]);
        recent.push(lines(4..=4 + 2 * KEPT as u64));
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
            recent.push([&long[..], b"\n"].concat().into());
        }
        let kept: Vec<_> = recent.all().iter().map(|kept| kept.number).collect();
        assert_eq!(kept, [3, 2]);
    }
}
