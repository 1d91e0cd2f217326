//! A run as the API shows it, the store keeps it and the command line prints it.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A run of a benchmark: to its end, or as far as it has come.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct RunReport {
    /// 26 characters, ascending with the time of the start.
    pub id: String,
    pub benchmark: String,
    pub state: RunState,
    /// Why it was aborted or has failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    pub trigger: RunTrigger,
    /// RFC 3339.
    pub began: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended: Option<String>,
    /// The share of the run that is over, from 0 to 1.
    pub progress: f64,
    /// How the calls are made, in words: `5/s for 60s after a warm-up of 5s`.
    pub load: String,
    /// A fingerprint of the requests; runs of other requests are hard to compare.
    #[serde(default)]
    pub requests: String,
    pub environment: Environment,
    /// One target, or the two that are measured alternately.
    pub arms: Vec<Arm>,
    /// Of the first arm, in the order of the policy.
    pub thresholds: Vec<ThresholdResult>,
    /// The second arm compared with the first; once a run of two arms has ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub comparison: Option<RunComparison>,
    /// The first arm compared with that of the baseline, if one was set when the run ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub baseline_comparison: Option<RunComparison>,
}

impl RunReport {
    /// Without timelines and histograms.
    pub fn without_details(mut self) -> RunReport {
        for arm in &mut self.arms {
            arm.timeline.clear();
            arm.histogram.clear();
        }
        self
    }
}

/// Where a run is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RunState {
    Running,
    Done,
    /// It was stopped, or the sidecar ended: no figure of it counts.
    Aborted,
    /// It could not be made.
    Failed,
}

impl RunState {
    pub const fn as_str(self) -> &'static str {
        match self {
            RunState::Running => "running",
            RunState::Done => "done",
            RunState::Aborted => "aborted",
            RunState::Failed => "failed",
        }
    }
}

/// The cause of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RunTrigger {
    Operator,
    /// The benchmark's `every`.
    Schedule,
}

/// The machine and the versions, on which the figures depend.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Environment {
    pub host: String,
    /// Of Outrigger.
    pub version: String,
    pub policy_hash: String,
    /// `linux/x86_64`.
    pub system: String,
    pub cpus: u32,
    pub memory_bytes: u64,
}

/// The measurements of one target.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Arm {
    /// `route chat` or `provider openai`; with the policy in front if there are two.
    pub target: String,
    pub figures: RunFigures,
    /// At most 120 points, equally spaced.
    pub timeline: Vec<TimelinePoint>,
    /// Calls by latency, ascending; bins without calls are left out.
    pub histogram: Vec<HistogramBin>,
}

/// The figures of the calls after the warm-up.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct RunFigures {
    pub calls: u64,
    pub failed: u64,
    /// Calls by the class of their outcome.
    pub outcomes: BTreeMap<String, u64>,
    /// Failed calls / calls; absent without calls.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error_rate: Option<f64>,
    /// Successful calls in a second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub throughput: Option<f64>,
    /// Seconds from the intended start to the end of the response, of successful calls.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latency: Option<Quantiles>,
    /// Seconds to the head of the response.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_byte: Option<Quantiles>,
    /// Seconds to the first content of a stream.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_content: Option<Quantiles>,
    /// Seconds between two tokens of a stream, on average over the stream.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_gap: Option<Quantiles>,
    /// The median over the streams.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokens_per_second: Option<f64>,
    /// Tokens as the provider reports them; absent if it reports none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokens: Option<TokenTotals>,
    /// By the prices of the policy; absent without them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cost: Option<RunCost>,
    /// Seconds that calls started late because this machine was busy; the 99th percentile.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lateness: Option<f64>,
}

/// Seconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Quantiles {
    pub p50: f64,
    pub p90: f64,
    pub p95: f64,
    pub p99: f64,
    pub max: f64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TokenTotals {
    pub input: u64,
    pub output: u64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct RunCost {
    pub amount: f64,
    pub currency: String,
}

/// A part of the run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct TimelinePoint {
    /// Seconds from the end of the warm-up to the start of this part.
    pub at: f64,
    pub calls: u64,
    pub failed: u64,
    /// Of the latency; absent without a successful call.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub p50: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub p95: Option<f64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct HistogramBin {
    /// The upper bound in seconds; bins are 0.8 % wide.
    pub below: f64,
    pub calls: u64,
}

/// Whether a threshold held.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ThresholdResult {
    /// As in the policy: `p95 < 2s`.
    pub threshold: String,
    /// In the unit of the threshold: `1.32s`; absent if there is no such figure.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
    pub holds: bool,
}

/// One run compared with another: the pure rules are in `resilience/comparison.rs`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct RunComparison {
    /// The run or target that the other is compared with.
    pub a: String,
    pub b: String,
    /// `better`, `worse`, `same` or `cannot tell`: `b` compared with `a`.
    pub verdict: String,
    /// Further calls of each that should settle it; 0 if it is settled.
    pub more_calls: u64,
    pub measures: Vec<MeasureComparison>,
    /// Differences that make the runs hard to compare: another machine, version or load.
    pub warnings: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct MeasureComparison {
    /// `p50`, `p95`, `p99` (seconds), `throughput` (calls in a second) or `error_rate`.
    pub measure: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub a: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub b: Option<f64>,
    /// The relative change `b / a - 1`, of the error rate the difference `b - a`: the estimate, and
    /// the interval that has it in 99 of 100 cases.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub change: Option<ChangeInterval>,
    pub verdict: String,
    pub more_calls: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ChangeInterval {
    pub estimate: f64,
    pub low: f64,
    pub high: f64,
}

/// `GET /api/benchmarks`: the benchmarks of the policy.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct BenchmarkList {
    pub benchmarks: Vec<BenchmarkStatus>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct BenchmarkStatus {
    pub name: String,
    /// `route chat`.
    pub target: String,
    pub load: String,
    pub thresholds: Vec<String>,
    /// Of `every`, in seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub every: Option<f64>,
    /// RFC 3339; only with `every`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
    /// Where the policy declares it, as `FILE:LINE`.
    pub location: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last: Option<RunReport>,
    /// The id of the run that is the baseline.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub baseline: Option<String>,
}

/// `GET /api/benchmarks/runs`: newest first, without timelines and histograms.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct RunList {
    pub runs: Vec<RunReport>,
    /// For `before` of the next page; absent on the last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// `/api/benchmarks/NAME/baseline`: the run with which each run is compared when it ends.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct BenchmarkBaseline {
    pub benchmark: String,
    /// Without timelines and histograms; absent if no baseline is set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<RunReport>,
}

/// `GET /api/benchmarks/NAME/trend`: a figure of the stored runs that are done.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct BenchmarkTrend {
    pub benchmark: String,
    pub measure: String,
    /// The newest 1000, oldest first. Runs without the figure are left out.
    pub points: Vec<TrendPoint>,
    /// The runs since which the figure has another level.
    pub changes: Vec<TrendChange>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct TrendPoint {
    /// The run's id.
    pub run: String,
    /// RFC 3339.
    pub began: String,
    /// Seconds, a share, calls or tokens in a second, or an amount of money.
    pub value: f64,
}

/// A change of level, by more than comes from noise.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct TrendChange {
    /// The first run after it.
    pub run: String,
    /// RFC 3339; of this run.
    pub began: String,
    /// The median of the runs before it, back to the change before.
    pub before: f64,
    /// The median of the runs since, up to the next change.
    pub after: f64,
    pub worse: bool,
}
