//! The JSON tokenizer (RFC 8259): a position in a text, moved over one token at a time.
//!
//! Nothing is built: a token is a range of the text. Most of a text is strings, so those are
//! scanned eight bytes at a time.

use std::ops::Range;

/// Deepest nesting that is read.
pub(super) const MAX_DEPTH: usize = 128;

/// The text is not JSON, or is nested too deep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JsonError;

#[derive(Clone, Debug)]
pub(super) struct Cursor<'a> {
    pub(super) text: &'a [u8],
    pub(super) at: usize,
}

/// The key of an object's member, quotes included.
#[derive(Clone, Debug)]
pub(super) struct MemberKey {
    pub(super) range: Range<usize>,
    pub(super) is_escaped: bool,
}

/// Finds the first byte that is not simply part of a string: a quote, a backslash or a control
/// character.
pub(super) fn special(text: &[u8]) -> Option<usize> {
    const EACH: u64 = u64::from_ne_bytes([1; 8]);
    const HIGH: u64 = EACH << 7;
    // The lowest high bit that is left belongs to the first byte below `than`.
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

/// The bytes that change the nesting depth, separate values or begin a string.
static STRUCTURE: [bool; 256] = {
    let (mut structure, mut at) = ([false; 256], 0);
    while at < 6 {
        structure[b"\"{}[],"[at] as usize] = true;
        at += 1;
    }
    structure
};

impl<'a> Cursor<'a> {
    pub(super) fn new(text: &'a [u8]) -> Self {
        Cursor { text, at: 0 }
    }

    pub(super) fn peek(&self) -> Result<u8, JsonError> {
        self.text.get(self.at).copied().ok_or(JsonError)
    }

    pub(super) fn skip_whitespace(&mut self) {
        while matches!(self.text.get(self.at), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    /// Skips whitespace, then exactly this byte.
    pub(super) fn expect(&mut self, byte: u8) -> Result<(), JsonError> {
        self.skip_whitespace();
        if self.peek()? != byte {
            return Err(JsonError);
        }
        self.at += 1;
        Ok(())
    }

    /// Checks that nothing but whitespace is left.
    pub(super) fn end(&mut self) -> Result<(), JsonError> {
        self.skip_whitespace();
        if self.at == self.text.len() { Ok(()) } else { Err(JsonError) }
    }

    /// Enters the array or object at the cursor, whose closing bracket is `close`. Returns false,
    /// and leaves it, when it is empty.
    pub(super) fn enter(&mut self, close: u8) -> Result<bool, JsonError> {
        self.at += 1;
        self.skip_whitespace();
        let is_empty = self.peek()? == close;
        self.at += usize::from(is_empty);
        Ok(!is_empty)
    }

    /// Moves past the comma to the next element. Returns false, and leaves the array or object,
    /// after the last.
    pub(super) fn next_element(&mut self, close: u8) -> Result<bool, JsonError> {
        self.skip_whitespace();
        self.at += 1;
        match self.text.get(self.at - 1) {
            Some(b',') => Ok(true),
            Some(byte) if *byte == close => Ok(false),
            _ => Err(JsonError),
        }
    }

    /// Reads a key and its colon.
    pub(super) fn key(&mut self) -> Result<MemberKey, JsonError> {
        self.skip_whitespace();
        let start = self.at;
        let is_escaped = self.string()?;
        let range = start..self.at;
        self.expect(b':')?;
        Ok(MemberKey { range, is_escaped })
    }

    /// Reads a string. Returns whether it contains an escape.
    pub(super) fn string(&mut self) -> Result<bool, JsonError> {
        if self.peek()? != b'"' {
            return Err(JsonError);
        }
        self.at += 1;
        let mut is_escaped = false;
        loop {
            let rest = &self.text[self.at..];
            let stop = special(rest).ok_or(JsonError)?;
            self.at += stop + 1;
            match rest[stop] {
                b'"' => return Ok(is_escaped),
                b'\\' => {
                    is_escaped = true;
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

    /// Reads `true`, `false`, `null` or a number.
    pub(super) fn scalar(&mut self) -> Result<(), JsonError> {
        match self.peek()? {
            b't' => self.word(b"true"),
            b'f' => self.word(b"false"),
            b'n' => self.word(b"null"),
            _ => self.number(),
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

    /// Reads one digit or more.
    fn digits(&mut self) -> Result<(), JsonError> {
        let start = self.at;
        while matches!(self.text.get(self.at), Some(b'0'..=b'9')) {
            self.at += 1;
        }
        if self.at > start { Ok(()) } else { Err(JsonError) }
    }

    /// Skips a value, unchecked but for its strings and its nesting, up to the comma or bracket
    /// that ends it.
    pub(super) fn skip_value(&mut self) -> Result<(), JsonError> {
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
}
