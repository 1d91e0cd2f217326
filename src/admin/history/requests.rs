//! `/api/requests`: the access records of the last requests, with a filter.

use std::sync::Arc;

use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::Response;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::differences::{RequestDifference, differences};
use super::explanation::{self, DecisionStep};
use super::filter::RequestFilter;
use super::sse;
use crate::admin::change::PathName;
use crate::admin::error::{ApiError, ApiErrorKind};
use crate::admin::routes::{ApiJson, ApiQuery, ApiRoutes};
use crate::admin::state::AdminState;
use crate::policy::sections::model::LogFormat;
use crate::telemetry::recent_requests::{KEPT, RecentRequest};

const DEFAULT_PAGE: usize = 100;
/// Records in one message of a stream; more are skipped, and counted.
const BURST: usize = 200;

/// Access records, newest first.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct RequestPage {
    /// Each as in a line of the access log in JSON (docs/reference/access-log.md), with `number`.
    pub requests: Vec<Value>,
    /// For `before` of the next page; absent on the last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<u64>,
    /// How many of the records that are kept were looked at.
    pub kept: usize,
    /// Records may be missing: the access log of a route is text or off, and
    /// `server.recent_requests` bounds how many of its records are kept.
    pub sampled: bool,
}

/// One request.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct RequestDetail {
    /// As in a line of the access log in JSON (docs/reference/access-log.md), with `number`.
    pub request: Value,
    /// How it was decided, in order.
    pub decisions: Vec<DecisionStep>,
    /// A command that sends the request again, without its body and its credentials.
    pub curl: String,
}

/// The values that set the records of one filter apart from the others.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct DifferenceList {
    /// How many records the filter admits.
    pub selected: usize,
    /// How many records it is compared with.
    pub others: usize,
    /// The largest difference first.
    pub differences: Vec<RequestDifference>,
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default)]
struct RecordQuery {
    /// Terms such as `to:openai status:5xx waited:>1s -route:chat failed`, all of which must hold.
    filter: String,
    /// Records of a page: 100 by default, at most 1,000.
    limit: Option<usize>,
    /// The `next` of the previous page.
    before: Option<u64>,
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default)]
struct RecordStreamQuery {
    /// As for `/api/requests`.
    filter: String,
    /// Begins with the record after this number, like the header `Last-Event-ID`.
    after: Option<u64>,
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default)]
struct DifferenceQuery {
    /// As for `/api/requests`.
    filter: String,
    /// A filter for the records to compare with; all others by default.
    against: Option<String>,
}

pub fn routes() -> ApiRoutes {
    ApiRoutes::default()
        .get::<RequestPage, _>(
            "/api/requests",
            "Lists the access records of the last 1,000 requests, newest first.",
            list,
        )
        .query::<RecordQuery>()
        .get::<String, _>(
            "/api/requests/stream",
            "Sends each access record as a server-sent event when its request has ended.",
            stream,
        )
        .query::<RecordStreamQuery>()
        .stream()
        .get::<DifferenceList, _>(
            "/api/requests/differences",
            "Reports what sets the records of `filter` apart from the others, or from those of `against`.",
            compare,
        )
        .query::<DifferenceQuery>()
        .get::<RequestDetail, _>(
            "/api/requests/{id}",
            "Reports the request with an id (`request_id` of its record, `outrigger-request-id` of its \
             response): its record, and each decision in words.",
            show,
        )
        .in_path("id", "The `request_id` of a record.")
        .errors(&[ApiErrorKind::UnknownRequest])
}

fn invalid(detail: String) -> ApiError {
    ApiError::new(ApiErrorKind::InvalidQuery, detail)
}

fn parse(filter: &str) -> Result<RequestFilter, ApiError> {
    RequestFilter::parse(filter).map_err(invalid)
}

/// The record as JSON, with its number.
fn record(kept: &RecentRequest) -> Option<Value> {
    let mut record: Value = serde_json::from_slice(&kept.record).ok()?;
    record.as_object_mut()?.insert("number".to_owned(), kept.number.into());
    Some(record)
}

async fn list(
    State(admin): State<Arc<AdminState>>,
    ApiQuery(query): ApiQuery<RecordQuery>,
) -> Result<ApiJson<RequestPage>, ApiError> {
    let filter = parse(&query.filter)?;
    let limit = query.limit.unwrap_or(DEFAULT_PAGE).clamp(1, KEPT);
    let all = admin.live.recent_requests.all();
    let older = all.iter().filter(|kept| query.before.is_none_or(|before| kept.number < before));
    let mut found = older.filter_map(record).filter(|record| filter.admits(record));
    let requests: Vec<_> = found.by_ref().take(limit).collect();
    let more = found.next().is_some();
    let next = requests.last().filter(|_| more).and_then(|last| last["number"].as_u64());
    Ok(ApiJson(RequestPage { requests, next, kept: all.len(), sampled: samples(&admin) }))
}

async fn show(
    State(admin): State<Arc<AdminState>>,
    PathName(id): PathName,
) -> Result<ApiJson<RequestDetail>, ApiError> {
    let mut records = admin.live.recent_requests.all().into_iter();
    let found = records.find_map(|kept| record(&kept).filter(|record| record["request_id"] == *id));
    let request = found.ok_or_else(|| {
        let detail = format!(
            "no request `{id}` among the last {KEPT} (expected the `request_id` of a record, which \
             the response had as `outrigger-request-id`)"
        );
        ApiError::new(ApiErrorKind::UnknownRequest, detail)
    })?;
    let status = admin.loader.status();
    let is_current = request["policy"] == *status.in_force.short;
    let locations = is_current.then(|| admin.loader.locations());
    let decisions = explanation::explain(&request, locations.as_deref());
    let curl = explanation::curl(&request, &admin.listener);
    Ok(ApiJson(RequestDetail { request, decisions, curl }))
}

async fn stream(
    State(admin): State<Arc<AdminState>>,
    headers: HeaderMap,
    ApiQuery(query): ApiQuery<RecordStreamQuery>,
) -> Result<Response, ApiError> {
    let filter = parse(&query.filter)?;
    let recent = Arc::clone(&admin.live.recent_requests);
    let after = sse::last_event_id(&headers).or(query.after);
    let next = move |seen: u64, text: &mut String| events(&filter, seen, &recent.since(seen), text);
    sse::open(&admin, admin.live.recent_requests.watch(), after, next)
}

/// Appends the records that the filter admits as events; returns the number of the last record.
fn events(filter: &RequestFilter, seen: u64, fresh: &[RecentRequest], text: &mut String) -> u64 {
    let Some(last) = fresh.last() else { return seen };
    let admitted = |kept: &&RecentRequest| record(kept).is_some_and(|it| filter.admits(&it));
    let admitted: Vec<_> = fresh.iter().filter(admitted).collect();
    let lost = last.number.saturating_sub(seen) as usize - fresh.len();
    let skipped = lost + admitted.len().saturating_sub(BURST);
    if skipped > 0 && seen > 0 {
        text.push_str(&format!("event: skipped\ndata: {{\"skipped\":{skipped}}}\n\n"));
    }
    for kept in admitted.iter().skip(admitted.len().saturating_sub(BURST)) {
        let record = String::from_utf8_lossy(&kept.record);
        text.push_str(&format!("id: {}\ndata: {record}\n\n", kept.number));
    }
    last.number
}

async fn compare(
    State(admin): State<Arc<AdminState>>,
    ApiQuery(query): ApiQuery<DifferenceQuery>,
) -> Result<ApiJson<DifferenceList>, ApiError> {
    let filter = parse(&query.filter)?;
    let against = query.against.as_deref().map(parse).transpose()?;
    let all = admin.live.recent_requests.all();
    let (selected, rest): (Vec<_>, Vec<_>) =
        all.iter().filter_map(record).partition(|record| filter.admits(record));
    let is_other = |record: &Value| against.as_ref().is_none_or(|other| other.admits(record));
    let others: Vec<_> = rest.into_iter().filter(is_other).collect();
    Ok(ApiJson(DifferenceList {
        selected: selected.len(),
        others: others.len(),
        differences: differences(&selected, &others),
    }))
}

/// Whether records of requests may be missing.
fn samples(admin: &AdminState) -> bool {
    let snapshot = admin.current.load();
    let mut logs = snapshot.routes.iter().map(|route| route.access_log.as_ref());
    logs.any(|log| log.is_none_or(|log| log.format != LogFormat::Json))
}
