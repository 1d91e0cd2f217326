//! The section `caches` exactly as written; see `raw.rs`.

use schemars::JsonSchema;
use serde::Deserialize;

use crate::policy::yaml::types::{At, Length, Size, TextOr};

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Cache")]
pub struct RawCache {
    /// Of all stored answers together, their heads included. Default 256MiB.
    pub max_bytes: Option<At<Size>>,
    /// `http`: what RFC 9111 lets a shared cache keep; or `{ ttl, key, public }` for what HTTP calls uncacheable, like the POSTs of an LLM API. Default http.
    pub store: Option<At<TextOr<RawKeeps>>>,
    /// How long after it went stale an answer serves in place of an error; what the answer says itself stands over it. Default 1h.
    pub stale_if_error: Option<At<Length>>,
    /// How long after it went stale an answer serves while it is asked for anew; what the answer says itself stands over it. Default 30s.
    pub stale_while_revalidate: Option<At<Length>>,
}

/// Every good and whole answer, whatever its method and its headers say.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Keeps")]
pub struct RawKeeps {
    /// How long an answer serves.
    #[schemars(required)]
    pub ttl: Option<At<Length>>,
    /// Requests that are equal in these have the same answer: `method`, `path`, `query`, `body`, `header:NAME`. Default method, path, query, body.
    pub key: Option<At<Vec<At<String>>>>,
    /// Whether an answer serves whoever asks; else only who asks with the same credentials. Default false.
    pub public: Option<At<bool>>,
}
