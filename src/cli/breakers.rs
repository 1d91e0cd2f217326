//! `outrigger breakers`: lists circuit breakers and overrides them.

use clap::Subcommand;

use super::admin_client::{AdminArgs, ChangeArgs, NoteArgs, encode};
use super::output::{
    NONE, decimal, duration, forced_state, manual_override, optional_table, table,
};
use crate::admin::breakers::{BreakerAction, BreakerList, BreakersChanged, HeldEndpoint};
use crate::admin::change::{Action, ChangeRequest};
use crate::live::breaker::cell::BreakerStatus;
use crate::live::operator_override::ActiveOverride;

/// List the circuit breakers of a running sidecar, or override them.
///
/// A breaker covers one endpoint of a provider, or one model at that endpoint. TRIPS counts how often it opened since it last recovered; each makes the next pause longer. ON HOLD lists endpoints that wait because of a 429, a `Retry-After` or a rejected credential. An override covers every breaker under its key, those created later included, and survives a reload of the policy, but not a restart.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    outrigger breakers\n  \
    outrigger breakers open openai --for 10m --reason \"provider maintenance\"\n  \
    outrigger breakers reset openai/api.openai.com:443/gpt-4o")]
pub struct BreakersArgs {
    #[command(subcommand)]
    command: Option<BreakersCommand>,
    #[command(flatten)]
    admin: AdminArgs,
}

#[derive(Debug, Subcommand)]
enum BreakersCommand {
    /// Reject all attempts under a key, until `reset` or the end of --for; then a probe decides.
    #[command(
        after_help = "Example:\n  outrigger breakers open openai --for 10m --reason \"provider maintenance\""
    )]
    Open(OverrideArgs),
    /// Admit all attempts under a key, even if they fail, until `reset` or the end of --for.
    #[command(after_help = "Example:\n  outrigger breakers close openai --for 5m")]
    Close(OverrideArgs),
    /// Count failures and report state changes, but reject nothing, until `reset` or the end of --for.
    #[command(
        after_help = "Example:\n  outrigger breakers shadow openai --for 1h --reason \"new thresholds\""
    )]
    Shadow(OverrideArgs),
    /// Remove an override, close the breaker, clear its history and end its holds.
    #[command(after_help = "Example:\n  outrigger breakers reset openai/api.openai.com:443/gpt-4o")]
    Reset(ResetArgs),
}

#[derive(Debug, clap::Args)]
struct KeyArgs {
    /// PROVIDER, PROVIDER/ENDPOINT or PROVIDER/ENDPOINT/MODEL.
    #[arg(value_name = "KEY")]
    key: String,
    /// Override on every host of the fleet, not on this one alone.
    #[arg(long)]
    fleet: bool,
}

#[derive(Debug, clap::Args)]
struct OverrideArgs {
    #[command(flatten)]
    key: KeyArgs,
    #[command(flatten)]
    change: ChangeArgs,
}

#[derive(Debug, clap::Args)]
struct ResetArgs {
    #[command(flatten)]
    key: KeyArgs,
    #[command(flatten)]
    note: NoteArgs,
}

pub fn run(args: &BreakersArgs) -> Result<String, String> {
    let Some(command) = &args.command else {
        return args.admin.get("/api/circuit-breakers")?.print(list);
    };
    let (action, KeyArgs { key, fleet }, request) = command.parts();
    let path = format!("/api/circuit-breakers/{}/{}", action.as_str(), encode(key));
    let request = ChangeRequest { fleet: *fleet, ..request };
    let text = |reply: &BreakersChanged| match reply.changed.as_slice() {
        [] => format!("{key}: no breaker exists yet; those created later are covered"),
        changed => breakers(changed, |active| manual_override(Some(active))),
    };
    args.admin.post(&path, &request)?.print(text)
}

impl BreakersCommand {
    fn parts(&self) -> (BreakerAction, &KeyArgs, ChangeRequest) {
        let (action, args) = match self {
            BreakersCommand::Open(args) => (BreakerAction::Open, args),
            BreakersCommand::Close(args) => (BreakerAction::Close, args),
            BreakersCommand::Shadow(args) => (BreakerAction::Shadow, args),
            BreakersCommand::Reset(args) => {
                return (BreakerAction::Reset, &args.key, args.note.request());
            }
        };
        (action, &args.key, args.change.request())
    }
}

fn list(list: &BreakerList) -> String {
    let overrides = list.overrides.iter();
    let overrides = overrides.map(|one| vec![one.key.clone(), manual_override(Some(&one.active))]);
    let tables = [
        Some(breakers(&list.breakers, forced_state)),
        optional_table(&["OVERRIDE OF", "STATE"], overrides),
        held_table(&list.held),
    ];
    tables.into_iter().flatten().collect::<Vec<_>>().join("\n\n")
}

/// The holds, each with the response that caused it.
pub fn held_table(held: &[HeldEndpoint]) -> Option<String> {
    let rows = held.iter().map(|held| {
        // The time of day; holds are short.
        let since = held.since.as_deref().and_then(|since| since.get(11..19)).unwrap_or(NONE);
        vec![held.key.clone(), duration(held.remaining_ms), held.cause(), since.to_owned()]
    });
    optional_table(&["ON HOLD", "FOR", "CAUSE", "SINCE (UTC)"], rows)
}

fn breakers(breakers: &[BreakerStatus], show: fn(&ActiveOverride) -> String) -> String {
    if breakers.is_empty() {
        return "no circuit breakers (no provider has one, or no request was sent yet)".to_owned();
    }
    let header = ["BREAKER", "STATE", "TRIPS", "OVERRIDE"];
    table(&header, breakers.iter().map(|breaker| row(breaker, show)))
}

fn row(breaker: &BreakerStatus, show: fn(&ActiveOverride) -> String) -> Vec<String> {
    let BreakerStatus { provider, endpoint, model, .. } = breaker;
    let slash = if model.is_empty() { "" } else { "/" };
    vec![
        format!("{provider}/{endpoint}{slash}{model}"),
        state(breaker),
        breaker.trips.to_string(),
        breaker.manual_override.as_ref().map_or_else(|| NONE.to_owned(), show),
    ]
}

/// `open, probe in 12s`, `closed, 40% of traffic`, `half_open, shadow`.
fn state(breaker: &BreakerStatus) -> String {
    let mut text = breaker.state.to_string();
    if let Some(wait) = breaker.retry_in_ms.filter(|_| breaker.manual_override.is_none()) {
        text.push_str(&format!(", probe in {}", duration(wait)));
    }
    if breaker.state == "closed" && breaker.traffic_share < 1.0 {
        text.push_str(&format!(", {}% of traffic", decimal(breaker.traffic_share * 100.0, 0)));
    }
    if breaker.mode != "enforce" {
        text.push_str(&format!(", {}", breaker.mode));
    }
    text
}
