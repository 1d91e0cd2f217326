//! Builds a snapshot from a policy, resolving everything that a request would have to look up.

use std::sync::Arc;

use http::HeaderValue;
use http::header::ACCEPT_ENCODING;
use thiserror::Error;

use super::{
    DegradationMode, Endpoint, EndpointCandidate, Provider, Route, RouteCache, RouteMetrics,
    RouteMode, RouteModes, RouteQueue, Snapshot, Tier, degradation, expiries::expiries,
    listener_tls,
};
use crate::cache::CacheRegistry;
use crate::clock;
use crate::live::Live;
use crate::live::degradation::outcome_window::OutcomeWindow;
use crate::policy::sections::model::{self, Keeps, LogTarget, Of, Policy, Scope, Weighted};
use crate::resilience::outcome::AttemptClass;
use crate::stream::interpret::Interpreter;
use crate::telemetry::access_log::{LogDestination, RouteLog};
use crate::telemetry::metrics::{
    Metrics, ProviderLabels, ReasonLabels, RequestLabels, RouteLabels,
};
use crate::upstream::{DialTarget, Resolver, TargetError};

/// Why a valid policy cannot take effect on this machine.
#[derive(Debug, Error)]
pub enum BuildError {
    #[error("provider `{provider}`: {source}")]
    Target { provider: String, source: TargetError },
    #[error("provider `{provider}`: `{authority}` is not a valid value for a Host header")]
    Host { provider: String, authority: String },
    #[error("server.tls: {0}")]
    Listener(#[from] listener_tls::ListenerTlsError),
}

/// The live state to which a snapshot refers.
#[derive(Clone, Debug)]
pub struct SnapshotBuilder {
    pub live: Arc<Live>,
    pub caches: Arc<CacheRegistry>,
    pub resolver: Resolver,
}

impl SnapshotBuilder {
    /// Builds the snapshot of a policy.
    ///
    /// # Errors
    /// When a certificate or key cannot be used.
    pub fn build(&self, policy: Policy, hash: String) -> Result<Snapshot, BuildError> {
        let providers = policy
            .providers
            .iter()
            .enumerate()
            .map(|(index, provider)| {
                let outcomes =
                    degradation::outcome_window(&policy, &self.live, &Of::Provider(index));
                self.provider(provider, outcomes).map(Arc::new)
            })
            .collect::<Result<Vec<_>, _>>()?;
        let modes = policy.degradations.iter();
        let modes: Vec<_> = modes
            .map(|mode| Arc::new(DegradationMode::new(&policy, mode, &self.live, &providers)))
            .collect();
        let short: Arc<str> = hash.chars().take(12).collect::<String>().into();
        let server = Arc::new(policy.server.clone());
        let access_log = access_log(&policy.server.access_log);
        let is_http = policy.caches.iter().any(|cache| cache.store == Keeps::Http);
        let routes = policy.routes.iter().enumerate().map(|(index, route)| {
            let without_modes = Route {
                tiers: self.tiers(route, &providers),
                reads_body: reads_body(route, &policy.providers),
                live: self.live.route(route),
                modes: RouteModes::default(),
                outcomes: degradation::outcome_window(&policy, &self.live, &Of::Route(index)),
                queue: route.queue.map(|index| self.queue(&policy.queues[index])),
                cache: route.cache.map(|index| self.cache(&policy.caches[index])),
                invalidation: is_http.then(|| Arc::clone(&self.caches)),
                metrics: route_metrics(&self.live.metrics, &route.name),
                policy_hash: Arc::clone(&short),
                access_log: access_log.clone(),
                server: Arc::clone(&server),
                policy: route.clone(),
            };
            let modes = self.route_modes(&without_modes, &modes, &providers);
            Arc::new(Route { modes, ..without_modes })
        });
        Ok(Snapshot {
            hash,
            since: clock::wall(),
            routes: routes.collect(),
            modes: modes.clone(),
            providers: providers.clone(),
            access_log,
            listener_tls: listener_tls::server_config(policy.server.tls.as_ref())?,
            expiries: expiries(&policy),
            policy,
        })
    }

    fn queue(&self, policy: &model::Queue) -> RouteQueue {
        RouteQueue { live: self.live.queue(policy), policy: policy.clone() }
    }

    fn cache(&self, policy: &model::Cache) -> RouteCache {
        RouteCache { live: self.caches.cache(policy), policy: policy.clone() }
    }

    fn route_modes(
        &self,
        route: &Route,
        modes: &[Arc<DegradationMode>],
        providers: &[Arc<Provider>],
    ) -> RouteModes {
        let of = |index: &usize| {
            let mode = Arc::clone(&modes[*index]);
            let used = mode.used_providers();
            let alternate = used.map(|used| self.alternate(route, used, providers));
            RouteMode { mode, alternate }
        };
        let all: Vec<_> = route.policy.degrade.iter().map(of).collect();
        RouteModes { mask: all.iter().fold(0, |mask, one| mask | one.mode.live.bit), all }
    }

    /// The route with these providers in place of its own, each in a tier.
    fn alternate(&self, route: &Route, used: &[usize], providers: &[Arc<Provider>]) -> Arc<Route> {
        let mut policy = route.policy.clone();
        let mut used = used.iter().copied();
        policy.providers =
            used.next().map(|provider| Weighted { provider, weight: 1 }).into_iter().collect();
        policy.fallback = used.collect();
        Arc::new(Route {
            tiers: self.tiers(&policy, providers),
            policy,
            modes: RouteModes::default(),
            ..route.clone()
        })
    }

    /// The first tier has the route's `providers`. Each `fallback` is a tier of its own.
    fn tiers(&self, route: &model::RoutePolicy, providers: &[Arc<Provider>]) -> Vec<Tier> {
        let candidates = |index: usize, weight: u32| {
            let provider = &providers[index];
            let interpreter = Arc::new(Interpreter::new(&route.stream, &provider.policy));
            let usage_meter = self.live.usage_meter(&route.name, &provider.policy.name);
            let call_recorder = self.live.call_recorder(&route.name, &provider.policy.name);
            provider.endpoints.iter().map(move |endpoint| EndpointCandidate {
                provider: Arc::clone(provider),
                endpoint: Arc::clone(endpoint),
                share: f64::from(weight) * f64::from(endpoint.policy.weight),
                interpreter: Arc::clone(&interpreter),
                usage_meter: Arc::clone(&usage_meter),
                call_recorder: Arc::clone(&call_recorder),
            })
        };
        let first = route.providers.iter().flat_map(|w| candidates(w.provider, w.weight));
        let first = Tier { candidates: first.collect() };
        let fallback =
            route.fallback.iter().map(|&index| Tier { candidates: candidates(index, 1).collect() });
        std::iter::once(first).chain(fallback).collect()
    }

    fn provider(
        &self,
        policy: &model::ProviderPolicy,
        outcomes: Option<Arc<OutcomeWindow>>,
    ) -> Result<Provider, BuildError> {
        let endpoints = policy
            .addresses
            .iter()
            .map(|endpoint| self.endpoint(policy, endpoint).map(Arc::new))
            .collect::<Result<Vec<_>, _>>()?;
        let labels = ProviderLabels { provider: policy.name.clone() };
        Ok(Provider {
            endpoints,
            live: self.live.provider(&policy.name, &policy.capacity),
            first_byte: self.live.metrics.first_byte_seconds.with(&labels),
            outcomes,
            policy: with_identity_encoding(policy.clone()),
        })
    }

    fn endpoint(
        &self,
        provider: &model::ProviderPolicy,
        endpoint: &model::EndpointPolicy,
    ) -> Result<Endpoint, BuildError> {
        let target = DialTarget::new(
            &endpoint.url,
            &provider.tls,
            provider.proxy.as_ref(),
            provider.timeouts.connect,
            provider.capacity.connections,
            &self.resolver,
        )
        .map_err(|source| BuildError::Target { provider: provider.name.clone(), source })?;
        let host =
            HeaderValue::from_str(&endpoint.url.authority).map_err(|_| BuildError::Host {
                provider: provider.name.clone(),
                authority: endpoint.url.authority.clone(),
            })?;
        Ok(Endpoint::new(provider, endpoint.clone(), target, host, &self.live))
    }
}

/// Requests uncompressed responses if the policy depends on their content.
fn with_identity_encoding(mut provider: model::ProviderPolicy) -> model::ProviderPolicy {
    let is_set = provider.headers.set.iter().any(|(name, _)| *name == ACCEPT_ENCODING);
    if provider.reads_responses() && !is_set {
        let identity = HeaderValue::from_static("identity");
        provider.headers.set.push((ACCEPT_ENCODING, model::SetHeader::open(identity)));
    }
    provider
}

fn reads_body(route: &model::RoutePolicy, providers: &[model::ProviderPolicy]) -> bool {
    let own = route.providers.iter().map(|w| w.provider).chain(route.fallback.iter().copied());
    own.chain(route.used.iter().copied()).map(|index| &providers[index]).any(|provider| {
        let by_model = matches!(&provider.breaker, Some(b) if b.scope == Some(Scope::Model));
        by_model
            || !provider.models.is_empty()
            || provider.rewrite.changes_body()
            || provider.counts_tokens()
    })
}

fn route_metrics(metrics: &Metrics, route: &str) -> RouteMetrics {
    let requests = ["1xx", "2xx", "3xx", "4xx", "5xx", "499"]
        .map(|status| metrics.requests.with(&RequestLabels { route: route.to_owned(), status }));
    let retries = AttemptClass::ALL.map(|class| {
        let labels = ReasonLabels { route: route.to_owned(), reason: class.as_str() };
        metrics.retries.with(&labels)
    });
    let labels = RouteLabels { route: route.to_owned() };
    let events_dropped = metrics.stream_events_dropped.with(&labels);
    RouteMetrics {
        requests,
        retries,
        events_dropped,
        seconds: metrics.request_duration_seconds.with(&labels),
    }
}

fn access_log(policy: &model::AccessLog) -> Option<RouteLog> {
    let target = match &policy.to {
        LogTarget::None => return None,
        LogTarget::Stderr => LogDestination::Stderr,
        LogTarget::Stdout => LogDestination::Stdout,
        LogTarget::File(path) => LogDestination::File(path.clone()),
    };
    Some(RouteLog { to: Arc::new(target), format: policy.format })
}
