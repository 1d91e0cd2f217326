//! References by name: a route names its providers, its queue and its modes of degradation.
//!
//! The names of all files are collected before anything is read. In the model a reference is an
//! index into the section's list, which is in the order of the names.

use std::collections::BTreeMap;
use std::marker::PhantomData;

use super::{Checker, Display, Form, OrNone, Reference, ValueShape, texts};
use crate::policy::text::suggest::did_you_mean;
use crate::policy::yaml::tree::NodeId;

/// The entries of each section, by name.
#[derive(Debug, Default)]
pub struct SectionNames {
    pub sections: BTreeMap<&'static str, BTreeMap<String, Option<usize>>>,
}

impl SectionNames {
    /// `None`: there is no such name; `Some(None)`: its entry is switched off.
    pub fn find(&self, section: &str, name: &str) -> Option<Option<usize>> {
        self.sections.get(section)?.get(name).copied()
    }

    pub fn all(&self, section: &str) -> impl Iterator<Item = &str> + Clone {
        self.sections.get(section).into_iter().flatten().map(|(name, _)| name.as_str())
    }
}

/// An entry of a section that is referred to by its name.
pub trait NamedSection {
    /// The section: `providers`.
    const KEY: &'static str;
    /// One entry, in a message.
    const ONE: &'static str;

    fn name(&self) -> &str;
    fn set_name(&mut self, name: String);
}

/// The name of an entry.
#[derive(Debug)]
pub struct NameOf<S>(PhantomData<S>);

/// The name of an entry or `none`; the entry `default` where the key is left out.
#[derive(Debug)]
pub struct OrDefault<S>(PhantomData<S>);

impl Checker<'_> {
    /// The index of the entry that the text at `node` names.
    pub fn index_of<S: NamedSection>(&mut self, node: NodeId) -> Option<usize> {
        let name = self.text(node, "a name")?;
        match self.names.find(S::KEY, name) {
            Some(index) => index,
            None => {
                let known: Vec<_> = self.names.all(S::KEY).map(str::to_owned).collect();
                self.unknown_name(node, S::ONE, S::KEY, &known);
                None
            }
        }
    }

    pub fn unknown_name(&mut self, node: NodeId, one: &str, sections: &str, known: &[String]) {
        if self.incomplete {
            return;
        }
        let name = self.tree.text(node).unwrap_or_default();
        let message = format!("there is no {one} `{name}` under `{sections}`");
        let label = did_you_mean(name, known.iter().map(String::as_str));
        self.report(node, |tree| {
            let mut problem = tree.on_value(node, message).label(label);
            if problem.label.is_none() && !known.is_empty() {
                let known: Vec<_> = known.iter().take(8).map(|name| format!("`{name}`")).collect();
                problem.help = Some(format!("known here: {}", known.join(", ")));
            }
            problem
        });
    }
}

impl<S: NamedSection> Form<usize> for NameOf<S> {
    const INLINE: bool = true;

    fn read(node: NodeId, check: &mut Checker<'_>) -> Option<usize> {
        check.index_of::<S>(node)
    }

    fn show(value: &usize, out: &mut Display<'_>) {
        out.name(S::KEY, *value);
    }

    fn describe(_: &mut Reference) -> ValueShape {
        ValueShape::named(S::ONE)
    }
}

impl<S: NamedSection> Form<Option<usize>> for OrDefault<S> {
    const INLINE: bool = true;
    const DEFAULT: Option<&'static str> = Some("default");

    fn read(node: NodeId, check: &mut Checker<'_>) -> Option<Option<usize>> {
        <OrNone<NameOf<S>>>::read(node, check)
    }

    fn absent() -> Option<Option<usize>> {
        Some(None)
    }

    fn absent_in(check: &mut Checker<'_>) -> Option<Option<usize>> {
        Some(check.names.find(S::KEY, "default").flatten())
    }

    fn show(value: &Option<usize>, out: &mut Display<'_>) {
        <OrNone<NameOf<S>>>::show(value, out);
    }

    fn describe(out: &mut Reference) -> ValueShape {
        <OrNone<NameOf<S>>>::describe(out)
    }
}

/// A text that can be a name: names become labels, keys of state and parts of paths.
pub fn valid_name(name: &str) -> Result<String, String> {
    let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    match name {
        "none" => Err("`none` cannot be a name: it switches a feature off".to_owned()),
        _ if name.is_empty() || name.len() > 64 || !name.chars().all(good) => Err(format!(
            "`{name}` is not a name: expected up to 64 letters, digits, `-`, `_` and `.`"
        )),
        _ => Ok(name.to_owned()),
    }
}

impl Checker<'_> {
    /// Reports a key that cannot be a name.
    pub fn named(&mut self, node: NodeId) {
        if let Err(message) = valid_name(self.tree.key(node).unwrap_or_default()) {
            self.error_on_key(node, message);
        }
    }
}

texts! {
    /// A text that is a name.
    struct Name for String: "a name", ValueShape::named("name"), valid_name, String::as_str;
}
