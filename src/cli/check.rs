//! `outrigger check`: reports every problem of a policy.

use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::ValueEnum;

use crate::policy::Diagnostic;
use crate::policy::yaml::diagnostic::{render, to_github, to_json, to_sarif};
use crate::snapshot::loader;

/// Check a policy and list every problem with its line and column.
///
/// Nothing is started. Exits with 1 if there is an error; warnings alone exit with 0.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    outrigger check policies\n  \
    outrigger check policies --format github   # annotations in a GitHub workflow")]
pub struct CheckArgs {
    /// A directory of policies, or one file.
    #[arg(env = "OUTRIGGER_POLICIES", default_value = "policies", value_name = "PATH")]
    path: PathBuf,
    /// The output format.
    #[arg(long, default_value = "human", value_name = "FORMAT")]
    format: ReportFormat,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum ReportFormat {
    /// Text with excerpts of the policy.
    Human,
    /// A JSON list of problems.
    Json,
    /// GitHub workflow commands.
    Github,
    /// SARIF 2.1.0, for code scanning.
    Sarif,
}

pub fn run(args: &CheckArgs) -> ExitCode {
    let read = loader::read(&args.path);
    let problems = match &read {
        Ok(read) => &read.loaded.warnings,
        Err(problems) => problems,
    };
    let mut out = std::io::stdout().lock();
    let text = match args.format {
        ReportFormat::Human => human(problems, read.as_ref().ok(), out.is_terminal()),
        ReportFormat::Json => format!("{:#}", to_json(problems)),
        ReportFormat::Github => to_github(problems),
        ReportFormat::Sarif => format!("{:#}", to_sarif(problems)),
    };
    // A closed pipe is not an error of the policy.
    let _ = writeln!(out, "{}", text.trim_end());
    if read.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn human(problems: &[Diagnostic], read: Option<&loader::PendingPolicy>, colour: bool) -> String {
    let mut text = render(problems, colour);
    if let Some(read) = read {
        let policy = &read.loaded.policy;
        let hash: String = read.loaded.hash.chars().take(12).collect();
        if !problems.is_empty() {
            text.push_str("\n\n");
        }
        text.push_str(&format!(
            "ok: {}, {}, {}; policy {hash}",
            count(read.files.len(), "file"),
            count(policy.providers.len(), "provider"),
            count(policy.routes.len(), "route"),
        ));
    }
    text
}

fn count(n: usize, noun: &str) -> String {
    if n == 1 { format!("1 {noun}") } else { format!("{n} {noun}s") }
}
