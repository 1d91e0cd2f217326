//! `outrigger check`: every problem of a policy, without running anything.

use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::ValueEnum;

use crate::policy::Problem;
use crate::policy::yaml::diagnostic::{render, to_github, to_json, to_sarif};
use crate::snapshot::loader;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Directory of the policies, or one file.
    #[arg(env = "OUTRIGGER_POLICIES", default_value = "policies", value_name = "PATH")]
    path: PathBuf,
    /// For people, or for a machine that reads it.
    #[arg(long, default_value = "human", value_name = "FORMAT")]
    format: Format,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Format {
    Human,
    Json,
    Github,
    Sarif,
}

/// Exits 1 when there is an error; warnings alone are well.
pub fn run(args: &Args) -> ExitCode {
    let read = loader::read(&args.path);
    let problems = match &read {
        Ok(read) => read.warnings(),
        Err(problems) => problems,
    };
    let mut out = std::io::stdout().lock();
    let text = match args.format {
        Format::Human => human(problems, read.as_ref().ok(), out.is_terminal()),
        Format::Json => format!("{:#}", to_json(problems)),
        Format::Github => to_github(problems),
        Format::Sarif => format!("{:#}", to_sarif(problems)),
    };
    // A reader that has gone needs no answer.
    let _ = writeln!(out, "{}", text.trim_end());
    if read.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn human(problems: &[Problem], read: Option<&loader::PendingPolicy>, colour: bool) -> String {
    let mut text = render(problems, colour);
    if let Some(read) = read {
        let (policy, files) = (read.policy(), read.files().len());
        let short: String = read.hash().chars().take(12).collect();
        let (providers, routes) = (policy.providers.len(), policy.routes.len());
        let sum = [(files, "file"), (providers, "provider"), (routes, "route")].map(counted);
        let sum = format!("ok: {}; policy {short}", sum.join(", "));
        if !problems.is_empty() {
            text.push_str("\n\n");
        }
        text.push_str(&sum);
    }
    text
}

fn counted((n, what): (usize, &str)) -> String {
    if n == 1 { format!("1 {what}") } else { format!("{n} {what}s") }
}
