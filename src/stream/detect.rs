//! Detects the format of a stream by its first bytes, and splits a JSON array into its elements.
//!
//! Some servers label a stream as `application/json`, or as nothing. Google's API sends a JSON array
//! unless the request asks for server-sent events.

use memchr::memchr;

use super::framing::StreamFormat;
use crate::json::pointer_set::PointerSet;
use crate::json::scan::{PointerMatches, scan};

/// A longer first line is a document.
const MAX_FIRST_LINE: usize = 64 << 10;
/// How a line of an event stream begins.
const FIELDS: [&[u8]; 5] = [b"data:", b"event:", b"id:", b"retry:", b":"];

/// The format of a stream that begins like this; `None` if more of it is needed.
pub fn detect(beginning: &[u8]) -> Option<StreamFormat> {
    let text = beginning.strip_prefix(b"\xef\xbb\xbf").unwrap_or(beginning).trim_ascii_start();
    match text.first()? {
        b'[' => {
            let element = text[1..].trim_ascii_start().first()?;
            let is_stream = matches!(element, b'{' | b']');
            Some(if is_stream { StreamFormat::Array } else { StreamFormat::Document })
        }
        b'{' => match memchr(b'\n', text) {
            Some(end) if is_json(&text[..end]) => Some(StreamFormat::Lines),
            Some(_) => Some(StreamFormat::Document),
            None => (text.len() > MAX_FIRST_LINE).then_some(StreamFormat::Document),
        },
        _ if FIELDS.iter().any(|field| text.starts_with(field)) => Some(StreamFormat::Sse),
        _ if FIELDS.iter().any(|field| field.starts_with(text)) => None,
        _ => Some(StreamFormat::Document),
    }
}

fn is_json(line: &[u8]) -> bool {
    scan(line, &PointerSet::default(), &mut PointerMatches::default()).is_ok()
}

/// Finds the ends of the elements of an array that arrives in parts.
#[derive(Debug, Default)]
pub struct ArrayScanner {
    depth: usize,
    is_in_string: bool,
    is_escaped: bool,
    is_closed: bool,
}

impl ArrayScanner {
    /// The end of the next element in `text`, which continues the text before it. The brackets of the
    /// array count as elements.
    pub fn element_end(&mut self, text: &[u8]) -> Option<usize> {
        text.iter().position(|byte| self.ends_element(*byte)).map(|at| at + 1)
    }

    pub fn is_closed(&self) -> bool {
        self.is_closed
    }

    fn ends_element(&mut self, byte: u8) -> bool {
        if self.is_in_string {
            self.is_in_string = self.is_escaped || byte != b'"';
            self.is_escaped = !self.is_escaped && byte == b'\\';
            return false;
        }
        match byte {
            b'"' => self.is_in_string = true,
            b'{' | b'[' => {
                self.depth += 1;
                return self.depth == 1;
            }
            b'}' | b']' => {
                self.depth = self.depth.saturating_sub(1);
                self.is_closed |= self.depth == 0;
                return self.depth <= 1;
            }
            _ => {}
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_bytes_show_the_format() {
        for (text, format) in [
            ("data: {}", Some(StreamFormat::Sse)),
            ("\u{feff}\r\n: hi", Some(StreamFormat::Sse)),
            ("event: x", Some(StreamFormat::Sse)),
            ("dat", None),
            ("", None),
            ("  ", None),
            ("[", None),
            ("[\n {", Some(StreamFormat::Array)),
            ("[]", Some(StreamFormat::Array)),
            ("[1,2]", Some(StreamFormat::Document)),
            ("{\"a\":1}", None),
            ("{\"a\":1}\n", Some(StreamFormat::Lines)),
            ("{\"a\":1}\r\n{", Some(StreamFormat::Lines)),
            ("{\n  \"a\":1", Some(StreamFormat::Document)),
            ("<!doctype html>", Some(StreamFormat::Document)),
            ("dataset", Some(StreamFormat::Document)),
            ("7", Some(StreamFormat::Document)),
        ] {
            assert_eq!(detect(text.as_bytes()), format, "{text:?}");
        }
        assert_eq!(detect("{".repeat(MAX_FIRST_LINE + 1).as_bytes()), Some(StreamFormat::Document));
    }
}
