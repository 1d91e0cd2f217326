//! One request on its way through its attempts: what is asked, what was tried, what is left.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::header::{HeaderName, HeaderValue};
use http::response::Parts;
use http::{HeaderMap, Method, Uri};
use hyper::upgrade::OnUpgrade;

use super::body::RequestBody;
use super::overrides::Overrides;
use crate::cache::entry::CachedResponse;
use crate::live::buffers::Reservation;
use crate::live::queue::wait_queue::WaitTicket;
use crate::live::quota::usage_meter::AttemptKind;
use crate::policy::sections::model::Retry;
use crate::proxy::access_log::record::AccessRecord;
use crate::proxy::downstream::connection::Client;
use crate::proxy::downstream::problem::{PROXY_STATUS, Problem, ProblemKind};
use crate::proxy::downstream::timer::Timer;
use crate::proxy::downstream::worker::Worker;
use crate::resilience::outcome::{AttemptClass, Idempotence};
use crate::snapshot::{Circuit, EndpointCandidate, Route};
use crate::stream::continuation::PartialResponse;

/// Of each candidate of a tier.
pub type Circuits = Rc<[Arc<Circuit>]>;

/// Of text in most languages and encodings, roughly; answers correct it (`live/quota/provider_quota.rs`).
const BYTES_A_TOKEN: f64 = 4.0;

pub const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// A request between its head and its commit.
#[derive(Debug)]
pub struct ProxyRequest {
    pub worker: Rc<Worker>,
    pub client: Rc<Client>,
    /// The connection's own, but for a hedge, which waits beside another attempt.
    pub timer: Rc<Timer>,
    pub route: Arc<Route>,
    pub record: Box<AccessRecord>,
    pub method: Method,
    pub uri: Uri,
    /// As the application asked for it, where a mode asks for another.
    pub asked_uri: Option<Box<Uri>>,
    /// Fit for any provider; each attempt makes its own of them.
    pub headers: HeaderMap,
    pub body: RequestBody,
    pub upgrade: Option<OnUpgrade>,
    pub overrides: Overrides,
    pub deadline: Instant,
    pub idempotence: Idempotence,
    pub attempts: Attempts,
    /// What a cut answer said, where it is to be gone on from.
    pub partial: Option<PartialResponse>,
    /// Those of the tier that was looked at last.
    pub circuits: RefCell<Option<(usize, Circuits)>>,
    /// Requests with the same go to the same address.
    pub session: Option<Box<[u8]>>,
    /// A place in its queue's classes.
    pub class: usize,
    /// Whoever has the same takes turns with others.
    pub flow: u64,
    /// What it is thought to take of a provider's tokens.
    pub tokens: f64,
    /// Where it waits, and the providers at which it is its turn.
    pub place: Option<Box<WaitTicket>>,
    pub turns: Vec<u32>,
    /// On end, because what stood in its way had gone.
    pub looks_again: u8,
    /// What its route's cache has for it, and does not serve as it is.
    pub stored: Option<Arc<CachedResponse>>,
    /// A mode has changed what is asked for, or of whom: its answer is not kept.
    pub reduced: bool,
    /// The application's own, while it is asked with those of what is stored.
    pub conditions: Option<Box<HeaderMap>>,
    /// Something stored would serve in place of an error: nothing is waited for.
    pub hurries: bool,
    /// It is a job: whoever cannot be admitted is tried again later, and not turned away.
    pub is_job: bool,
}

/// What was tried.
#[derive(Clone, Debug, Default)]
pub struct Attempts {
    /// 0: the route's `providers`; n: the n-th of its `fallback`.
    pub tier: usize,
    /// Attempts in this tier.
    pub in_tier: u32,
    pub asked: Vec<TriedEndpoint>,
    /// Only this provider may be asked again: it alone knows the Idempotency-Key.
    pub only: Option<usize>,
    /// Waiting in this tier ends here.
    pub patience: Option<Instant>,
    /// Addresses that did not answer in time, with whatever credential.
    pub late: Vec<(usize, usize)>,
    /// This is a hedge: not at the address of the attempt that it stands beside.
    pub beside: Option<(usize, usize)>,
    /// Where the attempt is that may be hedged.
    pub place: Option<Rc<Cell<(usize, usize)>>>,
}

/// An endpoint that was asked.
#[derive(Clone, Copy, Debug)]
pub struct TriedEndpoint {
    pub tier: usize,
    pub index: usize,
    pub credential: usize,
    pub times: u32,
    pub again: RetryTime,
}

/// When an endpoint may be asked again by the same request.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum RetryTime {
    /// The attempt is out, or it timed out: not by this request.
    Never,
    /// Nothing reached it: only where nobody else is left, and not before.
    LastResort(Instant),
    At(Instant),
}

/// Why no further attempt is made.
#[derive(Debug)]
pub struct RetryDenied {
    /// As the access log has it.
    pub why: &'static str,
    pub kind: ProblemKind,
    pub retry_after: Option<Duration>,
    /// For people, where the kind does not say all.
    pub detail: Option<String>,
}

impl ProxyRequest {
    /// A request as its route has it, before what it says itself, and without a body.
    pub fn new(
        (worker, client): (&Rc<Worker>, &Rc<Client>),
        route: &Arc<Route>,
        record: Box<AccessRecord>,
        (method, uri, headers): (Method, Uri, HeaderMap),
    ) -> Box<ProxyRequest> {
        Box::new(ProxyRequest {
            worker: Rc::clone(worker),
            client: Rc::clone(client),
            timer: Rc::clone(&client.timer),
            route: Arc::clone(route),
            method,
            uri,
            asked_uri: None,
            headers,
            tokens: 1.0,
            deadline: record.started + route.policy.timeout,
            body: RequestBody::empty(record.started),
            record,
            upgrade: None,
            overrides: Overrides::default(),
            idempotence: route.policy.idempotent,
            attempts: Attempts::default(),
            partial: None,
            circuits: RefCell::default(),
            session: None,
            class: 0,
            flow: 0,
            place: None,
            turns: Vec::new(),
            looks_again: 0,
            stored: None,
            reduced: false,
            conditions: None,
            hurries: false,
            is_job: false,
        })
    }

    /// Its body is here, or is known to go once: now its time runs.
    pub fn has(&mut self, body: RequestBody) {
        let timeout = self.overrides.timeout.unwrap_or(self.route.policy.timeout);
        self.deadline = body.taken() + timeout;
        self.body = body;
        self.estimate_tokens();
    }

    /// After its body was changed.
    pub fn estimate_tokens(&mut self) {
        self.tokens = tokens(&self.body);
    }

    pub fn candidate(route: &Route, tier: usize, index: usize) -> &EndpointCandidate {
        &route.tiers[tier].candidates[index]
    }

    /// The retry policy in whose name the next step is decided: the provider's own stands over the
    /// route's.
    pub fn retry<'r>(&self, route: &'r Route) -> &'r Retry {
        let last = self.attempts.asked.last();
        let own = last.and_then(|asked| {
            Self::candidate(route, asked.tier, asked.index).provider.policy.retry.as_ref()
        });
        own.unwrap_or(&route.policy.retry)
    }

    /// For what of an answer is withheld.
    pub fn reservation(&self) -> Reservation {
        self.worker.live.buffers.reservation()
    }

    /// Why the next attempt is made.
    pub fn turn(&self) -> AttemptKind {
        if self.attempts.beside.is_some() {
            AttemptKind::Hedge
        } else if self.partial.is_some() {
            AttemptKind::Continuation
        } else if self.attempts.asked.is_empty() {
            AttemptKind::First
        } else {
            AttemptKind::Retry
        }
    }

    pub fn has_key(&self) -> bool {
        self.headers.contains_key(IDEMPOTENCY_KEY)
    }

    /// RFC 9110, 9.2.2.
    pub fn is_idempotent_method(&self) -> bool {
        self.method.is_idempotent()
    }

    /// Attempts that may still be made in a tier.
    pub fn left_in(&self, route: &Route, tier: usize) -> u32 {
        let limit = self.overrides.attempts(self.retry(route), tier > 0);
        let used = if tier == self.attempts.tier { self.attempts.in_tier } else { 0 };
        limit.saturating_sub(used)
    }
}

fn tokens(body: &RequestBody) -> f64 {
    (body.len() as f64 / BYTES_A_TOKEN).max(1.0)
}

impl Attempts {
    pub fn asked(&self, tier: usize, index: usize, credential: usize) -> Option<&TriedEndpoint> {
        let same =
            |a: &&TriedEndpoint| (a.tier, a.index, a.credential) == (tier, index, credential);
        self.asked.iter().find(same)
    }

    /// Notes an attempt; until it is over the endpoint is not asked again.
    pub fn begin(&mut self, tier: usize, index: usize, credential: usize) {
        if tier != self.tier {
            self.down_to(tier);
        }
        self.in_tier += 1;
        let same = |a: &TriedEndpoint| (a.tier, a.index, a.credential) == (tier, index, credential);
        let times = match self.asked.iter().position(same) {
            Some(at) => self.asked.remove(at).times + 1,
            None => 1,
        };
        self.asked.push(TriedEndpoint { tier, index, credential, times, again: RetryTime::Never });
    }

    /// Notes what came of the attempt at an endpoint.
    pub fn end(
        &mut self,
        tier: usize,
        index: usize,
        credential: usize,
        again: impl FnOnce(u32) -> RetryTime,
    ) {
        let same =
            |a: &&mut TriedEndpoint| (a.tier, a.index, a.credential) == (tier, index, credential);
        if let Some(asked) = self.asked.iter_mut().find(same) {
            asked.again = again(asked.times);
        }
    }

    /// Tells a hedge where this attempt is.
    pub fn went(&self, place: (usize, usize)) {
        if let Some(shared) = &self.place {
            shared.set(place);
        }
    }

    pub fn down_to(&mut self, tier: usize) {
        self.tier = tier;
        self.in_tier = 0;
        self.patience = None;
    }
}

impl RetryDenied {
    pub fn new(why: &'static str, kind: ProblemKind) -> RetryDenied {
        RetryDenied { why, kind, retry_after: None, detail: None }
    }

    pub fn problem(&self, route: &Route) -> Problem {
        let name = &route.policy.name;
        let detail = match self.kind {
            ProblemKind::BreakerOpen => {
                format!("route `{name}`: the breakers of its providers are open")
            }
            ProblemKind::Drained => {
                format!("route `{name}`: its providers are drained (outrigger undrain PROVIDER)")
            }
            ProblemKind::Held => {
                format!("route `{name}`: its providers asked to wait for longer than may be waited")
            }
            ProblemKind::NoCapacity => format!(
                "route `{name}`: its providers have as many attempts in flight as their `capacity` allows"
            ),
            ProblemKind::Deadline => {
                format!("route `{name}`: its timeout passed before a provider could be asked")
            }
            _ => format!("route `{name}`: {}", self.why),
        };
        let detail = self.detail.clone().unwrap_or(detail);
        Problem::new(self.kind, detail).retry_after(self.retry_after)
    }

    /// Says in the provider's answer why it is the last one (`Proxy-Status`, RFC 9209).
    pub fn tell(&self, head: &mut Parts) {
        let (status, why) = (head.status.as_u16(), self.words());
        let text = format!("outrigger; received-status={status}; details=\"not repeated: {why}\"");
        if let Ok(value) = HeaderValue::try_from(text) {
            head.headers.append(PROXY_STATUS, value);
        }
    }

    /// What forbade another attempt, for people.
    pub fn words(&self) -> &'static str {
        match self.why {
            "may_have_been_processed" => "the provider may have processed it",
            "body_went_once" => "its body could be sent only once",
            "budget" => "the route's retry budget is spent",
            "cost_budget" => "the route's cost budget is spent",
            "deadline" => "the route's timeout passed",
            "attempts_spent" => "its attempts are spent",
            "queue-full" | "queue-share" | "queue-wait-too-long" => {
                "its queue has no place for another wait"
            }
            _ => "nobody else could be asked",
        }
    }

    /// Another attempt could have been made, but for this.
    pub fn after(class: AttemptClass) -> ProblemKind {
        match class {
            AttemptClass::Throttled => ProblemKind::Held,
            _ => ProblemKind::Unreachable,
        }
    }
}
