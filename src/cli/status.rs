//! `outrigger status`: what a running sidecar is doing, on one screen.

use serde_json::Value;

use super::admin_client::{Ask, Failed, length, table};

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    ask: Ask,
}

/// # Errors
/// When the sidecar does not answer.
pub fn run(args: &Args) -> Result<String, Failed> {
    let status = args.ask.get("/api/status")?;
    Ok(if args.ask.json { format!("{status:#}") } else { told(&status) })
}

fn told(status: &Value) -> String {
    let text = |value: &Value| value.as_str().unwrap_or("-").to_owned();
    let number = |value: &Value| value.as_u64().unwrap_or_default().to_string();
    let ready = if status["ready"] == true { "ready" } else { "not ready" };
    let up = length(status["uptime_seconds"].as_u64().unwrap_or_default() * 1000);
    let head = format!(
        "outrigger {} on {}: {ready}, up {up}, policy {}\n{} connections, {} bytes buffered",
        text(&status["version"]),
        text(&status["listener"]),
        text(&status["policy"]),
        status["connections"],
        status["buffered_bytes"],
    );
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let providers = list(&status["providers"]);
    let rows = providers.iter().flat_map(|provider| {
        let addresses = list(&provider["addresses"]);
        let row = move |address: &Value| {
            let latency = address["latency_ms"].as_f64();
            vec![
                text(&provider["name"]),
                text(&address["name"]),
                format!("{}/{}", provider["in_flight"], provider["limit"]),
                number(&provider["waiting"]),
                number(&address["picked"]),
                latency.map_or_else(|| "-".to_owned(), |ms| format!("{ms:.0}ms")),
                on_it(&provider["by_hand"]),
            ]
        };
        addresses.iter().map(row).collect::<Vec<_>>()
    });
    let rows: Vec<_> = rows.collect();
    let providers = table(
        &["PROVIDER", "ADDRESS", "IN FLIGHT", "WAITING", "PICKED", "FIRST BYTE", "BY HAND"],
        &rows,
    );
    let route = |route: &Value| {
        let budget = route["budget"].as_f64().unwrap_or_default();
        vec![text(&route["name"]), text(&route["balance"]), format!("{budget:.1}")]
    };
    let routes: Vec<_> = list(&status["routes"]).iter().map(route).collect();
    let routes = table(&["ROUTE", "BALANCE", "BUDGET"], &routes);
    format!("{head}\n\n{providers}\n\n{routes}")
}

/// A hand that is on something, in one cell.
pub fn on_it(hand: &Value) -> String {
    let Some(what) = hand["what"].as_str() else { return "-".to_owned() };
    let left = hand["left_ms"].as_u64().map(|ms| format!(" for {}", length(ms)));
    let by = hand["by"].as_str().map(|by| format!(" by {by}"));
    let reason = hand["reason"].as_str().map(|reason| format!(": {reason}"));
    let parts = [left, by, reason].map(Option::unwrap_or_default);
    format!("{what}{}", parts.concat())
}
