//! The OpenAPI document.

use std::collections::BTreeMap;

use axum::http::StatusCode;
use schemars::generate::{SchemaGenerator, SchemaSettings};
use schemars::transform::RecursiveTransform;
use schemars::{JsonSchema, Schema};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::{ApiEndpoint, schema_of};

const COMPONENTS: &str = "/components/schemas";

/// An error response: problem details (RFC 9457).
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct ErrorDocument {
    /// `urn:outrigger:problem:admin:` and the name of the problem.
    #[serde(rename = "type")]
    pub kind: String,
    pub title: String,
    /// The status of the response.
    pub status: u16,
    /// The finding, the expectation, and the names that exist.
    pub detail: String,
}

/// Makes the schemas of requests and of responses. They differ: a field may be optional in one.
struct Schemas {
    requests: SchemaGenerator,
    responses: SchemaGenerator,
}

pub(super) fn settings() -> SchemaSettings {
    SchemaSettings::draft2020_12().with(|settings| {
        settings.definitions_path = COMPONENTS.into();
        settings.meta_schema = None;
        settings.transforms.push(Box::new(RecursiveTransform(describe_any)));
    })
}

/// `true`, which admits everything, as an object: some generators of clients know no other form.
fn describe_any(schema: &mut Schema) {
    if schema.as_bool() == Some(true) {
        *schema = Schema::default();
        schema.ensure_object();
    }
}

/// The document of all endpoints.
pub fn document(endpoints: &[ApiEndpoint]) -> Value {
    let mut schemas = Schemas {
        requests: settings().for_deserialize().into_generator(),
        responses: settings().for_serialize().into_generator(),
    };
    let problem = schema_of::<ErrorDocument>(&mut schemas.responses).to_value();
    let mut paths = Map::new();
    for endpoint in endpoints {
        let operations = paths.entry(template(endpoint.path)).or_insert_with(|| json!({}));
        operations[endpoint.method.to_ascii_lowercase()] = schemas.operation(endpoint, &problem);
    }
    json!({
        "openapi": "3.1.1",
        "info": {
            "title": "Outrigger admin API",
            "version": env!("CARGO_PKG_VERSION"),
            "license": { "name": "MIT OR Apache-2.0", "identifier": "MIT OR Apache-2.0" },
        },
        "servers": [{ "url": "/" }],
        "security": [{}, { "token": [] }],
        "paths": paths,
        "components": {
            "securitySchemes": { "token": {
                "type": "http",
                "scheme": "bearer",
                "description": "The admin token. Changes need it if one is set; off loopback, \
                                reading needs it too.",
            } },
            "schemas": schemas.components(),
        },
    })
}

/// The path as OpenAPI writes it.
fn template(path: &str) -> String {
    path.replace("{*", "{")
}

/// The method, then each part of the path: `getRequestsById`.
fn operation_id(endpoint: &ApiEndpoint) -> String {
    let mut id = endpoint.method.to_ascii_lowercase();
    let path = endpoint.path.strip_prefix("/api").unwrap_or(endpoint.path);
    for part in path.split('/').filter(|part| !part.is_empty()) {
        let (by, part) = match part.strip_prefix('{') {
            Some(name) => ("By", name.trim_start_matches('*').trim_end_matches('}')),
            None => ("", part),
        };
        id.push_str(by);
        for word in part.split(['-', '_', '.']) {
            let mut characters = word.chars();
            id.extend(characters.next().map(|first| first.to_ascii_uppercase()));
            id.push_str(characters.as_str());
        }
    }
    if path == "/" { id + "Index" } else { id }
}

fn tag(path: &str) -> &str {
    let parts = path.strip_prefix("/api").unwrap_or("/sidecar");
    parts.split('/').find(|part| !part.is_empty()).unwrap_or("sidecar")
}

impl Schemas {
    fn operation(&mut self, endpoint: &ApiEndpoint, problem: &Value) -> Value {
        let summary = endpoint.description.split_inclusive(". ").next().unwrap_or_default();
        let mut operation = json!({
            "operationId": operation_id(endpoint),
            "tags": [tag(endpoint.path)],
            "summary": summary.trim_end().trim_end_matches('.'),
            "description": endpoint.description,
            "responses": self.responses(endpoint, problem),
        });
        let parameters = parameters(endpoint);
        if !parameters.is_empty() {
            operation["parameters"] = parameters.into();
        }
        if let Some(body) = &endpoint.body {
            let schema = (body.schema)(&mut self.requests);
            let content = json!({ "application/json": { "schema": schema } });
            operation["requestBody"] = json!({ "required": body.is_required, "content": content });
        }
        if endpoint.is_public() {
            operation["security"] = json!([]);
        }
        operation
    }

    fn responses(&mut self, endpoint: &ApiEndpoint, problem: &Value) -> Value {
        let response = &endpoint.response;
        let schema = (response.schema)(&mut self.responses);
        let content = json!({ response.content_type: { "schema": schema } });
        let mut all = Map::new();
        for status in [Some(response.status), response.or].into_iter().flatten() {
            let description = status.canonical_reason().unwrap_or("success");
            let described = json!({ "description": description, "content": content });
            all.insert(status.as_str().to_owned(), described);
        }
        let mut names = BTreeMap::<StatusCode, Vec<&str>>::new();
        for (status, name) in &endpoint.errors {
            let names = names.entry(*status).or_default();
            if !names.contains(name) {
                names.push(name);
            }
        }
        for (status, names) in names {
            let names: Vec<_> = names.iter().map(|name| format!("`{name}`")).collect();
            let content = json!({ "application/problem+json": { "schema": problem } });
            let error = json!({ "description": names.join(", "), "content": content });
            all.insert(status.as_str().to_owned(), error);
        }
        all.into()
    }

    /// All schemas by name. A name that has one schema in requests and another in responses would be
    /// ambiguous; a test looks for it.
    fn components(mut self) -> Map<String, Value> {
        let mut all = self.responses.take_definitions(true);
        for (name, schema) in self.requests.take_definitions(true) {
            let name = match all.get(&name) {
                Some(other) if *other != schema => format!("{name}Request"),
                _ => name,
            };
            all.insert(name, schema);
        }
        all
    }
}

fn parameters(endpoint: &ApiEndpoint) -> Vec<Value> {
    let mut all = Vec::new();
    for parameter in &endpoint.in_path {
        let mut schema = json!({ "type": "string" });
        if !parameter.values.is_empty() {
            schema["enum"] = json!(parameter.values);
        }
        all.push(json!({
            "name": parameter.name,
            "in": "path",
            "required": true,
            "description": parameter.description,
            "schema": schema,
        }));
    }
    let query = endpoint.query_schema();
    let required = query["required"].as_array();
    for (name, property) in query["properties"].as_object().into_iter().flatten() {
        let mut schema = property.clone();
        let fields = schema.as_object_mut();
        let description = fields.and_then(|fields| fields.remove("description"));
        all.push(json!({
            "name": name,
            "in": "query",
            "required": required.is_some_and(|all| all.iter().any(|one| one == name)),
            "description": description.unwrap_or_default(),
            "schema": without_null(schema),
        }));
    }
    if endpoint.response.content_type == "text/event-stream" {
        all.push(json!({
            "name": "Last-Event-ID",
            "in": "header",
            "required": false,
            "description": "The number of the last event that was received.",
            "schema": { "type": "string" },
        }));
    }
    all
}

/// A parameter that is left out is not null.
fn without_null(mut schema: Value) -> Value {
    if let Some(types) = schema["type"].as_array() {
        let mut types = types.iter().filter(|one| *one != "null");
        schema["type"] = types.next().cloned().unwrap_or_default();
    }
    if let Some(fields) = schema.as_object_mut() {
        fields.retain(|name, value| !(name == "default" && value.is_null()));
    }
    schema
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use crate::admin::DESCRIPTION;

    use super::*;

    fn operations() -> Vec<(&'static str, &'static str, &'static Value)> {
        let mut all = Vec::new();
        for (path, operations) in DESCRIPTION["paths"].as_object().expect("paths") {
            for (method, operation) in operations.as_object().expect("operations") {
                all.push((method.as_str(), path.as_str(), operation));
            }
        }
        all
    }

    fn collect_references<'a>(value: &'a Value, found: &mut BTreeSet<&'a str>) {
        match value {
            Value::Object(fields) => {
                found.extend(fields.get("$ref").and_then(Value::as_str));
                fields.values().for_each(|value| collect_references(value, found));
            }
            Value::Array(items) => items.iter().for_each(|item| collect_references(item, found)),
            _ => {}
        }
    }

    #[test]
    fn every_reference_leads_to_a_schema_and_every_schema_is_used() {
        let mut found = BTreeSet::new();
        collect_references(&DESCRIPTION, &mut found);
        let schemas = DESCRIPTION["components"]["schemas"].as_object().expect("schemas");
        let known: BTreeSet<_> =
            schemas.keys().map(|name| format!("#/components/schemas/{name}")).collect();
        assert_eq!(found, known.iter().map(String::as_str).collect());
        // A second type of one name gets a number, a second form of one type a suffix.
        for name in schemas.keys() {
            let first = name.trim_end_matches(|c: char| c.is_ascii_digit());
            assert!(first == name || !schemas.contains_key(first), "{name} is {first} again");
            let first = name.strip_suffix("Request").filter(|first| schemas.contains_key(*first));
            assert!(first.is_none(), "{name} differs between requests and responses");
        }
    }

    #[test]
    fn operation_ids_are_unique() {
        let mut seen = BTreeSet::new();
        for (method, path, operation) in operations() {
            let id = operation["operationId"].as_str().expect("an id");
            assert!(id.chars().all(|c| c.is_ascii_alphanumeric()), "{id}");
            assert!(seen.insert(id), "{id} of {method} {path} is not unique");
        }
        assert!(seen.contains("getRequestsById") && seen.len() > 30, "{seen:?}");
    }

    #[test]
    fn every_parameter_of_a_path_is_declared_and_every_parameter_is_described() {
        for (method, path, operation) in operations() {
            let in_path =
                path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'));
            let parameters = operation["parameters"].as_array().cloned().unwrap_or_default();
            let declared = parameters.iter().filter(|one| one["in"] == "path");
            let declared: Vec<_> =
                declared.map(|one| one["name"].as_str().unwrap_or_default()).collect();
            assert_eq!(declared, in_path.collect::<Vec<_>>(), "{method} {path}");
            for parameter in &parameters {
                let description = parameter["description"].as_str().unwrap_or_default();
                assert!(!description.is_empty(), "{method} {path}: {parameter}");
            }
        }
    }

    #[test]
    fn every_change_takes_a_body_and_every_response_has_content() {
        for (method, path, operation) in operations() {
            assert_eq!(method != "get", operation["requestBody"].is_object(), "{method} {path}");
            for (status, response) in operation["responses"].as_object().expect("responses") {
                let content = response["content"].as_object().expect("content");
                let is_error = !status.starts_with('2') && path.starts_with("/api/");
                assert_eq!(is_error, content.contains_key("application/problem+json"), "{path}");
            }
        }
    }
}
