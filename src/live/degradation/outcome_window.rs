//! How the requests of a route, or the attempts at a provider, went lately: errors and latencies,
//! over as long as the modes of degradation want to know.
//!
//! Only what some mode watches has samples; nothing is counted for anybody else. They are taken on
//! the request path, under a lock for a few instructions, and read off it.

use parking_lot::Mutex;
use std::time::{Duration, Instant};

use crate::resilience::stats::latency_sketch::LatencySketch;
use crate::resilience::stats::window::SlidingWindow;

/// What is to be kept of samples.
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
    kept: Mutex<Vec<(WindowKind, WindowData)>>,
}

impl OutcomeWindow {
    pub fn new(wants: &[WindowKind]) -> Self {
        let samples = OutcomeWindow { kept: Mutex::default() };
        samples.retune(wants);
        samples
    }

    /// Keeps what is wanted still, and begins what is wanted now.
    pub fn retune(&self, wants: &[WindowKind]) {
        let mut kept = self.kept.lock();
        kept.retain(|(want, _)| wants.contains(want));
        for want in wants {
            if !kept.iter().any(|(known, _)| known == want) {
                let made = match *want {
                    WindowKind::Errors(over) => WindowData::Errors(SlidingWindow::new(over)),
                    WindowKind::Latency(over) => {
                        WindowData::Latency(Box::new(LatencySketch::new(over)))
                    }
                };
                kept.push((*want, made));
            }
        }
    }

    /// One that ended; `took`, where how long it took says something of its latency.
    pub fn record(&self, bad: bool, took: Option<Duration>, now: Instant) {
        for (_, kept) in self.kept.lock().iter_mut() {
            match (kept, took) {
                (WindowData::Errors(window), _) => window.record(now, bad),
                (WindowData::Latency(sketch), Some(took)) => sketch.record(took, now),
                (WindowData::Latency(_), None) => {}
            }
        }
    }

    /// One that counts as good turned out bad.
    pub fn spoil(&self, now: Instant) {
        for (_, kept) in self.kept.lock().iter_mut() {
            if let WindowData::Errors(window) = kept {
                window.mark_bad(now);
            }
        }
    }

    /// The share of the last `over` that was bad, where at least so many ended.
    pub fn error_rate(&self, over: Duration, least: u32, now: Instant) -> Option<f64> {
        let kept = self.kept.lock();
        let found = kept.iter().find_map(|(want, kept)| match kept {
            WindowData::Errors(window) if *want == WindowKind::Errors(over) => {
                Some(window.counts(now))
            }
            _ => None,
        });
        let (total, bad) = found.filter(|(total, _)| *total >= least.max(1))?;
        Some(f64::from(bad) / f64::from(total))
    }

    /// What this share of the last `over` did not exceed, where at least so many ended.
    pub fn latency(
        &self,
        over: Duration,
        quantile: f64,
        least: u32,
        now: Instant,
    ) -> Option<Duration> {
        let kept = self.kept.lock();
        kept.iter().find_map(|(want, kept)| match kept {
            WindowData::Latency(sketch) if *want == WindowKind::Latency(over) => {
                let enough = sketch.count(now) >= u64::from(least.max(1));
                sketch.quantile(quantile, now).filter(|_| enough)
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
    fn too_few_say_nothing() {
        let (now, samples) = (
            clock::now(),
            OutcomeWindow::new(&[WindowKind::Errors(10 * S), WindowKind::Latency(10 * S)]),
        );
        samples.record(true, Some(S), now);
        samples.record(false, None, now);
        assert_eq!(samples.error_rate(10 * S, 2, now), Some(0.5));
        assert_eq!(samples.error_rate(10 * S, 3, now), None);
        assert!(samples.latency(10 * S, 0.5, 1, now).is_some());
        assert_eq!(samples.latency(10 * S, 0.5, 2, now), None);
    }

    #[test]
    fn what_is_wanted_still_is_not_forgotten() {
        let (now, samples) = (clock::now(), OutcomeWindow::new(&[WindowKind::Errors(10 * S)]));
        samples.record(true, None, now);
        samples.retune(&[WindowKind::Errors(20 * S), WindowKind::Errors(10 * S)]);
        samples.record(false, None, now);
        assert_eq!(samples.error_rate(10 * S, 1, now), Some(0.5));
        assert_eq!(samples.error_rate(20 * S, 1, now), Some(0.0));
        assert_eq!(samples.error_rate(30 * S, 1, now), None);
    }
}
