//! What an owner tells Redis: of its jobs, in the order in which they came; which of them are over; and
//! each second that it lives.
//!
//! Redis counts what it is told here. Whoever finds another count than it made knows that data were
//! lost (a flush, a failover), and looks through all its jobs again: what Redis does not know is told
//! anew, what is over here is taken back there. The same after an outage, and now and then. Before that,
//! those who run a job say so again, so that nobody begins it a second time.

use std::collections::HashSet;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::descriptor::{self, LARGEST};
use super::ownership::{Ownership, RedisAvailability, SETTLE};
use super::redis::PartitionEntry;
use crate::clock;
use crate::jobs::dispatcher::Dispatcher;
use crate::snapshot::Snapshot;
use crate::store::{JobId, UnfinishedJob};

const BEAT: Duration = Duration::from_secs(1);
/// Jobs that are looked at, and told of, at once.
const PAGE: usize = 256;
const REMEMBERED: usize = 4096;
const NOTICES: usize = 64;
const BYTES: u64 = 1 << 20;
/// Single keys may go without a trace, where memory is short.
const NOW_AND_THEN: Duration = Duration::from_secs(60);
/// Clocks that differ by more were set.
const SET: u64 = 5_000;
const RENEW: Duration = Duration::from_secs(10);
const LOOK: Duration = Duration::from_millis(250);

/// Redis or the store did not do what was asked; it is asked again.
struct RetryLater;

pub struct Publisher {
    desk: Rc<Dispatcher>,
    share: Rc<Ownership>,
    /// A process before this one held nothing any more.
    resigned: bool,
    snapshot: Arc<Snapshot>,
    /// Changes that Redis counted; `None`: nobody knows.
    count: Option<u64>,
    /// Redis' clock, and when it was read.
    time: Option<(u64, Instant)>,
    beat: Instant,
    /// Jobs up to here were told of, or looked at again.
    cursor: i64,
    /// Up to here Redis may know them.
    known: i64,
    /// Redis' clock was set.
    anew: bool,
    /// Where all that Redis has of this host is looked through; `None`: it was.
    theirs: Option<u64>,
    /// When it is all looked through again.
    sweep: Instant,
    over: Vec<JobId>,
    /// Redis has nothing of this host, and nothing is shared.
    idle: bool,
}

impl Publisher {
    pub fn new(desk: Rc<Dispatcher>, share: Rc<Ownership>) -> Publisher {
        let (now, mark) = (clock::now(), share.mark());
        let snapshot = desk.worker.current.load_full();
        Publisher {
            desk,
            share,
            resigned: false,
            snapshot,
            count: None,
            time: None,
            beat: now,
            cursor: mark,
            known: mark,
            anew: false,
            theirs: None,
            sweep: now,
            over: Vec::new(),
            idle: false,
        }
    }

    pub async fn run(mut self) {
        loop {
            let more = self.round().await.unwrap_or_else(|_| {
                self.count = None;
                false
            });
            if self.share.closing.get() && self.over.is_empty() && !self.share.lends() {
                self.share.flushed.notify_one();
            }
            if more {
                continue;
            }
            tokio::select! {
                () = self.share.news.notified() => {}
                () = self.desk.store.some_ended() => {}
                () = tokio::time::sleep_until(self.beat.into()) => {}
            }
        }
    }

    /// Whether there is more to do.
    async fn round(&mut self) -> Result<bool, RetryLater> {
        self.policy();
        if self.idle && !self.share.is_used() {
            self.beat = clock::now() + BEAT;
            return Ok(false);
        }
        self.desk.store.remember_ends();
        let ends = self.desk.store.take_ends();
        self.over.extend(ends.ids);
        self.over.append(&mut self.share.overs.borrow_mut());
        if clock::now() >= self.beat {
            self.beat().await?;
        }
        if self.share.standing() != RedisAvailability::Attached {
            // All is looked through when Redis is back.
            self.over.truncate(REMEMBERED);
            return Ok(false);
        }
        self.clear().await?;
        if ends.missed || self.share.wrong.take() {
            self.sweep = clock::now();
        }
        if clock::now() >= self.sweep {
            self.sweep = clock::now() + NOW_AND_THEN;
            (self.cursor, self.known, self.theirs) = (0, self.share.mark(), Some(0));
        }
        self.theirs().await?;
        Ok(self.page().await? || self.theirs.is_some())
    }

    /// Lines have other names under another policy.
    fn policy(&mut self) {
        let snapshot = self.desk.worker.current.load_full();
        // Takes note of them, too.
        let shares = !self.share.queues(&snapshot).is_empty();
        self.idle &= !shares;
        if !Arc::ptr_eq(&snapshot, &self.snapshot) {
            self.snapshot = snapshot;
            self.sweep = clock::now();
        }
    }

    async fn beat(&mut self) -> Result<(), RetryLater> {
        let now = clock::now();
        self.beat = now + BEAT;
        if !self.resigned {
            self.heard(self.share.board.resign().await)?;
            self.resigned = true;
        }
        let beat = self.heard(self.share.board.beat().await)?;
        self.desk.worker.live.metrics.jobs_shared.set(beat.jobs as i64);
        self.counted(beat.count);
        self.idle = beat.jobs == 0 && !self.share.is_used();
        let now = clock::now();
        if let Some((then, at)) = self.time.replace((beat.now, now)) {
            let expected = then + now.saturating_duration_since(at).as_millis() as u64;
            if beat.now.abs_diff(expected) > SET {
                tracing::warn!("shared jobs: the clock of redis was set");
                self.anew = true;
                self.sweep = now;
            }
        }
        self.share.ended.notify_one();
        Ok(())
    }

    fn heard<T>(
        &self,
        answer: Result<T, crate::fleet::redis::connection::RedisCallError>,
    ) -> Result<T, RetryLater> {
        self.share.told(answer).map_err(|_| RetryLater)
    }

    /// Redis counts so many changes, this one included.
    fn counted(&mut self, count: u64) {
        let now = clock::now();
        let (before, told) = (self.count.replace(count), self.share.counts(count));
        // After an outage calls may have counted whose answer was not heard.
        let lost = match before {
            Some(before) => count != before + 1,
            None => count == 1 || count <= told,
        };
        if lost {
            if told > 0 {
                tracing::warn!(told, count, "shared jobs: redis lost data; all is told again");
            }
            self.sweep = now + SETTLE;
            self.share.lost();
        } else if before.is_none() {
            self.sweep = now;
            self.share.renew.notify_one();
        }
    }

    /// Takes back what is over.
    async fn clear(&mut self) -> Result<(), RetryLater> {
        while !self.over.is_empty() {
            let some = &self.over[..self.over.len().min(PAGE)];
            let count = self.heard(self.share.board.clear(some).await)?;
            let some: Vec<JobId> = self.over.drain(..some.len()).collect();
            self.counted(count);
            let mut fetched = self.share.fetched.borrow_mut();
            for id in some {
                self.share.forget(id);
                if fetched.remove(&id) && fetched.is_empty() {
                    self.share.ended.notify_one();
                }
            }
        }
        Ok(())
    }

    /// Looks through some of what Redis has: what is over here, or no longer shared, goes.
    async fn theirs(&mut self) -> Result<(), RetryLater> {
        let Some(cursor) = self.theirs else { return Ok(()) };
        let mine = self.share.heard(self.share.board.mine(cursor).await);
        let (next, ids) = mine.map_err(|_| RetryLater)?;
        let queues = self.share.queues(&self.snapshot);
        let open = self.desk.store.still_open(ids.clone()).await.map_err(|_| RetryLater)?;
        let open = open.into_iter().filter(|(_, queue)| queues.contains(queue));
        let open: HashSet<JobId> = open.map(|(id, _)| id).collect();
        self.over.extend(ids.into_iter().filter(|id| !open.contains(id)));
        self.theirs = (next != 0).then_some(next);
        self.clear().await
    }

    /// Tells of the next jobs. Whether there are more.
    async fn page(&mut self) -> Result<bool, RetryLater> {
        let queues = self.share.queues(&self.snapshot);
        if queues.is_empty() {
            return Ok(false);
        }
        let open =
            self.desk.store.open_jobs(queues, self.cursor, PAGE).await.map_err(|_| RetryLater)?;
        let Some(last) = open.last().map(|open| open.seq) else {
            self.anew = false;
            return Ok(false);
        };
        let open = open.into_iter().filter(|open| open.bytes <= LARGEST && self.may_tell(open));
        let line = |open: &UnfinishedJob| self.share.line(&self.snapshot, &open.line);
        let named = open.filter_map(|open| line(&open).map(|line| (open, line)));
        let (old, mut new): (Vec<_>, Vec<_>) = named.partition(|(open, _)| open.seq <= self.known);
        let mut all = self.missing(old).await?;
        all.append(&mut new);
        self.tell(&all).await?;
        self.cursor = last;
        Ok(true)
    }

    /// What is run here without a lease is told of when it has one: somebody would begin it at once.
    fn may_tell(&self, open: &UnfinishedJob) -> bool {
        self.share.number(open.id).map_or(!open.leased, |number| number > 0)
    }

    /// Those that Redis does not know.
    async fn missing(
        &mut self,
        mut old: Vec<(UnfinishedJob, String)>,
    ) -> Result<Vec<(UnfinishedJob, String)>, RetryLater> {
        if old.is_empty() {
            return Ok(old);
        }
        let places = old.iter().map(|(open, line)| descriptor::place_of(open, line.clone()));
        let places: Vec<PartitionEntry> = places.collect();
        let (count, missing) = self.heard(self.share.board.known(&places, self.anew).await)?;
        self.counted(count);
        let mut at = 0..;
        old.retain(|_| at.next().is_some_and(|at| missing.binary_search(&at).is_ok()));
        Ok(old)
    }

    async fn tell(&mut self, all: &[(UnfinishedJob, String)]) -> Result<(), RetryLater> {
        let mut rest = all;
        while !rest.is_empty() {
            let mut bytes = 0;
            let fits = rest.iter().take(NOTICES).take_while(|(open, _)| {
                bytes += open.bytes;
                bytes <= BYTES
            });
            let (some, others) = rest.split_at(fits.count().max(1));
            rest = others;
            let seqs = some.iter().map(|(open, _)| open.seq).collect();
            let requests = self.desk.store.requests(seqs).await.map_err(|_| RetryLater)?;
            let notices: Vec<_> = some
                .iter()
                .zip(requests)
                .filter_map(|((open, line), of)| Some(descriptor::of_open(open, line.clone(), of?)))
                .collect();
            some.iter().for_each(|(open, _)| self.share.told_of(open.seq));
            let count = self.heard(self.share.board.publish(&notices).await)?;
            self.counted(count);
        }
        Ok(())
    }
}

/// Renews what runs here.
pub async fn renew(share: Rc<Ownership>) {
    loop {
        let mut rest = RENEW;
        for held in share.all_held().chunks(PAGE) {
            match share.heard(share.board.renew(held).await) {
                Ok(numbers) => held.iter().zip(numbers).for_each(|((id, ..), number)| {
                    share.renewed(*id, number);
                }),
                Err(_) => rest = BEAT,
            }
        }
        let _ = tokio::time::timeout(rest, share.renew.notified()).await;
    }
}

/// Looks at jobs again whose time with others is over, and at all where Redis comes or goes.
pub async fn watch(desk: Rc<Dispatcher>, share: Rc<Ownership>) {
    let mut before = RedisAvailability::Away;
    let mut look = tokio::time::interval(LOOK);
    loop {
        look.tick().await;
        if !share.is_used() {
            continue;
        }
        let standing = share.standing();
        let changed = std::mem::replace(&mut before, standing) != standing;
        share.look_again(changed);
        if changed {
            match standing {
                RedisAvailability::Attached => tracing::info!("shared jobs: redis answers"),
                RedisAvailability::Away => {
                    tracing::warn!("shared jobs: redis is away; new jobs run here")
                }
                RedisAvailability::Alone => {
                    tracing::warn!("shared jobs: redis is away; all run here")
                }
            }
            desk.look_everywhere().await;
        }
    }
}
