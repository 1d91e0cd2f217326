//! What an origin can do with a request, from a good answer to none at all.
//!
//! Pauses are gates, never times: a test lets a frame through when it has seen what it wanted to
//! see before it.

use std::fmt;
use std::sync::Arc;

use serde_json::json;
use tokio::sync::Semaphore;

use super::origin::Request;

/// What the origin does with each request from now on.
#[derive(Clone, Debug)]
pub enum Behaviour {
    /// 200 with a chat completion that echoes the request's `model`.
    Chat,
    /// 200 with an event stream.
    Sse(Stream),
    /// This status, these headers (beside `content-length`), this body.
    Status(u16, Vec<(String, String)>, String),
    /// Nobody listens; the port stays ours. Open connections are closed.
    RefuseConnections,
    /// SYNs are dropped, as by a host that is gone. Open connections are closed.
    BlackHole,
    /// The request is read, then the connection is reset.
    Reset,
    /// Headers and half of the body, then a reset.
    ResetMidBody,
    /// The request is read and never answered.
    Silent,
    /// Headers, then nothing more.
    HeadersThenSilence,
    /// Half of the promised `content-length`, then an orderly close.
    HalfBody,
    /// 200, `application/json`, and a body that is none.
    MalformedJson,
    /// 200, `application/json`, and no body.
    EmptyBody,
    /// A good answer, then the connection is closed although nothing said that it would be.
    CloseIdle,
    /// These bytes as they are, then an orderly close.
    Raw(Vec<u8>),
    /// Passes the gate first, then behaves so.
    Held(Gate, Box<Behaviour>),
    /// One for each request in turn; the last one stays.
    Script(Vec<Behaviour>),
    /// One for each request in turn, from the first again after the last.
    Turns(Vec<Behaviour>),
    /// Decided by the request.
    Custom(Decide),
}

/// Chooses a behaviour for a request.
#[derive(Clone)]
pub struct Decide(pub Arc<dyn Fn(&Request) -> Behaviour + Send + Sync>);

/// An event stream: each frame passes the gate, then the stream ends in its own way.
#[derive(Clone, Debug)]
pub struct Stream {
    /// What stands after `data: `, one event each.
    pub frames: Vec<String>,
    pub gate: Gate,
    pub ending: Ending,
}

/// What follows the last frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// The last chunk: a whole response.
    Complete,
    /// An orderly close without the last chunk.
    Cut,
    Reset,
    /// Nothing, until the client leaves.
    Hang,
}

/// Lets a counted number of steps through, or all.
#[derive(Clone, Debug)]
pub struct Gate(Arc<Semaphore>);

// === impl Behaviour ===

impl Behaviour {
    /// This status and headers, with an error body as an LLM API gives it.
    pub fn status(code: u16, headers: &[(&str, &str)]) -> Self {
        let message = format!("the origin was told to answer {code}");
        let body = json!({ "error": { "message": message, "code": code } }).to_string();
        let owned = |&(name, value): &(&str, &str)| (name.to_owned(), value.to_owned());
        let mut headers: Vec<_> = headers.iter().map(owned).collect();
        headers.push(("content-type".to_owned(), "application/json".to_owned()));
        Behaviour::Status(code, headers, body)
    }

    /// A whole stream of `frames` pieces of content, without pauses.
    pub fn sse(frames: usize) -> Self {
        Behaviour::Sse(Stream::chat(frames))
    }

    pub fn custom(decide: impl Fn(&Request) -> Behaviour + Send + Sync + 'static) -> Self {
        Behaviour::Custom(Decide(Arc::new(decide)))
    }

    pub fn held(self, gate: &Gate) -> Self {
        Behaviour::Held(gate.clone(), Box::new(self))
    }

    /// Does it concern connections rather than requests?
    pub fn is_about_the_listener(&self) -> bool {
        matches!(self, Behaviour::RefuseConnections | Behaviour::BlackHole)
    }

    /// Panics at the test's own line when the behaviour cannot be carried out.
    pub fn check(&self) {
        let parts = match self {
            Behaviour::Script(parts) | Behaviour::Turns(parts) => parts,
            _ => return,
        };
        assert!(!parts.is_empty(), "an origin's script needs at least one behaviour");
        for part in parts {
            let nested = matches!(part, Behaviour::Script(_) | Behaviour::Turns(_));
            assert!(!nested, "an origin's script cannot hold another script");
            assert!(!part.is_about_the_listener(), "{part:?} is for `Origin::set`, not a script");
        }
    }
}

// === impl Stream ===

impl Stream {
    /// `content` pieces as OpenAI sends them: the role, the pieces, the finish reason, `[DONE]`;
    /// `content + 3` frames in all, whole, without pauses.
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

    /// Only the first `frames`, then the ending.
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

    /// Everything passes from now on.
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
