//! Responses that Outrigger produces itself: problem JSON (RFC 9457) with a stable `type`, and
//! `Proxy-Status` (RFC 9209).
//!
//! One table names every problem type with its status code. `docs/reference/problem-types.md` is
//! generated from it.

use std::fmt;
use std::fmt::Write as _;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ALLOW, CONNECTION, CONTENT_TYPE, HeaderName, RETRY_AFTER};
use http::{HeaderValue, Response, StatusCode};
use serde_json::json;

use super::request_id::RequestId;
use crate::clock;

pub const PROXY_STATUS: HeaderName = HeaderName::from_static("proxy-status");
pub const PROBLEM_JSON: &str = "application/problem+json";
/// Every `type` begins with this.
const TYPE_PREFIX: &str = "urn:outrigger:problem:";
/// Characters of `details` in `Proxy-Status`.
const MAX_DETAILS: usize = 200;

/// A row of the table of problem types.
#[derive(Debug)]
struct ProblemType {
    kind: ProblemKind,
    status: u16,
    name: &'static str,
    title: &'static str,
    proxy_error: Option<&'static str>,
    closes_connection: bool,
}

/// Each row: kind, status, last part of `type`, error type of RFC 9209 2.3, whether the connection
/// is closed after the response, title.
macro_rules! problem_types {
    ($($kind:ident, $status:literal, $name:literal, $error:expr, $close:literal, $title:literal;)*) => {
        /// The type of a problem, for code that compares it.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum ProblemKind {
            $($kind,)*
        }

        const PROBLEM_TYPES: &[ProblemType] = &[$(ProblemType {
            kind: ProblemKind::$kind,
            status: $status,
            name: $name,
            title: $title,
            proxy_error: $error,
            closes_connection: $close,
        },)*];
    };
}

problem_types! {
    BadRequest, 400, "bad-request", Some("http_request_error"), true,
        "the request is malformed";
    BadOverride, 400, "bad-override", Some("http_request_error"), false,
        "an x-outrigger-* header is invalid or not allowed";
    BadPrefer, 400, "bad-prefer", Some("http_request_error"), false,
        "the Prefer header is invalid";
    ForeignHost, 400, "foreign-host", Some("http_request_denied"), false,
        "the request is for another host, and no route names it";
    RequestInterrupted, 400, "request-interrupted", Some("http_request_error"), true,
        "the request body is malformed or ended early";
    CallbackNotAllowed, 403, "callback-not-allowed", Some("http_request_denied"), false,
        "the policy does not allow this callback URL";
    NoRoute, 404, "no-route", Some("destination_not_found"), false,
        "no route of the policy matches the request";
    NotFound, 404, "not-found", None, false,
        "nothing is served at this path below /.outrigger/";
    JobNotFound, 404, "job-not-found", None, false,
        "the job does not exist or belongs to another caller";
    MethodNotSupported, 405, "method-not-supported", Some("http_request_denied"), false,
        "the methods CONNECT and TRACE are not supported";
    RequestTimeout, 408, "request-timeout", Some("http_request_error"), true,
        "the request did not arrive in time";
    JobRunning, 409, "job-running", None, false,
        "the job with this Idempotency-Key is running";
    JobFinished, 409, "job-finished", None, false,
        "the job has already finished";
    JobCancelled, 410, "job-cancelled", None, false,
        "the job was cancelled";
    NotRewritable, 413, "body-not-rewritable", Some("http_request_error"), false,
        "the provider's rewrite needs the complete body as JSON, and the body was not kept or is not JSON";
    JobTooLarge, 413, "job-too-large", Some("http_request_error"), false,
        "the body is larger than the route's replay limit, so it cannot become a job";
    UriTooLong, 414, "uri-too-long", Some("http_request_error"), true,
        "the request target is too long";
    IdempotencyKeyReused, 422, "idempotency-key-reused", Some("http_request_error"), false,
        "the Idempotency-Key was used for another request";
    QueueShare, 429, "queue-share", Some("connection_limit_reached"), false,
        "the queue is full and this flow has used its share";
    HeadTooLarge, 431, "head-too-large", Some("http_request_error"), true,
        "the head of the request is larger than server.header_bytes, or has too many lines";
    InternalError, 500, "internal-error", Some("proxy_internal_error"), true,
        "a fault of Outrigger ended the request";
    CodingNotSupported, 501, "coding-not-supported", Some("http_request_error"), true,
        "a transfer coding of the request is not supported";
    Unreachable, 502, "unreachable", Some("connection_refused"), false,
        "no provider could be reached";
    ConnectionLost, 502, "connection-lost", Some("connection_terminated"), false,
        "the connection to the provider was lost";
    BadResponse, 502, "bad-response", Some("http_protocol_error"), false,
        "the provider's response is malformed";
    JobFailed, 502, "job-failed", None, false,
        "the job failed and is not tried again";
    BreakerOpen, 503, "breaker-open", Some("destination_unavailable"), false,
        "the circuit breakers of all usable providers are open";
    Drained, 503, "drained", Some("destination_unavailable"), false,
        "an operator has drained all usable providers";
    Held, 503, "held", Some("destination_unavailable"), false,
        "all usable providers have asked to wait before the next request";
    NoCapacity, 503, "no-capacity", Some("connection_limit_reached"), false,
        "no provider has capacity";
    RateLimited, 503, "rate-limited", Some("connection_limit_reached"), false,
        "the rate limits of all usable providers are used up";
    Unavailable, 503, "unavailable", Some("destination_unavailable"), false,
        "no provider can take the request, for the reasons in detail";
    QueueFull, 503, "queue-full", Some("connection_limit_reached"), false,
        "the queue is full";
    QueueWaitTooLong, 503, "queue-wait-too-long", Some("connection_limit_reached"), false,
        "the estimated wait in the queue is longer than the request may wait";
    Shed, 503, "shed", Some("destination_unavailable"), false,
        "a degradation mode rejects requests of this class";
    TooManyConnections, 503, "too-many-connections", Some("connection_limit_reached"), true,
        "the listener has reached its limit of connections";
    JobsFull, 503, "jobs-full", Some("connection_limit_reached"), false,
        "the queue has reached its limit of jobs";
    StoreUnavailable, 503, "store-unavailable", Some("proxy_internal_error"), false,
        "the job could not be stored and was not accepted";
    ResponseTimeout, 504, "response-timeout", Some("http_response_timeout"), false,
        "the provider did not respond in time";
    Deadline, 504, "deadline", Some("http_response_timeout"), false,
        "the route's timeout, or the client's own, has passed";
    NotCached, 504, "not-cached", None, false,
        "no stored response satisfies the request";
    JobExpired, 504, "job-expired", None, false,
        "the job expired before it was done";
    VersionNotSupported, 505, "version-not-supported", Some("http_request_error"), true,
        "the version of HTTP is not supported";
}

impl ProblemKind {
    /// A provider was not ready within the time of the attempt or of the request.
    pub fn is_timeout(self) -> bool {
        matches!(self, ProblemKind::ResponseTimeout | ProblemKind::Deadline)
    }

    pub fn all() -> impl Iterator<Item = ProblemKind> {
        PROBLEM_TYPES.iter().map(|row| row.kind)
    }

    fn row(self) -> &'static ProblemType {
        // The variants are generated from the table, so each has its own index.
        PROBLEM_TYPES.get(self as usize).unwrap_or(&PROBLEM_TYPES[0])
    }

    pub fn status(self) -> StatusCode {
        StatusCode::from_u16(self.row().status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }

    /// The last part of `type`.
    pub fn name(self) -> &'static str {
        self.row().name
    }
}

/// A response that Outrigger produces itself.
#[derive(Clone, Debug)]
pub struct Problem {
    pub kind: ProblemKind,
    /// The cause and the remedy; never a secret, never a query.
    pub detail: String,
    pub retry_after: Option<Duration>,
}

impl Problem {
    pub fn new(kind: ProblemKind, detail: impl Into<String>) -> Self {
        Problem { kind, detail: detail.into(), retry_after: None }
    }

    pub fn retry_after(mut self, after: Option<Duration>) -> Self {
        self.retry_after = after;
        self
    }

    /// The title and the detail in one sentence.
    pub fn message(&self) -> String {
        format!("{}: {}", self.kind.row().title, self.detail)
    }

    /// The JSON document, of a request with this id.
    pub fn json(&self, id: Option<&RequestId>) -> Vec<u8> {
        let ProblemType { status, name, title, .. } = self.kind.row();
        let mut document = problem_document(name, title, *status, &self.detail);
        if let Some(id) = id {
            document["request_id"] = json!(id.to_string());
        }
        // The SDKs for OpenAI's API show this message.
        document["error"] = json!({ "message": self.message(), "type": name });
        document.to_string().into_bytes()
    }

    /// The response to a request whose head could not be read.
    pub fn into_response(self) -> Response<Bytes> {
        self.response(None)
    }

    pub fn into_response_to(self, id: &RequestId) -> Response<Bytes> {
        let mut response = self.response(Some(id));
        id.add_to_local(response.headers_mut());
        response
    }

    fn response(&self, id: Option<&RequestId>) -> Response<Bytes> {
        let row = self.kind.row();
        let mut response = Response::new(Bytes::from(self.json(id)));
        *response.status_mut() = self.kind.status();
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(PROBLEM_JSON));
        headers.insert(PROXY_STATUS, self.proxy_status(row.proxy_error));
        if let Some(after) = self.retry_after {
            let seconds = after.as_secs_f64().ceil().max(1.0) as u64;
            headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        if self.kind == ProblemKind::MethodNotSupported {
            // Required (RFC 9110, 15.5.6).
            let allow = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS";
            headers.insert(ALLOW, HeaderValue::from_static(allow));
        }
        if row.closes_connection {
            headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }

    /// The response as bytes, for where hyper cannot send it.
    pub fn to_wire(&self) -> Vec<u8> {
        let response = self.response(None);
        let mut bytes = format!("HTTP/1.1 {}\r\n", response.status()).into_bytes();
        for (name, value) in response.headers() {
            bytes.extend_from_slice(
                &[name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"].concat(),
            );
        }
        let date = httpdate::fmt_http_date(clock::wall());
        bytes.extend_from_slice(format!("date: {date}\r\n").as_bytes());
        let body = response.body();
        bytes.extend_from_slice(format!("content-length: {}\r\n\r\n", body.len()).as_bytes());
        bytes.extend_from_slice(body);
        bytes
    }

    fn proxy_status(&self, error: Option<&str>) -> HeaderValue {
        let error = error.map(|e| format!("; error={e}")).unwrap_or_default();
        let details: String = self
            .detail
            .chars()
            .filter(|c| c.is_ascii() && !c.is_ascii_control() && !matches!(c, '"' | '\\'))
            .take(MAX_DETAILS)
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

/// A problem document (RFC 9457) of the listener or of the admin API.
pub fn problem_document(name: &str, title: &str, status: u16, detail: &str) -> serde_json::Value {
    json!({
        "type": format!("{TYPE_PREFIX}{name}"),
        "title": title,
        "status": status,
        "detail": detail,
    })
}

/// The reference of the problem types as Markdown.
pub fn reference() -> String {
    let mut text = String::from(
        "# Problem types\n\n\
         Every response that Outrigger itself produces is `application/problem+json` (RFC 9457) with \
         `type`, `title`, `status`, `detail`, `request_id` and an `error` object as the SDKs for OpenAI's API \
         expect it. `Proxy-Status` (RFC 9209) carries `detail` and, where the RFC has one, the error \
         type. Exceptions are listed in [http](../design/http.md#responses-from-outrigger). The \
         last part of `type` is also the reason in the access log and in \
         `outrigger_local_responses_total`.\n\n\
         | status | type | title | `Proxy-Status` error |\n| --- | --- | --- | --- |\n",
    );
    for ProblemType { status, name, title, proxy_error, .. } in PROBLEM_TYPES {
        let error = proxy_error.map(|error| format!("`{error}`")).unwrap_or_default();
        let _ = writeln!(text, "| {status} | `{TYPE_PREFIX}{name}` | {title} | {error} |");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn every_kind_has_its_own_type_and_an_error_status() {
        let names: HashSet<_> = ProblemKind::all().map(ProblemKind::name).collect();
        assert_eq!(names.len(), ProblemKind::all().count());
        assert!(ProblemKind::all().all(|kind| (400..600).contains(&kind.status().as_u16())));
    }

    #[test]
    fn a_problem_response_is_problem_json_with_proxy_status() {
        let problem = Problem::new(ProblemKind::Unreachable, "openai: \"refused\"\n")
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
