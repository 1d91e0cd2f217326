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
    text_form, words,
};
use crate::policy::yaml::tree::NodeId;
use crate::policy::yaml::units::{self, DAY, MS, SECOND};
use crate::resilience::outcome::AttemptClass;

// === classification ===

section! {
    /// A rule that classifies a response; all conditions that are given must hold.
    #[derive(Clone, Debug)]
    pub struct ClassifyRule, finish conditions {
        /// One or several status codes.
        status: Vec<u16> as OneOrMany<StatusForm>;
        /// JSON pointers and regular expressions for the whole value there; a value that is not a string is matched by its JSON text.
        json: Vec<(Pointer, Regex)> as Patterns;
        /// The same in one event of a stream; only together with `status`, since an event is not a whole body.
        event: Vec<(Pointer, Regex)> as Patterns;
        /// The body is empty or not JSON.
        body: Option<BodyCheck>;
        /// The outcome.
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
    if check.given(node, &keys).is_empty() && !check.damaged(node) {
        let keys: Vec<_> = keys.iter().map(|key| format!("`{key}`")).collect();
        check
            .error(node, format!("the rule has no condition: expected one of {}", keys.join(", ")));
    }
    let whole = check.given(node, &["json", "body"]);
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

/// Pointers, and patterns for the whole value there; at least one.
#[derive(Debug)]
pub struct Patterns;

impl Form<Vec<(Pointer, Regex)>> for Patterns {
    fn read(node: NodeId, check: &mut Checker<'_>) -> Option<Vec<(Pointer, Regex)>> {
        let found = <Map<Pointer, WholePattern>>::read(node, check)?;
        check.empty(node, "no pointer: expected at least one, like `{ /error/code: timeout }`");
        Some(found)
    }

    fn absent() -> Option<Vec<(Pointer, Regex)>> {
        Some(Vec::new())
    }

    fn show(value: &Vec<(Pointer, Regex)>, out: &mut Display<'_>) {
        <Map<Pointer, WholePattern>>::show(value, out);
    }

    fn describe(out: &mut Reference) -> ValueShape {
        <Map<Pointer, WholePattern>>::describe(out)
    }
}

/// Forms of sets of classes, and of one class, of which only some may be written.
macro_rules! class_lists {
    ($($name:ident = [$($class:ident),*];)*) => {$(
        #[derive(Debug)]
        pub struct $name;

        impl $name {
            const ALLOWED: &'static [$crate::resilience::outcome::AttemptClass] =
                &[$($crate::resilience::outcome::AttemptClass::$class),*];

            fn one(
                node: $crate::policy::yaml::tree::NodeId,
                check: &mut $crate::policy::section::Checker<'_>,
            ) -> Option<$crate::resilience::outcome::AttemptClass> {
                check.word(node, Self::ALLOWED, |class| class.as_str())
            }

            fn words() -> $crate::policy::section::ValueShape {
                let words = Self::ALLOWED.iter().map(|class| class.as_str()).collect();
                $crate::policy::section::ValueShape::Words(words)
            }
        }

        impl $crate::policy::section::Form<$crate::resilience::outcome::ClassSet> for $name {
            const INLINE: bool = true;

            fn read(
                node: $crate::policy::yaml::tree::NodeId,
                check: &mut $crate::policy::section::Checker<'_>,
            ) -> Option<$crate::resilience::outcome::ClassSet> {
                if !check.is_list(node) {
                    check.unexpected(node, "a list");
                    return None;
                }
                let tree = check.tree;
                let classes: Vec<_> =
                    tree.children(node).filter_map(|item| Self::one(item, check)).collect();
                Some($crate::resilience::outcome::ClassSet::of(&classes))
            }

            fn show(
                value: &$crate::resilience::outcome::ClassSet,
                out: &mut $crate::policy::section::Display<'_>,
            ) {
                let words: Vec<_> = value.iter().map(|class| class.as_str()).collect();
                if words.is_empty() { out.none() } else { out.text(words.join(", ")) }
            }

            fn describe(
                _: &mut $crate::policy::section::Reference,
            ) -> $crate::policy::section::ValueShape {
                $crate::policy::section::ValueShape::List(Box::new(Self::words()))
            }
        }

        impl $crate::policy::section::Form<$crate::resilience::outcome::AttemptClass> for $name {
            const INLINE: bool = true;

            fn read(
                node: $crate::policy::yaml::tree::NodeId,
                check: &mut $crate::policy::section::Checker<'_>,
            ) -> Option<$crate::resilience::outcome::AttemptClass> {
                Self::one(node, check)
            }

            fn show(
                value: &$crate::resilience::outcome::AttemptClass,
                out: &mut $crate::policy::section::Display<'_>,
            ) {
                out.text(value.as_str());
            }

            fn describe(
                _: &mut $crate::policy::section::Reference,
            ) -> $crate::policy::section::ValueShape {
                Self::words()
            }
        }
    )*};
}
pub(crate) use class_lists;

class_lists! {
    Classified = [Success, Throttled, Failure, Credential, TooLarge, Ignored];
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
        content: Option<Vec<Pointer>> as Option<NotEmpty<Pointer>> = None => "built in";
        /// Events that end a stream: the text of an event, a pointer to a value that is not null, or `{ pointer: value }`. Without one of them the stream counts as broken. Built in are the formats of OpenAI, Anthropic, Google and Ollama.
        terminal: Option<Vec<Mark>> as Option<NotEmpty<Mark>> = None => "built in";
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
        /// Time since the head of the response.
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

/// A list that replaces what is built in.
#[derive(Debug)]
pub struct NotEmpty<F>(std::marker::PhantomData<F>);

impl<M, F: Form<M>> Form<Vec<M>> for NotEmpty<F> {
    const INLINE: bool = F::INLINE;

    fn read(node: NodeId, check: &mut Checker<'_>) -> Option<Vec<M>> {
        let found = <OneOrMany<F>>::read(node, check)?;
        let key = check.tree.key(node).unwrap_or_default();
        if check.is_list(node) {
            check.empty(node, &format!("an empty list: leave `{key}` out for the built-in one"));
        }
        Some(found)
    }

    fn show(value: &Vec<M>, out: &mut Display<'_>) {
        <Vec<F>>::show(value, out);
    }

    fn describe(out: &mut Reference) -> ValueShape {
        <OneOrMany<F>>::describe(out)
    }
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

text_form! {
    impl Form<Mark> for Mark {
        read(node, check) {
            let tree = check.tree;
            if let Some(text) = tree.text(node).filter(|_| !tree.is_null(node)) {
                return match text {
                    "" => {
                        check.error(node, "no text: expected the data of an event, like `\"[DONE]\"`");
                        None
                    }
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
                    let pointer = <Pointer as MapKey>::read(value, key, check);
                    let value = plain(value, check);
                    Some(Mark::Value(pointer?, value?))
                }
                _ => {
                    let like = "like `{ /type: message_stop }`";
                    check.error(node, format!("expected one pointer with its value, {like}"));
                    None
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
            check.error(node, "expected text, a number, `true` or `false`");
            None
        }
    }
}

// === tokens ===

section! {
    /// Where a response, or one of a stream's events, says how many tokens it took: JSON pointers, of which the first that is there counts. Built in are the formats of OpenAI, Anthropic, Google and Ollama.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct Usage {
        /// Tokens of the request.
        input: Vec<Pointer> as NotEmpty<Pointer> = pointers(&INPUT) => "built in";
        /// Tokens of the response.
        output: Vec<Pointer> as NotEmpty<Pointer> = pointers(&OUTPUT) => "built in";
    }
}

const INPUT: [&str; 6] = [
    "/usage/prompt_tokens",
    "/usage/input_tokens",
    "/message/usage/input_tokens",
    "/response/usage/input_tokens",
    "/usageMetadata/promptTokenCount",
    "/prompt_eval_count",
];
const OUTPUT: [&str; 6] = [
    "/usage/completion_tokens",
    "/usage/output_tokens",
    "/message/usage/output_tokens",
    "/response/usage/output_tokens",
    "/usageMetadata/candidatesTokenCount",
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

text_form! {
    /// Three capital letters.
    struct CurrencyCode for String {
        read(node, check) {
            let code = check.parsed(node, "a currency like `USD`", units::currency)?;
            Some(code.iter().collect())
        }
        show(value, out) { out.text(value.as_str()); }
        describe(_) { ValueShape::Scalar(
                "currency",
                serde_json::json!({
                    "description": "Three capital letters (ISO 4217)", "type": "string",
                    "pattern": "^[A-Z]{3}$",
                }),
            ) }
    }
}
