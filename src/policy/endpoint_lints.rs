//! Warnings about routes whose requests reach a wrong path, or another provider than the one that
//! knows them.

use super::lints::Lint;
use super::presets::{self, Preset};
use super::section::{Checker, NamedSection};
use super::sections::Policy;
use super::sections::matcher::{PathPattern, Segment};
use super::sections::provider::ProviderPolicy;
use super::yaml::diagnostic::Diagnostic;

/// Finds URLs whose path ends with the start of the route's path, so that requests have it twice.
pub(super) fn doubled_path(lint: Lint<'_>) -> Vec<Diagnostic> {
    let Lint { check, policy, route, .. } = lint;
    let sent = exact_segments(lint);
    let mut found = Vec::new();
    for index in route.all_providers() {
        let provider = &policy.providers[index];
        let paths = provider.addresses.iter().map(|endpoint| endpoint.url.path.as_str());
        for path in paths.filter(|path| !path.is_empty()) {
            let Some(shared) = overlap(path, &sent).filter(|_| !changes_path(provider)) else {
                continue;
            };
            let whole = format!("{path}/{}", sent.join("/"));
            let message = format!(
                "requests of route `{}` reach `{}` below `{whole}`: `{shared}` is in the URL and in the route's path",
                route.name, provider.name
            );
            let at = check.declared(&[ProviderPolicy::KEY, &provider.name, "url"]);
            let help = format!(
                "leave `{shared}` out of the URL, or add `strip_prefix: {shared}` to the route"
            );
            found.extend(Some(check.tree.on_value(at.unwrap_or(lint.node), message).help(help)));
            break;
        }
    }
    found
}

/// The segments that each request of the route begins with, as they are sent.
fn exact_segments<'a>(lint: Lint<'a>) -> Vec<&'a str> {
    let PathPattern::Segments { segments, .. } = &lint.route.matcher.path else {
        return Vec::new();
    };
    let exact = segments.iter().map_while(|segment| match segment {
        Segment::Exact(text) => Some(text.as_str()),
        Segment::Any => None,
    });
    let exact: Vec<&str> = exact.collect();
    let Some(prefix) = &lint.route.strip_prefix else { return exact };
    let removed: Vec<&str> = prefix.split('/').filter(|part| !part.is_empty()).collect();
    match exact.strip_prefix(removed.as_slice()) {
        Some(rest) => rest.to_vec(),
        None => exact,
    }
}

/// The longest end of the URL's path that is the start of the request's.
fn overlap(path: &str, sent: &[&str]) -> Option<String> {
    let own: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
    let longest = (1..=own.len().min(sent.len())).rev().find(|n| own.ends_with(&sent[..*n]))?;
    Some(format!("/{}", sent[..longest].join("/")))
}

fn changes_path(provider: &ProviderPolicy) -> bool {
    provider.rewrite.path.is_some()
}

/// The resources that exist at this provider only. A provider without a preset may have OpenAI's.
fn known_resources(policy: &Policy, provider: usize) -> Vec<String> {
    let provider = &policy.providers[provider];
    let compatible = || Preset::named("openai").map(|preset| preset.texts("stateful"));
    match provider.preset.is_none() && provider.stateful.is_empty() {
        true => compatible().unwrap_or_default(),
        false => provider.stateful.clone(),
    }
}

/// A provider without a preset whose URL belongs to one.
pub(super) fn unnamed_preset(check: &Checker<'_>, provider: &ProviderPolicy) -> Option<Diagnostic> {
    let node = check.declared(&[ProviderPolicy::KEY, &provider.name])?;
    if check.tree.child(node, "preset").is_some() {
        return None;
    }
    let mut known = provider.addresses.iter().filter_map(|endpoint| {
        let preset = presets::ALL.iter().find(|preset| preset.has_host(&endpoint.url.host))?;
        Some((endpoint, preset.name))
    });
    let (endpoint, preset) = known.next()?;
    let message = format!("there is a preset for `{}`", endpoint.url.host);
    let at = check.tree.child(node, "url").or(check.tree.child(node, "endpoints"));
    Some(check.tree.on_value(at.unwrap_or(node), message).help(format!(
        "write `preset: {preset}` and `key` instead of `auth`: then a request that only generates may be repeated; `preset: none` keeps it as it is"
    )))
}

/// A file or a thread exists at one provider only; the others return 404.
pub(super) fn stateful_elsewhere(lint: Lint<'_>) -> Option<Diagnostic> {
    let Lint { check, policy, route, node, .. } = lint;
    let own = route.own_providers();
    let PathPattern::Segments { segments, .. } = &route.matcher.path else { return None };
    if own.len() < 2 {
        return None;
    }
    let stateful: Vec<_> = own.iter().flat_map(|index| known_resources(policy, *index)).collect();
    let named = segments.iter().find_map(|segment| match segment {
        Segment::Exact(text) => stateful.iter().find(|name| *name == text),
        Segment::Any => None,
    })?;
    let message = format!(
        "route `{}` sends `{named}` to several providers, but each exists only at the provider that created it",
        route.name
    );
    let key = if route.fallback.is_empty() { "providers" } else { "fallback" };
    let at = check.tree.child(node, key).unwrap_or(node);
    Some(check.tree.on_key(at, message).help("use one provider in a route for these requests"))
}
