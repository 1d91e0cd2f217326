//! Route registration: each endpoint is added with its description and its response type, from which
//! `docs/reference/admin-api.md` is generated.

use std::fmt::Write;
use std::sync::Arc;

use axum::Router;
use axum::handler::Handler;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, delete, get, post, put};
use schemars::{JsonSchema, Schema};
use serde::Serialize;

use super::state::AdminState;

/// A response as JSON with a final newline.
#[derive(Debug)]
pub struct ApiJson<T>(pub T);

/// The endpoints of one or more areas.
#[derive(Debug, Default)]
pub struct ApiRoutes {
    router: Router<Arc<AdminState>>,
    pub endpoints: Vec<ApiEndpoint>,
}

/// An endpoint, with the text of its documentation.
#[derive(Debug)]
pub struct ApiEndpoint {
    pub method: &'static str,
    pub path: &'static str,
    pub description: &'static str,
    /// Makes the schema of its response.
    pub response: fn() -> Schema,
}

impl ApiRoutes {
    /// Adds an endpoint that reads. `R` is the type of its response.
    pub fn get<R: JsonSchema, T: 'static>(
        self,
        path: &'static str,
        description: &'static str,
        handler: impl Handler<T, Arc<AdminState>>,
    ) -> ApiRoutes {
        self.add::<R>("GET", path, description, get(handler))
    }

    /// Adds an endpoint that changes something. `R` is the type of its response.
    pub fn post<R: JsonSchema, T: 'static>(
        self,
        path: &'static str,
        description: &'static str,
        handler: impl Handler<T, Arc<AdminState>>,
    ) -> ApiRoutes {
        self.add::<R>("POST", path, description, post(handler))
    }

    /// Adds an endpoint that sets something. `R` is the type of its response.
    pub fn put<R: JsonSchema, T: 'static>(
        self,
        path: &'static str,
        description: &'static str,
        handler: impl Handler<T, Arc<AdminState>>,
    ) -> ApiRoutes {
        self.add::<R>("PUT", path, description, put(handler))
    }

    /// Adds an endpoint that removes or ends something. `R` is the type of its response.
    pub fn delete<R: JsonSchema, T: 'static>(
        self,
        path: &'static str,
        description: &'static str,
        handler: impl Handler<T, Arc<AdminState>>,
    ) -> ApiRoutes {
        self.add::<R>("DELETE", path, description, delete(handler))
    }

    fn add<R: JsonSchema>(
        mut self,
        method: &'static str,
        path: &'static str,
        description: &'static str,
        handler: MethodRouter<Arc<AdminState>>,
    ) -> ApiRoutes {
        let response = || schemars::schema_for!(R);
        self.endpoints.push(ApiEndpoint { method, path, description, response });
        self.router = self.router.route(path, handler);
        self
    }

    pub fn merge(mut self, other: ApiRoutes) -> ApiRoutes {
        self.endpoints.extend(other.endpoints);
        self.router = self.router.merge(other.router);
        self
    }

    /// Adds `/`, which lists all endpoints.
    pub fn with_index(self) -> ApiRoutes {
        let mut index = String::new();
        for ApiEndpoint { method, path, description, .. } in &self.endpoints {
            let _ = write!(index, "{method:<6} {path}\n       {description}\n");
        }
        let description = "Lists these endpoints.";
        self.get::<String, _>("/", description, move || async move { index })
    }

    pub fn into_router(self) -> Router<Arc<AdminState>> {
        let text = "not found; `/` lists what there is\n";
        self.router.fallback(move || async move { (StatusCode::NOT_FOUND, text) })
    }
}

impl<T: Serialize> IntoResponse for ApiJson<T> {
    fn into_response(self) -> Response {
        match serde_json::to_vec(&self.0) {
            Ok(mut json) => {
                json.push(b'\n');
                ([(CONTENT_TYPE, "application/json")], json).into_response()
            }
            Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
        }
    }
}
