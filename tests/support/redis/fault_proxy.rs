//! A wire between a sidecar and Redis, in the test's hands: slow, cut, stalled, or with somebody else
//! at its end.
//!
//! One thread and one current-thread runtime for each wire. What is under way while it stalls arrives
//! when it passes again, as TCP would have it; where somebody else answers, connections begin anew.

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

/// What a wire does with what is said over it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProxyMode {
    /// It arrives, so much later.
    After(Duration),
    /// Connections are taken; nothing arrives on any.
    Stalled,
    /// Packets are dropped: nothing arrives, and connecting gets no answer.
    Dropped,
    /// Nobody listens; what was connected is closed.
    Refused,
    /// Whatever is said is answered with these bytes.
    Garbage(Vec<u8>),
    /// Every command is answered with this error.
    Error(String),
}

// === impl FaultProxy ===

impl FaultProxy {
    /// Before whoever listens there; everything passes.
    pub fn to(behind: SocketAddr) -> Self {
        let reserved = ReservedPort::port();
        let address = reserved.address();
        let (orders, received) = mpsc::unbounded_channel();
        let thread = std::thread::Builder::new().name(format!("wire-{}", address.port()));
        let body = move || run(&reserved, behind, received);
        let thread = Some(thread.spawn(body).expect("a thread for the wire"));
        let wire = Self { address, orders, thread };
        wire.mend();
        wire
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Carried out when it returns.
    pub fn set(&self, passing: ProxyMode) {
        let (done, carried_out) = std_mpsc::channel();
        let sent = self.orders.send(Some((passing, done))).is_ok();
        assert!(sent && carried_out.recv_timeout(PATIENCE).is_ok(), "the wire has stopped");
    }

    /// Everything passes, at once.
    pub fn mend(&self) {
        self.set(ProxyMode::After(Duration::ZERO));
    }
}

impl Drop for FaultProxy {
    fn drop(&mut self) {
        let _ = self.orders.send(None);
        let ended = self.thread.take().is_none_or(|thread| thread.join().is_ok());
        assert!(ended || std::thread::panicking(), "the wire on {} panicked", self.address);
    }
}

// === impl ProxyMode ===

impl ProxyMode {
    /// Somebody else is at the end, or nobody.
    fn is_another(&self) -> bool {
        matches!(self, ProxyMode::Refused | ProxyMode::Garbage(_) | ProxyMode::Error(_))
    }

    fn door(&self, address: SocketAddr) -> PortState {
        match self {
            ProxyMode::Refused => PortState::Refusing,
            ProxyMode::Dropped => PortState::dropping(address),
            _ => PortState::open(address),
        }
    }
}

/// Takes orders and connections until told to stop.
fn run(
    reserved: &ReservedPort,
    behind: SocketAddr,
    mut orders: mpsc::UnboundedReceiver<Option<(ProxyMode, std_mpsc::Sender<()>)>>,
) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime for the wire").block_on(async move {
        let passing = watch::Sender::new(ProxyMode::Refused);
        let (mut door, mut connections) = (PortState::Refusing, JoinSet::new());
        loop {
            tokio::select! {
                stream = door.accept() => {
                    connections.spawn(carry(stream, behind, passing.subscribe()));
                }
                Some(ended) = connections.join_next() => {
                    assert!(!ended.is_err_and(|error| error.is_panic()), "a connection panicked");
                }
                order = orders.recv() => {
                    let Some((next, done)) = order.flatten() else { break };
                    let before = passing.send_replace(next.clone());
                    if before.is_another() || next.is_another() {
                        connections.shutdown().await;
                    }
                    drop(door);
                    door = next.door(reserved.address());
                    let _ = done.send(());
                }
            }
        }
    });
}

/// One connection, until either side ends it.
async fn carry(client: TcpStream, behind: SocketAddr, passing: watch::Receiver<ProxyMode>) {
    let _ = client.set_nodelay(true);
    let (from_client, to_client) = client.into_split();
    let instead = passing.borrow().clone();
    match instead {
        ProxyMode::Garbage(bytes) => {
            return answer(from_client, to_client, |_| bytes.clone()).await;
        }
        ProxyMode::Error(error) => {
            let mut heard = Vec::new();
            let errors = |piece: &[u8]| {
                heard.extend_from_slice(piece);
                format!("-{error}\r\n").repeat(commands(&mut heard)).into_bytes()
            };
            return answer(from_client, to_client, errors).await;
        }
        _ => {}
    }
    let Ok(server) = TcpStream::connect(behind).await else { return };
    let _ = server.set_nodelay(true);
    let (from_server, to_server) = server.into_split();
    tokio::select! {
        () = pump(from_client, to_server, passing.clone()) => {}
        () = pump(from_server, to_client, passing.clone()) => {}
    }
}

/// Answers each piece that is said.
async fn answer(
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
    mut passing: watch::Receiver<ProxyMode>,
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
            if !arrives(&mut passing, at).await || to.write_all(&piece).await.is_err() {
                return;
            }
        }
    };
    // Who cannot give need not take; who cannot take gives what he has.
    tokio::pin!(give);
    tokio::select! {
        () = &mut give => return,
        () = take => {}
    }
    give.await;
}

/// Waits until what was said `at` may arrive; false when the wire is gone.
async fn arrives(passing: &mut watch::Receiver<ProxyMode>, at: Instant) -> bool {
    loop {
        let now = passing.borrow_and_update().clone();
        let ProxyMode::After(delay) = now else {
            if passing.changed().await.is_err() {
                return false;
            }
            continue;
        };
        tokio::time::sleep_until((at + delay).into()).await;
        if *passing.borrow() == now {
            return true;
        }
    }
}

/// Takes whole commands (arrays of bulk strings) out of what was heard: how many.
fn commands(heard: &mut Vec<u8>) -> usize {
    let mut count = 0;
    while let Some(used) = command(heard) {
        heard.drain(..used);
        count += 1;
    }
    count
}

/// The length of the first command, once it is whole.
fn command(heard: &[u8]) -> Option<usize> {
    let mut at = 0;
    let mut parts = VecDeque::from([b'*']);
    while let Some(kind) = parts.pop_front() {
        let end = at + heard.get(at..)?.windows(2).position(|pair| pair == b"\r\n")?;
        let line = std::str::from_utf8(&heard[at..end]).expect("a command's head is text");
        let number = line.strip_prefix(char::from(kind)).and_then(|text| text.parse().ok());
        let number: usize = number.unwrap_or_else(|| panic!("no head of a command: `{line}`"));
        at = end + 2;
        match kind {
            b'*' => parts.extend(std::iter::repeat_n(b'$', number)),
            _ => at += number + 2,
        }
    }
    (heard.len() >= at).then_some(at)
}
