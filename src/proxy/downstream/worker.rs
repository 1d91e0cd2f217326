//! One worker: a thread with its own runtime, its own connections on both sides, its own log
//! buffer. What workers share is in the snapshot and in `live/`: atomics and short locks.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::mpsc::UnboundedReceiver;
use tokio::task::LocalSet;

use super::connection::{self, Clients};
use crate::clock;
use crate::json::scan::PointerMatches;
use crate::live::Live;
use crate::policy::sections::model::LogFormat;
use crate::resilience::balance::balancer::BalancerCandidate;
use crate::snapshot::{CurrentSnapshot, Snapshot};
use crate::store::Store;
use crate::telemetry::access_log::{AccessLogSender, LogDestination};
use crate::telemetry::events::Stamp;
use crate::upstream::Pools;

/// How often a worker looks after its connections and hands over its log lines.
pub const BEAT: Duration = Duration::from_millis(100);
/// Log text that is handed over at once.
const LOG_BATCH: usize = 60 * 1024;
/// A buffer for a batch: a line that is the last of one does not make it grow.
const LOG_BUFFER: usize = 64 * 1024;
/// A pooled upstream connection unused for this long is closed.
const UPSTREAM_IDLE: Duration = Duration::from_secs(30);

/// What the acceptor tells a worker.
#[derive(Debug)]
pub enum Order {
    Serve(Incoming),
    /// Finish what was begun; the time until which that may take.
    Drain(Instant),
}

/// A connection of the application, just accepted.
#[derive(Debug)]
pub enum Incoming {
    Tcp(std::net::TcpStream, std::net::SocketAddr),
    Unix(std::os::unix::net::UnixStream),
}

/// How busy a worker is, for the acceptor.
#[derive(Debug, Default)]
pub struct Load {
    pub connections: AtomicUsize,
    /// Set before the listener closes: what is answered after that is a connection's last.
    pub draining: AtomicBool,
}

/// What all workers share.
#[derive(Clone, Debug)]
pub struct Common {
    pub current: Arc<CurrentSnapshot>,
    pub live: Arc<Live>,
    pub log: AccessLogSender,
    /// Where jobs are kept; `None`: no job is taken.
    pub store: Option<Store>,
}

/// What a worker's tasks share.
#[derive(Debug)]
pub struct Worker {
    pub current: Arc<CurrentSnapshot>,
    pub live: Arc<Live>,
    pub store: Option<Store>,
    pub pools: Pools,
    pub clients: Clients,
    pub candidates: RefCell<Vec<BalancerCandidate>>,
    pub found: RefCell<PointerMatches>,
    log: AccessLogSender,
    lines: RefCell<Lines>,
    /// Both clocks, read at the last beat.
    clocks: Cell<(Instant, SystemTime)>,
}

#[derive(Debug, Default)]
struct Lines {
    stamp: Stamp,
    to: Option<Arc<LogDestination>>,
    count: u64,
    text: Vec<u8>,
}

impl Worker {
    pub fn new(common: Common, load: Arc<Load>) -> Rc<Self> {
        let Common { current, live, log, store } = common;
        Rc::new(Worker {
            current,
            live,
            store,
            pools: Pools::new(UPSTREAM_IDLE),
            clients: Clients::new(load),
            candidates: RefCell::default(),
            found: RefCell::default(),
            log,
            lines: RefCell::default(),
            clocks: Cell::new((clock::now(), clock::wall())),
        })
    }

    pub fn snapshot(&self) -> arc_swap::Guard<Arc<Snapshot>> {
        self.current.load()
    }

    /// Writes one line of the access log, of what ended `now`; `write` is given the time as it is
    /// written.
    pub fn log_line(
        &self,
        log: &(Arc<LogDestination>, LogFormat),
        now: Instant,
        write: impl FnOnce(&mut Vec<u8>, &[u8]),
    ) {
        let mut lines = self.lines.borrow_mut();
        if lines.to.as_ref().is_some_and(|to| !Arc::ptr_eq(to, &log.0)) {
            self.hand_over(&mut lines);
        }
        if lines.to.is_none() {
            lines.to = Some(Arc::clone(&log.0));
        }
        let Lines { stamp, text, .. } = &mut *lines;
        let (then, wall) = self.clocks.get();
        write(text, stamp.at(wall + now.saturating_duration_since(then)));
        lines.text.push(b'\n');
        lines.count += 1;
        if lines.text.len() >= LOG_BATCH {
            self.hand_over(&mut lines);
        }
    }

    fn hand_over(&self, lines: &mut Lines) {
        if let Some(to) = lines.to.take() {
            let text = std::mem::replace(&mut lines.text, Vec::with_capacity(LOG_BUFFER));
            self.log.send(&to, std::mem::take(&mut lines.count), text);
        }
    }

    /// What is done every [`BEAT`].
    pub fn beat(&self) {
        let now = clock::now();
        self.clocks.set((now, clock::wall()));
        self.pools.sweep(now);
        self.clients.sweep(&self.snapshot().policy.server);
        self.hand_over(&mut self.lines.borrow_mut());
    }
}

/// Runs a worker until it is told to drain and its connections are done.
///
/// # Errors
/// When the system gives no runtime.
pub fn run(
    common: Common,
    load: Arc<Load>,
    orders: UnboundedReceiver<Order>,
) -> std::io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    LocalSet::new().block_on(&runtime, work(common, load, orders));
    Ok(())
}

/// The same within a runtime and a local set that are there.
pub async fn work(common: Common, load: Arc<Load>, orders: UnboundedReceiver<Order>) {
    serve(Worker::new(common, load), orders).await;
}

async fn serve(worker: Rc<Worker>, mut orders: UnboundedReceiver<Order>) {
    let mut beat = tokio::time::interval(BEAT);
    beat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut until = None;
    loop {
        tokio::select! {
            order = orders.recv(), if until.is_none() => match order {
                Some(Order::Serve(incoming)) => connection::serve(&worker, incoming),
                Some(Order::Drain(at)) => {
                    until = Some(at);
                    worker.clients.drain();
                }
                None => break,
            },
            _ = beat.tick() => worker.beat(),
        }
        if until.is_some_and(|at| worker.clients.is_empty() || clock::now() >= at) {
            break;
        }
    }
    let cut = worker.clients.len();
    if cut > 0 {
        tracing::warn!(
            connections = cut,
            "server.drain_timeout has passed: cut what was in flight"
        );
    }
    worker.beat();
}

impl Load {
    pub fn count(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }
}
