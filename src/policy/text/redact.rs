//! What of a policy may not be shown: credentials that were written into it.
//!
//! A credential belongs into the environment or a file, but nothing keeps people from writing it
//! where it is used, or next to it, into a key that is misspelt. So what stands below `auth`, what
//! has a telling key, and what looks like an API key is hidden wherever a line or a value is
//! quoted; stars keep the columns true. Of a line that the parser could not read, next to nothing
//! is known, and next to nothing is shown. References (`${env:NAME}`) are no secrets.

use std::ops::Range;

use crate::policy::yaml::tree::{Kind, NodeId, Step, Tree};

/// A key of the language is shorter; a longer one below `auth` may be a credential out of place.
const KEY: usize = 15;

impl Tree {
    /// The bytes of a file with each secret's replaced by as many stars.
    pub(crate) fn masked(&self, file: usize, range: Range<usize>) -> String {
        let text = &self.files[file].text[range.clone()];
        if self.files[file].broken {
            return mask_unread(text);
        }
        let mut bytes = text.as_bytes().to_vec();
        let comments = &self.files[file].comments;
        if let Some(comment) = comments.iter().find(|span| range.contains(&span.start)) {
            // Somebody may have switched off a credential.
            let at = comment.start - range.start;
            bytes.splice(at.., mask_comment(&text[at..]).into_bytes());
        }
        let mut hide = |span: &Range<usize>| {
            let from = span.start.clamp(range.start, range.end) - range.start;
            let to = span.end.clamp(range.start, range.end) - range.start;
            bytes[from..to.max(from)].fill(b'*');
        };
        let near = |span: &Range<usize>| span.start < range.end && span.end > range.start;
        for (index, node) in self.nodes.iter().enumerate().filter(|(_, node)| node.file == file) {
            let id = NodeId(u32::try_from(index).unwrap_or(u32::MAX));
            if near(&node.span) && self.is_secret(id) {
                hide(&node.span);
            }
            if let Step::Key { span, .. } = &node.step
                && near(span)
                && self.has_secret_key(id)
            {
                hide(span);
            }
        }
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// A message about a value, which quotes it.
    pub(crate) fn without_secret(&self, id: NodeId, message: String) -> String {
        let message = match self.text(id) {
            Some(text) if text.len() > 2 && self.is_secret(id) => message.replace(text, "***"),
            _ => message,
        };
        match self.key(id) {
            Some(key) if self.has_secret_key(id) => message.replace(key, "***"),
            _ => message,
        }
    }

    /// Whether the value itself, not a reference to it, may be a credential.
    fn is_secret(&self, id: NodeId) -> bool {
        let Kind::Scalar { text, .. } = &self.node(id).kind else { return false };
        let key = self.nearest_key(id);
        if is_reference(text) {
            return false;
        }
        let in_auth = self.is_below(id, "auth")
            && !matches!(key, "name" | "username")
            && !matches!(text.as_str(), "passthrough" | "none" | "" | "~" | "null");
        // The path of a webhook is its secret.
        let webhook = self.is_below(id, "notify") && matches!(key, "url" | "secret");
        // What answers are stored under is no credential.
        let of_cache = key == "key" && self.is_below(id, "caches");
        let named = is_credential_name(key) && !self.is_below(id, "tls") && !of_cache;
        in_auth || webhook || named || looks_like_a_key(text) || has_userinfo(text)
    }

    pub(crate) fn has_secret_key(&self, id: NodeId) -> bool {
        let key = self.key(id).unwrap_or_default();
        looks_like_a_key(key) || (key.len() > KEY && self.is_below(id, "auth"))
    }

    /// That of the list, for what stands in one.
    fn nearest_key(&self, id: NodeId) -> &str {
        let mut here = Some(id);
        while let Some(id) = here {
            if let Some(key) = self.key(id) {
                return key;
            }
            here = self.parent(id);
        }
        ""
    }

    fn is_below(&self, id: NodeId, key: &str) -> bool {
        let mut here = Some(id);
        while let Some(id) = here {
            if self.key(id) == Some(key) {
                return true;
            }
            here = self.parent(id);
        }
        false
    }
}

/// One, and nothing around it.
fn is_reference(text: &str) -> bool {
    let inner = text.strip_prefix("${").and_then(|text| text.strip_suffix('}'));
    inner.is_some_and(is_quotable)
}

/// What stands inside `${...}` is shown only when it surely names something.
pub(crate) fn is_quotable(reference: &str) -> bool {
    let good = |c: char| c.is_alphanumeric() || matches!(c, '_' | '-' | '.' | '/' | ':');
    reference.chars().all(good) && !looks_like_a_key(reference)
}

fn has_userinfo(text: &str) -> bool {
    text.split_once("://").is_some_and(|(_, rest)| rest.contains('@'))
}

/// As those of well-known providers begin.
fn looks_like_a_key(text: &str) -> bool {
    const BEGINNINGS: [&str; 9] =
        ["sk-", "sk_", "xai-", "gsk_", "AIza", "ghp_", "eyJ", "Bearer ", "Basic "];
    text.len() > 8 && BEGINNINGS.iter().any(|beginning| text.contains(beginning))
}

fn is_credential_name(key: &str) -> bool {
    let key = key.to_ascii_lowercase().replace('_', "-");
    let inside = ["authorization", "cookie", "api-key", "apikey", "secret", "password", "bearer"];
    inside.iter().any(|word| key.contains(word)) || key.ends_with("token") || key.ends_with("key")
}

/// Prose is shown; what may be a line of policy is not.
fn mask_comment(comment: &str) -> String {
    let text = comment.trim_start_matches(['#', ' ', '\t']);
    let prose = text.split_whitespace().count() > 2
        && !text.starts_with('-')
        && !text.contains([':', '{', '[', '"', '\''])
        && !text.split(|c| !is_token(c)).any(is_credential_name);
    mask(comment, !prose)
}

/// A line that the parser could not read: keys are shown, and values of plain keys.
fn mask_unread(line: &str) -> String {
    let has_key = line.contains(": ") || line.trim_end().ends_with(':');
    let telling = line.split(|c| !is_token(c)).any(is_credential_name)
        || ["auth", "value", "@"].iter().any(|word| line.contains(word));
    let hide_all = !has_key || telling || line.trim_start().starts_with('-');
    mask(line, hide_all)
}

/// Hides what looks like a key, or all words but keys.
fn mask(line: &str, hide_all: bool) -> String {
    let mut out = String::with_capacity(line.len());
    let mut rest = line;
    while !rest.is_empty() {
        let length = rest.find(|c: char| !is_token(c)).unwrap_or(rest.len());
        let (token, after) = rest.split_at(length);
        let digit = token.contains(|c: char| c.is_ascii_digit());
        let mixed = token.len() > 11 && digit && token.contains(char::is_alphabetic);
        let hidden = mixed || looks_like_a_key(token) || (hide_all && !is_key(token, after));
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
    fn of_a_line_that_cannot_be_read_only_what_is_harmless_is_shown() {
        let cases = [
            ("  bearer: [sk-secret, \"${env:KEY}\"", "  bearer: [*********, \"${env:KEY}\""),
            ("   - sk-live-12345678: ]", "   - ****************: ]"),
            ("  bearer: ${sk-inline-1", "  bearer: ${***********"),
            ("   - hunter2 ]", "   - ******* ]"),
            ("      hunter2", "      *******"),
            ("  auth: { basic: { password: hunter2", "  auth: { basic: { password: *******"),
            ("  url: https//api.openai.com ]", "  url: https//api.openai.com ]"),
            ("---", "***"),
        ];
        for (line, shown) in cases {
            assert_eq!(mask_unread(line), shown);
        }
    }

    #[test]
    fn comments_are_shown_unless_they_may_be_policy() {
        let prose = "# the fast one, since May";
        assert_eq!(mask_comment(prose), prose);
        assert_eq!(mask_comment("#   - hunter2"), "#   - *******");
        assert_eq!(
            mask_comment("# it was sk-live-0123456789 once"),
            "# it was ****************** once"
        );
        assert_eq!(mask_comment("# auth: { bearer: hunter2 }"), "# auth: { bearer: ******* }");
    }

    #[test]
    fn what_is_known_of_credentials_is_known_here() {
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
