//! Writes the fields of an access record into a log line, in JSON or as text.

use std::io::Write as _;
use std::time::Duration;

use super::keys::{self, RecordKey};
use crate::telemetry::escape::{is_unsafe, push_escaped};

/// A line of the access log: JSON or text. The format is a parameter of the type, so that each
/// key is a constant piece to write.
#[derive(Debug)]
pub struct LogLine<'a, const JSON: bool> {
    out: &'a mut Vec<u8>,
}

impl<'a, const JSON: bool> LogLine<'a, JSON> {
    /// Begins a record with its time.
    pub fn begin(out: &'a mut Vec<u8>, time: &[u8]) -> Self {
        if JSON {
            out.push(b'{');
        }
        let mut line = LogLine { out };
        if JSON {
            line.word(&keys::TIME, time);
        } else {
            line.out.extend_from_slice(time);
        }
        line
    }

    pub fn end(self) {
        if JSON {
            self.out.push(b'}');
        }
    }

    #[inline]
    fn key(&mut self, key: &RecordKey) {
        if !JSON {
            self.out.extend_from_slice(key.text.as_bytes());
        } else if self.out.last() == Some(&b'{') {
            self.out.extend_from_slice(&key.json.as_bytes()[1..]);
        } else {
            self.out.extend_from_slice(key.json.as_bytes());
        }
    }

    /// A value that needs no escaping.
    #[inline]
    pub fn word(&mut self, key: &RecordKey, value: impl AsRef<[u8]>) {
        self.key(key);
        if JSON {
            self.out.push(b'"');
        }
        self.out.extend_from_slice(value.as_ref());
        if JSON {
            self.out.push(b'"');
        }
    }

    #[inline]
    pub fn string(&mut self, key: &RecordKey, value: &str) {
        self.key(key);
        if !JSON && is_plain(value) {
            self.out.extend_from_slice(value.as_bytes());
        } else {
            write_string(self.out, value);
        }
    }

    #[inline]
    pub fn number(&mut self, key: &RecordKey, value: u64) {
        self.key(key);
        let mut number = Digits::default();
        number.push_integer(value);
        self.out.extend_from_slice(number.text());
    }

    /// Milliseconds with three decimals.
    #[inline]
    pub fn millis(&mut self, key: &RecordKey, value: Duration) {
        self.key(key);
        let millis = value.as_secs().saturating_mul(1000) + u64::from(value.subsec_millis());
        let micros = value.subsec_micros() % 1000;
        let mut number = Digits::default();
        (0..3).fold(micros, |left, _| number.push_digit(left));
        number.push(b'.');
        number.push_integer(millis);
        self.out.extend_from_slice(number.text());
    }

    pub fn decimal(&mut self, key: &RecordKey, value: f64, places: usize) {
        self.key(key);
        let _ = write!(self.out, "{value:.places$}");
    }

    /// `true`.
    pub fn flag(&mut self, key: &RecordKey) {
        self.key(key);
        self.out.extend_from_slice(b"true");
    }

    /// A list of objects; in the text format the fields of one after the other.
    pub fn list<T>(&mut self, key: &RecordKey, items: &[T], mut write: impl FnMut(&mut Self, &T)) {
        if !JSON {
            return items.iter().for_each(|item| write(self, item));
        }
        self.key(key);
        self.out.push(b'[');
        for (index, item) in items.iter().enumerate() {
            self.out.extend_from_slice(if index == 0 { b"{" } else { b",{" });
            write(self, item);
            self.out.push(b'}');
        }
        self.out.push(b']');
    }
}

/// Whether the text format needs no quotes for a value.
fn is_plain(value: &str) -> bool {
    let is_plain_byte = |b: u8| b > b' ' && b != b'"' && b < 0x7f;
    let is_plain_char = |c: char| c > ' ' && c != '"' && !is_unsafe(c);
    !value.is_empty() && (value.bytes().all(is_plain_byte) || value.chars().all(is_plain_char))
}

fn write_string(out: &mut Vec<u8>, value: &str) {
    out.push(b'"');
    let may_need_escape = |b: u8| b < 0x20 || b == b'"' || b == b'\\' || b >= 0x7f;
    // A fold without an early exit is vectorized.
    if !value.bytes().fold(false, |found, b| found | may_need_escape(b)) {
        out.extend_from_slice(value.as_bytes());
    } else {
        let mut escaped = String::with_capacity(value.len() + 16);
        for c in value.chars() {
            if matches!(c, '"' | '\\') {
                escaped.push('\\');
            }
            push_escaped(&mut escaped, c);
        }
        out.extend_from_slice(escaped.as_bytes());
    }
    out.push(b'"');
}

/// A number, written from its last digit to its first.
struct Digits {
    buffer: [u8; Digits::MOST],
    start: usize,
}

impl Digits {
    /// The digits of a `u64`, a point and three decimals.
    const MOST: usize = 24;

    fn push(&mut self, byte: u8) {
        self.start -= 1;
        self.buffer[self.start] = byte;
    }

    /// Writes the last digit; returns the number without it.
    fn push_digit(&mut self, value: u32) -> u32 {
        self.push(b'0' + (value % 10) as u8);
        value / 10
    }

    fn push_integer(&mut self, mut value: u64) {
        while value > u64::from(u32::MAX) {
            self.push(b'0' + (value % 10) as u8);
            value /= 10;
        }
        let mut left = self.push_digit(value as u32);
        while left > 0 {
            left = self.push_digit(left);
        }
    }

    fn text(&self) -> &[u8] {
        &self.buffer[self.start..]
    }
}

impl Default for Digits {
    fn default() -> Self {
        Digits { buffer: [0; Digits::MOST], start: Digits::MOST }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_text_format_quotes_values_that_would_break_a_line_apart() {
        let mut out = Vec::new();
        let mut line = LogLine::<false>::begin(&mut out, b"T");
        line.string(&keys::PATH, "/a");
        line.list(&keys::ATTEMPTS, &["reset by \"peer\""], |line, error| {
            line.string(&keys::ERROR, error);
        });
        line.end();
        assert_eq!(
            String::from_utf8_lossy(&out),
            "T path=/a attempt.error=\"reset by \\\"peer\\\"\""
        );
    }

    #[test]
    fn neither_format_has_raw_controls_or_bidirectional_marks() {
        let value = "a\u{1b}\u{7f}\u{85}\u{9b}\u{202e}\u{2066}\u{200f}\u{61c}é";
        let escaped = "\"a\\u001b\\u007f\\u0085\\u009b\\u202e\\u2066\\u200f\\u061cé\"";
        let (mut text, mut json) = (Vec::new(), Vec::new());
        LogLine::<false>::begin(&mut text, b"T").string(&keys::PATH, value);
        LogLine::<true>::begin(&mut json, b"T").string(&keys::PATH, value);
        assert_eq!(String::from_utf8_lossy(&text), format!("T path={escaped}"));
        assert_eq!(String::from_utf8_lossy(&json), format!("{{\"time\":\"T\",\"path\":{escaped}"));
        let mut plain = Vec::new();
        LogLine::<false>::begin(&mut plain, b"T").string(&keys::PATH, "/caf\u{e9}");
        assert_eq!(String::from_utf8_lossy(&plain), "T path=/café");
    }

    proptest! {
        #[test]
        fn every_line_is_json(value in "(?s).{0,40}", n in any::<u64>(), micros in 0u64..10_000_000_000) {
            let mut out = Vec::new();
            let mut line = LogLine::<true>::begin(&mut out, b"T");
            line.string(&keys::PATH, &value);
            line.list(&keys::ATTEMPTS, &[n, n], |line, n| line.number(&keys::ATTEMPT_STATUS, *n));
            line.millis(&keys::DURATION, Duration::from_micros(micros));
            line.end();
            let read: serde_json::Value = serde_json::from_slice(&out).expect("json");
            prop_assert_eq!(read["time"].as_str(), Some("T"));
            prop_assert_eq!(read["path"].as_str(), Some(value.as_str()));
            prop_assert_eq!(read["attempts"][1]["status"].as_u64(), Some(n));
            let millis = read["duration_ms"].as_f64().expect("a number");
            prop_assert!((millis - micros as f64 / 1e3).abs() < 0.001);
        }
    }
}
