//! The state that hosts share through Redis: breakers, holds, limits and manual overrides
//! (docs/design/fleet.md).
//!
//! Decisions are made from memory (`resilience/`, `live/`). One thread of its own synchronises that
//! memory with Redis. No request waits for it, and a host without Redis decides alone.
//!
//! - [`redis`]: the connection, its URL, the scripts
//! - [`sync`]: heartbeat and snapshot; [`stream`]: transitions, holds and overrides as they happen
//! - [`breakers`], [`limits`], [`overrides`], [`benchmarks`]: the calls for each kind of state
//! - [`status`] serves `/api/fleet`

pub mod benchmarks;
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
use crate::fleet::stream::FleetTransition;
use crate::live::Live;
use crate::live::fleet::FleetView;
use crate::snapshot::CurrentSnapshot;
use crate::telemetry::process;
use crate::upstream::tls;

/// The command line's options for a fleet.
#[derive(Clone, Debug)]
pub struct FleetOptions {
    pub address: RedisAddress,
    /// Name of the fleet.
    pub name: String,
}

/// This host as a member of a fleet. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Fleet(Arc<FleetInner>);

#[derive(Debug)]
struct FleetInner {
    name: String,
    /// Unique to this process.
    host: String,
    started: SystemTime,
    link: RedisLink,
    scripts: FleetScripts,
    live: Arc<Live>,
    view: Arc<FleetView>,
    current: Arc<CurrentSnapshot>,
    cache: Mutex<StatusCache>,
}

/// Data for `/api/fleet`.
#[derive(Debug)]
struct StatusCache {
    /// Time of the last attach or detach.
    since: SystemTime,
    hosts: Vec<(String, HostInfo)>,
    /// The latest, oldest first.
    transitions: Vec<FleetTransition>,
    overrides: Vec<overrides::FleetOverride>,
}

impl Fleet {
    /// Starts the thread that joins the fleet. Redis need not be reachable.
    ///
    /// # Errors
    /// If the system refuses a thread or a runtime.
    pub fn start(
        options: FleetOptions,
        live: Arc<Live>,
        view: Arc<FleetView>,
        current: Arc<CurrentSnapshot>,
    ) -> std::io::Result<Fleet> {
        // The Redis client uses the process-wide provider, which may be set already.
        let _ = CryptoProvider::clone(&tls::provider()).install_default();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let now = clock::wall();
        let cache = StatusCache {
            since: now,
            hosts: Vec::new(),
            transitions: Vec::new(),
            overrides: Vec::new(),
        };
        let fleet = Fleet(Arc::new(FleetInner {
            link: RedisLink::new(options.address, &options.name),
            name: options.name,
            host: host_name(),
            started: now,
            scripts: FleetScripts::default(),
            live,
            view,
            current,
            cache: Mutex::new(cache),
        }));
        let member = fleet.clone();
        thread::Builder::new().name("fleet".into()).spawn(move || {
            LocalSet::new().block_on(&runtime, sync::run(member));
        })?;
        Ok(fleet)
    }

    pub fn link(&self) -> &RedisLink {
        &self.0.link
    }

    pub fn host(&self) -> &str {
        &self.0.host
    }

    pub fn view(&self) -> &Arc<FleetView> {
        &self.0.view
    }

    fn cache(&self) -> MutexGuard<'_, StatusCache> {
        self.0.cache.lock()
    }

    /// Counts a call by its result.
    fn count_call<T>(
        &self,
        call: &'static str,
        reply: Result<T, RedisCallError>,
    ) -> Result<T, RedisCallError> {
        self.0.live.metrics.count_redis_call(call, reply.is_ok());
        if let Err(error) = &reply {
            tracing::debug!(call, %error, "fleet: a call to redis failed");
        }
        reply
    }
}

/// The host name and a random suffix, without characters that have a meaning in keys.
fn host_name() -> String {
    format!("{}-{:08x}", process::host_name(), clock::random() & 0xffff_ffff)
}
