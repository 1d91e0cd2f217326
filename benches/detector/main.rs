//! The regression detector and the comparison of runs on synthetic calls, for `tests/drill
//! detector`, which builds it.
//!
//! A/A: series in which nothing changes, of ten kinds of noise, for 28 days each; every alarm is
//! false. Then changes in the figures of sampled calls: the time until the alarm, and until it
//! ends. Then comparisons of runs that are equal, 10 % slower, or drift. Fixed seeds make every
//! run the same. Exits with 1 if a target is missed.

#![allow(clippy::disallowed_methods, clippy::print_stdout)]

use std::process::ExitCode;

mod comparison;
mod detection;
mod noise;

const FULL: u64 = 20_000_000;
const QUICK: u64 = 2_400_000;

#[derive(Default)]
struct Targets {
    lines: Vec<String>,
    missed: usize,
}

impl Targets {
    pub fn add(&mut self, name: &str, target: String, seen: String, is_met: bool) {
        let sign = if is_met { "\u{2713}" } else { "\u{2717}" };
        self.missed += usize::from(!is_met);
        self.lines.push(format!("{sign} {name:<36}{target:<28}{seen}"));
    }
}

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    if let Some(unknown) = arguments.iter().find(|argument| *argument != "--full") {
        eprintln!("detector: unknown argument `{unknown}`; expected `--full` or none");
        return ExitCode::from(2);
    }
    let full = !arguments.is_empty();
    let mut targets = Targets::default();
    detection::without_change(if full { FULL } else { QUICK }, &mut targets);
    detection::with_changes(&mut targets, if full { 10 } else { 2 });
    detection::two_days(&mut targets);
    comparison::comparisons(&mut targets, if full { 100 } else { 20 });
    println!("  {:<36}{:<28}seen", "target", "");
    targets.lines.iter().for_each(|line| println!("{line}"));
    ExitCode::from(u8::from(targets.missed > 0))
}
