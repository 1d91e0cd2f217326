//! Rules about single lines of code: purity, the clock, `unwrap`, parameters, and the top level.

use crate::source::{Source, Tree, is_identifier};

/// Files and folders at the top of the repository, beside dot-files.
const TOP_LEVEL: [&str; 17] = [
    "Cargo.toml",
    "Cargo.lock",
    "src",
    "benches",
    "docs",
    "policies",
    "examples",
    "fuzz",
    "tests",
    "packaging",
    "systemd",
    "README.md",
    "CONTRIBUTING.md",
    "LICENSE",
    "CHANGELOG.md",
    "deny.toml",
    "target",
];

/// Calls that read the clock or draw a random number.
const CLOCK: [&[&str]; 6] = [
    &["Instant", "::", "now"],
    &["SystemTime", "::", "now"],
    &["fastrand", "::"],
    &[".", "elapsed", "(", ")"],
    &["rand", "::", "rng"],
    &["RandomState", "::", "new"],
];

/// Pure modules, and the dependencies that they may use.
const PURE: [(&str, &[&str]); 3] =
    [("resilience", &[]), ("json", &["serde", "serde_json"]), ("credentials", &["http", "sha2"])];

/// Parts of the language and of `std` that a pure module does not use.
const IMPURE: [&str; 11] = [
    "async", "await", "Mutex", "RwLock", "Condvar", "mpsc", "thread", "println", "eprintln", "fs",
    "net",
];

pub fn top_level(tree: &Tree) -> Vec<String> {
    let is_known = |name: &String| name.starts_with('.') || TOP_LEVEL.contains(&name.as_str());
    let unknown = tree.top_level.iter().filter(|name| !is_known(name));
    let rule = "not in the list of what may be at the top level; move it into a folder";
    unknown.map(|name| format!("{name}: {rule}")).collect()
}

pub fn unwrap(tree: &Tree) -> Vec<String> {
    let rule = "`.unwrap()` outside tests; handle the error, or `expect` with the invariant";
    let sources = tree.crate_sources.iter();
    sources.flat_map(|source| calls(source, &[".", "unwrap", "(", ")"], rule)).collect()
}

pub fn clock(tree: &Tree) -> Vec<String> {
    let mut broken = Vec::new();
    for source in tree.crate_sources.iter().filter(|source| source.module != ["clock"]) {
        for call in CLOCK {
            let rule = format!(
                "`{}` outside clock.rs; take `now` or `draw` as an argument",
                call.concat()
            );
            broken.extend(calls(source, call, &rule));
        }
    }
    broken
}

fn calls(source: &Source, call: &[&str], rule: &str) -> Vec<String> {
    // `self.elapsed()` is a method of the code's own, not the clock's.
    let is_own = |at: usize| call.contains(&"elapsed") && source.before(at) == "self";
    let found = source.find(call[0]).filter(|at| source.matches(*at, call));
    let found = found.filter(|at| !source.is_test(*at) && !is_own(*at));
    found.map(|at| source.failure(at, rule)).collect()
}

pub fn purity(tree: &Tree) -> Vec<String> {
    let dependencies = dependencies(&tree.manifest);
    let mut broken = Vec::new();
    for source in &tree.crate_sources {
        let pure =
            PURE.iter().find(|(module, _)| source.module.first().is_some_and(|m| m == module));
        let Some((module, allowed)) = pure else { continue };
        for at in (0..source.len()).filter(|at| !source.is_test(*at)) {
            let word = source.word(at);
            let is_dependency = source.word(at + 1) == "::"
                && dependencies.iter().any(|name| name == word)
                && !allowed.contains(&word);
            if is_dependency || IMPURE.contains(&word) {
                let rule = format!(
                    "`{word}` in `{module}`, which is pure: no I/O, clock, randomness, lock, async \
                     or further dependency; move this to the caller"
                );
                broken.push(source.failure(at, &rule));
            }
        }
    }
    broken
}

/// The names of the `[dependencies]` as code writes them.
fn dependencies(manifest: &str) -> Vec<String> {
    let lines = manifest.lines().skip_while(|line| *line != "[dependencies]").skip(1);
    let lines = lines.take_while(|line| !line.starts_with('['));
    let names = lines.filter_map(|line| line.split_once('=')).map(|(name, _)| name.trim());
    names.filter(|name| !name.starts_with('#')).map(|name| name.replace('-', "_")).collect()
}

/// Parameters that are tuples, by their pattern or by their type.
pub fn tuple_parameters(tree: &Tree) -> Vec<String> {
    let mut broken = Vec::new();
    for source in &tree.crate_sources {
        let functions = source.find("fn").filter(|at| !source.is_test(*at));
        for at in functions.filter(|at| is_identifier(source.word(at + 1))) {
            let tuple = parameters(source, at).into_iter().find(|start| is_tuple(source, *start));
            if let Some(tuple) = tuple {
                let name = source.word(at + 1);
                let rule = format!("`{name}` has a tuple for a parameter; name a struct");
                broken.push(source.failure(tuple, &rule));
            }
        }
    }
    broken
}

/// Where the pattern and the type of each parameter of a function begin.
fn parameters(source: &Source, function: usize) -> Vec<usize> {
    let mut at = function + 2;
    if source.word(at) == "<" {
        at = angles_end(source, at);
    }
    let (end, mut starts) = (source.partner(at), vec![at + 1]);
    at += 1;
    while at < end {
        match source.word(at) {
            "<" => at = angles_end(source, at),
            "," | ":" => {
                starts.push(at + 1);
                at += 1;
            }
            _ => at = source.partner(at) + 1,
        }
    }
    starts
}

/// The token after the `>` that closes the `<` at `at`.
fn angles_end(source: &Source, mut at: usize) -> usize {
    let mut depth = 0;
    while at < source.len() {
        match source.word(at) {
            "<" => depth += 1,
            ">" => depth -= 1,
            _ => at = source.partner(at),
        }
        at += 1;
        if depth == 0 {
            return at;
        }
    }
    at
}

/// Whether a pattern or a type is a tuple of two or more, or a reference to one.
fn is_tuple(source: &Source, mut at: usize) -> bool {
    while ["&", "mut"].contains(&source.word(at)) || source.word(at).starts_with('\'') {
        at += 1;
    }
    let (mut inner, end) = (at + 1, source.partner(at));
    if source.word(at) != "(" {
        return false;
    }
    while inner < end {
        match source.word(inner) {
            "," => return true,
            "<" => inner = angles_end(source, inner),
            _ => inner = source.partner(inner) + 1,
        }
    }
    false
}

mod the_checker {
    use super::*;
    use crate::assert_failures;

    fn check(rule: fn(&Tree) -> Vec<String>, path: &str, text: &str, expected: &[&str]) {
        let mut tree = Tree::of(&[(path, text)]);
        tree.manifest = "[dependencies]\ntokio = \"1\"\nserde_json = \"1\"".to_owned();
        assert_failures(&rule(&tree), expected);
    }

    #[test]
    fn the_clock_is_read_in_one_file() {
        let text = "fn f() {\n  Instant::now();\n  t.elapsed();\n  fastrand::f64();\n}";
        check(clock, "src/clock.rs", text, &[]);
        check(clock, "src/live/a.rs", "fn f(&self) { self.elapsed() }", &[]);
        let expected = ["a.rs:2: `Instant::now`", "a.rs:4: `fastrand::`", "a.rs:3: `.elapsed()`"];
        check(clock, "src/live/a.rs", text, &expected);
    }

    #[test]
    fn tests_may_unwrap_but_code_beside_them_may_not() {
        let tests = "#[cfg(test)]\nmod tests {\n    fn f() { x.unwrap(); }\n}\n";
        check(unwrap, "src/live/a.rs", tests, &[]);
        check(unwrap, "src/live/a_tests.rs", "fn f() { x.unwrap(); }", &[]);
        let beside = format!("{tests}fn f() {{ x.unwrap(); }}");
        check(unwrap, "src/live/a.rs", &beside, &["a.rs:5: `.unwrap()`"]);
        let declared = "#[cfg(test)]\nmod a_tests;\nfn f() { x.unwrap(); }";
        check(unwrap, "src/live/a.rs", declared, &["a.rs:3: `.unwrap()`"]);
    }

    #[test]
    fn the_lowest_layer_is_pure() {
        let text = "use tokio::time;\nuse std::sync::Mutex;\nfn f() { serde_json::to_string(1); }";
        let (tokio, mutex) = ("a.rs:1: `tokio` in", "a.rs:2: `Mutex` in");
        check(purity, "src/resilience/a.rs", text, &[tokio, mutex, "a.rs:3: `serde_json`"]);
        check(purity, "src/json/a.rs", text, &[tokio, mutex]);
        check(purity, "src/live/a.rs", text, &[]);
        check(purity, "src/resilience/a.rs", "#[cfg(test)]\nmod tests { use tokio::x; }", &[]);
    }

    #[test]
    fn a_parameter_is_not_a_tuple() {
        let assert_tuple = |text: &str, expected: &[&str]| {
            check(tuple_parameters, "src/live/a.rs", text, expected);
        };
        let expected = ["src/live/a.rs:1: `f` has a tuple for a parameter"];
        assert_tuple("fn f((a, b): (A, B)) {}", &expected);
        assert_tuple("fn f<T: Fn(A) -> B>(self, x: &'a mut (A, B)) {}", &expected);
        assert_tuple("fn f(x: Vec<(A, B)>, y: fn(A, B), z: &(dyn X<A, B> + Send), u: ()) {}", &[]);
        assert_tuple("fn f() -> (A, B) { g(|(a, b)| a, |x: (A, B)| x) }", &[]);
        assert_tuple("#[cfg(test)]\nmod tests { fn f((a, b): (A, B)) {} }", &[]);
    }

    #[test]
    fn the_top_level_is_closed() {
        let mut tree = Tree::of(&[]);
        tree.top_level = ["src", "docs", ".github", "scripts"].map(str::to_owned).to_vec();
        assert_failures(&top_level(&tree), &["scripts: not in the list"]);
    }

    #[test]
    fn dependencies_are_named_as_code_writes_them() {
        let manifest = "[dependencies]\n# one\nserde-json = \"1\"\ntokio = { version = \"1\" }\n\n[dev-dependencies]\nx = \"1\"";
        assert_eq!(dependencies(manifest), ["serde_json", "tokio"]);
    }
}
