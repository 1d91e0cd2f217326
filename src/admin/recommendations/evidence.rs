//! The figures that the rules judge.

use std::time::Duration;

/// Figures of the last hour, as far as the sidecar ran.
#[derive(Clone, Debug, Default)]
pub(super) struct Evidence {
    pub providers: Vec<ProviderEvidence>,
    pub endpoints: Vec<EndpointEvidence>,
    pub routes: Vec<RouteEvidence>,
    pub caches: Vec<CacheEvidence>,
}

#[derive(Clone, Debug, Default)]
pub(super) struct ProviderEvidence {
    pub name: String,
    /// Samples, 10 s apart.
    pub samples: usize,
    /// Samples with as many attempts in flight as the limit allows.
    pub at_limit: usize,
    /// The last limit.
    pub limit: f64,
    /// Requests that waited for capacity, on average.
    pub waiting: f64,
    pub source: Option<String>,
}

#[derive(Clone, Debug, Default)]
pub(super) struct EndpointEvidence {
    /// `PROVIDER/ENDPOINT`.
    pub key: String,
    pub attempts: u64,
    /// How often a breaker opened, other than manually.
    pub opened: u64,
    pub source: Option<String>,
}

#[derive(Clone, Debug, Default)]
pub(super) struct RouteEvidence {
    pub name: String,
    pub requests: u64,
    /// Requests of this route since the start.
    pub since_start: u64,
    /// Requests of all routes since the start.
    pub of_all_routes: u64,
    /// Load is balanced by weight.
    pub is_weighted: bool,
    pub shares: Vec<ShareEvidence>,
    pub retries: Vec<RetryEvidence>,
    /// Requests that the route's time limit ended.
    pub timed_out: u64,
    pub timeout: Duration,
    /// Failed attempts that no retry followed because the provider may have processed the request.
    pub not_repeatable: u64,
    pub has_fallback: bool,
    pub source: Option<String>,
    pub providers_source: Option<String>,
    pub retry_source: Option<String>,
    pub timeout_source: Option<String>,
    pub fallback_source: Option<String>,
}

#[derive(Clone, Debug, Default)]
pub(super) struct ShareEvidence {
    pub endpoint: String,
    pub wanted: f64,
    pub seen: f64,
    pub attempts: u64,
    /// Other routes send to the endpoint as well.
    pub is_shared: bool,
}

#[derive(Clone, Debug, Default)]
pub(super) struct RetryEvidence {
    pub reason: String,
    pub count: u64,
    pub succeeded: u64,
}

#[derive(Clone, Debug, Default)]
pub(super) struct CacheEvidence {
    pub name: String,
    /// Requests that looked for a stored response, and those that might not.
    pub requests: u64,
    /// Requests that a stored or a shared response completed.
    pub hits: u64,
    pub bypassed: u64,
    pub source: Option<String>,
}
