//! What an event says: content, an end, an error, tokens; and what a whole JSON answer says of
//! tokens.
//!
//! What the policy declares counts; where it declares nothing, the shapes that are known here do:
//! OpenAI's chat completions and responses, Anthropic's messages, Google's `generateContent`,
//! Ollama's lines. Everything that is looked for is compiled into one set of pointers, so that an
//! event is passed over once.

use std::ops::Range;

use regex_lite::Regex;

use super::join::Dialect;
use super::json::{self, Found, Pointers, find, scan};
use crate::policy::model::{self, Mark};
use crate::policy::pointer::Pointer;
use crate::resilience::outcome::Class;

/// Where the known shapes have content.
const CONTENT: [&str; 13] = [
    "/choices/0/delta/content",
    "/choices/0/delta/tool_calls",
    "/choices/0/delta/function_call",
    "/choices/0/delta/refusal",
    "/choices/0/delta/reasoning_content",
    "/choices/0/delta/reasoning",
    "/choices/0/delta/audio",
    "/choices/0/text",
    "/delta/text",
    "/delta/partial_json",
    "/delta/thinking",
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
/// Events of Anthropic's.
const MESSAGES: [&str; 7] = [
    "message_start",
    "content_block_start",
    "ping",
    "content_block_delta",
    "content_block_stop",
    "message_delta",
    "message_stop",
];

/// Tokens as an answer says them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tokens {
    pub input: Option<u64>,
    pub output: Option<u64>,
}

/// How the answers of one provider are read for one route.
#[derive(Debug)]
pub struct Reading {
    pointers: Pointers,
    content: Vec<usize>,
    strings: Vec<usize>,
    ends: Ends,
    /// The policy says what a stream is made of, so that its events are JSON.
    pub declared: bool,
    /// The policy says what every stream ends with.
    pub promised: bool,
    rules: Vec<Rule>,
    usage: [Vec<usize>; 2],
    shape: Shape,
    /// The usage by itself, for whole answers.
    whole: (Pointers, [Vec<usize>; 2]),
}

#[derive(Debug, Default)]
struct Ends {
    texts: Vec<String>,
    values: Vec<(usize, String)>,
    present: Vec<usize>,
}

/// One rule of `classify` for events.
#[derive(Debug)]
struct Rule {
    status: Vec<u16>,
    values: Vec<(usize, Regex)>,
    class: Class,
}

/// Where the known shapes show, and what of them can be gone on from.
#[derive(Debug)]
struct Shape {
    kind: usize,
    error: usize,
    choices: usize,
    candidates: usize,
    done: usize,
    /// Of the choice or the block; only the first is gone on from.
    index: [usize; 2],
    text: [usize; 2],
    finish: usize,
    block: usize,
    /// Something that is no plain text.
    other: Vec<usize>,
}

/// What an event says.
#[derive(Debug, Default)]
pub struct Says {
    /// It is of a known shape.
    pub known: bool,
    pub content: bool,
    pub end: bool,
    pub error: Option<Class>,
    pub tokens: Tokens,
    pub said: Option<Said>,
}

/// What an event adds to an answer that could be gone on from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Said {
    pub dialect: Dialect,
    /// Where its text stands in the data, quotes and all.
    pub text: Option<Range<usize>>,
    /// It is something that cannot be gone on from.
    pub other: bool,
    /// The text is finished.
    pub over: bool,
}

impl Reading {
    pub fn new(stream: &model::Stream, provider: &model::Provider) -> Reading {
        let mut pointers = Pointers::default();
        let built_in = |pointers: &mut Pointers, texts: &[&str]| -> Vec<usize> {
            let parsed = texts.iter().filter_map(|text| Pointer::parse(text).ok());
            parsed.map(|pointer| pointers.slot(&pointer)).collect()
        };
        let (content, strings) = match &stream.content {
            Some(declared) => (declared.iter().map(|p| pointers.slot(p)).collect(), Vec::new()),
            None => (built_in(&mut pointers, &CONTENT), built_in(&mut pointers, &TEXT)),
        };
        let ends = Ends::new(stream.terminal.as_deref(), &mut pointers);
        let rules = Rule::all(&provider.classify, &mut pointers);
        let usage = slots(provider, &mut pointers);
        let mut whole = Pointers::default();
        let whole_slots = slots(provider, &mut whole);
        Reading {
            content,
            strings,
            ends,
            declared: stream.content.is_some() || stream.terminal.is_some(),
            promised: stream.terminal.is_some(),
            rules,
            usage,
            shape: Shape::new(&mut pointers),
            pointers,
            whole: (whole, whole_slots),
        }
    }

    /// What a whole JSON answer says of tokens.
    pub fn whole(&self, body: &[u8], found: &mut Found) -> Tokens {
        let (pointers, slots) = &self.whole;
        if slots.iter().all(Vec::is_empty) {
            return Tokens::default();
        }
        match find(body, pointers, found) {
            Ok(()) => Tokens::at(slots, found, body),
            Err(_) => Tokens::default(),
        }
    }

    /// The data is what ends a stream.
    pub fn is_end(&self, data: &[u8]) -> bool {
        self.ends.texts.iter().any(|text| text.as_bytes() == data)
    }

    /// What an event says; `None` when its data is no JSON.
    pub fn event(&self, name: &[u8], data: &[u8], status: u16, found: &mut Found) -> Option<Says> {
        scan(data, &self.pointers, found).ok()?;
        let kind = found.value(self.shape.kind, data).and_then(json::text).unwrap_or_default();
        let value = |slot: &usize| found.value(*slot, data);
        let content = self.content.iter().filter_map(value).any(json::is_something)
            || self.strings.iter().filter_map(value).any(|v| json::is_string(v) && v.len() > 2);
        let (known, said) = self.shape.of(&kind, data, found);
        Some(Says {
            known,
            content,
            end: self.ends.are_in(data, found),
            error: self.error(name, &kind, data, status, found),
            tokens: Tokens::at(&self.usage, found, data),
            said,
        })
    }

    fn error(
        &self,
        name: &[u8],
        kind: &str,
        data: &[u8],
        status: u16,
        found: &Found,
    ) -> Option<Class> {
        let rule = self.rules.iter().find(|rule| rule.is_met(data, status, found));
        if let Some(rule) = rule {
            return Some(rule.class).filter(|class| *class != Class::Success);
        }
        let told = found.value(self.shape.error, data).is_some_and(json::is_something);
        let failed = name == b"error" || kind == "error" || kind == "response.failed";
        (told || failed).then_some(Class::Failure)
    }
}

/// Where tokens stand; nowhere, where nobody wants to know.
fn slots(provider: &model::Provider, pointers: &mut Pointers) -> [Vec<usize>; 2] {
    if !provider.counts_tokens() {
        return [Vec::new(), Vec::new()];
    }
    let usage = &provider.usage;
    [&usage.input, &usage.output].map(|list| list.iter().map(|p| pointers.slot(p)).collect())
}

impl Tokens {
    fn at(slots: &[Vec<usize>; 2], found: &Found, text: &[u8]) -> Tokens {
        let first = |slots: &[usize]| {
            slots.iter().filter_map(|slot| found.value(*slot, text)).find_map(json::number)
        };
        Tokens { input: first(&slots[0]), output: first(&slots[1]) }
    }

    /// What is said later counts.
    pub fn update(&mut self, later: Tokens) {
        self.input = later.input.or(self.input);
        self.output = later.output.or(self.output);
    }
}

impl Ends {
    fn new(declared: Option<&[Mark]>, pointers: &mut Pointers) -> Ends {
        let mut ends = Ends::default();
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

    fn are_in(&self, data: &[u8], found: &Found) -> bool {
        let is = |(slot, wanted): &(usize, String)| {
            let value = found.value(*slot, data).and_then(json::text);
            value.is_some_and(|value| value == wanted.as_str())
        };
        let there = |slot: &usize| found.value(*slot, data).is_some_and(|v| !json::is_null(v));
        self.present.iter().any(there) || self.values.iter().any(is)
    }
}

impl Rule {
    fn all(rules: &[model::ClassifyRule], pointers: &mut Pointers) -> Vec<Rule> {
        let for_events = rules.iter().filter(|rule| !rule.event.is_empty());
        let rules = for_events.map(|rule| Rule {
            status: rule.status.clone(),
            values: rule.event.iter().map(|(p, r)| (pointers.slot(p), r.clone())).collect(),
            class: rule.class,
        });
        rules.collect()
    }

    fn is_met(&self, data: &[u8], status: u16, found: &Found) -> bool {
        let matches = |(slot, pattern): &(usize, Regex)| {
            let value = found.value(*slot, data).filter(|value| !json::is_null(value));
            value.and_then(json::text).is_some_and(|text| pattern.is_match(&text))
        };
        (self.status.is_empty() || self.status.contains(&status)) && self.values.iter().all(matches)
    }
}

impl Shape {
    fn new(pointers: &mut Pointers) -> Shape {
        let mut slot = |text: &str| match Pointer::parse(text) {
            Ok(pointer) => pointers.slot(&pointer),
            Err(_) => 0,
        };
        Shape {
            kind: slot("/type"),
            error: slot("/error"),
            choices: slot("/choices"),
            candidates: slot("/candidates"),
            done: slot("/done"),
            index: [slot("/choices/0/index"), slot("/index")],
            text: [slot("/choices/0/delta/content"), slot("/delta/text")],
            finish: slot("/choices/0/finish_reason"),
            block: slot("/content_block/type"),
            other: [
                "/choices/0/delta/tool_calls",
                "/choices/0/delta/function_call",
                "/choices/0/delta/refusal",
                "/choices/0/delta/reasoning_content",
                "/choices/0/delta/reasoning",
                "/choices/0/delta/audio",
                "/choices/0/text",
                "/choices/1",
                "/content_block/text",
                "/delta/partial_json",
                "/delta/thinking",
                "/delta/citation",
            ]
            .map(slot)
            .to_vec(),
        }
    }

    /// Whether it is a known shape, and what it adds where it could be gone on from.
    fn of(&self, kind: &str, data: &[u8], found: &Found) -> (bool, Option<Said>) {
        if found.at(self.choices).is_some() {
            let finish = found.value(self.finish, data).is_some_and(|v| !json::is_null(v));
            return (true, Some(self.said(Dialect::Chat, finish, false, data, found)));
        }
        if MESSAGES.contains(&kind) {
            let over = matches!(kind, "content_block_stop" | "message_delta" | "message_stop");
            let block = found.value(self.block, data);
            let other = block.is_some_and(|block| block != b"\"text\"");
            return (true, Some(self.said(Dialect::Messages, over, other, data, found)));
        }
        let known = kind.starts_with("response.")
            || found.at(self.candidates).is_some()
            || found.value(self.done, data).is_some_and(|v| v == b"true" || v == b"false");
        (known, None)
    }

    fn said(&self, dialect: Dialect, over: bool, other: bool, data: &[u8], found: &Found) -> Said {
        let value = |slot: &usize| found.value(*slot, data);
        let text = found.at(self.text[dialect as usize]);
        let text = text.filter(|at| json::is_something(&data[at.clone()]));
        // Parts of different kinds, for example.
        let parts = text.as_ref().is_some_and(|at| !json::is_string(&data[at.clone()]));
        let another = value(&self.index[dialect as usize]).is_some_and(|index| index != b"0");
        let others = self.other.iter().filter_map(value).any(json::is_something);
        Said { dialect, text, other: other || parts || another || others, over }
    }
}
