//! Sizes of files, functions and folders.

use std::collections::BTreeMap;

use crate::source::{Source, Tree, is_identifier, parent};

const FILE_LINES: usize = 500;
const TEST_FILE_LINES: usize = 800;
const FUNCTION_LINES: usize = 50;
/// Rust files; scripts and statements beside them do not count.
const FOLDER_FILES: usize = 16;
const FOLDER_DEPTH: usize = 2;

pub fn files(tree: &Tree) -> Vec<String> {
    let mut broken = Vec::new();
    for source in &tree.crate_sources {
        let is_named_tests = source.path.ends_with("tests.rs");
        let most = if is_named_tests { TEST_FILE_LINES } else { FILE_LINES };
        let lines = source.raw.lines().count();
        if lines > most {
            let rule = format!("{lines} lines, at most {most}; split the file by noun");
            broken.push(source.file_failure(&rule));
        }
    }
    broken
}

pub fn folders(tree: &Tree) -> Vec<String> {
    let mut broken = Vec::new();
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for source in &tree.crate_sources {
        let folder = parent(&source.path);
        *counts.entry(folder).or_default() += 1;
        let depth = folder.matches('/').count();
        if depth > FOLDER_DEPTH {
            let rule = format!("{depth} folders deep, at most {FOLDER_DEPTH}; move the file up");
            broken.push(source.file_failure(&rule));
        }
    }
    let crowded = counts.into_iter().filter(|(_, files)| *files > FOLDER_FILES);
    let rule = format!("at most {FOLDER_FILES}; merge small files, or make a subfolder by noun");
    broken.extend(crowded.map(|(folder, files)| format!("{folder}: {files} Rust files, {rule}")));
    broken
}

pub fn functions(tree: &Tree) -> Vec<String> {
    tree.crate_sources.iter().flat_map(long_functions).collect()
}

fn long_functions(source: &Source) -> Vec<String> {
    let mut broken = Vec::new();
    for at in source.find("fn").filter(|at| !source.is_test(*at)) {
        let name = source.word(at + 1);
        let lines = source.line(source.item_end(at)) - source.line(at) + 1;
        if is_identifier(name) && lines > FUNCTION_LINES {
            let rule = format!(
                "`{name}` has {lines} lines, at most {FUNCTION_LINES}; give its steps names of their own"
            );
            broken.push(source.failure(at, &rule));
        }
    }
    broken
}

mod the_checker {
    use super::*;
    use crate::assert_failures;

    #[test]
    fn files_have_a_limit_and_test_files_a_higher_one() {
        let assert_files = |path: &str, lines: usize, expected: &[&str]| {
            assert_failures(&files(&Tree::of(&[(path, &"\n".repeat(lines))])), expected);
        };
        assert_files("src/live/a.rs", 500, &[]);
        assert_files("src/live/a.rs", 501, &["src/live/a.rs: 501 lines, at most 500"]);
        assert_files("src/live/a_tests.rs", 800, &[]);
        assert_files("src/live/tests.rs", 801, &["801 lines, at most 800"]);
    }

    #[test]
    fn folders_are_two_deep_and_small() {
        let deep = [("src/live/a/b.rs", ""), ("src/live/a/b/c.rs", "")];
        assert_failures(&folders(&Tree::of(&deep)), &["src/live/a/b/c.rs: 3 folders deep"]);
        let paths: Vec<_> = (0..17).map(|i| format!("src/live/a/f{i}.rs")).collect();
        let mut sources: Vec<_> = paths.iter().map(|path| (path.as_str(), "")).collect();
        assert_failures(&folders(&Tree::of(&sources)), &["src/live/a: 17 Rust files, at most 16"]);
        sources[0].0 = "src/live/f.rs";
        assert_failures(&folders(&Tree::of(&sources)), &[]);
    }

    #[test]
    fn functions_have_a_limit_outside_tests() {
        let function = |lines: usize| {
            format!("\nfn long(x: [u8; 4]) {{\n{}}}\n", "    f();\n".repeat(lines - 2))
        };
        let assert_functions = |text: &str, expected: &[&str]| {
            assert_failures(&functions(&Tree::of(&[("src/live/a.rs", text)])), expected);
        };
        assert_functions(&function(50), &[]);
        assert_functions(&function(51), &["src/live/a.rs:2: `long` has 51 lines, at most 50"]);
        assert_functions(&format!("#[cfg(test)]\nmod tests {{\n{}}}", function(60)), &[]);
    }
}
