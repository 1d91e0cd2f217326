//! Dispatch of a request: degradation modes, admission, attempts.
//!
//! `attempt/select.rs` admits an attempt at an endpoint. If it cannot, `attempt/retry.rs` decides
//! whether the request waits, and `attempt/wait.rs` puts it in its queue or rejects it.

use std::sync::Arc;

use super::attempt::context::ProxyRequest;
use super::attempt::hedge::attempt_or_hedge;
use super::attempt::inspect::{AttemptResult, LastResponse, discard};
use super::attempt::pending_response::PendingResponse;
use super::attempt::report::sample;
use super::attempt::retry::{AttemptDenied, next_attempt};
use super::attempt::select::Selection;
use super::degradation::apply::degraded;
use super::downstream::problem::Problem;
use crate::clock;
use crate::resilience::outcome::AttemptClass;
use crate::snapshot::Route;

/// A response for the client, or the problem in its place.
pub type DispatchOutcome = Result<Box<PendingResponse>, Problem>;

/// Applies the degradation modes in force, then sends the request to providers.
///
/// # Errors
/// The problem that is the response.
pub async fn run(request: &mut ProxyRequest, route: &Route) -> DispatchOutcome {
    match degraded(request) {
        Some(outcome) => outcome,
        None => run_without_modes(request, route).await,
    }
}

/// Sends the request to providers, whatever modes are in force by now.
///
/// # Errors
/// The problem that is the response.
pub async fn run_without_modes(request: &mut ProxyRequest, route: &Route) -> DispatchOutcome {
    let outcome = if request.is_degraded {
        let replacement = Arc::clone(&request.route);
        admit(request, &replacement).await
    } else {
        admit(request, route).await
    };
    sample(request, &outcome);
    outcome
}

async fn admit(request: &mut ProxyRequest, route: &Route) -> DispatchOutcome {
    route.live.record_request(request.body.received_at());
    match next_attempt(request, route, None).await {
        Ok(selection) => attempts(request, route, selection).await,
        Err(denied) => {
            request.record.retry_denied = Some(denied.reason);
            Err(denied.problem(route))
        }
    }
}

/// Makes one attempt after another, until one succeeds or none may follow.
///
/// # Errors
/// The problem that is the response.
pub async fn attempts(
    request: &mut ProxyRequest,
    route: &Route,
    mut selection: Box<Selection>,
) -> DispatchOutcome {
    let mut retried = None;
    loop {
        let (class, last) = match attempt_or_hedge(request, route, selection).await {
            AttemptResult::Commit(response) => {
                if let Some((class, added)) = retried
                    && response.head.status.as_u16() < 400
                {
                    route.count_retry_succeeded(&request.worker.live.metrics, class, added);
                }
                return Ok(response);
            }
            AttemptResult::Failed(AttemptClass::Ignored, LastResponse::Problem(problem)) => {
                return Err(problem);
            }
            AttemptResult::Failed(class, last) => (class, last),
        };
        match next_attempt(request, route, Some(class)).await {
            Ok(next) => {
                discard(request, &last);
                let added = clock::now().saturating_duration_since(request.body.received_at());
                (selection, retried) = (next, Some((class, added)));
            }
            Err(denied) => return give_up(request, route, &denied, last),
        }
    }
}

/// The response of the last attempt, which says why no other follows.
fn give_up(
    request: &mut ProxyRequest,
    route: &Route,
    denied: &AttemptDenied,
    last: LastResponse,
) -> DispatchOutcome {
    let reason = denied.reason;
    request.record.retry_denied = Some(reason);
    route.count_retry_denied(&request.worker.live.metrics, reason.as_str());
    match last {
        LastResponse::Provider(mut response) => {
            denied.annotate(&mut response.head);
            Ok(response)
        }
        LastResponse::Problem(mut problem) => {
            problem.detail = format!("{}; not retried: {}", problem.detail, denied.explanation());
            Err(problem)
        }
    }
}
