//! Runs jobs of other hosts here while this host has no work of its own for their partition.
//!
//! A borrowed job runs only under a lease, which `scripts/job_take.lua` grants, and only if this host
//! makes the requests of its route as the owner does: then both hosts have the same name for the
//! partition. It takes the same path as
//! a job of this host (`proxy/jobs/run.rs`). The result goes to Redis, and the owner writes it
//! down. A job that is not admitted is given back.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::completion::{LONGEST_DELAY, backoff};
use super::dispatcher::{Dispatcher, LONGEST_PAUSE, SHORTEST_PAUSE};
use super::sharing::ownership::Ownership;
use super::sharing::recent_results::RecentResults;
use super::sharing::redis::BorrowedJob;
use super::worker_slots::WorkerSlot;
use crate::clock;
use crate::fleet::redis::connection::RedisCallError;
use crate::proxy::jobs::run::{self, Blocked, RunOutcome};
use crate::snapshot::{Route, RouteQueue, Snapshot};
use crate::store::{JobOutcome, Millis, Partition, RunnableJob};
use crate::telemetry::metrics::DeliveryLabels;

/// How often jobs are looked for; each worker that becomes idle also looks for one.
const POLL: Duration = Duration::from_millis(200);
/// Jobs that one call takes.
const BATCH: usize = 8;
/// A job that is not admitted in this time is given back: other hosts may have capacity.
const ADMISSION_TIMEOUT: Duration = Duration::from_secs(1);
const SEND_RETRY: Duration = Duration::from_secs(1);
/// After this time without a reply the owner has run the job itself.
const SEND_TIMEOUT: Duration = Duration::from_secs(120);

pub struct Borrower {
    dispatcher: Rc<Dispatcher>,
    ownership: Rc<Ownership>,
    /// Partitions, by their names in Redis, of which no job starts before this time.
    paused: RefCell<HashMap<String, Instant>>,
    recent: RecentResults,
}

/// A partition of which jobs of other hosts may start now.
struct BorrowablePartition {
    name: String,
    partition: Partition,
    weight: u32,
}

/// The route and class that a borrowed job runs in.
struct RunTarget {
    route: Arc<Route>,
    class: String,
}

/// How a run of a borrowed job ended.
enum BorrowedRun {
    Finished(JobOutcome),
    /// It runs again after `delay`; `failed`: the run counts as a failure.
    GivenBack {
        delay: Duration,
        failed: bool,
        reason: String,
    },
}

impl Borrower {
    pub fn new(dispatcher: Rc<Dispatcher>, ownership: Rc<Ownership>) -> Rc<Borrower> {
        let (paused, recent) = (RefCell::default(), RecentResults::default());
        Rc::new(Borrower { dispatcher, ownership, paused, recent })
    }

    pub async fn run(self: Rc<Self>) {
        let mut polled = clock::now();
        loop {
            let snapshot = self.dispatcher.worker.current.load_full();
            let mut pause = POLL;
            for queue in self.ownership.shared_queues(&snapshot) {
                let partitions = self.borrowable(&snapshot, &queue);
                let poll_due = clock::since(polled) >= POLL;
                if self.ownership.may_borrow() && (poll_due || !partitions.is_empty()) {
                    polled = clock::now();
                    pause = pause.min(self.take(&snapshot, &queue, partitions).await);
                }
            }
            let _ = tokio::time::timeout(pause, self.ownership.capacity_freed.notified()).await;
        }
    }

    /// The partitions of a queue of which jobs may be borrowed now. The first one is drawn by the
    /// weights of the classes.
    fn borrowable(&self, snapshot: &Arc<Snapshot>, queue: &str) -> Vec<BorrowablePartition> {
        let now = clock::now();
        let has_idle_worker = |route: &&Arc<Route>| {
            let of = route.queue.as_ref().filter(|_| route.policy.durable);
            of.is_some_and(|of| of.policy.name == queue && self.dispatcher.idle_workers(of) > 0)
        };
        let mut partitions = Vec::new();
        for route in snapshot.routes.iter().filter(has_idle_worker) {
            for class in route.queue.iter().flat_map(|queue| &queue.policy.classes) {
                let (queue, route) = (queue.to_owned(), route.policy.name.clone());
                let partition = Partition { queue, route, class: class.name.clone() };
                if !self.dispatcher.has_no_own_job(&partition) {
                    continue;
                }
                let (weight, name) =
                    (class.weight, self.ownership.partition_name(snapshot, &partition));
                partitions.extend(name.map(|name| BorrowablePartition { name, partition, weight }));
            }
        }
        let mut paused = self.paused.borrow_mut();
        paused.retain(|_, until| *until > now);
        partitions.retain(|it| !paused.contains_key(&it.name));
        move_drawn_to_front(&mut partitions, clock::draw());
        partitions
    }

    /// Takes jobs and starts them; returns how long to wait before the next call.
    async fn take(
        self: &Rc<Self>,
        snapshot: &Arc<Snapshot>,
        queue: &str,
        partitions: Vec<BorrowablePartition>,
    ) -> Duration {
        let mut queues = snapshot.routes.iter().filter_map(|route| route.queue.as_ref());
        let Some(queue) = queues.find(|it| it.policy.name == queue) else { return POLL };
        let idle = self.dispatcher.idle_workers(queue).min(BATCH);
        let want = if partitions.is_empty() { 0 } else { idle };
        let names: Vec<String> = partitions.iter().map(|it| it.name.clone()).collect();
        let most = queue.policy.durable.max_deliveries;
        let reply = self.ownership.client.take(&names, want, most, clock::draw()).await;
        let Ok(reply) = reply else { return POLL };
        if reply.results_waiting > 0 {
            self.ownership.results_ready.notify_one();
        }
        let full = want > 0 && reply.jobs.len() == want;
        for job in reply.jobs {
            let partition = partitions.iter().find(|it| it.name == job.partition);
            let target = partition.and_then(|it| RunTarget::find(snapshot, &it.partition));
            let slot = self.dispatcher.borrowed_job_slot(queue);
            tokio::task::spawn_local(Rc::clone(self).process(job, target, slot));
        }
        if full { Duration::ZERO } else { reply.next_due.map_or(POLL, |due| due.min(POLL)) }
    }

    async fn process(
        self: Rc<Self>,
        job: BorrowedJob,
        target: Option<RunTarget>,
        slot: Option<WorkerSlot>,
    ) {
        let ownership = &self.ownership;
        if ownership.lease_number(job.id).is_some() {
            // The result of an earlier run is not sent yet.
            let reply = ownership.client.give_back(job.id, job.claim.number, LONGEST_PAUSE, false);
            return drop(reply.await);
        }
        let lost = ownership.add_lease(job.id, job.claim.number, &job.owner);
        let run = match (&target, &slot) {
            (Some(target), Some(_)) => {
                let borrowed = &self.dispatcher.worker.live.metrics.jobs_borrowed;
                borrowed.inc();
                let run = tokio::select! {
                    run = self.run_job(&job, target) => Some(run),
                    () = lost.notified() => None,
                };
                borrowed.dec();
                run
            }
            _ => Some(BorrowedRun::not_run("there is no capacity now")),
        };
        drop(slot);
        let result = match run {
            Some(run) => self.send(&job, run).await,
            None => "borrowed_lost",
        };
        ownership.remove_lease(job.id);
        ownership.capacity_freed.notify_one();
        if let Some(queue) = target.as_ref().and_then(|target| target.route.queue.as_ref()) {
            let labels = DeliveryLabels { queue: queue.policy.name.clone(), result };
            self.dispatcher.worker.live.metrics.job_deliveries.with(&labels).inc();
        }
    }

    async fn run_job(&self, job: &BorrowedJob, target: &RunTarget) -> BorrowedRun {
        let route = &target.route;
        let Some(queue) = &route.queue else {
            return BorrowedRun::not_run("its route has no queue");
        };
        let durable = &queue.policy.durable;
        let (class, task) = (target.class_index(queue), runnable(job));
        let admission = run::admit(&self.dispatcher.worker, route, queue, class, task);
        let admitted = match tokio::time::timeout(ADMISSION_TIMEOUT, admission).await {
            Ok(Ok(admitted)) => admitted,
            Ok(Err(Blocked::Never(reason))) => return BorrowedRun::Finished(Err(reason)),
            Ok(Err(Blocked::For(delay, reason))) => return self.pause(job, delay, &reason),
            Err(_) => return self.pause(job, LONGEST_PAUSE, "no provider has capacity"),
        };
        let attempts = job.claim.attempts;
        match admitted.run(durable.max_result).await {
            RunOutcome::Responded(response) => BorrowedRun::Finished(Ok(response)),
            RunOutcome::NotTaken(delay, reason) => {
                let delay = delay.unwrap_or_else(|| backoff(attempts)).min(LONGEST_DELAY);
                BorrowedRun::GivenBack { delay, failed: false, reason }
            }
            RunOutcome::Failed(reason) if job.claim.deliveries < durable.max_deliveries => {
                BorrowedRun::GivenBack { delay: backoff(attempts), failed: true, reason }
            }
            RunOutcome::Failed(reason) | RunOutcome::Refused(reason) => {
                BorrowedRun::Finished(Err(reason))
            }
        }
    }

    /// Pauses the job's partition here, and gives the job back: other hosts may have capacity.
    fn pause(&self, job: &BorrowedJob, delay: Duration, reason: &str) -> BorrowedRun {
        let until = clock::now() + delay.clamp(SHORTEST_PAUSE, LONGEST_PAUSE);
        self.paused.borrow_mut().insert(job.partition.clone(), until);
        BorrowedRun::not_run(reason)
    }

    /// Sends to Redis how a run ended, until it is accepted. Returns the label for the metric.
    async fn send(&self, job: &BorrowedJob, run: BorrowedRun) -> &'static str {
        let (client, id) = (&self.ownership.client, job.id);
        let number = || self.ownership.lease_number(id).unwrap_or(0);
        match run {
            BorrowedRun::GivenBack { delay, failed, reason } => {
                let shown = format!("{delay:.1?}");
                tracing::debug!(%id, reason, delay = shown, "a job of another host is given back");
                let give_back = || client.give_back(id, number(), delay, failed);
                match self.until_accepted(give_back).await {
                    Some(true) if failed => "borrowed_failed",
                    Some(true) => "borrowed_parked",
                    _ => "borrowed_lost",
                }
            }
            BorrowedRun::Finished(outcome) => {
                let dead = outcome.is_err();
                let attempts = job.claim.attempts + u32::from(dead);
                let finish = || client.finish(job, number(), attempts, &outcome);
                match self.until_accepted(finish).await {
                    Some(true) => {
                        self.recent.add(job.clone(), attempts, outcome);
                        if dead { "borrowed_dead" } else { "borrowed_done" }
                    }
                    _ => "borrowed_lost",
                }
            }
        }
    }

    /// Sends recent results again after Redis lost data: their owners may not have fetched them.
    pub async fn resend_results(self: Rc<Self>) {
        loop {
            self.ownership.resend_due.notified().await;
            for result in self.recent.all() {
                let (job, client) = (&result.job, &self.ownership.client);
                let reply =
                    client.finish(job, job.claim.number, result.attempts, &result.outcome).await;
                if reply.is_err() {
                    break;
                }
            }
        }
    }

    /// Repeats a call until it succeeds; `None` if it never does.
    async fn until_accepted<F>(&self, mut call: impl FnMut() -> F) -> Option<bool>
    where
        F: Future<Output = Result<bool, RedisCallError>>,
    {
        let until = clock::now() + SEND_TIMEOUT;
        loop {
            match call().await {
                Ok(counts) => return Some(counts),
                Err(_) if clock::now() > until => return None,
                Err(_) => tokio::time::sleep(SEND_RETRY).await,
            }
        }
    }
}

impl RunTarget {
    fn find(snapshot: &Snapshot, partition: &Partition) -> Option<RunTarget> {
        let route = snapshot.routes.iter().find(|it| it.policy.name == partition.route)?;
        Some(RunTarget { route: Arc::clone(route), class: partition.class.clone() })
    }

    fn class_index(&self, queue: &RouteQueue) -> usize {
        let index = queue.policy.classes.iter().position(|class| class.name == self.class);
        index.unwrap_or(queue.policy.default_class)
    }
}

fn runnable(job: &BorrowedJob) -> RunnableJob {
    let now = Millis::of(clock::wall());
    RunnableJob {
        // The job is not in this host's store.
        seq: 0,
        id: job.id,
        flow: job.flow.clone(),
        request: job.request.clone(),
        attempts: job.claim.attempts,
        deliveries: job.claim.deliveries,
        accepted: now,
        expires: now.after(job.expires),
    }
}

impl BorrowedRun {
    fn not_run(reason: &str) -> BorrowedRun {
        BorrowedRun::GivenBack { delay: Duration::ZERO, failed: false, reason: reason.to_owned() }
    }
}

/// Draws a partition by weight and moves it to the front.
fn move_drawn_to_front(partitions: &mut [BorrowablePartition], draw: f64) {
    let sum: f64 = partitions.iter().map(|it| f64::from(it.weight)).sum();
    let mut left = draw * sum;
    let drawn = partitions.iter().position(|it| {
        left -= f64::from(it.weight);
        left < 0.0
    });
    if let Some(drawn) = drawn {
        partitions[..=drawn].rotate_right(1);
    }
}
