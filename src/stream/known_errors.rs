//! Errors that say more than their status: the major providers' ways of saying it, in one table.
//!
//! - `credential`: a retry is useless. A used-up budget is often reported as 429, and then looks like
//!   a short-lived limit. Another credential or provider may serve the request, the same one will not
//!   for hours.
//! - `unsupported`: the provider cannot serve this request, because it is too long or names a model
//!   that the provider does not have. The provider is healthy, and another may serve the request.
//!
//! Sources: the error references of OpenAI, Azure OpenAI, Anthropic, Google (`google.rpc.Status` with
//! `QuotaFailure`), Amazon Bedrock, Mistral, Cohere, DeepSeek, Moonshot, Alibaba, Groq, OpenRouter,
//! Together and xAI; the sources of vLLM, SGLang, llama.cpp, Ollama and text-generation-inference.

use serde_json::Value;

use crate::resilience::outcome::AttemptClass;
use crate::resilience::outcome::AttemptClass::{Credential, Unsupported};

/// The members that hold a code.
const CODE_KEYS: [&str; 4] = ["code", "type", "status", "reason"];
/// Exact values of these members.
const CODES: [(&str, AttemptClass); 31] = [
    // OpenAI, Azure OpenAI and those that follow them.
    ("insufficient_quota", Credential),
    ("billing_hard_limit_reached", Credential),
    ("billing_not_active", Credential),
    ("account_deactivated", Credential),
    ("access_terminated", Credential),
    ("invalid_api_key", Credential),
    ("context_length_exceeded", Unsupported),
    ("string_above_max_length", Unsupported),
    ("model_not_found", Unsupported),
    ("DeploymentNotFound", Unsupported),
    ("unknown_model", Unsupported),
    ("unavailable_model", Unsupported),
    // Anthropic.
    ("billing_error", Credential),
    ("authentication_error", Credential),
    ("permission_error", Credential),
    ("request_too_large", Unsupported),
    // Google.
    ("API_KEY_INVALID", Credential),
    ("API_KEY_SERVICE_BLOCKED", Credential),
    ("BILLING_DISABLED", Credential),
    ("PERMISSION_DENIED", Credential),
    ("UNAUTHENTICATED", Credential),
    // Mistral.
    ("invalid_model", Unsupported),
    // Groq, Together.
    ("model_decommissioned", Unsupported),
    ("model_not_active", Unsupported),
    ("model_not_available", Unsupported),
    // llama.cpp, Alibaba.
    ("exceed_context_size_error", Unsupported),
    ("ModelNotFound", Unsupported),
    // Moonshot, Alibaba, DeepSeek.
    ("exceeded_current_quota_error", Credential),
    ("Arrearage", Credential),
    ("insufficient_balance", Credential),
    ("resource_not_found_error", Unsupported),
];

/// Texts that the `message` contains, all of them, in lower case.
const MESSAGES: [(&[&str], AttemptClass); 32] = [
    // Anthropic, with status 400.
    (&["credit balance is too low"], Credential),
    (&["prompt is too long"], Unsupported),
    (&["exceed context limit"], Unsupported),
    // Google, with status 400; a model with 404.
    (&["api key not valid"], Credential),
    (&["input token count", "exceeds the maximum"], Unsupported),
    (&["models/", "is not found for api version"], Unsupported),
    (&["publisher model", "not found"], Unsupported),
    // DeepSeek and Moonshot.
    (&["insufficient balance"], Credential),
    (&["model not exist"], Unsupported),
    (&["exceeded model token limit"], Unsupported),
    // OpenRouter and Together.
    (&["insufficient credits"], Credential),
    (&["credit limit exceeded"], Credential),
    (&["no endpoints found"], Unsupported),
    (&["is not a valid model id"], Unsupported),
    (&["unable to access model"], Unsupported),
    // xAI.
    (&["monthly spending limit"], Credential),
    (&["maximum prompt length"], Unsupported),
    // Cohere: its trial keys, and a long prompt.
    (&["api calls / month"], Credential),
    (&["too many tokens", "prompt"], Unsupported),
    // OpenAI and Groq, with status 429 or 413: the request alone is over the limit per minute.
    (&["request too large for"], Unsupported),
    // vLLM, OpenAI, DeepSeek, Mistral, OpenRouter.
    (&["maximum context length"], Unsupported),
    (&["longer than the maximum model length"], Unsupported),
    (&["the model `", "does not exist"], Unsupported),
    // xAI.
    (&["the model ", "does not exist or your team"], Unsupported),
    // SGLang.
    (&["longer than the model's context length"], Unsupported),
    // llama.cpp.
    (&["exceeds the available context size"], Unsupported),
    // Ollama, Cohere.
    (&["model '", "' not found"], Unsupported),
    (&["model \"", "\" not found"], Unsupported),
    // Text-generation-inference, Together.
    (&["`inputs` must have less than"], Unsupported),
    (&["`inputs` tokens + `max_new_tokens` must be <="], Unsupported),
    // Bedrock.
    (&["input is too long for requested model"], Unsupported),
    (&["model identifier", "invalid"], Unsupported),
];

/// The objects below `error` that are searched for a code: `google.rpc.ErrorInfo` and the like.
const MAX_DETAILS: usize = 16;

/// Characters of a code.
const MAX_CODE: usize = 64;

/// The code of an error body: a word without a person's data, for logs.
pub fn code_of_error(body: &[u8]) -> Option<Box<str>> {
    let json = serde_json::from_slice::<Value>(body).ok()?;
    let (_, error) = error_in(&json);
    let is_word_byte = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.');
    let is_word =
        |text: &&str| (1..=MAX_CODE).contains(&text.len()) && text.bytes().all(is_word_byte);
    let texts = CODE_KEYS.iter().filter_map(|key| error.get(key)?.as_str());
    texts.filter(is_word).find(|text| *text != "error").map(Box::from)
}

/// The class that an error body states, if it states more than its status.
pub fn class_of_error(body: &[u8]) -> Option<AttemptClass> {
    let json = serde_json::from_slice::<Value>(body).ok()?;
    let (json, error) = error_in(&json);
    let message = [error.get("message"), json.get("message"), json.get("error")];
    let mut messages = message.into_iter().flatten().filter_map(Value::as_str);
    class_of_code(error)
        .or_else(|| messages.find_map(class_of_message))
        .or_else(|| is_unknown_to_anthropic(error).then_some(Unsupported))
        .or_else(|| {
            details(error).find_map(|detail| {
                class_of_code(detail).or_else(|| is_daily_quota(detail).then_some(Credential))
            })
        })
}

/// Whether an error of class `credential` concerns the request's model only: a quota per model is used
/// up.
pub fn concerns_model(body: &[u8]) -> bool {
    let Ok(json) = serde_json::from_slice::<Value>(body) else { return false };
    let (_, error) = error_in(&json);
    let is_of_model = |detail| has_violation(detail, &["permodel", "per_model", "per model"]);
    class_of_code(error).is_none() && details(error).any(is_of_model)
}

/// The object with the error, and the error.
fn error_in(json: &Value) -> (&Value, &Value) {
    // Google wraps the error in an array when the response is streamed.
    let json = json.get(0).unwrap_or(json);
    // OpenAI's responses wrap it in the response.
    let json = json.get("response").filter(|inner| inner.get("error").is_some()).unwrap_or(json);
    (json, json.get("error").filter(|error| error.is_object()).unwrap_or(json))
}

fn details(error: &Value) -> impl Iterator<Item = &Value> {
    let details = error.get("details").and_then(Value::as_array);
    details.into_iter().flatten().take(MAX_DETAILS)
}

/// The class of a failure whose status, such as 200, says nothing.
pub fn class_of_failure(body: &[u8]) -> AttemptClass {
    class_of_error(body).unwrap_or(AttemptClass::Failure)
}

fn class_of_code(object: &Value) -> Option<AttemptClass> {
    CODE_KEYS
        .iter()
        .filter_map(|key| object.get(key)?.as_str())
        .find_map(|value| CODES.iter().find(|(code, _)| *code == value).map(|(_, class)| *class))
}

fn class_of_message(message: &str) -> Option<AttemptClass> {
    let message = message.to_lowercase();
    let contains = |parts: &[&str]| parts.iter().all(|part| message.contains(part));
    MESSAGES.iter().find(|(parts, _)| contains(parts)).map(|(_, class)| *class)
}

/// Anthropic's error for an unknown model; its type alone is also that of an unknown file or batch.
fn is_unknown_to_anthropic(error: &Value) -> bool {
    let text = |key: &str| error.get(key).and_then(Value::as_str).unwrap_or_default();
    text("type") == "not_found_error" && text("message").starts_with("model:")
}

/// A `google.rpc.QuotaFailure` of a quota per day.
fn is_daily_quota(detail: &Value) -> bool {
    has_violation(detail, &["perday", "per_day", "per day"])
}

/// Whether the name of a violated quota contains one of these words.
fn has_violation(detail: &Value, words: &[&str]) -> bool {
    let violations = detail.get("violations").and_then(Value::as_array);
    violations.into_iter().flatten().take(MAX_DETAILS).any(|violation| {
        let names = ["quotaId", "quotaMetric", "subject", "description"];
        names.iter().filter_map(|name| violation.get(name)?.as_str()).any(|name| {
            let name = name.to_lowercase();
            words.iter().any(|word| name.contains(word))
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_retry_is_useless_in_each_provider_s_words() {
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
            r#"{"type":"response.failed","response":{"status":"failed","error":{"code":"insufficient_quota","message":""}}}"#,
        ] {
            assert_eq!(class_of_error(body.as_bytes()), Some(Credential), "{body}");
        }
    }

    #[test]
    fn a_quota_per_model_concerns_that_model_only() {
        let quota = |id: &str| {
            r#"{"error":{"details":[{"violations":[{"quotaId":"ID"}]}]}}"#.replace("ID", id)
        };
        assert!(concerns_model(quota("GenerateRequestsPerDayPerProjectPerModel").as_bytes()));
        assert!(!concerns_model(quota("RequestsPerDayPerProject").as_bytes()));
        assert!(!concerns_model(br#"{"error":{"code":"insufficient_quota"}}"#));
        assert!(!concerns_model(b""));
    }

    #[test]
    fn a_request_is_too_long_in_each_provider_s_words() {
        for body in [
            r#"{"error":{"message":"Your input exceeds the context window of this model.","type":"invalid_request_error","param":"input","code":"context_length_exceeded"}}"#,
            r#"{"error":{"message":"Request too large for gpt-4o in organization org-x on tokens per min (TPM): Limit 30000, Requested 50000.","type":"tokens","code":"rate_limit_exceeded"}}"#,
            r#"{"type":"error","error":{"type":"invalid_request_error","message":"prompt is too long: 210000 tokens > 200000 maximum"}}"#,
            r#"{"type":"error","error":{"type":"invalid_request_error","message":"input length and `max_tokens` exceed context limit: 190000 + 20000 > 200000"}}"#,
            r#"{"type":"error","error":{"type":"request_too_large","message":"Request exceeds the maximum size"}}"#,
            r#"{"error":{"code":400,"message":"The input token count (1200000) exceeds the maximum number of tokens allowed (1048576).","status":"INVALID_ARGUMENT"}}"#,
            r#"{"object":"error","message":"Prompt contains 140000 tokens, too large for model with 131072 maximum context length","type":"invalid_request_error","code":"3051"}"#,
            r#"{"object":"error","message":"This model's maximum context length is 4096 tokens. However, you requested 5000 tokens","type":"BadRequestError","code":400}"#,
            r#"{"error":{"message":"The decoder prompt (length 5000) is longer than the maximum model length of 4096.","type":"BadRequestError","code":400}}"#,
            r#"{"object":"error","message":"The input (5000 tokens) is longer than the model's context length (4096 tokens).","code":400}"#,
            r#"{"error":{"code":400,"message":"the request exceeds the available context size","type":"exceed_context_size_error"}}"#,
            r#"{"message":"Input is too long for requested model."}"#,
            r#"{"message":"too many tokens: total number of tokens in the prompt cannot exceed 4081"}"#,
            r#"{"error":"This model's maximum prompt length is 131072 but the request contains 150000 tokens."}"#,
            r#"{"type":"response.failed","response":{"status":"failed","error":{"code":"context_length_exceeded"}}}"#,
        ] {
            assert_eq!(class_of_error(body.as_bytes()), Some(Unsupported), "{body}");
        }
    }

    #[test]
    fn a_model_is_unknown_in_each_provider_s_words() {
        for body in [
            r#"{"error":{"message":"The model `gpt-9` does not exist or you do not have access to it.","type":"invalid_request_error","code":"model_not_found"}}"#,
            r#"{"error":{"code":"DeploymentNotFound","message":"The API deployment for this resource does not exist."}}"#,
            r#"{"type":"error","error":{"type":"not_found_error","message":"model: claude-9"}}"#,
            r#"{"error":{"code":404,"message":"models/gemini-9 is not found for API version v1beta, or is not supported for generateContent.","status":"NOT_FOUND"}}"#,
            r#"{"error":{"code":404,"message":"Publisher Model `projects/p/locations/l/publishers/google/models/x` was not found","status":"NOT_FOUND"}}"#,
            r#"{"object":"error","message":"Invalid model: mistral-9","type":"invalid_model","code":"1500"}"#,
            r#"{"object":"error","message":"The model `x` does not exist.","type":"NotFoundError","code":404}"#,
            r#"{"error":"model 'x' not found"}"#,
            r#"{"error":{"message":"model \"x\" not found, try pulling it first","type":"api_error"}}"#,
            r#"{"message":"model 'x' not found, make sure the correct model ID was used"}"#,
            r#"{"message":"The provided model identifier is invalid."}"#,
            r#"{"error":{"message":"Model Not Exist","type":"invalid_request_error"}}"#,
            r#"{"error":{"message":"x/y is not a valid model ID","code":400}}"#,
            r#"{"error":"The model grok-9 does not exist or your team t does not have access to it."}"#,
        ] {
            assert_eq!(class_of_error(body.as_bytes()), Some(Unsupported), "{body}");
        }
    }

    #[test]
    fn the_code_of_an_error_is_a_word() {
        for (body, code) in [
            (r#"{"error":{"code":"insufficient_quota","type":"x"}}"#, Some("insufficient_quota")),
            (r#"{"type":"error","error":{"type":"overloaded_error"}}"#, Some("overloaded_error")),
            (
                r#"[{"error":{"code":429,"status":"RESOURCE_EXHAUSTED"}}]"#,
                Some("RESOURCE_EXHAUSTED"),
            ),
            (r#"{"error":{"code":"Incorrect key sk-1"}}"#, None),
            (r#"{"error":"down"}"#, None),
            ("", None),
        ] {
            assert_eq!(code_of_error(body.as_bytes()).as_deref(), code, "{body}");
        }
    }

    #[test]
    fn other_errors_say_no_more_than_their_status() {
        for body in [
            r#"{"error":{"message":"Rate limit reached for gpt-4o","type":"requests","code":"rate_limit_exceeded"}}"#,
            r#"{"type":"error","error":{"type":"rate_limit_error","message":"This request would exceed your rate limit"}}"#,
            r#"{"type":"error","error":{"type":"overloaded_error"}}"#,
            r#"{"error":{"code":429,"status":"RESOURCE_EXHAUSTED","message":"You exceeded your current quota, please check your plan and billing details.","details":[{"violations":[{"quotaId":"GenerateRequestsPerMinutePerProjectPerModel"}]}]}}"#,
            r#"{"type":"error","error":{"type":"not_found_error","message":"File not found: file_1"}}"#,
            r#"{"type":"error","error":{"type":"invalid_request_error","message":"model: Field required"}}"#,
            r#"{"error":{"message":"max_tokens is too large: 99999","code":"invalid_value"}}"#,
            r#"{"error":"car model 7 not found"}"#,
            "not JSON",
            "",
            "[]",
        ] {
            assert_eq!(class_of_error(body.as_bytes()), None, "{body}");
        }
    }
}
