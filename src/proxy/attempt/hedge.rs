//! A second attempt beside one that takes long (Dean and Barroso, "The Tail at Scale", 2013): at
//! another address, paid from the hedges' own budget and from the route's; the first good answer
//! wins, and the other attempt is cancelled.
//!
//! Only what may be repeated anywhere is hedged, and only a request's first attempt: what follows
//! a failure is a repeat.

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Instant;

use super::inspect::AttemptResult;
use super::retry::retry_reach;
use super::select::select_endpoint;
use super::select::{CandidateFilter, Selection};
use super::send::attempt;
use crate::clock;
use crate::live::quota::usage_meter::AttemptKind;
use crate::proxy::access_log::record::AttemptRecord;
use crate::proxy::downstream::timer::Timer;
use crate::proxy::request::context::ProxyRequest;
use crate::resilience::outcome::{AttemptClass, RetryScope};
use crate::snapshot::Route;

/// Where an attempt went, and when.
#[derive(Clone, Copy)]
struct RacedAttempt {
    tier: usize,
    index: usize,
    credential: usize,
    began: Instant,
    turn: AttemptKind,
}

/// What two attempts beside each other came to.
enum RaceResult {
    /// The first one's, and whether the second was over too.
    First(AttemptResult, bool),
    /// The second one's, and whether the first was over too.
    Second(AttemptResult, bool),
}

type Attempt<'a> = Pin<Box<dyn Future<Output = AttemptResult> + 'a>>;

/// Makes one attempt, and another beside it when it takes long and the route hedges.
pub async fn attempt_or_hedge(
    request: &mut ProxyRequest,
    route: &Route,
    selection: Box<Selection>,
) -> AttemptResult {
    let hedges = route.policy.hedge.is_some()
        && selection.turn == AttemptKind::First
        && request.upgrade.is_none()
        && !selection.permit.is_probe()
        && request.overrides.max_attempts != Some(1)
        && retry_reach(request, AttemptClass::Failure) == RetryScope::Anywhere;
    match hedges {
        true => Box::pin(hedged(request, route, selection)).await,
        false => attempt(request, route, selection).await,
    }
}

async fn hedged(
    request: &mut ProxyRequest,
    route: &Route,
    selection: Box<Selection>,
) -> AttemptResult {
    let mut place = RacedAttempt::of(&selection);
    route.live.hedge_first(place.began);
    let delay = route.live.hedge_delay(place.began);
    let at = Rc::new(Cell::new((place.tier, place.index)));
    request.attempts.place = Some(Rc::clone(&at));
    let twin = delay.and_then(|_| twin(request));
    let (Some(delay), Some(mut twin)) = (delay, twin) else {
        let tried = attempt(request, route, selection).await;
        sample(route, place, &tried);
        return tried;
    };
    let mut first: Attempt<'_> = Box::pin(attempt(request, route, selection));
    let waited = tokio::time::timeout_at((place.began + delay).into(), &mut first).await;
    if let Ok(tried) = waited {
        sample(route, place, &tried);
        return tried;
    }
    // Where connecting took long it may be elsewhere by now.
    (place.tier, place.index) = at.get();
    twin.attempts.beside = Some(at.get());
    let beside = match select_hedge(&twin, route, place.tier) {
        Ok(beside) => beside,
        Err(why) => {
            route.count_hedge(&twin.worker.live.metrics, why);
            let tried = first.await;
            sample(route, place, &tried);
            return tried;
        }
    };
    let other = RacedAttempt::of(&beside);
    let second: Attempt<'_> = Box::pin(attempt(&mut twin, route, beside));
    let raced = race(first, second).await;
    merge(request, route, *twin, raced, place, other)
}

/// The same request again, to be sent elsewhere.
fn twin(request: &ProxyRequest) -> Option<Box<ProxyRequest>> {
    let body = request.body.twin(request.reservation())?;
    let mut attempts = request.attempts.clone();
    attempts.place = None;
    Some(Box::new(ProxyRequest {
        worker: Rc::clone(&request.worker),
        client: Rc::clone(&request.client),
        timer: Rc::new(Timer::default()),
        route: Arc::clone(&request.route),
        record: request.record.aside(),
        method: request.method.clone(),
        uri: request.uri.clone(),
        asked_uri: request.asked_uri.clone(),
        headers: request.headers.clone(),
        body,
        upgrade: None,
        overrides: request.overrides.clone(),
        deadline: request.deadline,
        idempotence: request.idempotence,
        attempts,
        partial: None,
        circuits: request.circuits.clone(),
        session: request.session.clone(),
        class: request.class,
        flow: request.flow,
        tokens: request.tokens,
        place: None,
        turns: Vec::new(),
        looks_again: 0,
        stored: None,
        reduced: request.reduced,
        conditions: None,
        hurries: request.hurries,
        is_job: request.is_job,
    }))
}

/// Leave for the second attempt.
fn select_hedge(
    request: &ProxyRequest,
    route: &Route,
    tier: usize,
) -> Result<Box<Selection>, &'static str> {
    let now = clock::now();
    let selection = select_endpoint(request, route, tier, CandidateFilter::Others, now)
        .map_err(|_| "nobody")?;
    let paid = route.live.within_cost_budget(now)
        && route.live.balance(now) >= 1.0
        && route.live.hedge_spend(now)
        && route.live.withdraw_retry(now);
    if paid { Ok(selection) } else { Err("budget") }
}

/// What two attempts came to, as one of this request's.
fn merge(
    request: &mut ProxyRequest,
    route: &Route,
    mut twin: ProxyRequest,
    raced: RaceResult,
    first: RacedAttempt,
    second: RacedAttempt,
) -> AttemptResult {
    let (tried, lost, result) = match raced {
        RaceResult::First(tried, over) => {
            sample(route, first, &tried);
            (tried, (!over).then_some(second), "lost")
        }
        RaceResult::Second(tried, true) => (tried, None, "won"),
        RaceResult::Second(tried, false) => {
            // It would have taken longer: what is known is a lower bound.
            let took = clock::since(first.began);
            route.live.hedge_sample(took, clock::now());
            let slow = ProxyRequest::candidate(route, first.tier, first.index);
            slow.endpoint.live.answered(took, clock::now());
            (tried, Some(first), "won")
        }
    };
    route.count_hedge(&request.worker.live.metrics, result);
    if let Some(lost) = lost {
        let record = if result == "won" { &mut request.record } else { &mut twin.record };
        record.attempts.push(lost.cancelled(route));
    }
    request.record.join(&mut twin.record);
    let asked = twin.attempts.asked.into_iter().filter(|asked| {
        request.attempts.asked(asked.tier, asked.index, asked.credential).is_none()
    });
    let asked: Vec<_> = asked.collect();
    request.attempts.in_tier += asked.len() as u32;
    request.attempts.late.append(&mut twin.attempts.late);
    request.attempts.asked.splice(0..0, asked);
    tried
}

impl RacedAttempt {
    fn of(selection: &Selection) -> RacedAttempt {
        let &Selection { tier, index, credential, turn, started: began, .. } = selection;
        RacedAttempt { tier, index, credential, began, turn }
    }

    fn cancelled(self, route: &Route) -> AttemptRecord {
        AttemptRecord {
            to: Arc::clone(&ProxyRequest::candidate(route, self.tier, self.index).endpoint),
            credential: Some(self.credential),
            class: AttemptClass::Ignored,
            status: 0,
            took: clock::since(self.began),
            probe: false,
            turn: self.turn,
            error: Some("cancelled: the other attempt was quicker".to_owned()),
        }
    }
}

/// Notes how long an answer took, from the request's first attempt on.
fn sample(route: &Route, place: RacedAttempt, tried: &AttemptResult) {
    if matches!(tried, AttemptResult::Commit(_)) {
        let now = clock::now();
        route.live.hedge_sample(now.saturating_duration_since(place.began), now);
    }
}

/// Polls both until one has a good answer, or both have failed: then the first one's failure counts.
async fn race(mut first: Attempt<'_>, mut second: Attempt<'_>) -> RaceResult {
    let (mut failed, mut other_failed) = (None, false);
    poll_fn(|cx| {
        if failed.is_none()
            && let Poll::Ready(tried) = first.as_mut().poll(cx)
        {
            if matches!(tried, AttemptResult::Commit(_)) {
                return Poll::Ready(RaceResult::First(tried, other_failed));
            }
            failed = Some(tried);
        }
        if !other_failed && let Poll::Ready(tried) = second.as_mut().poll(cx) {
            if matches!(tried, AttemptResult::Commit(_)) {
                return Poll::Ready(RaceResult::Second(tried, failed.is_some()));
            }
            other_failed = true;
        }
        match failed.take() {
            Some(tried) if other_failed => Poll::Ready(RaceResult::First(tried, true)),
            kept => {
                failed = kept;
                Poll::Pending
            }
        }
    })
    .await
}
