//! One pass over a JSON text: is it one (RFC 8259), and where do the values at some pointers stand?
//!
//! An event of a stream is read for many things at once (content, ends, errors, tokens), and only
//! to look: so nothing is built, a value is a range of the text. Whatever is not on a way to one of
//! the pointers is checked and passed over. Of equal keys the last counts, as it does for most readers.

use std::borrow::Cow;
use std::ops::Range;

use super::pointer_set::PointerSet;

/// Nested deeper than this, it is not read.
pub(super) const DEPTH: usize = 128;

/// Where the values of one text stand, by slot.
#[derive(Clone, Debug, Default)]
pub struct PointerMatches(Vec<Option<Range<usize>>>);

/// The text is no JSON, or is nested too deep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JsonError;

impl PointerMatches {
    /// The value in that slot, quotes and all.
    pub fn value<'t>(&self, slot: usize, text: &'t [u8]) -> Option<&'t [u8]> {
        text.get(self.at(slot)?)
    }

    pub fn at(&self, slot: usize) -> Option<Range<usize>> {
        self.0.get(slot).cloned().flatten()
    }
}

/// Finds the values at the pointers.
///
/// # Errors
/// When it is not one JSON text; what was found until then means nothing.
pub fn scan(
    text: &[u8],
    pointers: &PointerSet,
    found: &mut PointerMatches,
) -> Result<(), JsonError> {
    std::str::from_utf8(text).map_err(|_| JsonError)?;
    let mut scan = Scan::new(text, pointers, found, true);
    scan.value(Some(0), DEPTH)?;
    scan.spaces();
    if scan.at == text.len() { Ok(()) } else { Err(JsonError) }
}

/// The same in a text that is taken to be JSON: what is not on a way to a pointer is passed over
/// unchecked, which takes a third of the time.
///
/// # Errors
/// When the way to a value shows that it is none.
pub fn find(
    text: &[u8],
    pointers: &PointerSet,
    found: &mut PointerMatches,
) -> Result<(), JsonError> {
    Scan::new(text, pointers, found, false).value(Some(0), DEPTH)
}

struct Scan<'a> {
    text: &'a [u8],
    at: usize,
    pointers: &'a PointerSet,
    found: &'a mut PointerMatches,
    strict: bool,
    /// Nodes that were come to, one bit each, as far as there are bits.
    seen: u64,
}

/// The first byte that is not simply a part of a string; eight of them at a time.
fn special(text: &[u8]) -> Option<usize> {
    const EACH: u64 = u64::from_ne_bytes([1; 8]);
    const HIGH: u64 = EACH << 7;
    // The lowest high bit that is left is that of the first byte below `than`.
    let below = |word: u64, than: u64| word.wrapping_sub(EACH * than) & !word & HIGH;
    let is = |word: u64, byte: u8| below(word ^ (EACH * u64::from(byte)), 1);
    let mut at = 0;
    while let Some(eight) = text[at..].first_chunk() {
        let word = u64::from_le_bytes(*eight);
        let found = below(word, 0x20) | is(word, b'"') | is(word, b'\\');
        if found != 0 {
            return Some(at + found.trailing_zeros() as usize / 8);
        }
        at += 8;
    }
    let rest = text[at..].iter().position(|byte| matches!(byte, 0..0x20 | b'"' | b'\\'));
    rest.map(|stop| at + stop)
}

/// What shows how deep a text is nested, or begins a string.
static STRUCTURE: [bool; 256] = {
    let (mut structure, mut at) = ([false; 256], 0);
    while at < 6 {
        structure[b"\"{}[],"[at] as usize] = true;
        at += 1;
    }
    structure
};

impl<'a> Scan<'a> {
    fn new(
        text: &'a [u8],
        pointers: &'a PointerSet,
        found: &'a mut PointerMatches,
        strict: bool,
    ) -> Self {
        found.0.clear();
        found.0.resize(pointers.count, None);
        Scan { text, at: 0, pointers, found, strict, seen: 0 }
    }

    fn peek(&self) -> Result<u8, JsonError> {
        self.text.get(self.at).copied().ok_or(JsonError)
    }

    fn spaces(&mut self) {
        while matches!(self.text.get(self.at), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    fn expect(&mut self, byte: u8) -> Result<(), JsonError> {
        self.spaces();
        if self.peek()? != byte {
            return Err(JsonError);
        }
        self.at += 1;
        Ok(())
    }

    fn value(&mut self, node: Option<usize>, depth: usize) -> Result<(), JsonError> {
        self.spaces();
        if node.is_none() && !self.strict {
            return self.skip();
        }
        let start = self.at;
        match self.peek()? {
            b'{' => self.object(node, depth.checked_sub(1).ok_or(JsonError)?)?,
            b'[' => self.array(node, depth.checked_sub(1).ok_or(JsonError)?)?,
            b'"' => self.string().map(|_| ())?,
            b't' => self.word(b"true")?,
            b'f' => self.word(b"false")?,
            b'n' => self.word(b"null")?,
            _ => self.number()?,
        }
        if let Some(slot) = node.and_then(|node| self.pointers.nodes[node].slot) {
            self.found.0[slot] = Some(start..self.at);
        }
        Ok(())
    }

    /// Passes over a value up to what ends it.
    fn skip(&mut self) -> Result<(), JsonError> {
        let mut depth = 0usize;
        loop {
            let rest = &self.text[self.at..];
            self.at += rest.iter().position(|b| STRUCTURE[usize::from(*b)]).ok_or(JsonError)?;
            match self.text[self.at] {
                b'"' => {
                    self.string()?;
                    continue;
                }
                b'{' | b'[' => depth += 1,
                b',' if depth > 0 => {}
                b',' => return Ok(()),
                _ if depth == 0 => return Ok(()),
                _ => depth -= 1,
            }
            self.at += 1;
        }
    }

    fn object(&mut self, node: Option<usize>, depth: usize) -> Result<(), JsonError> {
        self.at += 1;
        self.spaces();
        if self.peek()? == b'}' {
            self.at += 1;
            return Ok(());
        }
        loop {
            self.spaces();
            let start = self.at;
            let escaped = self.string()?;
            let key = start..self.at;
            self.expect(b':')?;
            let child = node.and_then(|node| self.child(node, key, escaped));
            self.value(child, depth)?;
            self.spaces();
            self.at += 1;
            match self.text.get(self.at - 1) {
                Some(b',') => {}
                Some(b'}') => return Ok(()),
                _ => return Err(JsonError),
            }
        }
    }

    fn array(&mut self, node: Option<usize>, depth: usize) -> Result<(), JsonError> {
        self.at += 1;
        self.spaces();
        if self.peek()? == b']' {
            self.at += 1;
            return Ok(());
        }
        let node = node.filter(|node| !self.pointers.nodes[*node].children.is_empty());
        let mut index = 0usize;
        loop {
            let child = node.and_then(|node| {
                let children = &self.pointers.nodes[node].children;
                let is_index = |name: &str| {
                    (name == "0" || !name.starts_with(['0', '+'])) && name.parse() == Ok(index)
                };
                children.iter().find(|child| is_index(&child.name)).map(|child| child.node)
            });
            self.value(child, depth)?;
            self.spaces();
            self.at += 1;
            match self.text.get(self.at - 1) {
                Some(b',') => index += 1,
                Some(b']') => return Ok(()),
                _ => return Err(JsonError),
            }
        }
    }

    /// The node below for this key; what an equal key before it had there is forgotten.
    fn child(&mut self, node: usize, key: Range<usize>, escaped: bool) -> Option<usize> {
        let node = &self.pointers.nodes[node];
        if node.children.is_empty() {
            return None;
        }
        let child = if escaped {
            let name: String = serde_json::from_slice(&self.text[key]).ok()?;
            node.child(name.as_bytes())?
        } else {
            node.child(&self.text[key.start + 1..key.end - 1])?
        };
        let bit = u32::try_from(child).ok().and_then(|child| 1u64.checked_shl(child));
        if bit.is_none_or(|bit| self.seen & bit != 0) {
            for slot in &self.pointers.nodes[child].below {
                self.found.0[*slot] = None;
            }
        }
        self.seen |= bit.unwrap_or_default();
        Some(child)
    }

    /// A string; gives whether something in it is escaped.
    fn string(&mut self) -> Result<bool, JsonError> {
        if self.peek()? != b'"' {
            return Err(JsonError);
        }
        self.at += 1;
        let mut escaped = false;
        loop {
            let rest = &self.text[self.at..];
            let stop = special(rest).ok_or(JsonError)?;
            self.at += stop + 1;
            match rest[stop] {
                b'"' => return Ok(escaped),
                b'\\' => {
                    escaped = true;
                    self.escape()?;
                }
                _ => return Err(JsonError),
            }
        }
    }

    fn escape(&mut self) -> Result<(), JsonError> {
        let kind = self.peek()?;
        self.at += 1;
        match kind {
            b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => Ok(()),
            b'u' => {
                let digits = self.text.get(self.at..self.at + 4).ok_or(JsonError)?;
                self.at += 4;
                digits.iter().all(u8::is_ascii_hexdigit).then_some(()).ok_or(JsonError)
            }
            _ => Err(JsonError),
        }
    }

    fn word(&mut self, word: &[u8]) -> Result<(), JsonError> {
        let here = self.text.get(self.at..self.at + word.len());
        self.at += word.len();
        (here == Some(word)).then_some(()).ok_or(JsonError)
    }

    fn number(&mut self) -> Result<(), JsonError> {
        if self.peek()? == b'-' {
            self.at += 1;
        }
        match self.peek()? {
            b'0' => self.at += 1,
            _ => self.digits()?,
        }
        if self.text.get(self.at) == Some(&b'.') {
            self.at += 1;
            self.digits()?;
        }
        if matches!(self.text.get(self.at), Some(b'e' | b'E')) {
            self.at += 1;
            if matches!(self.text.get(self.at), Some(b'+' | b'-')) {
                self.at += 1;
            }
            self.digits()?;
        }
        Ok(())
    }

    /// At least one.
    fn digits(&mut self) -> Result<(), JsonError> {
        let start = self.at;
        while matches!(self.text.get(self.at), Some(b'0'..=b'9')) {
            self.at += 1;
        }
        if self.at > start { Ok(()) } else { Err(JsonError) }
    }
}

/// A value that is something: not null, not false, and not empty.
pub fn is_something(value: &[u8]) -> bool {
    match value {
        [b'"', inner @ .., b'"'] => !inner.is_empty(),
        [b'{', inner @ .., b'}'] | [b'[', inner @ .., b']'] => !inner.trim_ascii().is_empty(),
        b"null" | b"false" => false,
        _ => true,
    }
}

pub fn is_null(value: &[u8]) -> bool {
    value == b"null"
}

pub fn is_string(value: &[u8]) -> bool {
    value.first() == Some(&b'"')
}

/// A string as it is meant, and any other value as it is written; `None` for a string that holds
/// half of a surrogate pair, which is no text.
pub fn text(value: &[u8]) -> Option<Cow<'_, str>> {
    match value {
        [b'"', inner @ .., b'"'] if !inner.contains(&b'\\') => {
            std::str::from_utf8(inner).ok().map(Cow::Borrowed)
        }
        [b'"', ..] => serde_json::from_slice(value).ok().map(Cow::Owned),
        _ => std::str::from_utf8(value).ok().map(Cow::Borrowed),
    }
}

/// A count.
pub fn number(value: &[u8]) -> Option<u64> {
    std::str::from_utf8(value).ok()?.parse().ok()
}
