//! When each call of a run starts.
//!
//! With a rate the times are fixed before the run begins, whatever the responses do (an open loop).
//! During the ramp the rate grows linearly from zero.

use std::time::Duration;

use crate::policy::sections::model::BenchmarkLoad;

/// The times of the calls of an open loop.
#[derive(Clone, Copy, Debug)]
pub struct CallTimes {
    /// Calls in a second, after the ramp.
    rate: f64,
    ramp: f64,
}

/// The spans of a run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spans {
    /// Calls that start earlier do not count.
    pub lead: Duration,
    /// How long the calls count.
    pub length: Duration,
    /// Into how many blocks of equal length that is divided.
    pub blocks: usize,
}

/// Blocks of a run.
const LEAST_BLOCKS: usize = 20;
const MOST_BLOCKS: usize = 120;

impl CallTimes {
    pub fn new(rate: f64, ramp: Duration) -> CallTimes {
        CallTimes { rate, ramp: ramp.as_secs_f64() }
    }

    /// When the call with this number, from 0, starts.
    pub fn start(&self, number: u64) -> Duration {
        let number = number as f64;
        let in_ramp = self.rate * self.ramp / 2.0;
        let seconds = if number < in_ramp {
            (2.0 * self.ramp * number / self.rate).sqrt()
        } else {
            self.ramp + (number - in_ramp) / self.rate
        };
        Duration::from_secs_f64(seconds)
    }

    /// The number of the first call that starts at this time or later; without a ramp.
    pub fn first_from(&self, from: Duration) -> u64 {
        let mut number = (self.rate * from.as_secs_f64()) as u64;
        while self.start(number) < from {
            number += 1;
        }
        number
    }
}

impl Spans {
    /// Blocks of a second where the run is 20 s to 2 min long.
    pub fn of(load: &BenchmarkLoad) -> Spans {
        let blocks = (load.length.as_secs() as usize).clamp(LEAST_BLOCKS, MOST_BLOCKS);
        Spans { lead: load.lead(), length: load.length, blocks }
    }

    pub fn block_length(&self) -> Duration {
        self.length / self.blocks as u32
    }

    /// The block of a call that starts at this time of the run; `None`: it does not count.
    pub fn block(&self, start: Duration) -> Option<usize> {
        let counted = start.checked_sub(self.lead).filter(|at| *at < self.length)?;
        let block = counted.as_nanos() * self.blocks as u128 / self.length.as_nanos().max(1);
        usize::try_from(block).ok()
    }

    pub fn end(&self) -> Duration {
        self.lead + self.length
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn calls_of_a_rate_start_at_equal_distances() {
        let schedule = CallTimes::new(10.0, Duration::ZERO);
        assert_eq!([0, 1, 25].map(|n| schedule.start(n).as_millis()), [0, 100, 2500]);
    }

    #[test]
    fn calls_are_spread_over_legs_without_a_repetition() {
        let schedule = CallTimes::new(50.0, Duration::ZERO);
        let first = |millis| schedule.first_from(Duration::from_millis(millis));
        assert_eq!([0, 50, 100, 150, 1000].map(first), [0, 3, 5, 8, 50]);
    }

    #[test]
    fn the_rate_grows_during_the_ramp() {
        let schedule = CallTimes::new(10.0, 4 * SECOND);
        // 20 calls instead of 40, a quarter of them in the first half.
        assert_eq!([0, 5, 20, 30].map(|n| schedule.start(n).as_millis()), [0, 2000, 4000, 5000]);
        let starts: Vec<_> = (0..40).map(|n| schedule.start(n)).collect();
        assert!(starts.is_sorted());
    }

    #[test]
    fn calls_before_and_after_the_measured_time_are_in_no_block() {
        let spans = Spans { lead: SECOND, length: 10 * SECOND, blocks: 20 };
        let block = |millis| spans.block(Duration::from_millis(millis));
        assert_eq!([block(0), block(999), block(11_000)], [None; 3]);
        assert_eq!([block(1000), block(1499), block(1500)], [Some(0), Some(0), Some(1)]);
        assert_eq!(block(10_999), Some(19));
    }
}
