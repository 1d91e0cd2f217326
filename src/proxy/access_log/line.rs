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
        self.begin_value(if JSON { key.json } else { key.text });
    }

    #[inline]
    fn begin_value(&mut self, key: &'static str) {
        let is_first = JSON && self.out.last() == Some(&b'{');
        self.out.extend_from_slice(&key.as_bytes()[usize::from(is_first)..]);
    }

    /// A value that needs no escaping.
    #[inline]
    pub fn word(&mut self, key: &RecordKey, value: impl AsRef<[u8]>) {
        self.begin_value(if JSON { key.json_string } else { key.text });
        self.out.extend_from_slice(value.as_ref());
        if JSON {
            self.out.push(b'"');
        }
    }

    #[inline]
    pub fn string(&mut self, key: &RecordKey, value: &str) {
        if JSON {
            self.begin_value(key.json_string);
        } else {
            self.key(key);
            if is_plain(value) {
                self.out.extend_from_slice(value.as_bytes());
                return;
            }
            self.out.push(b'"');
        }
        write_escaped(self.out, value);
        self.out.push(b'"');
    }

    #[inline]
    pub fn number(&mut self, key: &RecordKey, value: u64) {
        self.key(key);
        self.out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
    }

    /// Milliseconds with three decimals.
    #[inline]
    pub fn millis(&mut self, key: &RecordKey, value: Duration) {
        let millis = value.as_secs().saturating_mul(1000) + u64::from(value.subsec_millis());
        self.number(key, millis);
        let micros = value.subsec_micros() % 1000;
        let decimals =
            [micros / 100, micros / 10 % 10, micros % 10].map(|digit| b'0' + digit as u8);
        self.out.push(b'.');
        self.out.extend_from_slice(&decimals);
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

/// Bytes that may need to be escaped in a string.
const MAY_NEED_ESCAPE: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < 256 {
        table[byte] =
            byte < 0x20 || byte == b'"' as usize || byte == b'\\' as usize || byte >= 0x7f;
        byte += 1;
    }
    table
};

/// Writes what is between the quotes of a string.
fn write_escaped(out: &mut Vec<u8>, value: &str) {
    // Most values are short, so that the end of a loop over vectors would cost more than a table.
    if !value.bytes().fold(false, |found, b| found | MAY_NEED_ESCAPE[usize::from(b)]) {
        out.extend_from_slice(value.as_bytes());
        return;
    }
    let mut escaped = String::with_capacity(value.len() + 16);
    for c in value.chars() {
        if matches!(c, '"' | '\\') {
            escaped.push('\\');
        }
        push_escaped(&mut escaped, c);
    }
    out.extend_from_slice(escaped.as_bytes());
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
