//! The filter of `/api/requests`: `to:openai status:5xx waited:>1s`.
//!
//! Terms are separated by spaces and all of them must hold; `-` or `!` in front of one negates it. A text
//! may have alternatives (`status:429|503`) and `*` for any characters.

use std::time::Duration;

use serde_json::Value;

use crate::policy::text::suggest::{did_you_mean, listed};
use crate::policy::yaml::units;

/// The longest filter in bytes.
const LONGEST: usize = 1000;

/// Terms that must all hold.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RequestFilter {
    terms: Vec<Term>,
}

#[derive(Clone, Debug, PartialEq)]
struct Term {
    negated: bool,
    test: Test,
}

#[derive(Clone, Debug, PartialEq)]
enum Test {
    /// A value of one of the record's keys, or of its attempts' keys, is one of these.
    Text(&'static TextField, Vec<String>),
    Status(Vec<StatusRange>),
    Number(&'static NumberField, NumberComparison, f64),
    Flag(Flag),
}

/// Both ends are included.
#[derive(Clone, Copy, Debug, PartialEq)]
struct StatusRange(u64, u64);

#[derive(Clone, Copy, Debug, PartialEq)]
enum NumberComparison {
    Above,
    AtLeast,
    Below,
    AtMost,
    Equal,
}

/// A term with a text: its name, the record's keys, and the keys of its attempts.
#[derive(Debug, PartialEq)]
struct TextField {
    name: &'static str,
    keys: &'static [&'static str],
    attempt_keys: &'static [&'static str],
}

/// A term with a number: its name and the record's key.
#[derive(Debug, PartialEq)]
struct NumberField {
    name: &'static str,
    key: &'static str,
    unit: NumberUnit,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum NumberUnit {
    /// Milliseconds in the record.
    Time,
    Plain,
    /// The length of a list.
    Items,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Flag {
    Failed,
    Retried,
    Degraded,
    Fallback,
}

const TEXT_FIELDS: &[TextField] = &[
    TextField { name: "to", keys: &[], attempt_keys: &["endpoint"] },
    TextField { name: "route", keys: &["route"], attempt_keys: &[] },
    TextField { name: "model", keys: &["model"], attempt_keys: &["model"] },
    TextField { name: "result", keys: &["result"], attempt_keys: &[] },
    TextField { name: "reason", keys: &["reason", "retry_denied"], attempt_keys: &[] },
    TextField { name: "outcome", keys: &[], attempt_keys: &["class"] },
    TextField { name: "error", keys: &["reason"], attempt_keys: &["error", "code"] },
    TextField { name: "class", keys: &["class"], attempt_keys: &[] },
    TextField { name: "flow", keys: &["flow"], attempt_keys: &[] },
    TextField { name: "method", keys: &["method"], attempt_keys: &[] },
    TextField { name: "path", keys: &["path"], attempt_keys: &[] },
    TextField { name: "cache", keys: &["cache"], attempt_keys: &[] },
    TextField { name: "key", keys: &[], attempt_keys: &["credential"] },
    TextField { name: "policy", keys: &["policy"], attempt_keys: &[] },
    TextField {
        name: "id",
        keys: &["request_id", "trace_id", "span_id", "job"],
        attempt_keys: &["provider_request_id", "span_id"],
    },
];

const NUMBER_FIELDS: &[NumberField] = &[
    NumberField { name: "took", key: "duration_ms", unit: NumberUnit::Time },
    NumberField { name: "first_byte", key: "first_byte_ms", unit: NumberUnit::Time },
    NumberField { name: "waited", key: "wait_ms", unit: NumberUnit::Time },
    NumberField { name: "attempts", key: "attempts", unit: NumberUnit::Items },
    NumberField { name: "tokens_in", key: "tokens_in", unit: NumberUnit::Plain },
    NumberField { name: "tokens_out", key: "tokens_out", unit: NumberUnit::Plain },
    NumberField { name: "bytes_in", key: "bytes_in", unit: NumberUnit::Plain },
    NumberField { name: "bytes_out", key: "bytes_out", unit: NumberUnit::Plain },
    NumberField { name: "cost", key: "cost", unit: NumberUnit::Plain },
];

const FLAGS: [(&str, Flag); 4] = [
    ("failed", Flag::Failed),
    ("retried", Flag::Retried),
    ("degraded", Flag::Degraded),
    ("fallback", Flag::Fallback),
];

impl RequestFilter {
    /// Reads a filter. An empty one admits every record.
    ///
    /// # Errors
    /// The first wrong term, in words.
    pub fn parse(text: &str) -> Result<RequestFilter, String> {
        if text.len() > LONGEST {
            return Err(format!("a filter of {} bytes: expected at most {LONGEST}", text.len()));
        }
        let terms = text.split_whitespace().map(Term::parse).collect::<Result<_, _>>()?;
        Ok(RequestFilter { terms })
    }

    /// Whether a record meets every term.
    pub fn admits(&self, record: &Value) -> bool {
        self.terms.iter().all(|term| term.test.holds(record) != term.negated)
    }
}

impl Term {
    fn parse(text: &str) -> Result<Term, String> {
        let (negated, body) =
            text.strip_prefix(['-', '!']).map_or((false, text), |rest| (true, rest));
        let test = match body.split_once(':') {
            Some((name, value)) => {
                Test::parse(name, value).map_err(|why| format!("`{text}`: {why}"))?
            }
            None => match FLAGS.iter().find(|(name, _)| *name == body) {
                Some((_, flag)) => Test::Flag(*flag),
                None => return Err(unknown(text, body)),
            },
        };
        Ok(Term { negated, test })
    }
}

fn names() -> impl Iterator<Item = &'static str> {
    let text = TEXT_FIELDS.iter().map(|field| field.name);
    let numbers = NUMBER_FIELDS.iter().map(|field| field.name);
    text.chain(["status"]).chain(numbers).chain(FLAGS.iter().map(|(name, _)| *name))
}

fn unknown(term: &str, name: &str) -> String {
    let hint = did_you_mean(name, names()).unwrap_or_default();
    let hint = if hint.is_empty() { String::new() } else { format!("{hint}; ") };
    format!("`{term}` is no term of a filter ({hint}expected {})", listed(names()))
}

impl Test {
    fn parse(name: &str, value: &str) -> Result<Test, String> {
        if value.is_empty() {
            return Err("no value after the colon".to_owned());
        }
        if name == "status" {
            let ranges = value.split('|').map(StatusRange::parse).collect::<Result<_, _>>()?;
            return Ok(Test::Status(ranges));
        }
        if let Some(field) = TEXT_FIELDS.iter().find(|field| field.name == name) {
            return Ok(Test::Text(field, value.split('|').map(str::to_owned).collect()));
        }
        let Some(field) = NUMBER_FIELDS.iter().find(|field| field.name == name) else {
            return Err(unknown(name, name));
        };
        let (comparison, number) = NumberComparison::split(value);
        let number = match field.unit {
            NumberUnit::Time => units::duration(number).map(milliseconds)?,
            NumberUnit::Plain | NumberUnit::Items => units::number(number)?,
        };
        Ok(Test::Number(field, comparison, number))
    }

    fn holds(&self, record: &Value) -> bool {
        match self {
            Test::Text(field, patterns) => field
                .values(record)
                .any(|value| patterns.iter().any(|pattern| field.matches(pattern, value))),
            Test::Status(ranges) => {
                let status = record["status"].as_u64();
                status.is_some_and(|status| ranges.iter().any(|range| range.has(status)))
            }
            Test::Number(field, comparison, number) => {
                field.value(record).is_some_and(|value| comparison.holds(value, *number))
            }
            Test::Flag(flag) => flag.holds(record),
        }
    }
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

impl StatusRange {
    fn parse(text: &str) -> Result<StatusRange, String> {
        let wrong = || format!("`{text}` is no status (expected 503, 5xx, >=400 or <500)");
        if let Some(hundreds) = text.strip_suffix("xx") {
            let hundreds: u64 = hundreds.parse().map_err(|_| wrong())?;
            return (1..=5)
                .contains(&hundreds)
                .then(|| StatusRange(hundreds * 100, hundreds * 100 + 99))
                .ok_or_else(wrong);
        }
        let (comparison, number) = NumberComparison::split(text);
        let number: u64 = number.parse().map_err(|_| wrong())?;
        Ok(match comparison {
            NumberComparison::Above => StatusRange(number.saturating_add(1), u64::MAX),
            NumberComparison::AtLeast => StatusRange(number, u64::MAX),
            NumberComparison::Below => StatusRange(0, number.saturating_sub(1)),
            NumberComparison::AtMost => StatusRange(0, number),
            NumberComparison::Equal => StatusRange(number, number),
        })
    }

    fn has(self, status: u64) -> bool {
        (self.0..=self.1).contains(&status)
    }
}

impl NumberComparison {
    /// The comparison that a value begins with, and the rest.
    fn split(text: &str) -> (NumberComparison, &str) {
        let all = [
            (">=", NumberComparison::AtLeast),
            ("<=", NumberComparison::AtMost),
            (">", NumberComparison::Above),
            ("<", NumberComparison::Below),
        ];
        let found = all
            .into_iter()
            .find_map(|(sign, comparison)| Some((comparison, text.strip_prefix(sign)?)));
        found.unwrap_or((NumberComparison::Equal, text))
    }

    fn holds(self, value: f64, number: f64) -> bool {
        match self {
            NumberComparison::Above => value > number,
            NumberComparison::AtLeast => value >= number,
            NumberComparison::Below => value < number,
            NumberComparison::AtMost => value <= number,
            NumberComparison::Equal => value == number,
        }
    }
}

impl TextField {
    fn values<'r>(&self, record: &'r Value) -> impl Iterator<Item = &'r str> {
        let own = self.keys.iter().map(|key| &record[*key]);
        let attempts = record["attempts"].as_array().into_iter().flatten();
        let of_attempts =
            attempts.flat_map(|attempt| self.attempt_keys.iter().map(|key| &attempt[*key]));
        own.chain(of_attempts).filter_map(Value::as_str)
    }

    /// The provider alone names all of its endpoints, and an error is found by a part of it.
    fn matches(&self, pattern: &str, value: &str) -> bool {
        let is_part = match self.name {
            "to" => value.strip_prefix(pattern).is_some_and(|rest| rest.starts_with('/')),
            "error" => value.contains(pattern),
            _ => false,
        };
        is_part || matches_pattern(pattern, value)
    }
}

/// Whether a value is like a pattern, in which `*` stands for any characters.
fn matches_pattern(pattern: &str, value: &str) -> bool {
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = value.strip_prefix(first) else { return false };
    let Some(last) = parts.next_back() else { return rest.is_empty() };
    for part in parts {
        let Some(at) = rest.find(part) else { return false };
        rest = &rest[at + part.len()..];
    }
    rest.ends_with(last)
}

impl NumberField {
    fn value(&self, record: &Value) -> Option<f64> {
        let value = &record[self.key];
        match self.unit {
            NumberUnit::Items => Some(value.as_array().map_or(0, Vec::len) as f64),
            NumberUnit::Time | NumberUnit::Plain => value.as_f64(),
        }
    }
}

impl Flag {
    fn holds(self, record: &Value) -> bool {
        let attempts = record["attempts"].as_array().map_or(&[][..], Vec::as_slice);
        match self {
            Flag::Failed => {
                record["status"].as_u64().is_some_and(|status| status >= 500)
                    || record["result"] == "interrupted"
            }
            Flag::Retried => attempts.len() > 1,
            Flag::Degraded => record["degraded"].as_array().is_some_and(|modes| !modes.is_empty()),
            Flag::Fallback => {
                let provider = |attempt: &Value| {
                    let endpoint = attempt["endpoint"].as_str().unwrap_or_default();
                    endpoint.split('/').next().unwrap_or_default().to_owned()
                };
                let first = attempts.first().map(provider);
                attempts.iter().any(|attempt| Some(provider(attempt)) != first)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn record() -> Value {
        json!({
            "route": "chat", "method": "POST", "path": "/v1/chat/completions", "status": 200,
            "result": "complete", "duration_ms": 2500.5, "wait_ms": 1200.0, "request_id": "r-1",
            "model": "gpt-4o-mini", "degraded": [{ "mode": "cheap", "action": "use" }],
            "attempts": [
                { "endpoint": "openai/api.openai.com:443", "class": "failure", "status": 503,
                  "error": "no response within 2s" },
                { "endpoint": "anthropic/api.anthropic.com:443", "class": "success", "status": 200,
                  "model": "claude" },
            ],
        })
    }

    fn admits(filter: &str) -> bool {
        RequestFilter::parse(filter).expect(filter).admits(&record())
    }

    #[test]
    fn a_filter_admits_what_meets_all_of_its_terms() {
        for filter in [
            "",
            "to:openai",
            "to:openai/api.openai.com:443",
            "to:mistral|anthropic",
            "route:chat status:2xx waited:>1s",
            "status:>=200 status:<300",
            "status:503|200",
            "model:gpt-4o*",
            "model:*mini",
            "model:g*4*i",
            "model:claude",
            "path:/v1/*",
            "took:>2s took:<=2501ms",
            "attempts:2",
            "attempts:>1",
            "outcome:failure",
            "error:within",
            "id:r-1",
            "retried fallback degraded -failed",
            "-to:mistral !status:5xx",
        ] {
            assert!(admits(filter), "{filter}");
        }
        for filter in [
            "to:open",
            "-to:openai",
            "to:openai status:5xx",
            "waited:<1s",
            "model:gpt-4o",
            "failed",
            "cache:hit",
            "tokens_out:>0",
            "attempts:3",
        ] {
            assert!(!admits(filter), "{filter}");
        }
    }

    #[test]
    fn an_interrupted_response_counts_as_failed() {
        let failed = RequestFilter::parse("failed").expect("a filter");
        assert!(failed.admits(&json!({ "status": 200, "result": "interrupted" })));
        assert!(failed.admits(&json!({ "status": 503, "result": "local_response" })));
        assert!(!failed.admits(&json!({ "status": 499, "result": "client_disconnected" })));
    }

    #[test]
    fn a_wrong_term_is_named_with_what_exists() {
        for (filter, expected) in [
            ("rout:chat", "did you mean `route`?"),
            ("chat", "`chat` is no term of a filter"),
            ("status:9xx", "`9xx` is no status (expected 503, 5xx, >=400 or <500)"),
            ("took:>fast", "`took:>fast`"),
            ("to:", "no value after the colon"),
            ("attempts:many", "`attempts:many`"),
        ] {
            let error = RequestFilter::parse(filter).expect_err(filter);
            assert!(error.contains(expected), "{filter}: {error}");
        }
        assert!(RequestFilter::parse(&"x".repeat(LONGEST + 1)).is_err());
    }

    proptest! {
        #[test]
        fn no_filter_panics_and_a_negated_term_is_the_opposite(text in "\\PC{0,60}") {
            let _ = RequestFilter::parse(&text).map(|filter| filter.admits(&record()));
            let opposite = format!("-{text}");
            if !text.contains(char::is_whitespace) && !text.is_empty() && !text.starts_with(['-', '!'])
                && let Ok(filter) = RequestFilter::parse(&text)
                && let Ok(negated) = RequestFilter::parse(&opposite)
            {
                prop_assert_ne!(filter.admits(&record()), negated.admits(&record()));
            }
        }

        #[test]
        fn a_star_stands_for_any_characters(a in "[a-c]{0,4}", b in "[a-c]{0,4}", c in "[a-c]{0,4}") {
            let value = format!("{a}{b}{c}");
            for pattern in [format!("{a}*{c}"), format!("*{b}*"), "*".to_owned(), value.clone()] {
                prop_assert!(matches_pattern(&pattern, &value), "{} {}", pattern, value);
            }
            let longer = format!("{value}x");
            prop_assert!(!matches_pattern(&longer, &value));
        }
    }
}
