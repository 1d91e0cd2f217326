//! The text of `docs/reference/admin-api.md`, from the routes and their response types.

use std::fmt::Write;

use outrigger::admin::DESCRIPTION;
use serde_json::Value;

const COMPONENTS: &str = "#/components/schemas/";

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

/// The reference as Markdown, from the OpenAPI document.
pub fn reference() -> String {
    let root = &*DESCRIPTION;
    let mut text = HEADER.to_owned();
    fields(&mut text, &root["components"]["schemas"]["ChangeRequest"], root);
    text.push_str(ERRORS);
    for (path, operations) in root["paths"].as_object().into_iter().flatten() {
        for (method, operation) in operations.as_object().into_iter().flatten() {
            section(&mut text, &format!("{} {path}", method.to_uppercase()), operation, root);
        }
    }
    text
}

fn section(text: &mut String, title: &str, operation: &Value, root: &Value) {
    let description = operation["description"].as_str().unwrap_or_default();
    let _ = write!(text, "## `{title}`\n\n{description}\n\n");
    let all = operation["parameters"].as_array().into_iter().flatten();
    let rows: Vec<_> = all.map(|parameter| parameter_row(parameter, root)).collect();
    if !rows.is_empty() {
        text.push_str("| parameter | in | type | description |\n| --- | --- | --- | --- |\n");
        text.push_str(&rows.concat());
        text.push('\n');
    }
    let body = &operation["requestBody"]["content"]["application/json"]["schema"];
    match body["$ref"].as_str().and_then(|name| name.rsplit('/').next()) {
        None => {}
        Some("ChangeRequest") => text.push_str("The body is that of a change.\n\n"),
        Some(_) => {
            text.push_str("Body:\n\n");
            fields(text, resolve(body, root), root);
            text.push('\n');
        }
    }
    let responses = operation["responses"].as_object().into_iter().flatten();
    for (status, response) in responses.filter(|(status, _)| status.starts_with('2')) {
        let content = response["content"].as_object().into_iter().flatten().next();
        let Some((content_type, media)) = content else { continue };
        let schema = resolve(&media["schema"], root);
        match (content_type.as_str(), schema["properties"].is_object()) {
            ("application/json", true) => {
                let _ = write!(text, "Response {status}:\n\n");
                fields(text, schema, root);
                text.push('\n');
            }
            (content_type, _) => {
                let _ = write!(text, "The response is `{content_type}`.\n\n");
            }
        }
    }
}

fn parameter_row(parameter: &Value, root: &Value) -> String {
    let field = |name: &str| parameter[name].as_str().unwrap_or_default();
    let (name, schema) = (field("name"), &parameter["schema"]);
    let is_optional = field("in") == "query" && parameter["required"] == false;
    let place = if is_optional { "query" } else { field("in") };
    let required = if field("in") == "query" && !is_optional { ", required" } else { "" };
    let description = field("description").replace('\n', " ");
    let values = schema["enum"].as_array().into_iter().flatten().filter_map(Value::as_str);
    let values: Vec<_> = values.map(|value| format!("`{value}`")).collect();
    let values = if values.is_empty() { String::new() } else { format!(" {}.", values.join(", ")) };
    let kind = kind(schema, root);
    format!("| `{name}` | {place}{required} | {kind} | {description}{values} |\n")
}

fn fields(text: &mut String, schema: &Value, root: &Value) {
    text.push_str("| field | type | description |\n| --- | --- | --- |\n");
    rows(text, "", schema, root);
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
    if let Some(name) = schema["$ref"].as_str().and_then(|name| name.strip_prefix(COMPONENTS)) {
        return resolve(&root["components"]["schemas"][name], root);
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
