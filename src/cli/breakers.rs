//! `outrigger breakers`: lists circuit breakers and overrides them.

use clap::Subcommand;

use super::admin_client::{AdminArgs, ChangeArgs, encode};
use super::output::{NONE, duration, manual_override, optional_duration, optional_table, table};
use crate::admin::breakers::{BreakerAction, BreakerList, BreakersChanged};
use crate::admin::change::{Action, ChangeRequest};
use crate::live::breaker::cell::BreakerStatus;

/// List the circuit breakers of a running sidecar, or override them.
///
/// A breaker covers one endpoint of a provider, or one model at that endpoint. An override covers every breaker under its key, those created later included, and survives a reload of the policy, but not a restart.
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
    /// Reject all attempts under a key. When --for ends, a probe decides whether the breaker closes.
    #[command(
        after_help = "Example:\n  outrigger breakers open openai --for 10m --reason \"provider maintenance\""
    )]
    Open(OverrideArgs),
    /// Admit all attempts under a key, even if they fail.
    #[command(after_help = "Example:\n  outrigger breakers close openai --for 5m")]
    Close(OverrideArgs),
    /// Count failures and report state changes, but reject nothing.
    #[command(
        after_help = "Example:\n  outrigger breakers shadow openai --for 1h --reason \"new thresholds\""
    )]
    Shadow(OverrideArgs),
    /// Remove an override, close the breaker, clear its history and end its holds.
    #[command(after_help = "Example:\n  outrigger breakers reset openai/api.openai.com:443/gpt-4o")]
    Reset(OverrideArgs),
}

#[derive(Debug, clap::Args)]
struct OverrideArgs {
    /// PROVIDER, PROVIDER/ENDPOINT or PROVIDER/ENDPOINT/MODEL.
    #[arg(value_name = "KEY")]
    key: String,
    /// Override on every host of the fleet, not on this one alone.
    #[arg(long)]
    fleet: bool,
    #[command(flatten)]
    change: ChangeArgs,
}

pub fn run(args: &BreakersArgs) -> Result<String, String> {
    let Some(command) = &args.command else {
        return args.admin.get("/api/circuit-breakers")?.print(list);
    };
    let (action, OverrideArgs { key, fleet, change }) = command.parts();
    let path = format!("/api/circuit-breakers/{}/{}", action.as_str(), encode(key));
    let request = ChangeRequest { fleet: *fleet, ..change.request() };
    args.admin.post(&path, &request)?.print(|reply: &BreakersChanged| breakers(&reply.changed))
}

impl BreakersCommand {
    fn parts(&self) -> (BreakerAction, &OverrideArgs) {
        match self {
            BreakersCommand::Open(args) => (BreakerAction::Open, args),
            BreakersCommand::Close(args) => (BreakerAction::Close, args),
            BreakersCommand::Shadow(args) => (BreakerAction::Shadow, args),
            BreakersCommand::Reset(args) => (BreakerAction::Reset, args),
        }
    }
}

fn list(list: &BreakerList) -> String {
    let held = list.held.iter().map(|held| vec![held.key.clone(), duration(held.remaining_ms)]);
    let overrides = list.overrides.iter();
    let overrides = overrides.map(|one| vec![one.key.clone(), manual_override(Some(&one.active))]);
    let tables = [
        Some(breakers(&list.breakers)),
        optional_table(&["OVERRIDE OF", "STATE"], overrides),
        optional_table(&["ON HOLD", "FOR"], held),
    ];
    tables.into_iter().flatten().collect::<Vec<_>>().join("\n\n")
}

fn breakers(breakers: &[BreakerStatus]) -> String {
    if breakers.is_empty() {
        return "no circuit breakers (no provider has one, or no request was sent yet)".to_owned();
    }
    let header = ["BREAKER", "STATE", "TRIPS", "PROBE IN", "TRAFFIC", "MODE", "OVERRIDE"];
    table(&header, breakers.iter().map(row))
}

fn row(breaker: &BreakerStatus) -> Vec<String> {
    let BreakerStatus { provider, endpoint, model, .. } = breaker;
    let slash = if model.is_empty() { "" } else { "/" };
    let traffic = format!("{:.0}%", breaker.traffic_share * 100.0);
    vec![
        format!("{provider}/{endpoint}{slash}{model}"),
        breaker.state.to_string(),
        breaker.trips.to_string(),
        optional_duration(breaker.retry_in_ms),
        if breaker.state == "closed" { traffic } else { NONE.to_owned() },
        breaker.mode.to_string(),
        manual_override(breaker.manual_override.as_ref()),
    ]
}
