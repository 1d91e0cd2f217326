//! At most one log line a minute for a fault that repeats, with the number of repetitions.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// The shortest time between two lines.
const INTERVAL: Duration = Duration::from_secs(60);

/// Limits the log lines of one kind of fault.
#[derive(Debug, Default)]
pub struct LogLimit {
    state: Mutex<LimitState>,
}

#[derive(Debug, Default)]
struct LimitState {
    last_line: Option<Instant>,
    count: u64,
}

impl LogLimit {
    pub const fn new() -> LogLimit {
        LogLimit { state: Mutex::new(LimitState { last_line: None, count: 0 }) }
    }

    /// Counts a fault. Returns how often it has occurred since the last line if another may be
    /// written now.
    pub fn admit(&self, now: Instant) -> Option<u64> {
        let mut state = self.state.lock();
        state.count += 1;
        let is_due = |last| now.saturating_duration_since(last) >= INTERVAL;
        if !state.last_line.is_none_or(is_due) {
            return None;
        }
        state.last_line = Some(now);
        Some(std::mem::take(&mut state.count))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_a_minute_with_the_count_since_the_last() {
        let (limit, start) = (LogLimit::default(), Instant::now());
        let at = |seconds| limit.admit(start + Duration::from_secs(seconds));
        assert_eq!(at(0), Some(1));
        assert_eq!((at(0), at(59)), (None, None));
        assert_eq!(at(60), Some(3));
        assert_eq!(at(119), None);
    }
}
