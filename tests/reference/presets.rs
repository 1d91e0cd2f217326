//! The text of `docs/reference/presets.md`, from the files in `src/policy/presets/`.

use std::fmt::Write as _;

use outrigger::policy::presets::generation::GenerationKind;
use outrigger::policy::presets::{ALL, Preset};
use serde_json::Value;

const HEAD: &str = "\
# Presets

`preset: NAME` adds the keys of a file in `src/policy/presets/` to the provider's own: maps are merged, and any other value of
the policy replaces the preset's. A preset knows the URL, the form of the credential that `key` holds, the requests that only
generate (`generates`) and the resources that exist at this provider only (`stateful`). `outrigger explain` shows what a preset
contributes. This page is generated (`UPDATE_DOCS=1 cargo test --test reference`).

A `url` in the policy replaces the preset's, for example with that of a compatible server. Where a part of the URL is in capital letters, `url` is
required. Without `key` and `auth` the credentials of the application are passed on, if the provider is alone in its route.
A breaker of a provider with a preset has `scope: model`, unless the policy gives its `scope`.

| preset | URL | credential | `generates` | `stateful` |
| --- | --- | --- | --- | --- |
";

const PATHS: &str = "
A request is recognized by its method, POST, and the end of its path:

| `generates` | paths that end with |
| --- | --- |
";

pub fn reference() -> String {
    let mut out = HEAD.to_owned();
    for preset in ALL {
        let (credential, generates) = (credential(preset), words(&preset.texts("generates")));
        let stateful = words(&preset.texts("stateful"));
        let (name, url) = (preset.name, preset.url());
        // Writing to a string cannot fail.
        let _ = writeln!(out, "| `{name}` | `{url}` | {credential} | {generates} | {stateful} |");
    }
    out.push_str(PATHS);
    for generation in GenerationKind::ALL {
        let paths: Vec<_> = generation.paths().map(str::to_owned).collect();
        let _ = writeln!(out, "| `{}` | {} |", generation.as_str(), words(&paths));
    }
    out
}

fn words(all: &[String]) -> String {
    all.iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", ")
}

fn credential(preset: &Preset) -> String {
    let keys = preset.json();
    let header = &keys["auth"]["header"];
    let Some(name) = header["name"].as_str() else {
        return "`Authorization: Bearer`".to_owned();
    };
    let paths = header["bearer_on"].as_array().into_iter().flatten().filter_map(Value::as_str);
    let paths: Vec<_> = paths.map(|path| format!("`{path}`")).collect();
    match paths.is_empty() {
        true => format!("`{name}`"),
        false => format!("`{name}`; `Authorization: Bearer` on {}", paths.join(", ")),
    }
}
