//! Secrets in the tree: which values are hidden when a line or a value is quoted.

use std::ops::Range;

use super::tree::{Kind, NodeId, Tree, TreeStep};
use crate::policy::text::redact::{
    KEY, has_userinfo, is_credential_name, is_reference, looks_like_a_key, mask_comment,
    mask_unread,
};

impl Tree {
    /// A part of a file, with each byte of a secret replaced by an asterisk.
    pub(crate) fn masked(&self, file: usize, range: Range<usize>) -> String {
        let text = &self.files[file].text[range.clone()];
        if self.files[file].broken {
            return mask_unread(text);
        }
        let mut bytes = text.as_bytes().to_vec();
        let comments = &self.files[file].comments;
        if let Some(comment) = comments.iter().find(|span| range.contains(&span.start)) {
            // A credential may have been commented out.
            let at = comment.start - range.start;
            bytes.splice(at.., mask_comment(&text[at..]).into_bytes());
        }
        let mut hide = |span: &Range<usize>| {
            let from = span.start.clamp(range.start, range.end) - range.start;
            let to = span.end.clamp(range.start, range.end) - range.start;
            bytes[from..to.max(from)].fill(b'*');
        };
        let near = |span: &Range<usize>| span.start < range.end && span.end > range.start;
        for (index, node) in self.nodes.iter().enumerate().filter(|(_, node)| node.file == file) {
            let id = NodeId(u32::try_from(index).unwrap_or(u32::MAX));
            if near(&node.span) && self.is_secret(id) {
                hide(&node.span);
            }
            if let TreeStep::Key { span, .. } = &node.step
                && near(span)
                && self.has_secret_key(id)
            {
                hide(span);
            }
        }
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// The message without the secrets that it quotes.
    pub(crate) fn without_secret(&self, id: NodeId, message: String) -> String {
        let message = match self.text(id) {
            Some(text) if text.len() > 2 && self.is_secret(id) => message.replace(text, "***"),
            _ => message,
        };
        match self.key(id) {
            Some(key) if self.has_secret_key(id) => message.replace(key, "***"),
            _ => message,
        }
    }

    /// Whether the value itself, not a reference to it, may be a credential.
    fn is_secret(&self, id: NodeId) -> bool {
        let Kind::Scalar { text, .. } = &self.node(id).kind else { return false };
        let key = self.nearest_key(id);
        if is_reference(text) {
            return false;
        }
        let in_auth = self.is_below(id, "auth")
            && !matches!(key, "name" | "username")
            && !matches!(text.as_str(), "passthrough" | "none" | "" | "~" | "null");
        // The path of a webhook may be its secret.
        let webhook = self.is_below(id, "notify") && matches!(key, "url" | "secret");
        // The key of a cache is not a credential.
        let of_cache = key == "key" && self.is_below(id, "caches");
        let named = is_credential_name(key) && !self.is_below(id, "tls") && !of_cache;
        in_auth || webhook || named || looks_like_a_key(text) || has_userinfo(text)
    }

    pub(crate) fn has_secret_key(&self, id: NodeId) -> bool {
        let key = self.key(id).unwrap_or_default();
        looks_like_a_key(key) || (key.len() > KEY && self.is_below(id, "auth"))
    }

    /// The key of the value, or of the list that it is in.
    fn nearest_key(&self, id: NodeId) -> &str {
        self.ancestors(id).find_map(|id| self.key(id)).unwrap_or_default()
    }

    fn is_below(&self, id: NodeId, key: &str) -> bool {
        self.ancestors(id).any(|id| self.key(id) == Some(key))
    }
}
