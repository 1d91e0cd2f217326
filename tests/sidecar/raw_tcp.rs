//! Bytes on a TCP connection, for what no HTTP client or server would send.

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};

use crate::support::PATIENCE;
use crate::support::message::find;

/// One side of a connection.
#[derive(Debug)]
pub struct RawClient {
    stream: TcpStream,
    /// Read and not yet handed out.
    buffer: Vec<u8>,
}

/// A provider by hand: its connections are taken and talked on one by one.
#[derive(Debug)]
pub struct Peer(TcpListener);

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

    /// Writes what the other side still takes: it may have answered and closed.
    pub fn offer(&mut self, bytes: impl AsRef<[u8]>) {
        let _ = self.stream.write_all(bytes.as_ref());
    }

    /// Nothing more will be written.
    pub fn half_close(&self) {
        self.stream.shutdown(std::net::Shutdown::Write).expect("the connection is open");
    }

    /// Everything up to and including `end`.
    #[track_caller]
    pub fn read_until(&mut self, end: &str) -> String {
        loop {
            if let Some(at) = find(&self.buffer, end.as_bytes()) {
                let taken: Vec<u8> = self.buffer.drain(..at + end.len()).collect();
                return String::from_utf8_lossy(&taken).into_owned();
            }
            let seen = String::from_utf8_lossy(&self.buffer).into_owned();
            assert!(self.more(), "`{end}` never came, but `{seen}`");
        }
    }

    /// Reads this many bytes.
    pub fn read_exactly(&mut self, count: usize) -> Vec<u8> {
        while self.buffer.len() < count {
            assert!(self.more(), "{count} bytes never came, only {}", self.buffer.len());
        }
        self.buffer.drain(..count).collect()
    }

    /// Everything until the other side closes; panics when it does not.
    #[track_caller]
    pub fn read_to_close(&mut self) -> String {
        while self.more() {}
        let taken = std::mem::take(&mut self.buffer);
        String::from_utf8_lossy(&taken).into_owned()
    }

    /// False at the end of what the other side sends.
    #[track_caller]
    fn more(&mut self) -> bool {
        let mut piece = [0; 64 * 1024];
        match self.stream.read(&mut piece) {
            Ok(0) => false,
            Ok(read) => {
                self.buffer.extend_from_slice(&piece[..read]);
                true
            }
            Err(error) if error.kind() == ErrorKind::ConnectionReset => false,
            Err(error) => {
                let seen = String::from_utf8_lossy(&self.buffer);
                panic!("neither more nor an end came ({error}) after `{seen}`")
            }
        }
    }
}

impl Peer {
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a loopback port can be bound");
        let socket = socket2::SockRef::from(&listener);
        socket.set_read_timeout(Some(PATIENCE)).expect("an accept timeout can be set");
        Self(listener)
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
