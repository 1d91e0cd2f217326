//! The report of an ended attempt: to breaker, hold, balancer, metrics and access record, once.

use std::sync::Arc;
use std::time::{Duration, Instant};

use http::StatusCode;

use super::context::ProxyRequest;
use super::inspect::{AttemptResult, LastResponse};
use super::pending_response::PendingResponse;
use super::retry::backoff;
use super::select::Selection;
use super::state::{EndpointIndex, RetryTime};
use crate::clock;
use crate::live::permit::ReportedPermit;
use crate::live::quota::provider_quota::QuotaCharge;
use crate::live::quota::usage_meter::AttemptKind;
use crate::live::tracking::call_recorder::CallRecorder;
use crate::proxy::access_log::attempt_record::{AttemptDetails, AttemptRecord};
use crate::proxy::access_log::record::AccessRecord;
use crate::proxy::downstream::problem::{Problem, ProblemKind};
use crate::proxy::request::rewrite;
use crate::resilience::baseline::calls::is_failed;
use crate::resilience::breaker::AttemptLatency;
use crate::resilience::outcome::{AttemptClass, Outcome};
use crate::snapshot::{Endpoint, EndpointCandidate, Provider, Route};
use crate::stream::interpret::TokenUsage;

/// The outcome of an attempt.
#[derive(Debug)]
pub struct AttemptReport {
    pub class: AttemptClass,
    /// 0: no response came.
    pub status: u16,
    pub took: Duration,
    pub retry_after: Option<Duration>,
    pub timed_out: bool,
    /// A header says that a retry is useless.
    pub forbids_retry: bool,
    /// A rejection that concerns one model, not the credential.
    pub of_model: bool,
    /// It got less time than the policy grants, so it says nothing about its endpoint.
    pub cut_short: bool,
    pub error: Option<String>,
    pub details: AttemptDetails,
}

/// How long an attempt took.
#[derive(Clone, Copy, Debug)]
pub struct AttemptTime {
    pub took: Duration,
    /// The time says something about latency: a response came, or did not come in time.
    pub is_latency: bool,
}

/// The object of an attempt: everything that learns from its result.
#[derive(Clone, Copy, Debug)]
pub struct AttemptTarget<'a> {
    pub provider: &'a Provider,
    pub endpoint: &'a Endpoint,
    pub recorder: &'a CallRecorder,
    pub model: Option<&'a str>,
}

/// The account that the usage of an attempt is charged to.
#[derive(Clone, Copy, Debug)]
pub struct UsageKey {
    pub endpoint: EndpointIndex,
    pub credential: usize,
    pub turn: AttemptKind,
    pub charge: QuotaCharge,
    /// The start of the attempt; `None` if no provider responded.
    pub started: Option<Instant>,
}

/// Reports an attempt without a response. A failure on the client's side does not count against the
/// endpoint.
pub fn report_failure(
    request: &mut ProxyRequest,
    route: &Route,
    selection: &mut Selection,
    problem: Problem,
    cut_short: bool,
) -> AttemptResult {
    let by_client =
        matches!(problem.kind, ProblemKind::RequestInterrupted | ProblemKind::RequestTimeout);
    let class = if by_client { AttemptClass::Ignored } else { AttemptClass::Failure };
    let report = AttemptReport {
        timed_out: problem.kind.is_timeout(),
        cut_short,
        error: Some(problem.detail.clone()),
        ..AttemptReport::new(class, 0, clock::since(selection.started))
    };
    report_attempt(request, route, selection, report);
    AttemptResult::Failed(class, LastResponse::Problem(problem))
}

pub fn report_attempt(
    request: &mut ProxyRequest,
    route: &Route,
    selection: &mut Selection,
    mut report: AttemptReport,
) -> Option<ReportedPermit> {
    let now = clock::now();
    let candidate = selection.endpoint.candidate(route);
    let (probe, began) = (selection.permit.is_probe(), selection.started);
    hold(request, route, selection, &report, now);
    let mut details = std::mem::take(&mut report.details);
    details.model = renamed_model(request, candidate);
    let AttemptReport { class, status, took, timed_out, forbids_retry, cut_short, error, .. } =
        report;
    let time = AttemptTime { took, is_latency: status > 0 || timed_out };
    let reported = if cut_short {
        None
    } else {
        let target = AttemptTarget::of(candidate, request.body.model());
        report_evidence(target, selection, class, time, now)
    };
    if let (AttemptClass::Success, Some(session)) = (class, request.head.session()) {
        route.live.pin_session(session, candidate.endpoint.live.id, now);
    }
    candidate.endpoint.attempts[class.index()].inc();
    if status > 0 {
        candidate.provider.first_byte.observe(took.as_secs_f64());
    }
    if timed_out {
        request.attempts.timed_out.push(selection.endpoint);
    }
    let may_retry = !timed_out && !forbids_retry && may_retry_endpoint(class);
    request.attempts.end(selection.endpoint, selection.credential, |times| match may_retry {
        true => RetryTime::At(now + backoff(route, candidate, times)),
        false => RetryTime::Never,
    });
    request.record.attempts.push(AttemptRecord {
        endpoint: Arc::clone(&candidate.endpoint),
        credential: Some(selection.credential),
        class,
        status,
        began,
        took,
        probe,
        kind: selection.turn,
        error,
        details,
    });
    reported
}

/// The model that was sent, if the policy renames it and the log is to say so.
fn renamed_model(request: &ProxyRequest, candidate: &EndpointCandidate) -> Option<Box<str>> {
    if !request.record.is_logged() {
        return None;
    }
    let requested = request.record.requested_model.as_deref();
    let sent = rewrite::model_sent(requested, &candidate.provider.policy)?;
    (requested != Some(&*sent)).then(|| Box::from(sent))
}

/// Reports the result of an attempt to breaker, hold, balancer, adaptive limit, degradation modes
/// and baselines.
pub fn report_evidence(
    target: AttemptTarget<'_>,
    selection: &mut Selection,
    class: AttemptClass,
    time: AttemptTime,
    now: Instant,
) -> Option<ReportedPermit> {
    let AttemptTime { took, is_latency } = time;
    if matches!(class, AttemptClass::Success | AttemptClass::Unsupported) {
        selection.flight.success(now);
    }
    let usual_p95 = match class {
        AttemptClass::Ignored => None,
        _ => target.recorder.record(target.model, class, took),
    };
    let latency = AttemptLatency { took, usual_p95 };
    let reported = selection.permit.report(class.outcome(), latency, now);
    report_latency(target.endpoint, selection, class, took, now);
    if let Some(outcomes) = target.provider.outcomes.as_ref()
        && class != AttemptClass::Ignored
    {
        outcomes.record(is_failed(class), is_latency.then_some(took), now);
    }
    reported
}

fn may_retry_endpoint(class: AttemptClass) -> bool {
    use AttemptClass::{Credential, Ignored, Success, Unsupported};
    !matches!(class, Success | Ignored | Credential | Unsupported)
}

/// Counts a request that was sent to providers, for the degradation modes that watch its route. A
/// problem that the client caused does not count.
pub fn sample(request: &ProxyRequest, outcome: &Result<Box<PendingResponse>, Problem>) {
    let Some(outcomes) = &request.route.outcomes else { return };
    let (status, kind) = match outcome {
        Ok(response) => (response.head.status, None),
        Err(problem) => (problem.kind.status(), Some(problem.kind)),
    };
    let bad = status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS;
    let timed_out = kind.is_some_and(ProblemKind::is_timeout);
    if kind.is_none() || bad {
        let took = (kind.is_none() || timed_out).then(|| request.record.age());
        outcomes.record(bad, took, clock::now());
    }
}

/// Starts the hold that the provider imposes.
fn hold(
    request: &ProxyRequest,
    route: &Route,
    selection: &Selection,
    report: &AttemptReport,
    now: Instant,
) {
    let endpoint = &selection.endpoint.candidate(route).endpoint;
    let (status, code) = (report.status, report.details.code.as_ref());
    let credential = selection.flight.credential();
    match report.class {
        AttemptClass::Throttled => {
            let respected = request.retry_policy(route).respect_retry_after;
            let cell = credential.cell(request.model(), now);
            let until = cell.throttled(report.retry_after.filter(|_| respected), now);
            cell.note_cause(status, code.cloned());
            endpoint.holds.inc();
            let left = until.saturating_duration_since(now);
            let (endpoint, left) = (cell.key(), format!("{left:.1?}"));
            let code = code.map(|code| &**code);
            tracing::info!(%endpoint, status, code, left, "held: the provider asked to wait");
        }
        AttemptClass::Credential => {
            // The client's own credential is not held: another client has another.
            let is_only = endpoint.credential_count() == 0
                || route.tiers.len() == 1
                    && route.tiers[0].candidates.len() == 1
                    && endpoint.credential_count() <= 1;
            let model = request.model().filter(|_| report.of_model);
            let cell = credential.cell(model, now);
            if !is_only && let Some(until) = cell.rejected(status, now) {
                cell.note_cause(status, code.cloned());
                endpoint.holds.inc();
                let left = until.saturating_duration_since(now);
                let endpoint = cell.key();
                tracing::warn!(
                    %endpoint,
                    status,
                    code = code.map(|code| &**code),
                    left = format_args!("{left:.1?}"),
                    "held: the provider rejected the credential"
                );
            }
        }
        _ => {}
    }
}

/// Reports to the balancer and to the adaptive limit.
fn report_latency(
    endpoint: &Endpoint,
    selection: &Selection,
    class: AttemptClass,
    took: Duration,
    now: Instant,
) {
    let live = &endpoint.live;
    match class.outcome() {
        Outcome::Failure => live.failed(took, now),
        Outcome::Success if selection.permit.is_probe() => live.recovered(took, now),
        Outcome::Success if class == AttemptClass::Success => live.responded(took, now),
        // The hold keeps away what was throttled: one model, or one credential. Others are served.
        Outcome::Success | Outcome::Throttled | Outcome::Ignored => {}
    }
    if class.outcome() != Outcome::Ignored {
        selection.flight.observe(took, class.outcome() != Outcome::Success);
    }
}

/// Charges the usage that a response reports.
pub fn settle(request: &mut ProxyRequest, usage_key: UsageKey, usage: TokenUsage) {
    usage_key.settle(&request.route, request.body.model(), &mut request.record, usage);
}

impl UsageKey {
    pub fn settle(
        self,
        route: &Route,
        model: Option<&str>,
        record: &mut AccessRecord,
        usage: TokenUsage,
    ) {
        if usage == TokenUsage::default() {
            return;
        }
        let candidate = self.endpoint.candidate(route);
        let tokens = (usage.input.unwrap_or(0), usage.output.unwrap_or(0));
        candidate.provider.live.settle(self.charge, (tokens.0 + tokens.1) as f64);
        let price = candidate.provider.policy.price.as_ref();
        let cost = candidate.usage_meter.settle(model, self.turn, tokens.0, tokens.1, price);
        if let Some(cost) = cost {
            candidate.call_recorder.record_cost(model, cost);
            if self.turn != AttemptKind::First {
                route.live.record_cost(cost, clock::now());
            }
        }
        record.add_usage(tokens.0, tokens.1, cost);
        if let Some((trace, started)) = record.trace.as_mut().zip(self.started) {
            trace.note_tokens(started, tokens.0, tokens.1);
        }
    }
}

impl<'a> AttemptTarget<'a> {
    fn of(candidate: &'a EndpointCandidate, model: Option<&'a str>) -> Self {
        AttemptTarget {
            provider: &candidate.provider,
            endpoint: &candidate.endpoint,
            recorder: &candidate.call_recorder,
            model,
        }
    }
}

impl AttemptReport {
    pub fn new(class: AttemptClass, status: u16, took: Duration) -> AttemptReport {
        AttemptReport {
            class,
            status,
            took,
            retry_after: None,
            timed_out: false,
            forbids_retry: false,
            of_model: false,
            cut_short: false,
            error: None,
            details: AttemptDetails::default(),
        }
    }

    /// The response goes to the client.
    pub fn commits(&self) -> bool {
        matches!(self.class, AttemptClass::Success | AttemptClass::Ignored)
    }
}
