//! Forms made of others: what may be left out, lists, and maps whose keys the user chooses.

use std::fmt;
use std::marker::PhantomData;
use std::ops::RangeInclusive;

use super::{Bounded, Checker, Display, Form, Reference, ValueShape};
use crate::policy::yaml::tree::NodeId;

/// An optional value that `none` switches off.
#[derive(Debug)]
pub struct OrNone<F>(PhantomData<F>);

/// A list, or its only element.
#[derive(Debug)]
pub struct OneOrMany<F>(PhantomData<F>);

/// A list that must be given.
#[derive(Debug)]
pub struct Required<F>(PhantomData<F>);

/// Keys that the user chooses, in the order in which they are written.
#[derive(Debug)]
pub struct Map<K, F>(PhantomData<(K, F)>);

/// The form of the keys of a map.
pub trait MapKey<K = Self> {
    /// For the reference: `name`.
    const NAME: &'static str;
    fn parse(text: &str) -> Result<K, String>;
}

impl MapKey for String {
    const NAME: &'static str = "name";

    fn parse(text: &str) -> Result<Self, String> {
        Ok(text.to_owned())
    }
}

impl<M, F: Form<M>> Form<Option<M>> for Option<F> {
    const INLINE: bool = true;

    fn read(node: NodeId, check: &mut Checker<'_>) -> Option<Option<M>> {
        F::read(node, check).map(Some)
    }

    fn absent() -> Option<Option<M>> {
        Some(None)
    }

    fn show(value: &Option<M>, out: &mut Display<'_>) {
        match value {
            Some(value) => F::show(value, out),
            None => out.none(),
        }
    }

    fn describe(out: &mut Reference) -> ValueShape {
        F::describe(out)
    }
}

impl<M, F: Bounded<M>> Bounded<Option<M>> for Option<F> {
    type Value = F::Value;
    const NAME: &'static str = F::NAME;

    fn value(model: &Option<M>) -> Option<&F::Value> {
        model.as_ref().and_then(F::value)
    }

    fn text(value: &F::Value) -> String {
        F::text(value)
    }

    fn limits(bounds: &RangeInclusive<F::Value>) -> String {
        F::limits(bounds)
    }
}

impl<M, F: Form<M>> Form<Option<M>> for OrNone<F> {
    const INLINE: bool = true;

    fn read(node: NodeId, check: &mut Checker<'_>) -> Option<Option<M>> {
        match check.tree.text(node) {
            Some("none") => Some(None),
            _ => F::read(node, check).map(Some),
        }
    }

    fn absent() -> Option<Option<M>> {
        Some(None)
    }

    fn show(value: &Option<M>, out: &mut Display<'_>) {
        <Option<F>>::show(value, out);
    }

    fn describe(out: &mut Reference) -> ValueShape {
        match F::describe(out) {
            ValueShape::OneOf(mut shapes) => {
                shapes.push(ValueShape::Words(vec!["none"]));
                ValueShape::OneOf(shapes)
            }
            shape => ValueShape::OneOf(vec![shape, ValueShape::Words(vec!["none"])]),
        }
    }
}

impl<M, F: Form<M>> Form<Vec<M>> for Vec<F> {
    const INLINE: bool = F::INLINE;

    fn read(node: NodeId, check: &mut Checker<'_>) -> Option<Vec<M>> {
        Some(check.list(node)?.filter_map(|item| F::read(item, check)).collect())
    }

    fn absent() -> Option<Vec<M>> {
        Some(Vec::new())
    }

    fn show(value: &Vec<M>, out: &mut Display<'_>) {
        show_list::<M, F>(value, out);
    }

    fn describe(out: &mut Reference) -> ValueShape {
        ValueShape::List(Box::new(F::describe(out)))
    }
}

/// Values that are one text each in one row, others in rows of their own.
fn show_list<M, F: Form<M>>(values: &[M], out: &mut Display<'_>) {
    if values.is_empty() {
        out.none();
    } else if F::INLINE {
        out.joined::<M, F>(values);
    } else {
        for (index, value) in values.iter().enumerate() {
            out.item(index, |out| F::show(value, out));
        }
    }
}

impl<M, F: Form<M>> Form<Vec<M>> for OneOrMany<F> {
    const INLINE: bool = F::INLINE;

    fn read(node: NodeId, check: &mut Checker<'_>) -> Option<Vec<M>> {
        match check.is_list(node) {
            true => <Vec<F>>::read(node, check),
            false => F::read(node, check).map(|only| vec![only]),
        }
    }

    fn absent() -> Option<Vec<M>> {
        Some(Vec::new())
    }

    fn show(value: &Vec<M>, out: &mut Display<'_>) {
        show_list::<M, F>(value, out);
    }

    fn describe(out: &mut Reference) -> ValueShape {
        let one = F::describe(out);
        ValueShape::OneOf(vec![one.clone(), ValueShape::List(Box::new(one))])
    }
}

impl<N: fmt::Display, K: MapKey<N>, M, F: Form<M>> Form<Vec<(N, M)>> for Map<K, F> {
    fn read(node: NodeId, check: &mut Checker<'_>) -> Option<Vec<(N, M)>> {
        let entries = check.entries(node)?;
        let entry = |child| {
            let key = K::parse(check.tree.key(child).unwrap_or_default());
            let key = key.map_err(|message| check.error_on_key(child, message)).ok();
            let value = F::read(child, check);
            Some((key?, value?))
        };
        Some(entries.filter_map(entry).collect())
    }

    fn absent() -> Option<Vec<(N, M)>> {
        Some(Vec::new())
    }

    fn show(value: &Vec<(N, M)>, out: &mut Display<'_>) {
        if value.is_empty() {
            out.none();
        }
        for (key, value) in value {
            out.key(&key.to_string(), |out| F::show(value, out));
        }
    }

    fn describe(out: &mut Reference) -> ValueShape {
        ValueShape::Map(K::NAME, Box::new(F::describe(out)))
    }
}

impl<M, F: Form<M>> Form<M> for Required<F> {
    const INLINE: bool = F::INLINE;

    fn read(node: NodeId, check: &mut Checker<'_>) -> Option<M> {
        F::read(node, check)
    }

    fn show(value: &M, out: &mut Display<'_>) {
        F::show(value, out);
    }

    fn describe(out: &mut Reference) -> ValueShape {
        F::describe(out)
    }
}
