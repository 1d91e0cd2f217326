//! The step after an attempt: another endpoint, a wait, the next fallback tier, or the end.
//!
//! The route's policy and the request's idempotence decide whether another attempt may follow, and
//! where. Another endpoint is tried at once, the same one after its backoff. A wait of up to
//! `patience` is spent on the route's `providers`; a longer one moves to `fallback`. Without a
//! fallback, the request waits for capacity until its deadline, but a hold is passed on to the
//! client, which should not keep a connection open for a minute. A provider that names
//! no time is not waited for if another one can be tried.
//!
//! When the last fallback can do no more, providers that were passed over get their turn after all,
//! and are waited for as if they had no fallback.

use std::time::{Duration, Instant};

use http::HeaderValue;
use http::response::Parts;

use super::context::ProxyRequest;
use super::obstacles::{Obstacles, Unavailable};
use super::report::UsageKey;
use super::select::{
    CandidateFilter, OTHER_KEY, Selection, generates, generation, is_eligible, limit_providers,
    provider_id, scope_of, select_endpoint,
};
use super::state::{EndpointIndex, RetryTime};
use super::wait::{WaitOutcome, count_shed, leave_queue, queue_backlog, wait_in_queue};
use crate::clock;
use crate::proxy::access_log::reasons::{RetryDenied, ShedReason};
use crate::proxy::downstream::problem::{PROXY_STATUS, Problem, ProblemKind};
use crate::resilience::outcome::{AttemptClass, RetryScope};
use crate::snapshot::{EndpointCandidate, Route};

/// Why there is no next attempt.
#[derive(Debug)]
pub struct AttemptDenied {
    pub reason: RetryDenied,
    pub kind: ProblemKind,
    pub retry_after: Option<Duration>,
    /// Replaces the kind's own detail.
    pub detail: Option<String>,
    /// The reason of each provider.
    pub(super) obstacles: Option<Obstacles>,
}

/// The next step of a request.
#[derive(Debug)]
enum NextStep {
    Attempt(Box<Selection>),
    /// `shared`: other requests wait for the same, so the request waits in the queue.
    Wait {
        until: Instant,
        shared: bool,
    },
    Deny(Unavailable),
}

/// Selects the endpoint of the next attempt, and waits if waiting helps. `after` is the class of the
/// last attempt.
///
/// # Errors
/// Why there is no next attempt.
pub async fn next_attempt(
    request: &mut ProxyRequest,
    route: &Route,
    after: Option<AttemptClass>,
) -> Result<Box<Selection>, AttemptDenied> {
    match after {
        Some(class) => check_retry(request, route, class)?,
        None => limit_providers(request, route),
    }
    // The body was received just now; an attempt or a wait takes time.
    let mut now = if after.is_none() { request.body.received_at() } else { clock::now() };
    loop {
        match next_step(request, route, after, true, now) {
            NextStep::Attempt(selection) => {
                leave_queue(request, selection.endpoint.candidate(route));
                spend_budget(route, after)?;
                return Ok(selection);
            }
            NextStep::Wait { until, shared } => {
                if let Err(denied) = wait(request, route, after, until, shared).await {
                    if !has_next_tier(request, route, after) {
                        return Err(denied);
                    }
                    enter_next_tier(request);
                }
                now = clock::now();
            }
            NextStep::Deny(unavailable) => {
                let denied = deny(request, route, after, unavailable);
                request.wait = None;
                return Err(denied);
            }
        }
    }
}

/// Selects another endpoint while an attempt is still connecting; never waits.
pub fn next_attempt_now(request: &mut ProxyRequest, route: &Route) -> Option<Box<Selection>> {
    check_retry(request, route, AttemptClass::Unsent).ok()?;
    match next_step(request, route, Some(AttemptClass::Unsent), false, clock::now()) {
        NextStep::Attempt(selection) => {
            spend_budget(route, Some(AttemptClass::Unsent)).ok().map(|()| selection)
        }
        _ => None,
    }
}

/// Whether another attempt could follow a failure of the one that begins now. Its timeouts are
/// shortened then, so that a silent provider leaves time for the next.
pub fn another_attempt_is_possible(
    request: &ProxyRequest,
    route: &Route,
    selection: &Selection,
) -> bool {
    let here = selection.endpoint;
    let own = here.candidate(route);
    let scope = scope_of(request, &own.provider.policy, AttemptClass::Failure);
    if scope == RetryScope::Nowhere || !request.body.can_be_sent() {
        return false;
    }
    let has_other = |tier: usize| {
        let mut candidates = route.tiers[tier].candidates.iter().enumerate();
        candidates.any(|(index, candidate)| {
            let endpoint = EndpointIndex { tier, index };
            let allowed = match scope {
                RetryScope::Nowhere => false,
                RetryScope::SameProvider => provider_id(candidate) == provider_id(own),
                RetryScope::Generating => generates(request, &candidate.provider.policy),
                RetryScope::Anywhere => true,
            };
            allowed && endpoint != here && is_eligible(request, endpoint, candidate)
        })
    };
    let in_tier = request.attempts_left(route, here.tier) > 0 && has_other(here.tier);
    in_tier
        || (falls_back(route, AttemptClass::Failure)
            && (here.tier + 1..route.tiers.len()).any(has_other))
}

fn check_retry(
    request: &mut ProxyRequest,
    route: &Route,
    class: AttemptClass,
) -> Result<(), AttemptDenied> {
    if clock::now() >= request.limits.deadline() {
        return Err(AttemptDenied::new(RetryDenied::Deadline, ProblemKind::Deadline));
    }
    let denied = |reason| Err(AttemptDenied::new(reason, kind_after(class)));
    let last = request.attempts.last().unwrap_or_default().candidate(route);
    match scope_of(request, &last.provider.policy, class) {
        RetryScope::Nowhere => return denied(RetryDenied::MayHaveBeenProcessed),
        RetryScope::SameProvider => {
            request.attempts.only_provider.get_or_insert((provider_id(last), OTHER_KEY));
        }
        RetryScope::Generating => request.attempts.only_generation = generation(request),
        RetryScope::Anywhere => {}
    }
    if !request.body.can_be_sent() {
        return denied(RetryDenied::NotReplayable(request.body.not_replayable()));
    }
    if is_charged(class) && route.live.balance(clock::now()) < 1.0 {
        return denied(RetryDenied::RetryBudget);
    }
    if is_charged(class) && !route.live.within_cost_budget(clock::now()) {
        return denied(RetryDenied::CostBudget);
    }
    Ok(())
}

fn spend_budget(route: &Route, after: Option<AttemptClass>) -> Result<(), AttemptDenied> {
    let Some(class) = after else { return Ok(()) };
    if is_charged(class) && !route.live.withdraw_retry(clock::now()) {
        return Err(AttemptDenied::new(RetryDenied::RetryBudget, kind_after(class)));
    }
    route.metrics.retries[class.index()].inc();
    Ok(())
}

fn retries_in_tier(request: &ProxyRequest, route: &Route, class: AttemptClass) -> bool {
    match class {
        AttemptClass::Credential => true,
        AttemptClass::Unsupported => false,
        class => request.retry_policy(route).retry_on.contains(class),
    }
}

fn falls_back(route: &Route, class: AttemptClass) -> bool {
    route.policy.fallback_on.contains(class)
}

/// Selects in the current tier, then in the next ones.
fn next_step(
    request: &mut ProxyRequest,
    route: &Route,
    after: Option<AttemptClass>,
    may_wait: bool,
    now: Instant,
) -> NextStep {
    let mut unavailable = Unavailable::default();
    loop {
        let has_next = has_next_tier(request, route, after);
        let here = match select_in_tier(request, route, after, has_next, now) {
            Ok(selection) => return NextStep::Attempt(selection),
            Err(here) => here,
        };
        unavailable.merge(here);
        if may_wait && let Some(wait) = plan_wait(request, route, here, has_next) {
            return wait;
        }
        match request.attempts.passed_over() {
            _ if has_next => enter_next_tier(request),
            Some(tier) => {
                request.wait = None;
                request.attempts.enter_tier(tier);
                request.attempts.is_back = true;
            }
            None => return NextStep::Deny(unavailable),
        }
    }
}

/// Moves to the next fallback, which has a queue of its own.
fn enter_next_tier(request: &mut ProxyRequest) {
    request.wait = None;
    request.attempts.enter_tier(request.attempts.tier + 1);
}

fn has_next_tier(request: &ProxyRequest, route: &Route, after: Option<AttemptClass>) -> bool {
    let allowed = after.is_none_or(|class| falls_back(route, class));
    let attempts = &request.attempts;
    allowed && attempts.tier + 1 < route.tiers.len() && !attempts.is_back
}

fn select_in_tier(
    request: &ProxyRequest,
    route: &Route,
    after: Option<AttemptClass>,
    has_next: bool,
    now: Instant,
) -> Result<Box<Selection>, Unavailable> {
    let tier = request.attempts.tier;
    let is_first = request.attempts.in_tier == 0;
    let allowed = is_first || after.is_none_or(|class| retries_in_tier(request, route, class));
    if !allowed || request.attempts_left(route, tier) == 0 {
        return Err(Unavailable::default());
    }
    let select = |filter| select_endpoint(request, route, tier, filter, now);
    let mut unavailable = match select(CandidateFilter::Untried) {
        Ok(selection) => return Ok(selection),
        Err(unavailable) => unavailable,
    };
    if !is_first {
        match select(CandidateFilter::Tried { unreachable: !has_next }) {
            Ok(selection) => return Ok(selection),
            Err(tried) => unavailable.merge(tried),
        }
    }
    Err(unavailable)
}

/// A wait of up to `patience` if there is a fallback, else up to the deadline; in the queue never
/// longer than its `max_wait`.
fn plan_wait(
    request: &mut ProxyRequest,
    route: &Route,
    unavailable: Unavailable,
    has_next: bool,
) -> Option<NextStep> {
    if request.cache.forbids_waiting() {
        return None;
    }
    let uncertain = has_next && unavailable.guess;
    let for_capacity = unavailable.no_capacity && route.queue.is_some();
    if unavailable.wait.is_none_or(|_| uncertain) && !for_capacity {
        return None;
    }
    let (now, deadline) = (clock::now(), request.limits.deadline());
    let patience = request.retry_policy(route).patience;
    let patience = *request.attempts.patience.get_or_insert(now + patience);
    let is_patient = !has_next && !unavailable.held;
    let mut limit = if is_patient { deadline } else { patience.min(deadline) };
    let shared = for_capacity || unavailable.shared.is_some();
    if let Some(queue) = route.queue.as_ref().filter(|_| shared) {
        let since = request.wait.as_ref().map_or(now, |wait| wait.since());
        limit = limit.min(since + queue.policy.max_wait);
    }
    let wait = unavailable.wait.filter(|_| !uncertain);
    match wait.map(|wait| now + wait).filter(|at| *at <= limit) {
        // The queue calls the request in time; only its own backoff is unknown to the queue.
        Some(_) if for_capacity => {
            let until = unavailable.own.map_or(limit, |own| limit.min(now + own));
            Some(NextStep::Wait { until, shared })
        }
        Some(until) => Some(NextStep::Wait { until, shared }),
        None if for_capacity && now < limit => Some(NextStep::Wait { until: limit, shared: true }),
        None => None,
    }
}

fn deny(
    request: &ProxyRequest,
    route: &Route,
    after: Option<AttemptClass>,
    unavailable: Unavailable,
) -> AttemptDenied {
    let now = clock::now();
    let obstacles = Obstacles::of(request, route, now);
    let kind = match after {
        Some(class) => kind_after(class),
        None if now >= request.limits.deadline() => ProblemKind::Deadline,
        None => obstacles.kind(),
    };
    let reason = match after {
        None => RetryDenied::NotAdmitted(kind),
        Some(class) => why_no_retry(request, route, class),
    };
    let queued = unavailable.no_capacity || request.wait.is_some();
    let retry_after = obstacles.soonest().max(queued.then(|| queue_backlog(request, route)));
    let gave_up =
        matches!(kind, ProblemKind::NoCapacity | ProblemKind::RateLimited | ProblemKind::Deadline);
    if let (true, Some(queue), Some(_)) = (gave_up, &route.queue, &request.wait) {
        count_shed(request, queue, ShedReason::Waited);
    }
    let denied = AttemptDenied { retry_after, ..AttemptDenied::new(reason, kind) };
    AttemptDenied { obstacles: Some(obstacles), ..denied }
}

/// Why no retry follows an attempt although the request could be sent again.
fn why_no_retry(request: &ProxyRequest, route: &Route, class: AttemptClass) -> RetryDenied {
    let tier = request.attempts.tier;
    if class == AttemptClass::Unsupported && !has_next_tier(request, route, Some(class)) {
        return RetryDenied::NoFallback;
    }
    if request.attempts.in_tier == 0 {
        // A fallback would be the next, and takes no request.
        return RetryDenied::NoEndpointLeft;
    }
    if request.attempts_left(route, tier) == 0 {
        let disabled = tier == 0 && request.retry_policy(route).is_none();
        return if disabled { RetryDenied::RetriesDisabled } else { RetryDenied::AttemptsSpent };
    }
    match retries_in_tier(request, route, class) {
        true => RetryDenied::NoEndpointLeft,
        false => RetryDenied::ClassNotRetried,
    }
}

/// Waits until `until`, in the queue if other requests wait for the same; else it is a backoff.
///
/// # Errors
/// When the queue rejects the request.
async fn wait(
    request: &mut ProxyRequest,
    route: &Route,
    after: Option<AttemptClass>,
    until: Instant,
    shared: bool,
) -> Result<(), AttemptDenied> {
    let began = clock::now();
    let waited = match &route.queue {
        Some(queue) if shared => {
            Box::pin(wait_in_queue(request, route, queue, after.is_some(), until)).await
        }
        _ => {
            tokio::time::sleep_until(until.into()).await;
            WaitOutcome::Select
        }
    };
    let took = clock::since(began);
    if shared {
        request.record.waited += took;
    } else {
        request.record.backed_off += took;
    }
    match waited {
        WaitOutcome::Select => Ok(()),
        WaitOutcome::Shed(denied) => Err(denied),
    }
}

/// Moving on after `credential` and `unsupported` is not charged to the retry budget.
fn is_charged(class: AttemptClass) -> bool {
    matches!(class, AttemptClass::Unsent | AttemptClass::Failure | AttemptClass::Throttled)
}

/// The problem of a request that ends after an attempt of this class.
fn kind_after(class: AttemptClass) -> ProblemKind {
    match class {
        AttemptClass::Throttled => ProblemKind::Held,
        _ => ProblemKind::Unreachable,
    }
}

/// The backoff before an endpoint is tried again.
pub fn backoff(route: &Route, candidate: &EndpointCandidate, times: u32) -> Duration {
    let retry = candidate.provider.policy.retry.as_ref().unwrap_or(&route.policy.retry);
    retry.backoff().delay(times, clock::draw())
}

/// Starts the attempts that continue an interrupted response; its endpoint may be tried again after
/// a backoff.
pub fn begin_continuation(
    request: &mut ProxyRequest,
    route: &Route,
    interrupted: UsageKey,
    now: Instant,
) {
    request.limits.restart_timeout(route, now);
    request.attempts.patience = None;
    let candidate = interrupted.endpoint.candidate(route);
    request.attempts.end(interrupted.endpoint, interrupted.credential, |times| {
        RetryTime::At(now + backoff(route, candidate, times))
    });
}

impl AttemptDenied {
    fn new(reason: RetryDenied, kind: ProblemKind) -> AttemptDenied {
        AttemptDenied { reason, kind, retry_after: None, detail: None, obstacles: None }
    }

    pub(super) fn not_admitted(kind: ProblemKind) -> AttemptDenied {
        AttemptDenied::new(RetryDenied::NotAdmitted(kind), kind)
    }

    pub fn problem(&self, route: &Route) -> Problem {
        let name = &route.policy.name;
        let what = self.detail.clone().or_else(|| {
            let late = "its timeout, or the client's own, passed before a provider could be tried";
            match self.reason {
                _ if self.kind == ProblemKind::Deadline => Some(late.to_owned()),
                RetryDenied::NotAdmitted(_) => None,
                reason => Some(reason.explanation().to_owned()),
            }
        });
        let obstacles = self.obstacles.as_ref().map(Obstacles::to_string);
        let parts: Vec<String> = what.into_iter().chain(obstacles).collect();
        Problem::new(self.kind, format!("route `{name}`: {}", parts.join("; ")))
            .retry_after(self.retry_after)
    }

    /// Why there is no further attempt, in words; with the reason of each provider if none is left.
    pub fn explanation(&self) -> String {
        match (&self.obstacles, self.reason) {
            (Some(obstacles), RetryDenied::NoEndpointLeft | RetryDenied::NotAdmitted(_)) => {
                format!("{} ({obstacles})", self.reason.explanation())
            }
            _ => self.reason.explanation().to_owned(),
        }
    }

    /// Adds the reason to the provider's response (`Proxy-Status`, RFC 9209).
    pub fn annotate(&self, head: &mut Parts) {
        let (status, why) = (head.status.as_u16(), self.explanation());
        let why: String =
            why.chars().filter(|c| c.is_ascii() && !matches!(c, '"' | '\\')).collect();
        let text = format!("outrigger; received-status={status}; details=\"not retried: {why}\"");
        if let Ok(value) = HeaderValue::try_from(text) {
            head.headers.append(PROXY_STATUS, value);
        }
    }
}
