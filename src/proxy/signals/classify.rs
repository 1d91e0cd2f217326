//! Classification of a response: the provider's own rules first, then the built-in table.
//!
//! Most responses are classified by their status. The body is needed only if a rule of the policy
//! examines it.

use http::header::{CONTENT_TYPE, HeaderMap};
use serde_json::Value;

use crate::json::pointer::Pointer;
use crate::policy::sections::model::{BodyCheck, ClassifyRule};
use crate::resilience::outcome::AttemptClass;
use crate::stream::framing::StreamFormat;
use crate::stream::known_errors::class_of_error;

/// The content type of a response. An encoded (compressed) body cannot be read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ContentType {
    pub kind: MediaKind,
    pub encoded: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MediaKind {
    Json,
    Events(StreamFormat),
    Html,
    /// `text/plain`, or no label.
    Text,
    #[default]
    Other,
}

impl ContentType {
    /// `encoded`: there is a content coding.
    pub fn of(headers: &HeaderMap, encoded: bool) -> ContentType {
        let content_type = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
        ContentType { kind: content_type.map_or(MediaKind::Text, MediaKind::of), encoded }
    }

    /// The format of an event stream that can be read.
    pub fn events(self) -> Option<StreamFormat> {
        match self.kind {
            MediaKind::Events(format) if !self.encoded => Some(format),
            _ => None,
        }
    }

    /// The body is one document, not an event stream.
    pub fn is_document(self) -> bool {
        !matches!(self.kind, MediaKind::Events(_))
    }

    /// The body may be a stream under a wrong label.
    pub fn may_be_mislabelled(self) -> bool {
        matches!(self.kind, MediaKind::Json | MediaKind::Text) && !self.encoded
    }

    /// The body is a JSON document that can be read.
    pub fn is_json(self) -> bool {
        self.kind == MediaKind::Json && !self.encoded
    }
}

impl MediaKind {
    fn of(content_type: &str) -> MediaKind {
        if content_type == "application/json" {
            return MediaKind::Json;
        }
        let essence = content_type.split(';').next().unwrap_or_default().trim();
        let is = |name: &str| essence.eq_ignore_ascii_case(name);
        let lines = ["application/x-ndjson", "application/ndjson", "application/jsonl"];
        if is("application/json") {
            MediaKind::Json
        } else if is("text/event-stream") {
            MediaKind::Events(StreamFormat::Sse)
        } else if lines.iter().any(|name| is(name)) || is("application/x-jsonlines")
            // Cohere's, version 1.
            || is("application/stream+json")
        {
            MediaKind::Events(StreamFormat::Lines)
        } else if essence.len() > 5
            && essence.as_bytes()[essence.len() - 5..].eq_ignore_ascii_case(b"+json")
        {
            MediaKind::Json
        } else if is("text/html") || is("application/xhtml+xml") {
            MediaKind::Html
        } else if is("text/plain") || essence.is_empty() {
            MediaKind::Text
        } else {
            MediaKind::Other
        }
    }
}

/// Whether the header `x-should-retry` says that a retry is useless (OpenAI, Anthropic).
pub fn forbids_retry(headers: &HeaderMap) -> bool {
    headers.get("x-should-retry").is_some_and(|value| value.as_bytes().trim_ascii() == b"false")
}

/// The parts of a response head that classify it.
#[derive(Clone, Copy, Debug)]
pub struct ResponseSignals {
    pub status: u16,
    pub has_retry_after: bool,
    /// A header says that a retry is useless.
    pub forbids_retry: bool,
    /// The provider's credential comes from the policy, not from the client.
    pub our_credential: bool,
    pub content_type: ContentType,
}

impl ResponseSignals {
    /// The class, unless it depends on the body.
    pub fn class(self, rules: &[ClassifyRule]) -> Option<AttemptClass> {
        match rules.iter().find(|rule| self.is_subject_to(rule)) {
            Some(rule) if rule.json.is_empty() && rule.body.is_none() => Some(rule.class),
            Some(_) => None,
            None if self.may_say_more() => None,
            None => Some(self.built_in()),
        }
    }

    /// The class of a response with this body.
    pub fn class_of(self, rules: &[ClassifyRule], body: &[u8]) -> AttemptClass {
        self.rule_for(rules, body).unwrap_or_else(|| self.built_in_with(body))
    }

    /// The class that a rule of the policy assigns to a response with this body.
    pub fn rule_for(self, rules: &[ClassifyRule], body: &[u8]) -> Option<AttemptClass> {
        let mut parsed = None;
        let mut json = || parsed.get_or_insert_with(|| serde_json::from_slice(body).ok()).clone();
        let matches = |rule: &&ClassifyRule| {
            let by_body = match rule.body {
                None => true,
                Some(BodyCheck::Empty) => body.is_empty(),
                Some(BodyCheck::InvalidJson) => json().is_none(),
            };
            by_body && (rule.json.is_empty() || json().is_some_and(|value| holds(rule, &value)))
        };
        let mut for_status = rules.iter().filter(|rule| self.is_subject_to(rule));
        for_status.find(matches).map(|rule| rule.class)
    }

    /// A rule about the body applies only to a document that can be read. Rules about events belong to
    /// the stream reader.
    fn is_subject_to(self, rule: &ClassifyRule) -> bool {
        let readable = match rule.body {
            _ if !rule.json.is_empty() => {
                self.content_type.is_document() && !self.content_type.encoded
            }
            None => true,
            Some(BodyCheck::Empty) => self.content_type.is_document(),
            Some(BodyCheck::InvalidJson) => {
                self.content_type.is_document() && !self.content_type.encoded
            }
        };
        covers(rule, self.status) && rule.event.is_empty() && readable
    }

    pub fn built_in(self) -> AttemptClass {
        match AttemptClass::of_status(self.status, self.has_retry_after) {
            AttemptClass::Credential if !self.our_credential => AttemptClass::Success,
            AttemptClass::Throttled if self.forbids_retry && !self.has_retry_after => {
                AttemptClass::Credential
            }
            class => class,
        }
    }

    fn built_in_with(self, body: &[u8]) -> AttemptClass {
        let stated = self.may_say_more().then(|| class_of_error(body)).flatten();
        // The table knows whose credential a 403 is about.
        let stated =
            stated.filter(|class| self.status != 403 || *class == AttemptClass::Unsupported);
        stated.unwrap_or_else(|| self.built_in())
    }

    /// The body may say that a retry is useless or that another provider is needed, which the status
    /// does not.
    fn may_say_more(self) -> bool {
        matches!(self.status, 400 | 403 | 404 | 422 | 429) && self.content_type.is_json()
    }
}

fn covers(rule: &ClassifyRule, status: u16) -> bool {
    rule.status.is_empty() || rule.status.contains(&status)
}

fn holds(rule: &ClassifyRule, value: &Value) -> bool {
    rule.json.iter().all(|(pointer, pattern)| match at(value, pointer) {
        None | Some(Value::Null) => false,
        Some(Value::String(text)) => pattern.is_match(text),
        Some(other) => pattern.is_match(&other.to_string()),
    })
}

fn at<'v>(value: &'v Value, pointer: &Pointer) -> Option<&'v Value> {
    pointer.tokens().iter().try_fold(value, |value, token| match value {
        Value::Object(map) => map.get(token),
        Value::Array(items) => items.get(token.parse::<usize>().ok()?),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use regex_lite::Regex;

    fn head(status: u16) -> ResponseSignals {
        ResponseSignals {
            status,
            has_retry_after: false,
            forbids_retry: false,
            our_credential: true,
            content_type: ContentType::default(),
        }
    }

    fn rule(
        status: u16,
        json: Option<(&str, &str)>,
        body: Option<BodyCheck>,
        class: AttemptClass,
    ) -> ClassifyRule {
        let json =
            json.map(|(p, r)| (Pointer::parse(p).expect("pointer"), Regex::new(r).expect("regex")));
        ClassifyRule {
            status: vec![status],
            json: json.into_iter().collect(),
            body,
            ..ClassifyRule::of(class)
        }
    }

    #[test]
    fn x_should_retry_is_read() {
        let headers = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert("x-should-retry", value.parse().expect("a value"));
            headers
        };
        assert!(forbids_retry(&headers("false")) && !forbids_retry(&headers("true")));
        assert!(!forbids_retry(&HeaderMap::new()));
    }

    #[test]
    fn the_first_matching_rule_overrides_the_table() {
        let rules = [
            rule(400, Some(("/error/code", "context_length")), None, AttemptClass::Unsupported),
            rule(200, None, Some(BodyCheck::Empty), AttemptClass::Failure),
            rule(200, None, Some(BodyCheck::InvalidJson), AttemptClass::Failure),
            rule(418, None, None, AttemptClass::Throttled),
        ];
        assert_eq!(head(400).class(&rules), None);
        assert_eq!(
            head(400).class_of(&rules, br#"{"error":{"code":"context_length_exceeded"}}"#),
            AttemptClass::Unsupported
        );
        assert_eq!(head(400).class_of(&rules, br#"{"error":{"code":7}}"#), AttemptClass::Success);
        assert_eq!(head(200).class_of(&rules, b""), AttemptClass::Failure);
        assert_eq!(head(200).class_of(&rules, b"{"), AttemptClass::Failure);
        assert_eq!(head(200).class_of(&rules, b"{}"), AttemptClass::Success);
        assert_eq!(head(418).class(&rules), Some(AttemptClass::Throttled));
        assert_eq!(head(503).class(&rules), Some(AttemptClass::Failure));
    }

    #[test]
    fn a_rejected_credential_of_the_client_is_no_failure() {
        assert_eq!(head(401).class(&[]), Some(AttemptClass::Credential));
        let client = ResponseSignals { our_credential: false, ..head(401) };
        assert_eq!(client.class(&[]), Some(AttemptClass::Success));
    }

    #[test]
    fn the_content_type_gives_the_kind() {
        let kinds = [
            ("application/json; charset=utf-8", MediaKind::Json),
            ("application/problem+JSON", MediaKind::Json),
            ("+json", MediaKind::Other),
            ("text/json-ish", MediaKind::Other),
            ("Text/Event-Stream; charset=utf-8", MediaKind::Events(StreamFormat::Sse)),
            ("application/x-ndjson", MediaKind::Events(StreamFormat::Lines)),
            ("application/json-seq", MediaKind::Other),
            ("application/stream+json", MediaKind::Events(StreamFormat::Lines)),
            ("text/html; charset=utf-8", MediaKind::Html),
            ("text/plain", MediaKind::Text),
            ("audio/mpeg", MediaKind::Other),
        ];
        for (text, kind) in kinds {
            let mut headers = HeaderMap::new();
            headers.insert(CONTENT_TYPE, text.parse().expect("a value"));
            let content_type = ContentType::of(&headers, false);
            assert_eq!(content_type, ContentType { kind, encoded: false }, "{text}");
            let content_type = ContentType::of(&headers, true);
            assert!(
                content_type.encoded && content_type.events().is_none() && !content_type.is_json(),
                "{text}"
            );
        }
    }
}
