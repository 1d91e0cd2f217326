//! Collects the evidence from the history of the metrics and the policy in force.

use std::sync::Arc;

use super::evidence::{
    CacheEvidence, EndpointEvidence, Evidence, ProviderEvidence, RetryEvidence, RouteEvidence,
    ShareEvidence,
};
use crate::admin::analytics::figures::{HourFigures, count, route_key, source};
use crate::admin::analytics::load_balancing::{BalanceContext, RouteBalance};
use crate::admin::analytics::retry::RetryFigures;
use crate::admin::state::AdminState;
use crate::clock;
use crate::policy::Locations;
use crate::policy::yaml::locations::child_path;
use crate::proxy::access_log::reasons::RetryDenied;
use crate::resilience::balance::balancer::BalanceAlgorithm;
use crate::resilience::breaker::TransitionCause;
use crate::snapshot::{Endpoint, Provider, Route};

/// Reads the figures once for all rules.
struct Collector<'s> {
    locations: &'s Locations,
    figures: HourFigures<'s>,
    /// Requests of all routes since the start.
    requests: u64,
}

pub(super) fn evidence(admin: &AdminState) -> Evidence {
    let (snapshot, locations) = (admin.current.load_full(), admin.loader.locations());
    let figures = HourFigures(&admin.history);
    let requests = snapshot.routes.iter().map(|route| since_start(route)).sum();
    let collector = Collector { locations: &locations, figures, requests };
    let (live, now) = (&*admin.live, clock::now());
    let balance = BalanceContext { snapshot: &snapshot, live, figures, now };
    let caches = snapshot.policy.caches.iter().map(|cache| collector.cache(&cache.name));
    Evidence {
        providers: snapshot.providers.iter().map(|one| collector.provider(one)).collect(),
        endpoints: snapshot.providers.iter().flat_map(|one| collector.endpoints(one)).collect(),
        routes: snapshot.routes.iter().map(|route| collector.route(route, &balance)).collect(),
        caches: caches.collect(),
    }
}

fn since_start(route: &Route) -> u64 {
    route.metrics.requests.iter().map(|counter| counter.get()).sum()
}

impl Collector<'_> {
    fn source(&self, places: &[&str]) -> Option<String> {
        source(self.locations, places)
    }

    fn provider(&self, provider: &Provider) -> ProviderEvidence {
        let name = provider.policy.name.as_str();
        let levels = |metric| self.figures.levels(metric, &[("provider", name)]);
        let (used, limits) = (levels("attempts_in_flight"), levels("concurrency_limit"));
        let waiting = levels("waiting_requests");
        let entry = child_path("providers", name);
        let capacity = child_path(&entry, "capacity");
        // The series may have begun at different times; both end now.
        let pairs = used.iter().rev().zip(limits.iter().rev());
        ProviderEvidence {
            name: name.to_owned(),
            samples: pairs.len(),
            at_limit: pairs.filter(|(used, limit)| used >= limit).count(),
            limit: limits.last().copied().unwrap_or_default(),
            waiting: waiting.iter().sum::<f64>() / waiting.len().max(1) as f64,
            source: self.source(&[&child_path(&capacity, "concurrency"), &capacity, &entry]),
        }
    }

    fn endpoints(&self, provider: &Provider) -> Vec<EndpointEvidence> {
        let name = provider.policy.name.as_str();
        let provider_entry = child_path("providers", name);
        let breaker = provider.policy.breaker.as_ref().map(|breaker| breaker.name.as_str());
        let breaker = child_path("breakers", breaker.unwrap_or_default());
        let places = [&*breaker, &*child_path(&provider_entry, "breaker"), &*provider_entry];
        let one = |endpoint: &Arc<Endpoint>| {
            let labels = [("provider", name), ("endpoint", endpoint.policy.name.as_str())];
            let [of_provider, of_endpoint] = labels;
            let opened = [of_provider, of_endpoint, ("to", "open")];
            let causes = self.figures.totals_by("breaker_transitions", &opened, "cause");
            let opened =
                causes.into_iter().filter(|(cause, _)| cause != TransitionCause::Override.as_str());
            EndpointEvidence {
                key: endpoint.key.clone(),
                attempts: count(self.figures.total("attempts", &labels)),
                opened: count(opened.map(|(_, times)| times).sum()),
                source: self.source(&places),
            }
        };
        provider.endpoints.iter().map(one).collect()
    }

    fn route(&self, route: &Route, balance: &BalanceContext<'_>) -> RouteEvidence {
        let (name, policy) = (route.policy.name.as_str(), &route.policy);
        let labels = |reason| [("route", name), ("reason", reason)];
        let total = |metric, reason| count(self.figures.total(metric, &labels(reason)));
        let retries = RetryFigures::of(name, self.figures);
        let spread = RouteBalance::of(route, balance, self.locations);
        let shares = spread.endpoints.into_iter().map(|one| ShareEvidence {
            endpoint: one.endpoint,
            wanted: one.share_wanted,
            seen: one.share_seen.unwrap_or_default(),
            attempts: one.attempts,
            is_shared: !one.shared_with.is_empty(),
        });
        let entry = child_path("routes", name);
        let at = |key: &str| self.source(&[&route_key(name, key), &entry]);
        let retry = child_path(&child_path("retries", &policy.retry.name), "retry_on");
        RouteEvidence {
            name: name.to_owned(),
            requests: retries.requests,
            since_start: since_start(route),
            of_all_routes: self.requests,
            is_weighted: policy.balance == BalanceAlgorithm::Weighted,
            shares: shares.collect(),
            timed_out: total("local_responses", "deadline"),
            timeout: policy.timeout,
            not_repeatable: total("retry_denied", RetryDenied::MayHaveBeenProcessed.as_str()),
            has_fallback: !policy.fallback.is_empty(),
            source: self.source(&[&entry]),
            providers_source: at("providers"),
            retry_source: self.source(&[&retry, &route_key(name, "retry"), &entry]),
            timeout_source: at("timeout"),
            fallback_source: at("fallback"),
            retries: retries
                .retries
                .into_iter()
                .map(|one| RetryEvidence {
                    reason: one.reason,
                    count: one.count,
                    succeeded: one.succeeded,
                })
                .collect(),
        }
    }

    fn cache(&self, name: &str) -> CacheEvidence {
        let results = self.figures.totals_by("cache_requests", &[("cache", name)], "result");
        let of = |result: &str| results.get(result).copied().unwrap_or_default();
        let hits = ["hit", "stale", "revalidated", "coalesced"].into_iter().map(of).sum();
        CacheEvidence {
            name: name.to_owned(),
            requests: count(results.values().sum()),
            hits: count(hits),
            bypassed: count(of("bypass")),
            source: self.source(&[&child_path("caches", name)]),
        }
    }
}
