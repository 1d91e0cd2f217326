//! The section `degradations` exactly as written; see `raw.rs`.

use schemars::JsonSchema;
use serde::Deserialize;

use super::raw::{RawHeaders, RawRewriteBody, RawRewritePath};
use crate::policy::yaml::types::{At, Count, Entries, Json, Length, Share, Word};
use crate::resilience::breaker::EnforcementMode;

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Degradation")]
pub struct RawDegradation {
    /// Default true.
    pub enabled: Option<At<bool>>,
    /// `shadow`: entered, left and told, but of its actions only `notify` is done. Default enforce.
    pub mode: Option<At<Word<EnforcementMode>>>,
    #[schemars(required)]
    pub when: Option<At<RawCondition>>,
    /// How long the condition holds before the mode is entered. Default 5s.
    #[serde(rename = "for")]
    pub hold: Option<At<Length>>,
    /// How long the condition is gone before the mode is left. Default 30s.
    pub recover_after: Option<At<Length>>,
    /// In order. Where several modes are in force, they follow each other as the route lists them under `degrade`.
    #[schemars(required)]
    pub actions: Option<At<Vec<At<RawAction>>>>,
}

/// One of them.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Condition")]
pub struct RawCondition {
    /// At least one of them holds.
    pub any: Option<At<Vec<At<RawCondition>>>>,
    /// Each of them holds.
    pub all: Option<At<Vec<At<RawCondition>>>>,
    /// A provider of which no address admits.
    pub breaker_open: Option<At<String>>,
    pub error_rate: Option<At<RawErrorRate>>,
    pub latency: Option<At<RawLatency>>,
    pub queue_waiting: Option<At<RawQueueWaiting>>,
    pub capacity_used: Option<At<RawCapacityUsed>>,
    /// `true`: the mode is entered by hand only.
    pub manual: Option<At<bool>>,
}

/// The share of a route's requests, or of a provider's attempts, that failed.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "ErrorRate")]
pub struct RawErrorRate {
    /// A route or a provider.
    #[schemars(required)]
    pub of: Option<At<String>>,
    #[schemars(required)]
    pub above: Option<At<Share>>,
    /// Default 30s.
    pub over: Option<At<Length>>,
    /// With fewer in that time it does not hold. Default 20.
    pub min_requests: Option<At<Count>>,
}

/// How long a route's requests take to the commit, or a provider's attempts to their head.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Latency")]
pub struct RawLatency {
    /// A route or a provider.
    #[schemars(required)]
    pub of: Option<At<String>>,
    /// One of the three.
    pub p50_above: Option<At<Length>>,
    pub p95_above: Option<At<Length>>,
    pub p99_above: Option<At<Length>>,
    /// Default 1m.
    pub over: Option<At<Length>>,
    /// With fewer in that time it does not hold. Default 20.
    pub min_requests: Option<At<Count>>,
}

/// Requests that wait in a queue.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "QueueWaiting")]
pub struct RawQueueWaiting {
    /// A queue.
    #[schemars(required)]
    pub of: Option<At<String>>,
    #[schemars(required)]
    pub above: Option<At<Count>>,
}

/// The largest share that is used of what a provider's `capacity` allows.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "CapacityUsed")]
pub struct RawCapacityUsed {
    /// A provider.
    #[schemars(required)]
    pub of: Option<At<String>>,
    #[schemars(required)]
    pub above: Option<At<Share>>,
}

/// One of them; `body`, `models`, `headers` and `path` may stand together.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Action")]
pub struct RawAction {
    pub body: Option<At<RawRewriteBody>>,
    /// The application's name of a model to that of another.
    pub models: Option<At<Entries<String>>>,
    pub headers: Option<At<RawHeaders>>,
    pub path: Option<At<RawRewritePath>>,
    /// These providers, in order, instead of the route's.
    #[serde(rename = "use")]
    pub providers: Option<At<Vec<At<String>>>>,
    /// What the route's cache has is the answer, if it went stale no longer ago than this.
    pub serve_stale: Option<At<Length>>,
    /// Requests of this class, and of those below it, get 503 with Retry-After.
    pub shed: Option<At<String>>,
    /// This is the answer; behind it only `notify` may stand.
    pub respond: Option<At<RawRespond>>,
    /// Told on entry and on leaving.
    pub notify: Option<At<RawNotify>>,
}

/// In headers and body, `{{request_id}}`, `{{retry_after}}` (seconds) and `{{mode}}` are filled in.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Respond")]
pub struct RawRespond {
    /// Default 503.
    pub status: Option<At<Count>>,
    pub headers: Option<At<Entries<String>>>,
    /// One of the three is the body, if there is one.
    pub json: Option<At<Json>>,
    pub text: Option<At<String>>,
    /// A file, read when the policy is loaded.
    pub file: Option<At<String>>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Notify")]
pub struct RawNotify {
    /// Where JSON with a `text` is posted to, as chat webhooks take it; `${env:NAME}` or `${file:PATH}` where it is a secret.
    #[schemars(required)]
    pub url: Option<At<String>>,
    /// Hosts that the URL may name, exact or like `*.slack.com`. Default: any.
    pub allow: Option<At<Vec<At<String>>>>,
    /// Signs what is posted (Standard Webhooks). Default: unsigned.
    pub secret: Option<At<String>>,
}
