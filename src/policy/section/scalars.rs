//! Forms of single values: counts, sizes, durations, shares, numbers, texts, switches.

use std::ops::RangeInclusive;
use std::time::Duration;

use serde_json::json;

use super::{Bounded, Checker, Display, Form, Reference, ValueShape, text_form, texts};
use crate::policy::yaml::tree::{Kind, NodeId};
use crate::policy::yaml::units;

/// Bytes: `64KiB`.
#[derive(Debug)]
pub struct Size;

/// A part of the whole: `0.2` or `20%`.
#[derive(Debug)]
pub struct Share;

/// The least share above nothing, as a bound.
pub const ABOVE_NONE: f64 = f64::MIN_POSITIVE;
/// The largest share below the whole, as a bound.
pub const BELOW_ALL: f64 = 1.0 - f64::EPSILON / 2.0;

macro_rules! scalars {
    ($($form:ident for $model:ty: $name:literal, $expected:literal, $schema_name:literal $schema:tt,
        $parse:expr, $show:expr, $limits:expr;)*) => {$(
        impl Form<$model> for $form {
            const INLINE: bool = true;

            fn read(node: NodeId, check: &mut Checker<'_>) -> Option<$model> {
                check.parsed(node, $expected, $parse)
            }

            fn show(value: &$model, out: &mut Display<'_>) {
                out.text(<Self as Bounded<$model>>::text(value));
            }

            fn describe(_: &mut Reference) -> ValueShape {
                ValueShape::Scalar($schema_name, json!($schema))
            }
        }

        impl Bounded<$model> for $form {
            type Value = $model;
            const NAME: &'static str = $name;

            fn value(model: &$model) -> Option<&$model> {
                Some(model)
            }

            fn text(value: &$model) -> String {
                $show(*value)
            }

            fn limits(bounds: &RangeInclusive<$model>) -> String {
                $limits(bounds, <Self as Bounded<$model>>::text)
            }
        }
    )*};
}

/// A number that the type cannot hold is past every bound.
fn fitting<T: TryFrom<u64> + num_max::Max>(number: u64) -> T {
    T::try_from(number).unwrap_or(T::MAX)
}

mod num_max {
    pub trait Max {
        const MAX: Self;
    }
    macro_rules! max {
        ($($name:ident)*) => {$(impl Max for $name { const MAX: Self = $name::MAX; })*};
    }
    max!(u16 u32 u64 usize);
}

macro_rules! counts {
    ($($name:ident)*) => {
        scalars! {$(
            $name for $name: "count", "a whole number like `5`", "count"
                { "description": "`5`, `200k`, `1M`", "type": ["string", "integer"],
                  "pattern": "^[0-9.]+[kMG]?$", "minimum": 0 },
                |text| units::count(text).map(fitting), |number: $name| number.to_string(), from_to;
        )*}
    };
}

counts!(u16 u32 u64 usize);

scalars! {
    Size for u64: "size", "a size like `64KiB`", "size"
        { "description": "`64KiB`, `1MiB`, `10MB`", "type": ["string", "integer"],
          "pattern": "^[0-9.]+([kK]B|MB|GB|KiB|MiB|GiB|B)?$", "minimum": 0 },
        |text| units::size(text).map(fitting), |bytes: u64| units::show_size(bytes), from_to;
    Size for usize: "size", "a size like `64KiB`", "size"
        { "description": "`64KiB`, `1MiB`, `10MB`", "type": ["string", "integer"],
          "pattern": "^[0-9.]+([kK]B|MB|GB|KiB|MiB|GiB|B)?$", "minimum": 0 },
        |text| units::size(text).map(fitting), |bytes: usize| units::show_size(bytes as u64), from_to;
    Duration for Duration: "duration", "a duration like `10s`", "duration"
        { "description": "`250ms`, `10s`, `5m`, `1h30m`", "type": ["string", "integer"],
          "pattern": "^(0|([0-9.]+d)?([0-9.]+h)?([0-9.]+m)?([0-9.]+s)?([0-9.]+ms)?)$",
          "minimum": 0, "maximum": 0 },
        units::duration, units::show_duration, from_to;
    Share for f64: "share", "a share like `0.2` or `20%`", "share"
        { "description": "`0.2` or `20%`", "type": ["string", "number"],
          "pattern": "^[0-9.]+%?$", "minimum": 0, "maximum": 1 },
        units::share, |share: f64| share.to_string(), share_limits;
    f64 for f64: "number", "a number like `2.0`", "number"
        { "description": "`2`, `0.5`", "type": ["string", "number"], "pattern": "^[0-9.]+$", "minimum": 0 },
        units::number, |number: f64| number.to_string(), from_to;
}

fn from_to<V>(bounds: &RangeInclusive<V>, text: impl Fn(&V) -> String) -> String {
    format!("from `{}` to `{}`", text(bounds.start()), text(bounds.end()))
}

fn share_limits(bounds: &RangeInclusive<f64>, _: impl Fn(&f64) -> String) -> String {
    let low = match *bounds.start() {
        ABOVE_NONE => "above `0`".to_owned(),
        low => format!("from `{low}`"),
    };
    let high = match *bounds.end() {
        BELOW_ALL => "below `1`".to_owned(),
        high => format!("up to `{high}`"),
    };
    format!("{low}, {high}")
}

text_form! {
    impl Form<bool> for bool {
        read(node, check) {
            match &check.tree.node(node).kind {
                Kind::Scalar { text, plain: true } if text == "true" => Some(true),
                Kind::Scalar { text, plain: true } if text == "false" => Some(false),
                _ => {
                    check.unexpected(node, "`true` or `false`");
                    None
                }
            }
        }
        show(value, out) { out.text(value.to_string()); }
        describe(_) { ValueShape::Scalar("true or false", json!({ "type": "boolean" })) }
    }
}

texts! {
    impl String for String: "text", ValueShape::text(), |text| Ok(text.to_owned()), String::as_str;
}
