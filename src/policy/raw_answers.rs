//! What the language says of answers, exactly as written; see `raw.rs`.

use schemars::JsonSchema;
use serde::Deserialize;

use super::forms::{At, Count, Entries, Length, Number, OneOrMany, Share, Size, TextOr, Word};
use super::model::{Commit, OnCut};

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Stream")]
pub struct RawStream {
    /// When an answer begins to pass. Default: event streams first_content, JSON that fits the buffer complete, else headers.
    pub commit: Option<At<Word<Commit>>>,
    pub buffer: Option<At<RawBuffer>>,
    /// What follows when a stream breaks after its commit. Default error_event.
    pub on_cut: Option<At<Word<OnCut>>>,
    /// JSON pointers: an event with something at one of them has content. Built in for OpenAI's, Anthropic's, Google's and Ollama's streams; any event of another.
    pub content: Option<At<Vec<At<String>>>>,
    /// What ends a stream: its data as a text, `{ pointer: value }`, or a pointer to what is not null. A stream is whole only if one was seen.
    pub terminal: Option<At<Vec<At<TextOr<Entries<String>>>>>>,
}

/// What may be withheld before the commit; past any of these it commits.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Buffer")]
pub struct RawBuffer {
    /// Default 1MiB.
    pub bytes: Option<At<Size>>,
    /// Default 64.
    pub frames: Option<At<Count>>,
    /// Default 10s.
    #[serde(rename = "for")]
    pub time: Option<At<Length>>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Hedge")]
pub struct RawHedge {
    /// Hedges for each request.
    #[schemars(required)]
    pub extra_load: Option<At<Share>>,
    /// How long the first attempt may take. Default: the percentile 1 - extra_load of the route's latency.
    pub after: Option<At<Length>>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Affinity")]
pub struct RawAffinity {
    /// Requests with the same value go to the same address.
    #[schemars(required)]
    pub header: Option<At<String>>,
    /// Since the last of them. Default 10m.
    pub ttl: Option<At<Length>>,
}

/// JSON pointers; the first that is there counts. Built in for OpenAI's, Anthropic's, Google's and Ollama's answers.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Usage")]
pub struct RawUsage {
    pub input: Option<At<OneOrMany<String>>>,
    pub output: Option<At<OneOrMany<String>>>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Price")]
pub struct RawPrice {
    /// Of input tokens. Default 0.
    pub input: Option<At<Number>>,
    /// Of output tokens. Default 0.
    pub output: Option<At<Number>>,
    /// For how many tokens. Default 1M.
    pub per: Option<At<Count>>,
    /// Three capital letters. Default USD.
    pub currency: Option<At<String>>,
}
