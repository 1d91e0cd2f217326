//! Escapes characters that could forge a log line or control a terminal.
//!
//! Such characters arrive in request paths, error messages of providers, and names in policies. A
//! line break could forge a line, ESC and the C1 controls drive a terminal, and bidirectional marks
//! reorder what a reader sees (<https://trojansource.codes>).

use std::borrow::Cow;
use std::fmt::Write;

/// Whether a character is never written raw: C0, DEL and C1 controls, line and paragraph
/// separators, and bidirectional marks.
pub fn is_unsafe(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Appends a character, as `\uXXXX` if it is unsafe. That is an escape of JSON as well.
pub fn push_escaped(out: &mut String, c: char) {
    if is_unsafe(c) {
        let _ = write!(out, "\\u{:04x}", u32::from(c));
    } else {
        out.push(c);
    }
}

/// The text with its unsafe characters escaped.
pub fn escape(text: &str) -> Cow<'_, str> {
    if !text.contains(is_unsafe) {
        return Cow::Borrowed(text);
    }
    let mut escaped = String::with_capacity(text.len() + 16);
    text.chars().for_each(|c| push_escaped(&mut escaped, c));
    Cow::Owned(escaped)
}

/// As [`escape`], but line breaks stay: for text of several lines.
pub fn escape_lines(text: &str) -> String {
    text.split('\n').map(escape).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn controls_and_bidirectional_marks_are_escaped() {
        for (raw, escaped) in [
            ("plain é 漢字 🚀 \\", "plain é 漢字 🚀 \\"),
            ("a\nb\r\tc\0", "a\\u000ab\\u000d\\u0009c\\u0000"),
            ("\x1b[31m\x7f", "\\u001b[31m\\u007f"),
            ("\u{80}\u{85}\u{9b}\u{9f}\u{a0}", "\\u0080\\u0085\\u009b\\u009f\u{a0}"),
            ("\u{202a}\u{202e}\u{2028}", "\\u202a\\u202e\\u2028"),
            ("\u{2066}\u{2069}\u{200e}\u{200f}\u{61c}", "\\u2066\\u2069\\u200e\\u200f\\u061c"),
        ] {
            assert_eq!(escape(raw), escaped);
        }
        assert_eq!(escape_lines("a\r\nb\x1b\n"), "a\\u000d\nb\\u001b\n");
    }
}
