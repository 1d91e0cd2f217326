//! `/api/load-balancing`: how the attempts of each route were spread over its endpoints, against the
//! shares that the policy wants.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use axum::extract::State;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::figures::{HourFigures, count, millis, route_key, settings, source};
use crate::admin::routes::{ApiJson, ApiRoutes};
use crate::admin::state::AdminState;
use crate::admin::status::obstacle;
use crate::clock;
use crate::live::Live;
use crate::policy::Locations;
use crate::policy::yaml::locations::child_path;
use crate::resilience::balance::balancer::BalanceAlgorithm;
use crate::snapshot::{EndpointCandidate, Route, Snapshot};

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct BalanceAnalytics {
    /// In the order in which they are tried.
    pub routes: Vec<RouteBalance>,
}

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct RouteBalance {
    pub name: String,
    /// The place in the policy, as `FILE:LINE`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// `latency`, `least_connections`, `round_robin`, `weighted` or `first`.
    pub algorithm: String,
    /// The settings in force by their keys under the route, as the policy writes them.
    pub policy: BTreeMap<String, String>,
    /// The endpoints among which load is balanced: those of the route's `providers`.
    pub endpoints: Vec<EndpointBalance>,
    pub last_hour: BalanceFigures,
}

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct EndpointBalance {
    /// `PROVIDER/ENDPOINT`.
    pub endpoint: String,
    /// The provider's weight times the endpoint's.
    pub weight: f64,
    /// The share that the policy wants, 0 to 1: by weight for `weighted` and `latency` (which
    /// departs from it to gain time), all for the first endpoint that takes requests with `first`,
    /// and equal shares else.
    pub share_wanted: f64,
    /// The share of the attempts in the last hour; absent without attempts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub share_seen: Option<f64>,
    /// Attempts in the last hour, of all routes.
    pub attempts: u64,
    /// Other routes that send to this endpoint; their attempts are part of `attempts`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub shared_with: Vec<String>,
    /// Time to the first byte at the provider; absent without a response.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub p50_ms: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub p95_ms: Option<f64>,
    /// The largest used share of the provider's limits now, 0 to 1.
    pub capacity_used: f64,
    /// Why it takes no requests now, or none for some models.
    pub obstacle: Option<String>,
}

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct BalanceFigures {
    /// The time that the figures cover: less than an hour soon after the start.
    pub seconds: u64,
    pub attempts: u64,
    /// Half the sum of the differences between the shares wanted and seen, 0 to 1; absent without
    /// attempts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub distance: Option<f64>,
    /// Mean time to the first byte as seen, minus the mean with the shares wanted; negative if time
    /// was gained. Absent if the time of an endpoint is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latency_cost_ms: Option<f64>,
}

/// An endpoint in the last hour.
#[derive(Clone, Copy, Debug)]
struct EndpointShare {
    wanted: f64,
    attempts: f64,
    mean_seconds: Option<f64>,
}

pub fn routes() -> ApiRoutes {
    ApiRoutes::default().get::<BalanceAnalytics, _>(
        "/api/load-balancing",
        "Reports how the attempts of each route were spread over its endpoints in the last hour, and \
         the shares that the policy wants.",
        show,
    )
}

async fn show(State(admin): State<Arc<AdminState>>) -> ApiJson<BalanceAnalytics> {
    let (snapshot, locations) = (admin.current.load_full(), admin.loader.locations());
    let figures = HourFigures(&admin.history);
    let (live, now) = (&*admin.live, clock::now());
    let one = |route: &Arc<Route>| {
        RouteBalance::of(
            route,
            &BalanceContext { snapshot: &snapshot, live, figures, now },
            &locations,
        )
    };
    ApiJson(BalanceAnalytics { routes: snapshot.routes.iter().map(one).collect() })
}

/// The state that the figures of a route come from.
#[derive(Clone, Copy, Debug)]
pub struct BalanceContext<'s> {
    pub snapshot: &'s Snapshot,
    pub live: &'s Live,
    pub figures: HourFigures<'s>,
    pub now: Instant,
}

impl RouteBalance {
    pub fn of(route: &Route, context: &BalanceContext<'_>, locations: &Locations) -> RouteBalance {
        let (name, algorithm) = (route.policy.name.as_str(), route.policy.balance);
        let entry = child_path("routes", name);
        let places = [&*route_key(name, "balance"), &*route_key(name, "providers"), &*entry];
        let mut policy = settings(&context.snapshot.policy, &entry);
        policy.retain(|key, _| {
            let parts = ["balance", "providers", "affinity", "fallback"];
            parts.iter().any(|part| key.split(['.', '[']).next() == Some(part))
        });
        let candidates = route.tiers.first().map_or(&[][..], |tier| &tier.candidates);
        let obstacles: Vec<_> = candidates
            .iter()
            .map(|it| obstacle(context.live, &it.provider, &it.endpoint, context.now))
            .collect();
        let wanted = wanted(algorithm, candidates, &obstacles);
        let shares: Vec<_> =
            candidates.iter().zip(wanted).map(|(it, wanted)| share(it, wanted, context)).collect();
        let all: f64 = shares.iter().map(|share| share.attempts).sum();
        let endpoints = candidates.iter().zip(&shares).zip(obstacles);
        RouteBalance {
            name: name.to_owned(),
            source: source(locations, &places),
            algorithm: algorithm.as_str().to_owned(),
            policy,
            last_hour: BalanceFigures {
                seconds: context.figures.seconds(),
                attempts: count(all),
                distance: distance(&shares),
                latency_cost_ms: latency_cost(&shares).map(millis),
            },
            endpoints: endpoints
                .map(|((candidate, share), obstacle)| {
                    let seen = (all > 0.0).then(|| share.attempts / all);
                    EndpointBalance { obstacle, ..endpoint(route, candidate, share, seen, context) }
                })
                .collect(),
        }
    }
}

fn endpoint(
    route: &Route,
    candidate: &EndpointCandidate,
    share: &EndpointShare,
    seen: Option<f64>,
    context: &BalanceContext<'_>,
) -> EndpointBalance {
    let provider = &candidate.provider;
    let labels = [("provider", provider.policy.name.as_str())];
    let first_byte = context.figures.histogram("first_byte_seconds", &labels);
    let others = context.snapshot.routes.iter().filter(|other| {
        let mut all = other.tiers.iter().flat_map(|tier| &tier.candidates);
        other.policy.name != route.policy.name
            && all.any(|one| one.endpoint.key == candidate.endpoint.key)
    });
    EndpointBalance {
        endpoint: candidate.endpoint.key.clone(),
        weight: candidate.share,
        share_wanted: share.wanted,
        share_seen: seen,
        attempts: count(share.attempts),
        shared_with: others.map(|other| other.policy.name.clone()).collect(),
        p50_ms: first_byte.quantile(0.5).map(millis),
        p95_ms: first_byte.quantile(0.95).map(millis),
        capacity_used: provider.used(context.now),
        obstacle: None,
    }
}

fn share(
    candidate: &EndpointCandidate,
    wanted: f64,
    context: &BalanceContext<'_>,
) -> EndpointShare {
    let provider = candidate.provider.policy.name.as_str();
    let endpoint = candidate.endpoint.policy.name.as_str();
    let labels = [("provider", provider), ("endpoint", endpoint)];
    let first_byte = context.figures.histogram("first_byte_seconds", &labels[..1]);
    EndpointShare {
        wanted,
        attempts: context.figures.total("attempts", &labels),
        mean_seconds: first_byte.mean(),
    }
}

/// The share of each endpoint that the policy wants.
fn wanted(
    algorithm: BalanceAlgorithm,
    candidates: &[EndpointCandidate],
    obstacles: &[Option<String>],
) -> Vec<f64> {
    let weights: Vec<f64> = match algorithm {
        BalanceAlgorithm::Latency | BalanceAlgorithm::Weighted => {
            candidates.iter().map(|candidate| candidate.share).collect()
        }
        BalanceAlgorithm::LeastConnections | BalanceAlgorithm::RoundRobin => {
            vec![1.0; candidates.len()]
        }
        BalanceAlgorithm::First => {
            let first = obstacles.iter().position(Option::is_none).unwrap_or_default();
            (0..candidates.len()).map(|at| f64::from(u8::from(at == first))).collect()
        }
    };
    let all: f64 = weights.iter().sum();
    weights.into_iter().map(|weight| if all > 0.0 { weight / all } else { 0.0 }).collect()
}

/// The total variation between the shares wanted and seen.
fn distance(shares: &[EndpointShare]) -> Option<f64> {
    let all: f64 = shares.iter().map(|share| share.attempts).sum();
    let differences = shares.iter().map(|share| (share.attempts / all - share.wanted).abs());
    (all > 0.0).then(|| differences.sum::<f64>() / 2.0)
}

/// Mean seconds as seen minus the mean with the shares wanted.
fn latency_cost(shares: &[EndpointShare]) -> Option<f64> {
    let all: f64 = shares.iter().map(|share| share.attempts).sum();
    let mut cost = 0.0;
    for share in shares.iter().filter(|share| share.attempts > 0.0 || share.wanted > 0.0) {
        cost += (share.attempts / all - share.wanted) * share.mean_seconds?;
    }
    (all > 0.0).then_some(cost)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shares(list: &[(f64, f64, Option<f64>)]) -> Vec<EndpointShare> {
        let one = |&(wanted, attempts, mean_seconds): &(f64, f64, Option<f64>)| EndpointShare {
            wanted,
            attempts,
            mean_seconds,
        };
        list.iter().map(one).collect()
    }

    fn is_near(found: Option<f64>, expected: f64) -> bool {
        found.is_some_and(|found| (found - expected).abs() < 1e-9)
    }

    #[test]
    fn the_distance_is_the_share_that_went_elsewhere() {
        let even = shares(&[(0.5, 10.0, None), (0.5, 10.0, None)]);
        assert!(is_near(distance(&even), 0.0));
        let moved = shares(&[(0.75, 50.0, None), (0.25, 50.0, None)]);
        assert!(is_near(distance(&moved), 0.25));
        assert_eq!(distance(&shares(&[(1.0, 0.0, None)])), None);
    }

    #[test]
    fn traffic_moved_to_a_faster_endpoint_gains_time() {
        let fast = shares(&[(0.5, 90.0, Some(0.1)), (0.5, 10.0, Some(0.3))]);
        assert!(is_near(latency_cost(&fast), -0.08));
        let slow = shares(&[(0.5, 10.0, Some(0.1)), (0.5, 90.0, Some(0.3))]);
        assert!(is_near(latency_cost(&slow), 0.08));
        let unknown = shares(&[(0.5, 100.0, Some(0.1)), (0.5, 0.0, None)]);
        assert_eq!(latency_cost(&unknown), None);
    }
}
