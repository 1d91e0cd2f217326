//! Runs from the sidecar or from files, and their comparison.

use std::path::Path;

use super::outcome::BenchOutcome;
use crate::benchmark::history::compare::{ComparedRun, describe, warnings};
use crate::benchmark::report::{
    BenchmarkBaseline, BenchmarkList, BenchmarkStatus, RunComparison, RunList, RunReport, RunState,
};
use crate::cli::admin_client::{AdminArgs, encode};
use crate::clock;
use crate::policy::text::suggest::{did_you_mean, listed};
use crate::resilience::comparison::{RunBlock, compare as compare_blocks};

const BASELINE: &str = "baseline";
/// Runs of the trend.
const TREND_RUNS: usize = 30;
/// Blocks that a file's calls are dealt to.
const BLOCKS: usize = 30;
/// Calls of a file that are compared: more change no verdict.
const MOST_CALLS: u64 = 100_000;

/// The benchmark of this name.
///
/// # Errors
/// If the policy has none, with the name that was probably meant.
pub fn declared(admin: &AdminArgs, name: &str) -> Result<BenchmarkStatus, String> {
    let list: BenchmarkList = admin.get("/api/benchmarks")?.read()?;
    let names: Vec<_> = list.benchmarks.iter().map(|known| known.name.clone()).collect();
    let found = list.benchmarks.into_iter().find(|known| known.name == name);
    let names = || names.iter().map(String::as_str);
    found.ok_or_else(|| match (did_you_mean(name, names()), names().next()) {
        (Some(hint), _) => format!("no benchmark `{name}` in the policy: {hint}"),
        (None, Some(_)) => {
            format!("no benchmark `{name}` in the policy (it has {})", listed(names()))
        }
        (None, None) => {
            format!("no benchmark `{name}`: the policy has no section `benchmarks`")
        }
    })
}

/// Where the policy declares a benchmark, if a sidecar knows it.
pub fn location(admin: &AdminArgs, name: &str) -> Option<String> {
    declared(admin, name).ok().map(|status| status.location)
}

fn is_file(text: &str) -> bool {
    text.ends_with(".json") || Path::new(text).is_file()
}

fn run_path(id: &str) -> String {
    format!("/api/benchmarks/runs/{}", encode(id))
}

/// A run from a file, or from the sidecar by its id.
pub fn load(admin: &AdminArgs, run: &str) -> Result<RunReport, String> {
    if !is_file(run) {
        return admin.get(&run_path(run))?.read();
    }
    let text = std::fs::read_to_string(run).map_err(|error| format!("{run}: {error}"))?;
    serde_json::from_str(&text).map_err(|error| {
        format!("{run}: {error} (expected a file written by `outrigger bench run --json`)")
    })
}

/// Earlier runs of a benchmark, newest first. A report of a file has none.
pub fn earlier(admin: &AdminArgs, run: &str, benchmark: &str) -> Result<Vec<RunReport>, String> {
    if is_file(run) {
        return Ok(Vec::new());
    }
    let benchmark = encode(benchmark);
    let path = format!(
        "/api/benchmarks/runs?benchmark={benchmark}&state=done&before={}&limit={TREND_RUNS}",
        encode(run)
    );
    Ok(admin.get(&path)?.read::<RunList>()?.runs)
}

/// The id of the newest run that is done.
pub fn last_done(admin: &AdminArgs, name: &str) -> Result<String, String> {
    let path = format!("/api/benchmarks/runs?benchmark={}&state=done&limit=1", encode(name));
    let list: RunList = admin.get(&path)?.read()?;
    let run = list.runs.into_iter().find(|run| run.state == RunState::Done);
    let hint = format!("start one with `outrigger bench run {name}`");
    run.map(|run| run.id).ok_or_else(|| format!("{name} has no run that is done ({hint})"))
}

/// Compares `b` with `a`: each an id, `baseline` or a file.
pub fn compare(admin: &AdminArgs, [a, b]: [&String; 2]) -> Result<BenchOutcome, String> {
    if a == BASELINE && b == BASELINE {
        return Err("one side of a comparison is a run (expected an id or a JSON file)".to_owned());
    }
    let found = if is_file(a) || is_file(b) {
        let a = resolve(admin, a, b).and_then(|a| load(admin, &a))?;
        let b = resolve(admin, b, &a.id).and_then(|b| load(admin, &b))?;
        compare_reports(&a, &b)?
    } else {
        let (with, run) = (a.clone(), resolve(admin, b, a)?);
        admin.get(&format!("{}/comparison?with={}", run_path(&run), encode(&with)))?.read()?
    };
    BenchOutcome::compared(&found, admin.json)
}

/// The id of the baseline of the benchmark of `other` for `baseline`; any other text as it is.
fn resolve(admin: &AdminArgs, text: &str, other: &str) -> Result<String, String> {
    if text != BASELINE {
        return Ok(text.to_owned());
    }
    let name = load(admin, other)?.benchmark;
    let found = admin.get(&format!("/api/benchmarks/{}/baseline", encode(&name)))?;
    let found: BenchmarkBaseline = found.read()?;
    let hint = format!("set one with `outrigger bench baseline set {name}`");
    found.run.map(|run| run.id).ok_or_else(|| format!("{name} has no baseline ({hint})"))
}

/// Compares reports by their histograms.
pub fn compare_reports(a: &RunReport, b: &RunReport) -> Result<RunComparison, String> {
    for run in [a, b] {
        if run.state != RunState::Done {
            let state = run.state.as_str();
            return Err(format!(
                "run {} is {state}: it has no figures (choose a run that is done)",
                run.id
            ));
        }
    }
    let found = compare_blocks(&blocks(a), &blocks(b), clock::draw);
    let mut warnings = warnings(a, b);
    warnings.push(
        "the intervals assume that calls do not depend on each other: files have no order of calls"
            .to_owned(),
    );
    Ok(describe(&ComparedRun::of(a), &ComparedRun::of(b), &found, warnings))
}

/// The calls of the first arm, dealt at random.
fn blocks(run: &RunReport) -> Vec<RunBlock> {
    let Some(arm) = run.arms.first() else { return Vec::new() };
    let figures = &arm.figures;
    let succeeded: u64 = arm.histogram.iter().map(|bin| bin.calls).sum();
    let seconds =
        figures.throughput.filter(|rate| *rate > 0.0).map_or(1.0, |rate| succeeded as f64 / rate);
    let block = RunBlock { seconds: seconds / BLOCKS as f64, ..RunBlock::default() };
    let mut blocks = vec![block; BLOCKS];
    let any = || (clock::draw() * BLOCKS as f64) as usize % BLOCKS;
    let share = (MOST_CALLS as f64 / (succeeded + figures.failed).max(1) as f64).min(1.0);
    let kept = |calls: u64| (calls as f64 * share).round() as u64;
    for bin in &arm.histogram {
        for _ in 0..kept(bin.calls) {
            blocks[any()].latencies.push((bin.below / 1.004) as f32);
        }
    }
    for _ in 0..kept(figures.failed) {
        blocks[any()].failed += 1;
    }
    blocks.iter_mut().for_each(|block| block.seconds *= share);
    blocks
}
