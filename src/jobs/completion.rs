//! What becomes of a job after a run: done, again later, or dead.
//!
//! The end of a run is written down even where the disk is full just then: it is tried until it is,
//! for a job that was answered must not be run again.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use super::sharing::redis::Claim;
use crate::clock;
use crate::proxy::downstream::worker::Worker;
use crate::proxy::jobs::run::Outcome;
use crate::resilience::retry::backoff::{BackoffPolicy, Jitter};
use crate::snapshot::RouteQueue;
use crate::store::{
    AfterFailure, JobId, Millis, Partition, RunLease, RunnableJob, Store, StoreError,
};
use crate::telemetry::metrics::DeliveryLabels;

/// Between the runs of one job: an outage is waited out, and a crowd does not come back at once.
const AGAIN: BackoffPolicy = BackoffPolicy {
    initial: Duration::from_secs(1),
    max: Duration::from_secs(300),
    multiplier: 2.0,
    jitter: Jitter::Equal,
};
/// Whoever asked to come back later was heard; nobody waits for longer than this.
pub const LATEST: Duration = Duration::from_secs(3600);
const WRITE_AGAIN: Duration = Duration::from_secs(1);

/// One run of a job.
#[derive(Debug)]
pub struct JobRun {
    id: JobId,
    queue: String,
    attempts: u32,
    max_deliveries: u32,
    pub lease: Option<RunLease>,
    /// Under which it runs, where others could run it too.
    pub claim: Option<Claim>,
}

/// Where a job stands after a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Completion {
    Over,
    /// It is run again after a rest; `spent`: it failed.
    Again {
        rest: Duration,
        spent: bool,
    },
    /// It was over before it began.
    Gone,
}

impl JobRun {
    pub fn of(task: &RunnableJob, queue: &RouteQueue, line: &Partition) -> JobRun {
        JobRun {
            id: task.id,
            queue: line.queue.clone(),
            attempts: task.attempts,
            max_deliveries: queue.policy.durable.max_deliveries,
            lease: None,
            claim: None,
        }
    }

    pub async fn settle(&self, worker: &Worker, store: &Store, outcome: Outcome) -> Completion {
        let Some(lease) = self.lease else { return Completion::Gone };
        let (result, settled) = match outcome {
            Outcome::Answered(answer) => {
                let answer = Arc::new(answer);
                until_written(|| store.complete(self.id, lease, Arc::clone(&answer), now())).await;
                ("done", Completion::Over)
            }
            Outcome::NotTaken(rest, why) => {
                let rest = rest.unwrap_or_else(|| self.backoff()).min(LATEST);
                tracing::debug!(id = %self.id, why, ?rest, "a job was not taken");
                until_written(|| store.park(lease, Some(now().after(rest)))).await;
                ("not_taken", Completion::Again { rest, spent: false })
            }
            Outcome::Failed(why) if lease.deliveries < self.max_deliveries => {
                let rest = self.backoff();
                let then = AfterFailure::Again(now().after(rest));
                until_written(|| store.fail(self.id, lease, why.clone(), then, now())).await;
                ("failed", Completion::Again { rest, spent: true })
            }
            Outcome::Failed(why) | Outcome::Refused(why) => {
                until_written(|| {
                    store.fail(self.id, lease, why.clone(), AfterFailure::Dead, now())
                })
                .await;
                self.dead(worker, &why);
                ("dead", Completion::Over)
            }
        };
        self.count(worker, result);
        settled
    }

    /// It was begun too often without an end.
    pub fn poisoned(&self, worker: &Worker) {
        self.dead(worker, "it was begun too often without an end");
        self.count(worker, "poison");
    }

    fn dead(&self, worker: &Worker, why: &str) {
        tracing::warn!(id = %self.id, queue = self.queue, why, "a job is dead");
        let what = format!("{}: {why}", self.id);
        worker.live.events.push(clock::wall(), "job_dead", &self.queue, what);
    }

    fn count(&self, worker: &Worker, result: &'static str) {
        let labels = DeliveryLabels { queue: self.queue.clone(), result };
        worker.live.metrics.job_deliveries.with(&labels).inc();
    }

    fn backoff(&self) -> Duration {
        let elsewhere = self.claim.map_or(0, |claim| claim.attempts);
        backoff(self.attempts.max(elsewhere))
    }
}

/// How long a job rests that failed once more than so many times.
pub fn backoff(attempts: u32) -> Duration {
    AGAIN.delay(attempts + 1, clock::draw())
}

fn now() -> Millis {
    Millis::of(clock::wall())
}

/// Writes until it is written. A lease that no longer holds leaves nothing to write.
async fn until_written<F>(mut write: impl FnMut() -> F)
where
    F: Future<Output = Result<bool, StoreError>>,
{
    let mut told = false;
    loop {
        match write().await {
            Ok(_) | Err(StoreError::Closed) => return,
            Err(error) => {
                if !std::mem::replace(&mut told, true) {
                    tracing::warn!(%error, "the end of a job cannot be written: trying on");
                }
                tokio::time::sleep(WRITE_AGAIN).await;
            }
        }
    }
}
