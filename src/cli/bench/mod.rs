//! `outrigger bench`: runs benchmarks and reports on them.

mod ci;
mod html;
mod lists;
mod local;
mod outcome;
mod progress;
mod run;
mod series;
mod source;
mod svg;
#[cfg(test)]
mod tests;
mod text;
mod units;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Subcommand;

use self::outcome::{BenchOutcome, CiArgs};
use super::admin_client::{AdminArgs, NoteArgs, encode};
use crate::admin::benchmarks::history::BaselineRequest;

/// Run benchmarks of the policy, compare their runs, and write reports.
///
/// A benchmark is declared in the section `benchmarks` of the policy. Its calls go to a route or to one provider, and count in no breaker, budget or baseline of live traffic. A baseline is a run with which each further run of its benchmark is compared.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    outrigger bench run chat-latency\n  \
    outrigger bench baseline set chat-latency\n  \
    outrigger bench ab chat-latency --a provider:openai --b provider:azure\n  \
    outrigger bench report 01K2X6TQZ0N4V7W8Y9ABCDEFGH --html report.html")]
pub struct BenchArgs {
    #[command(subcommand)]
    command: BenchCommand,
    #[command(flatten)]
    admin: AdminArgs,
}

#[derive(Debug, Subcommand)]
enum BenchCommand {
    /// Run a benchmark, and show its figures, thresholds and the comparison with the baseline.
    ///
    /// Ctrl-C stops the run. Exits 99 when a threshold is broken, 1 when the run is worse than the baseline.
    #[command(after_help = "Examples:\n  \
        outrigger bench run chat-latency\n  \
        outrigger bench run chat-latency --quiet --github --junit bench.xml\n  \
        outrigger bench run chat-latency --policies policies/")]
    Run(BenchRunArgs),
    /// List the benchmarks of the policy, each with its last run.
    #[command(after_help = "Example:\n  outrigger bench list")]
    List,
    /// List the runs of a benchmark, newest first.
    #[command(after_help = "Example:\n  outrigger bench history chat-latency --limit 50")]
    History {
        /// The benchmark's name in the policy.
        #[arg(value_name = "NAME")]
        name: String,
        /// List at most this many runs.
        #[arg(long, default_value = "20", value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1000))]
        limit: u16,
        /// Continue a list: the cursor that the previous page ended with.
        #[arg(long, value_name = "CURSOR")]
        before: Option<String>,
    },
    /// List the calls of each route, provider and model with their baselines.
    ///
    /// BASELINE is the value that is usual at this hour, CURRENT the median of the last minute. A measure needs 10 calls in 10 seconds (p95: 20), and a day to be learned.
    #[command(after_help = "Example:\n  outrigger bench series")]
    Series,
    Accept(series::AcceptArgs),
    /// Show one run as `bench run` shows it.
    #[command(after_help = "Example:\n  outrigger bench show 01K2X6TQZ0N4V7W8Y9ABCDEFGH")]
    Show {
        /// The run's id, or a JSON file written by `bench run --json`.
        #[arg(value_name = "RUN|FILE")]
        run: String,
        #[command(flatten)]
        ci: CiArgs,
    },
    /// Compare run B with run A: better, worse, the same, or too few calls to tell.
    ///
    /// Exits 1 when B is worse. The intervals of files assume that calls do not depend on each other, because a file has no order of calls; compare stored runs where you can.
    #[command(after_help = "Examples:\n  \
        outrigger bench compare 01K2X6TQZ0N4V7W8Y9ABCDEFGH 01K2X9B3M1P5R6S7T8VWXYZ012\n  \
        outrigger bench compare baseline 01K2X9B3M1P5R6S7T8VWXYZ012\n  \
        outrigger bench compare before.json after.json")]
    Compare {
        /// The id of a run, `baseline`, or a JSON file written by `bench run --json`.
        #[arg(value_name = "A")]
        a: String,
        /// The run that is judged: an id, `baseline`, or a JSON file.
        #[arg(value_name = "B")]
        b: String,
    },
    /// Measure two targets alternately in one run, so that the time of day cancels out.
    ///
    /// Exits 1 when B is worse than A.
    #[command(after_help = "Examples:\n  \
        outrigger bench ab chat-latency --a provider:openai --b provider:azure\n  \
        outrigger bench ab chat-latency --a policies:policies/ --b policies:/tmp/changed/")]
    Ab(AbArgs),
    /// Show, set or clear the baseline of a benchmark.
    #[command(after_help = "Examples:\n  \
        outrigger bench baseline set chat-latency\n  \
        outrigger bench baseline show chat-latency")]
    Baseline {
        #[command(subcommand)]
        command: BaselineCommand,
    },
    /// Write the report of a run as one HTML file that needs no network.
    #[command(after_help = "Examples:\n  \
        outrigger bench report 01K2X6TQZ0N4V7W8Y9ABCDEFGH --html report.html\n  \
        outrigger bench report run.json --html report.html")]
    Report {
        /// The run's id, or a JSON file written by `bench run --json`.
        #[arg(value_name = "RUN|FILE")]
        run: String,
        /// The file to write.
        #[arg(long, value_name = "FILE")]
        html: PathBuf,
    },
}

#[derive(Debug, clap::Args)]
struct BenchRunArgs {
    /// The benchmark's name in the policy.
    #[arg(value_name = "NAME")]
    name: String,
    /// Read the policy from this file or directory and make the calls from this process, without a sidecar.
    #[arg(long, value_name = "PATH")]
    policies: Option<PathBuf>,
    /// Show no progress.
    #[arg(long)]
    quiet: bool,
    #[command(flatten)]
    ci: CiArgs,
}

#[derive(Debug, clap::Args)]
struct AbArgs {
    #[command(flatten)]
    run: BenchRunArgs,
    /// The target to compare with: route:NAME, provider:NAME, or policies:PATH for the benchmark of another policy, called from this process.
    #[arg(long, value_name = "TARGET", value_parser = target)]
    a: String,
    /// The target that is judged: route:NAME, provider:NAME or policies:PATH.
    #[arg(long, value_name = "TARGET", value_parser = target)]
    b: String,
}

#[derive(Debug, Subcommand)]
enum BaselineCommand {
    /// Compare each further run of a benchmark with this run, or with its last one that is done.
    #[command(after_help = "Examples:\n  \
        outrigger bench baseline set chat-latency\n  \
        outrigger bench baseline set chat-latency 01K2X6TQZ0N4V7W8Y9ABCDEFGH --reason \"after the upgrade\"")]
    Set {
        /// The benchmark's name in the policy.
        #[arg(value_name = "NAME")]
        name: String,
        /// The id of a run; without it, the last run that is done.
        #[arg(value_name = "RUN")]
        run: Option<String>,
        #[command(flatten)]
        note: NoteArgs,
    },
    /// Show the baseline of a benchmark.
    #[command(after_help = "Example:\n  outrigger bench baseline show chat-latency")]
    Show {
        /// The benchmark's name in the policy.
        #[arg(value_name = "NAME")]
        name: String,
    },
    /// Compare further runs of a benchmark with nothing.
    #[command(after_help = "Example:\n  outrigger bench baseline clear chat-latency")]
    Clear {
        /// The benchmark's name in the policy.
        #[arg(value_name = "NAME")]
        name: String,
        #[command(flatten)]
        note: NoteArgs,
    },
}

/// A target in the form that the admin API reads.
fn target(text: &str) -> Result<String, String> {
    match text.split_once(':') {
        Some(("route" | "provider" | "policies", name)) if !name.is_empty() => Ok(text.to_owned()),
        _ => {
            let expected = "expected route:NAME, provider:NAME or policies:PATH";
            Err(format!("{expected}, such as provider:openai"))
        }
    }
}

pub fn run(args: &BenchArgs) -> ExitCode {
    let outcome = match &args.command {
        BenchCommand::Run(run) => match local::sides(run, &[]) {
            Ok(sides) if sides.is_empty() => run::run(&args.admin, run, None),
            sides => sides.and_then(|sides| local::run(run, args.admin.json, &sides)),
        },
        BenchCommand::Ab(ab) => match local::sides(&ab.run, &[&ab.a, &ab.b]) {
            Ok(sides) if sides.is_empty() => run::run(&args.admin, &ab.run, Some([&ab.a, &ab.b])),
            sides => sides.and_then(|sides| local::run(&ab.run, args.admin.json, &sides)),
        },
        BenchCommand::List => lists::benchmarks(&args.admin).map(BenchOutcome::text),
        BenchCommand::History { name, limit, before } => {
            lists::history(&args.admin, name, *limit, before.as_deref()).map(BenchOutcome::text)
        }
        BenchCommand::Series => series::list(&args.admin).map(BenchOutcome::text),
        BenchCommand::Accept(accept) => series::accept(&args.admin, accept).map(BenchOutcome::text),
        BenchCommand::Show { run, ci } => show(&args.admin, run, ci),
        BenchCommand::Compare { a, b } => source::compare(&args.admin, [a, b]),
        BenchCommand::Baseline { command } => {
            baseline(&args.admin, command).map(BenchOutcome::text)
        }
        BenchCommand::Report { run, html } => {
            report(&args.admin, run, html).map(BenchOutcome::text)
        }
    };
    outcome.unwrap_or_else(BenchOutcome::error).print()
}

fn show(admin: &AdminArgs, run: &str, ci: &CiArgs) -> Result<BenchOutcome, String> {
    let report = source::load(admin, run)?;
    let location = ci.needs_location().then(|| source::location(admin, &report.benchmark));
    let mut outcome = BenchOutcome::of(&report, admin.json, ci, location.flatten().as_deref())?;
    outcome.code = 0;
    Ok(outcome)
}

fn baseline(admin: &AdminArgs, command: &BaselineCommand) -> Result<String, String> {
    let path = |name: &str| format!("/api/benchmarks/{}/baseline", encode(name));
    match command {
        BaselineCommand::Set { name, run, note } => {
            source::declared(admin, name)?;
            let run = match run {
                Some(run) => run.clone(),
                None => source::last_done(admin, name)?,
            };
            let note = note.request();
            let body = BaselineRequest { run, by: note.by, reason: note.reason };
            admin.put(&path(name), &body)?.print(lists::baseline)
        }
        BaselineCommand::Show { name } => {
            source::declared(admin, name)?;
            admin.get(&path(name))?.print(lists::baseline)
        }
        BaselineCommand::Clear { name, note } => {
            admin.delete(&path(name), &note.request())?.print(lists::baseline)
        }
    }
}

fn report(admin: &AdminArgs, run: &str, file: &Path) -> Result<String, String> {
    let report = source::load(admin, run)?;
    let page = html::page(&report, &source::earlier(admin, run, &report.benchmark)?);
    std::fs::write(file, page).map_err(|error| format!("{}: {error}", file.display()))?;
    Ok(format!("wrote {}", file.display()))
}
