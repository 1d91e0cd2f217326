//! Whether a request is for a stream.
//!
//! A stream has to arrive uncompressed, because it is read; and a response to such a request is a
//! stream, whatever its label says.

use std::sync::LazyLock;

use bytes::Bytes;
use http::Method;
use http::header::ACCEPT;
use memchr::memmem::{self, Finder};

use super::head::RequestHead;
use crate::json::scan::Members;
use crate::proxy::downstream::header_marks::HeaderMarks;

/// Ends of paths that always stream: Google, Vertex and Bedrock.
const STREAMING_PATHS: [&str; 4] = [
    ":streamGenerateContent",
    ":streamRawPredict",
    "/converse-stream",
    "/invoke-with-response-stream",
];
/// Ends of paths that stream unless the body says otherwise: Ollama.
const STREAMING_BY_DEFAULT: [&str; 2] = ["/api/chat", "/api/generate"];

/// Built once: most bodies do not have it, and are searched for nothing else.
static KEY: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(b"\"stream\""));

/// The member `stream` of a request's body.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum StreamFlag {
    Set,
    Unset,
    #[default]
    Absent,
    /// The body, or the end of it, cannot be read.
    Unknown,
}

impl StreamFlag {
    /// `is_whole`: nothing follows behind `body`.
    pub fn of(body: &Bytes, is_whole: bool) -> StreamFlag {
        let absent = if is_whole { StreamFlag::Absent } else { StreamFlag::Unknown };
        // A magic number: the body is compressed with gzip or zstd.
        if body.starts_with(b"\x1f\x8b") || body.starts_with(b"\x28\xb5\x2f\xfd") {
            return StreamFlag::Unknown;
        }
        if KEY.find(body).is_none() {
            return absent;
        }
        // A field of a form.
        if body.starts_with(b"--") {
            let is_field = memmem::find(body, b"name=\"stream\"").is_some();
            return if is_field { StreamFlag::Set } else { absent };
        }
        match Members::new(body, "stream").last() {
            Some(at) if &body[at.clone()] == b"true" => StreamFlag::Set,
            Some(_) => StreamFlag::Unset,
            None => absent,
        }
    }
}

/// Whether the response will be a stream; `None` if that cannot be known.
pub fn requests_stream(head: &RequestHead, flag: StreamFlag) -> Option<bool> {
    let names_events =
        |value: &http::HeaderValue| memmem::find(value.as_bytes(), b"text/event-stream").is_some();
    let accepts_events = || {
        head.marks().has(HeaderMarks::ACCEPT)
            && head.headers().get_all(ACCEPT).iter().any(names_events)
    };
    let path = head.uri().path();
    if STREAMING_PATHS.iter().any(|end| path.ends_with(end)) {
        return Some(true);
    }
    if *head.method() != Method::POST {
        return Some(accepts_events());
    }
    match flag {
        StreamFlag::Set => Some(true),
        StreamFlag::Unset => Some(false),
        _ if accepts_events() => Some(true),
        StreamFlag::Absent => Some(STREAMING_BY_DEFAULT.iter().any(|end| path.ends_with(end))),
        StreamFlag::Unknown => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderMap;

    #[test]
    fn the_body_says_whether_a_stream_is_requested() {
        let flag = |body: &str| StreamFlag::of(&Bytes::from(body.to_owned()), true);
        for (body, expected) in [
            (r#"{"stream":true}"#, StreamFlag::Set),
            (r#"{"messages":[{"stream":false}],"stream" : true}"#, StreamFlag::Set),
            (r#"{"stream":true,"stream":false}"#, StreamFlag::Unset),
            (r#"{"stream":null}"#, StreamFlag::Unset),
            (r#"{"messages":["\"stream\""]}"#, StreamFlag::Absent),
            ("--x\r\nContent-Disposition: form-data; name=\"stream\"\r\n\r\ntrue", StreamFlag::Set),
            ("", StreamFlag::Absent),
            ("\u{1f}\u{8b}", StreamFlag::Absent),
        ] {
            assert_eq!(flag(body), expected, "{body}");
        }
        let part = Bytes::from_static(br#"{"messages":["#);
        assert_eq!(StreamFlag::of(&part, false), StreamFlag::Unknown);
        assert_eq!(StreamFlag::of(&Bytes::from_static(b"\x1f\x8b\x08"), true), StreamFlag::Unknown);
    }

    #[test]
    fn the_path_and_the_accepted_type_say_it_too() {
        let requests = |method: Method, path: &'static str, accept: &'static str, flag| {
            let mut headers = HeaderMap::new();
            headers.insert(ACCEPT, http::HeaderValue::from_static(accept));
            requests_stream(&RequestHead::new(method, path.parse().expect("a path"), headers), flag)
        };
        let google = "/v1beta/models/m:streamGenerateContent?alt=sse";
        assert_eq!(requests(Method::POST, google, "*/*", StreamFlag::Absent), Some(true));
        assert_eq!(
            requests(Method::POST, "/v1/chat", "text/event-stream", StreamFlag::Absent),
            Some(true)
        );
        assert_eq!(
            requests(Method::GET, "/events", "text/event-stream", StreamFlag::Absent),
            Some(true)
        );
        assert_eq!(requests(Method::POST, "/api/chat", "*/*", StreamFlag::Absent), Some(true));
        assert_eq!(requests(Method::POST, "/api/chat", "*/*", StreamFlag::Unset), Some(false));
        assert_eq!(requests(Method::POST, "/v1/chat", "*/*", StreamFlag::Absent), Some(false));
        assert_eq!(requests(Method::POST, "/v1/chat", "*/*", StreamFlag::Unknown), None);
    }
}
