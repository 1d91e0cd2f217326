//! Attempts that end because their time is over, and the evidence that they give.
//!
//! The policy grants an attempt the provider's own limit, and no more than the route's `timeout`. An
//! attempt that got less, because its request waited before, set a shorter timeout, or has another
//! candidate to try, says nothing about its endpoint: its permit is returned as *ignored*.
//!
//! A silent provider must be found out even if every attempt leaves half of the time to the next
//! candidate. Such an attempt therefore goes on in the background until its time is up, and its
//! result is reported then. Few go on at once, because they keep their place at the provider.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::context::ProxyRequest;
use super::inspect::ReceivedResponse;
use super::prebuffer::{BodyDeadlines, DISCARDED, PrebufferLimit, Prebuffered, ReadUntil};
use super::report::{AttemptTarget, AttemptTime, report_evidence};
use super::select::Selection;
use crate::clock;
use crate::live::endpoint::Observation;
use crate::live::tracking::call_recorder::CallRecorder;
use crate::policy::sections::model::Buffer;
use crate::proxy::downstream::timer::Timer;
use crate::proxy::signals::quota_headers::retry_after;
use crate::resilience::outcome::AttemptClass;
use crate::snapshot::{Endpoint, Provider, Route};
use crate::upstream::{PendingHead, SendError};

/// An attempt that got this share of its time got all of it: connecting and waking up take time.
const WHOLE: f64 = 0.95;
/// A larger request body is not kept for an attempt that goes on in the background.
const MAX_BODY: u64 = 1 << 20;

/// The time that the policy grants an attempt for a part of its response.
pub fn granted_time(route: &Route, limit: Duration) -> Duration {
    limit.min(route.policy.timeout)
}

/// Whether an attempt that was given this time says nothing about its endpoint.
pub fn is_cut_short(given: Duration, granted: Duration) -> bool {
    given < granted.mul_f64(WHOLE)
}

/// An attempt that goes on although its request has moved to another candidate.
struct LateAttempt {
    provider: Arc<Provider>,
    endpoint: Arc<Endpoint>,
    recorder: Arc<CallRecorder>,
    model: Option<String>,
    selection: Box<Selection>,
    /// The end of its time.
    until: Instant,
    /// When its request moved on.
    left: Instant,
    _place: Observation,
}

/// Lets an attempt without a response head go on for the rest of its time. A probe keeps a request
/// body however large it is: no other request might ever find out that the endpoint has recovered.
pub fn observe_head(
    request: &ProxyRequest,
    route: &Route,
    selection: Box<Selection>,
    pending: PendingHead,
    granted: Duration,
) {
    let mut body = request.reservation();
    let is_small = request.body.len() <= MAX_BODY || selection.permit.is_probe();
    if !is_small || !body.grow(request.body.len()) {
        return;
    }
    let Some(attempt) = LateAttempt::begin(request, route, selection, granted) else { return };
    let model = request.model().map(str::to_owned);
    tokio::task::spawn_local(async move {
        let _body = body;
        match Timer::default().until(attempt.until, pending).await {
            Ok(Ok((head, _))) => {
                let status = head.status.as_u16();
                let wait = retry_after(&head.headers, clock::wall);
                let class = AttemptClass::of_status(status, wait.is_some());
                if class == AttemptClass::Throttled {
                    let now = clock::now();
                    let credential = attempt.selection.flight.credential();
                    let cell = credential.cell(model.as_deref(), now);
                    cell.throttled(wait, now);
                    cell.note_cause(status, None);
                }
                attempt.end(class);
            }
            Ok(Err(SendError::Unsent(..))) => {}
            Ok(Err(SendError::Failed(_))) | Err(_) => {
                attempt.end(AttemptClass::Failure);
            }
        }
    });
}

/// Lets an attempt without a body, or without content, go on for the rest of its time.
pub fn observe_body(
    request: &ProxyRequest,
    route: &Route,
    received: ReceivedResponse,
    granted: Duration,
) {
    let ReceivedResponse { mut body, selection, deadlines, reader, mut room, .. } = received;
    let Some(attempt) = LateAttempt::begin(request, route, selection, granted) else { return };
    let until = attempt.until;
    let deadlines = BodyDeadlines { first_byte: until, deadline: until, ..deadlines };
    let part = if reader.is_some() { ReadUntil::Content } else { ReadUntil::Frame };
    let within = Buffer { time: granted, ..DISCARDED.within };
    let limit = PrebufferLimit { until: part, within, ..DISCARDED };
    tokio::task::spawn_local(async move {
        let mut reader = reader;
        let timer = Timer::default();
        let reader = reader.as_deref_mut();
        let read =
            super::prebuffer::prebuffer(&timer, &mut body, limit, deadlines, &mut room, reader);
        let class = match read.await {
            Prebuffered::Complete(..) | Prebuffered::Part(..) => AttemptClass::Success,
            Prebuffered::Error(class, _) => class,
            Prebuffered::Failed(_) => AttemptClass::Failure,
        };
        attempt.end(class);
    });
}

impl LateAttempt {
    fn begin(
        request: &ProxyRequest,
        route: &Route,
        selection: Box<Selection>,
        granted: Duration,
    ) -> Option<LateAttempt> {
        let candidate = selection.endpoint.candidate(route);
        let place = candidate.endpoint.live.observe()?;
        Some(LateAttempt {
            provider: Arc::clone(&candidate.provider),
            endpoint: Arc::clone(&candidate.endpoint),
            recorder: Arc::clone(&candidate.call_recorder),
            model: request.body.model().map(str::to_owned),
            until: selection.started + granted,
            left: clock::now(),
            selection,
            _place: place,
        })
    }

    fn end(mut self, class: AttemptClass) {
        let now = clock::now();
        let took = now.saturating_duration_since(self.selection.started);
        if self.selection.permit.is_probe() {
            // The breaker learns how long the probe delayed its request.
            let delay = self.left.saturating_duration_since(self.selection.started);
            let _ = self.selection.permit.report(class.outcome(), delay, now);
        }
        let target = AttemptTarget {
            provider: &self.provider,
            endpoint: &self.endpoint,
            recorder: &self.recorder,
            model: self.model.as_deref(),
        };
        let time = AttemptTime { took, is_latency: true };
        report_evidence(target, &mut self.selection, class, time, now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_attempt_with_nearly_all_its_time_is_evidence() {
        let ms = Duration::from_millis;
        assert!(is_cut_short(ms(500), ms(1000)));
        assert!(is_cut_short(ms(949), ms(1000)));
        assert!(!is_cut_short(ms(951), ms(1000)));
        assert!(!is_cut_short(ms(2000), ms(1000)));
    }

    proptest! {
        #[test]
        fn more_time_never_turns_evidence_into_none(
            granted in 1u64..100_000, given in 0u64..100_000, more in 0u64..100_000,
        ) {
            let ms = Duration::from_millis;
            prop_assert!(
                is_cut_short(ms(given), ms(granted))
                    || !is_cut_short(ms(given + more), ms(granted))
            );
        }
    }
}
