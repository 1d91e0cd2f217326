//! The label sets of the metrics. Every value comes from the policy or from a bounded set.
//!
//! Each set states which names of the policy it belongs to (`by route`, `by endpoint`, ...): when a
//! reload removes such a name, [`Metrics::retain`](super::metrics::Metrics::retain) removes its series.

use std::collections::HashSet;

use prometheus_client::encoding::EncodeLabelSet;

/// The label of requests that match no route.
pub const NO_ROUTE: &str = "-";

/// The names that a policy declares.
#[derive(Debug, Default)]
pub struct PolicyNames<'a> {
    pub routes: HashSet<&'a str>,
    pub providers: HashSet<&'a str>,
    /// Provider and endpoint.
    pub endpoints: HashSet<(&'a str, &'a str)>,
    pub queues: HashSet<&'a str>,
    pub caches: HashSet<&'a str>,
    pub modes: HashSet<&'a str>,
    pub benchmarks: HashSet<&'a str>,
    /// Mode, and one signal of its condition.
    pub signals: HashSet<(&'a str, &'a str)>,
}

/// A label set: the names of its labels, and whether the policy still declares what it names.
pub trait LabelSet {
    const NAMES: &'static [&'static str];
    fn is_declared(&self, names: &PolicyNames<'_>) -> bool;
}

macro_rules! labels {
    ($($(#[$doc:meta])* $set:ident $(by $key:ident)? { $($(#[$field_doc:meta])* $label:ident: $type:ty,)+ })*) => {$(
        $(#[$doc])*
        #[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
        pub struct $set {
            $($(#[$field_doc])* pub $label: $type,)+
        }

        impl LabelSet for $set {
            const NAMES: &'static [&'static str] = &[$(stringify!($label)),+];

            fn is_declared(&self, _names: &PolicyNames<'_>) -> bool {
                true $(&& labels!(@declared $key, self, _names))?
            }
        }
    )*};
    (@declared route, $set:ident, $names:ident) => {
        $names.routes.contains($set.route.as_str()) || $set.route == NO_ROUTE
    };
    (@declared provider, $set:ident, $names:ident) => {
        $names.providers.contains($set.provider.as_str())
    };
    (@declared route_and_provider, $set:ident, $names:ident) => {
        $names.routes.contains($set.route.as_str())
            && $names.providers.contains($set.provider.as_str())
    };
    (@declared endpoint, $set:ident, $names:ident) => {
        $names.endpoints.contains(&($set.provider.as_str(), $set.endpoint.as_str()))
    };
    (@declared queue, $set:ident, $names:ident) => { $names.queues.contains($set.queue.as_str()) };
    (@declared cache, $set:ident, $names:ident) => { $names.caches.contains($set.cache.as_str()) };
    (@declared mode, $set:ident, $names:ident) => { $names.modes.contains($set.mode.as_str()) };
    (@declared benchmark, $set:ident, $names:ident) => {
        $names.benchmarks.contains($set.benchmark.as_str())
    };
    (@declared signal, $set:ident, $names:ident) => {
        $names.signals.contains(&($set.mode.as_str(), $set.signal.as_str()))
    };
}

labels! {
    RouteLabels by route { route: String, }
    RequestLabels by route {
        route: String,
        /// `1xx` .. `5xx`, or `499` when the client disconnected.
        status: &'static str,
    }
    ReasonLabels by route { route: String, reason: &'static str, }
    ProviderLabels by provider { provider: String, }
    ExpiryLabels {
        /// `server_certificate`, `client_certificate` or `token`.
        kind: &'static str,
        /// A provider, or `server`.
        owner: String,
    }
    ProviderRequestLabels by provider {
        provider: String,
        /// `ok` or `failed`.
        result: &'static str,
    }
    RateLabels by provider {
        provider: String,
        /// `requests` or `tokens`.
        of: &'static str,
    }
    EndpointLabels by endpoint { provider: String, endpoint: String, }
    AttemptLabels by endpoint {
        provider: String,
        endpoint: String,
        /// The class of the outcome.
        class: &'static str,
    }
    BreakerLabels by endpoint {
        provider: String,
        endpoint: String,
        /// Empty for the breaker of the endpoint itself.
        model: String,
    }
    TransitionLabels by endpoint {
        provider: String,
        endpoint: String,
        to: &'static str,
        cause: &'static str,
    }
    TokenLabels by route_and_provider {
        route: String,
        provider: String,
        model: String,
        /// Why the attempt was made: `first`, `retry`, `hedge` or `continuation`.
        attempt: &'static str,
        /// `input` or `output`.
        direction: &'static str,
    }
    CostLabels by route_and_provider {
        route: String,
        provider: String,
        model: String,
        /// As in [`TokenLabels`].
        attempt: &'static str,
        currency: String,
    }
    RegressionLabels by route_and_provider {
        route: String,
        provider: String,
        model: String,
        /// `p50`, `p95`, `first_content`, `tokens_per_second` or `error_rate`.
        measure: &'static str,
    }
    QueueLabels by queue { queue: String, }
    ClassLabels by queue { queue: String, class: String, }
    ShedLabels by queue { queue: String, class: String, reason: &'static str, }
    JobLabels by queue { queue: String, state: &'static str, }
    DeliveryLabels by queue { queue: String, result: &'static str, }
    CacheLabels by cache { cache: String, }
    CacheResultLabels by cache {
        cache: String,
        /// `hit`, `stale`, `revalidated`, `miss`, `coalesced` or `bypass`.
        result: &'static str,
    }
    ModeLabels by mode { mode: String, }
    ModeTransitionLabels by mode {
        mode: String,
        /// `entered` or `left`.
        to: &'static str,
        /// `condition`, `manual` or `removed`.
        cause: &'static str,
    }
    ModeActionLabels by mode { mode: String, action: &'static str, }
    SignalLabels by signal {
        mode: String,
        /// As the policy writes it.
        signal: String,
    }
    NotificationLabels by mode {
        mode: String,
        /// `sent`, `failed` or `given_up`.
        result: &'static str,
    }
    BenchmarkLabels by benchmark { benchmark: String, }
    BenchmarkQuantileLabels by benchmark {
        benchmark: String,
        /// `0.5` or `0.95`.
        quantile: &'static str,
    }
    BenchmarkRunLabels by benchmark {
        benchmark: String,
        /// `done`, `aborted` or `failed`.
        state: &'static str,
    }
    RedisCallLabels {
        call: &'static str,
        /// `ok` or `failed`.
        result: &'static str,
    }
    ReloadLabels {
        /// `applied`, `unchanged` or `rejected`.
        result: &'static str,
    }
    SpanLabels {
        /// `exported`, `rejected` (by the receiver), `failed` (not sent when the process ended), or
        /// `dropped` (the queue was full, or the policy has no `server.traces` any longer).
        result: &'static str,
    }
    AdminLabels {
        action: &'static str,
        /// `done`, or the reason for the rejection.
        result: &'static str,
    }
    PolicyLabels { hash: String, }
}
