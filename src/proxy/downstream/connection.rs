//! One connection of the application: its handshake, its requests, its end.
//!
//! Limits on slow and idle clients are held by the worker's beat: a connection that owes a head for
//! longer than `header_time`, or has been idle for `keep_alive`, is closed.
//!
//! A draining worker lets each finish what it began, and says `connection: close` with it. A
//! connection that is silent when the drain begins may have its next request on the way: closing
//! it then would lose that request. So it stays open for a moment more, which a client in full
//! swing uses to be told, and one that is truly idle lets pass.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::future::Future;
use std::io::Write;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{Poll, Waker};
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpStream, UnixStream};
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

use super::error::{Kind, Problem};
use super::io::{Activity, ClientIo, Phase, Stream};
use super::timer::Timer;
use super::worker::{Incoming, Load, Worker};
use crate::policy::sections::model::Server;
use crate::proxy::handler;

/// As `worker::BEAT`, in milliseconds.
const BEAT_MS: u128 = 100;
/// Beats for which a silent connection stays open in a drain.
const LAST_WORD: u32 = 5;

/// The connections of a worker.
#[derive(Debug)]
pub struct Clients {
    load: Arc<Load>,
    beats: Arc<AtomicU32>,
    next: Cell<u64>,
    open: RefCell<HashMap<u64, Rc<Client>>>,
    /// The beat in which the drain began.
    drained_at: Cell<Option<u32>>,
}

/// One connection, as its requests see it.
#[derive(Debug)]
pub struct Client {
    pub peer: Option<SocketAddr>,
    pub secure: bool,
    activity: Arc<Activity>,
    wish: Cell<Wish>,
    waker: RefCell<Option<Waker>>,
    tunnel: RefCell<Option<JoinHandle<()>>>,
    /// Of the request that is being served.
    pub timer: Rc<Timer>,
}

/// What its worker wants of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wish {
    Serve,
    /// Close, unless a request came in this moment: answer that one first.
    Finish,
    Close,
}

impl Clients {
    pub fn new(load: Arc<Load>) -> Self {
        Clients {
            load,
            beats: Arc::default(),
            next: Cell::new(0),
            open: RefCell::default(),
            drained_at: Cell::new(None),
        }
    }

    pub fn len(&self) -> usize {
        self.open.borrow().len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// From now on each connection serves what it began, or one request more, and closes.
    pub fn drain(&self) {
        self.drained_at.set(Some(self.beats.load(Ordering::Relaxed)));
    }

    pub fn is_draining(&self) -> bool {
        self.load.draining.load(Ordering::Relaxed)
    }

    /// Closes what owes a head for too long, or has been idle for too long.
    pub fn sweep(&self, server: &Server) {
        let now = self.beats.fetch_add(1, Ordering::Relaxed).wrapping_add(1);
        let beats =
            |limit: Duration| u32::try_from(limit.as_millis() / BEAT_MS).unwrap_or(u32::MAX);
        let (head, idle) = (beats(server.header_time).max(1), beats(server.keep_alive).max(1));
        let over = self.drained_at.get().is_some_and(|at| now.wrapping_sub(at) > LAST_WORD);
        for client in self.open.borrow().values() {
            let since = client.activity.beats_since();
            match client.activity.phase() {
                Phase::New | Phase::Idle if over && since > LAST_WORD => {
                    client.wish(Wish::Finish);
                }
                Phase::New if since > head => client.wish(Wish::Close),
                Phase::Head if since > head => {
                    let why = format!("its head took longer than {:?}", server.header_time);
                    client.activity.end_with(bare(&Problem::new(Kind::RequestTimeout, why)));
                    client.wish(Wish::Close);
                }
                Phase::Idle if since > idle => client.wish(Wish::Finish),
                _ => {}
            }
        }
    }

    /// Stands for whoever asks without a connection.
    pub fn aside(&self) -> Rc<Client> {
        self.client(None, false)
    }

    fn client(&self, peer: Option<SocketAddr>, secure: bool) -> Rc<Client> {
        Rc::new(Client {
            peer,
            secure,
            activity: Activity::new(Arc::clone(&self.beats)),
            wish: Cell::new(Wish::Serve),
            waker: RefCell::default(),
            tunnel: RefCell::default(),
            timer: Rc::default(),
        })
    }

    fn add(&self, peer: Option<SocketAddr>, secure: bool) -> (u64, Rc<Client>) {
        let client = self.client(peer, secure);
        let id = self.next.get();
        self.next.set(id + 1);
        self.open.borrow_mut().insert(id, Rc::clone(&client));
        (id, client)
    }

    fn remove(&self, id: u64) {
        self.open.borrow_mut().remove(&id);
        self.load.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Client {
    /// A request's head is here.
    pub fn begin(&self) {
        self.activity.enter(Phase::Body);
    }

    /// The request is here; from now on its client's leaving ends it. One that has left is not served:
    /// the connection ends while this waits.
    pub async fn serve(&self) {
        self.activity.enter(Phase::Busy);
        if self.activity.has_ended() {
            std::future::pending::<()>().await;
        }
    }

    /// A request was answered.
    pub fn end(&self) {
        self.activity.enter(Phase::Idle);
    }

    /// What the connection became after an upgrade; it stays a connection until that ends.
    pub fn becomes(&self, tunnel: JoinHandle<()>) {
        self.activity.enter(Phase::Tunnel);
        *self.tunnel.borrow_mut() = Some(tunnel);
    }

    fn wish(&self, wish: Wish) {
        self.wish.set(wish);
        if let Some(waker) = self.waker.borrow().as_ref() {
            waker.wake_by_ref();
        }
    }

    fn listen(&self, waker: &Waker) {
        let mut known = self.waker.borrow_mut();
        if !known.as_ref().is_some_and(|known| known.will_wake(waker)) {
            *known = Some(waker.clone());
        }
    }
}

/// An answer as it goes over the wire, where hyper cannot give it.
fn bare(problem: &Problem) -> Vec<u8> {
    let response = problem.clone().into_response();
    let mut answer = format!("HTTP/1.1 {}\r\n", response.status()).into_bytes();
    for (name, value) in response.headers() {
        answer.extend_from_slice(
            &[name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"].concat(),
        );
    }
    let json = problem.json();
    answer.extend_from_slice(format!("content-length: {}\r\n\r\n", json.len()).as_bytes());
    answer.extend_from_slice(&json);
    answer
}

/// Answers a connection that is one too many, without waiting for its request.
pub fn refusal(incoming: &Incoming) {
    let problem = Problem::new(Kind::TooManyConnections, "try again in a moment");
    let answer = bare(&problem.retry_after(Some(Duration::from_secs(1))));
    // The socket's buffer is empty and this fits: what is not taken at once is not waited for.
    let _ = match incoming {
        Incoming::Tcp(stream, _) => (&mut &*stream).write(&answer),
        Incoming::Unix(stream) => (&mut &*stream).write(&answer),
    };
}

/// Serves a connection on a task of its own.
pub fn serve(worker: &Rc<Worker>, incoming: Incoming) {
    let worker = Rc::clone(worker);
    let tls = worker.snapshot().listener_tls.clone();
    let peer = match &incoming {
        Incoming::Tcp(_, peer) => Some(*peer),
        Incoming::Unix(_) => None,
    };
    // Before its task first runs: a drain that begins between must wait for it.
    let (id, client) = worker.clients.add(peer, tls.is_some());
    tokio::task::spawn_local(async move {
        let outcome = match incoming {
            Incoming::Tcp(stream, _) => match TcpStream::from_std(stream) {
                Ok(stream) => plain_or_tls(&worker, &client, stream, tls).await,
                Err(error) => Err(error),
            },
            Incoming::Unix(stream) => match UnixStream::from_std(stream) {
                Ok(stream) => plain_or_tls(&worker, &client, stream, tls).await,
                Err(error) => Err(error),
            },
        };
        if let Err(error) = outcome {
            tracing::debug!(%error, "a connection of the application ended");
        }
        let tunnel = client.tunnel.take();
        if let Some(tunnel) = tunnel {
            let _ = tunnel.await;
        }
        worker.clients.remove(id);
    });
}

async fn plain_or_tls<S: Stream>(
    worker: &Rc<Worker>,
    client: &Rc<Client>,
    stream: S,
    tls: Option<Arc<rustls::ServerConfig>>,
) -> std::io::Result<()> {
    match tls {
        None => http(worker, client, stream).await,
        // Apart: what a handshake takes is no part of every connection.
        Some(config) => Box::pin(over_tls(worker, client, stream, config)).await,
    }
}

async fn over_tls<S: Stream>(
    worker: &Rc<Worker>,
    client: &Rc<Client>,
    stream: S,
    config: Arc<rustls::ServerConfig>,
) -> std::io::Result<()> {
    let mut handshake = pin!(TlsAcceptor::from(config).accept(stream));
    let stream = std::future::poll_fn(|cx| {
        client.listen(cx.waker());
        match client.wish.get() {
            Wish::Close => Poll::Ready(Err(std::io::ErrorKind::TimedOut.into())),
            _ => handshake.as_mut().poll(cx),
        }
    })
    .await?;
    http(worker, client, stream).await
}

async fn http<S: Stream>(
    worker: &Rc<Worker>,
    client: &Rc<Client>,
    stream: S,
) -> std::io::Result<()> {
    let header_bytes = worker.snapshot().policy.server.header_bytes;
    let io = TokioIo::new(ClientIo::new(stream, Arc::clone(&client.activity)));
    let service = {
        let (worker, client) = (Rc::clone(worker), Rc::clone(client));
        service_fn(move |request| handler::handle(Rc::clone(&worker), Rc::clone(&client), request))
    };
    let connection = http1::Builder::new()
        .max_header_size(header_bytes)
        .max_buf_size(header_bytes.max(8192))
        // It would read to see the client leave; `ClientIo` looks.
        .half_close(S::PEEKS)
        .serve_connection(io, service)
        .with_upgrades();
    let mut connection = pin!(connection);
    std::future::poll_fn(|cx| {
        client.listen(cx.waker());
        match client.wish.get() {
            Wish::Close => return Poll::Ready(Ok(())),
            Wish::Finish => {
                client.wish.set(Wish::Serve);
                // What has come is read first: hyper closes an idle connection unread.
                if let Poll::Ready(ended) = connection.as_mut().poll(cx) {
                    return Poll::Ready(ended);
                }
                if matches!(client.activity.phase(), Phase::New | Phase::Idle) {
                    Pin::as_mut(&mut connection).graceful_shutdown();
                }
            }
            Wish::Serve => {}
        }
        connection.as_mut().poll(cx)
    })
    .await
    .map_err(std::io::Error::other)
}
