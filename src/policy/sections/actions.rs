//! `actions` of a mode of degradation: what it does, in order, and what contradicts itself.

use std::path::{Path, PathBuf};
use std::time::Duration;

use http::StatusCode;
use http::header::{CONTENT_TYPE, HeaderName, HeaderValue};

use super::lanes::{PostTo, Secret};
use super::matcher::HostPattern;
use super::model::{Action, Notify, Reduction, Respond, RespondKind};
use super::raw_degradations::{RawAction, RawNotify, RawRespond};
use super::routes::Known;
use crate::policy::section::checker::{Check, MS};
use crate::policy::yaml::tree::NodeId;
use crate::policy::yaml::types::At;

const MONTH: Duration = Duration::from_secs(30 * 86_400);
/// Of an answer of ours.
const BODY: u64 = 1 << 20;
/// What is filled into an answer of ours.
pub const BLANKS: [&str; 3] = ["request_id", "retry_after", "mode"];

impl Check<'_> {
    pub(crate) fn actions(
        &mut self,
        list: &At<Vec<At<RawAction>>>,
        known: &Known<'_>,
    ) -> Vec<Action> {
        if list.is_empty() && !self.tree.damaged(list.id) {
            self.error(list.id, "no action: expected at least one, like `{ shed: low }`");
        }
        let mut found: Vec<(NodeId, Action)> = Vec::new();
        for at in &list.value {
            let Some(action) = self.action(at, known) else { continue };
            self.contradicts(&found, at.id, &action);
            found.push((at.id, action));
        }
        found.into_iter().map(|(_, action)| action).collect()
    }

    /// What one mode says twice, or where nobody hears it.
    fn contradicts(&mut self, before: &[(NodeId, Action)], id: NodeId, action: &Action) {
        if matches!(action, Action::Notify(_)) {
            return;
        }
        if let Some((respond, _)) = before.iter().find(|(_, a)| matches!(a, Action::Respond(_))) {
            let message =
                "nothing is done after `respond`, which is the answer: only `notify` may follow it";
            let problem = self.tree.on_value(id, message).with(self.tree, *respond, "the answer");
            self.problems.push(problem);
            return;
        }
        let same = |other: &Action| {
            std::mem::discriminant(other) == std::mem::discriminant(action)
                && !matches!(other, Action::Reduce(_))
        };
        if let Some((first, _)) = before.iter().find(|(_, other)| same(other)) {
            let message = format!("a mode has one `{}`: keep one of the two", key(action));
            let problem = self.tree.on_value(id, message).with(self.tree, *first, "the first one");
            self.problems.push(problem);
        }
    }

    fn action(&mut self, at: &At<RawAction>, known: &Known<'_>) -> Option<Action> {
        let raw = &at.value;
        let reduces = raw.body.is_some()
            || raw.models.is_some()
            || raw.headers.is_some()
            || raw.path.is_some();
        let others = [
            raw.providers.is_some(),
            raw.serve_stale.is_some(),
            raw.shed.is_some(),
            raw.respond.is_some(),
            raw.notify.is_some(),
        ];
        let given = usize::from(reduces) + others.into_iter().filter(|given| *given).count();
        if given != 1 && !self.tree.damaged(at.id) {
            self.error(at.id, format!("expected one action, found {given}: each is an item of the list (`body`, `models`, `headers` and `path` may stand together)"));
        }
        if reduces {
            return Some(Action::Reduce(Box::new(self.reduction(raw))));
        }
        if let Some(at) = &raw.providers {
            return Some(Action::Use(self.use_instead(at, known)));
        }
        if let Some(at) = raw.serve_stale {
            return Some(Action::ServeStale(self.length(&Some(at), MS, MS..=MONTH)));
        }
        if let Some(at) = &raw.shed {
            return Some(Action::Shed(at.value.clone()));
        }
        if let Some(at) = &raw.respond {
            return Some(Action::Respond(Box::new(self.respond(at))));
        }
        self.notify(raw.notify.as_ref()?).map(|notify| Action::Notify(Box::new(notify)))
    }

    fn reduction(&mut self, raw: &RawAction) -> Reduction {
        let (set, remove) =
            raw.body.as_ref().map(|at| self.rewrite_body(&at.value)).unwrap_or_default();
        if let (Some(at), Some(twice)) =
            (&raw.body, set.iter().find(|(pointer, _)| remove.contains(pointer)))
        {
            self.error(at.id, format!("`{}` is set and removed: keep one of the two", twice.0));
        }
        let path = raw.path.as_ref().and_then(|at| self.rewrite_path(at));
        let headers = raw.headers.as_ref();
        let set_headers = headers.and_then(|at| at.set.as_ref()).map_or_else(Vec::new, |set| {
            set.0.iter().filter_map(|(name, at)| self.set_header(name, at)).collect()
        });
        let remove_headers =
            headers.and_then(|at| at.remove.as_ref()).map_or_else(Vec::new, |remove| {
                remove.iter().filter_map(|at| self.header_name(at)).collect()
            });
        self.set_and_removed(headers.map(|at| at.id), &set_headers, &remove_headers);
        let models = raw.models.as_ref().map_or_else(Vec::new, |at| {
            at.0.iter().map(|(from, to)| (from.clone(), to.value.clone())).collect()
        });
        let rewrite = super::model::Rewrite { path, set, remove };
        Reduction { rewrite, models, set_headers, remove_headers }
    }

    fn set_and_removed(
        &mut self,
        id: Option<NodeId>,
        set: &[(HeaderName, HeaderValue)],
        removed: &[HeaderName],
    ) {
        let twice = set.iter().find(|(name, _)| removed.contains(name));
        if let (Some(id), Some((name, _))) = (id, twice) {
            self.error(id, format!("`{name}` is set and removed: keep one of the two"));
        }
    }

    fn use_instead(&mut self, list: &At<Vec<At<String>>>, known: &Known<'_>) -> Vec<usize> {
        if list.is_empty() && !self.tree.damaged(list.id) {
            self.error(list.id, "no provider: expected at least one, like `[local]`");
        }
        let mut found = Vec::new();
        for at in &list.value {
            let Some(provider) = self.provider_named(at, known) else { continue };
            if found.contains(&provider) {
                self.error(at.id, format!("the provider `{}` is listed twice", at.value));
            } else {
                found.push(provider);
            }
        }
        found
    }
}

// === an answer of ours ===

impl Check<'_> {
    fn respond(&mut self, at: &At<RawRespond>) -> Respond {
        let raw = &at.value;
        let status = self.count(&raw.status, 503_u16, 200..=599);
        let (kind, mut body, content_type) = self.respond_body(at);
        let empty = matches!(status, 204 | 205 | 304);
        if let (true, Some(at)) = (empty && !body.is_empty(), &raw.status) {
            self.error(at.id, format!("an answer with status {status} has no body"));
            body.clear();
        }
        let mut headers = raw.headers.as_ref().map_or_else(Vec::new, |at| {
            let given = at.0.iter();
            given.filter_map(|(name, at)| self.respond_header(name, at)).collect()
        });
        if !body.is_empty() && headers.iter().all(|(name, _)| *name != CONTENT_TYPE) {
            headers.push((CONTENT_TYPE, content_type.to_owned()));
        }
        let status = StatusCode::from_u16(status).unwrap_or(StatusCode::SERVICE_UNAVAILABLE);
        Respond { status, headers, kind, body }
    }

    fn respond_body(&mut self, at: &At<RawRespond>) -> (RespondKind, String, &'static str) {
        const JSON: &str = "application/json";
        const TEXT: &str = "text/plain; charset=utf-8";
        let raw = &at.value;
        let given = [raw.json.is_some(), raw.text.is_some(), raw.file.is_some()];
        if given.into_iter().filter(|given| *given).count() > 1 {
            self.error(at.id, "expected one of `json`, `text` and `file`");
        }
        if let Some(at) = &raw.json {
            let body = self.tree.json(at.id).to_string();
            self.blanks(at.id, &body);
            return (RespondKind::Json, body, JSON);
        }
        if let Some(at) = &raw.text {
            self.blanks(at.id, at);
            return (RespondKind::Text, at.value.clone(), TEXT);
        }
        let Some(at) = &raw.file else { return (RespondKind::Text, String::new(), TEXT) };
        let path = PathBuf::from(at.as_str());
        let body = self.file(at.id, &path).and_then(|bytes| self.answer_file(at, bytes));
        let body = body.unwrap_or_default();
        self.blanks(at.id, &body);
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("json") => (RespondKind::Json, body, JSON),
            Some("html" | "htm") => (RespondKind::Text, body, "text/html; charset=utf-8"),
            _ => (RespondKind::Text, body, TEXT),
        }
    }

    fn answer_file(&mut self, at: &At<String>, bytes: Vec<u8>) -> Option<String> {
        let path = Path::new(at.as_str()).display().to_string();
        if bytes.len() as u64 > BODY {
            self.error(at.id, format!("the file `{path}` is longer than 1MiB"));
            return None;
        }
        let text = String::from_utf8(bytes).ok();
        if text.is_none() {
            self.error(at.id, format!("the file `{path}` is not UTF-8"));
        }
        text
    }

    fn respond_header(&mut self, name: &str, at: &At<String>) -> Option<(HeaderName, String)> {
        let name = self.header_name_of(at.id, name)?;
        if at.contains("${") {
            self.error(
                at.id,
                "an answer is public: `${...}` stands for a secret and is not resolved here",
            );
            return None;
        }
        self.blanks(at.id, at);
        let filled = BLANKS
            .iter()
            .fold(at.value.clone(), |text, blank| text.replace(&format!("{{{{{blank}}}}}"), "1"));
        self.header_value(at.id, &filled, false)?;
        Some((name, at.value.clone()))
    }

    /// Each `{{...}}` is one that is filled in.
    fn blanks(&mut self, id: NodeId, text: &str) {
        for after in text.split("{{").skip(1) {
            let Some((blank, _)) = after.split_once("}}") else { continue };
            let is_name = blank.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
            if is_name && !BLANKS.contains(&blank) {
                let known = BLANKS.map(|blank| format!("`{{{{{blank}}}}}`")).join(", ");
                self.error(
                    id,
                    format!("nothing is filled in for `{{{{{blank}}}}}`: known are {known}"),
                );
            }
        }
    }
}

// === who is told ===

impl Check<'_> {
    fn notify(&mut self, at: &At<RawNotify>) -> Option<Notify> {
        let raw = &at.value;
        self.missing(at.id, "url", "no `url`: expected one, like `\"${env:ALERT_WEBHOOK}\"`");
        let allowed = raw.allow.as_ref().map(|at| self.allowed_hosts(at));
        let secret = raw.secret.as_ref().and_then(|at| self.resolve(at));
        let secret = secret.map(|resolved| Secret::new(resolved.reference, resolved.text));
        let url = raw.url.as_ref()?;
        let resolved = self.resolve(url)?;
        let inline = resolved.reference == "inline";
        let Ok(to) = PostTo::read(&resolved.text) else {
            // What it is stays unsaid: it may be a secret.
            self.error(
                url.id,
                "this is no URL that can be posted to: expected one like `https://host/path`",
            );
            return None;
        };
        let host = to.url.authority.clone();
        if let (Some(allowed), false) =
            (allowed, raw.allow.as_ref().is_some_and(|at| self.tree.damaged(at.id)))
            && !allowed.iter().any(|pattern| pattern.matches(&host))
        {
            self.error(
                url.id,
                format!("the URL's host `{host}` is none of those that `allow` names"),
            );
        }
        let reference = match inline {
            true => super::shown::url(&without_path(&to)),
            false => resolved.reference,
        };
        Some(Notify { to, reference, secret })
    }

    fn allowed_hosts(&mut self, list: &At<Vec<At<String>>>) -> Vec<HostPattern> {
        if list.is_empty() && !self.tree.damaged(list.id) {
            self.error(list.id, "no host is allowed: leave `allow` out for any");
        }
        let parsed = list.iter().filter_map(|at| {
            HostPattern::parse(at).map_err(|message| self.error(at.id, message)).ok()
        });
        parsed.collect()
    }
}

/// A path may be the secret.
fn without_path(to: &PostTo) -> super::model::Url {
    super::model::Url { path: String::new(), ..to.url.clone() }
}

/// As the policy calls it.
pub fn key(action: &Action) -> &'static str {
    match action {
        Action::Reduce(_) => "reduce",
        Action::Use(_) => "use",
        Action::ServeStale(_) => "serve_stale",
        Action::Shed(_) => "shed",
        Action::Respond(_) => "respond",
        Action::Notify(_) => "notify",
    }
}
