//! One connection of an origin: read a request, do as told, read the next.
//!
//! Whatever waits also listens for the client's leaving, so that a request the client gave up is
//! no longer in flight here.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::super::Watched;
use super::super::behaviour::{Behaviour, Ending, Gate, Stream};
use super::super::message::{self, Framing};
use super::{Record, Request};

/// What becomes of the connection after a request.
#[derive(Debug)]
enum Next {
    Keep,
    Close,
    Reset,
}

#[derive(Debug)]
struct Connection {
    stream: TcpStream,
    /// Read and not yet used.
    buffer: Vec<u8>,
    id: usize,
}

/// Counts something up now and down when dropped, however the task ends.
struct Counted<'a>(&'a Watched<Record>, fn(&mut Record) -> &mut usize);

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.change(|record| *(self.1)(record) -= 1);
    }
}

pub(super) async fn converse(stream: TcpStream, record: Arc<Watched<Record>>, id: usize) {
    let _ = stream.set_nodelay(true);
    record.change(|r| r.open += 1);
    let _open = Counted(&record, |r| &mut r.open);
    let mut connection = Connection { stream, buffer: Vec::new(), id };
    while let Some(request) = connection.request().await {
        let behaviour = record.change(|r| r.take(request.clone()));
        let _in_flight = Counted(&record, |r| &mut r.in_flight);
        match connection.behave(behaviour, &request).await {
            Ok(Next::Keep) => {}
            // The client left in the middle: nothing to say to it.
            Ok(Next::Close) | Err(_) => return,
            Ok(Next::Reset) => return connection.reset(),
        }
    }
}

// === impl Connection ===

impl Connection {
    /// The next request, whole; `None` when the client is gone.
    async fn request(&mut self) -> Option<Request> {
        let head = loop {
            if let Some(head) = message::head(&self.buffer) {
                break head;
            }
            self.more().await?;
        };
        self.buffer.drain(..head.len);
        if head.headers.get("expect").is_some_and(|v| v.eq_ignore_ascii_case("100-continue")) {
            self.stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await.ok()?;
        }
        let body = self.body(Framing::of_request(&head.headers)).await?;
        let mut words = head.start.split(' ');
        let mut word = || words.next().unwrap_or_default().to_owned();
        let (method, path) = (word(), word());
        let (at, connection) = (Instant::now(), self.id);
        Some(Request { method, path, headers: head.headers, body, at, connection })
    }

    async fn body(&mut self, framing: Framing) -> Option<Vec<u8>> {
        if let Framing::Length(length) = framing {
            while self.buffer.len() < length {
                self.more().await?;
            }
            return Some(self.buffer.drain(..length).collect());
        }
        let mut body = Vec::new();
        loop {
            let Some((content, used)) = message::chunk(&self.buffer) else {
                self.more().await?;
                continue;
            };
            let last = content.is_empty();
            body.extend_from_slice(content);
            self.buffer.drain(..used);
            if last {
                return Some(body);
            }
        }
    }

    /// Reads something more; `None` when the client has left.
    async fn more(&mut self) -> Option<()> {
        match self.stream.read_buf(&mut self.buffer).await {
            Ok(0) | Err(_) => None,
            Ok(_) => Some(()),
        }
    }

    async fn gone(&mut self) {
        while self.more().await.is_some() {}
    }

    /// Passes the gate; an error when the client leaves first.
    async fn pass(&mut self, gate: &Gate) -> std::io::Result<()> {
        tokio::select! {
            biased;
            () = gate.pass() => Ok(()),
            () = self.gone() => Err(std::io::ErrorKind::BrokenPipe.into()),
        }
    }

    async fn behave(&mut self, behaviour: Behaviour, request: &Request) -> std::io::Result<Next> {
        let mut behaviour = behaviour;
        loop {
            behaviour = match behaviour {
                Behaviour::Held(gate, then) => {
                    self.pass(&gate).await?;
                    *then
                }
                Behaviour::Custom(decide) => (decide.0)(request),
                settled => return self.carry_out(settled, request).await,
            };
        }
    }

    async fn carry_out(&mut self, settled: Behaviour, request: &Request) -> std::io::Result<Next> {
        let good = completion(request);
        match settled {
            Behaviour::Chat => self.answer(request, 200, &good).await.and(Ok(Next::Keep)),
            Behaviour::CloseIdle => self.answer(request, 200, &good).await.and(Ok(Next::Close)),
            Behaviour::MalformedJson => {
                self.answer(request, 200, "{\"choices\": [").await.and(Ok(Next::Keep))
            }
            Behaviour::EmptyBody => self.answer(request, 200, "").await.and(Ok(Next::Keep)),
            Behaviour::Sse(stream) => self.send_events(stream).await,
            Behaviour::Status(code, headers, body) => {
                self.respond(request, code, &headers, &body, body.len()).await?;
                Ok(Next::Keep)
            }
            Behaviour::Reset => Ok(Next::Reset),
            Behaviour::ResetMidBody => {
                self.half(request, &good).await?;
                // A reset discards what the peer has not read: let the half arrive.
                self.delivered().await;
                Ok(Next::Reset)
            }
            Behaviour::HalfBody => self.half(request, &good).await.and(Ok(Next::Close)),
            Behaviour::Silent => self.silence().await,
            Behaviour::HeadersThenSilence => {
                self.respond(request, 200, &json_type(), "", good.len()).await?;
                self.silence().await
            }
            Behaviour::Raw(bytes) => self.stream.write_all(&bytes).await.and(Ok(Next::Close)),
            about @ (Behaviour::RefuseConnections
            | Behaviour::BlackHole
            | Behaviour::Held(..)
            | Behaviour::Script(_)
            | Behaviour::Turns(_)
            | Behaviour::Custom(_)) => {
                // A connection made just before the listener went away, or a wrong script.
                assert!(about.is_about_the_listener(), "{about:?} cannot answer a request");
                Ok(Next::Close)
            }
        }
    }

    async fn silence(&mut self) -> std::io::Result<Next> {
        self.gone().await;
        Ok(Next::Close)
    }

    async fn answer(&mut self, to: &Request, status: u16, body: &str) -> std::io::Result<()> {
        self.respond(to, status, &json_type(), body, body.len()).await
    }

    async fn half(&mut self, to: &Request, body: &str) -> std::io::Result<()> {
        self.respond(to, 200, &json_type(), &body[..body.len() / 2], body.len()).await
    }

    /// Says `length`, sends `body`, whatever they have to do with each other.
    async fn respond(
        &mut self,
        to: &Request,
        status: u16,
        headers: &[(String, String)],
        body: &str,
        length: usize,
    ) -> std::io::Result<()> {
        let mut text = format!("HTTP/1.1 {status} Scripted\r\n");
        for (name, value) in headers {
            text.push_str(&format!("{name}: {value}\r\n"));
        }
        if status >= 200 && status != 204 && status != 304 {
            text.push_str(&format!("content-length: {length}\r\n"));
        }
        text.push_str(&format!("x-origin: {}\r\n\r\n", self.stream.local_addr()?));
        if to.method != "HEAD" {
            text.push_str(body);
        }
        self.stream.write_all(text.as_bytes()).await
    }

    async fn send_events(&mut self, events: Stream) -> std::io::Result<Next> {
        let origin = self.stream.local_addr()?;
        let head = format!(
            "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncache-control: no-cache\r\n\
             transfer-encoding: chunked\r\nx-origin: {origin}\r\n\r\n"
        );
        self.stream.write_all(head.as_bytes()).await?;
        for frame in &events.frames {
            self.pass(&events.gate).await?;
            let event = format!("data: {frame}\n\n");
            let chunk = format!("{:x}\r\n{event}\r\n", event.len());
            self.stream.write_all(chunk.as_bytes()).await?;
        }
        match events.ending {
            Ending::Complete => {
                self.stream.write_all(b"0\r\n\r\n").await?;
                Ok(Next::Keep)
            }
            Ending::Cut => Ok(Next::Close),
            Ending::Reset => {
                self.delivered().await;
                Ok(Next::Reset)
            }
            Ending::Hang => self.silence().await,
        }
    }

    /// Waits, for a moment at most, until the peer has had the time to read what was sent.
    async fn delivered(&mut self) {
        let moment = Duration::from_millis(20);
        let _ = tokio::time::timeout(moment, self.gone()).await;
    }

    /// Closes with RST.
    fn reset(self) {
        let _ = socket2::SockRef::from(&self.stream).set_linger(Some(Duration::ZERO));
    }
}

fn json_type() -> Vec<(String, String)> {
    vec![("content-type".to_owned(), "application/json".to_owned())]
}

/// A chat completion for the model that was asked for.
fn completion(request: &Request) -> String {
    let asked: Value = serde_json::from_slice(&request.body).unwrap_or_default();
    let model = asked.get("model").and_then(Value::as_str).unwrap_or("m");
    let message = json!({ "role": "assistant", "content": "hello there" });
    json!({
        "id": "chatcmpl-1", "object": "chat.completion", "created": 1_700_000_000, "model": model,
        "choices": [{ "index": 0, "message": message, "finish_reason": "stop" }],
        "usage": { "prompt_tokens": 9, "completion_tokens": 2, "total_tokens": 11 },
    })
    .to_string()
}
