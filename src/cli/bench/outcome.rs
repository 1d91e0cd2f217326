//! The output of a command, and its exit code.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use super::{ci, text};
use crate::benchmark::report::{RunComparison, RunReport, RunState};
use crate::cli::output::{is_coloured, terminal_width};
use crate::telemetry::escape::{escape, escape_lines};

/// A threshold is broken.
const BROKEN: u8 = 99;
/// The run is worse than the baseline, or B is worse than A.
const REGRESSION: u8 = 1;
const FAILED: u8 = 2;
/// Where standard output is no terminal.
const DEFAULT_WIDTH: usize = 100;

/// Output for CI.
#[derive(Debug, clap::Args)]
pub struct CiArgs {
    /// Write JUnit XML: a test for each threshold, and for each measure compared with the baseline.
    #[arg(long, value_name = "FILE")]
    junit: Option<PathBuf>,
    /// Print workflow commands of GitHub, and append to the job summary ($GITHUB_STEP_SUMMARY).
    #[arg(long)]
    github: bool,
}

/// The end of a command.
#[derive(Debug)]
pub struct BenchOutcome {
    pub code: u8,
    /// For standard output, without control characters.
    text: String,
    /// For standard error.
    error: Option<String>,
}

impl CiArgs {
    /// Whether the place is shown where the policy declares the benchmark.
    pub fn needs_location(&self) -> bool {
        self.github
    }
}

impl BenchOutcome {
    pub fn text(text: String) -> BenchOutcome {
        BenchOutcome { code: 0, text, error: None }
    }

    pub fn error(error: String) -> BenchOutcome {
        BenchOutcome { code: FAILED, text: String::new(), error: Some(format!("error: {error}")) }
    }

    /// A run that was stopped by a signal.
    pub fn stopped(message: String) -> BenchOutcome {
        BenchOutcome { code: 130, text: String::new(), error: Some(message) }
    }

    /// The report of a run. Writes the files of `ci`.
    ///
    /// # Errors
    /// If a file cannot be written.
    pub fn of(
        run: &RunReport,
        json: bool,
        ci: &CiArgs,
        location: Option<&str>,
    ) -> Result<BenchOutcome, String> {
        if let Some(path) = &ci.junit {
            let written = std::fs::write(path, ci::junit(run));
            written.map_err(|error| format!("{}: {error}", path.display()))?;
        }
        let mut text = match json {
            true => format!("{:#}", serde_json::to_value(run).map_err(|e| e.to_string())?),
            false => text::report(run, width()),
        };
        if ci.github {
            append_summary(&ci::markdown(run))?;
            // The text is JSON for a program, or for people: then commands are added.
            if !json {
                text = format!("{}\n{}", without_commands(&text), ci::github(run, location));
            }
        }
        Ok(BenchOutcome { code: exit_code(run), text, error: None })
    }

    pub fn compared(found: &RunComparison, json: bool) -> Result<BenchOutcome, String> {
        let text = match json {
            true => format!("{:#}", serde_json::to_value(found).map_err(|e| e.to_string())?),
            false => text::comparison(found, width()),
        };
        Ok(BenchOutcome { code: if is_worse(found) { REGRESSION } else { 0 }, text, error: None })
    }

    pub fn print(self) -> ExitCode {
        let mut out = std::io::stdout();
        let mut text = escape_lines(&self.text);
        if is_coloured(&out) {
            text = text::coloured(&text);
        }
        if !text.is_empty() {
            // A closed pipe is not an error.
            let _ = writeln!(out, "{text}");
        }
        if let Some(error) = self.error {
            eprintln!("{}", escape_lines(&error));
        }
        ExitCode::from(self.code)
    }
}

/// Of a run that has ended.
pub fn exit_code(run: &RunReport) -> u8 {
    let is_broken = run.thresholds.iter().any(|result| !result.holds);
    match run.state {
        // A threshold that cannot hold any more may have ended the run.
        RunState::Done | RunState::Aborted if is_broken => BROKEN,
        RunState::Done if run.baseline_comparison.iter().chain(&run.comparison).any(is_worse) => {
            REGRESSION
        }
        RunState::Done => 0,
        RunState::Running | RunState::Aborted | RunState::Failed => FAILED,
    }
}

fn is_worse(found: &RunComparison) -> bool {
    found.verdict == "worse"
}

fn width() -> usize {
    terminal_width().unwrap_or(DEFAULT_WIDTH)
}

/// The text, with no line that GitHub reads as a command.
pub fn without_commands(text: &str) -> String {
    let is_command = |line: &str| line.trim_start().starts_with("::") || line.contains("##[");
    let line = |line: &str| match is_command(line) {
        true => format!("| {}", line.replace("##[", "## [")),
        false => line.to_owned(),
    };
    text.lines().map(line).collect::<Vec<_>>().join("\n")
}

fn append_summary(markdown: &str) -> Result<(), String> {
    let Some(path) = std::env::var_os("GITHUB_STEP_SUMMARY").filter(|path| !path.is_empty()) else {
        return Ok(());
    };
    let file = OpenOptions::new().append(true).create(true).open(&path);
    let written = file.and_then(|mut file| file.write_all(markdown.as_bytes()));
    written.map_err(|error| format!("{}: {error}", escape(&path.to_string_lossy())))
}
