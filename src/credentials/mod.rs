//! Credential carriers: the parts of a request that hold a credential.
//!
//! A carrier is a header, a trailer, a query parameter or an item of `Sec-WebSocket-Protocol`. Its
//! name is on a list or has a credential word, or its value looks like a credential. One rule decides
//! this for every use: removal before a provider, storage of jobs, principals of
//! jobs and caches, messages about policies. docs/design/credentials.md states the rule.

pub mod identity;
pub mod names;
pub mod query;
pub mod sub_protocols;
pub mod values;

use http::header::{HeaderName, HeaderValue};

use names::NameKind;

/// Whether a header or trailer holds a credential. Of `Sec-WebSocket-Protocol` only some items do,
/// but all of it counts as a carrier; [`sub_protocols`] separates them.
pub fn is_carrier(name: &HeaderName, value: &HeaderValue) -> bool {
    match names::header(name.as_str()) {
        NameKind::Credential => true,
        NameKind::Ordinary => false,
        NameKind::Url => holds_credential(value.as_bytes()),
        NameKind::Unknown => values::is_credential(value.as_bytes()),
    }
}

/// Whether a URL holds a credential, in its userinfo or its query.
fn holds_credential(url: &[u8]) -> bool {
    let Ok(url) = std::str::from_utf8(url) else { return true };
    let url = url.split('#').next().unwrap_or_default();
    let (before, query) = url.split_once('?').unwrap_or((url, ""));
    let authority = before.split_once("://").map_or("", |(_, rest)| rest);
    let userinfo = authority.split('/').next().is_some_and(|authority| authority.contains('@'));
    userinfo || query::holds_credential(query) || values::is_credential(url.as_bytes())
}

#[cfg(test)]
mod tests;
