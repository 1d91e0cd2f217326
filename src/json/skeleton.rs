//! Reduces a JSON text of any length to the parts that a set of pointers can reach.
//!
//! An event that is too long to be kept is pushed through in pieces. The skeleton keeps the members on
//! the paths to the pointers, and long strings by their beginning, so that a scan of the skeleton finds
//! what a scan of the whole text would find. An object or array that has other members keeps a
//! placeholder for them, because it is not empty.

use super::cursor::{MAX_DEPTH, special};
use super::pointer_set::PointerSet;

/// Most bytes that are kept of a string, a number or a key.
const MAX_VALUE: usize = 256;
/// Most bytes of a skeleton.
const MAX_BYTES: usize = 16 << 10;
/// Of the escape `\u`.
const HEX_DIGITS: u8 = 4;

#[derive(Debug)]
pub struct Skeleton {
    out: Vec<u8>,
    levels: Vec<SkeletonLevel>,
    state: State,
    /// The trie node of the value that is read or expected; `None` if no pointer leads to it.
    node: Option<usize>,
    /// The key that is read, without its quotes.
    key: Vec<u8>,
    /// Bytes of the current string or scalar so far.
    length: usize,
    is_cut: bool,
}

#[derive(Debug)]
struct SkeletonLevel {
    is_object: bool,
    node: Option<usize>,
    /// Of the current element.
    index: usize,
    has_output: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Value,
    /// The first element, or the end of the array.
    FirstElement,
    /// The first key, or the end of the object.
    FirstKey,
    Key,
    Colon,
    Text {
        is_key: bool,
        /// Bytes of an escape that are left.
        escape: u8,
    },
    Scalar,
    AfterValue,
    Done,
    Failed,
}

impl Default for Skeleton {
    fn default() -> Self {
        Skeleton {
            out: Vec::new(),
            levels: Vec::new(),
            state: State::Value,
            node: Some(0),
            key: Vec::new(),
            length: 0,
            is_cut: false,
        }
    }
}

impl Skeleton {
    /// Takes the next piece of the text. `pointers` is the same for all pieces.
    pub fn push(&mut self, mut text: &[u8], pointers: &PointerSet) {
        while let Some(byte) = text.first() {
            let used = match self.state {
                State::Text { is_key, escape } => self.text(text, is_key, escape),
                State::Scalar => self.scalar(text),
                State::Failed => return,
                _ if byte.is_ascii_whitespace() => 1,
                state => self.token(state, *byte, pointers),
            };
            text = &text[used..];
            if self.out.len() > MAX_BYTES {
                self.state = State::Failed;
            }
        }
    }

    /// The skeleton; `None` if the text is not one JSON text, or has too much that is wanted.
    pub fn finish(mut self) -> Option<Vec<u8>> {
        if self.state == State::Scalar && self.levels.is_empty() {
            self.state = State::Done;
        }
        (self.state == State::Done).then_some(self.out)
    }

    /// One byte of the structure. Returns how many bytes were used.
    fn token(&mut self, state: State, byte: u8, pointers: &PointerSet) -> usize {
        let in_object = self.levels.last().is_some_and(|level| level.is_object);
        match (state, byte) {
            (State::FirstElement, b']') | (State::FirstKey, b'}') => self.close(byte),
            (State::FirstElement, _) => {
                self.state = State::Value;
                self.element(pointers);
                return 0;
            }
            (State::Value, b'{' | b'[') => self.open(byte),
            (State::Value, b'"') => {
                self.keep(b"\"");
                self.begin(State::Text { is_key: false, escape: 0 });
            }
            (State::FirstKey | State::Key, b'"') => {
                self.key.clear();
                self.begin(State::Text { is_key: true, escape: 0 });
            }
            (State::Colon, b':') => self.member(pointers),
            (State::AfterValue, b',') if in_object => self.state = State::Key,
            (State::AfterValue, b',') => {
                if let Some(level) = self.levels.last_mut() {
                    level.index += 1;
                }
                self.state = State::Value;
                self.element(pointers);
            }
            (State::AfterValue, b'}') if in_object => self.close(byte),
            (State::AfterValue, b']') if !in_object => self.close(byte),
            (State::Value, b'-' | b'0'..=b'9' | b't' | b'f' | b'n') => {
                self.begin(State::Scalar);
                return 0;
            }
            _ => self.state = State::Failed,
        }
        1
    }

    fn begin(&mut self, state: State) {
        (self.length, self.is_cut, self.state) = (0, false, state);
    }

    fn keep(&mut self, bytes: &[u8]) {
        if self.node.is_some() {
            self.out.extend_from_slice(bytes);
        }
    }

    fn open(&mut self, byte: u8) {
        if self.levels.len() >= MAX_DEPTH {
            self.state = State::Failed;
            return;
        }
        self.keep(&[byte]);
        let is_object = byte == b'{';
        self.levels.push(SkeletonLevel { is_object, node: self.node, index: 0, has_output: false });
        self.state = if is_object { State::FirstKey } else { State::FirstElement };
    }

    fn close(&mut self, byte: u8) {
        if let Some(level) = self.levels.pop() {
            self.node = level.node;
            self.keep(&[byte]);
        }
        self.end_value();
    }

    fn end_value(&mut self) {
        self.state = if self.levels.is_empty() { State::Done } else { State::AfterValue };
    }

    /// The value of the key follows.
    fn member(&mut self, pointers: &PointerSet) {
        self.state = State::Value;
        let Some(level) = self.levels.last_mut() else { return };
        self.node = None;
        let Some(node) = level.node else { return };
        let quoted = [b"\"", &self.key[..], b"\""].concat();
        let name: Option<String> = serde_json::from_slice(&quoted).ok();
        let child = name.filter(|_| !self.is_cut);
        self.node = child.and_then(|name| pointers.nodes[node].child(name.as_bytes()));
        let separator: &[u8] = if level.has_output { b"," } else { b"" };
        match self.node {
            Some(_) => {
                level.has_output = true;
                self.out.extend_from_slice(&[separator, &quoted, b":"].concat());
            }
            None if !level.has_output => {
                level.has_output = true;
                self.out.extend_from_slice(b"\"\":0");
            }
            None => {}
        }
    }

    /// The element at the level's index follows, or the end of the array.
    fn element(&mut self, pointers: &PointerSet) {
        let Some(level) = self.levels.last_mut() else { return };
        self.node = None;
        let Some(node) = level.node else { return };
        let children = &pointers.nodes[node].children;
        let positions = || children.iter().filter_map(|child| child.name.parse::<usize>().ok());
        let here = children.iter().find(|child| child.name.parse() == Ok(level.index));
        self.node = here.map(|child| child.node);
        let is_before_another = positions().any(|position| position > level.index);
        if self.node.is_none() && level.index > 0 && !is_before_another {
            return;
        }
        if level.has_output {
            self.out.push(b',');
        }
        level.has_output = true;
        if self.node.is_none() {
            self.out.push(b'0');
        }
    }

    /// A part of a string. Returns how many bytes were used.
    fn text(&mut self, text: &[u8], is_key: bool, escape: u8) -> usize {
        if escape > 0 {
            self.keep_text(&text[..1], is_key);
            let left = match (escape, text[0]) {
                (1, b'u') => HEX_DIGITS + 1,
                (1 | 2, _) => 0,
                _ => escape - 1,
            };
            self.state = State::Text { is_key, escape: left };
            return 1;
        }
        let stop = special(text).unwrap_or(text.len());
        let kept = self.beginning(&text[..stop]);
        self.keep_text(kept, is_key);
        self.is_cut |= kept.len() < stop;
        match text.get(stop) {
            None => return stop,
            Some(b'"') if is_key => self.state = State::Colon,
            Some(b'"') => {
                self.keep(b"\"");
                self.end_value();
            }
            Some(b'\\') => {
                // An escape is kept whole or not at all.
                self.is_cut |= self.length >= MAX_VALUE;
                self.keep_text(b"\\", is_key);
                self.state = State::Text { is_key, escape: 1 };
            }
            Some(_) => self.state = State::Failed,
        }
        stop + 1
    }

    /// The part of a run of plain text that fits, up to the end of a character.
    fn beginning<'t>(&self, text: &'t [u8]) -> &'t [u8] {
        let fits = MAX_VALUE.saturating_sub(self.length).min(text.len());
        let rest = text[fits..].iter().take_while(|byte| matches!(byte, 0x80..0xc0));
        &text[..fits + rest.count()]
    }

    fn keep_text(&mut self, text: &[u8], is_key: bool) {
        if self.is_cut {
            return;
        }
        self.length += text.len();
        if is_key {
            self.key.extend_from_slice(text);
        } else {
            self.keep(text);
        }
    }

    /// A part of a number or a word. Returns how many bytes were used.
    fn scalar(&mut self, text: &[u8]) -> usize {
        let is_end = |byte: &u8| matches!(byte, b',' | b']' | b'}') || byte.is_ascii_whitespace();
        let end = text.iter().position(is_end);
        let part = &text[..end.unwrap_or(text.len())];
        self.length += part.len();
        if self.length > MAX_VALUE {
            self.state = State::Failed;
            return text.len();
        }
        self.keep(part);
        if end.is_some() {
            self.end_value();
        }
        part.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json::pointer::Pointer;
    use crate::json::scan::{PointerMatches, scan};
    use proptest::prelude::*;

    const POINTERS: [&str; 8] = [
        "/type",
        "/response",
        "/response/usage/n",
        "/choices/0/text",
        "/choices/1",
        "/list",
        "/a~1b",
        "/ü",
    ];

    fn pointers() -> (PointerSet, Vec<usize>) {
        let mut set = PointerSet::default();
        let slots = POINTERS.map(|text| set.slot(&Pointer::parse(text).expect("a pointer")));
        (set, slots.into())
    }

    fn skeleton(pieces: &[&[u8]]) -> Option<String> {
        let (set, _) = pointers();
        let mut skeleton = Skeleton::default();
        pieces.iter().for_each(|piece| skeleton.push(piece, &set));
        skeleton.finish().map(|out| String::from_utf8(out).expect("UTF-8"))
    }

    #[test]
    fn only_the_paths_to_the_pointers_are_kept() {
        for (text, expected) in [
            (
                r#"{"type":"x", "other":[1,{"type":2}], "response":{"usage":{"n":7,"m":8}}}"#,
                r#"{"type":"x","response":{"usage":{"n":7}}}"#,
            ),
            (r#"{"response":{"big":[1,2,{"n":3}]}}"#, r#"{"response":{"":0}}"#),
            (
                r#"{"choices":[{"text":"a","x":1},{"y":2},3,4]}"#,
                r#"{"choices":[{"text":"a"},{"":0}]}"#,
            ),
            (r#"{"list":[[1],2,3],"a/b":-1.5e3}"#, r#"{"list":[0],"a/b":-1.5e3}"#),
            (r#"{"list":[ ],"\u00fc":true}"#, r#"{"list":[],"\u00fc":true}"#),
            (r#"{"z":"\\\""}"#, r#"{"":0}"#),
            ("{}", "{}"),
            (" 7 ", "7"),
            ("7", "7"),
        ] {
            assert_eq!(skeleton(&[text.as_bytes()]).as_deref(), Some(expected), "{text}");
        }
    }

    #[test]
    fn a_text_that_is_not_json_or_is_unfinished_has_none() {
        for text in [
            "",
            "{",
            "{\"a\"",
            "[1,",
            "{\"a\":1}}",
            "[1 2]",
            "{\"a\" 1}",
            "{,}",
            "oops",
            "{\"type\":\"a\nb\"}",
        ] {
            assert_eq!(skeleton(&[text.as_bytes()]), None, "{text}");
        }
        assert_eq!(skeleton(&["[".repeat(MAX_DEPTH + 1).as_bytes()]), None);
    }

    #[test]
    fn it_stays_small_and_keeps_the_beginning_of_long_strings() {
        for character in ["a", "ü", "😀", r"\n", r"\u00e4"] {
            let text = format!(
                r#"{{"type":"{}","rest":"{}"}}"#,
                character.repeat(5_000),
                character.repeat(9_000)
            );
            let out = skeleton(&[text.as_bytes()]).expect("a skeleton");
            assert!(out.len() < 2 * MAX_VALUE, "{}", out.len());
            let value: serde_json::Value = serde_json::from_str(&out).expect("JSON");
            let whole: serde_json::Value = serde_json::from_str(&text).expect("JSON");
            let (kept, all) =
                (value["type"].as_str().expect("text"), whole["type"].as_str().expect("text"));
            assert!(all.starts_with(kept) && kept.len() > 20);
        }
        let repeated = format!("{{{}\"type\":0}}", "\"type\":\"0123456789\",".repeat(5_000));
        assert_eq!(skeleton(&[repeated.as_bytes()]), None, "it would not be small");
    }

    fn json() -> impl Strategy<Value = String> {
        let leaf = prop_oneof![
            Just("null".to_owned()),
            Just("true".to_owned()),
            Just("-12.5e2".to_owned()),
            "[a-zü\"\\\\\n]{0,6}".prop_map(|text| serde_json::Value::from(text).to_string()),
        ];
        leaf.prop_recursive(4, 40, 5, |inner| {
            let key = prop_oneof![
                Just("type"),
                Just("response"),
                Just("usage"),
                Just("n"),
                Just("choices"),
                Just("text"),
                Just("list"),
                Just("a/b"),
                Just("ü"),
                Just("x"),
            ];
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4)
                    .prop_map(|all| format!("[{}]", all.join(" , "))),
                prop::collection::vec((key, inner), 0..4).prop_map(|all| {
                    let members = all.iter().map(|(key, value)| format!("\"{key}\" :{value}"));
                    format!("{{{}}}", members.collect::<Vec<_>>().join(", "))
                }),
            ]
        })
    }

    proptest! {
        #[test]
        fn a_scan_finds_the_same_in_the_skeleton_however_the_text_is_split(
            text in json(), cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..6),
        ) {
            let mut at: Vec<_> = cuts.iter().map(|cut| cut.index(text.len() + 1)).collect();
            at.extend([0, text.len()]);
            at.sort_unstable();
            let pieces: Vec<_> = at.windows(2).map(|pair| &text.as_bytes()[pair[0]..pair[1]]).collect();
            let out = skeleton(&pieces).expect("a skeleton");
            let (set, slots) = pointers();
            let (mut whole, mut reduced) = (PointerMatches::default(), PointerMatches::default());
            scan(text.as_bytes(), &set, &mut whole).expect("JSON");
            scan(out.as_bytes(), &set, &mut reduced).expect("JSON");
            for slot in slots {
                let (a, b) = (whole.value(slot, text.as_bytes()), reduced.value(slot, out.as_bytes()));
                prop_assert_eq!(a.is_some(), b.is_some(), "{} {}", text, out);
                if let (Some(a), Some(b)) = (a, b) {
                    prop_assert_eq!(crate::json::value::is_present(a), crate::json::value::is_present(b));
                    if !matches!(a[0], b'{' | b'[') {
                        prop_assert_eq!(a, b);
                    }
                }
            }
        }
    }
}
