//! `outrigger degrade`: lists degradation modes and past episodes, and overrides a mode.

use clap::Subcommand;

use super::admin_client::{AdminArgs, ChangeArgs, NoteArgs, encode};
use super::output::{NONE, duration, manual_override, optional_table, table, time};
use crate::admin::change::Action;
use crate::admin::degradation::{
    DegradationModeStatus, DegradationStatus, ModeAction, ModesChanged,
};
use crate::degradation::history::EpisodeRecord;
use crate::live::degradation::episode::{EpisodeCause, EpisodeImpact};

/// Past episodes that are listed.
const MAX_EPISODES: usize = 10;

/// List the degradation modes of a running sidecar and past episodes, or enter or leave a mode.
///
/// CONDITION says whether the condition is met and, before a change, for how long of the required time. REQUESTS counts the requests that the mode changed or answered, by action. ERRORS AVOIDED counts those that got a response although no provider could give one.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    outrigger degrade\n  \
    outrigger degrade enter brownout --for 30m --reason \"launch\"\n  \
    outrigger degrade auto brownout")]
pub struct DegradeArgs {
    #[command(subcommand)]
    command: Option<DegradeCommand>,
    #[command(flatten)]
    admin: AdminArgs,
}

#[derive(Debug, Subcommand)]
enum DegradeCommand {
    /// Put a mode in force, even if its condition is not met, until `auto` or the end of --for (one hour without it).
    #[command(
        after_help = "Example:\n  outrigger degrade enter brownout --for 30m --reason \"launch\""
    )]
    Enter(ModeArgs),
    /// Keep a mode out of force, even if its condition is met, until `auto` or the end of --for (one hour without it).
    #[command(after_help = "Example:\n  outrigger degrade leave brownout --for 10m")]
    Leave(ModeArgs),
    /// Remove the override: the condition decides again.
    #[command(after_help = "Example:\n  outrigger degrade auto brownout")]
    Auto(AutoArgs),
}

#[derive(Debug, clap::Args)]
struct AutoArgs {
    /// The mode's name in the policy.
    #[arg(value_name = "MODE")]
    mode: String,
    #[command(flatten)]
    note: NoteArgs,
}

#[derive(Debug, clap::Args)]
struct ModeArgs {
    /// The mode's name in the policy.
    #[arg(value_name = "MODE")]
    mode: String,
    #[command(flatten)]
    change: ChangeArgs,
}

pub fn run(args: &DegradeArgs) -> Result<String, String> {
    let Some(command) = &args.command else {
        return args.admin.get("/api/degradation")?.print(list);
    };
    let (action, mode, request) = match command {
        DegradeCommand::Enter(args) => (ModeAction::Enter, &args.mode, args.change.request()),
        DegradeCommand::Leave(args) => (ModeAction::Leave, &args.mode, args.change.request()),
        DegradeCommand::Auto(args) => (ModeAction::Auto, &args.mode, args.note.request()),
    };
    let path = format!("/api/degradation/{}/{}", action.as_str(), encode(mode));
    let reply = args.admin.post(&path, &request)?;
    reply.print(|reply: &ModesChanged| modes(&reply.changed))
}

fn list(status: &DegradationStatus) -> String {
    let past = status.episodes.iter().filter(|episode| episode.ended_by.is_some());
    let header = ["EPISODE", "BEGAN", "LASTED", "CAUSE", "REQUESTS", "ERRORS AVOIDED"];
    let past = optional_table(&header, past.take(MAX_EPISODES).map(episode_row));
    [Some(modes(&status.modes)), past].into_iter().flatten().collect::<Vec<_>>().join("\n\n")
}

fn modes(modes: &[DegradationModeStatus]) -> String {
    if modes.is_empty() {
        return "no degradation modes (the policy has no `degradations`)".to_owned();
    }
    let header = ["MODE", "IN FORCE", "CONDITION", "CAUSE", "REQUESTS", "OVERRIDE"];
    table(&header, modes.iter().map(mode_row))
}

fn mode_row(mode: &DegradationModeStatus) -> Vec<String> {
    let shadow = if mode.mode == "shadow" { " (shadow)" } else { "" };
    let name = format!("{}{shadow}", mode.name);
    let [in_force, cause, impact] = match &mode.episode {
        Some(now) => {
            [format!("for {}", duration(now.since_ms)), cause(&now.cause), impact(&now.impact)]
        }
        None => ["no", NONE, NONE].map(str::to_owned),
    };
    let manual = manual_override(mode.manual_override.as_ref());
    vec![name, in_force, condition(mode), cause, impact, manual]
}

/// Whether the condition is met, and for how long it has been on the way to a change.
fn condition(mode: &DegradationModeStatus) -> String {
    let met = if mode.condition { "met" } else { "not met" };
    match &mode.progress {
        Some(progress) => {
            format!("{met}, {} of {}", duration(progress.passed_ms), duration(progress.of_ms))
        }
        None => met.to_owned(),
    }
}

fn episode_row(episode: &EpisodeRecord) -> Vec<String> {
    vec![
        episode.mode.clone(),
        time(&episode.began),
        duration((episode.seconds * 1e3) as u64),
        cause(&episode.cause),
        impact(&episode.impact),
        episode.impact.errors_avoided.to_string(),
    ]
}

fn cause(cause: &EpisodeCause) -> String {
    if cause.by != "condition" {
        return format!("operator{}", cause.note.suffix());
    }
    let met = cause.signals.iter().filter(|reading| reading.met);
    met.map(|reading| reading.signal.as_str()).collect::<Vec<_>>().join(", ")
}

/// `12 (reduce 10, shed 2)`.
fn impact(impact: &EpisodeImpact) -> String {
    let requests = impact.requests;
    let counts = impact.actions().into_iter().map(|(action, count)| format!("{action} {count}"));
    let counts: Vec<_> = counts.collect();
    if counts.is_empty() {
        requests.to_string()
    } else {
        format!("{requests} ({})", counts.join(", "))
    }
}
