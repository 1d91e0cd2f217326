//! Applies the active degradation modes to a request, before it is sent to a provider.
//!
//! The modes apply in the order of the route, as if their actions were one list:
//!
//! 1. The first action that can respond does: `serve_stale` if the cache has a response, `shed` for
//!    its classes, `respond`.
//! 2. If none responds, every reduction applies, a later one over an earlier one, and the last
//!    `use`. Then the request continues as usual.
//!
//! A mode does not respond to a job: a job that it would reject is parked.
//!
//! A mode in shadow only counts the actions that it would have applied.

use std::sync::Arc;
use std::time::{Duration, Instant};

use http::header::HeaderName;

use crate::cache::entry::CachedResponse;
use crate::clock;
use crate::live::degradation::episode::{ActionKind, Episode};
use crate::live::degradation::mode::ModeCell;
use crate::policy::sections::model::{Action, Reduction, Respond, RewritePath};
use crate::proxy::attempt::context::ProxyRequest;
use crate::proxy::attempt::pending_response::PendingResponse;
use crate::proxy::downstream::problem::{Problem, ProblemKind};
use crate::proxy::response::{static_response, stored};
use crate::resilience::breaker::EnforcementMode;
use crate::snapshot::{Route, RouteMode};

/// RFC 9421: a signed body must not change.
const SIGNATURE: HeaderName = HeaderName::from_static("signature");
/// RFC 9530, RFC 3230, RFC 1864.
const DIGESTS: [HeaderName; 3] = [
    HeaderName::from_static("content-digest"),
    HeaderName::from_static("digest"),
    HeaderName::from_static("content-md5"),
];

/// An active mode.
#[derive(Debug)]
struct ActiveMode<'r> {
    route_mode: &'r RouteMode,
    episode: Arc<Episode>,
}

/// The response of a mode in place of a provider's.
enum ModeResponse<'r> {
    Stale(Arc<CachedResponse>),
    Shed,
    Respond(&'r Respond),
}

/// Applies the active modes: they respond, change the request or replace its providers. If no mode
/// is active, this costs one load.
pub fn degraded(request: &mut ProxyRequest) -> Option<Result<Box<PendingResponse>, Problem>> {
    if request.route.modes.may_apply(&request.worker.live.modes) { degrade(request) } else { None }
}

/// A mode that may change the request or respond to it is active.
pub fn is_degraded(request: &ProxyRequest) -> bool {
    let acts = |mode: &ActiveMode<'_>| {
        let mut actions = mode.route_mode.mode.policy.actions.iter();
        !mode.is_shadow() && actions.any(|action| !matches!(action, Action::Notify(_)))
    };
    request.worker.live.modes.in_force() & request.route.modes.mask != 0
        && active_modes(&request.route).iter().any(acts)
}

#[cold]
fn degrade(request: &mut ProxyRequest) -> Option<Result<Box<PendingResponse>, Problem>> {
    let route = Arc::clone(&request.route);
    let modes = active_modes(&route);
    for mode in modes.iter().filter(|mode| mode.is_shadow()) {
        count_shadow(request, mode);
    }
    for mode in modes.iter().filter(|mode| !mode.is_shadow()) {
        let mut actions = mode.route_mode.mode.policy.actions.iter();
        if let Some(response) = actions.find_map(|action| response_of(request, action)) {
            return Some(respond(request, mode, response));
        }
    }
    change(request, &modes);
    None
}

/// A job that a mode rejects.
#[derive(Debug)]
pub struct JobRejected {
    /// The mode stays active for at least this long.
    pub retry_after: Duration,
    pub reason: String,
}

/// Applies the active modes to a job that is about to run.
///
/// # Errors
/// When a mode rejects it.
pub fn degrade_job(request: &mut ProxyRequest) -> Result<(), JobRejected> {
    let route = Arc::clone(&request.route);
    let modes = active_modes(&route);
    for mode in modes.iter().filter(|mode| !mode.is_shadow()) {
        let rejects = |action: &Action| match action {
            Action::Shed(class) => is_at_or_below(request, class),
            Action::Respond(_) => true,
            _ => false,
        };
        if mode.route_mode.mode.policy.actions.iter().any(rejects) {
            let cell = mode.cell();
            let reason = format!("degradation mode `{}` is active", cell.name);
            return Err(JobRejected { retry_after: cell.earliest_end(clock::now()), reason });
        }
    }
    if modes.iter().any(|mode| !mode.is_shadow()) {
        request.record.effects_mut().count_later = true;
        change(request, &modes);
    }
    Ok(())
}

fn response_of<'r>(request: &ProxyRequest, action: &'r Action) -> Option<ModeResponse<'r>> {
    match action {
        Action::ServeStale(within) => {
            request.cache.stale(clock::now(), *within).map(ModeResponse::Stale)
        }
        Action::Shed(class) => is_at_or_below(request, class).then_some(ModeResponse::Shed),
        Action::Respond(respond) => Some(ModeResponse::Respond(respond)),
        Action::Reduce(_) | Action::Use(_) | Action::Notify(_) => None,
    }
}

fn is_at_or_below(request: &ProxyRequest, class: &str) -> bool {
    let queue = request.route.queue.as_ref();
    let place = queue.and_then(|queue| queue.policy.class(class));
    place.is_some_and(|place| request.limits.class() >= place)
}

/// Counts the actions that a mode in shadow would have applied.
fn count_shadow(request: &ProxyRequest, mode: &ActiveMode<'_>) {
    let actions = &mode.route_mode.mode.policy.actions;
    let cell = mode.cell();
    if let Some(response) = actions.iter().find_map(|action| response_of(request, action)) {
        return cell.record(&mode.episode, response.action(), true);
    }
    let reduces = actions.iter().any(|action| matches!(action, Action::Reduce(_)));
    if reduces {
        cell.record(&mode.episode, ActionKind::Reduce, true);
    }
    if mode.route_mode.alternate.is_some() {
        cell.record(&mode.episode, ActionKind::Use, !reduces);
    }
}

fn respond(
    request: &mut ProxyRequest,
    mode: &ActiveMode<'_>,
    response: ModeResponse<'_>,
) -> Result<Box<PendingResponse>, Problem> {
    mode.note(request, response.action());
    let (now, cell) = (clock::now(), mode.cell());
    match response {
        ModeResponse::Stale(stored) => {
            record_availability(request, now);
            Ok(stored::serve_stale(request, stored))
        }
        ModeResponse::Shed => {
            let (route, mode) = (&request.route.policy.name, &cell.name);
            let detail = format!(
                "route `{route}`: degradation mode `{mode}` is active and rejects this class"
            );
            let problem = Problem::new(ProblemKind::Shed, detail);
            Err(problem.retry_after(Some(cell.earliest_end(now))))
        }
        ModeResponse::Respond(respond) => {
            record_availability(request, now);
            let id = request.record.request_id.to_string();
            Ok(static_response::ready(respond, &cell.name, &id, cell.earliest_end(now)))
        }
    }
}

/// Applies every reduction, then the last `use`.
fn change(request: &mut ProxyRequest, modes: &[ActiveMode<'_>]) {
    let mut alternate = None;
    for mode in modes.iter().filter(|mode| !mode.is_shadow()) {
        for action in &mode.route_mode.mode.policy.actions {
            if let Action::Reduce(reduction) = action {
                mode.note(request, ActionKind::Reduce);
                reduce(request, reduction);
            }
        }
        alternate = mode.route_mode.alternate.as_ref().map(|route| (mode, route)).or(alternate);
    }
    if let Some((mode, route)) = alternate {
        mode.note(request, ActionKind::Use);
        record_availability(request, clock::now());
        request.route = Arc::clone(route);
        // The alternate providers may know the model by another name.
        request.body.find_model();
    }
    request.is_degraded =
        request.record.effects.as_ref().is_some_and(|effects| !effects.is_empty());
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
    if !request.head.headers().contains_key(SIGNATURE) && request.body.rewrite(models, rewrite) {
        request.limits.estimate_tokens(&request.body);
        // The digests are of the original body.
        DIGESTS.iter().for_each(|name| drop(request.head.headers_mut().remove(name)));
    } else {
        request.record.effects_mut().body_unchanged = true;
    }
}

/// Records whether no provider of the route is usable now.
fn record_availability(request: &mut ProxyRequest, now: Instant) {
    let model = || request.model();
    let mut candidates = request.route.tiers.iter().flat_map(|tier| &tier.candidates);
    let unusable = candidates.all(|candidate| {
        let breaker = candidate.endpoint.breaker(&candidate.provider.policy, model);
        candidate.provider.live.is_drained(now)
            || breaker.is_some_and(|breaker| breaker.is_shut(now))
            || candidate.endpoint.credentials.iter().all(|one| one.check(model, 0.0, now).is_err())
    });
    request.record.effects_mut().providers_unusable = unusable;
}

impl ActiveMode<'_> {
    fn cell(&self) -> &Arc<ModeCell> {
        &self.route_mode.mode.live
    }

    fn is_shadow(&self) -> bool {
        self.route_mode.mode.policy.mode == EnforcementMode::Shadow
    }

    fn note(&self, request: &mut ProxyRequest, action: ActionKind) {
        request.record.effects_mut().note(self.cell(), &self.episode, action);
    }
}

impl ModeResponse<'_> {
    fn action(&self) -> ActionKind {
        match self {
            ModeResponse::Stale(_) => ActionKind::ServeStale,
            ModeResponse::Shed => ActionKind::Shed,
            ModeResponse::Respond(_) => ActionKind::Respond,
        }
    }
}

fn active_modes(route: &Route) -> Vec<ActiveMode<'_>> {
    let active = |route_mode: &'_ RouteMode| {
        let live = &route_mode.mode.live;
        live.is_in_force().then(|| live.episode())?
    };
    let modes = route.modes.all.iter();
    modes.filter_map(|mode| Some(ActiveMode { episode: active(mode)?, route_mode: mode })).collect()
}
