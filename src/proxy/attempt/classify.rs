//! What class of outcome an answer is: the provider's own rules first, then POLICY.md's table.
//!
//! Most answers are decided by their status alone; only where a rule of the policy looks into the
//! body is the body needed.

use serde_json::Value;

use super::content_type::ContentType;
use crate::json::pointer::Pointer;
use crate::policy::sections::model::{BodyCheck, ClassifyRule};
use crate::resilience::outcome::AttemptClass;

/// What the head says.
#[derive(Clone, Copy, Debug)]
pub struct ResponseSignals {
    pub status: u16,
    pub has_retry_after: bool,
    /// The credential that was sent is ours.
    pub our_credential: bool,
    pub nature: ContentType,
}

impl ResponseSignals {
    /// The class, where the body has no say in it.
    pub fn class(self, rules: &[ClassifyRule]) -> Option<AttemptClass> {
        match rules.iter().find(|rule| self.is_subject_to(rule)) {
            Some(rule) if rule.json.is_empty() && rule.body.is_none() => Some(rule.class),
            Some(_) => None,
            None => Some(self.built_in()),
        }
    }

    /// The class of an answer whose body is known.
    pub fn class_of(self, rules: &[ClassifyRule], body: &[u8]) -> AttemptClass {
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
        for_status.find(matches).map_or_else(|| self.built_in(), |rule| rule.class)
    }

    /// A rule that looks into a body is for bodies that can be read, and are one document; rules for
    /// events are the reader's (`stream/`).
    fn is_subject_to(self, rule: &ClassifyRule) -> bool {
        let readable = match rule.body {
            _ if !rule.json.is_empty() => self.nature.is_document() && !self.nature.encoded,
            None => true,
            Some(BodyCheck::Empty) => self.nature.is_document(),
            Some(BodyCheck::InvalidJson) => self.nature.is_document() && !self.nature.encoded,
        };
        rule.is_for(self.status) && rule.event.is_empty() && readable
    }

    pub fn built_in(self) -> AttemptClass {
        match AttemptClass::of_status(self.status, self.has_retry_after) {
            AttemptClass::Credential if !self.our_credential => AttemptClass::Success,
            class => class,
        }
    }
}

impl ClassifyRule {
    fn is_for(&self, status: u16) -> bool {
        self.status.is_empty() || self.status.contains(&status)
    }
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
            our_credential: true,
            nature: ContentType::default(),
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
            event: Vec::new(),
            body,
            class,
        }
    }

    #[test]
    fn the_first_rule_that_holds_stands_before_the_table() {
        let rules = [
            rule(400, Some(("/error/code", "context_length")), None, AttemptClass::TooLarge),
            rule(200, None, Some(BodyCheck::Empty), AttemptClass::Failure),
            rule(200, None, Some(BodyCheck::InvalidJson), AttemptClass::Failure),
            rule(418, None, None, AttemptClass::Throttled),
        ];
        assert_eq!(head(400).class(&rules), None);
        assert_eq!(
            head(400).class_of(&rules, br#"{"error":{"code":"context_length_exceeded"}}"#),
            AttemptClass::TooLarge
        );
        assert_eq!(head(400).class_of(&rules, br#"{"error":{"code":7}}"#), AttemptClass::Success);
        assert_eq!(head(200).class_of(&rules, b""), AttemptClass::Failure);
        assert_eq!(head(200).class_of(&rules, b"{"), AttemptClass::Failure);
        assert_eq!(head(200).class_of(&rules, b"{}"), AttemptClass::Success);
        assert_eq!(head(418).class(&rules), Some(AttemptClass::Throttled));
        assert_eq!(head(503).class(&rules), Some(AttemptClass::Failure));
    }

    #[test]
    fn a_refused_credential_is_ours_to_mend_only_when_it_is_ours() {
        assert_eq!(head(401).class(&[]), Some(AttemptClass::Credential));
        let theirs = ResponseSignals { our_credential: false, ..head(401) };
        assert_eq!(theirs.class(&[]), Some(AttemptClass::Success));
    }
}
