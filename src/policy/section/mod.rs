//! How a section of the policy is declared: one line for each key.
//!
//! `section!` takes a struct whose fields carry, beside their type, what the language says of the
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
//! - `computed { name: Type = value; }` adds fields that are no keys, and `finish f` calls
//!   `f(&mut section, node, checker)` when all keys are read.
//! - `for Type { ... }` in place of `struct` gives a struct of another module its form.

pub mod checker;
pub mod describe;
pub mod display;
pub mod form;
pub mod lists;
pub mod names;
pub mod scalars;

pub use checker::Checker;
pub use describe::{KeyText, Reference, ValueShape};
pub use display::Display;
pub use form::{Bounded, Form, defaults};
pub use lists::{Map, MapKey, OneOrMany, OrNone, Required};
pub use names::{NameOf, NamedSection, OrDefault};
pub use scalars::{Share, Size};

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
                $(, like $like:literal)? ;
            )*
        }
        $(computed { $($(#[doc = $computed_text:literal])* $computed:ident : $computed_type:ty = $value:expr;)* })?
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
                    $(, like $like)? ;
                )*
            }
            $(computed { $($computed : $computed_type = $value;)* })?
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
                $(, like $like:literal)? ;
            )*
        }
        $(computed { $($computed:ident : $computed_type:ty = $value:expr;)* })?
    ) => {
        impl $crate::policy::section::Form for $name {
            fn read(
                node: $crate::policy::yaml::tree::NodeId,
                check: &mut $crate::policy::section::Checker<'_>,
            ) -> Option<Self> {
                $crate::policy::section::form::read_map(node, check)
            }

            fn read_keys(
                node: $crate::policy::yaml::tree::NodeId,
                check: &mut $crate::policy::section::Checker<'_>,
            ) -> Option<Self> {
                use $crate::policy::section::form::{bound_of, default_of, example_of, form_of, key_of};
                $(
                    let $key = check.field::<$model, form_of!($model $(, $form)?)>(
                        node,
                        key_of!($key $($written)?),
                        default_of!($($default)?),
                        bound_of!($model, form_of!($model $(, $form)?) $(, $bounds)?),
                        example_of!($($like)?),
                    );
                )*
                #[allow(unused_mut)]
                let mut section = Self { $($key: $key?,)* $($($computed: $value,)*)? };
                $($finish(&mut section, node, check);)?
                Some(section)
            }

            fn absent() -> Option<Self> {
                use $crate::policy::section::form::{default_of, form_of};
                Some(Self {
                    $($key: match default_of!($($default)?) {
                        Some(default) => default,
                        None => <form_of!($model $(, $form)?) as $crate::policy::section::Form<$model>>::absent()?,
                    },)*
                    $($($computed: $value,)*)?
                })
            }

            fn keys(out: &mut Vec<&'static str>) {
                use $crate::policy::section::form::{form_of, key_of};
                $($crate::policy::section::form::keys::<$model, form_of!($model $(, $form)?)>(
                    key_of!($key $($written)?), out,
                );)*
            }

            fn show(value: &Self, out: &mut $crate::policy::section::Display<'_>) {
                use $crate::policy::section::form::{form_of, key_of, shown_of};
                $(out.field::<$model, form_of!($model $(, $form)?)>(
                    key_of!($key $($written)?),
                    &value.$key,
                    shown_of!(value.$key $($(, $default => $shown)?)?),
                );)*
            }

            fn describe(
                out: &mut $crate::policy::section::Reference,
            ) -> $crate::policy::section::ValueShape {
                out.section(
                    stringify!($name),
                    &[$($doc),*],
                    <Self as $crate::policy::section::Form>::describe_keys,
                )
            }

            fn describe_keys(
                out: &mut $crate::policy::section::Reference,
            ) -> Vec<$crate::policy::section::KeyText> {
                use $crate::policy::section::form::{default_of, form_of, key_of, limits_of};
                let mut keys = Vec::new();
                $(keys.extend($crate::policy::section::describe::keys::<$model, form_of!($model $(, $form)?)>(
                    key_of!($key $($written)?),
                    &[$($text),*],
                    default_of!($($default)?),
                    None $($(.or(Some($shown)))?)?,
                    limits_of!($model, form_of!($model $(, $form)?) $(, $bounds)?),
                    out,
                ));)*
                keys
            }
        }
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
        impl $crate::policy::section::Form<$model> for $form {
            const INLINE: bool = true;

            fn read(
                $read_node: $crate::policy::yaml::tree::NodeId,
                $read_check: &mut $crate::policy::section::Checker<'_>,
            ) -> Option<$model> $read

            fn show($show_value: &$model, $show_out: &mut $crate::policy::section::Display<'_>) $show

            fn describe(
                $describe_out: &mut $crate::policy::section::Reference,
            ) -> $crate::policy::section::ValueShape $shape
        }
    )+};
}
pub(crate) use text_form;

/// Declares an enum of which one variant is written, by its key. `Kind` is the same without values.
macro_rules! one_of {
    (
        $(#[doc = $doc:literal])*
        $(#[derive($($derive:path),*)])?
        pub enum $name:ident as $kind:ident, one $what:ident {
            $($(#[doc = $text:literal])* $variant:ident $key:literal : $model:ty $(as $form:ty)?,)*
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
                use $crate::policy::section::form::form_of;
                let mut keys = Vec::new();
                match self {
                    $($kind::$variant => $crate::policy::section::form::keys::<
                        $model, form_of!($model $(, $form)?),
                    >($key, &mut keys),)*
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

        impl $crate::policy::section::Form for $name {
            fn read(
                node: $crate::policy::yaml::tree::NodeId,
                check: &mut $crate::policy::section::Checker<'_>,
            ) -> Option<Self> {
                $crate::policy::section::form::read_map(node, check)
            }

            fn read_keys(
                node: $crate::policy::yaml::tree::NodeId,
                check: &mut $crate::policy::section::Checker<'_>,
            ) -> Option<Self> {
                use $crate::policy::section::form::form_of;
                let kinds = $kind::ALL.iter().copied();
                let given: Vec<_> =
                    kinds.filter(|kind| !check.given(node, &kind.keys()).is_empty()).collect();
                match check.only(node, stringify!($what), &given)? {
                    $($kind::$variant => {
                        type Form = form_of!($model $(, $form)?);
                        let at = match <Form as $crate::policy::section::Form<$model>>::FLATTENED {
                            true => node,
                            false => check.tree.child(node, $key)?,
                        };
                        let value = <Form as $crate::policy::section::Form<$model>>::read(at, check)?;
                        Some($name::$variant(value))
                    })*
                }
            }

            fn keys(out: &mut Vec<&'static str>) {
                $kind::ALL.iter().for_each(|kind| out.extend(kind.keys()));
            }

            fn show(value: &Self, out: &mut $crate::policy::section::Display<'_>) {
                use $crate::policy::section::form::form_of;
                match value {
                    $($name::$variant(value) => {
                        out.field::<$model, form_of!($model $(, $form)?)>($key, value, None);
                    })*
                }
            }

            fn describe(
                out: &mut $crate::policy::section::Reference,
            ) -> $crate::policy::section::ValueShape {
                out.section(
                    stringify!($name),
                    &[$($doc),*],
                    <Self as $crate::policy::section::Form>::describe_keys,
                )
            }

            fn describe_keys(
                out: &mut $crate::policy::section::Reference,
            ) -> Vec<$crate::policy::section::KeyText> {
                use $crate::policy::section::form::form_of;
                let mut keys = Vec::new();
                $(keys.extend($crate::policy::section::describe::alternatives::<
                    $model, form_of!($model $(, $form)?),
                >($key, &[$($text),*], out));)*
                keys
            }
        }
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
        impl $crate::policy::section::Form for $name {
            fn read(
                node: $crate::policy::yaml::tree::NodeId,
                check: &mut $crate::policy::section::Checker<'_>,
            ) -> Option<Self> {
                check.word(node, $all, |one| one.as_str())
            }

            fn show(value: &Self, out: &mut $crate::policy::section::Display<'_>) {
                out.text(value.as_str());
            }

            fn describe(
                _: &mut $crate::policy::section::Reference,
            ) -> $crate::policy::section::ValueShape {
                let words: Vec<_> = $all.iter().map(|one| one.as_str()).collect();
                $crate::policy::section::ValueShape::Words(words)
            }

            const INLINE: bool = true;
        }
    )*};
}
pub(crate) use words;
