//! Recognizes credentials in texts, and masks them.
//!
//! A credential belongs into the environment or a file, but it may have been written where it is
//! used, or next to it, or into a key with a typo. So texts below a telling key, and texts that look
//! like an API key, are hidden wherever a line or a value is quoted; asterisks keep the columns
//! right. Of a line that the parser could not read, little is known and little is shown. References
//! (`${env:NAME}`) are not secrets.

use crate::credentials::{names, values};

/// Keys of the language are shorter; a longer one below `auth` may be a misplaced credential.
pub const KEY: usize = 15;

/// A single reference with nothing around it.
pub fn is_reference(text: &str) -> bool {
    let inner = text.strip_prefix("${").and_then(|text| text.strip_suffix('}'));
    inner.is_some_and(is_quotable)
}

/// Whether the text inside `${...}` is a name and can be shown.
pub fn is_quotable(reference: &str) -> bool {
    let good = |c: char| c.is_alphanumeric() || matches!(c, '_' | '-' | '.' | '/' | ':');
    reference.chars().all(good) && !looks_like_a_key(reference)
}

pub fn has_userinfo(text: &str) -> bool {
    text.split_once("://").is_some_and(|(_, rest)| rest.contains('@'))
}

/// The text holds the prefix of an API key of a well-known provider.
pub fn looks_like_a_key(text: &str) -> bool {
    values::has_key_in_text(text)
}

/// `auth` is a key of the language and holds no credential itself.
pub fn is_credential_name(key: &str) -> bool {
    key != "auth" && names::is_credential_in_any_case(key.as_bytes())
}

/// Prose is shown; text that may be a line of policy is masked.
pub fn mask_comment(comment: &str) -> String {
    let text = comment.trim_start_matches(['#', ' ', '\t']);
    let prose = text.split_whitespace().count() > 2
        && !text.starts_with('-')
        && !text.contains(['{', '[', '"', '@'])
        && !has_quote(text)
        && !text.split_once(':').is_some_and(|(first, _)| is_key(first, ":"))
        && !text.split(|c| !is_token(c)).any(is_credential_name);
    mask(comment, !prose)
}

/// Masks a line that the parser could not read: keys are shown, and values of harmless keys.
pub fn mask_unread(line: &str) -> String {
    let has_key = line.contains(": ") || line.trim_end().ends_with(':');
    let secret = line.split(|c| !is_token(c)).any(is_credential_name)
        || ["auth", "value", "@"].iter().any(|word| line.contains(word));
    let hide_all = !has_key || secret || line.trim_start().starts_with('-');
    mask(line, hide_all)
}

/// Masks texts that look like an API key, or all words but keys.
fn mask(line: &str, hide_all: bool) -> String {
    let mut out = String::with_capacity(line.len());
    let mut rest = line;
    while !rest.is_empty() {
        let length = rest.find(|c: char| !is_token(c)).unwrap_or(rest.len());
        let (token, after) = rest.split_at(length);
        let hidden =
            may_be_random(token) || looks_like_a_key(token) || (hide_all && !is_key(token, after));
        let reference = (out.ends_with("${") && matches!(token, "env" | "file"))
            || ((out.ends_with("${env:") || out.ends_with("${file:")) && is_quotable(token));
        let shown = token.len() < 3 && !token.contains(char::is_alphanumeric);
        match hidden && !reference && !shown {
            true => out.extend(std::iter::repeat_n('*', token.len())),
            false => out.push_str(token),
        }
        let next = after.chars().next().map_or(0, char::len_utf8);
        out.push_str(&after[..next]);
        rest = &after[next..];
    }
    out
}

/// A single quote that is no apostrophe.
fn has_quote(text: &str) -> bool {
    let is_in_word = |c: Option<char>| c.is_some_and(char::is_alphabetic);
    let quotes = text.match_indices('\'');
    let mut quotes =
        quotes.map(|(at, _)| (text[..at].chars().next_back(), text[at + 1..].chars().next()));
    quotes.any(|(before, after)| !(is_in_word(before) && is_in_word(after)))
}

/// Letters and digits mixed as in a random key, and not as in `gpt-4o-mini-2024-07-18`.
fn may_be_random(token: &str) -> bool {
    let is_mixed = |part: &&str| {
        part.contains(char::is_alphabetic) && part.contains(|c: char| c.is_ascii_digit())
    };
    let parts = token.split(|c: char| !c.is_alphanumeric()).filter(is_mixed);
    let lengths: Vec<usize> = parts.map(str::len).collect();
    token.len() > 11 && (lengths.len() > 2 || lengths.iter().any(|length| *length > 7))
}

fn is_key(token: &str, after: &str) -> bool {
    let word = |c: char| c.is_ascii_lowercase() || c == '_';
    token.len() <= KEY && token.chars().all(word) && after.starts_with(':')
}

fn is_token(c: char) -> bool {
    !c.is_whitespace() && !matches!(c, ':' | ',' | '{' | '}' | '[' | ']' | '"' | '\'' | '$')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_harmless_parts_of_an_unreadable_line_are_shown() {
        let cases = [
            ("  bearer: [sk-secret, \"${env:KEY}\"", "  bearer: [*********, \"${env:KEY}\""),
            ("   - sk-live-12345678: ]", "   - ****************: ]"),
            ("  bearer: ${sk-inline-1", "  bearer: ${***********"),
            ("   - hunter2 ]", "   - ******* ]"),
            ("      hunter2", "      *******"),
            ("  auth: { basic: { password: hunter2", "  auth: { basic: { password: *******"),
            ("  url: https//api.openai.com ]", "  url: https//api.openai.com ]"),
            ("  gpt-4o: gpt-4o-mini-2024-07-18 ]", "  gpt-4o: gpt-4o-mini-2024-07-18 ]"),
            ("  model: 7f3k9d2m5q8w1z4x ]", "  model: **************** ]"),
            ("---", "***"),
        ];
        for (line, shown) in cases {
            assert_eq!(mask_unread(line), shown);
        }
    }

    #[test]
    fn comments_are_shown_unless_they_may_be_lines_of_policy() {
        let prose = "# the fast one, since May";
        assert_eq!(mask_comment(prose), prose);
        for prose in [
            "# fallback of last resort: a small model that doesn't cost much",
            "# see https://platform.openai.com/docs/models for the names",
            "# was gpt-4o-mini-2024-07-18 until June",
        ] {
            assert_eq!(mask_comment(prose), prose);
        }
        assert_eq!(mask_comment("#   - hunter2"), "#   - *******");
        assert_eq!(mask_comment("# host: db user bob"), "# host: ** **** ***");
        assert_eq!(
            mask_comment("# see http://bob:pw@host for that"),
            "# *** http:*****:******* *** ****"
        );
        assert_eq!(
            mask_comment("# it was sk-live-0123456789 once"),
            "# it was ****************** once"
        );
        assert_eq!(mask_comment("# auth: { bearer: hunter2 }"), "# auth: { bearer: ******* }");
    }

    #[test]
    fn credentials_are_recognized_by_name_and_value() {
        assert!(
            is_credential_name("x-api-key")
                && is_credential_name("api_key")
                && is_credential_name("X-Auth-Token")
        );
        assert!(!is_credential_name("max_tokens") && !is_credential_name("keep_alive"));
        assert!(
            is_reference("${env:A}")
                && !is_reference("${env:A}b")
                && !is_reference("${env:A}${env:B}")
        );
        assert!(has_userinfo("http://a:b@c") && !has_userinfo("http://a/b"));
    }
}
