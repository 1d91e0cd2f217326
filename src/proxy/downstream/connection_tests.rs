//! A panic in the handling of a request: over a real connection, with a handler that panics.

use std::convert::Infallible;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body, Frame};
use hyper::body::Incoming;
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio::task::LocalSet;

use super::connection::Client;
use super::problem::{Problem, ProblemKind};
use super::worker::{
    AcceptedConnection, RequestHandler, Worker, WorkerCommand, WorkerLoad, WorkerShared, run,
};
use crate::cache::CacheRegistry;
use crate::live::Live;
use crate::policy::{self, SourceFile, Sources};
use crate::proxy::access_log::record::AccessRecord;
use crate::snapshot::CurrentSnapshot;
use crate::snapshot::build::SnapshotBuilder;
use crate::telemetry::access_log::AccessLogSender;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::panics::PanicId;
use crate::upstream::{BoxError, Resolver};

const PATIENCE: Duration = Duration::from_secs(10);

/// Panics for some paths: `/handler` before the response, `/body` after its first frame.
#[derive(Clone, Copy)]
struct PanickingHandler;

enum TestBody {
    Whole(Option<Bytes>),
    /// Panics after its first frame was sent.
    Broken(
        Vec<Poll<Bytes>>,
        #[expect(dead_code, reason = "dropped with the body")] Box<AccessRecord>,
    ),
}

impl RequestHandler for PanickingHandler {
    type ResponseBody = TestBody;

    async fn handle(
        self,
        worker: Rc<Worker>,
        client: Rc<Client>,
        request: Request<Incoming>,
    ) -> Result<Response<TestBody>, Infallible> {
        client.begin_request(request.version());
        let (method, uri) = (request.method().clone(), request.uri().clone());
        let now = crate::clock::now();
        let mut record = AccessRecord::new(&worker, &client, None, method, uri, now);
        client.serve().await;
        let part = Bytes::from_static(b"part");
        match request.uri().path() {
            "/handler" => panic!("expected in this test"),
            "/body" => {
                record.status = 200;
                Ok(Response::new(TestBody::Broken(vec![Poll::Pending, Poll::Ready(part)], record)))
            }
            _ => Ok(Response::new(TestBody::Whole(Some(part)))),
        }
    }

    fn rejected(self, _: &Rc<Worker>, _: &Rc<Client>, _: ProblemKind) {}

    fn panicked(panic: PanicId) -> Response<TestBody> {
        let problem = Problem::new(ProblemKind::InternalError, panic.to_string());
        problem.into_response().map(|bytes| TestBody::Whole(Some(bytes)))
    }
}

impl Body for TestBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let frame = match self.get_mut() {
            TestBody::Whole(bytes) => bytes.take(),
            TestBody::Broken(polls, _) => match polls.pop() {
                Some(Poll::Ready(bytes)) => Some(bytes),
                Some(Poll::Pending) => {
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
                None => panic!("expected in this test"),
            },
        };
        Poll::Ready(frame.map(|bytes| Ok(Frame::data(bytes))))
    }
}

/// A worker on a thread of its own, with its access log in a file.
struct TestWorker {
    folder: tempfile::TempDir,
    log: AccessLogSender,
    live: Arc<Live>,
    load: Arc<WorkerLoad>,
    commands: UnboundedSender<WorkerCommand>,
    thread: JoinHandle<()>,
}

impl TestWorker {
    fn start() -> TestWorker {
        let folder = tempfile::tempdir().expect("a folder");
        let log = AccessLogSender::start(Default::default()).expect("a thread");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.expect("a runtime");
        let live = Arc::new(Live::new(Arc::new(Metrics::new()), 1 << 20, None));
        let resolver = Resolver::new(runtime.handle().clone());
        let current = Arc::new(snapshot(&live, resolver, &folder.path().join("access.log")));
        let (commands, inbox) = unbounded_channel();
        let load = Arc::new(WorkerLoad::default());
        let shared =
            WorkerShared { current, live: Arc::clone(&live), log: log.clone(), store: None };
        let worker_load = Arc::clone(&load);
        let thread = std::thread::spawn(move || {
            let worker = run(shared, worker_load, inbox, PanickingHandler);
            LocalSet::new().block_on(&runtime, worker);
        });
        TestWorker { folder, log, live, load, commands, thread }
    }

    fn connect(&self) -> TcpStream {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        let client = TcpStream::connect(address).expect("a connection");
        client.set_read_timeout(Some(PATIENCE)).expect("a socket");
        let (accepted, peer) = listener.accept().expect("a connection");
        accepted.set_nonblocking(true).expect("a socket");
        self.load.connections.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let accepted = AcceptedConnection::Tcp(accepted, peer);
        self.commands.send(WorkerCommand::Serve(accepted)).expect("the worker runs");
        client
    }

    /// Sends one request on a new connection and reads until it is closed.
    fn send(&self, path: &str) -> String {
        let mut client = self.connect();
        let request = format!("GET {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n");
        client.write_all(request.as_bytes()).expect("the request can be sent");
        let mut response = Vec::new();
        let _ = client.read_to_end(&mut response);
        String::from_utf8_lossy(&response).into_owned()
    }

    /// Ends the worker, which writes its last log lines, and returns the access log.
    fn stop(self) -> String {
        let until = Instant::now() + PATIENCE;
        self.commands.send(WorkerCommand::Drain(until)).expect("the worker runs");
        self.thread.join().expect("the worker does not panic");
        assert!(Instant::now() < until, "a connection was never removed");
        assert_eq!(self.load.count(), 0, "connections are still counted");
        while !self.log.is_written() {
            std::thread::yield_now();
        }
        std::fs::read_to_string(self.folder.path().join("access.log")).expect("an access log")
    }
}

/// For a policy that refers to nothing.
struct NoSources;

impl Sources for NoSources {
    fn env(&self, _: &str) -> Option<String> {
        None
    }

    fn file(&self, path: &std::path::Path) -> std::io::Result<Vec<u8>> {
        Err(std::io::Error::other(path.display().to_string()))
    }
}

fn snapshot(live: &Arc<Live>, resolver: Resolver, log: &std::path::Path) -> CurrentSnapshot {
    let yaml = format!("version: 1\nserver: {{ access_log: {{ to: \"{}\" }} }}\n", log.display());
    let file = SourceFile { name: "policy.yaml".to_owned(), bytes: yaml.into_bytes() };
    let policy = policy::load(&[file], &NoSources).expect("a valid policy");
    let caches = Arc::new(CacheRegistry::new(Arc::clone(&live.metrics)).expect("random bytes"));
    let builder = SnapshotBuilder { live: Arc::clone(live), caches, resolver };
    CurrentSnapshot::from_pointee(builder.build(policy.policy, policy.hash).expect("a snapshot"))
}

#[test]
fn a_panic_before_the_response_is_a_500_and_other_requests_are_served() {
    let worker = TestWorker::start();
    let response = worker.send("/handler");
    assert!(response.starts_with("HTTP/1.1 500 "), "{response}");
    assert!(response.contains("urn:outrigger:problem:internal-error"), "{response}");
    assert!(worker.send("/other").ends_with("part\r\n0\r\n\r\n"));
    let text = worker.live.metrics.encode();
    let local = "outrigger_local_responses_total{route=\"-\",reason=\"internal-error\"} 1";
    let lines: Vec<_> = text.lines().filter(|line| line.contains("local_responses")).collect();
    assert!(text.contains(local), "{lines:?}");
    let log = worker.stop();
    let record: serde_json::Value =
        serde_json::from_str(log.lines().next().expect("a record")).expect("JSON");
    assert_eq!(
        (record["status"].as_u64(), &record["reason"]),
        (Some(500), &"internal-error".into())
    );
    let id = record["panic"].as_str().expect("the id of the panic");
    assert!(response.contains(id), "{id}: {response}");
}

#[test]
fn a_panic_after_the_commit_cuts_the_connection() {
    let worker = TestWorker::start();
    let response = worker.send("/body");
    assert!(response.starts_with("HTTP/1.1 200 "), "{response}");
    assert!(!response.ends_with("0\r\n\r\n"), "the response looks complete: {response}");
    assert!(worker.send("/other").ends_with("part\r\n0\r\n\r\n"));
    let log = worker.stop();
    let record: serde_json::Value =
        serde_json::from_str(log.lines().next().expect("a record")).expect("JSON");
    assert_eq!((&record["result"], &record["reason"]), (&"interrupted".into(), &"panic".into()));
}
