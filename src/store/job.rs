//! Types of a stored job: its request, its state, its result.

use std::fmt;
use std::str::FromStr;
use std::time::{Duration, SystemTime};

use bytes::Bytes;

use super::transitions::Partition;
use crate::resilience::words::words;

/// A job's id: 48 bits of time, then 80 random bits, so that it cannot be guessed (as RFC 9562, 5.7).
/// Ids that begin with the time are adjacent in the index; fully random ones would each write a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct JobId(pub [u8; 16]);

words! {
    /// The state of a job (docs/design/queue.md "States"). A new job is ready at once.
    pub enum JobState {
        Ready = "ready",
        /// An attempt failed; another follows.
        RetryWait = "retry_wait",
        /// It is being run.
        Leased = "leased",
        /// It has a response.
        Done = "done",
        /// It failed for good, or was started too often without an end.
        Dead = "dead",
        /// `durable.expire` passed before it was done.
        Expired = "expired",
        Cancelled = "cancelled",
    }

    pub enum CallbackState {
        /// The job is not final yet.
        None = "none",
        Waiting = "waiting",
        Sent = "sent",
        GivenUp = "given_up",
    }
}

/// A keyed hash of the credentials of the client that created a job.
pub type Principal = [u8; 32];

/// A request to be stored as a job.
#[derive(Clone, Debug)]
pub struct NewJob {
    pub id: JobId,
    pub queue: String,
    pub route: String,
    /// Name of the class.
    pub class: String,
    /// Flows of a class take turns.
    pub flow: Vec<u8>,
    pub principal: Principal,
    pub key: Option<IdempotencyKey>,
    pub request: StoredRequest,
    pub callback: Option<String>,
    pub expires: Millis,
    /// How long it is kept once it is final.
    pub keep: Duration,
}

impl NewJob {
    pub(super) fn partition(&self) -> Partition {
        let (queue, route, class) = (self.queue.clone(), self.route.clone(), self.class.clone());
        Partition { queue, route, class }
    }
}

/// An `Idempotency-Key` of the application.
#[derive(Clone, Debug)]
pub struct IdempotencyKey {
    pub text: String,
    /// Identifies the request.
    pub fingerprint: [u8; 32],
}

/// A request without its credentials.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredRequest {
    pub method: String,
    /// Path and query.
    pub uri: String,
    /// Lines of `name: value`.
    pub headers: Vec<u8>,
    pub body: Bytes,
}

/// The request of a job and its flow.
#[derive(Clone, Debug)]
pub struct JobContent {
    pub request: StoredRequest,
    pub flow: Vec<u8>,
}

/// A response as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredResponse {
    pub status: u16,
    /// Lines of `name: value`.
    pub headers: Vec<u8>,
    pub body: Bytes,
    /// The body was cut to `max_result`.
    pub cut: bool,
}

/// How a job ended: with a response, or dead for this reason.
pub type JobOutcome = Result<StoredResponse, String>;

/// Limits of a queue's unfinished jobs.
#[derive(Clone, Copy, Debug)]
pub struct QueueLimits {
    pub jobs: u64,
    /// Bytes of their request bodies.
    pub bytes: u64,
}

/// The result of enqueueing a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EnqueueResult {
    New,
    /// The same request came before, with the same key. Without a state, its job was deleted.
    Known(JobId, Option<JobState>),
    /// The key was used for another request.
    OtherRequest,
    Full(QueueFull),
}

/// The limit that a queue has reached, with its current value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QueueFull {
    Jobs(u64),
    Bytes(u64),
}

/// The right to run a job once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RunLease {
    pub seq: i64,
    /// Identifies this lease among those of the same job.
    pub number: i64,
    /// Runs that were started, this one included.
    pub deliveries: u32,
}

/// A job that is ready to run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReadyJob {
    pub seq: i64,
    pub id: JobId,
}

/// Everything that a run of a job needs.
#[derive(Clone, Debug)]
pub struct RunnableJob {
    pub seq: i64,
    pub id: JobId,
    pub flow: Vec<u8>,
    pub request: StoredRequest,
    /// Runs that failed.
    pub attempts: u32,
    /// Runs that were started.
    pub deliveries: u32,
    pub accepted: Millis,
    pub expires: Millis,
}

/// A job as the API shows it.
#[derive(Clone, Debug)]
pub struct JobRecord {
    pub seq: i64,
    pub id: JobId,
    pub queue: String,
    pub route: String,
    pub class: String,
    pub state: JobState,
    pub method: String,
    pub uri: String,
    pub bytes: u64,
    pub attempts: u32,
    pub deliveries: u32,
    pub accepted: Millis,
    pub due: Option<Millis>,
    pub expires: Millis,
    pub finished: Option<Millis>,
    /// The last failure.
    pub error: Option<String>,
    pub callback: Option<JobCallback>,
    pub principal: Principal,
}

/// The callback of a job and its progress.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobCallback {
    pub url: String,
    pub state: CallbackState,
    pub attempts: u32,
}

/// The result of one attempt to post a callback.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallbackResult {
    Sent,
    RetryAt(Millis),
    GivenUp,
}

/// A result to be posted.
#[derive(Clone, Debug)]
pub struct PendingCallback {
    pub seq: i64,
    pub id: JobId,
    pub queue: String,
    pub url: String,
    /// Failed attempts.
    pub attempts: u32,
    /// Since when; identifies it among the callbacks of the same job.
    pub due: Millis,
}

/// Milliseconds since 1970. A stored time cannot be monotonic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Millis(pub i64);

impl Millis {
    pub fn of(at: SystemTime) -> Millis {
        let since = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Millis(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
    }

    pub fn after(self, length: Duration) -> Millis {
        let length = i64::try_from(length.as_millis()).unwrap_or(i64::MAX);
        Millis(self.0.saturating_add(length))
    }

    /// The time from `self` until `then`; zero if it has passed.
    pub fn until(self, then: Millis) -> Duration {
        Duration::from_millis(u64::try_from(then.0.saturating_sub(self.0)).unwrap_or(0))
    }

    pub fn time(self) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_millis(u64::try_from(self.0).unwrap_or(0))
    }
}

impl JobState {
    pub fn is_final(self) -> bool {
        !matches!(self, JobState::Ready | JobState::RetryWait | JobState::Leased)
    }
}

impl FromStr for JobState {
    type Err = String;

    fn from_str(text: &str) -> Result<JobState, String> {
        JobState::from_word(text).ok_or_else(|| {
            let known = JobState::ALL.map(JobState::as_str).join(", ");
            format!("`{text}` is not a state of a job (expected one of {known})")
        })
    }
}

impl JobId {
    /// `random` must not be predictable.
    pub fn new(now: Millis, random: [u8; 16]) -> JobId {
        let mut id = random;
        id[..6].copy_from_slice(&now.0.to_be_bytes()[2..]);
        JobId(id)
    }
}

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl FromStr for JobId {
    type Err = String;

    fn from_str(text: &str) -> Result<JobId, String> {
        let invalid =
            || format!("`{text}` is not the id of a job (expected 32 hexadecimal digits)");
        if text.len() != 32 || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(invalid());
        }
        let number = u128::from_str_radix(text, 16).map_err(|_| invalid())?;
        Ok(JobId(number.to_be_bytes()))
    }
}
