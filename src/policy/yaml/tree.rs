//! The YAML of all files as one tree in which each value knows where it stands.
//!
//! One parser reads the text, once (`grow.rs`): what is checked and what is pointed at cannot
//! differ. Values are kept in one list and found by number, so that whoever holds a number can
//! ask for the place (`places.rs`) without carrying it along.
//!
//! What was reported stays in the tree, marked: reading goes on as if it were not there, but
//! nobody reports it as missing.

use std::ops::Range;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId(pub(crate) u32);

pub(crate) struct File {
    pub(crate) name: String,
    pub(crate) text: String,
    /// Not read to its end: what is secret in the rest is not known.
    pub(crate) broken: bool,
    /// Bytes of each comment.
    pub(crate) comments: Vec<Range<usize>>,
}

pub(crate) struct Node {
    pub(crate) file: usize,
    pub(crate) parent: Option<NodeId>,
    pub(crate) step: Step,
    /// Bytes of the value.
    pub(crate) span: Range<usize>,
    pub(crate) kind: Kind,
    /// Reported already: reading goes on as if it were not there.
    pub(crate) pruned: bool,
    /// Something below was pruned.
    pub(crate) damaged: bool,
}

/// From the parent to here.
#[derive(Clone)]
pub(crate) enum Step {
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

/// All files; see the module.
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

    /// The values in a list or behind the keys of a map, without those that were reported.
    pub(crate) fn children(&self, id: NodeId) -> impl Iterator<Item = NodeId> + '_ {
        let ids = match &self.node(id).kind {
            Kind::Scalar { .. } => &[][..],
            Kind::List { items: ids, .. } | Kind::Map { entries: ids, .. } => ids,
        };
        ids.iter().copied().filter(|id| !self.node(*id).pruned)
    }

    /// The value behind a key, even one that was reported.
    pub fn child(&self, id: NodeId, key: &str) -> Option<NodeId> {
        let Kind::Map { entries, .. } = &self.node(id).kind else { return None };
        entries.iter().copied().find(|id| self.key(*id) == Some(key))
    }

    /// The value behind one key after another.
    pub(crate) fn below(&self, id: NodeId, keys: &[&str]) -> Option<NodeId> {
        keys.iter().try_fold(id, |id, key| self.child(id, key))
    }

    /// The keys of a map, with those that were reported.
    pub(crate) fn all_keys(&self, id: NodeId) -> Vec<String> {
        let Kind::Map { entries, .. } = &self.node(id).kind else { return Vec::new() };
        entries.iter().filter_map(|id| self.key(*id)).map(str::to_owned).collect()
    }

    pub fn key(&self, id: NodeId) -> Option<&str> {
        match &self.node(id).step {
            Step::Key { text, .. } => Some(text),
            _ => None,
        }
    }

    pub fn parent(&self, id: NodeId) -> Option<NodeId> {
        self.node(id).parent
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

    /// Whether something below was reported, so that what is missing may be no one's mistake.
    pub fn damaged(&self, id: NodeId) -> bool {
        self.node(id).damaged || self.node(id).pruned
    }

    pub(crate) fn prune(&mut self, id: NodeId) {
        self.nodes[id.0 as usize].pruned = true;
        let mut above = self.parent(id);
        while let Some(id) = above {
            self.nodes[id.0 as usize].damaged = true;
            above = self.parent(id);
        }
    }

    pub(crate) fn push(&mut self, node: Node) -> NodeId {
        let id = NodeId(u32::try_from(self.nodes.len()).unwrap_or(u32::MAX));
        self.nodes.push(node);
        id
    }
}
