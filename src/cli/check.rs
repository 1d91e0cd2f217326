//! `outrigger check` and `outrigger schema`: every problem of a policy, and the schema of its files.

use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::ValueEnum;

use super::output::{self, count};

use crate::policy::yaml::diagnostic::{to_github, to_json, to_sarif};
use crate::policy::{Diagnostic, json_schema};
use crate::snapshot::loader::{self, PendingPolicy};

/// Check a policy and list every problem with its line and column.
///
/// Nothing is started. Exits with 1 if there is an error; warnings alone exit with 0.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    outrigger check policies\n  \
    outrigger check policies --allow-missing-secrets --format github   # annotations in a GitHub workflow")]
pub struct CheckArgs {
    /// A directory of policies, or one file.
    #[arg(env = "OUTRIGGER_POLICIES", default_value = "policies", value_name = "PATH")]
    path: PathBuf,
    /// Check where the secrets are not: a secret that is missing here is no problem, and is listed.
    #[arg(long)]
    allow_missing_secrets: bool,
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
    let read = read(&args.path, args.allow_missing_secrets);
    let problems = match &read {
        Ok(read) => &read.loaded.warnings,
        Err(problems) => problems,
    };
    let mut out = std::io::stdout().lock();
    let text = match args.format {
        ReportFormat::Human => human(problems, read.as_ref().ok(), &out),
        ReportFormat::Json => format!("{:#}", to_json(problems)),
        ReportFormat::Github => to_github(problems),
        ReportFormat::Sarif => format!("{:#}", to_sarif(problems)),
    };
    // A closed pipe is not an error of the policy.
    let _ = writeln!(out, "{}", text.trim_end());
    if read.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Prints the JSON Schema of a policy file.
pub fn schema() -> ExitCode {
    // A closed pipe is not an error.
    let _ = writeln!(std::io::stdout().lock(), "{:#}", json_schema::schema());
    ExitCode::SUCCESS
}

/// Reads a policy; `lenient`: also where its secrets are missing, which are then listed on stderr.
pub(super) fn read(path: &Path, lenient: bool) -> Result<PendingPolicy, Vec<Diagnostic>> {
    if !lenient {
        return loader::read(path);
    }
    let (read, missing) = loader::read_without_secrets(path)?;
    if !missing.is_empty() {
        let missing: Vec<_> = missing.into_iter().collect();
        eprintln!("missing here: {}", missing.join(", "));
    }
    Ok(read)
}

fn human(problems: &[Diagnostic], read: Option<&PendingPolicy>, out: &impl IsTerminal) -> String {
    let mut text = output::problems(problems, out);
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
