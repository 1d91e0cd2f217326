//! The calls of a series over some time: how many ended in each class, and sketches of their
//! figures.
//!
//! The same type serves the calls of 10 s and, merged, those of any longer time. Its stored form
//! holds only what was recorded.

use super::measure::{LEAST_CALLS, RollUp};
use crate::resilience::outcome::AttemptClass;
use crate::resilience::stats::log_counts::{FineCounts, SketchError};
use crate::resilience::stored_bytes::{StoredForm, take_slice};
use crate::resilience::words::words;
use std::time::Duration;

words! {
    /// A figure of single calls, which a sketch summarises.
    #[derive(PartialOrd, Ord)]
    pub enum CallFigure {
        /// Seconds to the response of a call that succeeded.
        Latency = "latency",
        /// Seconds to the first content of a stream.
        FirstContent = "first_content",
        /// Mean seconds between the tokens of a stream, or between its content events.
        TokenGap = "token_gap",
        /// Output tokens of a stream per second, from the first content on.
        TokensPerSecond = "tokens_per_second",
        /// Cost of a call, in the currency of the provider's price.
        Cost = "cost",
    }
}

const FORMAT: u8 = 1;

/// The calls of a series over some time.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Calls {
    /// By class.
    outcomes: [u32; AttemptClass::ALL.len()],
    /// By figure.
    sketches: [FineCounts; CallFigure::ALL.len()],
    /// The sum of all costs.
    cost: f64,
}

/// Whether the class of an attempt says how reliable its provider is. Others, such as a rejected
/// credential, are counted by class alone.
pub fn is_call(class: AttemptClass) -> bool {
    class == AttemptClass::Success || is_failed(class)
}

/// Whether a call of this class failed.
pub fn is_failed(class: AttemptClass) -> bool {
    matches!(class, AttemptClass::Failure | AttemptClass::Unsent | AttemptClass::Throttled)
}

impl CallFigure {
    /// Sketches hold whole numbers from 1.3 * 10^5 to 1.1 * 10^12: nanoseconds, millionths of a
    /// token per second, 10^-11 of a currency.
    const fn scale(self) -> f64 {
        match self {
            CallFigure::Latency | CallFigure::FirstContent | CallFigure::TokenGap => 1e9,
            CallFigure::TokensPerSecond => 1e6,
            CallFigure::Cost => 1e11,
        }
    }
}

impl Calls {
    /// Counts an attempt.
    pub fn count(&mut self, class: AttemptClass) {
        let count = &mut self.outcomes[class.index()];
        *count = count.saturating_add(1);
    }

    /// Records a time.
    pub fn record_time(&mut self, figure: CallFigure, time: Duration) {
        let nanoseconds = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        self.sketches[figure as usize].record(nanoseconds);
    }

    /// Records another figure, in its unit.
    pub fn record(&mut self, figure: CallFigure, value: f64) {
        self.sketches[figure as usize].record((value * figure.scale()) as u64);
    }

    /// Records the cost of a call.
    pub fn record_cost(&mut self, cost: f64) {
        self.cost += cost;
        self.record(CallFigure::Cost, cost);
    }

    /// Attempts that ended in a class.
    pub fn outcome(&self, class: AttemptClass) -> u32 {
        self.outcomes[class.index()]
    }

    /// Attempts that say how reliable the provider is.
    pub fn calls(&self) -> u32 {
        self.sum(is_call)
    }

    /// Calls that failed.
    pub fn failed(&self) -> u32 {
        self.sum(is_failed)
    }

    /// The sum of all costs.
    pub fn cost(&self) -> f64 {
        self.cost
    }

    /// The number of values of a figure.
    pub fn values(&self, figure: CallFigure) -> u64 {
        self.sketches[figure as usize].count()
    }

    /// A quantile of a figure, in its unit; none with fewer values than `least`, or without any.
    pub fn quantile(&self, figure: CallFigure, q: f64, least: u64) -> Option<f64> {
        let found = self.sketches[figure as usize].quantile(q, least)?;
        Some(found as f64 / figure.scale())
    }

    /// The figures that a baseline is learned from.
    pub fn roll_up(&self, number: u64) -> RollUp {
        let count = |figure| u32::try_from(self.values(figure)).unwrap_or(u32::MAX);
        let quantile = |figure, q| self.quantile(figure, q, LEAST_CALLS.into());
        RollUp {
            number,
            calls: self.calls(),
            failed: self.failed(),
            timed: count(CallFigure::Latency),
            p50: quantile(CallFigure::Latency, 0.5),
            p95: quantile(CallFigure::Latency, 0.95),
            streamed: count(CallFigure::FirstContent),
            first_content: quantile(CallFigure::FirstContent, 0.5),
            tokens_per_second: quantile(CallFigure::TokensPerSecond, 0.5),
        }
    }

    /// Appends the stored form: format, classes, cost, and each sketch behind its length.
    pub fn encode(&self, bytes: &mut Vec<u8>) {
        bytes.push(FORMAT);
        self.outcomes.iter().for_each(|count| count.put(bytes));
        Some(self.cost).filter(|cost| *cost > 0.0).put(bytes);
        let mut sketch = Vec::new();
        for figure in CallFigure::ALL {
            sketch.clear();
            if self.values(figure) > 0 {
                self.sketches[figure as usize].encode(&mut sketch);
            }
            (sketch.len() as u64).put(bytes);
            bytes.extend(&sketch);
        }
    }

    /// Adds stored calls. After an error some of them may be added.
    pub fn merge_stored(&mut self, mut bytes: &[u8]) -> Result<(), SketchError> {
        let format = u8::take(&mut bytes)?;
        if format != FORMAT {
            return Err(SketchError::Format(format));
        }
        for count in &mut self.outcomes {
            *count = count.saturating_add(u32::take(&mut bytes)?);
        }
        let cost: Option<f64> = StoredForm::take(&mut bytes)?;
        self.cost += cost.filter(|cost| cost.is_finite()).unwrap_or(0.0);
        for sketch in &mut self.sketches {
            let length = usize::try_from(u64::take(&mut bytes)?).unwrap_or(usize::MAX);
            let stored = take_slice(&mut bytes, length)?;
            if !stored.is_empty() {
                sketch.merge_stored(stored)?;
            }
        }
        if bytes.is_empty() { Ok(()) } else { Err(SketchError::TrailingBytes(bytes.len())) }
    }

    fn sum(&self, of: fn(AttemptClass) -> bool) -> u32 {
        let counts = AttemptClass::ALL.into_iter().filter(|class| of(*class));
        counts.fold(0, |sum, class| sum.saturating_add(self.outcome(class)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn some_calls() -> Calls {
        let mut calls = Calls::default();
        for n in 1..=30 {
            calls.count(AttemptClass::Success);
            calls.record_time(CallFigure::Latency, Duration::from_millis(10 * n));
            calls.record_cost(0.002);
        }
        calls.count(AttemptClass::Throttled);
        calls.count(AttemptClass::Credential);
        calls
    }

    fn stored(calls: &Calls) -> Vec<u8> {
        let mut bytes = Vec::new();
        calls.encode(&mut bytes);
        bytes
    }

    #[test]
    fn classes_that_say_nothing_about_the_provider_are_no_calls() {
        let calls = some_calls();
        assert_eq!((calls.calls(), calls.failed()), (31, 1));
        assert_eq!(calls.outcome(AttemptClass::Credential), 1);
    }

    #[test]
    fn figures_are_in_their_units() {
        let calls = some_calls();
        let is_near = |found: Option<f64>, value: f64| (found.unwrap() / value - 1.0).abs() < 0.01;
        assert!(is_near(calls.quantile(CallFigure::Latency, 0.5, 0), 0.15));
        assert!(is_near(calls.quantile(CallFigure::Cost, 0.5, 0), 0.002));
        assert!((calls.cost() - 0.06).abs() < 1e-9);
        assert_eq!(calls.quantile(CallFigure::TokenGap, 0.5, 0), None);
    }

    #[test]
    fn stored_calls_are_added() {
        let calls = some_calls();
        let mut twice = calls.clone();
        twice.merge_stored(&stored(&calls)).expect("readable");
        assert_eq!((twice.calls(), twice.values(CallFigure::Latency)), (62, 60));
        assert!((twice.cost() - 0.12).abs() < 1e-9);
        let mut read = Calls::default();
        read.merge_stored(&stored(&calls)).expect("readable");
        assert_eq!(read, calls);
        assert!(stored(&calls).len() < 100, "{}", stored(&calls).len());
    }

    #[test]
    fn bytes_of_another_form_are_refused() {
        let good = stored(&some_calls());
        let read = |bytes: &[u8]| Calls::default().merge_stored(bytes);
        assert_eq!(read(&[]), Err(SketchError::Truncated));
        assert_eq!(read(&[9]), Err(SketchError::Format(9)));
        assert_eq!(read(&good[..good.len() - 1]), Err(SketchError::Truncated));
        assert_eq!(read(&[&good[..], &[0]].concat()), Err(SketchError::TrailingBytes(1)));
    }

    proptest! {
        #[test]
        fn any_bytes_are_added_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            let _ = Calls::default().merge_stored(&[&[FORMAT][..], &bytes].concat());
        }
    }
}
