//! The sections `retries` and `breakers` exactly as written; see `raw.rs`.

use schemars::JsonSchema;
use serde::Deserialize;

use super::model::Scope;
use crate::policy::yaml::types::{At, Count, Length, Number, Share, Spend, SwitchOr, TextOr, Word};
use crate::resilience::breaker::EnforcementMode;
use crate::resilience::outcome::AttemptClass;
use crate::resilience::retry::backoff::Jitter;

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Retry")]
pub struct RawRetry {
    /// On the route's `providers`, the first one included. Default 3.
    pub max_attempts: Option<At<Count>>,
    /// Then on each of `fallback`. Default 1.
    pub fallback_attempts: Option<At<Count>>,
    /// A wait up to this is spent on `providers`; a longer one moves to `fallback`. Default 5s.
    pub patience: Option<At<Length>>,
    /// Before the same endpoint is asked again. Default 100ms.
    pub initial_delay: Option<At<Length>>,
    /// Default 10s.
    pub max_delay: Option<At<Length>>,
    /// Default 2.0.
    pub backoff_multiplier: Option<At<Number>>,
    /// Default full.
    pub jitter: Option<At<Word<Jitter>>>,
    /// Default unsent, failure, throttled.
    pub retry_on: Option<At<Vec<At<Word<AttemptClass>>>>>,
    /// Default true.
    pub respect_retry_after: Option<At<bool>>,
    pub budget: Option<At<RawBudget>>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Budget")]
pub struct RawBudget {
    /// Repeats for each first attempt. Default 0.2.
    pub ratio: Option<At<Share>>,
    /// Repeats that are always allowed. Default 1.
    pub min_per_second: Option<At<Number>>,
    /// Default 10s.
    pub window: Option<At<Length>>,
    /// What repeats and hedges may cost, by the prices of the providers. Default none.
    pub cost: Option<At<Spend>>,
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Breaker")]
pub struct RawBreaker {
    /// Default address.
    pub scope: Option<At<Word<Scope>>>,
    /// Consecutive failures; 0 is off. Default 5.
    pub failure_threshold: Option<At<Count>>,
    /// Default above 0.5 over 30s of at least 20 requests; `none` is off.
    pub failure_rate: Option<At<TextOr<RawFailureRate>>>,
    /// Off by default.
    pub slow_rate: Option<At<TextOr<RawSlowRate>>>,
    /// How long it stays open the first time. Default 5s.
    pub recovery_timeout: Option<At<Length>>,
    /// With each trip in a row. Default 2.0.
    pub backoff_multiplier: Option<At<Number>>,
    /// Default 60s.
    pub max_recovery_timeout: Option<At<Length>>,
    /// Probes that must succeed. Default 2.
    pub success_threshold: Option<At<Count>>,
    /// Probes in flight at once. Default 1.
    pub probes: Option<At<Count>>,
    /// After closing: from 10 % to 100 % of the rate before the trip; 0s is off. Default 10s.
    pub ramp: Option<At<Length>>,
    /// `shadow` counts and reports, but rejects nothing. Default enforce.
    pub mode: Option<At<Word<EnforcementMode>>>,
    /// When the hosts of a fleet open it together, with Redis; `false`: each by itself. Default true.
    pub shared: Option<At<SwitchOr<RawShared>>>,
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Shared")]
pub struct RawShared {
    /// Hosts whose own breaker must have tripped, at least. Default 2.
    pub quorum: Option<At<Count>>,
    /// Of the hosts with traffic there, at least. Default 0.3.
    pub fraction: Option<At<Share>>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "FailureRate")]
pub struct RawFailureRate {
    /// Default 0.5.
    pub above: Option<At<Share>>,
    /// Default 30s.
    pub over: Option<At<Length>>,
    /// Default 20.
    pub min_requests: Option<At<Count>>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "SlowRate")]
pub struct RawSlowRate {
    /// To the first byte. Default 20s.
    pub slower_than: Option<At<Length>>,
    /// Default 0.8.
    pub above: Option<At<Share>>,
    /// Default 30s.
    pub over: Option<At<Length>>,
    /// Default 20.
    pub min_requests: Option<At<Count>>,
}
