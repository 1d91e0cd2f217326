//! Jobs of other hosts are run here, where there is nothing else to do.
//!
//! Only with a lease, and only where requests of the route are made just as their owner makes them
//! (the line's name says so). They go the way of the host's own (`proxy/jobs/run.rs`); what came of a run
//! is left in Redis for the owner, who writes it down. What is not admitted is given back.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::ownership::Ownership;
use super::recent_results::RecentResults;
use super::redis::{BorrowedJob, JobOutcome};
use crate::clock;
use crate::fleet::redis::connection::RedisCallError;
use crate::jobs::completion::{LATEST, backoff};
use crate::jobs::dispatcher::Dispatcher;
use crate::jobs::worker_slots::WorkerSlot;
use crate::proxy::jobs::run::{self, Blocked, Outcome};
use crate::snapshot::{Route, Snapshot};
use crate::store::{Millis, Partition, RunnableJob};
use crate::telemetry::metrics::DeliveryLabels;

/// How often it is looked for them, beside each time that somebody here has nothing to do.
const POLL: Duration = Duration::from_millis(200);
const AT_ONCE: usize = 8;
/// Others may have room at once.
const ADMITTED: Duration = Duration::from_secs(1);
const SHORTEST_REST: Duration = Duration::from_millis(20);
const LONGEST_REST: Duration = Duration::from_secs(5);
const TELL_AGAIN: Duration = Duration::from_secs(1);
/// An owner that could not be told for so long has run it itself.
const TOLD: Duration = Duration::from_secs(120);

pub struct Borrower {
    desk: Rc<Dispatcher>,
    share: Rc<Ownership>,
    /// Lines of which nobody is begun before.
    rests: RefCell<HashMap<String, Instant>>,
    recent: RecentResults,
}

/// Lines by what others call them, and their class's weight.
type Lines = Vec<(String, Partition, u32)>;

/// What came of it.
enum BorrowedRun {
    End(JobOutcome),
    /// It is run again after a rest; `spent`: it failed.
    Back {
        rest: Duration,
        spent: bool,
        why: String,
    },
}

impl Borrower {
    pub fn new(desk: Rc<Dispatcher>, share: Rc<Ownership>) -> Rc<Borrower> {
        Rc::new(Borrower {
            desk,
            share,
            rests: RefCell::default(),
            recent: RecentResults::default(),
        })
    }

    pub async fn run(self: Rc<Self>) {
        let mut polled = clock::now();
        loop {
            let snapshot = self.desk.worker.current.load_full();
            let mut rest = POLL;
            for queue in self.queues(&snapshot) {
                let idle = self.idle_lines(&snapshot, &queue);
                let overdue = clock::since(polled) >= POLL;
                if self.share.may_take() && (overdue || !idle.is_empty()) {
                    polled = clock::now();
                    rest = rest.min(self.take(&snapshot, &queue, idle).await);
                }
            }
            let _ = tokio::time::timeout(rest, self.share.room.notified()).await;
        }
    }

    /// Names of those whose jobs are shared, and of which a route makes use.
    fn queues(&self, snapshot: &Snapshot) -> Vec<String> {
        self.share.queues(snapshot)
    }

    /// Lines of a queue of which jobs of others may be begun now, the first by chance: each class as
    /// often as its weight says.
    fn idle_lines(&self, snapshot: &Arc<Snapshot>, queue: &str) -> Lines {
        let now = clock::now();
        let of_queue = |route: &&Arc<Route>| {
            let its = route.queue.as_ref().filter(|_| route.policy.durable);
            its.is_some_and(|its| its.policy.name == queue && self.desk.idle(its) > 0)
        };
        let mut lines = Lines::new();
        for route in snapshot.routes.iter().filter(of_queue) {
            for class in route.queue.iter().flat_map(|queue| &queue.policy.classes) {
                let (queue, route) = (queue.to_owned(), route.policy.name.clone());
                let line = Partition { queue, route, class: class.name.clone() };
                if !self.desk.has_nothing(&line) {
                    continue;
                }
                let name = self.share.line(snapshot, &line);
                lines.extend(name.map(|name| (name, line, class.weight)));
            }
        }
        let mut rests = self.rests.borrow_mut();
        rests.retain(|_, until| *until > now);
        lines.retain(|(name, ..)| !rests.contains_key(name));
        first_by_chance(&mut lines, clock::draw());
        lines
    }

    /// Takes some; gives when to look again.
    async fn take(
        self: &Rc<Self>,
        snapshot: &Arc<Snapshot>,
        queue: &str,
        lines: Lines,
    ) -> Duration {
        let found = snapshot.routes.iter().filter_map(|route| route.queue.as_ref());
        let Some(of) = found.into_iter().find(|of| of.policy.name == queue) else { return POLL };
        let want = if lines.is_empty() { 0 } else { self.desk.idle(of).min(AT_ONCE) };
        let names: Vec<String> = lines.iter().map(|(name, ..)| name.clone()).collect();
        let most = of.policy.durable.max_deliveries;
        let taken = self.share.board.take(&names, want, most, clock::draw()).await;
        let Ok(taken) = self.share.heard(taken) else { return POLL };
        if taken.ended > 0 {
            self.share.ended.notify_one();
        }
        let full = want > 0 && taken.loans.len() == want;
        for loan in taken.loans {
            let line = lines.iter().find(|(name, ..)| *name == loan.line).map(|(_, line, _)| line);
            let route = line.and_then(|line| {
                let route = snapshot.routes.iter().find(|r| r.policy.name == line.route)?;
                Some((Arc::clone(route), line.class.clone()))
            });
            let slot = self.desk.lend(of);
            tokio::task::spawn_local(Rc::clone(self).begin(loan, route, slot));
        }
        if full { Duration::ZERO } else { taken.due.map_or(POLL, |due| due.min(POLL)) }
    }

    async fn begin(
        self: Rc<Self>,
        loan: BorrowedJob,
        route: Option<(Arc<Route>, String)>,
        slot: Option<WorkerSlot>,
    ) {
        if self.share.number(loan.id).is_some() {
            // What came of an earlier run of it is still to be told.
            let back = self.share.board.give_back(loan.id, loan.claim.number, LONGEST_REST, false);
            return drop(self.share.heard(back.await));
        }
        let lost = self.share.hold(loan.id, loan.claim.number, &loan.owner);
        let worked = match (&route, &slot) {
            (Some((route, class)), Some(_)) => {
                let foreign = &self.desk.worker.live.metrics.jobs_borrowed;
                foreign.inc();
                let worked = tokio::select! {
                    worked = self.work(&loan, route, class) => Some(worked),
                    () = lost.notified() => None,
                };
                foreign.dec();
                worked
            }
            _ => Some(BorrowedRun::back("there is no room now")),
        };
        drop(slot);
        let result = match worked {
            Some(worked) => self.told(&loan, worked).await,
            None => "foreign_lost",
        };
        self.share.let_go(loan.id);
        self.share.room.notify_one();
        if let Some(queue) = route.as_ref().and_then(|(route, _)| route.queue.as_ref()) {
            let labels = DeliveryLabels { queue: queue.policy.name.clone(), result };
            self.desk.worker.live.metrics.job_deliveries.with(&labels).inc();
        }
    }

    async fn work(&self, loan: &BorrowedJob, route: &Arc<Route>, class: &str) -> BorrowedRun {
        let Some(queue) = &route.queue else { return BorrowedRun::back("its route has no queue") };
        let durable = &queue.policy.durable;
        let task = task_of(loan, &route.policy.name, class);
        let class = queue.policy.classes.iter().position(|known| known.name == class);
        let class = class.unwrap_or(queue.policy.default_class);
        let admitting = run::admit(&self.desk.worker, route, queue, class, task);
        let admitted = match tokio::time::timeout(ADMITTED, admitting).await {
            Ok(Ok(admitted)) => admitted,
            Ok(Err(Blocked::Never(why))) => return BorrowedRun::End(JobOutcome::Dead(why)),
            Ok(Err(Blocked::For(rest, why))) => return self.blocked(loan, rest, &why),
            Err(_) => return self.blocked(loan, LONGEST_REST, "no provider has room"),
        };
        match admitted.run(durable.max_result).await {
            Outcome::Answered(answer) => BorrowedRun::End(JobOutcome::Answered(answer)),
            Outcome::NotTaken(rest, why) => {
                let rest = rest.unwrap_or_else(|| backoff(loan.claim.attempts)).min(LATEST);
                BorrowedRun::Back { rest, spent: false, why }
            }
            Outcome::Failed(why) if loan.claim.deliveries < durable.max_deliveries => {
                BorrowedRun::Back { rest: backoff(loan.claim.attempts), spent: true, why }
            }
            Outcome::Failed(why) | Outcome::Refused(why) => BorrowedRun::End(JobOutcome::Dead(why)),
        }
    }

    /// Nobody of its line is begun here for a while; others may have room.
    fn blocked(&self, loan: &BorrowedJob, rest: Duration, why: &str) -> BorrowedRun {
        let until = clock::now() + rest.clamp(SHORTEST_REST, LONGEST_REST);
        self.rests.borrow_mut().insert(loan.line.clone(), until);
        BorrowedRun::back(why)
    }

    /// Tells Redis what came of it, until it is heard.
    async fn told(&self, loan: &BorrowedJob, worked: BorrowedRun) -> &'static str {
        let (board, id) = (&self.share.board, loan.id);
        match worked {
            BorrowedRun::Back { rest, spent, why } => {
                tracing::debug!(%id, why, ?rest, "a job of another host is given back");
                let back = || board.give_back(id, self.share.number(id).unwrap_or(0), rest, spent);
                match self.until_heard(back).await {
                    Some(true) if spent => "foreign_failed",
                    Some(true) => "foreign_not_taken",
                    _ => "foreign_lost",
                }
            }
            BorrowedRun::End(end) => {
                let dead = matches!(end, JobOutcome::Dead(_));
                let attempts = loan.claim.attempts + u32::from(dead);
                let number = || self.share.number(id).unwrap_or(0);
                let told = || board.end(loan, number(), attempts, &end);
                match self.until_heard(told).await {
                    Some(true) => {
                        self.recent.keep(loan.clone(), attempts, end);
                        if dead { "foreign_dead" } else { "foreign_done" }
                    }
                    _ => "foreign_lost",
                }
            }
        }
    }

    /// Where Redis lost data, ends that their owners may not have fetched are told again.
    pub async fn tell_again(self: Rc<Self>) {
        loop {
            self.share.told_again.notified().await;
            for told in self.recent.all() {
                let number = told.loan.claim.number;
                let end = self.share.board.end(&told.loan, number, told.attempts, &told.end);
                if self.share.heard(end.await).is_err() {
                    break;
                }
            }
        }
    }

    async fn until_heard<F>(&self, mut tell: impl FnMut() -> F) -> Option<bool>
    where
        F: Future<Output = Result<bool, RedisCallError>>,
    {
        let until = clock::now() + TOLD;
        loop {
            match self.share.heard(tell().await) {
                Ok(counts) => return Some(counts),
                Err(_) if clock::now() > until => return None,
                Err(_) => tokio::time::sleep(TELL_AGAIN).await,
            }
        }
    }
}

impl BorrowedRun {
    fn back(why: &str) -> BorrowedRun {
        BorrowedRun::Back { rest: Duration::ZERO, spent: false, why: why.to_owned() }
    }
}

fn task_of(loan: &BorrowedJob, route: &str, class: &str) -> RunnableJob {
    let now = Millis::of(clock::wall());
    RunnableJob {
        // It is none of this host's store.
        seq: 0,
        id: loan.id,
        route: route.to_owned(),
        class: class.to_owned(),
        flow: loan.flow.clone(),
        request: loan.request.clone(),
        attempts: loan.claim.attempts,
        deliveries: loan.claim.deliveries,
        accepted: now,
        expires: now.after(loan.expires),
    }
}

/// One of them, drawn by their weights, goes first.
fn first_by_chance(lines: &mut [(String, Partition, u32)], draw: f64) {
    let all: f64 = lines.iter().map(|(.., weight)| f64::from(*weight)).sum();
    let mut left = draw * all;
    let drawn = lines.iter().position(|(.., weight)| {
        left -= f64::from(*weight);
        left < 0.0
    });
    if let Some(drawn) = drawn {
        lines[..=drawn].rotate_right(1);
    }
}
