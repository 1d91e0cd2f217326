//! The way to Redis: one connection for short calls, made again whenever it breaks.
//!
//! Every call has an end of its own, because a client that reconnects by itself lets a call hang
//! for as long as the outage lasts. What is wrong is told once each way, not with each call. A host
//! is *attached* while its heartbeat was answered within [`AWAY`]; everything else follows from
//! that.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use redis::{ErrorKind, FromRedisValue, RedisError, ServerErrorKind, ToRedisArgs, Value};
use thiserror::Error;
use tokio::sync::{Notify, watch};

use super::scripts::RedisScript;
use super::url::{RedisAddress, RedisConnection};
use crate::clock;

/// An answer that has not come by then does not come.
pub const ANSWER: Duration = Duration::from_secs(5);
/// Without a heartbeat's answer for so long a host is detached.
pub const AWAY: Duration = Duration::from_secs(5);
/// Between attempts to connect, with full jitter.
const AGAIN: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));
const WORDS: usize = 200;

/// Cheap to clone: all are the same way.
#[derive(Clone)]
pub struct RedisLink(Arc<LinkInner>);

struct LinkInner {
    address: RedisAddress,
    /// What every key begins with.
    prefix: String,
    connection: Mutex<ConnectionSlot>,
    broken: Notify,
    attached: watch::Sender<bool>,
    /// Why the last call failed, for who tells that the fleet is away.
    trouble: Mutex<String>,
}

#[derive(Default)]
struct ConnectionSlot {
    connection: Option<RedisConnection>,
    /// Tells a connection from the one before.
    generation: u64,
}

/// Why a call came to nothing.
#[derive(Debug, Error)]
pub enum RedisCallError {
    #[error("there is no connection")]
    Away,
    #[error("no answer within {ANSWER:?}")]
    Silent,
    #[error("{0}")]
    Redis(#[from] RedisError),
    #[error("it answered what was not expected: {0}")]
    Odd(String),
}

impl RedisLink {
    pub fn new(address: RedisAddress, fleet: &str) -> RedisLink {
        RedisLink(Arc::new(LinkInner {
            address,
            prefix: format!("{{outrigger:{fleet}}}:"),
            connection: Mutex::default(),
            broken: Notify::new(),
            attached: watch::Sender::new(false),
            trouble: Mutex::new("nobody was reached yet".to_owned()),
        }))
    }

    pub fn address(&self) -> &RedisAddress {
        &self.0.address
    }

    /// A key of this fleet's; all of them lie in one slot of a cluster.
    pub fn key(&self, rest: &str) -> String {
        format!("{}{rest}", self.0.prefix)
    }

    /// Runs a script on these keys, of which it is given the part behind the fleet's prefix.
    ///
    /// # Errors
    /// Why there is no answer, or that it was an error.
    pub async fn run<T: FromRedisValue>(
        &self,
        script: &RedisScript,
        keys: &[&str],
        args: impl ToRedisArgs,
    ) -> Result<T, RedisCallError> {
        let (mut connection, generation) = self.connection().ok_or(RedisCallError::Away)?;
        let mut call = script.redis().prepare_invoke();
        keys.iter().for_each(|key| {
            call.key(self.key(key));
        });
        call.arg(args);
        let answer = match &mut connection {
            RedisConnection::One(one) => timed(call.invoke_async::<Value>(one)).await,
            RedisConnection::Cluster(cluster) => timed(call.invoke_async::<Value>(cluster)).await,
        };
        self.heard(answer, generation)
    }

    /// Runs a command.
    ///
    /// # Errors
    /// As `run`.
    pub async fn command<T: FromRedisValue>(
        &self,
        command: &redis::Cmd,
    ) -> Result<T, RedisCallError> {
        let (mut connection, generation) = self.connection().ok_or(RedisCallError::Away)?;
        let answer = match &mut connection {
            RedisConnection::One(one) => timed(command.query_async::<Value>(one)).await,
            RedisConnection::Cluster(cluster) => timed(command.query_async::<Value>(cluster)).await,
        };
        self.heard(answer, generation)
    }

    fn heard<T: FromRedisValue>(
        &self,
        answer: Result<Value, RedisCallError>,
        generation: u64,
    ) -> Result<T, RedisCallError> {
        match answer {
            Ok(value) => {
                let shown = || short(&format!("{value:?}"));
                T::from_redis_value_ref(&value).map_err(|_| RedisCallError::Odd(shown()))
            }
            Err(failure) => {
                *self.0.trouble.lock() = short(&failure.to_string());
                if failure.breaks() {
                    self.drop_connection(generation);
                }
                Err(failure)
            }
        }
    }

    /// What went wrong last.
    pub fn trouble(&self) -> String {
        self.0.trouble.lock().clone()
    }

    pub fn is_attached(&self) -> bool {
        *self.0.attached.borrow()
    }

    /// Tells whether the fleet is there; whether that is news.
    pub fn attach(&self, attached: bool) -> bool {
        self.0.attached.send_replace(attached) != attached
    }

    /// Hears each time that it is attached or detached.
    pub fn watch(&self) -> watch::Receiver<bool> {
        self.0.attached.subscribe()
    }

    /// Connects, and again whenever that breaks.
    pub async fn keep(&self) {
        let mut most = AGAIN.0;
        loop {
            let broken = self.0.broken.notified();
            match self.0.address.connect(ANSWER).await {
                Ok(connection) => {
                    self.hold(connection);
                    let began = clock::now();
                    broken.await;
                    if clock::since(began) > AWAY {
                        most = AGAIN.0;
                    }
                }
                Err(error) => *self.0.trouble.lock() = short(&error.to_string()),
            }
            tokio::time::sleep(most.mul_f64(clock::draw())).await;
            most = (most * 2).min(AGAIN.1);
        }
    }

    fn hold(&self, connection: RedisConnection) {
        let mut held = self.0.connection.lock();
        held.connection = Some(connection);
        held.generation += 1;
    }

    fn connection(&self) -> Option<(RedisConnection, u64)> {
        let held = self.0.connection.lock();
        Some((held.connection.clone()?, held.generation))
    }

    /// A heartbeat that is overdue: another connection may fare better.
    pub fn give_up(&self) {
        let generation = self.0.connection.lock().generation;
        self.drop_connection(generation);
    }

    fn drop_connection(&self, generation: u64) {
        let mut held = self.0.connection.lock();
        if held.generation == generation && held.connection.take().is_some() {
            self.0.broken.notify_one();
        }
    }
}

impl fmt::Debug for RedisLink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Link({:?})", self.0.address)
    }
}

impl RedisCallError {
    /// Whether another connection is wanted: this one is of no use, or leads to a server that was
    /// demoted.
    fn breaks(&self) -> bool {
        match self {
            RedisCallError::Silent => true,
            RedisCallError::Redis(error) => {
                error.is_unrecoverable_error()
                    || error.is_io_error()
                    || matches!(
                        error.kind(),
                        ErrorKind::Parse
                            | ErrorKind::AuthenticationFailed
                            | ErrorKind::Server(ServerErrorKind::ReadOnly)
                            | ErrorKind::Server(ServerErrorKind::MasterDown)
                    )
            }
            RedisCallError::Away | RedisCallError::Odd(_) => false,
        }
    }
}

async fn timed<T>(call: impl Future<Output = Result<T, RedisError>>) -> Result<T, RedisCallError> {
    match tokio::time::timeout(ANSWER, call).await {
        Ok(answer) => Ok(answer?),
        Err(_) => Err(RedisCallError::Silent),
    }
}

/// One line of bounded length.
fn short(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(WORDS).collect()
}

/// By this host's clock: `until` by Redis', which said `now` when an answer came `at`.
pub fn instant(until: u64, now: u64, at: Instant) -> Instant {
    at + Duration::from_micros(until.saturating_sub(now)).min(FARTHEST)
}

/// Ends that lie beyond it are taken for this: an `Instant` must be able to hold them, and the clock
/// that told them may have been set.
const FARTHEST: Duration = Duration::from_secs(31 * 24 * 3600);
