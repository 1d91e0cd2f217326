//! A valid policy: what the rest of the house works with.
//!
//! These types cannot hold a wrong value: references are resolved to indices, patterns are
//! compiled, times and sizes are numbers, defaults are filled in. Only `validate.rs` makes them.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use http::{HeaderName, HeaderValue, Method};
use regex_lite::Regex;

pub use super::answers::{
    BodyCheck, Buffer, ClassifyRule, Commit, Mark, OnCut, Price, Stream, Usage,
};
pub use super::caches::{Cache, Keeps, KeyPart};
pub use super::lanes::{Accept, Callback, Class, Durable, PostTo, Queue};
use super::matcher::{HeaderMatch, HostPattern, PathPattern};
pub use super::modes::{Action, Degradation, Notify, Of, Reduction, Respond, RespondKind, Sign};
use crate::json::pointer::Pointer;
use crate::resilience::balance::balancer::BalanceAlgorithm;
use crate::resilience::breaker::BreakerPolicy;
use crate::resilience::outcome::{ClassSet, Idempotence};
use crate::resilience::rate::gcra::RatePolicy;
use crate::resilience::retry::backoff::BackoffPolicy;
use crate::resilience::retry::budget::RetryBudgetPolicy;
use crate::resilience::retry::cost_budget::CostBudgetPolicy;
use crate::resilience::retry::hedge::HedgePolicy;

/// Everything that the files say, merged and checked.
#[derive(Clone, Debug)]
pub struct Policy {
    pub server: Server,
    /// In the order of their names; routes refer to them by index.
    pub providers: Vec<Provider>,
    /// In the order of their names; routes refer to them by index. `default` is always there.
    pub queues: Vec<Queue>,
    /// In the order of their names; routes refer to them by index.
    pub caches: Vec<Cache>,
    /// In the order of their names; routes refer to them by index. Disabled ones are left out.
    pub degradations: Vec<Degradation>,
    /// In the order in which they are tried: file name, then place in the file. Disabled ones are left out.
    pub routes: Vec<Route>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Server {
    pub connections: usize,
    /// Bytes of all replay and stream buffers together.
    pub buffered: u64,
    pub header_bytes: usize,
    pub header_time: Duration,
    pub keep_alive: Duration,
    pub forwarded: Forwarded,
    pub tls: Option<Identity>,
    pub access_log: AccessLog,
    pub drain_delay: Duration,
    pub drain_timeout: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Forwarded {
    Off,
    /// `Via`, `Forwarded` and `X-Forwarded-*` are added to each request.
    Append,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccessLog {
    pub to: LogTarget,
    pub format: LogFormat,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogTarget {
    Stderr,
    File(PathBuf),
    None,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    Json,
    Text,
}

/// A PEM file that was read when the policy was loaded.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Pem {
    pub path: PathBuf,
    pub bytes: Vec<u8>,
}

/// A certificate and its private key.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Identity {
    pub cert: Pem,
    pub key: Pem,
}

#[derive(Clone, Debug)]
pub struct Provider {
    pub name: String,
    /// At least one.
    pub addresses: Vec<Address>,
    pub set_headers: Vec<(HeaderName, HeaderValue)>,
    pub remove_headers: Vec<HeaderName>,
    pub tls: ClientTls,
    pub proxy: Option<ForwardProxy>,
    /// The application's model name to this provider's.
    pub models: Vec<(String, String)>,
    pub rewrite: Rewrite,
    pub timeouts: Timeouts,
    pub capacity: Capacity,
    /// `None`: `breaker: none`.
    pub breaker: Option<Breaker>,
    /// This provider's own retry policy; stands over the route's.
    pub retry: Option<Retry>,
    pub classify: Vec<ClassifyRule>,
    /// Models, as this provider calls them, that continue a last message of the assistant's.
    pub prefill: Vec<String>,
    pub usage: Usage,
    pub price: Option<Price>,
}

/// Where a provider can be reached. Its name is part of the keys of live state.
#[derive(Clone, Debug)]
pub struct Address {
    pub name: String,
    pub url: Url,
    /// At least 1.
    pub weight: u32,
    pub auth: Auth,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Url {
    pub https: bool,
    /// Without brackets, when it is an IPv6 address.
    pub host: String,
    pub port: u16,
    /// As the `Host` header has it: brackets where needed, no default port.
    pub authority: String,
    /// Put before the path of each request; empty, or `/...` without a slash at its end.
    pub path: String,
}

#[derive(Clone, Debug)]
pub enum Auth {
    None,
    /// The application's own credential headers are passed on.
    Passthrough,
    /// Used side by side; at least one.
    Credentials(Vec<Credential>),
}

#[derive(Clone)]
pub struct Credential {
    /// How the policy refers to it (`env:OPENAI_KEY_A`, `file:/run/secrets/b`, `inline`): never its value.
    pub reference: String,
    pub header: HeaderName,
    /// Marked sensitive.
    pub value: HeaderValue,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct ClientTls {
    /// Instead of the system's roots.
    pub ca: Option<Pem>,
    pub identity: Option<Identity>,
    pub server_name: Option<String>,
}

/// A proxy that is asked to CONNECT.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct ForwardProxy {
    pub url: Url,
    /// `Proxy-Authorization`, from the userinfo of the URL.
    pub authorization: Option<HeaderValue>,
}

#[derive(Clone, Debug, Default)]
pub struct Rewrite {
    /// The first match of the pattern in the path is replaced.
    pub path: Option<(Regex, String)>,
    /// Values as JSON text.
    pub set: Vec<(Pointer, String)>,
    pub remove: Vec<Pointer>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    pub connect: Duration,
    pub headers: Duration,
    pub first_byte: Duration,
    pub idle: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Capacity {
    /// Attempts in flight at the provider.
    pub concurrency: u32,
    /// The limit moves below `concurrency` with latency.
    pub adaptive: bool,
    /// Attempts a second; `None`: as many as there are.
    pub requests: Option<RatePolicy>,
    /// Tokens a second; `None`: as many as there are.
    pub tokens: Option<RatePolicy>,
    /// What the provider's `x-ratelimit-*` headers say is left is believed.
    pub follow_headers: bool,
    /// Per worker and address.
    pub connections: usize,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Breaker {
    pub name: String,
    pub scope: Scope,
    /// `probe_lease` is made from the provider's timeouts.
    pub policy: BreakerPolicy,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    Address,
    Model,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Retry {
    pub name: String,
    pub max_attempts: u32,
    pub fallback_attempts: u32,
    pub patience: Duration,
    pub backoff: BackoffPolicy,
    pub retry_on: ClassSet,
    pub respect_retry_after: bool,
    pub budget: RetryBudgetPolicy,
    /// What repeats and hedges may cost; `None`: they are not stopped by it.
    pub cost: Option<Cost>,
}

/// A bound on what repeats cost.
#[derive(Clone, Debug, PartialEq)]
pub struct Cost {
    pub policy: CostBudgetPolicy,
    /// Three capital letters (ISO 4217).
    pub currency: String,
}

#[derive(Clone, Debug)]
pub struct Route {
    pub name: String,
    pub matcher: Match,
    pub strip_prefix: Option<String>,
    /// At least one.
    pub providers: Vec<Weighted>,
    pub balance: BalanceAlgorithm,
    /// Indices into `Policy::providers`.
    pub fallback: Vec<usize>,
    pub fallback_on: ClassSet,
    pub idempotent: Idempotence,
    pub timeout: Duration,
    pub retry: Retry,
    /// Bytes.
    pub replay: u64,
    pub allow_override: AllowOverride,
    pub stream: Stream,
    pub hedge: Option<HedgePolicy>,
    pub affinity: Option<Affinity>,
    /// Index into `Policy::queues`. `None`: `queue: none`, nothing waits.
    pub queue: Option<usize>,
    /// The queue's durable lane takes jobs of this route.
    pub durable: bool,
    /// Index into `Policy::caches`. `None`: nothing is stored.
    pub cache: Option<usize>,
    /// Indices into `Policy::degradations`, in the order in which their actions apply.
    pub degrade: Vec<usize>,
    /// Providers that a mode of `degrade` may use, beside its own. Indices into `Policy::providers`.
    pub used: Vec<usize>,
}

/// Requests with the same value of a header go to the same address, while it can be asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Affinity {
    pub header: HeaderName,
    /// Since it was asked last.
    pub ttl: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Weighted {
    /// Index into `Policy::providers`.
    pub provider: usize,
    /// At least 1.
    pub weight: u32,
}

/// All of what is given must match.
#[derive(Clone, Debug)]
pub struct Match {
    pub path: PathPattern,
    /// Empty: any.
    pub methods: Vec<Method>,
    pub host: Option<HostPattern>,
    pub headers: Vec<(HeaderName, HeaderMatch)>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AllowOverride {
    pub timeout: bool,
    pub retry: bool,
    pub idempotent: bool,
    pub priority: bool,
}

impl Provider {
    /// Tokens are counted where the policy says where to find them, or what they cost.
    pub fn counts_tokens(&self) -> bool {
        self.price.is_some() || self.usage != Usage::default()
    }

    /// Something of this policy depends on what is in this provider's answers, so that they may not
    /// come compressed.
    pub fn reads_answers(&self) -> bool {
        let reads = |rule: &ClassifyRule| {
            rule.body.is_some() || !(rule.json.is_empty() && rule.event.is_empty())
        };
        self.counts_tokens() || !self.prefill.is_empty() || self.classify.iter().any(reads)
    }
}

impl Rewrite {
    pub fn changes_body(&self) -> bool {
        !(self.set.is_empty() && self.remove.is_empty())
    }
}

// === impl: what must not be printed ===

impl fmt::Debug for Pem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pem({})", self.path.display())
    }
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Credential({})", self.reference)
    }
}

impl fmt::Debug for ForwardProxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ForwardProxy({})", self.url.authority)
    }
}
