//! `/api/benchmarks/series`: the series of calls, with their baselines and alarms.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::extract::State;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::admin::change::Change;
use crate::admin::error::{ApiError, ApiErrorKind};
use crate::admin::routes::{ApiJson, ApiQuery, ApiRoutes};
use crate::admin::state::AdminState;
use crate::resilience::baseline::SeriesKey;
use crate::resilience::baseline::calls::{is_call, is_failed};
use crate::resilience::baseline::detector::Detector;
use crate::resilience::baseline::measure::{Measure, ROLL_UP_SECONDS};
use crate::resilience::outcome::AttemptClass;
use crate::telemetry::events::rfc3339;
use crate::tracking::changes::DetectedChange;
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
    /// Attempts since then by class.
    pub outcomes: BTreeMap<String, u64>,
    /// Cost since then, in the currency of the provider's `price`; absent without one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cost: Option<f64>,
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

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct ChangeList {
    /// Newest first; at most 1,000.
    pub changes: Vec<DetectedChange>,
}

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct SeriesAccepted {
    /// The measures whose current value is the baseline now.
    pub accepted: Vec<String>,
    /// The series, after the change.
    pub series: SeriesStatus,
}

#[derive(Debug, Deserialize, JsonSchema)]
struct AcceptQuery {
    /// The route of the series.
    route: String,
    /// Its provider.
    provider: String,
    /// Its model; `-` is unknown.
    model: String,
    /// `p50`, `p95`, `first_content`, `tokens_per_second` or `error_rate`; all that alarm by default.
    measure: Option<String>,
}

pub fn routes() -> ApiRoutes {
    ApiRoutes::default()
        .get::<SeriesList, _>(
            "/api/benchmarks/series",
            "Lists the calls of each route, provider and model, with baseline, current value and \
             alarm of each measure. Updated every 10 s.",
            list,
        )
        .get::<ChangeList, _>(
            "/api/benchmarks/changes",
            "Lists detected regressions and recoveries with their figures.",
            changes,
        )
        .post::<SeriesAccepted, _>(
            "/api/benchmarks/series/accept",
            "Makes the current values of a series its baseline, which ends its alarms.",
            accept,
        )
        .query::<AcceptQuery>()
        .change()
        .errors(&[ApiErrorKind::UnknownSeries, ApiErrorKind::NothingToAccept])
}

async fn list(State(admin): State<Arc<AdminState>>) -> ApiJson<SeriesList> {
    let tracker = admin.tracker.lock();
    let series = tracker.series().map(|(key, tracked)| SeriesStatus::of(&tracker, key, tracked));
    ApiJson(SeriesList { host_regression: tracker.is_host(), series: series.collect() })
}

async fn changes(State(admin): State<Arc<AdminState>>) -> ApiJson<ChangeList> {
    let changes = admin.tracker.lock().changes.all().cloned().collect();
    ApiJson(ChangeList { changes })
}

async fn accept(
    State(admin): State<Arc<AdminState>>,
    ApiQuery(query): ApiQuery<AcceptQuery>,
    change: Change,
) -> Result<ApiJson<SeriesAccepted>, ApiError> {
    change.on_this_host()?;
    change.without_end("a baseline is learned on from the accepted value")?;
    let invalid = |detail: String| ApiError::new(ApiErrorKind::InvalidQuery, detail);
    let AcceptQuery { route, provider, model, measure } = query;
    let known = || Measure::ALL.map(Measure::as_str).join(", ");
    let unknown = |word: &str| invalid(format!("`measure` is `{word}` (expected {})", known()));
    let word = measure.as_deref();
    let measure =
        word.map(|word| Measure::from_word(word).ok_or_else(|| unknown(word))).transpose()?;
    let key = SeriesKey { route, provider, model };
    let mut tracker = admin.tracker.lock();
    let Some(accepted) = tracker.accept(&admin.live, &key, measure) else {
        let all = tracker.series().map(|(key, _)| key.path());
        let detail = format!("there is no series `{}`", key.path());
        return Err(ApiError::unknown(ApiErrorKind::UnknownSeries, &detail, all));
    };
    if accepted.is_empty() {
        let detail = match measure {
            Some(_) => "the measure has no current value or no baseline (wait for calls)",
            None => "no measure of the series alarms (name the measure to accept)",
        };
        return Err(ApiError::new(ApiErrorKind::NothingToAccept, detail));
    }
    let series = tracker.series().find(|(one, _)| **one == key);
    let series = series.map(|(key, tracked)| SeriesStatus::of(&tracker, key, tracked));
    drop(tracker);
    admin.audit("baseline_accept", &key.path(), &change);
    let accepted = accepted.iter().map(|measure| measure.as_str().to_owned()).collect();
    let gone = || ApiError::new(ApiErrorKind::UnknownSeries, "the series is gone");
    Ok(ApiJson(SeriesAccepted { accepted, series: series.ok_or_else(gone)? }))
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
            calls: tracked.count(is_call),
            failed: tracked.count(is_failed),
            outcomes: AttemptClass::ALL
                .into_iter()
                .map(|class| (class.as_str().to_owned(), tracked.outcomes[class.index()]))
                .filter(|(_, count)| *count > 0)
                .collect(),
            cost: Some(tracked.cost).filter(|cost| *cost > 0.0),
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
