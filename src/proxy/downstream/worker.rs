//! A worker: one thread with its own runtime, client and upstream connections and log buffer.
//! Workers share the snapshot and the state in `live/`: atomics and short locks.

use std::cell::{Cell, RefCell};
use std::convert::Infallible;
use std::future::Future;
use std::io::Write as _;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use hyper::body::Incoming;
use tokio::sync::mpsc::UnboundedReceiver;

use super::connection::{self, Client, Clients};
use super::problem::ProblemKind;
use crate::clock;
use crate::json::scan::PointerMatches;
use crate::live::Live;
use crate::policy::sections::model::LogFormat;
use crate::resilience::balance::balancer::BalancerCandidate;
use crate::snapshot::{CurrentSnapshot, Snapshot};
use crate::store::Store;
use crate::telemetry::access_log::{AccessLogSender, RouteLog};
use crate::telemetry::events::Stamp;
use crate::telemetry::panics::PanicId;
use crate::upstream::{BoxError, Pools};

/// How often a worker checks its connections and flushes its log buffer.
pub const TICK: Duration = Duration::from_millis(100);
const TICKS_PER_SECOND: u32 = 10;
/// A log buffer of this size is flushed at once.
const LOG_BATCH: usize = 60 * 1024;
/// A pooled upstream connection unused for this long is closed.
const UPSTREAM_IDLE: Duration = Duration::from_secs(30);

/// The request handler that a worker gives to its connections.
pub trait RequestHandler: Copy + 'static {
    type ResponseBody: Body<Data = Bytes, Error = BoxError> + 'static;

    fn handle(
        self,
        worker: Rc<Worker>,
        client: Rc<Client>,
        request: Request<Incoming>,
    ) -> impl Future<Output = Result<Response<Self::ResponseBody>, Infallible>> + 'static;

    /// Records a request that was rejected before its head could be handled.
    fn rejected(self, worker: &Rc<Worker>, client: &Rc<Client>, kind: ProblemKind);

    /// The response to a request whose handling panicked before its response began.
    fn panicked(panic: PanicId) -> Response<Self::ResponseBody>;
}

/// A command of the acceptor.
#[derive(Debug)]
pub enum WorkerCommand {
    Serve(AcceptedConnection),
    /// Finish the requests in flight until this time.
    Drain(Instant),
}

/// A client connection, just accepted.
#[derive(Debug)]
pub enum AcceptedConnection {
    Tcp(std::net::TcpStream, std::net::SocketAddr),
    Unix(std::os::unix::net::UnixStream),
}

/// The load of a worker, for the acceptor.
#[derive(Debug, Default)]
pub struct WorkerLoad {
    pub connections: AtomicUsize,
    /// Set before the listener closes: a response after that is the last of its connection.
    pub draining: AtomicBool,
}

/// The state that all workers share.
#[derive(Clone, Debug)]
pub struct WorkerShared {
    pub current: Arc<CurrentSnapshot>,
    pub live: Arc<Live>,
    pub log: AccessLogSender,
    /// The store of jobs; `None`: jobs are not accepted.
    pub store: Option<Store>,
}

/// The state that the tasks of a worker share.
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
    lines: RefCell<LogBuffer>,
    recent: RecentRecords,
    /// Records of traced requests, for the exporter of spans.
    traced: RefCell<Vec<u8>>,
    /// Both clocks, read at the last tick: monotonic time, and the time since 1970.
    clocks: Cell<(Instant, Duration)>,
}

/// Records for `GET /api/requests` of requests that have no line of JSON in the access log.
#[derive(Debug, Default)]
struct RecentRecords {
    /// How many more may be kept before the next tick.
    left: Cell<u32>,
    text: RefCell<Vec<u8>>,
}

#[derive(Debug, Default)]
struct LogBuffer {
    stamp: Stamp,
    target: Option<RouteLog>,
    count: u64,
    text: Vec<u8>,
}

impl Worker {
    pub fn new(shared: WorkerShared, load: Arc<WorkerLoad>) -> Rc<Self> {
        let WorkerShared { current, live, log, store } = shared;
        let recent = RecentRecords::default();
        recent.left.set(recent_in_a_tick(&current.load()));
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
            recent,
            traced: RefCell::default(),
            clocks: Cell::new((clock::now(), since_1970())),
        })
    }

    pub fn snapshot(&self) -> arc_swap::Guard<Arc<Snapshot>> {
        self.current.load()
    }

    /// Writes one line of the access log for a request that ended `now`; `write` gets the buffer and
    /// the formatted time.
    pub fn log_line(&self, log: &RouteLog, now: Instant, write: impl FnOnce(&mut Vec<u8>, &[u8])) {
        let mut lines = self.lines.borrow_mut();
        if lines.target.as_ref().is_some_and(|target| !Arc::ptr_eq(&target.to, &log.to)) {
            self.flush(&mut lines);
        }
        if lines.target.is_none() {
            lines.target = Some(log.clone());
        }
        let LogBuffer { stamp, text, .. } = &mut *lines;
        let (then, wall) = self.clocks.get();
        write(text, stamp.at(wall + now.saturating_duration_since(then)));
        lines.text.push(b'\n');
        lines.count += 1;
        if lines.text.len() >= LOG_BATCH {
            self.flush(&mut lines);
        }
    }

    /// Whether the record of a request that begins now is kept for `/api/requests`. A log in JSON
    /// keeps every record anyway.
    pub fn keeps_record(&self, log: Option<LogFormat>) -> bool {
        let left = if log == Some(LogFormat::Json) { 0 } else { self.recent.left.get() };
        if left > 0 {
            self.recent.left.set(left - 1);
        }
        left > 0
    }

    /// Keeps the record of a request that ended `now` for `GET /api/requests`; `write` gets the
    /// buffer and the formatted time.
    pub fn keep_record(&self, now: Instant, write: impl FnOnce(&mut Vec<u8>, &[u8])) {
        let (mut lines, mut text) = (self.lines.borrow_mut(), self.recent.text.borrow_mut());
        let (then, wall) = self.clocks.get();
        write(&mut text, lines.stamp.at(wall + now.saturating_duration_since(then)));
        text.push(b'\n');
    }

    /// Passes the record of a traced request to the exporter of spans. The line begins with the time
    /// of its start, in nanoseconds since 1970.
    pub fn trace_record(
        &self,
        ended: Instant,
        took: Duration,
        write_record: impl FnOnce(&mut Vec<u8>, &[u8]),
    ) {
        let (mut lines, mut text) = (self.lines.borrow_mut(), self.traced.borrow_mut());
        let (then, wall) = self.clocks.get();
        let ended = wall + ended.saturating_duration_since(then);
        let _ = write!(text, "{} ", ended.saturating_sub(took).as_nanos());
        write_record(&mut text, lines.stamp.at(ended));
        text.push(b'\n');
        if text.len() >= LOG_BATCH {
            self.live.traces.push(std::mem::take(&mut *text));
        }
    }

    fn flush(&self, lines: &mut LogBuffer) {
        let Some(RouteLog { to, format }) = lines.target.take() else { return };
        // The next batch is probably as long. Its buffer has little to spare, because records of it are kept.
        let next = Vec::with_capacity(lines.text.len().next_power_of_two());
        let text = Bytes::from(std::mem::replace(&mut lines.text, next));
        if format == LogFormat::Json && self.snapshot().policy.server.recent_requests > 0 {
            self.live.recent_requests.push(text.clone());
        }
        self.log.send(&to, std::mem::take(&mut lines.count), text);
    }

    /// Passes on the records that were kept, and allows as many for the next tick.
    fn flush_recent(&self) {
        self.recent.left.set(recent_in_a_tick(&self.snapshot()));
        let text = std::mem::take(&mut *self.recent.text.borrow_mut());
        self.live.recent_requests.push(text.into());
    }

    /// Periodic work, every [`TICK`].
    pub fn tick(&self) {
        let now = clock::now();
        self.clocks.set((now, since_1970()));
        self.pools.sweep(now);
        self.clients.sweep(&self.snapshot().policy.server);
        self.flush(&mut self.lines.borrow_mut());
        self.flush_recent();
        let traced = std::mem::take(&mut *self.traced.borrow_mut());
        if !traced.is_empty() {
            self.live.traces.push(traced);
        }
    }
}

fn since_1970() -> Duration {
    clock::wall().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default()
}

/// How many records a tick may keep for `GET /api/requests`.
fn recent_in_a_tick(snapshot: &Snapshot) -> u32 {
    snapshot.policy.server.recent_requests.div_ceil(TICKS_PER_SECOND)
}

/// Runs a worker within the current runtime and local set, until it has drained.
pub async fn run<H: RequestHandler>(
    shared: WorkerShared,
    load: Arc<WorkerLoad>,
    mut commands: UnboundedReceiver<WorkerCommand>,
    handler: H,
) {
    let worker = Worker::new(shared, load);
    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut until = None;
    loop {
        tokio::select! {
            command = commands.recv(), if until.is_none() => match command {
                Some(WorkerCommand::Serve(accepted)) => {
                    connection::serve(&worker, accepted, handler);
                }
                Some(WorkerCommand::Drain(at)) => {
                    until = Some(at);
                    worker.clients.drain();
                }
                None => break,
            },
            _ = tick.tick() => worker.tick(),
        }
        if until.is_some_and(|at| worker.clients.is_empty() || clock::now() >= at) {
            break;
        }
    }
    let connections = worker.clients.len();
    if connections > 0 {
        tracing::warn!(connections, "server.drain_timeout passed: closed connections in use");
    }
    worker.tick();
}

impl WorkerLoad {
    pub fn count(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }
}
