//! Imports: down the layers, in the declared order inside a folder, and never in a circle.
//!
//! An import counts where it is written: a re-export does not hide the file that it goes through.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt::{self, Display, Formatter};

use crate::source::{Source, Tree, is_identifier, parent};

/// Module of the crate, and its layer.
const LAYERS: [(&str, u8); 25] = [
    ("main", 9),
    // Declares the modules and holds nothing else.
    ("lib", 9),
    ("cli", 9),
    ("app", 8),
    ("admin", 7),
    ("jobs", 6),
    ("benchmark", 6),
    ("proxy", 5),
    ("fleet", 5),
    ("degradation", 5),
    ("tracking", 5),
    ("history", 5),
    ("traces", 5),
    ("snapshot", 4),
    ("live", 3),
    ("upstream", 3),
    ("cache", 3),
    ("store", 2),
    ("stream", 2),
    ("telemetry", 2),
    ("policy", 1),
    ("clock", 1),
    ("resilience", 0),
    ("json", 0),
    ("credentials", 0),
];

/// For each folder with subfolders, its parts from upper to lower: one line for each step. A part
/// is a subfolder or a file of the folder itself; `*` stands for the files without a step of their
/// own. Files of one step may import each other.
const ORDERS: &[(&str, &[&str])] = &[
    (
        "proxy",
        &[
            "*",
            "jobs",
            "caching",
            "dispatch",
            "degradation",
            "response",
            "attempt",
            "signals",
            "request",
            "access_log",
            "downstream",
        ],
    ),
    (
        "admin",
        &["mod", "recommendations", "analytics", "benchmarks history status", "*", "openapi"],
    ),
    ("cli", &["mod top analytics watch bench setup *"]),
    ("benchmark", &["mod", "runner local", "run schedule", "*", "history", "report"]),
    ("fleet", &["*", "redis"]),
    ("jobs", &["mod", "*", "sharing"]),
    ("store", &["*"]),
    (
        "live",
        &[
            "*",
            "breaker",
            "quota",
            "tracking",
            "queue",
            "degradation",
            "fleet operator_override by_model",
        ],
    ),
    ("upstream", &["*", "http1"]),
    ("policy", &["*", "sections", "presets", "section", "yaml", "text"]),
    (
        "resilience",
        &[
            "mod", "baseline", "breaker", "queue", "rate", "balance", "retry", "limits", "stats",
            "*",
        ],
    ),
];

/// A path in `from` that leads to another file of the crate.
struct Import<'a> {
    from: &'a Source,
    /// The token where the path begins.
    at: usize,
    to: &'a Source,
}

/// The graph of imports: for each unit the units that it imports, with one import as an example.
type Edges = BTreeMap<String, BTreeMap<String, String>>;

/// Upward and sideways imports between the modules of the crate. Tests are held to it as well.
pub fn layers(tree: &Tree) -> Vec<String> {
    let mut broken = Vec::new();
    for source in &tree.crate_sources {
        let own = source.module.first().map_or("lib", String::as_str);
        let Some(from) = layer(own) else {
            let rule = format!("`{own}` has no layer; give it one in LAYERS");
            broken.push(source.file_failure(&rule));
            continue;
        };
        for (at, path) in paths(source) {
            let Some(name) = path.first().filter(|name| *name != own) else { continue };
            let rule = match layer(name) {
                None => "this is no module of the crate: import the item from the module it is in",
                Some(to) if to < from => continue,
                Some(to) if to == from => "never sideways: move the shared part to a lower layer",
                Some(_) => "never upwards: move the item down, or pass it in from above",
            };
            let to = layer(name).map_or("none".to_owned(), |layer| layer.to_string());
            let found = format!("`{own}` (layer {from}) imports `crate::{name}` (layer {to})");
            broken.push(source.failure(at, &format!("{found}; {rule}")));
        }
    }
    broken
}

/// Upward imports between the parts of a folder with subfolders.
pub fn order(tree: &Tree) -> Vec<String> {
    order_by(tree, ORDERS)
}

fn order_by(tree: &Tree, orders: &[(&str, &[&str])]) -> Vec<String> {
    let mut broken = unplaced_parts(tree, orders);
    for Import { from, at, to } in imports(tree) {
        let (Some(upper), Some(lower)) = (part(tree, from), part(tree, to)) else { continue };
        if upper.folder != lower.folder || upper.name == lower.name {
            continue;
        }
        if let (Some(from_step), Some(to_step)) = (step(&upper, orders), step(&lower, orders))
            && from_step > to_step
        {
            let rule = format!(
                "`{upper}` imports `{lower}`, which is above it in ORDERS; move the item down, or \
                 pass it in from above"
            );
            broken.push(from.failure(at, &rule));
        }
    }
    broken.dedup();
    broken
}

/// The step of a part in the order of its folder.
fn step(part: &Part, orders: &[(&str, &[&str])]) -> Option<usize> {
    let (_, order) = orders.iter().find(|(folder, _)| *folder == part.folder)?;
    let position = |name| order.iter().position(|step| step.split(' ').any(|own| own == name));
    position(part.name.as_str()).or_else(|| position("*").filter(|_| !part.is_folder))
}

/// Parts that have no step, and steps that no part has.
fn unplaced_parts(tree: &Tree, orders: &[(&str, &[&str])]) -> Vec<String> {
    let parts: BTreeMap<_, _> = tree
        .crate_sources
        .iter()
        .filter_map(|source| part(tree, source))
        .map(|part| (part.to_string(), part))
        .collect();
    let unplaced = parts.values().filter(|part| step(part, orders).is_none());
    let unplaced = unplaced.map(|part| format!("src/{part}: has no step in ORDERS; give it one"));
    let steps = orders.iter().flat_map(|(folder, order)| {
        let names = order.iter().flat_map(|step| step.split(' ')).filter(|name| *name != "*");
        names.map(move |name| format!("{folder}/{name}"))
    });
    let stale = steps.filter(|step| !parts.contains_key(step));
    let stale =
        stale.map(|step| format!("src/{step}: has a step in ORDERS but does not exist; remove it"));
    unplaced.chain(stale).collect()
}

/// Circles of imports between folders. Files of one folder may import each other.
pub fn cycles(tree: &Tree) -> Vec<String> {
    let mut edges = Edges::new();
    for Import { from, at, to } in imports(tree) {
        let (upper, lower) = (unit(tree, from), unit(tree, to));
        if upper != lower {
            let example = format!("{} -> {}", from.place(at), to.path);
            edges.entry(upper).or_default().entry(lower).or_insert(example);
        }
    }
    let folders: BTreeSet<_> = tree.crate_sources.iter().map(|s| s.folder.as_str()).collect();
    let mut broken = Vec::new();
    let mut seen = BTreeSet::<&str>::new();
    for start in edges.keys() {
        let Some(circle) = shortest_circle(&edges, start) else { continue };
        let inside_one_folder = !circle.iter().any(|unit| folders.contains(unit))
            && circle.iter().all(|unit| parent(unit) == parent(start));
        if inside_one_folder || circle.iter().all(|unit| seen.contains(unit)) {
            continue;
        }
        seen.extend(&circle);
        let next = circle.iter().cycle().skip(1);
        let examples =
            circle.iter().zip(next).map(|(from, to)| format!("\n    {}", edges[*from][*to]));
        broken.push(format!(
            "src/{start}: imports run in a circle: {}; break it at the import that goes upwards:{}",
            circle.join(" -> "),
            examples.collect::<String>()
        ));
    }
    broken
}

/// The shortest way from a unit back to itself.
fn shortest_circle<'a>(edges: &'a Edges, start: &'a str) -> Option<Vec<&'a str>> {
    let mut previous: BTreeMap<&str, &str> = BTreeMap::new();
    let mut queue = VecDeque::from([start]);
    while let Some(unit) = queue.pop_front() {
        for next in edges.get(unit).into_iter().flat_map(BTreeMap::keys) {
            if next == start {
                let mut circle = vec![unit];
                while circle[0] != start {
                    circle.insert(0, previous[circle[0]]);
                }
                return Some(circle);
            }
            if !previous.contains_key(next.as_str()) {
                previous.insert(next, unit);
                queue.push_back(next);
            }
        }
    }
    None
}

fn layer(module: &str) -> Option<u8> {
    LAYERS.iter().find(|(name, _)| *name == module).map(|(_, layer)| *layer)
}

/// A subfolder of a folder, or a file beside subfolders.
struct Part {
    folder: String,
    name: String,
    is_folder: bool,
}

impl Display for Part {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.folder, self.name)
    }
}

/// The part that a file belongs to, if its folder has subfolders. Test files have no part.
fn part(tree: &Tree, source: &Source) -> Option<Part> {
    let folder = source.folder.split('/').next().filter(|folder| !folder.is_empty())?.to_owned();
    let nested = format!("{folder}/");
    let has_subfolders = tree.crate_sources.iter().any(|other| other.folder.starts_with(&nested));
    if source.is_test_file() || !has_subfolders {
        return None;
    }
    let subfolder = source.folder.strip_prefix(&nested).and_then(|path| path.split('/').next());
    let file = source.module.get(1).map_or("mod", String::as_str);
    let (name, is_folder) = (subfolder.unwrap_or(file).to_owned(), subfolder.is_some());
    Some(Part { folder, name, is_folder })
}

/// The node of a file in the graph of imports: its part or its folder, at the root the file itself.
fn unit(tree: &Tree, source: &Source) -> String {
    let file = source.module.join("/");
    let folder = if source.folder.is_empty() { file } else { source.folder.clone() };
    part(tree, source).map_or(folder, |part| part.to_string())
}

/// Every import outside tests from one file of the crate to another.
fn imports(tree: &Tree) -> Vec<Import<'_>> {
    let files: BTreeMap<_, _> =
        tree.crate_sources.iter().map(|source| (source.module.as_slice(), source)).collect();
    let mut found = Vec::new();
    for from in &tree.crate_sources {
        for (at, path) in paths(from).into_iter().filter(|(at, _)| !from.is_test(*at)) {
            let target = (1..=path.len()).rev().find_map(|length| files.get(&&path[..length]));
            found.extend(target.filter(|to| to.path != from.path).map(|to| Import {
                from,
                at,
                to,
            }));
        }
    }
    found
}

/// Each path into the crate: where it begins, and its segments below the crate's root.
fn paths(source: &Source) -> Vec<(usize, Vec<String>)> {
    let mut found = Vec::new();
    for at in 0..source.len() {
        // `pub(in path)` is a visibility.
        if source.before(at) == "in" && source.matches(at.saturating_sub(3), &["pub", "("]) {
            continue;
        }
        if let Some((root, start)) = path_root(source, at) {
            let mut leaves = Vec::new();
            add_leaves(source, start, root, &mut leaves);
            found.extend(leaves.into_iter().map(|path| (at, path)));
        }
    }
    found
}

/// The module that a path starts from, and the token after it.
fn path_root(source: &Source, at: usize) -> Option<(Vec<String>, usize)> {
    let word = source.word(at);
    if source.word(at + 1) != "::" || ["::", "$"].contains(&source.before(at)) {
        return None;
    }
    match word {
        "crate" => Some((Vec::new(), at + 2)),
        "self" => Some((source.module_at(at), at + 2)),
        "super" => {
            let (mut module, mut next) = (source.module_at(at), at);
            while source.matches(next, &["super", "::"]) {
                module.pop();
                next += 2;
            }
            Some((module, next))
        }
        child if source.before(at) != "." && source.children.iter().any(|name| name == child) => {
            Some((source.module_at(at), at)).filter(|(module, _)| *module == source.module)
        }
        _ => None,
    }
}

/// The paths below `path` that begin at a token: one, or one for each element of a group.
fn add_leaves(source: &Source, at: usize, mut path: Vec<String>, leaves: &mut Vec<Vec<String>>) {
    match source.word(at) {
        "{" => {
            let mut element = at + 1;
            while element < source.partner(at) {
                add_leaves(source, element, path.clone(), leaves);
                while ![",", "}"].contains(&source.word(element)) {
                    element = source.partner(element) + 1;
                }
                element += 1;
            }
        }
        word if is_identifier(word) && word != "self" => {
            path.push(word.to_owned());
            match source.word(at + 1) {
                "::" => add_leaves(source, at + 2, path, leaves),
                _ => leaves.push(path),
            }
        }
        _ => leaves.push(path),
    }
}

mod the_checker {
    use super::*;
    use crate::assert_failures;

    fn assert_layers(path: &str, text: &str, expected: &[&str]) {
        assert_failures(&layers(&Tree::of(&[(path, text)])), expected);
    }

    #[test]
    fn imports_down_and_inside_the_module_are_fine() {
        let text =
            "use crate::policy::Policy;\nuse crate::live::permit;\nuse super::holds::Hold;\n";
        assert_layers("src/live/breakers.rs", text, &[]);
        assert_layers("src/live/queue/gate.rs", "use super::super::route::Route;", &[]);
        assert_layers("src/cli/run.rs", "use crate::app;\nuse crate::cli::check;", &[]);
        assert_layers("src/live/a.rs", "pub(in crate::proxy) fn f() {}", &[]);
    }

    #[test]
    fn an_import_upwards_or_sideways_is_found_in_every_form() {
        let up =
            ["src/live/a.rs:2: `live` (layer 3) imports `crate::proxy` (layer 5); never upwards"];
        assert_layers("src/live/a.rs", "\nuse crate::proxy::Handler;", &up);
        assert_layers("src/live/a.rs", "\nfn f(x: crate::proxy::Handler) {}", &up);
        assert_layers("src/live/a.rs", "\nuse crate::{policy::{self, raw}, proxy::handler};", &up);
        assert_layers("src/live/a.rs", "\nuse crate::{\n    policy::Policy,\n    proxy,\n};", &up);
        assert_layers("src/live/a.rs", "\nuse super::super::proxy::Handler;", &up);
        assert_layers("src/live/mod.rs", "\nuse super::proxy::Handler;", &["mod.rs:2: `live`"]);
        assert_layers("src/live/a.rs", "mod b {\n    use super::super::super::proxy::X;\n}", &up);
        assert_layers("src/live/a/b.rs", "use super::super::super::proxy::X;", &["b.rs:1: `live`"]);
        assert_layers("src/live/a.rs", "use crate::upstream::Pool;", &["never sideways"]);
        assert_layers("src/clock.rs", "use crate::policy::X;", &["never sideways"]);
        assert_layers("src/live/a.rs", "use crate::helpers::X;", &["no module of the crate"]);
        assert_layers("src/gadgets/a.rs", "", &["`gadgets` has no layer"]);
    }

    #[test]
    fn parts_of_a_folder_import_in_their_order() {
        let orders: &[(&str, &[&str])] = &[("proxy", &["*", "response", "attempt", "error"])];
        let assert_order = |path: &str, text: &str, expected: &[&str]| {
            let files = [
                ("src/proxy/mod.rs", "mod handler; mod response; mod attempt;"),
                ("src/proxy/error.rs", ""),
                ("src/proxy/handler.rs", "use super::run; use super::response::send;"),
                ("src/proxy/response/mod.rs", ""),
                ("src/proxy/response/send.rs", "use crate::proxy::attempt::send::Send;"),
                ("src/proxy/attempt/mod.rs", "mod retry;"),
                ("src/proxy/attempt/send.rs", "use super::send; use crate::live;"),
            ];
            assert_failures(
                &order_by(&Tree::of(&[&files[..], &[(path, text)]].concat()), orders),
                expected,
            );
        };
        assert_order("src/proxy/attempt/retry.rs", "use super::send;", &[]);
        assert_order(
            "src/proxy/attempt/retry.rs",
            "use super::send;\nuse super::super::response::send;",
            &["src/proxy/attempt/retry.rs:2: `proxy/attempt` imports `proxy/response`"],
        );
        assert_order(
            "src/proxy/attempt/retry.rs",
            "use crate::proxy::Run;",
            &["imports `proxy/mod`"],
        );
        assert_order("src/proxy/attempt/retry.rs", "use crate::proxy::error::E;", &[]);
        assert_order("src/proxy/cache/a.rs", "", &["src/proxy/cache: has no step"]);
        assert_order("src/proxy/handler_tests.rs", "", &[]);
        assert_failures(
            &order_by(&Tree::of(&[]), &[("proxy", &["*", "jobs"])]),
            &["does not exist"],
        );
    }

    #[test]
    fn folders_do_not_import_each_other_in_a_circle() {
        let files = [
            ("src/proxy/mod.rs", "mod a; mod b; use a::x::X;"),
            ("src/proxy/handler.rs", "use super::run;"),
            ("src/proxy/a/mod.rs", ""),
            ("src/proxy/a/x.rs", "use crate::proxy::b::y::Y; #[cfg(test)] use crate::proxy::Z;"),
            ("src/proxy/b/y.rs", "use crate::cache::Cache;"),
            ("src/cache/a.rs", "use super::b;"),
            ("src/cache/b.rs", "use super::a;"),
        ];
        assert_failures(&cycles(&Tree::of(&files)), &[]);
        let upwards = ("src/proxy/b/z.rs", "\nuse super::super::a;");
        let found = cycles(&Tree::of(&[&files[..], &[upwards]].concat()));
        assert_failures(&found, &["src/proxy/a: imports run in a circle: proxy/a -> proxy/b;"]);
        assert!(found[0].ends_with("src/proxy/b/z.rs:2 -> src/proxy/a/mod.rs"), "{}", found[0]);
    }
}
