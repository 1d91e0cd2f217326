//! The access record of one request: its target, its attempts, its end.
//!
//! It is written once, after the last response byte was sent or when the request's future was
//! dropped because the client disconnected: one line of the access log, and the metrics of the
//! route. It never contains query values or credentials.

use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::{HeaderMap, HeaderValue, Method, Uri};

use super::attempt_record::AttemptRecord;
use super::degradation_effects::DegradationEffects;
use super::keys;
use super::line::LogLine;
use super::passed_over::{PassOverReason, PassedOverList};
use super::reasons::{Interruption, NotReplayable, RequestEnd, RetryDenied};
use crate::clock;
use crate::policy::sections::model::LogFormat;
use crate::proxy::downstream::connection::Client;
use crate::proxy::downstream::problem::ProblemKind;
use crate::proxy::downstream::request_id::RequestId;
use crate::proxy::downstream::trace_context::{RequestTrace, TraceId};
use crate::proxy::downstream::worker::Worker;
use crate::snapshot::{Endpoint, Route};
use crate::store::JobId;
use crate::telemetry::metrics::{NO_ROUTE, ReasonLabels};
use crate::telemetry::panics::{self, PanicId};

#[derive(Debug)]
pub struct AccessRecord {
    worker: Rc<Worker>,
    client: Rc<Client>,
    pub route: Option<Arc<Route>>,
    method: Method,
    uri: Uri,
    pub started: Instant,
    pub request_id: RequestId,
    trace_id: Option<TraceId>,
    /// The span of the request, if the policy has `server.traces`.
    pub trace: Option<Box<RequestTrace>>,
    /// The header that selects the request's flow.
    flow: Option<HeaderValue>,
    /// Its class, if the queue has several.
    class: Option<usize>,
    /// The model that the client requested.
    pub requested_model: Option<Rc<str>>,
    passed_over: PassedOverList,
    pub attempts: Vec<AttemptRecord>,
    /// Time spent waiting for capacity or for the end of a hold.
    pub waited: Duration,
    /// Time spent in backoffs between attempts.
    pub backed_off: Duration,
    pub status: u16,
    pub first_byte: Option<Duration>,
    pub bytes_in: u64,
    pub bytes_out: u64,
    pub not_replayable: Option<NotReplayable>,
    /// Why no further attempt was made.
    pub retry_denied: Option<RetryDenied>,
    pub end: Option<RequestEnd>,
    /// Input and output tokens of all attempts.
    pub tokens: Option<(u64, u64)>,
    /// Cost of these tokens.
    pub cost: Option<f64>,
    /// The model in the request body, if the usage of a response is still to be recorded.
    pub model: Option<String>,
    /// Result of the route's cache.
    pub cache: Option<&'static str>,
    pub effects: Option<Box<DegradationEffects>>,
    /// The job that the request became or that this is a run of.
    pub job: Option<JobId>,
    /// It is a run of the job, not a request of the application.
    is_run: bool,
    /// The panic that ended the request.
    panic: Option<PanicId>,
    /// It is for `GET /api/requests`, whether it is also a line of the log or not.
    is_kept: bool,
    /// The record was written, or is not to be written.
    written: bool,
}

impl AccessRecord {
    pub fn new(
        worker: &Rc<Worker>,
        client: &Rc<Client>,
        route: Option<Arc<Route>>,
        method: Method,
        uri: Uri,
        started: Instant,
    ) -> Box<Self> {
        let format = match &route {
            Some(route) => route.access_log.as_ref().map(|log| log.format),
            None => worker.snapshot().access_log.as_ref().map(|log| log.format),
        };
        Box::new(AccessRecord {
            is_kept: worker.keeps_record(format),
            worker: Rc::clone(worker),
            client: Rc::clone(client),
            route,
            method,
            uri,
            started,
            request_id: RequestId::made(),
            trace_id: None,
            trace: None,
            flow: None,
            class: None,
            requested_model: None,
            passed_over: PassedOverList::default(),
            attempts: Vec::new(),
            waited: Duration::ZERO,
            backed_off: Duration::ZERO,
            status: 0,
            first_byte: None,
            bytes_in: 0,
            bytes_out: 0,
            not_replayable: None,
            retry_denied: None,
            end: None,
            tokens: None,
            cost: None,
            model: None,
            cache: None,
            effects: None,
            job: None,
            is_run: false,
            panic: None,
            written: false,
        })
    }

    /// A record for work that accompanies this request, such as a hedge; it is not written.
    pub fn detached(&self) -> Box<Self> {
        let (method, uri) = (self.method.clone(), self.uri.clone());
        let route = self.route.clone();
        let mut record =
            AccessRecord::new(&self.worker, &self.client, route, method, uri, self.started);
        record.written = true;
        record.is_kept = self.is_kept;
        record.request_id = self.request_id.clone();
        record.trace = self.trace.clone();
        record.requested_model = self.requested_model.clone();
        record
    }

    /// The record will be a line of a log, kept for `GET /api/requests`, or exported as spans.
    pub fn is_logged(&self) -> bool {
        self.is_kept
            || self.route.as_ref().is_some_and(|route| route.access_log.is_some())
            || self.trace.as_ref().is_some_and(|trace| trace.is_sampled())
    }

    /// Begins the span of the request, if the policy has `server.traces`.
    pub fn begin_trace(&mut self, headers: &mut HeaderMap) {
        let snapshot;
        let traces = match &self.route {
            Some(route) => route.server.traces.as_ref(),
            None => {
                snapshot = self.worker.snapshot();
                snapshot.policy.server.traces.as_ref()
            }
        };
        if let Some(traces) = traces {
            let trace = RequestTrace::begin(headers, traces.sample, self.started);
            self.trace = Some(Box::new(trace));
        }
    }

    /// Takes from the headers of the request what the log says of its origin. `has_trace`: there is a
    /// `traceparent`.
    pub fn note_origin(&mut self, headers: &HeaderMap, has_trace: bool, class: usize) {
        let Some(route) = self.route.as_ref().filter(|_| self.is_logged()) else { return };
        if has_trace {
            self.trace_id = TraceId::of(headers);
        }
        if let Some(queue) = &route.queue {
            let flow = queue.policy.flow.as_ref();
            self.flow = flow.and_then(|flow| headers.get(&flow.header)).cloned();
            self.class = (queue.policy.classes.len() > 1).then_some(class);
        }
    }

    /// Notes an endpoint that cannot be selected for the next attempt.
    pub fn pass_over(&self, endpoint: &Arc<Endpoint>, reason: PassOverReason) {
        if self.is_logged() {
            self.passed_over.note(endpoint, reason, self.attempts.len() + 1);
        }
    }

    /// Takes over the attempts and the usage of a detached record.
    pub fn absorb(&mut self, detached: &mut AccessRecord) {
        self.attempts.append(&mut detached.attempts);
        self.passed_over.append(&detached.passed_over);
        self.retry_denied = self.retry_denied.or(detached.retry_denied);
        if let Some((trace, hedge)) = self.trace.as_mut().zip(detached.trace.as_ref()) {
            trace.absorb(hedge);
        }
        if let Some((input, output)) = detached.tokens.take() {
            self.add_usage(input, output, detached.cost.take());
        }
    }

    /// Makes it the record of a run of this job, which is not written unless it is restarted. A run
    /// is counted in the metrics of jobs.
    pub fn begin_run(&mut self, job: JobId) {
        self.job = Some(job);
        self.is_run = true;
        self.suppress();
    }

    /// The record is not written unless it is restarted.
    pub fn suppress(&mut self) {
        self.written = true;
    }

    /// The record was written, or is suppressed.
    pub fn is_written(&self) -> bool {
        self.written
    }

    /// Begins the record now and allows it to be written.
    pub fn restart(&mut self, now: Instant) {
        self.written = false;
        self.end = None;
        self.started = now;
        (self.waited, self.backed_off) = (Duration::ZERO, Duration::ZERO);
    }

    /// Adds the tokens of an attempt and their cost.
    pub fn add_usage(&mut self, input: u64, output: u64, cost: Option<f64>) {
        let (known_input, known_output) = self.tokens.unwrap_or_default();
        self.tokens = Some((known_input + input, known_output + output));
        if let Some(cost) = cost {
            self.cost = Some(self.cost.unwrap_or_default() + cost);
        }
    }

    /// Frees the buffer of the request head before a long response.
    pub fn release_head(&mut self) {
        if let Ok(uri) = Uri::try_from(self.uri.path()) {
            self.uri = uri;
        }
    }

    /// Time since the request head arrived.
    pub fn age(&self) -> Duration {
        clock::since(self.started)
    }

    pub fn effects_mut(&mut self) -> &mut DegradationEffects {
        self.effects.get_or_insert_default()
    }

    /// Names the degradation modes that affected the response in its headers.
    pub fn add_degraded_header(&self, headers: &mut HeaderMap) {
        if let Some(effects) = &self.effects {
            effects.add_header(headers);
        }
    }

    /// Notes the body of a response that no provider sent.
    pub fn set_local_body(&mut self, length: usize) {
        self.bytes_out = if self.method == Method::HEAD { 0 } else { length as u64 };
    }

    /// Ends the record and writes it. A record that is dropped before ends as disconnected.
    pub fn finish(&mut self, end: RequestEnd) {
        let end = match end {
            RequestEnd::ClientDisconnected => self.end_of_dropped(),
            end => end,
        };
        self.end.get_or_insert(end);
        if std::mem::replace(&mut self.written, true) {
            return;
        }
        self.client.end_request();
        let now = clock::now();
        let took = now.saturating_duration_since(self.started);
        match end {
            RequestEnd::Complete => {
                self.first_byte.get_or_insert(took);
            }
            RequestEnd::ClientDisconnected if self.status == 0 => self.status = 499,
            _ => {}
        }
        if let (Some(effects), RequestEnd::Complete | RequestEnd::LocalResponse(_)) =
            (&self.effects, end)
        {
            effects.response_sent(self.status);
        }
        if !self.is_run {
            self.count(end, took);
        }
        self.log(end, now, took);
    }

    /// Counts the request of the application in the metrics.
    fn count(&self, end: RequestEnd, took: Duration) {
        let metrics = &self.worker.live.metrics;
        if let RequestEnd::LocalResponse(kind) = end {
            let route = self.route.as_ref().map_or(NO_ROUTE, |route| &route.policy.name);
            let labels = ReasonLabels { route: route.to_owned(), reason: kind.name() };
            metrics.local_responses.with(&labels).inc();
        }
        let Some(route) = &self.route else { return };
        route.metrics.requests_with(self.status).inc();
        route.metrics.seconds.observe(took.as_secs_f64());
        // Either side may close a tunnel at any time, so that its end is no interruption.
        let broke = match end {
            RequestEnd::Interrupted(cut) if self.status != 101 => Some(cut),
            _ => None,
        };
        let failed = self.status >= 500;
        self.count_at_providers(failed || broke.is_some());
        // A response of 5xx is a failure already, and would count twice in an error ratio.
        if let Some(cut) = broke.filter(|_| !failed) {
            route.count_interrupted(metrics, cut.as_str());
        }
    }

    /// Counts the request once for each provider to which it was sent.
    fn count_at_providers(&self, failed: bool) {
        for (at, AttemptRecord { endpoint, .. }) in self.attempts.iter().enumerate() {
            let mut earlier = self.attempts[..at].iter().map(|one| &one.endpoint);
            if earlier.all(|one| one.provider() != endpoint.provider()) {
                endpoint.requests[usize::from(failed)].inc();
            }
        }
    }

    fn log(&self, end: RequestEnd, now: Instant, took: Duration) {
        let snapshot;
        let log = match &self.route {
            Some(route) => route.access_log.as_ref(),
            None => {
                snapshot = self.worker.snapshot();
                snapshot.access_log.as_ref()
            }
        };
        if let Some(log) = log {
            self.worker.log_line(log, now, |out, time| match log.format {
                LogFormat::Json => self.write(LogLine::<true>::begin(out, time), end, took),
                LogFormat::Text => self.write(LogLine::<false>::begin(out, time), end, took),
            });
        }
        if self.is_kept {
            let write = |out: &mut Vec<u8>, time: &[u8]| {
                self.write(LogLine::<true>::begin(out, time), end, took);
            };
            self.worker.keep_record(now, write);
        }
        if self.trace.as_ref().is_some_and(|trace| trace.is_sampled()) {
            self.worker.trace_record(now, took, |out, time| {
                self.write(LogLine::<true>::begin(out, time), end, took);
            });
        }
    }

    /// How a request ended that was dropped before its end.
    fn end_of_dropped(&mut self) -> RequestEnd {
        self.panic = panics::current();
        match (self.panic, self.status) {
            (None, _) => RequestEnd::ClientDisconnected,
            (Some(_), 0) => {
                self.status = ProblemKind::InternalError.status().as_u16();
                RequestEnd::LocalResponse(ProblemKind::InternalError)
            }
            (Some(_), _) => RequestEnd::Interrupted(Interruption::Panic),
        }
    }

    fn write<const JSON: bool>(
        &self,
        mut line: LogLine<'_, JSON>,
        end: RequestEnd,
        took: Duration,
    ) {
        line.word(&keys::ROUTE, self.route.as_ref().map_or("-", |route| &route.policy.name));
        line.word(&keys::METHOD, self.method.as_str());
        line.string(&keys::PATH, self.uri.path());
        line.number(&keys::STATUS, u64::from(self.status));
        line.word(&keys::RESULT, end.as_str());
        if let Some(reason) = end.reason() {
            line.word(&keys::REASON, reason);
        }
        line.millis(&keys::DURATION, took);
        if let Some(first_byte) = self.first_byte {
            line.millis(&keys::FIRST_BYTE, first_byte);
        }
        for (key, spent) in [(&keys::WAIT, self.waited), (&keys::BACKOFF, self.backed_off)] {
            if !spent.is_zero() {
                line.millis(key, spent);
            }
        }
        self.write_origin(&mut line);
        self.write_attempts(&mut line);
        self.passed_over.write(&mut line);
        let words = [
            (&keys::NOT_REPLAYABLE, self.not_replayable.map(NotReplayable::as_str)),
            (&keys::RETRY_DENIED, self.retry_denied.map(RetryDenied::as_str)),
            (&keys::CACHE, self.cache),
        ];
        for (key, value) in words {
            value.iter().for_each(|value| line.word(key, value));
        }
        if let Some(effects) = &self.effects {
            effects.write(&mut line);
        }
        if let Some(panic) = &self.panic {
            line.word(&keys::PANIC, panic.to_string());
        }
        self.write_job(&mut line);
        self.write_amounts(&mut line);
        if let Some(route) = &self.route {
            if self.attempts.len() > 1 || self.retry_denied.is_some() {
                line.decimal(&keys::RETRY_BUDGET, route.live.balance(clock::now()), 1);
            }
            line.word(&keys::POLICY, &*route.policy_hash);
        }
        line.end();
    }

    fn write_job<const JSON: bool>(&self, line: &mut LogLine<'_, JSON>) {
        if let Some(job) = &self.job {
            line.word(&keys::JOB, job.to_string());
        }
        if self.is_run {
            line.flag(&keys::RUN);
        }
    }

    fn write_attempts<const JSON: bool>(&self, line: &mut LogLine<'_, JSON>) {
        let trace = self.trace.as_deref();
        let shows_start = self.attempts.len() > 1 || !self.waited.is_zero() || trace.is_some();
        line.list(&keys::ATTEMPTS, &self.attempts, |line, attempt| {
            attempt.write(line, shows_start.then_some(self.started), trace);
        });
    }

    fn write_origin<const JSON: bool>(&self, line: &mut LogLine<'_, JSON>) {
        self.request_id.with(|id| match &self.request_id {
            RequestId::Made(_) => line.word(&keys::REQUEST_ID, id),
            RequestId::Given(_) => line.string(&keys::REQUEST_ID, &String::from_utf8_lossy(id)),
        });
        if let Some(trace) = &self.trace {
            line.word(&keys::TRACE_ID, trace.trace_id.as_bytes());
            line.word(&keys::SPAN_ID, trace.span.to_string());
            if let Some(parent) = trace.parent {
                line.word(&keys::PARENT_SPAN_ID, parent.to_string());
            }
        } else if let Some(trace_id) = &self.trace_id {
            line.word(&keys::TRACE_ID, trace_id.as_bytes());
        }
        if let Some(model) = &self.requested_model {
            line.string(&keys::MODEL, model);
        }
        let queue = self.route.as_ref().and_then(|route| route.queue.as_ref());
        let class = self.class.zip(queue);
        if let Some(class) = class.and_then(|(at, queue)| queue.policy.classes.get(at)) {
            line.word(&keys::QUEUE_CLASS, &class.name);
        }
        if let Some(flow) = &self.flow {
            line.string(&keys::FLOW, &String::from_utf8_lossy(flow.as_bytes()));
        }
    }

    fn write_amounts<const JSON: bool>(&self, line: &mut LogLine<'_, JSON>) {
        line.number(&keys::BYTES_IN, self.bytes_in);
        line.number(&keys::BYTES_OUT, self.bytes_out);
        if let Some((input, output)) = self.tokens {
            line.number(&keys::TOKENS_IN, input);
            line.number(&keys::TOKENS_OUT, output);
        }
        if let Some(cost) = self.cost {
            line.decimal(&keys::COST, cost, 9);
        }
    }
}

impl Drop for AccessRecord {
    fn drop(&mut self) {
        self.finish(RequestEnd::ClientDisconnected);
    }
}
