//! Canonical JSON: equal content has equal text.
//!
//! Keys are sorted, whitespace is dropped and strings have one spelling. Numbers stay as written,
//! because a reader may distinguish `1.0` from `1`; equal keys stay, in their order.

use std::borrow::Cow;

use super::cursor::{Cursor, JsonError, MAX_DEPTH};
use super::value;

/// The canonical text of a JSON document; `None` when it is not JSON or nested too deep.
pub fn canonicalize(text: &[u8]) -> Option<Vec<u8>> {
    std::str::from_utf8(text).ok()?;
    let mut cursor = Cursor::new(text);
    let mut out = Vec::with_capacity(text.len());
    write_value(&mut cursor, MAX_DEPTH, &mut out).ok()?;
    cursor.end().ok()?;
    Some(out)
}

fn write_value(cursor: &mut Cursor<'_>, depth: usize, out: &mut Vec<u8>) -> Result<(), JsonError> {
    cursor.skip_whitespace();
    let start = cursor.at;
    match cursor.peek()? {
        b'{' => write_object(cursor, depth.checked_sub(1).ok_or(JsonError)?, out),
        b'[' => write_array(cursor, depth.checked_sub(1).ok_or(JsonError)?, out),
        b'"' => {
            cursor.string()?;
            write_string(&string_text(&cursor.text[start..cursor.at])?, out)
        }
        _ => {
            cursor.scalar()?;
            out.extend_from_slice(&cursor.text[start..cursor.at]);
            Ok(())
        }
    }
}

fn write_array(cursor: &mut Cursor<'_>, depth: usize, out: &mut Vec<u8>) -> Result<(), JsonError> {
    out.push(b'[');
    let mut more = cursor.enter(b']')?;
    while more {
        write_value(cursor, depth, out)?;
        more = cursor.next_element(b']')?;
        if more {
            out.push(b',');
        }
    }
    out.push(b']');
    Ok(())
}

fn write_object(cursor: &mut Cursor<'_>, depth: usize, out: &mut Vec<u8>) -> Result<(), JsonError> {
    let mut members: Vec<(Cow<'_, str>, Vec<u8>)> = Vec::new();
    let mut more = cursor.enter(b'}')?;
    while more {
        let key = cursor.key()?;
        let mut value = Vec::new();
        write_value(cursor, depth, &mut value)?;
        members.push((string_text(&cursor.text[key.range])?, value));
        more = cursor.next_element(b'}')?;
    }
    members.sort_by(|(one, _), (other, _)| one.cmp(other));
    out.push(b'{');
    for (i, (name, value)) in members.iter().enumerate() {
        if i > 0 {
            out.push(b',');
        }
        write_string(name, out)?;
        out.push(b':');
        out.extend_from_slice(value);
    }
    out.push(b'}');
    Ok(())
}

fn string_text(string: &[u8]) -> Result<Cow<'_, str>, JsonError> {
    value::text(string).ok_or(JsonError)
}

fn write_string(text: &str, out: &mut Vec<u8>) -> Result<(), JsonError> {
    serde_json::to_writer(out, text).map_err(|_| JsonError)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::Value;

    fn canonical(text: &str) -> Option<String> {
        canonicalize(text.as_bytes()).map(|bytes| String::from_utf8(bytes).expect("text"))
    }

    #[test]
    fn equal_content_has_equal_text() {
        let written = " { \"b\" : [ 1 , 1.0, 1e2 ,{}] ,\n\"a\":\"\\u0041\\n\\/\" } ";
        assert_eq!(canonical(written).as_deref(), Some(r#"{"a":"A\n/","b":[1,1.0,1e2,{}]}"#));
        assert_eq!(canonical("\"\\\\\""), Some("\"\\\\\"".to_owned()));
    }

    #[test]
    fn a_text_that_is_not_json_has_no_canonical_text() {
        let deep = "[".repeat(500) + &"]".repeat(500);
        for text in ["", "{", "{\"a\":1,}", "[1]x", "\"\\ud800\"", "01", &deep] {
            assert_eq!(canonical(text), None, "{text}");
        }
        assert_eq!(canonicalize(b"\"\xff\""), None);
    }

    #[test]
    fn equal_keys_stay_in_their_order() {
        assert_ne!(canonical(r#"{"a":1,"a":2}"#), canonical(r#"{"a":2,"a":1}"#));
    }

    fn documents() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<String>().prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 32, 5, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
                prop::collection::vec((any::<String>(), inner), 0..5)
                    .prop_map(|members| Value::Object(members.into_iter().collect())),
            ]
        })
    }

    /// The same document with its keys in another order.
    fn reordered(value: &Value) -> Value {
        match value {
            Value::Array(items) => items.iter().map(reordered).collect(),
            Value::Object(members) => {
                let reordered =
                    members.iter().rev().map(|(name, value)| (name.clone(), reordered(value)));
                Value::Object(reordered.collect())
            }
            other => other.clone(),
        }
    }

    proptest! {
        #[test]
        fn texts_are_equal_if_documents_differ_only_in_key_order_and_whitespace(
            one in documents(), other in documents()
        ) {
            let text = canonical(&one.to_string()).expect("JSON");
            let again: Value = serde_json::from_str(&text).expect("JSON");
            prop_assert_eq!(&again, &one);
            let pretty = format!("{:#}", reordered(&one));
            prop_assert_eq!(canonical(&pretty), Some(text.clone()));
            prop_assert_eq!(canonical(&other.to_string()) == Some(text), one == other);
        }

        #[test]
        fn a_text_is_accepted_exactly_if_serde_json_reads_it(
            text in "[\\[\\]{}:,\"\\\\a-fu0-9 .eE+\\-\u{1}\nü]{0,12}",
        ) {
            let is_text = |value: &serde_json::value::RawValue| !value.get().contains("\\ud");
            let theirs = serde_json::from_str::<&serde_json::value::RawValue>(&text);
            prop_assume!(theirs.as_ref().map_or(true, |value| is_text(value)));
            prop_assert_eq!(canonicalize(text.as_bytes()).is_some(), theirs.is_ok());
        }

        #[test]
        fn no_input_causes_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let _ = canonicalize(&bytes);
        }
    }
}
