//! Fields of a log line, written as JSON without anything in between.

use std::time::Duration;

/// A field's name as it stands in the line: one piece of known length to write.
macro_rules! key {
    ($name:literal) => {
        concat!(",\"", $name, "\":").as_bytes()
    };
}

pub(crate) use key;

/// A value of our own, in which nothing is to be escaped.
pub fn plain(out: &mut Vec<u8>, key: &[u8], value: &str) {
    out.extend_from_slice(key);
    out.push(b'"');
    out.extend_from_slice(value.as_bytes());
    out.push(b'"');
}

pub fn text(out: &mut Vec<u8>, key: &[u8], value: &str) {
    out.extend_from_slice(key);
    string(out, value);
}

pub fn string(out: &mut Vec<u8>, value: &str) {
    out.push(b'"');
    // Without a way out of the loop it is done for many bytes at once.
    let special = |b: u8| b < 0x20 || b == b'"' || b == b'\\';
    if !value.bytes().fold(false, |found, b| found | special(b)) {
        out.extend_from_slice(value.as_bytes());
    } else {
        for byte in value.bytes() {
            match byte {
                b'"' | b'\\' => out.extend_from_slice(&[b'\\', byte]),
                0..=0x1f => out.extend_from_slice(format!("\\u{byte:04x}").as_bytes()),
                _ => out.push(byte),
            }
        }
    }
    out.push(b'"');
}

pub fn number(out: &mut Vec<u8>, key: &[u8], value: u64) {
    out.extend_from_slice(key);
    digits(out, value, 1);
}

/// Milliseconds with three places.
pub fn millis(out: &mut Vec<u8>, key: &[u8], value: Duration) {
    let micros = u64::try_from(value.as_micros()).unwrap_or(u64::MAX);
    number(out, key, micros / 1000);
    out.push(b'.');
    digits(out, micros % 1000, 3);
}

pub fn digits(out: &mut Vec<u8>, mut value: u64, at_least: usize) {
    let mut buffer = [0u8; 20];
    let mut at = buffer.len();
    while value > 0 || buffer.len() - at < at_least {
        at -= 1;
        buffer[at] = b'0' + (value % 10) as u8;
        value /= 10;
    }
    out.extend_from_slice(&buffer[at..]);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn whatever_is_written_is_json(value in ".{0,40}", n in any::<u64>(), micros in 0u64..10_000_000_000) {
            let mut out = b"{\"a\":1".to_vec();
            text(&mut out, key!("text"), &value);
            number(&mut out, key!("n"), n);
            millis(&mut out, key!("ms"), Duration::from_micros(micros));
            out.push(b'}');
            let read: serde_json::Value = serde_json::from_slice(&out).expect("json");
            prop_assert_eq!(read["text"].as_str(), Some(value.as_str()));
            prop_assert_eq!(read["n"].as_u64(), Some(n));
            prop_assert!((read["ms"].as_f64().expect("a number") - micros as f64 / 1e3).abs() < 0.001);
        }
    }
}
