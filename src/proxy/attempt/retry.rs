//! What follows an outcome: another endpoint, a wait, the next of `fallback`, or the end.
//!
//! POLICY.md "What may be repeated" decides whether anything may follow at all, and where. Another
//! endpoint is asked at once; the same one after its back-off. A wait of up to `patience` is spent
//! on the route's `providers`; a longer one moves to `fallback`. Where there is none, room is waited
//! for as long as the deadline allows, but a hold is passed on: its Retry-After is the provider's
//! answer, and the application knows better than to keep a connection open for a minute. A provider
//! that says no time is not waited for where another can be asked.

use std::time::Instant;

use super::select::select_endpoint;
use super::select::{CandidateFilter, Selection, Unavailable, provider_id};
use super::wait::WaitOutcome;
use super::wait::abandon_wait;
use super::wait::count_shed;
use super::wait::leave_queue;
use super::wait::queue_backlog;
use super::wait::wait_in_queue;
use crate::clock;
use crate::proxy::downstream::problem::ProblemKind;
use crate::proxy::request::context::{ProxyRequest, RetryDenied, RetryTime};
use crate::proxy::response::resume::can_continue;
use crate::resilience::outcome::{AttemptClass, RetryScope, retry_scope};
use crate::snapshot::{EndpointCandidate, Route};

/// What a look at the tiers gave.
#[derive(Debug)]
enum NextStep {
    Take(Box<Selection>),
    /// `shared`: for what others wait for too.
    Wait {
        until: Instant,
        shared: bool,
    },
    Nobody(Unavailable),
}

/// Leave for the next attempt; waits where waiting helps.
///
/// # Errors
/// Why there is none.
pub async fn next_attempt(
    request: &mut ProxyRequest,
    route: &Route,
    after: Option<AttemptClass>,
) -> Result<Box<Selection>, RetryDenied> {
    if let Some(class) = after {
        check_retry(request, route, class)?;
    }
    // What was read just now is now; after an attempt or a wait it is not.
    let mut now = if after.is_none() { request.body.taken() } else { clock::now() };
    loop {
        match next_step(request, route, after, true, now) {
            NextStep::Take(selection) => {
                leave_queue(
                    request,
                    ProxyRequest::candidate(route, selection.tier, selection.index),
                );
                spend_budget(route, after)?;
                return Ok(selection);
            }
            NextStep::Wait { until, shared } => {
                if let Err(denied) = wait(request, route, after, until, shared).await {
                    if !has_next_tier(request, route, after) {
                        return Err(denied);
                    }
                    move_to_next_tier(request);
                }
                now = clock::now();
            }
            NextStep::Nobody(blocked) => {
                let denied = deny(request, route, after, blocked);
                abandon_wait(request);
                return Err(denied);
            }
        }
    }
}

/// Leave for another attempt while one is still connecting; never waits.
pub fn next_attempt_now(request: &mut ProxyRequest, route: &Route) -> Option<Box<Selection>> {
    check_retry(request, route, AttemptClass::Unsent).ok()?;
    match next_step(request, route, Some(AttemptClass::Unsent), false, clock::now()) {
        NextStep::Take(selection) => {
            spend_budget(route, Some(AttemptClass::Unsent)).ok().map(|()| selection)
        }
        _ => None,
    }
}

/// Might another attempt follow a failure of the one that begins now? Then its limits are cut,
/// so that a silent provider leaves time for the next.
pub fn another_attempt_is_possible(
    request: &ProxyRequest,
    route: &Route,
    selection: &Selection,
) -> bool {
    let retry_scope = retry_reach(request, AttemptClass::Failure);
    if retry_scope == RetryScope::Nowhere || !request.body.may_go() {
        return false;
    }
    let here = ProxyRequest::candidate(route, selection.tier, selection.index);
    let others = |tier: usize| {
        let candidates = route.tiers[tier].candidates.iter().enumerate();
        candidates.filter(move |(i, c)| {
            let same = (tier, *i) == (selection.tier, selection.index);
            let allowed =
                retry_scope == RetryScope::Anywhere || provider_id(c) == provider_id(here);
            allowed && !same && is_eligible(request, tier, *i, c)
        })
    };
    let in_tier =
        request.left_in(route, selection.tier) > 0 && others(selection.tier).next().is_some();
    let below = selection.tier + 1..route.tiers.len();
    in_tier
        || (falls_back(route, AttemptClass::Failure)
            && below.into_iter().any(|t| others(t).next().is_some()))
}

/// Nothing that this request knows stands against it.
pub fn is_eligible(
    request: &ProxyRequest,
    tier: usize,
    index: usize,
    candidate: &EndpointCandidate,
) -> bool {
    let attempts = &request.attempts;
    let over = |credential| {
        attempts.asked(tier, index, credential).is_some_and(|asked| asked.again == RetryTime::Never)
    };
    let late = attempts.late.contains(&(tier, index)) || attempts.beside == Some((tier, index));
    let other = attempts.only.is_some_and(|only| only != provider_id(candidate));
    let spent = (0..candidate.endpoint.credential_count().max(1)).all(over);
    !(late || other || spent) && can_continue(request, candidate)
}

pub fn retry_reach(request: &ProxyRequest, class: AttemptClass) -> RetryScope {
    if request.partial.is_some() {
        // The policy says so (`on_cut: continue`): it is no repeat.
        return RetryScope::Anywhere;
    }
    retry_scope(request.idempotence, request.is_idempotent_method(), request.has_key(), class)
}

fn check_retry(
    request: &mut ProxyRequest,
    route: &Route,
    class: AttemptClass,
) -> Result<(), RetryDenied> {
    let kind = RetryDenied::after(class);
    match retry_reach(request, class) {
        RetryScope::Nowhere => return Err(RetryDenied::new("may_have_been_processed", kind)),
        RetryScope::SameProvider => {
            let last = request.attempts.asked.last();
            let last = last.map(|a| provider_id(ProxyRequest::candidate(route, a.tier, a.index)));
            request.attempts.only = request.attempts.only.or(last);
        }
        RetryScope::Anywhere => {}
    }
    if !request.body.may_go() {
        return Err(RetryDenied::new("body_went_once", kind));
    }
    if is_paid(class) && route.live.balance(clock::now()) < 1.0 {
        return Err(RetryDenied::new("budget", kind));
    }
    if is_paid(class) && !route.live.within_cost_budget(clock::now()) {
        return Err(RetryDenied::new("cost_budget", kind));
    }
    if clock::now() >= request.deadline {
        return Err(RetryDenied::new("deadline", ProblemKind::Deadline));
    }
    Ok(())
}

fn spend_budget(route: &Route, after: Option<AttemptClass>) -> Result<(), RetryDenied> {
    let Some(class) = after else { return Ok(()) };
    if is_paid(class) && !route.live.withdraw_retry(clock::now()) {
        return Err(RetryDenied::new("budget", RetryDenied::after(class)));
    }
    route.metrics.retries[class.index()].inc();
    Ok(())
}

fn retries_in_tier(request: &ProxyRequest, route: &Route, class: AttemptClass) -> bool {
    match class {
        AttemptClass::Credential => true,
        AttemptClass::TooLarge => false,
        class => request.retry(route).retry_on.contains(class),
    }
}

fn falls_back(route: &Route, class: AttemptClass) -> bool {
    route.policy.fallback_on.contains(class)
}

/// Looks at this tier, then at those below.
fn next_step(
    request: &mut ProxyRequest,
    route: &Route,
    after: Option<AttemptClass>,
    may_wait: bool,
    now: Instant,
) -> NextStep {
    let mut blocked = Unavailable::default();
    loop {
        let below = has_next_tier(request, route, after);
        let here = match select_in_tier(request, route, after, below, now) {
            Ok(selection) => return NextStep::Take(selection),
            Err(here) => here,
        };
        blocked.merge(here);
        if may_wait && let Some(wait) = plan_wait(request, route, here, below) {
            return wait;
        }
        if !below {
            return NextStep::Nobody(blocked);
        }
        move_to_next_tier(request);
    }
}

/// To the next of `fallback`, where others wait.
fn move_to_next_tier(request: &mut ProxyRequest) {
    abandon_wait(request);
    request.attempts.down_to(request.attempts.tier + 1);
}

fn has_next_tier(request: &ProxyRequest, route: &Route, after: Option<AttemptClass>) -> bool {
    let allowed = after.is_none_or(|class| falls_back(route, class));
    allowed && request.attempts.tier + 1 < route.tiers.len()
}

fn select_in_tier(
    request: &ProxyRequest,
    route: &Route,
    after: Option<AttemptClass>,
    below: bool,
    now: Instant,
) -> Result<Box<Selection>, Unavailable> {
    let tier = request.attempts.tier;
    let fresh = request.attempts.in_tier == 0;
    let allowed = fresh || after.is_none_or(|class| retries_in_tier(request, route, class));
    if !allowed || request.left_in(route, tier) == 0 {
        return Err(Unavailable::default());
    }
    let mut blocked = match select_endpoint(request, route, tier, CandidateFilter::Others, now) {
        Ok(selection) => return Ok(selection),
        Err(blocked) => blocked,
    };
    if !fresh {
        match select_endpoint(
            request,
            route,
            tier,
            CandidateFilter::Again { unreachable: !below },
            now,
        ) {
            Ok(selection) => return Ok(selection),
            Err(again) => blocked.merge(again),
        }
    }
    Err(blocked)
}

/// A wait of up to `patience` where there is a fallback, up to the deadline where there is none;
/// in the lane never longer than its queue allows.
fn plan_wait(
    request: &mut ProxyRequest,
    route: &Route,
    blocked: Unavailable,
    below: bool,
) -> Option<NextStep> {
    if request.hurries {
        return None;
    }
    let uncertain = below && blocked.guess;
    let room = blocked.room && route.queue.is_some();
    if blocked.wait.is_none_or(|_| uncertain) && !room {
        return None;
    }
    let now = clock::now();
    let patience = request.retry(route).patience;
    let patient = *request.attempts.patience.get_or_insert(now + patience);
    let patient_only = below || blocked.held;
    let mut limit = if patient_only { patient.min(request.deadline) } else { request.deadline };
    if let Some(queue) = route.queue.as_ref().filter(|_| room || blocked.shared.is_some()) {
        let since = request.place.as_ref().map_or(now, |place| place.since);
        limit = limit.min(since + queue.policy.max_wait);
    }
    let shared = room || blocked.shared.is_some();
    let wait = blocked.wait.filter(|_| !uncertain);
    match wait.map(|wait| now + wait).filter(|at| *at <= limit) {
        // Whoever stands in the lane is called in time; only its own back-off nobody else knows.
        Some(_) if room => {
            let until = blocked.own.map_or(limit, |own| limit.min(now + own));
            Some(NextStep::Wait { until, shared })
        }
        Some(until) => Some(NextStep::Wait { until, shared }),
        None if room && now < limit => Some(NextStep::Wait { until: limit, shared: true }),
        None => None,
    }
}

fn deny(
    request: &ProxyRequest,
    route: &Route,
    after: Option<AttemptClass>,
    blocked: Unavailable,
) -> RetryDenied {
    let kind = match after {
        Some(class) => RetryDenied::after(class),
        None if clock::now() >= request.deadline => ProblemKind::Deadline,
        None if blocked.held || blocked.wait.is_some() => ProblemKind::Held,
        None if blocked.room => ProblemKind::NoCapacity,
        None if blocked.drained && blocked.open.is_none() => ProblemKind::Drained,
        None => ProblemKind::BreakerOpen,
    };
    let why = match after {
        None => kind.name(),
        Some(_) if request.attempts.in_tier > 0 && blocked == Unavailable::default() => {
            "attempts_spent"
        }
        Some(_) => "nobody_left",
    };
    let soonest = [blocked.wait, blocked.open].into_iter().flatten().min();
    let in_line = blocked.room || request.place.is_some();
    let retry_after = soonest.max(in_line.then(|| queue_backlog(request, route)));
    if let (ProblemKind::NoCapacity | ProblemKind::Deadline, Some(queue), Some(_)) =
        (kind, &route.queue, &request.place)
    {
        count_shed(request, queue, "waited");
    }
    RetryDenied { retry_after, ..RetryDenied::new(why, kind) }
}

/// Waits until a moment, or in the lane for what others wait for too.
///
/// # Errors
/// Why it may not wait.
async fn wait(
    request: &mut ProxyRequest,
    route: &Route,
    after: Option<AttemptClass>,
    until: Instant,
    shared: bool,
) -> Result<(), RetryDenied> {
    let began = clock::now();
    let waited = match &route.queue {
        Some(queue) if shared => {
            Box::pin(wait_in_queue(request, route, queue, after.is_some(), until)).await
        }
        _ => {
            tokio::time::sleep_until(until.into()).await;
            WaitOutcome::Look
        }
    };
    request.record.waited += clock::since(began);
    match waited {
        WaitOutcome::Look => Ok(()),
        WaitOutcome::Shed(denied) => Err(denied),
    }
}

/// POLICY.md: moves for `credential` and `too_large` are free.
fn is_paid(class: AttemptClass) -> bool {
    matches!(class, AttemptClass::Unsent | AttemptClass::Failure | AttemptClass::Throttled)
}
