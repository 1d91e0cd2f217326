//! `/api/queue`: who waits, for how long yet, and whether anybody has a turn at all; how many jobs
//! there are.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use axum::Json;
use axum::body::Bytes;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};

use super::Shown;
use super::auth::problem;
use super::jobs;
use super::overrides::{Asked, listed};
use crate::clock;
use crate::live::Live;
use crate::live::queue::QueueLive;
use crate::policy::sections::model;
use crate::resilience::queue::stride::bound;
use crate::store::{Millis, QueueTotal};

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
    /// Jobs in the store.
    #[serde(skip_serializing_if = "Option::is_none")]
    jobs: Option<Jobs>,
}

/// The durable lane of a queue.
#[derive(Debug, Serialize)]
struct Jobs {
    workers: usize,
    max_jobs: u64,
    /// How many stand where; only those that there are.
    states: BTreeMap<&'static str, u64>,
    /// Of bodies of jobs that are not done.
    bytes: u64,
    /// Age of the oldest that is ready.
    #[serde(skip_serializing_if = "Option::is_none")]
    oldest_ms: Option<u64>,
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
        drain_rate: shown.live.wait_queue.drain_rate(provider.live.id()),
    });
    let mut queues: Vec<Queue> = snapshot.policy.queues.iter().filter_map(of).collect();
    if let Some(store) = &shown.store {
        let names = queues.iter().map(|queue| queue.name.clone()).collect();
        // A store that cannot be read is told by what reads it first; the lanes are shown still.
        let (totals, oldest) = (store.totals().await, store.oldest(names).await);
        if let (Ok(totals), Ok(oldest)) = (totals, oldest) {
            let wall = Millis::of(clock::wall());
            for (queue, oldest) in queues.iter_mut().zip(oldest) {
                let policy = snapshot.policy.queues.iter().find(|policy| policy.name == queue.name);
                let oldest = oldest.map(|at| at.until(wall).as_millis() as u64);
                queue.jobs = policy.map(|policy| Jobs::of(policy, &totals, oldest));
            }
        }
    }
    Json(Overview { queues, providers: providers.collect() })
}

/// What a change by hand is about.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct About {
    state: Option<String>,
}

/// `POST /api/queue/{pause|resume|requeue|purge}/{name}`.
pub async fn change(
    State(shown): State<Arc<Shown>>,
    Path((action, name)): Path<(String, String)>,
    Query(about): Query<About>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let (what, paused) = match action.as_str() {
        "pause" => ("queue_pause", true),
        "resume" | "requeue" | "purge" => ("queue_resume", false),
        _ => {
            let detail =
                format!("`{action}` is no action (expected pause, resume, requeue or purge)");
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
    if matches!(action.as_str(), "requeue" | "purge") {
        let swept = jobs::sweep(&shown, &action, &name, about.state.as_deref(), &asked).await;
        return swept.unwrap_or_else(|refusal| *refusal);
    }
    queue.pause(paused);
    shown.audit(what, &name, &asked);
    Json(Queue::of(policy, queue, &shown.live, clock::now())).into_response()
}

impl Queue {
    fn of(policy: &model::Queue, queue: &QueueLive, live: &Live, now: Instant) -> Queue {
        let weights: Vec<u32> = policy.classes.iter().map(|class| class.weight).collect();
        let class = |(place, class): (usize, &model::Class)| {
            let (waiting, oldest, flows) = live.wait_queue.class(queue.id, place);
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
            jobs: None,
        }
    }
}

impl Jobs {
    fn of(policy: &model::Queue, totals: &[QueueTotal], oldest_ms: Option<u64>) -> Jobs {
        let own = || totals.iter().filter(|total| total.queue == policy.name);
        Jobs {
            workers: policy.durable.workers,
            max_jobs: policy.durable.max_jobs,
            states: own().map(|total| (total.state.as_str(), total.jobs)).collect(),
            bytes: own().filter(|t| !t.state.is_final()).map(|total| total.bytes).sum(),
            oldest_ms,
        }
    }
}
