//! Going on from a partial answer: what is asked, and how much of what comes is said already.
//!
//! The partial text goes into the request as the last message of the assistant's. A model that goes
//! on from it may first say its end again, or a server all of it; what is said twice is left out.
//! A short repetition may be meant, so that one counts only from four characters on and from the
//! beginning of a word, or when it is the whole. Whitespace at the end is not sent (Anthropic's API
//! refuses it there), and is therefore expected again.

use std::mem::take;

use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

/// Fewer characters are no repetition.
const CHARS: usize = 4;
/// Bytes from the end within which a repetition begins, unless it is the whole.
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
pub struct PartialResponse {
    pub dialect: Dialect,
    pub text: String,
}

/// What of a request decides whether its answer may be gone on from.
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
    /// The request's body with the text as the last message of the assistant's, and all else as it
    /// was written; `None` where the answer may not be gone on from: several choices, structure
    /// that the text must keep to, a last message of the assistant's that is no string.
    pub fn continuation_request(&self, body: &[u8]) -> Option<Vec<u8>> {
        let body = std::str::from_utf8(body).ok()?;
        let request: ChatRequest<'_> = serde_json::from_str(body).ok()?;
        let messages = request.messages.get();
        let all: Vec<&RawValue> = serde_json::from_str(messages).ok()?;
        if !request.is_plain() {
            return None;
        }
        let said = self.text.trim_end();
        if said.is_empty() {
            return Some(body.into());
        }
        let quoted = Value::from(said).to_string();
        let last: Option<ChatMessage<'_>> = match all.last() {
            Some(last) => Some(serde_json::from_str(last.get()).ok()?),
            None => None,
        };
        let (within, more) = match last.filter(|last| last.role == "assistant") {
            Some(last) => {
                let begun = last.content?.get();
                begun.starts_with('"').then_some((begun, quoted[1..quoted.len() - 1].to_owned()))?
            }
            None => {
                let comma = if all.is_empty() { "" } else { "," };
                (messages, format!(r#"{comma}{{"role":"assistant","content":{quoted}}}"#))
            }
        };
        // Before the quote, or the bracket, that ends it.
        let at = within.as_ptr() as usize - body.as_ptr() as usize + within.len() - 1;
        Some([&body[..at], &more, &body[at..]].concat().into_bytes())
    }
}

impl ChatRequest<'_> {
    /// It asks for one answer that is text.
    fn is_plain(&self) -> bool {
        let formatted = !self.response_format.is_null() && self.response_format["type"] != "text";
        let one = self.n.is_null() || self.n.as_f64() == Some(1.0);
        one && !formatted
            && self.logprobs != true
            && self.output_config.is_null()
            && self.output_format.is_null()
    }
}

/// Finds how much of a text that goes on is a repetition of what was said.
#[derive(Clone, Debug)]
pub struct Overlap {
    said: String,
    /// Without the whitespace at its end.
    trimmed: usize,
    /// Where in `said` a repetition may have begun that may still go on.
    starts: Vec<usize>,
    /// Bytes of the new text so far.
    new: usize,
    /// The longest repetition found so far.
    repeated: usize,
}

impl Overlap {
    pub fn new(said: &str) -> Self {
        let trimmed = said.trim_end().len();
        let may_count =
            |at: &usize| is_word_start(said, *at) && said[*at..].chars().nth(CHARS - 1).is_some();
        let near = trimmed.saturating_sub(BACK).max(1)..trimmed;
        let near = near.filter(|at| said.is_char_boundary(*at)).filter(may_count);
        // The whole, and nothing but the whitespace that was not sent.
        let starts = near.chain([0, trimmed]).collect();
        Overlap { said: said.to_owned(), trimmed, starts, new: 0, repeated: 0 }
    }

    /// Takes in more of the new text: how many bytes of all of it are repetition, once that is
    /// known.
    pub fn push(&mut self, text: &str) -> Option<usize> {
        for start in take(&mut self.starts) {
            let left = &self.said.as_bytes()[start + self.new..];
            let same = left.iter().zip(text.as_bytes()).take_while(|(a, b)| a == b).count();
            if same == text.len() && same < left.len() {
                self.starts.push(start);
            } else {
                self.settle(start, self.new + text.floor_char_boundary(same));
            }
        }
        self.new += text.len();
        self.starts.is_empty().then_some(self.repeated)
    }

    /// The new text has ended.
    pub fn end(&mut self) -> usize {
        for start in take(&mut self.starts) {
            self.settle(start, self.new);
        }
        self.repeated
    }

    /// So much of what was said from `start` on is said again, and no more.
    fn settle(&mut self, start: usize, length: usize) {
        let enough = |text: &str| text.chars().nth(CHARS - 1).is_some();
        let to_the_end = start + length == self.said.len();
        let counts = start == 0
            || start == self.trimmed
            || enough(&self.said[start..self.trimmed])
            || to_the_end && enough(&self.said[start..]);
        if counts && start + length >= self.trimmed {
            self.repeated = self.repeated.max(length);
        }
    }
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
        let known = pieces.iter().find_map(|piece| overlap.push(piece));
        let repeated = known.unwrap_or_else(|| overlap.end());
        said.to_owned() + &pieces.concat()[repeated..]
    }

    /// What the header says, found by trying each length.
    fn repeated(said: &str, new: &str) -> usize {
        let counts = |said: &str, length: usize| {
            let (at, again) = (said.len() - length, &new[..length]);
            said.ends_with(again)
                && (at == 0 || again.chars().count() >= CHARS && is_word_start(said, at))
        };
        let longest = |said: &str| {
            let lengths = (1..=said.len().min(new.len())).rev();
            let mut lengths = lengths.filter(|length| new.is_char_boundary(*length));
            lengths.find(|length| counts(said, *length)).unwrap_or(0)
        };
        let trimmed = said.trim_end();
        let (space, before) = (&said[trimmed.len()..], longest(trimmed));
        let mut again = space.chars().zip(new[before..].chars()).take_while(|(a, b)| a == b);
        let again: usize = again.by_ref().map(|(c, _)| c.len_utf8()).sum();
        // Whitespace alone is no repetition, but for what was not sent.
        let direct = longest(said);
        let direct =
            if new[..direct].trim().is_empty() && direct < said.len() { 0 } else { direct };
        direct.max(before + again)
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
        let partial =
            |text: &str| PartialResponse { dialect: Dialect::Chat, text: text.to_owned() };
        let asked = |text: &str, body: &str| {
            partial(text)
                .continuation_request(body.as_bytes())
                .map(|b| String::from_utf8(b).expect("text"))
        };
        let body = r#"{"model":"m","temperature":1.00,"messages":[{"role":"user","content":"hi"}],"seed":12345678901234567890123}"#;
        assert_eq!(
            asked("so \n", body).as_deref(),
            Some(
                r#"{"model":"m","temperature":1.00,"messages":[{"role":"user","content":"hi"},{"role":"assistant","content":"so"}],"seed":12345678901234567890123}"#
            )
        );
        let begun = r#"{"messages": [{ "content":"Well,\u0020 ", "role":"assistant","n":1e2 } ]}"#;
        assert_eq!(
            asked("\"so\"", begun).as_deref(),
            Some(
                r#"{"messages": [{ "content":"Well,\u0020 \"so\"", "role":"assistant","n":1e2 } ]}"#
            )
        );
        // Found by the fuzz target `join`: half of a surrogate pair is none of our business.
        let half = asked("so", r#"{"messages":[{"content":"\ud83d"}]}"#);
        assert_eq!(
            half.as_deref(),
            Some(r#"{"messages":[{"content":"\ud83d"},{"role":"assistant","content":"so"}]}"#)
        );
        let empty = asked("so", r#"{"messages":[ ]}"#);
        assert_eq!(
            empty.as_deref(),
            Some(r#"{"messages":[ {"role":"assistant","content":"so"}]}"#)
        );
        assert_eq!(asked("  ", body).as_deref(), Some(body));
        for refused in [
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
            assert_eq!(asked("so", refused), None, "{refused}");
        }
        assert!(
            asked("so", r#"{"messages":[],"tools":[],"n":1,"response_format":{"type":"text"}}"#)
                .is_some()
        );
    }

    proptest! {
        #[test]
        fn what_is_left_out_is_what_the_rule_says_however_it_is_split(
            said in "([abü]{1,3}[ \u{2002}\u{2003}]{0,2}){0,8}", again in 0usize..24, less in 0usize..5,
            new in "[ \u{2002}\u{2003}]?([abü]{1,3} {0,2}){0,8}",
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..6),
        ) {
            // Often the end of what was said, or nearly.
            let back = |bytes: usize| said.floor_char_boundary(said.len().saturating_sub(bytes));
            let again = said.get(back(again)..back(less)).unwrap_or_default();
            let new = format!("{again}{new}");
            let at = |cut: &prop::sample::Index| new.floor_char_boundary(cut.index(new.len() + 1));
            let mut cuts: Vec<_> = cuts.iter().map(at).collect();
            cuts.extend([0, new.len()]);
            cuts.sort_unstable();
            let pieces: Vec<_> = cuts.windows(2).map(|pair| &new[pair[0]..pair[1]]).collect();
            let expected = said.clone() + &new[repeated(&said, &new)..];
            prop_assert_eq!(joined(&said, &pieces), expected);
        }

        #[test]
        fn a_whole_that_is_said_again_is_left_out(said in ".{0,12}", after in "[a-z]{0,6}") {
            let new = format!("{said}{after}");
            prop_assert_eq!(joined(&said, &[&new]), new);
        }

        #[test]
        fn a_request_with_more_said_is_the_request_but_for_the_last_message(
            text in ".{1,12}", model in ".{0,4}", content in ".{0,4}",
        ) {
            let mut body = serde_json::json!({
                "model": model, "messages": [{ "role": "user", "content": content }], "n": 1,
            });
            let partial = PartialResponse { dialect: Dialect::Chat, text: text.clone() };
            let asked = partial.continuation_request(body.to_string().as_bytes()).expect("a request");
            let asked: Value = serde_json::from_slice(&asked).expect("JSON");
            let said = text.trim_end();
            if !said.is_empty() {
                let messages = body["messages"].as_array_mut().expect("messages");
                messages.push(serde_json::json!({ "role": "assistant", "content": said }));
            }
            prop_assert_eq!(asked, body);
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
