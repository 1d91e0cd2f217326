//! Decides how a run of a job ends: final, run again later, or dead.
//!
//! The end of a run is written even while the disk is full: the write is repeated until it
//! succeeds, because a job that has a response must not run again.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use super::sharing::redis::Claim;
use super::sharing::results::report_dead;
use crate::clock;
use crate::proxy::downstream::worker::Worker;
use crate::proxy::jobs::run::RunOutcome;
use crate::resilience::retry::backoff::{BackoffPolicy, Jitter};
use crate::snapshot::RouteQueue;
use crate::store::{
    AfterFailure, JobId, Millis, Partition, RunLease, RunnableJob, Store, StoreError,
};
use crate::telemetry::metrics::DeliveryLabels;

/// Delay between the runs of one job: long enough for an outage to pass, with jitter so that many
/// jobs do not return at once.
const RUN_BACKOFF: BackoffPolicy = BackoffPolicy {
    initial: Duration::from_secs(1),
    max: Duration::from_secs(300),
    multiplier: 2.0,
    jitter: Jitter::Equal,
};
/// A longer `Retry-After` is cut to this.
pub const LONGEST_DELAY: Duration = Duration::from_secs(3600);
const WRITE_RETRY: Duration = Duration::from_secs(1);

/// One run of a job.
#[derive(Debug)]
pub struct JobRun {
    id: JobId,
    queue: String,
    attempts: u32,
    max_deliveries: u32,
    pub lease: Option<RunLease>,
    /// The claim in Redis, if other hosts could run the job too.
    pub claim: Option<Claim>,
}

/// The state of a job after a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Completion {
    Final,
    /// It runs again after `delay`; `failed`: the run counts as a failure.
    RunAgain {
        delay: Duration,
        failed: bool,
    },
    /// It was no longer ready when the run was about to start.
    Gone,
}

impl JobRun {
    pub fn new(job: &RunnableJob, queue: &RouteQueue, partition: &Partition) -> JobRun {
        JobRun {
            id: job.id,
            queue: partition.queue.clone(),
            attempts: job.attempts,
            max_deliveries: queue.policy.durable.max_deliveries,
            lease: None,
            claim: None,
        }
    }

    pub async fn complete(
        &self,
        worker: &Worker,
        store: &Store,
        outcome: RunOutcome,
    ) -> Completion {
        let Some(lease) = self.lease else { return Completion::Gone };
        let (id, now) = (self.id, || Millis::of(clock::wall()));
        let (result, completion) = match outcome {
            RunOutcome::Responded(response) => {
                let response = Arc::new(response);
                until_written(|| store.complete(id, lease, Arc::clone(&response), now())).await;
                ("done", Completion::Final)
            }
            RunOutcome::NotTaken(delay, reason) => {
                let delay = delay.unwrap_or_else(|| self.backoff()).min(LONGEST_DELAY);
                let shown = format!("{delay:.1?}");
                tracing::debug!(%id, reason, delay = shown, "a job is parked: no provider took it");
                until_written(|| store.park(lease, Some(now().after(delay)))).await;
                ("parked", Completion::RunAgain { delay, failed: false })
            }
            RunOutcome::Failed(reason) if lease.deliveries < self.max_deliveries => {
                let delay = self.backoff();
                let then = AfterFailure::RunAt(now().after(delay));
                until_written(|| store.fail(id, lease, reason.clone(), then, now())).await;
                ("failed", Completion::RunAgain { delay, failed: true })
            }
            RunOutcome::Failed(reason) | RunOutcome::Refused(reason) => {
                let then = AfterFailure::Dead;
                until_written(|| store.fail(id, lease, reason.clone(), then, now())).await;
                report_dead(worker, id, &self.queue, &reason);
                ("dead", Completion::Final)
            }
        };
        self.count(worker, result);
        completion
    }

    /// Reports a job that was started `max_deliveries` times without an end.
    pub fn exhausted(&self, worker: &Worker) {
        report_dead(worker, self.id, &self.queue, "it was started too often without an end");
        self.count(worker, "max_deliveries");
    }

    fn count(&self, worker: &Worker, result: &'static str) {
        let labels = DeliveryLabels { queue: self.queue.clone(), result };
        worker.live.metrics.job_deliveries.with(&labels).inc();
    }

    fn backoff(&self) -> Duration {
        let claimed = self.claim.map_or(0, |claim| claim.attempts);
        backoff(self.attempts.max(claimed))
    }
}

/// Delay before the next run of a job that failed once more after `attempts` failures.
pub fn backoff(attempts: u32) -> Duration {
    RUN_BACKOFF.delay(attempts + 1, clock::draw())
}

/// Writes until it succeeds or the store is closed. If the lease no longer holds, there is nothing
/// to write.
async fn until_written<F>(mut write: impl FnMut() -> F)
where
    F: Future<Output = Result<bool, StoreError>>,
{
    let mut logged = false;
    loop {
        match write().await {
            Ok(_) | Err(StoreError::Closed) => return,
            Err(error) => {
                if !std::mem::replace(&mut logged, true) {
                    tracing::warn!(%error, "cannot write the end of a job; retrying");
                }
                tokio::time::sleep(WRITE_RETRY).await;
            }
        }
    }
}
