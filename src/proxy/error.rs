//! Every answer that Outrigger makes itself: problem JSON (RFC 9457) with a stable `type`, and
//! `Proxy-Status` (RFC 9209). This table alone names the status codes that we produce.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_TYPE, HeaderName, RETRY_AFTER};
use http::{HeaderValue, Response, StatusCode};
use serde_json::json;

use super::answer::ResBody;

/// What went wrong, as programs tell it apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    BadRequest,
    BadOverride,
    NoRoute,
    Ours,
    Connect,
    RequestTimeout,
    RequestBroken,
    NotRewritable,
    Unreachable,
    ConnectionLost,
    BadAnswer,
    AnswerTimeout,
    Deadline,
    BreakerOpen,
    Drained,
    Held,
    NoRoom,
    QueueFull,
    QueueShare,
    QueueLate,
    TooManyConnections,
    HeadersTooLarge,
}

struct Row {
    kind: Kind,
    status: StatusCode,
    /// Last part of `type`.
    name: &'static str,
    title: &'static str,
    /// The error of RFC 9209, 2.3.
    proxy_error: Option<&'static str>,
    close: bool,
}

const fn row(
    kind: Kind,
    status: StatusCode,
    name: &'static str,
    title: &'static str,
    proxy_error: Option<&'static str>,
) -> Row {
    Row { kind, status, name, title, proxy_error, close: false }
}

/// After this the connection cannot be used again.
const fn closing(
    kind: Kind,
    status: StatusCode,
    name: &'static str,
    title: &'static str,
    proxy_error: Option<&'static str>,
) -> Row {
    Row { close: true, ..row(kind, status, name, title, proxy_error) }
}

/// What each kind is to the application, in the order of [`Kind::ALL`].
const TABLE: [Row; Kind::ALL.len()] = [
    closing(
        Kind::BadRequest,
        StatusCode::BAD_REQUEST,
        "bad-request",
        "the request is malformed",
        Some("http_request_error"),
    ),
    row(
        Kind::BadOverride,
        StatusCode::BAD_REQUEST,
        "bad-override",
        "an x-outrigger header cannot be followed",
        Some("http_request_error"),
    ),
    row(
        Kind::NoRoute,
        StatusCode::NOT_FOUND,
        "no-route",
        "no route of the policy matches",
        Some("destination_not_found"),
    ),
    row(
        Kind::Ours,
        StatusCode::NOT_FOUND,
        "not-found",
        "paths under /.outrigger/ are Outrigger's own",
        None,
    ),
    row(
        Kind::Connect,
        StatusCode::METHOD_NOT_ALLOWED,
        "connect-refused",
        "CONNECT is not served",
        Some("http_request_denied"),
    ),
    closing(
        Kind::RequestTimeout,
        StatusCode::REQUEST_TIMEOUT,
        "request-timeout",
        "the request did not arrive in time",
        Some("http_request_error"),
    ),
    row(
        Kind::RequestBroken,
        StatusCode::BAD_REQUEST,
        "request-broken",
        "the request's body could not be read",
        Some("http_request_error"),
    ),
    row(
        Kind::NotRewritable,
        StatusCode::PAYLOAD_TOO_LARGE,
        "body-not-rewritable",
        "the body is larger than the route keeps, or no JSON, and its provider's rewriting needs it whole",
        Some("http_request_error"),
    ),
    row(
        Kind::Unreachable,
        StatusCode::BAD_GATEWAY,
        "unreachable",
        "no provider could be reached",
        Some("connection_refused"),
    ),
    row(
        Kind::ConnectionLost,
        StatusCode::BAD_GATEWAY,
        "connection-lost",
        "the provider broke the connection",
        Some("connection_terminated"),
    ),
    row(
        Kind::BadAnswer,
        StatusCode::BAD_GATEWAY,
        "bad-answer",
        "the provider's answer is malformed",
        Some("http_protocol_error"),
    ),
    row(
        Kind::AnswerTimeout,
        StatusCode::GATEWAY_TIMEOUT,
        "answer-timeout",
        "the provider did not answer in time",
        Some("http_response_timeout"),
    ),
    row(
        Kind::Deadline,
        StatusCode::GATEWAY_TIMEOUT,
        "deadline",
        "the route's timeout passed",
        Some("http_response_timeout"),
    ),
    row(
        Kind::BreakerOpen,
        StatusCode::SERVICE_UNAVAILABLE,
        "breaker-open",
        "every provider that could serve this is failing",
        Some("destination_unavailable"),
    ),
    row(
        Kind::Drained,
        StatusCode::SERVICE_UNAVAILABLE,
        "drained",
        "every provider that could serve this was taken out by hand",
        Some("destination_unavailable"),
    ),
    row(
        Kind::Held,
        StatusCode::SERVICE_UNAVAILABLE,
        "held",
        "every provider that could serve this asked to wait",
        Some("destination_unavailable"),
    ),
    row(
        Kind::NoRoom,
        StatusCode::SERVICE_UNAVAILABLE,
        "no-room",
        "no provider has room",
        Some("connection_limit_reached"),
    ),
    row(
        Kind::QueueFull,
        StatusCode::SERVICE_UNAVAILABLE,
        "queue-full",
        "the queue has no place",
        Some("connection_limit_reached"),
    ),
    row(
        Kind::QueueShare,
        StatusCode::TOO_MANY_REQUESTS,
        "queue-share",
        "the queue is full, and this caller has its share of it",
        Some("connection_limit_reached"),
    ),
    row(
        Kind::QueueLate,
        StatusCode::SERVICE_UNAVAILABLE,
        "queue-late",
        "it would have to wait for too long",
        Some("connection_limit_reached"),
    ),
    closing(
        Kind::TooManyConnections,
        StatusCode::SERVICE_UNAVAILABLE,
        "too-many-connections",
        "the listener has as many connections as server.connections allows",
        Some("connection_limit_reached"),
    ),
    row(
        Kind::HeadersTooLarge,
        StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
        "headers-too-large",
        "the request's head is larger than server.header_bytes",
        Some("http_request_error"),
    ),
];

impl Kind {
    pub const ALL: [Kind; 22] = [
        Kind::BadRequest,
        Kind::BadOverride,
        Kind::NoRoute,
        Kind::Ours,
        Kind::Connect,
        Kind::RequestTimeout,
        Kind::RequestBroken,
        Kind::NotRewritable,
        Kind::Unreachable,
        Kind::ConnectionLost,
        Kind::BadAnswer,
        Kind::AnswerTimeout,
        Kind::Deadline,
        Kind::BreakerOpen,
        Kind::Drained,
        Kind::Held,
        Kind::NoRoom,
        Kind::QueueFull,
        Kind::QueueShare,
        Kind::QueueLate,
        Kind::TooManyConnections,
        Kind::HeadersTooLarge,
    ];

    fn row(self) -> &'static Row {
        // Every kind has its row: the test below holds it.
        TABLE.iter().find(|row| row.kind == self).unwrap_or(&TABLE[0])
    }

    pub fn status(self) -> StatusCode {
        self.row().status
    }

    pub fn name(self) -> &'static str {
        self.row().name
    }
}

/// An answer of ours.
#[derive(Clone, Debug)]
pub struct Problem {
    pub kind: Kind,
    /// What happened here and what can be done; never a secret, never a query.
    pub detail: String,
    pub retry_after: Option<Duration>,
}

impl Problem {
    pub fn new(kind: Kind, detail: impl Into<String>) -> Self {
        Problem { kind, detail: detail.into(), retry_after: None }
    }

    pub fn retry_after(mut self, after: Option<Duration>) -> Self {
        self.retry_after = after;
        self
    }

    /// The bytes of the JSON document.
    pub fn json(&self) -> Vec<u8> {
        let row = self.kind.row();
        let mut text = json!({
            "type": format!("urn:outrigger:problem:{}", row.name),
            "title": row.title,
            "status": row.status.as_u16(),
            "detail": self.detail,
        });
        // What an SDK made for OpenAI's API shows as the error's message.
        text["error"] =
            json!({ "message": format!("{}: {}", row.title, self.detail), "type": row.name });
        text.to_string().into_bytes()
    }

    pub fn into_response(self) -> Response<ResBody> {
        let row = self.kind.row();
        let mut response = Response::new(ResBody::full(Bytes::from(self.json())));
        *response.status_mut() = row.status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        headers.insert(PROXY_STATUS, self.proxy_status(row.proxy_error));
        if let Some(after) = self.retry_after {
            let seconds = after.as_secs_f64().ceil().max(1.0) as u64;
            headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        if row.close {
            headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }

    fn proxy_status(&self, error: Option<&str>) -> HeaderValue {
        let error = error.map(|e| format!("; error={e}")).unwrap_or_default();
        let details: String = self
            .detail
            .chars()
            .filter(|c| c.is_ascii() && !c.is_ascii_control() && !matches!(c, '"' | '\\'))
            .take(200)
            .collect();
        HeaderValue::from_str(&format!("outrigger{error}; details=\"{details}\""))
            .unwrap_or_else(|_| HeaderValue::from_static("outrigger"))
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.kind.name(), self.detail)
    }
}

pub const PROXY_STATUS: HeaderName = HeaderName::from_static("proxy-status");

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn every_kind_has_a_type_of_its_own_and_an_error_status() {
        let names: HashSet<_> = Kind::ALL.iter().map(|kind| kind.name()).collect();
        assert_eq!(names.len(), Kind::ALL.len());
        assert!(Kind::ALL.iter().all(|kind| kind.status().as_u16() >= 400));
    }

    #[test]
    fn an_answer_of_ours_is_problem_json_with_proxy_status() {
        let problem = Problem::new(Kind::Unreachable, "openai: \"refused\"\n")
            .retry_after(Some(Duration::from_millis(1200)));
        let response = problem.into_response();
        let header = |name: &str| response.headers()[name].to_str().expect("text").to_owned();
        assert_eq!(response.status(), 502);
        assert_eq!(header("content-type"), "application/problem+json");
        assert_eq!(header("retry-after"), "2");
        assert_eq!(
            header("proxy-status"),
            "outrigger; error=connection_refused; details=\"openai: refused\""
        );
    }
}
