//! A connection for an attempt: an idle one, or a new one; and where connecting takes long, a new
//! one elsewhere beside it.
//!
//! As RFC 8305 does among addresses, here among providers: nothing was sent yet, so a connection
//! that is pending for 300 ms starts another attempt, and the first to connect is used. The others
//! are left behind, not cut off: a task of theirs waits for what comes of them and tells the
//! breaker, so that a provider that has vanished is found out by requests that it did not delay.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tokio::time::Sleep;

use super::retry::next_attempt_now;
use super::select::Selection;
use crate::clock;
use crate::proxy::access_log::record::AttemptRecord;
use crate::proxy::downstream::problem::{Problem, ProblemKind};
use crate::proxy::request::context::{ProxyRequest, RetryTime};
use crate::resilience::outcome::{AttemptClass, Outcome};
use crate::snapshot::Route;
use crate::upstream::{Connection, DialError, PendingDial};

/// Pending for so long, a connection starts another elsewhere.
const ELSEWHERE: Duration = Duration::from_millis(300);

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

/// An idle connection to a pick's address.
pub fn idle_connection(
    request: &ProxyRequest,
    route: &Route,
    selection: &Selection,
    now: Instant,
) -> Option<Connection> {
    let candidate = ProxyRequest::candidate(route, selection.tier, selection.index);
    request.worker.pools.idle(&candidate.endpoint.target, now)
}

/// A new connection: the pick's, or that of one which was quicker.
///
/// # Errors
/// When nobody could be reached; each failure is told, and the last one is the answer at hand.
pub async fn connect(
    request: &mut ProxyRequest,
    route: &Route,
    selection: Box<Selection>,
) -> Result<(Box<Selection>, Connection), Problem> {
    let mut dials = vec![start_connect(request, route, selection)];
    let mut timer: Pin<Box<Sleep>> = Box::pin(tokio::time::sleep(ELSEWHERE));
    let mut elsewhere = true;
    loop {
        let deadline = request.deadline;
        let event = std::future::poll_fn(|cx| poll_dials(&mut dials, &mut timer, cx));
        match request.timer.until(deadline, event).await.unwrap_or(ConnectEvent::Deadline) {
            ConnectEvent::Done(at, Ok(connection)) => {
                let dial = dials.swap_remove(at);
                detach(request, route, dials);
                return Ok((dial.selection, connection));
            }
            ConnectEvent::Done(at, Err(error)) => {
                let dial = dials.swap_remove(at);
                let problem = report_unreachable(request, route, dial.selection, &error);
                if dials.is_empty() {
                    return Err(problem);
                }
            }
            ConnectEvent::Slow if elsewhere => match next_attempt_now(request, route) {
                Some(selection) => {
                    request.attempts.begin(selection.tier, selection.index, selection.credential);
                    if let Some(connection) =
                        idle_connection(request, route, &selection, clock::now())
                    {
                        detach(request, route, dials);
                        return Ok((selection, connection));
                    }
                    dials.push(start_connect(request, route, selection));
                    timer.as_mut().reset((clock::now() + ELSEWHERE).into());
                }
                None => elsewhere = false,
            },
            ConnectEvent::Slow => timer.as_mut().reset(deadline.into()),
            ConnectEvent::Deadline => {
                detach(request, route, dials);
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
    let candidate = ProxyRequest::candidate(route, selection.tier, selection.index);
    PendingConnect { dialling: request.worker.pools.dial(&candidate.endpoint.target), selection }
}

/// Tells of an attempt whose endpoint could not be reached.
pub fn report_unreachable(
    request: &mut ProxyRequest,
    route: &Route,
    mut selection: Box<Selection>,
    error: &DialError,
) -> Problem {
    let now = clock::now();
    let candidate = ProxyRequest::candidate(route, selection.tier, selection.index);
    let took = now.saturating_duration_since(selection.started);
    record_unsent(request, route, &selection, took, error.to_string());
    selection.permit.report(Outcome::Failure, took, now);
    selection.flight.give_back();
    candidate.endpoint.live.failed(took, now);
    candidate.provider.outcomes.iter().for_each(|samples| samples.record(true, None, now));
    candidate.endpoint.attempts[AttemptClass::Unsent.index()].inc();
    let delay = |times| self_delay(route, candidate, times);
    request.attempts.end(selection.tier, selection.index, selection.credential, |times| {
        RetryTime::LastResort(now + delay(times))
    });
    let kind = match error {
        DialError::Timeout { .. } => ProblemKind::ResponseTimeout,
        _ => ProblemKind::Unreachable,
    };
    Problem::new(kind, format!("{}: {error}", candidate.endpoint.key))
}

/// Lets attempts that are still connecting find out by themselves, and tell.
fn detach(request: &mut ProxyRequest, route: &Route, dials: Vec<PendingConnect>) {
    for PendingConnect { selection, dialling } in dials {
        let took = clock::since(selection.started);
        record_unsent(
            request,
            route,
            &selection,
            took,
            "still connecting; left for another".to_owned(),
        );
        let candidate = ProxyRequest::candidate(route, selection.tier, selection.index);
        let address = std::sync::Arc::clone(&candidate.endpoint);
        address.attempts[AttemptClass::Unsent.index()].inc();
        address.live.failed(took, clock::now());
        let samples = &candidate.provider.outcomes;
        samples.iter().for_each(|samples| samples.record(true, None, clock::now()));
        let Selection { mut permit, flight, started, .. } = *selection;
        tokio::task::spawn_local(async move {
            let dialled = dialling.await;
            let now = clock::now();
            if dialled.is_err() {
                let took = now.saturating_duration_since(started);
                permit.report(Outcome::Failure, took, now);
            }
            drop(flight);
        });
    }
}

fn record_unsent(
    request: &mut ProxyRequest,
    route: &Route,
    selection: &Selection,
    took: Duration,
    error: String,
) {
    let candidate = ProxyRequest::candidate(route, selection.tier, selection.index);
    request.record.attempts.push(AttemptRecord {
        to: std::sync::Arc::clone(&candidate.endpoint),
        credential: Some(selection.credential),
        class: AttemptClass::Unsent,
        status: 0,
        took,
        probe: selection.permit.is_probe(),
        turn: selection.turn,
        error: Some(error),
    });
}

/// The back-off before the same endpoint is asked again.
pub fn self_delay(
    route: &Route,
    candidate: &crate::snapshot::EndpointCandidate,
    times: u32,
) -> Duration {
    let retry = candidate.provider.policy.retry.as_ref().unwrap_or(&route.policy.retry);
    retry.backoff().delay(times, clock::draw())
}

fn poll_dials(
    dials: &mut [PendingConnect],
    timer: &mut Pin<Box<Sleep>>,
    cx: &mut Context<'_>,
) -> Poll<ConnectEvent> {
    for (at, dial) in dials.iter_mut().enumerate() {
        if let Poll::Ready(dialled) = Pin::new(&mut dial.dialling).poll(cx) {
            return Poll::Ready(ConnectEvent::Done(at, dialled));
        }
    }
    timer.as_mut().poll(cx).map(|()| ConnectEvent::Slow)
}
