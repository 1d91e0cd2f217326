//! `outrigger status`: the state of a running sidecar on one screen.

use std::cell::Cell;
use std::process::ExitCode;

use super::admin_client::AdminArgs;
use super::breakers::held_table;
use super::output::{NONE, count, decimal, duration, indented, size, table, time};
use crate::admin::status::{
    EndpointStatus, OpenProblem, ProblemSeverity, ProviderStatus, SidecarStatus,
};

/// Exits 1 while there is a problem, 2 when the sidecar cannot be asked.
pub fn run(admin: &AdminArgs) -> ExitCode {
    let has_problem = Cell::new(false);
    let text = admin.get("/api/status").and_then(|reply| {
        has_problem.set(!reply.read::<SidecarStatus>()?.problems.is_empty());
        reply.print(text)
    });
    match super::print(text) {
        ExitCode::SUCCESS if has_problem.get() => ExitCode::FAILURE,
        code => code,
    }
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
    let parts = [problems(&status.problems), Some(summary), Some(providers), Some(routes), held];
    parts.into_iter().flatten().collect::<Vec<_>>().join("\n\n")
}

/// The problems, each with its command.
fn problems(all: &[OpenProblem]) -> Option<String> {
    let paragraph = |problem: &OpenProblem| {
        let OpenProblem { severity, what, why, since, command, .. } = problem;
        let mark = match severity {
            ProblemSeverity::Critical => "CRITICAL",
            ProblemSeverity::Warning => "warning",
        };
        let since = since.as_ref().map(|at| format!(", since {}", time(at))).unwrap_or_default();
        let mut lines = vec![indented(mark, &format!("{what}{since}"))];
        lines.extend(why.iter().map(|why| indented(" ", &format!("because: {why}"))));
        lines.push(indented(" ", &format!("see: {command}")));
        lines.join("\n")
    };
    let paragraphs: Vec<_> = all.iter().map(paragraph).collect();
    (!all.is_empty()).then(|| format!("PROBLEMS NOW\n{}", paragraphs.join("\n")))
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
