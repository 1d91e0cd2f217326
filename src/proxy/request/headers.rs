//! Which headers go upstream, and which come back.
//!
//! Hop-by-hop headers end here (RFC 9110, 7.6.1: those that any `Connection` line names, and the
//! well-known ones); what is the application's credential goes to nobody but a provider with
//! `auth: passthrough`; what is ours (`x-outrigger-*`) goes nowhere.

use http::header::{
    AUTHORIZATION, CONNECTION, CONTENT_LENGTH, COOKIE, EXPECT, FORWARDED, HOST, HeaderMap,
    HeaderName, HeaderValue, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TE, TRANSFER_ENCODING,
    UPGRADE, VIA,
};

use http::{Method, Uri};

use crate::policy::sections::model::{self, Auth};
use crate::proxy::downstream::connection::Client;
use crate::snapshot::Endpoint;

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
const X_API_KEY: HeaderName = HeaderName::from_static("x-api-key");
const API_KEY: HeaderName = HeaderName::from_static("api-key");
const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// What carries an application's credential; `Proxy-Authorization` ends at every hop.
pub const CREDENTIALS: [HeaderName; 4] = [AUTHORIZATION, X_API_KEY, API_KEY, COOKIE];

/// Headers that are nobody's credential here, and are somebody's elsewhere: whoever differs in one of
/// them is another principal, too.
const IDENTITIES: [&str; 8] = [
    "x-goog-api-key",
    "x-auth-token",
    "x-access-token",
    "x-amz-security-token",
    "x-functions-key",
    "ocp-apim-subscription-key",
    "private-token",
    "x-csrf-token",
];

/// What whoever frames the message writes itself.
pub const FRAMES: [HeaderName; 3] = [HOST, CONTENT_LENGTH, TRANSFER_ENCODING];

/// Well-known headers of one hop.
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
const CONNECTION_ALONE: u32 = 1;

/// Removes what is meant for this hop only. `upgrade` keeps what an upgrade needs.
pub fn end_hop(headers: &mut HeaderMap, upgrade: bool) {
    let there = present(headers, &HOP);
    if there == 0 {
        return;
    }
    if there == CONNECTION_ALONE && is_plain(headers) {
        headers.remove(CONNECTION);
        return;
    }
    let upgrade = if upgrade { headers.get(UPGRADE).cloned() } else { None };
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
    if let Some(protocol) = upgrade {
        headers.insert(UPGRADE, protocol);
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    }
}

/// Which of these names a message has, one bit each: one look at its names is cheaper than looking
/// for each, and most messages have none.
fn present(headers: &HeaderMap, names: &[HeaderName]) -> u32 {
    let bit = |name: &HeaderName| names.iter().position(|n| n == name).map_or(0, |at| 1 << at);
    headers.keys().fold(0, |bits, name| bits | bit(name))
}

/// The one `Connection` line says no more than whether to keep the connection.
fn is_plain(headers: &HeaderMap) -> bool {
    let mut lines = headers.get_all(CONNECTION).iter();
    let plain = lines.next().map(HeaderValue::as_bytes).is_some_and(|line| {
        line.eq_ignore_ascii_case(b"keep-alive") || line.eq_ignore_ascii_case(b"close")
    });
    plain && lines.next().is_none()
}

/// An upgrade that may be tunnelled: named by `Connection` too, and not to HTTP/2, which would
/// carry requests past us.
pub fn requests_upgrade(headers: &HeaderMap) -> bool {
    let named = || named_by_connection(headers).contains(&UPGRADE);
    let h2c = |value: &HeaderValue| {
        value
            .as_bytes()
            .to_ascii_lowercase()
            .split(|b| matches!(b, b',' | b' ' | b'/'))
            .any(|p| p == b"h2c")
    };
    let protocols = headers.get_all(UPGRADE);
    headers.contains_key(UPGRADE) && !protocols.iter().any(h2c) && named()
}

fn te_trailers(headers: &HeaderMap) -> bool {
    let mut codings = headers.get_all(TE).iter().filter_map(|v| v.to_str().ok());
    codings.any(|v| v.split(',').any(|coding| coding.trim().eq_ignore_ascii_case("trailers")))
}

/// The names in every `Connection` line, but for ones that a message cannot do without.
fn named_by_connection(headers: &HeaderMap) -> Vec<HeaderName> {
    let lines = headers.get_all(CONNECTION).iter().filter_map(|line| line.to_str().ok());
    lines
        .flat_map(|line| line.split(','))
        .filter_map(|name| HeaderName::from_bytes(name.trim().as_bytes()).ok())
        .filter(|name| !matches!(*name, HOST | CONTENT_LENGTH))
        .collect()
}

/// Headers of an answer that were between the provider and us.
pub fn end_response_hop(headers: &mut HeaderMap, upgrade: bool) {
    end_hop(headers, upgrade);
}

/// Makes an application's headers fit to be sent to any provider: once for each request.
pub fn prepare(headers: &mut HeaderMap, upgrade: bool, ours: bool) {
    end_hop(headers, upgrade);
    if ours {
        let names: Vec<_> = headers.keys().filter(|n| is_ours(n)).cloned().collect();
        for name in names {
            headers.remove(name);
        }
    }
}

/// Each credential of a request, in an order of their names.
pub fn each_credential(headers: &HeaderMap, mut each: impl FnMut(&HeaderName, &HeaderValue)) {
    for name in CREDENTIALS {
        headers.get_all(&name).iter().for_each(|value| each(&name, value));
    }
}

/// Whatever tells whose request it is: each credential, and what else may be one.
pub fn each_identity(headers: &HeaderMap, mut each: impl FnMut(&HeaderName, &HeaderValue)) {
    each_credential(headers, &mut each);
    for name in IDENTITIES.map(HeaderName::from_static) {
        headers.get_all(&name).iter().for_each(|value| each(&name, value));
    }
}

/// Names that a provider's rules decide, so that a trailer may not.
pub fn decided(provider: &model::Provider) -> Vec<HeaderName> {
    let credentials = provider.addresses.iter().filter_map(|address| match &address.auth {
        Auth::Credentials(all) => Some(all.iter().map(|credential| credential.header.clone())),
        Auth::None | Auth::Passthrough => None,
    });
    let set = provider.headers.set.iter().map(|(name, _)| name.clone());
    credentials.flatten().chain(set).chain(provider.headers.remove.iter().cloned()).collect()
}

/// A request's trailers without what frames or routes a message, without credentials and what is
/// ours (RFC 9110, 6.5.1), and without what is `decided`.
pub fn trailers(trailers: HeaderMap, decided: &[HeaderName]) -> HeaderMap {
    let ends_here = |name: &HeaderName| {
        FRAMES.contains(name)
            || HOP.contains(name)
            || CREDENTIALS.contains(name)
            || is_ours(name)
            || decided.contains(name)
    };
    let mut kept = HeaderMap::with_capacity(trailers.len());
    for (name, value) in trailers.iter().filter(|(name, _)| !ends_here(name)) {
        kept.append(name.clone(), value.clone());
    }
    kept
}

pub fn is_ours(name: &HeaderName) -> bool {
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

/// Writes prepared headers as those of one attempt, but for what frames its body. `credential` is the
/// index of ours, if we have one.
pub fn write(
    out: &mut Vec<u8>,
    headers: &HeaderMap,
    provider: &model::Provider,
    address: &Endpoint,
    credential: usize,
) {
    let ours = match &address.policy.auth {
        Auth::Credentials(all) => all.get(credential),
        Auth::None | Auth::Passthrough => None,
    };
    let passes = matches!(address.policy.auth, Auth::Passthrough);
    let set = |name: &HeaderName| provider.headers.set.iter().any(|(set, _)| set == name);
    write_header(out, &HOST, &address.host);
    for (name, value) in headers {
        let ends_here = FRAMES.contains(name)
            || !passes && CREDENTIALS.contains(name)
            || ours.is_some_and(|ours| ours.header == *name)
            || provider.headers.remove.contains(name)
            || set(name);
        if !ends_here {
            write_header(out, name, value);
        }
    }
    for (name, set) in &provider.headers.set {
        if !FRAMES.contains(name) && ours.is_none_or(|ours| ours.header != *name) {
            write_header(out, name, &set.value);
        }
    }
    if let Some(ours) = ours {
        write_header(out, &ours.header, &ours.value);
    }
}

fn write_header(out: &mut Vec<u8>, name: &HeaderName, value: &HeaderValue) {
    out.extend_from_slice(name.as_str().as_bytes());
    out.extend_from_slice(b": ");
    out.extend_from_slice(value.as_bytes());
    out.extend_from_slice(b"\r\n");
}

/// Headers as they lie in the store: lines of `name: value`.
pub fn lines<'h>(headers: impl Iterator<Item = (&'h HeaderName, &'h HeaderValue)>) -> Vec<u8> {
    let mut out = Vec::new();
    headers.for_each(|(name, value)| write_header(&mut out, name, value));
    out
}

/// Reads them again; what is no header is left out.
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
        end_hop(&mut headers, false);
        assert_eq!(headers, map(&[("content-length", "3"), ("x-kept", "4"), ("te", "trailers")]));
    }

    #[test]
    fn a_connection_line_cannot_remove_what_frames_the_message() {
        let mut headers =
            map(&[("connection", "content-length, host"), ("content-length", "3"), ("host", "a")]);
        end_hop(&mut headers, false);
        assert_eq!(headers, map(&[("content-length", "3"), ("host", "a")]));
    }

    #[test]
    fn headers_come_back_from_the_store_as_they_were() {
        let headers = map(&[("x-a", "1: 2"), ("x-empty", ""), ("x-a", "3"), ("accept", "*/*")]);
        assert_eq!(of_lines(&lines(headers.iter())), headers);
    }

    #[test]
    fn an_upgrade_keeps_its_two_headers() {
        let mut headers = map(&[("connection", "keep-alive, Upgrade"), ("upgrade", "websocket")]);
        end_hop(&mut headers, true);
        assert_eq!(headers, map(&[("connection", "upgrade"), ("upgrade", "websocket")]));
    }
}
