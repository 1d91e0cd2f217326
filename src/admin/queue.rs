//! `/api/queue`: requests waiting for capacity, the durable jobs of each queue, pause and resume.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use axum::extract::State;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::change::{Action, Change, Target};
use super::error::{ApiError, ApiErrorKind};
use super::routes::{ApiJson, ApiRoutes};
use super::state::AdminState;
use crate::clock;
use crate::live::Live;
use crate::live::queue::QueueLive;
use crate::policy::sections::model;
use crate::resilience::queue::stride::bound;
use crate::snapshot::Snapshot;
use crate::store::{Millis, QueueTotal};

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct QueueList {
    pub queues: Vec<QueueStatus>,
    pub providers: Vec<ProviderQueueStatus>,
}

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct QueueStatus {
    pub name: String,
    pub paused: bool,
    pub max_waiting: usize,
    pub max_wait_ms: u64,
    pub classes: Vec<ClassStatus>,
    /// Durable jobs; absent without a store (`--data`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jobs: Option<JobTotals>,
}

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct JobTotals {
    /// Jobs that may run at the same time.
    pub workers: usize,
    pub max_jobs: u64,
    /// Jobs by state; states without jobs are absent.
    pub states: BTreeMap<String, u64>,
    /// Request bytes of jobs that are not finished.
    pub bytes: u64,
    /// Age of the oldest job that is ready to run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oldest_ms: Option<u64>,
}

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct ClassStatus {
    pub name: String,
    pub weight: u32,
    pub waiting: usize,
    /// Age of the request that has waited longest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oldest_ms: Option<u64>,
    /// While requests of this class wait, at least one of this many dispatches is theirs; 1 is each.
    pub at_least_every: u64,
    /// Waiting requests by flow, largest first; at most 16 flows.
    pub flows: Vec<usize>,
}

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct ProviderQueueStatus {
    pub name: String,
    pub waiting: u32,
    /// Waiting requests that are dispatched per second; absent until enough have been measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drain_rate: Option<f64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QueueAction {
    Pause,
    Resume,
}

pub fn routes() -> ApiRoutes {
    ApiRoutes::default()
        .get::<QueueList, _>(
            "/api/queue",
            "Lists queues with their waiting requests and jobs, and providers with the rate at which \
             they drain.",
            list,
        )
        .post::<QueueStatus, _>(
            "/api/queue/{action}/{name}",
            "`pause` dispatches nothing from a queue until `resume`; new requests wait.",
            change,
        )
        .actions::<QueueAction>("name", "The name of a queue.")
        .change()
        .errors(&[ApiErrorKind::UnknownQueue])
}

async fn list(State(admin): State<Arc<AdminState>>) -> ApiJson<QueueList> {
    let snapshot = admin.current.load_full();
    let providers = snapshot.providers.iter().map(|provider| ProviderQueueStatus {
        name: provider.policy.name.clone(),
        waiting: provider.live.waiting(),
        drain_rate: admin.live.wait_queue.drain_rate(provider.live.id()),
    });
    let providers = providers.collect();
    ApiJson(QueueList { queues: admin.queues().await, providers })
}

async fn change(
    State(admin): State<Arc<AdminState>>,
    Target { action, name }: Target<QueueAction>,
    change: Change,
) -> Result<ApiJson<QueueStatus>, ApiError> {
    change.without_end("a queue is paused until it is resumed")?;
    change.on_this_host()?;
    let snapshot = admin.current.load_full();
    let (policy, queue) = admin.find_queue(&snapshot, &name)?;
    queue.pause(action == QueueAction::Pause);
    admin.audit(action.audit_name(), &name, &change);
    Ok(ApiJson(QueueStatus::new(policy, &queue, &admin.live, clock::now())))
}

impl Action for QueueAction {
    const NAMES: &'static [(Self, &'static str, &'static str)] = &[
        (QueueAction::Pause, "pause", "queue_pause"),
        (QueueAction::Resume, "resume", "queue_resume"),
    ];
}

impl AdminState {
    pub(super) fn find_queue<'a>(
        &self,
        snapshot: &'a Snapshot,
        name: &str,
    ) -> Result<(&'a model::Queue, Arc<QueueLive>), ApiError> {
        let live = self.live.queues();
        let policy = snapshot.policy.queues.iter().find(|queue| queue.name == name);
        let queue = live.iter().find(|queue| queue.name == name);
        policy.zip(queue.cloned()).ok_or_else(|| {
            let known = live.iter().map(|queue| queue.name.clone());
            let detail = format!("no route uses a queue `{name}`");
            ApiError::unknown(ApiErrorKind::UnknownQueue, &detail, known)
        })
    }

    /// The queues of the policy in force.
    pub(super) async fn queues(&self) -> Vec<QueueStatus> {
        let snapshot = self.current.load_full();
        let (now, live) = (clock::now(), self.live.queues());
        let status = |policy: &model::Queue| {
            let live = live.iter().find(|live| live.name == policy.name)?;
            Some(QueueStatus::new(policy, live, &self.live, now))
        };
        let mut queues: Vec<_> = snapshot.policy.queues.iter().filter_map(status).collect();
        self.add_job_totals(&mut queues, &snapshot).await;
        queues
    }

    /// Leaves the totals out when the store cannot be read; the store logs its own errors.
    async fn add_job_totals(&self, queues: &mut [QueueStatus], snapshot: &Snapshot) {
        let Some(store) = &self.store else { return };
        let names = queues.iter().map(|queue| queue.name.clone()).collect();
        let (totals, oldest) = (store.totals().await, store.oldest(names).await);
        let (Ok(totals), Ok(oldest)) = (totals, oldest) else { return };
        let wall = Millis::of(clock::wall());
        for (queue, oldest) in queues.iter_mut().zip(oldest) {
            let policy = snapshot.policy.queues.iter().find(|policy| policy.name == queue.name);
            let oldest = oldest.map(|at| at.until(wall).as_millis() as u64);
            queue.jobs = policy.map(|policy| JobTotals::new(policy, &totals, oldest));
        }
    }
}

impl QueueStatus {
    fn new(policy: &model::Queue, queue: &QueueLive, live: &Live, now: Instant) -> QueueStatus {
        let weights: Vec<u32> = policy.classes.iter().map(|class| class.weight).collect();
        let class = |index: usize, class: &model::Class| {
            let (waiting, oldest, flows) = live.wait_queue.class(queue.id, index);
            let age = |since| now.saturating_duration_since(since).as_millis() as u64;
            ClassStatus {
                name: class.name.clone(),
                weight: class.weight,
                waiting,
                oldest_ms: oldest.map(age),
                at_least_every: bound(&weights, index),
                flows,
            }
        };
        QueueStatus {
            name: policy.name.clone(),
            paused: queue.is_paused(),
            max_waiting: policy.max_waiting,
            max_wait_ms: policy.max_wait.as_millis() as u64,
            classes: policy.classes.iter().enumerate().map(|(n, one)| class(n, one)).collect(),
            jobs: None,
        }
    }
}

impl JobTotals {
    fn new(policy: &model::Queue, totals: &[QueueTotal], oldest_ms: Option<u64>) -> JobTotals {
        let own = || totals.iter().filter(|total| total.queue == policy.name);
        JobTotals {
            workers: policy.durable.workers,
            max_jobs: policy.durable.max_jobs,
            states: own().map(|total| (total.state.as_str().to_owned(), total.jobs)).collect(),
            bytes: own().filter(|t| !t.state.is_final()).map(|total| total.bytes).sum(),
            oldest_ms,
        }
    }
}
