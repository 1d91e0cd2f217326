//! The small forms that the raw types are made of: values with a place, one or a list, a word or
//! keys, quantities, words of a fixed vocabulary.
//!
//! serde's `untagged`, `tag` and `flatten` read a value twice and lose the place of an error;
//! these read it once. Each says in the schema what editors should accept.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;
use std::ops::Deref;
use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::value::MapAccessDeserializer;
use serde::de::{
    Deserialize, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Unexpected, Visitor,
};

use super::deserialize::{AT, ONE_OR_MANY};
use super::tree::NodeId;
use super::units;

/// A value, and which of the tree it is.
#[derive(Clone, Copy, Debug)]
pub struct At<T> {
    pub id: NodeId,
    pub value: T,
}

impl<T> Deref for At<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for At<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_newtype_struct(AT, AtVisitor(PhantomData))
    }
}

struct AtVisitor<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for AtVisitor<T> {
    type Value = At<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value with a place")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<At<T>, A::Error> {
        let id = seq
            .next_element::<u32>()?
            .ok_or_else(|| A::Error::custom("a value without a place"))?;
        let value =
            seq.next_element::<T>()?.ok_or_else(|| A::Error::custom("a place without a value"))?;
        Ok(At { id: NodeId(id), value })
    }
}

/// Each of a list, or the only one.
#[derive(Clone, Debug)]
pub struct OneOrMany<T>(pub Vec<At<T>>);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for OneOrMany<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_newtype_struct(ONE_OR_MANY, ManyVisitor(PhantomData))
    }
}

struct ManyVisitor<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for ManyVisitor<T> {
    type Value = OneOrMany<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<OneOrMany<T>, A::Error> {
        let mut all = Vec::new();
        while let Some(one) = seq.next_element()? {
            all.push(one);
        }
        Ok(OneOrMany(all))
    }
}

/// Keys that the user chooses, in the order in which they stand.
#[derive(Clone, Debug)]
pub struct Entries<T>(pub Vec<(String, At<T>)>);

impl<T> Default for Entries<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Entries<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(EntriesVisitor(PhantomData))
    }
}

struct EntriesVisitor<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for EntriesVisitor<T> {
    type Value = Entries<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("keys with values")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Entries<T>, A::Error> {
        let mut all = Vec::new();
        while let Some(entry) = map.next_entry()? {
            all.push(entry);
        }
        Ok(Entries(all))
    }
}

/// A text, or keys with values that say more.
#[derive(Clone, Debug)]
pub enum TextOr<T> {
    Text(String),
    Keys(T),
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for TextOr<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TextOrVisitor(PhantomData))
    }
}

struct TextOrVisitor<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for TextOrVisitor<T> {
    type Value = TextOr<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("text, or keys with values")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<TextOr<T>, E> {
        Ok(TextOr::Text(text.to_owned()))
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<TextOr<T>, A::Error> {
        T::deserialize(MapAccessDeserializer::new(map)).map(TextOr::Keys)
    }
}

/// `true` or `false`, or keys with values that say more.
#[derive(Clone, Debug)]
pub enum SwitchOr<T> {
    Switch(bool),
    Keys(T),
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for SwitchOr<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(SwitchOrVisitor(PhantomData))
    }
}

struct SwitchOrVisitor<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for SwitchOrVisitor<T> {
    type Value = SwitchOr<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("`true`, `false`, or keys with values")
    }

    fn visit_bool<E: Error>(self, on: bool) -> Result<SwitchOr<T>, E> {
        Ok(SwitchOr::Switch(on))
    }

    /// A scalar comes as it was written.
    fn visit_str<E: Error>(self, text: &str) -> Result<SwitchOr<T>, E> {
        match text {
            "true" => Ok(SwitchOr::Switch(true)),
            "false" => Ok(SwitchOr::Switch(false)),
            _ => Err(E::invalid_value(Unexpected::Str(text), &self)),
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<SwitchOr<T>, A::Error> {
        T::deserialize(MapAccessDeserializer::new(map)).map(SwitchOr::Keys)
    }
}

/// Any JSON; what it says is read from the tree.
#[derive(Clone, Copy, Debug)]
pub struct Json;

impl<'de> Deserialize<'de> for Json {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        IgnoredAny::deserialize(deserializer).map(|_| Self)
    }
}

/// A word of a fixed vocabulary.
pub trait Vocabulary: Copy + 'static {
    const NAME: &'static str;
    const WORDS: &'static [&'static str];
    const MEANINGS: &'static [Self];
}

#[derive(Clone, Copy, Debug)]
pub struct Word<T>(pub T);

impl<'de, T: Vocabulary> Deserialize<'de> for Word<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let meaning = T::WORDS.iter().zip(T::MEANINGS).find(|(word, _)| **word == text);
        let (_, meaning) = meaning.ok_or_else(|| D::Error::unknown_variant(&text, T::WORDS))?;
        Ok(Self(*meaning))
    }
}

/// Quantities: name, what it holds, how it is read, what the schema says.
macro_rules! quantities {
    ($($name:ident($inner:ty), $parse:path, $what:literal, $schema:tt;)*) => {$(
        #[derive(Clone, Copy, Debug, PartialEq)]
        pub struct $name(pub $inner);

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct TextVisitor;
                impl Visitor<'_> for TextVisitor {
                    type Value = $name;

                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        f.write_str($what)
                    }

                    fn visit_str<E: Error>(self, text: &str) -> Result<$name, E> {
                        $parse(text).map($name).map_err(E::custom)
                    }
                }
                deserializer.deserialize_str(TextVisitor)
            }
        }

        impl JsonSchema for $name {
            fn schema_name() -> Cow<'static, str> {
                stringify!($name).into()
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!($schema)
            }
        }
    )*};
}

quantities! {
    Length(Duration), units::length, "a length like `10s`",
        { "description": "`250ms`, `10s`, `5m`, `1h30m`", "type": ["string", "integer"],
          "pattern": "^(0|([0-9.]+d)?([0-9.]+h)?([0-9.]+m)?([0-9.]+s)?([0-9.]+ms)?)$", "minimum": 0, "maximum": 0 };
    Size(u64), units::size, "a size like `64KiB`",
        { "description": "`64KiB`, `1MiB`, `10MB`", "type": ["string", "integer"],
          "pattern": "^[0-9.]+([kK]B|MB|GB|KiB|MiB|GiB|B)?$", "minimum": 0 };
    Count(u64), units::count, "a whole number like `5`",
        { "description": "`5`, `200k`, `1M`", "type": ["string", "integer"],
          "pattern": "^[0-9.]+[kMG]?$", "minimum": 0 };
    Share(f64), units::share, "a share like `0.2` or `20%`",
        { "description": "`0.2` or `20%`", "type": ["string", "number"],
          "pattern": "^[0-9.]+%?$", "minimum": 0, "maximum": 1 };
    Number(f64), units::number, "a number like `2.0`",
        { "type": ["string", "number"], "pattern": "^[0-9.]+$", "minimum": 0 };
    Currency(units::Currency), units::currency, "a currency like `USD`",
        { "description": "Three capital letters (ISO 4217)", "type": "string", "pattern": "^[A-Z]{3}$" };
    Spend(units::Spend), units::spend, "a cost like `5 USD/h`",
        { "description": "`5 USD/h`, `0.25 EUR/min`, `40 USD/day`", "type": "string",
          "pattern": "^[0-9.]+ [A-Z]{3}/(s|min|h|day)$" };
    Rate(units::Rate), units::rate, "a rate like `500/min`",
        { "description": "`500/min`, `5/s`, `1000/h`, `200k/min`", "type": "string",
          "pattern": "^[0-9.]+[kMG]?/(s|min|h|day)$" };
}

// === what editors are told ===

/// A form that stands for another type in the schema.
macro_rules! stands_for {
    ($($name:ident as $other:ty;)*) => {$(
        impl<T: JsonSchema> JsonSchema for $name<T> {
            fn inline_schema() -> bool {
                <$other>::inline_schema()
            }

            fn schema_name() -> Cow<'static, str> {
                <$other>::schema_name()
            }

            fn json_schema(generator: &mut SchemaGenerator) -> Schema {
                <$other>::json_schema(generator)
            }
        }
    )*};
}

stands_for! {
    At as T;
    Entries as std::collections::BTreeMap<String, T>;
}

macro_rules! either {
    ($($name:ident, $other:ty;)*) => {$(
        impl<T: JsonSchema> JsonSchema for $name<T> {
            fn inline_schema() -> bool {
                true
            }

            fn schema_name() -> Cow<'static, str> {
                format!("{}Of{}", stringify!($name), T::schema_name()).into()
            }

            fn json_schema(generator: &mut SchemaGenerator) -> Schema {
                let (one, other) = (generator.subschema_for::<T>(), generator.subschema_for::<$other>());
                json_schema!({ "anyOf": [one, other] })
            }
        }
    )*};
}

either! {
    OneOrMany, Vec<T>;
    TextOr, String;
    SwitchOr, bool;
}

impl JsonSchema for Json {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Json".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!(true)
    }
}

impl<T: Vocabulary> JsonSchema for Word<T> {
    fn schema_name() -> Cow<'static, str> {
        T::NAME.into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "enum": T::WORDS })
    }
}
