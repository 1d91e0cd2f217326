//! The section `routes`: which requests go where, and what applies to them.
//!
//! Here it is also decided who gets the application's own credentials: the one provider of a
//! route that asked for them, or a sole provider that says nothing about credentials. A provider
//! that says nothing and is alone in one route but not in another has to say what it wants,
//! because credentials meant for one provider must not reach the next.

use std::collections::BTreeMap;
use std::time::Duration;

use http::Method;

use super::matcher::{HeaderMatch, HostPattern, PathPattern};
use super::model::{Affinity, AllowOverride, Auth, Match, Route, Weighted};
use super::providers::Checked;
use super::raw::{RawAffinity, RawHeaderMatch, RawHedge, RawMatch, RawRoute, RawWeighted};
use super::rules::{Rules, named};
use super::words::Override;
use crate::policy::section::checker::{Check, DAY, MS};
use crate::policy::yaml::tree::NodeId;
use crate::policy::yaml::types::{At, Share, TextOr};
use crate::resilience::balance::balancer::BalanceAlgorithm;
use crate::resilience::outcome::{AttemptClass, ClassSet, Idempotence};
use crate::resilience::retry::hedge::HedgePolicy;

const SECOND: Duration = Duration::from_secs(1);
const MOVES: [AttemptClass; 5] = [
    AttemptClass::Unsent,
    AttemptClass::Failure,
    AttemptClass::Throttled,
    AttemptClass::Credential,
    AttemptClass::TooLarge,
];

/// What a route may refer to.
pub(crate) struct Known<'a> {
    pub(crate) rules: &'a Rules,
    /// To places in the list; one that was declared, but could not be read, has none.
    pub(crate) providers: &'a BTreeMap<String, usize>,
    pub(crate) queues: &'a BTreeMap<String, usize>,
    pub(crate) caches: &'a BTreeMap<String, usize>,
    pub(crate) modes: &'a BTreeMap<String, usize>,
}

impl Check<'_> {
    pub(crate) fn route(&mut self, raw: &At<RawRoute>, known: &Known<'_>) -> Route {
        self.missing(raw.id, "name", "the route has no `name`");
        if let Some(name) = &raw.name {
            self.name(|tree, message| tree.on_value(name.id, message), name);
        }
        let providers = self.route_providers(raw, known);
        Route {
            name: raw.name.as_ref().map_or_else(String::new, |at| at.value.clone()),
            matcher: self.matcher(raw.matcher.as_ref().map(|at| &at.value)),
            strip_prefix: raw.strip_prefix.as_ref().and_then(|at| self.strip_prefix(at)),
            fallback: self.fallback(raw, &providers, known),
            providers,
            balance: raw.balance.map_or(BalanceAlgorithm::Latency, |at| at.value.0),
            fallback_on: match &raw.fallback_on {
                None => ClassSet::of(&MOVES),
                Some(at) => self.classes(&at.value, &MOVES),
            },
            idempotent: raw.idempotent.map_or(Idempotence::Auto, |at| at.value.0),
            timeout: self.length(&raw.timeout, 120 * SECOND, MS..=DAY),
            retry: known
                .rules
                .retry(self, &raw.retry)
                .unwrap_or_else(|| known.rules.retries["default"].clone()),
            replay: self.size(&raw.replay, 1 << 20, 0..=1 << 30),
            allow_override: allow_override(raw),
            stream: raw.stream.as_ref().map(|at| self.stream(at)).unwrap_or_default(),
            hedge: raw.hedge.as_ref().and_then(|at| self.hedge(at)),
            affinity: raw.affinity.as_ref().and_then(|at| self.affinity(at)),
            queue: self.route_queue(raw, known),
            durable: false,
            cache: self.route_cache(raw, known),
            degrade: self.route_degrade(raw, known),
            used: Vec::new(),
        }
    }

    fn route_providers(&mut self, raw: &At<RawRoute>, known: &Known<'_>) -> Vec<Weighted> {
        self.missing(raw.id, "providers", "the route has no `providers`");
        let Some(list) = &raw.providers else { return Vec::new() };
        if list.is_empty() && !self.tree.damaged(list.id) {
            self.error(list.id, "no provider: expected at least one, like `[openai]`");
        }
        let mut found = Vec::new();
        for at in &list.value {
            let Some((name, weight)) = self.weighted(at) else { continue };
            let Some(provider) = self.provider_named(&name, known) else { continue };
            if found.iter().any(|other: &Weighted| other.provider == provider) {
                self.error(at.id, format!("the provider `{}` is listed twice", name.value));
            } else {
                found.push(Weighted { provider, weight });
            }
        }
        found
    }

    fn weighted(&mut self, at: &At<TextOr<RawWeighted>>) -> Option<(At<String>, u32)> {
        match &at.value {
            TextOr::Text(name) => Some((At { id: at.id, value: name.clone() }, 1)),
            TextOr::Keys(raw) => {
                self.missing(at.id, "name", "expected the `name` of a provider");
                let weight = self.count(&raw.weight, 1, 1..=1_000_000);
                Some((raw.name.clone()?, weight))
            }
        }
    }

    pub(crate) fn provider_named(&mut self, name: &At<String>, known: &Known<'_>) -> Option<usize> {
        named(self, name, "provider", "providers", known.providers)
    }

    fn fallback(
        &mut self,
        raw: &At<RawRoute>,
        providers: &[Weighted],
        known: &Known<'_>,
    ) -> Vec<usize> {
        let mut found = Vec::new();
        for name in raw.fallback.iter().flat_map(|at| &at.value) {
            let Some(provider) = self.provider_named(name, known) else { continue };
            if providers.iter().any(|weighted| weighted.provider == provider) {
                self.error(
                    name.id,
                    format!(
                        "`{}` is one of `providers` already: a fallback is asked after all of them",
                        name.value
                    ),
                );
            } else if found.contains(&provider) {
                self.error(name.id, format!("the provider `{}` is listed twice", name.value));
            } else {
                found.push(provider);
            }
        }
        found
    }

    fn hedge(&mut self, at: &At<RawHedge>) -> Option<HedgePolicy> {
        self.missing(
            at.id,
            "extra_load",
            "the hedge has no `extra_load`: expected a share, like `2%`",
        );
        let after = at.after.map(|after| self.length(&Some(after), MS, MS..=DAY));
        let At { id, value: Share(extra_load) } = at.extra_load?;
        if extra_load <= 0.0 || extra_load > 0.5 {
            let found = self.tree.text(id).unwrap_or_default();
            self.error(
                id,
                format!("`{found}` is out of bounds: expected a share above `0`, up to `50%`"),
            );
        }
        Some(HedgePolicy { extra_load, after })
    }

    fn affinity(&mut self, at: &At<RawAffinity>) -> Option<Affinity> {
        self.missing(
            at.id,
            "header",
            "the affinity has no `header`: expected the name of one, like `x-session`",
        );
        let ttl = self.length(&at.ttl, 600 * SECOND, MS..=DAY);
        let header = self.header_name(at.header.as_ref()?)?;
        Some(Affinity { header, ttl })
    }

    fn strip_prefix(&mut self, at: &At<String>) -> Option<String> {
        let prefix = at.trim_end_matches('/');
        if !prefix.starts_with('/') || prefix.contains(['?', '#', '*']) {
            self.error(
                at.id,
                format!("`{}` is no prefix of a path: expected one like `/openai`", at.value),
            );
            return None;
        }
        Some(prefix.to_owned())
    }

    fn matcher(&mut self, raw: Option<&RawMatch>) -> Match {
        let Some(raw) = raw else {
            return Match {
                path: PathPattern::any(),
                methods: Vec::new(),
                host: None,
                headers: Vec::new(),
            };
        };
        let headers = raw.headers.iter().flat_map(|at| &at.0);
        Match {
            path: raw
                .path
                .as_ref()
                .and_then(|at| self.path_pattern(at))
                .unwrap_or_else(PathPattern::any),
            methods: raw.methods.as_ref().map_or_else(Vec::new, |at| {
                if at.is_empty() && !self.tree.damaged(at.id) {
                    self.error(at.id, "no method would ever match: leave `methods` out for any");
                }
                at.iter().filter_map(|at| self.method(at)).collect()
            }),
            host: raw.host.as_ref().and_then(|at| {
                HostPattern::parse(at).map_err(|message| self.error(at.id, message)).ok()
            }),
            headers: headers
                .filter_map(|(name, at)| {
                    let name = if name.eq_ignore_ascii_case("host") {
                        self.error(at.id, "the host is matched by `host`, not by `headers`");
                        None
                    } else {
                        self.header_name_of(at.id, name)
                    };
                    let wanted = self.header_match(at.id, &at.value);
                    Some((name?, wanted?))
                })
                .collect(),
        }
    }

    fn path_pattern(&mut self, at: &At<TextOr<super::raw::RawRegex>>) -> Option<PathPattern> {
        match &at.value {
            TextOr::Text(text) => {
                PathPattern::parse(text).map_err(|message| self.error(at.id, message)).ok()
            }
            TextOr::Keys(raw) => {
                self.missing(at.id, "regex", "expected a path, or `{ regex: ... }`");
                let regex = raw.regex.as_ref()?;
                self.regex(regex.id, regex).map(PathPattern::Regex)
            }
        }
    }

    fn method(&mut self, at: &At<String>) -> Option<Method> {
        const KNOWN: [&str; 8] =
            ["GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"];
        let good =
            !at.is_empty() && at.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'-');
        if at.as_str() == "CONNECT" || !good {
            self.unknown_word(at.id, at, &KNOWN);
            return None;
        }
        Method::from_bytes(at.as_bytes()).ok()
    }

    fn header_match(&mut self, id: NodeId, raw: &TextOr<RawHeaderMatch>) -> Option<HeaderMatch> {
        let raw = match raw {
            TextOr::Text(text) => return Some(HeaderMatch::Exact(text.clone())),
            TextOr::Keys(raw) => raw,
        };
        match (&raw.regex, &raw.present) {
            (Some(regex), None) => self.regex(regex.id, regex).map(HeaderMatch::Regex),
            (None, Some(present)) => Some(HeaderMatch::Present(present.value)),
            _ => {
                if !self.tree.damaged(id) {
                    self.error(id, "expected one of `regex` and `present`");
                }
                None
            }
        }
    }

    /// Who gets the application's own credentials.
    pub(crate) fn passthrough(&mut self, routes: &[(NodeId, Route)], providers: &mut [Checked]) {
        for (id, route) in routes {
            let all = everyone(route);
            // The only one of its own gets them where it says nothing.
            let alone = |index: usize| own(route) == [index] && !providers[index].bare.is_empty();
            let asking = all.iter().filter(|index| asks(&providers[**index]) || alone(**index));
            let names: Vec<_> =
                asking.map(|index| format!("`{}`", providers[*index].provider.name)).collect();
            if names.len() > 1 {
                let message = format!(
                    "{} would all be given the application's credentials: they go to one provider of a route (`auth: passthrough`, or no `auth` where it is alone)",
                    names.join(", ")
                );
                self.error(self.tree.child(*id, "providers").unwrap_or(*id), message);
            }
        }
        for (index, checked) in
            providers.iter_mut().enumerate().filter(|(_, checked)| !checked.bare.is_empty())
        {
            let mut uses = routes
                .iter()
                .map(|(_, route)| (route, everyone(route)))
                .filter(|(_, all)| all.contains(&index));
            let (alone, shared): (Vec<_>, Vec<_>) =
                uses.by_ref().partition(|(route, _)| own(route) == [index]);
            match (alone.first(), shared.first()) {
                (Some((alone, _)), Some((shared, _))) => {
                    let message = format!(
                        "`{}` has no `auth`: it would get the application's credentials in route `{}`, where it is alone, but not in `{}`",
                        checked.provider.name, alone.name, shared.name
                    );
                    let problem = self
                        .tree
                        .on_key(checked.id, message)
                        .help("say `auth: passthrough` or `auth: none`");
                    self.problems.push(problem);
                }
                (Some(_), None) => {
                    for address in &checked.bare {
                        checked.provider.addresses[*address].auth = Auth::Passthrough;
                    }
                }
                (None, _) => {}
            }
        }
    }
}

/// For the application's own credentials.
pub(crate) fn asks(checked: &Checked) -> bool {
    checked.provider.addresses.iter().any(|address| matches!(address.auth, Auth::Passthrough))
}

/// Its providers, then its fallback.
fn own(route: &Route) -> Vec<usize> {
    let first = route.providers.iter().map(|weighted| weighted.provider);
    first.chain(route.fallback.iter().copied()).collect()
}

/// Its own, then those that a mode may use.
pub(crate) fn everyone(route: &Route) -> Vec<usize> {
    own(route).into_iter().chain(route.used.iter().copied()).collect()
}

fn allow_override(raw: &RawRoute) -> AllowOverride {
    let mut allowed = AllowOverride::default();
    for at in raw.allow_override.iter().flat_map(|at| &at.value) {
        match at.value.0 {
            Override::Timeout => allowed.timeout = true,
            Override::Retry => allowed.retry = true,
            Override::Idempotent => allowed.idempotent = true,
            Override::Priority => allowed.priority = true,
        }
    }
    allowed
}
