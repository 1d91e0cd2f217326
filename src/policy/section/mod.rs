//! How a section of the policy is declared: one line for each key.
//!
//! `section!` takes a struct whose fields carry, besides their type, what the language says of the
//! key: its default, its bounds and its meaning. From that one declaration follow the struct of the
//! model, the reading of the YAML with every problem reported at its line, the display that
//! `diff`, `explain` and `fingerprint` work on, the JSON Schema and the reference.
//!
//! ```text
//! section! {
//!     /// The sidecar itself.
//!     #[derive(Clone, Debug)]
//!     pub struct Server {
//!         /// Connections beyond this receive 503.
//!         connections: usize = 10_000, in 1..=1_000_000;
//!         /// Memory of all buffers together.
//!         buffered: u64 as Size = 256 << 20, in 1 << 20..=1 << 40;
//!         /// The listener's certificate.
//!         tls: Option<Identity>;
//!     }
//! }
//! ```
//!
//! - `name: Type` has the form of its type ([`Form`]); `name: Type as Other` the form of another.
//! - `name "key": Type` is written under another key than its name.
//! - `= default` applies where the key is left out; `=> "text"` says it in other words. Without a
//!   default the type may have one itself (an option, a list, a section of defaults); a key without
//!   either is required.
//! - `in low..=high` bounds the value; `like "x"` is the example that a missing key is reported with.
//! - `where rule(...)` is a further check, a method of [`Checker`] that is called with the node of the
//!   value: `where some("no provider: expected at least one")`.
//! - `computed { name: Type = value; }` adds fields that are no keys (`name "shown": Type` is displayed
//!   all the same), and `finish f` calls
//!   `f(&mut section, node, checker)` when all keys are read.
//! - `for Type { ... }` in place of `struct` gives a struct of another module its form.

pub mod checker;
pub mod describe;
pub mod display;
pub mod form;
pub mod lists;
pub mod names;
pub mod scalars;
pub mod threshold;

pub use checker::Checker;
pub use describe::{KeyText, Reference, ValueShape};
pub use display::Display;
pub use form::{Bounded, Form, defaults};
pub use lists::{Map, MapKey, OneOrMany, OrNone, Required};
pub use names::{NameOf, NamedSection, OrDefault};
pub use scalars::{Share, Size};
pub use threshold::{Percentile, Threshold, ThresholdMeasure, TimedFigure};

/// The names that the macros below use.
pub(crate) mod macro_names {
    pub(crate) use super::describe::{alternatives, keys as describe_keys_of};
    pub(crate) use super::form::{Form, bounded, form_of, keys as keys_of, limits_of, read_map};
    pub(crate) use super::{Checker, Display, KeyText, Reference, ValueShape};
    pub(crate) use crate::policy::yaml::tree::NodeId;
}

/// Declares a section; see the module.
macro_rules! section {
    (
        $(#[doc = $doc:literal])*
        $(#[derive($($derive:path),*)])?
        pub struct $name:ident $(, finish $finish:path)? {
            $(
                $(#[doc = $text:literal])*
                $key:ident $($written:literal)? : $model:ty $(as $form:ty)?
                $(= $default:expr $(=> $shown:literal)?)?
                $(, in $bounds:expr)?
                $(, like $like:literal)?
                $(, where $rule:ident($($argument:expr),*))* ;
            )*
        }
        $(computed { $($(#[doc = $computed_text:literal])* $computed:ident $($computed_key:literal)? : $computed_type:ty = $value:expr;)* })?
    ) => {
        $(#[doc = $doc])*
        $(#[derive($($derive),*)])?
        pub struct $name {
            $($(#[doc = $text])* pub $key: $model,)*
            $($($(#[doc = $computed_text])* pub $computed: $computed_type,)*)?
        }

        $crate::policy::section::section! {
            $(#[doc = $doc])*
            for $name $(, finish $finish)? {
                $(
                    $(#[doc = $text])*
                    $key $($written)? : $model $(as $form)?
                    $(= $default $(=> $shown)?)?
                    $(, in $bounds)?
                    $(, like $like)?
                    $(, where $rule($($argument),*))* ;
                )*
            }
            $(computed { $($computed $($computed_key)? : $computed_type = $value;)* })?
        }
    };
    (
        $(#[doc = $doc:literal])*
        for $name:ident $(, finish $finish:path)? {
            $(
                $(#[doc = $text:literal])*
                $key:ident $($written:literal)? : $model:ty $(as $form:ty)?
                $(= $default:expr $(=> $shown:literal)?)?
                $(, in $bounds:expr)?
                $(, like $like:literal)?
                $(, where $rule:ident($($argument:expr),*))* ;
            )*
        }
        $(computed { $($computed:ident $($computed_key:literal)? : $computed_type:ty = $value:expr;)* })?
    ) => {
        const _: () = {
            use $crate::policy::section::macro_names::*;

            impl Form for $name {
                fn read(node: NodeId, check: &mut Checker<'_>) -> Option<Self> {
                    read_map(node, check)
                }

                fn read_keys(node: NodeId, check: &mut Checker<'_>) -> Option<Self> {
                    $(
                        let $key = check.field::<$model, form_of!($model $(, $form)?)>(
                            node,
                            [$($written,)? stringify!($key)][0],
                            None $(.or(Some($default)))?,
                            |_value, _node, _check| {
                                bounded!(_check, _value, _node, $model, form_of!($model $(, $form)?) $(, $bounds)?);
                                $(_check.$rule(_node, $($argument),*);)*
                            },
                            concat!($($like)?),
                        );
                    )*
                    #[allow(unused_mut)]
                    let mut section = Self { $($key: $key?,)* $($($computed: $value,)*)? };
                    $($finish(&mut section, node, check);)?
                    Some(section)
                }

                fn absent() -> Option<Self> {
                    Some(Self {
                        $($key: None $(.or(Some($default)))?
                            .or_else(<form_of!($model $(, $form)?) as Form<$model>>::absent)?,)*
                        $($($computed: $value,)*)?
                    })
                }

                fn keys(out: &mut Vec<&'static str>) {
                    $(keys_of::<$model, form_of!($model $(, $form)?)>([$($written,)? stringify!($key)][0], out);)*
                }

                fn show(value: &Self, out: &mut Display<'_>) {
                    $(out.field::<$model, form_of!($model $(, $form)?)>(
                        [$($written,)? stringify!($key)][0],
                        &value.$key,
                        None $($(.or((value.$key == $default).then_some($shown)))?)?,
                    );)*
                    $($($(out.field::<$computed_type, $computed_type>($computed_key, &value.$computed, None);)?)*)?
                }

                fn describe(out: &mut Reference) -> ValueShape {
                    out.section(stringify!($name), &[$($doc),*], <Self as Form>::describe_keys)
                }

                fn describe_keys(out: &mut Reference) -> Vec<KeyText> {
                    let mut keys = Vec::new();
                    $(keys.extend(describe_keys_of::<$model, form_of!($model $(, $form)?)>(
                        [$($written,)? stringify!($key)][0],
                        &[$($text),*],
                        None $(.or(Some($default)))?,
                        None $($(.or(Some($shown)))?)?,
                        limits_of!($model, form_of!($model $(, $form)?) $(, $bounds)?),
                        out,
                    ));)*
                    keys
                }
            }
        };
    };
}
pub(crate) use section;

/// Gives a type, or a marker for another type, a form that is shown as one text:
/// `impl Url { ... }`, or `struct HeaderKey for HeaderName { ... }`.
macro_rules! text_form {
    ($(
        $(#[doc = $doc:literal])*
        struct $form:ident for $model:ty {
            read($read_node:ident, $read_check:ident) $read:block
            show($show_value:pat, $show_out:ident) $show:block
            describe($describe_out:pat) $shape:block
        }
    )+) => {$(
        $(#[doc = $doc])*
        #[derive(Debug)]
        pub struct $form;

        $crate::policy::section::text_form! {
            impl Form<$model> for $form {
                read($read_node, $read_check) $read
                show($show_value, $show_out) $show
                describe($describe_out) $shape
            }
        }
    )+};
    ($(
        impl Form<$model:ty> for $form:ident {
            read($read_node:ident, $read_check:ident) $read:block
            show($show_value:pat, $show_out:ident) $show:block
            describe($describe_out:pat) $shape:block
        }
    )+) => {$(
        const _: () = {
            use $crate::policy::section::macro_names::*;

            impl Form<$model> for $form {
                const INLINE: bool = true;

                fn read($read_node: NodeId, $read_check: &mut Checker<'_>) -> Option<$model> $read

                fn show($show_value: &$model, $show_out: &mut Display<'_>) $show

                fn describe($describe_out: &mut Reference) -> ValueShape $shape
            }
        };
    )+};
}
pub(crate) use text_form;

/// Forms that are one text, a row each: what a message expects, the shape, how the text is parsed
/// into a value or an error, and how the value is shown as text.
macro_rules! texts {
    ($(
        $($(#[doc = $doc:literal])* struct $marker:ident)? $(impl $own:ident)? for $model:ty:
            $expected:literal, $shape:expr, $parse:expr, $show:expr;
    )+) => {$(
        $(
            $(#[doc = $doc])*
            #[derive(Debug)]
            pub struct $marker;
        )?
        $crate::policy::section::text_form! {
            impl Form<$model> for $($marker)? $($own)? {
                read(node, check) { check.parsed(node, $expected, $parse) }
                show(value, out) { out.text($show(value)) }
                describe(_) { $shape }
            }
        }
    )+};
}
pub(crate) use texts;

/// Declares an enum of which one variant is written, by its key. `Kind` is the same without values.
macro_rules! one_of {
    (
        $(#[doc = $doc:literal])*
        $(#[derive($($derive:path),*)])?
        pub enum $name:ident as $kind:ident, one $what:ident {
            $(
                $(#[doc = $text:literal])*
                $variant:ident $key:literal : $model:ty $(as $form:ty)?
                $(, in $bounds:expr)?
                $(, where $rule:ident($($argument:expr),*))* ;
            )*
        }
    ) => {
        $(#[doc = $doc])*
        $(#[derive($($derive),*)])?
        pub enum $name {
            $($(#[doc = $text])* $variant($model),)*
        }

        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum $kind {
            $($variant,)*
        }

        impl $kind {
            pub const ALL: &'static [$kind] = &[$($kind::$variant),*];

            /// As the policy calls it.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $($kind::$variant => $key,)*
                }
            }

            /// The keys that it is written by.
            fn keys(self) -> Vec<&'static str> {
                use $crate::policy::section::macro_names::*;
                let mut keys = Vec::new();
                match self {
                    $($kind::$variant => keys_of::<$model, form_of!($model $(, $form)?)>($key, &mut keys),)*
                }
                keys
            }
        }

        impl $name {
            pub const fn kind(&self) -> $kind {
                match self {
                    $($name::$variant(_) => $kind::$variant,)*
                }
            }
        }

        const _: () = {
            use $crate::policy::section::macro_names::*;

            impl Form for $name {
                fn read(node: NodeId, check: &mut Checker<'_>) -> Option<Self> {
                    read_map(node, check)
                }

                fn read_keys(node: NodeId, check: &mut Checker<'_>) -> Option<Self> {
                    let kinds = $kind::ALL.iter().copied();
                    let given: Vec<_> =
                        kinds.filter(|kind| !check.present_keys(node, &kind.keys()).is_empty()).collect();
                    match check.only(node, stringify!($what), &given)? {
                        $($kind::$variant => {
                            type Written = form_of!($model $(, $form)?);
                            let at = match <Written as Form<$model>>::FLATTENED {
                                true => node,
                                false => check.tree.child(node, $key)?,
                            };
                            let value = <Written as Form<$model>>::read(at, check)?;
                            bounded!(check, &value, at, $model, Written $(, $bounds)?);
                            $(check.$rule(at, $($argument),*);)*
                            Some($name::$variant(value))
                        })*
                    }
                }

                fn keys(out: &mut Vec<&'static str>) {
                    $kind::ALL.iter().for_each(|kind| out.extend(kind.keys()));
                }

                fn show(value: &Self, out: &mut Display<'_>) {
                    match value {
                        $($name::$variant(value) => {
                            out.field::<$model, form_of!($model $(, $form)?)>($key, value, None);
                        })*
                    }
                }

                fn describe(out: &mut Reference) -> ValueShape {
                    out.section(stringify!($name), &[$($doc),*], <Self as Form>::describe_keys)
                }

                fn describe_keys(out: &mut Reference) -> Vec<KeyText> {
                    let mut keys = Vec::new();
                    $(keys.extend(alternatives::<$model, form_of!($model $(, $form)?)>(
                        $key,
                        &[$($text),*],
                        limits_of!($model, form_of!($model $(, $form)?) $(, $bounds)?),
                        out,
                    ));)*
                    keys
                }
            }
        };
    };
}
pub(crate) use one_of;

/// Declares an enum whose variants are words of the language.
macro_rules! words {
    ($($(#[doc = $doc:literal])* pub enum $name:ident { $($(#[doc = $text:literal])* $variant:ident = $word:literal,)* })*) => {$(
        $(#[doc = $doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $name { $($(#[doc = $text])* $variant,)* }

        impl $name {
            pub const ALL: &'static [$name] = &[$($name::$variant),*];

            pub const fn as_str(self) -> &'static str {
                match self { $($name::$variant => $word,)* }
            }
        }

        $crate::policy::section::words!(for $name: $name::ALL);
    )*};
    ($(for $name:ident: $all:expr);* $(;)?) => {$(
        $crate::policy::section::text_form! {
            impl Form<$name> for $name {
                read(node, check) { check.word(node, $all, |one| one.as_str()) }
                show(value, out) { out.text(value.as_str()) }
                describe(_) { ValueShape::Words($all.iter().map(|one| one.as_str()).collect()) }
            }
        }
    )*};
}
pub(crate) use words;
