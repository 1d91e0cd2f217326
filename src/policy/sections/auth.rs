//! Credentials and other secrets: from `${env:NAME}` and `${file:PATH}` to values that are never
//! printed.
//!
//! A credential is known by its reference, so two of one provider need different ones. Messages
//! name the reference, never the value; a value that no header can hold is reported without being
//! shown. The newline that editors put at the end of a file is not part of the secret.

use std::fmt;
use std::path::Path;

use http::{HeaderName, HeaderValue};

use super::matcher::PathPattern;
use super::rewrite::{HeaderKey, header_value};
use super::url::basic;
use crate::policy::section::display::text_of;
use crate::policy::section::{Checker, Form, OneOrMany, Required, section, text_form};
use crate::policy::text::redact::is_quotable;
use crate::policy::text::suggest::did_you_mean;
use crate::policy::yaml::tree::NodeId;

#[derive(Clone, Debug)]
pub enum Auth {
    None,
    /// The application's own credential headers are passed on.
    Passthrough,
    /// Used side by side; at least one.
    Credentials(Vec<Credential>),
}

#[derive(Clone)]
pub struct Credential {
    /// How the policy refers to it (`env:OPENAI_KEY_A`, `file:/run/secrets/b`, `inline`): never its value.
    pub reference: String,
    pub header: HeaderName,
    /// Marked sensitive.
    pub value: HeaderValue,
    /// Where it is sent in another form.
    pub bearer: Option<Box<BearerForm>>,
}

/// A credential in the form `Authorization: Bearer`, for some paths.
#[derive(Clone, Debug)]
pub struct BearerForm {
    pub paths: Vec<PathPattern>,
    /// Marked sensitive.
    pub value: HeaderValue,
}

section! {
    /// One of these keys; or the word `passthrough`, for the application's own credentials, or `none`.
    #[derive(Clone, Debug)]
    pub struct AuthKeys, finish one_kind {
        /// Sent as `Authorization: Bearer`: `${env:NAME}` or `${file:PATH}`; with several, requests are distributed over them.
        bearer: Vec<Resolved> as OneOrMany<Resolved>,
            where some("no credential: expected at least one, like `${env:API_KEY}`");
        /// Sent in a header of its own.
        header: Option<AuthHeader>;
        /// Sent as `Authorization: Basic`.
        basic: Option<Basic>;
    }
}

section! {
    /// A header that carries a credential.
    #[derive(Clone, Debug)]
    pub struct AuthHeader {
        /// The name of the header.
        name: HeaderName as HeaderKey, like "x-api-key";
        /// `${env:NAME}` or `${file:PATH}`; with several, requests are distributed over them.
        value: Vec<Resolved> as Required<OneOrMany<Resolved>>, like "\"${env:API_KEY}\"",
            where some("no credential: expected at least one, like `${env:API_KEY}`");
        /// Paths below the provider's URL to which it is sent as `Authorization: Bearer` instead, such as those of another vendor's API that the provider serves too.
        bearer_on: Vec<PathPattern>;
    }
}

section! {
    /// A user name and a password (RFC 7617).
    #[derive(Clone, Debug)]
    pub struct Basic, finish no_colon {
        /// The user name.
        username: Resolved, like "\"${env:API_USER}\"";
        /// The password.
        password: Resolved, like "\"${env:API_PASSWORD}\"";
    }
}

fn one_kind(_: &mut AuthKeys, node: NodeId, check: &mut Checker<'_>) {
    let mut keys = Vec::new();
    AuthKeys::keys(&mut keys);
    if check.present_keys(node, &keys).len() != 1 && !check.damaged(node) {
        check.error(node, "expected one of `bearer`, `header` and `basic`");
    }
}

fn no_colon(basic: &mut Basic, node: NodeId, check: &mut Checker<'_>) {
    if basic.username.text.contains(':') {
        let at = check.tree.child(node, "username").unwrap_or(node);
        check.error(at, "a user name for `basic` cannot hold a `:`");
    }
}

text_form! {
    impl Form<Auth> for Auth {
        read(node, check) {
            match check.tree.text(node) {
                Some("passthrough") => Some(Auth::Passthrough),
                Some("none") => Some(Auth::None),
                Some(word) => {
                    let label = did_you_mean(word, ["passthrough", "none"]);
                    check.unreadable(node, |tree| {
                        let message = "expected `passthrough`, `none`, or one of the keys `bearer`, `header` and `basic`";
                        tree.on_value(node, message).label(label)
                    });
                    None
                }
                None => {
                    let keys = AuthKeys::read(node, check)?;
                    Some(Auth::Credentials(credentials(keys, check)))
                }
            }
        }
        show(value, out) {
            match value {
                Auth::None => out.text("none"),
                Auth::Passthrough => out.text("passthrough"),
                Auth::Credentials(all) => {
                    let references: Vec<_> = all.iter().map(|one| one.reference.as_str()).collect();
                    let header = all.first().map_or("nothing", |first| first.header.as_str());
                    let values: Vec<_> = all.iter().map(|one| one.value.as_bytes()).collect();
                    let bearer = all.first().and_then(|first| first.bearer.as_ref());
                    let bearer = bearer.map_or_else(String::new, |bearer| {
                        format!("bearer on {}, else ", text_of::<_, Vec<PathPattern>>(&bearer.paths))
                    });
                    let text = format!("{bearer}{header} from {}", references.join(", "));
                    out.secret(text, &values.join(&b"\0"[..]));
                }
            }
        }
        describe(out) {
            let words = ValueShape::Words(vec!["passthrough", "none"]);
            ValueShape::OneOf(vec![AuthKeys::describe(out), words])
        }
    }
}

/// Each is known by its reference.
fn credentials(keys: AuthKeys, check: &mut Checker<'_>) -> Vec<Credential> {
    let authorization = http::header::AUTHORIZATION;
    let mut all: Vec<Credential> = Vec::new();
    let mut add = |header: &HeaderName,
                   text: &str,
                   resolved: &Resolved,
                   check: &mut Checker<'_>| {
        let Some(value) = header_value(resolved.node, text, true, check) else { return };
        let (reference, header) = (resolved.reference.clone(), header.clone());
        if all.iter().any(|other| other.reference == reference) {
            let message = match reference.as_str() {
                "inline" => "two credentials in the policy itself cannot be told apart: refer to them as `${env:NAME}`".to_owned(),
                _ => format!("the credential `{reference}` is listed twice: keep one of the two"),
            };
            check.error(resolved.node, message);
        }
        all.push(Credential { reference, header, value, bearer: None });
    };
    for resolved in &keys.bearer {
        add(&authorization, &format!("Bearer {}", resolved.text), resolved, check);
    }
    for (header, resolved) in
        keys.header.iter().flat_map(|raw| raw.value.iter().map(move |one| (&raw.name, one)))
    {
        add(header, &resolved.text, resolved, check);
    }
    if let Some(AuthHeader { value, bearer_on, .. }) =
        keys.header.filter(|h| !h.bearer_on.is_empty())
    {
        for (credential, resolved) in all.iter_mut().zip(&value) {
            let text = format!("Bearer {}", resolved.text);
            let value = header_value(resolved.node, &text, true, check);
            credential.bearer =
                value.map(|value| Box::new(BearerForm { paths: bearer_on.clone(), value }));
        }
    }
    if let Some(Basic { username, password }) = keys.basic {
        let value = basic(format!("{}:{}", username.text, password.text).as_bytes());
        let reference = password.reference;
        all.extend(value.map(|value| Credential {
            reference,
            header: authorization,
            value,
            bearer: None,
        }));
    }
    all
}

impl Credential {
    /// The header that carries it to a path, which begins with the path of the provider's URL.
    pub fn header_for(&self, base: &str, path: &str) -> (&HeaderName, &HeaderValue) {
        let is_bearer = |form: &&BearerForm| {
            let below = path.strip_prefix(base).unwrap_or(path);
            form.paths.iter().any(|pattern| pattern.matches(below))
        };
        match self.bearer.as_deref().filter(is_bearer) {
            Some(form) => (&http::header::AUTHORIZATION, &form.value),
            None => (&self.header, &self.value),
        }
    }
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Credential({})", self.reference)
    }
}

// === references to secrets ===

/// A text with its references replaced; never printed.
#[derive(Clone)]
pub struct Resolved {
    pub node: NodeId,
    /// `inline` where there is none.
    pub reference: String,
    pub text: String,
}

impl Resolved {
    pub fn is_inline(&self) -> bool {
        self.reference == "inline"
    }
}

impl fmt::Debug for Resolved {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Resolved({})", self.reference)
    }
}

text_form! {
    impl Form<Resolved> for Resolved {
        read(node, check) {
            let text = check.text(node, "text")?;
            resolve(node, text, check)
        }
        show(value, out) { out.secret(value.reference.as_str(), value.text.as_bytes()); }
        describe(_) { ValueShape::named("secret") }
    }
}

/// Replaces each reference in `text`; `None` was reported.
pub fn resolve(node: NodeId, text: &str, check: &mut Checker<'_>) -> Option<Resolved> {
    let (mut value, mut references, mut good) = (String::new(), Vec::new(), true);
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("${") {
        value.push_str(before);
        let Some((reference, after)) = after.split_once('}') else {
            check.error(node, "`${` without its `}`: expected `${env:NAME}` or `${file:PATH}`");
            return None;
        };
        match look_up(node, reference, check) {
            Some(found) => value.push_str(&found),
            None => good = false,
        }
        references.push(reference);
        rest = after;
    }
    value.push_str(rest);
    if is_blank(&value) && good {
        let found = if value.is_empty() { "nothing" } else { "only blanks" };
        check.error(node, format!("expected a value, found {found}"));
        return None;
    }
    let reference = if references.is_empty() { "inline".to_owned() } else { references.join("+") };
    good.then_some(Resolved { node, reference, text: value })
}

/// A byte order mark, and marks without a width, which copying brings along unseen.
const INVISIBLE: [char; 4] = ['\u{feff}', '\u{200b}', '\u{200e}', '\u{2060}'];

fn is_blank(value: &str) -> bool {
    value.chars().all(|c| c.is_whitespace() || INVISIBLE.contains(&c))
}

/// Editors and `echo` end a text with a line break, which is no part of the secret.
fn without_last_line_break(text: &str) -> String {
    text.trim_end_matches(['\r', '\n']).to_owned()
}

fn look_up(node: NodeId, reference: &str, check: &mut Checker<'_>) -> Option<String> {
    if !is_quotable(reference) {
        let message =
            "the text in `${...}` is not a name: expected `${env:NAME}` or `${file:PATH}`";
        check.error(node, message);
        return None;
    }
    let (value, what) = match reference.split_once(':') {
        Some(("env", name)) => {
            let value = check.env(name).map(|text| without_last_line_break(&text));
            (value, format!("the environment variable `{name}`"))
        }
        Some(("file", path)) => {
            let bytes = check.file(node, Path::new(path))?;
            let Ok(text) = String::from_utf8(bytes) else {
                check.error(node, format!("the file `{path}` is not UTF-8"));
                return None;
            };
            (Some(without_last_line_break(&text)), format!("the file `{path}`"))
        }
        _ => {
            let message = format!(
                "unknown reference `${{{reference}}}`: expected `${{env:NAME}}` or `${{file:PATH}}`"
            );
            check.error(node, message);
            return None;
        }
    };
    match value {
        Some(value) if value.is_empty() => check.error(node, format!("{what} is empty")),
        Some(value) if is_blank(&value) => check.error(node, format!("{what} has only blanks")),
        Some(value) if value.starts_with(INVISIBLE) || value.ends_with(INVISIBLE) => {
            let message = format!(
                "{what} begins or ends with an invisible character, such as a byte order mark: store the secret without it"
            );
            check.error(node, message);
        }
        Some(value) => return Some(value),
        None => check.error(node, format!("{what} is not set")),
    }
    None
}

/// A text that is never printed; known by how the policy refers to it.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret {
    pub reference: String,
    text: String,
}

impl Secret {
    pub fn as_bytes(&self) -> &[u8] {
        self.text.as_bytes()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Secret({})", self.reference)
    }
}

text_form! {
    impl Form<Secret> for Secret {
        read(node, check) {
            Resolved::read(node, check)
                .map(|Resolved { reference, text, .. }| Secret { reference, text })
        }
        show(value, out) { out.secret(value.reference.as_str(), value.as_bytes()); }
        describe(out) { Resolved::describe(out) }
    }
}
