//! Where each key of a policy stands: from a value of the tree to file, line, column and path.
//!
//! A path is written as people would say it: keys with dots between, an element of a list by its
//! `name` where it has one (`routes.chat.timeout`), else by its place (`endpoints[1]`).
//!
//! A problem shows the line it stands on, and that line may hold a secret that was written into
//! the policy itself. It is masked here, where lines are cut out, so that no renderer can forget.

use std::collections::BTreeMap;
use std::ops::Range;

use super::problem::{Excerpt, Problem, Severity, Spot};
use super::tree::{Kind, NodeId, Step, Tree};

/// Longer lines are not shown.
const LINE: usize = 2000;
/// Longer paths are not kept.
const PATH: usize = 300;
/// Of a longer key, this much is shown.
const KEY: usize = 64;

/// Where each path stands; holds no values.
#[derive(Clone, Debug, Default)]
pub struct Places {
    by_path: BTreeMap<String, Place>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    pub file: String,
    /// From 1.
    pub line: usize,
    /// From 1, in characters.
    pub column: usize,
}

impl Places {
    /// `providers.openai.timeouts.connect`, `routes.chat`.
    pub fn find(&self, path: &str) -> Option<&Place> {
        self.by_path.get(path)
    }

    pub fn iter(&self) -> impl Iterator<Item = (&str, &Place)> {
        self.by_path.iter().map(|(path, place)| (path.as_str(), place))
    }

    /// Of the files whose documents begin at `roots`.
    pub(super) fn of(tree: &Tree, roots: &[NodeId]) -> Self {
        let starts: Vec<_> = tree.files.iter().map(|file| line_starts(&file.text)).collect();
        let mut places = Self::default();
        let mut open: Vec<_> = roots.iter().map(|id| (*id, String::new())).collect();
        while let Some((id, path)) = open.pop() {
            let node = tree.node(id);
            let (file, at) = (&tree.files[node.file], tree.key_span(id).start);
            let line = starts[node.file].partition_point(|start| *start <= at).max(1);
            let before = file.text.get(starts[node.file][line - 1]..at).unwrap_or_default();
            let column = before.chars().count() + 1;
            if path.len() < PATH {
                open.extend(tree.children(id).map(|child| (child, tree.path_from(&path, child))));
                places.by_path.entry(path).or_insert(Place {
                    file: file.name.clone(),
                    line,
                    column,
                });
            }
        }
        places
    }
}

fn line_starts(text: &str) -> Vec<usize> {
    let after = text.bytes().enumerate().filter(|(_, b)| *b == b'\n').map(|(at, _)| at + 1);
    std::iter::once(0).chain(after).collect()
}

// === impl Tree: pointing at what was read ===

impl Tree {
    /// About the value.
    pub fn on_value(&self, id: NodeId, message: impl Into<String>) -> Problem {
        self.about(id, self.value_span(id), message.into())
    }

    /// About the key, or the whole entry behind it.
    pub fn on_key(&self, id: NodeId, message: impl Into<String>) -> Problem {
        self.about(id, self.key_span(id), message.into())
    }

    /// About a file as a whole, or a part of it that is no value.
    pub(super) fn in_file(&self, file: usize, span: Range<usize>, message: String) -> Problem {
        Problem::new(Severity::Error, message, self.spot(file, span))
    }

    fn about(&self, id: NodeId, span: Range<usize>, message: String) -> Problem {
        let message = match self.text(id) {
            Some(text) if text.len() > 2 && self.is_secret(id) => message.replace(text, "***"),
            _ => message,
        };
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
            Step::Root => return String::new(),
            Step::Key { text, .. } => text,
            Step::Item(index) => match self.child(id, "name").and_then(|name| self.text(name)) {
                Some(name) if is_plain(name) => name,
                _ => return format!("{above}[{index}]"),
            },
        };
        match (is_plain(name), above) {
            (false, _) => format!("{above}[{:?}]", name.chars().take(KEY).collect::<String>()),
            (true, "") => name.to_owned(),
            (true, _) => format!("{above}.{name}"),
        }
    }

    fn key_span(&self, id: NodeId) -> Range<usize> {
        match &self.node(id).step {
            Step::Key { span, .. } => span.clone(),
            _ => self.node(id).span.clone(),
        }
    }

    /// A block of lines is pointed at by its key.
    fn value_span(&self, id: NodeId) -> Range<usize> {
        let node = self.node(id);
        let block =
            matches!(node.kind, Kind::List { flow: false, .. } | Kind::Map { flow: false, .. });
        if block || node.span.is_empty() { self.key_span(id) } else { node.span.clone() }
    }

    pub(super) fn spot(&self, file: usize, span: Range<usize>) -> Spot {
        let source = &self.files[file];
        let text = source.text.as_str();
        let start = floor(text, span.start);
        let from = text[..start].rfind('\n').map_or(0, |at| at + 1);
        let to = text[start..].find(['\n', '\r']).map_or(text.len(), |at| start + at);
        let end = floor(text, span.end).clamp(start, to.max(start));
        let line = text[..start].matches('\n').count() + 1;
        let column = text[from..start].chars().count() + 1;
        let excerpt = (to - from <= LINE)
            .then(|| Excerpt { text: self.masked(file, from..to), span: start - from..end - from });
        Spot { file: source.name.clone(), line, column, span: start..end, excerpt }
    }

    /// The bytes of a file with each secret's replaced by as many stars.
    fn masked(&self, file: usize, range: Range<usize>) -> String {
        let text = &self.files[file].text[range.clone()];
        if self.files[file].broken {
            return mask_unread(text);
        }
        let mut bytes = text.as_bytes().to_vec();
        let mut hide = |span: Range<usize>| {
            let from = span.start.clamp(range.start, range.end) - range.start;
            let to = span.end.clamp(range.start, range.end) - range.start;
            bytes[from..to.max(from)].fill(b'*');
        };
        for (index, node) in self.nodes.iter().enumerate().filter(|(_, node)| node.file == file) {
            let id = NodeId(u32::try_from(index).unwrap_or(u32::MAX));
            let near = |span: &Range<usize>| span.start < range.end && span.end > range.start;
            if matches!(node.kind, Kind::Scalar { .. }) && near(&node.span) && self.is_secret(id) {
                hide(node.span.clone());
            }
            if let Step::Key { span, text } = &node.step
                && near(span)
                && text.len() > 15
                && self.is_below(id, "auth")
            {
                hide(span.clone());
            }
        }
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Whether the value itself, not a reference to it, may be a credential.
    fn is_secret(&self, id: NodeId) -> bool {
        let Kind::Scalar { text, .. } = &self.node(id).kind else { return false };
        let key = self.key(id).unwrap_or_default();
        if text.starts_with("${") && text.ends_with('}') && text.matches("${").count() == 1 {
            return false;
        }
        let in_auth = self.is_below(id, "auth")
            && !matches!(key, "name" | "username")
            && !matches!(text.as_str(), "passthrough" | "none" | "" | "~" | "null");
        in_auth
            || is_credential_name(key)
            || (key == "proxy" && text.contains('@'))
            || has_userinfo(text)
    }

    fn is_below(&self, id: NodeId, key: &str) -> bool {
        let mut here = Some(id);
        while let Some(id) = here {
            if self.key(id) == Some(key) {
                return true;
            }
            here = self.parent(id);
        }
        false
    }
}

fn is_plain(key: &str) -> bool {
    let word = |c: char| c.is_alphanumeric() || matches!(c, '_' | '-');
    !key.is_empty() && key.len() <= KEY && key.chars().all(word)
}

fn floor(text: &str, at: usize) -> usize {
    (0..=at.min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0)
}

fn has_userinfo(text: &str) -> bool {
    let rest = text.split_once("://").map(|(_, rest)| rest);
    rest.is_some_and(|rest| rest.split('/').next().is_some_and(|authority| authority.contains('@')))
}

fn is_credential_name(key: &str) -> bool {
    let key = key.to_ascii_lowercase();
    ["authorization", "cookie", "api-key", "apikey", "token", "secret", "password", "bearer"]
        .iter()
        .any(|word| key.contains(word))
}

/// A line that the parser could not read: what looks like a key is hidden.
fn mask_unread(line: &str) -> String {
    let credential = is_credential_name(line) || line.contains("value") || line.contains('@');
    let mut out = String::with_capacity(line.len());
    let mut rest = line;
    while !rest.is_empty() {
        let length = rest.find(|c: char| !is_token(c)).unwrap_or(rest.len());
        let (token, after) = rest.split_at(length);
        let after_word = out.contains(':');
        let mixed =
            token.contains(|c: char| c.is_ascii_digit()) && token.contains(char::is_alphabetic);
        let hidden = (token.len() > 11 && mixed) || (credential && after_word);
        let reference = out.ends_with("${") || out.ends_with("${env:") || out.ends_with("${file:");
        out.push_str(&if hidden && !reference {
            "*".repeat(token.len())
        } else {
            token.to_owned()
        });
        let next = after.chars().next().map_or(0, char::len_utf8);
        out.push_str(&after[..next]);
        rest = &after[next..];
    }
    out
}

fn is_token(c: char) -> bool {
    !c.is_whitespace() && !matches!(c, ':' | ',' | '{' | '}' | '[' | ']' | '"' | '\'' | '$')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_looks_like_a_key_is_hidden_in_a_line_that_cannot_be_read() {
        assert_eq!(
            mask_unread("  bearer: [sk-secret, \"${env:KEY}\""),
            "  bearer: [*********, \"${env:KEY}\""
        );
        assert_eq!(mask_unread("   - sk-live-12345678: ]"), "   - ****************: ]");
        assert_eq!(mask_unread("  url: https//api.openai.com ]"), "  url: https//api.openai.com ]");
    }

    #[test]
    fn each_key_has_a_place() {
        let mut tree = Tree::default();
        let text = "routes:\n  - name: chat\n    timeout: 5s\nproviders: { a.b: { url: x } }\n";
        let root = tree.grow("a.yaml", text.to_owned(), &mut Vec::new()).unwrap();
        let places = Places::of(&tree, &[root]);
        let at = |path: &str| places.find(path).map(|place| (place.line, place.column));
        assert_eq!(at("routes.chat"), Some((2, 5)));
        assert_eq!(at("routes.chat.timeout"), Some((3, 5)));
        assert_eq!(at("providers[\"a.b\"].url"), Some((4, 21)));
        assert_eq!(at("providers"), Some((4, 1)));
    }
}
