//! The limits of one request: its deadline, its overrides, its place in the queue.

use std::time::Instant;

use super::body::RequestBody;
use super::overrides::Overrides;
use super::token_estimate::{estimate_tokens, tokens_of_length};
use crate::policy::sections::model::Retry;
use crate::resilience::outcome::Idempotence;
use crate::snapshot::Route;

#[derive(Clone, Debug)]
pub struct RequestLimits {
    deadline: Instant,
    /// When the client gives up.
    client_deadline: Option<Instant>,
    idempotence: Idempotence,
    overrides: Overrides,
    class: usize,
    flow: u64,
    tokens: f64,
    is_job: bool,
}

impl RequestLimits {
    /// The route's limits, for a request that started then.
    pub fn new(route: &Route, started: Instant) -> RequestLimits {
        RequestLimits {
            deadline: started + route.policy.timeout,
            client_deadline: None,
            idempotence: route.policy.idempotent,
            overrides: Overrides::default(),
            class: 0,
            flow: 0,
            tokens: 1.0,
            is_job: false,
        }
    }

    pub fn set_overrides(&mut self, overrides: Overrides) {
        self.idempotence = overrides.idempotent.unwrap_or(self.idempotence);
        self.overrides = overrides;
    }

    /// The request's class in its queue, and the flow it shares that class with.
    pub fn set_queue(&mut self, class: usize, flow: u64) {
        (self.class, self.flow) = (class, flow);
    }

    /// Copies the class, the flow and the idempotence of another request.
    pub fn inherit(&mut self, other: &RequestLimits) {
        self.set_queue(other.class, other.flow);
        self.idempotence = other.idempotence;
    }

    /// The request is run as a job: it is retried later rather than shed.
    pub fn set_job(&mut self) {
        self.is_job = true;
    }

    /// The client gives up at this time. An override of the timeout takes precedence.
    pub fn set_client_deadline(&mut self, deadline: Instant) {
        self.client_deadline = Some(deadline).filter(|_| self.overrides.timeout.is_none());
    }

    /// Starts the request's timeout.
    pub fn start_timeout(&mut self, route: &Route, now: Instant) {
        let deadline = now + self.overrides.timeout.unwrap_or(route.policy.timeout);
        self.deadline = self.client_deadline.map_or(deadline, |client| client.min(deadline));
    }

    /// Starts the timeout for the rest of a response: its client reads it already.
    pub fn restart_timeout(&mut self, route: &Route, now: Instant) {
        self.client_deadline = None;
        self.start_timeout(route, now);
    }

    pub fn set_deadline(&mut self, deadline: Instant) {
        self.deadline = deadline;
    }

    /// Estimates the tokens of a body.
    pub fn estimate_tokens(&mut self, body: &RequestBody) {
        self.tokens = match body.original() {
            Some(bytes) => estimate_tokens(bytes),
            None => tokens_of_length(body.len()),
        };
    }

    pub fn deadline(&self) -> Instant {
        self.deadline
    }

    pub fn idempotence(&self) -> Idempotence {
        self.idempotence
    }

    /// Index of the request's class in its queue.
    pub fn class(&self) -> usize {
        self.class
    }

    /// Flows of a class take turns.
    pub fn flow(&self) -> u64 {
        self.flow
    }

    /// Estimated tokens that an attempt takes from a provider's quota.
    pub fn tokens(&self) -> f64 {
        self.tokens
    }

    pub fn is_job(&self) -> bool {
        self.is_job
    }

    /// The client set the timeout itself.
    pub fn has_own_timeout(&self) -> bool {
        self.overrides.timeout.is_some() || self.client_deadline.is_some()
    }

    /// The client allows one attempt only.
    pub fn is_single_attempt(&self) -> bool {
        self.overrides.max_attempts == Some(1)
    }

    /// Attempts on the route's providers (`fallback` false) or on each of its fallbacks.
    pub fn max_attempts(&self, retry: &Retry, fallback: bool) -> u32 {
        self.overrides.attempts(retry, fallback)
    }
}
