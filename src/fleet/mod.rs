//! What hosts share through Redis: breakers, holds, limits, operators' hands, jobs (FLEET.md).
//!
//! Decisions are made elsewhere, from memory (`resilience/`, `live/`); here is one thread of its own
//! that keeps that memory up to date and says what this host has to say. Nothing on the path of a
//! request waits for it, and without it each host decides by itself.
//!
//! - the way to Redis: [`address`], [`link`]; what runs there: [`scripts`]
//! - what is heard: [`task`] (heartbeat, snapshot), [`news`] (the stream)
//! - what is said: [`breakers`]; what is asked for: [`limits`]; by hand: [`hands`]
//! - what people see: [`view`]
//! - jobs that any host may run: [`jobs`]

pub mod breakers;
pub mod limits;
pub mod overrides;
pub mod redis;
pub mod status;
pub mod stream;
pub mod sync;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::SystemTime;

use rustls::crypto::CryptoProvider;
use tokio::task::LocalSet;

use crate::clock;
use crate::fleet::redis::connection::{Failure, Link};
use crate::fleet::redis::scripts::Scripts;
use crate::fleet::redis::url::Address;
use crate::fleet::status::Facts;
use crate::fleet::stream::Transition;
use crate::live::Live;
use crate::live::fleet::FleetSide;
use crate::snapshot::Current;
use crate::telemetry::process;
use crate::upstream::tls;

/// How to take part.
#[derive(Clone, Debug)]
pub struct Options {
    pub address: Address,
    /// Hosts that share a name share everything else.
    pub name: String,
}

/// This host's part in a fleet; cheap to clone.
#[derive(Clone, Debug)]
pub struct Fleet(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    name: String,
    /// No other process has it.
    host: String,
    started: SystemTime,
    link: Link,
    scripts: Scripts,
    live: Arc<Live>,
    side: Arc<FleetSide>,
    current: Arc<Current>,
    told: Mutex<Told>,
}

/// What is remembered for people.
#[derive(Debug)]
struct Told {
    /// Attached or detached since then.
    since: SystemTime,
    hosts: Vec<(String, Facts)>,
    /// The latest, oldest first.
    transitions: Vec<Transition>,
    hands: Vec<overrides::Force>,
}

impl Fleet {
    /// Starts to take part.
    ///
    /// # Errors
    /// When the system gives no thread or runtime. Whether Redis is there does not matter.
    pub fn start(
        options: Options,
        live: Arc<Live>,
        side: Arc<FleetSide>,
        current: Arc<Current>,
    ) -> std::io::Result<Fleet> {
        // The client of Redis takes the process's own; whoever came first set it.
        let _ = CryptoProvider::clone(&tls::provider()).install_default();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let now = clock::wall();
        let told =
            Told { since: now, hosts: Vec::new(), transitions: Vec::new(), hands: Vec::new() };
        let fleet = Fleet(Arc::new(Inner {
            link: Link::new(options.address, &options.name),
            name: options.name,
            host: host_name(),
            started: now,
            scripts: Scripts::new(),
            live,
            side,
            current,
            told: Mutex::new(told),
        }));
        let its = fleet.clone();
        thread::Builder::new().name("fleet".into()).spawn(move || {
            LocalSet::new().block_on(&runtime, sync::run(its));
        })?;
        Ok(fleet)
    }

    pub fn link(&self) -> &Link {
        &self.0.link
    }

    pub fn host(&self) -> &str {
        &self.0.host
    }

    pub fn side(&self) -> &Arc<FleetSide> {
        &self.0.side
    }

    fn told(&self) -> MutexGuard<'_, Told> {
        self.0.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a call by what came of it.
    fn counted<T>(&self, call: &'static str, answer: Result<T, Failure>) -> Result<T, Failure> {
        self.0.live.metrics.count_redis_call(call, answer.is_ok());
        if let Err(failure) = &answer {
            tracing::debug!(call, %failure, "fleet: a call came to nothing");
        }
        answer
    }
}

/// The system's name and what no other process has, of letters that mean nothing in a key.
fn host_name() -> String {
    format!("{}-{:08x}", process::host_name(), clock::random() & 0xffff_ffff)
}
