//! From the tree to the raw types, with every problem of a file at once.
//!
//! serde stops at its first error. So an error names the value it is about, that value is taken
//! out of the tree, and the file is read again, until nothing is wrong with what is left. What
//! was taken out is remembered (`Tree::damaged`), so that nobody reports it as missing.
//!
//! A deserializer of our own gives `raw.rs` what a place needs: `At<T>` knows its value, and a
//! scalar is the text as written, whatever YAML would make of it: a name may be `1.10` or `no`.

use std::fmt;

use serde::de::value::{StrDeserializer, U32Deserializer};
use serde::de::{
    self, DeserializeSeed, Deserializer, Expected, IntoDeserializer, MapAccess, SeqAccess,
    Unexpected, Visitor,
};
use serde::forward_to_deserialize_any;

use super::diagnostic::Problem;
use super::tree::{Kind, NodeId, Tree};
use crate::policy::sections::raw::RawFile;
use crate::policy::text::suggest::{did_you_mean, listed};

/// Newtypes that the deserializer knows by these names.
pub(crate) const AT: &str = "$at";
pub(crate) const ONE_OR_MANY: &str = "$one_or_many";

/// Problems of one file that are listed; more help nobody.
const MOST: usize = 200;

/// What a file says, less what is wrong with it; `None` where nothing can be told.
pub(crate) fn read(tree: &mut Tree, root: NodeId, problems: &mut Vec<Problem>) -> Option<RawFile> {
    for _ in 0..MOST {
        let error: ReadError = match serde::Deserialize::deserialize(Reader { tree, id: root }) {
            Ok(raw) => return Some(raw),
            Err(error) => error,
        };
        let id = error.id.unwrap_or(root);
        problems.push(error.problem(tree, id));
        if id == root {
            return None;
        }
        tree.prune(id);
    }
    problems.push(
        tree.on_key(
            root,
            format!("more than {MOST} problems: the rest of this file is not listed"),
        ),
    );
    None
}

#[derive(Debug)]
pub(crate) struct ReadError {
    id: Option<NodeId>,
    on_key: bool,
    message: String,
    label: Option<String>,
    help: Option<String>,
}

impl ReadError {
    fn at(mut self, id: NodeId) -> Self {
        self.id.get_or_insert(id);
        self
    }

    fn problem(self, tree: &Tree, id: NodeId) -> Problem {
        let problem = if self.on_key {
            tree.on_key(id, self.message)
        } else {
            tree.on_value(id, self.message)
        };
        let problem = problem.label(self.label);
        match self.help {
            Some(help) => problem.help(help),
            None => problem,
        }
    }
}

impl de::Error for ReadError {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self { id: None, on_key: false, message: message.to_string(), label: None, help: None }
    }

    fn invalid_type(found: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::custom(format_args!("expected {expected}, found {found}"))
    }

    fn unknown_field(field: &str, known: &'static [&'static str]) -> Self {
        let label = did_you_mean(field, known.iter().copied());
        let listed = listed(known.iter().copied()).replace(" or ", " and ");
        let help = label.is_none().then(|| format!("known here: {listed}"));
        Self { on_key: true, label, help, ..Self::custom(format_args!("unknown key `{field}`")) }
    }

    fn unknown_variant(word: &str, known: &'static [&'static str]) -> Self {
        let label = did_you_mean(word, known.iter().copied());
        let expected = listed(known.iter().copied());
        Self { label, ..Self::custom(format_args!("unknown word `{word}`: expected {expected}")) }
    }
}

impl fmt::Display for ReadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for ReadError {}

#[derive(Clone, Copy)]
struct Reader<'t> {
    tree: &'t Tree,
    id: NodeId,
}

impl<'t> Reader<'t> {
    fn kind(self) -> &'t Kind {
        &self.tree.node(self.id).kind
    }

    fn wrong<T>(self, expected: &dyn Expected) -> Result<T, ReadError> {
        let found = match self.kind() {
            _ if self.tree.is_null(self.id) => {
                let message = format_args!("expected {expected}, found nothing");
                return Err(ReadError { on_key: true, ..de::Error::custom(message) }.at(self.id));
            }
            Kind::Scalar { text, .. } => format!("`{text}`"),
            Kind::List { .. } => "a list".to_owned(),
            Kind::Map { .. } => "keys with values".to_owned(),
        };
        Err(ReadError::at(
            de::Error::custom(format_args!("expected {expected}, found {found}")),
            self.id,
        ))
    }

    fn children(self) -> Children<'t> {
        Children { tree: self.tree, ids: self.tree.children(self.id).collect(), next: 0 }
    }
}

struct Text(&'static str);

impl Expected for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl<'de> Deserializer<'de> for Reader<'_> {
    type Error = ReadError;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ReadError> {
        match self.kind() {
            _ if self.tree.is_null(self.id) => self.wrong(&visitor),
            Kind::Scalar { text, .. } => {
                visitor.visit_str(text).map_err(|error: ReadError| error.at(self.id))
            }
            Kind::List { .. } => {
                visitor.visit_seq(self.children()).map_err(|error| error.at(self.id))
            }
            Kind::Map { .. } => {
                visitor.visit_map(self.children()).map_err(|error| error.at(self.id))
            }
        }
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ReadError> {
        match self.kind() {
            Kind::Scalar { .. } => self.deserialize_any(visitor),
            _ => self.wrong(&visitor),
        }
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ReadError> {
        match self.kind() {
            Kind::Scalar { .. } if !self.tree.is_null(self.id) => self.deserialize_any(visitor),
            _ => self.wrong(&Text("text")),
        }
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ReadError> {
        match self.kind() {
            Kind::Scalar { text, plain: true } if text == "true" => visitor.visit_bool(true),
            Kind::Scalar { text, plain: true } if text == "false" => visitor.visit_bool(false),
            _ => self.wrong(&Text("`true` or `false`")),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ReadError> {
        visitor.visit_some(self)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ReadError> {
        match self.kind() {
            Kind::List { .. } => self.deserialize_any(visitor),
            _ => self.wrong(&Text("a list")),
        }
    }

    /// All of whose keys are commented out is a map without keys.
    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ReadError> {
        match self.kind() {
            Kind::Map { .. } => self.deserialize_any(visitor),
            _ if self.tree.is_null(self.id) => visitor.visit_map(self.children()),
            _ => self.wrong(&Text("keys with values")),
        }
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, ReadError> {
        self.deserialize_map(visitor)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, ReadError> {
        match (name, self.kind()) {
            (AT, _) => visitor.visit_seq(Located { reader: self, step: 0 }),
            (ONE_OR_MANY, Kind::List { .. }) => self.deserialize_any(visitor),
            (ONE_OR_MANY, _) => {
                let ids = vec![self.id];
                visitor.visit_seq(Children { tree: self.tree, ids, next: 0 })
            }
            _ => visitor.visit_newtype_struct(self),
        }
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ReadError> {
        visitor.visit_unit()
    }

    forward_to_deserialize_any! {
        i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char bytes byte_buf unit unit_struct tuple
        tuple_struct enum identifier
    }
}

struct Children<'t> {
    tree: &'t Tree,
    ids: Vec<NodeId>,
    next: usize,
}

impl<'t> Children<'t> {
    fn reader(&self, id: NodeId) -> Reader<'t> {
        Reader { tree: self.tree, id }
    }
}

impl<'de> SeqAccess<'de> for Children<'_> {
    type Error = ReadError;

    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, ReadError> {
        let Some(&id) = self.ids.get(self.next) else { return Ok(None) };
        self.next += 1;
        seed.deserialize(self.reader(id)).map(Some).map_err(|error| error.at(id))
    }
}

impl<'de> MapAccess<'de> for Children<'_> {
    type Error = ReadError;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, ReadError> {
        let Some(&id) = self.ids.get(self.next) else { return Ok(None) };
        let key: StrDeserializer<'_, ReadError> =
            self.tree.key(id).unwrap_or_default().into_deserializer();
        seed.deserialize(key).map(Some).map_err(|error| error.at(id))
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, ReadError> {
        let Some(&id) = self.ids.get(self.next) else {
            return Err(de::Error::custom("a key without a value"));
        };
        self.next += 1;
        seed.deserialize(self.reader(id)).map_err(|error| error.at(id))
    }
}

/// A value as two: which it is, and what it says.
struct Located<'t> {
    reader: Reader<'t>,
    step: u8,
}

impl<'de> SeqAccess<'de> for Located<'_> {
    type Error = ReadError;

    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, ReadError> {
        self.step += 1;
        match self.step {
            1 => seed.deserialize(U32Deserializer::new(self.reader.id.0)).map(Some),
            2 => seed.deserialize(self.reader).map(Some).map_err(|error| error.at(self.reader.id)),
            _ => Ok(None),
        }
    }
}
