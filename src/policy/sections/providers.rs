//! The section `providers`: where requests go, with which credentials, how long they may take.
//!
//! An address is named by its host and port unless it has a name of its own, since its state is
//! kept under that name. What says nothing about credentials is decided by the routes
//! (`routes.rs`): only they know whether a provider is alone.

use std::time::Duration;

use regex_lite::Regex;
use serde_json::Value;

use super::model::{Address, Auth, ClientTls, ForwardProxy, Provider, Rewrite, Timeouts};
use super::raw::{
    RawClientTls, RawEndpoint, RawProvider, RawRewrite, RawRewriteBody, RawRewritePath, RawTimeouts,
};
use super::rules::Rules;
use super::urls::{basic, percent_decoded, provider_url, proxy_url, split_user};
use crate::json::pointer::Pointer;
use crate::policy::section::checker::{Check, DAY, MS};
use crate::policy::yaml::tree::NodeId;
use crate::policy::yaml::types::At;

const SECOND: Duration = Duration::from_secs(1);

/// A provider, and which of its addresses say nothing about credentials.
pub(crate) struct Checked {
    pub(crate) id: NodeId,
    pub(crate) provider: Provider,
    pub(crate) bare: Vec<usize>,
}

impl Check<'_> {
    pub(crate) fn provider(&mut self, name: &str, at: &At<RawProvider>, rules: &Rules) -> Checked {
        let raw = &at.value;
        let timeouts = self.timeouts(raw.timeouts.as_ref().map(|at| &at.value));
        let (addresses, bare) = self.addresses(at);
        let headers = raw.headers.as_ref();
        let mut breaker = rules.breaker(self, &raw.breaker);
        if let Some(breaker) = &mut breaker {
            breaker.policy.probe_lease = (timeouts.connect + timeouts.first_byte).div_f64(0.9);
        }
        let provider = Provider {
            name: name.to_owned(),
            addresses,
            set_headers: headers.and_then(|at| at.set.as_ref()).map_or_else(Vec::new, |set| {
                set.0.iter().filter_map(|(name, at)| self.set_header(name, at)).collect()
            }),
            remove_headers: headers
                .and_then(|at| at.remove.as_ref())
                .map_or_else(Vec::new, |remove| {
                    remove.iter().filter_map(|at| self.header_name(at)).collect()
                }),
            tls: raw.tls.as_ref().map(|at| self.client_tls(at)).unwrap_or_default(),
            proxy: raw.proxy.as_ref().and_then(|at| self.proxy(at)),
            models: raw.models.as_ref().map_or_else(Vec::new, |at| {
                at.0.iter().map(|(from, to)| (from.clone(), to.value.clone())).collect()
            }),
            rewrite: raw.rewrite.as_ref().map(|at| self.rewrite(at)).unwrap_or_default(),
            timeouts,
            capacity: self.capacity(&raw.capacity),
            breaker,
            retry: rules.retry(self, &raw.retry),
            prefill: raw
                .prefill
                .as_ref()
                .map_or_else(Vec::new, |at| at.iter().map(|model| model.value.clone()).collect()),
            usage: raw.usage.as_ref().map(|at| self.usage(at)).unwrap_or_default(),
            price: raw.price.as_ref().map(|at| self.price(at)),
            classify: raw
                .classify
                .as_ref()
                .map_or_else(Vec::new, |at| at.iter().map(|at| self.classify(at)).collect()),
        };
        Checked { id: at.id, provider, bare }
    }

    /// Its user and password may be secrets, and are split off before anything is quoted.
    fn proxy(&mut self, at: &At<String>) -> Option<ForwardProxy> {
        if at.as_str() == "none" {
            return None;
        }
        let (user, bare) = split_user(at);
        let url = proxy_url(&bare).map_err(|error| self.error(at.id, error)).ok();
        let user = match user {
            None => return url.map(|url| ForwardProxy { url, authorization: None }),
            Some(user) if user.contains("${") => {
                self.resolve(&At { id: at.id, value: user.to_owned() })?.text.into_bytes()
            }
            Some(user) => percent_decoded(user).or_else(|| {
                self.error(at.id, "the user name or password holds a wrong `%`");
                None
            })?,
        };
        url.map(|url| ForwardProxy { url, authorization: basic(&user) })
    }

    fn addresses(&mut self, at: &At<RawProvider>) -> (Vec<Address>, Vec<usize>) {
        let raw = &at.value;
        let own = raw.auth.as_ref().map(|at| self.auth(at));
        let mut found: Vec<(NodeId, Address, bool)> = Vec::new();
        match (&raw.url, &raw.endpoints) {
            (Some(url), None) => found.extend(self.address(url, None, None, own)),
            (None, Some(endpoints)) => {
                if endpoints.is_empty() && !self.tree.damaged(endpoints.id) {
                    self.error(endpoints.id, "no endpoint: expected at least one, like `{ url: https://api.example.com }`");
                }
                for endpoint in &endpoints.value {
                    found.extend(self.endpoint(endpoint, own.clone()));
                }
            }
            (Some(_), Some(endpoints)) => {
                let problem = self.tree.on_key(
                    endpoints.id,
                    "`url` and `endpoints` exclude each other: keep one of them",
                );
                self.problems.push(problem);
            }
            (None, None) if self.tree.child(at.id, "endpoints").is_some() => {}
            (None, None) => self.missing(at.id, "url", "the provider has no `url`"),
        }
        self.same_name(&found);
        let bare = found
            .iter()
            .enumerate()
            .filter(|(_, (_, _, bare))| *bare)
            .map(|(index, _)| index)
            .collect();
        (found.into_iter().map(|(_, address, _)| address).collect(), bare)
    }

    fn endpoint(
        &mut self,
        at: &At<RawEndpoint>,
        provider: Option<Auth>,
    ) -> Option<(NodeId, Address, bool)> {
        self.missing(at.id, "url", "the endpoint has no `url`");
        let auth = at.auth.as_ref().map(|at| self.auth(at)).or(provider);
        let weight = self.count(&at.weight, 1, 1..=1_000_000);
        if let Some(name) = &at.name
            && !name.contains(':')
        {
            self.name(|tree, message| tree.on_value(name.id, message), name);
        }
        let (_, mut address, bare) =
            self.address(at.url.as_ref()?, at.name.as_ref(), Some(at.id), auth)?;
        address.weight = weight;
        Some((at.id, address, bare))
    }

    fn address(
        &mut self,
        url: &At<String>,
        name: Option<&At<String>>,
        id: Option<NodeId>,
        auth: Option<Auth>,
    ) -> Option<(NodeId, Address, bool)> {
        let parsed = match provider_url(url) {
            Ok(parsed) => parsed,
            Err(message) => {
                self.error(url.id, message);
                return None;
            }
        };
        let host = if parsed.host.contains(':') {
            format!("[{}]", parsed.host)
        } else {
            parsed.host.clone()
        };
        let name = name.map_or_else(|| format!("{host}:{}", parsed.port), |at| at.value.clone());
        let bare = auth.is_none();
        let address = Address { name, url: parsed, weight: 1, auth: auth.unwrap_or(Auth::None) };
        Some((id.unwrap_or(url.id), address, bare))
    }

    fn same_name(&mut self, found: &[(NodeId, Address, bool)]) {
        for (index, (id, address, _)) in found.iter().enumerate() {
            if let Some((first, ..)) =
                found[..index].iter().find(|(_, other, _)| other.name == address.name)
            {
                let message = format!(
                    "two endpoints are named `{}`: give each a `name` of its own",
                    address.name
                );
                let problem =
                    self.tree.on_value(*id, message).with(self.tree, *first, "the first one");
                self.problems.push(problem);
            }
        }
    }

    pub(crate) fn set_header(
        &mut self,
        name: &str,
        at: &At<String>,
    ) -> Option<(http::HeaderName, http::HeaderValue)> {
        let name = self.header_name_of(at.id, name);
        let resolved = self.resolve(at)?;
        let value = self.header_value(at.id, &resolved.text, resolved.reference != "inline")?;
        Some((name?, value))
    }

    fn client_tls(&mut self, at: &At<RawClientTls>) -> ClientTls {
        let given = at.client_cert.is_some() || at.client_key.is_some();
        ClientTls {
            ca: at.ca.as_ref().and_then(|at| self.pem(at, "CERTIFICATE")),
            identity: given
                .then(|| {
                    self.identity(
                        at.id,
                        ("client_cert", &at.client_cert),
                        ("client_key", &at.client_key),
                    )
                })
                .flatten(),
            server_name: at.server_name.as_ref().map(|at| {
                let good =
                    |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | ':');
                if at.is_empty() || !at.chars().all(good) {
                    self.error(at.id, format!("`{}` is no name of a server", at.value));
                }
                at.value.clone()
            }),
        }
    }

    fn timeouts(&mut self, raw: Option<&RawTimeouts>) -> Timeouts {
        let headers = self.length(&raw.and_then(|raw| raw.headers), 60 * SECOND, MS..=DAY);
        Timeouts {
            connect: self.length(&raw.and_then(|raw| raw.connect), 2 * SECOND, MS..=DAY),
            headers,
            first_byte: self.length(&raw.and_then(|raw| raw.first_byte), headers, MS..=DAY),
            idle: self.length(&raw.and_then(|raw| raw.idle), 30 * SECOND, MS..=DAY),
        }
    }

    fn rewrite(&mut self, raw: &RawRewrite) -> Rewrite {
        let path = raw.path.as_ref().and_then(|at| self.rewrite_path(at));
        let Some(body) = &raw.body else { return Rewrite { path, ..Rewrite::default() } };
        let (set, remove) = self.rewrite_body(body);
        Rewrite { path, set, remove }
    }

    pub(crate) fn rewrite_path(&mut self, at: &At<RawRewritePath>) -> Option<(Regex, String)> {
        self.missing(at.id, "from", "the rewriting of the path has no `from`");
        self.missing(at.id, "to", "the rewriting of the path has no `to`");
        let from = at.from.as_ref().and_then(|at| self.regex(at.id, &at.value));
        let (from, to) = (from?, at.to.as_ref()?);
        if !to.starts_with(['/', '$']) && from.as_str().starts_with('^') {
            self.error(to.id, format!("`{}` is no path: expected a `/` first", to.value));
        }
        for group in to.split('$').skip(1) {
            let digits: String =
                group.trim_start_matches('{').chars().take_while(char::is_ascii_digit).collect();
            if digits.parse::<usize>().is_ok_and(|number| number >= from.captures_len()) {
                self.error(
                    to.id,
                    format!(
                        "`${digits}`: there is no such group in `from`, which has {}",
                        from.captures_len() - 1
                    ),
                );
            }
        }
        Some((from, to.value.clone()))
    }

    pub(crate) fn rewrite_body(
        &mut self,
        raw: &RawRewriteBody,
    ) -> (Vec<(Pointer, String)>, Vec<Pointer>) {
        let set = raw.set.as_ref().map_or_else(Vec::new, |at| {
            let entries = at.0.iter();
            entries
                .filter_map(|(key, at)| {
                    Some((self.pointer_key(at.id, key)?, self.tree.json(at.id).to_string()))
                })
                .collect()
        });
        let remove = raw.remove.as_ref().map_or_else(Vec::new, |at| {
            at.iter().filter_map(|at| self.pointer(at.id, &at.value)).collect()
        });
        (set, remove)
    }

    /// One that is a key; `id` is what stands behind it.
    pub(crate) fn pointer_key(&mut self, id: NodeId, text: &str) -> Option<Pointer> {
        let problem = match pointer(text) {
            Ok(pointer) => return Some(pointer),
            Err(message) => self.tree.on_key(id, message),
        };
        self.problems.push(problem);
        None
    }

    pub(crate) fn pointer(&mut self, id: NodeId, text: &str) -> Option<Pointer> {
        pointer(text).map_err(|message| self.error(id, message)).ok()
    }

    pub(crate) fn regex(&mut self, id: NodeId, text: &str) -> Option<Regex> {
        match Regex::new(text) {
            Ok(regex) => Some(regex),
            Err(error) => {
                self.error(id, format!("`{text}` is no regular expression: {error}"));
                None
            }
        }
    }
}

/// Into a document, not all of it.
fn pointer(text: &str) -> Result<Pointer, String> {
    match Pointer::parse(text)? {
        root if root.is_root() => {
            Err("expected a JSON pointer like `/model`, found nothing".to_owned())
        }
        pointer => Ok(pointer),
    }
}

impl crate::policy::yaml::tree::Tree {
    /// What YAML's core schema makes of it.
    pub(crate) fn json(&self, id: NodeId) -> Value {
        use crate::policy::yaml::tree::Kind;
        match &self.node(id).kind {
            Kind::Scalar { text, plain: true } => plain_json(text),
            Kind::Scalar { text, .. } => Value::String(text.clone()),
            Kind::List { .. } => self.children(id).map(|child| self.json(child)).collect(),
            Kind::Map { .. } => Value::Object(
                self.children(id)
                    .map(|child| (self.key(child).unwrap_or_default().to_owned(), self.json(child)))
                    .collect(),
            ),
        }
    }
}

fn plain_json(text: &str) -> Value {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => Value::Null,
        "true" | "True" | "TRUE" => Value::Bool(true),
        "false" | "False" | "FALSE" => Value::Bool(false),
        _ => {
            let number = text
                .parse::<i64>()
                .map(Value::from)
                .or_else(|_| text.parse::<u64>().map(Value::from));
            let digits = text
                .trim_start_matches(['-', '+'])
                .starts_with(|c: char| c.is_ascii_digit() || c == '.');
            let real = || {
                text.parse::<f64>().ok().filter(|real| digits && real.is_finite()).map(Value::from)
            };
            number.ok().or_else(real).unwrap_or_else(|| Value::String(text.to_owned()))
        }
    }
}
