//! The section `caches`: which responses are stored, under which key, and how long they are used.

use std::time::Duration;

use http::HeaderName;

use super::rewrite::header_name;
use crate::policy::section::{
    Checker, Display, Form, Reference, Size, ValueShape, section, text_form,
};
use crate::policy::yaml::tree::NodeId;
use crate::policy::yaml::units::{HOUR, MONTH, MS};

section! {
    /// Stored responses.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct Cache {
        /// Memory of all stored responses together, their heads included.
        max_bytes: u64 as Size = 256 << 20, in 1 << 16..=1 << 40;
        /// `http` for the responses that RFC 9111 lets a shared cache store; or `{ ttl, key, public }` for responses that HTTP calls uncacheable, such as those to the POSTs of an LLM API.
        store: Keeps = Keeps::Http;
        /// How long after it went stale a response may replace an error, unless the response says otherwise; 0s: not at all.
        stale_if_error: Duration = HOUR, in Duration::ZERO..=MONTH;
        /// How long after it went stale a response may be used while it is revalidated, unless the response says otherwise; 0s: not at all. With `http`, only for responses that state how long they are fresh.
        stale_while_revalidate: Duration = Duration::ZERO, in Duration::ZERO..=MONTH;
    }
    computed {
        /// Its name under `caches`.
        name: String = String::new();
    }
}

/// Which responses are stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Keeps {
    /// The responses that RFC 9111 lets a shared cache store.
    Http,
    Always(StoreAll),
}

section! {
    /// Every good and complete response is stored, whatever its method and its headers say.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct StoreAll {
        /// How long a response is fresh.
        ttl: Duration, in MS..=MONTH, like "10m";
        /// Requests that are equal in these get the same response: `method`, `path`, `query`, `body`, `header:NAME`.
        key: Vec<KeyPart> = vec![KeyPart::Method, KeyPart::Path, KeyPart::Query, KeyPart::Body],
            where once("the part"),
            where some("no part of the key, so that every request would get the same response: expected one like `[method, path, query, body]`");
        /// Whether a response is for every client; else only for those with the same credentials.
        public: bool = false;
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyPart {
    Method,
    Path,
    Query,
    /// Of JSON, its value and not its spelling.
    Body,
    Header(HeaderName),
}

impl Form for Keeps {
    fn read(node: NodeId, check: &mut Checker<'_>) -> Option<Self> {
        match check.tree.text(node) {
            Some("http") => Some(Keeps::Http),
            Some(word) => {
                check.unknown_word(node, word, &["http"]);
                None
            }
            None => StoreAll::read(node, check).map(Keeps::Always),
        }
    }

    fn show(value: &Self, out: &mut Display<'_>) {
        match value {
            Keeps::Http => out.text("http"),
            Keeps::Always(all) => StoreAll::show(all, out),
        }
    }

    fn describe(out: &mut Reference) -> ValueShape {
        ValueShape::OneOf(vec![ValueShape::Words(vec!["http"]), StoreAll::describe(out)])
    }
}

const PARTS: [(&str, KeyPart); 4] = [
    ("method", KeyPart::Method),
    ("path", KeyPart::Path),
    ("query", KeyPart::Query),
    ("body", KeyPart::Body),
];

text_form! {
    impl Form<KeyPart> for KeyPart {
        read(node, check) {
            let text = check.text(node, "text")?;
            if let Some(name) = text.strip_prefix("header:") {
                let name = header_name(name).map_err(|message| check.error(node, message));
                return name.map(KeyPart::Header).ok();
            }
            let part = PARTS.into_iter().find(|(word, _)| *word == text).map(|(_, part)| part);
            if part.is_none() {
                check.unknown_word(node, text, &["method", "path", "query", "body", "header:NAME"]);
            }
            part
        }
        show(value, out) {
            let word = PARTS.iter().find(|(_, part)| part == value).map(|(word, _)| *word);
            match (value, word) {
                (KeyPart::Header(name), _) => out.text(format!("header:{name}")),
                (_, word) => out.text(word.unwrap_or_default()),
            }
        }
        describe(_) { ValueShape::text() }
    }
}
