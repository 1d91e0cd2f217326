//! `outrigger retry`: what the retries of each route gained and cost.

use super::{cost, counts, covered, milliseconds};
use crate::admin::analytics::retry::{RetryAnalytics, RouteRetries};
use crate::cli::admin_client::AdminArgs;
use crate::cli::output::{NONE, decimal, table};

pub fn run(admin: &AdminArgs) -> Result<String, String> {
    admin.get("/api/retry")?.print(text)
}

fn text(all: &RetryAnalytics) -> String {
    let header = ["ROUTE", "REQUESTS", "RETRIES", "SAVED", "ADDED", "HEDGES", "NOT RETRIED"];
    let figures = table(&header, all.routes.iter().map(figures));
    let header = ["ROUTE", "RETRY", "ATTEMPTS", "AFTER", "BUDGET", "EXTRA COST", "AT"];
    let policies = table(&header, all.routes.iter().map(policy));
    let seconds = all.routes.first().map_or(0, |route| route.last_hour.seconds);
    format!("{}\n\n{figures}\n\n{policies}", covered(seconds))
}

fn figures(route: &RouteRetries) -> Vec<String> {
    let hour = &route.last_hour;
    vec![
        route.name.clone(),
        hour.requests.to_string(),
        counts(hour.retries.iter().map(|one| (one.reason.as_str(), one.count))),
        hour.saved.to_string(),
        milliseconds(hour.added_ms_p50),
        counts(hour.hedges.iter().map(|one| (one.result.as_str(), one.count))),
        counts(hour.denied.iter().map(|one| (one.reason.as_str(), one.count))),
    ]
}

fn policy(route: &RouteRetries) -> Vec<String> {
    let key = |key: &str| route.policy.get(key).cloned().unwrap_or_else(|| NONE.to_owned());
    let left = decimal(route.budget.available, 1);
    vec![
        route.name.clone(),
        key("retry"),
        key("max_attempts"),
        key("retry_on"),
        format!("{} ({left} left)", key("budget.ratio")),
        cost(&route.last_hour.extra_cost),
        route.source.clone().unwrap_or_else(|| "default".to_owned()),
    ]
}
