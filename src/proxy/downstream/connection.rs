//! One client connection: handshake, requests, close.
//!
//! The worker's tick enforces the limits on slow and idle clients: it closes a connection whose
//! request head takes longer than `header_time`, or that has been idle for `keep_alive`.
//!
//! In a drain, each connection finishes its current request, and the response carries
//! `connection: close`. The next request may already be on its way to an idle connection, and closing
//! at once would lose it. So an idle connection stays open for a few more ticks: a busy client sends
//! its next request and gets `connection: close`; an idle client sends none.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::convert::Infallible;
use std::future::Future;
use std::io::Write;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use http::{Response, Version};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use pin_project_lite::pin_project;
use tokio::net::{TcpStream, UnixStream};
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

use super::io::{Activity, ClientIo, ClientStream, ConnectionPhase};
use super::problem::{Problem, ProblemKind};
use super::timer::Timer;
use super::worker::{AcceptedConnection, RequestHandler, Worker, WorkerLoad};
use crate::policy::sections::model::Server;
use crate::telemetry::panics::{Contained, PanicId};

/// `worker::TICK` in milliseconds.
const TICK_MS: u128 = 100;
/// Ticks for which an idle connection stays open in a drain.
const DRAIN_GRACE: u32 = 5;

/// The connections of a worker.
#[derive(Debug)]
pub struct Clients {
    load: Arc<WorkerLoad>,
    ticks: Arc<AtomicU32>,
    next_id: Cell<u64>,
    open: RefCell<HashMap<u64, Rc<Client>>>,
    /// The tick in which the drain began.
    drain_began: Cell<Option<u32>>,
}

/// One client connection, as its requests see it.
#[derive(Debug)]
pub struct Client {
    pub peer: Option<SocketAddr>,
    /// The address that the client connected to.
    pub local: Option<SocketAddr>,
    pub secure: bool,
    activity: Arc<Activity>,
    directive: Cell<Directive>,
    waker: RefCell<Option<Waker>>,
    tunnel: RefCell<Option<TunnelTask>>,
    /// For the request that is being served.
    pub timer: Rc<Timer>,
}

/// The task of a tunnel after an upgrade.
pub type TunnelTask = JoinHandle<Result<(), PanicId>>;

/// The worker's instruction to the task of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Directive {
    Serve,
    /// Close unless a request has just arrived; serve that one first.
    CloseIfIdle,
    Close,
}

impl Clients {
    pub fn new(load: Arc<WorkerLoad>) -> Self {
        Clients {
            load,
            ticks: Arc::default(),
            next_id: Cell::new(0),
            open: RefCell::default(),
            drain_began: Cell::new(None),
        }
    }

    pub fn len(&self) -> usize {
        self.open.borrow().len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// From now on each connection closes after its current request, or after one more.
    pub fn drain(&self) {
        self.drain_began.set(Some(self.ticks.load(Ordering::Relaxed)));
    }

    pub fn is_draining(&self) -> bool {
        self.load.draining.load(Ordering::Relaxed)
    }

    /// Closes connections whose request head is late, and idle ones.
    pub fn sweep(&self, server: &Server) {
        let now = self.ticks.fetch_add(1, Ordering::Relaxed).wrapping_add(1);
        let ticks =
            |limit: Duration| u32::try_from(limit.as_millis() / TICK_MS).unwrap_or(u32::MAX);
        let (head, idle) = (ticks(server.header_time).max(1), ticks(server.keep_alive).max(1));
        let grace_over =
            self.drain_began.get().is_some_and(|at| now.wrapping_sub(at) > DRAIN_GRACE);
        for client in self.open.borrow().values() {
            let since = client.activity.ticks_in_phase();
            match client.activity.phase() {
                ConnectionPhase::New | ConnectionPhase::Idle
                    if grace_over && since > DRAIN_GRACE =>
                {
                    client.direct(Directive::CloseIfIdle);
                }
                ConnectionPhase::New if since > head => client.direct(Directive::Close),
                ConnectionPhase::Head if since > head => {
                    let detail = format!("the head took longer than {:?}", server.header_time);
                    let problem = Problem::new(ProblemKind::RequestTimeout, detail);
                    client.activity.send_on_close(problem);
                    client.direct(Directive::Close);
                }
                ConnectionPhase::Idle if since > idle => client.direct(Directive::CloseIfIdle),
                ConnectionPhase::Serving if client.activity.is_half_closed() => client.wake(),
                _ => {}
            }
        }
    }

    /// A client for a request that no connection sent: a job, or a background revalidation.
    pub fn detached(&self) -> Rc<Client> {
        self.client(None, None, false)
    }

    fn client(
        &self,
        peer: Option<SocketAddr>,
        local: Option<SocketAddr>,
        secure: bool,
    ) -> Rc<Client> {
        Rc::new(Client {
            peer,
            local,
            secure,
            activity: Activity::new(Arc::clone(&self.ticks)),
            directive: Cell::new(Directive::Serve),
            waker: RefCell::default(),
            tunnel: RefCell::default(),
            timer: Rc::default(),
        })
    }

    fn add(&self, connection: &AcceptedConnection, secure: bool) -> (u64, Rc<Client>) {
        let client = match connection {
            AcceptedConnection::Tcp(stream, peer) => {
                self.client(Some(*peer), stream.local_addr().ok(), secure)
            }
            AcceptedConnection::Unix(_) => self.client(None, None, secure),
        };
        let id = self.next_id.get();
        self.next_id.set(id + 1);
        self.open.borrow_mut().insert(id, Rc::clone(&client));
        (id, client)
    }

    fn remove(&self, id: u64) {
        self.open.borrow_mut().remove(&id);
        self.load.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Client {
    /// The head of a request has arrived.
    pub fn begin_request(&self, version: Version) {
        self.activity.begin_request(version == Version::HTTP_11);
    }

    /// The request has arrived; from now on a disconnect of the client cancels it. If the client has
    /// already disconnected, this never returns: the end of the connection drops the request.
    pub async fn serve(&self) {
        self.activity.enter(ConnectionPhase::Serving);
        std::future::poll_fn(|_| match self.activity.awaits_probe() {
            true => Poll::Pending,
            false => Poll::Ready(()),
        })
        .await;
    }

    /// The response to a request has ended, or is ready to be sent without waiting.
    pub fn end_request(&self) {
        self.activity.parser_errors.end_response();
        self.activity.enter(ConnectionPhase::Idle);
    }

    /// The response is sent in pieces although the request has ended, until the guard is dropped.
    pub fn extend_response(self: &Rc<Self>) -> ResponseGuard {
        self.activity.parser_errors.begin_response();
        ResponseGuard(Rc::clone(self))
    }

    /// The connection was upgraded; it counts as a connection until the tunnel ends.
    pub fn upgrade(&self, tunnel: TunnelTask) {
        self.activity.enter(ConnectionPhase::Upgraded);
        *self.tunnel.borrow_mut() = Some(tunnel);
    }

    fn direct(&self, directive: Directive) {
        self.directive.set(directive);
        self.wake();
    }

    fn wake(&self) {
        if let Some(waker) = self.waker.borrow().as_ref() {
            waker.wake_by_ref();
        }
    }

    fn register_waker(&self, waker: &Waker) {
        let mut known = self.waker.borrow_mut();
        if !known.as_ref().is_some_and(|known| known.will_wake(waker)) {
            *known = Some(waker.clone());
        }
    }
}

/// Rejects a connection over the limit without waiting for its request.
pub fn reject(connection: &AcceptedConnection) {
    let problem = Problem::new(ProblemKind::TooManyConnections, "try again in a moment");
    let response = problem.retry_after(Some(Duration::from_secs(1))).to_wire();
    // The socket's send buffer is empty and the response fits, so one write is enough.
    let _ = match connection {
        AcceptedConnection::Tcp(stream, _) => (&mut &*stream).write(&response),
        AcceptedConnection::Unix(stream) => (&mut &*stream).write(&response),
    };
}

/// Serves a connection on its own task.
pub fn serve<H: RequestHandler>(worker: &Rc<Worker>, connection: AcceptedConnection, handler: H) {
    let worker = Rc::clone(worker);
    let tls = worker.snapshot().listener_tls.clone();
    // Added before its task first runs, so that a drain that begins in between waits for it.
    let (id, client) = worker.clients.add(&connection, tls.is_some());
    tokio::task::spawn_local(async move {
        let service = Service { worker: Rc::clone(&worker), client: Rc::clone(&client), handler };
        let result = match connection {
            AcceptedConnection::Tcp(stream, _) => match TcpStream::from_std(stream) {
                Ok(stream) => Contained::new(service.serve(stream, tls)).await,
                Err(error) => Ok(Err(error)),
            },
            AcceptedConnection::Unix(stream) => match UnixStream::from_std(stream) {
                Ok(stream) => Contained::new(service.serve(stream, tls)).await,
                Err(error) => Ok(Err(error)),
            },
        };
        // A panic while the response was being sent has cut the connection, and is logged.
        if let Ok(Err(error)) = result {
            tracing::debug!(%error, "client connection ended with an error");
        }
        if let Some(kind) = client.activity.rejection() {
            handler.rejected(&worker, &client, kind);
        }
        let tunnel = client.tunnel.take();
        if let Some(tunnel) = tunnel {
            let _ = tunnel.await;
        }
        worker.clients.remove(id);
    });
}

pin_project! {
    /// The handling of a request. If it panics, the request gets a response nevertheless.
    struct RequestFuture<F, B> {
        #[pin]
        handled: Contained<F>,
        panicked: fn(PanicId) -> Response<B>,
    }
}

impl<F, B> Future for RequestFuture<F, B>
where
    F: Future<Output = Result<Response<B>, Infallible>>,
{
    type Output = Result<Response<B>, Infallible>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let panicked = this.panicked;
        this.handled.poll(cx).map(|handled| handled.unwrap_or_else(|panic| Ok(panicked(panic))))
    }
}

/// The parts that serving a connection needs.
struct Service<H> {
    worker: Rc<Worker>,
    client: Rc<Client>,
    handler: H,
}

impl<H: RequestHandler> Service<H> {
    async fn serve<S: ClientStream>(
        self,
        stream: S,
        tls: Option<Arc<rustls::ServerConfig>>,
    ) -> std::io::Result<()> {
        match tls {
            None => self.serve_http(stream).await,
            // Boxed, so that the size of a handshake is not part of every connection.
            Some(config) => Box::pin(self.serve_tls(stream, config)).await,
        }
    }

    async fn serve_tls<S: ClientStream>(
        self,
        stream: S,
        config: Arc<rustls::ServerConfig>,
    ) -> std::io::Result<()> {
        let client = Rc::clone(&self.client);
        let mut handshake = pin!(TlsAcceptor::from(config).accept(stream));
        let stream = std::future::poll_fn(|cx| {
            client.register_waker(cx.waker());
            match client.directive.get() {
                Directive::Close => Poll::Ready(Err(std::io::ErrorKind::TimedOut.into())),
                _ => handshake.as_mut().poll(cx),
            }
        })
        .await?;
        self.serve_http(stream).await
    }

    async fn serve_http<S: ClientStream>(self, stream: S) -> std::io::Result<()> {
        let Service { worker, client, handler } = self;
        let header_bytes = worker.snapshot().policy.server.header_bytes;
        let io = TokioIo::new(ClientIo::new(stream, Arc::clone(&client.activity)));
        let service = {
            let client = Rc::clone(&client);
            service_fn(move |request| {
                let handled = handler.handle(Rc::clone(&worker), Rc::clone(&client), request);
                RequestFuture { handled: Contained::new(handled), panicked: H::panicked }
            })
        };
        let connection = http1::Builder::new()
            .max_header_size(header_bytes)
            .max_buf_size(header_bytes.max(8192))
            // Without it hyper reads to detect a disconnect; `ClientIo` peeks instead.
            .half_close(S::CAN_PEEK)
            .serve_connection(io, service)
            .with_upgrades();
        let mut connection = pin!(connection);
        let served = std::future::poll_fn(|cx| {
            client.register_waker(cx.waker());
            match client.directive.get() {
                Directive::Close => return Poll::Ready(Ok(())),
                Directive::CloseIfIdle => {
                    client.directive.set(Directive::Serve);
                    // Poll first: hyper closes an idle connection without reading what has arrived.
                    if let Poll::Ready(ended) = connection.as_mut().poll(cx) {
                        return Poll::Ready(ended);
                    }
                    if matches!(
                        client.activity.phase(),
                        ConnectionPhase::New | ConnectionPhase::Idle
                    ) {
                        Pin::as_mut(&mut connection).graceful_shutdown();
                    }
                }
                Directive::Serve => {}
            }
            connection.as_mut().poll(cx)
        })
        .await;
        if served.as_ref().is_err_and(hyper::Error::is_parse)
            && let Some(problem) = client.activity.parser_errors.problem_at_end()
        {
            client.activity.send_on_close(problem);
        }
        served.map_err(std::io::Error::other)
    }
}

/// A response in progress.
#[derive(Debug)]
pub struct ResponseGuard(Rc<Client>);

impl Drop for ResponseGuard {
    fn drop(&mut self) {
        self.0.activity.parser_errors.end_response();
    }
}
