//! Locations of keys: from a value of the tree to its path, file, line and column.
//!
//! A path is the keys with dots between them; an element of a list is named by its `name` if it has
//! one (`routes.chat.timeout`), else by its index (`endpoints[1]`).
//!
//! A problem shows its line. The line is masked here (`secrets.rs`), so that no renderer can forget
//! it.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;

use crate::policy::yaml::diagnostic::{Diagnostic, Excerpt, Severity, Spot};
use crate::policy::yaml::tree::{Kind, NodeId, Tree, TreeStep};

/// Longer lines are not shown.
const LINE: usize = 2000;
/// Longer paths are not kept.
const PATH: usize = 300;
/// A longer key is cut.
const KEY: usize = 64;

/// The location of each path; without values.
#[derive(Clone, Debug, Default)]
pub struct Locations {
    by_path: BTreeMap<String, Location>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Location {
    /// The name of the file, or `preset openai`.
    pub file: String,
    /// From 1; 0 in a preset.
    pub line: usize,
    /// From 1, in characters.
    pub column: usize,
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => f.write_str(&self.file),
            line => write!(f, "{}:{line}", self.file),
        }
    }
}

impl Locations {
    /// `providers.openai.timeouts.connect`, `routes.chat`.
    pub fn find(&self, path: &str) -> Option<&Location> {
        self.by_path.get(path)
    }

    pub fn iter(&self) -> impl Iterator<Item = (&str, &Location)> {
        self.by_path.iter().map(|(path, location)| (path.as_str(), location))
    }

    /// The locations in the files whose documents begin at `roots`.
    pub(crate) fn of(tree: &Tree, roots: &[NodeId]) -> Self {
        let starts: Vec<_> = tree.files.iter().map(|file| line_starts(&file.text)).collect();
        let mut locations = Self::default();
        let mut open: Vec<_> = roots.iter().map(|id| (*id, String::new())).collect();
        while let Some((id, path)) = open.pop() {
            let node = tree.node(id);
            let (file, at) = (&tree.files[node.file], tree.key_span(id).start);
            let line = starts[node.file].partition_point(|start| *start <= at).max(1);
            let before = file.text.get(starts[node.file][line - 1]..at).unwrap_or_default();
            let column = before.chars().count() + 1;
            if path.len() < PATH {
                open.extend(tree.children(id).map(|child| (child, tree.path_from(&path, child))));
                locations.by_path.entry(path).or_insert(Location {
                    file: file.name.clone(),
                    line: if file.is_preset { 0 } else { line },
                    column,
                });
            }
        }
        locations
    }
}

fn line_starts(text: &str) -> Vec<usize> {
    let after = text.bytes().enumerate().filter(|(_, b)| *b == b'\n').map(|(at, _)| at + 1);
    std::iter::once(0).chain(after).collect()
}

// === impl Tree: pointing at what was read ===

impl Tree {
    /// A problem with the value.
    pub fn on_value(&self, id: NodeId, message: impl Into<String>) -> Diagnostic {
        self.about(id, self.value_span(id), message.into())
    }

    /// A problem with the key, or with the whole entry under it.
    pub fn on_key(&self, id: NodeId, message: impl Into<String>) -> Diagnostic {
        self.about(id, self.key_span(id), message.into())
    }

    /// A problem with a file as a whole, or with a part of it that is not a value.
    pub(crate) fn in_file(&self, file: usize, span: Range<usize>, message: String) -> Diagnostic {
        Diagnostic::new(Severity::Error, message, self.spot(file, span))
    }

    fn about(&self, id: NodeId, span: Range<usize>, message: String) -> Diagnostic {
        let message = self.without_secret(id, message);
        let mut problem = self.in_file(self.node(id).file, span, message);
        problem.path = self.path(id);
        problem
    }

    pub fn path(&self, id: NodeId) -> String {
        match self.parent(id) {
            Some(above) => self.path_from(&self.path(above), id),
            None => String::new(),
        }
    }

    fn path_from(&self, above: &str, id: NodeId) -> String {
        let name = match &self.node(id).step {
            TreeStep::Root => return String::new(),
            TreeStep::Key { .. } if self.has_secret_key(id) => "***",
            TreeStep::Key { text, .. } => text,
            TreeStep::Item(index) => {
                match self.child(id, "name").and_then(|name| self.text(name)) {
                    Some(name) if is_plain(name) => name,
                    _ => return format!("{above}[{index}]"),
                }
            }
        };
        child_path(above, name)
    }

    pub(crate) fn key_span(&self, id: NodeId) -> Range<usize> {
        match &self.node(id).step {
            TreeStep::Key { span, .. } => span.clone(),
            _ => self.node(id).span.clone(),
        }
    }

    /// A block of several lines is marked at its key.
    fn value_span(&self, id: NodeId) -> Range<usize> {
        let node = self.node(id);
        let block =
            matches!(node.kind, Kind::List { flow: false, .. } | Kind::Map { flow: false, .. });
        if block || node.span.is_empty() { self.key_span(id) } else { node.span.clone() }
    }

    pub(crate) fn spot(&self, file: usize, span: Range<usize>) -> Spot {
        let source = &self.files[file];
        let text = source.text.as_str();
        let start = text.floor_char_boundary(span.start);
        let from = text[..start].rfind('\n').map_or(0, |at| at + 1);
        let to = text[start..].find(['\n', '\r']).map_or(text.len(), |at| start + at);
        let end = text.floor_char_boundary(span.end).clamp(start, to.max(start));
        let line = text[..start].matches('\n').count() + 1;
        let column = text[from..start].chars().count() + 1;
        let excerpt = (to - from <= LINE)
            .then(|| Excerpt { text: self.masked(file, from..to), span: start - from..end - from });
        Spot { file: source.name.clone(), line, column, span: start..end, excerpt }
    }
}

/// The path of a key below the one of its map.
pub fn child_path(above: &str, key: &str) -> String {
    match (is_plain(key), above) {
        (false, _) => format!("{above}[{:?}]", key.chars().take(KEY).collect::<String>()),
        (true, "") => key.to_owned(),
        (true, _) => format!("{above}.{key}"),
    }
}

fn is_plain(key: &str) -> bool {
    let word = |c: char| c.is_alphanumeric() || matches!(c, '_' | '-');
    !key.is_empty() && key.len() <= KEY && key.chars().all(word)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_key_has_a_location() {
        let mut tree = Tree::default();
        let text = "routes:\n  - name: chat\n    timeout: 5s\nproviders: { a.b: { url: x } }\n";
        let root = tree.parse("a.yaml", text.to_owned(), &mut Vec::new()).unwrap();
        let locations = Locations::of(&tree, &[root]);
        let at = |path: &str| locations.find(path).map(|location| (location.line, location.column));
        assert_eq!(at("routes.chat"), Some((2, 5)));
        assert_eq!(at("routes.chat.timeout"), Some((3, 5)));
        assert_eq!(at("providers[\"a.b\"].url"), Some((4, 21)));
        assert_eq!(at("providers"), Some((4, 1)));
    }
}
