//! Continuation of an interrupted stream by another provider (`on_cut: continue`).
//!
//! The text so far is sent as the last assistant message to a provider whose policy says that the
//! model continues one (`prefill`). Its stream is appended where the first one stopped. Only plain
//! text is continued, and each attempt is paid from the retry budget. The client receives one
//! stream, with a comment at the joint.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use http::StatusCode;

use crate::clock;
use crate::proxy::access_log::reasons::Interruption;
use crate::proxy::access_log::record::AccessRecord;
use crate::proxy::attempt::context::ProxyRequest;
use crate::proxy::attempt::inspect::discard;
use crate::proxy::attempt::inspect::{AttemptResult, LastResponse};
use crate::proxy::attempt::pending_response::{PendingBody, PendingResponse};
use crate::proxy::attempt::report::UsageKey;
use crate::proxy::attempt::report::settle;
use crate::proxy::attempt::retry::{begin_continuation, next_attempt};
use crate::proxy::attempt::send::attempt;
use crate::proxy::request::head::IDEMPOTENCY_KEY;
use crate::resilience::outcome::AttemptClass;
use crate::snapshot::Route;
use crate::stream::continuation::PartialResponse;
use crate::stream::interpret::TokenUsage;

/// The owner of the access record while a response is streamed.
#[derive(Debug)]
pub enum Resumable {
    Record(Box<AccessRecord>),
    /// The whole request is kept, so that another provider can continue the stream.
    Request(Box<ProxyRequest>),
    /// The continuation in progress has the request.
    Resuming,
}

/// The request, and the response that continues the stream, if any.
type ResumeResult = (Box<ProxyRequest>, Option<Box<PendingResponse>>);

/// A continuation in progress.
pub struct Resume {
    future: Pin<Box<dyn Future<Output = ResumeResult>>>,
    /// The interruption that it repairs.
    pub cut: Interruption,
}

impl Resumable {
    /// Keeps the request if its stream may be continued.
    pub fn of(request: Box<ProxyRequest>) -> Resumable {
        if request.can_resume() {
            return Resumable::Request(request);
        }
        let ProxyRequest { mut record, body, .. } = *request;
        record.release_head();
        record.model = body.model().map(str::to_owned);
        Resumable::Record(record)
    }

    pub fn record(&mut self) -> Option<&mut Box<AccessRecord>> {
        match self {
            Resumable::Record(record) => Some(record),
            Resumable::Request(request) => Some(&mut request.record),
            Resumable::Resuming => None,
        }
    }

    /// The model of the request.
    pub fn model(&self) -> Option<&str> {
        match self {
            Resumable::Record(record) => record.model.as_deref(),
            Resumable::Request(request) => request.body.model(),
            Resumable::Resuming => None,
        }
    }

    /// The status counts as good for the degradation modes, as in `report::sample`.
    pub fn is_good(&self) -> bool {
        let status = match self {
            Resumable::Record(record) => record.status,
            Resumable::Request(request) => request.record.status,
            Resumable::Resuming => return false,
        };
        status < 500 && status != StatusCode::TOO_MANY_REQUESTS.as_u16()
    }

    /// Takes the request, if it was kept.
    pub fn take_request(&mut self) -> Option<Box<ProxyRequest>> {
        match std::mem::replace(self, Resumable::Resuming) {
            Resumable::Request(request) => Some(request),
            other => {
                *self = other;
                None
            }
        }
    }

    pub fn settle(&mut self, usage_key: UsageKey, route: &Route, tokens: TokenUsage) {
        match self {
            Resumable::Record(record) => {
                let model = record.model.take();
                usage_key.settle(route, model.as_deref(), record, tokens);
            }
            Resumable::Request(request) => settle(request, usage_key, tokens),
            Resumable::Resuming => {}
        }
    }
}

impl Resume {
    pub fn begin(
        request: Box<ProxyRequest>,
        partial: PartialResponse,
        interrupted: UsageKey,
        cut: Interruption,
    ) -> Resume {
        Resume { future: Box::pin(continue_stream(request, partial, interrupted)), cut }
    }

    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<ResumeResult> {
        self.future.as_mut().poll(cx)
    }
}

/// Attempts the continuation; `None` if no provider can continue.
async fn continue_stream(
    mut request: Box<ProxyRequest>,
    partial: PartialResponse,
    interrupted: UsageKey,
) -> ResumeResult {
    let route = std::sync::Arc::clone(&request.route);
    let response = match request.body.original().and_then(|body| partial.continuation_request(body))
    {
        Some(body) => {
            let now = clock::now();
            request.body.replace(body.into());
            // The key identifies the original request.
            request.head.headers_mut().remove(IDEMPOTENCY_KEY);
            request.resume = Some(partial);
            begin_continuation(&mut request, &route, interrupted, now);
            attempt_continuation(&mut request, &route).await
        }
        None => None,
    };
    let result = if response.is_some() { "joined" } else { "no_provider" };
    route.count_continuation(&request.worker.live.metrics, result);
    (request, response)
}

async fn attempt_continuation(
    request: &mut ProxyRequest,
    route: &Route,
) -> Option<Box<PendingResponse>> {
    let mut after = AttemptClass::Failure;
    loop {
        let selection = match next_attempt(request, route, Some(after)).await {
            Ok(selection) => selection,
            Err(denied) => {
                request.record.retry_denied = Some(denied.reason);
                return None;
            }
        };
        match Box::pin(attempt(request, route, selection)).await {
            AttemptResult::Commit(response)
                if matches!(response.body, PendingBody::Tunnel { .. }) =>
            {
                return None;
            }
            AttemptResult::Commit(response) => return Some(response),
            AttemptResult::Failed(AttemptClass::Ignored, LastResponse::Problem(_)) => return None,
            AttemptResult::Failed(class, last) => {
                discard(request, &last);
                after = class;
            }
        }
    }
}

impl fmt::Debug for Resume {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Resume({:?})", self.cut)
    }
}
