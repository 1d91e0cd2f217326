//! One connection of an origin: read a request, perform the scripted behaviour, read the next.
//!
//! Every wait also watches for the client to disconnect, so that an abandoned request is no longer
//! counted as in flight.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::super::Watched;
use super::super::behaviour::{Behaviour, Ending, Gate, Stream};
use super::super::message::{self, Framing};
use super::{Record, Request};

/// The connection state after a request.
#[derive(Debug)]
enum AfterRequest {
    Keep,
    Close,
    Reset,
}

#[derive(Debug)]
struct Connection {
    stream: TcpStream,
    /// Bytes read and not yet parsed.
    buffer: Vec<u8>,
    id: usize,
}

/// Decrements a counter of the record when dropped, however the task ends.
struct Counted<'a>(&'a Watched<Record>, fn(&mut Record) -> &mut usize);

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.change(|record| *(self.1)(record) -= 1);
    }
}

pub(super) async fn serve(stream: TcpStream, record: Arc<Watched<Record>>, id: usize) {
    let _ = stream.set_nodelay(true);
    record.change(|r| r.open += 1);
    let _open = Counted(&record, |r| &mut r.open);
    let mut connection = Connection { stream, buffer: Vec::new(), id };
    while let Some(request) = connection.request().await {
        let behaviour = record.change(|r| r.receive(request.clone()));
        let _in_flight = Counted(&record, |r| &mut r.in_flight);
        match connection.behave(behaviour, &request).await {
            Ok(AfterRequest::Keep) => {}
            // On an error the client is gone.
            Ok(AfterRequest::Close) | Err(_) => return,
            Ok(AfterRequest::Reset) => return connection.reset(),
        }
    }
}

// === impl Connection ===

impl Connection {
    /// The next complete request; `None` when the client is gone.
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

    /// Reads more bytes; `None` when the client is gone.
    async fn more(&mut self) -> Option<()> {
        match self.stream.read_buf(&mut self.buffer).await {
            Ok(0) | Err(_) => None,
            Ok(_) => Some(()),
        }
    }

    async fn wait_for_peer_close(&mut self) {
        while self.more().await.is_some() {}
    }

    /// Passes the gate; an error if the client disconnects first.
    async fn pass(&mut self, gate: &Gate) -> std::io::Result<()> {
        tokio::select! {
            biased;
            () = gate.pass() => Ok(()),
            () = self.wait_for_peer_close() => Err(std::io::ErrorKind::BrokenPipe.into()),
        }
    }

    /// Waits; an error if the client disconnects first.
    async fn wait_until(&mut self, at: Instant) -> std::io::Result<()> {
        tokio::select! {
            biased;
            () = tokio::time::sleep_until(at.into()) => Ok(()),
            () = self.wait_for_peer_close() => Err(std::io::ErrorKind::BrokenPipe.into()),
        }
    }

    async fn behave(
        &mut self,
        behaviour: Behaviour,
        request: &Request,
    ) -> std::io::Result<AfterRequest> {
        let mut behaviour = behaviour;
        loop {
            behaviour = match behaviour {
                Behaviour::Held(gate, then) => {
                    self.pass(&gate).await?;
                    *then
                }
                Behaviour::After(time, then) => {
                    self.wait_until(request.at + time).await?;
                    *then
                }
                Behaviour::Custom(decide) => (decide.0)(request),
                behaviour => return self.perform(behaviour, request).await,
            };
        }
    }

    async fn perform(
        &mut self,
        behaviour: Behaviour,
        request: &Request,
    ) -> std::io::Result<AfterRequest> {
        let ok_body = completion(request);
        match behaviour {
            Behaviour::Chat => {
                self.respond_json(request, 200, &ok_body).await.and(Ok(AfterRequest::Keep))
            }
            Behaviour::CloseIdle => {
                self.respond_json(request, 200, &ok_body).await.and(Ok(AfterRequest::Close))
            }
            Behaviour::MalformedJson => {
                self.respond_json(request, 200, "{\"choices\": [").await.and(Ok(AfterRequest::Keep))
            }
            Behaviour::EmptyBody => {
                self.respond_json(request, 200, "").await.and(Ok(AfterRequest::Keep))
            }
            Behaviour::Sse(stream) => self.send_events(stream).await,
            Behaviour::Status(code, headers, body) => {
                self.respond(request, code, &headers, &body, body.len()).await?;
                Ok(AfterRequest::Keep)
            }
            Behaviour::Reset => Ok(AfterRequest::Reset),
            Behaviour::ResetMidBody => {
                self.respond_half(request, &ok_body).await?;
                // A reset discards bytes that the peer has not read.
                self.let_peer_read().await;
                Ok(AfterRequest::Reset)
            }
            Behaviour::HalfBody => {
                self.respond_half(request, &ok_body).await.and(Ok(AfterRequest::Close))
            }
            Behaviour::Silent => self.stay_silent().await,
            Behaviour::HeadersThenSilence => {
                self.respond(request, 200, &json_type(), "", ok_body.len()).await?;
                self.stay_silent().await
            }
            Behaviour::Raw(bytes) => {
                self.stream.write_all(&bytes).await.and(Ok(AfterRequest::Close))
            }
            listener_state @ (Behaviour::RefuseConnections
            | Behaviour::BlackHole
            | Behaviour::Held(..)
            | Behaviour::After(..)
            | Behaviour::Script(_)
            | Behaviour::Cycle(_)
            | Behaviour::Custom(_)) => {
                // Reached only by a connection accepted just before the listener closed.
                assert!(listener_state.concerns_listener(), "{listener_state:?} is no response");
                Ok(AfterRequest::Close)
            }
        }
    }

    async fn stay_silent(&mut self) -> std::io::Result<AfterRequest> {
        self.wait_for_peer_close().await;
        Ok(AfterRequest::Close)
    }

    async fn respond_json(&mut self, to: &Request, status: u16, body: &str) -> std::io::Result<()> {
        self.respond(to, status, &json_type(), body, body.len()).await
    }

    async fn respond_half(&mut self, to: &Request, body: &str) -> std::io::Result<()> {
        self.respond(to, 200, &json_type(), &body[..body.len() / 2], body.len()).await
    }

    /// Declares `length` and sends `body`; the two may disagree.
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

    async fn send_events(&mut self, events: Stream) -> std::io::Result<AfterRequest> {
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
                Ok(AfterRequest::Keep)
            }
            Ending::Cut => Ok(AfterRequest::Close),
            Ending::Reset => {
                self.let_peer_read().await;
                Ok(AfterRequest::Reset)
            }
            Ending::Hang => self.stay_silent().await,
        }
    }

    /// Gives the peer a moment to read the bytes sent so far.
    async fn let_peer_read(&mut self) {
        let moment = Duration::from_millis(20);
        let _ = tokio::time::timeout(moment, self.wait_for_peer_close()).await;
    }

    /// Closes with RST.
    fn reset(self) {
        let _ = socket2::SockRef::from(&self.stream).set_linger(Some(Duration::ZERO));
    }
}

fn json_type() -> Vec<(String, String)> {
    vec![("content-type".to_owned(), "application/json".to_owned())]
}

/// A chat completion for the requested model.
fn completion(request: &Request) -> String {
    let body: Value = serde_json::from_slice(&request.body).unwrap_or_default();
    let model = body.get("model").and_then(Value::as_str).unwrap_or("m");
    let message = json!({ "role": "assistant", "content": "hello there" });
    json!({
        "id": "chatcmpl-1", "object": "chat.completion", "created": 1_700_000_000, "model": model,
        "choices": [{ "index": 0, "message": message, "finish_reason": "stop" }],
        "usage": { "prompt_tokens": 9, "completion_tokens": 2, "total_tokens": 11 },
    })
    .to_string()
}
