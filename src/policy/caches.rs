//! What a policy says of stored answers: which are kept, under which key, and how long they serve.

use std::time::Duration;

use http::HeaderName;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cache {
    pub name: String,
    pub max_bytes: u64,
    pub store: Keeps,
    /// How long after it went stale an answer serves in place of an error, unless the answer itself
    /// says otherwise. Zero: not.
    pub stale_if_error: Duration,
    /// How long after it went stale an answer serves while it is asked for anew, unless the answer
    /// itself says otherwise. Zero: not.
    pub stale_while_revalidate: Duration,
}

/// Which answers are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Keeps {
    /// What RFC 9111 lets a shared cache keep.
    Http,
    /// Every good and whole answer, whatever its method and its headers say.
    Always {
        ttl: Duration,
        /// Requests that are equal in these have the same answer. At least one.
        key: Vec<KeyPart>,
        /// Whoever asks; else only who asks with the same credentials.
        public: bool,
    },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyPart {
    Method,
    Path,
    Query,
    /// Of JSON, what it says and not how it is written.
    Body,
    Header(HeaderName),
}
