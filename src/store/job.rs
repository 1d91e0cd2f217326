//! What a job is while it lies in the store: what was asked, where it stands, what came of it.

use std::fmt;
use std::str::FromStr;
use std::time::{Duration, SystemTime};

use bytes::Bytes;

use super::transitions::Partition;

/// A job's name: when it was made, then 80 random bits, so that nobody can guess another's (as RFC
/// 9562, 5.7). Names that begin with the time lie side by side in the index: wholly random ones
/// would each write a page of it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct JobId(pub [u8; 16]);

/// Where a job stands (QUEUE.md "States"; what is accepted is ready at once).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum JobState {
    Ready,
    /// An attempt failed; another follows.
    RetryWait,
    /// It is being run.
    Leased,
    /// It has an answer.
    Done,
    /// It failed for good, or was begun too often without an end.
    Dead,
    /// Its time passed before it was done.
    Expired,
    Cancelled,
}

/// A keyed hash of the credentials of whoever made a job.
pub type Principal = [u8; 32];

/// What is to be done later.
#[derive(Clone, Debug)]
pub struct NewJob {
    pub id: JobId,
    pub queue: String,
    pub route: String,
    /// The class's name.
    pub class: String,
    /// Takes turns with other flows of its class.
    pub flow: Vec<u8>,
    pub principal: Principal,
    pub key: Option<IdempotencyKey>,
    pub request: StoredRequest,
    pub callback: Option<String>,
    pub expires: Millis,
    /// How long it is kept when it is over.
    pub keep: Duration,
}

impl NewJob {
    pub(super) fn line(&self) -> Partition {
        let (queue, route, class) = (self.queue.clone(), self.route.clone(), self.class.clone());
        Partition { queue, route, class }
    }
}

/// An `Idempotency-Key` of the application.
#[derive(Clone, Debug)]
pub struct IdempotencyKey {
    pub text: String,
    /// Of the request that it stands for.
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

/// An answer as it is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredResponse {
    pub status: u16,
    /// Lines of `name: value`.
    pub headers: Vec<u8>,
    pub body: Bytes,
    /// The body is longer than what is kept of it.
    pub cut: bool,
}

/// What a queue keeps at most.
#[derive(Clone, Copy, Debug)]
pub struct QueueLimits {
    /// Jobs that are not done.
    pub jobs: u64,
    /// Of their bodies.
    pub bytes: u64,
}

/// What became of a job that was handed in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EnqueueResult {
    New,
    /// The same request came before, with the same key; without a state it has been forgotten.
    Known(JobId, Option<JobState>),
    /// The key stands for another request.
    OtherRequest,
    Full(QueueFull),
}

/// What of a queue is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QueueFull {
    Jobs(u64),
    Bytes(u64),
}

/// Leave to run a job once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RunLease {
    pub seq: i64,
    /// Tells this lease from an earlier or a later one of the same job.
    pub number: i64,
    /// How often it was begun, with this time.
    pub deliveries: u32,
}

/// A job that may be run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReadyJob {
    pub seq: i64,
    pub id: JobId,
}

/// All that a run of it needs.
#[derive(Clone, Debug)]
pub struct RunnableJob {
    pub seq: i64,
    pub id: JobId,
    pub route: String,
    pub class: String,
    pub flow: Vec<u8>,
    pub request: StoredRequest,
    /// Runs that failed.
    pub attempts: u32,
    /// Times that it was begun.
    pub deliveries: u32,
    pub accepted: Millis,
    pub expires: Millis,
}

/// A job as people and programs are shown it.
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
    /// What failed last.
    pub error: Option<String>,
    pub callback: Option<CallbackStatus>,
    pub principal: Principal,
}

/// Where a result goes, and how far it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CallbackStatus {
    pub url: String,
    /// `waiting`, `sent` or `given_up`.
    pub state: String,
    pub attempts: u32,
}

/// A result that is to be posted.
#[derive(Clone, Debug)]
pub struct PendingCallback {
    pub seq: i64,
    pub id: JobId,
    pub queue: String,
    pub url: String,
    /// Times it was tried.
    pub attempts: u32,
    /// Since when; tells it from a later one of the same job.
    pub due: Millis,
}

/// Milliseconds since 1970: what outlives a process can hold no monotonic time.
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

    /// How long it is until then; zero where it has passed.
    pub fn until(self, then: Millis) -> Duration {
        Duration::from_millis(u64::try_from(then.0.saturating_sub(self.0)).unwrap_or(0))
    }

    pub fn time(self) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_millis(u64::try_from(self.0).unwrap_or(0))
    }
}

impl JobState {
    pub const ALL: [JobState; 7] = [
        JobState::Ready,
        JobState::RetryWait,
        JobState::Leased,
        JobState::Done,
        JobState::Dead,
        JobState::Expired,
        JobState::Cancelled,
    ];

    /// As it stands in the store, in metrics and in the API.
    pub fn as_str(self) -> &'static str {
        match self {
            JobState::Ready => "ready",
            JobState::RetryWait => "retry_wait",
            JobState::Leased => "leased",
            JobState::Done => "done",
            JobState::Dead => "dead",
            JobState::Expired => "expired",
            JobState::Cancelled => "cancelled",
        }
    }

    pub fn is_final(self) -> bool {
        !matches!(self, JobState::Ready | JobState::RetryWait | JobState::Leased)
    }
}

impl FromStr for JobState {
    type Err = String;

    fn from_str(text: &str) -> Result<JobState, String> {
        JobState::ALL.into_iter().find(|state| state.as_str() == text).ok_or_else(|| {
            let known = JobState::ALL.map(JobState::as_str).join(", ");
            format!("`{text}` is no state of a job (expected one of {known})")
        })
    }
}

impl JobId {
    /// `chance` cannot be guessed.
    pub fn new(now: Millis, chance: [u8; 16]) -> JobId {
        let mut id = chance;
        id[..6].copy_from_slice(&now.0.to_be_bytes()[2..]);
        JobId(id)
    }
}

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "JobId({self})")
    }
}

impl FromStr for JobId {
    type Err = String;

    fn from_str(text: &str) -> Result<JobId, String> {
        let wrong = || format!("`{text}` is no id of a job (expected 32 hexadecimal digits)");
        if text.len() != 32 || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(wrong());
        }
        let number = u128::from_str_radix(text, 16).map_err(|_| wrong())?;
        Ok(JobId(number.to_be_bytes()))
    }
}
