//! Errors that come with a status of success: an error document, a page of HTML, an empty or broken
//! body.
//!
//! The judgement depends on what was requested. A response to a request of a known API is JSON or a
//! stream of events; an error in it, and nothing else, is a failure. Any other response, such as audio
//! or a file, may contain anything.

use std::sync::LazyLock;

use http::header::ACCEPT;
use http::{Method, StatusCode};
use memchr::memmem::{self, Finder};

use super::classify::{ContentType, MediaKind};
use crate::json::pointer::Pointer;
use crate::json::pointer_set::PointerSet;
use crate::json::scan::{PointerMatches, scan};
use crate::json::value;
use crate::proxy::request::head::RequestHead;
use crate::stream::api::is_generating;

/// Built once: most responses do not have it, and are searched for nothing else.
static KEY: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(b"\"error\""));

/// The members of a response that has content, in any of the known APIs.
const CONTENT: [&str; 13] = [
    "/choices",
    "/output",
    "/content",
    "/candidates",
    "/promptFeedback",
    "/message/content",
    "/message/tool_calls",
    "/response",
    "/data",
    "/embedding",
    "/embeddings",
    "/results",
    "/predictions",
];

/// Whether the head alone shows a failure: a page of HTML instead of JSON or a stream.
pub fn is_unwanted_page(head: &RequestHead, status: StatusCode, response: ContentType) -> bool {
    response.kind == MediaKind::Html && status == StatusCode::OK && expects_json(head)
}

/// Whether the complete body of a successful response shows a failure.
pub fn is_disguised_error(
    head: &RequestHead,
    status: StatusCode,
    response: ContentType,
    body: &[u8],
) -> bool {
    let is_judged = status == StatusCode::OK
        && *head.method() == Method::POST
        && (body.is_empty() || response.may_be_mislabelled())
        && is_generating(head.uri().path());
    let is_broken = body.is_empty() || response.is_json() && !has_ends_of_json(body);
    // The search comes last: the body may be large.
    is_judged && (is_broken || KEY.find(body).is_some() && is_error_document(body))
}

/// Whether it begins and ends as an object or an array: what was cut off, or is a text, does not. The
/// whole is not read.
fn has_ends_of_json(body: &[u8]) -> bool {
    let body = body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body).trim_ascii();
    matches!((body.first(), body.last()), (Some(b'{'), Some(b'}')) | (Some(b'['), Some(b']')))
}

/// The request is one of a known API, or accepts JSON or events and nothing else.
fn expects_json(head: &RequestHead) -> bool {
    if *head.method() == Method::POST && is_generating(head.uri().path()) {
        return true;
    }
    let mut accepted = head.headers().get_all(ACCEPT).iter().flat_map(|value| {
        let text = value.to_str().unwrap_or_default();
        text.split(',').map(|range| range.split(';').next().unwrap_or_default().trim())
    });
    let is_data = |range: &str| matches!(range, "application/json" | "text/event-stream");
    let first = accepted.next();
    first.is_some_and(is_data) && accepted.all(is_data) && *head.method() != Method::HEAD
}

/// A JSON object with an error and none of the usual content. A refusal by a content filter is a
/// response like any other, and so is the error of a JSON-RPC call.
fn is_error_document(body: &[u8]) -> bool {
    let mut pointers = PointerSet::default();
    let mut slot = |text: &str| Pointer::parse(text).map_or(0, |pointer| pointers.slot(&pointer));
    let (error, json_rpc) = (slot("/error"), slot("/jsonrpc"));
    let content = CONTENT.map(&mut slot);
    let mut found = PointerMatches::default();
    if scan(body, &pointers, &mut found).is_err() || found.at(json_rpc).is_some() {
        return false;
    }
    let has_content =
        content.iter().filter_map(|slot| found.value(*slot, body)).any(value::is_present);
    let error = found.value(error, body).filter(|error| value::is_set(error));
    error.is_some_and(|error| !is_refusal(error)) && !has_content
}

fn is_refusal(error: &[u8]) -> bool {
    ["content_filter", "content_policy"]
        .iter()
        .any(|code| memmem::find(error, code.as_bytes()).is_some())
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::{HeaderMap, HeaderValue};

    fn head(method: Method, path: &'static str, accept: &'static str) -> RequestHead {
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, HeaderValue::from_static(accept));
        RequestHead::new(method, path.parse().expect("a path"), headers)
    }

    const JSON: ContentType = ContentType { kind: MediaKind::Json, encoded: false };

    fn fails(path: &'static str, body: &str) -> bool {
        let head = head(Method::POST, path, "*/*");
        is_disguised_error(&head, StatusCode::OK, JSON, body.as_bytes())
    }

    #[test]
    fn an_error_without_content_is_a_failure_in_each_api() {
        for (path, body) in [
            ("/v1/chat/completions", r#"{"error":{"message":"overloaded","code":502}}"#),
            ("/v1/chat/completions", r#"{"error":"overloaded","choices":[]}"#),
            (
                "/v1/responses",
                r#"{"id":"r","status":"failed","error":{"code":"server_error"},"output":[]}"#,
            ),
            (
                "/v1/messages",
                r#"{"type":"error","error":{"type":"overloaded_error","message":"x"}}"#,
            ),
            (
                "/v1beta/models/m:generateContent",
                r#"{"error":{"code":503,"status":"UNAVAILABLE"}}"#,
            ),
            ("/v1/embeddings", r#"{"error":{"message":"x"}}"#),
            ("/api/chat", r#"{"error":"model failed"}"#),
            ("/v1/chat/completions", ""),
            ("/v1/chat/completions", "  \n"),
            ("/v1/chat/completions", r#"{"error":"#),
            ("/v1/messages", r#"{"content":[{"type":"text","#),
            ("/v1/embeddings", "upstream connect error"),
        ] {
            assert!(fails(path, body), "{path} {body}");
        }
    }

    #[test]
    fn a_response_with_content_or_of_another_kind_is_none() {
        for (path, body) in [
            ("/v1/chat/completions", r#"{"choices":[{"message":{}}],"error":{"message":"x"}}"#),
            ("/v1/chat/completions", r#"{"choices":[{"message":{}}],"error":null}"#),
            ("/v1/responses", r#"{"output":[{}],"error":null}"#),
            ("/v1/responses", r#"{"output":[],"error":null}"#),
            ("/v1/chat/completions", r#"{"error":{"code":"content_filter","message":"filtered"}}"#),
            ("/v1/chat/completions", r#"{"jsonrpc":"2.0","error":{"code":1}}"#),
            ("/v1/chat/completions", "\u{feff} {\"choices\":[{}]}\n"),
            ("/v1beta/models/m:streamGenerateContent", r#"[{"candidates":[{}]}]"#),
            ("/rpc", r#"{"error":"#),
            ("/rpc", r#"{"error":{"message":"x"}}"#),
            ("/v1/audio/speech", ""),
            ("/v1/audio/transcriptions", "error"),
        ] {
            assert!(!fails(path, body), "{path} {body}");
        }
        let post = head(Method::POST, "/v1/chat/completions", "*/*");
        assert!(!is_disguised_error(&post, StatusCode::NO_CONTENT, JSON, b""));
        let get = head(Method::GET, "/v1/responses", "*/*");
        assert!(!is_disguised_error(&get, StatusCode::OK, JSON, br#"{"error":{"code":"x"}}"#));
    }

    #[test]
    fn a_page_is_a_failure_where_json_was_requested() {
        let html = ContentType { kind: MediaKind::Html, encoded: false };
        let is_unwanted = |method, path, accept| {
            is_unwanted_page(&head(method, path, accept), StatusCode::OK, html)
        };
        assert!(is_unwanted(Method::POST, "/v1/chat/completions", "*/*"));
        assert!(is_unwanted(Method::GET, "/v1/models", "application/json"));
        assert!(is_unwanted(Method::POST, "/x", "application/json, text/event-stream;q=0.9"));
        assert!(!is_unwanted(Method::GET, "/", "text/html, application/json"));
        assert!(!is_unwanted(Method::GET, "/", "application/json, */*"));
        assert!(!is_unwanted(Method::HEAD, "/v1/models", "application/json"));
        assert!(!is_unwanted(Method::POST, "/v1/audio/speech", "*/*"));
    }
}
