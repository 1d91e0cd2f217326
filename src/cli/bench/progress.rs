//! The progress of a run: a bar on a terminal, a line every ten seconds elsewhere.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use super::units::{measured, percent, thousands};
use crate::benchmark::report::{Arm, RunReport};
use crate::cli::output::{is_coloured, terminal_width};
use crate::clock;
use crate::telemetry::escape::escape;

const LINE_INTERVAL: Duration = Duration::from_secs(10);
const BAR: usize = 10;
/// Moves to the start of the line and clears it.
const CLEAR: &str = "\r\x1b[K";

/// Shows a run on standard error.
#[derive(Debug)]
pub struct Progress {
    quiet: bool,
    is_bar: bool,
    last_line: Option<Instant>,
}

impl Progress {
    pub fn new(quiet: bool) -> Progress {
        let error = std::io::stderr();
        let is_bar =
            error.is_terminal() && std::env::var_os("TERM").is_none_or(|term| term != "dumb");
        Progress { quiet, is_bar, last_line: None }
    }

    pub fn show(&mut self, run: &RunReport) {
        if self.quiet {
            return;
        }
        let mut error = std::io::stderr();
        if self.is_bar {
            let width = terminal_width().unwrap_or(80).saturating_sub(1);
            let line = fit(&line(run), width);
            let (start, end) = if is_coloured(&error) { ("\x1b[36m", "\x1b[0m") } else { ("", "") };
            let _ = write!(error, "{CLEAR}{start}{line}{end}");
            let _ = error.flush();
        } else if self.last_line.is_none_or(|then| clock::since(then) >= LINE_INTERVAL) {
            self.last_line = Some(clock::now());
            let _ = writeln!(error, "{}", line(run));
        }
    }

    /// Removes the bar.
    pub fn clear(&self) {
        if self.is_bar && !self.quiet {
            let _ = write!(std::io::stderr(), "{CLEAR}");
        }
    }
}

/// `chat  ███░░░░░░░  30%  130 calls  p50 0.82s  p95 1.31s  p99 2.02s  errors 0.8%`
pub fn line(run: &RunReport) -> String {
    let progress = run.progress.clamp(0.0, 1.0);
    let full = (progress * BAR as f64).round() as usize;
    let bar = "█".repeat(full) + &"░".repeat(BAR - full);
    let arms = run.arms.iter().enumerate().map(|(n, arm)| match run.arms.len() {
        1 => arm_line(arm, &["p50", "p95", "p99"]),
        _ => format!("{}: {}", ["A", "B"][n.min(1)], arm_line(arm, &["p50", "p95"])),
    });
    let arms: Vec<_> = arms.collect();
    let name = escape(&run.benchmark);
    format!("{name}  {bar} {:>3.0}%  {}", progress * 100.0, arms.join("  ")).trim_end().to_owned()
}

/// Leaves out the last figures of a line that is too long, and cuts what remains.
pub fn fit(line: &str, width: usize) -> String {
    let mut line = line;
    while line.chars().count() > width
        && let Some((first, _)) = line.rsplit_once("  ")
    {
        line = first;
    }
    line.chars().take(width).collect()
}

fn arm_line(arm: &Arm, quantiles: &[&str]) -> String {
    let figures = &arm.figures;
    let mut parts = vec![format!("{} calls", thousands(figures.calls))];
    for name in quantiles {
        let value = figures.latency.map(|q| match *name {
            "p50" => q.p50,
            "p95" => q.p95,
            _ => q.p99,
        });
        parts.extend(value.map(|value| format!("{name} {}", measured(name, Some(value)))));
    }
    parts.extend(figures.error_rate.map(|share| format!("errors {}", percent(share))));
    parts.join("  ")
}
