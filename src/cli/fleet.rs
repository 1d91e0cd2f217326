//! `outrigger fleet`: who else is there, what is shared, and whether this host hears of it.

use serde_json::Value;

use super::admin_client::{Ask, Failed, length, table};
use super::status::on_it;

/// Transitions that are shown.
const LATEST: usize = 10;

/// Its name in the answer, its columns, and how a row is made.
type Section = (&'static str, &'static [&'static str], fn(&Value) -> Vec<String>);

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    ask: Ask,
}

/// # Errors
/// When the sidecar does not answer, or is in no fleet.
pub fn run(args: &Args) -> Result<String, Failed> {
    let fleet = args.ask.get("/api/fleet")?;
    Ok(if args.ask.json { format!("{fleet:#}") } else { told(&fleet) })
}

fn told(fleet: &Value) -> String {
    let how = if fleet["attached"] == true { "attached" } else { "DETACHED" };
    let mut parts = vec![format!(
        "fleet {} by {}: {how} since {}, as {}",
        text(&fleet["fleet"]),
        text(&fleet["redis"]),
        text(&fleet["since"]),
        text(&fleet["host"]),
    )];
    if fleet["policies_differ"] == true {
        parts.push("the hosts have different policies in force".to_owned());
    }
    parts.push(table(&["HOST", "VERSION", "POLICY", "SINCE"], &rows(&fleet["hosts"], host)));
    let sections: [Section; 4] = [
        ("breakers", &["BREAKER", "STATE", "TRIPS", "ASKS IN", "HERE", "VOTES", "LEASES"], breaker),
        ("by_hand", &["BY HAND", "WHAT"], |hand| vec![text(&hand["key"]), on_it(hand)]),
        ("holds", &["HELD", "FOR"], |hold| vec![text(&hold["key"]), left(hold)]),
        ("limits", &["LIMIT", "OF", "RATE", "SHARE", "IN HAND"], limit),
    ];
    for (name, head, row) in sections {
        let rows = rows(&fleet[name], row);
        if !rows.is_empty() {
            parts.push(table(head, &rows));
        }
    }
    let transitions = rows(&fleet["transitions"], transition);
    if !transitions.is_empty() {
        let latest = &transitions[transitions.len().saturating_sub(LATEST)..];
        parts.push(table(&["AT", "BREAKER", "BECAME", "BY", "WHY"], latest));
    }
    parts.join("\n\n")
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or("-").to_owned()
}

fn left(of: &Value) -> String {
    of["left_ms"].as_u64().map_or_else(|| "-".to_owned(), length)
}

fn rows(list: &Value, row: fn(&Value) -> Vec<String>) -> Vec<Vec<String>> {
    list.as_array().into_iter().flatten().map(row).collect()
}

fn host(host: &Value) -> Vec<String> {
    let me = if host["me"] == true { " (this one)" } else { "" };
    let id = format!("{}{me}", text(&host["id"]));
    vec![id, text(&host["version"]), text(&host["policy"]), text(&host["since"])]
}

fn breaker(breaker: &Value) -> Vec<String> {
    let count = |list: &Value| list.as_array().map_or(0, Vec::len).to_string();
    vec![
        text(&breaker["key"]),
        text(&breaker["state"]),
        breaker["trips"].to_string(),
        left(breaker),
        text(&breaker["own"]),
        count(&breaker["votes"]),
        count(&breaker["leases"]),
    ]
}

fn limit(limit: &Value) -> Vec<String> {
    let a_second = |rate: &Value| format!("{:.2}/s", rate.as_f64().unwrap_or(0.0));
    vec![
        text(&limit["provider"]),
        text(&limit["kind"]),
        a_second(&limit["rate"]),
        a_second(&limit["share"]),
        format!("{:.1}", limit["in_hand"].as_f64().unwrap_or(0.0)),
    ]
}

fn transition(transition: &Value) -> Vec<String> {
    ["at", "key", "state", "by", "why"].map(|name| text(&transition[name])).to_vec()
}
