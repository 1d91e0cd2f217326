//! Changes to a request: its headers, its path, its JSON body; and the forms of their parts.

use http::{HeaderName, HeaderValue, Method};
use regex_lite::Regex;
use serde_json::Value;

use super::auth::resolve;
use crate::credentials::names::{self, NameKind};
use crate::json::pointer::Pointer;
use crate::policy::section::{Checker, Map, MapKey, section, text_form, texts};
use crate::policy::yaml::tree::NodeId;

section! {
    /// Changes to the headers of a request.
    #[derive(Clone, Debug, Default, PartialEq)]
    pub struct Headers {
        /// Headers that are set; they replace those of the request.
        set: Vec<(HeaderName, SetHeader)> as Map<HeaderName, SetHeader>;
        /// Headers that are set where the request has none of that name.
        default: Vec<(HeaderName, SetHeader)> as Map<HeaderName, SetHeader>;
        /// Headers that are removed.
        remove: Vec<HeaderName> as Vec<HeaderKey>;
    }
}

section! {
    /// Changes to the path and the JSON body of a request.
    #[derive(Clone, Debug, Default)]
    pub struct Rewrite {
        /// A change to the path.
        path: Option<RewritePath>;
        /// Changes to the JSON body.
        body: RewriteBody;
    }
}

section! {
    /// The first match in the path is replaced.
    #[derive(Clone, Debug)]
    pub struct RewritePath, finish known_groups {
        /// A regular expression.
        from: Regex as Pattern, like "^/v1/";
        /// `$1` stands for the first group.
        to: String, like "/openai/v1/";
    }
}

section! {
    /// Changes to a JSON body, by JSON pointers (RFC 6901).
    #[derive(Clone, Debug, Default, PartialEq)]
    pub struct RewriteBody {
        /// Pointers and the values that are set there.
        set: Vec<(Pointer, JsonText)> as Map<Pointer, JsonText>;
        /// Pointers to values that are removed.
        remove: Vec<Pointer>;
    }
}

impl Rewrite {
    pub fn changes_body(&self) -> bool {
        !self.body.is_empty()
    }
}

impl RewriteBody {
    pub fn is_empty(&self) -> bool {
        self.set.is_empty() && self.remove.is_empty()
    }
}

fn known_groups(rewrite: &mut RewritePath, node: NodeId, check: &mut Checker<'_>) {
    let RewritePath { from, to } = rewrite;
    let at = check.tree.child(node, "to").unwrap_or(node);
    if !to.starts_with(['/', '$']) && from.as_str().starts_with('^') {
        check.error(at, format!("`{to}` is not a path: expected a `/` first"));
    }
    for group in to.split('$').skip(1) {
        let digits: String =
            group.trim_start_matches('{').chars().take_while(char::is_ascii_digit).collect();
        let groups = from.captures_len() - 1;
        let has = match groups {
            0 => "`from` has no group".to_owned(),
            1 => "`from` has 1 group".to_owned(),
            _ => format!("`from` has {groups} groups"),
        };
        if digits.parse::<usize>().is_ok_and(|number| number > groups) {
            check.error(at, format!("`${digits}` is not a group: {has}"));
        }
    }
}

// === headers ===

/// A value that a header is set to; it may be a secret.
#[derive(Clone, Debug, PartialEq)]
pub struct SetHeader {
    /// Marked sensitive where it comes from the environment or a file.
    pub value: HeaderValue,
    reference: String,
}

impl SetHeader {
    /// A value that is no secret.
    pub fn open(value: HeaderValue) -> SetHeader {
        SetHeader { value, reference: "inline".to_owned() }
    }
}

text_form! {
    impl Form<SetHeader> for SetHeader {
        // An inline value may be a credential, too.
        read(node, check) {
            let text = check.text(node, "text")?;
            let resolved = resolve(node, text, check)?;
            let value = header_value(node, &resolved.text, !resolved.is_inline(), check)?;
            Some(SetHeader { value, reference: resolved.reference })
        }
        show(value, out) {
            match value.value.is_sensitive() {
                true => out.secret(value.reference.as_str(), value.value.as_bytes()),
                false => out.inline("not shown", value.value.as_bytes()),
            }
        }
        describe(_) { ValueShape::text() }
    }
}

texts! {
    /// The name of a header, as a value.
    struct HeaderKey for HeaderName:
        "the name of a header", ValueShape::named("header name"), header_name, HeaderName::as_str;
    /// The name of a header whose values may be compared and kept, because they are not credentials.
    struct OpenHeader for HeaderName:
        "the name of a header", ValueShape::named("header name"), open_header, HeaderName::as_str;
}

fn open_header(text: &str) -> Result<HeaderName, String> {
    match header_name(text)? {
        name if names::header(name.as_str()) == NameKind::Credential => Err(format!(
            "the header `{name}` holds a credential: expected one like `x-tenant`, whose values are not secret"
        )),
        name => Ok(name),
    }
}

impl MapKey for HeaderName {
    const NAME: &'static str = "header";

    fn parse(text: &str) -> Result<Self, String> {
        header_name(text)
    }
}

/// A header that a policy may set, remove or look for.
pub fn header_name(text: &str) -> Result<HeaderName, String> {
    const FRAMING: [&str; 8] = [
        "connection",
        "content-length",
        "host",
        "keep-alive",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    ];
    match HeaderName::from_bytes(text.as_bytes()) {
        Ok(name) if FRAMING.contains(&name.as_str()) => {
            Err(format!("the header `{name}` belongs to the connection, not to the policy"))
        }
        Ok(name) => Ok(name),
        Err(_) => Err(format!("`{text}` is not the name of a header")),
    }
}

pub fn header_value(
    node: NodeId,
    text: &str,
    sensitive: bool,
    check: &mut Checker<'_>,
) -> Option<HeaderValue> {
    let Ok(mut value) = HeaderValue::from_bytes(text.as_bytes()) else {
        return check.reject(
            node,
            "no header can hold this value: it has a line break or another control character",
        );
    };
    value.set_sensitive(sensitive);
    Some(value)
}

// === methods ===

text_form! {
    /// Any method but CONNECT, in capital letters.
    struct MethodName for Method {
        read(node, check) {
            const KNOWN: [&str; 8] = ["GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"];
            let text = check.text(node, "a method")?;
            let good = !text.is_empty() && text.bytes().all(|b| b.is_ascii_uppercase() || b == b'-');
            if text == "CONNECT" || !good {
                check.unknown_word(node, text, &KNOWN);
                return None;
            }
            Method::from_bytes(text.as_bytes()).ok()
        }
        show(value, out) { out.text(value.as_str()) }
        describe(_) { ValueShape::named("method") }
    }
}

// === JSON ===

texts! {
    impl Pointer for Pointer:
        "a JSON pointer like `/model`", ValueShape::named("JSON pointer"), below_root, Pointer::to_string;
}

impl MapKey for Pointer {
    const NAME: &'static str = "JSON pointer";

    fn parse(text: &str) -> Result<Self, String> {
        below_root(text)
    }
}

/// A pointer into a document. The empty pointer, which is the whole document, is rejected.
fn below_root(text: &str) -> Result<Pointer, String> {
    match Pointer::parse(text)? {
        root if root.is_root() => {
            Err("expected a JSON pointer like `/model`, found nothing".to_owned())
        }
        pointer => Ok(pointer),
    }
}

/// A value as JSON text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JsonText(pub String);

text_form! {
    impl Form<JsonText> for JsonText {
        read(node, check) {
            let value: Value = check.tree.json(node);
            Some(JsonText(value.to_string()))
        }
        show(value, out) { out.text(value.0.as_str()); }
        describe(_) { ValueShape::Any }
    }
}

// === patterns ===

const WHOLE: (&str, &str) = ("^(?:", ")$");

texts! {
    /// A regular expression that may match anywhere; `^` and `$` anchor it.
    struct Pattern for Regex:
        "a regular expression", ValueShape::named("regular expression"), regex, Regex::as_str;
    /// A regular expression for the whole of a value: `rate_limit` does not match `no_rate_limit`.
    struct WholePattern for Regex:
        "a regular expression", ValueShape::named("regular expression"), whole_pattern, |whole: &Regex| {
            let inner = whole.as_str().strip_prefix(WHOLE.0).and_then(|text| text.strip_suffix(WHOLE.1));
            inner.unwrap_or(whole.as_str()).to_owned()
        };
}

fn whole_pattern(text: &str) -> Result<Regex, String> {
    regex(text)?;
    regex(&format!("{}{text}{}", WHOLE.0, WHOLE.1))
}

fn regex(text: &str) -> Result<Regex, String> {
    Regex::new(text).map_err(|error| format!("`{text}` is not a regular expression: {error}"))
}
