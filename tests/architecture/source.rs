//! Rust source as tokens: enough to find items, blocks and paths.
//!
//! This is not a parser. Comments and literals are blanked first, brackets are paired, and each
//! rule looks for the few tokens that it needs. Code that tries to fool it can.

use std::collections::BTreeSet;
use std::fs;
use std::ops::Range;
use std::path::Path;

/// Folders with Rust code or documents, relative to the repository.
const FOLDERS: [&str; 8] =
    ["src", "tests", "benches", "fuzz", "examples", "docs", "policies", "packaging"];

/// The files of the repository that the rules read.
pub struct Tree {
    /// Files below `src/`.
    pub crate_sources: Vec<Source>,
    /// Rust files of tests, benchmarks, fuzz targets and examples.
    pub other_sources: Vec<Source>,
    /// Markdown files: path and text.
    pub documents: Vec<(String, String)>,
    /// Every file in a folder of `FOLDERS`.
    pub paths: Vec<String>,
    pub top_level: Vec<String>,
    pub manifest: String,
}

/// One Rust file.
pub struct Source {
    /// Relative to the repository, with `/` between folders.
    pub path: String,
    pub raw: String,
    /// Path of the module below the crate root; empty for the root itself.
    pub module: Vec<String>,
    /// Folder that the file belongs to, below `src/`; empty for the root. `a.rs` belongs to the
    /// folder `a` if there is one.
    pub folder: String,
    /// Modules declared with `mod name;`.
    pub children: Vec<String>,
    /// The subset of `children` that is compiled for tests only.
    test_children: Vec<String>,
    is_test_file: bool,
    /// As `raw`, with comments and literals replaced by spaces.
    text: String,
    tokens: Vec<Range<usize>>,
    /// For an opening bracket the index of its closing one; for other tokens their own index.
    partners: Vec<usize>,
    /// Token ranges of `#[cfg(test)]` items.
    tests: Vec<Range<usize>>,
    /// Token ranges of modules with a body, and their names.
    inline_modules: Vec<(Range<usize>, String)>,
}

// === impl Tree ===

impl Tree {
    pub fn read() -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let top_level = names_in(root);
        let mut paths = Vec::new();
        for folder in FOLDERS.iter().filter(|folder| root.join(folder).is_dir()) {
            add_files(root, folder, &mut paths);
        }
        let text = |path: &String| {
            fs::read_to_string(root.join(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
        };
        let rust = paths.iter().filter(|path| path.ends_with(".rs"));
        let sources: Vec<_> = rust.map(|path| Source::new(path, &text(path))).collect();
        let documents = paths.iter().chain(&top_level).filter(|path| path.ends_with(".md"));
        let documents = documents.map(|path| (path.clone(), text(path))).collect();
        let manifest = text(&"Cargo.toml".to_owned());
        Self { documents, top_level, manifest, ..Self::new(sources, paths) }
    }

    fn new(sources: Vec<Source>, paths: Vec<String>) -> Self {
        let (mut crate_sources, other_sources): (Vec<_>, Vec<_>) =
            sources.into_iter().partition(|source| source.path.starts_with("src/"));
        let test_modules: Vec<_> = crate_sources.iter().flat_map(Source::test_modules).collect();
        let folders: BTreeSet<_> =
            crate_sources.iter().map(|source| parent(&source.path).to_owned()).collect();
        for source in &mut crate_sources {
            source.is_test_file |= test_modules.contains(&source.module);
            let own = source.path.trim_end_matches(".rs").to_owned();
            let folder = if folders.contains(&own) { &own } else { parent(&source.path) };
            source.folder = folder.strip_prefix("src/").unwrap_or_default().to_owned();
        }
        Self {
            crate_sources,
            other_sources,
            documents: Vec::new(),
            paths,
            top_level: Vec::new(),
            manifest: String::new(),
        }
    }

    /// A tree of the given files, for the tests of the rules.
    pub fn of(files: &[(&str, &str)]) -> Self {
        let sources = files.iter().map(|(path, text)| Source::new(path, text)).collect();
        Self::new(sources, files.iter().map(|(path, _)| (*path).to_owned()).collect())
    }

    pub fn all_sources(&self) -> impl Iterator<Item = &Source> {
        self.crate_sources.iter().chain(&self.other_sources)
    }
}

pub fn parent(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(folder, _)| folder)
}

fn names_in(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    let name = |entry: fs::DirEntry| entry.file_name().to_string_lossy().into_owned();
    let mut names: Vec<_> =
        entries.map(|entry| name(entry.expect("an entry can be read"))).collect();
    names.sort();
    names
}

fn add_files(root: &Path, folder: &str, paths: &mut Vec<String>) {
    for name in names_in(&root.join(folder)) {
        let path = format!("{folder}/{name}");
        match root.join(&path).is_dir() {
            true if ["target", "__pycache__"].contains(&name.as_str()) => {}
            true => add_files(root, &path, paths),
            false => paths.push(path),
        }
    }
}

// === impl Source ===

impl Source {
    pub fn new(path: &str, raw: &str) -> Self {
        let text = blank(raw);
        let tokens = tokens(&text);
        let mut source = Self {
            path: path.to_owned(),
            raw: raw.to_owned(),
            module: module_path(path),
            folder: String::new(),
            children: Vec::new(),
            test_children: Vec::new(),
            is_test_file: path.ends_with("_tests.rs") || path.ends_with("/tests.rs"),
            partners: partners(&text, &tokens),
            text,
            tokens,
            tests: Vec::new(),
            inline_modules: Vec::new(),
        };
        source.tests = source.test_items();
        for at in source.find("mod").collect::<Vec<_>>() {
            let name = source.word(at + 1).to_owned();
            match source.word(at + 2) {
                "{" => source.inline_modules.push((at + 3..source.partner(at + 2), name)),
                ";" if source.is_test(at) => source.test_children.push(name),
                ";" => source.children.push(name),
                _ => {}
            }
        }
        source
    }

    fn test_items(&self) -> Vec<Range<usize>> {
        let attribute = ["#", "[", "cfg", "(", "test", ")", "]"];
        let starts = self.find("#").filter(|at| self.matches(*at, &attribute));
        starts.map(|at| at..self.item_end(at) + 1).collect()
    }

    fn test_modules(&self) -> Vec<Vec<String>> {
        let path = |name: &String| [self.module.as_slice(), std::slice::from_ref(name)].concat();
        self.test_children.iter().map(path).collect()
    }

    pub fn len(&self) -> usize {
        self.tokens.len()
    }

    /// The token at an index; empty outside the file.
    pub fn word(&self, at: usize) -> &str {
        self.tokens.get(at).map_or("", |range| &self.text[range.clone()])
    }

    /// The token before an index.
    pub fn before(&self, at: usize) -> &str {
        at.checked_sub(1).map_or("", |before| self.word(before))
    }

    pub fn matches(&self, at: usize, words: &[&str]) -> bool {
        words.iter().enumerate().all(|(i, word)| self.word(at + i) == *word)
    }

    /// The indices of a token.
    pub fn find(&self, word: &str) -> impl Iterator<Item = usize> {
        (0..self.len()).filter(move |at| self.word(*at) == word)
    }

    /// The index of the bracket that closes the one at `at`.
    pub fn partner(&self, at: usize) -> usize {
        self.partners[at]
    }

    /// The last token of the item that starts at `from`: its `;`, or the end of its braces.
    pub fn item_end(&self, from: usize) -> usize {
        let mut at = from;
        while at < self.len() {
            match self.word(at) {
                "{" => return self.partner(at),
                ";" | "}" => return at,
                _ => at = self.partner(at) + 1,
            }
        }
        at
    }

    pub fn is_test_file(&self) -> bool {
        self.is_test_file
    }

    pub fn is_test(&self, at: usize) -> bool {
        self.is_test_file || self.tests.iter().any(|range| range.contains(&at))
    }

    /// The path of the module around a token, inline modules included.
    pub fn module_at(&self, at: usize) -> Vec<String> {
        let inline = self.inline_modules.iter().filter(|(range, _)| range.contains(&at));
        self.module.iter().chain(inline.map(|(_, name)| name)).cloned().collect()
    }

    pub fn line(&self, at: usize) -> usize {
        let start = self.tokens.get(at).map_or(0, |range| range.start);
        self.text[..start].matches('\n').count() + 1
    }

    pub fn place(&self, at: usize) -> String {
        format!("{}:{}", self.path, self.line(at))
    }

    /// A failure message about the whole file.
    pub fn file_failure(&self, message: &str) -> String {
        format!("{}: {message}", self.path)
    }

    /// A failure message about a token.
    pub fn failure(&self, at: usize, message: &str) -> String {
        format!("{}: {message}", self.place(at))
    }
}

fn module_path(path: &str) -> Vec<String> {
    let path = path.strip_prefix("src/").unwrap_or(path).trim_end_matches(".rs");
    let mut module: Vec<_> = path.split('/').map(str::to_owned).collect();
    let is_root = module == ["lib"];
    if is_root || (module.len() > 1 && module.last().is_some_and(|name| name == "mod")) {
        module.pop();
    }
    module
}

pub fn is_identifier(word: &str) -> bool {
    word.starts_with(|c: char| c.is_alphabetic() || c == '_')
}

/// Identifiers, numbers, lifetimes, `::`, `->`, `=>`, and single characters for the rest.
fn tokens(text: &str) -> Vec<Range<usize>> {
    let in_word = |c: char| c.is_alphanumeric() || c == '_';
    let mut found = Vec::new();
    let mut at = 0;
    while let Some(c) = text[at..].chars().next() {
        let rest = &text[at..];
        let length = match c {
            c if in_word(c) => rest.find(|c| !in_word(c)).unwrap_or(rest.len()),
            '\'' => 1 + rest[1..].find(|c| !in_word(c)).unwrap_or(rest.len() - 1),
            _ if ["::", "->", "=>"].iter().any(|pair| rest.starts_with(pair)) => 2,
            c => c.len_utf8(),
        };
        if !c.is_whitespace() {
            found.push(at..at + length);
        }
        at += length;
    }
    found
}

fn partners(text: &str, tokens: &[Range<usize>]) -> Vec<usize> {
    let mut partners: Vec<_> = (0..tokens.len()).collect();
    let mut open = Vec::new();
    for (at, range) in tokens.iter().enumerate() {
        match &text[range.clone()] {
            "(" | "[" | "{" => open.push(at),
            ")" | "]" | "}" => {
                if let Some(start) = open.pop() {
                    partners[start] = at;
                }
            }
            _ => {}
        }
    }
    partners
}

/// Comments and the insides of literals become spaces; lines and positions stay.
fn blank(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let skipped = literal_or_comment(rest, &out);
        let taken = skipped.unwrap_or(c.len_utf8());
        match skipped {
            Some(_) => {
                out.extend(rest[..taken].bytes().map(|b| if b == b'\n' { '\n' } else { ' ' }))
            }
            None => out.push(c),
        }
        rest = &rest[taken..];
    }
    out
}

/// The length of the comment or literal that begins here.
fn literal_or_comment(rest: &str, before: &str) -> Option<usize> {
    let to = |from: usize, end: &str| {
        rest[from..].find(end).map_or(rest.len(), |at| from + at + end.len())
    };
    if rest.starts_with("//") {
        return Some(rest.find('\n').unwrap_or(rest.len()));
    }
    if rest.starts_with("/*") {
        return Some(to(2, "*/"));
    }
    let in_word = before.ends_with(|c: char| c.is_alphanumeric() || c == '_');
    if rest.starts_with('r') && (!in_word || before.ends_with('b')) {
        let hashes = rest[1..].bytes().take_while(|b| *b == b'#').count();
        if rest[1 + hashes..].starts_with('"') {
            return Some(to(hashes + 2, &format!("\"{}", "#".repeat(hashes))));
        }
    }
    match rest.as_bytes() {
        [b'"', ..] => Some(closed(rest, '"')),
        [b'\'', b'\\', ..] => Some(closed(rest, '\'')),
        // 'x' is a character, 'x without its end a lifetime.
        [b'\'', ..] => {
            let mut after = rest.char_indices().skip(2);
            after.next().filter(|(_, c)| *c == '\'').map(|(at, _)| at + 1)
        }
        _ => None,
    }
}

/// The length of a literal with escapes, its quotes included.
fn closed(rest: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, c) in rest.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            c if c == quote => return at + 1,
            _ => {}
        }
    }
    rest.len()
}

mod the_checker {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        let source = Source::new("src/live/a.rs", text);
        (0..source.len()).map(|at| source.word(at).to_owned()).collect()
    }

    #[test]
    fn comments_and_literals_are_not_code() {
        assert_eq!(words("// a::b\n/* c */ d"), ["d"]);
        assert_eq!(words(r##"f("a\"b", 'x', '\'', r#""y"#, b"z")"##).join(""), "f(,,,,b)");
        assert_eq!(words("f('\"', x, '\"')").join(""), "f(,x,)");
        assert_eq!(words("fn f<'a>(x: &'a str)")[2..4], ["<", "'a"]);
    }

    #[test]
    fn tokens_are_words_and_paths() {
        assert_eq!(
            words("a::b_1->c=>1_000u32;"),
            ["a", "::", "b_1", "->", "c", "=>", "1_000u32", ";"]
        );
    }

    #[test]
    fn test_code_is_known_by_its_attribute_or_its_file() {
        let text = "#[cfg(test)]\nmod tests { x }\ny";
        let source = Source::new("src/live/a.rs", text);
        let is_test = |word| source.is_test(source.find(word).next().expect("it occurs"));
        assert!(is_test("x") && !is_test("y"));
        let tree = Tree::of(&[
            ("src/live/mod.rs", "mod a;\n#[cfg(test)]\nmod server;"),
            ("src/live/a.rs", "x"),
            ("src/live/a_tests.rs", "x"),
            ("src/live/server.rs", "x"),
        ]);
        let test_files = tree.crate_sources.iter().map(Source::is_test_file);
        assert_eq!(test_files.collect::<Vec<_>>(), [false, false, true, true]);
    }

    #[test]
    fn a_file_belongs_to_a_module_and_a_folder() {
        let paths =
            ["src/lib.rs", "src/app.rs", "src/app/mod.rs", "src/app/a/b.rs", "src/clock.rs"];
        let tree = Tree::of(&paths.map(|path| (path, "mod x { y }")));
        let modules = tree.crate_sources.iter().map(|source| source.module.join("::"));
        assert_eq!(modules.collect::<Vec<_>>(), ["", "app", "app", "app::a::b", "clock"]);
        let folders = tree.crate_sources.iter().map(|source| source.folder.as_str());
        assert_eq!(folders.collect::<Vec<_>>(), ["", "app", "app", "app/a", ""]);
        assert_eq!(tree.crate_sources[3].module_at(3), ["app", "a", "b", "x"]);
    }
}
