//! Which endpoint takes the next attempt: the balancer's choice among those whose breaker, hold
//! and room allow it, the ones not yet asked first.
//!
//! Nobody is asked here whether it *will* answer: a choice reads atomics, and takes the short locks
//! of the chosen endpoint only.

use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::report::UsageKey;
use super::wait::has_turn;
use crate::clock;
use crate::live::permit::{AttemptSlot, Permit};
use crate::live::provider::NoCapacity;
use crate::live::quota::usage_meter::AttemptKind;
use crate::proxy::request::context::{Circuits, ProxyRequest, RetryTime};
use crate::proxy::response::resume::can_continue;
use crate::resilience::balance::balancer;
use crate::resilience::breaker::{RejectReason, Rejection};
use crate::snapshot::{Circuit, EndpointCandidate, Route};

/// More candidates than this in one tier are not looked at (`policy` bounds them lower).
const CANDIDATES: usize = 64;

/// An endpoint with everything that an attempt at it needs.
#[derive(Debug)]
pub struct Selection {
    pub tier: usize,
    pub index: usize,
    pub credential: usize,
    pub turn: AttemptKind,
    pub permit: Permit,
    pub flight: AttemptSlot,
    pub started: Instant,
}

/// What stands in the way of every endpoint of a tier.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Unavailable {
    /// The shortest wait after which one may be asked: back-off, hold, ramp, rate.
    pub wait: Option<Duration>,
    /// The shortest of those that others wait for too: all but the back-off.
    pub shared: Option<Duration>,
    /// The shortest back-off of this request's own.
    pub own: Option<Duration>,
    /// One only lacks room.
    pub room: bool,
    /// A breaker is in the way of one, for at least so long.
    pub open: Option<Duration>,
    /// A hold is in the way of one.
    pub held: bool,
    /// The shortest wait is a guess of ours: the provider said no time.
    pub guess: bool,
    /// One was taken out by hand.
    pub drained: bool,
}

/// Which endpoints may be chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CandidateFilter {
    /// Not asked by this request.
    Others,
    /// Asked before, and due again.
    Again {
        /// Also those that could not be reached.
        unreachable: bool,
    },
}

/// Chooses in a tier.
///
/// # Errors
/// What stands in the way.
pub fn select_endpoint(
    request: &ProxyRequest,
    route: &Route,
    tier: usize,
    among: CandidateFilter,
    now: Instant,
) -> Result<Box<Selection>, Unavailable> {
    let candidates = &route.tiers[tier].candidates;
    let count = candidates.len().min(CANDIDATES);
    let circuits = &*tier_circuits(request, route, tier);
    let mut blocked = Unavailable::default();
    let mut eligible = 0u64;
    for (index, candidate) in candidates.iter().enumerate().take(count) {
        match check_candidate(request, candidate, &circuits[index], tier, index, among, now) {
            Ok(()) => eligible |= 1 << index,
            Err(why) => blocked.merge(why),
        }
    }
    let mut known = sticky_candidate(request, route, candidates, eligible, now);
    while eligible != 0 {
        let balanced = || balance(request, route, circuits, tier, eligible, now);
        let Some(index) = known.take().or_else(balanced) else { break };
        match reserve(request, &candidates[index], &circuits[index], tier, index, among, now) {
            Ok(selection) => return Ok(selection),
            Err(why) => blocked.merge(why),
        }
        eligible &= !(1 << index);
    }
    Err(blocked)
}

/// The one that this request's session went to last (`affinity`).
fn sticky_candidate(
    request: &ProxyRequest,
    route: &Route,
    candidates: &[EndpointCandidate],
    eligible: u64,
    now: Instant,
) -> Option<usize> {
    let id = route.live.session_address(request.session.as_deref()?, now)?;
    let same =
        |(i, c): &(usize, &EndpointCandidate)| eligible & (1 << i) != 0 && c.endpoint.live.id == id;
    candidates.iter().enumerate().take(CANDIDATES).find(same).map(|(index, _)| index)
}

fn balance(
    request: &ProxyRequest,
    route: &Route,
    circuits: &[Arc<Circuit>],
    tier: usize,
    eligible: u64,
    now: Instant,
) -> Option<usize> {
    if eligible.is_power_of_two() {
        return Some(eligible.trailing_zeros() as usize);
    }
    let candidates = &route.tiers[tier].candidates;
    let wants_probe = |index: &usize| {
        let breaker = circuits[*index].breaker.as_ref();
        eligible & (1 << index) != 0 && breaker.is_some_and(|b| b.wants_probe(now))
    };
    if let Some(index) = (0..candidates.len().min(CANDIDATES)).find(wants_probe) {
        return Some(index);
    }
    let mut seen = request.worker.candidates.borrow_mut();
    seen.clear();
    seen.extend(candidates.iter().zip(circuits).take(CANDIDATES).map(|(candidate, circuit)| {
        let address = &candidate.endpoint;
        balancer::BalancerCandidate {
            share: candidate.share,
            latency: address.live.latency(now),
            pending: address.live.pending(),
            slow_start: circuit.breaker.as_ref().map_or(1.0, |b| b.slow_start(now)),
        }
    }));
    let among = |index: usize| eligible & (1 << index) != 0;
    route.live.select(tier, route.policy.balance, &seen, among, clock::draw())
}

/// Breaker and holds of each candidate of a tier, for this request's model; found once.
fn tier_circuits(request: &ProxyRequest, route: &Route, tier: usize) -> Circuits {
    let mut known = request.circuits.borrow_mut();
    match &*known {
        Some((of, circuits)) if *of == tier => Rc::clone(circuits),
        _ => {
            let model = request.body.model();
            let circuit = |c: &EndpointCandidate| c.endpoint.circuit(&c.provider.policy, model);
            let circuits: Circuits = route.tiers[tier].candidates.iter().map(circuit).collect();
            *known = Some((tier, Rc::clone(&circuits)));
            circuits
        }
    }
}

/// Could this endpoint be asked now? Nothing changes.
fn check_candidate(
    request: &ProxyRequest,
    candidate: &EndpointCandidate,
    circuit: &Circuit,
    tier: usize,
    index: usize,
    among: CandidateFilter,
    now: Instant,
) -> Result<(), Unavailable> {
    if request.attempts.only.is_some_and(|only| only != provider_id(candidate)) {
        return Err(Unavailable::default());
    }
    let here = (tier, index);
    let out = request.attempts.beside == Some(here) || request.attempts.late.contains(&here);
    if out || !can_continue(request, candidate) {
        return Err(Unavailable::default());
    }
    if candidate.provider.live.is_drained(now) {
        return Err(Unavailable { drained: true, ..Unavailable::default() });
    }
    let mut blocked = Unavailable::default();
    let credentials = circuit.holds.len();
    let any = (0..credentials).any(|credential| {
        let free = check_credential(request, circuit, tier, index, credential, among, now);
        free.map_err(|why| blocked.merge(why)).is_ok()
    });
    if !any {
        return Err(blocked);
    }
    if let Some(Err(rejection)) = circuit.breaker.as_ref().map(|b| b.check(now)) {
        return Err(Unavailable::by(rejection));
    }
    check_capacity(request, candidate, now)
}

fn check_capacity(
    request: &ProxyRequest,
    candidate: &EndpointCandidate,
    now: Instant,
) -> Result<(), Unavailable> {
    let room = Unavailable { room: true, ..Unavailable::default() };
    let live = &candidate.provider.live;
    if !has_turn(request, live) {
        return Err(room);
    }
    live.check(request.tokens, now).map_err(Unavailable::lacking)?;
    let place = request.worker.pools.has_capacity(&candidate.endpoint.target);
    if place { Ok(()) } else { Err(room) }
}

/// Could one of the addresses of a provider be asked now?
///
/// # Errors
/// What stands in the way at all of them.
pub fn check_provider(
    request: &ProxyRequest,
    route: &Route,
    provider: u32,
    among: CandidateFilter,
    now: Instant,
) -> Result<(), Unavailable> {
    let tier = request.attempts.tier;
    let circuits = tier_circuits(request, route, tier);
    let mut blocked = Unavailable::default();
    for (index, candidate) in route.tiers[tier].candidates.iter().enumerate().take(CANDIDATES) {
        if candidate.provider.live.id() == provider {
            match check_candidate(request, candidate, &circuits[index], tier, index, among, now) {
                Ok(()) => return Ok(()),
                Err(why) => blocked.merge(why),
            }
        }
    }
    Err(blocked)
}

/// Tells breakers and holds before a tier apart from those before another model's.
pub fn circuits_key(request: &ProxyRequest, route: &Route, tier: usize) -> u64 {
    let circuits = tier_circuits(request, route, tier);
    circuits
        .iter()
        .fold(0, |key: u64, circuit| key.rotate_left(7) ^ Arc::as_ptr(circuit).addr() as u64)
}

/// May this credential be used now, by this request?
fn check_credential(
    request: &ProxyRequest,
    circuit: &Circuit,
    tier: usize,
    index: usize,
    credential: usize,
    among: CandidateFilter,
    now: Instant,
) -> Result<(), Unavailable> {
    let held = circuit.holds[credential].check(now).err();
    let wait = match (request.attempts.asked(tier, index, credential).map(|a| a.again), among) {
        (None, CandidateFilter::Others) => None,
        (Some(RetryTime::At(at)), CandidateFilter::Again { .. })
        | (Some(RetryTime::LastResort(at)), CandidateFilter::Again { unreachable: true }) => {
            Some(at.saturating_duration_since(now)).filter(|wait| !wait.is_zero())
        }
        _ => return Err(Unavailable::default()),
    };
    match held.max(wait) {
        None => Ok(()),
        wait => {
            let guess = held.is_some() && circuit.holds[credential].is_backoff();
            let shared = held.filter(|_| wait == held);
            let own = wait.filter(|_| wait != held);
            let held = held.is_some();
            Err(Unavailable { wait, shared, own, held, guess, ..Unavailable::default() })
        }
    }
}

/// Takes the place, the hold's and the breaker's leave.
fn reserve(
    request: &ProxyRequest,
    candidate: &EndpointCandidate,
    circuit: &Circuit,
    tier: usize,
    index: usize,
    among: CandidateFilter,
    now: Instant,
) -> Result<Box<Selection>, Unavailable> {
    let free = |credential: usize| {
        check_credential(request, circuit, tier, index, credential, among, now).is_ok()
    };
    let credential = candidate.endpoint.next_credential(free).ok_or_else(Unavailable::default)?;
    let live = &candidate.provider.live;
    let mut flight = AttemptSlot::begin(live, &candidate.endpoint.live, request.tokens, now)
        .map_err(Unavailable::lacking)?;
    let hold = &circuit.holds[credential];
    let admitted = hold.admit(now).map_err(|wait| Unavailable {
        wait: Some(wait),
        shared: Some(wait),
        held: true,
        ..Unavailable::default()
    });
    let admitted = admitted.and_then(|()| match &circuit.breaker {
        None => Ok(None),
        Some(cell) => Ok(Some((Arc::clone(cell), cell.admit(now).map_err(Unavailable::by)?))),
    });
    let breaker = admitted.inspect_err(|_| flight.give_back())?;
    let permit = Permit::new(breaker, Some(Arc::clone(hold)));
    Ok(Box::new(Selection {
        tier,
        index,
        credential,
        turn: request.turn(),
        permit,
        flight,
        started: now,
    }))
}

impl Selection {
    pub fn usage_key(&self) -> UsageKey {
        UsageKey {
            tier: self.tier,
            index: self.index,
            turn: self.turn,
            charge: self.flight.charge(),
        }
    }
}

/// Providers are shared by all candidates of a snapshot: the address of one tells it apart.
pub fn provider_id(candidate: &EndpointCandidate) -> usize {
    Arc::as_ptr(&candidate.provider) as usize
}

impl Unavailable {
    fn shared(wait: Duration) -> Unavailable {
        Unavailable { wait: Some(wait), shared: Some(wait), ..Unavailable::default() }
    }

    fn lacking(lack: NoCapacity) -> Unavailable {
        match lack {
            NoCapacity::Concurrency => Unavailable { room: true, ..Unavailable::default() },
            NoCapacity::Rate(wait) => Unavailable::shared(wait),
        }
    }

    fn by(rejection: Rejection) -> Unavailable {
        match rejection.reason {
            RejectReason::Ramp => Unavailable::shared(rejection.retry_after),
            // Worth a moment where nobody else can be asked.
            RejectReason::Lease => {
                Unavailable { guess: true, ..Unavailable::shared(rejection.retry_after) }
            }
            RejectReason::Open | RejectReason::HalfOpen => {
                Unavailable { open: Some(rejection.retry_after), ..Unavailable::default() }
            }
        }
    }

    pub fn merge(&mut self, other: Unavailable) {
        let sooner = |a: Option<Duration>, b: Option<Duration>| match (a, b) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
        if other.wait.is_some_and(|wait| self.wait.is_none_or(|own| wait < own)) {
            self.guess = other.guess;
        }
        self.wait = sooner(self.wait, other.wait);
        self.shared = sooner(self.shared, other.shared);
        self.own = sooner(self.own, other.own);
        self.open = sooner(self.open, other.open);
        self.room |= other.room;
        self.held |= other.held;
        self.drained |= other.drained;
    }
}
