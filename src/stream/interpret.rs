//! What an event says: content, an end, an error, tokens; and what a whole JSON answer says of
//! tokens.
//!
//! What the policy declares counts; where it declares nothing, the shapes that are known here do:
//! OpenAI's chat completions and responses, Anthropic's messages, Google's `generateContent`,
//! Ollama's lines. Everything that is looked for is compiled into one set of pointers, so that an
//! event is passed over once.

use std::ops::Range;

use regex_lite::Regex;

use super::continuation::Dialect;
use super::formats::{KnownFormats, NOT_TEXT};
use crate::json::pointer::Pointer;
use crate::json::pointer_set::PointerSet;
use crate::json::scan::{self, PointerMatches, find, scan};
use crate::policy::sections::model::{self, Mark};
use crate::resilience::outcome::AttemptClass;

/// Where the known shapes have content, beside what is no plain text.
const CONTENT: [&str; 4] = [
    "/choices/0/delta/content",
    "/delta/text",
    "/candidates/0/content/parts/0",
    "/message/content",
];
/// And where only a string is some.
const TEXT: [&str; 2] = ["/delta", "/response"];
/// What is there, and not null, in the last event but perhaps for tokens.
const ENDS: [&str; 2] = ["/choices/0/finish_reason", "/candidates/0/finishReason"];
const LAST: [(&str, &str); 4] = [
    ("/type", "message_stop"),
    ("/type", "response.completed"),
    ("/type", "response.incomplete"),
    ("/done", "true"),
];
const DONE: &str = "[DONE]";

/// Tokens as an answer says them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TokenUsage {
    pub input: Option<u64>,
    pub output: Option<u64>,
}

/// How the answers of one provider are read for one route.
#[derive(Debug)]
pub struct Interpreter {
    pointers: PointerSet,
    content: Vec<usize>,
    strings: Vec<usize>,
    ends: EndMarkers,
    /// The policy says what a stream is made of, so that its events are JSON.
    pub declared: bool,
    /// The policy says what every stream ends with.
    pub promised: bool,
    rules: Vec<EventRule>,
    usage: [Vec<usize>; 2],
    shape: KnownFormats,
    /// The usage by itself, for whole answers.
    whole: (PointerSet, [Vec<usize>; 2]),
}

#[derive(Debug, Default)]
struct EndMarkers {
    texts: Vec<String>,
    values: Vec<(usize, String)>,
    present: Vec<usize>,
}

/// One rule of `classify` for events.
#[derive(Debug)]
struct EventRule {
    status: Vec<u16>,
    values: Vec<(usize, Regex)>,
    class: AttemptClass,
}

/// What kind of stream an event shows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EventOrigin {
    /// One of a shape that is known here.
    Known,
    /// It may stand in any stream.
    Neutral,
    #[default]
    Other,
}

/// What an event says.
#[derive(Debug, Default)]
pub struct EventMeaning {
    pub sort: EventOrigin,
    pub content: bool,
    pub end: bool,
    /// A rule of the policy says what it is.
    pub ruled: Option<AttemptClass>,
    /// By the shapes that are known here it is an error.
    pub failed: bool,
    /// It is of another choice than the first.
    pub another: bool,
    pub tokens: TokenUsage,
    pub said: Option<DeltaSpan>,
}

/// What an event adds to an answer that could be gone on from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeltaSpan {
    pub dialect: Dialect,
    /// Where its text stands in the data, quotes and all.
    pub text: Option<Range<usize>>,
    /// It is something that cannot be gone on from.
    pub other: bool,
    /// The text is finished.
    pub over: bool,
}

impl Interpreter {
    pub fn new(stream: &model::Stream, provider: &model::Provider) -> Interpreter {
        let mut pointers = PointerSet::default();
        let built_in = |pointers: &mut PointerSet, texts: &[&str]| -> Vec<usize> {
            let parsed = texts.iter().filter_map(|text| Pointer::parse(text).ok());
            parsed.map(|pointer| pointers.slot(&pointer)).collect()
        };
        let (content, strings) = match &stream.content {
            Some(declared) => (declared.iter().map(|p| pointers.slot(p)).collect(), Vec::new()),
            None => {
                let content = [&CONTENT[..], &NOT_TEXT].concat();
                (built_in(&mut pointers, &content), built_in(&mut pointers, &TEXT))
            }
        };
        let ends = EndMarkers::new(stream.terminal.as_deref(), &mut pointers);
        let rules = EventRule::all(&provider.classify, &mut pointers);
        let usage = slots(provider, &mut pointers);
        let mut whole = PointerSet::default();
        let whole_slots = slots(provider, &mut whole);
        Interpreter {
            content,
            strings,
            ends,
            declared: stream.content.is_some() || stream.terminal.is_some(),
            promised: stream.terminal.is_some(),
            rules,
            usage,
            shape: KnownFormats::new(&mut pointers),
            pointers,
            whole: (whole, whole_slots),
        }
    }

    /// The policy wants to know what is in the streams.
    pub fn is_needed(&self) -> bool {
        self.declared || !self.rules.is_empty() || self.usage.iter().any(|slots| !slots.is_empty())
    }

    /// What a whole JSON answer says of tokens.
    pub fn body_usage(&self, body: &[u8], found: &mut PointerMatches) -> TokenUsage {
        let (pointers, slots) = &self.whole;
        if slots.iter().all(Vec::is_empty) {
            return TokenUsage::default();
        }
        match find(body, pointers, found) {
            Ok(()) => TokenUsage::at(slots, found, body),
            Err(_) => TokenUsage::default(),
        }
    }

    /// The data is what ends a stream.
    pub fn is_end(&self, data: &[u8]) -> bool {
        self.ends.texts.iter().any(|text| text.as_bytes() == data)
    }

    /// What an event says; `None` when its data is no JSON.
    pub fn interpret(
        &self,
        name: &[u8],
        data: &[u8],
        status: u16,
        found: &mut PointerMatches,
    ) -> Option<EventMeaning> {
        scan(data, &self.pointers, found).ok()?;
        let kind = found.value(self.shape.kind, data).and_then(scan::text).unwrap_or_default();
        let value = |slot: &usize| found.value(*slot, data);
        let content = self.content.iter().filter_map(value).any(scan::is_something)
            || self.strings.iter().filter_map(value).any(|v| scan::is_string(v) && v.len() > 2);
        let (sort, said) = self.shape.of(&kind, data, found);
        let rule = self.rules.iter().find(|rule| rule.is_met(data, status, found));
        let known = sort == EventOrigin::Known;
        Some(EventMeaning {
            sort,
            content,
            end: self.ends.are_in(data, found),
            ruled: rule.map(|rule| rule.class),
            failed: rule.is_none() && self.shape.failed(name, &kind, known, data, found),
            another: self.shape.is_another(data, found),
            tokens: TokenUsage::at(&self.usage, found, data),
            said,
        })
    }
}

/// Where tokens stand; nowhere, where nobody wants to know.
fn slots(provider: &model::Provider, pointers: &mut PointerSet) -> [Vec<usize>; 2] {
    if !provider.counts_tokens() {
        return [Vec::new(), Vec::new()];
    }
    let usage = &provider.usage;
    [&usage.input, &usage.output].map(|list| list.iter().map(|p| pointers.slot(p)).collect())
}

impl TokenUsage {
    fn at(slots: &[Vec<usize>; 2], found: &PointerMatches, text: &[u8]) -> TokenUsage {
        let first = |slots: &[usize]| {
            slots.iter().filter_map(|slot| found.value(*slot, text)).find_map(scan::number)
        };
        TokenUsage { input: first(&slots[0]), output: first(&slots[1]) }
    }

    /// What is said later counts.
    pub fn update(&mut self, later: TokenUsage) {
        self.input = later.input.or(self.input);
        self.output = later.output.or(self.output);
    }
}

impl EndMarkers {
    fn new(declared: Option<&[Mark]>, pointers: &mut PointerSet) -> EndMarkers {
        let mut ends = EndMarkers::default();
        let Some(marks) = declared else {
            ends.texts.push(DONE.to_owned());
            let present = ENDS.iter().filter_map(|text| Pointer::parse(text).ok());
            ends.present = present.map(|pointer| pointers.slot(&pointer)).collect();
            for (text, value) in LAST {
                if let Ok(pointer) = Pointer::parse(text) {
                    ends.values.push((pointers.slot(&pointer), value.to_owned()));
                }
            }
            return ends;
        };
        for mark in marks {
            match mark {
                Mark::Text(text) => ends.texts.push(text.clone()),
                Mark::Value(pointer, value) => {
                    ends.values.push((pointers.slot(pointer), value.clone()));
                }
                Mark::Present(pointer) => ends.present.push(pointers.slot(pointer)),
            }
        }
        ends
    }

    fn are_in(&self, data: &[u8], found: &PointerMatches) -> bool {
        let is = |(slot, wanted): &(usize, String)| {
            let value = found.value(*slot, data).and_then(scan::text);
            value.is_some_and(|value| value == wanted.as_str())
        };
        let there = |slot: &usize| found.value(*slot, data).is_some_and(|v| !scan::is_null(v));
        self.present.iter().any(there) || self.values.iter().any(is)
    }
}

impl EventRule {
    fn all(rules: &[model::ClassifyRule], pointers: &mut PointerSet) -> Vec<EventRule> {
        let for_events = rules.iter().filter(|rule| !rule.event.is_empty());
        let rules = for_events.map(|rule| EventRule {
            status: rule.status.clone(),
            values: rule.event.iter().map(|(p, r)| (pointers.slot(p), r.clone())).collect(),
            class: rule.class,
        });
        rules.collect()
    }

    fn is_met(&self, data: &[u8], status: u16, found: &PointerMatches) -> bool {
        let matches = |(slot, pattern): &(usize, Regex)| {
            let value = found.value(*slot, data).filter(|value| !scan::is_null(value));
            value.and_then(scan::text).is_some_and(|text| pattern.is_match(&text))
        };
        (self.status.is_empty() || self.status.contains(&status)) && self.values.iter().all(matches)
    }
}
