//! The one table of what can go wrong: it alone names the status codes that we produce.

use http::StatusCode;

pub(crate) struct Row {
    kind: Kind,
    status: u16,
    name: &'static str,
    pub(crate) title: &'static str,
    pub(crate) proxy_error: Option<&'static str>,
    pub(crate) close: bool,
}

/// Each row: kind, status, last part of `type`, error of RFC 9209 2.3, whether the connection can
/// not be used again after it, title.
macro_rules! kinds {
    ($($kind:ident, $status:literal, $name:literal, $error:expr, $close:literal, $title:literal;)*) => {
        /// What went wrong, as programs tell it apart.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Kind {
            $($kind,)*
        }

        const TABLE: &[Row] = &[$(Row {
            kind: Kind::$kind,
            status: $status,
            name: $name,
            title: $title,
            proxy_error: $error,
            close: $close,
        },)*];
    };
}

kinds! {
    BadRequest, 400, "bad-request", Some("http_request_error"), true,
        "the request is malformed";
    BadOverride, 400, "bad-override", Some("http_request_error"), false,
        "an x-outrigger header cannot be followed";
    NoRoute, 404, "no-route", Some("destination_not_found"), false,
        "no route of the policy matches";
    Ours, 404, "not-found", None, false,
        "paths under /.outrigger/ are Outrigger's own";
    Connect, 405, "connect-refused", Some("http_request_denied"), false,
        "CONNECT is not served";
    RequestTimeout, 408, "request-timeout", Some("http_request_error"), true,
        "the request did not arrive in time";
    RequestBroken, 400, "request-broken", Some("http_request_error"), false,
        "the request's body could not be read";
    NotRewritable, 413, "body-not-rewritable", Some("http_request_error"), false,
        "the body is larger than the route keeps, or no JSON, and its provider's rewriting needs it whole";
    Unreachable, 502, "unreachable", Some("connection_refused"), false,
        "no provider could be reached";
    ConnectionLost, 502, "connection-lost", Some("connection_terminated"), false,
        "the provider broke the connection";
    BadAnswer, 502, "bad-answer", Some("http_protocol_error"), false,
        "the provider's answer is malformed";
    AnswerTimeout, 504, "answer-timeout", Some("http_response_timeout"), false,
        "the provider did not answer in time";
    Deadline, 504, "deadline", Some("http_response_timeout"), false,
        "the route's timeout passed";
    NotCached, 504, "not-cached", None, false,
        "nothing that is stored serves the request";
    BreakerOpen, 503, "breaker-open", Some("destination_unavailable"), false,
        "every provider that could serve this is failing";
    Drained, 503, "drained", Some("destination_unavailable"), false,
        "every provider that could serve this was taken out by hand";
    Held, 503, "held", Some("destination_unavailable"), false,
        "every provider that could serve this asked to wait";
    NoRoom, 503, "no-room", Some("connection_limit_reached"), false,
        "no provider has room";
    QueueFull, 503, "queue-full", Some("connection_limit_reached"), false,
        "the queue has no place";
    QueueShare, 429, "queue-share", Some("connection_limit_reached"), false,
        "the queue is full, and this caller has its share of it";
    QueueLate, 503, "queue-late", Some("connection_limit_reached"), false,
        "it would have to wait for too long";
    Shed, 503, "shed", Some("destination_unavailable"), false,
        "requests of this class are turned away for now";
    TooManyConnections, 503, "too-many-connections", Some("connection_limit_reached"), true,
        "the listener has as many connections as server.connections allows";
    HeadersTooLarge, 431, "headers-too-large", Some("http_request_error"), false,
        "the request's head is larger than server.header_bytes";
    BadPrefer, 400, "bad-prefer", Some("http_request_error"), false,
        "the Prefer header cannot be followed";
    BadCallback, 403, "callback-not-allowed", Some("http_request_denied"), false,
        "the result may not be posted there";
    JobTooLarge, 413, "job-too-large", Some("http_request_error"), false,
        "the body is larger than what is kept of a request";
    JobsFull, 503, "jobs-full", Some("connection_limit_reached"), false,
        "the queue keeps as many jobs as it may";
    NoStore, 503, "store-unavailable", Some("proxy_internal_error"), false,
        "the job could not be written down, so it was not taken";
    KeyReused, 422, "idempotency-key-reused", Some("http_request_error"), false,
        "the Idempotency-Key stands for another request";
    JobRunning, 409, "job-running", None, false,
        "the request with this Idempotency-Key is being run";
    NoJob, 404, "no-job", None, false,
        "there is no such job, or it is not this caller's";
    JobOver, 409, "job-over", None, false,
        "the job is over";
    JobFailed, 502, "job-failed", None, false,
        "the job failed for good";
    JobExpired, 504, "job-expired", None, false,
        "the job's time passed before it was done";
    JobCancelled, 410, "job-cancelled", None, false,
        "the job was cancelled";
}

impl Kind {
    pub fn all() -> impl Iterator<Item = Kind> {
        TABLE.iter().map(|row| row.kind)
    }

    pub(crate) fn row(self) -> &'static Row {
        // The table makes the kinds, so each stands at its own place.
        TABLE.get(self as usize).unwrap_or(&TABLE[0])
    }

    pub fn status(self) -> StatusCode {
        StatusCode::from_u16(self.row().status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }

    pub fn name(self) -> &'static str {
        self.row().name
    }
}
