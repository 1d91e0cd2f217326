//! The APIs whose streams are known, and the final error event of each.
//!
//! Each SDK reads an error in the form that its own API sends it. OpenAI's SDKs look for `error` in a
//! chunk. Mistral's SDK accepts nothing but chunks, with the reason `error` among others; OpenRouter
//! sends both in one chunk, which satisfies either. Google's SDKs read nothing but lines of data.

use serde_json::{Value, json};

use super::framing::StreamFormat;
use crate::policy::presets::generation::GenerationKind;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Api {
    /// OpenAI's chat completions, and the APIs that follow them.
    Chat,
    /// OpenAI's responses.
    Responses,
    /// Anthropic's messages.
    Messages,
    /// Google's `generateContent`.
    Google,
    /// Cohere's chat, version 2.
    Cohere,
    /// Ollama's lines.
    Ollama,
}

impl Api {
    /// The API whose requests have this path.
    pub fn of_path(path: &str) -> Option<Api> {
        match GenerationKind::of_path(path)? {
            GenerationKind::Chat => Some(Api::Chat),
            GenerationKind::Responses => Some(Api::Responses),
            GenerationKind::Messages => Some(Api::Messages),
            GenerationKind::GenerateContent => Some(Api::Google),
            GenerationKind::CohereChat => Some(Api::Cohere),
            GenerationKind::Ollama => Some(Api::Ollama),
            _ => None,
        }
    }
}

/// Whether the response to a POST to this path is a model's, in JSON or as a stream.
pub fn is_generating(path: &str) -> bool {
    use GenerationKind::*;
    GenerationKind::of_path(path)
        .is_some_and(|found| !matches!(found, Audio | Images | Ocr | Converse))
}

/// The facts of a stream that its final event depends on.
#[derive(Clone, Debug)]
pub struct StreamTail {
    pub api: Option<Api>,
    pub format: StreamFormat,
    /// The `id` and `model` of the stream's chunks.
    pub id: Option<String>,
    pub model: Option<String>,
    /// The number of the next event (OpenAI's responses).
    pub sequence: u64,
    /// An element of the array comes before it.
    pub has_elements: bool,
}

/// An interruption, to be reported in a final event.
#[derive(Clone, Copy, Debug)]
pub struct StreamError<'e> {
    /// As a status: 502 or 504.
    pub status: u16,
    pub name: &'e str,
    pub message: &'e str,
    /// Problem JSON, for a stream of no known API.
    pub problem: &'e [u8],
}

/// The final event.
pub fn error_event(tail: &StreamTail, error: StreamError<'_>) -> Vec<u8> {
    let (name, data) = match tail.api {
        Some(api) => api.error(tail, error),
        None => ("error", String::from_utf8_lossy(error.problem).into_owned()),
    };
    match tail.format {
        StreamFormat::Sse if name.is_empty() => format!("data: {data}\n\n"),
        StreamFormat::Sse => format!("event: {name}\ndata: {data}\n\n"),
        StreamFormat::Array => format!("{}{data}\n]", if tail.has_elements { ",\n" } else { "" }),
        StreamFormat::Lines | StreamFormat::Undetermined | StreamFormat::Document => {
            format!("{data}\n")
        }
    }
    .into_bytes()
}

impl Api {
    /// The name and the data of an error event.
    fn error(self, tail: &StreamTail, error: StreamError<'_>) -> (&'static str, String) {
        let StreamError { status, name, message, .. } = error;
        let is_timeout = status == 504;
        let event = match self {
            Api::Chat => chunk(tail, &error),
            Api::Responses => json!({
                "type": "error", "code": name, "message": message, "param": null,
                "sequence_number": tail.sequence,
                "error": { "type": "server_error", "code": name, "message": message, "param": null },
            }),
            Api::Messages => {
                let kind = if is_timeout { "timeout_error" } else { "api_error" };
                json!({ "type": "error", "error": { "type": kind, "message": message } })
            }
            Api::Google => {
                let (code, status) =
                    if is_timeout { (504, "DEADLINE_EXCEEDED") } else { (503, "UNAVAILABLE") };
                json!({ "error": { "code": code, "message": message, "status": status } })
            }
            Api::Cohere => json!({
                "type": "message-end", "delta": { "finish_reason": "ERROR", "error": message },
            }),
            Api::Ollama => json!({ "error": message }),
        };
        let name = match self {
            Api::Responses | Api::Messages => "error",
            Api::Cohere => "message-end",
            Api::Chat | Api::Google | Api::Ollama => "",
        };
        (name, event.to_string())
    }
}

/// A chunk of a chat completion that is also an error.
fn chunk(tail: &StreamTail, error: &StreamError<'_>) -> Value {
    json!({
        "id": tail.id.as_deref().unwrap_or("interrupted"),
        "object": "chat.completion.chunk",
        "created": 0,
        "model": tail.model.as_deref().unwrap_or_default(),
        "choices": [{ "index": 0, "delta": { "content": "" }, "finish_reason": "error" }],
        "error": { "message": error.message, "type": error.name, "code": error.status, "param": null },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(api: Option<Api>, format: StreamFormat) -> String {
        let tail = StreamTail {
            api,
            format,
            id: Some("chatcmpl-1".to_owned()),
            model: Some("gpt".to_owned()),
            sequence: 7,
            has_elements: true,
        };
        let error =
            StreamError { status: 504, name: "late", message: "too \"late\"", problem: b"{}" };
        String::from_utf8(error_event(&tail, error)).expect("UTF-8")
    }

    fn data(event: &str) -> Value {
        let line = event.lines().find_map(|line| line.strip_prefix("data: ")).expect("data");
        serde_json::from_str(line).expect("JSON")
    }

    #[test]
    fn an_error_event_has_the_form_of_its_api() {
        let chat = event(Some(Api::Chat), StreamFormat::Sse);
        assert!(chat.starts_with("data: ") && chat.ends_with("\n\n"));
        let chat = data(&chat);
        assert_eq!(chat["error"]["message"], "too \"late\"");
        assert_eq!((&chat["id"], &chat["model"]), (&json!("chatcmpl-1"), &json!("gpt")));
        assert_eq!(chat["choices"][0]["finish_reason"], "error");
        let responses = event(Some(Api::Responses), StreamFormat::Sse);
        assert!(responses.starts_with("event: error\n"));
        let responses = data(&responses);
        assert_eq!(
            (&responses["type"], &responses["sequence_number"]),
            (&json!("error"), &json!(7))
        );
        assert_eq!(
            (&responses["code"], &responses["error"]["code"]),
            (&json!("late"), &json!("late"))
        );
        let anthropic = event(Some(Api::Messages), StreamFormat::Sse);
        assert!(anthropic.starts_with("event: error\n"));
        assert_eq!(data(&anthropic)["error"]["type"], "timeout_error");
        let google = event(Some(Api::Google), StreamFormat::Sse);
        assert!(google.starts_with("data: "), "its SDK reads no other field");
        let expected = json!({ "error": { "code": 504, "message": "too \"late\"", "status": "DEADLINE_EXCEEDED" } });
        assert_eq!(data(&google), expected);
        let array = format!("[{{}}{}", event(Some(Api::Google), StreamFormat::Array));
        assert_eq!(serde_json::from_str::<Value>(&array).expect("JSON")[1], expected);
        let cohere = event(Some(Api::Cohere), StreamFormat::Sse);
        assert!(cohere.starts_with("event: message-end\n"));
        assert_eq!(data(&cohere)["delta"]["finish_reason"], "ERROR");
        let ollama = event(Some(Api::Ollama), StreamFormat::Lines);
        assert_eq!(
            serde_json::from_str::<Value>(&ollama).expect("JSON"),
            json!({ "error": "too \"late\"" })
        );
        assert_eq!(event(None, StreamFormat::Sse), "event: error\ndata: {}\n\n");
    }

    #[test]
    fn the_path_of_a_request_names_its_api() {
        for (path, api) in [
            ("/v1/chat/completions", Some(Api::Chat)),
            ("/openai/deployments/d/chat/completions", Some(Api::Chat)),
            ("/v1/responses", Some(Api::Responses)),
            ("/v1/messages", Some(Api::Messages)),
            ("/v1beta/models/m:streamGenerateContent", Some(Api::Google)),
            ("/v2/chat", Some(Api::Cohere)),
            ("/api/chat", Some(Api::Ollama)),
            ("/v1/audio/speech", None),
            ("/v1/files", None),
        ] {
            assert_eq!(Api::of_path(path), api, "{path}");
        }
        assert!(is_generating("/v1/embeddings") && !is_generating("/v1/audio/transcriptions"));
    }
}
