//! The body's `/model`, found without parsing the body.
//!
//! One pass over the bytes up to the wanted key, so that a long prompt after it costs nothing and
//! a body of which only the beginning is known can still be read. Everything that is not plainly
//! a JSON object with that key and a string value is `None`: then nothing is rewritten.

use std::ops::Range;

use crate::json::scan::text;

/// The top-level `model` of a JSON body.
#[derive(Clone, Debug)]
pub struct ModelName {
    pub name: String,
    /// Its value, quotes included.
    pub at: Range<usize>,
}

impl ModelName {
    pub fn find(bytes: &[u8]) -> Option<ModelName> {
        let at = top_level_string(bytes, "model")?;
        let name = text(bytes.get(at.clone())?)?.into_owned();
        Some(ModelName { name, at })
    }
}

/// Where the string value of a top-level key stands, quotes included.
fn top_level_string(text: &[u8], key: &str) -> Option<Range<usize>> {
    let mut scan = Scan { text, at: 0 };
    scan.expect(b'{')?;
    loop {
        let name = scan.string()?;
        scan.expect(b':')?;
        scan.spaces();
        if &text[name.start + 1..name.end - 1] == key.as_bytes() {
            return scan.string();
        }
        scan.skip_value()?;
        scan.expect(b',')?;
    }
}

struct Scan<'a> {
    text: &'a [u8],
    at: usize,
}

impl Scan<'_> {
    fn spaces(&mut self) {
        while matches!(self.text.get(self.at), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    fn expect(&mut self, byte: u8) -> Option<()> {
        self.spaces();
        (self.text.get(self.at) == Some(&byte)).then(|| self.at += 1)
    }

    fn string(&mut self) -> Option<Range<usize>> {
        self.expect(b'"')?;
        let start = self.at - 1;
        loop {
            let rest = &self.text[self.at..];
            let stop = rest.iter().position(|&b| matches!(b, b'"' | b'\\'))?;
            self.at += stop + 1;
            if rest[stop] == b'"' {
                return Some(start..self.at);
            }
            self.text.get(self.at)?;
            self.at += 1;
        }
    }

    fn skip_value(&mut self) -> Option<()> {
        let mut depth = 0usize;
        loop {
            self.spaces();
            match *self.text.get(self.at)? {
                b'"' => {
                    self.string()?;
                }
                b'{' | b'[' => {
                    depth += 1;
                    self.at += 1;
                }
                b'}' | b']' => {
                    depth = depth.checked_sub(1)?;
                    self.at += 1;
                }
                b',' | b':' if depth > 0 => self.at += 1,
                b',' | b':' => return None,
                _ => self.skip_word(),
            }
            if depth == 0 {
                return Some(());
            }
        }
    }

    fn skip_word(&mut self) {
        let rest = &self.text[self.at..];
        let end = |b: &u8| {
            matches!(b, b',' | b':' | b'}' | b']' | b'"' | b'{' | b'[') || b.is_ascii_whitespace()
        };
        self.at += rest.iter().position(end).unwrap_or(rest.len()).max(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::Value;

    fn model(text: &str) -> Option<String> {
        let at = top_level_string(text.as_bytes(), "model")?;
        crate::json::scan::text(&text.as_bytes()[at]).map(String::from)
    }

    #[test]
    fn the_model_is_found_wherever_it_stands_on_the_top_level() {
        assert_eq!(model(r#"{"model":"a"}"#).as_deref(), Some("a"));
        assert_eq!(
            model(r#" { "x" : {"model":"no"}, "y":[1,"]"], "model" : "a\"b" } "#).as_deref(),
            Some("a\"b")
        );
        assert_eq!(
            model(r#"{"n":-1.5e3,"t":true,"model":"a","messages":[{"#).as_deref(),
            Some("a")
        );
    }

    #[test]
    fn what_is_not_plainly_there_is_not_found() {
        for text in [
            "",
            "{",
            "[]",
            "\"model\"",
            r#"{"model":1}"#,
            r#"{"model":"a"#,
            r#"{"a":{"model":"b"}}"#,
            r#"{"a":"b" "model":"c"}"#,
        ] {
            assert_eq!(model(text), None, "{text}");
        }
    }

    fn value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            any::<bool>().prop_map(Value::from),
            any::<i32>().prop_map(Value::from),
            "[a-z\"\\\\{}\\[\\],: ]{0,8}".prop_map(Value::from),
        ];
        leaf.prop_recursive(3, 24, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::vec(("[a-z\"]{0,4}|model", inner), 0..4)
                    .prop_map(|pairs| Value::Object(pairs.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn it_agrees_with_a_whole_parse(value in value(), pretty in any::<bool>()) {
            let text = if pretty { serde_json::to_string_pretty(&value) } else { serde_json::to_string(&value) }.expect("json");
            let expected = value.get("model").and_then(Value::as_str).map(str::to_owned);
            prop_assert_eq!(model(&text), expected);
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(prop::sample::select(b"{}[]\",:\\model1 \n".to_vec()), 0..64)) {
            let _ = top_level_string(&bytes, "model");
        }
    }
}
