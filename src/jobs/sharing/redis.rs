//! Jobs that hosts share (QUEUE.md "With Redis and `share: true`"): what is told of them in Redis, and
//! what is heard.
//!
//! The owner's journal is the truth until a final state is seen there; Redis says who runs a job now.
//! So every call here is about who: an owner tells of its jobs and claims them for itself, others take
//! them, a lease is renewed or lost, an end is left for the owner to fetch. Each is one script, atomic,
//! by Redis' clock; `job.lua` says what lies where. All that was said can be said again.

use std::time::Duration;

use redis::{FromRedisValue, Value};

use super::codec as told;
use super::codec::ScriptArgs;
use super::scripts::JobScripts;
use crate::fleet::redis::connection::{ANSWER, RedisCallError, RedisLink};
use crate::fleet::redis::url::RedisConnection;
use crate::store::{JobId, StoredRequest, StoredResponse};

/// What the names of all keys of jobs begin with.
const BASE: &str = "j:";
/// One wait for ends lasts so long.
const BLOCK: Duration = Duration::from_secs(5);
/// Ids that are read at once of all that an owner has in Redis.
const PAGE: usize = 512;

/// Where jobs are told of, and by whom.
#[derive(Debug)]
pub struct JobsClient {
    link: RedisLink,
    scripts: JobScripts,
    /// Whose jobs these are: the store's name, which outlives the process.
    me: String,
}

/// A job as it is told of.
#[derive(Clone, Debug)]
pub struct JobDescriptor {
    pub place: PartitionEntry,
    /// How long it is kept when it is over.
    pub keep: Duration,
    pub attempts: u32,
    pub deliveries: u32,
    pub request: StoredRequest,
    pub flow: Vec<u8>,
}

/// Where a job stands among others.
#[derive(Clone, Debug)]
pub struct PartitionEntry {
    pub id: JobId,
    /// Whoever has the same line may run it.
    pub line: String,
    /// Ready since (or, above zero, from) so many milliseconds from now.
    pub since: i64,
    /// Never run when this has passed.
    pub expires: Duration,
}

/// Leave to run a job, for as long as it is renewed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claim {
    /// Tells it from any other of the same job.
    pub number: u64,
    /// Runs that failed.
    pub attempts: u32,
    /// Times that it was begun, with this one.
    pub deliveries: u32,
}

/// What an owner hears that is about to run a job of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClaimReply {
    Mine(Claim),
    /// Somebody has it for so long at least.
    Elsewhere(Duration),
    /// It ended; how, is to be fetched.
    Ended,
    /// Redis does not know it, but so many changes of the owner's.
    Unknown(u64),
}

/// A job of another, to be run here.
#[derive(Clone, Debug)]
pub struct BorrowedJob {
    pub id: JobId,
    pub owner: String,
    pub line: String,
    pub claim: Claim,
    pub expires: Duration,
    pub keep: Duration,
    pub request: StoredRequest,
    pub flow: Vec<u8>,
}

/// What a host hears that has room for jobs of others.
#[derive(Clone, Debug, Default)]
pub struct TakeReply {
    pub loans: Vec<BorrowedJob>,
    /// How many of its own ended elsewhere.
    pub ended: u64,
    /// When more are due.
    pub due: Option<Duration>,
}

/// How a job ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JobOutcome {
    Answered(StoredResponse),
    /// For good, and why.
    Dead(String),
}

/// How one of an owner's jobs ended elsewhere.
#[derive(Clone, Debug)]
pub struct FetchedOutcome {
    pub id: JobId,
    pub attempts: u32,
    pub deliveries: u32,
    /// `None`: it cannot be read.
    pub end: Option<JobOutcome>,
}

/// What an owner hears each second.
#[derive(Clone, Copy, Debug)]
pub struct OwnerHeartbeatReply {
    /// Changes that it made, as Redis counts them.
    pub count: u64,
    /// Its jobs in Redis.
    pub jobs: u64,
    /// Redis' clock, in milliseconds.
    pub now: u64,
}

/// Each call fails where Redis does not answer, or with what nobody expects.
#[allow(clippy::missing_errors_doc)]
impl JobsClient {
    pub fn new(link: RedisLink, me: String) -> JobsClient {
        JobsClient { link, scripts: JobScripts::new(), me }
    }

    pub fn me(&self) -> &str {
        &self.me
    }

    /// Tells of jobs. Gives how many changes Redis counts then.
    pub async fn publish(&self, notices: &[JobDescriptor]) -> Result<u64, RedisCallError> {
        let mut args = self.args();
        args.text("0");
        notices.iter().for_each(|notice| args.notice(notice));
        let answer: Vec<Value> = self.run(&self.scripts.publish, args).await?;
        told::number(&answer, 0)
    }

    /// Tells of one and claims it.
    pub async fn publish_mine(&self, notice: &JobDescriptor) -> Result<ClaimReply, RedisCallError> {
        let mut args = self.args();
        args.text("1");
        args.notice(notice);
        told::claimed(&self.run::<Vec<Value>>(&self.scripts.publish, args).await?)
    }

    /// Which of these (by their index) Redis does not know, and the count of changes. `anew`: its
    /// clock was set.
    pub async fn known(
        &self,
        places: &[PartitionEntry],
        anew: bool,
    ) -> Result<(u64, Vec<usize>), RedisCallError> {
        let mut args = self.args();
        args.text(u8::from(anew));
        places.iter().for_each(|place| args.place(place));
        let answer: Vec<Value> = self.run(&self.scripts.known, args).await?;
        let missing = told::list(&answer, 1)?;
        let missing = (0..missing.len()).map(|at| told::number(missing, at));
        Ok((told::number(&answer, 0)?, missing.collect::<Result<_, _>>()?))
    }

    /// Claims a job of one's own; `attempts`: runs that the owner knows to have failed.
    pub async fn claim(&self, id: JobId, attempts: u32) -> Result<ClaimReply, RedisCallError> {
        let mut args = self.args();
        args.text(id);
        args.text(attempts);
        told::claimed(&self.run::<Vec<Value>>(&self.scripts.claim, args).await?)
    }

    /// Takes jobs of others, at most so many. `draw`: chance, from 0 to 1. One that was begun
    /// `most` times is dead.
    pub async fn take(
        &self,
        lines: &[String],
        want: usize,
        most: u32,
        draw: f64,
    ) -> Result<TakeReply, RedisCallError> {
        let mut args = self.args();
        args.text(want);
        args.text(most);
        args.text(draw);
        lines.iter().for_each(|line| args.text(line));
        told::taken(&self.run::<Vec<Value>>(&self.scripts.take, args).await?)
    }

    /// Runs these on: their ids, numbers (0: begun without a lease) and owners. Gives the number of
    /// each; 0 where it is lost.
    pub async fn renew(&self, held: &[(JobId, u64, String)]) -> Result<Vec<u64>, RedisCallError> {
        let mut args = self.args();
        for (id, number, owner) in held {
            args.text(id);
            args.text(number);
            args.text(owner);
        }
        let answer: Vec<Value> = self.run(&self.scripts.renew, args).await?;
        (0..held.len()).map(|at| told::number(&answer, at)).collect()
    }

    /// Gives a job back: it is ready again after a rest. `spent`: it failed; else it was not run.
    /// Whether the lease still held.
    pub async fn give_back(
        &self,
        id: JobId,
        number: u64,
        rest: Duration,
        spent: bool,
    ) -> Result<bool, RedisCallError> {
        let mut args = self.args();
        args.text(id);
        args.text(number);
        args.text(rest.as_millis());
        args.text(u8::from(spent));
        Ok(self.run::<u64>(&self.scripts.back, args).await? == 1)
    }

    /// Leaves the end of a loan, which was run under the lease of this number, for its owner. Whether it
    /// counts.
    pub async fn end(
        &self,
        loan: &BorrowedJob,
        number: u64,
        attempts: u32,
        end: &JobOutcome,
    ) -> Result<bool, RedisCallError> {
        let mut args = self.args();
        args.text(loan.id);
        args.text(number);
        args.text(&loan.owner);
        args.text(loan.keep.as_millis());
        args.text(attempts);
        args.text(loan.claim.deliveries);
        args.end(end);
        Ok(self.run::<u64>(&self.scripts.end, args).await? == 1)
    }

    /// How jobs of one's own ended elsewhere; the same ones until they are cleared.
    pub async fn fetch(&self, most: usize) -> Result<Vec<FetchedOutcome>, RedisCallError> {
        let mut args = self.args();
        args.text(most);
        let answer: Vec<Value> = self.run(&self.scripts.fetch, args).await?;
        (0..answer.len()).map(|at| told::ended(told::list(&answer, at)?)).collect()
    }

    /// Has no more to do with these. Gives how many changes Redis counts then.
    pub async fn clear(&self, ids: &[JobId]) -> Result<u64, RedisCallError> {
        let mut args = self.args();
        ids.iter().for_each(|id| args.text(id));
        self.run(&self.scripts.clear, args).await
    }

    pub async fn beat(&self) -> Result<OwnerHeartbeatReply, RedisCallError> {
        let answer: Vec<Value> = self.run(&self.scripts.beat, self.args()).await?;
        let number = |at| told::number(&answer, at);
        Ok(OwnerHeartbeatReply { count: number(0)?, jobs: number(1)?, now: number(2)? })
    }

    /// What a process before this one held is ready again. Gives how many.
    pub async fn resign(&self) -> Result<u64, RedisCallError> {
        self.run(&self.scripts.resign, self.args()).await
    }

    /// Some of one's own that are in Redis, from a cursor on, and the next; 0 at the beginning and at
    /// the end.
    pub async fn mine(&self, cursor: u64) -> Result<(u64, Vec<JobId>), RedisCallError> {
        let key = self.link.key(&format!("{BASE}o:{}", self.me));
        let mut scan = redis::cmd("SSCAN");
        scan.arg(key).arg(cursor).arg("COUNT").arg(PAGE);
        let answer: Vec<Value> = self.link.command(&scan).await?;
        let ids = told::list(&answer, 1)?.iter().filter_map(|value| told::id(value).ok());
        Ok((told::number(&answer, 0)?, ids.collect()))
    }

    /// Waits, on a connection of its own, and says each time that one of one's own ended elsewhere;
    /// until that connection breaks.
    pub async fn hear_ends(&self, told: impl Fn()) -> Result<(), RedisCallError> {
        let mut connection = self.link.address().connect(BLOCK + ANSWER).await?;
        let mut wait = redis::cmd("BLPOP");
        wait.arg(self.link.key(&format!("{BASE}w:{}", self.me))).arg(BLOCK.as_secs());
        loop {
            let some: Value = match &mut connection {
                RedisConnection::One(one) => wait.query_async(one).await?,
                RedisConnection::Cluster(cluster) => wait.query_async(cluster).await?,
            };
            if some != Value::Nil {
                told();
            }
        }
    }

    fn args(&self) -> ScriptArgs {
        let mut args = ScriptArgs::default();
        args.text(&self.me);
        args
    }

    async fn run<T: FromRedisValue>(
        &self,
        script: &crate::fleet::redis::scripts::RedisScript,
        args: ScriptArgs,
    ) -> Result<T, RedisCallError> {
        self.link.run(script, &[BASE], args.0).await
    }
}
