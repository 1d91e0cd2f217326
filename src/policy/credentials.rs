//! Rules about the application's own credentials, which concern several sections at once.
//!
//! A provider with `auth: passthrough`, or a sole provider without `auth`, gets them. They must reach
//! only that provider, and they are never stored, so such a route takes no jobs.

use super::section::Checker;
use super::sections::auth::Auth;
use super::sections::provider::ProviderPolicy;
use super::sections::queue::{Accept, Queue};
use super::sections::route::RoutePolicy;
use super::validate::Declared;
use super::yaml::diagnostic::Diagnostic;
use super::yaml::tree::NodeId;

/// Whether the provider gets the application's own credentials.
fn passes_through(provider: &ProviderPolicy) -> bool {
    provider.addresses.iter().any(|endpoint| matches!(endpoint.auth, Auth::Passthrough))
}

fn is_bare(provider: &ProviderPolicy) -> bool {
    provider.addresses.iter().any(|endpoint| endpoint.bare)
}

/// Decides which provider gets the application's own credentials: the one of a route with
/// `auth: passthrough`, or a sole provider without `auth`. A provider without `auth` that is alone in one route
/// but not in another needs one, because credentials for one provider must not reach another.
pub(super) fn passthrough(
    check: &mut Checker<'_>,
    routes: &[(NodeId, RoutePolicy)],
    providers: &mut [Declared<ProviderPolicy>],
) {
    for (node, route) in routes {
        let own = route.own_providers();
        let alone = |index: usize| own == [index] && is_bare(&providers[index].value);
        let takes = |index: &usize| passes_through(&providers[*index].value) || alone(*index);
        let names: Vec<_> = route
            .all_providers()
            .iter()
            .filter(|index| takes(index))
            .map(|index| format!("`{}`", providers[*index].value.name))
            .collect();
        if names.len() > 1 {
            let message = format!(
                "the application's credentials would go to {}: only one provider of a route may get them, so give the others an `auth` of their own",
                names.join(" and ")
            );
            check.error(check.tree.child(*node, "providers").unwrap_or(*node), message);
        }
    }
    for (index, provider) in providers.iter_mut().enumerate() {
        if is_bare(&provider.value) {
            sole_provider(check, routes, index, provider);
        }
    }
}

/// A provider without `auth`.
fn sole_provider(
    check: &mut Checker<'_>,
    routes: &[(NodeId, RoutePolicy)],
    index: usize,
    provider: &mut Declared<ProviderPolicy>,
) {
    let uses = routes.iter().map(|(_, route)| route);
    let uses = uses.filter(|route| route.all_providers().contains(&index));
    let (alone, shared): (Vec<_>, Vec<_>) =
        uses.partition(|route| route.own_providers() == [index]);
    match (alone.first(), shared.first(), provider.node) {
        (Some(alone), Some(shared), Some(node)) => {
            let message = format!(
                "`{}` has no `auth`: it would get the application's credentials in route `{}`, where it is alone, but not in `{}`",
                provider.value.name, alone.name, shared.name
            );
            check.report(node, |tree| {
                tree.on_key(node, message).help("add `auth: passthrough` or `auth: none`")
            });
        }
        (Some(_), None, _) => {
            for endpoint in provider.value.addresses.iter_mut().filter(|endpoint| endpoint.bare) {
                endpoint.auth = Auth::Passthrough;
            }
        }
        _ => {}
    }
}

/// Decides which routes take jobs. A job outlives its request, so a route whose provider gets the
/// application's credentials takes none: they would have to be stored. That is a problem only where
/// the policy asks for jobs.
pub(super) fn jobs(
    check: &mut Checker<'_>,
    routes: &mut [(NodeId, RoutePolicy)],
    providers: &[Declared<ProviderPolicy>],
    queues: &[Declared<Queue>],
) {
    for (node, route) in routes {
        let Some(queue) = route.queue.map(|index| &queues[index]) else { continue };
        if queue.value.durable.accept == Accept::Never {
            continue;
        }
        let all = route.all_providers();
        let taker = all.iter().find(|index| passes_through(&providers[**index].value));
        let written = queue.node.and_then(|node| check.tree.child(node, "durable"));
        match (taker.map(|index| &providers[*index]), written) {
            (None, _) => route.durable = true,
            (Some(_), None) => {}
            (Some(provider), Some(written)) => {
                let problem = kept_credential(check, *node, route, provider, written);
                check.problems.extend(problem);
            }
        }
    }
}

fn kept_credential(
    check: &Checker<'_>,
    node: NodeId,
    route: &RoutePolicy,
    provider: &Declared<ProviderPolicy>,
    written: NodeId,
) -> Option<Diagnostic> {
    let tree = check.tree;
    // It may seem alone, or without `auth`, because something could not be read.
    let lists = ["providers", "fallback"].into_iter().filter_map(|key| tree.child(node, key));
    let named = lists.map(|list| tree.children(list).count()).sum::<usize>();
    let whole = named == route.all_providers().len();
    if !whole || check.damaged(node) || check.damaged(provider.node?) {
        return None;
    }
    let name = &provider.value.name;
    let message = format!(
        "route `{}` cannot take jobs: `{name}` gets the application's credentials, which would have to be stored",
        route.name
    );
    let at = tree.child(node, "queue").or_else(|| tree.child(node, "name")).unwrap_or(node);
    let problem = tree.on_value(at, message).with(tree, written, "jobs are enabled here");
    Some(problem.help(format!(
        "give `{name}` its own `auth`, or the route a queue with `durable: {{ accept: never }}`"
    )))
}
