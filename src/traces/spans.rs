//! From an access record to its spans: one of the request, and one of each attempt below it.
//!
//! An attempt that was forwarded ends with the response, so that its span covers the whole stream;
//! any other ends when its outcome is known.

use std::collections::HashMap;

use super::gen_ai;
use super::otlp::{Attributes, Span, SpanKind, SpanStatus};
use super::record::{TracedAttempt, TracedRequest};
use crate::policy::presets;
use crate::snapshot::Snapshot;

/// The facts about the endpoints of a policy that spans show.
#[derive(Debug, Default)]
pub struct EndpointCatalog {
    /// The listener speaks TLS.
    pub is_https: bool,
    /// By `provider/endpoint`.
    pub endpoints: HashMap<String, EndpointFacts>,
}

#[derive(Clone, Debug)]
pub struct EndpointFacts {
    pub host: String,
    pub port: u16,
    /// `gen_ai.provider.name`, if the provider is well known.
    pub gen_ai_provider: Option<&'static str>,
}

impl EndpointCatalog {
    pub fn of(snapshot: &Snapshot) -> EndpointCatalog {
        let mut endpoints = HashMap::new();
        for provider in &snapshot.providers {
            for endpoint in &provider.endpoints {
                let url = &endpoint.policy.url;
                let known = || presets::ALL.iter().find(|preset| preset.has_host(&url.host));
                let preset = provider.policy.preset.or_else(known);
                let facts = EndpointFacts {
                    host: url.host.clone(),
                    port: url.port,
                    gen_ai_provider: preset.map(|preset| gen_ai::provider(preset.name)),
                };
                endpoints.insert(endpoint.key.clone(), facts);
            }
        }
        EndpointCatalog { is_https: snapshot.listener_tls.is_some(), endpoints }
    }
}

/// The spans of a request, its own first.
pub fn spans_of(request: &TracedRequest, catalog: &EndpointCatalog) -> Vec<Span> {
    let mut attempts: Vec<&TracedAttempt> = request.record.attempts.iter().collect();
    attempts.sort_by(|a, b| a.start_ms.total_cmp(&b.start_ms));
    let forwarded = forwarded(request, &attempts);
    let of_attempts = (0..attempts.len()).map(|index| {
        let attempt = attempts[index];
        AttemptSpan {
            request,
            attempt,
            index,
            facts: catalog.endpoints.get(&attempt.endpoint),
            retry_reason: retry_reason(&attempts[..index], attempt),
            is_forwarded: forwarded.contains(&index),
            end_ms: end_ms(request, &attempts, index, &forwarded),
        }
        .span()
    });
    std::iter::once(request_span(request, catalog)).chain(of_attempts).collect()
}

/// The attempts whose response was forwarded: the last one, and those that a continuation followed.
fn forwarded(request: &TracedRequest, attempts: &[&TracedAttempt]) -> Vec<usize> {
    let responded = |index: &usize| attempts[*index].status.is_some();
    let succeeded = |index: &usize| attempts[*index].succeeded();
    let all = || 0..attempts.len();
    let is_continued = |index: &usize| {
        let after = attempts.get(index + 1..).unwrap_or_default();
        succeeded(index) && after.first().is_some_and(|next| next.is_continuation())
    };
    let last = match request.record.result.as_str() {
        "local_response" => None,
        _ => all().rfind(succeeded).or_else(|| all().rfind(responded)),
    };
    all().filter(is_continued).chain(last).collect()
}

/// When an attempt ends, in milliseconds after the start of its request.
fn end_ms(
    request: &TracedRequest,
    attempts: &[&TracedAttempt],
    index: usize,
    forwarded: &[usize],
) -> f64 {
    let attempt = attempts[index];
    if !forwarded.contains(&index) {
        return attempt.end_ms();
    }
    let later = attempts[index + 1..].iter().find(|later| later.is_continuation());
    later.map_or(request.record.duration_ms, |later| later.start_ms).max(attempt.end_ms())
}

/// The class of the attempt that this one followed.
fn retry_reason<'a>(before: &[&'a TracedAttempt], attempt: &TracedAttempt) -> Option<&'a str> {
    let ended = before.iter().filter(|earlier| earlier.end_ms() <= attempt.start_ms + 0.001);
    let last = ended.max_by(|a, b| a.end_ms().total_cmp(&b.end_ms()))?;
    attempt.kind.is_none().then_some(&*last.class)
}

fn request_span(request: &TracedRequest, catalog: &EndpointCatalog) -> Span {
    let record = &request.record;
    let route = Some(record.route.as_str()).filter(|route| *route != "-");
    let is_run = record.run;
    let mut attributes = Attributes::default();
    method_attributes(&mut attributes, &record.method);
    if !is_run {
        attributes.text("url.scheme", if catalog.is_https { "https" } else { "http" });
    }
    attributes.text("url.path", &record.path);
    attributes.maybe("http.route", route);
    attributes.integer("http.response.status_code", record.status);
    let error = request_error(request);
    attributes.maybe("error.type", error.as_ref());
    attributes.maybe("gen_ai.request.model", record.model.as_ref());
    outrigger_attributes(&mut attributes, request);
    let verb = if is_run { "job" } else { known_method(&record.method).unwrap_or("HTTP") };
    Span {
        trace_id: record.trace_id.clone(),
        span_id: record.span_id.clone(),
        parent_span_id: record.parent_span_id.clone(),
        name: route.map_or(verb.to_owned(), |route| format!("{verb} {route}")),
        kind: if is_run { SpanKind::Consumer } else { SpanKind::Server },
        start_time_unix_nano: request.start.to_string(),
        end_time_unix_nano: request.end().to_string(),
        attributes,
        status: error.map(|_| SpanStatus::error(None)),
    }
}

/// The attributes of a request that no convention has.
fn outrigger_attributes(attributes: &mut Attributes, request: &TracedRequest) {
    let record = &request.record;
    attributes.text("outrigger.result", &record.result);
    attributes.maybe("outrigger.reason", record.reason.as_ref());
    attributes.maybe("outrigger.request_id", record.request_id.as_ref());
    if let Some(wait) = record.wait_ms {
        attributes.number("outrigger.wait_ms", wait);
    }
    attributes.maybe("outrigger.queue_class", record.class.as_ref());
    attributes.maybe("outrigger.cache", record.cache.as_ref());
    let degraded = record.degraded.iter().map(|one| format!("{}: {}", one.mode, one.action));
    attributes.list("outrigger.degraded", degraded.collect());
    attributes.integer("outrigger.attempts", record.attempts.len() as u64);
    attributes.maybe("outrigger.retry_denied", record.retry_denied.as_ref());
    attributes.maybe("outrigger.job", record.job.as_ref());
    if let Some(cost) = record.cost {
        attributes.number("outrigger.cost", cost);
    }
    attributes.maybe("outrigger.policy", record.policy.as_ref());
}

/// `error.type` of a request that failed: a client's own error is none, as for any server.
fn request_error(request: &TracedRequest) -> Option<String> {
    let record = &request.record;
    let failed = record.status >= 500 || record.result == "interrupted";
    failed.then(|| record.reason.clone().unwrap_or_else(|| record.status.to_string()))
}

/// The parts of an attempt's span.
struct AttemptSpan<'a> {
    request: &'a TracedRequest,
    attempt: &'a TracedAttempt,
    /// Its number, in the order of their starts.
    index: usize,
    facts: Option<&'a EndpointFacts>,
    retry_reason: Option<&'a str>,
    is_forwarded: bool,
    end_ms: f64,
}

impl AttemptSpan<'_> {
    fn span(self) -> Span {
        let AttemptSpan { request, attempt, .. } = self;
        let record = &request.record;
        let operation = gen_ai::operation(&record.path);
        let model = attempt.model.as_ref().or(record.model.as_ref());
        let name = match (operation, model) {
            (Some(operation), Some(model)) => format!("{operation} {model}"),
            (Some(operation), None) => operation.to_owned(),
            (None, _) => known_method(&record.method).unwrap_or("HTTP").to_owned(),
        };
        let error = self.error();
        let mut attributes = Attributes::default();
        self.http_attributes(&mut attributes);
        attributes.maybe("error.type", error.as_ref());
        if let Some(operation) = operation {
            self.gen_ai_attributes(&mut attributes, operation);
        }
        self.outrigger_attributes(&mut attributes);
        Span {
            trace_id: record.trace_id.clone(),
            span_id: attempt.span_id.clone(),
            parent_span_id: Some(record.span_id.clone()),
            name,
            kind: SpanKind::Client,
            start_time_unix_nano: request.at(attempt.start_ms).to_string(),
            end_time_unix_nano: request.at(self.end_ms).to_string(),
            attributes,
            status: error.map(|_| SpanStatus::error(attempt.error.clone())),
        }
    }

    fn http_attributes(&self, attributes: &mut Attributes) {
        method_attributes(attributes, &self.request.record.method);
        if let Some(EndpointFacts { host, port, .. }) = self.facts {
            attributes.text("server.address", host);
            attributes.integer("server.port", *port);
        }
        if self.index > 0 {
            attributes.integer("http.request.resend_count", self.index as u64);
        }
        if let Some(status) = self.attempt.status {
            attributes.integer("http.response.status_code", status);
        }
    }

    fn gen_ai_attributes(&self, attributes: &mut Attributes, operation: &str) {
        let AttemptSpan { request, attempt, .. } = self;
        attributes.text("gen_ai.operation.name", operation);
        // A provider that is not well known has the policy's name for it.
        let known = self.facts.and_then(|facts| facts.gen_ai_provider);
        attributes.text("gen_ai.provider.name", known.unwrap_or(attempt.provider()));
        let model = attempt.model.as_ref().or(request.record.model.as_ref());
        attributes.maybe("gen_ai.request.model", model);
        attributes.flag("gen_ai.request.stream", attempt.stream);
        if attempt.stream {
            let seconds = attempt.duration_ms / 1e3;
            attributes.number("gen_ai.response.time_to_first_chunk", seconds);
        }
        if let Some(tokens) = attempt.tokens_in {
            attributes.integer("gen_ai.usage.input_tokens", tokens);
        }
        if let Some(tokens) = attempt.tokens_out {
            attributes.integer("gen_ai.usage.output_tokens", tokens);
        }
    }

    fn outrigger_attributes(&self, attributes: &mut Attributes) {
        let attempt = self.attempt;
        attributes.text("outrigger.provider", attempt.provider());
        attributes.text("outrigger.endpoint", &attempt.endpoint);
        attributes.maybe("outrigger.credential", attempt.credential.as_ref());
        attributes.text("outrigger.class", &attempt.class);
        attributes.maybe("outrigger.retry_reason", self.retry_reason);
        attributes.flag("outrigger.hedge", attempt.is_hedge());
        attributes.flag("outrigger.continuation", attempt.is_continuation());
        attributes.flag("outrigger.cancelled", attempt.is_cancelled());
        attributes.flag("outrigger.probe", attempt.probe);
        attributes.maybe("outrigger.error_code", attempt.code.as_ref());
        let id = attempt.provider_request_id.as_ref();
        attributes.maybe("outrigger.provider_request_id", id);
    }

    /// `error.type` of an attempt that failed: the status, or why there is none that counts.
    fn error(&self) -> Option<String> {
        let AttemptSpan { request, attempt, .. } = self;
        if let Some(status) = attempt.status.filter(|status| *status >= 400) {
            return Some(status.to_string());
        }
        if self.is_forwarded && request.record.result == "interrupted" {
            return Some(request.record.reason.clone().unwrap_or_else(|| "interrupted".to_owned()));
        }
        let is_good = matches!(attempt.class.as_str(), "success" | "ignored");
        (!is_good).then(|| attempt.class.clone())
    }
}

/// The method, which the conventions call `_OTHER` if it is not one of the known ones.
fn method_attributes(attributes: &mut Attributes, method: &str) {
    attributes.text("http.request.method", known_method(method).unwrap_or("_OTHER"));
    let other = known_method(method).is_none().then_some(method);
    attributes.maybe("http.request.method_original", other);
}

fn known_method(method: &str) -> Option<&str> {
    let known = matches!(
        method,
        "GET" | "POST" | "PUT" | "PATCH" | "DELETE" | "HEAD" | "OPTIONS" | "TRACE" | "CONNECT"
    );
    known.then_some(method)
}
