//! The description of the API in OpenAPI 3.1, from the endpoints that are registered.
//!
//! An endpoint declares its parameters, its body and its responses once. From that follow the
//! document at `/api/openapi.json`, `docs/reference/admin-api.md`, and the check of every query.

pub mod document;
pub mod parameters;

use axum::http::StatusCode;
use schemars::generate::SchemaGenerator;
use schemars::{JsonSchema, Schema};

/// An endpoint as it is described.
#[derive(Debug)]
pub struct ApiEndpoint {
    pub method: &'static str,
    /// As the router has it: `{*name}` is the rest of a path.
    pub path: &'static str,
    pub description: &'static str,
    /// Each parameter of the path.
    pub in_path: Vec<PathParameter>,
    /// An object with a property for each parameter of the query.
    pub query: Option<SchemaOf>,
    pub body: Option<ApiBody>,
    pub response: ApiResponse,
    /// Each error that the endpoint itself returns: its status, and the last part of its type.
    pub errors: Vec<(StatusCode, &'static str)>,
}

#[derive(Debug)]
pub struct PathParameter {
    pub name: &'static str,
    pub description: &'static str,
    /// The values, if they are known.
    pub values: Vec<&'static str>,
}

#[derive(Debug)]
pub struct ApiBody {
    pub schema: SchemaOf,
    pub is_required: bool,
}

#[derive(Debug)]
pub struct ApiResponse {
    pub schema: SchemaOf,
    pub status: StatusCode,
    /// Another status with the same content.
    pub or: Option<StatusCode>,
    pub content_type: &'static str,
}

/// Adds the schema of a type to a generator.
pub type SchemaOf = fn(&mut SchemaGenerator) -> Schema;

/// The schema of a type.
pub fn schema_of<T: JsonSchema>(generator: &mut SchemaGenerator) -> Schema {
    generator.subschema_for::<T>()
}

impl ApiEndpoint {
    /// Whether it needs no token.
    pub fn is_public(&self) -> bool {
        matches!(self.path, "/healthz" | "/readyz")
    }

    /// Whether unknown parameters are rejected. Scrapes and probes may have their own.
    pub fn checks_query(&self) -> bool {
        self.path.starts_with("/api/")
    }

    /// The schema of the query with everything in it, as JSON.
    pub fn query_schema(&self) -> serde_json::Value {
        let settings = document::settings().for_deserialize();
        let mut generator = settings.with(|it| it.inline_subschemas = true).into_generator();
        self.query.map(|query| query(&mut generator).to_value()).unwrap_or_default()
    }
}
