//! Endpoint selection: the balancer's choice among the candidates of a tier whose breaker, hold and
//! capacity admit an attempt.
//!
//! Nothing here predicts whether an endpoint will respond: a selection reads atomics, and takes the
//! short locks of the selected endpoint only.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use http::Method;

use super::context::ProxyRequest;
use super::obstacles::Unavailable;
use super::report::UsageKey;
use super::state::{Breakers, EndpointIndex, RetryTime};
use super::wait::has_turn;
use crate::clock;
use crate::live::breaker::cell::BreakerCell;
use crate::live::credential_cell::CredentialWait;
use crate::live::permit::{AttemptSlot, Permit};
use crate::live::provider::NoCapacity;
use crate::live::quota::usage_meter::AttemptKind;
use crate::policy::presets::generation::GenerationKind;
use crate::policy::sections::model::ProviderPolicy;
use crate::proxy::access_log::passed_over::PassOverReason;
use crate::proxy::request::rewrite;
use crate::resilience::outcome::{AttemptClass, RetryScope, retry_scope};
use crate::snapshot::{EndpointCandidate, Route};

/// Why no other provider may be used.
pub(super) const OTHER_KEY: &str =
    "it does not know the Idempotency-Key that another provider received";
const OTHER_RESOURCE: &str = "the resource exists at the route's first provider only";
const NOT_KNOWN: &str =
    "its `generates` does not have this request, which another provider may have processed";
const NOT_OFFERED: &str = "its `generates` does not have this request, but another provider's does";
/// The candidates of a tier that are considered; the policy allows no more.
const MAX_CANDIDATES: usize = 64;

/// An endpoint with everything that an attempt needs.
#[derive(Debug)]
pub struct Selection {
    pub endpoint: EndpointIndex,
    pub credential: usize,
    pub turn: AttemptKind,
    pub permit: Permit,
    pub flight: AttemptSlot,
    pub started: Instant,
}

/// Which endpoints may be selected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CandidateFilter {
    /// Not tried by this request.
    Untried,
    /// Tried before, and due for a retry.
    Tried {
        /// Include endpoints that could not be reached.
        unreachable: bool,
    },
}

/// One candidate under consideration.
#[derive(Clone, Copy)]
struct Candidate<'a> {
    of: &'a EndpointCandidate,
    breaker: Option<&'a Arc<BreakerCell>>,
    endpoint: EndpointIndex,
}

/// Selects an endpoint of a tier.
///
/// # Errors
/// The reason why none is available.
pub fn select_endpoint(
    request: &ProxyRequest,
    route: &Route,
    tier: usize,
    filter: CandidateFilter,
    now: Instant,
) -> Result<Box<Selection>, Unavailable> {
    let candidates = &route.tiers[tier].candidates;
    let count = candidates.len().min(MAX_CANDIDATES);
    let breakers = &*tier_breakers(request, route, tier);
    let candidate = |index: usize| Candidate {
        of: &candidates[index],
        breaker: breakers[index].as_ref(),
        endpoint: EndpointIndex { tier, index },
    };
    let mut unavailable = Unavailable::default();
    let mut eligible = 0u64;
    for index in 0..count {
        match check_candidate(request, candidate(index), filter, now) {
            Ok(()) => eligible |= 1 << index,
            Err(why) => unavailable.merge(why.noted(request, candidate(index).of)),
        }
    }
    let mut sticky = sticky_candidate(request, route, candidates, eligible, now);
    while eligible != 0 {
        let balanced = || balance(request, route, breakers, tier, eligible, now);
        let Some(index) = sticky.take().or_else(balanced) else { break };
        match reserve(request, candidate(index), filter, now) {
            Ok(selection) => return Ok(selection),
            Err(why) => unavailable.merge(why.noted(request, candidate(index).of)),
        }
        eligible &= !(1 << index);
    }
    Err(unavailable)
}

/// The endpoint that the request's session used last (`affinity`).
fn sticky_candidate(
    request: &ProxyRequest,
    route: &Route,
    candidates: &[EndpointCandidate],
    eligible: u64,
    now: Instant,
) -> Option<usize> {
    let id = route.live.session_endpoint(request.head.session()?, now)?;
    let same =
        |(i, c): &(usize, &EndpointCandidate)| eligible & (1 << i) != 0 && c.endpoint.live.id == id;
    candidates.iter().enumerate().take(MAX_CANDIDATES).find(same).map(|(index, _)| index)
}

/// An endpoint whose breaker needs a probe comes first; otherwise the balancer decides.
fn balance(
    request: &ProxyRequest,
    route: &Route,
    breakers: &[Option<Arc<BreakerCell>>],
    tier: usize,
    eligible: u64,
    now: Instant,
) -> Option<usize> {
    if eligible.is_power_of_two() {
        return Some(eligible.trailing_zeros() as usize);
    }
    let candidates = &route.tiers[tier].candidates;
    let wants_probe = |index: &usize| {
        let breaker = breakers[*index].as_ref();
        eligible & (1 << index) != 0 && breaker.is_some_and(|b| b.wants_probe(now))
    };
    if let Some(index) = (0..candidates.len().min(MAX_CANDIDATES)).find(wants_probe) {
        return Some(index);
    }
    let mut seen = request.worker.candidates.borrow_mut();
    seen.clear();
    let pairs = candidates.iter().zip(breakers).take(MAX_CANDIDATES);
    seen.extend(pairs.map(|(one, breaker)| one.balancer_candidate(breaker.as_deref(), now)));
    let is_eligible = |index: usize| eligible & (1 << index) != 0;
    route.live.select(tier, route.policy.balance, &seen, is_eligible, clock::draw())
}

/// The breaker of each candidate of a tier for the request's model, resolved once.
fn tier_breakers(request: &ProxyRequest, route: &Route, tier: usize) -> Breakers {
    let mut known = request.attempts.breakers.borrow_mut();
    match &*known {
        Some((of, breakers)) if *of == tier => Rc::clone(breakers),
        _ => {
            let breaker =
                |c: &EndpointCandidate| c.endpoint.breaker(&c.provider.policy, || request.model());
            let breakers: Breakers = route.tiers[tier].candidates.iter().map(breaker).collect();
            *known = Some((tier, Rc::clone(&breakers)));
            breakers
        }
    }
}

/// Whether an endpoint could be selected now; changes nothing.
fn check_candidate(
    request: &ProxyRequest,
    candidate: Candidate<'_>,
    filter: CandidateFilter,
    now: Instant,
) -> Result<(), Unavailable> {
    let Candidate { of, breaker, endpoint } = candidate;
    if why_not_permitted(request, of).is_some() || !can_continue(request, of) {
        return Err(Unavailable::because(PassOverReason::NotAllowed));
    }
    if request.attempts.excludes(endpoint) {
        return Err(Unavailable::default());
    }
    if of.provider.live.is_drained(now) {
        return Err(Unavailable { drained: true, ..Unavailable::because(PassOverReason::Drained) });
    }
    let mut unavailable = Unavailable::default();
    let usable = (0..of.endpoint.credentials.len()).any(|credential| {
        let checked = check_credential(request, candidate, credential, filter, now);
        checked.map_err(|why| unavailable.merge(why)).is_ok()
    });
    if !usable {
        return Err(unavailable);
    }
    if let Some(breaker) = breaker
        && let Err(rejection) = breaker.check(now)
    {
        breaker.count_rejection();
        return Err(Unavailable::rejected(rejection));
    }
    check_capacity(request, of, now)
}

/// Whether the request could ever try an endpoint, whatever the endpoint's state.
pub fn is_eligible(
    request: &ProxyRequest,
    endpoint: EndpointIndex,
    candidate: &EndpointCandidate,
) -> bool {
    let attempts = &request.attempts;
    let never = |credential| {
        attempts.find(endpoint, credential).is_some_and(|tried| tried.retry == RetryTime::Never)
    };
    let spent = (0..candidate.endpoint.credentials.len()).all(never);
    !(attempts.excludes(endpoint) || spent)
        && why_not_permitted(request, candidate).is_none()
        && can_continue(request, candidate)
}

/// A continuation goes only to a provider whose policy says that the model continues one (`prefill`).
fn can_continue(request: &ProxyRequest, candidate: &EndpointCandidate) -> bool {
    if request.resume.is_none() {
        return true;
    }
    let provider = &candidate.provider.policy;
    let theirs = rewrite::model_sent(request.body.model(), provider);
    theirs.is_some_and(|theirs| provider.prefill.iter().any(|name| *name == theirs))
}

fn check_capacity(
    request: &ProxyRequest,
    candidate: &EndpointCandidate,
    now: Instant,
) -> Result<(), Unavailable> {
    let no_capacity = Unavailable::lacking(NoCapacity::Concurrency);
    let live = &candidate.provider.live;
    if !has_turn(request, live) {
        return Err(no_capacity);
    }
    live.check(request.limits.tokens(), now).map_err(Unavailable::lacking)?;
    let has_connection = request.worker.pools.has_capacity(&candidate.endpoint.target);
    if has_connection { Ok(()) } else { Err(no_capacity) }
}

/// Whether an endpoint of a provider could be selected now in the request's tier.
///
/// # Errors
/// The reason why none is available.
pub fn check_provider(
    request: &ProxyRequest,
    route: &Route,
    provider: u32,
    filter: CandidateFilter,
    now: Instant,
) -> Result<(), Unavailable> {
    let tier = request.attempts.tier;
    let breakers = tier_breakers(request, route, tier);
    let candidates = route.tiers[tier].candidates.iter().enumerate().take(MAX_CANDIDATES);
    let mut unavailable = Unavailable::default();
    for (index, of) in candidates.filter(|(_, of)| of.provider.live.id() == provider) {
        let endpoint = EndpointIndex { tier, index };
        let candidate = Candidate { of, breaker: breakers[index].as_ref(), endpoint };
        match check_candidate(request, candidate, filter, now) {
            Ok(()) => return Ok(()),
            Err(why) => unavailable.merge(why),
        }
    }
    Err(unavailable)
}

/// Whether the request may use this credential now.
fn check_credential(
    request: &ProxyRequest,
    candidate: Candidate<'_>,
    credential: usize,
    filter: CandidateFilter,
    now: Instant,
) -> Result<(), Unavailable> {
    let blocked = check_state(request, candidate.of, credential, now).err();
    let tried = request.attempts.find(candidate.endpoint, credential);
    let wait = match (tried.map(|tried| tried.retry), filter) {
        (None, CandidateFilter::Untried) => None,
        (Some(RetryTime::At(at)), CandidateFilter::Tried { .. })
        | (Some(RetryTime::LastResort(at)), CandidateFilter::Tried { unreachable: true }) => {
            Some(at.saturating_duration_since(now)).filter(|wait| !wait.is_zero())
        }
        _ => return Err(Unavailable::default()),
    };
    match (blocked, wait) {
        (None, None) => Ok(()),
        (Some(blocked), wait) if wait.is_none_or(|wait| wait <= blocked.wait) => {
            Err(Unavailable::blocked(blocked))
        }
        (blocked, wait) => {
            let known = blocked.map(Unavailable::blocked).unwrap_or_default();
            let reason = known.reason.or(Some(PassOverReason::Backoff));
            Err(Unavailable { wait, own: wait, shared: None, reason, ..known })
        }
    }
}

/// Whether the holds and the reported quotas of a credential allow an attempt now.
pub fn check_state(
    request: &ProxyRequest,
    candidate: &EndpointCandidate,
    credential: usize,
    now: Instant,
) -> Result<(), CredentialWait> {
    let tokens = candidate.provider.live.quota().corrected(request.limits.tokens());
    candidate.endpoint.credentials[credential].check(|| request.model(), tokens, now)
}

/// Reserves capacity and gets the permission of hold and breaker.
fn reserve(
    request: &ProxyRequest,
    candidate: Candidate<'_>,
    filter: CandidateFilter,
    now: Instant,
) -> Result<Box<Selection>, Unavailable> {
    let Candidate { of, breaker, endpoint } = candidate;
    let usable =
        |credential: usize| check_credential(request, candidate, credential, filter, now).is_ok();
    let credential = of.endpoint.next_credential(usable).ok_or_else(Unavailable::default)?;
    let (live, tokens) = (&of.endpoint.live, request.limits.tokens());
    let key = &of.endpoint.credentials[credential];
    let begun = AttemptSlot::begin(&of.provider.live, live, key, || request.model(), tokens, now);
    let mut flight = begun.map_err(Unavailable::no_slot)?;
    let admitted = breaker.map(|cell| Ok((Arc::clone(cell), cell.admit(now)?))).transpose();
    let admitted = admitted.map_err(Unavailable::rejected).inspect_err(|_| flight.give_back())?;
    let permit = Permit::new(admitted);
    let turn = request.turn();
    Ok(Box::new(Selection { endpoint, credential, turn, permit, flight, started: now }))
}

impl Selection {
    pub fn usage_key(&self) -> UsageKey {
        UsageKey {
            endpoint: self.endpoint,
            credential: self.credential,
            turn: self.turn,
            charge: self.flight.charge(),
            started: Some(self.started),
        }
    }
}

/// Identifies a provider: all candidates of a snapshot share it, so its address is enough.
pub fn provider_id(candidate: &EndpointCandidate) -> usize {
    Arc::as_ptr(&candidate.provider) as usize
}

// === providers that a request may be sent to ===

/// Where a request may be sent again after an attempt of this class at a provider.
pub fn scope_of(
    request: &ProxyRequest,
    provider: &ProviderPolicy,
    class: AttemptClass,
) -> RetryScope {
    if request.resume.is_some() {
        // `on_cut: continue` permits it: a continuation is not a retry.
        return RetryScope::Anywhere;
    }
    let head = &request.head;
    let (method, has_key) = (head.method().is_idempotent(), head.has_idempotency_key());
    let only_generates = || generates(request, provider);
    retry_scope(request.limits.idempotence(), method, has_key, class, only_generates)
}

/// Whether a provider is known to generate a response to the request and to do nothing else.
pub(super) fn generates(request: &ProxyRequest, provider: &ProviderPolicy) -> bool {
    !provider.generates.is_empty()
        && generation(request).is_some_and(|kind| provider.generates.contains(&kind))
}

/// The kind of a request that does nothing but generate its response.
pub fn generation(request: &ProxyRequest) -> Option<GenerationKind> {
    *request.attempts.generation.get_or_init(|| {
        let head = &request.head;
        let body = request.body.original().filter(|_| !head.has_encoded_body());
        let kind = GenerationKind::of_request(head.uri().path(), body.map(|body| &body[..]));
        kind.filter(|_| *head.method() == Method::POST)
    })
}

/// Why a request may not be sent to this provider, whatever the provider's state.
pub(super) fn why_not_permitted(
    request: &ProxyRequest,
    candidate: &EndpointCandidate,
) -> Option<&'static str> {
    let (attempts, generates) = (&request.attempts, &candidate.provider.policy.generates);
    let is_known = !generates.is_empty();
    match (attempts.only_provider, attempts.only_generation) {
        (Some((only, why)), _) if only != provider_id(candidate) => Some(why),
        (_, Some(only)) if !generates.contains(&only) => Some(NOT_KNOWN),
        _ if is_known && attempts.offered.is_some_and(|kind| !generates.contains(&kind)) => {
            Some(NOT_OFFERED)
        }
        _ => None,
    }
}

/// Limits a request to the providers that have its API, and one about a stateful resource to the
/// first provider of its route, if the resource is one of this provider's.
pub(super) fn limit_providers(request: &mut ProxyRequest, route: &Route) {
    let path = request.head.uri().path();
    let first = &route.tiers[0].candidates[0];
    let stateful = &first.provider.policy.stateful;
    let is_stateful = |part: &str| stateful.iter().any(|own| own == part);
    let is_owned =
        !stateful.is_empty() && generation(request).is_none() && path.split('/').any(is_stateful);
    let offered = offered_kind(request, route);
    let attempts = &mut request.attempts;
    attempts.offered = offered;
    if is_owned {
        attempts.only_provider.get_or_insert((provider_id(first), OTHER_RESOURCE));
    }
}

/// The kind of the request, if a provider of the route is known to generate it.
fn offered_kind(request: &ProxyRequest, route: &Route) -> Option<GenerationKind> {
    let candidates = route.tiers.iter().flat_map(|tier| &tier.candidates);
    let mut known = candidates.map(|candidate| &candidate.provider.policy.generates);
    known.clone().find(|kinds| !kinds.is_empty())?;
    let kind = GenerationKind::of_path(request.head.uri().path());
    kind.filter(|kind| {
        *request.head.method() == Method::POST && known.any(|kinds| kinds.contains(kind))
    })
}
