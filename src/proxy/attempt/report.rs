//! What is told of an attempt that is over: to breaker, hold, balancer, metrics and log, once.

use std::sync::Arc;
use std::time::{Duration, Instant};

use http::StatusCode;

use super::connect::self_delay;
use super::inspect::{AttemptResult, LastResponse};
use super::pending_response::PendingResponse;
use super::select::Selection;
use crate::clock;
use crate::live::permit::ReportedPermit;
use crate::live::quota::provider_quota::QuotaCharge;
use crate::live::quota::usage_meter::AttemptKind;
use crate::proxy::access_log::record::{AccessRecord, AttemptRecord};
use crate::proxy::downstream::problem::{Problem, ProblemKind};
use crate::proxy::request::context::{ProxyRequest, RetryTime};
use crate::resilience::outcome::{AttemptClass, Outcome};
use crate::snapshot::{EndpointCandidate, Route};
use crate::stream::interpret::TokenUsage;

/// What an attempt taught.
#[derive(Debug)]
pub struct AttemptReport {
    pub class: AttemptClass,
    pub status: u16,
    pub took: Duration,
    pub retry_after: Option<Duration>,
    pub timed_out: bool,
    pub error: Option<String>,
}

/// No response came. What the application's side broke is nobody's failure.
pub fn report_failure(
    request: &mut ProxyRequest,
    route: &Route,
    mut selection: Box<Selection>,
    problem: Problem,
) -> AttemptResult {
    let ours =
        matches!(problem.kind, ProblemKind::RequestInterrupted | ProblemKind::RequestTimeout);
    let class = if ours { AttemptClass::Ignored } else { AttemptClass::Failure };
    let report = AttemptReport {
        timed_out: problem.kind == ProblemKind::ResponseTimeout,
        error: Some(problem.detail.clone()),
        ..AttemptReport::answered(class, 0, clock::since(selection.started))
    };
    report_attempt(request, route, &mut selection, report);
    AttemptResult::Failed(class, LastResponse::Ours(problem))
}

/// Tells breaker, hold, balancer, metrics and story, once.
pub fn report_attempt(
    request: &mut ProxyRequest,
    route: &Route,
    selection: &mut Selection,
    report: AttemptReport,
) -> Option<ReportedPermit> {
    let now = clock::now();
    let candidate = ProxyRequest::candidate(route, selection.tier, selection.index);
    let AttemptReport { class, status, took, retry_after, timed_out, error } = report;
    let probe = selection.permit.is_probe();
    hold(request, route, selection, class, status, retry_after, now);
    let afterwards = selection.permit.report(class.outcome(), took, now);
    teach(candidate, selection, class, took, now);
    if let Some(samples) =
        candidate.provider.outcomes.as_ref().filter(|_| class != AttemptClass::Ignored)
    {
        let bad =
            matches!(class, AttemptClass::Failure | AttemptClass::Unsent | AttemptClass::Throttled);
        samples.record(bad, (status > 0 || timed_out).then_some(took), now);
    }
    if let (AttemptClass::Success, Some(session)) = (class, &request.session) {
        route.live.pin_session(session, candidate.endpoint.live.id, now);
    }
    candidate.endpoint.attempts[class.index()].inc();
    if status > 0 {
        candidate.provider.first_byte.observe(took.as_secs_f64());
    }
    if timed_out {
        request.attempts.late.push((selection.tier, selection.index));
    }
    let never = timed_out
        || matches!(
            class,
            AttemptClass::Success
                | AttemptClass::Ignored
                | AttemptClass::Credential
                | AttemptClass::TooLarge
        );
    let again = |times| match never {
        true => RetryTime::Never,
        false => RetryTime::At(now + self_delay(route, candidate, times)),
    };
    request.attempts.end(selection.tier, selection.index, selection.credential, again);
    let (to, credential) = (Arc::clone(&candidate.endpoint), Some(selection.credential));
    request.record.attempts.push(AttemptRecord {
        to,
        credential,
        class,
        status,
        took,
        probe,
        turn: selection.turn,
        error,
    });
    afterwards
}

/// One more request that was let go to providers, for the modes that watch its route. What was
/// the application's fault is no sample.
pub fn sample(request: &ProxyRequest, outcome: &Result<Box<PendingResponse>, Problem>) {
    let Some(samples) = &request.route.outcomes else { return };
    let (status, kind) = match outcome {
        Ok(response) => (response.head.status, None),
        Err(problem) => (problem.kind.status(), Some(problem.kind)),
    };
    let bad = status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS;
    let timed_out = matches!(kind, Some(ProblemKind::ResponseTimeout | ProblemKind::Deadline));
    if kind.is_none() || bad {
        let took = (kind.is_none() || timed_out).then(|| request.record.so_far());
        samples.record(bad, took, clock::now());
    }
}

/// A provider that asked to wait is not asked before.
fn hold(
    request: &ProxyRequest,
    route: &Route,
    selection: &Selection,
    class: AttemptClass,
    status: u16,
    retry_after: Option<Duration>,
    now: Instant,
) {
    let candidate = ProxyRequest::candidate(route, selection.tier, selection.index);
    let Some(hold) = selection.permit.hold() else { return };
    match class {
        AttemptClass::Throttled => {
            let respected = request.retry(route).respect_retry_after;
            let until = hold.throttled(retry_after.filter(|_| respected), now);
            candidate.endpoint.holds.inc();
            let left = until.saturating_duration_since(now);
            tracing::info!(
                endpoint = hold.key(),
                status,
                ?left,
                "held: the provider asked to wait"
            );
        }
        AttemptClass::Credential => {
            let alone = route.tiers.len() == 1
                && route.tiers[0].candidates.len() == 1
                && candidate.endpoint.credential_count() <= 1;
            if !alone && let Some(until) = hold.credential(status, now) {
                candidate.endpoint.holds.inc();
                let left = until.saturating_duration_since(now);
                tracing::warn!(
                    endpoint = hold.key(),
                    status,
                    ?left,
                    "held: the provider refused the credential"
                );
            }
        }
        _ => {}
    }
}

/// Puts down what an attempt's answer took.
pub fn settle(request: &mut ProxyRequest, usage_key: UsageKey, tokens: TokenUsage) {
    usage_key.settle(&request.route, request.body.model(), &mut request.record, tokens);
}

/// Tells the balancer and the adaptive limit.
fn teach(
    candidate: &EndpointCandidate,
    selection: &Selection,
    class: AttemptClass,
    took: Duration,
    now: Instant,
) {
    let live = &candidate.endpoint.live;
    match class.outcome() {
        Outcome::Failure | Outcome::Throttled => live.failed(took, now),
        Outcome::Success if selection.permit.is_probe() => live.recovered(took, now),
        Outcome::Success if class == AttemptClass::Success => live.answered(took, now),
        Outcome::Success | Outcome::Ignored => {}
    }
    if class.outcome() != Outcome::Ignored {
        selection.flight.observe(took, class.outcome() != Outcome::Success);
    }
}

/// Whose account an answer goes to.
#[derive(Clone, Copy, Debug)]
pub struct UsageKey {
    pub tier: usize,
    pub index: usize,
    pub turn: AttemptKind,
    pub charge: QuotaCharge,
}

impl UsageKey {
    pub fn settle(
        self,
        route: &Route,
        model: Option<&str>,
        record: &mut AccessRecord,
        tokens: TokenUsage,
    ) {
        if tokens == TokenUsage::default() {
            return;
        }
        let candidate = ProxyRequest::candidate(route, self.tier, self.index);
        let tokens = (tokens.input.unwrap_or(0), tokens.output.unwrap_or(0));
        candidate.provider.live.settle(self.charge, (tokens.0 + tokens.1) as f64);
        let price = candidate.provider.policy.price.as_ref();
        let cost = candidate.usage_meter.settle(model, self.turn, tokens, price);
        if let Some(cost) = cost.filter(|_| self.turn != AttemptKind::First) {
            route.live.record_cost(cost, clock::now());
        }
        record.took(tokens, cost);
    }
}

impl AttemptReport {
    /// The answer goes to the application.
    pub fn commits(&self) -> bool {
        matches!(self.class, AttemptClass::Success | AttemptClass::Ignored)
    }

    pub fn answered(class: AttemptClass, status: u16, took: Duration) -> AttemptReport {
        AttemptReport { class, status, took, retry_after: None, timed_out: false, error: None }
    }
}
