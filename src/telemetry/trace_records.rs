//! The access records of traced requests, on their way from the workers to the exporter of spans.
//!
//! A worker passes its records ten times a second. The queue is bounded by bytes; while the receiver
//! is away, the oldest records are dropped, and their spans counted.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use memchr::memmem;
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::metrics::{Metrics, SpanLabels};

/// Memory of the records that wait.
const MAX_BYTES: usize = 8 << 20;
/// So many are exported at once.
const BATCH_BYTES: usize = 256 << 10;
/// Fewer wait for so long, for others to be exported with.
const DELAY: Duration = Duration::from_secs(1);

/// Lines of `TIME RECORD`: nanoseconds since 1970, and a JSON object.
#[derive(Debug)]
pub struct TraceRecords {
    state: Mutex<PendingRecords>,
    changed: Notify,
    ending: AtomicBool,
    metrics: Arc<Metrics>,
}

#[derive(Debug, Default)]
struct PendingRecords {
    batches: VecDeque<Vec<u8>>,
    bytes: usize,
    /// Records were taken, and their spans are not sent yet.
    exporting: bool,
}

impl TraceRecords {
    pub fn new(metrics: &Arc<Metrics>) -> TraceRecords {
        TraceRecords {
            state: Mutex::default(),
            changed: Notify::new(),
            ending: AtomicBool::new(false),
            metrics: Arc::clone(metrics),
        }
    }

    /// Adds complete lines without waiting.
    pub fn push(&self, lines: Vec<u8>) {
        let mut dropped = 0;
        let mut state = self.state.lock();
        state.bytes += lines.capacity();
        state.batches.push_back(lines);
        while state.bytes > MAX_BYTES {
            let Some(oldest) = state.batches.pop_front() else { break };
            state.bytes -= oldest.capacity();
            dropped += spans(&oldest);
        }
        drop(state);
        if dropped > 0 {
            self.count("dropped", dropped);
        }
        self.changed.notify_one();
    }

    /// Waits until records are due, and takes them.
    pub async fn next(&self) -> Vec<Vec<u8>> {
        while self.state.lock().batches.is_empty() {
            self.changed.notified().await;
        }
        let many = async {
            while !self.is_ending() && self.state.lock().bytes < BATCH_BYTES {
                self.changed.notified().await;
            }
        };
        let _ = tokio::time::timeout(DELAY, many).await;
        let mut state = self.state.lock();
        state.exporting = true;
        let (mut taken, mut bytes) = (Vec::new(), 0);
        while bytes < BATCH_BYTES
            && let Some(batch) = state.batches.pop_front()
        {
            bytes += batch.capacity();
            taken.push(batch);
        }
        state.bytes -= bytes;
        taken
    }

    /// The records taken last are exported, or given up.
    pub fn done(&self) {
        self.state.lock().exporting = false;
    }

    /// Counts spans, by their result.
    pub fn count(&self, result: &'static str, spans: u64) {
        self.metrics.trace_spans.get_or_create_owned(&SpanLabels { result }).inc_by(spans);
    }

    /// The process ends: nothing waits any longer.
    pub fn end(&self) {
        if !self.ending.swap(true, Ordering::AcqRel) {
            self.changed.notify_one();
        }
    }

    pub fn is_ending(&self) -> bool {
        self.ending.load(Ordering::Acquire)
    }

    /// Waits for this time, or until the process ends.
    pub async fn pause(&self, time: Duration) {
        let ended = async {
            while !self.is_ending() {
                self.changed.notified().await;
            }
        };
        let _ = tokio::time::timeout(time, ended).await;
    }

    /// Whether every record is exported or given up.
    pub fn is_exported(&self) -> bool {
        let state = self.state.lock();
        state.batches.is_empty() && !state.exporting
    }
}

/// The number of spans in these lines. A quotation mark within a value is escaped.
fn spans(lines: &[u8]) -> u64 {
    memmem::find_iter(lines, b"\"span_id\":\"").count() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    const RECORD: &str = concat!(
        r#"1 {"path":"/\"span_id\":\"","span_id":"a","parent_span_id":"b","#,
        r#""attempts":[{"span_id":"c"}]}"#
    );

    fn dropped(metrics: &Metrics) -> u64 {
        metrics.trace_spans.get_or_create_owned(&SpanLabels { result: "dropped" }).get()
    }

    #[test]
    fn the_oldest_records_are_dropped_and_their_spans_counted() {
        let metrics = Arc::new(Metrics::new());
        let records = TraceRecords::new(&metrics);
        assert!(records.is_exported());
        let line = format!("{RECORD}{}\n", " ".repeat(1 << 20)).into_bytes();
        (0..9).for_each(|_| records.push(line.clone()));
        assert_eq!(dropped(&metrics), 4);
        assert!(!records.is_exported());
    }

    #[tokio::test]
    async fn records_are_taken_in_batches_and_at_once_at_the_end() {
        let records = TraceRecords::new(&Arc::new(Metrics::new()));
        let batch = vec![b' '; BATCH_BYTES];
        (0..2).for_each(|_| records.push(batch.clone()));
        records.push(b"last".to_vec());
        assert_eq!(records.next().await.len(), 1);
        assert_eq!(records.next().await.len(), 1);
        records.end();
        records.done();
        assert!(!records.is_exported());
        assert_eq!(records.next().await, [b"last"]);
        assert!(!records.is_exported());
        records.done();
        assert!(records.is_exported());
    }
}
