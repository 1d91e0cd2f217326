//! How one value of the policy is written, checked, shown and described.

use std::ops::RangeInclusive;

use super::{Checker, Display, KeyText, Reference, ValueShape};
use crate::policy::yaml::tree::NodeId;

/// How a value of type `M` is written; most types of the model are their own form.
pub trait Form<M = Self> {
    /// The value is shown as one text, without keys of its own.
    const INLINE: bool = false;
    /// The default in the reference, where it depends on the rest of the policy.
    const DEFAULT: Option<&'static str> = None;
    /// It is read from keys of the section that it belongs to, not from one key with its name.
    const FLATTENED: bool = false;

    /// `None` where the value was reported.
    fn read(node: NodeId, check: &mut Checker<'_>) -> Option<M>;

    /// As `read`, of a map whose keys are known to be good.
    fn read_keys(node: NodeId, check: &mut Checker<'_>) -> Option<M> {
        Self::read(node, check)
    }

    /// The value of a key that is left out; `None` when the key is required.
    fn absent() -> Option<M> {
        None
    }

    /// As `absent`, where it depends on the rest of the policy.
    fn absent_in(_: &mut Checker<'_>) -> Option<M> {
        Self::absent()
    }

    fn show(value: &M, out: &mut Display<'_>);

    fn describe(out: &mut Reference) -> ValueShape;

    /// The keys that it reads, when it has some.
    fn keys(_: &mut Vec<&'static str>) {}

    /// The keys that it reads, as the reference has them.
    fn describe_keys(_: &mut Reference) -> Vec<KeyText> {
        Vec::new()
    }
}

/// A form whose values can be bounded.
pub trait Bounded<M>: Form<M> {
    /// The part of the value that is compared.
    type Value: PartialOrd;
    /// For messages: `count`.
    const NAME: &'static str;

    fn value(model: &M) -> Option<&Self::Value>;

    /// As it would be written.
    fn text(value: &Self::Value) -> String;

    /// `from `1` to `100``.
    fn limits(bounds: &RangeInclusive<Self::Value>) -> String;
}

/// Reads a map: reports its unknown keys, then reads the known ones.
pub fn read_map<T: Form>(node: NodeId, check: &mut Checker<'_>) -> Option<T> {
    let mut keys = Vec::new();
    T::keys(&mut keys);
    check.map(node, &keys)?;
    T::read_keys(node, check)
}

/// A section of which every key has a default.
///
/// # Panics
/// When a key has none.
pub fn defaults<T: Form>() -> T {
    T::absent().expect("every key has a default")
}

/// The keys that a field adds to its section.
pub fn keys<M, F: Form<M>>(key: &'static str, out: &mut Vec<&'static str>) {
    match F::FLATTENED {
        true => F::keys(out),
        false => out.push(key),
    }
}

/// The form of a key of `section!` or `one_of!`: the named one, else that of its type.
macro_rules! form_of {
    ($model:ty) => {
        $model
    };
    ($model:ty, $form:ty) => {
        $form
    };
}

/// Checks the bounds of a value, if it has some.
macro_rules! bounded {
    ($check:ident, $value:expr, $node:ident, $model:ty, $form:ty) => {};
    ($check:ident, $value:expr, $node:ident, $model:ty, $form:ty, $bounds:expr) => {
        $check.bounded::<$model, $form>($value, $node, &$bounds)
    };
}

macro_rules! limits_of {
    ($model:ty, $form:ty) => {
        None
    };
    ($model:ty, $form:ty, $bounds:expr) => {
        Some(<$form as $crate::policy::section::Bounded<$model>>::limits(&$bounds))
    };
}

pub(crate) use {bounded, form_of, limits_of};
