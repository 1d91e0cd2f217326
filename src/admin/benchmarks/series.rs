//! `/api/benchmarks/series`: the series of calls, with their baselines and alarms.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::extract::State;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::admin::routes::{ApiJson, ApiRoutes};
use crate::admin::state::AdminState;
use crate::resilience::baseline::SeriesKey;
use crate::resilience::baseline::detector::Detector;
use crate::resilience::baseline::measure::{Measure, ROLL_UP_SECONDS};
use crate::telemetry::events::rfc3339;
use crate::tracking::tracker::{TrackedSeries, Tracker};

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct SeriesList {
    /// Most series are worse than their baselines, so that this host is the likely cause.
    pub host_regression: bool,
    /// Ordered by route, provider and model.
    pub series: Vec<SeriesStatus>,
}

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct SeriesStatus {
    pub route: String,
    pub provider: String,
    /// `-`: unknown; `other`: the models past the bound.
    pub model: String,
    /// Calls since the start of the sidecar.
    pub calls: u64,
    /// How many of them failed.
    pub failed: u64,
    /// The worst state of its measures.
    pub state: Cow<'static, str>,
    pub measures: Vec<MeasureStatus>,
}

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct MeasureStatus {
    /// `p50`, `p95` or `first_content` (seconds), `tokens_per_second`, or `error_rate` (a share).
    pub measure: Cow<'static, str>,
    /// `not_enough_data`, `learning`, `normal` or `alarm`.
    pub state: Cow<'static, str>,
    /// The expected value of this hour; absent for the first 10 minutes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub baseline: Option<f64>,
    /// The median of the last six values; absent without a baseline.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub current: Option<f64>,
    /// When the measure became worse (RFC 3339).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alarm_since: Option<String>,
}

pub fn routes() -> ApiRoutes {
    ApiRoutes::default().get::<SeriesList, _>(
        "/api/benchmarks/series",
        "Lists the calls of each route, provider and model, with baseline, current value and alarm \
         of each measure. Updated every 10 s.",
        list,
    )
}

async fn list(State(admin): State<Arc<AdminState>>) -> ApiJson<SeriesList> {
    let tracker = admin.tracker.lock();
    let series = tracker.series().map(|(key, tracked)| SeriesStatus::of(&tracker, key, tracked));
    ApiJson(SeriesList { host_regression: tracker.is_host(), series: series.collect() })
}

impl SeriesStatus {
    fn of(tracker: &Tracker, key: &SeriesKey, tracked: &TrackedSeries) -> SeriesStatus {
        let SeriesKey { route, provider, model } = key.clone();
        let (number, baseline) = (tracker.number(), &tracked.baseline);
        let measure = |measure| MeasureStatus::of(measure, baseline.detector(measure), number);
        SeriesStatus {
            route,
            provider,
            model,
            calls: tracked.calls,
            failed: tracked.failed,
            state: baseline.status(number).as_str().into(),
            measures: Measure::ALL.map(measure).into(),
        }
    }
}

impl MeasureStatus {
    fn of(measure: Measure, detector: &Detector, number: u64) -> MeasureStatus {
        let since = detector.regression().map(|regression| regression.since * ROLL_UP_SECONDS);
        let at = |seconds| rfc3339(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds));
        MeasureStatus {
            measure: measure.as_str().into(),
            state: detector.status(number).as_str().into(),
            baseline: detector.baseline(),
            current: detector.current(),
            alarm_since: since.map(at),
        }
    }
}
