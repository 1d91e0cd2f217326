//! The id of a request.
//!
//! A sane `x-request-id` of the client is the id; otherwise one is made. The provider receives it in
//! `x-request-id`, and the client in `outrigger-request-id`: a provider's own `x-request-id` is what
//! its SDK shows and its support asks for.

use std::fmt;

use http::header::{HeaderMap, HeaderName, HeaderValue};

use crate::clock;

/// The client's header, and the provider's.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// The header of every response.
const OWN_REQUEST_ID: HeaderName = HeaderName::from_static("outrigger-request-id");
/// The headers in which providers send their own ids.
const PROVIDER_IDS: [HeaderName; 3] = [
    REQUEST_ID,
    HeaderName::from_static("request-id"),
    HeaderName::from_static("x-amzn-requestid"),
];
/// A longer id is ignored.
const MAX_ID: usize = 128;

#[derive(Clone, Debug)]
pub enum RequestId {
    /// The client's.
    Given(HeaderValue),
    /// Hexadecimal digits.
    Made([u8; 32]),
}

impl RequestId {
    pub fn made() -> RequestId {
        let id = u128::from(clock::random()) << 64 | u128::from(clock::random());
        RequestId::Made(hex_digits(id))
    }

    /// The id in these headers, or a new one in place of one that is not sane.
    pub fn take(headers: &mut HeaderMap) -> RequestId {
        let mut all = headers.get_all(REQUEST_ID).iter();
        let Some(id) = all.next() else { return RequestId::made() };
        if all.next().is_none() && is_sane(id.as_bytes()) {
            return RequestId::Given(id.clone());
        }
        headers.remove(REQUEST_ID);
        RequestId::made()
    }

    /// Calls a function with the id as text.
    pub fn with<T>(&self, use_text: impl FnOnce(&[u8]) -> T) -> T {
        match self {
            RequestId::Given(id) => use_text(id.as_bytes()),
            RequestId::Made(id) => use_text(id),
        }
    }

    /// Names the request in a response.
    pub fn add_to(&self, headers: &mut HeaderMap) {
        headers.insert(OWN_REQUEST_ID, self.header());
    }

    /// Names the request in a response that no provider sent, also where SDKs look for the id.
    pub fn add_to_local(&self, headers: &mut HeaderMap) {
        self.add_to(headers);
        headers.entry(REQUEST_ID).or_insert_with(|| self.header());
    }

    /// Names the request in its own headers.
    pub fn add_to_request(&self, headers: &mut HeaderMap) {
        headers.insert(REQUEST_ID, self.header());
    }

    fn header(&self) -> HeaderValue {
        match self {
            RequestId::Given(id) => id.clone(),
            RequestId::Made(_) => {
                self.with(HeaderValue::from_bytes).unwrap_or_else(|_| HeaderValue::from_static("-"))
            }
        }
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.with(|text| f.write_str(&String::from_utf8_lossy(text)))
    }
}

/// The provider's own id of a response, for its support.
pub fn provider_request_id(headers: &HeaderMap) -> Option<Box<str>> {
    let id = PROVIDER_IDS.iter().find_map(|name| headers.get(name))?;
    if is_sane(id.as_bytes()) { id.to_str().ok().map(Box::from) } else { None }
}

/// Visible ASCII of bounded length.
fn is_sane(id: &[u8]) -> bool {
    (1..=MAX_ID).contains(&id.len()) && id.iter().all(u8::is_ascii_graphic)
}

pub(super) fn hex_digits(number: u128) -> [u8; 32] {
    let mut digits = [0; 32];
    for (eight, shift) in digits.chunks_exact_mut(8).zip([96, 64, 32, 0]) {
        eight.copy_from_slice(&eight_hex_digits((number >> shift) as u32));
    }
    digits
}

/// The digits of all eight bytes of a word at once.
fn eight_hex_digits(number: u32) -> [u8; 8] {
    let mut bytes = u64::from(number);
    bytes = (bytes << 16 | bytes) & 0x0000_ffff_0000_ffff;
    bytes = (bytes << 8 | bytes) & 0x00ff_00ff_00ff_00ff;
    bytes = (bytes << 4 | bytes) & 0x0f0f_0f0f_0f0f_0f0f;
    let past_nine = (bytes + 0x0606_0606_0606_0606) >> 4 & 0x0101_0101_0101_0101;
    (bytes + 0x3030_3030_3030_3030 + past_nine * u64::from(b'a' - b'9' - 1)).to_be_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(lines: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            let value = HeaderValue::from_bytes(value.as_bytes()).expect("a value");
            headers.append(HeaderName::from_static(name), value);
        }
        headers
    }

    #[test]
    fn a_sane_id_is_the_client_s_and_any_other_is_replaced() {
        for id in ["r1", "a/b+c=:\"{}", &"x".repeat(MAX_ID)] {
            let mut headers = headers(&[("x-request-id", id)]);
            assert_eq!(RequestId::take(&mut headers).to_string(), id);
            assert!(headers.contains_key(REQUEST_ID));
        }
        for lines in [
            &[("x-request-id", "")][..],
            &[("x-request-id", "a b")],
            &[("x-request-id", "é")],
            &[("x-request-id", &"x".repeat(MAX_ID + 1))],
            &[("x-request-id", "a"), ("x-request-id", "b")],
            &[],
        ] {
            let mut headers = headers(lines);
            let id = RequestId::take(&mut headers).to_string();
            assert!(id.len() == 32 && id.bytes().all(|b| b.is_ascii_hexdigit()), "{id}");
            assert!(headers.is_empty(), "{headers:?}");
        }
        assert_ne!(RequestId::made().to_string(), RequestId::made().to_string());
        let id: u128 = 0x0123_4567_89ab_cdef_9a0f;
        assert_eq!(hex_digits(id).as_slice(), format!("{id:032x}").as_bytes());
    }
}
