//! What the modes in force make of a request, before anybody is asked for it.
//!
//! The modes of a route apply in its order, as if their actions stood in one list:
//!
//! 1. The first that answers is the answer: `serve_stale` where the cache has one, `shed` for its
//!    classes, `respond`.
//! 2. Where none does, every reduction applies, the later one over the earlier; of several `use` the
//!    last counts. Then it goes its usual way.
//!
//! A job is not answered by a mode: where one would turn it away, it is parked.
//!
//! A mode in shadow is left out, but for counting what it would have done.

use std::sync::Arc;
use std::time::{Duration, Instant};

use http::header::HeaderName;

use super::effects::DegradationEffects;
use crate::cache::entry::CachedResponse;
use crate::clock;
use crate::live::degradation::episode::{ActionKind, Episode};
use crate::policy::sections::model::{Action, Reduction, Respond, RewritePath};
use crate::proxy::attempt::context::ProxyRequest;
use crate::proxy::attempt::pending_response::PendingResponse;
use crate::proxy::caching::lookup;
use crate::proxy::downstream::problem::{Problem, ProblemKind};
use crate::proxy::response::static_response;
use crate::resilience::breaker::EnforcementMode;
use crate::snapshot::{Route, RouteMode};

/// RFC 9421: what it covers may not change.
const SIGNATURE: HeaderName = HeaderName::from_static("signature");
/// RFC 9530, RFC 3230, RFC 1864.
const DIGESTS: [HeaderName; 3] = [
    HeaderName::from_static("content-digest"),
    HeaderName::from_static("digest"),
    HeaderName::from_static("content-md5"),
];

/// A mode that is in force.
#[derive(Debug)]
pub struct InForce<'r> {
    pub of: &'r RouteMode,
    pub episode: Arc<Episode>,
}

/// What answers in the place of a provider.
enum Answer<'r> {
    Stale(Arc<CachedResponse>),
    Shed,
    Respond(&'r Respond),
}

/// What the modes in force make of it: an answer, or another request, or other providers. Where
/// none is in force this is one load.
pub fn degraded(request: &mut ProxyRequest) -> Option<Result<Box<PendingResponse>, Problem>> {
    if request.route.modes.may_apply(&request.worker.live.modes) { degrade(request) } else { None }
}

/// Some mode that may change it, or answer it, is in force.
pub fn is_degraded(request: &ProxyRequest) -> bool {
    let acts = |mode: &InForce<'_>| {
        let mut actions = mode.of.mode.policy.actions.iter();
        !mode.is_shadow() && actions.any(|action| !matches!(action, Action::Notify(_)))
    };
    request.worker.live.modes.in_force() & request.route.modes.mask != 0
        && in_force(&request.route).iter().any(acts)
}

#[cold]
fn degrade(request: &mut ProxyRequest) -> Option<Result<Box<PendingResponse>, Problem>> {
    let route = Arc::clone(&request.route);
    let modes = in_force(&route);
    for mode in modes.iter().filter(|mode| mode.is_shadow()) {
        count_shadow(request, mode);
    }
    for mode in modes.iter().filter(|mode| !mode.is_shadow()) {
        let mut actions = mode.of.mode.policy.actions.iter();
        if let Some(answer) = actions.find_map(|action| response_of(request, action)) {
            return Some(respond(request, mode, answer));
        }
    }
    change(request, &modes);
    None
}

/// The same for a job that is about to run.
///
/// # Errors
/// Which mode turns it away, and for how long at least.
pub fn degrade_job(request: &mut ProxyRequest) -> Result<(), (Duration, String)> {
    let route = Arc::clone(&request.route);
    let modes = in_force(&route);
    for mode in modes.iter().filter(|mode| !mode.is_shadow()) {
        let stands = |action: &Action| match action {
            Action::Shed(class) => is_at_or_below(request, class),
            Action::Respond(_) => true,
            _ => false,
        };
        if mode.of.mode.policy.actions.iter().any(stands) {
            let cell = &mode.of.mode.live;
            let why = format!("the mode `{}` is in force", cell.name);
            return Err((cell.earliest_end(clock::now()), why));
        }
    }
    if modes.iter().any(|mode| !mode.is_shadow()) {
        request.record.effects_mut().held_back = true;
        change(request, &modes);
    }
    Ok(())
}

fn response_of<'r>(request: &ProxyRequest, action: &'r Action) -> Option<Answer<'r>> {
    match action {
        Action::ServeStale(within) => request.cache.stale(clock::now(), *within).map(Answer::Stale),
        Action::Shed(class) => is_at_or_below(request, class).then_some(Answer::Shed),
        Action::Respond(respond) => Some(Answer::Respond(respond)),
        Action::Reduce(_) | Action::Use(_) | Action::Notify(_) => None,
    }
}

fn is_at_or_below(request: &ProxyRequest, class: &str) -> bool {
    let queue = request.route.queue.as_ref();
    let place = queue.and_then(|queue| queue.policy.class(class));
    place.is_some_and(|place| request.limits.class() >= place)
}

/// What a mode in shadow would have done is counted.
fn count_shadow(request: &ProxyRequest, mode: &InForce<'_>) {
    let actions = &mode.of.mode.policy.actions;
    let live = &mode.of.mode.live;
    if let Some(answer) = actions.iter().find_map(|action| response_of(request, action)) {
        return live.record(&mode.episode, answer.touch(), true);
    }
    let reduces = actions.iter().any(|action| matches!(action, Action::Reduce(_)));
    if reduces {
        live.record(&mode.episode, ActionKind::Reduce, true);
    }
    if mode.of.alternate.is_some() {
        live.record(&mode.episode, ActionKind::Use, !reduces);
    }
}

fn respond(
    request: &mut ProxyRequest,
    mode: &InForce<'_>,
    answer: Answer<'_>,
) -> Result<Box<PendingResponse>, Problem> {
    request.record.touch(mode, answer.touch());
    let (now, cell) = (clock::now(), &mode.of.mode.live);
    match answer {
        Answer::Stale(stored) => {
            note_need(request, now);
            Ok(lookup::serve_stale(request, stored))
        }
        Answer::Shed => {
            let (route, mode) = (&request.route.policy.name, &cell.name);
            let detail =
                format!("route `{route}`: the mode `{mode}` is in force, and turns its class away");
            let problem = Problem::new(ProblemKind::Shed, detail);
            Err(problem.retry_after(Some(cell.earliest_end(now))))
        }
        Answer::Respond(respond) => {
            note_need(request, now);
            let id = static_response::request_id(request.head.headers());
            let response = static_response::ready(respond, &cell.name, &id, cell.earliest_end(now));
            request.record.effects_mut().request_id = Some(id);
            Ok(response)
        }
    }
}

/// Every reduction, then the last `use`.
fn change(request: &mut ProxyRequest, modes: &[InForce<'_>]) {
    let mut instead = None;
    for mode in modes.iter().filter(|mode| !mode.is_shadow()) {
        for action in &mode.of.mode.policy.actions {
            if let Action::Reduce(reduction) = action {
                request.record.touch(mode, ActionKind::Reduce);
                reduce(request, reduction);
            }
        }
        instead = mode.of.alternate.as_ref().map(|route| (mode, route)).or(instead);
    }
    if let Some((mode, route)) = instead {
        request.record.touch(mode, ActionKind::Use);
        note_need(request, clock::now());
        request.route = Arc::clone(route);
        // Whoever is asked now may know the model by another name.
        request.body.find_model();
    }
    request.is_degraded =
        request.record.effects.as_ref().is_some_and(|effects| !effects.by.is_empty());
}

fn reduce(request: &mut ProxyRequest, reduction: &Reduction) {
    let Reduction { rewrite, models, headers } = reduction;
    for name in &headers.remove {
        request.head.headers_mut().remove(name);
    }
    for (name, set) in &headers.set {
        request.head.headers_mut().insert(name.clone(), set.value.clone());
    }
    if let Some(RewritePath { from, to }) = &rewrite.path {
        let path = from.replace(request.head.uri().path(), to.as_str()).into_owned();
        request.head.set_path(&path);
    }
    if (!rewrite.changes_body() && models.is_empty()) || request.body.is_empty() {
        return;
    }
    if !request.head.headers().contains_key(SIGNATURE) && request.body.reduce(models, rewrite) {
        request.limits.estimate_tokens(request.body.len());
        // Of the body as it was.
        DIGESTS.iter().for_each(|name| drop(request.head.headers_mut().remove(name)));
    } else {
        request.record.effects_mut().body_left = true;
    }
}

/// Notes whether anybody of the route's own could be asked now.
fn note_need(request: &mut ProxyRequest, now: Instant) {
    let model = request.body.model();
    let mut candidates = request.route.tiers.iter().flat_map(|tier| &tier.candidates);
    let in_need = candidates.all(|candidate| {
        let circuit = candidate.endpoint.circuit(&candidate.provider.policy, model);
        candidate.provider.live.is_drained(now)
            || circuit.breaker.as_ref().is_some_and(|breaker| breaker.is_shut(now))
            || circuit.holds.iter().all(|hold| hold.check(now).is_err())
    });
    request.record.effects_mut().in_need = in_need;
}

impl InForce<'_> {
    fn is_shadow(&self) -> bool {
        self.of.mode.policy.mode == EnforcementMode::Shadow
    }
}

impl Answer<'_> {
    fn touch(&self) -> ActionKind {
        match self {
            Answer::Stale(_) => ActionKind::ServeStale,
            Answer::Shed => ActionKind::Shed,
            Answer::Respond(_) => ActionKind::Respond,
        }
    }
}

impl DegradationEffects {
    /// What was done to a request, by a mode.
    fn has(&self, mode: &InForce<'_>, what: Option<ActionKind>) -> bool {
        let cell = &mode.of.mode.live;
        self.by.iter().any(|(known, _, done)| {
            Arc::ptr_eq(known, cell) && what.is_none_or(|what| what == *done)
        })
    }

    /// Notes and counts that a mode does something to it.
    pub fn note(&mut self, mode: &InForce<'_>, what: ActionKind) {
        if !self.has(mode, Some(what)) {
            let cell = &mode.of.mode.live;
            if !self.held_back {
                cell.record(&mode.episode, what, !self.has(mode, None));
            }
            self.by.push((Arc::clone(cell), Arc::clone(&mode.episode), what));
        }
    }
}

fn in_force(route: &Route) -> Vec<InForce<'_>> {
    let episode = |of: &RouteMode| of.mode.live.is_in_force().then(|| of.mode.live.episode())?;
    route.modes.all.iter().filter_map(|of| Some(InForce { episode: episode(of)?, of })).collect()
}
