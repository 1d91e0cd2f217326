//! Going on from a partial answer: what is asked, and where the second stream really begins.
//!
//! The partial text goes into the request as the last message of the assistant's. A model that goes
//! on from it may first say its end again, or a server all of it; what is said twice is left out.
//! A short repetition may be meant, so that one counts only from four characters on and from the
//! beginning of a word, or when it is the whole. Whitespace at the end is not sent (Anthropic's API
//! refuses it there), and is therefore expected again.

use serde_json::value::RawValue;
use serde_json::{Map, Value};

/// Fewer characters are no repetition.
const CHARS: usize = 4;
/// How far back a repetition is looked for.
const BACK: usize = 2048;

/// Whose way of streaming it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// OpenAI's chat completions.
    Chat,
    /// Anthropic's messages.
    Messages,
}

/// What an answer said until it was cut.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Partial {
    pub dialect: Dialect,
    pub text: String,
}

impl Partial {
    /// The request's body with the text as the last message of the assistant's; `None` where the
    /// answer may not be gone on from: several choices, structure that the text must keep to.
    pub fn request(&self, body: &[u8]) -> Option<Vec<u8>> {
        let mut request: Map<String, Value> = serde_json::from_slice(body).ok()?;
        let several = request.get("n").and_then(Value::as_u64).is_some_and(|n| n > 1);
        let format = request.get("response_format").filter(|format| !format.is_null());
        let structured = format.is_some_and(|format| format["type"] != "text")
            || ["output_config", "output_format"].iter().any(|key| request.contains_key(*key));
        let detailed = request.get("logprobs").is_some_and(|logprobs| *logprobs == true);
        if several || structured || detailed {
            return None;
        }
        let said = self.text.trim_end();
        let messages = request.get_mut("messages")?.as_array_mut()?;
        if said.is_empty() {
            return Some(body.to_vec());
        }
        let last = messages.last_mut().filter(|last| last["role"] == "assistant");
        match last.map(|last| &mut last["content"]) {
            Some(Value::String(begun)) => begun.push_str(said),
            Some(_) => return None,
            None => messages.push(serde_json::json!({ "role": "assistant", "content": said })),
        }
        let messages = serde_json::to_string(messages).ok()?;
        put_messages(body, messages)
    }
}

/// The body with other messages; all else as it was written.
fn put_messages(body: &[u8], messages: String) -> Option<Vec<u8>> {
    let mut raw: indexed::Pairs<'_> = serde_json::from_slice(body).ok()?;
    let messages = RawValue::from_string(messages).ok()?;
    raw.put("messages", &messages);
    serde_json::to_vec(&raw).ok()
}

/// An object's pairs in their order, values as they were written.
mod indexed {
    use std::borrow::Cow;
    use std::fmt;

    use serde::de::{MapAccess, Visitor};
    use serde::ser::SerializeMap;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};
    use serde_json::value::RawValue;

    pub(super) struct Pairs<'a>(Vec<(Cow<'a, str>, Cow<'a, RawValue>)>);

    impl<'a> Pairs<'a> {
        pub(super) fn put(&mut self, key: &str, value: &RawValue) {
            for (_, old) in self.0.iter_mut().filter(|(name, _)| name == key) {
                *old = Cow::Owned(value.to_owned());
            }
        }
    }

    impl<'de: 'a, 'a> Deserialize<'de> for Pairs<'a> {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            struct InOrder;
            impl<'de> Visitor<'de> for InOrder {
                type Value = Pairs<'de>;

                fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                    f.write_str("an object")
                }

                fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Pairs<'de>, A::Error> {
                    let mut pairs = Vec::new();
                    while let Some((key, value)) = map.next_entry::<String, &'de RawValue>()? {
                        pairs.push((Cow::Owned(key), Cow::Borrowed(value)));
                    }
                    Ok(Pairs(pairs))
                }
            }
            deserializer.deserialize_map(InOrder)
        }
    }

    impl Serialize for Pairs<'_> {
        fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            let mut map = serializer.serialize_map(Some(self.0.len()))?;
            for (key, value) in &self.0 {
                map.serialize_entry(key, value)?;
            }
            map.end()
        }
    }
}

/// Finds how much of a text that goes on is a repetition of what was said.
#[derive(Clone, Debug)]
pub struct Overlap {
    said: String,
    /// The new text, as far as it is here.
    new: String,
}

impl Overlap {
    pub fn new(said: &str) -> Self {
        Overlap { said: said.to_owned(), new: String::new() }
    }

    /// Takes in more of the new text: the bytes of it that are repetition, once that is known.
    pub fn push(&mut self, text: &str) -> Option<usize> {
        self.new.push_str(text);
        if self.is_open() { None } else { Some(self.repeated()) }
    }

    /// The new text has ended.
    pub fn end(&self) -> usize {
        self.repeated()
    }

    fn trimmed(&self) -> &str {
        self.said.trim_end()
    }

    /// Could more text make the repetition longer?
    fn is_open(&self) -> bool {
        let (new, trimmed) = (self.new.as_str(), self.trimmed());
        let (space, rest) = (&self.said[trimmed.len()..], &new[common(trimmed, new)..]);
        let space_is_open = rest.len() < space.len() && space.starts_with(rest);
        new.is_empty() || space_is_open || may_grow(&self.said, new) || may_grow(trimmed, new)
    }

    fn repeated(&self) -> usize {
        let (said, trimmed) = (self.said.as_str(), self.trimmed());
        let direct = common(said, &self.new);
        let before_space = common(trimmed, &self.new);
        let space = &said[trimmed.len()..];
        let rest = &self.new[before_space..];
        let again = rest.bytes().zip(space.bytes()).take_while(|(a, b)| a == b).count();
        let again = (0..=again).rev().find(|n| rest.is_char_boundary(*n)).unwrap_or(0);
        direct.max(before_space + again)
    }
}

/// The longest end of `said` that `new` begins with, where that counts as a repetition.
fn common(said: &str, new: &str) -> usize {
    if !said.is_empty() && new.starts_with(said) {
        return said.len();
    }
    let near = near_end(said);
    let most = near.len().min(new.len());
    let counts = |k: &usize| {
        let at = near.len() - k;
        near.is_char_boundary(at)
            && new.is_char_boundary(*k)
            && near[at..] == new[..*k]
            && new[..*k].chars().count() >= CHARS
            && is_word_start(near, at)
    };
    (1..=most).rev().find(counts).unwrap_or(0)
}

/// Some end of what was said, longer than all of the new text, begins with it.
fn may_grow(said: &str, new: &str) -> bool {
    let near = near_end(said);
    let begins = |at: usize| near.is_char_boundary(at) && near[at..].starts_with(new);
    said.len() > new.len() && said.starts_with(new)
        || (0..near.len().saturating_sub(new.len())).any(|at| begins(at) && is_word_start(near, at))
}

fn near_end(said: &str) -> &str {
    let from = said.len().saturating_sub(BACK);
    let from = (from..=said.len()).find(|at| said.is_char_boundary(*at)).unwrap_or(said.len());
    &said[from..]
}

fn is_word_start(text: &str, at: usize) -> bool {
    let before = text[..at].chars().next_back();
    let after = text[at..].chars().next();
    !(before.is_some_and(char::is_alphanumeric) && after.is_some_and(char::is_alphanumeric))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn joined(said: &str, pieces: &[&str]) -> String {
        let mut overlap = Overlap::new(said);
        let mut known = None;
        for piece in pieces {
            match known {
                None => known = overlap.push(piece),
                Some(_) => overlap.new.push_str(piece),
            }
        }
        let repeated = known.unwrap_or_else(|| overlap.end());
        said.to_owned() + &overlap.new[repeated..]
    }

    #[test]
    fn what_is_said_twice_is_left_out() {
        for (said, new, expected) in [
            ("one two three", "three, four", "one two three, four"),
            ("one two three", " four", "one two three four"),
            ("one two ", "three", "one two three"),
            ("one two ", " three", "one two three"),
            ("one two\n\n", "\nthree", "one two\n\nthree"),
            ("one two", "one two three", "one two three"),
            ("one two ", "one two three", "one two three"),
            ("ha ha ", "ha ha", "ha ha "),
            ("the cat", "at home", "the catat home"),
            ("über Größe", "Größe zählt", "über Größe zählt"),
            ("", "new", "new"),
            ("a", "b", "ab"),
        ] {
            assert_eq!(joined(said, &[new]), expected, "{said:?} + {new:?}");
        }
    }

    #[test]
    fn text_is_withheld_only_while_a_longer_repetition_is_possible() {
        let mut overlap = Overlap::new("one two three");
        assert_eq!(overlap.push(" "), None, "` two` may come");
        assert_eq!(overlap.push("four"), Some(0));
        assert_eq!(Overlap::new("one two three").push("four"), Some(0));
        let mut overlap = Overlap::new("one two three");
        assert_eq!(overlap.push("thr"), None);
        assert_eq!(overlap.push("ee, four"), Some(5));
    }

    #[test]
    fn the_request_keeps_all_else_as_it_was() {
        let partial = |text: &str| Partial { dialect: Dialect::Chat, text: text.to_owned() };
        let asked = |text: &str, body: &str| {
            partial(text).request(body.as_bytes()).map(|b| String::from_utf8(b).expect("text"))
        };
        let body = r#"{"model":"m","temperature":1.00,"messages":[{"role":"user","content":"hi"}],"seed":12345678901234567890123}"#;
        assert_eq!(
            asked("so \n", body).as_deref(),
            Some(
                r#"{"model":"m","temperature":1.00,"messages":[{"role":"user","content":"hi"},{"role":"assistant","content":"so"}],"seed":12345678901234567890123}"#
            )
        );
        let begun = r#"{"messages":[{"role":"assistant","content":"Well, "}]}"#;
        assert_eq!(
            asked("so", begun).as_deref(),
            Some(r#"{"messages":[{"role":"assistant","content":"Well, so"}]}"#)
        );
        assert_eq!(asked("  ", body).as_deref(), Some(body));
        for refused in [
            r#"{"messages":[],"n":2}"#,
            r#"{"messages":[],"response_format":{"type":"json_object"}}"#,
            r#"{"messages":[],"logprobs":true}"#,
            r#"{"messages":[],"output_format":{}}"#,
            r#"{"messages":[{"role":"assistant","content":[]}]}"#,
            r#"{"messages":"no"}"#,
            r#"{"prompt":"x"}"#,
            "[]",
            "{",
        ] {
            assert_eq!(asked("so", refused), None, "{refused}");
        }
        assert!(
            asked("so", r#"{"messages":[],"tools":[],"n":1,"response_format":{"type":"text"}}"#)
                .is_some()
        );
    }

    proptest! {
        #[test]
        fn the_joined_text_is_the_same_however_it_is_split(
            said in "([ab]{1,3} ?){0,8}", new in "([ab]{1,3} ?){0,8}",
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..6),
        ) {
            let mut cuts: Vec<_> = cuts.iter().map(|cut| cut.index(new.len() + 1)).collect();
            cuts.extend([0, new.len()]);
            cuts.sort_unstable();
            let pieces: Vec<_> = cuts.windows(2).map(|pair| &new[pair[0]..pair[1]]).collect();
            prop_assert_eq!(joined(&said, &pieces), joined(&said, &[&new]));
        }

        #[test]
        fn an_end_that_is_repeated_is_left_out_whatever_follows(
            before in "[a-z ]{0,30}", end in " [a-z]{4,12}", after in "[A-Z ]{1,20}",
        ) {
            let (said, new) = (format!("{before}{end}"), format!("{end}{after}"));
            prop_assert_eq!(joined(&said, &[&new]), format!("{said}{after}"));
        }
    }
}
