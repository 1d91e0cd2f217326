//! `outrigger status`: the state of a running sidecar on one screen.

use super::admin_client::AdminArgs;
use super::breakers::held_table;
use super::output::{NONE, count, decimal, duration, size, table};
use crate::admin::status::{EndpointStatus, ProviderStatus, SidecarStatus};

pub fn run(admin: &AdminArgs) -> Result<String, String> {
    admin.get("/api/status")?.print(text)
}

fn text(status: &SidecarStatus) -> String {
    let SidecarStatus { version, listener, policy, connections, buffered_bytes, .. } = status;
    let ready = if status.ready { "ready" } else { "not ready" };
    let uptime = duration(status.uptime_seconds * 1000);
    let connections = count(usize::try_from(*connections).unwrap_or_default(), "connection");
    let summary = format!(
        "outrigger {version} on {listener}: {ready}, up {uptime}, policy {policy}\n\
         {connections}, {} buffered",
        size(*buffered_bytes)
    );
    let providers = status.providers.iter().flat_map(|provider| {
        provider.endpoints.iter().map(move |endpoint| provider_row(provider, endpoint))
    });
    let header = ["ENDPOINT", "IN FLIGHT", "WAITING", "SELECTED", "FIRST BYTE", "STATE"];
    let providers = table(&header, providers);
    let routes = status
        .routes
        .iter()
        .map(|route| vec![route.name.clone(), route.balance.clone(), decimal(route.budget, 1)]);
    let header = ["ROUTE", "BALANCE", "RETRIES LEFT"];
    let routes = table(&header, routes);
    let held = held_table(&status.held);
    let parts = [Some(summary), Some(providers), Some(routes), held];
    parts.into_iter().flatten().collect::<Vec<_>>().join("\n\n")
}

fn provider_row(provider: &ProviderStatus, endpoint: &EndpointStatus) -> Vec<String> {
    let latency = endpoint.latency_ms.map(|ms| format!("{}ms", decimal(ms, 0)));
    vec![
        format!("{}/{}", provider.name, endpoint.name),
        format!("{} of {}", provider.in_flight, provider.limit),
        provider.waiting.to_string(),
        endpoint.selected.to_string(),
        latency.unwrap_or_else(|| NONE.to_owned()),
        endpoint.obstacle.clone().unwrap_or_else(|| "ok".to_owned()),
    ]
}
