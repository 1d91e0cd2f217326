//! Route registration: each endpoint is added with its description, its parameters and its response
//! type. From these the index, the OpenAPI document and `docs/reference/admin-api.md` are generated,
//! and every query is checked against them.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;

use axum::Router;
use axum::extract::{FromRequestParts, MatchedPath, Query, Request, State};
use axum::handler::Handler;
use axum::http::header::CONTENT_TYPE;
use axum::http::request::Parts;
use axum::http::{Method, StatusCode};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, delete, get, post, put};
use schemars::JsonSchema;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::change::{Action, ChangeRequest};
use super::error::{ApiError, ApiErrorKind};
use super::openapi::{ApiBody, ApiEndpoint, ApiResponse, PathParameter, parameters, schema_of};
use super::state::AdminState;

/// Errors of every endpoint below `/api/`.
const COMMON: [ApiErrorKind; 7] = [
    ApiErrorKind::RepeatedHeader,
    ApiErrorKind::InvalidPath,
    ApiErrorKind::InvalidQuery,
    ApiErrorKind::TokenRequired,
    ApiErrorKind::HostNotLoopback,
    ApiErrorKind::RequestTimeout,
    ApiErrorKind::Panicked,
];

/// Errors of every endpoint with a body.
const OF_BODY: [ApiErrorKind; 4] = [
    ApiErrorKind::InvalidBody,
    ApiErrorKind::CrossSite,
    ApiErrorKind::BodyTooLarge,
    ApiErrorKind::NotJson,
];

/// A response as JSON with a final newline.
#[derive(Debug)]
pub struct ApiJson<T>(pub T);

/// The query of a request. Its type is the one that the endpoint declares.
#[derive(Debug)]
pub struct ApiQuery<T>(pub T);

/// The endpoints of one or more areas.
#[derive(Debug, Default)]
pub struct ApiRoutes {
    router: Router<Arc<AdminState>>,
    pub endpoints: Vec<ApiEndpoint>,
}

/// The schema of the query of each endpoint, by method and path.
type QueryRules = BTreeMap<(&'static str, &'static str), Value>;

/// The parameters of a query that was checked.
#[derive(Clone, Debug)]
struct CheckedQuery(Map<String, Value>);

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
        let is_text = R::schema_id() == String::schema_id();
        let response = ApiResponse {
            schema: schema_of::<R>,
            status: StatusCode::OK,
            or: None,
            content_type: if is_text { "text/plain" } else { "application/json" },
        };
        let endpoint = ApiEndpoint {
            method,
            path,
            description,
            in_path: Vec::new(),
            query: None,
            body: None,
            response,
            errors: Vec::new(),
        };
        let is_common = endpoint.checks_query();
        self.endpoints.push(endpoint);
        self.router = self.router.route(path, handler);
        if is_common { self.errors(&COMMON) } else { self }
    }

    /// Describes the endpoint that was added last.
    fn describe(mut self, describe: impl FnOnce(&mut ApiEndpoint)) -> ApiRoutes {
        if let Some(last) = self.endpoints.last_mut() {
            describe(last);
        }
        self
    }

    /// The last endpoint has these parameters in its query.
    pub fn query<Q: JsonSchema>(self) -> ApiRoutes {
        self.describe(|endpoint| endpoint.query = Some(schema_of::<Q>))
    }

    /// The last endpoint has this parameter in its path.
    pub fn in_path(self, name: &'static str, description: &'static str) -> ApiRoutes {
        let parameter = PathParameter { name, description, values: Vec::new() };
        self.describe(|endpoint| endpoint.in_path.push(parameter))
    }

    /// The last endpoint has an action and the name of its object in its path.
    pub fn actions<A: Action>(self, name: &'static str, description: &'static str) -> ApiRoutes {
        let values = A::NAMES.iter().map(|(_, name, _)| *name).collect();
        let description_of_action = "The change.";
        let action = PathParameter { name: "action", description: description_of_action, values };
        let with_action = self.describe(|endpoint| endpoint.in_path.push(action));
        with_action.errors(&[ApiErrorKind::UnknownAction]).in_path(name, description)
    }

    /// The last endpoint requires a body.
    pub fn body<B: JsonSchema>(self) -> ApiRoutes {
        self.with_body(ApiBody { schema: schema_of::<B>, is_required: true })
    }

    /// The last endpoint accepts a body.
    pub fn optional_body<B: JsonSchema>(self) -> ApiRoutes {
        self.with_body(ApiBody { schema: schema_of::<B>, is_required: false })
    }

    /// The last endpoint takes a [`Change`](super::change::Change).
    pub fn change(self) -> ApiRoutes {
        let errors = [ApiErrorKind::InvalidDuration, ApiErrorKind::PerHostOnly];
        self.optional_body::<ChangeRequest>().errors(&errors)
    }

    fn with_body(self, body: ApiBody) -> ApiRoutes {
        self.describe(|endpoint| endpoint.body = Some(body)).errors(&OF_BODY)
    }

    /// The last endpoint can return these errors, besides those of all endpoints.
    pub fn errors(self, kinds: &[ApiErrorKind]) -> ApiRoutes {
        let errors = kinds.iter().map(|kind| (kind.status(), kind.as_str()));
        self.describe(|endpoint| endpoint.errors.extend(errors))
    }

    /// The last endpoint responds with this status when it succeeds.
    pub fn status(self, status: StatusCode) -> ApiRoutes {
        self.describe(|endpoint| endpoint.response.status = status)
    }

    /// The last endpoint responds with this status and the same content while it is not ready.
    pub fn or(self, status: StatusCode) -> ApiRoutes {
        self.describe(|endpoint| endpoint.response.or = Some(status))
    }

    /// The last endpoint responds with a stream of server-sent events.
    pub fn stream(self) -> ApiRoutes {
        let content_type = "text/event-stream";
        let stream = self.describe(|endpoint| endpoint.response.content_type = content_type);
        stream.errors(&[ApiErrorKind::TooManyStreams])
    }

    pub fn merge(mut self, other: ApiRoutes) -> ApiRoutes {
        self.endpoints.extend(other.endpoints);
        self.router = self.router.merge(other.router);
        self
    }

    /// Adds `/`, which lists all endpoints.
    pub fn with_index(self) -> ApiRoutes {
        let mut index = String::new();
        for endpoint in &self.endpoints {
            let ApiEndpoint { method, path, description, .. } = endpoint;
            let _ = write!(index, "{method:<6} {path}\n       {description}\n");
            if endpoint.query.is_some() {
                let names = parameters::names(&endpoint.query_schema());
                let _ = writeln!(index, "       Query: {names}.");
            }
        }
        let description = "Lists these endpoints.";
        self.get::<String, _>("/", description, move || async move { index })
    }

    pub fn into_router(self) -> Router<Arc<AdminState>> {
        let checked = self.endpoints.iter().filter(|endpoint| endpoint.checks_query());
        let rules = checked.map(|one| ((one.method, one.path), one.query_schema())).collect();
        let check = from_fn_with_state(Arc::new(rules), check_query);
        self.router.method_not_allowed_fallback(wrong_method).fallback(unknown_path).layer(check)
    }
}

async fn wrong_method() -> ApiError {
    let detail = "the path has no such method; `/` lists the endpoints";
    ApiError::new(ApiErrorKind::WrongMethod, detail)
}

async fn unknown_path() -> ApiError {
    ApiError::new(ApiErrorKind::UnknownPath, "not found; `/` lists the endpoints")
}

/// Checks path and query before the endpoint sees them.
async fn check_query(
    State(rules): State<Arc<QueryRules>>,
    path: Option<MatchedPath>,
    mut request: Request,
    next: Next,
) -> Response {
    let method = match *request.method() {
        Method::HEAD => "GET",
        ref method => method.as_str(),
    };
    let rule = path.as_ref().and_then(|path| rules.get(&(method, path.as_str())));
    if let Some(schema) = rule {
        match checked(schema, &request) {
            Ok(query) => drop(request.extensions_mut().insert(query)),
            Err(error) => return error.into_response(),
        }
    }
    next.run(request).await
}

fn checked(schema: &Value, request: &Request) -> Result<CheckedQuery, ApiError> {
    let invalid = |detail: String| ApiError::new(ApiErrorKind::InvalidQuery, detail);
    let pairs = Query::<Vec<(String, String)>>::try_from_uri(request.uri());
    let Query(pairs) = pairs.map_err(|error| invalid(error.body_text()))?;
    parameters::read(schema, pairs).map(CheckedQuery).map_err(invalid)
}

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for ApiQuery<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        let query = parts.extensions.remove::<CheckedQuery>().map(|CheckedQuery(query)| query);
        let value = Value::Object(query.unwrap_or_default());
        let query = serde_json::from_value(value).map(ApiQuery);
        query.map_err(|error| ApiError::new(ApiErrorKind::InvalidQuery, error.to_string()))
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
