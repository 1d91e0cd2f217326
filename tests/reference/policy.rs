//! The text of `docs/reference/policy.md`: every key with its form, default and meaning.

use std::fmt::Write as _;

use outrigger::policy::section::describe::{KeyText, Reference, ValueShape};
use outrigger::policy::sections;
use outrigger::resilience::outcome::AttemptClass;

const HEAD: &str = "\
# Policy reference

Every key of a policy file, with its form, default and bounds. This page is generated from the
declarations in `src/policy/sections/` (`UPDATE_DOCS=1 cargo test --test reference`).

A *duration* is written like `250ms`, `10s`, `5m`, `1h30m`; a *size* like `64KiB`, `1MiB`, `10MB`; a
*count* like `5`, `200k`, `1M`; a *share* like `0.2` or `20%`; a *rate* like `500/min`; a *secret* is
`${env:NAME}` or `${file:PATH}`. `[x]` is a list, `{name: x}` a map.

";

pub fn reference() -> String {
    let mut reference = Reference::default();
    let keys = sections::describe(&mut reference);
    let mut out = HEAD.to_owned();
    out.push_str(
        "## Classes\n\nAn attempt has one class ([effects](../design/policy.md#classes)).\n\n",
    );
    out.push_str("| class | meaning |\n| --- | --- |\n");
    for class in AttemptClass::ALL {
        let _ = writeln!(out, "| `{}` | {} |", class.as_str(), class.meaning());
    }
    out.push_str("\n## The file\n\nAll files of the directory are merged.\n\n");
    table(&mut out, &keys);
    for name in &reference.order {
        let section = &reference.sections[name];
        // Writing to a string cannot fail.
        let _ = write!(out, "\n## {name}\n\n{}\n\n", section.text);
        table(&mut out, &section.keys);
    }
    out
}

fn table(out: &mut String, keys: &[KeyText]) {
    out.push_str("| key | form | default | meaning |\n| --- | --- | --- | --- |\n");
    for key in keys {
        let default = match (&key.default, key.required) {
            (Some(default), _) => default.as_str(),
            (None, true) => "required",
            (None, false) => "",
        };
        let limits = key.limits.as_ref().map_or_else(String::new, |limits| format!(", {limits}"));
        let form = form(&key.shape);
        let cells = [form + &limits, default.to_owned(), key.text.clone()];
        let cells = cells.map(|cell| cell.replace('|', "\\|"));
        let _ = writeln!(out, "| `{}` | {} |", key.name, cells.join(" | "));
    }
}

fn form(shape: &ValueShape) -> String {
    match shape {
        ValueShape::Scalar(name, _) => (*name).to_owned(),
        ValueShape::Words(words) => {
            words.iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", ")
        }
        ValueShape::Described(words) => {
            words.iter().map(|(word, _)| format!("`{word}`")).collect::<Vec<_>>().join(", ")
        }
        ValueShape::Section(name) => format!("[{name}](#{})", name.to_lowercase()),
        ValueShape::List(of) => format!("[{}]", form(of)),
        ValueShape::Map(key, of) => format!("{{{key}: {}}}", form(of)),
        ValueShape::OneOf(shapes) => shapes.iter().map(form).collect::<Vec<_>>().join(" or "),
        ValueShape::Any => "any value".to_owned(),
    }
}
