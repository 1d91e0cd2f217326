//! A request in the wait lane: how it gets in, what it says of what it saw, who calls it.
//!
//! Whoever lacks room, or waits for what others wait for too (a hold, a ramp, a rate), stands in
//! order (QUEUE.md "Order"). A repeat may go past those who wait, for it was admitted; where it has
//! to wait itself, its age puts it before them.

use std::pin::pin;
use std::task::Poll;
use std::time::{Duration, Instant};

use super::retry::is_eligible;
use super::select::check_provider;
use super::select::circuits_key;
use super::select::{CandidateFilter, Unavailable};
use crate::clock;
use crate::live::provider::{NoCapacity, ProviderLive};
use crate::live::queue::wait_queue::{DispatchResult, WakeReason};
use crate::proxy::downstream::problem::ProblemKind;
use crate::proxy::request::context::{ProxyRequest, RetryDenied};
use crate::resilience::queue::wait_queue::{GroupKey, QueueEntry, QueueRejection};
use crate::resilience::queue::waiters::QueueFull;
use crate::snapshot::{EndpointCandidate, Route, RouteQueue};

/// Looks on end at what seemed to be usable and was not: two that look at once take it from each other.
const LOOKS: u8 = 3;

/// How a wait in the lane ended.
#[derive(Debug)]
pub enum WaitOutcome {
    /// It has to look again.
    Look,
    /// It may not wait here.
    Shed(RetryDenied),
}

/// Whether an attempt of this request may take what a provider has, or others come first.
pub fn has_turn(request: &ProxyRequest, provider: &ProviderLive) -> bool {
    let queue = request.route.queue.as_ref();
    let paused = queue.is_some_and(|queue| queue.live.is_paused());
    let admitted = !request.attempts.asked.is_empty();
    admitted || !paused && (provider.waiting() == 0 || request.turns.contains(&provider.id()))
}

/// It goes to this provider, and waits no longer.
pub fn leave_queue(request: &mut ProxyRequest, candidate: &EndpointCandidate) {
    request.turns.clear();
    if let Some(place) = request.place.take() {
        place.served(candidate.provider.live.id(), clock::now());
    }
}

/// Waits until it is called, or until a moment at the latest; takes a place first where it has
/// none.
pub async fn wait_in_queue(
    request: &mut ProxyRequest,
    route: &Route,
    queue: &RouteQueue,
    after: bool,
    until: Instant,
) -> WaitOutcome {
    let now = clock::now();
    if request.place.is_none() {
        if let Err(denied) = enter_queue(request, route, queue, until, now) {
            return WaitOutcome::Shed(denied);
        }
    } else {
        let saw: Option<Vec<_>> = request
            .turns
            .iter()
            .map(|at| observe_provider(request, route, *at, after, now).map(|saw| (*at, saw)))
            .collect();
        let Some(saw) = saw else {
            request.looks_again += 1;
            return WaitOutcome::Look;
        };
        request.looks_again = 0;
        if let Some(place) = &request.place {
            place.report(&saw, now);
        }
    }
    let called = wait_for_call(request, route, until).await;
    let Some(place) = &request.place else { return WaitOutcome::Look };
    match called {
        Some(WakeReason::Displaced) => {
            abandon_wait(request);
            let detail = "a request of a higher class, or of a flow with fewer, took its place";
            return WaitOutcome::Shed(shed(
                request,
                route,
                queue,
                ProblemKind::QueueFull,
                "displaced",
                detail,
            ));
        }
        Some(WakeReason::Check) => {}
        None => place.due(clock::now()),
    }
    request.turns = place.offers();
    WaitOutcome::Look
}

/// Until the lane calls, a connection of this worker is free, or the time has come.
async fn wait_for_call(
    request: &ProxyRequest,
    route: &Route,
    until: Instant,
) -> Option<WakeReason> {
    let place = request.place.as_ref()?;
    let until = place.next_check().map_or(until, |look| look.min(until));
    let pools = &request.worker.pools;
    let tier = &route.tiers[request.attempts.tier].candidates;
    let full = tier.iter().filter(|c| !pools.has_capacity(&c.endpoint.target));
    let mut places: Vec<_> =
        full.map(|c| Box::pin(pools.wait_for_capacity(&c.endpoint.target))).collect();
    let mut timer = pin!(tokio::time::sleep_until(until.into()));
    std::future::poll_fn(|cx| {
        if let Poll::Ready(call) = place.poll_wake(cx) {
            return Poll::Ready(Some(call));
        }
        let free = places.iter_mut().any(|free| free.as_mut().poll(cx).is_ready());
        if free { Poll::Ready(None) } else { timer.as_mut().poll(cx).map(|()| None) }
    })
    .await
}

fn enter_queue(
    request: &mut ProxyRequest,
    route: &Route,
    queue: &RouteQueue,
    until: Instant,
    now: Instant,
) -> Result<(), RetryDenied> {
    let tier = &route.tiers[request.attempts.tier].candidates;
    let asked = |(index, candidate): (usize, &EndpointCandidate)| {
        let may = is_eligible(request, request.attempts.tier, index, candidate);
        may.then(|| candidate.provider.live.id())
    };
    let mut providers: Vec<u32> = tier.iter().enumerate().filter_map(asked).collect();
    providers.sort_unstable();
    providers.dedup();
    let group = GroupKey {
        queue: queue.live.id,
        providers: providers.into(),
        circuits: circuits_key(request, route, request.attempts.tier),
    };
    let (class, flow, bytes) = (request.class, request.flow, request.body.len());
    let entry = QueueEntry { group, class, flow, bytes, arrived: request.body.taken(), until };
    match request.worker.live.wait_queue.enqueue(&queue.live, entry, now) {
        Ok(place) => {
            request.turns = place.offers();
            request.place = Some(Box::new(place));
            Ok(())
        }
        Err(refusal) => Err(queue_rejected(request, route, queue, refusal)),
    }
}

fn queue_rejected(
    request: &ProxyRequest,
    route: &Route,
    queue: &RouteQueue,
    refusal: QueueRejection,
) -> RetryDenied {
    let name = &queue.policy.name;
    match refusal {
        QueueRejection::Full(QueueFull::Queue) => {
            let detail = format!("queue `{name}` is full");
            shed(request, route, queue, ProblemKind::QueueFull, "full", &detail)
        }
        QueueRejection::Full(QueueFull::Flow) => {
            let detail = format!("queue `{name}` is full, and this flow has its share of it");
            shed(request, route, queue, ProblemKind::QueueShare, "share", &detail)
        }
        QueueRejection::TooLong(wait) => {
            let detail = format!("queue `{name}`: it would wait for {wait:.1?}, which is too long");
            shed(request, route, queue, ProblemKind::QueueWaitTooLong, "late", &detail)
        }
    }
}

/// Counts a request that is turned away, and says when to come back.
pub fn shed(
    request: &ProxyRequest,
    route: &Route,
    queue: &RouteQueue,
    kind: ProblemKind,
    reason: &'static str,
    detail: &str,
) -> RetryDenied {
    count_shed(request, queue, reason);
    let mut denied = RetryDenied::new(kind.name(), kind);
    denied.retry_after = Some(queue_backlog(request, route));
    denied.detail = Some(format!("route `{}`: {detail}", route.policy.name));
    denied
}

/// A job is not turned away: it is tried again.
pub fn count_shed(request: &ProxyRequest, queue: &RouteQueue, reason: &'static str) {
    if !request.is_job {
        queue.live.shed(request.class, reason);
    }
}

/// When those who wait now will be gone, to the second: nobody waits longer than `max_wait`, and
/// hardly one longer than this one could.
pub fn queue_backlog(request: &ProxyRequest, route: &Route) -> Duration {
    let tier = &route.tiers[request.attempts.tier].candidates;
    let providers: Vec<u32> = tier.iter().map(|c| c.provider.live.id()).collect();
    let own = request.deadline.saturating_duration_since(request.body.taken());
    let most = route.queue.as_ref().map_or(own, |queue| queue.policy.max_wait.min(own));
    let known = request.worker.live.wait_queue.backlog(&providers, most);
    let seconds = known.unwrap_or_default().as_secs_f64().round();
    Duration::from_secs_f64(seconds.max(1.0))
}

/// It waits for nobody any longer.
pub fn abandon_wait(request: &mut ProxyRequest) {
    request.place = None;
    request.turns.clear();
}

/// What it saw at a provider where it has the turn; nothing where what stood in its way has gone
/// since it looked, and it has to look again.
fn observe_provider(
    request: &ProxyRequest,
    route: &Route,
    provider: u32,
    after: bool,
    now: Instant,
) -> Option<DispatchResult> {
    let tier = request.attempts.tier;
    let of = |c: &&EndpointCandidate| c.provider.live.id() == provider;
    let Some(candidate) = route.tiers[tier].candidates.iter().find(of) else {
        return Some(DispatchResult::Ineligible);
    };
    match candidate.provider.live.check(request.tokens, now) {
        Err(NoCapacity::Concurrency) => return Some(DispatchResult::Full),
        Err(NoCapacity::Rate(wait)) => return Some(DispatchResult::RateLimited(now + wait)),
        Ok(()) => {}
    }
    let mut blocked = Unavailable::default();
    let again = after.then_some(CandidateFilter::Again { unreachable: true });
    for among in [Some(CandidateFilter::Others), again].into_iter().flatten() {
        match check_provider(request, route, provider, among, now) {
            Ok(()) if request.looks_again < LOOKS => return None,
            Ok(()) => {}
            Err(why) => blocked.merge(why),
        }
    }
    let paused = route.queue.as_ref().is_some_and(|queue| queue.live.is_paused());
    Some(match [blocked.shared, blocked.open].into_iter().flatten().min() {
        _ if paused => DispatchResult::Full,
        Some(wait) => DispatchResult::Blocked(now + wait),
        // A hand will undo it, and tell.
        None if blocked.drained => DispatchResult::Blocked(now + Duration::from_secs(3600)),
        None => DispatchResult::Ineligible,
    })
}
