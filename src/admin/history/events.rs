//! `/api/events`: changes of state, as a list and as a stream.

use std::sync::Arc;

use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::Response;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::sse;
use crate::admin::error::ApiError;
use crate::admin::routes::{ApiJson, ApiQuery, ApiRoutes};
use crate::admin::state::AdminState;
use crate::history::events::older;
use crate::store::StoredEventQuery;
use crate::telemetry::events::Event;

const DEFAULT_PAGE: usize = 100;
const MAX_PAGE: usize = 1000;

/// Events, newest first.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct EventPage {
    pub events: Vec<Event>,
    /// For `before` of the next page; absent on the last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<u64>,
    /// Why older events are missing; absent when none are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub incomplete: Option<String>,
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default)]
struct EventQuery {
    /// One or more kinds, separated by commas.
    kind: Option<String>,
    /// The beginning of a key, such as `openai`.
    key: Option<String>,
    /// Events of a page: 100 by default, at most 1,000.
    limit: Option<usize>,
    /// The `next` of the previous page.
    before: Option<u64>,
    /// Only events after this id.
    after: Option<u64>,
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default)]
struct EventStreamQuery {
    /// One or more kinds, separated by commas.
    kind: Option<String>,
    /// The beginning of a key, such as `openai`.
    key: Option<String>,
    /// Begins after this id, like the header `Last-Event-ID`.
    after: Option<u64>,
}

pub fn routes() -> ApiRoutes {
    ApiRoutes::default()
        .get::<EventPage, _>(
            "/api/events",
            "Lists changes of state, newest first: the last 1,000, and with a store those of 30 days, at most \
             100,000.",
            list,
        )
        .query::<EventQuery>()
        .get::<String, _>(
            "/api/events/stream",
            "Sends each change of state as a server-sent event: `id`, `event` (its kind) and `data` (JSON).",
            stream,
        )
        .query::<EventStreamQuery>()
        .stream()
}

impl EventQuery {
    fn admits(&self, event: &Event) -> bool {
        let kind = self.kind.as_deref();
        kind.is_none_or(|kinds| kinds.split(',').any(|kind| kind == event.kind))
            && self.key.as_deref().is_none_or(|key| event.key.starts_with(key))
            && self.before.is_none_or(|before| event.id < before)
    }

    /// The same in the store, from before the oldest event in memory.
    fn stored(&self, oldest: Option<u64>, limit: usize) -> StoredEventQuery {
        let kinds = self.kind.iter().flat_map(|kinds| kinds.split(','));
        StoredEventQuery {
            kinds: kinds.map(str::to_owned).collect(),
            key: self.key.clone().unwrap_or_default(),
            before: self.before.into_iter().chain(oldest).min(),
            after: self.after.unwrap_or_default(),
            limit,
        }
    }
}

async fn list(
    State(admin): State<Arc<AdminState>>,
    ApiQuery(query): ApiQuery<EventQuery>,
) -> Result<ApiJson<EventPage>, ApiError> {
    let limit = query.limit.unwrap_or(DEFAULT_PAGE).clamp(1, MAX_PAGE);
    let all = admin.live.events.all();
    let oldest = all.first().map(|event| event.id);
    let after = query.after.unwrap_or_default();
    let newer = all.into_iter().rev().filter(|event| event.id > after);
    let mut found = newer.filter(|event| query.admits(event));
    // One more says whether there is a next page.
    let mut events: Vec<_> = found.by_ref().take(limit + 1).collect();
    let mut incomplete = None;
    if let Some(store) = admin.store.as_ref().filter(|_| events.len() <= limit) {
        let wanted = query.stored(oldest, limit + 1 - events.len());
        match older(store, wanted).await {
            Ok(stored) => events.extend(stored),
            Err(error) => incomplete = Some(format!("older events cannot be read: {error}")),
        }
    }
    let has_more = events.len() > limit;
    events.truncate(limit);
    let next = events.last().map(|event| event.id).filter(|_| has_more);
    Ok(ApiJson(EventPage { events, next, incomplete }))
}

async fn stream(
    State(admin): State<Arc<AdminState>>,
    headers: HeaderMap,
    ApiQuery(query): ApiQuery<EventStreamQuery>,
) -> Result<Response, ApiError> {
    let EventStreamQuery { kind, key, after } = query;
    let query = EventQuery { kind, key, ..EventQuery::default() };
    let events = Arc::clone(&admin.live.events);
    let after = sse::last_event_id(&headers).or(after);
    sse::open(&admin, admin.live.events.watch(), after, move |seen, text| {
        let fresh = events.since(seen);
        let last = fresh.last().map_or(seen, |event| event.id);
        for event in fresh.iter().filter(|event| query.admits(event)) {
            let data = serde_json::to_string(event).unwrap_or_default();
            let Event { id, kind, .. } = event;
            text.push_str(&format!("id: {id}\nevent: {kind}\ndata: {data}\n\n"));
        }
        last
    })
}
