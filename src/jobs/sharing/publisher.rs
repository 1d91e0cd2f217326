//! Publishes this host's jobs to Redis: new ones in the order of their arrival, final ones as
//! removals, and a heartbeat each second.
//!
//! Redis counts the changes of each owner. An unexpected count means that Redis lost data (a flush,
//! a failover). Then the publisher looks through all jobs again: it publishes those that Redis does
//! not have, and removes those that are final here. It does the same after an outage and once a
//! minute. Hosts renew the leases of what they run before that, so that no job starts a second time.

use std::collections::HashSet;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::descriptor::{self, LARGEST_BODY};
use super::ownership::{Ownership, RENEWALS_DONE, RedisAvailability};
use super::redis::PartitionEntry;
use crate::clock;
use crate::fleet::redis::connection::RedisCallError;
use crate::proxy::downstream::worker::Worker;
use crate::snapshot::Snapshot;
use crate::store::{JobId, Store, UnfinishedJob};

const HEARTBEAT: Duration = Duration::from_secs(1);
/// Jobs that one step looks at or removes.
const PAGE: usize = 256;
/// Removals that are remembered while Redis is unreachable.
const MAX_REMOVALS: usize = 4096;
/// Jobs and bytes of one publishing call.
const MAX_DESCRIPTORS: usize = 64;
const MAX_BYTES: u64 = 1 << 20;
/// Redis may evict single keys without a trace if memory is short.
const SWEEP_INTERVAL: Duration = Duration::from_secs(60);
/// A larger difference between two clocks means that one was set; in milliseconds.
const CLOCK_TOLERANCE: u64 = 5_000;
const RENEW_INTERVAL: Duration = Duration::from_secs(10);

/// A call to Redis or the store failed; the step is repeated.
struct RetryLater;

pub struct Publisher {
    worker: Rc<Worker>,
    store: Store,
    ownership: Rc<Ownership>,
    /// The leases of an earlier process were released.
    resigned: bool,
    snapshot: Arc<Snapshot>,
    /// Changes that Redis counted; `None` while unknown.
    change_count: Option<u64>,
    last_clock: Option<RedisClock>,
    next_heartbeat: Instant,
    /// Jobs up to this sequence number are published or were checked.
    cursor: i64,
    /// Redis may have the jobs up to this sequence number.
    known_up_to: i64,
    /// The clock of Redis was set.
    clock_was_set: bool,
    /// Position in the scan of this host's jobs in Redis; `None` after its end.
    scan: Option<u64>,
    next_sweep: Instant,
    to_remove: Vec<JobId>,
    /// No queue is shared, and Redis has no job of this host.
    idle: bool,
}

/// The clock of Redis, in milliseconds, and when it was read.
struct RedisClock {
    ms: u64,
    read: Instant,
}

/// An unfinished job with the name of its partition in Redis.
struct NamedJob {
    job: UnfinishedJob,
    partition: String,
}

impl Publisher {
    pub fn new(worker: Rc<Worker>, store: Store, ownership: Rc<Ownership>) -> Publisher {
        let (now, published) = (clock::now(), ownership.published_up_to());
        let snapshot = worker.current.load_full();
        Publisher {
            worker,
            store,
            ownership,
            resigned: false,
            snapshot,
            change_count: None,
            last_clock: None,
            next_heartbeat: now,
            cursor: published,
            known_up_to: published,
            clock_was_set: false,
            scan: None,
            next_sweep: now,
            to_remove: Vec::new(),
            idle: false,
        }
    }

    pub async fn run(mut self) {
        loop {
            let more = self.step().await.unwrap_or_else(|_| {
                self.change_count = None;
                false
            });
            let done = self.to_remove.is_empty() && !self.ownership.has_borrowed_job();
            if self.ownership.closing.get() && done {
                self.ownership.flushed.notify_one();
            }
            if more {
                continue;
            }
            tokio::select! {
                () = self.ownership.publish_due.notified() => {}
                () = self.store.finished_recorded() => {}
                () = tokio::time::sleep_until(self.next_heartbeat.into()) => {}
            }
        }
    }

    /// Returns whether there is more to do.
    async fn step(&mut self) -> Result<bool, RetryLater> {
        self.follow_policy();
        if self.idle && !self.ownership.is_used() {
            self.next_heartbeat = clock::now() + HEARTBEAT;
            return Ok(false);
        }
        self.store.record_finished();
        let finished = self.store.take_finished();
        self.to_remove.extend(finished.ids);
        self.to_remove.append(&mut self.ownership.to_remove.borrow_mut());
        if clock::now() >= self.next_heartbeat {
            self.heartbeat().await?;
        }
        if self.ownership.availability() != RedisAvailability::Attached {
            // A sweep follows when Redis is back.
            self.to_remove.truncate(MAX_REMOVALS);
            return Ok(false);
        }
        self.remove().await?;
        if finished.overflowed || self.ownership.needs_sweep.take() {
            self.next_sweep = clock::now();
        }
        if clock::now() >= self.next_sweep {
            self.next_sweep = clock::now() + SWEEP_INTERVAL;
            (self.cursor, self.scan) = (0, Some(0));
            self.known_up_to = self.ownership.published_up_to();
        }
        self.scan_redis().await?;
        Ok(self.publish_page().await? || self.scan.is_some())
    }

    /// Partitions have other names under another policy.
    fn follow_policy(&mut self) {
        let snapshot = self.worker.current.load_full();
        let shares = !self.ownership.shared_queues(&snapshot).is_empty();
        self.idle &= !shares;
        if !Arc::ptr_eq(&snapshot, &self.snapshot) {
            self.snapshot = snapshot;
            self.next_sweep = clock::now();
        }
    }

    async fn heartbeat(&mut self) -> Result<(), RetryLater> {
        let now = clock::now();
        self.next_heartbeat = now + HEARTBEAT;
        if !self.resigned {
            self.record_write(self.ownership.client.resign().await)?;
            self.resigned = true;
        }
        let reply = self.record_write(self.ownership.client.heartbeat().await)?;
        self.worker.live.metrics.jobs_shared.set(reply.jobs as i64);
        self.check_count(reply.count);
        self.idle = reply.jobs == 0 && !self.ownership.is_used();
        let now = clock::now();
        if let Some(last) = self.last_clock.replace(RedisClock { ms: reply.now, read: now }) {
            let expected = last.ms + now.saturating_duration_since(last.read).as_millis() as u64;
            if reply.now.abs_diff(expected) > CLOCK_TOLERANCE {
                tracing::warn!("shared jobs: the clock of redis was changed; publishing all again");
                self.clock_was_set = true;
                self.next_sweep = now;
            }
        }
        self.ownership.results_ready.notify_one();
        Ok(())
    }

    /// The reply to a write.
    fn record_write<T>(&self, reply: Result<T, RedisCallError>) -> Result<T, RetryLater> {
        let value = reply.map_err(|_| RetryLater)?;
        self.ownership.record_write();
        Ok(value)
    }

    /// Compares the number of changes that Redis counted, the latest included, with this host's.
    fn check_count(&mut self, count: u64) {
        let now = clock::now();
        let before = self.change_count.replace(count);
        let last = self.ownership.replace_change_count(count);
        // During an outage Redis may have counted calls whose reply was lost.
        let lost = match before {
            Some(before) => count != before + 1,
            None => count == 1 || count <= last,
        };
        if lost {
            if last > 0 {
                tracing::warn!(last, count, "shared jobs: redis lost data; publishing all again");
            }
            self.next_sweep = now + RENEWALS_DONE;
            self.ownership.on_data_loss();
        } else if before.is_none() {
            self.next_sweep = now;
            self.ownership.renewal_due.notify_one();
        }
    }

    /// Removes final jobs from Redis.
    async fn remove(&mut self) -> Result<(), RetryLater> {
        while !self.to_remove.is_empty() {
            let page = &self.to_remove[..self.to_remove.len().min(PAGE)];
            let count = self.record_write(self.ownership.client.remove(page).await)?;
            let page: Vec<JobId> = self.to_remove.drain(..page.len()).collect();
            self.check_count(count);
            let mut fetched = self.ownership.fetched.borrow_mut();
            for id in page {
                self.ownership.forget_deferred(id);
                if fetched.remove(&id) && fetched.is_empty() {
                    self.ownership.results_ready.notify_one();
                }
            }
        }
        Ok(())
    }

    /// Looks through a page of what Redis has: jobs that are final here or no longer shared go.
    async fn scan_redis(&mut self) -> Result<(), RetryLater> {
        let Some(cursor) = self.scan else { return Ok(()) };
        let page = self.ownership.client.scan_own(cursor).await;
        let (next, ids) = page.map_err(|_| RetryLater)?;
        let queues = self.ownership.shared_queues(&self.snapshot);
        let unfinished = self.store.filter_unfinished(ids.clone()).await.map_err(|_| RetryLater)?;
        let shared = unfinished.into_iter().filter(|(_, queue)| queues.contains(queue));
        let shared: HashSet<JobId> = shared.map(|(id, _)| id).collect();
        self.to_remove.extend(ids.into_iter().filter(|id| !shared.contains(id)));
        self.scan = (next != 0).then_some(next);
        self.remove().await
    }

    /// Publishes the next page of jobs. Returns whether there are more.
    async fn publish_page(&mut self) -> Result<bool, RetryLater> {
        let queues = self.ownership.shared_queues(&self.snapshot);
        if queues.is_empty() {
            return Ok(false);
        }
        let page = self.store.unfinished_jobs(queues, self.cursor, PAGE).await;
        let page = page.map_err(|_| RetryLater)?;
        let Some(last) = page.last().map(|job| job.seq) else {
            self.clock_was_set = false;
            return Ok(false);
        };
        let name =
            |job: &UnfinishedJob| self.ownership.partition_name(&self.snapshot, &job.partition);
        let publishable = |job: &UnfinishedJob| job.bytes <= LARGEST_BODY && self.may_publish(job);
        let named = page
            .into_iter()
            .filter(publishable)
            .filter_map(|job| name(&job).map(|partition| NamedJob { job, partition }));
        let (old, mut new): (Vec<_>, Vec<_>) =
            named.partition(|named| named.job.seq <= self.known_up_to);
        let mut all = self.missing_in_redis(old).await?;
        all.append(&mut new);
        self.publish(&all).await?;
        self.cursor = last;
        Ok(true)
    }

    /// A job that runs here without a lease is published once it has one; else another host would
    /// start it at once.
    fn may_publish(&self, job: &UnfinishedJob) -> bool {
        self.ownership.lease_number(job.id).map_or(!job.leased, |number| number > 0)
    }

    async fn missing_in_redis(
        &mut self,
        mut jobs: Vec<NamedJob>,
    ) -> Result<Vec<NamedJob>, RetryLater> {
        if jobs.is_empty() {
            return Ok(jobs);
        }
        let entry = |named: &NamedJob| descriptor::entry_of(&named.job, named.partition.clone());
        let entries: Vec<PartitionEntry> = jobs.iter().map(entry).collect();
        let reply = self.ownership.client.known(&entries, self.clock_was_set).await;
        let (count, missing) = self.record_write(reply)?;
        self.check_count(count);
        let mut index = 0..;
        jobs.retain(|_| index.next().is_some_and(|at| missing.binary_search(&at).is_ok()));
        Ok(jobs)
    }

    async fn publish(&mut self, all: &[NamedJob]) -> Result<(), RetryLater> {
        let mut rest = all;
        while !rest.is_empty() {
            let mut bytes = 0;
            let fits = rest.iter().take(MAX_DESCRIPTORS).take_while(|named| {
                bytes += named.job.bytes;
                bytes <= MAX_BYTES
            });
            let (batch, others) = rest.split_at(fits.count().max(1));
            rest = others;
            let seqs = batch.iter().map(|named| named.job.seq).collect();
            let contents = self.store.contents(seqs).await.map_err(|_| RetryLater)?;
            let descriptors: Vec<_> = batch
                .iter()
                .zip(contents)
                .filter_map(|(NamedJob { job, partition }, content)| {
                    Some(descriptor::of_unfinished(job, partition.clone(), content?))
                })
                .collect();
            batch.iter().for_each(|named| self.ownership.mark_published(named.job.seq));
            let count = self.record_write(self.ownership.client.publish(&descriptors).await)?;
            self.check_count(count);
        }
        Ok(())
    }
}

/// Renews the leases of the jobs that run here.
pub async fn renew_leases(ownership: Rc<Ownership>) {
    loop {
        let mut pause = RENEW_INTERVAL;
        for leases in ownership.leases().chunks(PAGE) {
            match ownership.client.renew(leases).await {
                Ok(numbers) => leases.iter().zip(numbers).for_each(|(lease, number)| {
                    ownership.record_renewal(lease.id, number);
                }),
                Err(_) => pause = HEARTBEAT,
            }
        }
        let _ = tokio::time::timeout(pause, ownership.renewal_due.notified()).await;
    }
}
