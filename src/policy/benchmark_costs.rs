//! Checks the cost thresholds of benchmarks: a cost needs prices, in the currency of the threshold.

use super::section::{Checker, NamedSection, Threshold};
use super::sections::Policy;
use super::sections::benchmark::{BenchmarkPolicy, BenchmarkTarget};
use super::sections::provider::ProviderPolicy;
use super::yaml::diagnostic::Diagnostic;
use super::yaml::tree::NodeId;

pub(super) fn check_costs(check: &mut Checker<'_>, policy: &Policy) {
    let mut found = Vec::new();
    for benchmark in &policy.benchmarks {
        let Some(list) = check.declared(&[BenchmarkPolicy::KEY, &benchmark.name, "thresholds"])
        else {
            continue;
        };
        for threshold in &benchmark.thresholds {
            let Some(currency) = &threshold.currency else { continue };
            let at = node_of(check, list, threshold);
            let providers = providers(policy, &benchmark.target);
            found.extend(wrong_cost(check, at, currency, &providers));
        }
    }
    check.problems.extend(found);
}

/// The item of the list that declares this threshold, else the list.
fn node_of(check: &Checker<'_>, list: NodeId, threshold: &Threshold) -> NodeId {
    let mut items = check.tree.children(list);
    items.find(|item| check.tree.text(*item) == Some(&threshold.text)).unwrap_or(list)
}

/// The providers that may get the calls.
fn providers<'p>(policy: &'p Policy, target: &BenchmarkTarget) -> Vec<&'p ProviderPolicy> {
    let indices = match target {
        BenchmarkTarget::Provider(index) => vec![*index],
        BenchmarkTarget::Route(index) => {
            policy.routes.get(*index).map(|route| route.own_providers()).unwrap_or_default()
        }
    };
    indices.into_iter().filter_map(|index| policy.providers.get(index)).collect()
}

fn wrong_cost(
    check: &Checker<'_>,
    at: NodeId,
    currency: &str,
    providers: &[&ProviderPolicy],
) -> Option<Diagnostic> {
    // A provider that could not be read may have a price.
    let is_damaged = |provider: &&&ProviderPolicy| {
        let declared = check.declared(&[ProviderPolicy::KEY, &provider.name]);
        declared.is_some_and(|node| check.damaged(node))
    };
    if providers.is_empty() || providers.iter().any(|provider| is_damaged(&provider)) {
        return None;
    }
    let priced = providers.iter().filter_map(|one| Some((one, one.price.as_ref()?)));
    if priced.clone().next().is_none() {
        let message =
            format!("a threshold for the cost, but `{}` has no `price`", providers[0].name);
        let help = "add `price: { input: 2.50, output: 10.00 }` to the provider";
        return Some(check.tree.on_value(at, message).help(help));
    }
    let mut others = priced.filter(|(_, price)| price.currency != currency);
    let (provider, price) = others.next()?;
    let message = format!(
        "the threshold is in {currency}, but the `price` of `{}` is in {}",
        provider.name, price.currency
    );
    let problem = check.tree.on_value(at, message);
    Some(match check.declared(&[ProviderPolicy::KEY, &provider.name, "price"]) {
        Some(node) => problem.with(check.tree, node, "its price"),
        None => problem,
    })
}
