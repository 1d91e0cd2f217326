//! Hedged attempts: a second attempt while the first takes long (Dean and Barroso, "The Tail at
//! Scale", 2013).
//!
//! The second attempt goes to another endpoint and is charged to the hedge budget and to the route's
//! retry budget. The first good response wins, and the other attempt is cancelled. Only a request's
//! first attempt is hedged, and only if the request may be repeated anywhere.

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Instant;

use super::context::ProxyRequest;
use super::inspect::AttemptResult;
use super::select::{CandidateFilter, Selection, generation, scope_of, select_endpoint};
use super::send::attempt;
use super::state::{AttemptPlace, EndpointIndex};
use crate::clock;
use crate::live::quota::usage_meter::AttemptKind;
use crate::proxy::access_log::attempt_record::{AttemptDetails, AttemptRecord};
use crate::proxy::downstream::timer::Timer;
use crate::resilience::outcome::{AttemptClass, RetryScope};
use crate::snapshot::Route;

/// One of two racing attempts: where it went, and when.
#[derive(Clone, Copy)]
struct RacedAttempt {
    endpoint: EndpointIndex,
    credential: usize,
    began: Instant,
    /// Later than `began` if connecting took long and the attempt moved.
    started: Instant,
    turn: AttemptKind,
}

/// Which attempt's result counts, and whether the other one had ended too.
enum RaceResult {
    First { result: AttemptResult, hedge_ended: bool },
    Hedge { result: AttemptResult, first_ended: bool },
}

/// The result of a hedge.
#[derive(Clone, Copy, PartialEq)]
enum HedgeOutcome {
    Won,
    Lost,
    /// A budget forbade it.
    Budget,
    NoEndpoint,
}

type Attempt<'a> = Pin<Box<dyn Future<Output = AttemptResult> + 'a>>;

/// Makes one attempt, and a concurrent second one if it takes long and the route hedges.
pub async fn attempt_or_hedge(
    request: &mut ProxyRequest,
    route: &Route,
    selection: Box<Selection>,
) -> AttemptResult {
    let hedges = route.policy.hedge.is_some()
        && selection.turn == AttemptKind::First
        && !request.head.is_upgrade()
        && !selection.permit.is_probe()
        && !request.limits.is_single_attempt()
        && hedge_scope(request, route, &selection) >= RetryScope::Generating;
    match hedges {
        true => Box::pin(hedged(request, route, selection)).await,
        false => attempt(request, route, selection).await,
    }
}

/// Where the request could be sent again if its first attempt failed.
fn hedge_scope(request: &ProxyRequest, route: &Route, selection: &Selection) -> RetryScope {
    let provider = &selection.endpoint.candidate(route).provider.policy;
    scope_of(request, provider, AttemptClass::Failure)
}

async fn hedged(
    request: &mut ProxyRequest,
    route: &Route,
    selection: Box<Selection>,
) -> AttemptResult {
    let mut first = RacedAttempt::of(&selection);
    route.live.hedge_first(first.began);
    let delay = route.live.hedge_delay(first.began);
    let scope = hedge_scope(request, route, &selection);
    let generation = if scope == RetryScope::Generating { generation(request) } else { None };
    let place = AttemptPlace { endpoint: first.endpoint, started: first.started };
    let location = Rc::new(Cell::new(place));
    request.attempts.location = Some(Rc::clone(&location));
    let hedge = delay.and_then(|_| duplicate(request));
    let (Some(delay), Some(mut hedge)) = (delay, hedge) else {
        let result = attempt(request, route, selection).await;
        sample(route, first, &result);
        return result;
    };
    let mut running: Attempt<'_> = Box::pin(attempt(request, route, selection));
    let timed = tokio::time::timeout_at((first.began + delay).into(), &mut running).await;
    if let Ok(result) = timed {
        sample(route, first, &result);
        return result;
    }
    // If connecting took long, the attempt has moved to another endpoint.
    AttemptPlace { endpoint: first.endpoint, started: first.started } = location.get();
    hedge.attempts.hedge_of = Some(first.endpoint);
    hedge.attempts.only_generation = generation;
    let selection = match select_hedge(&hedge, route, first.endpoint.tier) {
        Ok(selection) => selection,
        Err(why) => {
            route.count_hedge(&hedge.worker.live.metrics, why.as_str());
            let result = running.await;
            sample(route, first, &result);
            return result;
        }
    };
    let second = RacedAttempt::of(&selection);
    let racing: Attempt<'_> = Box::pin(attempt(&mut hedge, route, selection));
    let raced = race(running, racing).await;
    merge(request, route, *hedge, raced, first, second)
}

/// A copy of the request for the hedge; `None` if its body can be sent only once.
fn duplicate(request: &ProxyRequest) -> Option<Box<ProxyRequest>> {
    let body = request.body.duplicate(request.reservation())?;
    let mut attempts = request.attempts.clone();
    attempts.location = None;
    Some(Box::new(ProxyRequest {
        worker: Rc::clone(&request.worker),
        client: Rc::clone(&request.client),
        timer: Rc::new(Timer::default()),
        route: Arc::clone(&request.route),
        head: request.head.duplicate(),
        body,
        limits: request.limits.clone(),
        attempts,
        wait: None,
        cache: request.cache.without_response(),
        resume: None,
        requests_stream: request.requests_stream,
        is_degraded: request.is_degraded,
        record: request.record.detached(),
    }))
}

fn select_hedge(
    request: &ProxyRequest,
    route: &Route,
    tier: usize,
) -> Result<Box<Selection>, HedgeOutcome> {
    let now = clock::now();
    let selection = select_endpoint(request, route, tier, CandidateFilter::Untried, now)
        .map_err(|_| HedgeOutcome::NoEndpoint)?;
    let paid = route.live.within_cost_budget(now)
        && route.live.balance(now) >= 1.0
        && route.live.hedge_spend(now)
        && route.live.withdraw_retry(now);
    if paid { Ok(selection) } else { Err(HedgeOutcome::Budget) }
}

/// Merges the hedge into its request: attempts, access record, metrics.
fn merge(
    request: &mut ProxyRequest,
    route: &Route,
    mut hedge: ProxyRequest,
    raced: RaceResult,
    first: RacedAttempt,
    second: RacedAttempt,
) -> AttemptResult {
    let (result, cancelled, outcome) = match raced {
        RaceResult::First { result, hedge_ended } => {
            sample(route, first, &result);
            (result, (!hedge_ended).then_some(second), HedgeOutcome::Lost)
        }
        RaceResult::Hedge { result, first_ended: true } => (result, None, HedgeOutcome::Won),
        RaceResult::Hedge { result, first_ended: false } => {
            let took = clock::since(first.began);
            route.live.hedge_sample(took, clock::now());
            first.endpoint.candidate(route).endpoint.live.took_longer(took, clock::now());
            (result, Some(first), HedgeOutcome::Won)
        }
    };
    route.count_hedge(&request.worker.live.metrics, outcome.as_str());
    if let Some(cancelled) = cancelled {
        let won = outcome == HedgeOutcome::Won;
        let record = if won { &mut request.record } else { &mut hedge.record };
        record.attempts.push(cancelled.record(route));
    }
    request.record.absorb(&mut hedge.record);
    request.attempts.merge_hedge(std::mem::take(&mut hedge.attempts));
    result
}

impl RacedAttempt {
    fn of(selection: &Selection) -> RacedAttempt {
        let &Selection { endpoint, credential, turn, started, .. } = selection;
        RacedAttempt { endpoint, credential, began: started, started, turn }
    }

    /// The record of an attempt that was cancelled.
    fn record(self, route: &Route) -> AttemptRecord {
        AttemptRecord {
            endpoint: Arc::clone(&self.endpoint.candidate(route).endpoint),
            credential: Some(self.credential),
            class: AttemptClass::Ignored,
            status: 0,
            began: self.started,
            took: clock::since(self.started),
            probe: false,
            kind: self.turn,
            error: Some("cancelled: the other attempt was faster".to_owned()),
            details: AttemptDetails::default(),
        }
    }
}

impl HedgeOutcome {
    fn as_str(self) -> &'static str {
        match self {
            HedgeOutcome::Won => "won",
            HedgeOutcome::Lost => "lost",
            HedgeOutcome::Budget => "budget",
            HedgeOutcome::NoEndpoint => "no_endpoint",
        }
    }
}

/// Samples how long a good response took, from the request's first attempt on.
fn sample(route: &Route, attempt: RacedAttempt, result: &AttemptResult) {
    if matches!(result, AttemptResult::Commit(_)) {
        let now = clock::now();
        route.live.hedge_sample(now.saturating_duration_since(attempt.began), now);
    }
}

/// Polls both until one has a good response. If both fail, the first one's failure counts.
async fn race(mut first: Attempt<'_>, mut hedge: Attempt<'_>) -> RaceResult {
    let (mut failed, mut hedge_ended) = (None, false);
    poll_fn(|cx| {
        if failed.is_none()
            && let Poll::Ready(result) = first.as_mut().poll(cx)
        {
            if matches!(result, AttemptResult::Commit(_)) {
                return Poll::Ready(RaceResult::First { result, hedge_ended });
            }
            failed = Some(result);
        }
        if !hedge_ended && let Poll::Ready(result) = hedge.as_mut().poll(cx) {
            if matches!(result, AttemptResult::Commit(_)) {
                let first_ended = failed.is_some();
                return Poll::Ready(RaceResult::Hedge { result, first_ended });
            }
            hedge_ended = true;
        }
        match failed.take() {
            Some(result) if hedge_ended => {
                Poll::Ready(RaceResult::First { result, hedge_ended: true })
            }
            kept => {
                failed = kept;
                Poll::Pending
            }
        }
    })
    .await
}
