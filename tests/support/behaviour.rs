//! The behaviours of an origin, from a valid response to none at all.
//!
//! Pauses are gates instead of times: a test lets the next frame through once it has made its
//! observations.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tokio::sync::Semaphore;

use super::origin::Request;

/// How the origin treats requests.
#[derive(Clone, Debug)]
pub enum Behaviour {
    /// 200 with a chat completion that echoes the `model` of the request.
    Chat,
    /// 200 with an event stream.
    Sse(Stream),
    /// The given status, headers (in addition to `content-length`) and body.
    Status(u16, Vec<(String, String)>, String),
    /// Connections are refused; the port stays reserved. Open connections are closed.
    RefuseConnections,
    /// SYNs are dropped, as if the host were gone. Open connections are closed.
    BlackHole,
    /// Reads the request, then resets the connection.
    Reset,
    /// Headers and half of the body, then a reset.
    ResetMidBody,
    /// Reads the request and never responds.
    Silent,
    /// Headers, then nothing more.
    HeadersThenSilence,
    /// Half of the declared `content-length`, then an orderly close.
    HalfBody,
    /// 200 `application/json` with a body that is not JSON.
    MalformedJson,
    /// 200 `application/json` with an empty body.
    EmptyBody,
    /// A valid response, then a close that no header announced.
    CloseIdle,
    /// Raw bytes, then an orderly close.
    Raw(Vec<u8>),
    /// Waits at the gate before the inner behaviour.
    Held(Gate, Box<Behaviour>),
    /// Waits for a time before the inner behaviour, where the latency itself is tested.
    After(Duration, Box<Behaviour>),
    /// One behaviour for each request; the last one repeats.
    Script(Vec<Behaviour>),
    /// One behaviour for each request, starting again after the last.
    Cycle(Vec<Behaviour>),
    /// Chosen from the request.
    Custom(Decide),
}

/// Chooses a behaviour for a request.
#[derive(Clone)]
pub struct Decide(pub Arc<dyn Fn(&Request) -> Behaviour + Send + Sync>);

/// An event stream. Each frame passes the gate before it is sent.
#[derive(Clone, Debug)]
pub struct Stream {
    /// The `data` of each event.
    pub frames: Vec<String>,
    pub gate: Gate,
    pub ending: Ending,
}

/// How a stream ends after the last frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// With the last chunk.
    Complete,
    /// An orderly close without the last chunk.
    Cut,
    Reset,
    /// Sends nothing until the client disconnects.
    Hang,
}

/// Lets a counted number of steps through, or all of them.
#[derive(Clone, Debug)]
pub struct Gate(Arc<Semaphore>);

// === impl Behaviour ===

impl Behaviour {
    /// A status and headers with an error body in the format of LLM APIs.
    pub fn status(code: u16, headers: &[(&str, &str)]) -> Self {
        let message = format!("the test set the status {code}");
        let body = json!({ "error": { "message": message, "code": code } }).to_string();
        let owned = |&(name, value): &(&str, &str)| (name.to_owned(), value.to_owned());
        let mut headers: Vec<_> = headers.iter().map(owned).collect();
        headers.push(("content-type".to_owned(), "application/json".to_owned()));
        Behaviour::Status(code, headers, body)
    }

    /// A complete stream with `frames` pieces of content, without pauses.
    pub fn sse(frames: usize) -> Self {
        Behaviour::Sse(Stream::chat(frames))
    }

    pub fn custom(decide: impl Fn(&Request) -> Behaviour + Send + Sync + 'static) -> Self {
        Behaviour::Custom(Decide(Arc::new(decide)))
    }

    pub fn held(self, gate: &Gate) -> Self {
        Behaviour::Held(gate.clone(), Box::new(self))
    }

    pub fn after(self, time: Duration) -> Self {
        Behaviour::After(time, Box::new(self))
    }

    /// Is it about connections rather than requests?
    pub fn concerns_listener(&self) -> bool {
        matches!(self, Behaviour::RefuseConnections | Behaviour::BlackHole)
    }

    /// Panics if the behaviour cannot be performed.
    pub fn check(&self) {
        let parts = match self {
            Behaviour::Script(parts) | Behaviour::Cycle(parts) => parts,
            _ => return,
        };
        assert!(!parts.is_empty(), "an origin's script needs at least one behaviour");
        for part in parts {
            let nested = matches!(part, Behaviour::Script(_) | Behaviour::Cycle(_));
            assert!(!nested, "an origin's script cannot hold another script");
            assert!(!part.concerns_listener(), "{part:?} is for `Origin::set`, not a script");
        }
    }
}

// === impl Stream ===

impl Stream {
    /// A stream in OpenAI's format: the role, `content` pieces, the finish reason, `[DONE]`. It is
    /// complete, has `content + 3` frames and no pauses.
    pub fn chat(content: usize) -> Self {
        let frame = |delta: serde_json::Value, finish: Option<&str>| {
            let choice = json!({ "index": 0, "delta": delta, "finish_reason": finish });
            json!({ "id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1_700_000_000,
                    "model": "m", "choices": [choice] })
            .to_string()
        };
        let mut frames = vec![frame(json!({ "role": "assistant", "content": "" }), None)];
        frames.extend((0..content).map(|i| frame(json!({ "content": format!("word{i} ") }), None)));
        frames.push(frame(json!({}), Some("stop")));
        frames.push("[DONE]".to_owned());
        Self::of(frames)
    }

    pub fn of(frames: impl IntoIterator<Item = impl Into<String>>) -> Self {
        let frames = frames.into_iter().map(Into::into).collect();
        Self { frames, gate: Gate::open(), ending: Ending::Complete }
    }

    pub fn gated(self, gate: &Gate) -> Self {
        Self { gate: gate.clone(), ..self }
    }

    pub fn ending(self, ending: Ending) -> Self {
        Self { ending, ..self }
    }

    /// Keeps only the first `frames` before the ending.
    pub fn first(mut self, frames: usize) -> Self {
        self.frames.truncate(frames);
        self
    }
}

impl From<Stream> for Behaviour {
    fn from(stream: Stream) -> Self {
        Behaviour::Sse(stream)
    }
}

// === impl Gate ===

impl Gate {
    pub fn closed() -> Self {
        Self(Arc::new(Semaphore::new(0)))
    }

    pub fn open() -> Self {
        let gate = Self::closed();
        gate.open_wide();
        gate
    }

    pub fn let_through(&self, steps: usize) {
        self.0.add_permits(steps);
    }

    /// Lets every later step through.
    pub fn open_wide(&self) {
        self.0.close();
    }

    pub async fn pass(&self) {
        if let Ok(permit) = self.0.acquire().await {
            permit.forget();
        }
    }
}

impl fmt::Debug for Decide {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Decide")
    }
}
