//! Lists of benchmarks and runs.

use super::outcome::exit_code;
use super::source;
use super::text::{tick, verdict_mark};
use super::units::{measured, seconds, thousands};
use crate::benchmark::report::{
    BenchmarkBaseline, BenchmarkList, BenchmarkStatus, RunList, RunReport, RunState,
};
use crate::cli::admin_client::{AdminArgs, encode};
use crate::cli::output::{NONE, duration, table, time};

pub fn benchmarks(admin: &AdminArgs) -> Result<String, String> {
    admin.get("/api/benchmarks")?.print(|list: &BenchmarkList| {
        if list.benchmarks.is_empty() {
            return "no benchmarks (declare them in the section `benchmarks` of the policy)"
                .to_owned();
        }
        let header =
            ["NAME", "TARGET", "LOAD", "EVERY", "LAST RUN", "P50", "P95", "RESULT", "BASELINE"];
        table(&header, list.benchmarks.iter().map(benchmark_row))
    })
}

fn benchmark_row(status: &BenchmarkStatus) -> Vec<String> {
    let last = status.last.as_ref();
    let none = || NONE.to_owned();
    let [p50, p95] = last.map_or_else(|| [none(), none()], latency);
    vec![
        status.name.clone(),
        status.target.clone(),
        status.load.clone(),
        status.every.map_or_else(none, |every| duration((every * 1e3) as u64)),
        last.map_or_else(none, |run| time(&run.began)),
        p50,
        p95,
        last.map_or_else(none, result),
        status.baseline.clone().unwrap_or_else(none),
    ]
}

fn latency(run: &RunReport) -> [String; 2] {
    let latency = run.arms.first().and_then(|arm| arm.figures.latency);
    [latency.map(|q| q.p50), latency.map(|q| q.p95)].map(|value| measured("p50", value))
}

/// `✓`, `✗ 1 of 3 thresholds`, `✗ worse`, or the state of a run that is not done.
fn result(run: &RunReport) -> String {
    let broken = run.thresholds.iter().filter(|result| !result.holds).count();
    match run.state {
        RunState::Done if broken > 0 => {
            format!("✗ {broken} of {} thresholds", run.thresholds.len())
        }
        RunState::Done => match run.baseline_comparison.as_ref().or(run.comparison.as_ref()) {
            Some(found) => format!("{} {}", verdict_mark(&found.verdict), found.verdict),
            None => tick(exit_code(run) == 0).to_owned(),
        },
        state => state.as_str().to_owned(),
    }
}

pub fn history(
    admin: &AdminArgs,
    name: &str,
    limit: u16,
    before: Option<&str>,
) -> Result<String, String> {
    let mut path = format!("/api/benchmarks/runs?benchmark={}&limit={limit}", encode(name));
    path.extend(before.map(|before| format!("&before={}", encode(before))));
    let reply = admin.get(&path)?;
    if reply.read::<RunList>()?.runs.is_empty() {
        source::declared(admin, name)?;
    }
    reply.print(|list: &RunList| {
        if list.runs.is_empty() {
            return format!("no runs of {name} (start one with `outrigger bench run {name}`)");
        }
        let header = [
            "RUN", "BEGAN", "TARGET", "CALLS", "P50", "P95", "ERRORS", "RESULT", "VERSION", "HOST",
        ];
        let more = list.next.as_ref().map(|next| format!("\n(more: --before {next})"));
        table(&header, list.runs.iter().map(run_row)) + &more.unwrap_or_default()
    })
}

fn run_row(run: &RunReport) -> Vec<String> {
    let [p50, p95] = latency(run);
    let targets: Vec<_> = run.arms.iter().map(|arm| arm.target.as_str()).collect();
    let figures = run.arms.first().map(|arm| &arm.figures);
    vec![
        run.id.clone(),
        time(&run.began),
        targets.join(" and "),
        figures.map_or_else(|| NONE.to_owned(), |figures| thousands(figures.calls)),
        p50,
        p95,
        measured("error_rate", figures.and_then(|figures| figures.error_rate)),
        result(run),
        run.environment.version.clone(),
        run.environment.host.clone(),
    ]
}

pub fn baseline(found: &BenchmarkBaseline) -> String {
    let name = &found.benchmark;
    let Some(run) = &found.run else {
        return format!("{name}: no baseline (set one with `outrigger bench baseline set {name}`)");
    };
    let latency = run.arms.first().and_then(|arm| arm.figures.latency);
    let figures = latency.map(|q| format!(", p50 {}, p95 {}", seconds(q.p50), seconds(q.p95)));
    let began = time(&run.began);
    format!("{name}: the baseline is {} of {began}{}", run.id, figures.unwrap_or_default())
}
