//! The house rules of the source, as far as a machine can see them.
//!
//! The package is a house of floors: a file imports from its own folder and from lower floors,
//! never upwards and never sideways, so that the pure core at the bottom stays pure and each part
//! can be read without those above it. Only `clock.rs` reads the clock or chance, so that
//! everything else can be tested at any time of a test's choosing. Sizes are held because what is
//! hard to read is always found in the tail.
//!
//! It reads text, not syntax: comments and literals are blanked first, then tokens are sought. It
//! can be fooled by someone who tries to.

use std::fs;
use std::ops::Range;
use std::path::Path;

use support::rust_text::{blank, first_names, identifier, item_end, test_items, words};

mod support {
    pub mod rust_text;
}

/// Module of the crate, and its floor.
const FLOORS: [(&str, u8); 20] = [
    ("main", 9),
    ("cli", 9),
    ("app", 8),
    ("admin", 7),
    ("jobs", 6),
    ("benchmark", 6),
    ("proxy", 5),
    ("shared", 5),
    ("degradation", 5),
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
    // The map of the crate; `pub mod` and nothing else.
    ("lib", 9),
];

/// What may stand at the top of the repository, beside dot-files.
const TOP: [&str; 17] = [
    "Cargo.toml",
    "Cargo.lock",
    "src",
    "benches",
    "policies",
    "examples",
    "fuzz",
    "tests",
    "docs",
    "packaging",
    "systemd",
    "README.md",
    "LICENSE",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "deny.toml",
    "target",
];

const FILE_LINES: usize = 400;
const TEST_FILE_LINES: usize = 800;
const FUNCTION_LINES: usize = 50;

const CLOCK: [&str; 6] = [
    "Instant::now",
    "SystemTime::now",
    "fastrand::",
    ".elapsed()",
    "rand::rng",
    "RandomState::new",
];

/// What the lowest floor does without, though it is in std.
const IMPURE: [&str; 11] = [
    "async", "await", "Mutex", "RwLock", "Condvar", "mpsc", "thread", "println", "eprintln", "fs",
    "net",
];

/// One source file, its comments and literals blanked.
struct Source {
    /// Below `src/`, with `/` between folders.
    path: String,
    text: String,
    /// Where tests stand.
    tests: Vec<Range<usize>>,
}

#[test]
fn the_source_keeps_the_rules_of_the_house() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let manifest = fs::read_to_string(root.join("Cargo.toml")).expect("Cargo.toml can be read");
    let dependencies = dependencies(&manifest);
    let mut broken = top_level(&names_in(root));
    for (path, text) in source_files(&root.join("src"), "") {
        broken.extend(Source::new(&path, &text).broken_rules(&dependencies));
    }
    assert!(broken.is_empty(), "\n{}\n", broken.join("\n"));
}

// === impl Source ===

impl Source {
    fn new(path: &str, text: &str) -> Self {
        let text = blank(text);
        let tests = test_items(&text);
        Self { path: path.to_owned(), text, tests }
    }

    fn broken_rules(&self, dependencies: &[String]) -> Vec<String> {
        let mut broken = self.size();
        broken.extend(self.imports());
        broken.extend(self.purity(dependencies));
        broken.extend(self.banned(".unwrap()", "handle it, or `expect` with the invariant"));
        if self.path != "clock.rs" {
            for read in CLOCK {
                broken.extend(self.banned(read, "only clock.rs reads the clock or chance"));
            }
        }
        broken.extend(self.long_functions());
        broken
    }

    /// The module of the crate that the file belongs to.
    fn module(&self) -> &str {
        let first = self.path.split('/').next().unwrap_or_default();
        first.strip_suffix(".rs").unwrap_or(first)
    }

    fn is_test_file(&self) -> bool {
        self.path.ends_with("_tests.rs") || self.path.ends_with("/tests.rs")
    }

    fn is_test(&self, at: usize) -> bool {
        self.is_test_file() || self.tests.iter().any(|range| range.contains(&at))
    }

    fn say(&self, at: usize, rule: &str) -> String {
        let line = self.text[..at].matches('\n').count() + 1;
        format!("src/{}:{line}: {rule}", self.path)
    }

    fn size(&self) -> Vec<String> {
        let mut broken = Vec::new();
        let most = if self.is_test_file() { TEST_FILE_LINES } else { FILE_LINES };
        let lines = self.text.lines().count();
        if lines > most {
            let rule =
                format!("{lines} lines, at most {most}: move its tests out, or split it by noun");
            broken.push(self.say(0, &rule));
        }
        if self.path.matches('/').count() > 1 {
            broken.push(self.say(0, "folders are one deep"));
        }
        if floor(self.module()).is_none() {
            broken.push(self.say(0, "no floor for this module: give it one in tests/floors.rs"));
        }
        broken
    }

    fn imports(&self) -> Vec<String> {
        let own = self.module();
        let Some(from) = floor(own) else { return Vec::new() };
        let mut broken = Vec::new();
        for (at, name) in self.crate_paths() {
            let rule = match floor(&name) {
                _ if name == own => continue,
                None => format!("`crate::{name}` is on no floor: it is no module of the crate"),
                Some(to) if to < from || from == 9 => continue,
                Some(to) if to == from => {
                    format!("`{own}` (F{from}) imports `{name}` (F{to}): never sideways")
                }
                Some(to) => format!("`{own}` (F{from}) imports `{name}` (F{to}): never upwards"),
            };
            broken.push(self.say(at, &rule));
        }
        broken
    }

    /// Each name that follows the crate's root, whether reached by `crate` or by `super`.
    fn crate_paths(&self) -> Vec<(usize, String)> {
        let mut found = Vec::new();
        for at in words(&self.text, "crate") {
            if let Some(rest) = self.text[at + "crate".len()..].strip_prefix("::") {
                found.extend(first_names(rest).into_iter().map(|name| (at, name)));
            }
        }
        for at in words(&self.text, "super") {
            let path = &self.text[at..];
            if self.text[..at].ends_with("super::") {
                continue;
            }
            let supers = path.split("::").take_while(|part| *part == "super").count();
            let rest = path.get(supers * "super::".len()..).unwrap_or_default();
            if supers > 0 && supers == self.depth(at) {
                found.extend(first_names(rest).into_iter().map(|name| (at, name)));
            }
        }
        found
    }

    /// How many modules stand around this place.
    fn depth(&self, at: usize) -> usize {
        let parts = self.path.split('/').count();
        let own_root = ["lib.rs", "main.rs"].contains(&self.path.as_str());
        let file = parts - usize::from(self.path.ends_with("/mod.rs") || own_root);
        let inline = words(&self.text[..at], "mod")
            .into_iter()
            .filter(|&start| item_end(&self.text, start).is_some_and(|end| end > at));
        file + inline.count()
    }

    fn purity(&self, dependencies: &[String]) -> Vec<String> {
        if self.module() != "resilience" {
            return Vec::new();
        }
        let paths = dependencies.iter().map(|name| (name.as_str(), "std only"));
        let words_here = IMPURE.iter().map(|word| (*word, "no clock, chance, log, lock or async"));
        let mut broken = Vec::new();
        for (word, rule) in paths.chain(words_here) {
            for at in words(&self.text, word) {
                let is_path = self.text[at + word.len()..].starts_with("::");
                if !self.is_test(at) && (is_path || rule != "std only") {
                    broken.push(self.say(at, &format!("`{word}` in resilience: {rule}")));
                }
            }
        }
        broken
    }

    fn banned(&self, what: &str, rule: &str) -> Vec<String> {
        // `self.elapsed()` is a method of the code's own, not the clock's.
        let own = |at: &usize| what == ".elapsed()" && self.text[..*at].ends_with("self");
        let found = self.text.match_indices(what).filter(|(at, _)| !self.is_test(*at) && !own(at));
        found.map(|(at, _)| self.say(at, &format!("`{what}`: {rule}"))).collect()
    }

    fn long_functions(&self) -> Vec<String> {
        let mut broken = Vec::new();
        for at in words(&self.text, "fn") {
            let Some(end) = item_end(&self.text, at) else { continue };
            let lines = self.text[at..end].matches('\n').count() + 1;
            let name: String = identifier(self.text[at + 2..].trim_start());
            if lines > FUNCTION_LINES && !name.is_empty() && !self.is_test(at) {
                let rule = format!("`{name}` has {lines} lines, at most {FUNCTION_LINES}");
                broken.push(self.say(at, &rule));
            }
        }
        broken
    }
}

fn floor(module: &str) -> Option<u8> {
    FLOORS.iter().find(|(name, _)| *name == module).map(|(_, floor)| *floor)
}

fn top_level(names: &[String]) -> Vec<String> {
    let strange =
        names.iter().filter(|name| !name.starts_with('.') && !TOP.contains(&name.as_str()));
    strange.map(|name| format!("{name}:1: not among what may stand at the top level")).collect()
}

fn names_in(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    let name = |entry: fs::DirEntry| entry.file_name().to_string_lossy().into_owned();
    let mut names: Vec<_> =
        entries.map(|entry| name(entry.expect("an entry can be read"))).collect();
    names.sort();
    names
}

fn source_files(folder: &Path, below: &str) -> Vec<(String, String)> {
    let mut files = Vec::new();
    for name in names_in(folder) {
        let (path, shown) = (folder.join(&name), format!("{below}{name}"));
        if path.is_dir() {
            files.extend(source_files(&path, &format!("{shown}/")));
        } else if name.ends_with(".rs") {
            files.push((shown, fs::read_to_string(&path).expect("a source file can be read")));
        }
    }
    files
}

/// The names of the `[dependencies]`, as code writes them.
fn dependencies(manifest: &str) -> Vec<String> {
    let lines = manifest.lines().skip_while(|line| *line != "[dependencies]").skip(1);
    let lines = lines.take_while(|line| !line.starts_with('['));
    let names = lines.filter_map(|line| line.split_once('=')).map(|(name, _)| name.trim());
    names.filter(|name| !name.starts_with('#')).map(|name| name.replace('-', "_")).collect()
}

mod the_checker {
    use super::*;

    fn broken(path: &str, text: &str) -> Vec<String> {
        Source::new(path, text).broken_rules(&["tokio".to_owned(), "serde_json".to_owned()])
    }

    fn assert_broken(path: &str, text: &str, expected: &[&str]) {
        let found = broken(path, text);
        assert_eq!(found.len(), expected.len(), "{found:?}");
        for (found, expected) in found.iter().zip(expected) {
            assert!(found.contains(expected), "{found} does not say {expected}");
        }
    }

    #[test]
    fn imports_down_and_inside_the_folder_are_fine() {
        let text =
            "use crate::policy::Policy;\nuse crate::live::permit;\nuse super::holds::Hold;\n";
        assert_broken("live/breakers.rs", text, &[]);
        assert_broken("cli/run.rs", "use crate::app;\nuse crate::cli::check;", &[]);
    }

    #[test]
    fn an_import_upwards_or_sideways_is_found_wherever_it_hides() {
        let up = ["src/live/a.rs:2: `live` (F3) imports `proxy` (F5): never upwards"];
        assert_broken("live/a.rs", "\nuse crate::proxy::Handler;", &up);
        assert_broken("live/a.rs", "\nfn f(x: crate::proxy::Handler) {}", &up);
        assert_broken("live/a.rs", "\nuse crate::{policy::{self, raw}, proxy::handler};", &up);
        assert_broken("live/a.rs", "\nuse crate::{\n    policy::Policy,\n    proxy,\n};", &up);
        assert_broken("live/a.rs", "\nuse super::super::proxy::Handler;", &up);
        assert_broken("live/mod.rs", "\nuse super::proxy::Handler;", &["mod.rs:2: `live` (F3)"]);
        assert_broken("live/a.rs", "mod inner {\n    use super::super::super::proxy::X;\n}", &up);
        assert_broken(
            "live/a.rs",
            "use crate::upstream::Pool;",
            &["a.rs:1: `live` (F3) imports `upstream` (F3): never sideways"],
        );
        assert_broken("clock.rs", "use crate::policy::X;", &["never sideways"]);
        assert_broken("live/a.rs", "use crate::helpers::X;", &["on no floor"]);
    }

    #[test]
    fn comments_literals_and_lifetimes_are_not_code() {
        let text = "// crate::proxy\n/* x.unwrap() */\nfn f<'a>(x: &'a str) { g(\"a\\\"b.unwrap()\", 'x', '\\'', r#\"\"fastrand::\"#); }";
        assert_broken("live/a.rs", text, &[]);
        assert_broken("live/a.rs", "fn f<'a>(x: &'a X) { x.unwrap(); }", &["a.rs:1: `.unwrap()`"]);
        assert_broken("live/a.rs", "fn f() { g('\"'); x.unwrap(); h('\"'); }", &["`.unwrap()`"]);
    }

    #[test]
    fn the_clock_and_chance_are_read_in_one_file() {
        let text =
            "fn f() {\n    let t = Instant::now();\n    t.elapsed();\n    fastrand::f64();\n}";
        assert_broken("clock.rs", text, &[]);
        assert_broken("live/a.rs", "fn f(&self) { self.elapsed() }", &[]);
        assert_broken(
            "live/a.rs",
            text,
            &["a.rs:2: `Instant::now`", "a.rs:4: `fastrand::`", "a.rs:3: `.elapsed()`"],
        );
    }

    #[test]
    fn tests_may_unwrap_and_read_the_clock_but_code_after_them_may_not() {
        let tests = "#[cfg(test)]\nmod tests {\n    fn f() { Instant::now(); x.unwrap(); }\n}\n";
        assert_broken("live/a.rs", tests, &[]);
        assert_broken(
            "live/a.rs",
            &format!("{tests}fn f() {{ x.unwrap(); }}"),
            &["a.rs:5: `.unwrap()`"],
        );
        assert_broken(
            "live/a.rs",
            "#[cfg(test)]\nmod a_tests;\nfn f() { x.unwrap(); }",
            &["a.rs:3"],
        );
        assert_broken("live/a_tests.rs", "fn f() { x.unwrap(); }", &[]);
    }

    #[test]
    fn the_lowest_floor_is_pure() {
        let text = "use tokio::time;\nuse std::sync::Mutex;\nfn f() { serde_json::to_string(1); }";
        assert_broken(
            "resilience/a.rs",
            text,
            &["a.rs:1: `tokio`", "a.rs:3: `serde_json`", "a.rs:2: `Mutex`"],
        );
        assert_broken("live/a.rs", text, &[]);
        assert_broken("resilience/a.rs", "#[cfg(test)]\nmod tests { use tokio::x; }", &[]);
    }

    #[test]
    fn sizes_are_held() {
        assert_broken("live/a.rs", &"\n".repeat(400), &[]);
        assert_broken("live/a.rs", &"\n".repeat(401), &["a.rs:1: 401 lines, at most 400"]);
        assert_broken("live/a_tests.rs", &"\n".repeat(800), &[]);
        assert_broken("live/deep/a.rs", "", &["folders are one deep"]);
        assert_broken("gadgets/a.rs", "", &["no floor for this module"]);
        let function = |lines: usize| {
            format!("fn long(x: [u8; 4]) {{\n{}}}\n", "    f();\n".repeat(lines - 2))
        };
        assert_broken("live/a.rs", &function(50), &[]);
        assert_broken(
            "live/a.rs",
            &format!("\n{}", function(51)),
            &["a.rs:2: `long` has 51 lines, at most 50"],
        );
        assert_broken("live/a.rs", &format!("#[cfg(test)]\nmod tests {{\n{}}}", function(60)), &[]);
    }

    #[test]
    fn the_top_level_is_closed() {
        let names = ["src", ".github", "scripts"].map(str::to_owned);
        assert_eq!(top_level(&names), ["scripts:1: not among what may stand at the top level"]);
    }

    #[test]
    fn dependencies_are_read_as_code_writes_them() {
        let manifest = "[dependencies]\n# one\nserde-json = \"1\"\ntokio = { version = \"1\" }\n\n[dev-dependencies]\nx = \"1\"";
        assert_eq!(dependencies(manifest), ["serde_json", "tokio"]);
    }
}
