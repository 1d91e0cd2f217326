//! JSON as what it says and not how it is written: keys in order, no whitespace, strings in one
//! spelling. Numbers stay as written (`1.0` may mean another thing than `1` to who reads it), and so
//! do keys that come twice, one after the other.

use std::borrow::Cow;

use serde::de::IgnoredAny;

/// What is nested deeper stays as it is written.
const DEEPEST: usize = 128;

/// The canonical text of a JSON document; `None` where it is none, or too deep.
pub fn json(bytes: &[u8]) -> Option<Vec<u8>> {
    // It sees to the grammar, and to nothing else.
    serde_json::from_slice::<IgnoredAny>(bytes).ok()?;
    let mut scan = Scan { bytes, at: 0, depth: 0 };
    let mut out = Vec::with_capacity(bytes.len());
    scan.value(&mut out)?;
    Some(out)
}

/// Goes over what is known to be JSON.
struct Scan<'a> {
    bytes: &'a [u8],
    at: usize,
    depth: usize,
}

impl<'a> Scan<'a> {
    fn peek(&mut self) -> Option<u8> {
        while self.bytes.get(self.at).is_some_and(|b| matches!(b, b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
        self.bytes.get(self.at).copied()
    }

    fn value(&mut self, out: &mut Vec<u8>) -> Option<()> {
        match self.peek()? {
            b'{' | b'[' if self.depth == DEEPEST => None,
            opening @ (b'{' | b'[') => {
                self.depth += 1;
                if opening == b'{' {
                    self.object(out)?
                } else {
                    self.array(out)?
                }
                self.depth -= 1;
                Some(())
            }
            b'"' => {
                let text = self.string()?;
                write(out, &text)
            }
            _ => {
                let rest = self.bytes.get(self.at..)?;
                let ends = |b: &u8| matches!(b, b',' | b']' | b'}' | b' ' | b'\t' | b'\n' | b'\r');
                let length = rest.iter().position(ends).unwrap_or(rest.len());
                out.extend_from_slice(&rest[..length]);
                self.at += length;
                Some(())
            }
        }
    }

    fn array(&mut self, out: &mut Vec<u8>) -> Option<()> {
        self.at += 1;
        out.push(b'[');
        loop {
            match self.peek()? {
                b']' => break,
                b',' => {
                    self.at += 1;
                    out.push(b',');
                }
                _ => self.value(out)?,
            }
        }
        self.at += 1;
        out.push(b']');
        Some(())
    }

    fn object(&mut self, out: &mut Vec<u8>) -> Option<()> {
        self.at += 1;
        let mut members: Vec<(Cow<'a, str>, Vec<u8>)> = Vec::new();
        loop {
            match self.peek()? {
                b'}' => break,
                b',' => self.at += 1,
                _ => {
                    let name = self.string()?;
                    self.peek().filter(|b| *b == b':')?;
                    self.at += 1;
                    let mut value = Vec::new();
                    self.value(&mut value)?;
                    members.push((name, value));
                }
            }
        }
        self.at += 1;
        members.sort_by(|(one, _), (other, _)| one.cmp(other));
        out.push(b'{');
        for (i, (name, value)) in members.iter().enumerate() {
            if i > 0 {
                out.push(b',');
            }
            write(out, name)?;
            out.push(b':');
            out.extend_from_slice(value);
        }
        out.push(b'}');
        Some(())
    }

    fn string(&mut self) -> Option<Cow<'a, str>> {
        let start = self.at;
        let rest = self.bytes.get(start + 1..)?;
        let mut escaped = false;
        let ends = |b: &u8| {
            let end = *b == b'"' && !escaped;
            escaped = *b == b'\\' && !escaped;
            end
        };
        let length = rest.iter().position(ends)? + 2;
        self.at += length;
        let text = self.bytes.get(start..start + length)?;
        match text.contains(&b'\\') {
            true => serde_json::from_slice::<String>(text).ok().map(Cow::Owned),
            false => std::str::from_utf8(&text[1..length - 1]).ok().map(Cow::Borrowed),
        }
    }
}

fn write(out: &mut Vec<u8>, text: &str) -> Option<()> {
    serde_json::to_writer(out, text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::Value;

    fn canonical(text: &str) -> Option<String> {
        json(text.as_bytes()).map(|bytes| String::from_utf8(bytes).expect("text"))
    }

    #[test]
    fn what_says_the_same_is_the_same() {
        let written = " { \"b\" : [ 1 , 1.0, 1e2 ,{}] ,\n\"a\":\"\\u0041\\n\\/\" } ";
        assert_eq!(canonical(written).as_deref(), Some(r#"{"a":"A\n/","b":[1,1.0,1e2,{}]}"#));
        assert_eq!(canonical("\"\\\\\""), Some("\"\\\\\"".to_owned()));
    }

    #[test]
    fn what_is_no_json_has_no_canonical_text() {
        let deep = "[".repeat(500) + &"]".repeat(500);
        for text in ["", "{", "{\"a\":1,}", "[1]x", "\"\\ud800\"", "01", &deep] {
            assert_eq!(canonical(text), None, "{text}");
        }
        assert_eq!(json(b"\"\xff\""), None);
    }

    #[test]
    fn keys_that_come_twice_stay_in_their_order() {
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

    /// The same, its keys in another order.
    fn turned(value: &Value) -> Value {
        match value {
            Value::Array(items) => items.iter().map(turned).collect(),
            Value::Object(members) => {
                let turned =
                    members.iter().rev().map(|(name, value)| (name.clone(), turned(value)));
                Value::Object(turned.collect())
            }
            other => other.clone(),
        }
    }

    proptest! {
        #[test]
        fn order_and_whitespace_do_not_count_and_all_else_does(
            one in documents(), other in documents()
        ) {
            let text = canonical(&one.to_string()).expect("JSON");
            let again: Value = serde_json::from_str(&text).expect("JSON");
            prop_assert_eq!(&again, &one);
            let pretty = format!("{:#}", turned(&one));
            prop_assert_eq!(canonical(&pretty), Some(text.clone()));
            prop_assert_eq!(canonical(&other.to_string()) == Some(text), one == other);
        }

        #[test]
        fn whatever_comes_is_read_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let _ = json(&bytes);
        }
    }
}
