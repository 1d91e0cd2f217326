//! `outrigger balance`: how the attempts of each route were spread over its endpoints.

use super::{covered, milliseconds, share};
use crate::admin::analytics::load_balancing::{BalanceAnalytics, EndpointBalance, RouteBalance};
use crate::cli::admin_client::AdminArgs;
use crate::cli::output::{NONE, decimal, table};

pub fn run(admin: &AdminArgs) -> Result<String, String> {
    admin.get("/api/load-balancing")?.print(text)
}

fn text(all: &BalanceAnalytics) -> String {
    let seconds = all.routes.first().map_or(0, |route| route.last_hour.seconds);
    let parts = all.routes.iter().map(route);
    [covered(seconds)].into_iter().chain(parts).collect::<Vec<_>>().join("\n\n")
}

fn route(route: &RouteBalance) -> String {
    let at = route.source.as_deref().unwrap_or("default");
    let mut title = format!("route {}, by {} ({at})", route.name, route.algorithm);
    if let Some(distance) = route.last_hour.distance {
        title.push_str(&format!(": {} of the attempts went elsewhere", share(Some(distance))));
    }
    if let Some(cost) = route.last_hour.latency_cost_ms.filter(|cost| cost.abs() >= 0.5) {
        let verb = if cost < 0.0 { "gained" } else { "lost" };
        title.push_str(&format!(", which {verb} {}ms on average", decimal(cost.abs(), 0)));
    }
    let header =
        ["ENDPOINT", "WEIGHT", "WANTED", "SEEN", "ATTEMPTS", "P50", "P95", "CAPACITY", "STATE"];
    let table = table(&header, route.endpoints.iter().map(row));
    let others = route.endpoints.iter().filter(|one| !one.shared_with.is_empty()).map(|one| {
        format!("attempts at {} are also of {}", one.endpoint, one.shared_with.join(", "))
    });
    let parts = [title, table].into_iter().chain(others);
    parts.collect::<Vec<_>>().join("\n")
}

fn row(endpoint: &EndpointBalance) -> Vec<String> {
    vec![
        endpoint.endpoint.clone(),
        decimal(endpoint.weight, 1).trim_end_matches(".0").to_owned(),
        share(Some(endpoint.share_wanted)),
        share(endpoint.share_seen),
        match endpoint.attempts {
            0 => NONE.to_owned(),
            attempts => attempts.to_string(),
        },
        milliseconds(endpoint.p50_ms),
        milliseconds(endpoint.p95_ms),
        share(Some(endpoint.capacity_used)),
        endpoint.obstacle.clone().unwrap_or_else(|| "ok".to_owned()),
    ]
}
