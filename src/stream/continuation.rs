//! Continuation of a partial response: the request for it, and the detection of repeated text.
//!
//! The partial text becomes the last message of the request, with the role `assistant`. A model
//! may repeat the end of that text before it continues, and some servers repeat all of it; the
//! repetition is left out. Because a short repetition may be intended, one counts only if it has at
//! least four characters and starts at a word boundary, or if it is the whole text. Trailing
//! whitespace is not sent (Anthropic's API rejects it) and is therefore expected again.
//!
//! A model that does not know the convention starts its response over. A text that begins like the
//! first one, and then differs from it, is no continuation.

use std::mem::take;

use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

/// Fewest characters of a repetition.
const MIN_CHARS: usize = 4;
/// Longest repetition in bytes, unless the whole text is repeated.
const MAX_REPETITION: usize = 2048;
/// A text that has so many characters in common with the beginning of the first starts it over.
const RESTART_CHARS: usize = 16;
/// So many are enough if they are half of the first text.
const SHORT_RESTART_CHARS: usize = 8;

/// The API whose streams can be continued.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// OpenAI's chat completions.
    Chat,
    /// Anthropic's messages.
    Messages,
}

/// The text of an interrupted response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartialResponse {
    pub dialect: Dialect,
    pub text: String,
}

/// The fields of a request that decide whether its response can be continued.
#[derive(Deserialize)]
struct ChatRequest<'a> {
    #[serde(borrow)]
    messages: &'a RawValue,
    #[serde(default)]
    n: Value,
    #[serde(default)]
    response_format: Value,
    #[serde(default)]
    logprobs: Value,
    #[serde(default)]
    output_config: Value,
    #[serde(default)]
    output_format: Value,
}

#[derive(Deserialize)]
struct ChatMessage<'a> {
    #[serde(default)]
    role: Value,
    #[serde(borrow)]
    content: Option<&'a RawValue>,
}

impl PartialResponse {
    /// Adds the text to the request's body as the last assistant message and leaves everything
    /// else unchanged. `None` if the response cannot be continued: it has several choices or a
    /// required structure, or the last assistant message is not a string.
    pub fn continuation_request(&self, body: &[u8]) -> Option<Vec<u8>> {
        let body = std::str::from_utf8(body).ok()?;
        let request: ChatRequest<'_> = serde_json::from_str(body).ok()?;
        let messages = request.messages.get();
        let all: Vec<&RawValue> = serde_json::from_str(messages).ok()?;
        if !request.is_plain() {
            return None;
        }
        let text = self.text.trim_end();
        if text.is_empty() {
            return Some(body.into());
        }
        let quoted = Value::from(text).to_string();
        let last: Option<ChatMessage<'_>> = match all.last() {
            Some(last) => Some(serde_json::from_str(last.get()).ok()?),
            None => None,
        };
        let (value, insertion) = match last.filter(|last| last.role == "assistant") {
            Some(last) => {
                let content = last.content?.get();
                let insertion = quoted[1..quoted.len() - 1].to_owned();
                content.starts_with('"').then_some((content, insertion))?
            }
            None => {
                let comma = if all.is_empty() { "" } else { "," };
                (messages, format!(r#"{comma}{{"role":"assistant","content":{quoted}}}"#))
            }
        };
        // Before the quote or the bracket that ends the value.
        let at = value.as_ptr() as usize - body.as_ptr() as usize + value.len() - 1;
        Some([&body[..at], &insertion, &body[at..]].concat().into_bytes())
    }
}

impl ChatRequest<'_> {
    /// Whether it requests a single choice of plain text.
    fn is_plain(&self) -> bool {
        let formatted = !self.response_format.is_null() && self.response_format["type"] != "text";
        let one = self.n.is_null() || self.n.as_f64() == Some(1.0);
        one && !formatted
            && self.logprobs != true
            && self.output_config.is_null()
            && self.output_format.is_null()
    }
}

/// Detects how much of a continuation repeats the text before it.
#[derive(Clone, Debug)]
pub struct Overlap {
    text: String,
    /// Its length without trailing whitespace.
    trimmed: usize,
    /// The positions in `text` from which everything new so far is a repetition.
    starts: Vec<usize>,
    /// Length of the new text so far.
    new: usize,
    /// The longest repetition so far.
    repeated: usize,
    restart: Restart,
}

/// Compares the beginnings of the two texts, without the whitespace before them.
#[derive(Clone, Debug, Default)]
struct Restart {
    /// Bytes in common so far.
    common: usize,
    has_begun: bool,
    is_decided: bool,
}

impl Restart {
    fn push(&mut self, first: &str, text: &str) {
        let text = if self.has_begun { text } else { text.trim_start() };
        if self.is_decided || text.is_empty() {
            return;
        }
        self.has_begun = true;
        let left = &first.trim().as_bytes()[self.common..];
        let same = left.iter().zip(text.as_bytes()).take_while(|(a, b)| a == b).count();
        self.common += same;
        self.is_decided = same < text.len() || same == left.len();
    }

    fn is_restart(&self, first: &str) -> bool {
        let first = first.trim();
        let common = first[..first.floor_char_boundary(self.common)].chars().count();
        common >= RESTART_CHARS || common >= SHORT_RESTART_CHARS && self.common * 2 >= first.len()
    }
}

impl Overlap {
    pub fn new(text: &str) -> Self {
        let trimmed = text.trim_end().len();
        let may_count = |at: &usize| is_word_start(text, *at) && is_long(&text[*at..]);
        let near = trimmed.saturating_sub(MAX_REPETITION).max(1)..trimmed;
        let near = near.filter(|at| text.is_char_boundary(*at)).filter(may_count);
        // Also the whole text, and only the whitespace that was not sent.
        let starts = near.chain([0, trimmed]).collect();
        Overlap {
            text: text.to_owned(),
            trimmed,
            starts,
            new: 0,
            repeated: 0,
            restart: Restart::default(),
        }
    }

    /// Takes more of the new text. Returns how many bytes of all new text are a repetition, once
    /// that is known.
    pub fn push(&mut self, text: &str) -> Option<usize> {
        for start in take(&mut self.starts) {
            let left = &self.text.as_bytes()[start + self.new..];
            let same = left.iter().zip(text.as_bytes()).take_while(|(a, b)| a == b).count();
            if same == text.len() && same < left.len() {
                self.starts.push(start);
            } else {
                self.settle(start, self.new + text.floor_char_boundary(same));
            }
        }
        self.new += text.len();
        self.restart.push(&self.text, text);
        (self.starts.is_empty() && self.restart.is_decided).then_some(self.repeated)
    }

    /// Whether the new text starts the response over instead of continuing it; known as soon as the
    /// extent of the repetition is.
    pub fn is_restart(&self) -> bool {
        self.repeated == 0 && self.restart.is_restart(&self.text)
    }

    /// The new text has ended. Returns the length of the repetition.
    pub fn end(&mut self) -> usize {
        for start in take(&mut self.starts) {
            self.settle(start, self.new);
        }
        self.repeated
    }

    /// The text from `start` on is repeated for exactly `length` bytes.
    fn settle(&mut self, start: usize, length: usize) {
        let is_to_the_end = start + length == self.text.len();
        let counts = start == 0
            || start == self.trimmed
            || is_long(&self.text[start..self.trimmed])
            || is_to_the_end && is_long(&self.text[start..]);
        if counts && start + length >= self.trimmed {
            self.repeated = self.repeated.max(length);
        }
    }
}

fn is_long(text: &str) -> bool {
    text.chars().nth(MIN_CHARS - 1).is_some()
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

    fn joined(text: &str, pieces: &[&str]) -> String {
        let mut overlap = Overlap::new(text);
        let known = pieces.iter().find_map(|piece| overlap.push(piece));
        let repeated = known.unwrap_or_else(|| overlap.end());
        text.to_owned() + &pieces.concat()[repeated..]
    }

    /// The rule of the header, implemented by trying each length.
    fn repeated(text: &str, new: &str) -> usize {
        let counts = |text: &str, length: usize| {
            let (at, repetition) = (text.len() - length, &new[..length]);
            text.ends_with(repetition)
                && (at == 0 || repetition.chars().count() >= MIN_CHARS && is_word_start(text, at))
        };
        let longest = |text: &str| {
            let lengths = (1..=text.len().min(new.len())).rev();
            let mut lengths = lengths.filter(|length| new.is_char_boundary(*length));
            lengths.find(|length| counts(text, *length)).unwrap_or(0)
        };
        let trimmed = text.trim_end();
        let (space, before) = (&text[trimmed.len()..], longest(trimmed));
        let repeated_space = space.chars().zip(new[before..].chars()).take_while(|(a, b)| a == b);
        let repeated_space: usize = repeated_space.map(|(c, _)| c.len_utf8()).sum();
        // Whitespace alone is not a repetition, unless it was not sent.
        let direct = longest(text);
        let direct =
            if new[..direct].trim().is_empty() && direct < text.len() { 0 } else { direct };
        direct.max(before + repeated_space)
    }

    #[test]
    fn repeated_text_is_left_out() {
        for (text, new, expected) in [
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
            assert_eq!(joined(text, &[new]), expected, "{text:?} + {new:?}");
        }
    }

    #[test]
    fn a_text_that_starts_over_is_noticed() {
        let is_restart = |text: &str, pieces: &[&str]| {
            let mut overlap = Overlap::new(text);
            let known = pieces.iter().any(|piece| overlap.push(piece).is_some());
            if !known {
                overlap.end();
            }
            overlap.is_restart()
        };
        let text = "Here is a list of the planets:\n1. Mercury\n2. Ven";
        for pieces in [
            &["Here is a list of all planets"][..],
            &["Here", " is a", " list of", " the planets", " and moons"],
            &["\n Here is a list of the stars"],
            &["Here is a list of the"],
        ] {
            assert!(is_restart(text, pieces), "{pieces:?}");
        }
        assert!(is_restart("one two three", &["one two 3"]));
        assert!(is_restart("one two three", &["\none two three four"]), "the echo is not left out");
        for pieces in [
            &["us\n3. Earth"][..],
            &["2. Venus\n3. Earth"],
            &["Here we go"],
            &[text, "us"],
            &["Ven", "us"],
            &[],
        ] {
            assert!(!is_restart(text, pieces), "{pieces:?}");
        }
        assert!(!is_restart("The cat sat. ", &["The dog ran."]));
        assert!(!is_restart("", &["anything at all that is long"]));
    }

    #[test]
    fn text_is_buffered_only_while_a_longer_repetition_is_possible() {
        let mut overlap = Overlap::new("one two three");
        assert_eq!(overlap.push(" "), None, "` two` may follow");
        assert_eq!(overlap.push("four"), Some(0));
        assert_eq!(Overlap::new("one two three").push("four"), Some(0));
        let mut overlap = Overlap::new("one two three");
        assert_eq!(overlap.push("thr"), None);
        assert_eq!(overlap.push("ee, four"), Some(5));
    }

    #[test]
    fn the_rest_of_the_request_is_unchanged() {
        let partial =
            |text: &str| PartialResponse { dialect: Dialect::Chat, text: text.to_owned() };
        let request = |text: &str, body: &str| {
            partial(text)
                .continuation_request(body.as_bytes())
                .map(|b| String::from_utf8(b).expect("text"))
        };
        let body = r#"{"model":"m","temperature":1.00,"messages":[{"role":"user","content":"hi"}],"seed":12345678901234567890123}"#;
        assert_eq!(
            request("so \n", body).as_deref(),
            Some(
                r#"{"model":"m","temperature":1.00,"messages":[{"role":"user","content":"hi"},{"role":"assistant","content":"so"}],"seed":12345678901234567890123}"#
            )
        );
        let with_start =
            r#"{"messages": [{ "content":"Well,\u0020 ", "role":"assistant","n":1e2 } ]}"#;
        assert_eq!(
            request("\"so\"", with_start).as_deref(),
            Some(
                r#"{"messages": [{ "content":"Well,\u0020 \"so\"", "role":"assistant","n":1e2 } ]}"#
            )
        );
        // Found by the fuzz target `continuation`: half of a surrogate pair elsewhere is valid.
        let half = request("so", r#"{"messages":[{"content":"\ud83d"}]}"#);
        assert_eq!(
            half.as_deref(),
            Some(r#"{"messages":[{"content":"\ud83d"},{"role":"assistant","content":"so"}]}"#)
        );
        let empty = request("so", r#"{"messages":[ ]}"#);
        assert_eq!(
            empty.as_deref(),
            Some(r#"{"messages":[ {"role":"assistant","content":"so"}]}"#)
        );
        assert_eq!(request("  ", body).as_deref(), Some(body));
        for body in [
            r#"{"messages":[],"n":2}"#,
            r#"{"messages":[],"response_format":{"type":"json_object"}}"#,
            r#"{"messages":[],"logprobs":true}"#,
            r#"{"messages":[],"output_format":{}}"#,
            r#"{"messages":[{"role":"assistant","content":[]}]}"#,
            r#"{"messages":[{"role":"assistant","content":null,"tool_calls":[]}]}"#,
            r#"{"messages":[7]}"#,
            r#"{"messages":"no"}"#,
            r#"{"messages":[],"messages":[]}"#,
            r#"{"prompt":"x"}"#,
            "[]",
            "{",
        ] {
            assert_eq!(request("so", body), None, "{body}");
        }
        assert!(
            request("so", r#"{"messages":[],"tools":[],"n":1,"response_format":{"type":"text"}}"#)
                .is_some()
        );
    }

    proptest! {
        #[test]
        fn the_repetition_follows_the_rule_however_the_text_is_split(
            text in "([abü]{1,3}[ \u{2002}\u{2003}]{0,2}){0,8}", again in 0usize..24, less in 0usize..5,
            new in "[ \u{2002}\u{2003}]?([abü]{1,3} {0,2}){0,8}",
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..6),
        ) {
            // The new text often begins with the end of the old one, or nearly.
            let back = |bytes: usize| text.floor_char_boundary(text.len().saturating_sub(bytes));
            let again = text.get(back(again)..back(less)).unwrap_or_default();
            let new = format!("{again}{new}");
            let at = |cut: &prop::sample::Index| new.floor_char_boundary(cut.index(new.len() + 1));
            let mut cuts: Vec<_> = cuts.iter().map(at).collect();
            cuts.extend([0, new.len()]);
            cuts.sort_unstable();
            let pieces: Vec<_> = cuts.windows(2).map(|pair| &new[pair[0]..pair[1]]).collect();
            let expected = text.clone() + &new[repeated(&text, &new)..];
            prop_assert_eq!(joined(&text, &pieces), expected);
        }

        #[test]
        fn a_repetition_of_the_whole_text_is_left_out(text in ".{0,12}", after in "[a-z]{0,6}") {
            let new = format!("{text}{after}");
            prop_assert_eq!(joined(&text, &[&new]), new);
        }

        #[test]
        fn a_continuation_request_differs_only_in_the_last_message(
            text in ".{1,12}", model in ".{0,4}", content in ".{0,4}",
        ) {
            let mut body = serde_json::json!({
                "model": model, "messages": [{ "role": "user", "content": content }], "n": 1,
            });
            let partial = PartialResponse { dialect: Dialect::Chat, text: text.clone() };
            let request = partial.continuation_request(body.to_string().as_bytes());
            let request: Value = serde_json::from_slice(&request.expect("a request")).expect("JSON");
            let text = text.trim_end();
            if !text.is_empty() {
                let messages = body["messages"].as_array_mut().expect("messages");
                messages.push(serde_json::json!({ "role": "assistant", "content": text }));
            }
            prop_assert_eq!(request, body);
        }

        #[test]
        fn a_repeated_end_is_left_out_before_any_text(
            before in "[a-z ]{0,30}", end in " [a-z]{4,12}", after in "[A-Z ]{1,20}",
        ) {
            let (text, new) = (format!("{before}{end}"), format!("{end}{after}"));
            prop_assert_eq!(joined(&text, &[&new]), format!("{text}{after}"));
        }
    }
}
