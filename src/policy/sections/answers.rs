//! What a policy says of answers: what they mean, how they pass, what they cost.

use std::time::Duration;

use regex_lite::Regex;

use crate::json::pointer::Pointer;
use crate::resilience::outcome::AttemptClass;

#[derive(Clone, Debug)]
pub struct ClassifyRule {
    /// Empty: any status.
    pub status: Vec<u16>,
    /// All must match; a value that is not a string is matched by its JSON text.
    pub json: Vec<(Pointer, Regex)>,
    /// All must match in one event of a stream.
    pub event: Vec<(Pointer, Regex)>,
    pub body: Option<BodyCheck>,
    pub class: AttemptClass,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyCheck {
    Empty,
    InvalidJson,
}

/// How answers pass.
#[derive(Clone, Debug, PartialEq)]
pub struct Stream {
    /// `None`: event streams with their first content, JSON that fits the buffer when it is
    /// complete, anything else with its headers.
    pub commit: Option<Commit>,
    pub buffer: Buffer,
    pub on_cut: OnCut,
    /// Where an event has content. `None`: where OpenAI's, Anthropic's, Google's and Ollama's APIs
    /// have it; of any other stream each event is content.
    pub content: Option<Vec<Pointer>>,
    /// What shows that a stream is whole. `None`: what those APIs end with; any other stream may
    /// end anywhere.
    pub terminal: Option<Vec<Mark>>,
}

/// When an answer begins to pass; until then another attempt is possible.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Commit {
    Headers,
    FirstContent,
    Complete,
}

/// What may be withheld before the commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Buffer {
    pub bytes: u64,
    pub frames: usize,
    pub time: Duration,
}

/// What follows when a stream breaks after its commit. It never ends cleanly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnCut {
    /// An event with problem JSON, then the connection is broken.
    ErrorEvent,
    Abort,
    /// A provider that declares `prefill` goes on from the partial answer; else as `ErrorEvent`.
    Continue,
}

/// An event that ends a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mark {
    /// The event's data is this text.
    Text(String),
    /// The value there is this one; one that is not a string by its JSON text.
    Value(Pointer, String),
    /// The value there is not null.
    Present(Pointer),
}

/// Where an answer, or one of a stream's events, says how many tokens it took; the first of each
/// that is there counts. By default where OpenAI's, Anthropic's, Google's and Ollama's APIs say it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Usage {
    pub input: Vec<Pointer>,
    pub output: Vec<Pointer>,
}

/// What tokens cost.
#[derive(Clone, Debug, PartialEq)]
pub struct Price {
    /// For one token.
    pub input: f64,
    /// For one token.
    pub output: f64,
    /// Three capital letters (ISO 4217).
    pub currency: String,
}

impl Stream {
    /// The policy depends on what is in the streams, so that they may not come compressed.
    pub fn is_read(&self) -> bool {
        self.content.is_some() || self.terminal.is_some() || self.on_cut == OnCut::Continue
    }
}

impl Default for Stream {
    fn default() -> Self {
        let buffer = Buffer { bytes: 1 << 20, frames: 64, time: Duration::from_secs(10) };
        Stream { commit: None, buffer, on_cut: OnCut::ErrorEvent, content: None, terminal: None }
    }
}

impl Default for Usage {
    fn default() -> Self {
        let pointers =
            |texts: &[&str]| texts.iter().filter_map(|t| Pointer::parse(t).ok()).collect();
        Usage {
            input: pointers(&[
                "/usage/prompt_tokens",
                "/usage/input_tokens",
                "/message/usage/input_tokens",
                "/response/usage/input_tokens",
                "/usageMetadata/promptTokenCount",
                "/prompt_eval_count",
            ]),
            output: pointers(&[
                "/usage/completion_tokens",
                "/usage/output_tokens",
                "/message/usage/output_tokens",
                "/response/usage/output_tokens",
                "/usageMetadata/candidatesTokenCount",
                "/eval_count",
            ]),
        }
    }
}
