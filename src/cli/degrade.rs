//! `outrigger degrade`: which modes of degradation are in force and what they did; entering and
//! leaving one by hand.

use clap::Subcommand;
use serde_json::Value;

use super::admin_client::{Ask, Change, Failed, escaped, length, table};
use super::status::on_it;

/// Past episodes that are listed.
const EPISODES: usize = 10;

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
    /// Put a mode in force, whatever its condition says; for an hour where --for says nothing.
    Enter(ByHand),
    /// Keep a mode out of force, whatever its condition says; for an hour where --for says nothing.
    Leave(ByHand),
    /// Take the hand off: the condition decides again.
    Auto(ByHand),
}

#[derive(Debug, clap::Args)]
struct ByHand {
    #[arg(value_name = "MODE")]
    mode: String,
    #[command(flatten)]
    change: Change,
    #[command(flatten)]
    ask: Ask,
}

/// # Errors
/// When the sidecar does not answer, or refuses.
pub fn run(args: &Args) -> Result<String, Failed> {
    let (ask, said) = match &args.action {
        None => (&args.ask, args.ask.get("/api/degradation")?),
        Some(action) => {
            let (name, ByHand { mode, change, ask }) = action.parts();
            let path = format!("/api/degradation/{name}/{}", escaped(mode));
            (ask, ask.post(&path, change)?)
        }
    };
    if ask.json {
        return Ok(format!("{said:#}"));
    }
    let modes = said["modes"].as_array().or(said["changed"].as_array());
    let rows: Vec<_> = modes.into_iter().flatten().map(mode).collect();
    let head = ["MODE", "IN FORCE", "CONDITION", "CAUSE", "TOUCHED", "BY HAND"];
    let mut text = match rows.as_slice() {
        [] => "no modes (the policy has no `degradations`)".to_owned(),
        rows => table(&head, rows),
    };
    let past = said["episodes"].as_array().into_iter().flatten();
    let past: Vec<_> = past.filter(|one| one["ended_by"].is_string()).take(EPISODES).collect();
    if !past.is_empty() {
        let rows: Vec<_> = past.into_iter().map(episode).collect();
        let head = ["EPISODE", "BEGAN", "LASTED", "CAUSE", "TOUCHED", "ERRORS AVOIDED"];
        text.push_str(&format!("\n\n{}", table(&head, &rows)));
    }
    Ok(text)
}

impl Action {
    fn parts(&self) -> (&'static str, &ByHand) {
        match self {
            Action::Enter(by_hand) => ("enter", by_hand),
            Action::Leave(by_hand) => ("leave", by_hand),
            Action::Auto(by_hand) => ("auto", by_hand),
        }
    }
}

fn mode(mode: &Value) -> Vec<String> {
    let shadow = if mode["mode"] == "shadow" { " (shadow)" } else { "" };
    let in_force = mode["since_ms"].as_u64().map(|ms| format!("for {}", length(ms)));
    vec![
        format!("{}{shadow}", mode["name"].as_str().unwrap_or("-")),
        in_force.unwrap_or_else(|| "no".to_owned()),
        condition(mode),
        if mode["cause"].is_object() { cause(&mode["cause"]) } else { "-".to_owned() },
        if mode["impact"].is_object() { touched(&mode["impact"]) } else { "-".to_owned() },
        on_it(&mode["by_hand"]),
    ]
}

/// Whether it holds, and how far that is on its way to count.
fn condition(mode: &Value) -> String {
    let holds = if mode["condition"] == true { "holds" } else { "does not hold" };
    let progress = &mode["progress"];
    match (progress["passed_ms"].as_u64(), progress["of_ms"].as_u64()) {
        (Some(passed), Some(of)) => format!("{holds}, {} of {}", length(passed), length(of)),
        _ => holds.to_owned(),
    }
}

fn episode(episode: &Value) -> Vec<String> {
    let text = |name: &str| episode[name].as_str().unwrap_or("-").to_owned();
    let lasted = episode["seconds"].as_f64().unwrap_or_default() * 1e3;
    vec![
        text("mode"),
        text("began"),
        length(lasted as u64),
        cause(&episode["cause"]),
        touched(&episode["impact"]),
        episode["impact"]["errors_avoided"].to_string(),
    ]
}

fn cause(cause: &Value) -> String {
    if cause["by"] == "hand" {
        let by = cause["note"]["by"].as_str().map(|by| format!(" by {by}")).unwrap_or_default();
        let why =
            cause["note"]["reason"].as_str().map(|why| format!(": {why}")).unwrap_or_default();
        return format!("hand{by}{why}");
    }
    let signs = cause["signs"].as_array().into_iter().flatten();
    let so = signs.filter(|sign| sign["so"] == true).filter_map(|sign| sign["sign"].as_str());
    so.collect::<Vec<_>>().join(", ")
}

/// `12 (reduce 10, shed 2)`.
fn touched(impact: &Value) -> String {
    let each: Vec<_> = ["reduce", "use", "serve_stale", "shed", "respond"]
        .into_iter()
        .filter_map(|action| Some((action, impact[action].as_u64().filter(|count| *count > 0)?)))
        .map(|(action, count)| format!("{action} {count}"))
        .collect();
    let all = impact["requests"].as_u64().unwrap_or_default();
    if each.is_empty() { all.to_string() } else { format!("{all} ({})", each.join(", ")) }
}
