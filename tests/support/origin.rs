//! A scripted HTTP/1.1 origin.
//!
//! It is written on raw TCP to produce faults that mock servers cannot: a truncated body, a reset,
//! a listener that drops SYNs. Each origin has one thread with a current-thread runtime.

use std::net::SocketAddr;
use std::sync::{Arc, mpsc as std_mpsc};
use std::thread::JoinHandle;
use std::time::Instant;

use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::behaviour::Behaviour;
use super::listener::{PortState, ReservedPort};
use super::message::Headers;
use super::{PATIENCE, Watched};

mod serve;

/// A complete request as the origin received it.
#[derive(Clone, Debug)]
pub struct Request {
    pub method: String,
    /// As on the request line, with the query.
    pub path: String,
    pub headers: Headers,
    pub body: Vec<u8>,
    pub at: Instant,
    /// Index of the connection, from 0 in the order of acceptance.
    pub connection: usize,
}

#[derive(Debug)]
pub struct Origin {
    address: SocketAddr,
    record: Arc<Watched<Record>>,
    commands: mpsc::UnboundedSender<(Command, std_mpsc::Sender<()>)>,
    thread: Option<JoinHandle<()>>,
}

/// Everything observed so far, and the current behaviour.
#[derive(Debug)]
struct Record {
    behaviour: Behaviour,
    /// Requests received under the current behaviour.
    served: usize,
    requests: Vec<Request>,
    connections: usize,
    open: usize,
    in_flight: usize,
    most_in_flight: usize,
    panic: Option<String>,
}

#[derive(Clone, Copy, Debug)]
enum Command {
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
        let reserved = ReservedPort::port();
        let address = reserved.address();
        let record = Arc::new(Watched::new(Record::new(behaviour.clone())));
        let (commands, received) = mpsc::unbounded_channel();
        let shared = Arc::clone(&record);
        let body = move || run(&reserved, address, &shared, received);
        let thread = std::thread::Builder::new().name(format!("origin-{}", address.port()));
        let thread = Some(thread.spawn(body).expect("a thread for the origin"));
        let origin = Self { address, record, commands, thread };
        origin.command(command_for(&behaviour));
        origin
    }

    /// One behaviour for each request; the last one repeats.
    pub fn script(behaviours: impl IntoIterator<Item = Behaviour>) -> Self {
        Self::start(Behaviour::Script(behaviours.into_iter().collect()))
    }

    /// Changes the behaviour from the next request (or connection) on.
    pub fn set(&self, behaviour: impl Into<Behaviour>) {
        let behaviour = behaviour.into();
        behaviour.check();
        let command = command_for(&behaviour);
        self.record.change(|record| (record.behaviour, record.served) = (behaviour, 0));
        self.command(command);
    }

    /// Closes every open connection.
    pub fn cut(&self) {
        self.command(Command::Cut);
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

    /// The latest request; panics if there is none.
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

    /// Requests received whose response is not finished and whose client has not left.
    pub fn in_flight(&self) -> usize {
        self.record.read(|record| record.in_flight)
    }

    pub fn most_in_flight(&self) -> usize {
        self.record.read(|record| record.most_in_flight)
    }

    pub fn wait_for_requests(&self, count: usize) {
        let found = self.record.wait(|r| (r.requests.len() >= count).then_some(()));
        assert!(found.is_some(), "never {count} requests, last {}", self.count());
    }

    /// Waits until exactly `count` requests are in flight.
    pub fn wait_for_in_flight(&self, count: usize) {
        let found = self.record.wait(|r| (r.in_flight == count).then_some(()));
        assert!(found.is_some(), "never {count} in flight, last {}", self.in_flight());
    }

    pub fn wait_for_open_connections(&self, count: usize) {
        let found = self.record.wait(|r| (r.open == count).then_some(()));
        let now = self.open_connections();
        assert!(found.is_some(), "never {count} open connections, last {now}");
    }

    /// Sends a command and waits until it is done.
    fn command(&self, command: Command) {
        let (done, completed) = std_mpsc::channel();
        let sent = self.commands.send((command, done)).is_ok();
        if !sent || completed.recv_timeout(PATIENCE).is_err() {
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
        let _ = self.commands.send((Command::Stop, done));
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
            served: 0,
            requests: Vec::new(),
            connections: 0,
            open: 0,
            in_flight: 0,
            most_in_flight: 0,
            panic: None,
        }
    }

    /// Records a request and returns the behaviour for it.
    fn receive(&mut self, request: Request) -> Behaviour {
        self.requests.push(request);
        self.in_flight += 1;
        self.most_in_flight = self.most_in_flight.max(self.in_flight);
        let served = self.served;
        self.served += 1;
        match &self.behaviour {
            Behaviour::Script(parts) => parts[served.min(parts.len() - 1)].clone(),
            Behaviour::Cycle(parts) => parts[served % parts.len()].clone(),
            other => other.clone(),
        }
    }
}

fn command_for(behaviour: &Behaviour) -> Command {
    match behaviour {
        Behaviour::RefuseConnections => Command::Refuse,
        Behaviour::BlackHole => Command::BlackHole,
        _ => Command::Listen,
    }
}

/// Handles commands and connections until [`Command::Stop`].
fn run(
    _reserved: &ReservedPort,
    address: SocketAddr,
    record: &Arc<Watched<Record>>,
    mut commands: mpsc::UnboundedReceiver<(Command, std_mpsc::Sender<()>)>,
) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime for the origin").block_on(async move {
        let mut port = PortState::Refusing;
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                stream = port.accept() => {
                    let connection = record.change(|r| { r.connections += 1; r.connections - 1 });
                    connections.spawn(serve::serve(stream, Arc::clone(record), connection));
                }
                Some(ended) = connections.join_next() => record_panic(record, ended),
                command = commands.recv() => match command {
                    None | Some((Command::Stop, _)) => break,
                    Some((command, done)) => {
                        port = apply(command, port, address);
                        if !matches!(command, Command::Listen) {
                            connections.abort_all();
                            while let Some(ended) = connections.join_next().await {
                                record_panic(record, ended);
                            }
                        }
                        let _ = done.send(());
                    }
                },
            }
        }
        while let Some(ended) = connections.try_join_next() {
            record_panic(record, ended);
        }
    });
}

fn apply(command: Command, port: PortState, address: SocketAddr) -> PortState {
    match (command, port) {
        (Command::Listen, PortState::Open(listener)) => PortState::Open(listener),
        (Command::Cut, port) => port,
        (command, old) => {
            drop(old);
            match command {
                Command::Listen => PortState::open(address),
                Command::BlackHole => PortState::dropping(address),
                _ => PortState::Refusing,
            }
        }
    }
}

fn record_panic(record: &Watched<Record>, ended: Result<(), tokio::task::JoinError>) {
    let Err(error) = ended else { return };
    let Ok(payload) = error.try_into_panic() else {
        return;
    };
    let text = payload.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| payload.downcast_ref::<&str>().copied());
    record.change(|r| r.panic = Some(text.unwrap_or("not a text").to_owned()));
}
