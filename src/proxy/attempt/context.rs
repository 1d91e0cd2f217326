//! One request on its way through its stages, in parts that belong to one stage each.

use std::rc::Rc;
use std::sync::Arc;

use http::header::CONTENT_TYPE;
use http::{HeaderValue, Method};

use super::state::Attempts;
use super::wait::Wait;
use crate::live::buffers::Reservation;
use crate::live::quota::usage_meter::AttemptKind;
use crate::policy::sections::model::{OnCut, Retry};
use crate::proxy::access_log::record::AccessRecord;
use crate::proxy::downstream::connection::Client;
use crate::proxy::downstream::content_coding::{ContentCoding, Undecodable};
use crate::proxy::downstream::timer::Timer;
use crate::proxy::downstream::worker::Worker;
use crate::proxy::request::body::RequestBody;
use crate::proxy::request::cached_fallback::CachedFallback;
use crate::proxy::request::head::RequestHead;
use crate::proxy::request::limits::RequestLimits;
use crate::proxy::request::model_name::model_in_path;
use crate::proxy::request::stream_flag::requests_stream;
use crate::resilience::outcome::Idempotence;
use crate::snapshot::Route;
use crate::stream::continuation::PartialResponse;

/// A request between its head and the end of its response.
#[derive(Debug)]
pub struct ProxyRequest {
    pub worker: Rc<Worker>,
    pub client: Rc<Client>,
    /// The connection's own; a hedge has another, because it waits at the same time as its request.
    pub timer: Rc<Timer>,
    pub route: Arc<Route>,
    pub head: RequestHead,
    pub body: RequestBody,
    pub limits: RequestLimits,
    pub attempts: Attempts,
    /// Set while the request waits in a queue.
    pub wait: Option<Wait>,
    pub cache: CachedFallback,
    /// The start of an interrupted response, which the next attempt continues.
    pub resume: Option<PartialResponse>,
    /// Whether the response will be a stream; `None` if that cannot be known.
    pub requests_stream: Option<bool>,
    /// A degradation mode changed the request or its route: the response is not stored.
    pub is_degraded: bool,
    pub record: Box<AccessRecord>,
}

impl ProxyRequest {
    /// A request with its route's defaults and no body.
    pub fn new(
        worker: &Rc<Worker>,
        client: &Rc<Client>,
        route: &Arc<Route>,
        record: Box<AccessRecord>,
        head: RequestHead,
    ) -> Box<ProxyRequest> {
        Box::new(ProxyRequest {
            worker: Rc::clone(worker),
            client: Rc::clone(client),
            timer: Rc::clone(&client.timer),
            route: Arc::clone(route),
            head,
            body: RequestBody::empty(record.started),
            limits: RequestLimits::new(route, record.started),
            attempts: Attempts::default(),
            wait: None,
            cache: CachedFallback::default(),
            resume: None,
            requests_stream: None,
            is_degraded: false,
            record,
        })
    }

    /// Sets the body, which is complete or known to be sent once; the timeout starts then.
    pub fn set_body(&mut self, mut body: RequestBody) {
        if self.head.has_encoded_body() {
            body.set_undecodable(Undecodable::NotKept);
        }
        self.requests_stream = requests_stream(&self.head, body.stream_flag());
        self.limits.start_timeout(&self.route, body.received_at());
        self.limits.estimate_tokens(&body);
        self.body = body;
    }

    /// Decodes a body with a `Content-Encoding` if the policy may have to read it.
    pub async fn decode_body(&mut self) {
        let (method, headers) = (self.head.method(), self.head.headers());
        let is_json = |kind: &HeaderValue| kind.to_str().is_ok_and(|kind| kind.contains("json"));
        let may_stream = *method == Method::POST && headers.get(CONTENT_TYPE).is_some_and(is_json);
        if self.route.reads_body || may_stream {
            let coding = ContentCoding::of(headers);
            let decoding =
                self.body.decode(coding, self.route.policy.replay, self.route.reads_body);
            Box::pin(decoding).await;
            self.requests_stream = requests_stream(&self.head, self.body.stream_flag());
            self.limits.estimate_tokens(&self.body);
        }
    }

    /// The policy that decides the next step: the last provider's own, else the route's.
    pub fn retry_policy<'r>(&self, route: &'r Route) -> &'r Retry {
        let last = self.attempts.last().map(|endpoint| endpoint.candidate(route));
        let own = last.and_then(|candidate| candidate.provider.policy.retry.as_ref());
        own.unwrap_or(&route.policy.retry)
    }

    /// The model that the body names, or else the path. Reads the body if nothing else did.
    pub fn model(&self) -> Option<&str> {
        self.body.find_model().map(|name| &**name).or_else(|| model_in_path(self.head.uri().path()))
    }

    /// The same, to be kept.
    pub fn shared_model(&self) -> Option<Rc<str>> {
        let of_body = self.body.find_model().map(Rc::clone);
        of_body.or_else(|| model_in_path(self.head.uri().path()).map(Rc::from))
    }

    /// Buffer space for a body that is held back.
    pub fn reservation(&self) -> Reservation {
        self.worker.live.buffers.reservation()
    }

    /// Why the next attempt is made.
    pub fn turn(&self) -> AttemptKind {
        if self.attempts.hedge_of.is_some() {
            AttemptKind::Hedge
        } else if self.resume.is_some() {
            AttemptKind::Continuation
        } else if self.attempts.tried.is_empty() {
            AttemptKind::First
        } else {
            AttemptKind::Retry
        }
    }

    /// Attempts left in a tier.
    pub fn attempts_left(&self, route: &Route, tier: usize) -> u32 {
        let limit = self.limits.max_attempts(self.retry_policy(route), tier > 0);
        let used = if tier == self.attempts.tier { self.attempts.in_tier } else { 0 };
        limit.saturating_sub(used)
    }

    /// If its response is interrupted, another provider may continue it.
    pub fn can_resume(&self) -> bool {
        self.route.policy.stream.on_cut == OnCut::Continue
            && self.limits.idempotence() != Idempotence::Never
            && self.body.original().is_some()
    }
}
