//! The section `caches`: which answers are kept, under which key, and how long they serve.

use std::time::Duration;

use http::HeaderName;

use super::raw::RawRoute;
use super::raw_caches::{RawCache, RawKeeps};
use super::routes::Known;
use super::rules::named;
use crate::policy::section::checker::{Check, MS};
use crate::policy::yaml::types::{At, TextOr};

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

/// The longest that a stored answer may serve.
const MONTH: Duration = Duration::from_secs(30 * 86_400);

impl Check<'_> {
    pub(crate) fn cache(&mut self, name: &str, raw: &RawCache) -> Cache {
        let zero = Duration::ZERO;
        let hour = Duration::from_secs(3600);
        Cache {
            name: name.to_owned(),
            max_bytes: self.size(&raw.max_bytes, 256 << 20, 1 << 16..=1 << 40),
            store: raw.store.as_ref().map_or(Keeps::Http, |at| self.keeps(at)),
            stale_if_error: self.length(&raw.stale_if_error, hour, zero..=MONTH),
            stale_while_revalidate: self.length(
                &raw.stale_while_revalidate,
                Duration::from_secs(30),
                zero..=MONTH,
            ),
        }
    }

    fn keeps(&mut self, at: &At<TextOr<RawKeeps>>) -> Keeps {
        let raw = match &at.value {
            TextOr::Text(word) => {
                if word != "http" {
                    self.unknown_word(at.id, word, &["http"]);
                }
                return Keeps::Http;
            }
            TextOr::Keys(raw) => raw,
        };
        self.missing(at.id, "ttl", "no `ttl`: expected how long an answer serves, like `10m`");
        Keeps::Always {
            ttl: self.length(&raw.ttl, MS, MS..=MONTH),
            key: raw.key.as_ref().map_or_else(usual_key, |at| self.key_parts(at)),
            public: raw.public.is_some_and(|at| at.value),
        }
    }

    fn key_parts(&mut self, listed: &At<Vec<At<String>>>) -> Vec<KeyPart> {
        let mut parts = Vec::new();
        for at in &listed.value {
            let Some(part) = self.key_part(at) else { continue };
            if parts.contains(&part) {
                self.error(at.id, format!("`{}` is listed twice", at.value));
            }
            parts.push(part);
        }
        if listed.is_empty() && !self.tree.damaged(listed.id) {
            self.error(
                listed.id,
                "no part of the key: every request would have the same answer (expected like `[method, path, query, body]`)",
            );
        }
        parts
    }

    fn key_part(&mut self, at: &At<String>) -> Option<KeyPart> {
        Some(match at.as_str() {
            "method" => KeyPart::Method,
            "path" => KeyPart::Path,
            "query" => KeyPart::Query,
            "body" => KeyPart::Body,
            other => match other.strip_prefix("header:") {
                Some(name) => {
                    KeyPart::Header(self.header_name(&At { id: at.id, value: name.to_owned() })?)
                }
                None => {
                    let known = ["method", "path", "query", "body", "header:NAME"];
                    self.unknown_word(at.id, other, &known);
                    return None;
                }
            },
        })
    }

    /// A place in the list; `None` where nothing is stored.
    pub(crate) fn route_cache(&mut self, raw: &RawRoute, known: &Known<'_>) -> Option<usize> {
        let at = raw.cache.as_ref()?;
        if at.as_str() == "none" {
            return None;
        }
        named(self, at, "cache", "caches", known.caches)
    }
}

fn usual_key() -> Vec<KeyPart> {
    vec![KeyPart::Method, KeyPart::Path, KeyPart::Query, KeyPart::Body]
}
