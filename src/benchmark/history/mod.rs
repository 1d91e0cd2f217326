//! The stored runs, and their comparison with each other and with the baseline.

pub mod block_codec;
pub mod compare;
pub mod trend;

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use thiserror::Error;
use tokio::sync::Mutex;

use crate::benchmark::history::compare::{ComparedRun, describe, warnings, worse_measures};
use crate::benchmark::history::trend::{TrendMeasure, trend};
use crate::benchmark::report::{
    BenchmarkTrend, HistogramBin, RunComparison, RunList, RunReport, RunState, RunTrigger,
    TimelinePoint,
};
use crate::clock;
use crate::live::Live;
use crate::resilience::comparison::{RunBlock, Verdict, compare};
use crate::store::benchmark_runs::{
    BaselineResult, BenchmarkRuns, RunFilter, StoredRun, StoredRunDetails,
};
use crate::store::{Millis, Store, StoreError};
use crate::telemetry::events::NewEvent;
use crate::telemetry::metrics::BenchmarkLabels;

/// The runs of a trend.
const TREND_RUNS: u32 = 1000;

/// All runs that are kept: in the store, or without one the last in memory.
#[derive(Debug)]
pub struct RunHistory {
    runs: BenchmarkRuns,
    live: Arc<Live>,
    /// One comparison at a time: each may take two seconds of a processor.
    computing: Arc<Mutex<()>>,
}

/// Why the history did not do something.
#[derive(Debug, Error)]
pub enum HistoryError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("there is no run {0} (`GET /api/benchmarks/runs` lists them)")]
    UnknownRun(String),
    #[error("benchmark {0} has no baseline (set one with `PUT /api/benchmarks/{0}/baseline`)")]
    NoBaseline(String),
    #[error("run {0} is {1}: it has no figures (choose a run that is done)")]
    NotDone(String, String),
    #[error("run {0} is of the benchmark {1} (choose a run of {2})")]
    OtherBenchmark(String, String, String),
    #[error("there are {0} baselines already (clear one that is no longer needed)")]
    TooManyBaselines(i64),
    #[error("run {0} has too many calls to compare them (at most 1,000,000 are kept)")]
    NoCalls(String),
    #[error("run {id} is damaged in the store: {why} (choose another run, or restore a backup)")]
    Damaged { id: String, why: String },
    #[error("the comparison ended without a result (try again)")]
    Ended,
}

/// The parts of an arm that lists leave out.
#[derive(Debug, Serialize, Deserialize)]
struct ArmDetails {
    timeline: Vec<TimelinePoint>,
    histogram: Vec<HistogramBin>,
}

/// A run with its calls.
struct MeasuredRun {
    report: RunReport,
    blocks: Vec<RunBlock>,
}

impl RunHistory {
    /// Without a store, the history ends with the process.
    ///
    /// # Errors
    /// If there is no memory for it.
    pub fn new(store: Option<Store>, live: Arc<Live>) -> Result<RunHistory, StoreError> {
        let runs = BenchmarkRuns::new(store)?;
        Ok(RunHistory { runs, live, computing: Arc::default() })
    }

    pub fn runs(&self) -> &BenchmarkRuns {
        &self.runs
    }
}

/// Changes and queries.
///
/// # Errors
/// If the store cannot be used, or there is no such run.
impl RunHistory {
    /// Keeps a run that begins. If the process ends before it, the run is aborted.
    pub async fn begin(&self, report: &RunReport) -> Result<(), HistoryError> {
        Ok(self.runs.save(stored(report.clone(), None)?).await?)
    }

    /// Keeps a run that has ended, with the calls of each arm. A run that is done is compared with
    /// the baseline; a regression is reported.
    pub async fn finish(
        &self,
        mut report: RunReport,
        arms: Vec<Vec<RunBlock>>,
    ) -> Result<RunReport, HistoryError> {
        let blocks = block_codec::encode(&arms).unwrap_or_default();
        if report.state == RunState::Done {
            let blocks = arms.into_iter().next().unwrap_or_default();
            let run = MeasuredRun { report: report.clone(), blocks };
            match self.compare_with_baseline(run).await {
                Ok(comparison) => report.baseline_comparison = comparison,
                Err(error) => {
                    let (benchmark, run) = (&report.benchmark, &report.id);
                    tracing::warn!(%benchmark, run, %error, "cannot compare with the baseline");
                }
            }
        }
        self.runs.save(stored(report.clone(), Some(blocks))?).await?;
        self.report_regression(&report);
        Ok(report)
    }

    /// Runs, the newest first.
    pub async fn list(&self, filter: RunFilter) -> Result<RunList, HistoryError> {
        let limit = filter.limit;
        let texts = self.runs.list(filter).await?;
        let is_full = texts.len() == limit as usize;
        let runs = readable(&texts);
        let next = runs.last().map(|run| run.id.clone()).filter(|_| is_full);
        Ok(RunList { runs, next })
    }

    /// One run, complete.
    pub async fn run(&self, id: &str) -> Result<RunReport, HistoryError> {
        Ok(self.stored_run(id).await?.0)
    }

    pub async fn baseline(&self, benchmark: &str) -> Result<Option<String>, HistoryError> {
        Ok(self.runs.baseline(benchmark.to_owned()).await?)
    }

    pub async fn set_baseline(&self, benchmark: &str, run: &str) -> Result<(), HistoryError> {
        match self.runs.set_baseline(benchmark.to_owned(), run.to_owned()).await? {
            BaselineResult::Set => Ok(()),
            BaselineResult::UnknownRun => Err(HistoryError::UnknownRun(run.to_owned())),
            BaselineResult::OtherBenchmark(other) => {
                Err(HistoryError::OtherBenchmark(run.to_owned(), other, benchmark.to_owned()))
            }
            BaselineResult::NotDone(state) => Err(HistoryError::NotDone(run.to_owned(), state)),
            BaselineResult::TooMany(count) => Err(HistoryError::TooManyBaselines(count)),
        }
    }

    /// The time since the last start by the schedule; `None`: there was none. A start in the future
    /// counts as one now, because the clock was set.
    pub async fn scheduled_age(&self, benchmark: &str) -> Result<Option<Duration>, HistoryError> {
        let start = self.runs.scheduled_start(benchmark.to_owned()).await?;
        Ok(start.map(|start| start.until(Millis::of(clock::wall()))))
    }

    /// Returns whether there was one.
    pub async fn clear_baseline(&self, benchmark: &str) -> Result<bool, HistoryError> {
        Ok(self.runs.clear_baseline(benchmark.to_owned()).await?)
    }

    /// Compares the first arms of two runs: `b` with `a`.
    pub async fn compare(&self, a: &str, b: &str) -> Result<RunComparison, HistoryError> {
        let (a, b) = (self.measured_run(a).await?, self.measured_run(b).await?);
        self.compare_measured(a, b).await
    }

    /// The baseline of a run's benchmark.
    pub async fn baseline_of_run(&self, id: &str) -> Result<String, HistoryError> {
        let benchmark = self.run(id).await?.benchmark;
        let baseline = self.baseline(&benchmark).await?;
        baseline.ok_or(HistoryError::NoBaseline(benchmark))
    }

    /// A figure over the runs of a benchmark that are done.
    pub async fn trend(
        &self,
        benchmark: &str,
        measure: TrendMeasure,
    ) -> Result<BenchmarkTrend, HistoryError> {
        let filter = RunFilter {
            benchmark: Some(benchmark.to_owned()),
            state: Some(RunState::Done.as_str().to_owned()),
            before: None,
            limit: TREND_RUNS,
        };
        let texts = self.runs.list(filter).await?;
        let benchmark = benchmark.to_owned();
        self.compute(move || trend(benchmark, measure, &readable(&texts))).await
    }

    async fn compare_with_baseline(
        &self,
        run: MeasuredRun,
    ) -> Result<Option<RunComparison>, HistoryError> {
        match self.baseline(&run.report.benchmark).await? {
            Some(baseline) if baseline != run.report.id => {
                let baseline = self.measured_run(&baseline).await?;
                self.compare_measured(baseline, run).await.map(Some)
            }
            _ => Ok(None),
        }
    }

    async fn compare_measured(
        &self,
        a: MeasuredRun,
        b: MeasuredRun,
    ) -> Result<RunComparison, HistoryError> {
        self.compute(move || {
            let comparison = compare(&a.blocks, &b.blocks, clock::draw);
            let warnings = warnings(&a.report, &b.report);
            let (a, b) = (ComparedRun::of(&a.report), ComparedRun::of(&b.report));
            describe(&a, &b, &comparison, warnings)
        })
        .await
    }

    /// Computes on another thread, one call at a time.
    async fn compute<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, HistoryError> {
        let turn = Arc::clone(&self.computing).lock_owned().await;
        let task = tokio::task::spawn_blocking(move || {
            // Until the work ends, which may be after its caller has gone.
            let _turn = turn;
            work()
        });
        task.await.map_err(|_| HistoryError::Ended)
    }

    async fn measured_run(&self, id: &str) -> Result<MeasuredRun, HistoryError> {
        let (report, blocks) = self.stored_run(id).await?;
        if report.state != RunState::Done {
            return Err(HistoryError::NotDone(id.to_owned(), report.state.as_str().to_owned()));
        }
        if blocks.is_empty() {
            return Err(HistoryError::NoCalls(id.to_owned()));
        }
        let arms = block_codec::decode(&blocks).map_err(|why| damaged(id, why))?;
        let blocks = arms.into_iter().next().ok_or_else(|| damaged(id, "it has no target"))?;
        Ok(MeasuredRun { report, blocks })
    }

    /// A run and its encoded calls.
    async fn stored_run(&self, id: &str) -> Result<(RunReport, Vec<u8>), HistoryError> {
        let found = self.runs.run(id.to_owned()).await?;
        let unknown = || HistoryError::UnknownRun(id.to_owned());
        let (text, StoredRunDetails { report: details, blocks }) = found.ok_or_else(unknown)?;
        let invalid = |error: serde_json::Error| damaged(id, &error.to_string());
        let mut report: RunReport = serde_json::from_str(&text).map_err(invalid)?;
        if !details.is_empty() {
            let details: Vec<ArmDetails> = serde_json::from_str(&details).map_err(invalid)?;
            for (arm, details) in report.arms.iter_mut().zip(details) {
                (arm.timeline, arm.histogram) = (details.timeline, details.histogram);
            }
        }
        Ok((report, blocks))
    }

    fn report_regression(&self, report: &RunReport) {
        let comparison = report.baseline_comparison.as_ref();
        let worse = |it: &&RunComparison| it.verdict == Verdict::Worse.as_str();
        let Some(comparison) = comparison.filter(worse) else { return };
        let (benchmark, run, baseline) = (&report.benchmark, &report.id, &comparison.a);
        let measures = worse_measures(comparison);
        tracing::warn!(
            benchmark,
            run,
            baseline,
            measures,
            "a benchmark is worse than its baseline"
        );
        let labels = BenchmarkLabels { benchmark: benchmark.clone() };
        self.live.metrics.benchmark_regressions.with(&labels).inc();
        let text = format!("run {run} is worse than the baseline {baseline}: {measures}");
        let event = NewEvent::new("benchmark_regression", benchmark, text).state("worse");
        self.live.events.push(clock::wall(), event);
    }
}

/// The reports that are not damaged.
fn readable(texts: &[String]) -> Vec<RunReport> {
    texts.iter().filter_map(|text| serde_json::from_str(text).ok()).collect()
}

fn damaged(id: &str, why: &str) -> HistoryError {
    HistoryError::Damaged { id: id.to_owned(), why: why.to_owned() }
}

/// The stored form of a run; with its encoded calls if it has ended.
fn stored(mut report: RunReport, blocks: Option<Vec<u8>>) -> Result<StoredRun, HistoryError> {
    let invalid = |id: &str, error: serde_json::Error| damaged(id, &error.to_string());
    let details: Vec<ArmDetails> = report
        .arms
        .iter_mut()
        .map(|arm| ArmDetails {
            timeline: std::mem::take(&mut arm.timeline),
            histogram: std::mem::take(&mut arm.histogram),
        })
        .collect();
    let details = serde_json::to_string(&details).map_err(|error| invalid(&report.id, error))?;
    let text = serde_json::to_string(&report).map_err(|error| invalid(&report.id, error))?;
    Ok(StoredRun {
        target: report.arms.first().map(|arm| arm.target.clone()).unwrap_or_default(),
        state: report.state.as_str().to_owned(),
        scheduled: report.trigger == RunTrigger::Schedule,
        at: Millis::of(clock::wall()),
        report: text,
        details: blocks.map(|blocks| StoredRunDetails { report: details, blocks }),
        id: report.id,
        benchmark: report.benchmark,
    })
}

#[cfg(test)]
pub(in crate::benchmark) mod tests;
