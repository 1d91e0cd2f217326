//! `outrigger status`: the state of a running sidecar on one screen.

use super::admin_client::AdminArgs;
use super::output::{NONE, duration, manual_override, table};
use crate::admin::status::{EndpointStatus, ProviderStatus, SidecarStatus};

pub fn run(admin: &AdminArgs) -> Result<String, String> {
    admin.get("/api/status")?.print(text)
}

fn text(status: &SidecarStatus) -> String {
    let SidecarStatus { version, listener, policy, connections, buffered_bytes, .. } = status;
    let ready = if status.ready { "ready" } else { "not ready" };
    let uptime = duration(status.uptime_seconds * 1000);
    let summary = format!(
        "outrigger {version} on {listener}: {ready}, up {uptime}, policy {policy}\n\
         {connections} connections, {buffered_bytes} bytes buffered"
    );
    let providers = status.providers.iter().flat_map(|provider| {
        provider.endpoints.iter().map(move |endpoint| provider_row(provider, endpoint))
    });
    let header =
        ["PROVIDER", "ENDPOINT", "IN FLIGHT", "WAITING", "SELECTED", "FIRST BYTE", "OVERRIDE"];
    let providers = table(&header, providers);
    let routes = status.routes.iter().map(|route| {
        vec![route.name.clone(), route.balance.clone(), format!("{:.1}", route.budget)]
    });
    let header = ["ROUTE", "BALANCE", "RETRY BUDGET"];
    let routes = table(&header, routes);
    format!("{summary}\n\n{providers}\n\n{routes}")
}

fn provider_row(provider: &ProviderStatus, endpoint: &EndpointStatus) -> Vec<String> {
    let latency = endpoint.latency_ms.map(|ms| format!("{ms:.0}ms"));
    vec![
        provider.name.clone(),
        endpoint.name.clone(),
        format!("{}/{}", provider.in_flight, provider.limit),
        provider.waiting.to_string(),
        endpoint.selected.to_string(),
        latency.unwrap_or_else(|| NONE.to_owned()),
        manual_override(provider.manual_override.as_ref()),
    ]
}
