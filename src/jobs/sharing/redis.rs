//! Calls to Redis for shared jobs (docs/design/queue.md "Shared jobs"; keys and scripts:
//! docs/design/fleet.md "Jobs").
//!
//! The owner's store is the truth until a final state is written there; Redis records which host
//! runs a job now. An owner publishes its jobs and claims them for itself, other hosts take them, a
//! lease is renewed or lost, and a result waits for the owner to fetch it. Each call is one atomic
//! script on Redis' clock, and may be repeated. `job.lua` documents the keys.

use std::time::Duration;

use redis::{FromRedisValue, Value};

use super::codec::{self, ScriptArgs};
use super::scripts::JobScripts;
use crate::fleet::redis::connection::{CALL_TIMEOUT, RedisCallError, RedisLink};
use crate::fleet::redis::scripts::RedisScript;
use crate::fleet::redis::url::RedisConnection;
use crate::store::{JobContent, JobId, StoredRequest, StoredResponse};

/// Prefix of all keys of jobs.
const PREFIX: &str = "j:";
/// Length of one blocking wait for results.
const BLOCK: Duration = Duration::from_secs(5);
/// Ids that one step of a scan reads.
const SCAN_COUNT: usize = 512;

/// A client of the job scripts, for one owner.
#[derive(Debug)]
pub struct JobsClient {
    link: RedisLink,
    scripts: JobScripts,
    /// The store's name, which outlives the process.
    owner: String,
}

/// A job as it is published.
#[derive(Clone, Debug)]
pub struct JobDescriptor {
    pub entry: PartitionEntry,
    /// How long it is kept once it is final.
    pub keep: Duration,
    pub attempts: u32,
    pub deliveries: u32,
    pub content: JobContent,
}

/// The position of a job among others.
#[derive(Clone, Debug)]
pub struct PartitionEntry {
    pub id: JobId,
    /// Hosts that have a partition of this name may run the job.
    pub partition: String,
    /// Milliseconds from now until it is ready; negative if it has been ready for some time.
    pub ready_in: i64,
    /// It never runs after this time.
    pub expires: Duration,
}

/// The right to run a job, while it is renewed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claim {
    /// Identifies this claim among those of the same job.
    pub number: u64,
    /// Runs that failed.
    pub attempts: u32,
    /// Runs that were started, this one included.
    pub deliveries: u32,
}

/// The reply to an owner that is about to run a job of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClaimReply {
    Claimed(Claim),
    /// Another host has it for at least this long.
    Elsewhere(Duration),
    /// It ended; its result is to be fetched.
    Ended,
    /// Redis does not know the job; the owner's number of changes.
    Unknown(u64),
}

/// A job of another host, to be run here.
#[derive(Clone, Debug)]
pub struct BorrowedJob {
    pub id: JobId,
    pub owner: String,
    pub partition: String,
    pub claim: Claim,
    pub expires: Duration,
    pub keep: Duration,
    pub request: StoredRequest,
    pub flow: Vec<u8>,
}

/// The reply to a host that takes jobs of other hosts.
#[derive(Clone, Debug, Default)]
pub struct TakeReply {
    pub jobs: Vec<BorrowedJob>,
    /// Jobs of this host that ended elsewhere.
    pub results_waiting: u64,
    /// When the next job of these partitions is ready.
    pub next_due: Option<Duration>,
}

/// A lease of a job that runs on this host.
#[derive(Clone, Debug)]
pub struct LeaseRef {
    pub id: JobId,
    /// 0 if the run started without a lease.
    pub number: u64,
    pub owner: String,
}

/// How a job ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JobOutcome {
    Done(StoredResponse),
    /// It is dead, for this reason.
    Dead(String),
}

/// How a job of this host ended elsewhere.
#[derive(Clone, Debug)]
pub struct FetchedOutcome {
    pub id: JobId,
    pub attempts: u32,
    pub deliveries: u32,
    /// `None` if it cannot be decoded.
    pub outcome: Option<JobOutcome>,
}

/// The reply to an owner's heartbeat.
#[derive(Clone, Copy, Debug)]
pub struct OwnerHeartbeatReply {
    /// Changes of the owner, as Redis counts them.
    pub count: u64,
    /// Jobs of the owner in Redis.
    pub jobs: u64,
    /// Redis' clock, in milliseconds.
    pub now: u64,
}

/// Each call fails if Redis does not respond, or responds with something unexpected.
#[allow(clippy::missing_errors_doc)]
impl JobsClient {
    pub fn new(link: RedisLink, owner: String) -> JobsClient {
        JobsClient { link, scripts: JobScripts::new(), owner }
    }

    pub fn owner(&self) -> &str {
        &self.owner
    }

    /// Publishes jobs. Returns the owner's number of changes.
    pub async fn publish(&self, jobs: &[JobDescriptor]) -> Result<u64, RedisCallError> {
        let mut args = self.args();
        args.text("0");
        jobs.iter().for_each(|job| args.descriptor(job));
        let reply: Vec<Value> = self.run(&self.scripts.publish, args).await?;
        codec::number(&reply, 0)
    }

    pub async fn publish_and_claim(
        &self,
        job: &JobDescriptor,
    ) -> Result<ClaimReply, RedisCallError> {
        let mut args = self.args();
        args.text("1");
        args.descriptor(job);
        codec::claim_reply(&self.run::<Vec<Value>>(&self.scripts.publish, args).await?)
    }

    /// Returns the owner's number of changes, and the indexes of the entries that Redis does not
    /// have. `clock_was_set`: the entries' times replace those in Redis.
    pub async fn known(
        &self,
        entries: &[PartitionEntry],
        clock_was_set: bool,
    ) -> Result<(u64, Vec<usize>), RedisCallError> {
        let mut args = self.args();
        args.text(u8::from(clock_was_set));
        entries.iter().for_each(|entry| args.entry(entry));
        let reply: Vec<Value> = self.run(&self.scripts.known, args).await?;
        let missing = codec::list(&reply, 1)?;
        let missing = (0..missing.len()).map(|at| codec::number(missing, at));
        Ok((codec::number(&reply, 0)?, missing.collect::<Result<_, _>>()?))
    }

    /// Claims a job of this owner, which knows of `attempts` failed runs.
    pub async fn claim(&self, id: JobId, attempts: u32) -> Result<ClaimReply, RedisCallError> {
        let mut args = self.args();
        args.text(id);
        args.text(attempts);
        codec::claim_reply(&self.run::<Vec<Value>>(&self.scripts.claim, args).await?)
    }

    /// Takes at most `want` jobs of other hosts, from a position that `draw` (0 to 1) selects. A job
    /// that was started `max_deliveries` times becomes dead.
    pub async fn take(
        &self,
        partitions: &[String],
        want: usize,
        max_deliveries: u32,
        draw: f64,
    ) -> Result<TakeReply, RedisCallError> {
        let mut args = self.args();
        args.text(want);
        args.text(max_deliveries);
        args.text(draw);
        partitions.iter().for_each(|partition| args.text(partition));
        codec::take_reply(&self.run::<Vec<Value>>(&self.scripts.take, args).await?)
    }

    /// Renews leases. Returns the number of each; 0 if it is lost.
    pub async fn renew(&self, leases: &[LeaseRef]) -> Result<Vec<u64>, RedisCallError> {
        let mut args = self.args();
        for lease in leases {
            args.text(lease.id);
            args.text(lease.number);
            args.text(&lease.owner);
        }
        let reply: Vec<Value> = self.run(&self.scripts.renew, args).await?;
        (0..leases.len()).map(|at| codec::number(&reply, at)).collect()
    }

    /// Gives a job back: it is ready again after `delay`. If it did not fail, the run does not
    /// count. Returns whether the lease still held.
    pub async fn give_back(
        &self,
        id: JobId,
        number: u64,
        delay: Duration,
        failed: bool,
    ) -> Result<bool, RedisCallError> {
        let mut args = self.args();
        args.text(id);
        args.text(number);
        args.text(delay.as_millis());
        args.text(u8::from(failed));
        Ok(self.run::<u64>(&self.scripts.back, args).await? == 1)
    }

    /// Stores how a borrowed job ended under the lease with this number. Returns whether it counts.
    pub async fn finish(
        &self,
        job: &BorrowedJob,
        number: u64,
        attempts: u32,
        outcome: &JobOutcome,
    ) -> Result<bool, RedisCallError> {
        let mut args = self.args();
        args.text(job.id);
        args.text(number);
        args.text(&job.owner);
        args.text(job.keep.as_millis());
        args.text(attempts);
        args.text(job.claim.deliveries);
        args.outcome(outcome);
        Ok(self.run::<u64>(&self.scripts.end, args).await? == 1)
    }

    /// Fetches results of this owner's jobs; the same ones until they are removed.
    pub async fn fetch(&self, most: usize) -> Result<Vec<FetchedOutcome>, RedisCallError> {
        let mut args = self.args();
        args.text(most);
        let reply: Vec<Value> = self.run(&self.scripts.fetch, args).await?;
        (0..reply.len()).map(|at| codec::fetched_outcome(codec::list(&reply, at)?)).collect()
    }

    /// Removes jobs of this owner. Returns the owner's number of changes.
    pub async fn remove(&self, ids: &[JobId]) -> Result<u64, RedisCallError> {
        let mut args = self.args();
        ids.iter().for_each(|id| args.text(id));
        self.run(&self.scripts.clear, args).await
    }

    pub async fn heartbeat(&self) -> Result<OwnerHeartbeatReply, RedisCallError> {
        let reply: Vec<Value> = self.run(&self.scripts.beat, self.args()).await?;
        let number = |at| codec::number(&reply, at);
        Ok(OwnerHeartbeatReply { count: number(0)?, jobs: number(1)?, now: number(2)? })
    }

    /// Makes the jobs ready again that an earlier process of this host held. Returns their number.
    pub async fn resign(&self) -> Result<u64, RedisCallError> {
        self.run(&self.scripts.resign, self.args()).await
    }

    /// Reads some of this owner's jobs from a cursor on. Returns the next cursor, which is 0 at the
    /// end.
    pub async fn scan_own(&self, cursor: u64) -> Result<(u64, Vec<JobId>), RedisCallError> {
        let key = self.link.key(&format!("{PREFIX}o:{}", self.owner));
        let mut scan = redis::cmd("SSCAN");
        scan.arg(key).arg(cursor).arg("COUNT").arg(SCAN_COUNT);
        let reply: Vec<Value> = self.link.command(&scan).await?;
        let ids = codec::list(&reply, 1)?.iter().filter_map(|value| codec::id(value).ok());
        Ok((codec::number(&reply, 0)?, ids.collect()))
    }

    /// Waits on a connection of its own, and calls `notify` each time a job of this owner ended
    /// elsewhere, until that connection breaks.
    pub async fn listen_for_results(&self, notify: impl Fn()) -> Result<(), RedisCallError> {
        let mut connection = self.link.address().connect(BLOCK + CALL_TIMEOUT).await?;
        let mut wait = redis::cmd("BLPOP");
        wait.arg(self.link.key(&format!("{PREFIX}w:{}", self.owner))).arg(BLOCK.as_secs());
        loop {
            let popped: Value = match &mut connection {
                RedisConnection::Single(single) => wait.query_async(single).await?,
                RedisConnection::Cluster(cluster) => wait.query_async(cluster).await?,
            };
            if popped != Value::Nil {
                notify();
            }
        }
    }

    fn args(&self) -> ScriptArgs {
        let mut args = ScriptArgs::default();
        args.text(&self.owner);
        args
    }

    async fn run<T: FromRedisValue>(
        &self,
        script: &RedisScript,
        args: ScriptArgs,
    ) -> Result<T, RedisCallError> {
        self.link.run(script, &[PREFIX], args.0).await
    }
}
