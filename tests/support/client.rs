//! A small blocking HTTP/1.1 client that hides nothing.
//!
//! It tells a whole body from one that was cut, keeps header order and repetition, hands out
//! event-stream frames as they come, and can write bytes that are no HTTP at all. No read waits
//! longer than [`PATIENCE`].

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::Value;

use super::PATIENCE;
use super::message::{self, Framing, Headers};

/// A request to make.
#[derive(Clone, Debug)]
pub struct Call {
    pub method: String,
    pub target: String,
    pub headers: Vec<(String, String)>,
    pub body: Option<Vec<u8>>,
    pub chunked: bool,
}

/// A connection; kept alive from call to call.
#[derive(Debug)]
pub struct Client {
    address: SocketAddr,
    stream: TcpStream,
    buffer: Vec<u8>,
}

/// A response of which the head has come, and the rest is read as it comes.
#[derive(Debug)]
pub struct Answer<'a> {
    client: &'a mut Client,
    pub status: u16,
    pub headers: Headers,
    /// The 1xx responses before it.
    pub interim: Vec<u16>,
    left: Framing,
    end: Option<End>,
    /// Body read and not yet handed out as a frame.
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
    /// Where its framing said.
    Complete,
    /// The connection was closed before that.
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

    /// Sends the body in chunks, its length untold.
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
    /// Connects to the host of an `http://127.0.0.1:PORT/...` URL; a path is ignored.
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

    /// The whole response; panics when none comes.
    pub fn send(&mut self, call: &Call) -> Response {
        self.start(call).rest()
    }

    pub fn try_send(&mut self, call: &Call) -> io::Result<Response> {
        self.write(&call.to_bytes(self.address))?;
        Ok(self.read_answer(&call.method)?.rest())
    }

    /// The response's head; its body is read from the answer. Panics when no head comes.
    pub fn start(&mut self, call: &Call) -> Answer<'_> {
        let address = self.address;
        self.write(&call.to_bytes(address))
            .unwrap_or_else(|error| panic!("cannot send to {address}: {error}"));
        self.read_answer(&call.method).unwrap_or_else(|error| {
            panic!("no answer from {address} to {} {}: {error}", call.method, call.target)
        })
    }

    /// Sends without waiting for the answer; [`Client::read_answer`] reads it.
    pub fn send_only(&mut self, call: &Call) {
        self.write(&call.to_bytes(self.address)).expect("the request can be sent");
    }

    /// Bytes as they are.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// Reads the head of the answer to a request of this method.
    pub fn read_answer(&mut self, method: &str) -> io::Result<Answer<'_>> {
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
            let left = Framing::of_response(method, status, &head.headers);
            let (client, headers, unframed) = (self, head.headers, Vec::new());
            return Ok(Answer { client, status, headers, interim, left, end: None, unframed });
        }
    }

    /// True once the other side has closed; what it sent before is kept.
    pub fn wait_for_close(&mut self) -> bool {
        loop {
            match self.more() {
                Ok(0) => return true,
                Ok(_) => {}
                Err(error) => return error.kind() == ErrorKind::ConnectionReset,
            }
        }
    }

    /// Says that no more will be sent, and goes on reading.
    pub fn half_close(&self) {
        let _ = self.stream.shutdown(Shutdown::Write);
    }

    /// Leaves with a reset instead of an orderly close.
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

// === impl Answer ===

impl Answer<'_> {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)
    }

    /// The next bytes of the body, as they come; `None` at its end.
    pub fn next_piece(&mut self) -> Option<Vec<u8>> {
        while self.end.is_none() {
            if let Some(piece) = self.buffered() {
                return Some(piece);
            }
            if self.end.is_some() {
                break;
            }
            match self.client.more() {
                Ok(0) if self.left == Framing::ToClose => self.end = Some(End::Complete),
                Ok(0) => self.end = Some(End::Cut),
                Ok(_) => {}
                Err(e) if e.kind() == ErrorKind::ConnectionReset => self.end = Some(End::Reset),
                Err(error) => panic!("nothing more of the body came: {error}"),
            }
        }
        None
    }

    /// The next event of an event stream, its `data:` lines joined; `None` at the end.
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

    /// Every event to the end.
    pub fn events(&mut self) -> Vec<String> {
        std::iter::from_fn(|| self.next_event()).collect()
    }

    /// How it ended; reads to the end.
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

    /// A piece of the body out of what has been read; notes the end.
    fn buffered(&mut self) -> Option<Vec<u8>> {
        let buffer = &mut self.client.buffer;
        let piece = match self.left {
            Framing::Length(0) => {
                self.end = Some(End::Complete);
                return None;
            }
            Framing::Length(left) => {
                let piece: Vec<u8> = buffer.drain(..left.min(buffer.len())).collect();
                self.left = Framing::Length(left - piece.len());
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
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("no JSON ({e}): {text}"))
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
