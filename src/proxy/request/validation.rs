//! The rules for a request head that the parser does not check (RFC 9110, 7.2; RFC 9112, 3.2, 6.1).
//!
//! Routes match on the target and the host, so a target that could be read in two ways is rejected
//! before a route is selected. The request to the provider has new framing, so a transfer coding that
//! is not removed here must not be dropped silently.

use http::header::{CONTENT_LENGTH, HOST, TRANSFER_ENCODING};
use http::uri::{Authority, Scheme};
use http::{HeaderMap, HeaderValue, Method, Request, Uri, Version};
use http_body::Body;

use crate::proxy::downstream::problem::{Problem, ProblemKind};

/// Checks the head and returns the host that the request names.
///
/// # Errors
/// 400 for a malformed target, host or transfer coding, 405 for CONNECT and TRACE, 501 for an unknown coding.
pub fn valid_host<B: Body>(request: &Request<B>) -> Result<&str, Problem> {
    if request.method() == Method::TRACE {
        let detail = "TRACE: its response would show the provider's credentials";
        return Err(Problem::new(ProblemKind::MethodNotSupported, detail));
    }
    if request.method() == Method::CONNECT {
        let detail = format!(
            "CONNECT {}: use the listener as the base URL, not as HTTPS_PROXY",
            request.uri()
        );
        return Err(Problem::new(ProblemKind::MethodNotSupported, detail));
    }
    check_target(request.method(), request.uri()).map_err(bad)?;
    match request.body().size_hint().exact() {
        // Most requests with GET have no body and no length.
        Some(0) if request.method() == Method::GET => {}
        Some(_) => check_length(request.headers())?,
        // A body of known length has no transfer coding.
        None => check_codings(request.headers())?,
    }
    let mut hosts = request.headers().get_all(HOST).iter();
    let host = match (hosts.next(), hosts.next()) {
        (Some(host), None) => host
            .to_str()
            .ok()
            .filter(|text| is_host(text))
            .ok_or_else(|| bad("the Host header is not a valid host"))?,
        (Some(_), Some(_)) => return Err(bad("there are two Host headers")),
        (None, _) if request.version() == Version::HTTP_10 => "",
        (None, _) => return Err(bad("there is no Host header")),
    };
    Ok(request.uri().authority().map_or(host, Authority::as_str))
}

fn bad(detail: &str) -> Problem {
    Problem::new(ProblemKind::BadRequest, detail)
}

/// The forms of a target (RFC 9112, 3.2): origin, absolute with `http` or `https`, and `*` for
/// OPTIONS.
fn check_target(method: &Method, target: &Uri) -> Result<(), &'static str> {
    if method.as_str() == "PRI" {
        return Err("PRI begins HTTP/2, which is not supported");
    }
    match (target.scheme(), target.authority()) {
        (None, None) => match target.path() {
            path if path.starts_with('/') => Ok(()),
            "*" if method == Method::OPTIONS => Ok(()),
            _ => Err("the request target is neither a path nor an absolute URL"),
        },
        (Some(scheme), Some(authority)) => {
            if *scheme != Scheme::HTTP && *scheme != Scheme::HTTPS {
                return Err("the scheme of the request target is not http or https");
            }
            if !is_host(authority.as_str()) {
                return Err("the request target has user information or an invalid host");
            }
            Ok(())
        }
        _ => Err("the request target is neither a path nor an absolute URL"),
    }
}

/// `uri-host [ ":" port ]` with a host that is not empty (RFC 9110, 4.2.1 and 7.2).
fn is_host(text: &str) -> bool {
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let Some((address, port)) = rest.split_once(']') else { return false };
            let is_address = address.contains(':')
                && address.bytes().all(|b| b.is_ascii_hexdigit() || b == b':' || b == b'.');
            if !is_address {
                return false;
            }
            match port.strip_prefix(':') {
                _ if port.is_empty() => return true,
                Some(port) => return is_port(port),
                None => return false,
            }
        }
        None => {
            let bytes = text.as_bytes();
            let plain = bytes.iter().position(|byte| !NAME[usize::from(*byte)]);
            match plain.map(|at| (at, bytes[at])) {
                None => return !text.is_empty(),
                Some((at, b':')) => return at > 0 && is_port(&text[at + 1..]),
                Some(_) => text.split_once(':').unwrap_or((text, "")),
            }
        }
    };
    !host.is_empty() && is_name(host.as_bytes()) && is_port(port)
}

/// The characters of `reg-name` (RFC 3986, 3.2.2) without `,`, which would make a list, and `%`.
const NAME: [bool; 256] = {
    let mut table = [false; 256];
    let others = b"-._~!$&'()*+;=";
    let mut at = 0;
    while at < table.len() {
        table[at] = (at as u8).is_ascii_alphanumeric();
        at += 1;
    }
    at = 0;
    while at < others.len() {
        table[others[at] as usize] = true;
        at += 1;
    }
    table
};

/// Characters of [`NAME`] and percent-encoded bytes.
fn is_name(host: &[u8]) -> bool {
    let mut bytes = host.iter().copied();
    while let Some(byte) = bytes.next() {
        let is_valid = match byte {
            b'%' => {
                let mut is_digit = || bytes.next().is_some_and(|b| b.is_ascii_hexdigit());
                is_digit() && is_digit()
            }
            byte => NAME[usize::from(byte)],
        };
        if !is_valid {
            return false;
        }
    }
    true
}

fn is_port(port: &str) -> bool {
    port.bytes()
        .try_fold(0_u32, |number, byte| {
            let number = number.saturating_mul(10) + u32::from(byte.wrapping_sub(b'0'));
            (byte.is_ascii_digit() && number <= u32::from(u16::MAX)).then_some(number)
        })
        .is_some()
}

/// No leading zeros: a program that reads octal numbers would find another length.
fn check_length(headers: &HeaderMap) -> Result<(), Problem> {
    match headers.get(CONTENT_LENGTH).map(HeaderValue::as_bytes) {
        Some([b'0', _, ..]) => Err(bad("Content-Length begins with a zero")),
        _ => Ok(()),
    }
}

/// `chunked` alone, or no transfer coding (RFC 9112, 6.1). The parser has rejected those that do not
/// end in `chunked`, and any in HTTP/1.0.
fn check_codings(headers: &HeaderMap) -> Result<(), Problem> {
    let mut lines = headers.get_all(TRANSFER_ENCODING).iter().map(HeaderValue::as_bytes);
    let Some(first) = lines.next() else { return Ok(()) };
    if first.eq_ignore_ascii_case(b"chunked") && lines.next().is_none() {
        return Ok(());
    }
    let lines = headers.get_all(TRANSFER_ENCODING).iter().map(HeaderValue::as_bytes);
    let codings = lines.flat_map(|line| line.split(|b| *b == b',')).map(<[u8]>::trim_ascii);
    let (mut chunked, mut other) = (0, 0);
    for coding in codings {
        match coding {
            b"" => return Err(bad("Transfer-Encoding has an empty element")),
            _ if coding.eq_ignore_ascii_case(b"chunked") => chunked += 1,
            _ => other += 1,
        }
    }
    match (chunked, other) {
        (1, 0) => Ok(()),
        (1, _) => Err(Problem::new(
            ProblemKind::CodingNotSupported,
            "send the body with Content-Encoding instead, or not encoded",
        )),
        _ => Err(bad("Transfer-Encoding names chunked twice")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_a_name_or_an_address_with_an_optional_port() {
        for host in ["a", "A.b-c_d", "a:80", "a:", "127.0.0.1:8700", "[::1]", "[::1]:80", "%41b"] {
            assert!(is_host(host), "{host}");
        }
        for host in [
            "",
            ":80",
            "a:b",
            "a:80:80",
            "a:65536",
            "a:+1",
            "a@b",
            "a/b",
            "a b",
            "a,b",
            "[::1",
            "::1",
            "[::1]x",
            "[::1]:x",
            "[]",
            "[a]",
            "[::1%25eth0]",
            "a[b]",
            "%4",
            "%zz",
            "a#b",
            "a?b",
            "a\\b",
            "\"a\"",
        ] {
            assert!(!is_host(host), "{host}");
        }
    }

    #[test]
    fn a_target_has_one_of_three_forms() {
        let check = |method: &str, target: &str| {
            let method = Method::from_bytes(method.as_bytes()).expect("a method");
            target.parse::<Uri>().is_ok_and(|target| check_target(&method, &target).is_ok())
        };
        for (method, target) in [
            ("GET", "/"),
            ("GET", "//a/b?c"),
            ("GET", "/*"),
            ("GET", "http://a/b"),
            ("GET", "HTTPS://a:1/b"),
            ("GET", "http://a"),
            ("OPTIONS", "*"),
        ] {
            assert!(check(method, target), "{method} {target}");
        }
        for (method, target) in [
            ("GET", "*"),
            ("PRI", "*"),
            ("PRI", "/"),
            ("GET", "x"),
            ("GET", "evil:80"),
            ("GET", "a/b"),
            ("GET", "?x"),
            ("OPTIONS", "*x"),
            ("GET", "ftp://a/"),
            ("GET", "file:///etc"),
            ("GET", "http://user:password@a/"),
            ("GET", "http://user@a/"),
            ("GET", "http://a:99999/"),
            ("GET", "http:///a"),
            ("GET", "http://:80/"),
        ] {
            assert!(!check(method, target), "{method} {target}");
        }
    }
}
