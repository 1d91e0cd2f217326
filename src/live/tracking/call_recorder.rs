//! The calls of a route to one provider, by model, since they were last taken.
//!
//! A call costs one short lock, a scan of the models and an increment. The background task that
//! takes the calls allocates the sketches for the next ones.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

use crate::live::by_model::ByModel;
use crate::resilience::baseline::measure::{LEAST_CALLS, RollUp};
use crate::resilience::stats::log_counts::FineCounts;

/// Models of all routes and providers that have a series of their own. Each route and provider has
/// further one for its other models.
const MODEL_SERIES: u32 = 128;
/// Sketches hold whole numbers: a rate is in millionths of a token per second.
const RATE_UNIT: f64 = 1e6;

/// The models that may still get a series.
#[derive(Debug)]
pub struct SeriesPlaces(AtomicU32);

/// One for each route and provider.
#[derive(Debug)]
pub struct CallRecorder {
    pub route: String,
    pub provider: String,
    places: Arc<SeriesPlaces>,
    /// Places that its models have.
    taken: AtomicU32,
    by_model: Mutex<ByModel<Box<Calls>>>,
}

/// The calls of a series over some time.
#[derive(Debug, Default)]
pub struct Calls {
    calls: u32,
    failed: u32,
    /// Nanoseconds to the response of the calls that succeeded.
    latency: FineCounts,
    /// Nanoseconds to the first content of a stream.
    first_content: FineCounts,
    token_rate: FineCounts,
}

/// The result of one call.
#[derive(Clone, Copy, Debug)]
pub enum CallResult {
    Succeeded(Duration),
    Failed,
}

/// A stream that ended properly.
#[derive(Clone, Copy, Debug)]
pub struct StreamTimes {
    pub first_content: Duration,
    /// From the first content to the end.
    pub rest: Duration,
    /// As the provider reports them.
    pub output_tokens: Option<u64>,
}

impl Default for SeriesPlaces {
    fn default() -> Self {
        SeriesPlaces(AtomicU32::new(MODEL_SERIES))
    }
}

impl SeriesPlaces {
    fn take(&self) -> bool {
        let one_less = |left: u32| left.checked_sub(1);
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less).is_ok()
    }
}

impl CallRecorder {
    pub fn new(route: &str, provider: &str, places: &Arc<SeriesPlaces>) -> Self {
        CallRecorder {
            route: route.to_owned(),
            provider: provider.to_owned(),
            places: Arc::clone(places),
            taken: AtomicU32::default(),
            by_model: Mutex::default(),
        }
    }

    /// Records an attempt.
    pub fn record(&self, model: Option<&str>, result: CallResult) {
        self.with_calls(model, |calls| {
            calls.calls = calls.calls.saturating_add(1);
            match result {
                CallResult::Succeeded(took) => calls.latency.record(nanoseconds(took)),
                CallResult::Failed => calls.failed = calls.failed.saturating_add(1),
            }
        });
    }

    /// Records the end of a stream, whose attempt was recorded before.
    pub fn record_stream(&self, model: Option<&str>, times: StreamTimes) {
        let seconds = times.rest.as_secs_f64();
        let tokens = times.output_tokens.filter(|tokens| *tokens > 0 && seconds > 0.0);
        self.with_calls(model, |calls| {
            calls.first_content.record(nanoseconds(times.first_content));
            if let Some(tokens) = tokens {
                calls.token_rate.record((tokens as f64 / seconds * RATE_UNIT) as u64);
            }
        });
    }

    /// Takes the calls since the last time, by model.
    pub fn take(&self) -> Vec<(String, Box<Calls>)> {
        let mut by_model = self.by_model.lock();
        let called = by_model.iter_mut().filter(|(_, calls)| !calls.is_empty());
        called.map(|(model, calls)| (model.to_owned(), std::mem::take(calls))).collect()
    }

    fn with_calls(&self, model: Option<&str>, change: impl FnOnce(&mut Calls)) {
        let may_add = || {
            let may = self.places.take();
            self.taken.fetch_add(u32::from(may), Ordering::Relaxed);
            may
        };
        change(self.by_model.lock().get_or_add(model, may_add).1);
    }
}

impl Drop for CallRecorder {
    fn drop(&mut self) {
        self.places.0.fetch_add(*self.taken.get_mut(), Ordering::Relaxed);
    }
}

impl Calls {
    /// Their figures.
    pub fn roll_up(&self, number: u64) -> RollUp {
        let seconds = |nanoseconds: u64| nanoseconds as f64 / 1e9;
        let least = u64::from(LEAST_CALLS);
        RollUp {
            number,
            calls: self.calls,
            failed: self.failed,
            timed: u32::try_from(self.latency.count()).unwrap_or(u32::MAX),
            p50: self.latency.quantile(0.5, least).map(seconds),
            p95: self.latency.quantile(0.95, least).map(seconds),
            streamed: u32::try_from(self.first_content.count()).unwrap_or(u32::MAX),
            first_content: self.first_content.quantile(0.5, least).map(seconds),
            tokens_per_second: self
                .token_rate
                .quantile(0.5, least)
                .map(|rate| rate as f64 / RATE_UNIT),
        }
    }

    fn is_empty(&self) -> bool {
        self.calls == 0 && self.first_content.count() == 0
    }
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn recorder(places: &Arc<SeriesPlaces>) -> CallRecorder {
        CallRecorder::new("chat", "a", places)
    }

    #[test]
    fn calls_are_taken_once_by_model() {
        let recorder = recorder(&Arc::default());
        for _ in 0..20 {
            recorder.record(Some("m"), CallResult::Succeeded(200 * MS));
            let (first_content, rest) = (500 * MS, Duration::from_secs(2));
            let times = StreamTimes { first_content, rest, output_tokens: Some(100) };
            recorder.record_stream(Some("m"), times);
        }
        recorder.record(Some("m"), CallResult::Failed);
        recorder.record(None, CallResult::Failed);
        let taken = recorder.take();
        let [(model, calls), (unknown, failed)] = &taken[..] else { panic!("{taken:?}") };
        assert_eq!((model.as_str(), unknown.as_str()), ("m", "-"));
        let RollUp { calls, failed: bad, timed, streamed, .. } = calls.roll_up(7);
        assert_eq!((calls, bad, timed, streamed), (21, 1, 20, 20));
        let roll_up = taken[0].1.roll_up(7);
        let is_near = |found: Option<f64>, value: f64| (found.unwrap() / value - 1.0).abs() < 0.01;
        assert!(is_near(roll_up.p50, 0.2) && is_near(roll_up.p95, 0.2), "{roll_up:?}");
        assert!(is_near(roll_up.first_content, 0.5), "{roll_up:?}");
        assert!(is_near(roll_up.tokens_per_second, 50.0), "{roll_up:?}");
        assert_eq!((failed.roll_up(7).failed, failed.roll_up(7).p50), (1, None));
        assert!(recorder.take().is_empty());
    }

    #[test]
    fn streams_that_report_no_tokens_have_no_rate() {
        let recorder = recorder(&Arc::default());
        for tokens in [None, Some(0)] {
            let times =
                StreamTimes { first_content: 500 * MS, rest: 500 * MS, output_tokens: tokens };
            (0..20).for_each(|_| recorder.record_stream(None, times));
        }
        let roll_up = recorder.take()[0].1.roll_up(1);
        assert_eq!((roll_up.streamed, roll_up.tokens_per_second), (40, None));
    }

    #[test]
    fn all_recorders_share_the_places_of_models() {
        let places = Arc::new(SeriesPlaces::default());
        let recorders: Vec<_> = (0..3).map(|_| recorder(&places)).collect();
        let models = |recorder: &CallRecorder| {
            (0..60).for_each(|n| recorder.record(Some(&format!("m{n}")), CallResult::Failed));
            recorder.take().len()
        };
        assert_eq!(recorders.iter().map(models).collect::<Vec<_>>(), [60, 60, 9]);
        drop(recorders);
        assert_eq!(models(&recorder(&places)), 60);
    }
}
