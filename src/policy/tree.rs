//! The YAML of all files as one tree in which each value knows where it stands.
//!
//! One parser reads the text, once: what is checked and what is pointed at cannot differ. Here
//! are also the checks that belong to the text alone: one document in a file, no key twice, no
//! nesting deeper than [`DEPTH`], no alias that holds itself, and no more than [`NODES`] values
//! once aliases are written out, so that a few lines cannot become gigabytes.
//!
//! An alias is copied where it is used; the copy's own place is the alias, its children's the
//! anchor's. Merge keys (`<<`) and tags are not part of the language.

use std::collections::HashMap;
use std::ops::Range;

use granit_parser::{Event, Parser, ScalarStyle, Span, StructureStyle, Tag};

use super::problem::Problem;

const DEPTH: usize = 64;
const NODES: usize = 100_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId(pub(super) u32);

pub(super) struct File {
    pub(super) name: String,
    pub(super) text: String,
    /// The parser gave up: what is secret in the rest is not known.
    pub(super) broken: bool,
}

pub(super) struct Node {
    pub(super) file: usize,
    pub(super) parent: Option<NodeId>,
    pub(super) step: Step,
    /// Bytes of the value.
    pub(super) span: Range<usize>,
    pub(super) kind: Kind,
    /// Reported already: reading goes on as if it were not there.
    pub(super) pruned: bool,
    /// Something below was pruned.
    pub(super) damaged: bool,
}

/// From the parent to here.
#[derive(Clone)]
pub(super) enum Step {
    Root,
    Key { text: String, span: Range<usize> },
    Item(usize),
}

#[derive(Clone)]
pub(super) enum Kind {
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
    pub(super) files: Vec<File>,
    pub(super) nodes: Vec<Node>,
}

impl std::fmt::Debug for Tree {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Tree({} files, {} values)", self.files.len(), self.nodes.len())
    }
}

// === impl Tree ===

impl Tree {
    /// The root of the file's document; an empty file has no keys. An error was reported.
    pub fn grow(
        &mut self,
        name: &str,
        text: String,
        problems: &mut Vec<Problem>,
    ) -> Result<NodeId, Unread> {
        let file = self.files.len();
        self.files.push(File { name: name.to_owned(), text, broken: false });
        let text = self.files[file].text.clone();
        let mut growing = Growing {
            file,
            limit: self.nodes.len() + NODES,
            tree: self,
            open: Vec::new(),
            root: None,
            documents: 0,
            anchors: HashMap::new(),
            problems,
        };
        for event in Parser::new_from_str(&text) {
            let step = match event {
                Ok((event, span)) => growing.take(event, &span),
                Err(error) => {
                    let at = error.marker().byte_offset().unwrap_or(0);
                    let message = format!("this is no YAML: {}", error.kind());
                    Err(Stop { span: at..at, message, also: None, broken: true })
                }
            };
            if let Err(stop) = step {
                growing.stop(stop);
                return growing.root.ok_or(Unread);
            }
        }
        match growing.root {
            Some(root) => Ok(root),
            None => growing
                .place(Kind::Map { entries: Vec::new(), flow: true }, &(0..0))
                .map_err(|_| Unread),
        }
    }

    pub(super) fn node(&self, id: NodeId) -> &Node {
        &self.nodes[id.0 as usize]
    }

    /// The values in a list or behind the keys of a map, without those that were reported.
    pub(super) fn children(&self, id: NodeId) -> impl Iterator<Item = NodeId> + '_ {
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

    /// The keys of a map, with those that were reported.
    pub(super) fn all_keys(&self, id: NodeId) -> Vec<String> {
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

    pub(super) fn prune(&mut self, id: NodeId) {
        self.nodes[id.0 as usize].pruned = true;
        let mut above = self.parent(id);
        while let Some(id) = above {
            self.nodes[id.0 as usize].damaged = true;
            above = self.parent(id);
        }
    }

    fn push(&mut self, node: Node) -> NodeId {
        let id = NodeId(u32::try_from(self.nodes.len()).unwrap_or(u32::MAX));
        self.nodes.push(node);
        id
    }
}

/// The file cannot be judged.
#[derive(Debug)]
pub struct Unread;

/// Why the rest of a file is not read.
struct Stop {
    span: Range<usize>,
    message: String,
    also: Option<Range<usize>>,
    broken: bool,
}

fn stop(span: &Range<usize>, message: impl Into<String>) -> Stop {
    Stop { span: span.clone(), message: message.into(), also: None, broken: false }
}

/// A list or map whose end was not seen yet.
struct Open {
    id: NodeId,
    anchor: usize,
    /// Of a map: the key whose value comes next.
    key: Option<Step>,
    seen: HashMap<String, NodeId>,
}

struct Growing<'a> {
    tree: &'a mut Tree,
    file: usize,
    limit: usize,
    open: Vec<Open>,
    root: Option<NodeId>,
    documents: usize,
    anchors: HashMap<usize, NodeId>,
    problems: &'a mut Vec<Problem>,
}

impl Growing<'_> {
    fn take(&mut self, event: Event<'_>, span: &Span) -> Result<(), Stop> {
        let bytes = span.byte_range().unwrap_or(0..0);
        match event {
            Event::DocumentStart(..) => self.document(&bytes),
            Event::Scalar(text, style, anchor, tag) => {
                let forced = self.tag(tag.as_deref(), span)?;
                let plain = style == ScalarStyle::Plain && !forced;
                self.scalar(text.into_owned(), plain, anchor, bytes)
            }
            Event::SequenceStart(style, anchor, tag) => {
                self.tag(tag.as_deref(), span)?;
                let flow = style == StructureStyle::Flow;
                self.enter(Kind::List { items: Vec::new(), flow }, anchor, bytes)
            }
            Event::MappingStart(style, anchor, tag) => {
                self.tag(tag.as_deref(), span)?;
                let flow = style == StructureStyle::Flow;
                self.enter(Kind::Map { entries: Vec::new(), flow }, anchor, bytes)
            }
            Event::SequenceEnd | Event::MappingEnd => {
                self.leave(bytes.end);
                Ok(())
            }
            Event::Alias(anchor) => self.alias(anchor, bytes),
            _ => Ok(()),
        }
    }

    fn document(&mut self, span: &Range<usize>) -> Result<(), Stop> {
        self.documents += 1;
        if self.documents == 1 {
            return Ok(());
        }
        Err(stop(
            span,
            "a second document begins here: expected one in a file, put it into another file",
        ))
    }

    /// Whether the tag says that the value is text.
    fn tag(&mut self, tag: Option<&Tag>, span: &Span) -> Result<bool, Stop> {
        let Some(tag) = tag else { return Ok(false) };
        match tag.core_suffix() {
            Some("str") => Ok(true),
            Some("null" | "bool" | "int" | "float" | "seq" | "map") => Ok(false),
            _ => {
                let bytes = span.tag_span().and_then(|span| span.byte_range());
                let bytes = bytes.or(span.byte_range()).unwrap_or(0..0);
                Err(stop(
                    &bytes,
                    format!("the tag `{}` has no meaning here: leave it out", tag.original()),
                ))
            }
        }
    }

    fn scalar(
        &mut self,
        text: String,
        plain: bool,
        anchor: usize,
        span: Range<usize>,
    ) -> Result<(), Stop> {
        if self.expects_key() {
            let id = self.tree.push(Node {
                file: self.file,
                parent: None,
                step: Step::Root,
                span: span.clone(),
                kind: Kind::Scalar { text: text.clone(), plain },
                pruned: true,
                damaged: false,
            });
            self.anchors.insert(anchor, id);
            self.set_key(text, span);
            return self.bounded();
        }
        let id = self.place(Kind::Scalar { text, plain }, &span)?;
        self.anchors.insert(anchor, id);
        Ok(())
    }

    fn enter(&mut self, kind: Kind, anchor: usize, span: Range<usize>) -> Result<(), Stop> {
        if self.expects_key() {
            return Err(stop(&span, "a key must be a word, not a list or a map"));
        }
        let id = self.place(kind, &span)?;
        self.open.push(Open { id, anchor, key: None, seen: HashMap::new() });
        if self.open.len() > DEPTH {
            return Err(stop(&span, format!("nested more than {DEPTH} deep")));
        }
        Ok(())
    }

    fn leave(&mut self, end: usize) {
        let Some(done) = self.open.pop() else { return };
        let node = &mut self.tree.nodes[done.id.0 as usize];
        node.span.end = node.span.end.max(end);
        self.anchors.insert(done.anchor, done.id);
    }

    fn alias(&mut self, anchor: usize, span: Range<usize>) -> Result<(), Stop> {
        if let Some(open) = self.open.iter().find(|open| open.anchor == anchor) {
            let first = self.tree.node(open.id).span.start;
            let mut stop = stop(&span, "a cycle: this alias stands inside the value that it names");
            stop.also = Some(first..first);
            return Err(stop);
        }
        let Some(&source) = self.anchors.get(&anchor) else {
            return Err(stop(&span, "an alias without an anchor"));
        };
        if self.expects_key() {
            let Some(text) = self.tree.text(source).map(str::to_owned) else {
                return Err(stop(&span, "a key must be a word, not a list or a map"));
            };
            self.set_key(text, span);
            return Ok(());
        }
        let kind = self.tree.node(source).kind.clone();
        let id = self.place(kind, &span)?;
        self.fill(id, &span, self.open.len())
    }

    /// Gives a copy children of its own.
    fn fill(&mut self, id: NodeId, alias: &Range<usize>, depth: usize) -> Result<(), Stop> {
        let sources = match &self.tree.node(id).kind {
            Kind::Scalar { .. } => return Ok(()),
            Kind::List { items: ids, .. } | Kind::Map { entries: ids, .. } => ids.clone(),
        };
        if depth >= DEPTH {
            return Err(stop(alias, format!("nested more than {DEPTH} deep")));
        }
        let mut copies = Vec::with_capacity(sources.len());
        for source in sources {
            let node = self.tree.node(source);
            let (step, span, kind) = (node.step.clone(), node.span.clone(), node.kind.clone());
            let (file, parent) = (self.file, Some(id));
            let copy = Node { file, parent, step, span, kind, pruned: false, damaged: false };
            let copy = self.tree.push(copy);
            self.bounded().map_err(|stop| Stop { span: alias.clone(), ..stop })?;
            self.fill(copy, alias, depth + 1)?;
            copies.push(copy);
        }
        match &mut self.tree.nodes[id.0 as usize].kind {
            Kind::Scalar { .. } => {}
            Kind::List { items: ids, .. } | Kind::Map { entries: ids, .. } => *ids = copies,
        }
        Ok(())
    }

    fn expects_key(&self) -> bool {
        self.open.last().is_some_and(|open| {
            open.key.is_none() && matches!(self.tree.node(open.id).kind, Kind::Map { .. })
        })
    }

    fn set_key(&mut self, text: String, span: Range<usize>) {
        if let Some(open) = self.open.last_mut() {
            open.key = Some(Step::Key { text, span });
        }
    }

    /// Puts a value where the next one belongs.
    fn place(&mut self, kind: Kind, span: &Range<usize>) -> Result<NodeId, Stop> {
        let parent = self.open.last().map(|open| open.id);
        let step = self.open.last_mut().and_then(|open| open.key.take());
        let step = step.unwrap_or_else(|| match parent.map(|id| &self.tree.node(id).kind) {
            Some(Kind::List { items, .. }) => Step::Item(items.len()),
            _ => Step::Root,
        });
        let twin = match (&step, self.open.last()) {
            (Step::Key { text, .. }, Some(open)) => open.seen.get(text).copied(),
            _ => None,
        };
        let name = twin.is_none().then(|| step.clone());
        let (file, span) = (self.file, span.clone());
        let node = Node { file, parent, step, span, kind, pruned: twin.is_some(), damaged: false };
        let id = self.tree.push(node);
        match parent.map(|id| &mut self.tree.nodes[id.0 as usize].kind) {
            _ if twin.is_some() => {}
            Some(Kind::List { items: ids, .. } | Kind::Map { entries: ids, .. }) => ids.push(id),
            _ => self.root = self.root.or(Some(id)),
        }
        if let Some(twin) = twin {
            self.twice(id, twin);
        } else if let (Some(Step::Key { text, .. }), Some(open)) = (name, self.open.last_mut()) {
            open.seen.insert(text, id);
        }
        self.bounded().map(|()| id)
    }

    fn twice(&mut self, id: NodeId, first: NodeId) {
        let key = self.tree.key(id).unwrap_or_default();
        let problem = self.tree.on_key(id, format!("the key `{key}` is given twice"));
        self.problems.push(problem.with(self.tree, first, "first given here"));
    }

    fn bounded(&self) -> Result<(), Stop> {
        if self.tree.nodes.len() <= self.limit {
            return Ok(());
        }
        let last = self.tree.nodes.last().map_or(0..0, |node| node.span.clone());
        Err(stop(&last, format!("more than {NODES} values once aliases are written out")))
    }

    fn stop(&mut self, stop: Stop) {
        // A second document leaves the first one whole; what was cut short is not judged.
        if self.documents < 2 {
            self.root = None;
        }
        self.tree.files[self.file].broken = stop.broken;
        let mut problem = self.tree.in_file(self.file, stop.span, stop.message);
        if let Some(also) = stop.also {
            problem.also =
                Some(Box::new((self.tree.spot(self.file, also), "the value begins here".into())));
        }
        self.problems.push(problem);
    }
}
