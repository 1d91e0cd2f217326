//! Raw TCP connections, for bytes that no HTTP client or server would send.

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use crate::fixtures::{policy, route, single_worker};
use crate::support::message::find;
use crate::support::{Behaviour, Origin, PATIENCE, Sidecar};

/// One side of a connection.
#[derive(Debug)]
pub struct RawClient {
    stream: TcpStream,
    /// Bytes read and not yet returned.
    buffer: Vec<u8>,
}

/// A provider whose connections are accepted and handled by the test itself.
#[derive(Debug)]
pub struct RawServer(TcpListener);

/// A sidecar with one provider.
pub fn start_with_provider() -> (Origin, Sidecar) {
    let a = Origin::start(Behaviour::Chat);
    let sidecar = single_worker(&policy(&[("a", &a.url(), "")], &route("providers: [a]")));
    (a, sidecar)
}

/// Sends bytes and returns everything that the sidecar sends until it closes.
pub fn exchange(sidecar: &Sidecar, bytes: impl AsRef<[u8]>) -> String {
    let mut wire = RawClient::to(&sidecar.url("/"));
    wire.write_best_effort(bytes);
    wire.read_to_close()
}

impl RawClient {
    /// Connects to the host of a URL.
    pub fn to(url: &str) -> Self {
        let host = url.trim_start_matches("http://").split('/').next().unwrap_or_default();
        Self::over(TcpStream::connect(host).expect("the sidecar can be connected to"))
    }

    fn over(stream: TcpStream) -> Self {
        stream.set_read_timeout(Some(PATIENCE)).expect("a read timeout can be set");
        stream.set_write_timeout(Some(PATIENCE)).expect("a write timeout can be set");
        stream.set_nodelay(true).expect("TCP_NODELAY can be set");
        Self { stream, buffer: Vec::new() }
    }

    pub fn write(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).expect("bytes can be written");
    }

    /// Writes and ignores errors: the peer may have responded and closed already.
    pub fn write_best_effort(&mut self, bytes: impl AsRef<[u8]>) {
        let _ = self.stream.write_all(bytes.as_ref());
    }

    /// Closes the sending direction.
    pub fn half_close(&self) {
        self.stream.shutdown(std::net::Shutdown::Write).expect("the connection is open");
    }

    /// Closes the connection with a reset.
    pub fn reset(self) {
        let _ = socket2::SockRef::from(&self.stream).set_linger(Some(Duration::ZERO));
    }

    /// Reads up to and including `end`.
    #[track_caller]
    pub fn read_until(&mut self, end: &str) -> String {
        loop {
            if let Some(position) = find(&self.buffer, end.as_bytes()) {
                let content: Vec<u8> = self.buffer.drain(..position + end.len()).collect();
                return String::from_utf8_lossy(&content).into_owned();
            }
            let received = String::from_utf8_lossy(&self.buffer).into_owned();
            assert!(self.read_more(), "never received `{end}`, only `{received}`");
        }
    }

    /// Reads this many bytes.
    pub fn read_exactly(&mut self, count: usize) -> Vec<u8> {
        while self.buffer.len() < count {
            assert!(self.read_more(), "never received {count} bytes, only {}", self.buffer.len());
        }
        self.buffer.drain(..count).collect()
    }

    /// Reads until the peer closes; panics if it does not.
    #[track_caller]
    pub fn read_to_close(&mut self) -> String {
        while self.read_more() {}
        let content = std::mem::take(&mut self.buffer);
        String::from_utf8_lossy(&content).into_owned()
    }

    /// Whether bytes or a close arrive within this time.
    pub fn is_readable_within(&self, time: Duration) -> bool {
        self.stream.set_read_timeout(Some(time)).expect("a read timeout can be set");
        let peeked = self.stream.peek(&mut [0]);
        self.stream.set_read_timeout(Some(PATIENCE)).expect("a read timeout can be set");
        !peeked.is_err_and(|e| matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut))
    }

    /// Reads more bytes; false if the peer has closed.
    #[track_caller]
    fn read_more(&mut self) -> bool {
        let mut piece = [0; 64 * 1024];
        match self.stream.read(&mut piece) {
            Ok(0) => false,
            Ok(read) => {
                self.buffer.extend_from_slice(&piece[..read]);
                true
            }
            Err(error) if error.kind() == ErrorKind::ConnectionReset => false,
            Err(error) => {
                let received = String::from_utf8_lossy(&self.buffer);
                panic!("no more bytes and no close ({error}) after `{received}`")
            }
        }
    }
}

impl RawServer {
    pub fn start() -> Self {
        Self::start_on("127.0.0.1:0").expect("a loopback port can be bound")
    }

    /// Fails where the address does not exist.
    pub fn start_on(address: &str) -> std::io::Result<Self> {
        let listener = TcpListener::bind(address)?;
        let socket = socket2::SockRef::from(&listener);
        socket.set_read_timeout(Some(PATIENCE)).expect("an accept timeout can be set");
        Ok(Self(listener))
    }

    pub fn host(&self) -> String {
        self.0.local_addr().expect("a bound socket has an address").to_string()
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.host())
    }

    /// The next connection.
    pub fn accept(&self) -> RawClient {
        RawClient::over(self.0.accept().expect("a connection came").0)
    }
}
