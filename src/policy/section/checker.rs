//! The checker: the tree that is read, the problems found so far, and access to secrets and files.
//!
//! Every form reads its value through one `Checker`. Reading continues after a problem, with the
//! default value, so that all problems are reported together; the resulting policy is not used. The
//! checker remembers each value that cannot be read (`Checker::damaged`), because problems that only
//! follow from it are not reported.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::names::SectionNames;
use super::{Bounded, Form};
use crate::policy::text::suggest::{did_you_mean, listed};
use crate::policy::yaml::diagnostic::Diagnostic;
use crate::policy::yaml::tree::{Kind, NodeId, Tree};
use crate::policy::yaml::units::show_duration;

/// Problems that are reported of one file.
const MAX_PROBLEMS: usize = 200;

/// Where secrets and certificates come from.
pub trait Sources {
    fn env(&self, name: &str) -> Option<String>;
    /// The implementation resolves relative paths.
    fn file(&self, path: &Path) -> io::Result<Vec<u8>>;
    /// Reads a file without secrets, which exists wherever the policy is checked.
    fn data_file(&self, path: &Path) -> io::Result<Vec<u8>> {
        self.file(path)
    }
}

pub struct Checker<'a> {
    pub tree: &'a Tree,
    sources: &'a dyn Sources,
    pub problems: Vec<Diagnostic>,
    pub files_read: BTreeSet<PathBuf>,
    pub names: SectionNames,
    /// The root of each file that could be read.
    pub roots: Vec<NodeId>,
    /// A part of the policy could not be read, so a name that seems to be missing may be declared there.
    pub incomplete: bool,
    /// Values that could not be read, and the maps and lists around them.
    damaged: BTreeSet<NodeId>,
    /// The number of problems of each file.
    counts: BTreeMap<usize, usize>,
}

impl<'a> Checker<'a> {
    pub fn new(
        tree: &'a Tree,
        sources: &'a dyn Sources,
        roots: Vec<NodeId>,
        incomplete: bool,
    ) -> Self {
        Self {
            tree,
            sources,
            problems: Vec::new(),
            files_read: BTreeSet::new(),
            names: SectionNames::default(),
            roots,
            incomplete,
            damaged: BTreeSet::new(),
            counts: BTreeMap::new(),
        }
    }

    // === problems ===

    /// Reports a problem with the value at `node`. `problem` is called only if the problem is listed.
    pub fn report(&mut self, node: NodeId, problem: impl FnOnce(&Tree) -> Diagnostic) {
        let file = self.tree.node(node).file;
        let count = self.counts.entry(file).or_default();
        *count += 1;
        match *count {
            count if count <= MAX_PROBLEMS => self.problems.push(problem(self.tree)),
            count if count == MAX_PROBLEMS + 1 => {
                let message = format!(
                    "more than {MAX_PROBLEMS} problems: the rest of this file is not listed"
                );
                self.problems.push(self.tree.in_file(file, 0..0, message));
            }
            _ => {}
        }
    }

    pub fn error(&mut self, node: NodeId, message: impl Into<String>) {
        self.report(node, |tree| tree.on_value(node, message));
    }

    /// Reports an error, and returns `None` as the value.
    pub fn reject<T>(&mut self, node: NodeId, message: impl Into<String>) -> Option<T> {
        self.error(node, message);
        None
    }

    pub fn error_on_key(&mut self, node: NodeId, message: impl Into<String>) {
        self.report(node, |tree| tree.on_key(node, message));
    }

    /// Reports a value that cannot be read, and suppresses problems that would follow from its absence.
    pub fn unreadable(&mut self, node: NodeId, problem: impl FnOnce(&Tree) -> Diagnostic) {
        self.report(node, problem);
        self.damaged.extend(self.tree.ancestors(node));
    }

    /// Whether a value at or below the node could not be read.
    pub fn damaged(&self, node: NodeId) -> bool {
        self.damaged.contains(&node)
    }

    /// Reports a value of the wrong kind: `expected a size like `64KiB`, found a list`.
    pub fn unexpected(&mut self, node: NodeId, expected: &str) {
        let found = match &self.tree.node(node).kind {
            _ if self.tree.is_null(node) => {
                let message = format!("expected {expected}, found nothing");
                return self.unreadable(node, |tree| tree.on_key(node, message));
            }
            Kind::Scalar { text, .. } => format!("`{text}`"),
            Kind::List { .. } => "a list".to_owned(),
            Kind::Map { .. } => "a map".to_owned(),
        };
        let message = format!("expected {expected}, found {found}");
        let is_regex_map = expected == "a regular expression" && {
            self.tree.children(node).any(|child| self.tree.key(child) == Some("regex"))
        };
        self.unreadable(node, |tree| match tree.on_value(node, message) {
            problem if is_regex_map => {
                problem.help("write the text of `regex` here, without the map")
            }
            problem => problem,
        });
    }

    /// Reports a word that is not one of `known`, with the closest of them.
    pub fn unknown_word(&mut self, node: NodeId, word: &str, known: &[&str]) {
        let message = format!("unknown value `{word}`: expected {}", listed(known.iter().copied()));
        let label = did_you_mean(word, known.iter().copied());
        self.unreadable(node, |tree| tree.on_value(node, message).label(label));
    }

    // === values ===

    /// Checks that the value is a map, and reports each key that is not one of `known`. An empty value is a
    /// map without keys.
    pub fn map(&mut self, node: NodeId, known: &[&'static str]) -> Option<()> {
        for child in self.entries(node)? {
            let key = self.tree.key(child).unwrap_or_default();
            if !known.contains(&key) {
                self.unknown_key(child, key, known);
            }
        }
        Some(())
    }

    fn unknown_key(&mut self, node: NodeId, key: &str, known: &[&str]) {
        let label = did_you_mean(key, known.iter().copied());
        let help = label.is_none().then(|| {
            format!("known here: {}", listed(known.iter().copied()).replace(" or ", " and "))
        });
        self.unreadable(node, |tree| {
            let problem = tree.on_key(node, format!("unknown key `{key}`")).label(label);
            match help {
                Some(help) => problem.help(help),
                None => problem,
            }
        });
    }

    /// Reads one key of the section at `node`. Returns its default if it is absent or has a problem.
    pub fn field<M, F: Form<M>>(
        &mut self,
        node: NodeId,
        key: &'static str,
        default: Option<M>,
        bound: impl FnOnce(&M, NodeId, &mut Self),
        example: &str,
    ) -> Option<M> {
        let found = if F::FLATTENED { Some(node) } else { self.tree.child(node, key) };
        if let Some(at) = found {
            if let Some(value) = F::read(at, self) {
                bound(&value, at, self);
                return Some(value);
            }
            return default.or_else(F::absent);
        }
        let default = default.or_else(|| F::absent_in(self));
        if default.is_none() {
            self.missing(node, key, example);
        }
        default
    }

    /// Reports that a required key is missing.
    pub fn missing(&mut self, node: NodeId, key: &str, example: &str) {
        let message = match example {
            "" => format!("missing key `{key}`"),
            _ => format!("missing key `{key}`: expected one like `{key}: {example}`"),
        };
        self.error_on_key(node, message);
    }

    /// Reports a value outside of its bounds.
    pub fn bounded<M, F: Bounded<M>>(
        &mut self,
        value: &M,
        node: NodeId,
        bounds: &RangeInclusive<F::Value>,
    ) {
        if F::value(value).is_some_and(|value| !bounds.contains(value)) {
            let found = self.tree.text(node).unwrap_or_default();
            let message =
                format!("`{found}` is out of bounds: expected a {} {}", F::NAME, F::limits(bounds));
            self.error(node, message);
        }
    }

    /// Reads the text of a scalar; `expected` describes it in a message.
    pub fn text(&mut self, node: NodeId, expected: &str) -> Option<&'a str> {
        let tree = self.tree;
        match tree.text(node) {
            Some(text) if !tree.is_null(node) => Some(text),
            _ => {
                self.unexpected(node, expected);
                None
            }
        }
    }

    /// Reads a text and parses it.
    pub fn parsed<T>(
        &mut self,
        node: NodeId,
        expected: &str,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<T> {
        let text = self.text(node, expected)?;
        match parse(text) {
            Ok(value) => Some(value),
            Err(message) => {
                self.unreadable(node, |tree| tree.on_value(node, message));
                None
            }
        }
    }

    /// Reads one of the words of an enum.
    pub fn word<T: Copy>(
        &mut self,
        node: NodeId,
        all: &[T],
        word: impl Fn(T) -> &'static str,
    ) -> Option<T> {
        let text = self.text(node, &listed(all.iter().map(|one| word(*one))))?;
        let found = all.iter().copied().find(|one| word(*one) == text);
        if found.is_none() {
            let known: Vec<_> = all.iter().map(|one| word(*one)).collect();
            self.unknown_word(node, text, &known);
        }
        found
    }

    pub fn is_map(&self, node: NodeId) -> bool {
        matches!(self.tree.node(node).kind, Kind::Map { .. })
    }

    pub fn is_list(&self, node: NodeId) -> bool {
        matches!(self.tree.node(node).kind, Kind::List { .. })
    }

    /// The items of a list; reports any other value.
    pub fn list(&mut self, node: NodeId) -> Option<impl Iterator<Item = NodeId> + use<'a>> {
        if !self.is_list(node) {
            self.unexpected(node, "a list");
            return None;
        }
        let tree = self.tree;
        Some(tree.children(node))
    }

    /// The entries of a map, none for an empty value; reports any other value.
    pub fn entries(&mut self, node: NodeId) -> Option<impl Iterator<Item = NodeId> + use<'a>> {
        if !self.is_map(node) && !self.tree.is_null(node) {
            self.unexpected(node, "a map");
            return None;
        }
        let tree = self.tree;
        Some(tree.children(node))
    }

    // === rules of `section!` ===

    /// Reports a list or map without entries, unless an entry could not be read.
    pub fn some(&mut self, node: NodeId, message: &str) {
        let collection = self.is_list(node) || self.is_map(node) || self.tree.is_null(node);
        if collection && self.tree.children(node).next().is_none() && !self.damaged(node) {
            self.error(node, message);
        }
    }

    /// Reports the second of two durations of the section at `node` if it is shorter than the first.
    pub fn in_order(&mut self, node: NodeId, keys: [&str; 2], times: [Duration; 2]) {
        let written = keys.into_iter().rev().find_map(|key| self.tree.child(node, key));
        if let (Some(at), true) = (written, times[0] > times[1]) {
            let ([first, second], [low, high]) = (keys, times.map(show_duration));
            self.error(at, format!("`{second}` ({high}) is shorter than `{first}` ({low})"));
        }
    }

    /// Reports each name or word that a list has twice; `what` describes an item in the message.
    pub fn once(&mut self, node: NodeId, what: &str) {
        let (tree, mut found) = (self.tree, BTreeSet::new());
        for item in tree.children(node) {
            let name = tree.text(tree.child(item, "name").unwrap_or(item)).unwrap_or_default();
            if !found.insert(name) && !self.damaged(item) {
                self.error(item, format!("{what} `{name}` is listed twice"));
            }
        }
    }

    /// Those of `keys` that the section at `node` has.
    pub fn present_keys(&self, node: NodeId, keys: &[&'static str]) -> Vec<&'static str> {
        keys.iter().copied().filter(|key| self.tree.child(node, key).is_some()).collect()
    }

    /// The single item of `given`; reports none and several.
    pub fn only<T: Copy>(&mut self, node: NodeId, what: &str, given: &[T]) -> Option<T> {
        match given {
            [only] => return Some(*only),
            _ if self.damaged(node) => {}
            [] => self.error(node, format!("expected one {what}, found none")),
            more => self.error(node, format!("expected one {what}, found {}", more.len())),
        }
        None
    }

    /// The value under these keys, in the first file that has it.
    pub fn declared(&self, keys: &[&str]) -> Option<NodeId> {
        self.roots.iter().find_map(|root| self.tree.below(*root, keys))
    }

    // === environment and files ===

    pub fn env(&self, name: &str) -> Option<String> {
        self.sources.env(name)
    }

    pub fn file(&mut self, node: NodeId, path: &Path) -> Option<Vec<u8>> {
        let read = self.sources.file(path);
        self.file_content(node, path, read)
    }

    /// Reads a file without secrets.
    pub fn data_file(&mut self, node: NodeId, path: &Path) -> Option<Vec<u8>> {
        let read = self.sources.data_file(path);
        self.file_content(node, path, read)
    }

    fn file_content(
        &mut self,
        node: NodeId,
        path: &Path,
        read: io::Result<Vec<u8>>,
    ) -> Option<Vec<u8>> {
        self.files_read.insert(path.to_owned());
        match read {
            Ok(bytes) => Some(bytes),
            Err(error) => {
                self.error(node, format!("cannot read the file `{}`: {error}", path.display()));
                None
            }
        }
    }
}

impl std::fmt::Debug for Checker<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Checker({} problems)", self.problems.len())
    }
}
