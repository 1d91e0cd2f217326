//! Credentials in the query of a request target.
//!
//! Names are compared as a server reads them: percent-decoded, in any case. Pairs end at `&`, and at
//! `;` as some servers read them.

use std::borrow::Cow;

use super::{names, values};

const SEPARATORS: [char; 2] = ['&', ';'];

/// Whether a query holds a credential.
pub fn holds_credential(query: &str) -> bool {
    query.split(SEPARATORS).any(is_credential)
}

/// The query without its credentials; `None` if it has none.
pub fn without_credentials(query: &str) -> Option<String> {
    if !holds_credential(query) {
        return None;
    }
    let mut kept = String::with_capacity(query.len());
    for pair in query.split_inclusive(SEPARATORS) {
        let (text, separator) = match pair.strip_suffix(SEPARATORS) {
            Some(text) => (text, &pair[text.len()..]),
            None => (pair, ""),
        };
        if !is_credential(text) {
            kept.push_str(text);
            kept.push_str(separator);
        }
    }
    if kept.ends_with(SEPARATORS) && !query.ends_with(SEPARATORS) {
        kept.pop();
    }
    Some(kept)
}

/// A request target without the credentials in its query; the target itself if it has none.
pub fn target_without_credentials(target: &str) -> Cow<'_, str> {
    let Some((path, query)) = target.split_once('?') else { return Cow::Borrowed(target) };
    match without_credentials(query) {
        None => Cow::Borrowed(target),
        Some(kept) if kept.is_empty() => Cow::Borrowed(path),
        Some(kept) => Cow::Owned(format!("{path}?{kept}")),
    }
}

/// The credentials of a query: each with its name, decoded and in lower case, and its value.
pub fn credentials(query: &str) -> impl Iterator<Item = (Vec<u8>, &str)> {
    query.split(SEPARATORS).filter(|pair| is_credential(pair)).map(|pair| {
        let (name, value) = pair.split_once('=').unwrap_or(("", pair));
        (decode(name).to_ascii_lowercase(), value)
    })
}

/// Whether a pair holds a credential. A name without a value holds none, unless it is one itself.
fn is_credential(pair: &str) -> bool {
    match pair.split_once('=') {
        Some((name, value)) => {
            names::is_parameter(&decode(name)) || values::is_credential(&decode(value))
        }
        None => values::is_credential(&decode(pair)),
    }
}

/// Decodes percent-encoding and `+`, as HTML forms encode.
fn decode(text: &str) -> Cow<'_, [u8]> {
    let bytes = text.as_bytes();
    if !bytes.iter().any(|byte| matches!(byte, b'%' | b'+')) {
        return Cow::Borrowed(bytes);
    }
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    while let [first, after @ ..] = rest {
        let (byte, after) = match (first, after) {
            (b'%', [high, low, after @ ..]) => match (hex(*high), hex(*low)) {
                (Some(high), Some(low)) => (high << 4 | low, after),
                _ => (b'%', &rest[1..]),
            },
            (b'+', after) => (b' ', after),
            (byte, after) => (*byte, after),
        };
        decoded.push(byte);
        rest = after;
    }
    Cow::Owned(decoded)
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|digit| u8::try_from(digit).ok())
}
