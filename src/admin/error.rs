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
    UnknownPath,
    WrongMethod,
    InvalidPath,
    BodyTooLarge,
    RequestTimeout,
    Panicked,
    RepeatedHeader,
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
    UnknownRun,
    NoBaseline,
    RunState,
    InvalidBaseline,
    DamagedRun,
    UnknownRequest,
    TooManyStreams,
    UnknownSeries,
    UnknownBenchmark,
    UnknownTarget,
    BenchmarkRunning,
    TargetUnavailable,
    BenchmarkFailed,
    InvalidQuery,
    InvalidBody,
    InvalidDuration,
    InvalidState,
    NotJson,
    JobState,
    NothingToAccept,
    NoStore,
    StoreUnavailable,
    NoFleet,
    PerHostOnly,
    NotInFleet,
    TooManyOverrides,
    FleetUnavailable,
}

/// The part of an error response that the command line prints.
#[derive(Debug, Deserialize)]
pub struct ApiProblem {
    pub detail: String,
}

impl ApiErrorKind {
    /// The status, and the last part of the problem type.
    fn parts(self) -> (StatusCode, &'static str) {
        match self {
            Self::UnknownPath => (StatusCode::NOT_FOUND, "unknown-path"),
            Self::WrongMethod => (StatusCode::METHOD_NOT_ALLOWED, "wrong-method"),
            Self::InvalidPath => (StatusCode::BAD_REQUEST, "invalid-path"),
            Self::BodyTooLarge => (StatusCode::PAYLOAD_TOO_LARGE, "body-too-large"),
            Self::RequestTimeout => (StatusCode::REQUEST_TIMEOUT, "request-timeout"),
            Self::Panicked => (StatusCode::INTERNAL_SERVER_ERROR, "panic"),
            Self::RepeatedHeader => (StatusCode::BAD_REQUEST, "repeated-header"),
            Self::HostNotLoopback => (StatusCode::FORBIDDEN, "host-not-loopback"),
            Self::TokenRequired => (StatusCode::UNAUTHORIZED, "token-required"),
            Self::CrossSite => (StatusCode::FORBIDDEN, "cross-site"),
            Self::UnknownAction => (StatusCode::NOT_FOUND, "unknown-action"),
            Self::UnknownBreaker => (StatusCode::NOT_FOUND, "unknown-breaker"),
            Self::UnknownProvider => (StatusCode::NOT_FOUND, "unknown-provider"),
            Self::UnknownMode => (StatusCode::NOT_FOUND, "unknown-mode"),
            Self::UnknownQueue => (StatusCode::NOT_FOUND, "unknown-queue"),
            Self::UnknownCache => (StatusCode::NOT_FOUND, "unknown-cache"),
            Self::UnknownJob => (StatusCode::NOT_FOUND, "unknown-job"),
            Self::UnknownRun => (StatusCode::NOT_FOUND, "unknown-run"),
            Self::NoBaseline => (StatusCode::NOT_FOUND, "no-baseline"),
            Self::RunState => (StatusCode::CONFLICT, "run-state"),
            Self::InvalidBaseline => (StatusCode::CONFLICT, "invalid-baseline"),
            Self::DamagedRun => (StatusCode::INTERNAL_SERVER_ERROR, "damaged-run"),
            Self::UnknownRequest => (StatusCode::NOT_FOUND, "unknown-request"),
            Self::TooManyStreams => (StatusCode::SERVICE_UNAVAILABLE, "too-many-streams"),
            Self::UnknownSeries => (StatusCode::NOT_FOUND, "unknown-series"),
            Self::UnknownBenchmark => (StatusCode::NOT_FOUND, "unknown-benchmark"),
            Self::UnknownTarget => (StatusCode::BAD_REQUEST, "unknown-target"),
            Self::BenchmarkRunning => (StatusCode::CONFLICT, "benchmark-running"),
            Self::TargetUnavailable => (StatusCode::CONFLICT, "target-unavailable"),
            Self::BenchmarkFailed => (StatusCode::INTERNAL_SERVER_ERROR, "benchmark-failed"),
            Self::InvalidQuery => (StatusCode::BAD_REQUEST, "invalid-query"),
            Self::InvalidBody => (StatusCode::BAD_REQUEST, "invalid-body"),
            Self::InvalidDuration => (StatusCode::BAD_REQUEST, "invalid-duration"),
            Self::InvalidState => (StatusCode::BAD_REQUEST, "invalid-state"),
            Self::NotJson => (StatusCode::UNSUPPORTED_MEDIA_TYPE, "not-json"),
            Self::JobState => (StatusCode::CONFLICT, "job-state"),
            Self::NothingToAccept => (StatusCode::CONFLICT, "nothing-to-accept"),
            Self::NoStore => (StatusCode::NOT_FOUND, "no-store"),
            Self::StoreUnavailable => (StatusCode::SERVICE_UNAVAILABLE, "store-unavailable"),
            Self::NoFleet => (StatusCode::NOT_FOUND, "not-in-fleet"),
            Self::NotInFleet => (StatusCode::CONFLICT, "not-in-fleet"),
            Self::TooManyOverrides => (StatusCode::CONFLICT, "too-many-overrides"),
            Self::PerHostOnly => (StatusCode::BAD_REQUEST, "per-host-only"),
            Self::FleetUnavailable => (StatusCode::SERVICE_UNAVAILABLE, "fleet-unavailable"),
        }
    }

    pub fn as_str(self) -> &'static str {
        self.parts().1
    }

    pub fn status(self) -> StatusCode {
        self.parts().0
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
            all if all.len() > LISTED => {
                format!("{}, and {} more", known[..LISTED].join(", "), known.len() - LISTED)
            }
            all => all.join(", "),
        };
        ApiError::new(kind, format!("{detail} (there are: {list})"))
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let (status, name) = self.kind.parts();
        let name = format!("admin:{name}");
        let title = status.canonical_reason().unwrap_or("error");
        let problem = problem_document(&name, title, status.as_u16(), &self.detail);
        let body = format!("{problem}\n");
        let mut response = (status, [(CONTENT_TYPE, PROBLEM_JSON)], body).into_response();
        if status == StatusCode::UNAUTHORIZED {
            response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}
