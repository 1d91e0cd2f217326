//! What a policy says of answers, checked: what they mean, how they pass, what they cost.
//!
//! An event of a stream is a JSON text of its own, so a rule about events says nothing of a whole
//! body, nor the other way round. Where something is built in, a list replaces it; an empty list
//! would switch off the reading of every stream and is refused.

use regex_lite::Regex;
use serde_json::Value;

use super::model::{Buffer, ClassifyRule, Mark, Price, Stream, Usage};
use super::raw_answers::{RawBuffer, RawClassify, RawMark, RawPrice, RawStream, RawUsage};
use crate::json::pointer::Pointer;
use crate::policy::section::checker::{Check, DAY, MS};
use crate::policy::yaml::tree::NodeId;
use crate::policy::yaml::types::{At, Entries, TextOr};
use crate::resilience::outcome::AttemptClass;

impl Check<'_> {
    pub(crate) fn classify(&mut self, at: &At<RawClassify>) -> ClassifyRule {
        const CLASSES: [AttemptClass; 6] = [
            AttemptClass::Success,
            AttemptClass::Throttled,
            AttemptClass::Failure,
            AttemptClass::Credential,
            AttemptClass::TooLarge,
            AttemptClass::Ignored,
        ];
        self.missing(
            at.id,
            "as",
            "the rule does not say `as` what: expected a class, like `as: failure`",
        );
        self.conditions(at);
        if let Some(class) = &at.class {
            self.classes(std::slice::from_ref(class), &CLASSES);
        }
        ClassifyRule {
            status: at.status.as_ref().map_or_else(Vec::new, |at| {
                at.0.iter().map(|at| self.count(&Some(*at), 200, 100..=599)).collect()
            }),
            json: at.json.as_ref().map_or_else(Vec::new, |at| self.patterns(at)),
            event: at.event.as_ref().map_or_else(Vec::new, |at| self.patterns(at)),
            body: at.body.map(|at| at.value.0),
            class: at.class.map_or(AttemptClass::Failure, |at| at.value.0),
        }
    }

    /// At least one, and not of a body and its events at once.
    fn conditions(&mut self, at: &At<RawClassify>) {
        let whole = match () {
            () if at.json.is_some() => Some("json"),
            () if at.body.is_some() => Some("body"),
            () => None,
        };
        let none = at.status.is_none() && at.event.is_none() && whole.is_none();
        if none && !self.tree.damaged(at.id) {
            self.error(
                at.id,
                "the rule has no condition: expected `status`, `json`, `event` or `body`",
            );
        }
        if let (Some(event), Some(whole)) = (&at.event, whole) {
            let message =
                format!("`event` and `{whole}` exclude each other: an event is no whole body");
            let problem = self.tree.on_key(event.id, message).help("make two rules of it");
            self.problems.push(problem);
        }
    }

    /// Pointers, and what the whole value there must match.
    fn patterns(&mut self, at: &At<Entries<String>>) -> Vec<(Pointer, Regex)> {
        if at.0.is_empty() && !self.tree.damaged(at.id) {
            self.error(at.id, "no pointer: expected at least one, like `{ /error/code: timeout }`");
        }
        let pattern = |(key, at): &(String, At<String>)| {
            let (pointer, regex) = (self.pointer_key(at.id, key), self.whole_value(at));
            Some((pointer?, regex?))
        };
        at.0.iter().filter_map(pattern).collect()
    }

    /// `rate_limit` is not to match `no_rate_limit`.
    fn whole_value(&mut self, at: &At<String>) -> Option<Regex> {
        self.regex(at.id, &at.value)?;
        self.regex(at.id, &format!("^(?:{})$", at.value))
    }

    pub(crate) fn stream(&mut self, raw: &RawStream) -> Stream {
        let default = Stream::default();
        Stream {
            commit: raw.commit.map(|at| at.value.0),
            buffer: raw.buffer.as_ref().map_or(default.buffer, |at| self.buffer(at)),
            on_cut: raw.on_cut.map_or(default.on_cut, |at| at.value.0),
            content: raw.content.as_ref().map(|at| self.pointers(at.id, &at.value)),
            terminal: raw.terminal.as_ref().map(|at| {
                self.not_empty(at.id, &at.value);
                at.iter().filter_map(|at| self.mark(at)).collect()
            }),
        }
    }

    fn buffer(&mut self, raw: &RawBuffer) -> Buffer {
        let default = Stream::default().buffer;
        Buffer {
            bytes: self.size(&raw.bytes, default.bytes, 1..=1 << 30),
            frames: self.count(&raw.frames, default.frames, 1..=1_000_000),
            time: self.length(&raw.time, default.time, MS..=DAY),
        }
    }

    fn mark(&mut self, at: &At<RawMark>) -> Option<Mark> {
        match &at.value {
            TextOr::Text(text) if text.starts_with('/') => {
                self.pointer(at.id, text).map(Mark::Present)
            }
            TextOr::Text(text) if text.is_empty() => {
                self.error(at.id, "no text: expected the data of an event, like `\"[DONE]\"`");
                None
            }
            TextOr::Text(text) => Some(Mark::Text(text.clone())),
            TextOr::Keys(Entries(entries)) => match entries.as_slice() {
                [(pointer, value)] => {
                    let pointer = self.pointer_key(value.id, pointer);
                    let value = self.plain(value.id);
                    Some(Mark::Value(pointer?, value?))
                }
                _ if self.tree.damaged(at.id) => None,
                _ => {
                    let like = "like `{ /type: message_stop }`";
                    self.error(at.id, format!("expected one pointer with its value, {like}"));
                    None
                }
            },
        }
    }

    /// What a value in an event is compared with.
    fn plain(&mut self, id: NodeId) -> Option<String> {
        match self.tree.json(id) {
            Value::String(text) => Some(text),
            value @ (Value::Bool(_) | Value::Number(_)) => Some(value.to_string()),
            Value::Null | Value::Array(_) | Value::Object(_) => {
                self.error(id, "expected text, a number, `true` or `false`");
                None
            }
        }
    }

    pub(crate) fn usage(&mut self, raw: &RawUsage) -> Usage {
        let default = Usage::default();
        let (input, output) = (raw.input.as_ref(), raw.output.as_ref());
        Usage {
            input: input.map_or(default.input, |at| self.pointers(at.id, &at.0)),
            output: output.map_or(default.output, |at| self.pointers(at.id, &at.0)),
        }
    }

    pub(crate) fn price(&mut self, at: &At<RawPrice>) -> Price {
        for key in ["input", "output"] {
            let message =
                format!("the price has no `{key}`: say `{key}: 0` where it costs nothing");
            self.missing(at.id, key, message);
        }
        let per = f64::from(self.count::<u32>(&at.per, 1_000_000, 1..=1_000_000_000));
        Price {
            input: self.number(&at.input, 0.0, 0.0..=1e9) / per,
            output: self.number(&at.output, 0.0, 0.0..=1e9) / per,
            currency: at
                .currency
                .map_or_else(|| "USD".to_owned(), |at| at.value.0.iter().collect()),
        }
    }

    fn pointers(&mut self, id: NodeId, listed: &[At<String>]) -> Vec<Pointer> {
        self.not_empty(id, listed);
        listed.iter().filter_map(|at| self.pointer(at.id, &at.value)).collect()
    }

    fn not_empty<T>(&mut self, id: NodeId, listed: &[T]) {
        if listed.is_empty() && !self.tree.damaged(id) {
            let key = self.tree.key(id).unwrap_or_default();
            self.error(id, format!("an empty list: leave `{key}` out for what is built in"));
        }
    }
}
