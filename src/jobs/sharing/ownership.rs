//! Decides whether this host may run a job of its own (docs/design/queue.md "Shared jobs").
//!
//! The owner publishes its jobs to Redis (`publisher.rs`) and claims each one before it runs it. A
//! job that another host runs is deferred. So no two hosts run a job at once while Redis responds.
//!
//! While Redis does not respond, the owner runs unpublished jobs at once. Another host may hold a
//! lease of a published job, so the owner runs those once every such lease has ended.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, HashSet};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use super::descriptor::{self, LARGEST_BODY, PartitionNames};
use super::redis::{Claim, ClaimReply, JobsClient, LeaseRef};
use crate::clock;
use crate::fleet::redis::connection::RedisLink;
use crate::snapshot::Snapshot;
use crate::store::{JobId, Partition, RunnableJob, Store};

/// Redis is unreachable after this long without a successful write of this host.
const UNREACHABLE_AFTER: Duration = Duration::from_secs(5);
/// The length of a lease, and a margin.
const LEASES_END: Duration = Duration::from_secs(35);
/// How long the end of the process waits for the last writes to Redis.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);
/// After a loss of data in Redis, hosts notice within a second and renew the leases of what they
/// run. Jobs are published again after this time.
pub const RENEWALS_DONE: Duration = Duration::from_secs(2);
/// After an outage without a loss of data, owners first remove the jobs that they ran meanwhile.
const BORROW_AGAIN_AFTER: Duration = Duration::from_secs(3);
/// Delay before a failed claim is repeated.
const CLAIM_RETRY: Duration = Duration::from_secs(1);
/// A job on another host is looked at again after this time: that host may give it back early.
const LOOK_AGAIN: Duration = Duration::from_secs(5);

pub struct Ownership {
    pub client: JobsClient,
    /// Other hosts may know the jobs up to this sequence number, and none above it.
    published_up_to: Cell<i64>,
    /// When Redis last took a write of this host. Reads do not count: a Redis that is full or
    /// read-only still serves them, and grants no lease.
    last_write: Cell<Instant>,
    ever_attached: Cell<bool>,
    /// When Redis came back after an outage.
    reattached: Cell<Option<Instant>>,
    leases: RefCell<HashMap<JobId, HeldLease>>,
    /// Jobs of this host that run elsewhere.
    deferred: RefCell<HashMap<JobId, DeferredJob>>,
    /// Queues that are shared, or were since the start.
    queues: RefCell<HashSet<String>>,
    /// Final jobs to remove from Redis, in addition to those that the store reports.
    pub to_remove: RefCell<Vec<JobId>>,
    /// Results that the store has and Redis still holds.
    pub fetched: RefCell<HashSet<JobId>>,
    names: RefCell<PartitionNames>,
    /// The publisher has something to write.
    pub publish_due: Notify,
    /// Jobs of this host ended elsewhere.
    pub results_ready: Notify,
    /// There may be capacity for jobs of other hosts.
    pub capacity_freed: Notify,
    /// Leases are to be renewed now.
    pub renewal_due: Notify,
    /// Results of borrowed jobs are to be sent again.
    pub resend_due: Notify,
    /// Changes of this host, as Redis counted them last.
    change_count: Cell<u64>,
    /// After a loss of data: when every host has renewed its leases.
    renewals_done: Cell<Option<Instant>>,
    /// Redis may differ from the store.
    pub needs_sweep: Cell<bool>,
    /// The process ends: remaining removals are written first.
    pub closing: Cell<bool>,
    pub flushed: Notify,
}

/// The lease of a job that runs here.
#[derive(Clone)]
struct HeldLease {
    /// 0 if the run started without Redis.
    number: u64,
    owner: String,
    /// Another host has the job now, or its owner withdrew it.
    lost: Rc<Notify>,
}

/// A job of this host that another host runs. Dropping it releases the job.
struct DeferredJob {
    until: Instant,
    look_again: Box<dyn FnOnce()>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RedisAvailability {
    Attached,
    /// Redis does not respond, and other hosts may still hold leases.
    Unreachable,
    /// Redis has not responded for so long that every lease has ended.
    Isolated,
}

/// Whether a job of this host may run.
pub enum RunPermission {
    /// It may, under this claim if there is one.
    Run(Option<Claim>),
    NotBefore(Instant),
}

impl Ownership {
    pub async fn new(link: RedisLink, store: &Store) -> Rc<Ownership> {
        Rc::new(Ownership {
            client: JobsClient::new(link, store.name()),
            // An earlier process may have published every job in the store.
            published_up_to: Cell::new(store.last_seq().await.unwrap_or(i64::MAX)),
            last_write: Cell::new(clock::now()),
            ever_attached: Cell::new(false),
            reattached: Cell::new(None),
            leases: RefCell::default(),
            deferred: RefCell::default(),
            queues: RefCell::default(),
            to_remove: RefCell::default(),
            fetched: RefCell::default(),
            names: RefCell::default(),
            publish_due: Notify::new(),
            results_ready: Notify::new(),
            capacity_freed: Notify::new(),
            renewal_due: Notify::new(),
            resend_due: Notify::new(),
            change_count: Cell::new(0),
            renewals_done: Cell::new(None),
            needs_sweep: Cell::new(false),
            closing: Cell::new(false),
            flushed: Notify::new(),
        })
    }

    /// Whether a queue is shared, or was since the start.
    pub fn is_used(&self) -> bool {
        !self.queues.borrow().is_empty()
    }

    /// Writes the last removals and results to Redis, if it responds: the process ends.
    pub async fn flush(&self) {
        if self.is_used() && self.availability() == RedisAvailability::Attached {
            self.closing.set(true);
            self.publish_due.notify_one();
            let _ = tokio::time::timeout(FLUSH_TIMEOUT, self.flushed.notified()).await;
        }
    }

    /// Redis took a write of this host.
    pub fn record_write(&self) {
        let attached = self.availability() == RedisAvailability::Attached;
        if !attached && self.ever_attached.replace(true) {
            self.reattached.set(Some(clock::now()));
        }
        self.last_write.set(clock::now());
    }

    pub fn availability(&self) -> RedisAvailability {
        let silent = clock::since(self.last_write.get());
        match silent {
            _ if silent < UNREACHABLE_AFTER && self.ever_attached.get() => {
                RedisAvailability::Attached
            }
            _ if silent < LEASES_END => RedisAvailability::Unreachable,
            _ => RedisAvailability::Isolated,
        }
    }

    pub fn may_borrow(&self) -> bool {
        let settled = self.reattached.get().is_none_or(|at| clock::since(at) >= BORROW_AGAIN_AFTER);
        settled && self.availability() == RedisAvailability::Attached
    }

    /// Jobs up to this sequence number may not run now.
    pub fn min_runnable_seq(&self) -> i64 {
        match self.availability() {
            RedisAvailability::Unreachable => self.published_up_to.get(),
            RedisAvailability::Attached | RedisAvailability::Isolated => 0,
        }
    }

    pub fn published_up_to(&self) -> i64 {
        self.published_up_to.get()
    }

    /// From now on other hosts may know the job.
    pub fn mark_published(&self, seq: i64) {
        self.published_up_to.set(self.published_up_to.get().max(seq));
    }

    /// Whether other hosts may know jobs of a queue.
    pub fn is_shared_queue(&self, queue: &str) -> bool {
        self.queues.borrow().contains(queue)
    }

    /// The shared queues of a policy; they count as shared from now on.
    pub fn shared_queues(&self, snapshot: &Snapshot) -> Vec<String> {
        let queues = snapshot.policy.queues.iter().filter(|queue| queue.durable.share);
        let names: Vec<String> = queues.map(|queue| queue.name.clone()).collect();
        let mut known = self.queues.borrow_mut();
        if names.iter().any(|name| !known.contains(name)) {
            known.extend(names.iter().cloned());
        }
        names
    }

    /// The name of a partition in Redis.
    pub fn partition_name(
        &self,
        snapshot: &Arc<Snapshot>,
        partition: &Partition,
    ) -> Option<String> {
        self.names.borrow_mut().name(snapshot, partition)
    }

    // === claims of the owner ===

    /// Whether a job of this host may run now. If so, no other host runs it.
    pub async fn claim(
        &self,
        job: &RunnableJob,
        partition: Option<String>,
        keep: Duration,
    ) -> RunPermission {
        let published = job.seq <= self.published_up_to.get();
        if job.request.body.len() as u64 > LARGEST_BODY {
            return RunPermission::Run(None);
        }
        let reply = match self.availability() {
            RedisAvailability::Attached => self.claim_in_redis(job, partition, keep).await,
            RedisAvailability::Unreachable if published => {
                return RunPermission::NotBefore(self.last_write.get() + LEASES_END);
            }
            RedisAvailability::Unreachable | RedisAvailability::Isolated => {
                Some(ClaimReply::Unknown(self.change_count.get()))
            }
        };
        let now = clock::now();
        match reply {
            Some(ClaimReply::Claimed(claim)) => {
                self.add_lease(job.id, claim.number, self.client.owner());
                RunPermission::Run(Some(claim))
            }
            Some(ClaimReply::Elsewhere(left)) => {
                RunPermission::NotBefore(now + left.min(LOOK_AGAIN))
            }
            Some(ClaimReply::Ended) => {
                self.results_ready.notify_one();
                RunPermission::NotBefore(now + CLAIM_RETRY)
            }
            None if published => RunPermission::NotBefore(now + CLAIM_RETRY),
            Some(ClaimReply::Unknown(_)) | None => {
                self.add_lease(job.id, 0, self.client.owner());
                RunPermission::Run(None)
            }
        }
    }

    async fn claim_in_redis(
        &self,
        job: &RunnableJob,
        partition: Option<String>,
        keep: Duration,
    ) -> Option<ClaimReply> {
        let published = job.seq <= self.published_up_to.get();
        let reply = self.client.claim(job.id, job.attempts).await.ok()?;
        match (reply, partition) {
            // A host that runs the job renews its lease in a moment.
            (ClaimReply::Unknown(count), _) if published && self.redis_lost_data(count) => {
                Some(ClaimReply::Elsewhere(RENEWALS_DONE))
            }
            (ClaimReply::Unknown(_), Some(partition)) => {
                self.mark_published(job.seq);
                let descriptor = descriptor::of_runnable(job, partition, keep);
                self.client.publish_and_claim(&descriptor).await.ok()
            }
            (reply, _) => Some(reply),
        }
    }

    /// Gives back a job of this host that did not run after all, or failed.
    pub async fn give_back(&self, id: JobId, delay: Duration, failed: bool) {
        let Some(held) = self.leases.borrow_mut().remove(&id) else { return };
        if held.number == 0 {
            self.needs_sweep.set(true);
            return;
        }
        let reply = self.client.give_back(id, held.number, delay, failed).await;
        if !matches!(reply, Ok(true)) {
            self.needs_sweep.set(true);
        }
    }

    /// Removes a job that was no longer ready when its run was about to start.
    pub fn remove_gone(&self, id: JobId) {
        self.remove_lease(id);
        self.to_remove.borrow_mut().push(id);
        self.publish_due.notify_one();
    }

    /// Records the number of changes that Redis counted; returns the earlier one.
    pub fn replace_change_count(&self, count: u64) -> u64 {
        self.change_count.replace(count)
    }

    /// Redis lost data: hosts renew the leases of what they run.
    pub fn on_data_loss(&self) {
        self.renewals_done.set(Some(clock::now() + RENEWALS_DONE));
        self.renewal_due.notify_one();
        self.resend_due.notify_one();
    }

    fn redis_lost_data(&self, count: u64) -> bool {
        if count < self.change_count.get() {
            self.publish_due.notify_one();
            return true;
        }
        self.renewals_done.get().is_some_and(|until| clock::now() < until)
    }

    /// Defers a job that another host runs. `look_again` is called when its time has come.
    pub fn defer(&self, id: JobId, until: Instant, look_again: Box<dyn FnOnce()>) {
        self.deferred.borrow_mut().insert(id, DeferredJob { until, look_again });
    }

    /// Releases a deferred job that is final.
    pub fn forget_deferred(&self, id: JobId) {
        let removed = self.deferred.borrow_mut().remove(&id);
        // Dropped after the borrow has ended.
        drop(removed);
    }

    /// Looks again at the deferred jobs whose time has come, or at all.
    pub fn resume_deferred(&self, all: bool) {
        let now = clock::now();
        let due: Vec<JobId> = {
            let deferred = self.deferred.borrow();
            let due = deferred.iter().filter(|(_, job)| all || job.until <= now);
            due.map(|(id, _)| *id).collect()
        };
        for id in due {
            let removed = self.deferred.borrow_mut().remove(&id);
            removed.into_iter().for_each(|job| (job.look_again)());
        }
    }

    // === leases of jobs that run here ===

    /// Adds a lease; the result is notified when the lease is lost.
    pub fn add_lease(&self, id: JobId, number: u64, owner: &str) -> Rc<Notify> {
        let lost = Rc::new(Notify::new());
        let held = HeldLease { number, owner: owner.to_owned(), lost: Rc::clone(&lost) };
        self.leases.borrow_mut().insert(id, held);
        lost
    }

    /// The number of the lease under which a job runs here. A renewal may change it.
    pub fn lease_number(&self, id: JobId) -> Option<u64> {
        self.leases.borrow().get(&id).map(|held| held.number)
    }

    pub fn remove_lease(&self, id: JobId) {
        self.leases.borrow_mut().remove(&id);
        if self.closing.get() {
            self.publish_due.notify_one();
        }
    }

    /// Whether a job of another host runs here, or its result is not sent yet.
    pub fn has_borrowed_job(&self) -> bool {
        self.leases.borrow().values().any(|held| held.owner != self.client.owner())
    }

    pub fn leases(&self) -> Vec<LeaseRef> {
        let leases = self.leases.borrow();
        let lease = |(id, held): (&JobId, &HeldLease)| LeaseRef {
            id: *id,
            number: held.number,
            owner: held.owner.clone(),
        };
        leases.iter().map(lease).collect()
    }

    /// Records a renewal: the lease's number, or 0 if it is lost.
    pub fn record_renewal(&self, id: JobId, number: u64) {
        let mut leases = self.leases.borrow_mut();
        let Some(held) = leases.get_mut(&id) else { return };
        match number {
            0 => held.lost.notify_one(),
            number => held.number = number,
        }
    }
}
