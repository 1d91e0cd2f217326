//! `outrigger explain --live`: the endpoint that a running sidecar would select now, and why not the
//! others.

use std::cell::Cell;
use std::process::ExitCode;

use super::admin_client::encode;
use super::explain::ExplainArgs;
use super::output::table;
use crate::admin::selection::{EndpointSelection, RouteSelection, SelectionStatus};

/// Exits 1 when no route takes the request, 2 when the sidecar cannot be asked.
pub fn run(args: &ExplainArgs) -> ExitCode {
    let has_route = Cell::new(true);
    let text = args.admin.get(&path(args)).and_then(|reply| {
        reply.print(|status: &SelectionStatus| {
            has_route.set(status.route.is_some());
            text(args, status)
        })
    });
    match super::print(text) {
        ExitCode::SUCCESS if !has_route.get() => ExitCode::FAILURE,
        code => code,
    }
}

fn path(args: &ExplainArgs) -> String {
    let (method, url) = (encode(args.method.as_str()), encode(&args.url.to_string()));
    let mut path = format!("/api/selection?method={method}&url={url}");
    for (name, value) in &args.headers {
        let value = String::from_utf8_lossy(value.as_bytes());
        path.push_str(&format!("&header={}", encode(&format!("{name}: {value}"))));
    }
    path.extend(args.model.iter().map(|model| format!("&model={}", encode(model))));
    path
}

fn text(args: &ExplainArgs, status: &SelectionStatus) -> String {
    let (method, path, policy) = (&args.method, args.url.path(), &status.policy);
    let request = format!("{method} {path}, by policy {policy}");
    match &status.route {
        Some(route) => format!("{request}\n{}", route_text(args, route)),
        None => format!("{request}\nno route takes it"),
    }
}

fn route_text(args: &ExplainArgs, route: &RouteSelection) -> String {
    let mut lines = vec![format!("route {}, balance {}", route.name, route.balance)];
    for mode in &route.modes {
        let actions = mode.actions.join(", ");
        lines.push(format!("degradation mode {} is in force: {actions}", mode.name));
    }
    if route.queue_paused {
        lines.push("an operator paused the queue: requests wait".to_owned());
    }
    if args.model.is_none() {
        lines.push("breakers and holds of models count with --model".to_owned());
    }
    let endpoints = table(&["ENDPOINT", "TIER", "NOW"], route.endpoints.iter().map(row));
    format!("{}\n\n{endpoints}", lines.join("\n"))
}

fn row(endpoint: &EndpointSelection) -> Vec<String> {
    let EndpointSelection { provider, endpoint, tier, state, reason, .. } = endpoint;
    vec![
        format!("{provider}/{endpoint}"),
        if *tier == 0 { "first".to_owned() } else { format!("fallback {tier}") },
        reason.clone().unwrap_or_else(|| state.to_string()),
    ]
}
