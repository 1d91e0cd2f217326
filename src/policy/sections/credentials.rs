//! Secrets: from `${env:NAME}` and `${file:PATH}` to header values that nobody prints.
//!
//! A credential is known by its reference, so two of one provider need different ones. Messages
//! name the reference, never what it stands for; a value that no header can hold is reported
//! without being shown. The newline that editors put at the end of a secret's file is not part
//! of it.

use std::path::Path;

use http::{HeaderName, HeaderValue};

use super::model::{Auth, Credential};
use super::raw::{RawAuth, RawAuthHeader, RawBasic};
use super::urls::basic;
use crate::policy::section::checker::Check;
use crate::policy::text::redact::is_quotable;
use crate::policy::text::suggest::nearest;
use crate::policy::yaml::tree::NodeId;
use crate::policy::yaml::types::{At, OneOrMany, TextOr};

/// A text with its references replaced.
pub(crate) struct Resolved {
    /// `inline` where there is none.
    pub(crate) reference: String,
    pub(crate) text: String,
}

impl Check<'_> {
    pub(crate) fn auth(&mut self, at: &At<TextOr<RawAuth>>) -> Auth {
        match &at.value {
            TextOr::Text(word) => self.auth_word(at.id, word),
            TextOr::Keys(raw) => {
                let given = [raw.bearer.is_some(), raw.header.is_some(), raw.basic.is_some()];
                if given.iter().filter(|given| **given).count() != 1 && !self.tree.damaged(at.id) {
                    self.error(at.id, "expected one of `bearer`, `header` and `basic`");
                }
                Auth::Credentials(self.credentials(raw))
            }
        }
    }

    fn auth_word(&mut self, id: NodeId, word: &str) -> Auth {
        match word {
            "passthrough" => return Auth::Passthrough,
            "none" => return Auth::None,
            _ => {}
        }
        let near =
            nearest(word, ["passthrough", "none"]).map(|near| format!("did you mean `{near}`?"));
        let message =
            "expected `passthrough`, `none`, or one of the keys `bearer`, `header` and `basic`";
        let problem = self.tree.on_value(id, message).label(near);
        self.problems.push(problem);
        Auth::None
    }

    fn credentials(&mut self, raw: &RawAuth) -> Vec<Credential> {
        let mut all = Vec::new();
        if let Some(values) = &raw.bearer {
            all.extend(self.each(values, |check, at| check.bearer(at)));
        }
        if let Some(header) = &raw.header {
            all.extend(self.header_credentials(header));
        }
        if let Some(raw) = &raw.basic {
            all.extend(self.basic_credential(raw).map(|credential| (raw.id, credential)));
        }
        for (index, (id, credential)) in all.iter().enumerate() {
            let reference = &credential.reference;
            if all[..index].iter().any(|(_, other)| other.reference == *reference) {
                self.error(*id, match reference.as_str() {
                    "inline" => "two credentials in the policy itself cannot be told apart: refer to them as `${env:NAME}`".to_owned(),
                    _ => format!("the credential `{reference}` is given twice"),
                });
            }
        }
        all.into_iter().map(|(_, credential)| credential).collect()
    }

    fn each(
        &mut self,
        values: &At<OneOrMany<String>>,
        mut one: impl FnMut(&mut Self, &At<String>) -> Option<Credential>,
    ) -> Vec<(NodeId, Credential)> {
        if values.0.is_empty() && !self.tree.damaged(values.id) {
            self.error(values.id, "no credential: expected at least one, like `${env:API_KEY}`");
        }
        values.0.iter().filter_map(|at| Some((at.id, one(self, at)?))).collect()
    }

    fn bearer(&mut self, at: &At<String>) -> Option<Credential> {
        let resolved = self.resolve(at)?;
        let value = self.header_value(at.id, &format!("Bearer {}", resolved.text), true)?;
        Some(Credential {
            reference: resolved.reference,
            header: http::header::AUTHORIZATION,
            value,
        })
    }

    fn header_credentials(&mut self, raw: &At<RawAuthHeader>) -> Vec<(NodeId, Credential)> {
        self.missing(raw.id, "name", "the header has no `name`");
        self.missing(raw.id, "value", "the header has no `value`");
        let name = raw.name.as_ref().and_then(|at| self.header_name(at));
        let Some(values) = &raw.value.value else { return Vec::new() };
        self.each(values, |check, at| {
            let resolved = check.resolve(at)?;
            let value = check.header_value(at.id, &resolved.text, true)?;
            Some(Credential { reference: resolved.reference, header: name.clone()?, value })
        })
    }

    fn basic_credential(&mut self, raw: &At<RawBasic>) -> Option<Credential> {
        self.missing(raw.id, "username", "`basic` has no `username`");
        self.missing(raw.id, "password", "`basic` has no `password`");
        let user = raw.username.as_ref().and_then(|at| self.resolve(at));
        let password = raw.password.as_ref().and_then(|at| self.resolve(at));
        let (user, password) = (user?, password?);
        if user.text.contains(':') {
            let id = raw.username.as_ref().map_or(raw.id, |at| at.id);
            self.error(id, "a user name for `basic` holds no `:`");
        }
        let value = basic(format!("{}:{}", user.text, password.text).as_bytes())?;
        Some(Credential {
            reference: password.reference,
            header: http::header::AUTHORIZATION,
            value,
        })
    }

    pub(crate) fn header_name(&mut self, at: &At<String>) -> Option<HeaderName> {
        self.header_name_of(at.id, &at.value)
    }

    /// One whose values may be looked at, compared and kept.
    pub(crate) fn open_header_name(&mut self, at: &At<String>) -> Option<HeaderName> {
        const CREDENTIALS: [&str; 5] =
            ["authorization", "x-api-key", "api-key", "cookie", "proxy-authorization"];
        let name = self.header_name(at)?;
        if CREDENTIALS.contains(&name.as_str()) {
            let message = format!(
                "the header `{name}` holds a credential: expected one like `x-tenant`, whose values are no secret"
            );
            self.error(at.id, message);
        }
        Some(name)
    }

    /// One that a policy may set, remove or look for.
    pub(crate) fn header_name_of(&mut self, id: NodeId, name: &str) -> Option<HeaderName> {
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
        match HeaderName::from_bytes(name.as_bytes()) {
            Ok(name) if FRAMING.contains(&name.as_str()) => {
                let problem = self.tree.on_key(
                    id,
                    format!("the header `{name}` belongs to the connection, not to the policy"),
                );
                self.problems.push(problem);
                None
            }
            Ok(name) => Some(name),
            Err(_) => {
                self.problems
                    .push(self.tree.on_key(id, format!("`{name}` is no name of a header")));
                None
            }
        }
    }

    pub(crate) fn header_value(
        &mut self,
        id: NodeId,
        text: &str,
        sensitive: bool,
    ) -> Option<HeaderValue> {
        let Ok(mut value) = HeaderValue::from_bytes(text.as_bytes()) else {
            self.error(
                id,
                "no header can hold this value: it has a line break or another control character",
            );
            return None;
        };
        value.set_sensitive(sensitive);
        Some(value)
    }

    /// Replaces each reference; `None` was reported.
    pub(crate) fn resolve(&mut self, at: &At<String>) -> Option<Resolved> {
        let (mut text, mut references) = (String::new(), Vec::new());
        let mut rest = at.as_str();
        let mut good = true;
        while let Some((before, after)) = rest.split_once("${") {
            text.push_str(before);
            let Some((reference, after)) = after.split_once('}') else {
                self.error(at.id, "`${` without its `}`: expected `${env:NAME}` or `${file:PATH}`");
                return None;
            };
            match self.look_up(at.id, reference) {
                Some(value) => text.push_str(&value),
                None => good = false,
            }
            references.push(reference);
            rest = after;
        }
        text.push_str(rest);
        if text.is_empty() && good {
            self.error(at.id, "expected a value, found nothing");
            return None;
        }
        let reference =
            if references.is_empty() { "inline".to_owned() } else { references.join("+") };
        good.then_some(Resolved { reference, text })
    }

    fn look_up(&mut self, id: NodeId, reference: &str) -> Option<String> {
        if !is_quotable(reference) {
            self.error(
                id,
                "what stands in `${...}` is no name: expected `${env:NAME}` or `${file:PATH}`",
            );
            return None;
        }
        let (value, what) = match reference.split_once(':') {
            Some(("env", name)) => {
                (self.sources.env(name), format!("the environment variable `{name}`"))
            }
            Some(("file", path)) => {
                let bytes = self.file(id, Path::new(path))?;
                let Ok(text) = String::from_utf8(bytes) else {
                    self.error(id, format!("the file `{path}` is not UTF-8"));
                    return None;
                };
                (Some(text.trim_end_matches(['\r', '\n']).to_owned()), format!("the file `{path}`"))
            }
            _ => {
                self.error(id, format!("unknown reference `${{{reference}}}`: expected `${{env:NAME}}` or `${{file:PATH}}`"));
                return None;
            }
        };
        match value {
            Some(value) if !value.is_empty() => return Some(value),
            Some(_) => self.error(id, format!("{what} is empty")),
            None => self.error(id, format!("{what} is not set")),
        }
        None
    }
}
