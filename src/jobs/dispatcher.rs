//! Selects the next job to start.
//!
//! Classes of a queue are served by stride, as in the wait queue; the partitions of a class in
//! turn; the jobs of a partition in the store's order. At most `workers` jobs of a queue run at
//! once. A job waiting for capacity at a provider occupies no worker; if all are busy when it is
//! admitted, it goes back.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap};
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use super::completion::{Completion, JobRun};
use super::partition::{AdmissionState, PartitionState, StoreLookup, WINDOW};
use super::sharing::ownership::{Ownership, RunPermission};
use super::worker_slots::{ActiveJob, ServablePartition, WorkerPool};
use crate::clock;
use crate::policy::sections::model::Durable;
use crate::proxy::downstream::worker::Worker;
use crate::proxy::jobs::run::{self, Admitted, Blocked};
use crate::snapshot::{Route, RouteQueue, Snapshot};
use crate::store::{LeaseResult, Millis, Partition, ReadyJob, Store, StoreError, UpcomingCursor};

/// Delay before a failed read or write of the store is repeated.
const STORE_RETRY: Duration = Duration::from_secs(1);
/// Longest pause of a partition whose providers have no capacity. Only waiters in the wait queue
/// are woken when capacity appears, so the pause must be short.
pub const LONGEST_PAUSE: Duration = Duration::from_secs(5);
pub const SHORTEST_PAUSE: Duration = Duration::from_millis(20);

type Admission = Result<Box<Admitted>, Blocked>;
type PendingAdmission = Pin<Box<dyn Future<Output = Admission>>>;

pub struct Dispatcher {
    pub worker: Rc<Worker>,
    pub store: Store,
    /// `None` without a fleet.
    pub ownership: Option<Rc<Ownership>>,
    pub(super) partitions: RefCell<BTreeMap<Partition, PartitionState>>,
    pub(super) pools: RefCell<HashMap<String, WorkerPool>>,
    pub(super) changed: Notify,
    /// Counts the jobs that started.
    pub(super) started: Cell<u64>,
    /// No further job starts.
    pub(super) closed: Cell<bool>,
}

/// A partition's route, queue and class in the policy in force.
pub struct ResolvedPartition<'s> {
    pub route: &'s Arc<Route>,
    pub queue: &'s RouteQueue,
    pub class: usize,
}

impl Dispatcher {
    pub fn new(
        worker: Rc<Worker>,
        store: Store,
        ownership: Option<Rc<Ownership>>,
    ) -> Rc<Dispatcher> {
        Rc::new(Dispatcher {
            worker,
            store,
            ownership,
            partitions: RefCell::default(),
            pools: RefCell::default(),
            changed: Notify::new(),
            started: Cell::new(0),
            closed: Cell::new(false),
        })
    }

    /// Follows the store: which partitions have jobs that became ready.
    pub async fn follow_store(self: Rc<Self>) {
        self.look_up_all().await;
        loop {
            let ready = self.store.wait_ready().await;
            self.mark_ready(ready);
        }
    }

    /// Marks every partition with ready jobs.
    pub async fn look_up_all(&self) {
        loop {
            match self.store.partitions().await {
                Ok(partitions) => return self.mark_ready(partitions),
                Err(error) => {
                    tracing::warn!(%error, "jobs: cannot read which jobs are ready; retrying");
                    tokio::time::sleep(STORE_RETRY).await;
                }
            }
        }
    }

    pub fn mark_ready(&self, ready: impl IntoIterator<Item = Partition>) {
        let mut partitions = self.partitions.borrow_mut();
        ready.into_iter().for_each(|it| partitions.entry(it).or_default().mark_ready());
        self.changed.notify_one();
        self.ownership.iter().for_each(|it| it.publish_due.notify_one());
    }

    /// Starts jobs for as long as it is polled.
    pub async fn run(self: &Rc<Self>) {
        loop {
            let changed = self.changed.notified();
            let now = clock::now();
            let next = self.dispatch(now).unwrap_or(now + LONGEST_PAUSE);
            let _ = tokio::time::timeout_at(next.into(), changed).await;
        }
    }

    /// Starts nothing more, not even a job that has just been admitted, and waits until no job runs.
    pub async fn close(&self) {
        self.closed.set(true);
        while self.pools.borrow().values().any(|pool| pool.running > 0) {
            self.changed.notified().await;
        }
    }

    /// Starts every job that may start; returns when the first paused partition resumes.
    fn dispatch(self: &Rc<Self>, now: Instant) -> Option<Instant> {
        let snapshot = self.worker.current.load_full();
        self.start_lookups(now);
        self.partitions.borrow_mut().retain(|_, state| !state.is_forgettable());
        let queues: Vec<String> = {
            let partitions = self.partitions.borrow();
            let mut names: Vec<_> = partitions.keys().map(|it| it.queue.clone()).collect();
            names.dedup();
            names
        };
        for queue in queues {
            while let Some((partition, job)) = self.next_of(&queue, &snapshot, now) {
                tokio::task::spawn_local(Rc::clone(self).process(partition, job));
            }
        }
        let partitions = self.partitions.borrow();
        let resumes = partitions.values().filter_map(PartitionState::paused_until);
        resumes.filter(|at| *at > now).min()
    }

    fn start_lookups(self: &Rc<Self>, now: Instant) {
        for (partition, state) in self.partitions.borrow_mut().iter_mut() {
            if state.needs_lookup() && !state.is_paused(now) {
                state.lookup = StoreLookup::Running { again: false };
                tokio::task::spawn_local(Rc::clone(self).look_up(partition.clone()));
            }
        }
    }

    async fn look_up(self: Rc<Self>, partition: Partition) {
        let (after_flow, active) = {
            let partitions = self.partitions.borrow();
            let Some(state) = partitions.get(&partition) else { return };
            (state.after_flow.clone(), state.active.clone())
        };
        let after_seq = self.ownership_of(&partition).map_or(0, |it| it.min_runnable_seq());
        let cursor = UpcomingCursor { after_flow, after_seq };
        let found = self.store.upcoming(partition.clone(), cursor, active, WINDOW).await;
        if let Some(state) = self.partitions.borrow_mut().get_mut(&partition) {
            match found {
                Ok(found) => state.add_found(found),
                Err(error) => {
                    tracing::warn!(%error, "jobs: cannot read the next jobs; retrying");
                    state.lookup_failed(clock::now() + STORE_RETRY);
                }
            }
        }
        self.changed.notify_one();
    }

    /// The next job of a queue that may seek admission.
    fn next_of(
        &self,
        queue: &str,
        snapshot: &Snapshot,
        now: Instant,
    ) -> Option<(Partition, ReadyJob)> {
        let mut partitions = self.partitions.borrow_mut();
        let mut pools = self.pools.borrow_mut();
        let pool = pools.entry(queue.to_owned()).or_default();
        let of_queue = || partitions.iter().filter(|(partition, _)| partition.queue == queue);
        let is_starting = |state: &PartitionState| state.admission == AdmissionState::Starting;
        let starting = of_queue().filter(|(_, state)| is_starting(state)).count();
        let servable: Vec<ServablePartition<'_>> = of_queue()
            .filter_map(|(partition, state)| {
                let ResolvedPartition { queue, class, .. } = resolve(snapshot, partition)?;
                let (weight, paused) = (queue.policy.classes[class].weight, queue.live.is_paused());
                let free = pool.running + starting < queue.policy.durable.workers && !paused;
                free.then_some(ServablePartition { class, weight, partition, state })
            })
            .collect();
        pool.update_busy_classes(&servable);
        let least_recent = |class: usize| {
            let of_class = servable.iter().filter(move |it| it.class == class);
            let may_start = of_class.filter(|it| it.state.may_start(now));
            may_start.min_by_key(|it| it.state.last_served).map(|it| it.partition.clone())
        };
        let partition = pool.classes.order().find_map(least_recent)?;
        let job = partitions.get_mut(&partition)?.take()?;
        Some((partition, job))
    }

    /// Takes one job through its claim, its admission and its run.
    async fn process(self: Rc<Self>, partition: Partition, job: ReadyJob) {
        let (dispatcher, seq) = (Rc::clone(&self), job.seq);
        let active = ActiveJob { dispatcher, partition: partition.clone(), seq };
        let snapshot = self.worker.current.load_full();
        let Some(resolved) = resolve(&snapshot, &partition) else {
            // A later policy may have the route again.
            return self.pause(&partition, job, LONGEST_PAUSE);
        };
        let ResolvedPartition { route, queue, class } = resolved;
        let durable = &queue.policy.durable;
        let task = match self.store.runnable_job(job.seq).await {
            Ok(Some(task)) => task,
            Ok(None) => return self.set_admission(&partition, AdmissionState::Idle),
            Err(error) => {
                tracing::warn!(%error, id = %job.id, "jobs: cannot read a job; retrying");
                return self.pause(&partition, job, STORE_RETRY);
            }
        };
        let mut run = JobRun::new(&task, queue, &partition);
        if let Some(ownership) = self.ownership_of(&partition) {
            let name = ownership.partition_name(&snapshot, &partition);
            match ownership.claim(&task, name, durable.keep_result).await {
                RunPermission::Run(claim) => run.claim = claim,
                RunPermission::NotBefore(at) => {
                    ownership.defer(job.id, at, Box::new(|| active.look_up_again()));
                    return self.set_admission(&partition, AdmissionState::Idle);
                }
            }
        }
        let admission = run::admit(&self.worker, route, queue, class, task);
        let admitted = match self.wait_for_admission(&partition, admission).await {
            Ok(admitted) => Ok(admitted),
            Err(Blocked::For(delay, reason)) => {
                tracing::debug!(id = %job.id, reason, "a job is not started yet");
                let delay = delay.clamp(SHORTEST_PAUSE, LONGEST_PAUSE);
                return self.return_unstarted(&partition, job, delay).await;
            }
            Err(Blocked::Never(reason)) => Err(reason),
        };
        let Some(slot) = self.worker_slot(&partition, class, durable.workers) else {
            return self.return_unstarted(&partition, job, Duration::ZERO).await;
        };
        self.set_admission(&partition, AdmissionState::Idle);
        if let Err(error) = self.run_job(run, &job, admitted, durable).await {
            tracing::warn!(%error, id = %job.id, "a job cannot be started; retrying");
            return self.return_unstarted(&partition, job, STORE_RETRY).await;
        }
        self.resume(&partition);
        drop((slot, active));
    }

    /// Ends a pause: the end of a run may have freed the capacity that the partition waits for.
    fn resume(&self, partition: &Partition) {
        if let Some(state) = self.partitions.borrow_mut().get_mut(partition) {
            state.resume();
        }
    }

    /// The ownership of shared jobs, if this partition's queue is shared or was since the start.
    fn ownership_of(&self, partition: &Partition) -> Option<&Rc<Ownership>> {
        self.ownership.as_ref().filter(|it| it.is_shared_queue(&partition.queue))
    }

    /// Waits for admission; meanwhile the job does not count as a running one.
    async fn wait_for_admission(
        &self,
        partition: &Partition,
        mut admission: PendingAdmission,
    ) -> Admission {
        let first = poll_fn(|cx| Poll::Ready(admission.as_mut().poll(cx))).await;
        match first {
            Poll::Ready(admitted) => admitted,
            Poll::Pending => {
                self.set_admission(partition, AdmissionState::Waiting);
                admission.await
            }
        }
    }

    /// Writes to the store that the run starts, runs the job, and writes how it ended.
    async fn run_job(
        &self,
        mut run: JobRun,
        job: &ReadyJob,
        admitted: Result<Box<Admitted>, String>,
        durable: &Durable,
    ) -> Result<(), StoreError> {
        let now = Millis::of(clock::wall());
        let earlier = run.claim.map_or(0, |claim| claim.deliveries.saturating_sub(1));
        let most = durable.max_deliveries;
        let completion = match self.store.lease(job.seq, most, earlier, now).await? {
            LeaseResult::Run(lease) => {
                run.lease = Some(lease);
                let outcome = match admitted {
                    Ok(admitted) => admitted.run(durable.max_result).await,
                    Err(reason) => run::RunOutcome::Refused(reason),
                };
                run.complete(&self.worker, &self.store, outcome).await
            }
            LeaseResult::Exhausted(_) => {
                run.exhausted(&self.worker);
                Completion::Final
            }
            LeaseResult::Gone => Completion::Gone,
        };
        if let Some(ownership) = &self.ownership {
            match completion {
                Completion::RunAgain { delay, failed } => {
                    ownership.give_back(job.id, delay, failed).await;
                }
                // The publisher removes it from Redis once the store reports it as finished.
                Completion::Final => ownership.remove_lease(job.id),
                Completion::Gone => ownership.remove_gone(job.id),
            }
        }
        Ok(())
    }

    /// Returns a job that did not start: it stays the next one, after a pause.
    async fn return_unstarted(&self, partition: &Partition, job: ReadyJob, pause: Duration) {
        if let Some(ownership) = &self.ownership {
            ownership.give_back(job.id, Duration::ZERO, false).await;
        }
        self.pause(partition, job, pause);
    }

    fn set_admission(&self, partition: &Partition, admission: AdmissionState) {
        if let Some(state) = self.partitions.borrow_mut().get_mut(partition) {
            state.admission = admission;
        }
        self.changed.notify_one();
    }

    fn pause(&self, partition: &Partition, job: ReadyJob, pause: Duration) {
        if let Some(state) = self.partitions.borrow_mut().get_mut(partition) {
            state.active.remove(&job.seq);
            state.admission = AdmissionState::Idle;
            state.put_back(job, (!pause.is_zero()).then(|| clock::now() + pause));
        }
        self.changed.notify_one();
    }
}

/// Finds a partition in the policy in force; `None` if its route no longer takes jobs.
fn resolve<'s>(snapshot: &'s Snapshot, partition: &Partition) -> Option<ResolvedPartition<'s>> {
    let route = snapshot.routes.iter().find(|route| route.policy.name == partition.route)?;
    let queue = route.queue.as_ref().filter(|_| route.policy.durable)?;
    let class = queue.policy.classes.iter().position(|class| class.name == partition.class);
    Some(ResolvedPartition { route, queue, class: class.unwrap_or(queue.policy.default_class) })
}
