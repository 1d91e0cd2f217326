//! The YAML exactly as written: which keys there are, and which form each value has.
//!
//! Nothing is resolved or checked here beyond the form of a single value; `validate.rs` does the
//! rest. A key whose behaviour does not exist is not here, so that it is refused rather than
//! accepted and ignored. What is said of a key here is what editors show (`schema.rs`).

use schemars::JsonSchema;
use serde::Deserialize;

use super::model::{Forwarded, LogFormat};
use super::raw_answers::{RawClassify, RawPrice, RawStream, RawUsage};
use super::raw_caches::RawCache;
use super::raw_degradations::RawDegradation;
use super::raw_queues::{RawCapacity, RawQueue};
use super::raw_rules::{RawBreaker, RawRetry};
use super::words::Override;
use crate::policy::yaml::types::{
    At, Count, Entries, Json, Length, OneOrMany, Share, Size, TextOr, Word,
};
use crate::resilience::balance::balancer::BalanceAlgorithm;
use crate::resilience::outcome::{AttemptClass, Idempotence};

/// A file of Outrigger's policy. All files of the directory are merged.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Policy")]
pub struct RawFile {
    /// The version of this language: 1.
    #[schemars(with = "Option<u32>", extend("const" = 1))]
    pub version: Option<At<String>>,
    /// The sidecar itself; in one file at most.
    pub server: Option<At<RawServer>>,
    /// The HTTP APIs that are called, by name.
    pub providers: Option<Entries<RawProvider>>,
    /// Which requests go where; the first that matches.
    pub routes: Option<Vec<At<RawRoute>>>,
    /// When an attempt is repeated, by name. `default` exists without being declared.
    pub retries: Option<Entries<RawRetry>>,
    /// When an address is left alone, by name. `default` exists without being declared.
    pub breakers: Option<Entries<RawBreaker>>,
    /// Where requests wait while no provider has room, by name. `default` exists without being declared.
    pub queues: Option<Entries<RawQueue>>,
    /// Where answers are stored, by name.
    pub caches: Option<Entries<RawCache>>,
    /// Modes for hard times, by name; up to 64.
    pub degradations: Option<Entries<RawDegradation>>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Server")]
pub struct RawServer {
    /// Past it: accepted last, with 503. Default 10000.
    pub connections: Option<At<Count>>,
    /// What all replay and stream buffers together may take: three quarters for their bytes, the rest for what holding them costs. Default 256MiB.
    pub buffered: Option<At<Size>>,
    /// The largest head of a request. Default 64KiB.
    pub header_bytes: Option<At<Size>>,
    /// How long the head of a request may take. Default 10s.
    pub header_time: Option<At<Length>>,
    /// How long an idle connection is kept. Default 75s.
    pub keep_alive: Option<At<Length>>,
    /// Whether `Via`, `Forwarded` and `X-Forwarded-*` are added. Default off.
    pub forwarded: Option<At<Word<Forwarded>>>,
    /// The listener's certificate; off by default.
    pub tls: Option<At<RawIdentity>>,
    pub access_log: Option<At<RawAccessLog>>,
    /// After SIGTERM: not ready, still accepting. Default 0s.
    pub drain_delay: Option<At<Length>>,
    /// After that: how long requests may take to end. Default 30s.
    pub drain_timeout: Option<At<Length>>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Identity")]
pub struct RawIdentity {
    /// A PEM file.
    #[schemars(required)]
    pub cert: Option<At<String>>,
    /// A PEM file.
    #[schemars(required)]
    pub key: Option<At<String>>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "AccessLog")]
pub struct RawAccessLog {
    /// `stderr` (default), `none`, or a file, which is opened again when it is moved.
    pub to: Option<At<String>>,
    /// Default json.
    pub format: Option<At<Word<LogFormat>>>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Provider")]
pub struct RawProvider {
    /// Its path is put before the path of each request.
    pub url: Option<At<String>>,
    /// Instead of `url`, where there are several.
    pub endpoints: Option<At<Vec<At<RawEndpoint>>>>,
    pub auth: Option<At<TextOr<RawAuth>>>,
    /// Changes to the headers of each request.
    pub headers: Option<At<RawHeaders>>,
    pub tls: Option<At<RawClientTls>>,
    /// CONNECT through this proxy. Default none.
    pub proxy: Option<At<String>>,
    /// The application's name of a model to this provider's, in the body's `/model`.
    pub models: Option<At<Entries<String>>>,
    pub rewrite: Option<At<RawRewrite>>,
    pub timeouts: Option<At<RawTimeouts>>,
    /// What it takes at once and in a time; what has no room waits in the route's queue.
    pub capacity: Option<At<RawCapacity>>,
    /// Models, as this provider calls them, that continue a last message of the assistant's. Default none.
    pub prefill: Option<At<Vec<At<String>>>>,
    /// Where an answer says how many tokens it took.
    pub usage: Option<At<RawUsage>>,
    /// What tokens cost; for cost metrics and cost budgets. Default none.
    pub price: Option<At<RawPrice>>,
    /// A name under `breakers`, or `none`.
    pub breaker: Option<At<String>>,
    /// A name under `retries`, or `none`; stands over the route's.
    pub retry: Option<At<String>>,
    /// What an answer means; the first match wins, before the built-in table.
    pub classify: Option<At<Vec<At<RawClassify>>>>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Endpoint")]
pub struct RawEndpoint {
    /// Part of the keys of its state. Default: the URL's host:port.
    pub name: Option<At<String>>,
    #[schemars(required)]
    pub url: Option<At<String>>,
    /// Default 1.
    pub weight: Option<At<Count>>,
    /// Default: the provider's.
    pub auth: Option<At<TextOr<RawAuth>>>,
}

/// One of them; or the word `passthrough` or `none`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Auth")]
pub struct RawAuth {
    /// `${env:NAME}` or `${file:PATH}`; several are used side by side.
    pub bearer: Option<At<OneOrMany<String>>>,
    pub header: Option<At<RawAuthHeader>>,
    pub basic: Option<At<RawBasic>>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "AuthHeader")]
pub struct RawAuthHeader {
    #[schemars(required)]
    pub name: Option<At<String>>,
    /// `${env:NAME}` or `${file:PATH}`; several are used side by side.
    #[schemars(required)]
    pub value: Option<At<OneOrMany<String>>>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Basic")]
pub struct RawBasic {
    #[schemars(required)]
    pub username: Option<At<String>>,
    #[schemars(required)]
    pub password: Option<At<String>>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Headers")]
pub struct RawHeaders {
    pub set: Option<At<Entries<String>>>,
    pub remove: Option<At<Vec<At<String>>>>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "ClientTls")]
pub struct RawClientTls {
    /// A PEM file, instead of the system's roots.
    pub ca: Option<At<String>>,
    pub client_cert: Option<At<String>>,
    pub client_key: Option<At<String>>,
    /// Asked for and verified instead of the URL's host.
    pub server_name: Option<At<String>>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Rewrite")]
pub struct RawRewrite {
    pub path: Option<At<RawRewritePath>>,
    pub body: Option<At<RawRewriteBody>>,
}

/// The first match in the path is replaced.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "RewritePath")]
pub struct RawRewritePath {
    /// A regular expression.
    #[schemars(required)]
    pub from: Option<At<String>>,
    /// `$1` stands for the first group.
    #[schemars(required)]
    pub to: Option<At<String>>,
}

/// JSON pointers (RFC 6901).
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "RewriteBody")]
pub struct RawRewriteBody {
    pub set: Option<At<Entries<Json>>>,
    pub remove: Option<At<Vec<At<String>>>>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Timeouts")]
pub struct RawTimeouts {
    /// Default 2s.
    pub connect: Option<At<Length>>,
    /// Request sent to response headers. Default 60s.
    pub headers: Option<At<Length>>,
    /// Request sent to the first byte of the body. Default: as `headers`.
    pub first_byte: Option<At<Length>>,
    /// Between two frames, either direction. Default 30s.
    pub idle: Option<At<Length>>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Route")]
pub struct RawRoute {
    #[schemars(required)]
    pub name: Option<At<String>>,
    /// Default true.
    pub enabled: Option<At<bool>>,
    /// All that is given must match. Default: every request.
    #[serde(rename = "match")]
    pub matcher: Option<At<RawMatch>>,
    /// Taken from the front of the path.
    pub strip_prefix: Option<At<String>>,
    /// A name under `providers`, or `{ name, weight }`.
    #[schemars(required)]
    pub providers: Option<At<Vec<At<TextOr<RawWeighted>>>>>,
    /// How one of `providers` is chosen. Default latency.
    pub balance: Option<At<Word<BalanceAlgorithm>>>,
    /// Requests with the same value of a header go to the same address. Off by default.
    pub affinity: Option<At<RawAffinity>>,
    /// In order, when none of `providers` can take the attempt or their attempts are spent.
    pub fallback: Option<At<Vec<At<String>>>>,
    /// Which outcomes move to `fallback`. Default all five.
    pub fallback_on: Option<At<Vec<At<Word<AttemptClass>>>>>,
    /// Whether a request may be repeated. Default auto.
    pub idempotent: Option<At<Word<Idempotence>>>,
    /// To the commit: waiting, back-off and every attempt included. Default 120s.
    pub timeout: Option<At<Length>>,
    /// A name under `retries`, or `none`.
    pub retry: Option<At<String>>,
    /// A request that takes long is sent a second time, elsewhere. Off by default.
    pub hedge: Option<At<RawHedge>>,
    /// Bytes of the request's body that are kept for another attempt. Default 1MiB.
    pub replay: Option<At<Size>>,
    /// How answers pass.
    pub stream: Option<At<RawStream>>,
    /// A name under `queues`, or `none`: what finds no room is refused at once.
    pub queue: Option<At<String>>,
    /// A name under `caches`, or `none`. Default none.
    pub cache: Option<At<String>>,
    /// Names under `degradations`; their actions apply in this order. Default none.
    pub degrade: Option<At<Vec<At<String>>>>,
    /// Which `x-outrigger-*` headers of the request count. Default none.
    pub allow_override: Option<At<Vec<At<Word<Override>>>>>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Weighted")]
pub struct RawWeighted {
    #[schemars(required)]
    pub name: Option<At<String>>,
    /// Default 1.
    pub weight: Option<At<Count>>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Affinity")]
pub struct RawAffinity {
    #[schemars(required)]
    pub header: Option<At<String>>,
    /// Since the address was asked last. Default 10m.
    pub ttl: Option<At<Length>>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Hedge")]
pub struct RawHedge {
    /// Hedges for each request: above 0, at most 50%.
    #[schemars(required)]
    pub extra_load: Option<At<Share>>,
    /// Default: the percentile 1 - extra_load of the route's own latency.
    pub after: Option<At<Length>>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Match")]
pub struct RawMatch {
    /// As received, without the query: exact, `*` for one segment, `**` for the rest.
    pub path: Option<At<TextOr<RawRegex>>>,
    pub methods: Option<At<Vec<At<String>>>>,
    /// Exact, or `*.local`; ports are not looked at.
    pub host: Option<At<String>>,
    pub headers: Option<At<Entries<TextOr<RawHeaderMatch>>>>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Regex")]
pub struct RawRegex {
    /// May match anywhere; `^` and `$` tie it to the ends.
    #[schemars(required)]
    pub regex: Option<At<String>>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "HeaderMatch")]
pub struct RawHeaderMatch {
    /// May match anywhere; `^` and `$` tie it to the ends.
    pub regex: Option<At<String>>,
    /// Whether the header is there at all.
    pub present: Option<At<bool>>,
}
