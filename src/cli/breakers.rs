//! `outrigger breakers`: how each stands, and opening, closing, shadowing or resetting one by hand.

use clap::Subcommand;
use serde_json::Value;

use super::admin_client::{Ask, Change, Failed, escaped, length, table};
use super::status::on_it;

#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Args {
    #[command(subcommand)]
    action: Option<Action>,
    #[command(flatten)]
    ask: Ask,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Send nothing to what is under a key; at the end of --for a probe asks first.
    Open(ByHand),
    /// Let everything through, whatever happens.
    Close(ByHand),
    /// Count and report, and refuse nothing.
    Shadow(ByHand),
    /// Take the hand off, and begin anew: closed, with nothing remembered.
    Reset(ByHand),
}

#[derive(Debug, clap::Args)]
struct ByHand {
    /// PROVIDER, PROVIDER/ADDRESS or PROVIDER/ADDRESS/MODEL: every breaker under it.
    #[arg(value_name = "KEY")]
    key: String,
    /// At every host of the fleet.
    #[arg(long)]
    fleet: bool,
    #[command(flatten)]
    change: Change,
    #[command(flatten)]
    ask: Ask,
}

/// # Errors
/// When the sidecar does not answer, or refuses.
pub fn run(args: &Args) -> Result<String, Failed> {
    let (ask, said) = match &args.action {
        None => (&args.ask, args.ask.get("/api/circuit-breakers")?),
        Some(action) => {
            let (name, by_hand) = action.parts();
            let path = format!("/api/circuit-breakers/{name}/{}", escaped(&by_hand.key));
            let ByHand { ask, change, fleet, .. } = by_hand;
            let said =
                if *fleet { ask.post_to_fleet(&path, change) } else { ask.post(&path, change) };
            (ask, said?)
        }
    };
    if ask.json {
        return Ok(format!("{said:#}"));
    }
    let breakers = said["breakers"].as_array().or(said["changed"].as_array());
    let rows: Vec<_> = breakers.into_iter().flatten().map(row).collect();
    let head = ["BREAKER", "STATE", "TRIPS", "ASKS IN", "TRAFFIC", "MODE", "BY HAND"];
    let mut text = match rows.as_slice() {
        [] => "no breakers (a route's providers have none, or nothing was asked yet)".to_owned(),
        rows => table(&head, rows),
    };
    let held = |held: &Value| {
        let left = length(held["left_ms"].as_u64().unwrap_or_default());
        vec![held["key"].as_str().unwrap_or("-").to_owned(), left]
    };
    let held: Vec<_> = said["held"].as_array().into_iter().flatten().map(held).collect();
    if !held.is_empty() {
        text.push_str(&format!("\n\n{}", table(&["HELD", "FOR"], &held)));
    }
    Ok(text)
}

impl Action {
    fn parts(&self) -> (&'static str, &ByHand) {
        match self {
            Action::Open(by_hand) => ("open", by_hand),
            Action::Close(by_hand) => ("close", by_hand),
            Action::Shadow(by_hand) => ("shadow", by_hand),
            Action::Reset(by_hand) => ("reset", by_hand),
        }
    }
}

fn row(breaker: &Value) -> Vec<String> {
    let text = |name: &str| breaker[name].as_str().map(str::to_owned);
    let parts = [text("provider"), text("address"), text("model")];
    let key: Vec<_> = parts.into_iter().flatten().collect();
    let traffic = breaker["ramp"].as_f64().unwrap_or(1.0) * 100.0;
    vec![
        key.join("/"),
        text("state").unwrap_or_default(),
        breaker["trips"].to_string(),
        breaker["retry_in_ms"].as_u64().map_or_else(|| "-".to_owned(), length),
        if breaker["state"] == "closed" { format!("{traffic:.0}%") } else { "-".to_owned() },
        text("mode").unwrap_or_default(),
        on_it(&breaker["by_hand"]),
    ]
}
