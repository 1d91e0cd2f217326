//! The requests of LLM APIs that only generate: a POST that leaves nothing behind but its response, so
//! that the same request may be sent twice. They are recognized by the end of their path, whatever
//! the base path of the provider.

use std::sync::LazyLock;

use memchr::memmem::Finder;

use crate::json::scan::Members;
use crate::json::value;
use crate::policy::section::words;

words! {
    /// A kind of request: by what it generates, or by its API.
    pub enum GenerationKind {
        /// OpenAI's chat completions and completions, and the APIs that follow them.
        Chat = "chat",
        /// OpenAI's responses.
        Responses = "responses",
        /// Anthropic's messages, also at Vertex AI.
        Messages = "messages",
        /// Google's `generateContent`.
        GenerateContent = "generate_content",
        /// Cohere's chat, version 2.
        CohereChat = "cohere_chat",
        /// Ollama's own API.
        Ollama = "ollama",
        /// Amazon Bedrock's Converse and InvokeModel.
        Converse = "converse",
        Embeddings = "embeddings",
        Rerank = "rerank",
        Moderations = "moderations",
        CountTokens = "count_tokens",
        Audio = "audio",
        Images = "images",
        Ocr = "ocr",
    }
}

/// Ends of paths; frequent ones first.
const PATHS: [(&str, GenerationKind); 31] = [
    ("/completions", GenerationKind::Chat),
    ("/responses", GenerationKind::Responses),
    ("/messages", GenerationKind::Messages),
    ("/embeddings", GenerationKind::Embeddings),
    (":generateContent", GenerationKind::GenerateContent),
    (":streamGenerateContent", GenerationKind::GenerateContent),
    (":rawPredict", GenerationKind::Messages),
    (":streamRawPredict", GenerationKind::Messages),
    ("/v2/chat", GenerationKind::CohereChat),
    ("/api/chat", GenerationKind::Ollama),
    ("/api/generate", GenerationKind::Ollama),
    ("/converse", GenerationKind::Converse),
    ("/converse-stream", GenerationKind::Converse),
    ("/invoke", GenerationKind::Converse),
    ("/invoke-with-response-stream", GenerationKind::Converse),
    ("/embed", GenerationKind::Embeddings),
    (":embedContent", GenerationKind::Embeddings),
    (":batchEmbedContents", GenerationKind::Embeddings),
    (":predict", GenerationKind::Embeddings),
    ("/rerank", GenerationKind::Rerank),
    ("/moderations", GenerationKind::Moderations),
    ("/count_tokens", GenerationKind::CountTokens),
    (":countTokens", GenerationKind::CountTokens),
    ("/tokenize", GenerationKind::CountTokens),
    ("/audio/transcriptions", GenerationKind::Audio),
    ("/audio/translations", GenerationKind::Audio),
    ("/audio/speech", GenerationKind::Audio),
    ("/images/generations", GenerationKind::Images),
    ("/images/edits", GenerationKind::Images),
    ("/images/variations", GenerationKind::Images),
    ("/ocr", GenerationKind::Ocr),
];

/// Members of a body by which OpenAI's responses or Anthropic's messages refer to or change what is
/// stored at the provider, go on without the client, or call the tools of a third party.
const STATE: [&str; 5] =
    ["previous_response_id", "conversation", "background", "mcp_servers", "container"];
/// A tool of this type is called by the provider.
const REMOTE_TOOL: &[u8] = b"\"mcp\"";

/// Built once, because each body of these APIs is searched for all of them.
static STATE_KEYS: LazyLock<[Finder<'static>; STATE.len()]> =
    LazyLock::new(|| STATE.map(Finder::new));
static REMOTE_TOOLS: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(REMOTE_TOOL));

impl GenerationKind {
    /// The kind of a POST to this path that does nothing but generate its response. The body is
    /// `None` where it cannot be read.
    pub fn of_request(path: &str, body: Option<&[u8]>) -> Option<GenerationKind> {
        GenerationKind::of_path(path).filter(|kind| match kind {
            GenerationKind::Responses | GenerationKind::Messages => {
                body.is_some_and(|body| !has_state(body))
            }
            _ => true,
        })
    }

    /// The kind of a POST to this path.
    pub fn of_path(path: &str) -> Option<GenerationKind> {
        let found = PATHS.iter().find(|(end, _)| path.ends_with(end)).map(|(_, found)| *found);
        // A message that is added to a thread of OpenAI's assistants is stored there.
        found.filter(|found| *found != GenerationKind::Messages || !path.contains("/threads/"))
    }

    /// The ends of its paths.
    pub fn paths(self) -> impl Iterator<Item = &'static str> {
        PATHS.iter().filter(move |(_, found)| *found == self).map(|(end, _)| *end)
    }
}

fn has_state(body: &[u8]) -> bool {
    let last = |name| Members::new(body, name).last().map(|at| &body[at]);
    let mut members = STATE.iter().zip(STATE_KEYS.iter());
    members.any(|(name, key)| key.find(body).is_some() && last(*name).is_some_and(value::is_set))
        || REMOTE_TOOLS.find(body).is_some()
            && last("tools").is_some_and(|tools| REMOTE_TOOLS.find(tools).is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_path_of_a_post_says_what_it_generates() {
        for (path, expected) in [
            ("/v1/chat/completions", Some(GenerationKind::Chat)),
            ("/openai/deployments/d/chat/completions", Some(GenerationKind::Chat)),
            ("/v1/fim/completions", Some(GenerationKind::Chat)),
            ("/v1/responses", Some(GenerationKind::Responses)),
            ("/v1/messages", Some(GenerationKind::Messages)),
            ("/v1beta/models/m:streamGenerateContent", Some(GenerationKind::GenerateContent)),
            ("/model/m/converse-stream", Some(GenerationKind::Converse)),
            ("/v1/audio/transcriptions", Some(GenerationKind::Audio)),
            ("/v1/threads/t/messages", None),
            ("/v1/threads/t/runs", None),
            ("/v1/messages/batches", None),
            ("/v1/responses/r/cancel", None),
            ("/v1/files", None),
            ("/v1/fine_tuning/jobs", None),
            ("/", None),
        ] {
            assert_eq!(GenerationKind::of_path(path), expected, "{path}");
        }
    }

    #[test]
    fn a_body_that_refers_to_stored_state_is_recognized() {
        for body in [
            r#"{"model":"m","previous_response_id":"resp_1"}"#,
            r#"{"conversation":{"id":"conv_1"},"input":"x"}"#,
            r#"{"background":true}"#,
            r#"{"tools":[{"type": "mcp","server_url":"https://a"}]}"#,
            r#"{"mcp_servers":[{"type":"url"}],"messages":[]}"#,
            r#"{"container":"container_1"}"#,
        ] {
            assert!(has_state(body.as_bytes()), "{body}");
        }
        for body in [
            r#"{"input":"x"}"#,
            r#"{"input":"x","store":true}"#,
            r#"{"background":false,"previous_response_id":null,"conversation":null}"#,
            r#"{"input":[{"content":"the conversation in the background, \"mcp\""}]}"#,
            r#"{"mcp_servers":[],"messages":[]}"#,
        ] {
            assert!(!has_state(body.as_bytes()), "{body}");
        }
    }
}
