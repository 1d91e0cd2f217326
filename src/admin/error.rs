//! Error responses of the admin API, as problem details (RFC 9457).

use axum::http::header::{CONTENT_TYPE, WWW_AUTHENTICATE};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;

use crate::proxy::downstream::problem::{PROBLEM_JSON, problem_document};

/// Names that an error lists at most.
const LISTED: usize = 20;

/// An error response.
#[derive(Debug)]
pub struct ApiError {
    kind: ApiErrorKind,
    detail: String,
}

/// The reason of an error; it names the problem type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ApiErrorKind {
    HostNotLoopback,
    TokenRequired,
    CrossSite,
    UnknownAction,
    UnknownBreaker,
    UnknownProvider,
    UnknownMode,
    UnknownQueue,
    UnknownCache,
    UnknownJob,
    InvalidQuery,
    InvalidBody,
    InvalidDuration,
    InvalidState,
    NotJson,
    JobState,
    NoStore,
    StoreUnavailable,
    NoFleet,
    PerHostOnly,
    NotInFleet,
    FleetUnavailable,
}

/// The part of an error response that the command line prints.
#[derive(Debug, Deserialize)]
pub struct ApiProblem {
    pub detail: String,
}

impl ApiErrorKind {
    pub fn status(self) -> StatusCode {
        use ApiErrorKind as K;
        match self {
            K::TokenRequired => StatusCode::UNAUTHORIZED,
            K::HostNotLoopback | K::CrossSite => StatusCode::FORBIDDEN,
            K::UnknownAction | K::UnknownBreaker | K::UnknownProvider | K::UnknownMode => {
                StatusCode::NOT_FOUND
            }
            K::UnknownQueue | K::UnknownCache | K::UnknownJob => StatusCode::NOT_FOUND,
            K::NoStore | K::NoFleet => StatusCode::NOT_FOUND,
            K::InvalidQuery | K::InvalidBody | K::InvalidDuration => StatusCode::BAD_REQUEST,
            K::InvalidState | K::PerHostOnly => StatusCode::BAD_REQUEST,
            K::NotJson => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            K::JobState | K::NotInFleet => StatusCode::CONFLICT,
            K::StoreUnavailable | K::FleetUnavailable => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    /// The last part of the problem type.
    pub fn as_str(self) -> &'static str {
        use ApiErrorKind as K;
        match self {
            K::HostNotLoopback => "host-not-loopback",
            K::TokenRequired => "token-required",
            K::CrossSite => "cross-site",
            K::UnknownAction => "unknown-action",
            K::UnknownBreaker => "unknown-breaker",
            K::UnknownProvider => "unknown-provider",
            K::UnknownMode => "unknown-mode",
            K::UnknownQueue => "unknown-queue",
            K::UnknownCache => "unknown-cache",
            K::UnknownJob => "unknown-job",
            K::InvalidQuery => "invalid-query",
            K::InvalidBody => "invalid-body",
            K::InvalidDuration => "invalid-duration",
            K::InvalidState => "invalid-state",
            K::NotJson => "not-json",
            K::JobState => "job-state",
            K::NoStore => "no-store",
            K::StoreUnavailable => "store-unavailable",
            K::NoFleet | K::NotInFleet => "not-in-fleet",
            K::PerHostOnly => "per-host-only",
            K::FleetUnavailable => "fleet-unavailable",
        }
    }
}

impl ApiError {
    pub fn new(kind: ApiErrorKind, detail: impl Into<String>) -> ApiError {
        ApiError { kind, detail: detail.into() }
    }

    /// A name that does not exist, with the names that do.
    pub fn unknown(
        kind: ApiErrorKind,
        detail: &str,
        known: impl IntoIterator<Item = String>,
    ) -> ApiError {
        let known: Vec<String> = known.into_iter().collect();
        let list = match known.as_slice() {
            [] => "none yet".to_owned(),
            [first @ .., _] if first.len() >= LISTED => {
                format!("{}, and {} more", known[..LISTED].join(", "), known.len() - LISTED)
            }
            all => all.join(", "),
        };
        ApiError::new(kind, format!("{detail} (there are: {list})"))
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let status = self.kind.status();
        let name = format!("admin:{}", self.kind.as_str());
        let title = status.canonical_reason().unwrap_or("error");
        let body = problem_document(&name, title, status.as_u16(), &self.detail);
        let mut response =
            (status, [(CONTENT_TYPE, PROBLEM_JSON)], body.to_string()).into_response();
        if status == StatusCode::UNAUTHORIZED {
            response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}
