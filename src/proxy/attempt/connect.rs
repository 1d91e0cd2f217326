//! A connection for an attempt: an idle one or a new one, and another one elsewhere if connecting
//! takes long.
//!
//! RFC 8305 races the addresses of one host; this races providers. Nothing was sent yet, so a
//! connection that is pending for 300 ms starts another attempt, and the first to connect is used.
//! The others are detached, not cancelled: each reports its result to the breaker, so that an
//! endpoint that vanished is detected without delaying requests.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tokio::time::Sleep;

use super::context::ProxyRequest;
use super::retry::{backoff, next_attempt_now};
use super::select::Selection;
use super::state::RetryTime;
use crate::clock;
use crate::live::permit::Permit;
use crate::proxy::access_log::attempt_record::{AttemptDetails, AttemptRecord};
use crate::proxy::downstream::problem::{Problem, ProblemKind};
use crate::resilience::outcome::{AttemptClass, Outcome};
use crate::snapshot::{Endpoint, Provider, Route};
use crate::telemetry::panics::Contained;
use crate::upstream::{Connection, DialError, PendingDial};

/// A connection that is pending for this long starts another one.
const START_ANOTHER: Duration = Duration::from_millis(300);

#[derive(Debug)]
struct PendingConnect {
    selection: Box<Selection>,
    dialling: PendingDial,
}

enum ConnectEvent {
    Done(usize, Result<Connection, DialError>),
    Slow,
    Deadline,
}

/// A new connection, and the selection that it belongs to.
pub struct Connected {
    pub selection: Box<Selection>,
    pub connection: Connection,
}

/// An idle connection to the selected endpoint.
pub fn idle_connection(
    request: &ProxyRequest,
    route: &Route,
    selection: &Selection,
    now: Instant,
) -> Option<Connection> {
    let candidate = selection.endpoint.candidate(route);
    request.worker.pools.idle(&candidate.endpoint.target, now)
}

/// Connects to the selected endpoint, or to another one that connects sooner.
///
/// # Errors
/// When no endpoint could be reached. Each failure is reported; the last one is returned.
pub async fn connect(
    request: &mut ProxyRequest,
    route: &Route,
    selection: Box<Selection>,
) -> Result<Connected, Problem> {
    let mut pending = vec![start_connect(request, route, selection)];
    let mut timer: Pin<Box<Sleep>> = Box::pin(tokio::time::sleep(START_ANOTHER));
    let mut may_start_another = true;
    loop {
        let deadline = request.limits.deadline();
        let event = std::future::poll_fn(|cx| poll_pending(&mut pending, &mut timer, cx));
        match request.timer.until(deadline, event).await.unwrap_or(ConnectEvent::Deadline) {
            ConnectEvent::Done(at, Ok(connection)) => {
                let PendingConnect { selection, .. } = pending.swap_remove(at);
                detach(request, route, pending);
                return Ok(Connected { selection, connection });
            }
            ConnectEvent::Done(at, Err(error)) => {
                let PendingConnect { selection, .. } = pending.swap_remove(at);
                let problem = report_unreachable(request, route, selection, &error);
                if pending.is_empty() {
                    return Err(problem);
                }
            }
            ConnectEvent::Slow if may_start_another => match next_attempt_now(request, route) {
                Some(selection) => {
                    request.attempts.begin(selection.endpoint, selection.credential);
                    if let Some(connection) =
                        idle_connection(request, route, &selection, clock::now())
                    {
                        detach(request, route, pending);
                        return Ok(Connected { selection, connection });
                    }
                    pending.push(start_connect(request, route, selection));
                    timer.as_mut().reset((clock::now() + START_ANOTHER).into());
                }
                None => may_start_another = false,
            },
            ConnectEvent::Slow => timer.as_mut().reset(deadline.into()),
            ConnectEvent::Deadline => {
                detach(request, route, pending);
                let detail =
                    format!("route `{}`: no connection within its timeout", route.policy.name);
                return Err(Problem::new(ProblemKind::Deadline, detail));
            }
        }
    }
}

fn start_connect(
    request: &ProxyRequest,
    route: &Route,
    selection: Box<Selection>,
) -> PendingConnect {
    let candidate = selection.endpoint.candidate(route);
    PendingConnect { dialling: request.worker.pools.dial(&candidate.endpoint.target), selection }
}

/// Reports an attempt whose endpoint could not be reached.
pub fn report_unreachable(
    request: &mut ProxyRequest,
    route: &Route,
    mut selection: Box<Selection>,
    error: &DialError,
) -> Problem {
    let now = clock::now();
    let took = now.saturating_duration_since(selection.started);
    record_unsent(request, route, &selection, took, error.to_string());
    let candidate = selection.endpoint.candidate(route);
    report_dial_failure(&candidate.provider, &candidate.endpoint, &mut selection.permit, took);
    selection.flight.give_back();
    request.attempts.end(selection.endpoint, selection.credential, |times| {
        RetryTime::LastResort(now + backoff(route, candidate, times))
    });
    let kind = match error {
        DialError::Timeout { .. } => ProblemKind::ResponseTimeout,
        _ => ProblemKind::Unreachable,
    };
    Problem::new(kind, format!("{}: {error}", candidate.endpoint.key))
}

/// Detaches attempts that are still connecting; each reports its result by itself.
fn detach(request: &mut ProxyRequest, route: &Route, pending: Vec<PendingConnect>) {
    for PendingConnect { selection, dialling } in pending {
        let error = "still connecting when the request moved on or ended".to_owned();
        let now = clock::now();
        let took = now.saturating_duration_since(selection.started);
        record_unsent(request, route, &selection, took, error);
        let candidate = selection.endpoint.candidate(route);
        candidate.endpoint.live.took_longer(took, now);
        let (provider, endpoint) =
            (Arc::clone(&candidate.provider), Arc::clone(&candidate.endpoint));
        let Selection { mut permit, flight, started, .. } = *selection;
        tokio::task::spawn_local(Contained::new(async move {
            let dialled = dialling.await;
            if dialled.is_err() {
                // A probe delayed its request only until here.
                let took = if permit.is_probe() { took } else { clock::since(started) };
                report_dial_failure(&provider, &endpoint, &mut permit, took);
            }
            drop(flight);
        }));
    }
}

/// Reports an endpoint that could not be reached to breaker, balancer and degradation modes.
fn report_dial_failure(
    provider: &Provider,
    endpoint: &Endpoint,
    permit: &mut Permit,
    took: Duration,
) {
    let now = clock::now();
    permit.report(Outcome::Failure, took, now);
    endpoint.live.failed(took, now);
    provider.outcomes.iter().for_each(|outcomes| outcomes.record(true, None, now));
}

/// Adds an attempt that sent nothing to metrics and access record.
fn record_unsent(
    request: &mut ProxyRequest,
    route: &Route,
    selection: &Selection,
    took: Duration,
    error: String,
) {
    let candidate = selection.endpoint.candidate(route);
    let endpoint = &candidate.endpoint;
    endpoint.attempts[AttemptClass::Unsent.index()].inc();
    candidate.call_recorder.record(request.body.model(), AttemptClass::Unsent, took);
    request.record.attempts.push(AttemptRecord {
        endpoint: Arc::clone(endpoint),
        credential: Some(selection.credential),
        class: AttemptClass::Unsent,
        status: 0,
        began: selection.started,
        took,
        probe: selection.permit.is_probe(),
        kind: selection.turn,
        error: Some(error),
        details: AttemptDetails::default(),
    });
}

fn poll_pending(
    pending: &mut [PendingConnect],
    timer: &mut Pin<Box<Sleep>>,
    cx: &mut Context<'_>,
) -> Poll<ConnectEvent> {
    for (at, connect) in pending.iter_mut().enumerate() {
        if let Poll::Ready(dialled) = Pin::new(&mut connect.dialling).poll(cx) {
            return Poll::Ready(ConnectEvent::Done(at, dialled));
        }
    }
    timer.as_mut().poll(cx).map(|()| ConnectEvent::Slow)
}
