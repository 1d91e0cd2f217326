//! The text of `docs/reference/admin-api.md`, from the routes and their response types.

use std::fmt::Write;

use outrigger::admin::change::ChangeRequest;
use outrigger::admin::{ApiEndpoint, endpoints};
use serde_json::Value;

const HEADER: &str = "\
# Admin API

The admin listener (`--admin`, by default `127.0.0.1:8701`) serves this API, metrics and health. The metrics listener \
(`--metrics`) serves `/metrics`, `/healthz` and `/readyz` alone. This file is generated from the source: \
`UPDATE_DOCS=1 cargo test --test reference`.

```sh
curl localhost:8701/api/status
curl -X POST localhost:8701/api/providers/drain/openai -H 'content-type: application/json' -d '{\"for\": \"10m\", \"reason\": \"key rotation\"}'
```

**Access.** On loopback, reading is free. When an admin token is set (`--admin-token`), a change needs \
`Authorization: Bearer TOKEN`; off loopback a token must be set, and reading needs it too. `Host` must name the \
loopback interface when the listener is bound to it. A change from a page of another origin is rejected.

**Changes.** A `POST` takes an optional JSON body with the fields below. Each change is logged (`audit: ...`), recorded \
as an event and counted in `outrigger_admin_changes_total`. A change survives a reload of the policy, and not a restart.

";

const ERRORS: &str = "
**Errors** are problem details (RFC 9457): `application/problem+json` with `type` \
(`urn:outrigger:problem:admin:...`), `title`, `status` and `detail`. `detail` states what was found, what was expected, \
and which names exist.

";

/// The reference as Markdown.
pub fn reference() -> String {
    let mut text = HEADER.to_owned();
    fields(&mut text, &schemars::schema_for!(ChangeRequest).to_value());
    text.push_str(ERRORS);
    for endpoint in &endpoints() {
        section(&mut text, endpoint);
    }
    text
}

fn section(text: &mut String, endpoint: &ApiEndpoint) {
    let ApiEndpoint { method, path, description, response } = endpoint;
    let _ = write!(text, "## `{method} {path}`\n\n{description}\n\n");
    let schema = response().to_value();
    if schema["type"] == "string" {
        text.push_str("The response is text.\n\n");
    } else {
        fields(text, &schema);
        text.push('\n');
    }
}

fn fields(text: &mut String, schema: &Value) {
    text.push_str("| field | type | description |\n| --- | --- | --- |\n");
    rows(text, "", schema, schema);
}

/// A row for each property of an object, then the rows of the objects in it.
fn rows(text: &mut String, prefix: &str, object: &Value, root: &Value) {
    for (name, property) in object["properties"].as_object().into_iter().flatten() {
        let value = resolve(property, root);
        let description = property["description"].as_str().or(value["description"].as_str());
        let description = description.unwrap_or_default().replace('\n', " ");
        let _ = writeln!(text, "| `{prefix}{name}` | {} | {description} |", kind(property, root));
        let items = resolve(&value["items"], root);
        if items["properties"].is_object() {
            rows(text, &format!("{prefix}{name}[]."), items, root);
        } else if value["properties"].is_object() {
            rows(text, &format!("{prefix}{name}."), value, root);
        }
    }
}

/// Follows a reference, and takes the first alternative that is not null.
fn resolve<'a>(schema: &'a Value, root: &'a Value) -> &'a Value {
    if let Some(name) = schema["$ref"].as_str().and_then(|name| name.strip_prefix("#/$defs/")) {
        return resolve(&root["$defs"][name], root);
    }
    let alternatives = schema["anyOf"].as_array().into_iter().flatten();
    let mut values = alternatives.filter(|schema| schema["type"] != "null");
    values.next().map_or(schema, |value| resolve(value, root))
}

fn kind(schema: &Value, root: &Value) -> String {
    let value = resolve(schema, root);
    let name = |name: &str| match name {
        "array" => format!("list of {}s", kind(&value["items"], root)),
        other => other.to_owned(),
    };
    match &value["type"] {
        Value::String(one) => name(one),
        Value::Array(any) => {
            let names = any.iter().filter_map(Value::as_str).filter(|name| *name != "null");
            names.map(name).collect::<Vec<_>>().join(" or ")
        }
        _ => "string".to_owned(),
    }
}
