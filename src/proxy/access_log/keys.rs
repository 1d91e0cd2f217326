//! The keys of an access record: one table for both formats and for `docs/reference/access-log.md`.

use std::fmt::Write as _;

/// A key of the access record.
#[derive(Debug)]
pub struct RecordKey {
    name: &'static str,
    /// `,"name":`, one piece of known length to write.
    pub(super) json: &'static str,
    /// The same before a string: `,"name":"`.
    pub(super) json_string: &'static str,
    /// ` name=`; within a list, ` list.name=`.
    pub(super) text: &'static str,
    kind: &'static str,
    unit: &'static str,
    meaning: &'static str,
}

/// Each row: constant, name, type, unit, meaning; grouped by the object that has the key. The
/// prefix of a group is written before its keys in the text format.
macro_rules! record_keys {
    ($($group:ident, $prefix:literal { $($key:ident, $name:literal, $kind:literal, $unit:literal, $meaning:literal;)* })*) => {
        $($(pub const $key: RecordKey = RecordKey {
            name: $name,
            json: concat!(",\"", $name, "\":"),
            json_string: concat!(",\"", $name, "\":\""),
            text: concat!(" ", $prefix, $name, "="),
            kind: $kind,
            unit: $unit,
            meaning: $meaning,
        };)*
        const $group: &[RecordKey] = &[$($key,)*];)*
    };
}

record_keys! {
    RECORD, "" {
        TIME, "time", "string", "RFC 3339, UTC",
            "When the record ended";
        ROUTE, "route", "string", "",
            "The route, or `-` if none matched";
        METHOD, "method", "string", "",
            "Request method";
        PATH, "path", "string", "",
            "Request path, without the query";
        STATUS, "status", "integer", "",
            "Status sent to the client; 499 if the client disconnected before it";
        RESULT, "result", "string", "",
            "How the request ended: `complete`, `local_response` (produced by Outrigger), `interrupted` (the response broke after its first byte) or `client_disconnected`";
        REASON, "reason", "string", "",
            "For `local_response` the [problem type](problem-types.md); for `interrupted` the cause: `broken`, `idle`, `error_event`, `no_end`, `upgrade_failed`, `upgrade_not_requested` or `panic`";
        DURATION, "duration_ms", "number", "ms",
            "From the request head to the end of the response";
        FIRST_BYTE, "first_byte_ms", "number", "ms",
            "From the request head to the first byte of a provider's response";
        WAIT, "wait_ms", "number", "ms",
            "Time spent waiting for capacity or for the end of a hold";
        BACKOFF, "backoff_ms", "number", "ms",
            "Time spent in backoffs between attempts";
        REQUEST_ID, "request_id", "string", "",
            "The client's `x-request-id`, or a new id; also in the response (`outrigger-request-id`) and in the request to the provider";
        TRACE_ID, "trace_id", "string", "",
            "The trace id of a valid `traceparent`; with `server.traces`, that of the request's trace";
        SPAN_ID, "span_id", "string", "",
            "The id of the request's span; only with `server.traces`";
        PARENT_SPAN_ID, "parent_span_id", "string", "",
            "The span of the client, or of the request that became the job; only with `server.traces`";
        MODEL, "model", "string", "",
            "The model that the client requested";
        QUEUE_CLASS, "class", "string", "",
            "The request's priority class, if the route's queue has several";
        FLOW, "flow", "string", "",
            "The value of the header that selects the request's flow, if the route's queue has `flow`";
        ATTEMPTS, "attempts", "array", "",
            "The attempts, in the order in which they ended";
        PASSED_OVER, "passed_over", "array", "",
            "Endpoints that could not be selected, each reason once: the first 8";
        MORE_PASSED_OVER, "more_passed_over", "integer", "",
            "How many more there are";
        NOT_REPLAYABLE, "not_replayable", "string", "",
            "Why the request body could be sent only once";
        RETRY_DENIED, "retry_denied", "string", "",
            "Why no further attempt was made";
        CACHE, "cache", "string", "",
            "Result of the cache: `hit`, `stale`, `revalidated`, `miss`, `coalesced` or `bypass`";
        DEGRADED, "degraded", "array", "",
            "The actions of degradation modes that applied to the request";
        NOT_REDUCED, "not_reduced", "string", "",
            "`body` if a mode could not change the body, because it was not kept or is not JSON";
        PANIC, "panic", "string", "",
            "The id of the panic in the daemon's log that ended the request";
        JOB, "job", "string", "",
            "The job that the request became or that this is a run of";
        RUN, "run", "boolean", "",
            "Present if the record is that of a run of the job, not of a request of the application";
        BYTES_IN, "bytes_in", "integer", "bytes",
            "Size of the request body";
        BYTES_OUT, "bytes_out", "integer", "bytes",
            "Size of the response body as sent";
        TOKENS_IN, "tokens_in", "integer", "tokens",
            "Input tokens of all attempts, as providers reported them";
        TOKENS_OUT, "tokens_out", "integer", "tokens",
            "Output tokens of all attempts, as providers reported them";
        COST, "cost", "number", "currency of the price",
            "Cost of these tokens at the prices of the policy";
        RETRY_BUDGET, "retry_budget", "number", "retries",
            "Retries that the route's budget allows after this request; only if a retry was made or denied";
        POLICY, "policy", "string", "",
            "Hash of the policy that was in force";
    }
    ATTEMPT, "attempt." {
        ENDPOINT, "endpoint", "string", "",
            "The endpoint, as `provider/endpoint`";
        CREDENTIAL, "credential", "string", "",
            "Reference of the credential, if the provider has several";
        CLASS, "class", "string", "",
            "Class of the attempt's result, such as `success` or `throttled`";
        ATTEMPT_STATUS, "status", "integer", "",
            "Status of the provider's response; absent if none arrived";
        ATTEMPT_START, "start_ms", "number", "ms",
            "From the request head to the start of the attempt; only where there are several attempts, `wait_ms` or `server.traces`";
        ATTEMPT_DURATION, "duration_ms", "number", "ms",
            "Duration of the attempt until its outcome was known";
        PROBE, "probe", "boolean", "",
            "Present if the attempt was a probe of a half-open breaker";
        KIND, "kind", "string", "",
            "`hedge` or `continuation`; absent for a first attempt and a retry";
        ERROR, "error", "string", "",
            "Error of the attempt";
        CODE, "code", "string", "",
            "Code of the error in the provider's response, such as `insufficient_quota`";
        SENT_MODEL, "model", "string", "",
            "The model that was sent, if the policy renames it";
        PROVIDER_REQUEST_ID, "provider_request_id", "string", "",
            "The provider's own id of the response (`x-request-id`, `request-id` or `x-amzn-requestid`), which its support asks for";
        ATTEMPT_SPAN_ID, "span_id", "string", "",
            "The id of the attempt's span, which the provider receives in `traceparent`; only with `server.traces`";
        ATTEMPT_TOKENS_IN, "tokens_in", "integer", "tokens",
            "Input tokens that the provider reported; only with `server.traces`";
        ATTEMPT_TOKENS_OUT, "tokens_out", "integer", "tokens",
            "Output tokens that the provider reported; only with `server.traces`";
        ATTEMPT_STREAM, "stream", "boolean", "",
            "Present if `duration_ms` is the time to the first content of a stream; only with `server.traces`";
    }
    PASSED, "passed_over." {
        PASSED_ENDPOINT, "endpoint", "string", "",
            "The endpoint, as `provider/endpoint`";
        PASSED_REASON, "reason", "string", "",
            "Why: `drained`, `held`, `slow_start` (after a hold), `quota`, `breaker_open`, `half_open` (a probe is under way), `probe_lease` (another host of the fleet probes), `ramp` (after an outage), `rate_limited`, `no_capacity` (concurrency, connections, or others wait first), `backoff`, `not_allowed` (another provider has the Idempotency-Key, or no `prefill`)";
        PASSED_BEFORE, "attempt", "integer", "",
            "The number of the attempt that was to be made";
    }
    DEGRADATION, "degraded." {
        MODE, "mode", "string", "",
            "The degradation mode";
        ACTION, "action", "string", "",
            "The action: `reduce`, `use`, `serve_stale`, `shed` or `respond`";
    }
}

/// The reference of the access log as Markdown.
pub fn reference() -> String {
    let mut text = String::from(
        "# Access log\n\n\
         One record for each request, written when its response has ended or its client has \
         disconnected; for each job one record of the enqueue and one of each run. `server.access_log` \
         sets the target and the format. The record never contains a query, a body or a credential. \
         Keys without a value are left out.\n\n\
         With `format: json` a record is one JSON object on a line. With `format: text` it is the time \
         and then `key=value` pairs; values with spaces or quotes are written as JSON strings, and \
         keys of the lists are prefixed with `attempt.`, `passed_over.` and `degraded.`.\n",
    );
    for (heading, keys) in [
        ("Record", RECORD),
        ("Elements of `attempts`", ATTEMPT),
        ("Elements of `passed_over`", PASSED),
        ("Elements of `degraded`", DEGRADATION),
    ] {
        let _ = write!(text, "\n## {heading}\n\n| key | type | unit | meaning |\n");
        text.push_str("| --- | --- | --- | --- |\n");
        for RecordKey { name, kind, unit, meaning, .. } in keys {
            let _ = writeln!(text, "| `{name}` | {kind} | {unit} | {meaning} |");
        }
    }
    text
}
