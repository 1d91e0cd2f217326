//! Parses YAML into the tree, with the checks that concern the text alone.
//!
//! A file has one document, no duplicate key, no nesting deeper than `DEPTH`, no alias inside its
//! own anchor, and at most `NODES` values after aliases are expanded, so that a few lines cannot
//! become gigabytes. Every violation but a duplicate key ends the parsing of that file; other files
//! are still parsed.
//!
//! An alias is copied where it is used: the copy has the position of the alias, its children those
//! of the anchor. Merge keys (`<<`) and tags are not part of the language.

use std::collections::HashMap;
use std::ops::Range;

use granit_parser::{Event, Parser, ScalarStyle, Span, StructureStyle, Tag};

use super::diagnostic::Diagnostic;
use super::tree::{File, Kind, Node, NodeId, Tree, TreeStep};

const DEPTH: usize = 64;
const NODES: usize = 100_000;
/// Duplicate keys of one file that are listed.
const DUPLICATES: usize = 200;

/// The file cannot be parsed; the error was reported.
#[derive(Debug)]
pub struct Unparsed;

impl Tree {
    /// The root of the file's document; an empty file is a map without keys.
    pub fn parse(
        &mut self,
        name: &str,
        text: String,
        problems: &mut Vec<Diagnostic>,
    ) -> Result<NodeId, Unparsed> {
        let file = self.files.len();
        let (broken, is_preset) = (false, false);
        self.files.push(File {
            name: name.to_owned(),
            text,
            broken,
            is_preset,
            comments: Vec::new(),
        });
        let text = self.files[file].text.clone();
        let mut builder = TreeBuilder {
            file,
            limit: self.nodes.len() + NODES,
            tree: self,
            open: Vec::new(),
            root: None,
            documents: 0,
            anchors: HashMap::new(),
            duplicates: Vec::new(),
            problems,
        };
        for event in Parser::new_from_str(&text) {
            let step = match event {
                Ok((event, span)) => builder.take(event, &span),
                Err(error) => {
                    let at = error.marker().byte_offset().unwrap_or(0);
                    let message = format!("not valid YAML: {}", error.kind());
                    Err(stop(&(at..at), message))
                }
            };
            if let Err(stop) = step {
                builder.stop(stop);
                return builder.root.ok_or(Unparsed);
            }
        }
        builder.report_duplicates();
        match builder.root {
            Some(root) => Ok(root),
            None => builder
                .add(Kind::Map { entries: Vec::new(), flow: true }, &(0..0))
                .map_err(|_| Unparsed),
        }
    }
}

/// The error that ends the parsing of a file.
struct Stop {
    span: Range<usize>,
    message: String,
    also: Option<Range<usize>>,
}

fn stop(span: &Range<usize>, message: impl Into<String>) -> Stop {
    Stop { span: span.clone(), message: message.into(), also: None }
}

/// A list or map that is not closed yet.
struct Open {
    id: NodeId,
    anchor: usize,
    /// In a map: the key of the next value.
    key: Option<TreeStep>,
    seen: HashMap<String, NodeId>,
}

struct TreeBuilder<'a> {
    tree: &'a mut Tree,
    file: usize,
    limit: usize,
    open: Vec<Open>,
    root: Option<NodeId>,
    documents: usize,
    anchors: HashMap<usize, NodeId>,
    /// Each duplicate key with the first of its name.
    duplicates: Vec<(NodeId, NodeId)>,
    problems: &'a mut Vec<Diagnostic>,
}

impl TreeBuilder<'_> {
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
            Event::Comment(..) => {
                self.tree.files[self.file].comments.push(bytes);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn document(&mut self, span: &Range<usize>) -> Result<(), Stop> {
        self.documents += 1;
        if self.documents == 1 {
            return Ok(());
        }
        Err(stop(span, "a second document begins here: expected one document in each file"))
    }

    /// Whether the tag makes the value text.
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
                step: TreeStep::Root,
                span: span.clone(),
                kind: Kind::Scalar { text: text.clone(), plain },
            });
            self.anchors.insert(anchor, id);
            self.set_key(text, span);
            return self.bounded();
        }
        let id = self.add(Kind::Scalar { text, plain }, &span)?;
        self.anchors.insert(anchor, id);
        Ok(())
    }

    fn enter(&mut self, kind: Kind, anchor: usize, span: Range<usize>) -> Result<(), Stop> {
        if self.expects_key() {
            return Err(stop(&span, "a key must be text, not a list or a map"));
        }
        let id = self.add(kind, &span)?;
        self.open.push(Open { id, anchor, key: None, seen: HashMap::new() });
        if self.open.len() > DEPTH {
            return Err(stop(&span, format!("nested more than {DEPTH} levels deep")));
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
            let mut stop = stop(&span, "a cycle: this alias is inside the value that it names");
            stop.also = Some(first..first);
            return Err(stop);
        }
        let Some(&source) = self.anchors.get(&anchor) else {
            return Err(stop(&span, "an alias without an anchor"));
        };
        if self.expects_key() {
            let Some(text) = self.tree.text(source).map(str::to_owned) else {
                return Err(stop(&span, "a key must be text, not a list or a map"));
            };
            self.set_key(text, span);
            return Ok(());
        }
        let kind = self.tree.node(source).kind.clone();
        let id = self.add(kind, &span)?;
        self.fill(id, &span, self.open.len())
    }

    /// Copies the children of a copied value.
    fn fill(&mut self, id: NodeId, alias: &Range<usize>, depth: usize) -> Result<(), Stop> {
        let sources = match &self.tree.node(id).kind {
            Kind::Scalar { .. } => return Ok(()),
            Kind::List { items: ids, .. } | Kind::Map { entries: ids, .. } => ids.clone(),
        };
        if depth >= DEPTH {
            return Err(stop(alias, format!("nested more than {DEPTH} levels deep")));
        }
        let mut copies = Vec::with_capacity(sources.len());
        for source in sources {
            let node = self.tree.node(source);
            let (step, span, kind) = (node.step.clone(), node.span.clone(), node.kind.clone());
            let (file, parent) = (self.file, Some(id));
            let copy = Node { file, parent, step, span, kind };
            let copy = self.tree.push(copy);
            self.bounded().map_err(|stop| Stop { span: alias.clone(), ..stop })?;
            self.fill(copy, alias, depth + 1)?;
            copies.push(copy);
        }
        if let Some(ids) = self.tree.children_mut(id) {
            *ids = copies;
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
            open.key = Some(TreeStep::Key { text, span });
        }
    }

    /// Adds the next value to its list or map.
    fn add(&mut self, kind: Kind, span: &Range<usize>) -> Result<NodeId, Stop> {
        let parent = self.open.last().map(|open| open.id);
        let step = self.open.last_mut().and_then(|open| open.key.take());
        let step = step.unwrap_or_else(|| match parent.map(|id| &self.tree.node(id).kind) {
            Some(Kind::List { items, .. }) => TreeStep::Item(items.len()),
            _ => TreeStep::Root,
        });
        let duplicate = match (&step, self.open.last()) {
            (TreeStep::Key { text, .. }, Some(open)) => open.seen.get(text).copied(),
            _ => None,
        };
        let name = duplicate.is_none().then(|| step.clone());
        let (file, span) = (self.file, span.clone());
        let node = Node { file, parent, step, span, kind };
        let id = self.tree.push(node);
        match parent.and_then(|parent| self.tree.children_mut(parent)) {
            _ if duplicate.is_some() => {}
            Some(ids) => ids.push(id),
            None => self.root = self.root.or(Some(id)),
        }
        if let Some(duplicate) = duplicate {
            self.duplicates.push((id, duplicate));
            if self.duplicates.len() > DUPLICATES {
                return Err(stop(
                    &self.tree.node(id).span,
                    format!("more than {DUPLICATES} keys are given twice"),
                ));
            }
        } else if let (Some(TreeStep::Key { text, .. }), Some(open)) = (name, self.open.last_mut())
        {
            open.seen.insert(text, id);
        }
        self.bounded().map(|()| id)
    }

    /// At the end, when the secrets on their lines are known.
    fn report_duplicates(&mut self) {
        for (second, first) in std::mem::take(&mut self.duplicates) {
            let key = self.tree.key(second).unwrap_or_default();
            let problem = self
                .tree
                .on_key(second, format!("the key `{key}` is given twice: keep one of the two"));
            self.problems.push(problem.with(self.tree, first, "first given here"));
        }
    }

    fn bounded(&self) -> Result<(), Stop> {
        if self.tree.nodes.len() <= self.limit {
            return Ok(());
        }
        let last = self.tree.nodes.last().map_or(0..0, |node| node.span.clone());
        Err(stop(&last, format!("more than {NODES} values, with aliases expanded: split the file")))
    }

    fn stop(&mut self, stop: Stop) {
        // A second document leaves the first one whole; an incomplete one is not validated.
        if self.documents < 2 {
            self.root = None;
        }
        self.tree.files[self.file].broken = true;
        self.report_duplicates();
        let mut problem = self.tree.in_file(self.file, stop.span, stop.message);
        if let Some(also) = stop.also {
            problem.also =
                Some(Box::new((self.tree.spot(self.file, also), "the value begins here".into())));
        }
        self.problems.push(problem);
    }
}
