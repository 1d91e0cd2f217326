//! `/api/retry`: the retry policy of each route, and what retries cost and gained in the last hour.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::extract::State;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::figures::{HourFigures, count, millis, route_key, settings, source};
use crate::admin::routes::{ApiJson, ApiRoutes};
use crate::admin::state::AdminState;
use crate::clock;
use crate::policy::Locations;
use crate::policy::sections::model::Policy;
use crate::policy::yaml::locations::child_path;
use crate::snapshot::Route;

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct RetryAnalytics {
    /// In the order in which they are tried.
    pub routes: Vec<RouteRetries>,
}

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct RouteRetries {
    pub name: String,
    /// The place in the policy, as `FILE:LINE`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// The settings in force by their keys under `retries`, and `hedge` and `fallback_on` of the
    /// route, as the policy writes them. Defaults included.
    pub policy: BTreeMap<String, String>,
    pub budget: RetryBudgetStatus,
    pub last_hour: RetryFigures,
}

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct RetryBudgetStatus {
    /// Retries that are allowed now.
    pub available: f64,
    /// The most that were allowed in the last hour.
    pub max: f64,
    /// The cost that retries may still cause now; absent without a budget of cost.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cost_available: Option<f64>,
}

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct RetryFigures {
    /// The time that the figures cover: less than an hour soon after the start.
    pub seconds: u64,
    pub requests: u64,
    /// Attempts after the first, by the class of the outcome that caused them.
    pub retries: Vec<RetryCount>,
    /// Failed attempts that no retry followed, by reason.
    pub denied: Vec<ReasonCount>,
    pub hedges: Vec<HedgeCount>,
    /// Requests that a retry completed after their first attempt had failed.
    pub saved: u64,
    /// Attempts besides the first of each request: retries and hedges.
    pub extra_attempts: u64,
    /// Cost of these attempts by currency, where prices are known.
    pub extra_cost: BTreeMap<String, f64>,
    /// Median time that a saved request spent before its last attempt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub added_ms_p50: Option<f64>,
}

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct RetryCount {
    pub reason: String,
    pub count: u64,
    /// How many of them completed the request.
    pub succeeded: u64,
}

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct ReasonCount {
    pub reason: String,
    pub count: u64,
}

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct HedgeCount {
    /// `won`, `lost`, `budget` or `no_endpoint`.
    pub result: String,
    pub count: u64,
}

pub fn routes() -> ApiRoutes {
    ApiRoutes::default().get::<RetryAnalytics, _>(
        "/api/retry",
        "Reports the retry policy of each route with its budget, and what retries and hedges gained \
         and cost in the last hour.",
        show,
    )
}

async fn show(State(admin): State<Arc<AdminState>>) -> ApiJson<RetryAnalytics> {
    let (snapshot, locations) = (admin.current.load_full(), admin.loader.locations());
    let figures = HourFigures(&admin.history);
    let one = |route: &Arc<Route>| RouteRetries::of(route, &snapshot.policy, &locations, figures);
    ApiJson(RetryAnalytics { routes: snapshot.routes.iter().map(one).collect() })
}

impl RouteRetries {
    fn of(
        route: &Route,
        policy: &Policy,
        locations: &Locations,
        figures: HourFigures<'_>,
    ) -> RouteRetries {
        let (name, retry) = (route.policy.name.as_str(), &route.policy.retry);
        let entry = child_path("retries", &retry.name);
        let places = [&*route_key(name, "retry"), &*entry, &*child_path("routes", name)];
        let mut in_force = settings(policy, &entry);
        in_force.insert("retry".to_owned(), retry.name.clone());
        let of_route = settings(policy, &child_path("routes", name)).into_iter();
        in_force.extend(of_route.filter(|(key, _)| {
            key.starts_with("hedge") || matches!(key.as_str(), "fallback_on" | "idempotent")
        }));
        let now = clock::now();
        let available = route.live.balance(now);
        let balances = figures.levels("retry_budget", &[("route", name)]);
        RouteRetries {
            name: name.to_owned(),
            source: source(locations, &places),
            policy: in_force,
            budget: RetryBudgetStatus {
                available,
                max: balances.into_iter().fold(available, f64::max),
                cost_available: route.live.cost_left(now),
            },
            last_hour: RetryFigures::of(name, figures),
        }
    }
}

impl RetryFigures {
    pub fn of(route: &str, figures: HourFigures<'_>) -> RetryFigures {
        let labels = [("route", route)];
        let by_reason = |metric| figures.totals_by(metric, &labels, "reason");
        let (retries, succeeded) = (by_reason("retries"), by_reason("retries_succeeded"));
        let hedges = by_reason("hedges");
        let sent = |result: &&String| matches!(result.as_str(), "won" | "lost");
        let hedged: f64 = hedges.keys().filter(sent).filter_map(|result| hedges.get(result)).sum();
        let cost = ["retry", "hedge", "continuation"].into_iter().map(|kind| {
            figures.totals_by("cost", &[("route", route), ("attempt", kind)], "currency")
        });
        let mut extra_cost = BTreeMap::<String, f64>::new();
        for (currency, cost) in cost.flatten() {
            *extra_cost.entry(currency).or_default() += cost;
        }
        let added = figures.histogram("retry_added_seconds", &labels);
        let of_reason = |reason: &String| succeeded.get(reason).copied().unwrap_or_default();
        RetryFigures {
            seconds: figures.seconds(),
            requests: count(figures.total("requests", &labels)),
            saved: count(succeeded.values().sum()),
            extra_attempts: count(retries.values().sum::<f64>() + hedged),
            extra_cost,
            added_ms_p50: added.quantile(0.5).map(millis),
            retries: retries
                .iter()
                .map(|(reason, total)| RetryCount {
                    reason: reason.clone(),
                    count: count(*total),
                    succeeded: count(of_reason(reason)),
                })
                .collect(),
            denied: by_reason("retry_denied")
                .into_iter()
                .map(|(reason, total)| ReasonCount { reason, count: count(total) })
                .collect(),
            hedges: hedges
                .into_iter()
                .map(|(result, total)| HedgeCount { result, count: count(total) })
                .collect(),
        }
    }
}
