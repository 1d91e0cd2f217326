//! Calls to Redis for shared jobs (docs/design/queue.md "Shared jobs"; keys and scripts:
//! docs/design/fleet.md "Jobs").
//!
//! The owner's store is the truth until a final state is written there; Redis records which host
//! runs a job now. An owner publishes its jobs and claims them for itself, other hosts take them, a
//! lease is renewed or lost, and a result waits for the owner to fetch it. Each call is one atomic
//! script on Redis' clock, and may be repeated. `job.lua` documents the keys.

use std::time::Duration;

use redis::{FromRedisValue, Script, ToRedisArgs, Value};

use super::codec::{OutcomeArgs, millis};
use super::scripts::JobScripts;
use crate::fleet::redis::connection::{CALL_TIMEOUT, NO_ARGS, RedisCallError, RedisLink};
use crate::fleet::redis::url::RedisConnection;
use crate::store::{JobContent, JobId, JobOutcome, RemoteOutcome, StoredRequest};

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
impl JobsClient {
    pub fn new(link: RedisLink, owner: String) -> JobsClient {
        JobsClient { link, scripts: JobScripts::default(), owner }
    }

    pub fn owner(&self) -> &str {
        &self.owner
    }

    /// Publishes jobs. Returns the owner's number of changes.
    pub async fn publish(&self, jobs: &[JobDescriptor]) -> Result<u64, RedisCallError> {
        let (count, _): (u64, Value) = self.run(&self.scripts.publish, (false, jobs)).await?;
        Ok(count)
    }

    pub async fn publish_and_claim(
        &self,
        job: &JobDescriptor,
    ) -> Result<ClaimReply, RedisCallError> {
        self.run(&self.scripts.publish, (true, job)).await
    }

    /// Returns the owner's number of changes, and the indexes of the entries that Redis does not
    /// have. `clock_was_set`: the entries' times replace those in Redis.
    pub async fn known(
        &self,
        entries: &[PartitionEntry],
        clock_was_set: bool,
    ) -> Result<(u64, Vec<usize>), RedisCallError> {
        self.run(&self.scripts.known, (clock_was_set, entries)).await
    }

    /// Claims a job of this owner, which knows of `attempts` failed runs.
    pub async fn claim(&self, id: JobId, attempts: u32) -> Result<ClaimReply, RedisCallError> {
        self.run(&self.scripts.claim, (id, attempts)).await
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
        let args = (want, max_deliveries, draw, partitions);
        let (jobs, results_waiting, next_due): (Vec<Value>, u64, i64) =
            self.run(&self.scripts.take, args).await?;
        // A job that cannot be decoded does not start; it is dead once it was taken often enough.
        let jobs = BorrowedJob::from_each_redis_values(jobs).into_iter().flatten().collect();
        let next_due = u64::try_from(next_due).ok().map(Duration::from_millis);
        Ok(TakeReply { jobs, results_waiting, next_due })
    }

    /// Renews leases. Returns the number of each; 0 if it is lost.
    pub async fn renew(&self, leases: &[LeaseRef]) -> Result<Vec<u64>, RedisCallError> {
        self.run(&self.scripts.renew, leases).await
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
        self.run(&self.scripts.back, (id, number, millis(delay), failed)).await
    }

    /// Stores how a borrowed job ended under the lease with this number. Returns whether it counts.
    pub async fn finish(
        &self,
        job: &BorrowedJob,
        number: u64,
        attempts: u32,
        outcome: &JobOutcome,
    ) -> Result<bool, RedisCallError> {
        let run = (job.id, number, &job.owner, millis(job.keep), attempts, job.claim.deliveries);
        self.run(&self.scripts.end, (run, OutcomeArgs(outcome))).await
    }

    /// Fetches outcomes of this owner's jobs; the same ones until they are removed. An outcome is
    /// `None` if it cannot be decoded.
    pub async fn fetch(
        &self,
        most: usize,
    ) -> Result<Vec<(JobId, Option<RemoteOutcome>)>, RedisCallError> {
        let reply: Vec<Vec<Value>> = self.run(&self.scripts.fetch, most).await?;
        let decode = |fields: Vec<Value>| {
            let id = fields.first().and_then(|id| JobId::from_redis_value_ref(id).ok())?;
            Some((id, RemoteOutcome::from_redis_value(Value::Array(fields)).ok()))
        };
        Ok(reply.into_iter().filter_map(decode).collect())
    }

    /// Removes jobs of this owner. Returns the owner's number of changes.
    pub async fn remove(&self, ids: &[JobId]) -> Result<u64, RedisCallError> {
        self.run(&self.scripts.clear, ids).await
    }

    pub async fn heartbeat(&self) -> Result<OwnerHeartbeatReply, RedisCallError> {
        let (count, jobs, now) = self.run(&self.scripts.beat, NO_ARGS).await?;
        Ok(OwnerHeartbeatReply { count, jobs, now })
    }

    /// Makes the jobs ready again that an earlier process of this host held. Returns their number.
    pub async fn resign(&self) -> Result<u64, RedisCallError> {
        self.run(&self.scripts.resign, NO_ARGS).await
    }

    /// Reads some of this owner's jobs from a cursor on. Returns the next cursor, which is 0 at the
    /// end.
    pub async fn scan_own(&self, cursor: u64) -> Result<(u64, Vec<JobId>), RedisCallError> {
        let key = self.link.key(&format!("{PREFIX}o:{}", self.owner));
        let mut scan = redis::cmd("SSCAN");
        scan.arg(key).arg(cursor).arg("COUNT").arg(SCAN_COUNT);
        let reply = self.link.command(&scan).await.inspect_err(log_failure);
        let (next, ids): (u64, Vec<Value>) = reply?;
        Ok((next, JobId::from_each_redis_values(ids).into_iter().flatten().collect()))
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

    async fn run<T: FromRedisValue>(
        &self,
        script: &Script,
        args: impl ToRedisArgs,
    ) -> Result<T, RedisCallError> {
        let reply = self.link.run(script, &[PREFIX], (&self.owner, args)).await;
        reply.inspect_err(log_failure)
    }
}

fn log_failure(error: &RedisCallError) {
    tracing::debug!(%error, "shared jobs: a call to redis failed");
}
