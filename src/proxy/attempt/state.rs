//! The attempts of one request so far: which endpoints were tried, and when each may be retried.

use std::cell::{Cell, OnceCell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use smallvec::SmallVec;

use crate::live::breaker::cell::BreakerCell;
use crate::policy::presets::generation::GenerationKind;
use crate::snapshot::{EndpointCandidate, Route};

/// The breaker of each candidate of a tier.
pub(super) type Breakers = Rc<[Option<Arc<BreakerCell>>]>;

/// The position of an endpoint in its route.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EndpointIndex {
    /// 0: the route's `providers`; n: the n-th of its `fallback`.
    pub tier: usize,
    pub index: usize,
}

#[derive(Clone, Debug, Default)]
pub struct Attempts {
    pub(super) tier: usize,
    /// Attempts in this tier.
    pub(super) in_tier: u32,
    /// The tier was passed over before, and is the last that is tried.
    pub(super) is_back: bool,
    /// Most requests make one attempt.
    pub(super) tried: SmallVec<[TriedEndpoint; 1]>,
    /// Only this provider may be tried, and why no other.
    pub(super) only_provider: Option<(usize, &'static str)>,
    /// Only providers that are known to generate this, and to do nothing else, may be tried again.
    pub(super) only_generation: Option<GenerationKind>,
    /// A provider of the route is known to generate this: those known for other kinds are not tried.
    pub(super) offered: Option<GenerationKind>,
    /// The kind of a request that only generates; found once.
    pub(super) generation: OnceCell<Option<GenerationKind>>,
    /// When the request stops waiting in this tier.
    pub(super) patience: Option<Instant>,
    /// Endpoints that did not respond in time, whatever the credential.
    pub(super) timed_out: Vec<EndpointIndex>,
    /// Set for a hedge: the endpoint of the attempt that it races with.
    pub(super) hedge_of: Option<EndpointIndex>,
    /// Informs a hedge about the attempt that it races with.
    pub(super) location: Option<Rc<Cell<AttemptPlace>>>,
    /// Those of the tier that was looked at last.
    pub(super) breakers: RefCell<Option<(usize, Breakers)>>,
}

/// Where an attempt is sent, and since when.
#[derive(Clone, Copy, Debug)]
pub(super) struct AttemptPlace {
    pub(super) endpoint: EndpointIndex,
    pub(super) started: Instant,
}

/// An endpoint that was tried with a credential.
#[derive(Clone, Copy, Debug)]
pub(super) struct TriedEndpoint {
    pub(super) endpoint: EndpointIndex,
    pub(super) credential: usize,
    pub(super) times: u32,
    pub(super) retry: RetryTime,
}

/// When a request may try an endpoint again.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum RetryTime {
    /// The attempt is under way, or it timed out.
    Never,
    /// The endpoint could not be reached: only if no other is left, and not before.
    LastResort(Instant),
    At(Instant),
}

impl EndpointIndex {
    pub fn candidate(self, route: &Route) -> &EndpointCandidate {
        &route.tiers[self.tier].candidates[self.index]
    }
}

impl Attempts {
    /// Forgets all attempts: the request starts over.
    pub fn reset(&mut self) {
        *self = Attempts::default();
    }

    pub(super) fn find(
        &self,
        endpoint: EndpointIndex,
        credential: usize,
    ) -> Option<&TriedEndpoint> {
        self.tried.iter().find(|tried| tried.is(endpoint, credential))
    }

    pub(super) fn last(&self) -> Option<EndpointIndex> {
        self.tried.last().map(|tried| tried.endpoint)
    }

    /// Notes an attempt that begins; until it ends, its endpoint is not tried again.
    pub(super) fn begin(&mut self, endpoint: EndpointIndex, credential: usize) {
        if endpoint.tier != self.tier {
            self.enter_tier(endpoint.tier);
        }
        self.in_tier += 1;
        let same = |tried: &TriedEndpoint| tried.is(endpoint, credential);
        let times = match self.tried.iter().position(same) {
            Some(at) => self.tried.remove(at).times + 1,
            None => 1,
        };
        self.tried.push(TriedEndpoint { endpoint, credential, times, retry: RetryTime::Never });
    }

    /// Notes when an endpoint may be tried again; `retry` gets the number of its attempts.
    pub(super) fn end(
        &mut self,
        endpoint: EndpointIndex,
        credential: usize,
        retry: impl FnOnce(u32) -> RetryTime,
    ) {
        let same = |tried: &&mut TriedEndpoint| tried.is(endpoint, credential);
        if let Some(tried) = self.tried.iter_mut().find(same) {
            tried.retry = retry(tried.times);
        }
    }

    /// Informs a hedge that the attempt moved to another endpoint.
    pub(super) fn move_to(&self, endpoint: EndpointIndex, started: Instant) {
        if let Some(location) = &self.location {
            location.set(AttemptPlace { endpoint, started });
        }
    }

    pub(super) fn enter_tier(&mut self, tier: usize) {
        self.tier = tier;
        self.in_tier = 0;
        self.patience = None;
    }

    /// The first tier before this one without an attempt of this request, once.
    pub(super) fn passed_over(&self) -> Option<usize> {
        let is_untried = |tier: &usize| self.tried.iter().all(|t| t.endpoint.tier != *tier);
        (0..self.tier).find(is_untried).filter(|_| !self.is_back)
    }

    /// The endpoint is not to be tried again, or is the one that a hedge races with.
    pub(super) fn excludes(&self, endpoint: EndpointIndex) -> bool {
        self.hedge_of == Some(endpoint) || self.timed_out.contains(&endpoint)
    }

    /// Adds the attempts of a hedge before those of the request itself.
    pub(super) fn merge_hedge(&mut self, hedge: Attempts) {
        let new = |tried: &TriedEndpoint| self.find(tried.endpoint, tried.credential).is_none();
        let tried: Vec<_> = hedge.tried.into_iter().filter(new).collect();
        self.in_tier += tried.len() as u32;
        self.timed_out.extend(hedge.timed_out);
        self.tried.insert_many(0, tried);
    }
}

impl TriedEndpoint {
    fn is(&self, endpoint: EndpointIndex, credential: usize) -> bool {
        (self.endpoint, self.credential) == (endpoint, credential)
    }
}
