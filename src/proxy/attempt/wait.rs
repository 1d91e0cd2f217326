//! A request in the wait lane: how it gets in, what it says of what it saw, who calls it.
//!
//! Whoever lacks room, or waits for what others wait for too (a hold, a ramp, a rate), stands in
//! order (QUEUE.md "Order"). A repeat may go past those who wait, for it was admitted; where it has
//! to wait itself, its age puts it before them.

use std::pin::pin;
use std::task::Poll;
use std::time::{Duration, Instant};

use super::select::{CandidateFilter, Unavailable};
use crate::clock;
use crate::live::provider::{Lack, ProviderLive};
use crate::live::queue::wait_queue::{Call, Saw};
use crate::proxy::downstream::error::Kind;
use crate::proxy::request::context::{ProxyRequest, RetryDenied};
use crate::resilience::queue::wait_queue::{Entry, Line, Refusal};
use crate::resilience::queue::waiters::Full;
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

impl ProxyRequest {
    /// Whether an attempt of this request may take what a provider has, or others come first.
    pub fn is_its_turn(&self, provider: &ProviderLive) -> bool {
        let queue = self.route.queue.as_ref();
        let paused = queue.is_some_and(|queue| queue.live.is_paused());
        let admitted = !self.attempts.asked.is_empty();
        admitted || !paused && (provider.waiting() == 0 || self.turns.contains(&provider.id()))
    }

    /// It goes to this provider, and waits no longer.
    pub fn leaves_lane(&mut self, candidate: &EndpointCandidate) {
        self.turns.clear();
        if let Some(place) = self.place.take() {
            place.served(candidate.provider.live.id(), clock::now());
        }
    }

    /// Waits until it is called, or until a moment at the latest; takes a place first where it has
    /// none.
    pub async fn wait_in_lane(
        &mut self,
        route: &Route,
        queue: &RouteQueue,
        after: bool,
        until: Instant,
    ) -> WaitOutcome {
        let now = clock::now();
        if self.place.is_none() {
            if let Err(denied) = self.enter_lane(route, queue, until, now) {
                return WaitOutcome::Shed(denied);
            }
        } else {
            let saw: Option<Vec<_>> = self
                .turns
                .iter()
                .map(|at| self.saw(route, *at, after, now).map(|saw| (*at, saw)))
                .collect();
            let Some(saw) = saw else {
                self.looks_again += 1;
                return WaitOutcome::Look;
            };
            self.looks_again = 0;
            if let Some(place) = &self.place {
                place.saw(&saw, now);
            }
        }
        let called = self.called(route, until).await;
        let Some(place) = &self.place else { return WaitOutcome::Look };
        match called {
            Some(Call::Displaced) => {
                self.gives_up_place();
                let detail = "a request of a higher class, or of a flow with fewer, took its place";
                return WaitOutcome::Shed(self.shed(
                    route,
                    queue,
                    Kind::QueueFull,
                    "displaced",
                    detail,
                ));
            }
            Some(Call::Look) => {}
            None => place.due(clock::now()),
        }
        self.turns = place.turns();
        WaitOutcome::Look
    }

    /// Until the lane calls, a connection of this worker is free, or the time has come.
    async fn called(&self, route: &Route, until: Instant) -> Option<Call> {
        let place = self.place.as_ref()?;
        let until = place.next_look().map_or(until, |look| look.min(until));
        let pools = &self.worker.pools;
        let tier = &route.tiers[self.attempts.tier].candidates;
        let full = tier.iter().filter(|c| !pools.has_capacity(&c.endpoint.target));
        let mut places: Vec<_> =
            full.map(|c| Box::pin(pools.wait_for_capacity(&c.endpoint.target))).collect();
        let mut timer = pin!(tokio::time::sleep_until(until.into()));
        std::future::poll_fn(|cx| {
            if let Poll::Ready(call) = place.poll_call(cx) {
                return Poll::Ready(Some(call));
            }
            let free = places.iter_mut().any(|free| free.as_mut().poll(cx).is_ready());
            if free { Poll::Ready(None) } else { timer.as_mut().poll(cx).map(|()| None) }
        })
        .await
    }

    fn enter_lane(
        &mut self,
        route: &Route,
        queue: &RouteQueue,
        until: Instant,
        now: Instant,
    ) -> Result<(), RetryDenied> {
        let tier = &route.tiers[self.attempts.tier].candidates;
        let asked = |(index, candidate): (usize, &EndpointCandidate)| {
            let may = self.may_be_asked(self.attempts.tier, index, candidate);
            may.then(|| candidate.provider.live.id())
        };
        let mut providers: Vec<u32> = tier.iter().enumerate().filter_map(asked).collect();
        providers.sort_unstable();
        providers.dedup();
        let line = Line {
            queue: queue.live.id,
            providers: providers.into(),
            circuits: self.circuits_key(route, self.attempts.tier),
        };
        let (class, flow, bytes) = (self.class, self.flow, self.body.len());
        let entry = Entry { line, class, flow, bytes, arrived: self.body.taken(), until };
        match self.worker.live.lanes.enter(&queue.live, entry, now) {
            Ok(place) => {
                self.turns = place.turns();
                self.place = Some(Box::new(place));
                Ok(())
            }
            Err(refusal) => Err(self.refused(route, queue, refusal)),
        }
    }

    fn refused(&self, route: &Route, queue: &RouteQueue, refusal: Refusal) -> RetryDenied {
        let name = &queue.policy.name;
        match refusal {
            Refusal::Full(Full::Queue) => {
                let detail = format!("queue `{name}` is full");
                self.shed(route, queue, Kind::QueueFull, "full", &detail)
            }
            Refusal::Full(Full::Flow) => {
                let detail = format!("queue `{name}` is full, and this flow has its share of it");
                self.shed(route, queue, Kind::QueueShare, "share", &detail)
            }
            Refusal::Late(wait) => {
                let detail =
                    format!("queue `{name}`: it would wait for {wait:.1?}, which is too long");
                self.shed(route, queue, Kind::QueueLate, "late", &detail)
            }
        }
    }

    /// Counts a request that is turned away, and says when to come back.
    pub fn shed(
        &self,
        route: &Route,
        queue: &RouteQueue,
        kind: Kind,
        reason: &'static str,
        detail: &str,
    ) -> RetryDenied {
        self.count_shed(queue, reason);
        let mut denied = RetryDenied::new(kind.name(), kind);
        denied.retry_after = Some(self.backlog(route));
        denied.detail = Some(format!("route `{}`: {detail}", route.policy.name));
        denied
    }

    /// A job is not turned away: it is tried again.
    pub fn count_shed(&self, queue: &RouteQueue, reason: &'static str) {
        if !self.is_job {
            queue.live.shed(self.class, reason);
        }
    }

    /// When those who wait now will be gone, to the second: nobody waits longer than `max_wait`, and
    /// hardly one longer than this one could.
    pub fn backlog(&self, route: &Route) -> Duration {
        let tier = &route.tiers[self.attempts.tier].candidates;
        let providers: Vec<u32> = tier.iter().map(|c| c.provider.live.id()).collect();
        let own = self.deadline.saturating_duration_since(self.body.taken());
        let most = route.queue.as_ref().map_or(own, |queue| queue.policy.max_wait.min(own));
        let known = self.worker.live.lanes.backlog(&providers, most);
        let seconds = known.unwrap_or_default().as_secs_f64().round();
        Duration::from_secs_f64(seconds.max(1.0))
    }

    /// It waits for nobody any longer.
    pub fn gives_up_place(&mut self) {
        self.place = None;
        self.turns.clear();
    }

    /// What it saw at a provider where it has the turn; nothing where what stood in its way has gone
    /// since it looked, and it has to look again.
    fn saw(&self, route: &Route, provider: u32, after: bool, now: Instant) -> Option<Saw> {
        let tier = self.attempts.tier;
        let of = |c: &&EndpointCandidate| c.provider.live.id() == provider;
        let Some(candidate) = route.tiers[tier].candidates.iter().find(of) else {
            return Some(Saw::NotForMe);
        };
        match candidate.provider.live.check(self.tokens, now) {
            Err(Lack::Room) => return Some(Saw::Full),
            Err(Lack::Rate(wait)) => return Some(Saw::Paced(now + wait)),
            Ok(()) => {}
        }
        let mut blocked = Unavailable::default();
        let again = after.then_some(CandidateFilter::Again { unreachable: true });
        for among in [Some(CandidateFilter::Others), again].into_iter().flatten() {
            match self.usable_at(route, provider, among, now) {
                Ok(()) if self.looks_again < LOOKS => return None,
                Ok(()) => {}
                Err(why) => blocked.merge(why),
            }
        }
        let paused = route.queue.as_ref().is_some_and(|queue| queue.live.is_paused());
        Some(match [blocked.shared, blocked.open].into_iter().flatten().min() {
            _ if paused => Saw::Full,
            Some(wait) => Saw::Closed(now + wait),
            // A hand will undo it, and tell.
            None if blocked.drained => Saw::Closed(now + Duration::from_secs(3600)),
            None => Saw::NotForMe,
        })
    }
}
