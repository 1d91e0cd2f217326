//! Raw JSON values: the text of one value, as a scan finds it, read without building a document.

use std::borrow::Cow;

/// Whether a value is neither null, nor false, nor empty.
pub fn is_present(value: &[u8]) -> bool {
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

/// The content of a string, unescaped; any other value as it is written. `None` for a string with
/// half of a surrogate pair, which is not text.
pub fn text(value: &[u8]) -> Option<Cow<'_, str>> {
    match value {
        [b'"', inner @ .., b'"'] if !inner.contains(&b'\\') => {
            std::str::from_utf8(inner).ok().map(Cow::Borrowed)
        }
        [b'"', ..] => serde_json::from_slice(value).ok().map(Cow::Owned),
        _ => std::str::from_utf8(value).ok().map(Cow::Borrowed),
    }
}

/// A whole number that is not negative.
pub fn count(value: &[u8]) -> Option<u64> {
    std::str::from_utf8(value).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_present_unless_it_is_null_false_or_empty() {
        for absent in ["null", "false", "\"\"", "[]", "[ ]", "{}", "{\n}"] {
            assert!(!is_present(absent.as_bytes()), "{absent}");
        }
        for present in ["0", "-1.5", "true", "\" \"", "[null]", "{\"a\":null}"] {
            assert!(is_present(present.as_bytes()), "{present}");
        }
    }

    #[test]
    fn the_text_of_a_string_is_unescaped_and_any_other_value_is_as_written() {
        for (value, expected) in [
            (r#""a""#, Some("a")),
            (r#""a\n\u00fc""#, Some("a\nü")),
            (r#""\ud83d\ude00""#, Some("😀")),
            (r#""half of a pair: \ud83d""#, None),
            ("1.50", Some("1.50")),
            ("[1, 2]", Some("[1, 2]")),
        ] {
            assert_eq!(text(value.as_bytes()).as_deref(), expected, "{value}");
        }
        assert_eq!(
            [b"7".as_slice(), b"-7", b"7.5", b"null"].map(count),
            [Some(7), None, None, None]
        );
    }
}
