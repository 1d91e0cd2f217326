//! A proxy between a sidecar and Redis that can delay, stall, drop or refuse, or reply by itself.
//!
//! Each proxy has one thread and one current-thread runtime. Stalled data is delivered when the stall
//! ends, as TCP does; modes in which Redis is not reached close all connections.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::mpsc as std_mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use super::super::listener::{PortState, ReservedPort};
use super::PATIENCE;

#[derive(Debug)]
pub struct FaultProxy {
    address: SocketAddr,
    orders: mpsc::UnboundedSender<Option<(ProxyMode, std_mpsc::Sender<()>)>>,
    thread: Option<JoinHandle<()>>,
}

/// How a proxy treats connections and data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProxyMode {
    /// Data is delivered after this delay.
    After(Duration),
    /// Connections are accepted; no data is delivered.
    Stalled,
    /// Packets are dropped: no data is delivered, and connecting times out.
    Dropped,
    /// No socket listens; open connections are closed.
    Refused,
    /// The reply to any data is these bytes.
    Garbage(Vec<u8>),
    /// The reply to every command is this error.
    Error(String),
}

// === impl FaultProxy ===

impl FaultProxy {
    /// A proxy to this address, without a delay.
    pub fn to(behind: SocketAddr) -> Self {
        let reserved = ReservedPort::port();
        let address = reserved.address();
        let (orders, received) = mpsc::unbounded_channel();
        let thread = std::thread::Builder::new().name(format!("proxy-{}", address.port()));
        let body = move || run(&reserved, behind, received);
        let thread = Some(thread.spawn(body).expect("a thread for the proxy"));
        let proxy = Self { address, orders, thread };
        proxy.restore();
        proxy
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Returns when the mode is in force.
    pub fn set(&self, mode: ProxyMode) {
        let (done, carried_out) = std_mpsc::channel();
        let sent = self.orders.send(Some((mode, done))).is_ok();
        assert!(sent && carried_out.recv_timeout(PATIENCE).is_ok(), "the proxy has stopped");
    }

    /// Delivers everything without a delay.
    pub fn restore(&self) {
        self.set(ProxyMode::After(Duration::ZERO));
    }
}

impl Drop for FaultProxy {
    fn drop(&mut self) {
        let _ = self.orders.send(None);
        let ended = self.thread.take().is_none_or(|thread| thread.join().is_ok());
        assert!(ended || std::thread::panicking(), "the proxy on {} panicked", self.address);
    }
}

// === impl ProxyMode ===

impl ProxyMode {
    /// Redis is not reached.
    fn replaces_redis(&self) -> bool {
        matches!(self, ProxyMode::Refused | ProxyMode::Garbage(_) | ProxyMode::Error(_))
    }

    fn listener(&self, address: SocketAddr) -> PortState {
        match self {
            ProxyMode::Refused => PortState::Refusing,
            ProxyMode::Dropped => PortState::dropping(address),
            _ => PortState::open(address),
        }
    }
}

/// Accepts orders and connections until the order to stop.
fn run(
    reserved: &ReservedPort,
    behind: SocketAddr,
    mut orders: mpsc::UnboundedReceiver<Option<(ProxyMode, std_mpsc::Sender<()>)>>,
) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime for the proxy").block_on(async move {
        let mode = watch::Sender::new(ProxyMode::Refused);
        let (mut listener, mut connections) = (PortState::Refusing, JoinSet::new());
        loop {
            tokio::select! {
                stream = listener.accept() => {
                    connections.spawn(carry(stream, behind, mode.subscribe()));
                }
                Some(ended) = connections.join_next() => {
                    assert!(!ended.is_err_and(|error| error.is_panic()), "a connection panicked");
                }
                order = orders.recv() => {
                    let Some((next, done)) = order.flatten() else { break };
                    let before = mode.send_replace(next.clone());
                    if before.replaces_redis() || next.replaces_redis() {
                        connections.shutdown().await;
                    }
                    drop(listener);
                    listener = next.listener(reserved.address());
                    let _ = done.send(());
                }
            }
        }
    });
}

/// One connection, until either side ends it.
async fn carry(client: TcpStream, behind: SocketAddr, mode: watch::Receiver<ProxyMode>) {
    let _ = client.set_nodelay(true);
    let (from_client, to_client) = client.into_split();
    let instead = mode.borrow().clone();
    match instead {
        ProxyMode::Garbage(bytes) => {
            return reply(from_client, to_client, |_| bytes.clone()).await;
        }
        ProxyMode::Error(error) => {
            let mut received = Vec::new();
            let errors = |piece: &[u8]| {
                received.extend_from_slice(piece);
                format!("-{error}\r\n").repeat(commands(&mut received)).into_bytes()
            };
            return reply(from_client, to_client, errors).await;
        }
        _ => {}
    }
    let Ok(server) = TcpStream::connect(behind).await else { return };
    let _ = server.set_nodelay(true);
    let (from_server, to_server) = server.into_split();
    tokio::select! {
        () = pump(from_client, to_server, mode.clone()) => {}
        () = pump(from_server, to_client, mode.clone()) => {}
    }
}

/// Replies to each received piece.
async fn reply(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    mut with: impl FnMut(&[u8]) -> Vec<u8>,
) {
    let mut piece = vec![0; 16 * 1024];
    while let Ok(read) = from.read(&mut piece).await {
        if read == 0 || to.write_all(&with(&piece[..read])).await.is_err() {
            return;
        }
    }
}

/// Carries one direction to its end.
async fn pump(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    mut mode: watch::Receiver<ProxyMode>,
) {
    let (queue, mut queued) = mpsc::unbounded_channel::<(Instant, Vec<u8>)>();
    let take = async move {
        let mut piece = vec![0; 16 * 1024];
        while let Ok(read @ 1..) = from.read(&mut piece).await {
            let _ = queue.send((Instant::now(), piece[..read].to_vec()));
        }
    };
    let give = async {
        while let Some((at, piece)) = queued.recv().await {
            if !arrives(&mut mode, at).await || to.write_all(&piece).await.is_err() {
                return;
            }
        }
    };
    // A closed receiver ends both; a closed sender ends after the queued data is delivered.
    tokio::pin!(give);
    tokio::select! {
        () = &mut give => return,
        () = take => {}
    }
    give.await;
}

/// Waits until data received at `at` may be delivered; false when the proxy is gone.
async fn arrives(mode: &mut watch::Receiver<ProxyMode>, at: Instant) -> bool {
    loop {
        let now = mode.borrow_and_update().clone();
        let ProxyMode::After(delay) = now else {
            if mode.changed().await.is_err() {
                return false;
            }
            continue;
        };
        tokio::time::sleep_until((at + delay).into()).await;
        if *mode.borrow() == now {
            return true;
        }
    }
}

/// Removes whole commands (arrays of bulk strings) from the received bytes; returns how many.
fn commands(received: &mut Vec<u8>) -> usize {
    let mut count = 0;
    while let Some(used) = command(received) {
        received.drain(..used);
        count += 1;
    }
    count
}

/// The length of the first command, once it is whole.
fn command(received: &[u8]) -> Option<usize> {
    let mut at = 0;
    let mut parts = VecDeque::from([b'*']);
    while let Some(kind) = parts.pop_front() {
        let end = at + received.get(at..)?.windows(2).position(|pair| pair == b"\r\n")?;
        let line = std::str::from_utf8(&received[at..end]).expect("a command's head is text");
        let number = line.strip_prefix(char::from(kind)).and_then(|text| text.parse().ok());
        let number: usize = number.unwrap_or_else(|| panic!("no head of a command: `{line}`"));
        at = end + 2;
        match kind {
            b'*' => parts.extend(std::iter::repeat_n(b'$', number)),
            _ => at += number + 2,
        }
    }
    (received.len() >= at).then_some(at)
}
