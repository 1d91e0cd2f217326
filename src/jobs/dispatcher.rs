//! Which job is begun next.
//!
//! Between the classes of a queue by stride, as in the wait lane; between the routes of a class in
//! turn; within a line as the store has it. At most `workers` of a queue run at once. Whoever waits
//! at a provider is none of them; where all are taken when it is admitted, it goes back.

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
use super::worker_slots::{ActiveJob, WorkerPool};
use crate::clock;
use crate::policy::sections::model::Durable;
use crate::proxy::downstream::worker::Worker;
use crate::proxy::jobs::run::{self, Admitted, Blocked};
use crate::snapshot::{Route, RouteQueue, Snapshot};
use crate::store::{LeaseResult, Millis, Partition, ReadyJob, Store, StoreError};

/// What could not be read or written is tried again.
const STORE_AGAIN: Duration = Duration::from_secs(1);
/// A line whose providers have no room looks again at the latest: what ends a wait early is heard
/// of by those who stand in the lane only.
const LONGEST_REST: Duration = Duration::from_secs(5);
const SHORTEST_REST: Duration = Duration::from_millis(20);

type Admission = Result<Box<Admitted>, Blocked>;
type Admitting = Pin<Box<dyn Future<Output = Admission>>>;

pub struct Dispatcher {
    pub worker: Rc<Worker>,
    pub store: Store,
    /// `None`: no fleet.
    pub share: Option<Rc<Ownership>>,
    pub(super) lines: RefCell<BTreeMap<Partition, PartitionState>>,
    pub(super) pools: RefCell<HashMap<String, WorkerPool>>,
    pub(super) changed: Notify,
    /// Grows with each job that is begun.
    pub(super) begun: Cell<u64>,
    /// Nothing more is begun.
    pub(super) closed: Cell<bool>,
}

impl Dispatcher {
    pub fn new(worker: Rc<Worker>, store: Store, share: Option<Rc<Ownership>>) -> Rc<Dispatcher> {
        Rc::new(Dispatcher {
            worker,
            store,
            share,
            lines: RefCell::default(),
            pools: RefCell::default(),
            changed: Notify::new(),
            begun: Cell::new(0),
            closed: Cell::new(false),
        })
    }

    /// Hears where jobs become ready.
    pub async fn hear(self: Rc<Self>) {
        self.look_everywhere().await;
        loop {
            let ready = self.store.ready().await;
            self.news(ready);
        }
    }

    /// Looks wherever jobs are ready.
    pub async fn look_everywhere(&self) {
        loop {
            match self.store.lines().await {
                Ok(lines) => return self.news(lines),
                Err(error) => {
                    tracing::warn!(%error, "jobs: cannot tell which are ready");
                    tokio::time::sleep(STORE_AGAIN).await;
                }
            }
        }
    }

    pub fn news(&self, ready: impl IntoIterator<Item = Partition>) {
        let mut lines = self.lines.borrow_mut();
        ready.into_iter().for_each(|line| lines.entry(line).or_default().news());
        self.changed.notify_one();
        self.share.iter().for_each(|share| share.news.notify_one());
    }

    /// Begins jobs for as long as it is polled.
    pub async fn work(self: &Rc<Self>) {
        loop {
            let changed = self.changed.notified();
            let now = clock::now();
            let again = self.dispatch(now);
            let until = again.unwrap_or(now + LONGEST_REST);
            let _ = tokio::time::timeout_at(until.into(), changed).await;
        }
    }

    /// Begins nothing more, not even what is admitted just now, and waits until nothing runs.
    pub async fn close(&self) {
        self.closed.set(true);
        while self.pools.borrow().values().any(|pool| pool.running > 0) {
            self.changed.notified().await;
        }
    }

    /// Begins what may begin; gives when more may.
    fn dispatch(self: &Rc<Self>, now: Instant) -> Option<Instant> {
        let snapshot = self.worker.current.load_full();
        self.look_up(now);
        self.lines.borrow_mut().retain(|_, state| !state.is_forgettable());
        let queues: Vec<String> = {
            let lines = self.lines.borrow();
            let mut names: Vec<_> = lines.keys().map(|line| line.queue.clone()).collect();
            names.dedup();
            names
        };
        for queue in queues {
            while let Some((line, due)) = self.next_of(&queue, &snapshot, now) {
                let desk = Rc::clone(self);
                tokio::task::spawn_local(desk.seek(line, due));
            }
        }
        let lines = self.lines.borrow();
        lines.values().filter_map(PartitionState::rest).filter(|rest| *rest > now).min()
    }

    fn look_up(self: &Rc<Self>, now: Instant) {
        for (line, state) in self.lines.borrow_mut().iter_mut() {
            if state.wants_look() && !state.rests(now) {
                state.look = StoreLookup::Out(false);
                tokio::task::spawn_local(Rc::clone(self).look(line.clone()));
            }
        }
    }

    async fn look(self: Rc<Self>, line: Partition) {
        let (after, taken) = {
            let lines = self.lines.borrow();
            let Some(state) = lines.get(&line) else { return };
            (state.after.clone(), state.in_hand.clone())
        };
        let behind = self.share_of(&line).map_or(0, |share| share.floor());
        let found = self.store.upcoming_behind(line.clone(), (after, behind), taken, WINDOW).await;
        if let Some(state) = self.lines.borrow_mut().get_mut(&line) {
            match found {
                Ok(found) => state.found(found),
                Err(error) => {
                    tracing::warn!(%error, "jobs: cannot tell which are next");
                    state.looked_in_vain(clock::now() + STORE_AGAIN);
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
        let mut lines = self.lines.borrow_mut();
        let mut pools = self.pools.borrow_mut();
        let pool = pools.entry(queue.to_owned()).or_default();
        let of_queue = || lines.iter().filter(|(line, _)| line.queue == queue);
        let seeking =
            of_queue().filter(|(_, state)| state.seeks == AdmissionState::OnItsWay).count();
        let placed: Vec<(usize, u32, &Partition, &PartitionState)> = of_queue()
            .filter_map(|(line, state)| {
                let (_, queue, class) = found(snapshot, line)?;
                let (weight, paused) = (queue.policy.classes[class].weight, queue.live.is_paused());
                let free = pool.running + seeking < queue.policy.durable.workers && !paused;
                free.then_some((class, weight, line, state))
            })
            .collect();
        pool.busy(&placed);
        let may = |class: usize| {
            let of_class = placed.iter().filter(move |(of, ..)| *of == class);
            of_class
                .filter(|(.., state)| state.may_seek(now))
                .min_by_key(|(.., state)| state.served)
                .map(|(_, _, line, _)| (*line).clone())
        };
        let line = pool.classes.order().find_map(may)?;
        let due = lines.get_mut(&line)?.take()?;
        Some((line, due))
    }

    /// One job on its way to a provider, and through it.
    async fn seek(self: Rc<Self>, line: Partition, due: ReadyJob) {
        let hand = ActiveJob(Rc::clone(&self), line.clone(), due.seq);
        let snapshot = self.worker.current.load_full();
        let Some((route, queue, class)) = found(&snapshot, &line) else {
            // A policy without its route may be followed by one that has it again.
            return self.rests(&line, due, LONGEST_REST);
        };
        let task = match self.store.task(due.seq).await {
            Ok(Some(task)) => task,
            Ok(None) => return self.seeks(&line, AdmissionState::Nobody),
            Err(error) => return self.unread(&line, due, &error),
        };
        let mut run = JobRun::of(&task, queue, &line);
        if let Some(share) = self.share_of(&line) {
            let name = share.line(&snapshot, &line);
            match share.claim(&task, name, queue.policy.durable.keep_result).await {
                RunPermission::Run(claim) => run.claim = claim,
                RunPermission::Not(until) => {
                    share.pass_over(due.id, until, hand);
                    return self.seeks(&line, AdmissionState::Nobody);
                }
            }
        }
        let admitting = run::admit(&self.worker, route, queue, class, task);
        let admitted = match self.admitted(&line, admitting).await {
            Ok(admitted) => Ok(admitted),
            Err(Blocked::For(rest, why)) => {
                tracing::debug!(id = %due.id, why, "a job is not begun yet");
                let rest = rest.clamp(SHORTEST_REST, LONGEST_REST);
                return self.unbegun(&line, due, rest).await;
            }
            Err(Blocked::Never(why)) => Err(why),
        };
        let durable = &queue.policy.durable;
        let Some(slot) = self.slot(&line, class, durable.workers) else {
            return self.unbegun(&line, due, Duration::ZERO).await;
        };
        self.seeks(&line, AdmissionState::Nobody);
        if let Err(error) = self.run(run, &due, admitted, durable).await {
            tracing::warn!(%error, id = %due.id, "a job cannot be begun");
            return self.unbegun(&line, due, STORE_AGAIN).await;
        }
        // A run that ended may have ended what the others of its line wait for.
        if let Some(state) = self.lines.borrow_mut().get_mut(&line) {
            state.rest_is_over();
        }
        drop((slot, hand));
    }

    /// Whoever shares the jobs of this line, or did since the start.
    fn share_of(&self, line: &Partition) -> Option<&Rc<Ownership>> {
        self.share.as_ref().filter(|share| share.shares(&line.queue))
    }

    /// Waits for admission, and lets others of the queue pass meanwhile.
    async fn admitted(&self, line: &Partition, mut admitting: Admitting) -> Admission {
        let first = poll_fn(|cx| Poll::Ready(admitting.as_mut().poll(cx))).await;
        match first {
            Poll::Ready(admitted) => admitted,
            Poll::Pending => {
                self.seeks(line, AdmissionState::Waits);
                admitting.await
            }
        }
    }

    /// Writes down that it is begun, runs it, and writes down what came of it.
    async fn run(
        &self,
        mut run: JobRun,
        due: &ReadyJob,
        admitted: Result<Box<Admitted>, String>,
        durable: &Durable,
    ) -> Result<(), StoreError> {
        let now = Millis::of(clock::wall());
        let begun = run.claim.map_or(0, |claim| claim.deliveries.saturating_sub(1));
        let most = durable.max_deliveries;
        let settled = match self.store.lease_after(due.seq, most, begun, now).await? {
            LeaseResult::Run(lease) => {
                run.lease = Some(lease);
                let outcome = match admitted {
                    Ok(admitted) => admitted.run(durable.max_result).await,
                    Err(why) => run::Outcome::Refused(why),
                };
                run.settle(&self.worker, &self.store, outcome).await
            }
            LeaseResult::Poison(_) => {
                run.poisoned(&self.worker);
                Completion::Over
            }
            LeaseResult::Gone => Completion::Gone,
        };
        if let Some(share) = &self.share {
            share.settled(due.id, settled).await;
        }
        Ok(())
    }

    fn unread(&self, line: &Partition, due: ReadyJob, error: &StoreError) {
        tracing::warn!(%error, id = %due.id, "a job cannot be read");
        self.rests(line, due, STORE_AGAIN);
    }

    /// A job that was not begun is the next one still, after a rest.
    async fn unbegun(&self, line: &Partition, due: ReadyJob, rest: Duration) {
        if let Some(share) = &self.share {
            share.give_back(due.id, Duration::ZERO, false).await;
        }
        self.rests(line, due, rest);
    }

    fn seeks(&self, line: &Partition, seeks: AdmissionState) {
        if let Some(state) = self.lines.borrow_mut().get_mut(line) {
            state.seeks = seeks;
        }
        self.changed.notify_one();
    }

    fn rests(&self, line: &Partition, due: ReadyJob, rest: Duration) {
        if let Some(state) = self.lines.borrow_mut().get_mut(line) {
            state.in_hand.remove(&due.seq);
            state.seeks = AdmissionState::Nobody;
            state.put_back(due, (!rest.is_zero()).then(|| clock::now() + rest));
        }
        self.changed.notify_one();
    }
}

/// A line's route, queue and class in the policy in force.
pub fn found<'s>(
    snapshot: &'s Snapshot,
    line: &Partition,
) -> Option<(&'s Arc<Route>, &'s RouteQueue, usize)> {
    let route = snapshot.routes.iter().find(|route| route.policy.name == line.route)?;
    let queue = route.queue.as_ref().filter(|_| route.policy.durable)?;
    let class = queue.policy.classes.iter().position(|class| class.name == line.class);
    Some((route, queue, class.unwrap_or(queue.policy.default_class)))
}
