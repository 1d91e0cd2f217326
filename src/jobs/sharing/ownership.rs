//! Who runs a job, where hosts share them (QUEUE.md "With Redis and `share: true`").
//!
//! An owner tells Redis of its jobs (`keeper.rs`), and claims each before it runs it; what others have
//! is passed over for as long as they have it. So two hosts never run a job at once while Redis answers.
//!
//! Without Redis a host runs what it never told of at once. What it told of may be run by somebody who
//! still hears Redis, or did a moment ago: it is run here when every lease of such a one has ended.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, HashSet};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use super::descriptor::{self, LARGEST, PartitionNames};
use super::redis::{Claim, ClaimReply, JobsClient};
use crate::clock;
use crate::fleet::redis::connection::{RedisCallError, RedisLink};
use crate::jobs::completion::Completion;
use crate::jobs::worker_slots::ActiveJob;
use crate::snapshot::Snapshot;
use crate::store::{JobId, Partition, RunnableJob, Store};

/// A host that was not answered for so long is by itself.
const AWAY: Duration = Duration::from_secs(5);
/// What a lease lasts, and a little.
const LEASES_END: Duration = Duration::from_secs(35);
/// Whoever ends waits for no longer than this.
const FLUSH: Duration = Duration::from_secs(1);
/// Where Redis lost data, each host notices within a second, and says then what it runs; jobs are told
/// of again after that.
pub const SETTLE: Duration = Duration::from_secs(2);
/// Where Redis was away and comes back as it was, owners take back first what they have run meanwhile.
const BACK: Duration = Duration::from_secs(3);
/// What could not be asked is asked again.
const ASK_AGAIN: Duration = Duration::from_secs(1);
/// Whoever has a job may give it back before the lease ends.
const LOOK_AGAIN: Duration = Duration::from_secs(5);

pub struct Ownership {
    pub board: JobsClient,
    /// All that came up to here may be known to others; none that came later is.
    mark: Cell<i64>,
    /// Redis took last what this host had to tell. Answers to mere questions do not count: one that is
    /// full, or may not write, gives them still, and no lease.
    heard: Cell<Instant>,
    ever: Cell<bool>,
    /// It was away, and is back since then.
    back: Cell<Option<Instant>>,
    /// What runs here.
    held: RefCell<HashMap<JobId, HeldLease>>,
    /// Jobs of this host that others have, and until when that is believed.
    elsewhere: RefCell<HashMap<JobId, (Instant, ActiveJob)>>,
    /// Queues that are shared, or were since the start.
    queues: RefCell<HashSet<String>>,
    /// What is over, and is to be taken back from Redis beside what the store tells.
    pub overs: RefCell<Vec<JobId>>,
    /// Ends that are written down here, and not cleared there yet.
    pub fetched: RefCell<HashSet<JobId>>,
    lines: RefCell<PartitionNames>,
    /// There is something to tell Redis.
    pub news: Notify,
    /// Jobs of this host ended elsewhere.
    pub ended: Notify,
    /// There may be room for jobs of others.
    pub room: Notify,
    /// Leases are to be renewed now.
    pub renew: Notify,
    /// Ends of jobs of others are to be told again.
    pub told_again: Notify,
    /// Changes of this host that Redis counted last.
    count: Cell<u64>,
    /// Data were lost; by then those who run a job have said so again.
    settled: Cell<Option<Instant>>,
    /// Redis may not have what it should.
    pub wrong: Cell<bool>,
    /// All that is over is to be told, since the process ends.
    pub closing: Cell<bool>,
    pub flushed: Notify,
}

/// A run, as others know it.
#[derive(Clone)]
pub struct HeldLease {
    /// 0: it was begun without Redis.
    pub number: u64,
    pub owner: String,
    /// Somebody else has it now, or its owner wants it no longer.
    pub lost: Rc<Notify>,
}

/// How this host stands to Redis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RedisAvailability {
    Attached,
    /// Redis is silent, and others may hold leases still.
    Away,
    /// For so long that no lease can hold.
    Alone,
}

/// May a job of this host be run?
pub enum RunPermission {
    /// Under this claim, where there is one.
    Run(Option<Claim>),
    /// It is looked at again then.
    Not(Instant),
}

impl Ownership {
    pub async fn new(link: RedisLink, store: &Store) -> Rc<Ownership> {
        Rc::new(Ownership {
            board: JobsClient::new(link, store.name()),
            // Whatever a process before this one told of.
            mark: Cell::new(store.last().await.unwrap_or(i64::MAX)),
            heard: Cell::new(clock::now()),
            ever: Cell::new(false),
            back: Cell::new(None),
            held: RefCell::default(),
            elsewhere: RefCell::default(),
            queues: RefCell::default(),
            overs: RefCell::default(),
            fetched: RefCell::default(),
            lines: RefCell::default(),
            news: Notify::new(),
            ended: Notify::new(),
            room: Notify::new(),
            renew: Notify::new(),
            told_again: Notify::new(),
            count: Cell::new(0),
            settled: Cell::new(None),
            wrong: Cell::new(false),
            closing: Cell::new(false),
            flushed: Notify::new(),
        })
    }

    /// Whether anything is shared, or was since the start.
    pub fn is_used(&self) -> bool {
        !self.queues.borrow().is_empty()
    }

    /// Tells what is over, and what was run for others, where Redis answers: the process ends.
    pub async fn flush(&self) {
        if self.is_used() && self.standing() == RedisAvailability::Attached {
            self.closing.set(true);
            self.news.notify_one();
            let _ = tokio::time::timeout(FLUSH, self.flushed.notified()).await;
        }
    }

    /// Takes note of an answer.
    pub fn heard<T>(&self, answer: Result<T, RedisCallError>) -> Result<T, RedisCallError> {
        if let Err(failure) = &answer {
            tracing::debug!(%failure, "shared jobs: a call came to nothing");
        }
        answer
    }

    /// Takes note of an answer to what the owner told.
    pub fn told<T>(&self, answer: Result<T, RedisCallError>) -> Result<T, RedisCallError> {
        if answer.is_ok() {
            if self.standing() != RedisAvailability::Attached && self.ever.replace(true) {
                self.back.set(Some(clock::now()));
            }
            self.heard.set(clock::now());
        }
        self.heard(answer)
    }

    pub fn standing(&self) -> RedisAvailability {
        let silent = clock::since(self.heard.get());
        match silent {
            _ if silent < AWAY && self.ever.get() => RedisAvailability::Attached,
            _ if silent < LEASES_END => RedisAvailability::Away,
            _ => RedisAvailability::Alone,
        }
    }

    /// Whether jobs of others may be taken.
    pub fn may_take(&self) -> bool {
        let settled = self.back.get().is_none_or(|back| clock::since(back) >= BACK);
        settled && self.standing() == RedisAvailability::Attached
    }

    /// None that came up to here is run now.
    pub fn floor(&self) -> i64 {
        if self.standing() == RedisAvailability::Away { self.mark.get() } else { 0 }
    }

    pub fn mark(&self) -> i64 {
        self.mark.get()
    }

    /// From now on others may know of it.
    pub fn told_of(&self, seq: i64) {
        self.mark.set(self.mark.get().max(seq));
    }

    /// Whether jobs of a queue may be known to others.
    pub fn shares(&self, queue: &str) -> bool {
        self.queues.borrow().contains(queue)
    }

    /// The shared queues of a policy.
    pub fn queues(&self, snapshot: &Snapshot) -> Vec<String> {
        let queues = snapshot.policy.queues.iter().filter(|queue| queue.durable.share);
        let names: Vec<String> = queues.map(|queue| queue.name.clone()).collect();
        let mut known = self.queues.borrow_mut();
        if names.iter().any(|name| !known.contains(name)) {
            known.extend(names.iter().cloned());
        }
        names
    }

    /// By what others know a line.
    pub fn line(&self, snapshot: &Arc<Snapshot>, line: &Partition) -> Option<String> {
        self.lines.borrow_mut().name(snapshot, line)
    }

    // === the owner's ===

    /// Whether a job of this host may be run now; nobody else runs it then.
    pub async fn claim(
        &self,
        task: &RunnableJob,
        line: Option<String>,
        keep: Duration,
    ) -> RunPermission {
        let told = task.seq <= self.mark.get();
        if task.request.body.len() as u64 > LARGEST {
            return RunPermission::Run(None);
        }
        let claimed = match self.standing() {
            RedisAvailability::Attached => self.ask(task, line, keep).await,
            RedisAvailability::Away if told => {
                return RunPermission::Not(self.heard.get() + LEASES_END);
            }
            RedisAvailability::Away | RedisAvailability::Alone => {
                Some(ClaimReply::Unknown(self.count.get()))
            }
        };
        let now = clock::now();
        match claimed {
            Some(ClaimReply::Mine(claim)) => {
                self.hold(task.id, claim.number, self.board.me());
                RunPermission::Run(Some(claim))
            }
            Some(ClaimReply::Unknown(_)) => {
                self.hold(task.id, 0, self.board.me());
                RunPermission::Run(None)
            }
            Some(ClaimReply::Elsewhere(left)) => RunPermission::Not(now + left.min(LOOK_AGAIN)),
            Some(ClaimReply::Ended) => {
                self.ended.notify_one();
                RunPermission::Not(now + ASK_AGAIN)
            }
            None if !told => {
                self.hold(task.id, 0, self.board.me());
                RunPermission::Run(None)
            }
            None => RunPermission::Not(now + ASK_AGAIN),
        }
    }

    async fn ask(
        &self,
        task: &RunnableJob,
        line: Option<String>,
        keep: Duration,
    ) -> Option<ClaimReply> {
        let told = task.seq <= self.mark.get();
        let claimed = self.heard(self.board.claim(task.id, task.attempts).await).ok()?;
        match (claimed, line) {
            // Whoever runs it says so in a moment.
            (ClaimReply::Unknown(count), _) if told && self.has_lost(count) => {
                Some(ClaimReply::Elsewhere(SETTLE))
            }
            (ClaimReply::Unknown(_), Some(line)) => {
                self.told_of(task.seq);
                let notice = descriptor::of_task(task, line, keep);
                self.heard(self.board.publish_mine(&notice).await).ok()
            }
            (claimed, _) => Some(claimed),
        }
    }

    /// A job of this host was not run after all, or failed.
    pub async fn give_back(&self, id: JobId, rest: Duration, spent: bool) {
        let Some(held) = self.held.borrow_mut().remove(&id) else { return };
        if held.number == 0 {
            self.wrong.set(true);
            return;
        }
        let back = self.heard(self.board.give_back(id, held.number, rest, spent).await);
        if !matches!(back, Ok(true)) {
            self.wrong.set(true);
        }
    }

    /// What became of a job of this host that ran here.
    pub async fn settled(&self, id: JobId, settled: Completion) {
        match settled {
            Completion::Again { rest, spent } => self.give_back(id, rest, spent).await,
            // What is over is told by the store, and taken back from Redis (`keeper.rs`).
            Completion::Over => self.let_go(id),
            Completion::Gone => {
                self.let_go(id);
                self.overs.borrow_mut().push(id);
                self.news.notify_one();
            }
        }
    }

    /// Redis counts so many changes of this host; gives what it counted before.
    pub fn counts(&self, count: u64) -> u64 {
        self.count.replace(count)
    }

    /// Data were lost; those who run a job say so again.
    pub fn lost(&self) {
        self.settled.set(Some(clock::now() + SETTLE));
        self.renew.notify_one();
        self.told_again.notify_one();
    }

    fn has_lost(&self, count: u64) -> bool {
        if count < self.count.get() {
            self.news.notify_one();
            return true;
        }
        self.settled.get().is_some_and(|until| clock::now() < until)
    }

    /// Others have it: it is passed over until then.
    pub fn pass_over(&self, id: JobId, until: Instant, hand: ActiveJob) {
        self.elsewhere.borrow_mut().insert(id, (until, hand));
    }

    /// Nobody has it any longer: it is over.
    pub fn forget(&self, id: JobId) {
        let gone = self.elsewhere.borrow_mut().remove(&id);
        drop(gone);
    }

    /// Lets go of those that are to be looked at again.
    pub fn look_again(&self, all: bool) {
        let now = clock::now();
        let due: Vec<JobId> = {
            let elsewhere = self.elsewhere.borrow();
            let due = elsewhere.iter().filter(|(_, (until, _))| all || *until <= now);
            due.map(|(id, _)| *id).collect()
        };
        for id in due {
            let gone = self.elsewhere.borrow_mut().remove(&id);
            gone.into_iter().for_each(|(_, hand)| hand.let_go());
        }
    }

    // === what runs here ===

    pub fn hold(&self, id: JobId, number: u64, owner: &str) -> Rc<Notify> {
        let lost = Rc::new(Notify::new());
        let held = HeldLease { number, owner: owner.to_owned(), lost: Rc::clone(&lost) };
        self.held.borrow_mut().insert(id, held);
        lost
    }

    /// The number of the lease under which it runs here, which may be another than at first.
    pub fn number(&self, id: JobId) -> Option<u64> {
        self.held.borrow().get(&id).map(|held| held.number)
    }

    pub fn let_go(&self, id: JobId) {
        self.held.borrow_mut().remove(&id);
        if self.closing.get() {
            self.news.notify_one();
        }
    }

    /// Whether a job of another host runs here, or its end is to be told.
    pub fn lends(&self) -> bool {
        self.held.borrow().values().any(|held| held.owner != self.board.me())
    }

    pub fn all_held(&self) -> Vec<(JobId, u64, String)> {
        let held = self.held.borrow();
        held.iter().map(|(id, held)| (*id, held.number, held.owner.clone())).collect()
    }

    /// What renewing said of one: its number, or 0.
    pub fn renewed(&self, id: JobId, number: u64) {
        let mut held = self.held.borrow_mut();
        let Some(held) = held.get_mut(&id) else { return };
        match number {
            0 => held.lost.notify_one(),
            number => held.number = number,
        }
    }
}
