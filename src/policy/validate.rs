//! Turns the trees of all files into a valid policy, or reports every problem at once.
//!
//! Files are merged first: a name identifies one entry across all of them. Then each section is read
//! by its own declaration (`sections/`). Rules that span several sections are checked last.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::Sources;
use super::benchmark_costs;
use super::credentials;
use super::lints;
use super::section::{Checker, Form, NamedSection, defaults};
use super::sections::Policy;
use super::sections::action::Action;
use super::sections::benchmark::BenchmarkPolicy;
use super::sections::breaker::{Breaker, Scope};
use super::sections::cache::Cache;
use super::sections::degradation::{Degradation, MOST_MODES};
use super::sections::provider::ProviderPolicy;
use super::sections::queue::Queue;
use super::sections::retry::Retry;
use super::sections::route::RoutePolicy;
use super::sections::server::Server;
use super::text::suggest::listed;
use super::yaml::diagnostic::{Diagnostic, Severity};
use super::yaml::tree::{NodeId, Tree};

pub(super) struct Validated {
    /// Only without errors.
    pub(super) policy: Option<Policy>,
    pub(super) problems: Vec<Diagnostic>,
    pub(super) files_read: Vec<PathBuf>,
}

/// An entry of a section, and where it is declared; one that is built in is declared nowhere.
pub(super) struct Declared<T> {
    pub(super) node: Option<NodeId>,
    pub(super) value: T,
}

/// `incomplete`: a file could not be read at all; `failed`: there are problems already.
pub(super) fn validate(
    tree: &Tree,
    roots: Vec<NodeId>,
    sources: &dyn Sources,
    incomplete: bool,
    failed: bool,
) -> Validated {
    let mut check = Checker::new(tree, sources, roots, incomplete);
    file_keys(&mut check);
    version(&mut check);
    let server = server(&mut check);
    collect_names(&mut check);
    let retries = named::<Retry>(&mut check);
    let breakers = named::<Breaker>(&mut check);
    let mut providers = named::<ProviderPolicy>(&mut check);
    let queues = named::<Queue>(&mut check);
    let caches = named::<Cache>(&mut check);
    let degradations = modes(&mut check);
    let (mut routes, disabled) = routes(&mut check);
    resolve_providers(&mut providers, &breakers, &retries, server.traces.is_some());
    resolve_routes(&mut routes, &retries, &degradations);
    shed_classes(&mut check, &routes, &degradations, &queues);
    credentials::passthrough(&mut check, &routes, &mut providers);
    credentials::jobs(&mut check, &mut routes, &providers, &queues);
    let (ids, routes): (Vec<_>, Vec<_>) = routes.into_iter().unzip();
    let policy = Policy {
        server,
        providers: values(providers),
        retries: values(retries),
        breakers: values(breakers),
        queues: values(queues),
        caches: values(caches),
        degradations: values(degradations),
        routes,
        benchmarks: values(named::<BenchmarkPolicy>(&mut check)),
    };
    lints::currencies(&mut check, &policy);
    benchmark_costs::check_costs(&mut check, &policy);
    let failed = failed || !check.problems.is_empty();
    if !failed {
        let warnings = lints::warnings(&check, &policy, &ids);
        check.problems.extend(warnings);
        no_route(&mut check, ids.len() + disabled);
    }
    Validated {
        policy: (!failed && !check.incomplete).then_some(policy),
        problems: check.problems,
        files_read: check.files_read.into_iter().collect(),
    }
}

/// Puts the policies that a provider names into it.
fn resolve_providers(
    providers: &mut [Declared<ProviderPolicy>],
    breakers: &[Declared<Breaker>],
    retries: &[Declared<Retry>],
    has_traces: bool,
) {
    for Declared { value, .. } in providers {
        value.has_token_spans = has_traces && !value.generates.is_empty();
        value.breaker = value.breaker_index.map(|index| breakers[index].value.clone());
        if let Some(breaker) = &mut value.breaker {
            let usual = if value.preset.is_some() { Scope::Model } else { Scope::Endpoint };
            breaker.scope.get_or_insert(usual);
        }
        value.retry = value.retry_index.map(|index| retry_at(retries, index));
    }
}

fn resolve_routes(
    routes: &mut [(NodeId, RoutePolicy)],
    retries: &[Declared<Retry>],
    modes: &[Declared<Degradation>],
) {
    for (_, route) in routes {
        route.retry = retry_at(retries, route.retry_index);
        route.used = degradation_providers(route, modes);
    }
}

fn values<T>(declared: Vec<Declared<T>>) -> Vec<T> {
    declared.into_iter().map(|one| one.value).collect()
}

fn retry_at(retries: &[Declared<Retry>], index: Option<usize>) -> Retry {
    index.map_or_else(Retry::none, |index| retries[index].value.clone())
}

// === files ===

/// A section that is not a map or list may hold any name.
fn file_keys(check: &mut Checker<'_>) {
    let known = super::sections::keys();
    let tree = check.tree;
    for root in check.roots.clone() {
        if check.map(root, &known).is_none() {
            check.incomplete = true;
        }
        for node in tree.children(root) {
            let key = tree.key(node).unwrap_or_default();
            let good = match key {
                "routes" => check.is_list(node),
                "version" | "server" => true,
                _ => check.is_map(node) || tree.is_null(node),
            };
            if !good && known.contains(&key) {
                check.incomplete = true;
                check.unexpected(node, if key == "routes" { "a list" } else { "a map" });
            }
        }
    }
}

fn version(check: &mut Checker<'_>) {
    let mut given = false;
    for root in check.roots.clone() {
        let Some(node) = check.tree.child(root, "version") else { continue };
        given = true;
        if let Some(version) = check.text(node, "a version").filter(|version| *version != "1") {
            check.error(node, format!("unknown version `{version}`: expected `1`"));
        }
    }
    if let (Some(first), false, false) = (check.roots.first(), given, check.incomplete) {
        let message = "no file declares `version`, the version of the policy language".to_owned();
        let file = check.tree.node(*first).file;
        check.problems.push(check.tree.in_file(file, 0..0, message).help("put `version: 1` first"));
    }
}

fn server(check: &mut Checker<'_>) -> Server {
    let tree = check.tree;
    let roots = check.roots.clone();
    let mut all = roots.iter().filter_map(|root| tree.child(*root, "server"));
    let Some(first) = all.next() else { return defaults() };
    for second in all {
        check.report(second, |tree| {
            let message = "`server` is set in two files: set it in one file only";
            tree.on_key(second, message).with(tree, first, "first defined here")
        });
    }
    Server::read(first, check).unwrap_or_else(defaults)
}

/// The entries of a section in all files.
fn declared(check: &Checker<'_>, section: &str) -> Vec<NodeId> {
    let tree = check.tree;
    let lists = check.roots.iter().filter_map(|root| tree.child(*root, section));
    lists.flat_map(|list| tree.children(list)).collect()
}

/// Remembers where a name is defined first, and reports each further definition.
fn define<'t>(
    check: &mut Checker<'_>,
    defined: &mut BTreeMap<&'t str, NodeId>,
    what: &str,
    name: &'t str,
    node: NodeId,
) {
    let first = *defined.entry(name).or_insert(node);
    if first != node {
        let message = format!("the {what} `{name}` is defined twice");
        check.report(node, |tree| {
            tree.on_key(node, message).with(tree, first, "first defined here")
        });
    }
}

// === names ===

fn collect_names(check: &mut Checker<'_>) {
    for (section, one, default) in [
        (ProviderPolicy::KEY, ProviderPolicy::ONE, false),
        (Retry::KEY, Retry::ONE, true),
        (Breaker::KEY, Breaker::ONE, true),
        (Queue::KEY, Queue::ONE, true),
        (Cache::KEY, Cache::ONE, false),
        (Degradation::KEY, Degradation::ONE, false),
        (BenchmarkPolicy::KEY, BenchmarkPolicy::ONE, false),
    ] {
        let mut first: BTreeMap<&str, NodeId> = BTreeMap::new();
        let tree = check.tree;
        for node in declared(check, section) {
            let name = tree.key(node).unwrap_or_default();
            check.named(node);
            define(check, &mut first, one, name, node);
        }
        let names: std::collections::BTreeSet<_> =
            first.keys().copied().chain(default.then_some("default")).collect();
        let mut position = 0;
        let indexed = names.into_iter().map(|name| {
            let used = section != Degradation::KEY
                || first.get(name).is_none_or(|node| is_enabled(tree, *node));
            let index = used.then_some(position);
            position += usize::from(used);
            (name.to_owned(), index)
        });
        let indexed = indexed.collect();
        check.names.sections.insert(section, indexed);
    }
    route_names(check);
}

fn route_names(check: &mut Checker<'_>) {
    let tree = check.tree;
    let (mut position, mut names, mut first) = (0, BTreeMap::new(), BTreeMap::new());
    for node in declared(check, RoutePolicy::KEY) {
        let enabled = is_enabled(tree, node);
        if let Some((at, name)) = tree.child(node, "name").and_then(|at| Some((at, tree.text(at)?)))
        {
            names.entry(name.to_owned()).or_insert(enabled.then_some(position));
            define(check, &mut first, RoutePolicy::ONE, name, at);
        }
        position += usize::from(enabled);
    }
    check.names.sections.insert(RoutePolicy::KEY, names);
}

fn is_enabled(tree: &Tree, node: NodeId) -> bool {
    tree.child(node, "enabled").and_then(|at| tree.text(at)) != Some("false")
}

// === sections of named entries ===

/// The entries of a section, in the order of their names. An entry that could not be read is replaced by
/// its default.
fn named<T: Form + NamedSection>(check: &mut Checker<'_>) -> Vec<Declared<T>> {
    let section = T::KEY;
    let names: Vec<_> = check.names.all(section).map(str::to_owned).collect();
    let mut found = Vec::with_capacity(names.len());
    for name in names {
        let node = check.declared(&[section, &name]);
        let read = node.and_then(|node| T::read(node, check));
        let Some(mut value) = read.or_else(T::absent) else { continue };
        value.set_name(name);
        found.push(Declared { node, value });
    }
    // A second entry of a name is read for its problems only.
    for node in declared(check, section) {
        let name = check.tree.key(node).unwrap_or_default();
        if check.declared(&[section, name]) != Some(node) {
            T::read(node, check);
        }
    }
    found
}

/// The enabled modes, in the order of their names.
fn modes(check: &mut Checker<'_>) -> Vec<Declared<Degradation>> {
    let section = Degradation::KEY;
    let names: Vec<_> = check.names.all(section).map(str::to_owned).collect();
    let mut found = Vec::new();
    for name in names {
        let Some(node) = check.declared(&[section, &name]) else { continue };
        let mode = Degradation::read(node, check);
        if !is_enabled(check.tree, node) {
            continue;
        }
        if found.len() == MOST_MODES {
            check.error_on_key(node, format!("more than {MOST_MODES} modes are enabled"));
        }
        let mut value = mode.unwrap_or_else(Degradation::stand_in);
        value.name = name;
        found.push(Declared { node: Some(node), value });
    }
    found
}

/// The enabled routes in their order, and the number of others.
fn routes(check: &mut Checker<'_>) -> (Vec<(NodeId, RoutePolicy)>, usize) {
    let (mut found, mut disabled) = (Vec::new(), 0);
    for node in declared(check, RoutePolicy::KEY) {
        let route = RoutePolicy::read(node, check);
        match is_enabled(check.tree, node) {
            true => found.extend(route.map(|route| (node, route))),
            false => disabled += 1,
        }
    }
    (found, disabled)
}

/// The providers that a route's modes may use besides the route's own.
fn degradation_providers(route: &RoutePolicy, modes: &[Declared<Degradation>]) -> Vec<usize> {
    let own = route.own_providers();
    let mut found = Vec::new();
    for action in route.degrade.iter().flat_map(|index| &modes[*index].value.actions) {
        let Action::Use(providers) = action else { continue };
        for provider in providers {
            if !own.contains(provider) && !found.contains(provider) {
                found.push(*provider);
            }
        }
    }
    found
}

// === checks of several sections ===

/// Checks that each route of a mode has the class that the mode sheds.
fn shed_classes(
    check: &mut Checker<'_>,
    routes: &[(NodeId, RoutePolicy)],
    modes: &[Declared<Degradation>],
    queues: &[Declared<Queue>],
) {
    for (node, route) in routes {
        for mode in route.degrade.iter().map(|index| &modes[*index].value) {
            let class = mode.actions.iter().find_map(|action| match action {
                Action::Shed(class) => Some(class),
                _ => None,
            });
            let Some(class) = class else { continue };
            let why = match route.queue.map(|index| &queues[index].value) {
                None if !says_none(check, *node) => continue,
                None => format!("route `{}` has no queue", route.name),
                Some(queue) if queue.classes.iter().any(|one| one.name == *class) => continue,
                Some(queue) => {
                    let known = listed(queue.classes.iter().map(|class| class.name.as_str()));
                    let route = &route.name;
                    format!("the queue of route `{route}` has no such class: expected {known}")
                }
            };
            let message = format!("mode `{}` cannot shed class `{class}`: {why}", mode.name);
            let problem = lints::mode_problem(check, *node, &mode.name, message);
            check.problems.extend(problem);
        }
    }
}

/// `queue: none`, and not a name that could not be resolved.
fn says_none(check: &Checker<'_>, route: NodeId) -> bool {
    let queue = check.tree.child(route, "queue").and_then(|at| check.tree.text(at));
    queue == Some("none")
}

fn no_route(check: &mut Checker<'_>, routes: usize) {
    if let (Some(first), 0) = (check.roots.first(), routes) {
        let file = check.tree.node(*first).file;
        let message = "there is no route: every request is rejected".to_owned();
        let mut problem = check.tree.in_file(file, 0..0, message);
        problem.severity = Severity::Warning;
        check.problems.push(problem);
    }
}
