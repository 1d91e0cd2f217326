//! What a policy says of hard times: which modes there are, when each is entered, what it does.

use std::fmt;
use std::time::Duration;

use http::{HeaderName, HeaderValue, StatusCode};

use super::lanes::{PostTo, Secret};
use super::model::Rewrite;
use crate::resilience::breaker::EnforcementMode;
use crate::resilience::condition::Condition;

/// A mode of degradation.
#[derive(Clone, Debug)]
pub struct Degradation {
    pub name: String,
    /// Shadow: it is entered and left, counted and reported, and does nothing but notify.
    pub mode: EnforcementMode,
    pub when: Condition<Sign>,
    /// `for`: how long the condition holds before the mode is entered.
    pub hold: Duration,
    /// How long the condition is gone before the mode is left.
    pub recover_after: Duration,
    /// At least one; nothing but `Notify` behind a `Respond`.
    pub actions: Vec<Action>,
}

/// What can be seen to be so or not.
#[derive(Clone, Debug, PartialEq)]
pub enum Sign {
    /// No address of it admits. An index into `Policy::providers`.
    BreakerOpen(usize),
    /// The share of what ended that ended badly.
    ErrorRate { of: Of, above: f64, over: Duration, min_requests: u32 },
    /// Of the time to the commit, or of an attempt to its head. `quantile` in (0, 1).
    Latency { of: Of, quantile: f64, above: Duration, over: Duration, min_requests: u32 },
    /// Requests that wait. An index into `Policy::queues`.
    QueueWaiting { queue: usize, above: u64 },
    /// The largest share of what a provider's `capacity` allows. An index into `Policy::providers`.
    CapacityUsed { provider: usize, above: f64 },
    /// Only by hand: never so by itself.
    Manual,
}

/// Whose requests or attempts are counted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Of {
    /// An index into `Policy::routes`.
    Route(usize),
    /// An index into `Policy::providers`.
    Provider(usize),
    /// A route that is disabled: nothing is ever seen of it.
    Nobody,
}

#[derive(Clone, Debug)]
pub enum Action {
    /// Reduced functionality: the request is changed before a provider's own rewriting.
    Reduce(Box<Reduction>),
    /// These are asked, in order, instead of the route's. Indices into `Policy::providers`; at least one.
    Use(Vec<usize>),
    /// What the route's cache has is the answer, when it went stale no longer ago than this.
    ServeStale(Duration),
    /// Requests of this class, and of those below it, are turned away.
    Shed(String),
    /// This is the answer.
    Respond(Box<Respond>),
    /// Told on entry and on leaving.
    Notify(Box<Notify>),
}

#[derive(Clone, Debug, Default)]
pub struct Reduction {
    /// Of path and body.
    pub rewrite: Rewrite,
    /// The application's name of a model to another that it could have asked for.
    pub models: Vec<(String, String)>,
    pub set_headers: Vec<(HeaderName, HeaderValue)>,
    pub remove_headers: Vec<HeaderName>,
}

/// An answer of ours. In header values and in the body, `{{request_id}}`, `{{retry_after}}` (whole
/// seconds) and `{{mode}}` are filled in.
#[derive(Clone, Debug)]
pub struct Respond {
    pub status: StatusCode,
    /// Values are valid with anything filled in that is a value itself.
    pub headers: Vec<(HeaderName, String)>,
    pub kind: RespondKind,
    /// In front of filling in; of JSON, its text.
    pub body: String,
}

/// What the body of an answer of ours is; in JSON, what is filled in is escaped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RespondKind {
    Json,
    Text,
}

/// Who is told.
#[derive(Clone)]
pub struct Notify {
    pub to: PostTo,
    /// How the policy refers to the URL, which may hold a secret: `env:ALERT_WEBHOOK`, or the URL itself.
    pub reference: String,
    /// Signs what is posted.
    pub secret: Option<Secret>,
}

impl fmt::Debug for Notify {
    /// The URL may be a secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Notify({})", self.reference)
    }
}
