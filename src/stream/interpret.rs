//! Interprets one event of a stream: content, end markers, errors and token usage. Also finds the
//! token usage of a whole JSON response.
//!
//! The policy's declarations take precedence. Without them the built-in formats apply: OpenAI's
//! chat completions and responses, Anthropic's messages, Google's `generateContent`, Cohere's chat and
//! Ollama's lines. All locations are compiled into one pointer set, so that an event is scanned once.

use std::ops::Range;

use regex_lite::Regex;

use super::api::Api;
use super::continuation::Dialect;
use super::formats::{self, KnownFormats, NON_TEXT_CONTENT};
use crate::json::pointer::Pointer;
use crate::json::pointer_set::PointerSet;
use crate::json::scan::{PointerMatches, find, scan};
use crate::json::value;
use crate::policy::sections::model::{self, Mark};
use crate::resilience::outcome::AttemptClass;

/// The content fields of the built-in formats; `NON_TEXT_CONTENT` has more.
const CONTENT: [&str; 4] = [
    "/choices/0/delta/content",
    "/delta/text",
    "/candidates/0/content/parts/0",
    "/message/content",
];
/// Fields that are content only if they are strings.
const STRING_CONTENT: [&str; 2] = ["/delta", "/response"];
/// Fields that are set in the last event but for token usage.
const END_FIELDS: [&str; 2] = ["/choices/0/finish_reason", "/candidates/0/finishReason"];
const END_VALUES: [(&str, &str); 5] = [
    ("/type", "message_stop"),
    ("/type", "message-end"),
    ("/type", "response.completed"),
    ("/type", "response.incomplete"),
    ("/done", "true"),
];
const DONE: &str = "[DONE]";

/// Token counts as the response reports them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TokenUsage {
    pub input: Option<u64>,
    pub output: Option<u64>,
}

/// Interprets the responses of one provider on one route.
#[derive(Debug)]
pub struct Interpreter {
    pointers: PointerSet,
    content: Vec<usize>,
    string_content: Vec<usize>,
    end_markers: EndMarkers,
    /// The policy declares content or end markers, so the events are JSON.
    pub is_declared: bool,
    /// The policy declares how every stream ends.
    pub requires_end: bool,
    rules: Vec<EventRule>,
    usage: UsageSlots,
    formats: KnownFormats,
    /// The usage fields alone, for whole responses.
    body_pointers: PointerSet,
    body_usage: UsageSlots,
}

#[derive(Debug, Default)]
struct EndMarkers {
    texts: Vec<String>,
    values: Vec<EndValue>,
    present: Vec<usize>,
}

#[derive(Debug)]
struct EndValue {
    slot: usize,
    value: String,
}

/// A rule of `classify` that applies to events.
#[derive(Debug)]
struct EventRule {
    status: Vec<u16>,
    patterns: Vec<SlotPattern>,
    class: AttemptClass,
}

#[derive(Debug)]
struct SlotPattern {
    slot: usize,
    regex: Regex,
}

/// The slots of the token counts; empty if they are not needed.
#[derive(Debug, Default)]
struct UsageSlots {
    input: Vec<usize>,
    output: Vec<usize>,
}

/// Which kind of stream an event belongs to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EventOrigin {
    /// One of a built-in format.
    Known(Api),
    /// Any stream may contain it.
    Neutral,
    #[default]
    Other,
}

/// The meaning of an event.
#[derive(Debug, Default)]
pub struct EventMeaning {
    pub origin: EventOrigin,
    /// Its number, if its API numbers events.
    pub sequence: Option<u64>,
    pub has_content: bool,
    pub is_end: bool,
    /// The class that a rule of the policy assigns.
    pub rule_class: Option<AttemptClass>,
    /// It is an error in a built-in format.
    pub is_error: bool,
    /// It belongs to a choice other than the first.
    pub is_other_choice: bool,
    pub usage: TokenUsage,
    pub delta: Option<DeltaSpan>,
}

/// The position of an event's text, in a format that can be continued.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeltaSpan {
    pub dialect: Dialect,
    /// The position of the text in the event's data, quotes included.
    pub text: Option<Range<usize>>,
    /// It contains something that cannot be continued.
    pub is_other: bool,
    /// No text follows.
    pub is_last: bool,
}

impl Interpreter {
    pub fn new(stream: &model::Stream, provider: &model::ProviderPolicy) -> Interpreter {
        let mut pointers = PointerSet::default();
        let (content, string_content) = match &stream.content {
            Some(declared) => (declared.iter().map(|p| pointers.slot(p)).collect(), Vec::new()),
            None => {
                let content = [&CONTENT[..], &NON_TEXT_CONTENT].concat();
                (slots(&content, &mut pointers), slots(&STRING_CONTENT, &mut pointers))
            }
        };
        let end_markers = EndMarkers::new(stream.terminal.as_deref(), &mut pointers);
        let rules = EventRule::all(&provider.classify, &mut pointers);
        let usage = UsageSlots::new(provider, &mut pointers);
        let mut body_pointers = PointerSet::default();
        let body_usage = UsageSlots::new(provider, &mut body_pointers);
        Interpreter {
            content,
            string_content,
            end_markers,
            is_declared: stream.content.is_some() || stream.terminal.is_some(),
            requires_end: stream.terminal.is_some(),
            rules,
            usage,
            formats: KnownFormats::new(&mut pointers),
            pointers,
            body_pointers,
            body_usage,
        }
    }

    /// Whether the policy depends on the content of streams.
    pub fn is_needed(&self) -> bool {
        self.is_declared || !self.rules.is_empty() || !self.usage.is_empty()
    }

    /// The token usage of a whole JSON response.
    pub fn body_usage(&self, body: &[u8], found: &mut PointerMatches) -> TokenUsage {
        if self.body_usage.is_empty() {
            return TokenUsage::default();
        }
        match find(body, &self.body_pointers, found) {
            Ok(()) => self.body_usage.read(body, found),
            Err(_) => TokenUsage::default(),
        }
    }

    /// The `id` and `model` of the event that was interpreted last.
    pub fn identity(&self, data: &[u8], found: &PointerMatches) -> [Option<String>; 2] {
        self.formats.identity(data, found)
    }

    /// The values that matter in an event.
    pub fn pointers(&self) -> &PointerSet {
        &self.pointers
    }

    /// Whether the data, JSON or not, marks the end of a stream.
    pub fn is_end(&self, data: &[u8]) -> bool {
        let data = data.trim_ascii();
        self.end_markers.texts.iter().any(|text| text.as_bytes().trim_ascii() == data)
    }

    /// Interprets an event; `None` when its data is not JSON.
    pub fn interpret(
        &self,
        name: &[u8],
        data: &[u8],
        status: u16,
        found: &mut PointerMatches,
    ) -> Option<EventMeaning> {
        scan(data, &self.pointers, found).ok()?;
        let event_type = found.value(self.formats.event_type, data).and_then(value::text);
        let event_type = event_type.unwrap_or_default();
        let value_of = |slot: &usize| found.value(*slot, data);
        let is_text = |value: &[u8]| value::is_string(value) && value.len() > 2;
        let has_content = self.content.iter().filter_map(value_of).any(value::is_present)
            || self.string_content.iter().filter_map(value_of).any(is_text);
        let (origin, delta) = self.formats.classify(&event_type, data, found);
        let rule = self.rules.iter().find(|rule| rule.matches(data, status, found));
        let is_known = matches!(origin, EventOrigin::Known(_));
        let sequence = match origin {
            EventOrigin::Known(Api::Responses) => self.formats.sequence(data, found),
            _ => None,
        };
        Some(EventMeaning {
            origin,
            sequence,
            has_content,
            is_end: self.end_markers.are_in(data, found),
            rule_class: rule.map(|rule| rule.class),
            is_error: rule.is_none()
                && self.formats.is_error(name, &event_type, is_known, data, found),
            is_other_choice: self.formats.is_other_choice(data, found),
            usage: self.usage.read(data, found),
            delta,
        })
    }
}

fn slots(pointers: &[&str], set: &mut PointerSet) -> Vec<usize> {
    let parsed = pointers.iter().filter_map(|text| Pointer::parse(text).ok());
    parsed.map(|pointer| set.slot(&pointer)).collect()
}

impl UsageSlots {
    fn new(provider: &model::ProviderPolicy, pointers: &mut PointerSet) -> UsageSlots {
        if !provider.counts_tokens() {
            return UsageSlots::default();
        }
        let mut slots = |list: &[Pointer]| list.iter().map(|p| pointers.slot(p)).collect();
        UsageSlots { input: slots(&provider.usage.input), output: slots(&provider.usage.output) }
    }

    fn is_empty(&self) -> bool {
        self.input.is_empty() && self.output.is_empty()
    }

    fn read(&self, text: &[u8], found: &PointerMatches) -> TokenUsage {
        let first = |slots: &[usize]| {
            slots.iter().filter_map(|slot| found.value(*slot, text)).find_map(value::count)
        };
        TokenUsage { input: first(&self.input), output: first(&self.output) }
    }
}

impl TokenUsage {
    /// Later counts replace earlier ones.
    pub fn update(&mut self, later: TokenUsage) {
        self.input = later.input.or(self.input);
        self.output = later.output.or(self.output);
    }
}

impl EndMarkers {
    fn new(declared: Option<&[Mark]>, pointers: &mut PointerSet) -> EndMarkers {
        let mut markers = EndMarkers::default();
        let Some(marks) = declared else {
            markers.texts.push(DONE.to_owned());
            markers.present = slots(&END_FIELDS, pointers);
            for (text, value) in END_VALUES {
                if let Ok(pointer) = Pointer::parse(text) {
                    let slot = pointers.slot(&pointer);
                    markers.values.push(EndValue { slot, value: value.to_owned() });
                }
            }
            return markers;
        };
        for mark in marks {
            match mark {
                Mark::Text(text) => markers.texts.push(text.clone()),
                Mark::Value(pointer, value) => {
                    let slot = pointers.slot(pointer);
                    markers.values.push(EndValue { slot, value: value.clone() });
                }
                Mark::Present(pointer) => markers.present.push(pointers.slot(pointer)),
            }
        }
        markers
    }

    fn are_in(&self, data: &[u8], found: &PointerMatches) -> bool {
        let is_equal = |end: &EndValue| {
            let value = found.value(end.slot, data).and_then(value::text);
            value.is_some_and(|value| value == end.value.as_str())
        };
        let is_set = |slot: &usize| found.value(*slot, data).is_some_and(formats::is_end_value);
        self.present.iter().any(is_set) || self.values.iter().any(is_equal)
    }
}

impl EventRule {
    fn all(rules: &[model::ClassifyRule], pointers: &mut PointerSet) -> Vec<EventRule> {
        let for_events = rules.iter().filter(|rule| !rule.event.is_empty());
        let rules = for_events.map(|rule| EventRule {
            status: rule.status.clone(),
            patterns: rule
                .event
                .iter()
                .map(|(pointer, regex)| SlotPattern {
                    slot: pointers.slot(pointer),
                    regex: regex.clone(),
                })
                .collect(),
            class: rule.class,
        });
        rules.collect()
    }

    fn matches(&self, data: &[u8], status: u16, found: &PointerMatches) -> bool {
        let is_match = |pattern: &SlotPattern| {
            let value = found.value(pattern.slot, data).filter(|value| !value::is_null(value));
            value.and_then(value::text).is_some_and(|text| pattern.regex.is_match(&text))
        };
        (self.status.is_empty() || self.status.contains(&status))
            && self.patterns.iter().all(is_match)
    }
}
