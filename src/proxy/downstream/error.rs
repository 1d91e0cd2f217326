//! Every answer that Outrigger makes itself: problem JSON (RFC 9457) with a stable `type`, and
//! `Proxy-Status` (RFC 9209). Which there are is in `kind.rs`.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_TYPE, HeaderName, RETRY_AFTER};
use http::{HeaderValue, Response};
use serde_json::json;

pub use super::problem_kind::Kind;
use crate::proxy::response::body::ResponseBody;

/// An answer of ours.
#[derive(Clone, Debug)]
pub struct Problem {
    pub kind: Kind,
    /// What happened here and what can be done; never a secret, never a query.
    pub detail: String,
    pub retry_after: Option<Duration>,
}

impl Problem {
    pub fn new(kind: Kind, detail: impl Into<String>) -> Self {
        Problem { kind, detail: detail.into(), retry_after: None }
    }

    pub fn retry_after(mut self, after: Option<Duration>) -> Self {
        self.retry_after = after;
        self
    }

    /// The bytes of the JSON document.
    pub fn json(&self) -> Vec<u8> {
        let row = self.kind.row();
        let mut text = json!({
            "type": format!("urn:outrigger:problem:{}", self.kind.name()),
            "title": row.title,
            "status": self.kind.status().as_u16(),
            "detail": self.detail,
        });
        // What an SDK made for OpenAI's API shows as the error's message.
        text["error"] = json!({ "message": format!("{}: {}", row.title, self.detail), "type": self.kind.name() });
        text.to_string().into_bytes()
    }

    pub fn into_response(self) -> Response<ResponseBody> {
        let row = self.kind.row();
        let mut response = Response::new(ResponseBody::full(Bytes::from(self.json())));
        *response.status_mut() = self.kind.status();
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        headers.insert(PROXY_STATUS, self.proxy_status(row.proxy_error));
        if let Some(after) = self.retry_after {
            let seconds = after.as_secs_f64().ceil().max(1.0) as u64;
            headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        if row.close {
            headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }

    fn proxy_status(&self, error: Option<&str>) -> HeaderValue {
        let error = error.map(|e| format!("; error={e}")).unwrap_or_default();
        let details: String = self
            .detail
            .chars()
            .filter(|c| c.is_ascii() && !c.is_ascii_control() && !matches!(c, '"' | '\\'))
            .take(200)
            .collect();
        HeaderValue::from_str(&format!("outrigger{error}; details=\"{details}\""))
            .unwrap_or_else(|_| HeaderValue::from_static("outrigger"))
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.kind.name(), self.detail)
    }
}

pub const PROXY_STATUS: HeaderName = HeaderName::from_static("proxy-status");

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn every_kind_has_a_type_of_its_own_and_an_error_status() {
        let names: HashSet<_> = Kind::all().map(Kind::name).collect();
        assert_eq!(names.len(), Kind::all().count());
        assert!(Kind::all().all(|kind| (400..600).contains(&kind.status().as_u16())));
    }

    #[test]
    fn an_answer_of_ours_is_problem_json_with_proxy_status() {
        let problem = Problem::new(Kind::Unreachable, "openai: \"refused\"\n")
            .retry_after(Some(Duration::from_millis(1200)));
        let response = problem.into_response();
        let header = |name: &str| response.headers()[name].to_str().expect("text").to_owned();
        assert_eq!(response.status(), 502);
        assert_eq!(header("content-type"), "application/problem+json");
        assert_eq!(header("retry-after"), "2");
        assert_eq!(
            header("proxy-status"),
            "outrigger; error=connection_refused; details=\"openai: refused\""
        );
    }
}
