//! Going on from an answer that was cut in its middle (`on_cut: continue`).
//!
//! What was said so far is sent as the last message of the assistant's, to a provider whose policy
//! says that this model continues one (`prefill`); its stream is joined on where the first stopped.
//! Only plain text is gone on from, and each try is paid like any other repeat. The application
//! sees one stream, with a comment at the joint.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use http::StatusCode;

use super::stream_error::Cut;
use crate::clock;
use crate::policy::sections::model::OnCut;
use crate::proxy::access_log::record::AccessRecord;
use crate::proxy::attempt::connect::self_delay;
use crate::proxy::attempt::inspect::discard;
use crate::proxy::attempt::inspect::{AttemptResult, LastResponse};
use crate::proxy::attempt::pending_response::{PendingBody, PendingResponse};
use crate::proxy::attempt::report::UsageKey;
use crate::proxy::attempt::report::settle;
use crate::proxy::attempt::retry::next_attempt;
use crate::proxy::attempt::send::attempt;
use crate::proxy::request::context::{IDEMPOTENCY_KEY, ProxyRequest, RetryTime};
use crate::resilience::outcome::{AttemptClass, Idempotence};
use crate::snapshot::{EndpointCandidate, Route};
use crate::stream::continuation::PartialResponse;
use crate::stream::interpret::TokenUsage;

/// Who tells the story of an answer under way.
#[derive(Debug)]
pub enum Resumable {
    Story(Box<AccessRecord>),
    /// The request is kept, so that another provider can go on.
    Ask(Box<ProxyRequest>),
    /// A provider is being asked to go on.
    Away,
}

/// The request, and the stream of one that goes on.
type GoneOn = (Box<ProxyRequest>, Option<Box<PendingResponse>>);

/// Another provider is asked; what comes of it.
pub struct Resume {
    future: Pin<Box<dyn Future<Output = GoneOn>>>,
    /// What it is to mend.
    pub cut: Cut,
}

impl Resumable {
    /// Keeps the request where its answer may be gone on from.
    pub fn of(request: Box<ProxyRequest>) -> Resumable {
        if can_resume(&request) {
            return Resumable::Ask(request);
        }
        let ProxyRequest { mut record, body, .. } = *request;
        record.lighten();
        record.model = body.model().map(str::to_owned);
        Resumable::Story(record)
    }

    pub fn record(&mut self) -> Option<&mut Box<AccessRecord>> {
        match self {
            Resumable::Story(record) => Some(record),
            Resumable::Ask(request) => Some(&mut request.record),
            Resumable::Away => None,
        }
    }

    /// The answer's head told of nothing bad, so that it counts as good (`Ask::sample`).
    pub fn is_good(&self) -> bool {
        let status = match self {
            Resumable::Story(record) => record.status,
            Resumable::Ask(request) => request.record.status,
            Resumable::Away => return false,
        };
        status < 500 && status != StatusCode::TOO_MANY_REQUESTS.as_u16()
    }

    /// Takes the request, where it was kept.
    pub fn ask(&mut self) -> Option<Box<ProxyRequest>> {
        match std::mem::replace(self, Resumable::Away) {
            Resumable::Ask(request) => Some(request),
            other => {
                *self = other;
                None
            }
        }
    }

    pub fn settle(&mut self, usage_key: UsageKey, route: &Route, tokens: TokenUsage) {
        match self {
            Resumable::Story(record) => {
                let model = record.model.take();
                usage_key.settle(route, model.as_deref(), record, tokens);
            }
            Resumable::Ask(request) => settle(request, usage_key, tokens),
            Resumable::Away => {}
        }
    }
}

impl Resume {
    pub fn begin(
        request: Box<ProxyRequest>,
        partial: PartialResponse,
        of: (UsageKey, usize),
        cut: Cut,
    ) -> Resume {
        Resume { future: Box::pin(continue_stream(request, partial, of)), cut }
    }

    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<GoneOn> {
        self.future.as_mut().poll(cx)
    }
}

/// Its answer, if it is cut, may be gone on from.
pub fn can_resume(request: &ProxyRequest) -> bool {
    request.route.policy.stream.on_cut == OnCut::Continue
        && request.idempotence != Idempotence::Never
        && request.body.kept().is_some()
}

/// Where an answer is to be gone on from: this provider says that it can, with this model.
pub fn can_continue(request: &ProxyRequest, candidate: &EndpointCandidate) -> bool {
    if request.partial.is_none() {
        return true;
    }
    let provider = &candidate.provider.policy;
    let Some(model) = request.body.model() else { return false };
    let theirs = provider.models.iter().find(|(ours, _)| ours == model);
    let theirs = theirs.map_or(model, |(_, theirs)| theirs.as_str());
    provider.prefill.iter().any(|name| name == theirs)
}

/// The stream of one that goes on; `None` where nobody can.
async fn continue_stream(
    mut request: Box<ProxyRequest>,
    partial: PartialResponse,
    (usage_key, credential): (UsageKey, usize),
) -> GoneOn {
    let route = std::sync::Arc::clone(&request.route);
    let response = match request.body.kept().and_then(|body| partial.continuation_request(body)) {
        Some(body) => {
            let now = clock::now();
            request.body.replace(body.into());
            // It stands for the request as it was.
            request.headers.remove(IDEMPOTENCY_KEY);
            request.partial = Some(partial);
            request.deadline = now + request.overrides.timeout.unwrap_or(route.policy.timeout);
            request.attempts.patience = None;
            let cut = ProxyRequest::candidate(&route, usage_key.tier, usage_key.index);
            request.attempts.end(usage_key.tier, usage_key.index, credential, |times| {
                RetryTime::At(now + self_delay(&route, cut, times))
            });
            joined(&mut request, &route).await
        }
        None => None,
    };
    let result = if response.is_some() { "joined" } else { "nobody" };
    route.count_continuation(&request.worker.live.metrics, result);
    (request, response)
}

async fn joined(request: &mut ProxyRequest, route: &Route) -> Option<Box<PendingResponse>> {
    let mut after = AttemptClass::Failure;
    loop {
        let selection = match next_attempt(request, route, Some(after)).await {
            Ok(selection) => selection,
            Err(denied) => {
                request.record.stopped = Some(denied.why);
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
            AttemptResult::Failed(AttemptClass::Ignored, LastResponse::Ours(_)) => return None,
            AttemptResult::Failed(class, last) => {
                discard(request, &last);
                after = class;
            }
        }
    }
}

impl fmt::Debug for Resume {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "GoingOn({:?})", self.cut)
    }
}
