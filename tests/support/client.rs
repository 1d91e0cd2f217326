//! A small blocking HTTP/1.1 client that hides nothing.
//!
//! It distinguishes a complete body from a truncated one, keeps header order and repetition,
//! returns stream events as they arrive, and can write bytes that are not HTTP. No read waits
//! longer than [`PATIENCE`].

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::Value;

use super::PATIENCE;
use super::message::{self, Framing, Headers};

/// A request to send.
#[derive(Clone, Debug)]
pub struct Call {
    pub method: String,
    pub target: String,
    pub headers: Vec<(String, String)>,
    pub body: Option<Vec<u8>>,
    pub chunked: bool,
}

/// A connection, kept alive between calls.
#[derive(Debug)]
pub struct Client {
    address: SocketAddr,
    stream: TcpStream,
    buffer: Vec<u8>,
}

/// A response whose head has arrived and whose body is read as it arrives.
#[derive(Debug)]
pub struct ResponseReader<'a> {
    client: &'a mut Client,
    pub status: u16,
    pub headers: Headers,
    /// Statuses of the 1xx responses before it.
    pub interim: Vec<u16>,
    remaining: Framing,
    end: Option<End>,
    /// Body bytes read and not yet returned as an event.
    unframed: Vec<u8>,
}

#[derive(Clone, Debug)]
pub struct Response {
    pub status: u16,
    pub headers: Headers,
    pub interim: Vec<u16>,
    pub body: Vec<u8>,
    pub end: End,
}

/// How a body ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Where its framing says.
    Complete,
    /// The connection was closed earlier.
    Cut,
    /// The connection was reset.
    Reset,
}

pub fn get(url: &str) -> Response {
    Client::to(url).send(&Call::get(path_of(url)))
}

pub fn post(url: &str, body: impl Into<Vec<u8>>) -> Response {
    Client::to(url).send(&Call::post(path_of(url), body))
}

pub fn post_json(url: &str, body: &Value) -> Response {
    Client::to(url).send(&Call::json(path_of(url), body))
}

// === impl Call ===

impl Call {
    pub fn new(method: &str, target: &str) -> Self {
        let (method, target) = (method.to_owned(), target.to_owned());
        Self { method, target, headers: Vec::new(), body: None, chunked: false }
    }

    pub fn get(target: &str) -> Self {
        Self::new("GET", target)
    }

    pub fn post(target: &str, body: impl Into<Vec<u8>>) -> Self {
        Self { body: Some(body.into()), ..Self::new("POST", target) }
    }

    pub fn json(target: &str, body: &Value) -> Self {
        Self::post(target, body.to_string()).header("content-type", "application/json")
    }

    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Sends the body chunked, without a `content-length`.
    pub fn chunked(self) -> Self {
        Self { chunked: true, ..self }
    }

    fn to_bytes(&self, host: SocketAddr) -> Vec<u8> {
        let mut text = format!("{} {} HTTP/1.1\r\n", self.method, self.target);
        if !self.headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("host")) {
            text.push_str(&format!("host: {host}\r\n"));
        }
        for (name, value) in &self.headers {
            text.push_str(&format!("{name}: {value}\r\n"));
        }
        let body = self.body.as_deref().unwrap_or_default();
        match (self.chunked, &self.body) {
            (true, _) => text.push_str("transfer-encoding: chunked\r\n\r\n"),
            (false, Some(body)) => {
                text.push_str(&format!("content-length: {}\r\n\r\n", body.len()))
            }
            (false, None) => text.push_str("\r\n"),
        }
        let mut bytes = text.into_bytes();
        if !self.chunked {
            bytes.extend_from_slice(body);
            return bytes;
        }
        for piece in body.chunks(1024) {
            bytes.extend_from_slice(format!("{:x}\r\n", piece.len()).as_bytes());
            bytes.extend_from_slice(piece);
            bytes.extend_from_slice(b"\r\n");
        }
        bytes.extend_from_slice(b"0\r\n\r\n");
        bytes
    }
}

// === impl Client ===

impl Client {
    /// Connects to the host of an `http://127.0.0.1:PORT/...` URL; the path is ignored.
    pub fn to(url: &str) -> Self {
        Self::try_to(url).unwrap_or_else(|error| panic!("cannot connect to {url}: {error}"))
    }

    pub fn try_to(url: &str) -> io::Result<Self> {
        let address = address_of(url);
        let stream = TcpStream::connect_timeout(&address, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        stream.set_nodelay(true)?;
        Ok(Self { address, stream, buffer: Vec::new() })
    }

    /// Sends and reads the whole response; panics if none arrives.
    pub fn send(&mut self, call: &Call) -> Response {
        self.start(call).rest()
    }

    pub fn try_send(&mut self, call: &Call) -> io::Result<Response> {
        self.write(&call.to_bytes(self.address))?;
        Ok(self.read_response(&call.method)?.rest())
    }

    /// Sends and reads the head of the response. Panics if no head arrives.
    pub fn start(&mut self, call: &Call) -> ResponseReader<'_> {
        let address = self.address;
        self.write(&call.to_bytes(address))
            .unwrap_or_else(|error| panic!("cannot send to {address}: {error}"));
        self.read_response(&call.method).unwrap_or_else(|error| {
            panic!("no response from {address} to {} {}: {error}", call.method, call.target)
        })
    }

    /// Sends without waiting for the response; [`Client::read_response`] reads it.
    pub fn send_only(&mut self, call: &Call) {
        self.write(&call.to_bytes(self.address)).expect("the request can be sent");
    }

    /// Writes raw bytes.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// Reads the head of the response to a request with this method.
    pub fn read_response(&mut self, method: &str) -> io::Result<ResponseReader<'_>> {
        let mut interim = Vec::new();
        loop {
            let head = loop {
                match message::head(&self.buffer) {
                    Some(head) => break head,
                    None if self.more()? == 0 => return Err(ErrorKind::UnexpectedEof.into()),
                    None => {}
                }
            };
            self.buffer.drain(..head.len);
            let status = head.start.split(' ').nth(1).and_then(|code| code.parse().ok());
            let status = status.ok_or_else(|| io::Error::other(head.start.clone()))?;
            if (100..200).contains(&status) && status != 101 {
                interim.push(status);
                continue;
            }
            let remaining = Framing::of_response(method, status, &head.headers);
            let (client, headers, unframed) = (self, head.headers, Vec::new());
            return Ok(ResponseReader {
                client,
                status,
                headers,
                interim,
                remaining,
                end: None,
                unframed,
            });
        }
    }

    /// Waits until the peer closes; returns true when it did. Bytes sent before that are kept.
    pub fn wait_for_close(&mut self) -> bool {
        loop {
            match self.more() {
                Ok(0) => return true,
                Ok(_) => {}
                Err(error) => return error.kind() == ErrorKind::ConnectionReset,
            }
        }
    }

    /// Closes the sending direction only.
    pub fn half_close(&self) {
        let _ = self.stream.shutdown(Shutdown::Write);
    }

    /// Closes the connection with a reset.
    pub fn reset(self) {
        let _ = socket2::SockRef::from(&self.stream).set_linger(Some(Duration::ZERO));
    }

    fn more(&mut self) -> io::Result<usize> {
        let mut piece = [0; 16 * 1024];
        let read = self.stream.read(&mut piece)?;
        self.buffer.extend_from_slice(&piece[..read]);
        Ok(read)
    }
}

// === impl ResponseReader ===

impl ResponseReader<'_> {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)
    }

    /// The next bytes of the body as they arrive; `None` at its end.
    pub fn next_piece(&mut self) -> Option<Vec<u8>> {
        while self.end.is_none() {
            if let Some(piece) = self.buffered() {
                return Some(piece);
            }
            if self.end.is_some() {
                break;
            }
            match self.client.more() {
                Ok(0) if self.remaining == Framing::ToClose => self.end = Some(End::Complete),
                Ok(0) => self.end = Some(End::Cut),
                Ok(_) => {}
                Err(e) if e.kind() == ErrorKind::ConnectionReset => self.end = Some(End::Reset),
                Err(error) => panic!("the rest of the body never arrived: {error}"),
            }
        }
        None
    }

    /// The next event of an event stream as its joined `data:` lines; `None` at the end.
    pub fn next_event(&mut self) -> Option<String> {
        loop {
            if let Some(end) = message::find(&self.unframed, b"\n\n") {
                let event: Vec<u8> = self.unframed.drain(..end + 2).collect();
                let text = String::from_utf8(event).expect("an event is text");
                let lines: Vec<_> = text.lines().filter_map(|l| l.strip_prefix("data:")).collect();
                return Some(lines.join("\n").trim_start().to_owned());
            }
            let piece = self.next_piece()?;
            self.unframed.extend_from_slice(&piece);
        }
    }

    /// Reads all remaining events.
    pub fn events(&mut self) -> Vec<String> {
        std::iter::from_fn(|| self.next_event()).collect()
    }

    /// Reads to the end and returns how the body ended.
    pub fn end(&mut self) -> End {
        while self.next_piece().is_some() {}
        self.end.unwrap_or(End::Complete)
    }

    pub fn rest(mut self) -> Response {
        let mut body = std::mem::take(&mut self.unframed);
        while let Some(piece) = self.next_piece() {
            body.extend_from_slice(&piece);
        }
        let end = self.end();
        let Self { status, headers, interim, .. } = self;
        Response { status, headers, interim, body, end }
    }

    /// A piece of the body from the bytes already read; records the end.
    fn buffered(&mut self) -> Option<Vec<u8>> {
        let buffer = &mut self.client.buffer;
        let piece = match self.remaining {
            Framing::Length(0) => {
                self.end = Some(End::Complete);
                return None;
            }
            Framing::Length(remaining) => {
                let piece: Vec<u8> = buffer.drain(..remaining.min(buffer.len())).collect();
                self.remaining = Framing::Length(remaining - piece.len());
                piece
            }
            Framing::ToClose => std::mem::take(buffer),
            Framing::Chunked => {
                let (content, used) = message::chunk(buffer)?;
                let piece = content.to_vec();
                buffer.drain(..used);
                self.end = piece.is_empty().then_some(End::Complete);
                piece
            }
        };
        (!piece.is_empty()).then_some(piece)
    }
}

// === impl Response ===

impl Response {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn json(&self) -> Value {
        let text = self.text();
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("not JSON ({e}): {text}"))
    }
}

fn address_of(url: &str) -> SocketAddr {
    let rest = url.strip_prefix("http://").unwrap_or(url);
    let host = rest.split('/').next().unwrap_or_default();
    host.parse().unwrap_or_else(|_| panic!("expected http://ADDRESS:PORT/..., found {url}"))
}

fn path_of(url: &str) -> &str {
    let rest = url.strip_prefix("http://").unwrap_or(url);
    rest.find('/').map_or("/", |start| &rest[start..])
}
