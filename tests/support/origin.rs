//! A scripted HTTP/1.1 origin on a port of its own.
//!
//! Raw TCP, so that it can do what mock servers cannot: half a body, a reset, a listener that
//! drops SYNs. One thread and one current-thread runtime for each origin.

use std::net::SocketAddr;
use std::sync::{Arc, mpsc as std_mpsc};
use std::thread::JoinHandle;
use std::time::Instant;

use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::behaviour::Behaviour;
use super::door::{Door, Reserved};
use super::message::Headers;
use super::{PATIENCE, Watched};

mod serve;

/// A request as the origin received it, whole.
#[derive(Clone, Debug)]
pub struct Request {
    pub method: String,
    /// As on the request line, with its query.
    pub path: String,
    pub headers: Headers,
    pub body: Vec<u8>,
    pub at: Instant,
    /// Counted from 0, in the order of accepting.
    pub connection: usize,
}

#[derive(Debug)]
pub struct Origin {
    address: SocketAddr,
    record: Arc<Watched<Record>>,
    orders: mpsc::UnboundedSender<(Order, std_mpsc::Sender<()>)>,
    thread: Option<JoinHandle<()>>,
}

/// What happened so far, and what is to happen next.
#[derive(Debug)]
struct Record {
    behaviour: Behaviour,
    /// Requests taken under the behaviour in force.
    turn: usize,
    requests: Vec<Request>,
    connections: usize,
    open: usize,
    in_flight: usize,
    most_in_flight: usize,
    panic: Option<String>,
}

#[derive(Clone, Copy, Debug)]
enum Order {
    Listen,
    Refuse,
    BlackHole,
    Cut,
    Stop,
}

// === impl Origin ===

impl Origin {
    pub fn start(behaviour: impl Into<Behaviour>) -> Self {
        let behaviour = behaviour.into();
        behaviour.check();
        let reserved = Reserved::port();
        let address = reserved.address();
        let record = Arc::new(Watched::new(Record::new(behaviour.clone())));
        let (orders, received) = mpsc::unbounded_channel();
        let shared = Arc::clone(&record);
        let body = move || run(&reserved, address, &shared, received);
        let thread = std::thread::Builder::new().name(format!("origin-{}", address.port()));
        let thread = Some(thread.spawn(body).expect("a thread for the origin"));
        let origin = Self { address, record, orders, thread };
        origin.order(order_for(&behaviour));
        origin
    }

    /// One behaviour for each request; the last one stays.
    pub fn script(behaviours: impl IntoIterator<Item = Behaviour>) -> Self {
        Self::start(Behaviour::Script(behaviours.into_iter().collect()))
    }

    /// Changes what is done from the next request (or connection) on.
    pub fn set(&self, behaviour: impl Into<Behaviour>) {
        let behaviour = behaviour.into();
        behaviour.check();
        let order = order_for(&behaviour);
        self.record.change(|record| (record.behaviour, record.turn) = (behaviour, 0));
        self.order(order);
    }

    /// Closes every open connection, whatever it is doing.
    pub fn cut(&self) {
        self.order(Order::Cut);
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// `http://127.0.0.1:PORT`, for a provider's `url`.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub fn requests(&self) -> Vec<Request> {
        self.record.read(|record| record.requests.clone())
    }

    /// The latest request; there must be one.
    pub fn last(&self) -> Request {
        self.requests().pop().expect("the origin has seen a request")
    }

    pub fn count(&self) -> usize {
        self.record.read(|record| record.requests.len())
    }

    /// Connections accepted so far.
    pub fn connections(&self) -> usize {
        self.record.read(|record| record.connections)
    }

    pub fn open_connections(&self) -> usize {
        self.record.read(|record| record.open)
    }

    /// Requests read and neither answered nor given up.
    pub fn in_flight(&self) -> usize {
        self.record.read(|record| record.in_flight)
    }

    pub fn most_in_flight(&self) -> usize {
        self.record.read(|record| record.most_in_flight)
    }

    pub fn wait_for_requests(&self, count: usize) {
        let found = self.record.wait(|r| (r.requests.len() >= count).then_some(()));
        assert!(found.is_some(), "{count} requests never came, only {}", self.count());
    }

    /// Waits until so many requests are being worked on at once.
    pub fn wait_for_in_flight(&self, count: usize) {
        let found = self.record.wait(|r| (r.in_flight == count).then_some(()));
        assert!(found.is_some(), "{count} in flight never came, but {}", self.in_flight());
    }

    pub fn wait_for_open_connections(&self, count: usize) {
        let found = self.record.wait(|r| (r.open == count).then_some(()));
        let now = self.open_connections();
        assert!(found.is_some(), "{count} open connections never came, but {now}");
    }

    /// Carried out when it returns.
    fn order(&self, order: Order) {
        let (done, carried_out) = std_mpsc::channel();
        let sent = self.orders.send((order, done)).is_ok();
        if !sent || carried_out.recv_timeout(PATIENCE).is_err() {
            panic!("the origin on {} has stopped: {:?}", self.address, self.panic());
        }
    }

    fn panic(&self) -> Option<String> {
        self.record.read(|record| record.panic.clone())
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        let (done, _) = std_mpsc::channel();
        let _ = self.orders.send((Order::Stop, done));
        let ended = self.thread.take().is_none_or(|thread| thread.join().is_ok());
        if std::thread::panicking() {
            return;
        }
        if let Some(panic) = self.panic() {
            panic!("the origin on {} panicked: {panic}", self.address);
        }
        assert!(ended, "the origin on {} panicked", self.address);
    }
}

// === impl Record ===

impl Record {
    fn new(behaviour: Behaviour) -> Self {
        Self {
            behaviour,
            turn: 0,
            requests: Vec::new(),
            connections: 0,
            open: 0,
            in_flight: 0,
            most_in_flight: 0,
            panic: None,
        }
    }

    /// Takes a request in, and says what to do with it.
    fn take(&mut self, request: Request) -> Behaviour {
        self.requests.push(request);
        self.in_flight += 1;
        self.most_in_flight = self.most_in_flight.max(self.in_flight);
        let turn = self.turn;
        self.turn += 1;
        match &self.behaviour {
            Behaviour::Script(parts) => parts[turn.min(parts.len() - 1)].clone(),
            Behaviour::Turns(parts) => parts[turn % parts.len()].clone(),
            other => other.clone(),
        }
    }
}

fn order_for(behaviour: &Behaviour) -> Order {
    match behaviour {
        Behaviour::RefuseConnections => Order::Refuse,
        Behaviour::BlackHole => Order::BlackHole,
        _ => Order::Listen,
    }
}

/// Takes orders and connections until told to stop.
fn run(
    _reserved: &Reserved,
    address: SocketAddr,
    record: &Arc<Watched<Record>>,
    mut orders: mpsc::UnboundedReceiver<(Order, std_mpsc::Sender<()>)>,
) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime for the origin").block_on(async move {
        let mut door = Door::Refusing;
        let mut talks = JoinSet::new();
        loop {
            tokio::select! {
                stream = door.accept() => {
                    let connection = record.change(|r| { r.connections += 1; r.connections - 1 });
                    talks.spawn(serve::converse(stream, Arc::clone(record), connection));
                }
                Some(ended) = talks.join_next() => note_panic(record, ended),
                order = orders.recv() => match order {
                    None | Some((Order::Stop, _)) => break,
                    Some((order, done)) => {
                        door = carry_out(order, door, address);
                        if !matches!(order, Order::Listen) {
                            talks.abort_all();
                            while let Some(ended) = talks.join_next().await {
                                note_panic(record, ended);
                            }
                        }
                        let _ = done.send(());
                    }
                },
            }
        }
        while let Some(ended) = talks.try_join_next() {
            note_panic(record, ended);
        }
    });
}

fn carry_out(order: Order, door: Door, address: SocketAddr) -> Door {
    match (order, door) {
        (Order::Listen, Door::Open(listener)) => Door::Open(listener),
        (Order::Cut, door) => door,
        (order, closed) => {
            drop(closed);
            match order {
                Order::Listen => Door::open(address),
                Order::BlackHole => Door::dropping(address),
                _ => Door::Refusing,
            }
        }
    }
}

fn note_panic(record: &Watched<Record>, ended: Result<(), tokio::task::JoinError>) {
    let Err(error) = ended else { return };
    let Ok(payload) = error.try_into_panic() else {
        return;
    };
    let text = payload.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| payload.downcast_ref::<&str>().copied());
    record.change(|r| r.panic = Some(text.unwrap_or("not a text").to_owned()));
}
