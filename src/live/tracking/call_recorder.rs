//! The calls of a route to one provider, by model, since they were last taken.
//!
//! A call costs one short lock, a scan of the models and an increment. The background task that
//! takes the calls allocates the sketches for the next ones.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

use crate::live::by_model::ByModel;
use crate::resilience::baseline::calls::{CallFigure, Calls};
use crate::resilience::outcome::AttemptClass;

/// Models of all routes and providers that have a series of their own. Each route and provider has
/// further one for its other models.
const MODEL_SERIES: u32 = 128;

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
    by_model: Mutex<ByModel<RecordedSeries>>,
}

/// The calls of a model.
#[derive(Debug, Default)]
struct RecordedSeries {
    /// Since they were last taken.
    calls: Box<Calls>,
    has_calls: bool,
    usual_p95: Option<Duration>,
}

/// A stream that ended properly.
#[derive(Clone, Copy, Debug)]
pub struct StreamTimes {
    pub first_content: Duration,
    /// From the first content to the end.
    pub rest: Duration,
    /// As the provider reports them.
    pub output_tokens: Option<u64>,
    pub content_events: u64,
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

    /// Records an attempt. Returns the 95th percentile of the latency that is usual for the
    /// model, if it is known.
    pub fn record(
        &self,
        model: Option<&str>,
        class: AttemptClass,
        took: Duration,
    ) -> Option<Duration> {
        self.with_series(model, |series| {
            series.calls.count(class);
            if class == AttemptClass::Success {
                series.calls.record_time(CallFigure::Latency, took);
            }
            series.usual_p95
        })
    }

    /// Records the end of a stream, whose attempt was recorded before.
    pub fn record_stream(&self, model: Option<&str>, times: StreamTimes) {
        let StreamTimes { first_content, rest, output_tokens, content_events } = times;
        let tokens = output_tokens.filter(|tokens| *tokens > 0 && !rest.is_zero());
        // The first event ends the time to the first content.
        let gaps = tokens.or_else(|| content_events.checked_sub(1)).filter(|gaps| *gaps > 0);
        self.with_series(model, |RecordedSeries { calls, .. }| {
            calls.record_time(CallFigure::FirstContent, first_content);
            if let Some(tokens) = tokens {
                calls.record(CallFigure::TokensPerSecond, tokens as f64 / rest.as_secs_f64());
            }
            if let Some(gaps) = gaps {
                calls.record(CallFigure::TokenGap, rest.as_secs_f64() / gaps as f64);
            }
        });
    }

    /// Records the cost of a response, whose attempt was recorded before.
    pub fn record_cost(&self, model: Option<&str>, cost: f64) {
        self.with_series(model, |series| series.calls.record_cost(cost));
    }

    /// Sets the usual 95th percentile of each model that has a series.
    pub fn set_usual_p95(&self, of: impl Fn(&str) -> Option<Duration>) {
        let mut by_model = self.by_model.lock();
        by_model.iter_mut().for_each(|(model, series)| series.usual_p95 = of(model));
    }

    /// Takes the calls since the last time, by model.
    pub fn take(&self) -> Vec<(String, Box<Calls>)> {
        let mut by_model = self.by_model.lock();
        let called = by_model.iter_mut().filter(|(_, series)| series.has_calls);
        let take = |series: &mut RecordedSeries| {
            series.has_calls = false;
            std::mem::take(&mut series.calls)
        };
        called.map(|(model, series)| (model.to_owned(), take(series))).collect()
    }

    fn with_series<R>(
        &self,
        model: Option<&str>,
        change: impl FnOnce(&mut RecordedSeries) -> R,
    ) -> R {
        let may_add = || {
            let may = self.places.take();
            self.taken.fetch_add(u32::from(may), Ordering::Relaxed);
            may
        };
        let mut by_model = self.by_model.lock();
        let (_, series) = by_model.get_or_add(model, may_add);
        series.has_calls = true;
        change(series)
    }
}

impl Drop for CallRecorder {
    fn drop(&mut self) {
        self.places.0.fetch_add(*self.taken.get_mut(), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resilience::baseline::measure::RollUp;

    const MS: Duration = Duration::from_millis(1);

    fn recorder(places: &Arc<SeriesPlaces>) -> CallRecorder {
        CallRecorder::new("chat", "a", places)
    }

    #[test]
    fn calls_are_taken_once_by_model() {
        let recorder = recorder(&Arc::default());
        for _ in 0..20 {
            recorder.record(Some("m"), AttemptClass::Success, 200 * MS);
            let (first_content, rest) = (500 * MS, Duration::from_secs(2));
            let times =
                StreamTimes { first_content, rest, output_tokens: Some(100), content_events: 9 };
            recorder.record_stream(Some("m"), times);
        }
        recorder.record(Some("m"), AttemptClass::Throttled, MS);
        recorder.record(None, AttemptClass::Failure, MS);
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
    fn streams_that_report_no_tokens_have_no_rate_and_the_gap_of_their_events() {
        let recorder = recorder(&Arc::default());
        for output_tokens in [None, Some(0)] {
            let (first_content, rest) = (500 * MS, 500 * MS);
            let times = StreamTimes { first_content, rest, output_tokens, content_events: 6 };
            (0..20).for_each(|_| recorder.record_stream(None, times));
        }
        let calls = recorder.take().remove(0).1;
        let roll_up = calls.roll_up(1);
        assert_eq!((roll_up.streamed, roll_up.tokens_per_second), (40, None));
        let gap = calls.quantile(CallFigure::TokenGap, 0.5, 0).unwrap();
        assert!((gap / 0.1 - 1.0).abs() < 0.01, "{gap}");
    }

    #[test]
    fn a_call_learns_the_usual_latency_of_its_model() {
        let recorder = recorder(&Arc::default());
        let record = |model| recorder.record(Some(model), AttemptClass::Success, MS);
        assert_eq!((record("m"), record("n")), (None, None));
        recorder.set_usual_p95(|model| (model == "m").then_some(7 * MS));
        recorder.take();
        assert_eq!((record("m"), record("n")), (Some(7 * MS), None));
    }

    #[test]
    fn all_recorders_share_the_places_of_models() {
        let places = Arc::new(SeriesPlaces::default());
        let recorders: Vec<_> = (0..3).map(|_| recorder(&places)).collect();
        let models = |recorder: &CallRecorder| {
            for n in 0..60 {
                recorder.record(Some(&format!("m{n}")), AttemptClass::Failure, MS);
            }
            recorder.take().len()
        };
        assert_eq!(recorders.iter().map(models).collect::<Vec<_>>(), [60, 60, 9]);
        drop(recorders);
        assert_eq!(models(&recorder(&places)), 60);
    }
}
