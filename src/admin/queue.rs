//! `/api/queue`: who waits, for how long yet, and whether anybody has a turn at all.

use std::sync::Arc;
use std::time::Instant;

use axum::Json;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use super::Shown;
use super::by_hand::{Asked, listed};
use super::guard::problem;
use crate::clock;
use crate::live::Live;
use crate::live::queue::QueueLive;
use crate::policy::model;
use crate::resilience::stride::bound;

#[derive(Debug, Serialize)]
pub struct Overview {
    queues: Vec<Queue>,
    providers: Vec<Provider>,
}

#[derive(Debug, Serialize)]
struct Queue {
    name: String,
    paused: bool,
    max_waiting: usize,
    max_wait_ms: u64,
    classes: Vec<Class>,
}

#[derive(Debug, Serialize)]
struct Class {
    name: String,
    weight: u32,
    waiting: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    oldest_ms: Option<u64>,
    /// Of those who wait at a provider, one of this class goes at least this often: 1 is each time.
    at_least_every: u64,
    /// How many wait of each flow, the largest first; at most 16.
    flows: Vec<usize>,
}

#[derive(Debug, Serialize)]
struct Provider {
    name: String,
    waiting: u32,
    /// How many go a second, of those who wait; absent while nobody has waited for long enough.
    #[serde(skip_serializing_if = "Option::is_none")]
    drain_rate: Option<f64>,
}

/// `GET /api/queue`.
pub async fn overview(State(shown): State<Arc<Shown>>) -> Json<Overview> {
    let snapshot = shown.current.load_full();
    let now = clock::now();
    let live = shown.live.queues();
    let of = |policy: &model::Queue| {
        let live = live.iter().find(|live| live.name == policy.name)?;
        Some(Queue::of(policy, live, &shown.live, now))
    };
    let providers = snapshot.providers.iter().map(|provider| Provider {
        name: provider.policy.name.clone(),
        waiting: provider.live.waiting(),
        drain_rate: shown.live.lanes.drain_rate(provider.live.id()),
    });
    Json(Overview {
        queues: snapshot.policy.queues.iter().filter_map(of).collect(),
        providers: providers.collect(),
    })
}

/// `POST /api/queue/{pause|resume}/{name}`.
pub async fn change(
    State(shown): State<Arc<Shown>>,
    Path((action, name)): Path<(String, String)>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let (what, paused) = match action.as_str() {
        "pause" => ("queue_pause", true),
        "resume" => ("queue_resume", false),
        _ => {
            let detail = format!("`{action}` is no action (expected pause or resume)");
            return problem(StatusCode::NOT_FOUND, "no_action", &detail);
        }
    };
    let asked = match Asked::read(&headers, &body) {
        Ok(asked) if asked.has_length() => {
            let detail = "a queue is paused until it is resumed: leave `for` out";
            return problem(StatusCode::BAD_REQUEST, "bad_for", detail);
        }
        Ok(asked) => asked,
        Err(refusal) => return *refusal,
    };
    let snapshot = shown.current.load_full();
    let live = shown.live.queues();
    let policy = snapshot.policy.queues.iter().find(|queue| queue.name == name);
    let queue = live.iter().find(|queue| queue.name == name);
    let (Some(policy), Some(queue)) = (policy, queue) else {
        let known: Vec<_> = live.iter().map(|queue| queue.name.clone()).collect();
        let detail = format!("no route uses a queue `{name}` (there are: {})", listed(&known));
        return problem(StatusCode::NOT_FOUND, "no_queue", &detail);
    };
    queue.pause(paused);
    shown.audit(what, &name, &asked);
    Json(Queue::of(policy, queue, &shown.live, clock::now())).into_response()
}

impl Queue {
    fn of(policy: &model::Queue, queue: &QueueLive, live: &Live, now: Instant) -> Queue {
        let weights: Vec<u32> = policy.classes.iter().map(|class| class.weight).collect();
        let class = |(place, class): (usize, &model::Class)| {
            let (waiting, oldest, flows) = live.lanes.class(queue.id, place);
            let age = |since| now.saturating_duration_since(since).as_millis() as u64;
            Class {
                name: class.name.clone(),
                weight: class.weight,
                waiting,
                oldest_ms: oldest.map(age),
                at_least_every: bound(&weights, place),
                flows,
            }
        };
        Queue {
            name: policy.name.clone(),
            paused: queue.is_paused(),
            max_waiting: policy.max_waiting,
            max_wait_ms: policy.max_wait.as_millis() as u64,
            classes: policy.classes.iter().enumerate().map(class).collect(),
        }
    }
}
