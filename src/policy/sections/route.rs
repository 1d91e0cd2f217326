//! The section `routes`: which requests go where, and what applies to them.

use std::time::Duration;

use http::HeaderName;

use super::cache::Cache;
use super::degradation::Degradation;
use super::matcher::Match;
use super::provider::ProviderPolicy;
use super::queue::Queue;
use super::response::{ClassNames, Stream};
use super::retry::Retry;
use super::rewrite::{HeaderKey, OpenHeader};
use crate::policy::section::names::Name;
use crate::policy::section::scalars::ABOVE_NONE;
use crate::policy::section::{
    Checker, NameOf, NamedSection, OrDefault, OrNone, Required, Share, Size, defaults, section,
    text_form, texts, words,
};
use crate::policy::yaml::tree::NodeId;
use crate::policy::yaml::units::{DAY, MINUTE, MS};
use crate::resilience::balance::balancer::BalanceAlgorithm;
use crate::resilience::outcome::{AttemptClass, ClassSet, Idempotence};
use crate::resilience::retry::hedge::HedgePolicy;

section! {
    /// Maps requests to providers. The first matching route handles the request.
    #[derive(Clone, Debug)]
    pub struct RoutePolicy, finish fallback_after_others {
        /// Its name, in logs and metrics.
        name: String as Name, like "chat";
        /// Whether the route is used.
        enabled: bool = true;
        /// Which requests it takes.
        matcher "match": Match;
        /// Removed from the front of the path.
        strip_prefix: Option<String> as Option<PathPrefix>;
        /// Names under `providers`, or `{ name, weight }`.
        providers: Vec<Weighted> as Required<Vec<NameOrWeighted>>, like "[openai]",
            where some("no provider: expected at least one, like `[openai]`"),
            where once("the provider");
        /// How one of `providers` is selected.
        balance: BalanceAlgorithm = BalanceAlgorithm::Latency;
        /// Requests with the same value of a header go to the same endpoint.
        affinity: Option<Affinity>;
        /// Providers to try, in this order, when no provider in `providers` can take the attempt, or when their attempts are used up.
        fallback: Vec<usize> as Vec<NameOf<ProviderPolicy>>, where once("the provider");
        /// Classes of attempts that move to `fallback`.
        fallback_on: ClassSet as FallbackOn = ClassSet::of(FallbackOn::ALLOWED);
        /// Whether a request may be repeated: `auto` decides by its method, its `Idempotency-Key` and the `generates` of the providers.
        idempotent: Idempotence = Idempotence::Auto;
        /// Time limit up to the commit, with all waits and attempts.
        timeout: Duration = 2 * MINUTE, in MS..=DAY;
        /// Headers with the time after which the client gives up, which limits `timeout`: in seconds, with a unit, or as gRPC writes it; milliseconds if the name ends in `-ms`.
        timeout_headers: Vec<HeaderName> as Vec<OpenHeader> = usual_timeout_headers();
        /// A name under `retries`, or `none`.
        retry_index "retry": Option<usize> as OrDefault<Retry>;
        /// A slow request is sent a second time, to another endpoint.
        hedge: Option<HedgePolicy>;
        /// The largest request body that is kept for another attempt; `server.buffered` bounds all of them together.
        replay: u64 as Size = 16 << 20, in 0..=1 << 30;
        /// How responses are forwarded.
        stream: Stream;
        /// `rewrite` makes a redirect or another reference to the provider itself lead to the listener; `pass` forwards it as it is.
        redirects: Redirects = Redirects::Rewrite;
        /// A name under `queues`; `none`: a request without capacity is rejected at once.
        queue: Option<usize> as OrDefault<Queue>;
        /// A name under `caches`.
        cache: Option<usize> as OrNone<NameOf<Cache>>;
        /// Names under `degradations`; their actions apply in this order.
        degrade: Vec<usize> as Vec<NameOf<Degradation>>, where once("the mode");
        /// The `x-outrigger-*` headers of a request that are followed.
        allow_override: AllowOverride as OverrideList = AllowOverride::default();
    }
    computed {
        retry: Retry = Retry::none();
        /// The queue takes jobs of this route.
        durable "takes_jobs": bool = false;
        /// Providers that a mode in `degrade` may use besides the route's own. Indices into `Policy::providers`.
        used: Vec<usize> = Vec::new();
    }
}

/// Of the SDKs of OpenAI and Anthropic, of gRPC, and of proxies.
fn usual_timeout_headers() -> Vec<HeaderName> {
    let names =
        ["x-stainless-read-timeout", "x-stainless-timeout", "x-request-timeout", "grpc-timeout"];
    names.map(HeaderName::from_static).to_vec()
}

impl RoutePolicy {
    /// A route to one provider, without retries and fallback, that matches nothing of its own.
    pub fn direct(name: &str, provider: usize, queue: Option<usize>) -> RoutePolicy {
        RoutePolicy {
            name: name.to_owned(),
            enabled: true,
            matcher: defaults(),
            strip_prefix: None,
            providers: vec![Weighted { provider, weight: 1 }],
            balance: BalanceAlgorithm::Latency,
            affinity: None,
            fallback: Vec::new(),
            fallback_on: ClassSet::of(FallbackOn::ALLOWED),
            idempotent: Idempotence::Never,
            timeout: 2 * MINUTE,
            timeout_headers: Vec::new(),
            retry_index: None,
            hedge: None,
            replay: 16 << 20,
            stream: defaults(),
            redirects: Redirects::Rewrite,
            queue,
            cache: None,
            degrade: Vec::new(),
            allow_override: AllowOverride::default(),
            retry: Retry::none(),
            durable: false,
            used: Vec::new(),
        }
    }

    /// Its providers, then its fallback.
    pub fn own_providers(&self) -> Vec<usize> {
        let first = self.providers.iter().map(|weighted| weighted.provider);
        first.chain(self.fallback.iter().copied()).collect()
    }

    /// Its own providers, then those that a mode may use.
    pub fn all_providers(&self) -> Vec<usize> {
        self.own_providers().into_iter().chain(self.used.iter().copied()).collect()
    }
}

fn fallback_after_others(route: &mut RoutePolicy, node: NodeId, check: &mut Checker<'_>) {
    let tree = check.tree;
    let list = tree.child(node, "fallback");
    for item in list.into_iter().flat_map(|list| tree.children(list)) {
        let name = tree.text(item).unwrap_or_default();
        let index = check.names.find(ProviderPolicy::KEY, name).flatten();
        if index.is_some_and(|index| route.providers.iter().any(|own| own.provider == index)) {
            let message = format!(
                "`{name}` is one of `providers` already: a fallback comes after all of them"
            );
            check.error(item, message);
        }
    }
}

/// The classes that may move a request to `fallback`.
#[derive(Debug)]
pub struct FallbackOn;

impl ClassNames for FallbackOn {
    const ALLOWED: &'static [AttemptClass] = {
        use AttemptClass::*;
        &[Unsent, Failure, Throttled, Credential, Unsupported]
    };
}

words! {
    pub enum Redirects { Rewrite = "rewrite", Pass = "pass", }
}

words! {
    for BalanceAlgorithm: &BalanceAlgorithm::ALL;
    for Idempotence: &Idempotence::ALL
}

section! {
    /// A slow request is sent a second time, to another endpoint.
    for HedgePolicy {
        /// The largest share of requests that are hedged.
        extra_load: f64 as Share, in ABOVE_NONE..=0.5, like "2%";
        /// How long the first attempt may take; by default the percentile 1 - `extra_load` of the route's own latency.
        after: Option<Duration> = None => "by percentile", in MS..=DAY;
    }
}

section! {
    /// Requests with the same value of a header go to the same endpoint while it can be used.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct Affinity {
        /// The name of the header.
        header: HeaderName as HeaderKey, like "x-session";
        /// Time since the last request to the endpoint.
        ttl: Duration = 10 * MINUTE, in MS..=DAY;
    }
}

// === providers ===

section! {
    /// A provider and its weight.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Weighted {
        /// A name under `providers`.
        provider "name": usize as NameOf<ProviderPolicy>, like "openai";
        /// Its share of the attempts, relative to the other weights.
        weight: u32 = 1, in 1..=1_000_000;
    }
}

text_form! {
    /// The name of a provider, or a map with its weight.
    struct NameOrWeighted for Weighted {
        read(node, check) {
            if check.is_map(node) {
                return Weighted::read(node, check);
            }
            let provider = <NameOf<ProviderPolicy>>::read(node, check)?;
            Some(Weighted { provider, weight: 1 })
        }
        show(value, out) {
            let weight = match value.weight {
                1 => String::new(),
                weight => format!(" (weight {weight})"),
            };
            out.name_with(ProviderPolicy::KEY, value.provider, &weight);
        }
        describe(out) {
            ValueShape::OneOf(vec![<NameOf<ProviderPolicy>>::describe(out), Weighted::describe(out)])
        }
    }
}

// === the path and the overrides ===

texts! {
    /// A path that is removed from the front of others.
    struct PathPrefix for String: "a path", ValueShape::named("path"), path_prefix, String::as_str;
}

fn path_prefix(text: &str) -> Result<String, String> {
    let prefix = text.trim_end_matches('/');
    match prefix.starts_with('/') && !prefix.contains(['?', '#', '*']) {
        true => Ok(prefix.to_owned()),
        false => Err(format!("`{text}` is not the prefix of a path: expected one like `/openai`")),
    }
}

words! {
    /// A value that an `x-outrigger-*` header may change.
    pub enum Override {
        Timeout = "timeout",
        Retry = "retry",
        Idempotent = "idempotent",
        Priority = "priority",
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AllowOverride {
    pub timeout: bool,
    pub retry: bool,
    pub idempotent: bool,
    pub priority: bool,
}

impl AllowOverride {
    fn of(&mut self, which: Override) -> &mut bool {
        match which {
            Override::Timeout => &mut self.timeout,
            Override::Retry => &mut self.retry,
            Override::Idempotent => &mut self.idempotent,
            Override::Priority => &mut self.priority,
        }
    }
}

text_form! {
    /// A list of values that headers may change.
    struct OverrideList for AllowOverride {
        read(node, check) {
            let mut allowed = AllowOverride::default();
            for which in <Vec<Override>>::read(node, check)? {
                *allowed.of(which) = true;
            }
            Some(allowed)
        }
        show(value, out) {
            let mut value = *value;
            let all = Override::ALL.iter().copied();
            let allowed: Vec<_> = all.filter(|which| *value.of(*which)).collect();
            <Vec<Override>>::show(&allowed, out);
        }
        describe(out) { <Vec<Override>>::describe(out) }
    }
}
