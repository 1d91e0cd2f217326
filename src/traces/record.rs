//! The access record of a traced request, as far as its spans need it.

use serde::Deserialize;

/// A record, and the time of its start.
#[derive(Debug)]
pub struct TracedRequest {
    /// Nanoseconds since 1970.
    pub start: u64,
    pub record: TraceRecord,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct TraceRecord {
    pub route: String,
    pub method: String,
    pub path: String,
    pub status: u16,
    pub result: String,
    pub reason: Option<String>,
    pub duration_ms: f64,
    pub wait_ms: Option<f64>,
    pub request_id: Option<String>,
    pub trace_id: String,
    pub span_id: String,
    pub parent_span_id: Option<String>,
    pub model: Option<String>,
    pub class: Option<String>,
    pub attempts: Vec<TracedAttempt>,
    pub retry_denied: Option<String>,
    pub cache: Option<String>,
    pub degraded: Vec<TracedAction>,
    pub job: Option<String>,
    /// It is the record of a run of the job. The request that enqueued the job has another.
    pub run: bool,
    pub cost: Option<f64>,
    pub policy: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct TracedAttempt {
    pub span_id: String,
    /// `provider/endpoint`.
    pub endpoint: String,
    pub credential: Option<String>,
    pub class: String,
    pub status: Option<u16>,
    pub start_ms: f64,
    pub duration_ms: f64,
    pub probe: bool,
    /// `hedge` or `continuation`.
    pub kind: Option<String>,
    pub error: Option<String>,
    pub code: Option<String>,
    pub model: Option<String>,
    pub provider_request_id: Option<String>,
    pub tokens_in: Option<u64>,
    pub tokens_out: Option<u64>,
    pub stream: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct TracedAction {
    pub mode: String,
    pub action: String,
}

impl TracedRequest {
    /// Reads a line of `TIME RECORD`.
    pub fn read(line: &[u8]) -> Option<TracedRequest> {
        let (start, record) = std::str::from_utf8(line).ok()?.split_once(' ')?;
        Some(TracedRequest {
            start: start.parse().ok()?,
            record: serde_json::from_str(record).ok()?,
        })
    }

    /// The time of a point of the request, in nanoseconds since 1970.
    pub fn at(&self, after_ms: f64) -> u64 {
        self.start.saturating_add((after_ms * 1e6).round() as u64)
    }

    pub fn end(&self) -> u64 {
        self.at(self.record.duration_ms)
    }
}

impl TracedAttempt {
    pub fn provider(&self) -> &str {
        self.endpoint.split_once('/').map_or(&*self.endpoint, |(provider, _)| provider)
    }

    pub fn end_ms(&self) -> f64 {
        self.start_ms + self.duration_ms
    }

    pub fn succeeded(&self) -> bool {
        self.class == "success"
    }

    pub fn is_hedge(&self) -> bool {
        self.kind.as_deref() == Some("hedge")
    }

    pub fn is_continuation(&self) -> bool {
        self.kind.as_deref() == Some("continuation")
    }

    /// The other one of two racing attempts was faster.
    pub fn is_cancelled(&self) -> bool {
        self.status.is_none() && self.class == "ignored"
    }
}
