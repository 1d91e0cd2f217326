//! The YAML of all files as one tree of values with their positions.
//!
//! The text is parsed once (`parse.rs`), so that the value that is checked and the position that a
//! message shows cannot differ. Values are kept in one list and found by number; the number is
//! enough to find the position (`locations.rs`).

use std::ops::Range;

use serde_json::Value;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId(pub(crate) u32);

pub(crate) struct File {
    pub(crate) name: String,
    pub(crate) text: String,
    /// Not parsed to its end: the secrets in the rest are unknown.
    pub(crate) broken: bool,
    /// A preset, which users do not have as a file.
    pub(crate) is_preset: bool,
    /// Bytes of each comment.
    pub(crate) comments: Vec<Range<usize>>,
}

pub(crate) struct Node {
    pub(crate) file: usize,
    pub(crate) parent: Option<NodeId>,
    pub(crate) step: TreeStep,
    /// Bytes of the value.
    pub(crate) span: Range<usize>,
    pub(crate) kind: Kind,
}

/// From the parent to here.
#[derive(Clone)]
pub(crate) enum TreeStep {
    Root,
    Key { text: String, span: Range<usize> },
    Item(usize),
}

#[derive(Clone)]
pub(crate) enum Kind {
    /// `plain`: without quotes.
    Scalar {
        text: String,
        plain: bool,
    },
    List {
        items: Vec<NodeId>,
        flow: bool,
    },
    Map {
        entries: Vec<NodeId>,
        flow: bool,
    },
}

/// All files.
#[derive(Default)]
pub struct Tree {
    pub(crate) files: Vec<File>,
    pub(crate) nodes: Vec<Node>,
}

impl std::fmt::Debug for Tree {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Tree({} files, {} values)", self.files.len(), self.nodes.len())
    }
}

// === impl Tree ===

impl Tree {
    pub(crate) fn node(&self, id: NodeId) -> &Node {
        &self.nodes[id.0 as usize]
    }

    /// The values in a list or under the keys of a map.
    pub(crate) fn children(&self, id: NodeId) -> impl Iterator<Item = NodeId> + '_ {
        let ids = match &self.node(id).kind {
            Kind::Scalar { .. } => &[][..],
            Kind::List { items: ids, .. } | Kind::Map { entries: ids, .. } => ids,
        };
        ids.iter().copied()
    }

    /// The value under a key.
    pub fn child(&self, id: NodeId, key: &str) -> Option<NodeId> {
        let Kind::Map { entries, .. } = &self.node(id).kind else { return None };
        entries.iter().copied().find(|id| self.key(*id) == Some(key))
    }

    /// The value under one key after another.
    pub(crate) fn below(&self, id: NodeId, keys: &[&str]) -> Option<NodeId> {
        keys.iter().try_fold(id, |id, key| self.child(id, key))
    }

    pub fn key(&self, id: NodeId) -> Option<&str> {
        match &self.node(id).step {
            TreeStep::Key { text, .. } => Some(text),
            _ => None,
        }
    }

    pub fn parent(&self, id: NodeId) -> Option<NodeId> {
        self.node(id).parent
    }

    /// The value, then the map or list around it, and so on to the root.
    pub(crate) fn ancestors(&self, id: NodeId) -> impl Iterator<Item = NodeId> + '_ {
        std::iter::successors(Some(id), |id| self.parent(*id))
    }

    pub fn text(&self, id: NodeId) -> Option<&str> {
        match &self.node(id).kind {
            Kind::Scalar { text, .. } => Some(text),
            _ => None,
        }
    }

    /// Nothing was written, or `~` or `null`.
    pub fn is_null(&self, id: NodeId) -> bool {
        match &self.node(id).kind {
            Kind::Scalar { text, plain } => {
                *plain && matches!(text.as_str(), "" | "~" | "null" | "Null" | "NULL")
            }
            _ => false,
        }
    }

    /// The JSON value that YAML's core schema makes of it.
    pub fn json(&self, id: NodeId) -> Value {
        match &self.node(id).kind {
            Kind::Scalar { text, plain: true } => plain_json(text),
            Kind::Scalar { text, .. } => Value::String(text.clone()),
            Kind::List { .. } => self.children(id).map(|child| self.json(child)).collect(),
            Kind::Map { .. } => {
                let entry =
                    |child| (self.key(child).unwrap_or_default().to_owned(), self.json(child));
                Value::Object(self.children(id).map(entry).collect())
            }
        }
    }

    /// The values of a list or map, to be changed.
    pub(crate) fn children_mut(&mut self, id: NodeId) -> Option<&mut Vec<NodeId>> {
        match &mut self.nodes[id.0 as usize].kind {
            Kind::Scalar { .. } => None,
            Kind::List { items: ids, .. } | Kind::Map { entries: ids, .. } => Some(ids),
        }
    }

    pub(crate) fn push(&mut self, node: Node) -> NodeId {
        let id = NodeId(u32::try_from(self.nodes.len()).unwrap_or(u32::MAX));
        self.nodes.push(node);
        id
    }
}

fn plain_json(text: &str) -> Value {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => Value::Null,
        "true" | "True" | "TRUE" => Value::Bool(true),
        "false" | "False" | "FALSE" => Value::Bool(false),
        _ => {
            let number = text
                .parse::<i64>()
                .map(Value::from)
                .or_else(|_| text.parse::<u64>().map(Value::from));
            let digits = text
                .trim_start_matches(['-', '+'])
                .starts_with(|c: char| c.is_ascii_digit() || c == '.');
            let real = || {
                text.parse::<f64>().ok().filter(|real| digits && real.is_finite()).map(Value::from)
            };
            number.ok().or_else(real).unwrap_or_else(|| Value::String(text.to_owned()))
        }
    }
}
