//! What an answer is, as its head tells: whether its body can be read, and as what.

use std::time::{Duration, SystemTime};

use http::header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderMap, HeaderName, RETRY_AFTER};

use crate::stream::framing::StreamFormat;

const RETRY_AFTER_MS: HeaderName = HeaderName::from_static("retry-after-ms");

/// An answer that is compressed has no events that could be read, and no values.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ContentType {
    pub kind: MediaKind,
    pub encoded: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MediaKind {
    Json,
    Events(StreamFormat),
    #[default]
    Other,
}

impl ContentType {
    pub fn of(headers: &HeaderMap) -> ContentType {
        let content_type = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
        let encoded = headers.contains_key(CONTENT_ENCODING)
            && headers.get_all(CONTENT_ENCODING).iter().any(|coding| !is_none(coding.as_bytes()));
        ContentType { kind: content_type.map_or(MediaKind::Other, MediaKind::of), encoded }
    }

    /// Its events can be read.
    pub fn events(self) -> Option<StreamFormat> {
        match self.kind {
            MediaKind::Events(format) if !self.encoded => Some(format),
            _ => None,
        }
    }

    /// It is one document, and no stream of events.
    pub fn is_document(self) -> bool {
        !matches!(self.kind, MediaKind::Events(_))
    }

    /// It is one JSON document that can be read.
    pub fn is_json(self) -> bool {
        self.kind == MediaKind::Json && !self.encoded
    }
}

impl MediaKind {
    fn of(content_type: &str) -> MediaKind {
        let essence = content_type.split(';').next().unwrap_or_default().trim();
        let is = |name: &str| essence.eq_ignore_ascii_case(name);
        let lines = ["application/x-ndjson", "application/ndjson", "application/jsonl"];
        if is("application/json") {
            MediaKind::Json
        } else if is("text/event-stream") {
            MediaKind::Events(StreamFormat::Sse)
        } else if lines.iter().any(|name| is(name)) || is("application/x-jsonlines") {
            MediaKind::Events(StreamFormat::Lines)
        } else if essence.len() > 5
            && essence.as_bytes()[essence.len() - 5..].eq_ignore_ascii_case(b"+json")
        {
            MediaKind::Json
        } else {
            MediaKind::Other
        }
    }
}

fn is_none(coding: &[u8]) -> bool {
    let coding = coding.trim_ascii();
    coding.is_empty() || coding.eq_ignore_ascii_case(b"identity")
}

/// `Retry-After` in seconds or as a date (RFC 9110, 10.2.3), or `retry-after-ms`.
pub fn retry_after(headers: &HeaderMap, now: impl FnOnce() -> SystemTime) -> Option<Duration> {
    let text = |name: HeaderName| headers.get(name)?.to_str().ok().map(str::trim);
    let millis = text(RETRY_AFTER_MS).and_then(|ms| ms.parse::<f64>().ok());
    if let Some(millis) = millis.filter(|ms| (0.0..1e9).contains(ms)) {
        return Some(Duration::from_secs_f64(millis / 1e3));
    }
    let value = text(RETRY_AFTER)?;
    if let Some(seconds) = value.parse::<f64>().ok().filter(|s| (0.0..1e9).contains(s)) {
        return Some(Duration::from_secs_f64(seconds));
    }
    let date = httpdate::parse_http_date(value).ok()?;
    Some(date.duration_since(now()).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_is_read_in_each_of_its_forms() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777);
        for (name, value, expected) in [
            ("retry-after", "7", Some(7_000)),
            ("retry-after", "1.5", Some(1_500)),
            ("retry-after", "Sun, 06 Nov 1994 08:49:47 GMT", Some(10_000)),
            ("retry-after", "Sun, 06 Nov 1994 08:00:00 GMT", Some(0)),
            ("retry-after", "-1", None),
            ("retry-after", "1e300", None),
            ("retry-after", "soon", None),
            ("retry-after-ms", "250", Some(250)),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(name, value.parse().expect("a value"));
            let expected = expected.map(Duration::from_millis);
            assert_eq!(retry_after(&headers, || now), expected, "{name}: {value}");
        }
    }

    #[test]
    fn an_answer_is_known_by_its_content_type() {
        let kinds = [
            ("application/json; charset=utf-8", MediaKind::Json),
            ("application/problem+JSON", MediaKind::Json),
            ("+json", MediaKind::Other),
            ("text/json-ish", MediaKind::Other),
            ("Text/Event-Stream; charset=utf-8", MediaKind::Events(StreamFormat::Sse)),
            ("application/x-ndjson", MediaKind::Events(StreamFormat::Lines)),
            ("application/json-seq", MediaKind::Other),
        ];
        for (text, kind) in kinds {
            let mut headers = HeaderMap::new();
            headers.insert(CONTENT_TYPE, text.parse().expect("a value"));
            assert_eq!(ContentType::of(&headers), ContentType { kind, encoded: false }, "{text}");
            headers.insert(CONTENT_ENCODING, "identity".parse().expect("a value"));
            assert!(!ContentType::of(&headers).encoded);
            headers.append(CONTENT_ENCODING, "gzip".parse().expect("a value"));
            let nature = ContentType::of(&headers);
            assert!(nature.encoded && nature.events().is_none() && !nature.is_json(), "{text}");
        }
    }
}
