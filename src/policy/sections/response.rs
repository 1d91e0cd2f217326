//! The policy for responses: classification, forwarding, and the price of tokens.
//!
//! An event of a stream is a JSON text of its own, so a rule about events does not apply to a whole
//! body, and vice versa. A list replaces the built-in one; an empty list would switch off the
//! reading of every stream and is rejected.

use std::time::Duration;

use regex_lite::Regex;
use serde_json::Value;

use super::rewrite::WholePattern;
use crate::json::pointer::Pointer;
use crate::policy::section::{
    Checker, Display, Form, Map, MapKey, OneOrMany, Reference, Size, ValueShape, defaults, section,
    text_form, texts, words,
};
use crate::policy::yaml::tree::NodeId;
use crate::policy::yaml::units::{self, DAY, MS, SECOND};
use crate::resilience::outcome::{AttemptClass, ClassSet};

// === classification ===

section! {
    /// A rule that classifies a response; all conditions that are given must hold.
    #[derive(Clone, Debug)]
    pub struct ClassifyRule, finish conditions {
        /// One or several status codes.
        status: Vec<u16> as OneOrMany<StatusForm>;
        /// JSON pointers and regular expressions for the whole value there; a value that is not a string is matched by its JSON text.
        json: Vec<(Pointer, Regex)> as Map<Pointer, WholePattern>,
            where some("no pointer: expected at least one, like `{ /error/code: timeout }`");
        /// The same in one event of a stream; only together with `status`, since an event is not a whole body.
        event: Vec<(Pointer, Regex)> as Map<Pointer, WholePattern>,
            where some("no pointer: expected at least one, like `{ /error/code: timeout }`");
        /// The body is empty or not JSON.
        body: Option<BodyCheck>;
        /// The class of the attempt.
        class "as": AttemptClass as Classified, like "failure";
    }
}

words! {
    pub enum BodyCheck { Empty = "empty", InvalidJson = "invalid_json", }
}

impl ClassifyRule {
    /// A rule without conditions.
    pub fn of(class: AttemptClass) -> ClassifyRule {
        let (status, json, event) = (Vec::new(), Vec::new(), Vec::new());
        ClassifyRule { status, json, event, body: None, class }
    }

    /// The rule looks at more than the status.
    pub fn reads_body(&self) -> bool {
        self.body.is_some() || !(self.json.is_empty() && self.event.is_empty())
    }
}

/// At least one, and not of a body and its events at once.
fn conditions(_: &mut ClassifyRule, node: NodeId, check: &mut Checker<'_>) {
    let mut keys = Vec::new();
    ClassifyRule::keys(&mut keys);
    keys.retain(|key| *key != "as");
    if check.present_keys(node, &keys).is_empty() && !check.damaged(node) {
        let keys: Vec<_> = keys.iter().map(|key| format!("`{key}`")).collect();
        check
            .error(node, format!("the rule has no condition: expected one of {}", keys.join(", ")));
    }
    let whole = check.present_keys(node, &["json", "body"]);
    if let (Some(event), Some(whole)) = (check.tree.child(node, "event"), whole.first()) {
        let message =
            format!("`event` and `{whole}` exclude each other: an event is not a whole body");
        check.report(event, |tree| tree.on_key(event, message).help("make two rules of it"));
    }
}

text_form! {
    /// A status code.
    struct StatusForm for u16 {
        read(node, check) {
            let status = u16::read(node, check)?;
            check.bounded::<u16, u16>(&status, node, &(100..=599));
            Some(status)
        }
        show(value, out) { u16::show(value, out); }
        describe(out) { u16::describe(out) }
    }
}

/// The attempt classes that a key may name: a form of one class, and of a set of them.
pub trait ClassNames {
    const ALLOWED: &'static [AttemptClass];
}

impl<N: ClassNames> Form<AttemptClass> for N {
    const INLINE: bool = true;

    fn read(node: NodeId, check: &mut Checker<'_>) -> Option<AttemptClass> {
        check.word(node, N::ALLOWED, |class| class.as_str())
    }

    fn show(value: &AttemptClass, out: &mut Display<'_>) {
        out.text(value.as_str());
    }

    fn describe(_: &mut Reference) -> ValueShape {
        ValueShape::Described(N::ALLOWED.iter().map(|one| (one.as_str(), one.meaning())).collect())
    }
}

impl<N: ClassNames> Form<ClassSet> for N {
    const INLINE: bool = true;

    fn read(node: NodeId, check: &mut Checker<'_>) -> Option<ClassSet> {
        <Vec<N> as Form<Vec<AttemptClass>>>::read(node, check).map(|all| ClassSet::of(&all))
    }

    fn show(value: &ClassSet, out: &mut Display<'_>) {
        <Vec<N> as Form<Vec<AttemptClass>>>::show(&value.iter().collect(), out);
    }

    fn describe(out: &mut Reference) -> ValueShape {
        <Vec<N> as Form<Vec<AttemptClass>>>::describe(out)
    }
}

/// The classes that a rule may give.
#[derive(Debug)]
pub struct Classified;

impl ClassNames for Classified {
    const ALLOWED: &'static [AttemptClass] = {
        use AttemptClass::*;
        &[Success, Throttled, Failure, Credential, Unsupported, Ignored]
    };
}

// === forwarding ===

section! {
    /// How responses are forwarded.
    #[derive(Clone, Debug, PartialEq)]
    pub struct Stream {
        /// When a response begins to be forwarded; until then another attempt is possible. By content type: event streams `first_content`, JSON that fits the buffer `complete`, others `headers`.
        commit: Option<Commit> = None => "by content type";
        /// Limits of the response that is withheld before the commit; the first that is reached ends the wait.
        buffer: Buffer;
        /// When a stream breaks after its commit: `continue` at a provider that has `prefill`, else as `error_event`.
        on_cut: OnCut = OnCut::ErrorEvent;
        /// JSON pointers: an event has content where one of them is not empty. Built in are the formats of OpenAI, Anthropic, Google and Ollama; of other streams each event is content.
        content: Option<Vec<Pointer>> as Option<OneOrMany<Pointer>> = None => "built in",
            where some("an empty list: leave `content` out for the built-in one");
        /// Events that end a stream: the text of an event, a pointer to a value that is set (not null, false, 0, empty or the text `null`), or `{ pointer: value }`. Without one of them the stream counts as broken. Built in are the formats of OpenAI, Anthropic, Google and Ollama.
        terminal: Option<Vec<Mark>> as Option<OneOrMany<Mark>> = None => "built in",
            where some("an empty list: leave `terminal` out for the built-in one");
    }
}

section! {
    /// Limits of the response that is withheld before the commit.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Buffer {
        /// Bytes of the body.
        bytes: u64 as Size = 1 << 20, in 1..=1 << 30;
        /// Frames of the body.
        frames: usize = 64, in 1..=1_000_000;
        /// Time since the first frame; the next frame after it ends the wait.
        time "for": Duration = 10 * SECOND, in MS..=DAY;
    }
}

words! {
    /// When a response begins to be forwarded; until then another attempt is possible.
    pub enum Commit { Headers = "headers", FirstContent = "first_content", Complete = "complete", }

    /// The end of a stream that breaks after its commit. It never looks complete.
    pub enum OnCut {
        /// An event with problem JSON, then the connection is closed.
        ErrorEvent = "error_event",
        Abort = "abort",
        /// A provider that declares `prefill` continues the partial response; else as `ErrorEvent`.
        Continue = "continue",
    }
}

impl Stream {
    /// The policy depends on the content of streams, so that they may not come compressed.
    pub fn is_read(&self) -> bool {
        self.content.is_some() || self.terminal.is_some() || self.on_cut == OnCut::Continue
    }
}

impl Default for Stream {
    fn default() -> Self {
        defaults()
    }
}

/// An event that ends a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mark {
    /// The event's data is this text.
    Text(String),
    /// The value there is this one; one that is not a string by its JSON text.
    Value(Pointer, String),
    /// The value there is set.
    Present(Pointer),
}

text_form! {
    impl Form<Mark> for Mark {
        read(node, check) {
            let tree = check.tree;
            if let Some(text) = tree.text(node).filter(|_| !tree.is_null(node)) {
                return match text {
                    "" => check.reject(node, "no text: expected the data of an event, like `\"[DONE]\"`"),
                    text if text.starts_with('/') => {
                        <Pointer as Form>::read(node, check).map(Mark::Present)
                    }
                    text => Some(Mark::Text(text.to_owned())),
                };
            }
            if !check.is_map(node) {
                check.unexpected(node, "text, or one pointer with its value");
                return None;
            }
            match tree.children(node).collect::<Vec<_>>()[..] {
                [value] => {
                    let key = tree.key(value).unwrap_or_default();
                    let pointer = <Pointer as MapKey>::parse(key);
                    let pointer = pointer.map_err(|message| check.error_on_key(value, message)).ok();
                    let value = plain(value, check);
                    Some(Mark::Value(pointer?, value?))
                }
                _ => {
                    let like = "like `{ /type: message_stop }`";
                    check.reject(node, format!("expected one pointer with its value, {like}"))
                }
            }
        }
        show(value, out) {
            match value {
                Mark::Text(text) => out.text(format!("{text:?}")),
                Mark::Value(pointer, value) => out.text(format!("{pointer} = {value:?}")),
                Mark::Present(pointer) => out.text(pointer.to_string()),
            }
        }
        describe(_) {
            let map = ValueShape::Map(<Pointer as MapKey>::NAME, Box::new(ValueShape::Any));
            ValueShape::OneOf(vec![ValueShape::text(), map])
        }
    }
}

/// A value that one in an event is compared with.
fn plain(node: NodeId, check: &mut Checker<'_>) -> Option<String> {
    match check.tree.json(node) {
        Value::String(text) => Some(text),
        value @ (Value::Bool(_) | Value::Number(_)) => Some(value.to_string()),
        Value::Null | Value::Array(_) | Value::Object(_) => {
            check.reject(node, "expected text, a number, `true` or `false`")
        }
    }
}

// === tokens ===

section! {
    /// Where a response, or one of a stream's events, says how many tokens it took: JSON pointers, of which the first that exists counts. Built in are the formats of OpenAI, Anthropic, Google and Ollama.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct Usage {
        /// Tokens of the request.
        input: Vec<Pointer> as OneOrMany<Pointer> = pointers(&INPUT) => "built in",
            where some("an empty list: leave `input` out for the built-in one");
        /// Tokens of the response.
        output: Vec<Pointer> as OneOrMany<Pointer> = pointers(&OUTPUT) => "built in",
            where some("an empty list: leave `output` out for the built-in one");
    }
}

const INPUT: [&str; 8] = [
    "/usage/prompt_tokens",
    "/usage/input_tokens",
    "/message/usage/input_tokens",
    "/response/usage/input_tokens",
    "/usageMetadata/promptTokenCount",
    "/usage/tokens/input_tokens",
    "/delta/usage/tokens/input_tokens",
    "/prompt_eval_count",
];
const OUTPUT: [&str; 8] = [
    "/usage/completion_tokens",
    "/usage/output_tokens",
    "/message/usage/output_tokens",
    "/response/usage/output_tokens",
    "/usageMetadata/candidatesTokenCount",
    "/usage/tokens/output_tokens",
    "/delta/usage/tokens/output_tokens",
    "/eval_count",
];

fn pointers(texts: &[&str]) -> Vec<Pointer> {
    texts.iter().filter_map(|text| Pointer::parse(text).ok()).collect()
}

impl Default for Usage {
    fn default() -> Self {
        defaults()
    }
}

section! {
    /// The prices of tokens.
    #[derive(Clone, Debug, PartialEq)]
    pub struct Price {
        /// The price of tokens that are sent; 0 where they cost nothing.
        input: f64, in 0.0..=1e9, like "2.50";
        /// The price of tokens that are received; 0 where they cost nothing.
        output: f64, in 0.0..=1e9, like "10.00";
        /// The number of tokens that the prices are for.
        per: u32 = 1_000_000, in 1..=1_000_000_000;
        /// Three capital letters (ISO 4217).
        currency: String as CurrencyCode = "USD".to_owned();
    }
}

impl Price {
    /// Of so many tokens that are sent and received.
    pub fn cost(&self, input: u64, output: u64) -> f64 {
        let price = |of: f64| of / f64::from(self.per);
        price(self.input) * input as f64 + price(self.output) * output as f64
    }
}

texts! {
    /// Three capital letters.
    struct CurrencyCode for String: "a currency like `USD`", ValueShape::Scalar("currency", serde_json::json!({
        "description": "Three capital letters (ISO 4217)", "type": "string", "pattern": "^[A-Z]{3}$",
    })), |text| units::currency(text).map(|code| code.iter().collect()), String::as_str;
}
