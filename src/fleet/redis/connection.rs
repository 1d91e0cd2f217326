//! The connection to Redis: one for short calls, opened again whenever it breaks.
//!
//! Every call has its own timeout, because a client that reconnects by itself lets a call hang for as
//! long as the outage lasts. A host is *attached* while its last successful heartbeat is no older than
//! [`DETACH_AFTER`]; it logs each change of that state, not each failed call.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use redis::{ErrorKind, FromRedisValue, RedisError, Script, ServerErrorKind, ToRedisArgs, Value};
use thiserror::Error;
use tokio::sync::Notify;

use super::url::{RedisAddress, RedisConnection};
use crate::clock;

/// The arguments of a script that takes none.
pub const NO_ARGS: &[u64] = &[];
/// Timeout of one call.
pub const CALL_TIMEOUT: Duration = Duration::from_secs(5);
/// A host without a successful heartbeat for this long is detached.
pub const DETACH_AFTER: Duration = Duration::from_secs(5);
/// Delay between attempts to connect: doubles from the first to the second, with full jitter.
const RECONNECT_MIN: Duration = Duration::from_millis(100);
const RECONNECT_MAX: Duration = Duration::from_secs(2);
/// Length of an error text, in characters.
const MAX_TEXT: usize = 200;

/// Cheap to clone; clones share the connection.
#[derive(Clone)]
pub struct RedisLink(Arc<LinkInner>);

struct LinkInner {
    address: RedisAddress,
    /// Prefix of every key.
    prefix: String,
    connection: Mutex<ConnectionSlot>,
    broken: Notify,
    attached: AtomicBool,
    /// The last failure, for the log.
    last_error: Mutex<String>,
}

#[derive(Default)]
struct ConnectionSlot {
    connection: Option<RedisConnection>,
    /// Grows with each connection.
    generation: u64,
}

/// Why a call failed.
#[derive(Debug, Error)]
pub enum RedisCallError {
    #[error("not connected to redis")]
    NotConnected,
    #[error("no reply from redis within {CALL_TIMEOUT:?}")]
    TimedOut,
    #[error("{0}")]
    Redis(#[from] RedisError),
    #[error("unexpected reply from redis: {0}")]
    Unexpected(&'static str),
}

impl RedisLink {
    pub fn new(address: RedisAddress, fleet: &str) -> RedisLink {
        RedisLink(Arc::new(LinkInner {
            address,
            prefix: format!("{{outrigger:{fleet}}}:"),
            connection: Mutex::default(),
            broken: Notify::new(),
            attached: AtomicBool::new(false),
            last_error: Mutex::new("no connection yet".to_owned()),
        }))
    }

    pub fn address(&self) -> &RedisAddress {
        &self.0.address
    }

    /// A key of this fleet. All of them are in one slot of a cluster.
    pub fn key(&self, rest: &str) -> String {
        format!("{}{rest}", self.0.prefix)
    }

    /// Runs a script. `keys` are without the fleet's prefix.
    ///
    /// # Errors
    /// If there is no reply, or it is an error.
    pub async fn run<T: FromRedisValue>(
        &self,
        script: &Script,
        keys: &[&str],
        args: impl ToRedisArgs,
    ) -> Result<T, RedisCallError> {
        let (mut connection, generation) = self.connection().ok_or(RedisCallError::NotConnected)?;
        let mut call = script.prepare_invoke();
        keys.iter().for_each(|key| {
            call.key(self.key(key));
        });
        call.arg(args);
        let reply = match &mut connection {
            RedisConnection::Single(single) => {
                with_timeout(call.invoke_async::<Value>(single)).await
            }
            RedisConnection::Cluster(cluster) => {
                with_timeout(call.invoke_async::<Value>(cluster)).await
            }
        };
        self.decode(reply, generation)
    }

    /// Runs a command.
    ///
    /// # Errors
    /// Like `run`.
    pub async fn command<T: FromRedisValue>(
        &self,
        command: &redis::Cmd,
    ) -> Result<T, RedisCallError> {
        let (mut connection, generation) = self.connection().ok_or(RedisCallError::NotConnected)?;
        let reply = match &mut connection {
            RedisConnection::Single(single) => {
                with_timeout(command.query_async::<Value>(single)).await
            }
            RedisConnection::Cluster(cluster) => {
                with_timeout(command.query_async::<Value>(cluster)).await
            }
        };
        self.decode(reply, generation)
    }

    fn decode<T: FromRedisValue>(
        &self,
        reply: Result<Value, RedisCallError>,
        generation: u64,
    ) -> Result<T, RedisCallError> {
        match reply {
            Ok(value) => {
                let kind = kind(&value);
                T::from_redis_value(value).map_err(|_| RedisCallError::Unexpected(kind))
            }
            Err(error) => {
                *self.0.last_error.lock() = one_line(&error.to_string());
                if error.is_connection_broken() {
                    self.drop_connection(generation);
                }
                Err(error)
            }
        }
    }

    pub fn last_error(&self) -> String {
        self.0.last_error.lock().clone()
    }

    pub fn is_attached(&self) -> bool {
        self.0.attached.load(Ordering::Relaxed)
    }

    pub fn set_attached(&self, attached: bool) {
        self.0.attached.store(attached, Ordering::Relaxed);
    }

    /// Connects, and reconnects whenever the connection breaks.
    pub async fn maintain(&self) {
        let mut longest = RECONNECT_MIN;
        loop {
            let broken = self.0.broken.notified();
            match self.0.address.connect(CALL_TIMEOUT).await {
                Ok(connection) => {
                    self.set_connection(connection);
                    let connected = clock::now();
                    broken.await;
                    if clock::since(connected) > DETACH_AFTER {
                        longest = RECONNECT_MIN;
                    }
                }
                Err(error) => *self.0.last_error.lock() = one_line(&error.to_string()),
            }
            tokio::time::sleep(longest.mul_f64(clock::draw())).await;
            longest = (longest * 2).min(RECONNECT_MAX);
        }
    }

    fn set_connection(&self, connection: RedisConnection) {
        let mut slot = self.0.connection.lock();
        slot.connection = Some(connection);
        slot.generation += 1;
    }

    fn connection(&self) -> Option<(RedisConnection, u64)> {
        let slot = self.0.connection.lock();
        Some((slot.connection.clone()?, slot.generation))
    }

    /// Drops the connection, so that another one is opened.
    pub fn reconnect(&self) {
        let generation = self.0.connection.lock().generation;
        self.drop_connection(generation);
    }

    fn drop_connection(&self, generation: u64) {
        let mut slot = self.0.connection.lock();
        if slot.generation == generation && slot.connection.take().is_some() {
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
    /// Whether the connection is to be replaced: it is broken, or leads to a demoted server.
    fn is_connection_broken(&self) -> bool {
        match self {
            RedisCallError::TimedOut => true,
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
            RedisCallError::NotConnected | RedisCallError::Unexpected(_) => false,
        }
    }
}

async fn with_timeout<T>(
    call: impl Future<Output = Result<T, RedisError>>,
) -> Result<T, RedisCallError> {
    match tokio::time::timeout(CALL_TIMEOUT, call).await {
        Ok(reply) => Ok(reply?),
        Err(_) => Err(RedisCallError::TimedOut),
    }
}

/// The type of a reply. Its value may contain a body, which must not be logged.
fn kind(reply: &Value) -> &'static str {
    match reply {
        Value::Nil => "nothing",
        Value::Int(_) => "a number",
        Value::BulkString(_) | Value::SimpleString(_) | Value::Okay => "a text",
        Value::Array(_) => "a list with other elements",
        _ => "another type",
    }
}

/// One line of bounded length.
fn one_line(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(MAX_TEXT).collect()
}

/// Converts `until` on Redis' clock to this host's clock. A reply that arrived `at` contained `now`.
pub fn instant(until: u64, now: u64, at: Instant) -> Instant {
    at + Duration::from_micros(until.saturating_sub(now)).min(FARTHEST)
}

/// Bound for a converted time: Redis' clock may have been set.
const FARTHEST: Duration = Duration::from_secs(31 * 24 * 3600);
