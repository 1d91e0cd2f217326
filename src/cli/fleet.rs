//! `outrigger fleet`: the hosts of the fleet and the state that they share.

use super::admin_client::{AdminArgs, CommandError};
use super::output::{NONE, duration, manual_override, optional_duration, table};
use crate::fleet::status::FleetStatus;

/// Breaker transitions that are shown.
const MAX_TRANSITIONS: usize = 10;

/// Show the hosts that share state with a running sidecar through Redis, and that state.
///
/// Lists hosts, shared breakers, overrides, holds, rate limits, and the latest breaker transitions. DETACHED means that Redis cannot be reached and that this host decides alone.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  outrigger fleet")]
pub struct FleetArgs {
    #[command(flatten)]
    admin: AdminArgs,
}

/// # Errors
/// When the sidecar cannot be reached, or is in no fleet.
pub fn run(args: &FleetArgs) -> Result<String, CommandError> {
    args.admin.get("/api/fleet")?.print(text)
}

fn text(fleet: &FleetStatus) -> String {
    let state = if fleet.attached { "attached" } else { "DETACHED" };
    let FleetStatus { fleet: name, redis, since, host, .. } = fleet;
    let mut parts = vec![format!("fleet {name} on {redis}: {state} since {since}, as {host}")];
    if fleet.policies_differ {
        parts.push("the hosts have different policies in force".to_owned());
    }
    let tables = [
        hosts(fleet),
        breakers(fleet),
        overrides(fleet),
        holds(fleet),
        limits(fleet),
        transitions(fleet),
    ];
    parts.extend(tables.into_iter().flatten());
    parts.join("\n\n")
}

/// A table, unless there are no rows.
fn section(header: &[&str], rows: impl Iterator<Item = Vec<String>>) -> Option<String> {
    let rows: Vec<_> = rows.collect();
    (!rows.is_empty()).then(|| table(header, &rows))
}

fn hosts(fleet: &FleetStatus) -> Option<String> {
    let rows = fleet.hosts.iter().map(|host| {
        let this = if host.this_host { " (this one)" } else { "" };
        let info = &host.info;
        let id = format!("{}{this}", host.id);
        vec![id, info.version.clone(), info.policy.clone(), info.since.clone()]
    });
    section(&["HOST", "VERSION", "POLICY", "SINCE"], rows)
}

fn breakers(fleet: &FleetStatus) -> Option<String> {
    let rows = fleet.breakers.iter().map(|breaker| {
        vec![
            breaker.key.clone(),
            breaker.state.to_string(),
            breaker.trips.to_string(),
            optional_duration(breaker.remaining_ms),
            breaker.local_state.as_deref().unwrap_or(NONE).to_owned(),
            breaker.votes.len().to_string(),
            breaker.leases.len().to_string(),
        ]
    });
    let header = ["BREAKER", "STATE", "TRIPS", "PROBE IN", "THIS HOST", "VOTES", "PROBES"];
    section(&header, rows)
}

fn overrides(fleet: &FleetStatus) -> Option<String> {
    let rows = fleet.overrides.iter();
    let rows = rows.map(|one| vec![one.key.clone(), manual_override(Some(&one.active))]);
    section(&["KEY", "OVERRIDE"], rows)
}

fn holds(fleet: &FleetStatus) -> Option<String> {
    let rows = fleet.holds.iter();
    let rows = rows.map(|hold| vec![hold.key.clone(), duration(hold.remaining_ms)]);
    section(&["ON HOLD", "FOR"], rows)
}

fn limits(fleet: &FleetStatus) -> Option<String> {
    let rows = fleet.limits.iter().map(|limit| {
        vec![
            limit.provider.clone(),
            limit.kind.to_string(),
            format!("{:.2}/s", limit.rate),
            format!("{:.2}/s", limit.share),
            format!("{:.1}", limit.available),
        ]
    });
    section(&["LIMIT", "OF", "RATE", "SHARE", "AVAILABLE"], rows)
}

fn transitions(fleet: &FleetStatus) -> Option<String> {
    let latest = &fleet.transitions[fleet.transitions.len().saturating_sub(MAX_TRANSITIONS)..];
    let rows = latest.iter().map(|transition| {
        let (state, reason) = (transition.state.to_string(), transition.reason.clone());
        vec![transition.at.clone(), transition.key.clone(), state, transition.by.clone(), reason]
    });
    section(&["AT", "BREAKER", "STATE", "BY", "REASON"], rows)
}
