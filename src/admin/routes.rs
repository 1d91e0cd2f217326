//! Route registration: each endpoint is added with its description and its response type, from which
//! `docs/reference/admin-api.md` is generated.

use std::sync::Arc;

use axum::Router;
use axum::handler::Handler;
use axum::http::StatusCode;
use axum::routing::{MethodRouter, get, post};
use schemars::{JsonSchema, Schema};

use super::AdminState;

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

    pub fn into_router(self) -> Router<Arc<AdminState>> {
        self.router.fallback(|| async { (StatusCode::NOT_FOUND, "not found\n") })
    }
}
