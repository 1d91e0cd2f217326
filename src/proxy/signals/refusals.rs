//! Errors that say that a retry is useless: the major providers' ways of saying it, in one table.
//!
//! A used-up budget is often reported as 429, and then looks like a short-lived limit. Such an error
//! concerns the credential: another credential or provider may serve the request, the same one will
//! not for hours.
//!
//! Sources: the error references of OpenAI, Azure OpenAI, Anthropic, Google (`google.rpc.Status` with
//! `QuotaFailure`), DeepSeek, Moonshot, Alibaba, OpenRouter, xAI, Cohere and Together.

use http::HeaderMap;
use serde_json::Value;

/// Exact values of `code`, `type`, `status` or `reason`.
const CODES: [&str; 17] = [
    // OpenAI, Azure OpenAI and those that follow them.
    "insufficient_quota",
    "billing_hard_limit_reached",
    "billing_not_active",
    "account_deactivated",
    "access_terminated",
    "invalid_api_key",
    // Anthropic.
    "billing_error",
    "authentication_error",
    "permission_error",
    // Google.
    "API_KEY_INVALID",
    "API_KEY_SERVICE_BLOCKED",
    "BILLING_DISABLED",
    "PERMISSION_DENIED",
    "UNAUTHENTICATED",
    // Moonshot, Alibaba, DeepSeek.
    "exceeded_current_quota_error",
    "Arrearage",
    "insufficient_balance",
];

/// Parts of the `message`, in lower case.
const MESSAGES: [&str; 7] = [
    // Anthropic, with status 400.
    "credit balance is too low",
    // Google, with status 400.
    "api key not valid",
    // DeepSeek and Moonshot.
    "insufficient balance",
    // OpenRouter and Together.
    "insufficient credits",
    "credit limit exceeded",
    // xAI.
    "monthly spending limit",
    // Cohere's trial keys.
    "api calls / month",
];

/// The objects below `error` that are searched for a code: `google.rpc.ErrorInfo` and the like.
const MAX_DETAILS: usize = 16;

/// Whether the header `x-should-retry` says that a retry is useless (OpenAI, Anthropic).
pub fn forbids_retry(headers: &HeaderMap) -> bool {
    headers.get("x-should-retry").is_some_and(|value| value.as_bytes().trim_ascii() == b"false")
}

/// Whether an error body says that this credential will be refused for hours.
pub fn is_final(body: &[u8]) -> bool {
    let Ok(json) = serde_json::from_slice::<Value>(body) else { return false };
    // Google wraps the error in an array when the response is streamed.
    let json = json.get(0).unwrap_or(&json);
    let error = json.get("error").filter(|error| error.is_object()).unwrap_or(json);
    let message = [error.get("message"), json.get("message"), json.get("error")];
    let mut messages = message.into_iter().flatten().filter_map(Value::as_str);
    let details = error.get("details").and_then(Value::as_array);
    let details = details.into_iter().flatten().take(MAX_DETAILS);
    has_code(error)
        || messages.any(is_final_message)
        || details.into_iter().any(|detail| has_code(detail) || is_daily_quota(detail))
}

fn has_code(object: &Value) -> bool {
    let values = ["code", "type", "status", "reason"].map(|key| object.get(key));
    values.into_iter().flatten().filter_map(Value::as_str).any(|value| CODES.contains(&value))
}

fn is_final_message(message: &str) -> bool {
    let message = message.to_lowercase();
    MESSAGES.iter().any(|part| message.contains(part))
}

/// A `google.rpc.QuotaFailure` of a quota per day.
fn is_daily_quota(detail: &Value) -> bool {
    let violations = detail.get("violations").and_then(Value::as_array);
    violations.into_iter().flatten().take(MAX_DETAILS).any(|violation| {
        let names = ["quotaId", "quotaMetric", "subject", "description"];
        names.iter().filter_map(|name| violation.get(name)?.as_str()).any(|name| {
            let name = name.to_lowercase();
            name.contains("perday") || name.contains("per_day") || name.contains("per day")
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_provider_s_way_of_saying_it_is_known() {
        for body in [
            r#"{"error":{"message":"You exceeded your current quota","type":"insufficient_quota","code":"insufficient_quota"}}"#,
            r#"{"error":{"code":"billing_hard_limit_reached","type":"invalid_request_error"}}"#,
            r#"{"error":{"code":"invalid_api_key"}}"#,
            r#"{"type":"error","error":{"type":"invalid_request_error","message":"Your credit balance is too low to access the Anthropic API."}}"#,
            r#"{"type":"error","error":{"type":"billing_error","message":""}}"#,
            r#"{"error":{"code":400,"status":"INVALID_ARGUMENT","message":"API key not valid. Please pass a valid API key."}}"#,
            r#"{"error":{"code":403,"status":"PERMISSION_DENIED"}}"#,
            r#"[{"error":{"code":429,"status":"RESOURCE_EXHAUSTED","details":[{"@type":"type.googleapis.com/google.rpc.QuotaFailure","violations":[{"quotaId":"GenerateRequestsPerDayPerProjectPerModel-FreeTier"}]}]}}]"#,
            r#"{"error":{"status":"INVALID_ARGUMENT","details":[{"reason":"API_KEY_INVALID"}]}}"#,
            r#"{"code":"Arrearage","message":"Access denied"}"#,
            r#"{"error":"Your team has reached its monthly spending limit."}"#,
            r#"{"message":"You are using a Trial key, which is limited to 1000 API calls / month."}"#,
        ] {
            assert!(is_final(body.as_bytes()), "{body}");
        }
    }

    #[test]
    fn a_limit_that_passes_is_not_final() {
        for body in [
            r#"{"error":{"message":"Rate limit reached for gpt-4o","type":"requests","code":"rate_limit_exceeded"}}"#,
            r#"{"type":"error","error":{"type":"rate_limit_error","message":"This request would exceed your rate limit"}}"#,
            r#"{"type":"error","error":{"type":"overloaded_error"}}"#,
            r#"{"error":{"code":429,"status":"RESOURCE_EXHAUSTED","message":"You exceeded your current quota, please check your plan and billing details.","details":[{"violations":[{"quotaId":"GenerateRequestsPerMinutePerProjectPerModel"}]}]}}"#,
            r#"{"error":{"message":"maximum context length","code":"context_length_exceeded"}}"#,
            "not JSON",
            "",
            "[]",
        ] {
            assert!(!is_final(body.as_bytes()), "{body}");
        }
    }

    #[test]
    fn x_should_retry_is_read() {
        let headers = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert("x-should-retry", value.parse().expect("a value"));
            headers
        };
        assert!(forbids_retry(&headers("false")) && !forbids_retry(&headers("true")));
        assert!(!forbids_retry(&HeaderMap::new()));
    }
}
