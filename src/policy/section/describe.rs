//! The policy language as data: its sections, their keys, and the values of each key. The JSON
//! Schema and the reference are generated from it.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{Form, display};

/// The kinds of values.
#[derive(Clone, Debug)]
pub enum ValueShape {
    /// A text in a form of its own: a name, and what JSON Schema says of it.
    Scalar(&'static str, Value),
    Words(Vec<&'static str>),
    /// Words, each with its meaning.
    Described(Vec<(&'static str, &'static str)>),
    Section(&'static str),
    List(Box<ValueShape>),
    /// Keys that the user chooses, like the named one.
    Map(&'static str, Box<ValueShape>),
    OneOf(Vec<ValueShape>),
    Any,
}

#[derive(Clone, Debug)]
pub struct KeyText {
    pub name: &'static str,
    pub text: String,
    pub required: bool,
    /// As it is written.
    pub default: Option<String>,
    pub limits: Option<String>,
    pub shape: ValueShape,
}

impl KeyText {
    /// A key that may be left out, without a default or limits.
    pub fn optional(name: &'static str, text: &str, shape: ValueShape) -> KeyText {
        let (text, required) = (text.to_owned(), false);
        KeyText { name, text, required, default: None, limits: None, shape }
    }
}

#[derive(Clone, Debug)]
pub struct SectionText {
    pub text: String,
    pub keys: Vec<KeyText>,
}

/// All sections that were described, by name.
#[derive(Clone, Debug, Default)]
pub struct Reference {
    pub sections: BTreeMap<&'static str, SectionText>,
    /// In the order in which they were met.
    pub order: Vec<&'static str>,
}

impl Reference {
    /// Describes a section, once; its name is that of the type without the suffix `Policy`.
    pub fn section(
        &mut self,
        name: &'static str,
        text: &[&str],
        keys: impl FnOnce(&mut Self) -> Vec<KeyText>,
    ) -> ValueShape {
        let name = name.strip_suffix("Policy").unwrap_or(name);
        if !self.order.contains(&name) {
            self.order.push(name);
            let keys = keys(self);
            self.sections.insert(name, SectionText { text: joined(text), keys });
        }
        ValueShape::Section(name)
    }
}

impl ValueShape {
    pub fn text() -> ValueShape {
        ValueShape::Scalar("text", serde_json::json!({ "type": "string" }))
    }

    /// A text whose form JSON Schema does not check.
    pub fn named(name: &'static str) -> ValueShape {
        ValueShape::Scalar(name, serde_json::json!({ "type": "string" }))
    }
}

/// The keys that a field adds to its section.
pub fn keys<M, F: Form<M>>(
    name: &'static str,
    text: &[&str],
    default: Option<M>,
    shown: Option<&str>,
    limits: Option<String>,
    out: &mut Reference,
) -> Vec<KeyText> {
    if F::FLATTENED {
        return F::describe_keys(out);
    }
    let shape = F::describe(out);
    let given = default.is_some();
    let value = default.or_else(F::absent);
    let required = value.is_none();
    let shown = shown.or(F::DEFAULT).map(str::to_owned);
    let default = shown.or_else(|| {
        let rows = display::rows_of::<M, F>(&value?);
        // The defaults of a section are given at its own keys.
        let single = rows.len() == 1 && rows[0].path.is_empty();
        (given || single).then(|| display::one_line(&rows))
    });
    vec![KeyText { name, text: joined(text), required, default, limits, shape }]
}

/// The keys of one variant of several.
pub fn alternatives<M, F: Form<M>>(
    name: &'static str,
    text: &[&str],
    limits: Option<String>,
    out: &mut Reference,
) -> Vec<KeyText> {
    if F::FLATTENED {
        return F::describe_keys(out);
    }
    vec![KeyText { limits, ..KeyText::optional(name, &joined(text), F::describe(out)) }]
}

/// The lines of a doc comment as one text.
pub fn joined(lines: &[&str]) -> String {
    lines.iter().map(|line| line.trim()).collect::<Vec<_>>().join(" ")
}
