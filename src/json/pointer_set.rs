//! A set of JSON pointers (RFC 6901) for one scan, compiled into a trie of their tokens.

use super::pointer::Pointer;

/// The trie. Each pointer has a slot, in which a scan stores the position of its value.
#[derive(Clone, Debug)]
pub struct PointerSet {
    pub(super) nodes: Vec<TrieNode>,
    pub(super) count: usize,
}

#[derive(Clone, Debug, Default)]
pub(super) struct TrieNode {
    pub(super) slot: Option<usize>,
    pub(super) children: Vec<TrieChild>,
    /// The slots of this node and all below it.
    pub(super) below: Vec<usize>,
}

#[derive(Clone, Debug)]
pub(super) struct TrieChild {
    /// Most keys match no child; comparing tags avoids comparing names.
    tag: u16,
    pub(super) name: String,
    pub(super) node: usize,
}

impl Default for PointerSet {
    fn default() -> Self {
        PointerSet { nodes: vec![TrieNode::default()], count: 0 }
    }
}

impl PointerSet {
    /// The slot of a pointer, added if it is new.
    pub fn slot(&mut self, pointer: &Pointer) -> usize {
        let mut path = vec![0];
        for token in pointer.tokens() {
            let at = path[path.len() - 1];
            path.push(match self.nodes[at].child(token.as_bytes()) {
                Some(known) => known,
                None => {
                    self.nodes.push(TrieNode::default());
                    let node = self.nodes.len() - 1;
                    let (tag, name) = (tag(token.as_bytes()), token.clone());
                    self.nodes[at].children.push(TrieChild { tag, name, node });
                    node
                }
            });
        }
        let last = path[path.len() - 1];
        if let Some(slot) = self.nodes[last].slot {
            return slot;
        }
        let slot = self.count;
        self.count += 1;
        self.nodes[last].slot = Some(slot);
        path.iter().for_each(|node| self.nodes[*node].below.push(slot));
        slot
    }
}

impl TrieNode {
    pub(super) fn child(&self, name: &[u8]) -> Option<usize> {
        let tag = tag(name);
        let same = |child: &&TrieChild| child.tag == tag && child.name.as_bytes() == name;
        self.children.iter().find(same).map(|child| child.node)
    }
}

/// The length and the first byte of a name.
fn tag(name: &[u8]) -> u16 {
    u16::from_le_bytes([name.len() as u8, name.first().copied().unwrap_or_default()])
}
