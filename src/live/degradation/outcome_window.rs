//! Recent errors and latencies of a route's requests or a provider's attempts, over the
//! periods that degradation modes watch.
//!
//! Only what some mode watches has a window. Outcomes are recorded on the request path, under
//! a lock for a few instructions, and read off it.

use parking_lot::Mutex;
use std::time::{Duration, Instant};

use crate::resilience::stats::latency_sketch::LatencySketch;
use crate::resilience::stats::window::SlidingWindow;

/// The kind and length of a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WindowKind {
    Errors(Duration),
    Latency(Duration),
}

#[derive(Debug)]
enum WindowData {
    Errors(SlidingWindow),
    Latency(Box<LatencySketch>),
}

#[derive(Debug)]
pub struct OutcomeWindow {
    windows: Mutex<Vec<(WindowKind, WindowData)>>,
}

impl OutcomeWindow {
    pub fn new(wanted: &[WindowKind]) -> Self {
        let outcomes = OutcomeWindow { windows: Mutex::default() };
        outcomes.retune(wanted);
        outcomes
    }

    /// Keeps the windows still wanted, and adds the new ones.
    pub fn retune(&self, wanted: &[WindowKind]) {
        let mut windows = self.windows.lock();
        windows.retain(|(want, _)| wanted.contains(want));
        for want in wanted {
            if !windows.iter().any(|(known, _)| known == want) {
                let made = match *want {
                    WindowKind::Errors(over) => WindowData::Errors(SlidingWindow::new(over)),
                    WindowKind::Latency(over) => {
                        WindowData::Latency(Box::new(LatencySketch::new(over)))
                    }
                };
                windows.push((*want, made));
            }
        }
    }

    /// Records an outcome; `took` only if its time says something about latency.
    pub fn record(&self, bad: bool, took: Option<Duration>, now: Instant) {
        for (_, windows) in self.windows.lock().iter_mut() {
            match (windows, took) {
                (WindowData::Errors(window), _) => window.record(now, bad),
                (WindowData::Latency(sketch), Some(took)) => sketch.record(took, now),
                (WindowData::Latency(_), None) => {}
            }
        }
    }

    /// Turns an outcome that was recorded as good into a bad one.
    pub fn spoil(&self, now: Instant) {
        for (_, windows) in self.windows.lock().iter_mut() {
            if let WindowData::Errors(window) = windows {
                window.mark_bad(now);
            }
        }
    }

    /// The share of bad outcomes within the last `over`, if there are at least `least`.
    pub fn error_rate(&self, over: Duration, least: u32, now: Instant) -> Option<f64> {
        let windows = self.windows.lock();
        let found = windows.iter().find_map(|(want, windows)| match windows {
            WindowData::Errors(window) if *want == WindowKind::Errors(over) => {
                Some(window.counts(now))
            }
            _ => None,
        });
        let (total, bad) = found.filter(|(total, _)| *total >= least.max(1))?;
        Some(f64::from(bad) / f64::from(total))
    }

    /// The latency quantile of the last `over`, if there are at least `least` outcomes.
    pub fn latency(
        &self,
        over: Duration,
        quantile: f64,
        least: u32,
        now: Instant,
    ) -> Option<Duration> {
        let windows = self.windows.lock();
        windows.iter().find_map(|(want, windows)| match windows {
            WindowData::Latency(sketch) if *want == WindowKind::Latency(over) => {
                sketch.quantile(quantile, least.into(), now)
            }
            _ => None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    const S: Duration = Duration::from_secs(1);

    #[test]
    fn too_few_outcomes_give_no_value() {
        let (now, outcomes) = (
            clock::now(),
            OutcomeWindow::new(&[WindowKind::Errors(10 * S), WindowKind::Latency(10 * S)]),
        );
        outcomes.record(true, Some(S), now);
        outcomes.record(false, None, now);
        assert_eq!(outcomes.error_rate(10 * S, 2, now), Some(0.5));
        assert_eq!(outcomes.error_rate(10 * S, 3, now), None);
        assert!(outcomes.latency(10 * S, 0.5, 1, now).is_some());
        assert_eq!(outcomes.latency(10 * S, 0.5, 2, now), None);
    }

    #[test]
    fn retuning_keeps_windows_still_wanted() {
        let (now, outcomes) = (clock::now(), OutcomeWindow::new(&[WindowKind::Errors(10 * S)]));
        outcomes.record(true, None, now);
        outcomes.retune(&[WindowKind::Errors(20 * S), WindowKind::Errors(10 * S)]);
        outcomes.record(false, None, now);
        assert_eq!(outcomes.error_rate(10 * S, 1, now), Some(0.5));
        assert_eq!(outcomes.error_rate(20 * S, 1, now), Some(0.0));
        assert_eq!(outcomes.error_rate(30 * S, 1, now), None);
    }
}
