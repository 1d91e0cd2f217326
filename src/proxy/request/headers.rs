//! The headers that go upstream, and the headers that come back.
//!
//! Hop-by-hop headers end here (RFC 9110, 7.6.1): the well-known ones, and those that a `Connection`
//! line names. The client's credentials go only to a provider with `auth: passthrough`
//! (docs/design/credentials.md). Override headers (`x-outrigger-*`) are not forwarded.

use http::header::{
    CONNECTION, CONTENT_ENCODING, CONTENT_LENGTH, EXPECT, Entry, FORWARDED, HOST, HeaderMap,
    HeaderName, HeaderValue, OccupiedEntry, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION,
    SEC_WEBSOCKET_PROTOCOL, TE, TRANSFER_ENCODING, UPGRADE, VIA,
};

use http::{Method, Uri, Version};

use crate::credentials::is_carrier;
use crate::credentials::sub_protocols::SubProtocolFilter;
use crate::policy::sections::model::{self, Auth};
use crate::proxy::downstream::connection::Client;
use crate::proxy::downstream::header_marks::HeaderMarks;
use crate::proxy::downstream::request_id::{REQUEST_ID, RequestId};
use crate::proxy::downstream::trace_context::{AttemptTrace, TRACEPARENT};
use crate::snapshot::Endpoint;
use crate::upstream::UPGRADE_PROTOCOL;

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// Headers that the sender of a message writes itself.
pub const FRAMES: [HeaderName; 3] = [HOST, CONTENT_LENGTH, TRANSFER_ENCODING];

/// Well-known hop-by-hop headers.
const HOP: [HeaderName; 9] = [
    CONNECTION,
    TE,
    TRANSFER_ENCODING,
    UPGRADE,
    PROXY_AUTHORIZATION,
    KEEP_ALIVE,
    PROXY_CONNECTION,
    EXPECT,
    PROXY_AUTHENTICATE,
];

/// Removes hop-by-hop headers. `upgrade` writes those that an upgrade needs.
pub fn end_hop(headers: &mut HeaderMap, marks: HeaderMarks, upgrade: bool) {
    if !marks.has(HeaderMarks::HOP) {
        if !marks.has(HeaderMarks::CONNECTION) {
            return;
        }
        if let Entry::Occupied(lines) = headers.entry(CONNECTION)
            && is_plain(&lines)
        {
            lines.remove();
            return;
        }
    }
    let trailers = te_trailers(headers);
    if headers.contains_key(CONNECTION) {
        for name in named_by_connection(headers) {
            headers.remove(name);
        }
        headers.remove(CONNECTION);
    }
    for name in HOP {
        headers.remove(name);
    }
    if trailers {
        headers.insert(TE, HeaderValue::from_static("trailers"));
    }
    if upgrade {
        headers.insert(UPGRADE, HeaderValue::from_static(UPGRADE_PROTOCOL));
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    }
}

/// The only `Connection` line is `keep-alive` or `close`.
fn is_plain(lines: &OccupiedEntry<'_, HeaderValue>) -> bool {
    let mut lines = lines.iter();
    let plain = lines.next().map(HeaderValue::as_bytes).is_some_and(|line| {
        line.eq_ignore_ascii_case(b"keep-alive") || line.eq_ignore_ascii_case(b"close")
    });
    plain && lines.next().is_none()
}

/// Requests an upgrade that may be tunnelled (RFC 9110, 7.8): HTTP/1.1, `Connection` names it, and the
/// list of protocols is well formed and contains `websocket`. Other protocols are not relayed,
/// because HTTP or TLS in a tunnel would carry requests past this proxy.
pub fn requests_upgrade(version: Version, headers: &HeaderMap, marks: HeaderMarks) -> bool {
    version == Version::HTTP_11
        && marks.has(HeaderMarks::UPGRADE)
        && offers_upgrade_protocol(headers)
        && named_by_connection(headers).contains(&UPGRADE)
}

/// Whether `Upgrade` offers the protocol that may be tunnelled. A malformed list offers nothing.
fn offers_upgrade_protocol(headers: &HeaderMap) -> bool {
    let lines = headers.get_all(UPGRADE).iter().map(HeaderValue::as_bytes);
    let mut protocols = lines.flat_map(|line| line.split(|b| *b == b',')).map(<[u8]>::trim_ascii);
    let mut offers = false;
    let is_well_formed = protocols.all(|protocol| {
        offers |= protocol.eq_ignore_ascii_case(UPGRADE_PROTOCOL.as_bytes());
        let mut parts = protocol.splitn(2, |b| *b == b'/');
        protocol.is_empty() || parts.all(is_token)
    });
    is_well_formed && offers
}

/// RFC 9110, 5.6.2.
fn is_token(text: &[u8]) -> bool {
    let is_tchar = |b: &u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(b);
    !text.is_empty() && text.iter().all(is_tchar)
}

fn te_trailers(headers: &HeaderMap) -> bool {
    let mut codings = headers.get_all(TE).iter().filter_map(|v| v.to_str().ok());
    codings.any(|v| v.split(',').any(|coding| coding.trim().eq_ignore_ascii_case("trailers")))
}

/// The names in all `Connection` lines, except those that a message requires.
fn named_by_connection(headers: &HeaderMap) -> Vec<HeaderName> {
    let lines = headers.get_all(CONNECTION).iter().filter_map(|line| line.to_str().ok());
    lines
        .flat_map(|line| line.split(','))
        .filter_map(|name| HeaderName::from_bytes(name.trim().as_bytes()).ok())
        .filter(|name| !matches!(*name, HOST | CONTENT_LENGTH))
        .collect()
}

/// Whether the body is compressed or encoded otherwise.
pub fn is_encoded(headers: &HeaderMap) -> bool {
    let is_identity = |coding: &HeaderValue| {
        let coding = coding.as_bytes().trim_ascii();
        coding.is_empty() || coding.eq_ignore_ascii_case(b"identity")
    };
    !headers.get_all(CONTENT_ENCODING).iter().all(is_identity)
}

/// Makes a client's headers fit to be sent to any provider, once for each request.
pub fn prepare(headers: &mut HeaderMap, marks: HeaderMarks, upgrade: bool) {
    end_hop(headers, marks, upgrade);
    if marks.has(HeaderMarks::OVERRIDE) {
        let names: Vec<_> = headers.keys().filter(|n| is_override(n)).cloned().collect();
        for name in names {
            headers.remove(name);
        }
    }
}

/// Names that the provider's policy sets or removes, so that a trailer may not have them.
pub fn reserved_by(provider: &model::ProviderPolicy) -> Vec<HeaderName> {
    let credentials = provider.addresses.iter().filter_map(|endpoint| match &endpoint.auth {
        Auth::Credentials(all) => Some(all.iter().map(|credential| credential.header.clone())),
        Auth::None | Auth::Passthrough => None,
    });
    let set = provider.headers.set.iter().map(|(name, _)| name.clone());
    credentials.flatten().chain(set).chain(provider.headers.remove.iter().cloned()).collect()
}

/// A request's trailers without fields that frame or route a message (RFC 9110, 6.5.1), credentials,
/// override headers, and `reserved` names.
pub fn trailers(trailers: HeaderMap, reserved: &[HeaderName]) -> HeaderMap {
    let ends_here = |name: &HeaderName| {
        FRAMES.contains(name) || HOP.contains(name) || is_override(name) || reserved.contains(name)
    };
    let mut kept = HeaderMap::with_capacity(trailers.len());
    for (name, value) in &trailers {
        if !ends_here(name) && !is_carrier(name, value) {
            kept.append(name.clone(), value.clone());
        }
    }
    kept
}

pub fn is_override(name: &HeaderName) -> bool {
    name.as_str().starts_with("x-outrigger-")
}

/// Writes a request line.
pub fn write_line(out: &mut Vec<u8>, method: &Method, target: &Uri) {
    out.extend_from_slice(method.as_str().as_bytes());
    out.push(b' ');
    let target = target.path_and_query().map_or("/", |target| target.as_str());
    out.extend_from_slice(target.as_bytes());
    out.extend_from_slice(b" HTTP/1.1\r\n");
}

/// The parts of an attempt that its headers depend on.
#[derive(Clone, Copy, Debug)]
pub struct AttemptHead<'a> {
    pub provider: &'a model::ProviderPolicy,
    pub endpoint: &'a Endpoint,
    /// An index into the credentials of the endpoint.
    pub credential: usize,
    /// The form of a credential may depend on its path.
    pub target: &'a Uri,
    /// The body's coding ends here.
    pub decoded: bool,
    /// Sent unless the policy removes or sets its header.
    pub id: &'a RequestId,
    /// The same of its span.
    pub trace: Option<AttemptTrace<'a>>,
}

/// Writes the headers of one attempt, without those that frame its body.
pub fn write(out: &mut Vec<u8>, headers: &HeaderMap, attempt: AttemptHead<'_>) {
    let AttemptHead { provider, endpoint, credential, target, decoded, id, trace } = attempt;
    let own = match &endpoint.policy.auth {
        Auth::Credentials(all) => all.get(credential),
        Auth::None | Auth::Passthrough => None,
    };
    let own = own.map(|own| own.header_for(&endpoint.policy.url.path, target.path()));
    let passes = matches!(endpoint.policy.auth, Auth::Passthrough);
    let set = |name: &HeaderName| provider.headers.set.iter().any(|(set, _)| set == name);
    write_header(out, &HOST, &endpoint.host);
    let mut sub_protocols = SubProtocolFilter::default();
    for (name, value) in headers {
        let ends_here = FRAMES.contains(name)
            || own.is_some_and(|(own, _)| own == name)
            || provider.headers.remove.contains(name)
            || set(name)
            || (decoded && *name == CONTENT_ENCODING);
        if ends_here {
            continue;
        }
        if passes || !is_carrier(name, value) {
            write_header(out, name, value);
        } else if *name == SEC_WEBSOCKET_PROTOCOL {
            write_list(out, name, sub_protocols.harmless_items(value.as_bytes()));
        }
    }
    for (name, set) in &provider.headers.set {
        if !FRAMES.contains(name) && own.is_none_or(|(own, _)| own != name) {
            write_header(out, name, &set.value);
        }
    }
    for (name, value) in &provider.headers.default {
        let is_own = own.is_some_and(|(own, _)| own == name);
        if !(FRAMES.contains(name) || headers.contains_key(name) || set(name) || is_own) {
            write_header(out, name, &value.value);
        }
    }
    if let Some((name, value)) = own {
        write_header(out, name, value);
    }
    write_id(out, id, &provider.headers);
    if let Some(trace) = trace.filter(|_| !is_decided(&TRACEPARENT, &provider.headers)) {
        out.extend_from_slice(b"traceparent: ");
        trace.write(out);
        out.extend_from_slice(b"\r\n");
    }
}

/// Whether the policy removes or sets a header.
fn is_decided(header: &HeaderName, policy: &model::Headers) -> bool {
    let mut set = policy.set.iter().chain(&policy.default).map(|(name, _)| name);
    policy.remove.contains(header) || set.any(|name| name == header)
}

/// Writes a new request id, unless the policy sets or removes its header.
fn write_id(out: &mut Vec<u8>, id: &RequestId, policy: &model::Headers) {
    let is_decided = is_decided(&REQUEST_ID, policy);
    if matches!(id, RequestId::Made(_)) && !is_decided {
        out.extend_from_slice(b"x-request-id: ");
        id.with(|id| out.extend_from_slice(id));
        out.extend_from_slice(b"\r\n");
    }
}

fn write_header(out: &mut Vec<u8>, name: &HeaderName, value: &HeaderValue) {
    out.extend_from_slice(name.as_str().as_bytes());
    out.extend_from_slice(b": ");
    out.extend_from_slice(value.as_bytes());
    out.extend_from_slice(b"\r\n");
}

/// Writes a header with these items, if there are any.
fn write_list<'i>(out: &mut Vec<u8>, name: &HeaderName, items: impl Iterator<Item = &'i [u8]>) {
    let mut is_first = true;
    for item in items {
        if std::mem::take(&mut is_first) {
            out.extend_from_slice(name.as_str().as_bytes());
            out.extend_from_slice(b": ");
        } else {
            out.extend_from_slice(b", ");
        }
        out.extend_from_slice(item);
    }
    if !is_first {
        out.extend_from_slice(b"\r\n");
    }
}

/// Headers for the store: lines of `name: value`.
pub fn lines<'h>(headers: impl Iterator<Item = (&'h HeaderName, &'h HeaderValue)>) -> Vec<u8> {
    let mut out = Vec::new();
    headers.for_each(|(name, value)| write_header(&mut out, name, value));
    out
}

/// Parses lines from the store; skips lines that are not a header.
pub fn of_lines(lines: &[u8]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for line in lines.split(|byte| *byte == b'\n') {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let Some(colon) = line.windows(2).position(|pair| pair == b": ") else { continue };
        let name = HeaderName::from_bytes(&line[..colon]);
        if let (Ok(name), Ok(value)) = (name, HeaderValue::from_bytes(&line[colon + 2..])) {
            headers.append(name, value);
        }
    }
    headers
}

/// `server.forwarded: append` (RFC 7239, RFC 9110 7.6.3).
pub fn append_forwarded(headers: &mut HeaderMap, client: &Client, host: &str) {
    let proto = if client.secure { "https" } else { "http" };
    let peer = client.peer.map(|peer| peer.ip().to_string());
    let node = match client.peer.map(|peer| peer.ip()) {
        Some(std::net::IpAddr::V6(ip)) => format!("\"[{ip}]\""),
        Some(ip) => ip.to_string(),
        None => "_unix".to_owned(),
    };
    append(headers, VIA, "1.1 outrigger");
    append(headers, FORWARDED, &format!("for={node};host=\"{host}\";proto={proto}"));
    append(headers, X_FORWARDED_FOR, peer.as_deref().unwrap_or("unknown"));
    append(headers, X_FORWARDED_HOST, host);
    append(headers, X_FORWARDED_PROTO, proto);
}

fn append(headers: &mut HeaderMap, name: HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.append(name, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(lines: &[(&'static str, &'static str)]) -> HeaderMap {
        let line = |&(n, v): &(&'static str, &'static str)| {
            (HeaderName::from_static(n), HeaderValue::from_static(v))
        };
        let mut headers = HeaderMap::new();
        lines.iter().map(line).for_each(|(n, v)| {
            headers.append(n, v);
        });
        headers
    }

    fn end_response_hop(headers: &mut HeaderMap, upgrade: bool) {
        end_hop(headers, HeaderMarks::of(headers), upgrade);
    }

    #[test]
    fn every_hop_by_hop_header_has_a_mark() {
        for name in HOP {
            let headers = HeaderMap::from_iter([(name.clone(), HeaderValue::from_static("x"))]);
            let marks = HeaderMarks::of(&headers);
            assert!(marks.has(HeaderMarks::HOP | HeaderMarks::CONNECTION), "{name}");
        }
    }

    #[test]
    fn names_in_every_connection_line_are_removed() {
        let mut headers = map(&[
            ("connection", "close, x-first"),
            ("connection", "X-Second"),
            ("x-first", "1"),
            ("x-second", "2"),
            ("x-second", "3"),
            ("keep-alive", "timeout=5"),
            ("te", "gzip, trailers"),
            ("upgrade", "h2c"),
            ("content-length", "3"),
            ("x-kept", "4"),
        ]);
        end_response_hop(&mut headers, false);
        assert_eq!(headers, map(&[("content-length", "3"), ("x-kept", "4"), ("te", "trailers")]));
    }

    #[test]
    fn a_connection_line_cannot_remove_what_frames_the_message() {
        let mut headers =
            map(&[("connection", "content-length, host"), ("content-length", "3"), ("host", "a")]);
        end_response_hop(&mut headers, false);
        assert_eq!(headers, map(&[("content-length", "3"), ("host", "a")]));
    }

    #[test]
    fn headers_survive_the_store() {
        let headers = map(&[("x-a", "1: 2"), ("x-empty", ""), ("x-a", "3"), ("accept", "*/*")]);
        assert_eq!(of_lines(&lines(headers.iter())), headers);
    }

    #[test]
    fn only_a_well_formed_list_with_a_known_protocol_is_an_upgrade() {
        let is_upgrade = |version, protocols| {
            let headers = map(&[("connection", "upgrade"), ("upgrade", protocols)]);
            requests_upgrade(version, &headers, HeaderMarks::of(&headers))
        };
        for protocols in
            ["websocket", "WebSocket", "websocket,\th2c", " echo/1 , websocket", ",websocket"]
        {
            assert!(is_upgrade(Version::HTTP_11, protocols), "{protocols}");
            assert!(!is_upgrade(Version::HTTP_10, protocols), "{protocols}");
        }
        for protocols in [
            "",
            ",",
            "h2c",
            "echo",
            "foo;h2c",
            "\"websocket\"",
            "HTTP/2.0",
            "TLS/1.0",
            "websocket/13",
            "websocket h2c",
            "websocket;x=1",
            "websocket, a/",
            "websocket, /1",
            "websocket, a/b/c",
        ] {
            assert!(!is_upgrade(Version::HTTP_11, protocols), "{protocols}");
        }
    }

    #[test]
    fn an_upgrade_keeps_its_two_headers() {
        let mut headers =
            map(&[("connection", "keep-alive, Upgrade"), ("upgrade", "h2c, websocket")]);
        end_response_hop(&mut headers, true);
        assert_eq!(headers, map(&[("connection", "upgrade"), ("upgrade", "websocket")]));
    }
}
