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

use std::sync::Arc;
use std::thread;
use std::time::SystemTime;

use parking_lot::{Mutex, MutexGuard};
use rustls::crypto::CryptoProvider;
use tokio::task::LocalSet;

use crate::clock;
use crate::fleet::redis::connection::{RedisCallError, RedisLink};
use crate::fleet::redis::scripts::FleetScripts;
use crate::fleet::redis::url::RedisAddress;
use crate::fleet::status::HostInfo;
use crate::fleet::stream::BreakerTransition;
use crate::live::Live;
use crate::live::fleet::FleetView;
use crate::snapshot::CurrentSnapshot;
use crate::telemetry::process;
use crate::upstream::tls;

/// How to take part.
#[derive(Clone, Debug)]
pub struct FleetOptions {
    pub address: RedisAddress,
    /// Hosts that share a name share everything else.
    pub name: String,
}

/// This host's part in a fleet; cheap to clone.
#[derive(Clone, Debug)]
pub struct Fleet(Arc<FleetInner>);

#[derive(Debug)]
struct FleetInner {
    name: String,
    /// No other process has it.
    host: String,
    started: SystemTime,
    link: RedisLink,
    scripts: FleetScripts,
    live: Arc<Live>,
    side: Arc<FleetView>,
    current: Arc<CurrentSnapshot>,
    told: Mutex<StatusCache>,
}

/// What is remembered for people.
#[derive(Debug)]
struct StatusCache {
    /// Attached or detached since then.
    since: SystemTime,
    hosts: Vec<(String, HostInfo)>,
    /// The latest, oldest first.
    transitions: Vec<BreakerTransition>,
    hands: Vec<overrides::FleetOverride>,
}

impl Fleet {
    /// Starts to take part.
    ///
    /// # Errors
    /// When the system gives no thread or runtime. Whether Redis is there does not matter.
    pub fn start(
        options: FleetOptions,
        live: Arc<Live>,
        side: Arc<FleetView>,
        current: Arc<CurrentSnapshot>,
    ) -> std::io::Result<Fleet> {
        // The client of Redis takes the process's own; whoever came first set it.
        let _ = CryptoProvider::clone(&tls::provider()).install_default();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let now = clock::wall();
        let told = StatusCache {
            since: now,
            hosts: Vec::new(),
            transitions: Vec::new(),
            hands: Vec::new(),
        };
        let fleet = Fleet(Arc::new(FleetInner {
            link: RedisLink::new(options.address, &options.name),
            name: options.name,
            host: host_name(),
            started: now,
            scripts: FleetScripts::new(),
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

    pub fn link(&self) -> &RedisLink {
        &self.0.link
    }

    pub fn host(&self) -> &str {
        &self.0.host
    }

    pub fn side(&self) -> &Arc<FleetView> {
        &self.0.side
    }

    fn told(&self) -> MutexGuard<'_, StatusCache> {
        self.0.told.lock()
    }

    /// Counts a call by what came of it.
    fn counted<T>(
        &self,
        call: &'static str,
        answer: Result<T, RedisCallError>,
    ) -> Result<T, RedisCallError> {
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
