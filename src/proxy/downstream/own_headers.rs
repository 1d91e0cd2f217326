//! Response headers that only Outrigger sets: a provider cannot imitate them.
//!
//! They are `outrigger-*`, `x-outrigger-*`, and the member `outrigger` of `Proxy-Status` (RFC 9209)
//! and `Cache-Status` (RFC 9211). Members of other proxies and caches are forwarded.

use bytes::Bytes;
use http::header::{HeaderMap, HeaderName, HeaderValue};
use http_body::Frame;

use super::problem::PROXY_STATUS;

pub const CACHE_STATUS: HeaderName = HeaderName::from_static("cache-status");
const OWN_NAME: &[u8] = b"outrigger";

/// The part of a provider's header that ends at this proxy.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Owned {
    Nothing,
    Header,
    Member,
}

/// Removes them from the headers of a provider's response.
pub fn remove_own(headers: &mut HeaderMap) {
    let found: Vec<HeaderName> =
        headers.keys().filter(|name| owned(name) != Owned::Nothing).cloned().collect();
    for name in found {
        if owned(&name) == Owned::Header {
            headers.remove(name);
            continue;
        }
        let lines: Vec<HeaderValue> =
            headers.get_all(&name).iter().filter_map(without_own).collect();
        headers.remove(&name);
        lines.into_iter().for_each(|line| {
            headers.append(&name, line);
        });
    }
}

/// Removes them from a frame, if it holds the trailers.
pub fn remove_own_trailers(mut frame: Frame<Bytes>) -> Frame<Bytes> {
    frame.trailers_mut().into_iter().for_each(remove_own);
    frame
}

fn owned(name: &HeaderName) -> Owned {
    let text = name.as_str();
    match text.as_bytes().first() {
        Some(b'o') if text.starts_with("outrigger-") => Owned::Header,
        Some(b'x') if text.starts_with("x-outrigger-") => Owned::Header,
        Some(b'p') if *name == PROXY_STATUS => Owned::Member,
        Some(b'c') if *name == CACHE_STATUS => Owned::Member,
        _ => Owned::Nothing,
    }
}

/// The line without this proxy's members; `None` if nothing remains.
fn without_own(line: &HeaderValue) -> Option<HeaderValue> {
    let members = members(line.as_bytes());
    if !members.iter().any(|member| is_own(member)) {
        return Some(line.clone());
    }
    let kept: Vec<&[u8]> = members.into_iter().filter(|member| !is_own(member)).collect();
    HeaderValue::from_bytes(&kept.join(&b", "[..])).ok().filter(|line| !line.is_empty())
}

/// The members of a list (RFC 9651, 3.1). A comma in a string separates nothing.
fn members(line: &[u8]) -> Vec<&[u8]> {
    let (mut in_string, mut is_escaped) = (false, false);
    let members = line.split(|byte| {
        match byte {
            _ if is_escaped => is_escaped = false,
            b'\\' if in_string => is_escaped = true,
            b'"' => in_string = !in_string,
            b',' => return !in_string,
            _ => {}
        }
        false
    });
    members.map(<[u8]>::trim_ascii).filter(|member| !member.is_empty()).collect()
}

/// Its name is a token or a string, before its parameters.
fn is_own(member: &[u8]) -> bool {
    let name = member.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii();
    let name = name.strip_prefix(b"\"").and_then(|name| name.strip_suffix(b"\"")).unwrap_or(name);
    name.eq_ignore_ascii_case(OWN_NAME)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cleaned(lines: &[(&'static str, &'static str)]) -> Vec<(String, String)> {
        let mut headers = HeaderMap::new();
        for &(name, value) in lines {
            headers.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        remove_own(&mut headers);
        let text = |value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
        headers.iter().map(|(name, value)| (name.to_string(), text(value))).collect()
    }

    #[test]
    fn only_this_proxys_headers_and_members_are_removed() {
        let kept = cleaned(&[
            ("outrigger-job", "1"),
            ("x-outrigger-any", "1"),
            ("outriggers", "kept"),
            ("cache-status", "outrigger; hit"),
            ("cache-status", "cdn; hit, Outrigger; fwd=miss , \"outrigger\"; hit"),
            ("proxy-status", "edge; details=\"a, outrigger; \\\" ,\", outrigger;error=x"),
            ("proxy-status", "outriggers; error=x"),
        ]);
        let expected = [
            ("outriggers", "kept"),
            ("cache-status", "cdn; hit"),
            ("proxy-status", "edge; details=\"a, outrigger; \\\" ,\""),
            ("proxy-status", "outriggers; error=x"),
        ];
        let expected = expected.map(|(name, value)| (name.to_owned(), value.to_owned()));
        assert_eq!(kept.len(), expected.len(), "{kept:?}");
        assert!(expected.iter().all(|line| kept.contains(line)), "{kept:?}");
    }

    #[test]
    fn trailers_are_cleaned() {
        let mut trailers = HeaderMap::new();
        trailers.insert("outrigger-cut", HeaderValue::from_static("1"));
        trailers.insert("x-checksum", HeaderValue::from_static("2"));
        let frame = remove_own_trailers(Frame::trailers(trailers));
        let trailers = frame.into_trailers().expect("trailers");
        assert_eq!(trailers.keys().map(HeaderName::as_str).collect::<Vec<_>>(), ["x-checksum"]);
    }
}
