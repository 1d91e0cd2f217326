//! Presets: the facts about well-known providers, as ordinary keys of a provider.
//!
//! A preset is a YAML file of this folder. Before a policy is validated, the preset's keys are added
//! to those of each provider that names it, so that the rest of the program sees one provider with all
//! its keys. Maps are merged; any other value of the policy replaces the preset's.
//!
//! `${key}` in a preset's `auth` is replaced by the provider's `key`, which may be a list. The resulting
//! `auth` has the position of that `key`, so that problems point at the text that the user wrote.

pub mod generation;

use std::collections::BTreeMap;

use serde_json::Value;

use crate::policy::yaml::diagnostic::Diagnostic;
use crate::policy::yaml::tree::{Kind, Node, NodeId, Tree, TreeStep};

/// Is replaced by the provider's `key`.
const KEY: &str = "${key}";

/// A well-known provider.
#[derive(Debug, PartialEq, Eq)]
pub struct Preset {
    pub name: &'static str,
    /// Its provider keys, as YAML. `# url:` gives the form of a URL that the user has to complete.
    text: &'static str,
}

macro_rules! presets {
    ($($name:literal)+) => {
        /// In alphabetical order.
        pub static ALL: &[Preset] = &[
            $(Preset { name: $name, text: include_str!(concat!($name, ".yaml")) },)+
        ];
    };
}

presets! {
    "anthropic" "azure" "bedrock" "cohere" "deepseek" "gemini" "groq" "llama.cpp" "mistral" "ollama"
    "openai" "openrouter" "sglang" "together" "vertex" "vllm"
}

impl Preset {
    pub fn named(name: &str) -> Option<&'static Preset> {
        ALL.iter().find(|preset| preset.name == name)
    }

    /// The provider's URL. A part in capital letters is to be replaced by the user's own.
    pub fn url(&self) -> &'static str {
        let mut lines = self.text.lines().map(|line| line.trim_start_matches("# "));
        lines.find_map(|line| line.strip_prefix("url: ")).unwrap_or_default()
    }

    /// Its keys and values.
    pub fn json(&self) -> Value {
        let mut tree = Tree::default();
        let root = tree.parse(self.name, self.text.to_owned(), &mut Vec::new());
        root.map_or(Value::Null, |root| tree.json(root))
    }

    /// The texts in a list.
    pub fn texts(&self, key: &str) -> Vec<String> {
        let keys = self.json();
        let list = keys[key].as_array().into_iter().flatten();
        list.filter_map(Value::as_str).map(str::to_owned).collect()
    }

    /// Whether a host is one of this provider's own. One of the user's machine never is.
    pub fn has_host(&self, host: &str) -> bool {
        let authority = self.url().split('/').nth(2).unwrap_or_default();
        if authority.starts_with("127.") {
            return false;
        }
        let is_variable = |c: char| c.is_ascii_uppercase();
        match authority.split_once(is_variable) {
            None => authority == host,
            Some((start, rest)) => {
                let end = rest.trim_start_matches(is_variable);
                let length = start.len() + end.len();
                host.len() > length && host.starts_with(start) && host.ends_with(end)
            }
        }
    }
}

/// Adds the keys of presets to the providers that name them.
pub fn apply(tree: &mut Tree, roots: &[NodeId], problems: &mut Vec<Diagnostic>) {
    let lists = roots.iter().filter_map(|root| tree.child(*root, "providers"));
    let providers: Vec<_> = lists.flat_map(|list| tree.children(list)).collect();
    let mut parsed = BTreeMap::new();
    for provider in providers {
        let name = tree.child(provider, "preset").and_then(|at| tree.text(at));
        let Some(preset) = name.and_then(Preset::named) else { continue };
        let base = *parsed.entry(preset.name).or_insert_with(|| parse(preset, tree, problems));
        if let Some(base) = base {
            fill_in(tree, base, provider);
        }
    }
}

fn parse(preset: &Preset, tree: &mut Tree, problems: &mut Vec<Diagnostic>) -> Option<NodeId> {
    let root = tree.parse(&format!("preset {}", preset.name), preset.text.to_owned(), problems);
    tree.files.last_mut()?.is_preset = true;
    root.ok()
}

fn fill_in(tree: &mut Tree, base: NodeId, provider: NodeId) {
    let endpoints = tree.child(provider, "endpoints");
    let own: Vec<_> = endpoints.into_iter().flat_map(|list| tree.children(list)).collect();
    if let Some(form) = tree.child(base, "auth") {
        own.into_iter().chain([provider]).for_each(|map| set_credential(tree, form, map));
    }
    let keys: Vec<_> = tree.children(base).collect();
    for key in keys {
        match tree.key(key) {
            Some("auth") => {}
            Some("url") if endpoints.is_some() => {}
            _ => lay_under(tree, key, provider),
        }
    }
}

/// Replaces the `key` of a provider or endpoint by an `auth` of the preset's form.
fn set_credential(tree: &mut Tree, form: NodeId, map: NodeId) {
    if let (Some(key), None) = (tree.child(map, "key"), tree.child(map, "auth")) {
        let auth = copy(tree, form, map, Some(key));
        for entry in tree.children_mut(map).into_iter().flatten().filter(|entry| **entry == key) {
            *entry = auth;
        }
    }
}

/// Adds the preset's entry to a map that does not have its key; two maps are merged.
fn lay_under(tree: &mut Tree, entry: NodeId, map: NodeId) {
    let is_map = |id: NodeId| matches!(tree.node(id).kind, Kind::Map { .. });
    let given = tree.key(entry).and_then(|key| tree.child(map, key));
    match given {
        Some(given) if is_map(given) && is_map(entry) => {
            let entries: Vec<_> = tree.children(entry).collect();
            entries.into_iter().for_each(|entry| lay_under(tree, entry, given));
        }
        Some(_) => {}
        None => {
            let copy = copy(tree, entry, map, None);
            tree.children_mut(map).into_iter().for_each(|entries| entries.push(copy));
        }
    }
}

/// Copies a value with everything below it, for another parent. A `key` replaces `${key}`, and the
/// copy then has the position of the key.
fn copy(tree: &mut Tree, source: NodeId, parent: NodeId, key: Option<NodeId>) -> NodeId {
    let replaced = key.filter(|_| tree.text(source) == Some(KEY));
    let (content, position) = (replaced.unwrap_or(source), key.unwrap_or(source));
    let step = match &tree.node(source).step {
        TreeStep::Key { text, .. } => {
            TreeStep::Key { text: text.clone(), span: tree.key_span(position) }
        }
        step => step.clone(),
    };
    let (kind, span) = (tree.node(content).kind.clone(), tree.node(position).span.clone());
    let node = Node { file: tree.node(position).file, parent: Some(parent), step, span, kind };
    let id = tree.push(node);
    let children: Vec<_> = tree.children(content).collect();
    let below = key.filter(|_| replaced.is_none());
    let copies: Vec<_> = children.into_iter().map(|child| copy(tree, child, id, below)).collect();
    if let Some(ids) = tree.children_mut(id) {
        *ids = copies;
    }
    id
}
