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

/// Whether a value says something: it is present, and neither zero nor a text for nothing. Serializers
/// that have no null write a field that is not set in one of these ways.
pub fn is_set(value: &[u8]) -> bool {
    match value {
        [b'"', inner @ .., b'"'] => {
            let inner = inner.trim_ascii();
            !inner.is_empty() && !inner.eq_ignore_ascii_case(b"null")
        }
        [b'0', ..] | [b'-', b'0', ..] => {
            let mut digits = value.iter().take_while(|byte| !matches!(byte, b'e' | b'E'));
            digits.any(|byte| matches!(byte, b'1'..=b'9'))
        }
        _ => is_present(value),
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
    fn a_value_is_set_unless_it_is_one_of_the_ways_to_write_nothing() {
        for unset in [
            "null", "false", "0", "-0", "0.0", "0e7", "\"\"", "\" \"", "\"null\"", "\"NULL\"",
            "[]", "{ }",
        ] {
            assert!(!is_set(unset.as_bytes()), "{unset}");
        }
        for set in ["true", "7", "0.5", "-0.1", "\"stop\"", "\"0\"", "\"false\"", "{\"a\":null}"] {
            assert!(is_set(set.as_bytes()), "{set}");
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
