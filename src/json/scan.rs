//! One pass over a JSON text that locates the values at a set of pointers.
//!
//! An event of a stream is inspected for many things at once (content, ends, errors, tokens), so
//! no tree is built: a value is a range of the text, and everything off the paths to the pointers is
//! skipped. Of duplicate keys the last one counts, as in most parsers.

use std::ops::Range;

use super::cursor::{Cursor, JsonError, MAX_DEPTH, MemberKey};
use super::pointer_set::PointerSet;

/// The positions of the values in one text, by slot of the pointer set.
#[derive(Clone, Debug, Default)]
pub struct PointerMatches(Vec<Option<Range<usize>>>);

impl PointerMatches {
    /// The value of a slot, quotes included.
    pub fn value<'t>(&self, slot: usize, text: &'t [u8]) -> Option<&'t [u8]> {
        text.get(self.at(slot)?)
    }

    pub fn at(&self, slot: usize) -> Option<Range<usize>> {
        self.0.get(slot).cloned().flatten()
    }
}

/// Locates the values at the pointers and checks that the whole text is JSON.
///
/// # Errors
/// When it is not one JSON text; `found` is meaningless then.
pub fn scan(
    text: &[u8],
    pointers: &PointerSet,
    found: &mut PointerMatches,
) -> Result<(), JsonError> {
    std::str::from_utf8(text).map_err(|_| JsonError)?;
    let mut scanner = Scanner::new(text, pointers, found, true);
    scanner.value(Some(0), MAX_DEPTH)?;
    scanner.cursor.end()
}

/// Locates the values in a text that is assumed to be JSON. Values off the paths to the pointers
/// are skipped unchecked, which takes a third of the time.
///
/// # Errors
/// When the path to a value is not JSON.
pub fn find(
    text: &[u8],
    pointers: &PointerSet,
    found: &mut PointerMatches,
) -> Result<(), JsonError> {
    Scanner::new(text, pointers, found, false).value(Some(0), MAX_DEPTH)
}

/// The values of the top-level members with one name, in order. Reads no further than the value that
/// was returned last, so the text may be incomplete behind it.
#[derive(Debug)]
pub struct Members<'t> {
    cursor: Cursor<'t>,
    name: &'t str,
    has_begun: bool,
    /// The object has ended, so that there are no more.
    is_complete: bool,
}

impl<'t> Members<'t> {
    /// A byte order mark before the object is skipped.
    pub fn new(text: &'t [u8], name: &'t str) -> Members<'t> {
        let mut cursor = Cursor::new(text);
        if text.starts_with(b"\xef\xbb\xbf") {
            cursor.at = 3;
        }
        Members { cursor, name, has_begun: false, is_complete: false }
    }

    /// Whether the text is an object that was read to its end.
    pub fn is_complete(&self) -> bool {
        self.is_complete
    }

    /// The position of the next value, quotes included.
    fn advance(&mut self) -> Result<Option<Range<usize>>, JsonError> {
        if !self.has_begun {
            self.cursor.skip_whitespace();
            if self.cursor.peek()? != b'{' {
                return Err(JsonError);
            }
            self.has_begun = true;
            if !self.cursor.enter(b'}')? {
                self.is_complete = true;
            }
        } else if !self.is_complete {
            self.is_complete = !self.cursor.next_element(b'}')?;
        }
        while !self.is_complete {
            let key = self.cursor.key()?;
            self.cursor.skip_whitespace();
            let start = self.cursor.at;
            if self.is_named(&key) {
                // The text may end behind a string.
                match self.cursor.peek()? {
                    b'"' => self.cursor.string().map(|_| ())?,
                    _ => self.cursor.skip_value()?,
                }
                let value = self.cursor.text[start..self.cursor.at].trim_ascii_end();
                return Ok(Some(start..start + value.len()));
            }
            self.cursor.skip_value()?;
            self.is_complete = !self.cursor.next_element(b'}')?;
        }
        Ok(None)
    }

    fn is_named(&self, key: &MemberKey) -> bool {
        let text = &self.cursor.text[key.range.clone()];
        if key.is_escaped {
            let name: Option<String> = serde_json::from_slice(text).ok();
            return name.is_some_and(|name| name == self.name);
        }
        &text[1..text.len() - 1] == self.name.as_bytes()
    }
}

/// Ends at the end of the object, or where the text is incomplete or no JSON.
impl Iterator for Members<'_> {
    type Item = Range<usize>;

    fn next(&mut self) -> Option<Range<usize>> {
        self.advance().ok().flatten()
    }
}

struct Scanner<'a> {
    cursor: Cursor<'a>,
    pointers: &'a PointerSet,
    found: &'a mut PointerMatches,
    /// Check values off the paths too.
    strict: bool,
    /// The trie nodes reached so far, one bit each, as far as there are bits.
    reached: u64,
}

impl<'a> Scanner<'a> {
    fn new(
        text: &'a [u8],
        pointers: &'a PointerSet,
        found: &'a mut PointerMatches,
        strict: bool,
    ) -> Self {
        found.0.clear();
        found.0.resize(pointers.count, None);
        Scanner { cursor: Cursor::new(text), pointers, found, strict, reached: 0 }
    }

    fn value(&mut self, node: Option<usize>, depth: usize) -> Result<(), JsonError> {
        self.cursor.skip_whitespace();
        if node.is_none() && !self.strict {
            return self.cursor.skip_value();
        }
        let start = self.cursor.at;
        match self.cursor.peek()? {
            b'{' => self.object(node, depth.checked_sub(1).ok_or(JsonError)?)?,
            b'[' => self.array(node, depth.checked_sub(1).ok_or(JsonError)?)?,
            b'"' => self.cursor.string().map(|_| ())?,
            _ => self.cursor.scalar()?,
        }
        if let Some(slot) = node.and_then(|node| self.pointers.nodes[node].slot) {
            self.found.0[slot] = Some(start..self.cursor.at);
        }
        Ok(())
    }

    fn object(&mut self, node: Option<usize>, depth: usize) -> Result<(), JsonError> {
        let mut more = self.cursor.enter(b'}')?;
        while more {
            let key = self.cursor.key()?;
            let child = node.and_then(|node| self.child(node, key));
            self.value(child, depth)?;
            more = self.cursor.next_element(b'}')?;
        }
        Ok(())
    }

    fn array(&mut self, node: Option<usize>, depth: usize) -> Result<(), JsonError> {
        let mut more = self.cursor.enter(b']')?;
        let node = node.filter(|node| !self.pointers.nodes[*node].children.is_empty());
        let mut index = 0usize;
        while more {
            let child = node.and_then(|node| {
                let children = &self.pointers.nodes[node].children;
                let is_index = |name: &str| {
                    (name == "0" || !name.starts_with(['0', '+'])) && name.parse() == Ok(index)
                };
                children.iter().find(|child| is_index(&child.name)).map(|child| child.node)
            });
            self.value(child, depth)?;
            more = self.cursor.next_element(b']')?;
            index += 1;
        }
        Ok(())
    }

    /// The child node for this key. Values that an earlier equal key had there are forgotten.
    fn child(&mut self, node: usize, key: MemberKey) -> Option<usize> {
        let node = &self.pointers.nodes[node];
        if node.children.is_empty() {
            return None;
        }
        let text = self.cursor.text;
        let child = if key.is_escaped {
            let name: String = serde_json::from_slice(&text[key.range]).ok()?;
            node.child(name.as_bytes())?
        } else {
            node.child(&text[key.range.start + 1..key.range.end - 1])?
        };
        let bit = u32::try_from(child).ok().and_then(|child| 1u64.checked_shl(child));
        if bit.is_none_or(|bit| self.reached & bit != 0) {
            for slot in &self.pointers.nodes[child].below {
                self.found.0[*slot] = None;
            }
        }
        self.reached |= bit.unwrap_or_default();
        Some(child)
    }
}

#[cfg(test)]
#[path = "scan_tests.rs"]
mod tests;
