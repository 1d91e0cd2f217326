//! Sends batches of spans to the receiver of `server.traces`.
//!
//! A receiver that is away, or asks to wait, gets the same batch again; meanwhile records wait in
//! their bounded queue. A batch that it rejects is dropped. The log has one line when the receiver
//! is away, and one when it is back.

use std::cell::Cell;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::RETRY_AFTER;
use http::{HeaderMap, StatusCode};

use super::otlp::{Attributes, ExportRequest, Span};
use super::record::TracedRequest;
use super::spans::{EndpointCatalog, spans_of};
use crate::clock;
use crate::live::Live;
use crate::policy::sections::model::Traces;
use crate::resilience::retry::backoff::{BackoffPolicy, Jitter};
use crate::resilience::stats::metric_sample::BUCKET_SECONDS;
use crate::snapshot::CurrentSnapshot;
use crate::telemetry::exemplars::{Exemplar, TracedHistogram};
use crate::telemetry::log_limit::LogLimit;
use crate::telemetry::process::host_name;
use crate::upstream::{AddressScope, Pools, Resolver, WebhookError, WebhookSender};

/// Spans of one export.
const MAX_SPANS: usize = 512;
/// Time for one export.
const TIMEOUT: Duration = Duration::from_secs(10);
/// A receiver is not waited for longer, whatever its `Retry-After`.
const MAX_PAUSE: Duration = Duration::from_secs(60);
const IDLE: Duration = Duration::from_secs(30);
const BACKOFF: BackoffPolicy = BackoffPolicy {
    initial: Duration::from_millis(500),
    max: Duration::from_secs(30),
    multiplier: 2.0,
    jitter: Jitter::Equal,
};

pub struct SpanExporter<'a> {
    current: &'a CurrentSnapshot,
    live: &'a Live,
    sender: WebhookSender,
    pools: Pools,
    host: String,
    /// The log says that the receiver is away.
    is_away: Cell<bool>,
    rejections: LogLimit,
}

/// Why a batch was not accepted.
enum ExportFailure {
    /// The receiver may accept it later; with its `Retry-After`.
    Away(String, Option<Duration>),
    Rejected(StatusCode),
}

impl<'a> SpanExporter<'a> {
    pub fn new(current: &'a CurrentSnapshot, live: &'a Live, resolver: Resolver) -> Self {
        let pools = Pools::new(IDLE);
        SpanExporter {
            current,
            live,
            sender: WebhookSender::new(pools.clone(), resolver, 1),
            pools,
            host: host_name(),
            is_away: Cell::new(false),
            rejections: LogLimit::default(),
        }
    }

    /// Exports until the process ends.
    pub async fn run(self) {
        loop {
            let batches = self.live.traces.next().await;
            self.pools.sweep(clock::now());
            let catalog = Arc::new(EndpointCatalog::of(&self.current.load()));
            let mut spans = Vec::new();
            for line in batches.iter().flat_map(|batch| batch.split(|byte| *byte == b'\n')) {
                let Some(request) = TracedRequest::read(line) else { continue };
                self.note_exemplars(&request);
                spans.extend(spans_of(&request, &catalog));
                if spans.len() >= MAX_SPANS {
                    self.export(&mut spans).await;
                }
            }
            self.export(&mut spans).await;
            self.live.traces.done();
        }
    }

    /// Sends the spans until the receiver accepts or rejects them.
    async fn export(&self, spans: &mut Vec<Span>) {
        while !spans.is_empty() {
            let rest = spans.split_off(spans.len().min(MAX_SPANS));
            let result = self.export_batch(spans).await;
            self.live.traces.count(result, spans.len() as u64);
            *spans = rest;
        }
    }

    /// Returns the result of the export.
    async fn export_batch(&self, spans: &[Span]) -> &'static str {
        let mut attempt = 0;
        loop {
            // A held snapshot would keep live state from being forgotten.
            let Some(traces) = self.current.load().policy.server.traces.clone() else {
                self.is_away.set(false);
                return "dropped";
            };
            attempt += 1;
            match self.post(&traces, spans).await {
                Ok(()) => {
                    if self.is_away.replace(false) {
                        tracing::info!(to = %traces.endpoint, "the receiver of traces is back");
                    }
                    return "exported";
                }
                Err(ExportFailure::Rejected(status)) => {
                    self.note_rejection(&traces, status);
                    return "rejected";
                }
                Err(ExportFailure::Away(..)) if self.live.traces.is_ending() => return "failed",
                Err(ExportFailure::Away(reason, pause)) => {
                    if !self.is_away.replace(true) {
                        let to = &traces.endpoint;
                        tracing::warn!(%to, reason, "the receiver of traces is away: spans wait");
                    }
                    let pause = pause.map(|pause| pause.min(MAX_PAUSE));
                    let pause = pause.unwrap_or_else(|| BACKOFF.delay(attempt, clock::draw()));
                    self.live.traces.pause(pause).await;
                }
            }
        }
    }

    async fn post(&self, traces: &Traces, spans: &[Span]) -> Result<(), ExportFailure> {
        let away = |reason: String| ExportFailure::Away(reason, None);
        let request = ExportRequest::new(self.resource(traces), spans);
        let body = serde_json::to_vec(&request).map_err(|error| away(error.to_string()))?;
        let body = Bytes::from(body);
        let write = |out: &mut Vec<u8>| write_head(out, traces);
        let posted = self.sender.post(&traces.endpoint, AddressScope::Any, &body, write);
        let head = match tokio::time::timeout(TIMEOUT, posted).await {
            Ok(Ok(head)) => head,
            Ok(Err(WebhookError::Unreachable(reason))) => return Err(away(reason)),
            Ok(Err(error)) => return Err(away(error.to_string())),
            Err(_) => return Err(away(format!("no response within {TIMEOUT:?}"))),
        };
        match head.status {
            status if status.is_success() => Ok(()),
            // As the specification of OTLP lists them.
            StatusCode::TOO_MANY_REQUESTS
            | StatusCode::BAD_GATEWAY
            | StatusCode::SERVICE_UNAVAILABLE
            | StatusCode::GATEWAY_TIMEOUT => {
                let reason = format!("it responded with {}", head.status);
                Err(ExportFailure::Away(reason, retry_after(&head.headers)))
            }
            status => Err(ExportFailure::Rejected(status)),
        }
    }

    fn resource(&self, traces: &Traces) -> Attributes {
        let mut resource = Attributes::default();
        resource.text("service.name", &traces.service_name);
        resource.text("service.version", env!("CARGO_PKG_VERSION"));
        resource.text("host.name", &self.host);
        resource
    }

    fn note_rejection(&self, traces: &Traces, status: StatusCode) {
        if let Some(times) = self.rejections.admit(clock::now()) {
            let (to, status) = (&traces.endpoint, status.as_u16());
            tracing::warn!(%to, status, times, "the receiver of traces rejects spans");
        }
    }

    /// Notes the latency of the request and of its attempts, as the histograms observed it.
    fn note_exemplars(&self, request: &TracedRequest) {
        let record = &request.record;
        let exemplar = |span_id: &str, ms: f64, end: u64| Exemplar {
            trace_id: record.trace_id.clone(),
            span_id: span_id.to_owned(),
            value: ms / 1e3,
            at: end as f64 / 1e9,
        };
        let exemplars = &self.live.exemplars;
        // The histogram does not observe runs of jobs.
        if record.route != "-" && !record.run {
            let new = exemplar(&record.span_id, record.duration_ms, request.end());
            exemplars.note(TracedHistogram::RequestDuration, &record.route, &BUCKET_SECONDS, new);
        }
        for attempt in record.attempts.iter().filter(|attempt| attempt.status.is_some()) {
            let end = request.at(attempt.end_ms());
            let new = exemplar(&attempt.span_id, attempt.duration_ms, end);
            exemplars.note(TracedHistogram::FirstByte, attempt.provider(), &BUCKET_SECONDS, new);
        }
    }
}

fn write_head(out: &mut Vec<u8>, traces: &Traces) {
    let to = &traces.endpoint;
    let own = format!(
        "POST {} HTTP/1.1\r\nhost: {}\r\nuser-agent: outrigger/{}\r\ncontent-type: application/json\r\n",
        to.target,
        to.url.authority,
        env!("CARGO_PKG_VERSION")
    );
    out.extend_from_slice(own.as_bytes());
    for (name, value) in &traces.headers {
        out.extend_from_slice(name.as_str().as_bytes());
        out.extend_from_slice(b": ");
        out.extend_from_slice(value.value.as_bytes());
        out.extend_from_slice(b"\r\n");
    }
}

/// The pause that the receiver asks for.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let value = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = value.parse() {
        return Some(Duration::from_secs(seconds));
    }
    httpdate::parse_http_date(value).ok()?.duration_since(clock::wall()).ok()
}
