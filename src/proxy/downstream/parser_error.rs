//! The responses to heads that hyper's parser rejects.
//!
//! hyper responds to such a head itself, with a status and no body, before a request exists. Here
//! these responses are recognized where bytes leave, and get a problem document. A version other
//! than 1.x is recognized where bytes arrive, because hyper's status for it is 400.

use std::ops::Range;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};

use super::head_check::HeadFault;
use super::problem::{Problem, ProblemKind};

/// A minor version that is not known is read as the highest known one (RFC 9110, 2.5).
const NEWEST: &[u8] = b"HTTP/1.1";

/// Whose bytes are in hyper's write buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Writing {
    /// None; the next ones are the parser's own response unless a request begins.
    Nothing,
    /// A response of the handler, which may be in progress.
    Response,
    /// The rest of a complete response.
    Rest,
}

/// Distinguishes the parser's own responses from those of the handler.
#[derive(Debug)]
pub(super) struct ParserErrors {
    writing: AtomicU8,
    unsupported_version: AtomicBool,
    fault: OnceLock<HeadFault>,
    rejection: OnceLock<ProblemKind>,
}

impl ParserErrors {
    pub(super) fn new() -> Self {
        ParserErrors {
            writing: AtomicU8::new(Writing::Nothing as u8),
            unsupported_version: AtomicBool::new(false),
            fault: OnceLock::new(),
            rejection: OnceLock::new(),
        }
    }

    /// The head breaks a rule; the parser is made to reject it.
    pub(super) fn set_fault(&self, fault: HeadFault) {
        let _ = self.fault.set(fault);
    }

    /// The kind of the problem that replaced the parser's own response.
    pub(super) fn rejection(&self) -> Option<ProblemKind> {
        self.rejection.get().copied()
    }

    /// The handler has received a request.
    pub(super) fn begin_response(&self) {
        self.writing.store(Writing::Response as u8, Ordering::Relaxed);
    }

    /// The handler has no more bytes of its response, or gives them to hyper before the next flush.
    pub(super) fn end_response(&self) {
        self.writing.store(Writing::Rest as u8, Ordering::Relaxed);
    }

    /// hyper's write buffer is empty.
    pub(super) fn record_flush(&self) {
        if self.writing.load(Ordering::Relaxed) == Writing::Rest as u8 {
            self.writing.store(Writing::Nothing as u8, Ordering::Relaxed);
        }
    }

    /// The problem for bytes that hyper writes, if they are the parser's own response.
    pub(super) fn problem_for(&self, bytes: &[u8]) -> Option<Problem> {
        if self.writing.load(Ordering::Relaxed) != Writing::Nothing as u8 {
            return None;
        }
        let status = bytes.strip_prefix(b"HTTP/1.1 ")?.get(..3)?;
        let fault = self.fault.get().map(|fault| fault.explain());
        let problem = match status {
            b"400" if self.unsupported_version.load(Ordering::Relaxed) => unsupported_version(),
            b"400" => {
                let detail = fault.unwrap_or("the head of the request cannot be parsed");
                Problem::new(ProblemKind::BadRequest, detail)
            }
            b"414" => Problem::new(ProblemKind::UriTooLong, "shorten the target"),
            b"431" => Problem::new(ProblemKind::HeadTooLarge, "send fewer or shorter headers"),
            _ => return None,
        };
        self.begin_response();
        let _ = self.rejection.set(problem.kind);
        Some(problem)
    }

    /// The problem for a connection whose parser ended without a response: HTTP/2 was spoken.
    pub(super) fn problem_at_end(&self) -> Option<Problem> {
        let is_without_response = self.writing.load(Ordering::Relaxed) == Writing::Nothing as u8;
        (is_without_response && self.unsupported_version.load(Ordering::Relaxed))
            .then(unsupported_version)
    }

    /// Looks at the version in the first bytes of a request. A newer 1.x becomes 1.1. Returns the
    /// request line without its end, if it is there.
    pub(super) fn check_version(&self, bytes: &mut [u8]) -> Option<Range<usize>> {
        let first = bytes.iter().position(|byte| !matches!(byte, b'\r' | b'\n'))?;
        let end = first + memchr::memchr(b'\n', &bytes[first..])?;
        let end = if bytes[..end].ends_with(b"\r") { end - 1 } else { end };
        let start = end.checked_sub(NEWEST.len()).filter(|start| *start >= first)?;
        let version = &mut bytes[start..end];
        if version != NEWEST && version != b"HTTP/1.0" {
            let [b'H', b'T', b'T', b'P', b'/', major, b'.', minor] = version else { return None };
            match (*major, *minor) {
                (b'1', b'2'..=b'9') => *minor = b'1',
                (b'0' | b'2'..=b'9', b'0'..=b'9') => {
                    self.unsupported_version.store(true, Ordering::Relaxed);
                }
                _ => {}
            }
        }
        Some(first..end)
    }
}

fn unsupported_version() -> Problem {
    Problem::new(ProblemKind::VersionNotSupported, "use version 1.1 or 1.0")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(head: &str) -> (String, bool) {
        let (errors, mut bytes) = (ParserErrors::new(), head.as_bytes().to_vec());
        errors.check_version(&mut bytes);
        let text = String::from_utf8(bytes).expect("text");
        (text, errors.problem_at_end().is_some())
    }

    #[test]
    fn only_the_version_of_a_request_line_is_changed() {
        for (head, expected, is_unsupported) in [
            ("GET / HTTP/1.1\r\nx: HTTP/1.2\r\n", "GET / HTTP/1.1\r\nx: HTTP/1.2\r\n", false),
            ("GET / HTTP/1.2\r\nx: y\r\n", "GET / HTTP/1.1\r\nx: y\r\n", false),
            ("GET / HTTP/1.9\n", "GET / HTTP/1.1\n", false),
            ("GET / HTTP/1.0\r\n", "GET / HTTP/1.0\r\n", false),
            ("GET / HTTP/2.0\r\n", "GET / HTTP/2.0\r\n", true),
            ("PRI * HTTP/2.0\r\n\r\n", "PRI * HTTP/2.0\r\n\r\n", true),
            ("GET / HTTP/0.9\r\n", "GET / HTTP/0.9\r\n", true),
            ("GET / HTTP/1.10\r\n", "GET / HTTP/1.10\r\n", false),
            ("GET / http/1.2\r\n", "GET / http/1.2\r\n", false),
            ("GET / HTTP/1.2", "GET / HTTP/1.2", false),
            ("\r\nGET / HTTP/1.2\r\n", "\r\nGET / HTTP/1.1\r\n", false),
            ("\r\n", "\r\n", false),
            ("", "", false),
        ] {
            assert_eq!(after(head), (expected.to_owned(), is_unsupported), "{head:?}");
        }
    }

    #[test]
    fn only_the_parsers_own_response_is_replaced() {
        let (errors, auto) = (ParserErrors::new(), b"HTTP/1.1 400 Bad Request\r\n");
        errors.begin_response();
        assert!(errors.problem_for(auto).is_none());
        errors.end_response();
        assert!(errors.problem_for(auto).is_none());
        errors.record_flush();
        assert!(errors.problem_for(b"HTTP/1.1 100 Continue\r\n\r\n").is_none());
        let problem = errors.problem_for(auto).expect("a problem");
        assert_eq!(problem.kind, ProblemKind::BadRequest);
        assert!(errors.problem_for(auto).is_none());
    }
}
