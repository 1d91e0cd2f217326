//! What a file says of answers, exactly as written: what they mean, how they pass, what they cost;
//! see `raw.rs`.

use schemars::JsonSchema;
use serde::Deserialize;

use super::model::{BodyCheck, Commit, OnCut};
use crate::policy::yaml::types::{
    At, Count, Currency, Entries, Json, Length, Number, OneOrMany, Size, TextOr, Word,
};
use crate::resilience::outcome::AttemptClass;

/// All conditions that are given must hold.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Classify")]
pub struct RawClassify {
    /// One or several; default any.
    pub status: Option<At<OneOrMany<Count>>>,
    /// JSON pointers to regular expressions for the whole value.
    pub json: Option<At<Entries<String>>>,
    /// The same, in one event of a stream; with `status` alone, since an event is no whole body.
    pub event: Option<At<Entries<String>>>,
    pub body: Option<At<Word<BodyCheck>>>,
    #[serde(rename = "as")]
    #[schemars(required)]
    pub class: Option<At<Word<AttemptClass>>>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Stream")]
pub struct RawStream {
    /// When an answer begins to pass; until then another attempt is possible. Default: event streams first_content, JSON that fits the buffer complete, else headers.
    pub commit: Option<At<Word<Commit>>>,
    /// What may be withheld before the commit; past any of them it is time to commit.
    pub buffer: Option<At<RawBuffer>>,
    /// When a stream breaks after its commit; `continue` at a provider that has `prefill`, else as `error_event`. Default error_event.
    pub on_cut: Option<At<Word<OnCut>>>,
    /// JSON pointers: an event has content where one of them is not empty. Default: where OpenAI's, Anthropic's, Google's and Ollama's APIs have it; of any other stream each event is content.
    pub content: Option<At<Vec<At<String>>>>,
    /// What ends a stream: the text of an event, a pointer to what is not null, or `{ pointer: value }`. It is whole only if one was seen. Default: what those APIs end with.
    pub terminal: Option<At<Vec<At<RawMark>>>>,
}

/// `"[DONE]"`, `/choices/0/finish_reason` or `{ /type: message_stop }`.
pub type RawMark = TextOr<Entries<Json>>;

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

/// JSON pointers into an answer, or one of a stream's events; the first that is there counts.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Usage")]
pub struct RawUsage {
    /// Default: where OpenAI's, Anthropic's, Google's and Ollama's APIs say it.
    pub input: Option<At<OneOrMany<String>>>,
    /// Default: where OpenAI's, Anthropic's, Google's and Ollama's APIs say it.
    pub output: Option<At<OneOrMany<String>>>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Price")]
pub struct RawPrice {
    /// Of the tokens that are sent.
    #[schemars(required)]
    pub input: Option<At<Number>>,
    /// Of the tokens that are answered.
    #[schemars(required)]
    pub output: Option<At<Number>>,
    /// For so many tokens. Default 1M.
    pub per: Option<At<Count>>,
    /// Default USD.
    pub currency: Option<At<Currency>>,
}
