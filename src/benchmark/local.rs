//! A run without a sidecar: the policy is read from a path, and the calls are made by this process.

use std::time::SystemTime;

use super::report::{RunReport, RunTrigger};
use super::run::execution::{RunContext, begun_report, execute};
use super::run::plan::{RunPlan, TargetPlan, named_target};
use crate::clock;
use crate::policy::Loaded;
use crate::policy::sections::model::BenchmarkPolicy;
use crate::resilience::comparison::RunBlock;
use crate::telemetry::access_log::AccessLogSender;
use crate::telemetry::metrics::Metrics;

/// A policy to be measured.
#[derive(Clone, Copy, Debug)]
pub struct LocalTarget<'p> {
    pub policy: &'p Loaded,
    /// Put before the target's name, if two policies are compared.
    pub name: &'p str,
    /// A target like `provider:openai`, in place of the benchmark's own.
    pub target: Option<&'p str>,
}

/// Runs the benchmark `name` of one policy, or of two that are measured alternately; its requests
/// and its load are those of the first. `progress` gets the report twice a second, and may end the
/// run with a reason.
///
/// # Errors
/// When there is no such benchmark or target, or the system refuses something.
pub fn run_local(
    targets: &[LocalTarget<'_>],
    name: &str,
    progress: impl FnMut(&RunReport) -> Result<(), String>,
) -> Result<(RunReport, Vec<Vec<RunBlock>>), String> {
    let plans = targets.iter().map(|target| target.plan(name));
    let plans = plans.collect::<Result<Vec<_>, _>>()?;
    let first = targets.first().ok_or("there is no policy to measure")?;
    let plan = RunPlan::new(first.benchmark(name)?, plans);
    let log = AccessLogSender::start(Metrics::new().access_log_lines_dropped.clone());
    let log = log.map_err(|error| error.to_string())?;
    let now: SystemTime = clock::wall();
    let begun = begun_report(&plan, RunTrigger::Operator, now);
    let begun = begun.map_err(|error| error.to_string())?;
    Ok(execute(RunContext { plan, begun, log }, progress))
}

impl<'p> LocalTarget<'p> {
    fn benchmark(&self, name: &str) -> Result<&'p BenchmarkPolicy, String> {
        let found = self.policy.policy.benchmarks.iter().find(|one| one.name == name);
        found.ok_or_else(|| format!("there is no benchmark `{name}` in the policy"))
    }

    fn plan(&self, name: &str) -> Result<TargetPlan, String> {
        let Loaded { policy, hash, .. } = self.policy;
        let benchmark = self.benchmark(name)?;
        let target = match self.target {
            Some(text) => named_target(policy, text)?,
            None => benchmark.target.clone(),
        };
        let mut plan = TargetPlan::new(policy, hash, benchmark, &target);
        if !self.name.is_empty() {
            plan.label = format!("{}: {}", self.name, plan.label);
        }
        Ok(plan)
    }
}
