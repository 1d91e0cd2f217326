//! `actions` of a degradation mode: its effects, in order.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use http::StatusCode;
use http::header::{CONTENT_TYPE, HeaderName};

use super::auth::{Resolved, Secret};
use super::matcher::HostPattern;
use super::provider::ProviderPolicy;
use super::rewrite::{Headers, Rewrite, RewriteBody, RewritePath, header_value};
use super::url::{PostTo, Url};
use crate::policy::section::{
    Checker, Display, Form, KeyText, Map, NameOf, Reference, ValueShape, one_of, section, text_form,
};
use crate::policy::yaml::tree::NodeId;
use crate::policy::yaml::units::{MONTH, MS};

one_of! {
    /// One action; `body`, `models`, `headers` and `path` may be combined.
    #[derive(Clone, Debug)]
    pub enum Action as ActionKind, one action {
        /// Reduced functionality: the request is changed before a provider's own rewriting.
        Reduce "reduce": Box<Reduction> as Reduction;
        /// These providers, in order, instead of the route's; at least one.
        // Indices into `Policy::providers`.
        Use "use": Vec<usize> as Vec<NameOf<ProviderPolicy>>, where once("the provider"),
            where some("no provider: expected at least one, like `[local]`");
        /// A stored response is used if it went stale no longer ago than this.
        ServeStale "serve_stale": Duration, in MS..=MONTH;
        /// Requests of this class, and of those below it, get 503 with Retry-After.
        Shed "shed": String;
        /// This response is sent; only `notify` may follow it.
        Respond "respond": Box<Respond>;
        /// Posted when the mode is entered and when it is left.
        Notify "notify": Box<Notify>;
    }
}

impl ActionKind {
    /// Whether the action applies to requests; `notify` does not.
    pub fn is_of_requests(self) -> bool {
        self != ActionKind::Notify
    }

    pub fn of_requests() -> impl Iterator<Item = ActionKind> {
        ActionKind::ALL.iter().copied().filter(|kind| kind.is_of_requests())
    }
}

impl<T: Form> Form for Box<T> {
    const INLINE: bool = T::INLINE;
    const FLATTENED: bool = T::FLATTENED;

    fn read(node: NodeId, check: &mut Checker<'_>) -> Option<Self> {
        T::read(node, check).map(Box::new)
    }

    fn show(value: &Self, out: &mut Display<'_>) {
        T::show(value, out);
    }

    fn describe(out: &mut Reference) -> ValueShape {
        T::describe(out)
    }
}

/// Reports actions that a mode has twice, and actions that are never reached.
pub fn consistent_actions(list: NodeId, check: &mut Checker<'_>) {
    let (tree, mut before) = (check.tree, Vec::<(NodeId, ActionKind)>::new());
    for node in tree.children(list) {
        let mut kinds = ActionKind::of_requests();
        let kind = kinds.find(|kind| !check.present_keys(node, &kind.keys()).is_empty());
        let Some(kind) = kind else { continue };
        let first = |kind| before.iter().find(|(_, other)| *other == kind).map(|(at, _)| *at);
        if let Some(respond) = first(ActionKind::Respond) {
            let message =
                "no action follows `respond`, which sends the response: only `notify` may";
            check.report(node, |tree| {
                tree.on_value(node, message).with(tree, respond, "the response")
            });
        } else if let (Some(first), true) = (first(kind), kind != ActionKind::Reduce) {
            let message = format!("a mode has one `{}`: keep one of the two", kind.as_str());
            check.report(node, |tree| {
                tree.on_value(node, message).with(tree, first, "the first one")
            });
        }
        before.push((node, kind));
    }
}

// === changes to the request ===

/// Changes to the request, by the keys of the action itself.
#[derive(Clone, Debug, Default)]
pub struct Reduction {
    pub rewrite: Rewrite,
    /// Pairs of model names: the one that the application requests, and its replacement.
    pub models: Vec<(String, String)>,
    pub headers: Headers,
}

section! {
    /// Changes to the request.
    #[derive(Clone, Debug)]
    pub struct ReductionKeys {
        /// Changes to the JSON body.
        body: RewriteBody;
        /// The application's name of a model and that of another.
        models: Vec<(String, String)> as Map<String, String>;
        /// Changes to the headers.
        headers: Headers;
        /// A change to the path.
        path: Option<RewritePath>;
    }
}

impl Form<Box<Reduction>> for Reduction {
    const FLATTENED: bool = true;

    fn read(node: NodeId, check: &mut Checker<'_>) -> Option<Box<Reduction>> {
        let ReductionKeys { body, models, headers, path } = ReductionKeys::read_keys(node, check)?;
        let twice = body.set.iter().find(|(pointer, _)| body.remove.contains(pointer));
        set_and_removed(node, "body", twice.map(|(pointer, _)| pointer), check);
        let twice = headers.set.iter().find(|(name, _)| headers.remove.contains(name));
        set_and_removed(node, "headers", twice.map(|(name, _)| name), check);
        Some(Box::new(Reduction { rewrite: Rewrite { path, body }, models, headers }))
    }

    fn keys(out: &mut Vec<&'static str>) {
        ReductionKeys::keys(out);
    }

    fn show(value: &Box<Reduction>, out: &mut Display<'_>) {
        let Reduction { rewrite: Rewrite { path, body }, models, headers } = (**value).clone();
        let before = out.rows.len();
        ReductionKeys::show(&ReductionKeys { body, models, headers, path }, out);
        // Leave out the changes that it does not make.
        let mut index = 0;
        out.rows.retain(|row| {
            index += 1;
            index <= before || row.text != "none"
        });
    }

    fn describe(_: &mut Reference) -> ValueShape {
        ValueShape::Any
    }

    fn describe_keys(out: &mut Reference) -> Vec<KeyText> {
        ReductionKeys::describe_keys(out)
    }
}

fn set_and_removed(
    node: NodeId,
    key: &str,
    twice: Option<&impl fmt::Display>,
    check: &mut Checker<'_>,
) {
    if let (Some(twice), Some(at)) = (twice, check.tree.child(node, key)) {
        check.error(at, format!("`{twice}` is set and removed: keep one of the two"));
    }
}

// === a static response ===

/// The longest body of a static response.
const BODY: u64 = 1 << 20;
/// The placeholders of a static response.
pub const PLACEHOLDERS: [&str; 3] = ["request_id", "retry_after", "mode"];

/// A static response. In header values and in the body, `{{request_id}}`, `{{retry_after}}` (whole
/// seconds) and `{{mode}}` are filled in.
#[derive(Clone, Debug)]
pub struct Respond {
    pub status: StatusCode,
    /// Values are valid with anything filled in that is a value itself.
    pub headers: Vec<(HeaderName, String)>,
    pub kind: RespondKind,
    /// Before the placeholders are filled in; of JSON, its text.
    pub body: String,
}

/// The kind of a static body; in JSON, the values of placeholders are escaped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RespondKind {
    Json,
    Text,
}

section! {
    /// In headers and body, `{{request_id}}`, `{{retry_after}}` (seconds) and `{{mode}}` are filled in.
    #[derive(Clone, Debug)]
    pub struct RespondKeys {
        /// The status code.
        status: u16 = 503, in 200..=599;
        /// The headers.
        headers: Vec<(HeaderName, String)> as Map<HeaderName, Template>;
        /// The body as JSON; one of `json`, `text` and `file`.
        json: Option<String> as Option<JsonTemplate>;
        /// The body as text.
        text: Option<String> as Option<TextTemplate>;
        /// The body as a file, which is read when the policy is loaded.
        file: Option<FileBody>;
    }
}

impl Form for Respond {
    fn read(node: NodeId, check: &mut Checker<'_>) -> Option<Self> {
        const JSON: &str = "application/json";
        const TEXT: &str = "text/plain; charset=utf-8";
        let RespondKeys { status, mut headers, json, text, file } = RespondKeys::read(node, check)?;
        if check.present_keys(node, &["json", "text", "file"]).len() > 1 {
            check.error(node, "expected one of `json`, `text` and `file`");
        }
        let (kind, body, content_type) = match (json, text, file) {
            (Some(body), ..) => (RespondKind::Json, body, JSON),
            (_, Some(body), _) => (RespondKind::Text, body, TEXT),
            (_, _, Some(FileBody { path, body })) => {
                match path.extension().and_then(|extension| extension.to_str()) {
                    Some("json") => (RespondKind::Json, body, JSON),
                    Some("html" | "htm") => (RespondKind::Text, body, "text/html; charset=utf-8"),
                    _ => (RespondKind::Text, body, TEXT),
                }
            }
            (None, None, None) => (RespondKind::Text, String::new(), TEXT),
        };
        if let (204 | 205 | 304, false, Some(at)) =
            (status, body.is_empty(), check.tree.child(node, "status"))
        {
            check.error(at, format!("a response with status {status} has no body"));
        }
        if !body.is_empty() && headers.iter().all(|(name, _)| *name != CONTENT_TYPE) {
            headers.push((CONTENT_TYPE, content_type.to_owned()));
        }
        let status = StatusCode::from_u16(status).unwrap_or(StatusCode::SERVICE_UNAVAILABLE);
        Some(Respond { status, headers, kind, body })
    }

    fn show(value: &Self, out: &mut Display<'_>) {
        out.key("status", |out| out.text(value.status.as_str()));
        out.key("headers", |out| <Map<HeaderName, Template>>::show(&value.headers, out));
        let kind = if value.kind == RespondKind::Json { "JSON" } else { "text" };
        out.key("body", |out| match value.body.len() {
            0 => out.none(),
            bytes => out.inline(format!("{kind}, {bytes} bytes"), value.body.as_bytes()),
        });
    }

    fn describe(out: &mut Reference) -> ValueShape {
        RespondKeys::describe(out)
    }
}

text_form! {
    /// A text with placeholders, in a header.
    struct Template for String {
        read(node, check) {
            let text = check.text(node, "text")?;
            if text.contains("${") {
                return check.reject(
                    node,
                    "`${...}` is not allowed in a response: its clients would receive the secret",
                );
            }
            placeholders(node, text, check);
            let filled = PLACEHOLDERS
                .iter()
                .fold(text.to_owned(), |text, name| text.replace(&format!("{{{{{name}}}}}"), "1"));
            header_value(node, &filled, false, check)?;
            Some(text.to_owned())
        }
        show(value, out) { out.text(value.as_str()); }
        describe(_) { ValueShape::text() }
    }

    /// A text with placeholders, in a body.
    struct TextTemplate for String {
        read(node, check) {
            let text = check.text(node, "text")?;
            placeholders(node, text, check);
            Some(text.to_owned())
        }
        show(value, out) { out.text(value.as_str()); }
        describe(_) { ValueShape::text() }
    }

    /// JSON whose texts may hold placeholders.
    struct JsonTemplate for String {
        read(node, check) {
            let body = check.tree.json(node).to_string();
            placeholders(node, &body, check);
            Some(body)
        }
        show(value, out) { out.text(value.as_str()); }
        describe(_) { ValueShape::Any }
    }
}

/// A file with the body of a response.
#[derive(Clone, Debug)]
pub struct FileBody {
    path: PathBuf,
    body: String,
}

text_form! {
    impl Form<FileBody> for FileBody {
        read(node, check) {
            let path = PathBuf::from(check.text(node, "the path of a file")?);
            let bytes = check.file(node, &path)?;
            if bytes.len() as u64 > BODY {
                return check
                    .reject(node, format!("the file `{}` is longer than 1MiB", path.display()));
            }
            let Ok(body) = String::from_utf8(bytes) else {
                return check.reject(node, format!("the file `{}` is not UTF-8", path.display()));
            };
            placeholders(node, &body, check);
            Some(FileBody { path, body })
        }
        show(value, out) { out.text(value.path.display().to_string()); }
        describe(_) { ValueShape::named("file") }
    }
}

/// Reports each `{{...}}` that is not a placeholder.
fn placeholders(node: NodeId, text: &str, check: &mut Checker<'_>) {
    for after in text.split("{{").skip(1) {
        let Some((name, _)) = after.split_once("}}") else { continue };
        let is_name = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
        if is_name && !PLACEHOLDERS.contains(&name) {
            let known = PLACEHOLDERS.map(|name| format!("`{{{{{name}}}}}`")).join(", ");
            check.error(node, format!("unknown placeholder `{{{{{name}}}}}`: known are {known}"));
        }
    }
}

// === notifications ===

/// Where entry and exit of a mode are posted.
#[derive(Clone)]
pub struct Notify {
    pub to: PostTo,
    /// How the policy refers to the URL, which may hold a secret: `env:ALERT_WEBHOOK`, or the URL itself.
    pub reference: String,
    url: Resolved,
    /// Signs each post.
    pub secret: Option<Secret>,
}

section! {
    /// Posted when the mode is entered and when it is left.
    #[derive(Clone, Debug)]
    pub struct NotifyKeys {
        /// Where JSON with a `text` is posted, in the format of chat webhooks; `${env:NAME}` or `${file:PATH}` where it is a secret.
        url: Resolved, like "\"${env:ALERT_WEBHOOK}\"";
        /// Hosts that the URL may name, exact or like `*.slack.com`.
        allow: Vec<HostPattern> = Vec::new() => "any", where some("no host is allowed: leave `allow` out for any");
        /// Signs each post (Standard Webhooks); without it posts are unsigned.
        secret: Option<Secret>;
    }
}

impl fmt::Debug for Notify {
    /// The URL may be a secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Notify({})", self.reference)
    }
}

impl Form for Notify {
    fn read(node: NodeId, check: &mut Checker<'_>) -> Option<Self> {
        let NotifyKeys { url, allow, secret } = NotifyKeys::read(node, check)?;
        let at = url.node;
        let Ok(to) = PostTo::read(&url.text) else {
            // Not quoted: it may be a secret.
            return check.reject(at, "not a URL to post to: expected one like `https://host/path`");
        };
        if let Some(list) = check.tree.child(node, "allow") {
            let host = &to.url.authority;
            if !check.damaged(list) && !allow.iter().any(|pattern| pattern.matches(host)) {
                let message = format!("`allow` does not name the URL's host `{host}`");
                check.error(at, message);
            }
        }
        let reference = match url.is_inline() {
            // The path may be the secret.
            true => Url { path: String::new(), ..to.url.clone() }.to_string(),
            false => url.reference.clone(),
        };
        Some(Notify { to, reference, url, secret })
    }

    fn show(value: &Self, out: &mut Display<'_>) {
        let url = value.url.text.as_bytes();
        out.key("url", |out| match value.url.is_inline() {
            true => out.inline(value.reference.as_str(), url),
            false => out.secret(value.reference.as_str(), url),
        });
        if let Some(secret) = &value.secret {
            out.key("secret", |out| Secret::show(secret, out));
        }
    }

    fn describe(out: &mut Reference) -> ValueShape {
        NotifyKeys::describe(out)
    }
}
