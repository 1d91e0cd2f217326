//! The headers of a request that its handling depends on, found in one pass.
//!
//! Most requests have few headers and almost none of these, so one pass costs less than a lookup of
//! each name.

use http::{HeaderMap, HeaderName};

/// A set of headers that a request has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HeaderMarks(u8);

impl HeaderMarks {
    /// A hop-by-hop header other than `Connection`.
    pub const HOP: HeaderMarks = HeaderMarks(1);
    pub const CONNECTION: HeaderMarks = HeaderMarks(1 << 1);
    pub const UPGRADE: HeaderMarks = HeaderMarks(1 << 2);
    /// An `x-outrigger-*` header.
    pub const OVERRIDE: HeaderMarks = HeaderMarks(1 << 3);
    pub const PREFER: HeaderMarks = HeaderMarks(1 << 4);
    pub const CONTENT_ENCODING: HeaderMarks = HeaderMarks(1 << 5);
    pub const IDEMPOTENCY_KEY: HeaderMarks = HeaderMarks(1 << 6);

    /// The marks of these headers.
    pub fn of(headers: &HeaderMap) -> HeaderMarks {
        HeaderMarks(headers.keys().fold(0, |marks, name| marks | of_name(name).0))
    }

    pub fn has(self, mark: HeaderMarks) -> bool {
        self.0 & mark.0 != 0
    }
}

fn of_name(name: &HeaderName) -> HeaderMarks {
    let name = name.as_str();
    // The length tells almost all other names apart.
    match name.len() {
        2 if name == "te" => HeaderMarks::HOP,
        6 if name == "expect" => HeaderMarks::HOP,
        6 if name == "prefer" => HeaderMarks::PREFER,
        7 if name == "upgrade" => HeaderMarks(HeaderMarks::HOP.0 | HeaderMarks::UPGRADE.0),
        10 if name == "connection" => HeaderMarks::CONNECTION,
        10 if name == "keep-alive" => HeaderMarks::HOP,
        15 if name == "idempotency-key" => HeaderMarks::IDEMPOTENCY_KEY,
        16 if name == "content-encoding" => HeaderMarks::CONTENT_ENCODING,
        16 if name == "proxy-connection" => HeaderMarks::HOP,
        17 if name == "transfer-encoding" => HeaderMarks::HOP,
        18 if name == "proxy-authenticate" => HeaderMarks::HOP,
        19 if name == "proxy-authorization" => HeaderMarks::HOP,
        length if length > 12 && name.starts_with("x-outrigger-") => HeaderMarks::OVERRIDE,
        _ => HeaderMarks::default(),
    }
}
