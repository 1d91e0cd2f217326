//! Checks of a whole policy: prices in different currencies, which are an error, and warnings about
//! valid parts that cannot work as written: a route that never matches, a fallback, a hedge or a
//! continuation that is never used, a body that cannot be kept.
//!
//! The cost of a retry follows from the price of the provider that it goes to, so a route's
//! `budget.cost` and all of its prices are in one currency: a policy knows no exchange rates. A
//! provider without a price costs nothing, which may be true of one's own machine, but not of every
//! provider of a route with a cost budget.

use std::collections::BTreeSet;

use http::Method;

use super::endpoint_lints::{doubled_path, stateful_elsewhere, unnamed_preset};
use super::section::{Checker, NamedSection};
use super::sections::Policy;
use super::sections::action::{Action, ActionKind};
use super::sections::degradation::Degradation;
use super::sections::provider::ProviderPolicy;
use super::sections::response::OnCut;
use super::sections::retry::{Cost, Retry};
use super::sections::route::RoutePolicy;
use super::yaml::diagnostic::Diagnostic;
use super::yaml::tree::NodeId;
use super::yaml::units::show_size;
use crate::resilience::outcome::{AttemptClass, Idempotence};

// === costs ===

/// One problem for each pair of budget and provider, however many routes bring them together.
pub(super) fn currencies(check: &mut Checker<'_>, policy: &Policy) {
    let mut seen = BTreeSet::new();
    for route in &policy.routes {
        let Some(cost) = &route.retry.budget.cost else { continue };
        for provider in route.all_providers().into_iter().map(|index| &policy.providers[index]) {
            if seen.insert((&route.retry.name, &provider.name)) {
                let problem = other_currency(check, route, cost, provider);
                check.problems.extend(problem);
            }
        }
    }
}

fn other_currency(
    check: &Checker<'_>,
    route: &RoutePolicy,
    cost: &Cost,
    provider: &ProviderPolicy,
) -> Option<Diagnostic> {
    let price = provider.price.as_ref().filter(|price| price.currency != cost.currency)?;
    let message = format!(
        "`budget.cost` is in {}, but the `price` of `{}`, a provider of route `{}`, is in {}",
        cost.currency, provider.name, route.name, price.currency
    );
    let priced = check.declared(&[ProviderPolicy::KEY, &provider.name, "price"])?;
    // The currency may be the part that could not be read.
    let cost = cost_of(check, route).filter(|_| !check.damaged(priced))?;
    Some(check.tree.on_value(cost, message).with(check.tree, priced, "its price"))
}

fn cost_of(check: &Checker<'_>, route: &RoutePolicy) -> Option<NodeId> {
    check.declared(&[Retry::KEY, &route.retry.name, "budget", "cost"])
}

// === warnings ===

/// A route to check, and the position of its declaration.
#[derive(Clone, Copy)]
pub(super) struct Lint<'a> {
    pub(super) check: &'a Checker<'a>,
    pub(super) policy: &'a Policy,
    pub(super) route: &'a RoutePolicy,
    pub(super) node: NodeId,
}

/// Finds the warnings of a policy without errors. `nodes` are the positions of `policy.routes`.
pub(super) fn warnings(check: &Checker<'_>, policy: &Policy, nodes: &[NodeId]) -> Vec<Diagnostic> {
    let routes = policy.routes.iter().zip(nodes);
    let lints: Vec<_> =
        routes.map(|(route, node)| Lint { check, policy, route, node: *node }).collect();
    let mut found = Vec::new();
    for (index, lint) in lints.iter().copied().enumerate() {
        found.extend(never_matches(&lints[..index], lint));
        found.extend(unusable_fallback(lint));
        found.extend(larger_than_all_buffers(lint));
        found.extend(unusable_continue(lint));
        found.extend(unusable_hedge(lint));
        found.extend(unpriced(lint));
        found.extend(nothing_stale(lint));
        found.extend(doubled_path(lint));
        found.extend(stateful_elsewhere(lint));
    }
    found.extend(policy.providers.iter().filter_map(|one| unnamed_preset(check, one)));
    found.extend(idle_modes(check, policy));
    found.into_iter().map(Diagnostic::warning).collect()
}

fn never_matches(earlier: &[Lint<'_>], one: Lint<'_>) -> Option<Diagnostic> {
    let check = one.check;
    let first = earlier.iter().find(|other| other.route.matcher.covers(&one.route.matcher))?;
    let message = format!(
        "route `{}` can never match: `{}` comes first and matches all of its requests",
        one.route.name, first.route.name
    );
    let at = check.tree.child(one.node, "name").unwrap_or(one.node);
    Some(check.tree.on_value(at, message).with(check.tree, first.node, "this one"))
}

fn unusable_fallback(Lint { check, policy, route, node }: Lint<'_>) -> Option<Diagnostic> {
    let posts = [Method::POST, Method::PATCH];
    let methods = &route.matcher.methods;
    let takes = methods.is_empty() || posts.iter().any(|method| methods.contains(method));
    let moves = route.fallback_on.contains(AttemptClass::Failure);
    let repeats = match route.idempotent {
        Idempotence::Always => true,
        Idempotence::Auto => generate_alike(policy, route),
        Idempotence::Never => false,
    };
    if route.fallback.is_empty() || repeats || !takes || !moves {
        return None;
    }
    let at = check.tree.child(node, "fallback")?;
    let message = format!(
        "the fallback of route `{}` can never be used by a POST after a failure",
        route.name
    );
    let help = match route.idempotent {
        Idempotence::Never => "leave out `idempotent: never`, or `failure` of `fallback_on`",
        _ => {
            "give each provider its `preset` if the requests only generate, add `idempotent: always` if a POST may be sent twice, or leave `failure` out of `fallback_on`"
        }
    };
    Some(check.tree.on_key(at, message).help(help))
}

/// A request that only generates may move from one of the route's `providers` to a fallback.
fn generate_alike(policy: &Policy, route: &RoutePolicy) -> bool {
    let of = |index: usize| &policy.providers[index].generates;
    let mut first = route.providers.iter().flat_map(|weighted| of(weighted.provider));
    first.any(|one| route.fallback.iter().any(|index| of(*index).contains(one)))
}

fn larger_than_all_buffers(Lint { check, policy, route, node }: Lint<'_>) -> Vec<Diagnostic> {
    let all = policy.server.buffered;
    let kept = [
        (&["replay"][..], route.replay),
        (&["stream", "buffer", "bytes"], route.stream.buffer.bytes),
    ];
    let larger = kept.into_iter().filter(|(_, bytes)| *bytes > all);
    let problems = larger.filter_map(|(keys, _)| {
        let message = format!(
            "`{}` is more than `server.buffered` ({}), which holds all bodies together",
            keys.join("."),
            show_size(all)
        );
        Some(check.tree.on_value(check.tree.below(node, keys)?, message))
    });
    problems.collect()
}

fn unusable_continue(Lint { check, policy, route, node }: Lint<'_>) -> Option<Diagnostic> {
    let declares = |index: usize| !policy.providers[index].prefill.is_empty();
    if route.stream.on_cut != OnCut::Continue || route.all_providers().into_iter().any(declares) {
        return None;
    }
    let at = check.tree.below(node, &["stream", "on_cut"])?;
    let message = format!(
        "a broken stream of route `{}` can never be continued: none of its providers has `prefill`",
        route.name
    );
    Some(check.tree.on_value(at, message).help(
        "list under `prefill` the models that continue a last message of the assistant; without one, the stream ends with an error event",
    ))
}

fn unusable_hedge(Lint { check, policy, route, node }: Lint<'_>) -> Option<Diagnostic> {
    let never = route.idempotent == Idempotence::Never && !route.allow_override.idempotent;
    let endpoints = |index: usize| policy.providers[index].addresses.len();
    let alone = route.all_providers().into_iter().map(endpoints).sum::<usize>() == 1;
    let why = match (never, alone) {
        (true, _) => "no request may be repeated (`idempotent: never`)",
        (false, true) => "the route has only one endpoint",
        (false, false) => return None,
    };
    let at = check.tree.child(node, "hedge").filter(|_| route.hedge.is_some())?;
    let message = format!("a request of route `{}` can never be hedged: {why}", route.name);
    Some(check.tree.on_key(at, message))
}

fn unpriced(Lint { check, policy, route, node }: Lint<'_>) -> Option<Diagnostic> {
    let priced = |index: usize| policy.providers[index].price.is_some();
    if route.retry.budget.cost.is_none() || route.all_providers().into_iter().any(priced) {
        return None;
    }
    let message = format!(
        "`budget.cost` bounds nothing in route `{}`: none of its providers has a `price`",
        route.name
    );
    let named = check.tree.child(node, "name").unwrap_or(node);
    let at = cost_of(check, route)?;
    Some(check.tree.on_value(at, message).with(check.tree, named, "the route"))
}

// === degradation modes ===

/// A problem of a route with one of its modes; none if a part of either could not be read.
pub(super) fn mode_problem(
    check: &Checker<'_>,
    route: NodeId,
    mode: &str,
    message: String,
) -> Option<Diagnostic> {
    let tree = check.tree;
    let declared = check.declared(&[Degradation::KEY, mode])?;
    let queues = check.roots.iter().filter_map(|root| tree.child(*root, "queues"));
    let lost = queues.into_iter().any(|node| check.damaged(node));
    let list = tree.child(route, "degrade")?;
    let named = tree.children(list).find(|node| tree.text(*node) == Some(mode));
    if lost || check.damaged(route) || check.damaged(declared) {
        return None;
    }
    let problem = tree.on_value(named.unwrap_or(list), message);
    Some(problem.with(tree, declared, "the mode"))
}

fn nothing_stale(Lint { check, policy, route, node }: Lint<'_>) -> Vec<Diagnostic> {
    let stale = |mode: &&Degradation| {
        mode.actions.iter().any(|action| action.kind() == ActionKind::ServeStale)
    };
    let modes = route.degrade.iter().map(|index| &policy.degradations[*index]);
    let problems = modes.filter(stale).filter(|_| route.cache.is_none()).filter_map(|mode| {
        let message = format!(
            "route `{}` has no `cache`, so `serve_stale` of mode `{}` has no effect there",
            route.name, mode.name
        );
        mode_problem(check, node, &mode.name, message)
    });
    problems.collect()
}

/// Modes with actions that have no effect.
fn idle_modes(check: &Checker<'_>, policy: &Policy) -> Vec<Diagnostic> {
    let mut found = Vec::new();
    for (index, mode) in policy.degradations.iter().enumerate() {
        let Some(at) = check.declared(&[Degradation::KEY, &mode.name]) else { continue };
        if let Some(kind) = without_effect(mode) {
            let name = &mode.name;
            let kind = match kind {
                ActionKind::Use => "`use` has",
                _ => "changes to the request have",
            };
            let message =
                format!("`{name}` sends its `respond` to every request, so its {kind} no effect");
            found.push(check.tree.on_key(at, message));
        }
        let notifies = mode.actions.iter().all(|action| action.kind() == ActionKind::Notify);
        let unused = policy.routes.iter().all(|route| !route.degrade.contains(&index));
        if unused && !notifies {
            let message = format!(
                "no route has `{}` under `degrade`, so only `notify` actions of it can take effect",
                mode.name
            );
            found.push(check.tree.on_key(at, message));
        }
    }
    found
}

/// A change to requests in a mode that sends a static response to all of them.
fn without_effect(mode: &Degradation) -> Option<ActionKind> {
    let mut kinds = mode.actions.iter().map(Action::kind);
    let changes = kinds.clone().find(|kind| matches!(kind, ActionKind::Reduce | ActionKind::Use));
    changes.filter(|_| kinds.any(|kind| kind == ActionKind::Respond))
}
