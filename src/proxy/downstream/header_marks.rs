//! The headers of a message that its handling depends on, found in one pass.
//!
//! Most messages have few headers and almost none of these, so a lookup of each name would cost more.

use http::{HeaderMap, HeaderName};

/// A mark says that there may be such a header; without it there is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HeaderMarks {
    marks: u16,
    /// A bit for each name, as a filter: different names may have the same.
    names: u64,
}

impl HeaderMarks {
    /// A hop-by-hop header other than `Connection`.
    pub const HOP: u16 = 1;
    pub const CONNECTION: u16 = 1 << 1;
    pub const UPGRADE: u16 = 1 << 2;
    /// An `x-outrigger-*` header.
    pub const OVERRIDE: u16 = 1 << 3;
    pub const PREFER: u16 = 1 << 4;
    pub const CONTENT_ENCODING: u16 = 1 << 5;
    pub const IDEMPOTENCY_KEY: u16 = 1 << 6;
    pub const ACCEPT: u16 = 1 << 7;
    pub const REQUEST_ID: u16 = 1 << 8;
    pub const TRACEPARENT: u16 = 1 << 9;
    /// Another header with a provider's own id of its response.
    pub const PROVIDER_ID: u16 = 1 << 10;
    /// A header of a response that only Outrigger sets, besides those of `OVERRIDE`.
    pub const OWN: u16 = 1 << 11;
    /// A reference of a response to its server.
    pub const REFERENCE: u16 = 1 << 12;
    /// A quota header.
    pub const QUOTA: u16 = 1 << 13;

    /// The marks of these headers.
    pub fn of(headers: &HeaderMap) -> HeaderMarks {
        headers.keys().fold(HeaderMarks::default(), |all, name| {
            let name = name.as_str();
            HeaderMarks { marks: all.marks | mark_of(name), names: all.names | name_bit(name) }
        })
    }

    /// Whether one of these marks is set.
    pub fn has(self, marks: u16) -> bool {
        self.marks & marks != 0
    }

    /// Whether there may be a header with one of these names; `false` is certain.
    pub fn may_have(self, names: &[HeaderName]) -> bool {
        names.iter().any(|name| self.names & name_bit(name.as_str()) != 0)
    }
}

fn name_bit(name: &str) -> u64 {
    let first = name.as_bytes().first().copied().unwrap_or_default();
    1 << ((name.len() * 5 + usize::from(first)) % 64)
}

fn mark_of(name: &str) -> u16 {
    // The length tells almost all other names apart.
    match name.len() {
        2 if name == "te" => HeaderMarks::HOP,
        6 if name == "accept" => HeaderMarks::ACCEPT,
        6 if name == "expect" => HeaderMarks::HOP,
        6 if name == "prefer" => HeaderMarks::PREFER,
        7 if name == "upgrade" => HeaderMarks::HOP | HeaderMarks::UPGRADE,
        7 if name == "refresh" => HeaderMarks::REFERENCE,
        8 if name == "location" => HeaderMarks::REFERENCE,
        10 if name == "connection" => HeaderMarks::CONNECTION,
        10 if name == "keep-alive" => HeaderMarks::HOP,
        10 if name == "request-id" => HeaderMarks::PROVIDER_ID,
        11 if name == "traceparent" => HeaderMarks::TRACEPARENT,
        12 if name == "x-request-id" => HeaderMarks::REQUEST_ID,
        12 if name == "cache-status" || name == "proxy-status" => HeaderMarks::OWN,
        15 if name == "idempotency-key" => HeaderMarks::IDEMPOTENCY_KEY,
        16 if name == "content-encoding" => HeaderMarks::CONTENT_ENCODING,
        16 if name == "content-location" => HeaderMarks::REFERENCE,
        16 if name == "proxy-connection" => HeaderMarks::HOP,
        16 if name == "x-amzn-requestid" => HeaderMarks::PROVIDER_ID,
        17 if name == "transfer-encoding" => HeaderMarks::HOP,
        18 if name == "proxy-authenticate" => HeaderMarks::HOP,
        19 if name == "proxy-authorization" => HeaderMarks::HOP,
        _ => mark_of_prefix(name),
    }
}

fn mark_of_prefix(name: &str) -> u16 {
    match name.as_bytes().first() {
        Some(b'x') if name.starts_with("x-outrigger-") => HeaderMarks::OVERRIDE,
        Some(b'x') if name.starts_with("x-ratelimit-") => HeaderMarks::QUOTA,
        Some(b'a') if name.starts_with("anthropic-ratelimit-") => HeaderMarks::QUOTA,
        Some(b'r') if name.starts_with("ratelimit") => HeaderMarks::QUOTA,
        Some(b'o') if name.starts_with("outrigger-") => HeaderMarks::OWN,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn marks(name: &'static str) -> u16 {
        let line = (HeaderName::from_static(name), HeaderValue::from_static("x"));
        HeaderMarks::of(&HeaderMap::from_iter([line])).marks
    }

    #[test]
    fn a_name_has_its_mark_and_no_other() {
        for (name, mark) in [
            ("x-outrigger-timeout", HeaderMarks::OVERRIDE),
            ("x-ratelimit-reset", HeaderMarks::QUOTA),
            ("anthropic-ratelimit-tokens-limit", HeaderMarks::QUOTA),
            ("ratelimit", HeaderMarks::QUOTA),
            ("ratelimit-policy", HeaderMarks::QUOTA),
            ("outrigger-job", HeaderMarks::OWN),
            ("content-location", HeaderMarks::REFERENCE),
            ("host", 0),
            ("date", 0),
            ("x-rates", 0),
        ] {
            assert_eq!(marks(name), mark, "{name}");
        }
    }
}
