//! The words of the semantic conventions for generative AI.

/// Ends of paths, and the operation that they request; the first that fits counts.
const OPERATIONS: [(&str, &str); 17] = [
    ("/chat/completions", "chat"),
    ("/messages", "chat"),
    ("/responses", "chat"),
    ("/v2/chat", "chat"),
    ("/api/chat", "chat"),
    ("/converse", "chat"),
    ("/converse-stream", "chat"),
    (":rawPredict", "chat"),
    (":streamRawPredict", "chat"),
    ("/completions", "text_completion"),
    ("/api/generate", "text_completion"),
    (":generateContent", "generate_content"),
    (":streamGenerateContent", "generate_content"),
    ("/embeddings", "embeddings"),
    ("/embed", "embeddings"),
    (":embedContent", "embeddings"),
    (":batchEmbedContents", "embeddings"),
];

/// The names of the presets whose provider the conventions call otherwise.
const PROVIDERS: [(&str, &str); 5] = [
    ("azure", "azure.ai.openai"),
    ("bedrock", "aws.bedrock"),
    ("gemini", "gcp.gemini"),
    ("mistral", "mistral_ai"),
    ("vertex", "gcp.vertex_ai"),
];

/// `gen_ai.operation.name` of a request to this path, if it is one of generative AI.
pub fn operation(path: &str) -> Option<&'static str> {
    let path = path.trim_end_matches('/');
    OPERATIONS.iter().find(|(end, _)| path.ends_with(end)).map(|(_, operation)| *operation)
}

/// `gen_ai.provider.name` of a preset.
pub fn provider(preset: &str) -> &str {
    PROVIDERS.iter().find(|(known, _)| *known == preset).map_or(preset, |(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_operation_follows_from_the_end_of_the_path() {
        for (path, expected) in [
            ("/v1/chat/completions", Some("chat")),
            ("/v1/completions", Some("text_completion")),
            ("/v1/messages", Some("chat")),
            ("/v1beta/models/gemini-2.5-pro:streamGenerateContent", Some("generate_content")),
            ("/v1/embeddings/", Some("embeddings")),
            ("/v1/files", None),
        ] {
            assert_eq!(operation(path), expected, "{path}");
        }
    }

    #[test]
    fn a_provider_has_the_name_of_the_conventions() {
        assert_eq!(
            ["openai", "bedrock", "ollama"].map(provider),
            ["openai", "aws.bedrock", "ollama"]
        );
    }
}
