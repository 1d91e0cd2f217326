//! Recent events for the admin API: breaker transitions, holds, reloads, regressions.
//!
//! A ring of bounded size in memory; a store keeps older ones (`history/events.rs`). An event is rare (a change of state, never a request), so a
//! short lock is enough.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::io::Write;
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

/// The newest events that the ring keeps.
const KEPT: usize = 1000;

/// One change of state.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Event {
    /// Ascending, also across restarts: the Unix time in microseconds, or one more than the last.
    pub id: u64,
    /// RFC 3339.
    pub at: String,
    /// `breaker`, `policy`, `degradation`, `fleet`, `override`, `regression`,
    /// `benchmark`, `benchmark_regression`, `job_dead` or `job_expired`.
    pub kind: Cow<'static, str>,
    /// The key of the changed object, such as `openai/api.openai.com:443/gpt-4o`.
    pub key: String,
    /// The change, in words.
    pub detail: String,
    /// The new state: `open`, `half_open`, `closed`, `entered`, `left`, `applied`, `rejected`,
    /// `attached`, `detached`, ...; of an `override` the change that was made, such as
    /// `drain`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<Cow<'static, str>>,
    /// The cause of the change; of an `override` who made it, and why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cause: Option<Cow<'static, str>>,
}

/// An event that has no id yet.
#[derive(Clone, Debug)]
pub struct NewEvent<'k> {
    kind: &'static str,
    key: &'k str,
    detail: String,
    state: Option<Cow<'static, str>>,
    cause: Option<Cow<'static, str>>,
}

impl<'k> NewEvent<'k> {
    pub fn new(kind: &'static str, key: &'k str, detail: String) -> NewEvent<'k> {
        NewEvent { kind, key, detail, state: None, cause: None }
    }

    #[must_use]
    pub fn state(mut self, state: &'static str) -> Self {
        self.state = Some(state.into());
        self
    }

    /// An empty cause is none.
    #[must_use]
    pub fn cause(mut self, cause: impl Into<Cow<'static, str>>) -> Self {
        self.cause = Some(cause.into()).filter(|cause| !cause.is_empty());
        self
    }
}

/// The newest events, oldest first.
#[derive(Debug)]
pub struct Events {
    ring: Mutex<VecDeque<Event>>,
    /// The id of the newest event.
    newest: watch::Sender<u64>,
}

impl Default for Events {
    fn default() -> Self {
        Events { ring: Mutex::default(), newest: watch::Sender::new(0) }
    }
}

impl Events {
    pub fn push(&self, at: SystemTime, event: NewEvent<'_>) {
        let NewEvent { kind, key, detail, state, cause } = event;
        let since = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let micros = u64::try_from(since.as_micros()).unwrap_or_default();
        let mut ring = self.ring.lock();
        let id = ring.back().map_or(micros, |last| micros.max(last.id + 1));
        let (at, kind, key) = (rfc3339(at), kind.into(), key.to_owned());
        let event = Event { id, at, kind, key, detail, state, cause };
        if ring.len() == KEPT {
            ring.pop_front();
        }
        ring.push_back(event);
        drop(ring);
        self.newest.send_replace(id);
    }

    /// Adds the events of an earlier process, oldest first. Those of this process get later ids: no
    /// client has seen them yet.
    pub fn restore(&self, stored: Vec<Event>) {
        let mut ring = self.ring.lock();
        let mut last = stored.last().map_or(0, |event| event.id);
        let current = std::mem::take(&mut *ring);
        ring.extend(stored);
        for mut event in current {
            event.id = event.id.max(last.saturating_add(1));
            last = event.id;
            ring.push_back(event);
        }
        let beyond = ring.len().saturating_sub(KEPT);
        ring.drain(..beyond);
        drop(ring);
        self.newest.send_replace(last);
    }

    /// The events after an id, oldest first.
    pub fn since(&self, id: u64) -> Vec<Event> {
        let ring = self.ring.lock();
        let first = ring.partition_point(|event| event.id <= id);
        ring.range(first..).cloned().collect()
    }

    /// Sees the id of the newest event change.
    pub fn watch(&self) -> watch::Receiver<u64> {
        self.newest.subscribe()
    }

    pub fn all(&self) -> Vec<Event> {
        let ring = self.ring.lock();
        ring.iter().cloned().collect()
    }
}

/// Formats times, and rewrites only the milliseconds within one second.
#[derive(Debug, Default)]
pub struct Stamp {
    second: u64,
    text: Vec<u8>,
}

impl Stamp {
    /// As `rfc3339`, for a time since 1970.
    pub fn at(&mut self, since: Duration) -> &[u8] {
        if self.second != since.as_secs() || self.text.is_empty() {
            self.second = since.as_secs();
            self.text.clear();
            write_rfc3339(&mut self.text, SystemTime::UNIX_EPOCH + since);
        } else if let Some(millis) = self.text.get_mut(20..23) {
            let value = since.subsec_millis();
            let digits = [value / 100, value / 10 % 10, value % 10];
            millis.copy_from_slice(&digits.map(|digit| b'0' + digit as u8));
        }
        &self.text
    }
}

/// `2026-03-01T12:00:00.123Z`.
pub fn rfc3339(at: SystemTime) -> String {
    let mut text = Vec::with_capacity(24);
    write_rfc3339(&mut text, at);
    String::from_utf8(text).unwrap_or_default()
}

/// Appends `at` as RFC 3339 in UTC with milliseconds.
pub fn write_rfc3339(out: &mut Vec<u8>, at: SystemTime) {
    let at = jiff::Timestamp::try_from(at).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
    let _ = write!(out, "{at:.3}");
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn dates_are_written_as_rfc_3339_has_them() {
        for (millis, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_400_123, "2000-02-29T00:00:00.123Z"),
            (1_700_000_000_999, "2023-11-14T22:13:20.999Z"),
            (4_107_542_399_000, "2100-02-28T23:59:59.000Z"),
        ] {
            assert_eq!(rfc3339(SystemTime::UNIX_EPOCH + Duration::from_millis(millis)), text);
        }
    }

    #[test]
    fn a_stamp_says_what_rfc_3339_says() {
        let mut stamp = Stamp::default();
        for millis in [0, 7, 999, 1_000, 1_010, 61_234, 60_000] {
            let since = Duration::from_millis(millis);
            let expected = rfc3339(SystemTime::UNIX_EPOCH + since);
            assert_eq!(stamp.at(since), expected.as_bytes());
        }
    }

    #[test]
    fn the_ring_keeps_the_newest() {
        let events = Events::default();
        for i in 0..KEPT + 5 {
            events.push(SystemTime::UNIX_EPOCH, NewEvent::new("policy", "k", i.to_string()));
        }
        let all = events.all();
        assert_eq!((all.len(), all[0].detail.as_str()), (KEPT, "5"));
    }

    #[test]
    fn ids_ascend_over_a_restart_even_if_the_clock_was_set_back() {
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        let event = |text: &str| NewEvent::new("policy", "k", text.to_owned()).state("applied");
        let earlier = Events::default();
        earlier.push(at(1_000), event("a"));
        earlier.push(at(1_001), event("b"));
        let events = Events::default();
        events.push(at(5), event("c"));
        events.restore(earlier.all());
        events.push(at(6), event("d"));
        let all: Vec<_> = events.all().into_iter().map(|event| (event.id, event.detail)).collect();
        let expected = [
            (1_000_000_000, "a"),
            (1_001_000_000, "b"),
            (1_001_000_001, "c"),
            (1_001_000_002, "d"),
        ];
        assert_eq!(all, expected.map(|(id, text)| (id, text.to_owned())));
        assert_eq!(*events.watch().borrow(), 1_001_000_002);
        assert_eq!(events.since(1_001_000_000).len(), 2);
    }
}
