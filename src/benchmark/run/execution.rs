//! A run from its first call to its report, on the current thread; the sidecar is not needed.

use std::rc::Rc;
use std::time::SystemTime;

use tokio::runtime::Builder;
use tokio::task::LocalSet;

use super::environment::environment;
use super::plan::{RunPlan, TargetPlan};
use super::run_id::run_id;
use super::session::{RunProgress, RunSession};
use super::thresholds::results;
use crate::benchmark::history::compare::{ComparedRun, describe};
use crate::benchmark::report::{
    Arm, RunComparison, RunFigures, RunReport, RunState, RunTrigger, ThresholdResult,
};
use crate::clock;
use crate::policy::section::Threshold;
use crate::resilience::comparison::{RunBlock, compare_paired};
use crate::telemetry::access_log::AccessLogSender;
use crate::telemetry::events::rfc3339;
use crate::telemetry::panics::Contained;

/// The parts of a run that begins.
#[derive(Debug)]
pub struct RunContext {
    pub plan: RunPlan,
    pub begun: RunReport,
    pub log: AccessLogSender,
}

/// The blocks of each target.
type AllBlocks = Vec<Vec<RunBlock>>;

/// Runs to the end. `check` gets the report as it is, twice a second, and may end the run with a
/// reason.
pub fn execute(
    context: RunContext,
    check: impl FnMut(&RunReport) -> Result<(), String>,
) -> (RunReport, AllBlocks) {
    let begun = context.begun.clone();
    let ended = match Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => {
            let run = Contained::new(run_to_end(context, check));
            let ended = LocalSet::new().block_on(&runtime, run);
            ended.unwrap_or_else(|panic| {
                Err(format!("a fault of Outrigger: the log has the cause under {panic}"))
            })
        }
        Err(error) => Err(error.to_string()),
    };
    ended.unwrap_or_else(|why| {
        let (state, reason) = (RunState::Failed, Some(why));
        let ended = Some(rfc3339(clock::wall()));
        (RunReport { state, reason, ended, ..begun }, Vec::new())
    })
}

async fn run_to_end(
    context: RunContext,
    mut check: impl FnMut(&RunReport) -> Result<(), String>,
) -> Result<(RunReport, AllBlocks), String> {
    let RunContext { plan, begun: mut report, log } = context;
    let thresholds = plan.thresholds.clone();
    let session = RunSession::new(plan, &log)?;
    let result = session
        .run(|progress| {
            update(&mut report, progress);
            report.thresholds = first_results(&thresholds, &report.arms);
            check(&report)
        })
        .await;
    (report.state, report.reason) = match result {
        Ok(()) => (RunState::Done, None),
        Err(reason) => (RunState::Aborted, Some(reason)),
    };
    Ok(finished(report, &session, &thresholds))
}

fn finished(
    mut report: RunReport,
    session: &Rc<RunSession>,
    thresholds: &[Threshold],
) -> (RunReport, AllBlocks) {
    report.arms = session.arms();
    report.ended = Some(rfc3339(clock::wall()));
    report.thresholds = first_results(thresholds, &report.arms);
    let blocks = session.blocks();
    if report.state == RunState::Done {
        report.progress = 1.0;
        report.comparison = compared(&report.arms, &blocks);
    }
    (report, blocks)
}

/// Targets that were measured alternately.
fn compared(arms: &[Arm], blocks: &[Vec<RunBlock>]) -> Option<RunComparison> {
    let ([_, _], [first, second]) = (arms, blocks) else { return None };
    let found = compare_paired(first, second, clock::draw);
    let side = |arm: &Arm| ComparedRun { name: arm.target.clone(), figures: arm.figures.clone() };
    Some(describe(&side(&arms[0]), &side(&arms[1]), &found, Vec::new()))
}

/// The report of a run that begins now.
///
/// # Errors
/// When the system provides no random bits.
pub fn begun_report(
    plan: &RunPlan,
    trigger: RunTrigger,
    now: SystemTime,
) -> std::io::Result<RunReport> {
    let arm = |target: &TargetPlan| Arm {
        target: target.label.clone(),
        figures: RunFigures::default(),
        timeline: Vec::new(),
        histogram: Vec::new(),
    };
    let hash = plan.targets.first().map_or("", |target| target.hash.as_str());
    Ok(RunReport {
        id: run_id(now, clock::secret()?),
        benchmark: plan.benchmark.clone(),
        state: RunState::Running,
        reason: None,
        trigger,
        began: rfc3339(now),
        ended: None,
        progress: 0.0,
        load: plan.load.text(),
        requests: plan.fingerprint.clone(),
        environment: environment(hash),
        arms: plan.targets.iter().map(arm).collect(),
        thresholds: Vec::new(),
        comparison: None,
        baseline_comparison: None,
    })
}

fn update(report: &mut RunReport, progress: RunProgress) {
    report.progress = progress.progress;
    for (arm, figures) in report.arms.iter_mut().zip(progress.figures) {
        arm.figures = figures;
    }
}

/// The thresholds are of the first target.
fn first_results(thresholds: &[Threshold], arms: &[Arm]) -> Vec<ThresholdResult> {
    arms.first().map(|arm| results(thresholds, &arm.figures)).unwrap_or_default()
}
