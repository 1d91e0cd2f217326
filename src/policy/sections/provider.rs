//! The section `providers`: an upstream API, its endpoints, and what each attempt there may take.
//!
//! An endpoint is known by its host and port unless it has a name, since its state is kept under
//! that name. A provider without `auth` gets the application's credentials where it is alone in a
//! route, which only the routes know (`validate.rs`).

use std::time::Duration;

use super::auth::{Auth, Resolved};
use super::breaker::Breaker;
use super::response::{ClassifyRule, Price, Usage};
use super::retry::Retry;
use super::rewrite::{Headers, Rewrite};
use super::server::ClientTls;
use super::url::{ForwardProxy, Url};
use crate::policy::presets::generation::GenerationKind;
use crate::policy::presets::{self, Preset};
use crate::policy::section::names::valid_name;
use crate::policy::section::{
    Checker, Display, Form, KeyText, Map, OneOrMany, OrDefault, OrNone, Reference, ValueShape,
    section, text_form, texts,
};
use crate::policy::yaml::tree::NodeId;
use crate::policy::yaml::units::{self, DAY, MS, Rate, SECOND, SPANS};
use crate::resilience::rate::gcra::RatePolicy;

section! {
    /// An upstream API.
    #[derive(Clone, Debug)]
    pub struct ProviderPolicy {
        /// A well-known provider, whose keys apply where this policy has none: its URL, the form of its credential and more. `outrigger explain` shows them.
        preset: Option<&'static Preset> as OrNone<PresetName>;
        /// At least one.
        addresses: Vec<EndpointPolicy> as Endpoints;
        /// Changes to the headers of each request.
        headers: Headers;
        /// How the provider's certificate is verified, and what the sidecar presents.
        tls: ClientTls;
        /// The URL of a proxy that opens the connections by CONNECT; it may hold a user name and a password.
        proxy: Option<ForwardProxy> as OrNone<ForwardProxy>;
        /// The application's name of a model and this provider's, in the body's `/model`.
        models: Vec<(String, String)> as Map<String, String>;
        /// Changes to the path and the JSON body of each request.
        rewrite: Rewrite;
        /// Time limits of each attempt.
        timeouts: Timeouts;
        /// How much is sent to the provider; a request without capacity waits in the route's queue.
        capacity: Capacity;
        /// Models, by this provider's names, that continue a last message of the assistant.
        prefill: Vec<String>;
        /// Where a response says how many tokens it took.
        usage: Usage;
        /// The prices of tokens; for cost metrics and cost budgets.
        price: Option<Price>;
        /// A name under `breakers`, or `none`.
        breaker_index "breaker": Option<usize> as OrDefault<Breaker>;
        /// A name under `retries`, or `none`; overrides the route's.
        retry_index "retry": Option<Option<usize>> as Option<OrDefault<Retry>> = None => "the route's";
        /// The POST requests that only generate, by the ends of their paths: under `idempotent: auto` they may be repeated here, and at other providers that list the same kind.
        generates: Vec<GenerationKind>, where once("the kind");
        /// Segments of paths, such as `files`, whose resources exist only at the provider that created them.
        stateful: Vec<String>;
        /// How responses are classified; the first rule that matches counts, before the built-in table.
        classify: Vec<ClassifyRule>;
    }
    computed {
        name: String = String::new();
        /// `None`: `breaker: none`.
        breaker: Option<Breaker> = None;
        /// This provider's own retry policy.
        retry: Option<Retry> = None;
        /// The spans of its attempts show their tokens.
        has_token_spans: bool = false;
    }
}

section! {
    /// Time limits of each attempt.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Timeouts {
        /// To connect, TLS included.
        connect: Duration = 2 * SECOND, in MS..=DAY;
        /// From the request to the response headers.
        headers: Duration = 60 * SECOND, in MS..=DAY;
        /// From the request to the first byte of the body.
        first_byte: Option<Duration> = None => "as `headers`", in MS..=DAY;
        /// Between two frames in either direction.
        idle: Duration = 30 * SECOND, in MS..=DAY;
    }
}

section! {
    /// How much is sent to the provider.
    #[derive(Clone, Copy, Debug, PartialEq)]
    pub struct Capacity {
        /// Attempts in flight.
        concurrency: u32 = 1024, in 1..=1_000_000;
        /// Whether the limit moves below `concurrency` with latency.
        adaptive: bool = false;
        /// Attempts per time unit: `500/min`, or `{ rate: 500/min, burst: 20 }`. The burst is by default the requests of one second, at least 1.
        requests: Option<RatePolicy> as OrNone<RequestRate>;
        /// Tokens per time unit, estimated on admission and corrected by the response's usage: `200k/min`, or `{ rate: 200k/min, burst: 50k }`. The burst is by default a tenth of the written amount, at least 1.
        tokens: Option<RatePolicy> as OrNone<TokenRate>;
        /// Whether attempts are paced by the remaining quota in the provider's own `x-ratelimit-*` headers.
        follow_headers: bool = true;
        /// Connections of each worker to each endpoint.
        connections: usize = 256, in 1..=1_000_000;
    }
}

impl Timeouts {
    /// From the request to the first byte of the body.
    pub fn first_byte(&self) -> Duration {
        self.first_byte.unwrap_or(self.headers)
    }
}

impl ProviderPolicy {
    /// Longer than an attempt may take, so that only a lost probe of a breaker outlives it.
    pub fn probe_lease(&self) -> Duration {
        (self.timeouts.connect + self.timeouts.first_byte()).div_f64(0.9)
    }

    /// Tokens are counted where the policy says where to find them, what they cost, how many are
    /// allowed, or that spans show them.
    pub fn counts_tokens(&self) -> bool {
        self.price.is_some()
            || self.capacity.tokens.is_some()
            || self.has_token_spans
            || self.usage != Usage::default()
    }

    /// The policy depends on the content of this provider's responses, so that they may not come
    /// compressed.
    pub fn reads_responses(&self) -> bool {
        self.counts_tokens()
            || !self.prefill.is_empty()
            || self.classify.iter().any(ClassifyRule::reads_body)
    }
}

// === endpoints ===

/// An endpoint of a provider with its credentials. Its name is part of the keys of live state.
#[derive(Clone, Debug)]
pub struct EndpointPolicy {
    pub name: String,
    pub url: Url,
    /// At least 1.
    pub weight: u32,
    pub auth: Auth,
    /// Neither `auth` nor `key` is set: the routes decide about credentials.
    pub bare: bool,
}

section! {
    /// One of several endpoints.
    #[derive(Clone, Debug)]
    pub struct EndpointKeys {
        /// The endpoint's name in state keys and metrics.
        name: Option<String> as Option<EndpointName> = None => "the URL's host:port";
        /// The URL that requests are sent to; its path is put before theirs.
        url: Url, like "https://api.example.com";
        /// Its share of the attempts, relative to the other weights.
        weight: u32 = 1, in 1..=1_000_000;
        /// Its credentials, instead of the provider's.
        auth: Option<Auth>;
        /// Replaces `auth` where the provider has a `preset`.
        key: Vec<Resolved> as OneOrMany<Resolved>;
    }
}

text_form! {
    /// The name of a preset.
    struct PresetName for &'static Preset {
        read(node, check) {
            let all: Vec<_> = presets::ALL.iter().collect();
            check.word(node, &all, |preset| preset.name)
        }
        show(value, out) { out.text(value.name) }
        describe(_) { ValueShape::Words(presets::ALL.iter().map(|preset| preset.name).collect()) }
    }
}

texts! {
    /// A name, or `host:port`.
    struct EndpointName for String: "a name", ValueShape::named("name"), endpoint_name, String::as_str;
}

fn endpoint_name(text: &str) -> Result<String, String> {
    let is_authority = |c: char| c.is_ascii_alphanumeric() || "-_.:[]".contains(c);
    // A host has at most 253 characters, and a port 5.
    if text.contains(':') && text.len() <= 259 && text.chars().all(is_authority) {
        return Ok(text.to_owned());
    }
    valid_name(text)
}

/// The keys `url`, or `endpoints`, and `auth`, or `key`.
#[derive(Debug)]
pub struct Endpoints;

impl Form<Vec<EndpointPolicy>> for Endpoints {
    const FLATTENED: bool = true;

    fn read(node: NodeId, check: &mut Checker<'_>) -> Option<Vec<EndpointPolicy>> {
        let tree = check.tree;
        let auth = tree.child(node, "auth").and_then(|at| Auth::read(at, check));
        report_unused_key(node, node, check);
        let found = match (tree.child(node, "url"), tree.child(node, "endpoints")) {
            (Some(url), None) => {
                let url = Url::read(url, check);
                url.map(|url| endpoint(None, url, 1, auth)).into_iter().collect()
            }
            (None, Some(list)) => endpoints(list, auth.as_ref(), check),
            (Some(_), Some(list)) => {
                check.error_on_key(
                    list,
                    "`url` and `endpoints` exclude each other: keep one of them",
                );
                Vec::new()
            }
            (None, None) => {
                missing_url(node, check);
                Vec::new()
            }
        };
        Some(found)
    }

    fn absent() -> Option<Vec<EndpointPolicy>> {
        Some(Vec::new())
    }

    fn keys(out: &mut Vec<&'static str>) {
        out.extend(["url", "endpoints", "auth", "key"]);
    }

    fn show(value: &Vec<EndpointPolicy>, out: &mut Display<'_>) {
        let at_provider =
            out.written().iter().map(|path| format!("{path}.auth")).collect::<Vec<_>>();
        if let [only] = value.as_slice()
            && only.weight == 1
            && only.name == name_of(&only.url)
        {
            out.key("url", |out| Url::show(&only.url, out));
            return out.key("auth", |out| Auth::show(&only.auth, out));
        }
        out.key("endpoints", |out| {
            for (index, endpoint) in value.iter().enumerate() {
                out.entry(&endpoint.name, index, |out| {
                    out.key("url", |out| Url::show(&endpoint.url, out));
                    out.key("weight", |out| out.text(endpoint.weight.to_string()));
                    out.key("auth", |out| {
                        out.also_written(&at_provider, |out| Auth::show(&endpoint.auth, out));
                    });
                });
            }
        });
    }

    fn describe(_: &mut Reference) -> ValueShape {
        ValueShape::Any
    }

    fn describe_keys(out: &mut Reference) -> Vec<KeyText> {
        let auth_default =
            "`passthrough` if the provider is alone in each of its routes, else none";
        vec![
            KeyText::optional(
                "url",
                "The URL that requests are sent to; its path is put before theirs.",
                Url::describe(out),
            ),
            KeyText::optional(
                "endpoints",
                "Replaces `url` where the provider has several.",
                <Vec<EndpointKeys>>::describe(out),
            ),
            KeyText {
                default: Some(auth_default.to_owned()),
                ..KeyText::optional("auth", "The credentials of each request.", Auth::describe(out))
            },
            KeyText::optional(
                "key",
                "Replaces `auth` where the provider has a `preset`, which knows the form of the credential; with several, requests are distributed over them.",
                <OneOrMany<Resolved> as Form<Vec<Resolved>>>::describe(out),
            ),
        ]
    }
}

/// A provider without a URL.
fn missing_url(node: NodeId, check: &mut Checker<'_>) {
    let preset = check.tree.child(node, "preset");
    if preset.is_some_and(|at| check.damaged(at)) {
        return;
    }
    let known = preset.and_then(|at| Preset::named(check.tree.text(at)?));
    check.missing(node, "url", known.map_or("https://api.example.com", Preset::url));
}

/// Reports a `key` that no preset has turned into an `auth`: its provider has no preset, or an `auth`
/// of its own.
fn report_unused_key(node: NodeId, provider: NodeId, check: &mut Checker<'_>) {
    let tree = check.tree;
    let Some(key) = tree.child(node, "key") else { return };
    let preset = tree.child(provider, "preset");
    match (tree.child(node, "auth"), preset) {
        (Some(auth), _) => check.report(key, |tree| {
            let message = "`key` and `auth` exclude each other: keep one of them";
            tree.on_key(key, message).with(tree, auth, "the `auth`")
        }),
        (None, Some(at)) if check.damaged(at) => {}
        (None, _) => check.report(key, |tree| {
            let message = "`key` needs a `preset`, which knows the form of the credential";
            let help = "add `preset: NAME`, or write `auth: { bearer: \"${env:API_KEY}\" }`";
            tree.on_key(key, message).help(help)
        }),
    }
}

fn endpoints(list: NodeId, auth: Option<&Auth>, check: &mut Checker<'_>) -> Vec<EndpointPolicy> {
    check.some(list, "no endpoint: expected at least one, like `{ url: https://api.example.com }`");
    let mut found: Vec<(NodeId, EndpointPolicy)> = Vec::new();
    for node in check.list(list).into_iter().flatten() {
        let Some(keys) = EndpointKeys::read(node, check) else { continue };
        let EndpointKeys { name, url, weight, auth: own, .. } = keys;
        let provider = check.tree.parent(list).unwrap_or(list);
        report_unused_key(node, provider, check);
        let endpoint = endpoint(name, url, weight, own.or_else(|| auth.cloned()));
        if let Some((first, _)) = found.iter().find(|(_, other)| other.name == endpoint.name) {
            let (first, name) = (*first, &endpoint.name);
            let message = format!("two endpoints are named `{name}`: give each its own `name`");
            check.report(node, |tree| {
                tree.on_value(node, message).with(tree, first, "the first one")
            });
        }
        found.push((node, endpoint));
    }
    found.into_iter().map(|(_, endpoint)| endpoint).collect()
}

fn endpoint(name: Option<String>, url: Url, weight: u32, auth: Option<Auth>) -> EndpointPolicy {
    let name = name.unwrap_or_else(|| name_of(&url));
    let bare = auth.is_none();
    EndpointPolicy { name, url, weight, auth: auth.unwrap_or(Auth::None), bare }
}

/// Its host and port.
fn name_of(url: &Url) -> String {
    match url.host.contains(':') {
        true => format!("[{}]:{}", url.host, url.port),
        false => format!("{}:{}", url.host, url.port),
    }
}

// === rates ===

/// Of a rate's amount, and of its burst.
const MOST: u64 = 1_000_000_000;

section! {
    /// A rate, and how much of it may be used at once.
    #[derive(Clone, Debug)]
    pub struct RateKeys {
        /// `500/min`, `5/s`, `1000/h`, `200k/min`.
        rate: Rate, like "500/min";
        /// How much may be used at once: by default the requests of one second, or a tenth of the written amount of tokens; at least 1.
        burst: Option<u64>, in 1..=MOST;
    }
}

texts! {
    impl Rate for Rate: "a rate like `500/min`", ValueShape::Scalar("rate", serde_json::json!({
        "description": "`500/min`, `5/s`, `1000/h`, `200k/min`", "type": "string",
        "pattern": "^[0-9.]+[kMG]?/(s|min|h|day)$",
    })), bounded_rate, |rate: &Rate| per_span(rate.per_second());
}

fn bounded_rate(text: &str) -> Result<Rate, String> {
    let rate = units::rate(text)?;
    match (1..=MOST).contains(&rate.amount) {
        true => Ok(rate),
        false => Err(format!(
            "`{text}` is out of bounds: expected from `1` to `{MOST}` in that time (leave it out for no limit)"
        )),
    }
}

macro_rules! rate_forms {
    ($($(#[$doc:meta])* $name:ident: $burst:expr;)*) => {$(
        $(#[$doc])*
        #[derive(Debug)]
        pub struct $name;

        impl Form<RatePolicy> for $name {
            const INLINE: bool = true;

            fn read(node: NodeId, check: &mut Checker<'_>) -> Option<RatePolicy> {
                rate_policy(node, check, $burst)
            }

            fn show(value: &RatePolicy, out: &mut Display<'_>) {
                out.text(format!("{}, burst {}", per_span(value.rate), hundredths(value.burst)));
            }

            fn describe(out: &mut Reference) -> ValueShape {
                ValueShape::OneOf(vec![RateKeys::describe(out), Rate::describe(out)])
            }
        }
    )*};
}

rate_forms! {
    /// The burst is by default the requests of one second.
    RequestRate: |rate| rate.per_second();
    /// The burst is by default a tenth of the written amount.
    TokenRate: |rate| rate.amount as f64 / 10.0;
}

fn rate_policy(
    node: NodeId,
    check: &mut Checker<'_>,
    usual: impl Fn(Rate) -> f64,
) -> Option<RatePolicy> {
    let RateKeys { rate, burst } = match check.is_map(node) {
        true => RateKeys::read(node, check)?,
        false => RateKeys { rate: Rate::read(node, check)?, burst: None },
    };
    let burst = burst.map_or_else(|| usual(rate).max(1.0), |burst| burst as f64);
    Some(RatePolicy { rate: rate.per_second(), burst })
}

/// `500/min`: in the shortest span of which it is a whole number.
fn per_span(rate: f64) -> String {
    let amount = |seconds: u64| rate * seconds as f64;
    let whole = |amount: f64| (amount - amount.round()).abs() <= amount * 1e-12;
    let span = SPANS.into_iter().find(|(_, seconds)| whole(amount(*seconds)));
    let (name, seconds) = span.unwrap_or(SPANS[0]);
    format!("{}/{name}", hundredths(amount(seconds)))
}

fn hundredths(number: f64) -> f64 {
    (number * 100.0).round() / 100.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::section::display::text_of;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_rate_is_shown_as_an_equal_one(
            amount in 1u64..=1_000_000_000, span in 0..SPANS.len(), burst in 1u32..1000,
        ) {
            let written = units::rate(&format!("{amount}/{}", SPANS[span].0)).unwrap();
            let policy = RatePolicy { rate: written.per_second(), burst: f64::from(burst) };
            let shown = text_of::<RatePolicy, RequestRate>(&policy);
            let (shown, shown_burst) = shown.split_once(", burst ").unwrap();
            prop_assert_eq!(units::rate(shown).unwrap().per_second(), policy.rate);
            prop_assert_eq!(shown_burst, burst.to_string());
        }
    }
}
