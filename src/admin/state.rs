//! The state that all handlers share.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use parking_lot::Mutex;
use tokio::sync::Semaphore;

use super::auth::Access;
use crate::benchmark::history::RunHistory;
use crate::benchmark::runner::BenchmarkRunner;
use crate::benchmark::schedule::Schedule;
use crate::cache::CacheRegistry;
use crate::degradation::history::EpisodeHistory;
use crate::fleet::Fleet;
use crate::history::memory::MetricHistory;
use crate::live::Live;
use crate::snapshot::CurrentSnapshot;
use crate::snapshot::loader::Loader;
use crate::store::Store;
use crate::tracking::tracker::Tracker;

/// Streams of events at a time.
pub const EVENT_STREAMS: usize = 16;

/// The parts of the sidecar that the API reads and changes.
#[derive(Debug)]
pub struct AdminState {
    pub live: Arc<Live>,
    pub caches: Arc<CacheRegistry>,
    pub current: Arc<CurrentSnapshot>,
    pub loader: Arc<Loader>,
    /// A policy is in force and the listener is open.
    pub ready: AtomicBool,
    pub started: Instant,
    pub listener: String,
    pub access: Access,
    /// Connections of the admin listener, and as many of the metrics listener.
    pub max_connections: usize,
    /// `None`: the sidecar accepts no jobs.
    pub store: Option<Store>,
    /// `None`: the host is in no fleet.
    pub fleet: Option<Fleet>,
    pub episodes: Arc<EpisodeHistory>,
    pub tracker: Arc<Mutex<Tracker>>,
    pub history: Arc<MetricHistory>,
    pub runs: Arc<RunHistory>,
    /// The places for streams of events.
    pub streams: Arc<Semaphore>,
    pub benchmarks: Arc<BenchmarkRunner>,
    pub schedule: Schedule,
}
