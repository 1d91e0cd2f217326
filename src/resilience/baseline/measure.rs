//! The measures of a series, and the value of each in a roll-up.
//!
//! Values are turned and scaled so that a higher one is worse and a difference has the same
//! meaning everywhere: latencies and token rates are logarithms, and the token rate is negated.

use crate::resilience::words::words;

words! {
    /// One measure of a series. Each has a detector of its own.
    #[derive(PartialOrd, Ord)]
    pub enum Measure {
        P50 = "p50",
        P95 = "p95",
        /// The median time to the first content of a stream.
        FirstContent = "first_content",
        /// The median number of tokens per second of a stream; less is worse.
        TokensPerSecond = "tokens_per_second",
        /// The share of calls that failed.
        ErrorRate = "error_rate",
    }

    /// A kind of slowness.
    pub enum Slowness {
        /// The median or the 95th percentile.
        Latency = "latency",
        FirstContent = "first_content",
        TokensPerSecond = "tokens_per_second",
    }
}

/// The figures of a series over 10 s.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct RollUp {
    /// Unix time divided by [`ROLL_UP_SECONDS`].
    pub number: u64,
    pub calls: u32,
    pub failed: u32,
    /// Calls whose latency is in `p50` and `p95`.
    pub timed: u32,
    /// Seconds; none if no call was timed.
    pub p50: Option<f64>,
    pub p95: Option<f64>,
    /// Calls whose stream is in `first_content` and `tokens_per_second`.
    pub streamed: u32,
    /// Seconds.
    pub first_content: Option<f64>,
    pub tokens_per_second: Option<f64>,
}

/// A value of a measure, from enough calls.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Reading {
    /// Higher is worse.
    pub value: f64,
    /// The number of calls that it comes from.
    pub calls: u32,
}

pub const ROLL_UP_SECONDS: u64 = 10;

/// Fewer calls than this give no value.
pub const LEAST_CALLS: u32 = 10;
/// The 95th percentile of fewer values is their maximum.
const LEAST_CALLS_P95: u32 = 20;

/// Smallest standard deviation of a logarithm: 1 %. A constant series has a scale as well.
const LEAST_LOG_SCALE: f64 = 0.01;
/// A change by less than 10 % is never an alarm.
const LEAST_LOG_CHANGE: f64 = 0.095_310_179_804_324_87;
/// A change of the error rate by less than 2 percentage points is never an alarm.
const LEAST_RATE_CHANGE: f64 = 0.02;
/// Error rates below this have its standard deviation: 1 in 500.
const LEAST_RATE: f64 = 0.002;

impl Slowness {
    pub fn includes(self, measure: Measure) -> bool {
        match self {
            Slowness::Latency => matches!(measure, Measure::P50 | Measure::P95),
            Slowness::FirstContent => measure == Measure::FirstContent,
            Slowness::TokensPerSecond => measure == Measure::TokensPerSecond,
        }
    }
}

impl Measure {
    /// The value in a roll-up; none if too few calls measured it.
    pub fn reading(self, roll_up: &RollUp) -> Option<Reading> {
        let RollUp { calls, timed, streamed, .. } = *roll_up;
        let logarithm = |value: Option<f64>, sign: f64| {
            value.filter(|value| *value > 0.0).map(|value| sign * value.ln())
        };
        let failed = f64::from(roll_up.failed.min(calls)) / f64::from(calls.max(1));
        let (value, calls, least) = match self {
            Measure::P50 => (logarithm(roll_up.p50, 1.0), timed, LEAST_CALLS),
            Measure::P95 => (logarithm(roll_up.p95, 1.0), timed, LEAST_CALLS_P95),
            Measure::FirstContent => (logarithm(roll_up.first_content, 1.0), streamed, LEAST_CALLS),
            Measure::TokensPerSecond => {
                (logarithm(roll_up.tokens_per_second, -1.0), streamed, LEAST_CALLS)
            }
            Measure::ErrorRate => (Some(failed), calls, LEAST_CALLS),
        };
        let value = value.filter(|value| value.is_finite() && calls >= least)?;
        Some(Reading { value, calls })
    }

    /// The figure that a person knows: seconds, tokens per second, or a share.
    pub fn figure(self, value: f64) -> f64 {
        match self {
            Measure::P50 | Measure::P95 | Measure::FirstContent => value.exp(),
            Measure::TokensPerSecond => (-value).exp(),
            Measure::ErrorRate => value,
        }
    }

    /// The value of a block of readings. An error rate of few calls is 0 most of the time, so the
    /// median says nothing about it, and the mean of the block is used.
    pub(crate) fn is_mean(self) -> bool {
        self == Measure::ErrorRate
    }

    /// The smallest change that may be an alarm.
    pub(crate) fn least_change(self) -> f64 {
        if self == Measure::ErrorRate { LEAST_RATE_CHANGE } else { LEAST_LOG_CHANGE }
    }

    /// The smallest standard deviation of a reading: of an error rate, the binomial one.
    pub(crate) fn least_scale(self, level: f64, calls: u32) -> f64 {
        if self == Measure::ErrorRate {
            (level.max(LEAST_RATE) / f64::from(calls.max(1))).sqrt()
        } else {
            LEAST_LOG_SCALE
        }
    }

    /// The difference by which the same hour of another day may be worse while the series is
    /// younger than a week, and its weekend may be unknown.
    pub(crate) fn young_slack(self) -> f64 {
        if self == Measure::ErrorRate { 0.0 } else { LEAST_LOG_CHANGE }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn too_few_calls_give_no_value() {
        let roll_up = RollUp {
            calls: 9,
            failed: 9,
            timed: 19,
            p50: Some(1.0),
            p95: Some(1.0),
            ..RollUp::default()
        };
        assert!(Measure::ErrorRate.reading(&roll_up).is_none());
        assert!(Measure::P95.reading(&roll_up).is_none());
        assert_eq!(Measure::P50.reading(&roll_up), Some(Reading { value: 0.0, calls: 19 }));
        assert!(Measure::ALL.iter().all(|m| m.reading(&RollUp::default()).is_none()));
    }

    #[test]
    fn a_worse_value_is_higher() {
        let roll_up = |slow: f64| RollUp {
            calls: 100,
            failed: slow as u32,
            timed: 100,
            p50: Some(slow),
            p95: Some(slow),
            streamed: 100,
            first_content: Some(slow),
            tokens_per_second: Some(50.0 / slow),
            ..RollUp::default()
        };
        for measure in Measure::ALL {
            let value = |slow| measure.reading(&roll_up(slow)).unwrap().value;
            assert!(value(2.0) > value(1.0), "{measure:?}");
        }
    }

    #[test]
    fn figures_without_a_logarithm_give_no_value() {
        for p50 in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            let roll_up = RollUp { timed: 50, p50: Some(p50), ..RollUp::default() };
            assert_eq!(Measure::P50.reading(&roll_up), None);
        }
    }
}
