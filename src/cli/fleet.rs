//! `outrigger fleet`: the hosts of the fleet and the state that they share.

use super::admin_client::AdminArgs;
use super::output::{
    NONE, decimal, duration, manual_override, optional_duration, optional_table, time,
};
use crate::fleet::status::FleetStatus;

/// Breaker transitions that are shown.
const MAX_TRANSITIONS: usize = 10;

pub fn run(admin: &AdminArgs) -> Result<String, String> {
    admin.get("/api/fleet")?.print(text)
}

fn text(fleet: &FleetStatus) -> String {
    let state = if fleet.attached { "attached" } else { "DETACHED" };
    let FleetStatus { fleet: name, redis, since, host, .. } = fleet;
    let since = time(since);
    let mut parts = vec![format!("fleet {name} on {redis}: {state} since {since},\nas {host}")];
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

fn hosts(fleet: &FleetStatus) -> Option<String> {
    let rows = fleet.hosts.iter().map(|host| {
        let this = if host.this_host { " (this one)" } else { "" };
        let info = &host.info;
        let id = format!("{}{this}", host.id);
        vec![id, info.version.clone(), info.policy.clone(), time(&info.since)]
    });
    optional_table(&["HOST", "VERSION", "POLICY", "SINCE"], rows)
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
    let header = ["BREAKER", "STATE", "TRIPS", "PROBE IN", "THIS HOST", "VOTES TO OPEN", "PROBES"];
    optional_table(&header, rows)
}

fn overrides(fleet: &FleetStatus) -> Option<String> {
    let rows = fleet.overrides.iter();
    let rows = rows.map(|one| vec![one.key.clone(), manual_override(Some(&one.active))]);
    optional_table(&["KEY", "OVERRIDE"], rows)
}

fn holds(fleet: &FleetStatus) -> Option<String> {
    let rows = fleet.holds.iter();
    let rows = rows.map(|hold| vec![hold.key.clone(), duration(hold.remaining_ms)]);
    optional_table(&["ON HOLD", "FOR"], rows)
}

fn limits(fleet: &FleetStatus) -> Option<String> {
    let rows = fleet.limits.iter().map(|limit| {
        vec![
            limit.provider.clone(),
            limit.kind.to_string(),
            format!("{}/s", decimal(limit.rate, 2)),
            format!("{}/s", decimal(limit.share, 2)),
            decimal(limit.available, 1),
        ]
    });
    optional_table(&["LIMIT OF", "COUNTS", "FLEET", "THIS HOST ALONE", "GRANTED"], rows)
}

fn transitions(fleet: &FleetStatus) -> Option<String> {
    let latest = &fleet.transitions[fleet.transitions.len().saturating_sub(MAX_TRANSITIONS)..];
    let rows = latest.iter().map(|transition| {
        let (state, reason) = (transition.state.to_string(), transition.reason.clone());
        vec![time(&transition.at), transition.key.clone(), state, transition.by.clone(), reason]
    });
    optional_table(&["AT", "BREAKER", "STATE", "BY", "REASON"], rows)
}
