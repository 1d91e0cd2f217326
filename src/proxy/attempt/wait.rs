//! A request in its wait queue: how it enters, what it reports, how it is called.
//!
//! A request waits in order if it lacks capacity, or waits for something that others wait for too: a
//! hold, a ramp, a rate. A retry may pass the waiting requests, because it was admitted before; if
//! it has to wait, its age puts it in front of them.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::pin::pin;
use std::task::Poll;
use std::time::{Duration, Instant};

use super::context::ProxyRequest;
use super::obstacles::{Obstacles, Unavailable};
use super::retry::AttemptDenied;
use super::select::{CandidateFilter, check_provider, is_eligible};
use super::state::EndpointIndex;
use crate::clock;
use crate::live::provider::{NoCapacity, ProviderLive};
use crate::live::queue::wait_queue::{DispatchResult, WaitTicket, WakeReason};
use crate::proxy::access_log::reasons::ShedReason;
use crate::resilience::queue::wait_queue::{GroupKey, QueueEntry, QueueRejection};
use crate::resilience::queue::waiters::QueueFullReason;
use crate::snapshot::{Endpoint, EndpointCandidate, Route, RouteQueue};

/// Consecutive selections that may fail although an endpoint seemed available: two requests that
/// select at once take it from each other.
const MAX_RETRIES: u8 = 3;
/// A drain ends when an operator ends it, which wakes the queue.
const DRAINED: Duration = Duration::from_secs(3600);

/// A request's place in a queue.
#[derive(Debug)]
pub struct Wait {
    place: Box<WaitTicket>,
    /// The providers at which it is this request's turn.
    turns: Vec<u32>,
    /// Consecutive selections that failed although an endpoint seemed available.
    retries: u8,
}

/// How a wait in the queue ended.
#[derive(Debug)]
pub enum WaitOutcome {
    /// The request may select again.
    Select,
    /// The queue rejected the request.
    Shed(AttemptDenied),
}

impl Wait {
    pub(super) fn since(&self) -> Instant {
        self.place.since
    }
}

/// Whether the request may use a provider's capacity, or other requests come first.
pub fn has_turn(request: &ProxyRequest, provider: &ProviderLive) -> bool {
    let queue = request.route.queue.as_ref();
    let paused = queue.is_some_and(|queue| queue.live.is_paused());
    let admitted = !request.attempts.tried.is_empty();
    let called = || request.wait.as_ref().is_some_and(|wait| wait.turns.contains(&provider.id()));
    admitted || !paused && (provider.waiting() == 0 || called())
}

/// The request starts an attempt at this provider.
pub fn leave_queue(request: &mut ProxyRequest, candidate: &EndpointCandidate) {
    if let Some(wait) = request.wait.take() {
        wait.place.served(candidate.provider.live.id(), clock::now());
    }
}

/// Waits until the queue calls the request, at the latest until `until`. Enters the queue first.
pub async fn wait_in_queue(
    request: &mut ProxyRequest,
    route: &Route,
    queue: &RouteQueue,
    is_retry: bool,
    until: Instant,
) -> WaitOutcome {
    let now = clock::now();
    if request.wait.is_none() {
        if let Err(denied) = enter_queue(request, route, queue, until, now) {
            return WaitOutcome::Shed(denied);
        }
    } else if !report_observations(request, route, is_retry, now) {
        return WaitOutcome::Select;
    }
    let called = wait_for_call(request, route, until).await;
    let Some(wait) = &mut request.wait else { return WaitOutcome::Select };
    match called {
        Some(WakeReason::Displaced) => {
            request.wait = None;
            let detail = "a request of a higher class, or of a flow with fewer, took its place";
            let denied = shed(request, route, queue, ShedReason::Displaced, detail);
            return WaitOutcome::Shed(denied);
        }
        Some(WakeReason::Check) => {}
        None => wait.place.due(clock::now()),
    }
    wait.turns = wait.place.offers();
    WaitOutcome::Select
}

/// Reports to the queue what the request saw at the providers where it has the turn. False if an
/// endpoint has become available since, so that the request selects again.
fn report_observations(
    request: &mut ProxyRequest,
    route: &Route,
    is_retry: bool,
    now: Instant,
) -> bool {
    let Some(wait) = &request.wait else { return true };
    // A model may have got a hold of its own since.
    let state = state_key(request, route, request.attempts.tier);
    let observe = |&provider: &u32| {
        let saw = observe_provider(request, route, provider, is_retry, now);
        saw.map(|saw| (provider, saw))
    };
    let seen: Option<Vec<_>> = wait.turns.iter().map(observe).collect();
    let Some(wait) = &mut request.wait else { return true };
    let Some(seen) = seen else {
        wait.retries += 1;
        return false;
    };
    wait.retries = 0;
    wait.place.set_state(state, now);
    wait.place.report(&seen, now);
    true
}

/// Returns when the queue calls, a connection of this worker is free (`None`), or at `until`.
async fn wait_for_call(
    request: &ProxyRequest,
    route: &Route,
    until: Instant,
) -> Option<WakeReason> {
    let place = &request.wait.as_ref()?.place;
    let until = place.next_check().map_or(until, |check| check.min(until));
    let pools = &request.worker.pools;
    let tier = &route.tiers[request.attempts.tier].candidates;
    let full = tier.iter().filter(|c| !pools.has_capacity(&c.endpoint.target));
    let mut pending: Vec<_> =
        full.map(|c| Box::pin(pools.wait_for_capacity(&c.endpoint.target))).collect();
    let mut timer = pin!(tokio::time::sleep_until(until.into()));
    std::future::poll_fn(|cx| {
        if let Poll::Ready(call) = place.poll_wake(cx) {
            return Poll::Ready(Some(call));
        }
        let free = pending.iter_mut().any(|free| free.as_mut().poll(cx).is_ready());
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
) -> Result<(), AttemptDenied> {
    let tier = request.attempts.tier;
    let provider = |(index, candidate): (usize, &EndpointCandidate)| {
        let eligible = is_eligible(request, EndpointIndex { tier, index }, candidate);
        eligible.then(|| candidate.provider.live.id())
    };
    let candidates = route.tiers[tier].candidates.iter();
    let mut providers: Vec<u32> = candidates.enumerate().filter_map(provider).collect();
    providers.sort_unstable();
    providers.dedup();
    let group = GroupKey {
        queue: queue.live.id,
        providers: providers.into(),
        state: state_key(request, route, tier),
    };
    let entry = QueueEntry {
        group,
        class: request.limits.class(),
        flow: request.limits.flow(),
        bytes: request.body.len(),
        arrived: request.body.received_at(),
        until,
    };
    match request.worker.live.wait_queue.enqueue(&queue.live, entry, now) {
        Ok(place) => {
            let turns = place.offers();
            request.wait = Some(Wait { place: Box::new(place), turns, retries: 0 });
            Ok(())
        }
        Err(refusal) => Err(rejected(request, route, queue, refusal)),
    }
}

/// Identifies the breakers, holds and reported quotas that can stop the request in a tier: those of
/// another model have another key, once there are any.
fn state_key(request: &ProxyRequest, route: &Route, tier: usize) -> u64 {
    let by_model = |candidate: &EndpointCandidate| {
        let Endpoint { credentials, .. } = &*candidate.endpoint;
        candidate.endpoint.is_by_model() || credentials.iter().any(|one| one.has_models())
    };
    let model =
        if route.tiers[tier].candidates.iter().any(by_model) { request.model() } else { None };
    model.map_or(0, |model| {
        let mut hasher = DefaultHasher::new();
        model.hash(&mut hasher);
        hasher.finish()
    })
}

fn rejected(
    request: &ProxyRequest,
    route: &Route,
    queue: &RouteQueue,
    refusal: QueueRejection,
) -> AttemptDenied {
    let name = &queue.policy.name;
    let (reason, detail) = match refusal {
        QueueRejection::Full(QueueFullReason::Queue) => (
            ShedReason::Full,
            format!("queue `{name}` is full (see its max_waiting and max_bytes)"),
        ),
        QueueRejection::Full(QueueFullReason::Flow) => {
            let detail =
                format!("queue `{name}` is full, and this flow already has its share of it");
            (ShedReason::Share, detail)
        }
        QueueRejection::TooLong(wait) => {
            let detail = format!(
                "queue `{name}`: the estimated wait is {wait:.1?}, longer than the request may wait"
            );
            (ShedReason::Late, detail)
        }
    };
    shed(request, route, queue, reason, &detail)
}

/// Counts a request that the queue rejects, and says when to try again.
fn shed(
    request: &ProxyRequest,
    route: &Route,
    queue: &RouteQueue,
    reason: ShedReason,
    detail: &str,
) -> AttemptDenied {
    count_shed(request, queue, reason);
    let mut denied = AttemptDenied::not_admitted(reason.problem());
    denied.retry_after = Some(queue_backlog(request, route));
    denied.detail = Some(detail.to_owned());
    denied.obstacles = Some(Obstacles::of(request, route, clock::now()));
    denied
}

/// A job does not count: it is retried.
pub fn count_shed(request: &ProxyRequest, queue: &RouteQueue, reason: ShedReason) {
    if !request.limits.is_job() {
        queue.live.shed(request.limits.class(), reason.as_str());
    }
}

/// When the requests that wait now will be gone, to the second. No request waits longer than
/// `max_wait`, and few longer than this one could.
pub fn queue_backlog(request: &ProxyRequest, route: &Route) -> Duration {
    let tier = &route.tiers[request.attempts.tier].candidates;
    let providers: Vec<u32> = tier.iter().map(|c| c.provider.live.id()).collect();
    let own = request.limits.deadline().saturating_duration_since(request.body.received_at());
    let most = route.queue.as_ref().map_or(own, |queue| queue.policy.max_wait.min(own));
    let known = request.worker.live.wait_queue.backlog(&providers, most);
    let seconds = known.unwrap_or_default().as_secs_f64().round();
    Duration::from_secs_f64(seconds.max(1.0))
}

/// The state of a provider at which it is the request's turn. `None` if an endpoint has become
/// available since, so that the request selects again.
fn observe_provider(
    request: &ProxyRequest,
    route: &Route,
    provider: u32,
    is_retry: bool,
    now: Instant,
) -> Option<DispatchResult> {
    let candidates = &route.tiers[request.attempts.tier].candidates;
    let of = |c: &&EndpointCandidate| c.provider.live.id() == provider;
    let Some(candidate) = candidates.iter().find(of) else {
        return Some(DispatchResult::Ineligible);
    };
    match candidate.provider.live.check(request.limits.tokens(), now) {
        Err(NoCapacity::Concurrency) => return Some(DispatchResult::Full),
        Err(NoCapacity::Rate(wait)) => return Some(DispatchResult::RateLimited(now + wait)),
        Ok(()) => {}
    }
    let mut unavailable = Unavailable::default();
    let may_retry = request.wait.as_ref().is_none_or(|wait| wait.retries < MAX_RETRIES);
    let tried = is_retry.then_some(CandidateFilter::Tried { unreachable: true });
    for filter in [Some(CandidateFilter::Untried), tried].into_iter().flatten() {
        match check_provider(request, route, provider, filter, now) {
            Ok(()) if may_retry => return None,
            Ok(()) => {}
            Err(why) => unavailable.merge(why),
        }
    }
    let paused = route.queue.as_ref().is_some_and(|queue| queue.live.is_paused());
    Some(match [unavailable.shared, unavailable.open].into_iter().flatten().min() {
        _ if paused => DispatchResult::Full,
        Some(wait) => DispatchResult::Blocked(now + wait),
        None if unavailable.drained => DispatchResult::Blocked(now + DRAINED),
        None => DispatchResult::Ineligible,
    })
}
