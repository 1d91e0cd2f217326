//! The head of a response and the framing of its body (RFC 9112, 6.3).
//!
//! Ambiguous framing makes response smuggling possible, so it is resolved strictly.
//! `Transfer-Encoding` overrides `Content-Length`, and the connection is not reused. A response
//! with differing or malformed lengths, or with a transfer coding other than `chunked` alone, is
//! rejected: the coding ends at this hop, so it would have to be decoded here.

use std::mem::MaybeUninit;

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING, UPGRADE};
use http::response::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, Version};

use super::exchange::ExchangeError;

/// Longest head that is accepted.
pub(crate) const MAX_HEAD: usize = 64 * 1024;
const MAX_HEADERS: usize = 128;
pub(crate) const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
/// The only protocol that an upgrade may switch to.
pub const UPGRADE_PROTOCOL: &str = "websocket";

/// The properties of a request that affect the framing of its response.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct RequestTraits {
    /// The method is HEAD: the response has no body.
    pub is_head: bool,
    /// It requests [`UPGRADE_PROTOCOL`].
    pub is_upgrade: bool,
}

/// How the end of a body is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Framing {
    Length(u64),
    Chunked,
    Close,
    /// The connection has switched to another protocol.
    Switched,
}

#[derive(Debug)]
pub(crate) struct ResponseHead {
    pub parts: Parts,
    pub framing: Framing,
    /// The connection may be used again after the body.
    pub reusable: bool,
    /// There is a `Keep-Alive`.
    pub has_keep_alive: bool,
}

/// Parses a head. Returns it with its length, or `None` while it is incomplete.
pub(crate) fn parse(
    bytes: &Bytes,
    traits: RequestTraits,
    seen: &mut SeenNames,
) -> Result<Option<(ResponseHead, usize)>, ExchangeError> {
    let mut lines = [const { MaybeUninit::uninit() }; MAX_HEADERS];
    let mut response = httparse::Response::new(&mut []);
    let parsed = httparse::ParserConfig::default()
        // A proxy removes it (RFC 9112, 5.1).
        .allow_spaces_after_header_name_in_responses(true)
        .parse_response_with_uninit_headers(&mut response, bytes, &mut lines)
        .map_err(|error| match error {
            httparse::Error::TooManyHeaders => ExchangeError::TooLarge("the response head"),
            _ => ExchangeError::Malformed("the response head"),
        })?;
    let size = if let httparse::Status::Complete(length) = parsed { length } else { bytes.len() };
    if size > MAX_HEAD {
        return Err(ExchangeError::TooLarge("the response head"));
    }
    let httparse::Status::Complete(length) = parsed else { return Ok(None) };
    let status = response.code.and_then(|code| StatusCode::from_u16(code).ok());
    let status = status.ok_or(ExchangeError::Malformed("the response status"))?;
    let is_http_10 = response.version == Some(0);
    let (mut parts, ()) = Response::new(()).into_parts();
    parts.status = status;
    // A proxy sends its own version (RFC 9112, 2.3).
    parts.version = Version::HTTP_11;
    parts.headers.reserve(response.headers.len());
    let mut lines = FramingLines::default();
    for (at, line) in response.headers.iter().enumerate() {
        let malformed = || ExchangeError::Malformed("a response header");
        let name = seen.name(at, line.name).ok_or_else(malformed)?;
        let value = HeaderValue::from_maybe_shared(bytes.slice_ref(line.value));
        let value = value.map_err(|_| malformed())?;
        lines.note(&name, value.as_bytes());
        let added = parts.headers.try_append(name, value);
        added.map_err(|_| ExchangeError::TooLarge("the response head"))?;
    }
    let (framing, is_unambiguous) =
        framing(&mut parts.headers, &lines, status, is_http_10, traits)?;
    let is_persistent = !lines.names_close && (lines.names_keep_alive || !is_http_10);
    let reusable = is_unambiguous && framing != Framing::Close && is_persistent;
    let has_keep_alive = lines.has_keep_alive;
    Ok(Some((ResponseHead { parts, framing, reusable, has_keep_alive }, length)))
}

/// The names of the lines of a connection's first response, as received and as parsed. Most responses of
/// a server have the same lines in the same order, and to compare a name costs less than to parse it.
/// Bounded by number and by length.
#[derive(Debug, Default)]
pub(crate) struct SeenNames(Vec<(Box<str>, HeaderName)>);

impl SeenNames {
    const MOST: usize = 32;
    const LONGEST: usize = 64;

    /// The name of the line at a place; `None` if it is malformed.
    fn name(&mut self, at: usize, name: &str) -> Option<HeaderName> {
        match self.0.get(at) {
            Some((seen, parsed)) if **seen == *name => return Some(parsed.clone()),
            _ => {}
        }
        let parsed = HeaderName::from_bytes(name.as_bytes()).ok()?;
        if at == self.0.len() && at < SeenNames::MOST && name.len() <= SeenNames::LONGEST {
            self.0.push((name.into(), parsed.clone()));
        }
        Some(parsed)
    }
}

/// The facts about framing and the connection in the lines of a head. Noted as the lines pass, because a
/// lookup costs more.
#[derive(Debug, Default)]
struct FramingLines {
    length: ContentLength,
    has_transfer_encoding: bool,
    has_keep_alive: bool,
    /// Options that a `Connection` line names.
    names_close: bool,
    names_keep_alive: bool,
}

/// The lines of `Content-Length`.
#[derive(Debug, Default)]
struct ContentLength {
    value: Option<u64>,
    /// The value is not one line of digits, as it should be forwarded.
    is_list: bool,
    /// It is no number, or values differ.
    is_malformed: bool,
}

impl FramingLines {
    fn note(&mut self, name: &HeaderName, value: &[u8]) {
        match *name {
            CONTENT_LENGTH => self.length.note(value),
            CONNECTION => {
                for option in value.split(|b| *b == b',').map(<[u8]>::trim_ascii) {
                    self.names_close |= option.eq_ignore_ascii_case(b"close");
                    self.names_keep_alive |= option.eq_ignore_ascii_case(b"keep-alive");
                }
            }
            TRANSFER_ENCODING => self.has_transfer_encoding = true,
            _ => self.has_keep_alive |= *name == KEEP_ALIVE,
        }
    }
}

impl ContentLength {
    /// All values of all lines have to be equal.
    fn note(&mut self, line: &[u8]) {
        let has_leading_zero = line.starts_with(b"0") && line.len() > 1;
        match (self.value, number(line)) {
            (None, Some(value)) if !has_leading_zero => self.value = Some(value),
            _ => self.note_list(line),
        }
    }

    fn note_list(&mut self, line: &[u8]) {
        self.is_list = true;
        for value in line.split(|b| *b == b',') {
            let value = number(value.trim_ascii());
            let before = self.value.or(value);
            self.is_malformed |= value.is_none() || value != before;
            self.value = before;
        }
    }

    /// Replaces a list by its single value (RFC 9112, 6.3), because a list that is forwarded makes the
    /// client decide how to read it.
    fn resolve(&self, headers: &mut HeaderMap) -> Result<Option<u64>, ExchangeError> {
        if self.is_malformed {
            return Err(ExchangeError::Malformed("Content-Length"));
        }
        if let Some(length) = self.value.filter(|_| self.is_list) {
            headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
        }
        Ok(self.value)
    }
}

/// Also returns whether the framing is unambiguous.
fn framing(
    headers: &mut HeaderMap,
    lines: &FramingLines,
    status: StatusCode,
    is_http_10: bool,
    traits: RequestTraits,
) -> Result<(Framing, bool), ExchangeError> {
    if status == StatusCode::SWITCHING_PROTOCOLS {
        return if !traits.is_upgrade {
            Err(ExchangeError::Malformed("a protocol switch that was not requested"))
        } else if !switches_as_requested(headers) {
            Err(ExchangeError::Malformed("a protocol switch to a protocol that was not offered"))
        } else {
            Ok((Framing::Switched, false))
        };
    }
    let has_no_body = traits.is_head
        || status.is_informational()
        || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    if lines.has_transfer_encoding {
        if is_http_10 {
            return Err(ExchangeError::Malformed("Transfer-Encoding in HTTP/1.0"));
        }
        let is_unambiguous = headers.remove(CONTENT_LENGTH).is_none();
        if has_no_body {
            return Ok((Framing::Length(0), is_unambiguous));
        }
        if !is_chunked(headers) {
            return Err(ExchangeError::Malformed("Transfer-Encoding"));
        }
        return Ok((Framing::Chunked, is_unambiguous));
    }
    let length = lines.length.resolve(headers)?;
    if has_no_body {
        return Ok((Framing::Length(0), true));
    }
    Ok((length.map_or(Framing::Close, Framing::Length), true))
}

/// Whether a 101 names exactly the protocol that was offered (RFC 9110, 7.8).
fn switches_as_requested(headers: &HeaderMap) -> bool {
    let mut lines = headers.get_all(UPGRADE).iter().map(HeaderValue::as_bytes);
    let is_offered =
        |line: &[u8]| line.trim_ascii().eq_ignore_ascii_case(UPGRADE_PROTOCOL.as_bytes());
    lines.next().is_some_and(is_offered) && lines.next().is_none()
}

/// Whether `chunked` is the only coding.
fn is_chunked(headers: &HeaderMap) -> bool {
    let mut lines = headers.get_all(TRANSFER_ENCODING).iter().map(HeaderValue::as_bytes);
    let is_chunked = |line: &[u8]| line.trim_ascii().eq_ignore_ascii_case(b"chunked");
    lines.next().is_some_and(is_chunked) && lines.next().is_none()
}

/// Digits and nothing else.
fn number(text: &[u8]) -> Option<u64> {
    let digit = |b: &u8| b.is_ascii_digit().then(|| u64::from(b - b'0'));
    let add = |sum: u64, b| sum.checked_mul(10)?.checked_add(digit(b)?);
    if text.is_empty() { None } else { text.iter().try_fold(0, add) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(text: &str, traits: RequestTraits) -> Result<Option<(ResponseHead, usize)>, String> {
        parse(&Bytes::copy_from_slice(text.as_bytes()), traits, &mut SeenNames::default())
            .map_err(|error| error.to_string())
    }

    fn framed(head: &str, traits: RequestTraits) -> Option<(Framing, bool)> {
        let read = read(&format!("{head}\r\n\r\n"), traits).ok()?;
        let (head, _) = read.expect("a complete head");
        Some((head.framing, head.reusable))
    }

    #[test]
    fn a_body_ends_where_the_rfc_says() {
        let (get, head) =
            (RequestTraits::default(), RequestTraits { is_head: true, is_upgrade: false });
        let upgrade = RequestTraits { is_head: false, is_upgrade: true };
        for (text, traits, expected) in [
            ("HTTP/1.1 200 OK\r\ncontent-length: 5", get, Some((Framing::Length(5), true))),
            ("HTTP/1.1 200 OK\r\ncontent-length: 5", head, Some((Framing::Length(0), true))),
            ("HTTP/1.1 200 OK\r\ncontent-length: 5, 5", get, Some((Framing::Length(5), true))),
            ("HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 6", get, None),
            ("HTTP/1.1 200 OK\r\ncontent-length: +5", get, None),
            ("HTTP/1.1 200 OK\r\ncontent-length: ", get, None),
            ("HTTP/1.1 200 OK\r\ncontent-length: 99999999999999999999", get, None),
            ("HTTP/1.1 200 OK", get, Some((Framing::Close, false))),
            ("HTTP/1.1 204 No Content", get, Some((Framing::Length(0), true))),
            (
                "HTTP/1.1 304 Not Modified\r\ncontent-length: 9",
                get,
                Some((Framing::Length(0), true)),
            ),
            ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked", get, Some((Framing::Chunked, true))),
            ("HTTP/1.1 200 OK\r\ntransfer-encoding: Chunked", get, Some((Framing::Chunked, true))),
            (
                "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ncontent-length: 5",
                get,
                Some((Framing::Chunked, false)),
            ),
            ("HTTP/1.0 200 OK\r\ntransfer-encoding: chunked", get, None),
            ("HTTP/1.0 200 OK\r\ncontent-length: 5", get, Some((Framing::Length(5), false))),
            (
                "HTTP/1.0 200 OK\r\ncontent-length: 5\r\nconnection: keep-alive",
                get,
                Some((Framing::Length(5), true)),
            ),
            (
                "HTTP/1.1 200 OK\r\ncontent-length: 5\r\nconnection: x, Close",
                get,
                Some((Framing::Length(5), false)),
            ),
            (
                "HTTP/1.1 101 Switching\r\nupgrade: WebSocket",
                upgrade,
                Some((Framing::Switched, false)),
            ),
            ("HTTP/1.1 101 Switching\r\nupgrade: websocket", get, None),
        ] {
            assert_eq!(framed(text, traits), expected, "{text}");
        }
    }

    #[test]
    fn only_chunked_alone_is_a_transfer_coding() {
        for codings in [
            "gzip, chunked",
            "chunked, gzip",
            "chunked, chunked",
            "chunked\r\ntransfer-encoding: chunked",
            "gzip\r\ntransfer-encoding: chunked",
            "chunked, identity",
            "xchunked",
            "identity",
            "gzip",
            "",
            ",chunked",
            "chunked;q=1",
            "\"chunked\"",
        ] {
            let text = format!("HTTP/1.1 200 OK\r\ntransfer-encoding: {codings}");
            assert_eq!(framed(&text, RequestTraits::default()), None, "{codings}");
        }
    }

    #[test]
    fn a_switch_to_a_protocol_that_was_not_offered_is_malformed() {
        let upgrade = RequestTraits { is_head: false, is_upgrade: true };
        for protocols in [
            "",
            "upgrade: h2c",
            "upgrade: websocket, h2c",
            "upgrade: websocket\r\nupgrade: websocket",
            "upgrade: websocket/13",
            "upgrade: ",
        ] {
            let text = format!("HTTP/1.1 101 Switching\r\nconnection: upgrade\r\n{protocols}");
            assert_eq!(framed(text.trim_end(), upgrade), None, "{protocols}");
        }
    }

    #[test]
    fn a_repeated_content_length_is_forwarded_once() {
        for (line, value) in [
            ("content-length: 5", "5"),
            ("content-length: 5, 5", "5"),
            ("content-length: 5\r\ncontent-length: 5", "5"),
            ("content-length: 005", "5"),
            ("content-length: 0", "0"),
        ] {
            let text = format!("HTTP/1.1 200 OK\r\n{line}\r\n\r\n");
            let (head, _) = read(&text, RequestTraits::default()).expect("read").expect("complete");
            let values: Vec<_> = head.parts.headers.get_all(CONTENT_LENGTH).iter().collect();
            assert_eq!(values, [value], "{line}");
        }
    }

    #[test]
    fn a_content_length_beside_a_transfer_coding_is_removed() {
        let text = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ncontent-length: 5\r\n\r\n";
        let (head, length) = read(text, RequestTraits::default()).expect("read").expect("complete");
        assert!(!head.parts.headers.contains_key(CONTENT_LENGTH));
        assert_eq!(length, text.len());
    }

    #[test]
    fn names_are_parsed_after_heads_with_other_lines() {
        let mut seen = SeenNames::default();
        for lines in [
            &["Content-Length", "X-A"][..],
            &["content-length", "x-a", "x-b"],
            &["X-A", "Content-Length"],
            &["Content-Length", "X-A", "x-b", "x-c"],
        ] {
            let lines: String = lines.iter().map(|name| format!("{name}: 1\r\n")).collect();
            let text = format!("HTTP/1.1 200 OK\r\n{lines}\r\n");
            let expected = read(&text, RequestTraits::default()).expect("read").expect("complete");
            let head = parse(&Bytes::from(text.clone()), RequestTraits::default(), &mut seen);
            let (head, _) = head.expect("read").expect("complete");
            assert_eq!(head.parts.headers, expected.0.parts.headers, "{text}");
        }
    }

    #[test]
    fn a_malformed_or_oversized_head_is_rejected() {
        for text in [
            "HTTP/2 200 OK\r\n\r\n",
            "SSH-2.0\r\n\r\n",
            "HTTP/1.1 20 OK\r\n\r\n",
            "HTTP/1.1 200 OK\r\na b: c\r\n\r\n",
            "HTTP/1.1 200 OK\r\n : c\r\n\r\n",
        ] {
            assert!(read(text, RequestTraits::default()).is_err(), "{text:?}");
        }
        let long = format!("HTTP/1.1 200 OK\r\nx: {}", "y".repeat(MAX_HEAD));
        assert!(read(&long, RequestTraits::default()).is_err());
        assert!(read(&(long + "\r\n\r\n"), RequestTraits::default()).is_err());
        assert!(matches!(read("HTTP/1.1 200 OK\r\nx: y", RequestTraits::default()), Ok(None)));
        let many = format!("HTTP/1.1 200 OK\r\n{}\r\n", "x: y\r\n".repeat(MAX_HEADERS + 1));
        assert!(read(&many, RequestTraits::default()).is_err());
    }

    proptest! {
        #[test]
        fn no_input_causes_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let mut seen = SeenNames::default();
            let head = [b"HTTP/1.1 200 ".as_slice(), &bytes].concat();
            let _ = parse(&Bytes::from(head), RequestTraits::default(), &mut seen);
            let _ = parse(&Bytes::from(bytes), RequestTraits::default(), &mut seen);
        }
    }
}
