//! Types: a name that is unique in the crate, and an `impl` in the folder of its type.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use crate::source::{Source, Tree, is_identifier};

/// Names that each module may give to a type of its own.
const MODULE_NAMES: [&str; 4] = ["State", "Error", "Policy", "Raw"];

struct Definition<'a> {
    name: &'a str,
    source: &'a Source,
    at: usize,
    /// In the text of a macro.
    in_macro: bool,
}

pub fn unique_names(tree: &Tree) -> Vec<String> {
    let mut modules: BTreeMap<&str, BTreeMap<Vec<String>, String>> = BTreeMap::new();
    let definitions = definitions(tree).into_iter().filter(|definition| !definition.in_macro);
    for Definition { name, source, at, .. } in definitions {
        let places = modules.entry(name).or_default();
        places.entry(source.module_at(at)).or_insert_with(|| source.place(at));
    }
    let is_duplicate = |name: &str, places: usize| places > 1 && !MODULE_NAMES.contains(&name);
    let duplicates = modules.into_iter().filter(|(name, places)| is_duplicate(name, places.len()));
    let describe = |(name, places): (&str, BTreeMap<Vec<String>, String>)| {
        let places: Vec<_> = places.into_values().collect();
        format!(
            "{}: `{name}` is defined in {} modules; a type name is unique in the crate: name each \
             type after what it holds, or share one:\n    {}",
            places[0],
            places.len(),
            places.join("\n    ")
        )
    };
    duplicates.map(describe).collect()
}

pub fn inherent_impls(tree: &Tree) -> Vec<String> {
    let mut homes: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for Definition { name, source, .. } in definitions(tree) {
        homes.entry(name).or_default().insert(source.folder.as_str());
    }
    let mut broken = Vec::new();
    for source in &tree.crate_sources {
        for at in impls(source).filter(|at| !source.is_test(*at)) {
            let Some(name) = inherent_type(source, at) else { continue };
            let Some(homes) =
                homes.get(name).filter(|homes| !homes.contains(source.folder.as_str()))
            else {
                continue;
            };
            let homes: Vec<_> = homes.iter().map(|home| format!("src/{home}")).collect();
            let rule = format!(
                "`impl {name}` outside {}, where the type is defined; move the methods there, or \
                 make them functions or a type of this folder",
                homes.join(" and ")
            );
            broken.push(source.failure(at, &rule));
        }
    }
    broken
}

/// The types that modules define outside tests, without associated types and types inside a
/// function.
fn definitions(tree: &Tree) -> Vec<Definition<'_>> {
    let mut found = Vec::new();
    for source in &tree.crate_sources {
        let skipped = blocks_without_types(source);
        let macros: Vec<_> = source.find("macro_rules").map(|at| at..source.item_end(at)).collect();
        let is_skipped =
            |at: &usize| source.is_test(*at) || skipped.iter().any(|range| range.contains(at));
        for keyword in ["struct", "enum", "union", "trait", "type"] {
            for at in source.find(keyword).filter(|at| !is_skipped(at)) {
                let name = source.word(at + 1);
                let is_definition =
                    ["{", "<", "(", ";", "=", ":", "where"].contains(&source.word(at + 2));
                if is_identifier(name) && is_definition && source.before(at) != "." {
                    let in_macro = macros.iter().any(|range| range.contains(&at));
                    found.push(Definition { name, source, at, in_macro });
                }
            }
        }
    }
    found
}

fn blocks_without_types(source: &Source) -> Vec<Range<usize>> {
    let functions = source.find("fn").filter(|at| is_identifier(source.word(at + 1)));
    // A trait's own name stands before its block.
    let traits = source.find("trait").filter(|at| is_identifier(source.word(at + 1)));
    let items = functions.chain(impls(source)).chain(traits.map(|at| at + 2));
    items.map(|at| at..source.item_end(at)).collect()
}

/// Where `impl` begins an item; elsewhere it is a type.
fn impls(source: &Source) -> impl Iterator<Item = usize> {
    let starts_item = |at: &usize| ["", "}", "{", ";", "]", "unsafe"].contains(&source.before(*at));
    source.find("impl").filter(starts_item)
}

/// The name of the type of an inherent `impl`; `None` for the `impl` of a trait.
fn inherent_type(source: &Source, at: usize) -> Option<&str> {
    let (mut name, mut depth) = (None, 0);
    let end = source.item_end(at);
    let mut inner = at + 1;
    while inner < end && (depth > 0 || !["{", "where"].contains(&source.word(inner))) {
        match source.word(inner) {
            "<" => depth += 1,
            ">" => depth -= 1,
            "for" if depth == 0 => return None,
            word if depth == 0 && is_identifier(word) => name = Some(word),
            _ => inner = source.partner(inner),
        }
        inner += 1;
    }
    name.filter(|_| source.word(end) == "}" || source.word(inner) == "{")
}

mod the_checker {
    use super::*;
    use crate::assert_failures;

    #[test]
    fn a_type_name_is_defined_once() {
        let assert_names = |text: &str, expected: &[&str]| {
            let files =
                [("src/live/a.rs", "pub struct Told;\nenum State {}"), ("src/live/b.rs", text)];
            assert_failures(&unique_names(&Tree::of(&files)), expected);
        };
        let twice = ["src/live/a.rs:1: `Told` is defined in 2 modules"];
        assert_names("struct Told { x: u8 }", &twice);
        assert_names("type Told = u8;", &twice);
        assert_names("macro! { pub enum Told { A } }", &twice);
        assert_names("mod inner { trait Told: Copy { } }", &twice);
        assert_names("enum State {}\nuse super::a::Told;\nfn f(told: Told) -> Told {}", &[]);
        assert_names("impl X for Y { type Told = u8; }\ntrait X { type Told; }", &[]);
        assert_names("macro_rules! m { () => { struct Told; } }\nfn f() { struct Told; }", &[]);
        assert_names("#[cfg(test)]\nmod tests { struct Told; }", &[]);
    }

    #[test]
    fn an_inherent_impl_is_in_the_folder_of_its_type() {
        let assert_impls = |path: &str, text: &str, expected: &[&str]| {
            let files =
                [("src/policy/section/check.rs", "pub struct Check<'a>(&'a str);"), (path, text)];
            assert_failures(&inherent_impls(&Tree::of(&files)), expected);
        };
        let outside = ["src/policy/sections/a.rs:1: `impl Check` outside src/policy/section,"];
        let text = "impl Check<'_> { fn f(&self) {} }";
        assert_impls("src/policy/sections/a.rs", text, &outside);
        assert_impls("src/policy/section/b.rs", text, &[]);
        let generic = "impl<T: Into<X>> super::Check<T> where T: for<'b> Y<'b> {}";
        assert_impls("src/policy/sections/a.rs", generic, &outside);
        assert_impls("src/policy/sections/a.rs", "impl Display for Check<'_> {}", &[]);
        assert_impls("src/policy/sections/a.rs", "fn f() -> impl Check { g() }", &[]);
        assert_impls("src/policy/sections/a.rs", "impl dyn Fn(Check) {}", &[]);
        let by_macro = "macro_rules! m { () => { enum Check {} } }\nm!();\nimpl Check {}";
        assert_impls("src/policy/sections/a.rs", by_macro, &[]);
        assert_impls("src/policy/sections/a.rs", "#[cfg(test)]\nimpl Check<'_> {}", &[]);
    }
}
