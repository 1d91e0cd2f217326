//! What a file says of capacity and of waiting for it, exactly as written; see `raw.rs`.

use schemars::JsonSchema;
use serde::Deserialize;

use super::model::Accept;
use crate::policy::yaml::types::{At, Count, Entries, Length, Rate, Size, TextOr, Word};

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Capacity")]
pub struct RawCapacity {
    /// Attempts in flight. Default 1024.
    pub concurrency: Option<At<Count>>,
    /// Whether the limit moves below `concurrency` with latency. Default false.
    pub adaptive: Option<At<bool>>,
    /// Attempts in a time: `500/min`, or `{ rate: 500/min, burst: 20 }`; by default the burst is what one second brings, at least 1. Default none.
    pub requests: Option<At<TextOr<RawRate>>>,
    /// Tokens in a time, estimated on admission and settled on the answer's usage: `200k/min`, or `{ rate: 200k/min, burst: 50k }`; by default the burst is a tenth of the written amount, at least 1 (20k for 200k/min). Default none.
    pub tokens: Option<At<TextOr<RawRate>>>,
    /// Whether attempts are paced by what the provider's own `x-ratelimit-*` headers say is left. Default true.
    pub follow_headers: Option<At<bool>>,
    /// Per worker and address. Default 256.
    pub connections: Option<At<Count>>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "RateLimit")]
pub struct RawRate {
    #[schemars(required)]
    pub rate: Option<At<Rate>>,
    /// What may be taken at once. Default: of requests what one second brings, of tokens a tenth of the written amount; at least 1.
    pub burst: Option<At<Count>>,
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Queue")]
pub struct RawQueue {
    /// Requests that wait at once. Default 1000.
    pub max_waiting: Option<At<Count>>,
    /// Of the bodies that wait. Default 64MiB.
    pub max_bytes: Option<At<Size>>,
    /// How long one request waits. Default 30s.
    pub max_wait: Option<At<Length>>,
    /// Up to 8 names with their weights, the highest first: the order is priority 0, 1, 2. Default high 8, normal 4, low 1.
    pub classes: Option<At<Entries<Count>>>,
    /// Which of `classes` a request is in.
    pub class: Option<At<RawClassOf>>,
    /// Requests with the same value of a header take turns with others of their class. Default none.
    pub flow: Option<At<RawFlow>>,
    /// Requests that become jobs: answered 202 when they are written down, and done later.
    pub durable: Option<At<RawDurable>>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "ClassOf")]
pub struct RawClassOf {
    /// Holds the name of a class, or its place. Default none.
    pub header: Option<At<String>>,
    /// Of requests that say nothing. Default `normal` where there is one, else the last of `classes`.
    pub default: Option<At<String>>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Flow")]
pub struct RawFlow {
    #[schemars(required)]
    pub header: Option<At<String>>,
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Durable")]
pub struct RawDurable {
    /// Which requests become jobs: `prefer` those with `Prefer: respond-async` (RFC 7240). Default prefer.
    pub accept: Option<At<Word<Accept>>>,
    /// Jobs that run at once. Default 16.
    pub workers: Option<At<Count>>,
    /// Default 100000.
    pub max_jobs: Option<At<Count>>,
    /// Of the bodies of jobs that are not done. Default 1GiB.
    pub max_bytes: Option<At<Size>>,
    /// A job that was begun so often without an end is dead. Default 5.
    pub max_deliveries: Option<At<Count>>,
    /// A job that was not done by then never is. Default 24h.
    pub expire: Option<At<Length>>,
    /// How long a result can be fetched. Default 24h.
    pub keep_result: Option<At<Length>>,
    /// Of a result's body; more is cut off, and marked so. Default 1MiB.
    pub max_result: Option<At<Size>>,
    /// Whether any host of the fleet may run the jobs; their bodies go to Redis then. Without `--redis` they stay on their host. Default false.
    pub share: Option<At<bool>>,
    /// Where results may be posted to. Default nowhere.
    pub callback: Option<At<RawCallback>>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Callback")]
pub struct RawCallback {
    /// URLs like `https://app.internal/hooks/**`: scheme, host and port are equal, in the path `*` stands for one segment and `**` for the rest.
    #[schemars(required)]
    pub allow: Option<At<Vec<At<String>>>>,
    /// Signs what is posted (Standard Webhooks), like `${env:WEBHOOK_SECRET}`. Default: unsigned.
    pub secret: Option<At<String>>,
}
