//! Which job is begun next.
//!
//! Between the classes of a queue by stride, as in the wait lane; between the routes of a class in
//! turn; within a line as the store has it. At most `workers` of a queue run at once. Whoever waits
//! at a provider is none of them; where all are taken when it is admitted, it goes back.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap};
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use super::line::{LineState, Look, Seeks, WINDOW};
use super::settle::Run;
use crate::clock;
use crate::policy::model::Durable;
use crate::proxy::deliver::{self, Admitted, Blocked};
use crate::proxy::worker::Worker;
use crate::resilience::stride::Stride;
use crate::snapshot::{Queue, Route, Snapshot};
use crate::store::{Due, Failure, Leased, Line, Millis, Store};

/// What could not be read or written is tried again.
const STORE_AGAIN: Duration = Duration::from_secs(1);
/// A line whose providers have no room looks again at the latest: what ends a wait early is heard
/// of by those who stand in the lane only.
const LONGEST_REST: Duration = Duration::from_secs(5);
const SHORTEST_REST: Duration = Duration::from_millis(20);

pub struct Desk {
    pub worker: Rc<Worker>,
    pub store: Store,
    lines: RefCell<BTreeMap<Line, LineState>>,
    pools: RefCell<HashMap<String, Pool>>,
    changed: Notify,
    /// Grows with each job that is begun.
    begun: Cell<u64>,
    /// Nothing more is begun.
    closed: Cell<bool>,
}

/// The workers of a queue.
#[derive(Default)]
struct Pool {
    running: usize,
    classes: Stride<usize>,
}

/// One place in a pool; given back when it is dropped.
struct Slot(Rc<Desk>, String);

/// A job that is neither coming nor done; let go when this is dropped.
struct InHand(Rc<Desk>, Line, i64);

impl Desk {
    pub fn new(worker: Rc<Worker>, store: Store) -> Rc<Desk> {
        Rc::new(Desk {
            worker,
            store,
            lines: RefCell::default(),
            pools: RefCell::default(),
            changed: Notify::new(),
            begun: Cell::new(0),
            closed: Cell::new(false),
        })
    }

    /// Hears where jobs become ready.
    pub async fn hear(self: Rc<Self>) {
        loop {
            match self.store.lines().await {
                Ok(lines) => {
                    self.news(lines);
                    break;
                }
                Err(error) => {
                    tracing::warn!(%error, "jobs: cannot tell which are ready");
                    tokio::time::sleep(STORE_AGAIN).await;
                }
            }
        }
        loop {
            let ready = self.store.ready().await;
            self.news(ready);
        }
    }

    fn news(&self, ready: impl IntoIterator<Item = Line>) {
        let mut lines = self.lines.borrow_mut();
        ready.into_iter().for_each(|line| lines.entry(line).or_default().news());
        self.changed.notify_one();
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
        lines.values().filter_map(LineState::rest).filter(|rest| *rest > now).min()
    }

    fn look_up(self: &Rc<Self>, now: Instant) {
        for (line, state) in self.lines.borrow_mut().iter_mut() {
            if state.wants_look() && !state.rests(now) {
                state.look = Look::Out(false);
                tokio::task::spawn_local(Rc::clone(self).look(line.clone()));
            }
        }
    }

    async fn look(self: Rc<Self>, line: Line) {
        let (after, taken) = {
            let lines = self.lines.borrow();
            let Some(state) = lines.get(&line) else { return };
            (state.after.clone(), state.in_hand.clone())
        };
        let found = self.store.upcoming(line.clone(), after, taken, WINDOW).await;
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
    fn next_of(&self, queue: &str, snapshot: &Snapshot, now: Instant) -> Option<(Line, Due)> {
        let mut lines = self.lines.borrow_mut();
        let mut pools = self.pools.borrow_mut();
        let pool = pools.entry(queue.to_owned()).or_default();
        let of_queue = || lines.iter().filter(|(line, _)| line.queue == queue);
        let seeking = of_queue().filter(|(_, state)| state.seeks == Seeks::OnItsWay).count();
        let placed: Vec<(usize, u32, &Line, &LineState)> = of_queue()
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
    async fn seek(self: Rc<Self>, line: Line, due: Due) {
        let hand = InHand(Rc::clone(&self), line.clone(), due.seq);
        let snapshot = self.worker.current.load_full();
        let Some((route, queue, class)) = found(&snapshot, &line) else {
            // A policy without its route may be followed by one that has it again.
            return self.rests(&line, due, LONGEST_REST);
        };
        let task = match self.store.task(due.seq).await {
            Ok(Some(task)) => task,
            Ok(None) => return self.seeks(&line, Seeks::Nobody),
            Err(error) => {
                tracing::warn!(%error, id = %due.id, "a job cannot be read");
                return self.rests(&line, due, STORE_AGAIN);
            }
        };
        let run = Run::of(&task, queue, &line);
        let mut admitting = deliver::admit(&self.worker, route, queue, class, task);
        let first = poll_fn(|cx| Poll::Ready(admitting.as_mut().poll(cx))).await;
        let admitted = match first {
            Poll::Ready(admitted) => admitted,
            Poll::Pending => {
                self.seeks(&line, Seeks::Waits);
                admitting.await
            }
        };
        let admitted = match admitted {
            Ok(admitted) => Ok(admitted),
            Err(Blocked::For(rest, why)) => {
                tracing::debug!(id = %due.id, why, "a job is not begun yet");
                return self.rests(&line, due, rest.clamp(SHORTEST_REST, LONGEST_REST));
            }
            Err(Blocked::Never(why)) => Err(why),
        };
        let durable = &queue.policy.durable;
        let Some(slot) = self.slot(&line, class, durable.workers) else {
            return self.rests(&line, due, Duration::ZERO);
        };
        self.seeks(&line, Seeks::Nobody);
        if let Err(error) = self.run(run, due.seq, admitted, durable).await {
            tracing::warn!(%error, id = %due.id, "a job cannot be begun");
            return self.rests(&line, due, STORE_AGAIN);
        }
        // A run that ended may have ended what the others of its line wait for.
        if let Some(state) = self.lines.borrow_mut().get_mut(&line) {
            state.rest_is_over();
        }
        drop((slot, hand));
    }

    /// Writes down that it is begun, runs it, and writes down what came of it.
    async fn run(
        &self,
        mut run: Run,
        seq: i64,
        admitted: Result<Box<Admitted>, String>,
        durable: &Durable,
    ) -> Result<(), Failure> {
        let now = Millis::of(clock::wall());
        match self.store.lease(seq, durable.max_deliveries, now).await? {
            Leased::Run(lease) => {
                run.lease = Some(lease);
                let outcome = match admitted {
                    Ok(admitted) => admitted.run(durable.max_result).await,
                    Err(why) => deliver::Outcome::Refused(why),
                };
                run.settle(&self.worker, &self.store, outcome).await;
            }
            Leased::Poison(_) => run.poisoned(&self.worker),
            Leased::Gone => {}
        }
        Ok(())
    }

    fn seeks(&self, line: &Line, seeks: Seeks) {
        if let Some(state) = self.lines.borrow_mut().get_mut(line) {
            state.seeks = seeks;
        }
        self.changed.notify_one();
    }

    fn rests(&self, line: &Line, due: Due, rest: Duration) {
        if let Some(state) = self.lines.borrow_mut().get_mut(line) {
            state.in_hand.remove(&due.seq);
            state.seeks = Seeks::Nobody;
            state.put_back(due, (!rest.is_zero()).then(|| clock::now() + rest));
        }
        self.changed.notify_one();
    }

    /// A worker for a job that is admitted.
    fn slot(self: &Rc<Self>, line: &Line, class: usize, workers: usize) -> Option<Slot> {
        let mut pools = self.pools.borrow_mut();
        let pool = pools.entry(line.queue.clone()).or_default();
        if self.closed.get() || pool.running >= workers {
            return None;
        }
        pool.running += 1;
        pool.classes.served(class);
        self.begun.set(self.begun.get() + 1);
        if let Some(state) = self.lines.borrow_mut().get_mut(line) {
            state.served = self.begun.get();
        }
        Some(Slot(Rc::clone(self), line.queue.clone()))
    }
}

/// A line's route, queue and class in the policy in force.
fn found<'s>(snapshot: &'s Snapshot, line: &Line) -> Option<(&'s Arc<Route>, &'s Queue, usize)> {
    let route = snapshot.routes.iter().find(|route| route.policy.name == line.route)?;
    let queue = route.queue.as_ref().filter(|_| route.policy.durable)?;
    let class = queue.policy.classes.iter().position(|class| class.name == line.class);
    Some((route, queue, class.unwrap_or(queue.policy.default_class)))
}

impl Pool {
    /// Tells the stride which classes have something to do.
    fn busy(&mut self, placed: &[(usize, u32, &Line, &LineState)]) {
        let busy = |class| placed.iter().any(|(of, _, _, s)| *of == class && s.is_busy());
        let known: Vec<usize> = self.classes.order().collect();
        known.iter().filter(|class| !busy(**class)).for_each(|class| self.classes.part(*class, 1));
        for (class, weight, ..) in placed.iter().filter(|(.., state)| state.is_busy()) {
            if self.classes.waiting(*class) == 0 {
                self.classes.join(*class, *weight, 1);
            }
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        if let Some(pool) = self.0.pools.borrow_mut().get_mut(&self.1) {
            pool.running -= 1;
        }
        self.0.changed.notify_one();
    }
}

impl Drop for InHand {
    fn drop(&mut self) {
        if let Some(state) = self.0.lines.borrow_mut().get_mut(&self.1) {
            state.in_hand.remove(&self.2);
        }
        self.0.changed.notify_one();
    }
}
