//! How many attempts a provider works on at once before they only wait there: a limit that moves
//! with latency, below the limit that the policy sets.
//!
//! A provider that is full does not say so, it queues: with more in flight every answer takes
//! longer, and no more of them come. So at the end of each *round*, as many samples as the limit,
//! the round's mean latency is held against the usual one:
//! `limit * (TOLERANCE * usual / mean, at most 1) + sqrt(limit)`. Steady latency grows the limit to
//! the clamp; where latency grows with the limit, they meet at about one and a half times what the
//! provider works on (Gradient2 of Netflix' concurrency-limits; Uber's Cinnamon).
//!
//! - The usual does not follow a longer latency by itself, else it would follow a queue, and the
//!   limit after it, up and up. Every so many rounds, and when the limit has shrunk to half, we
//!   *look*: a round at half of the limit, where there is no queue of ours, tells the usual.
//! - Nobody learns from idling. A sample counts in a round only when at least half of the limit was
//!   in flight as it began; with less, it tells a little of the usual.
//! - A failure or a throttle takes a tenth away, once a round trip: whatever shrinks the limit
//!   starts a new *epoch*. Samples that began before it do not count, and the first answers after
//!   it are the quick ones, so a round of them is left out.
//!
//! Latency is measured to the first byte: how long a stream then runs is the prompt's doing.

use std::time::Duration;

const LEAST_LIMIT: f64 = 4.0;
const FIRST_LIMIT: f64 = 20.0;
const LEAST_ROUND: u32 = 20;
const TOLERANCE: f64 = 1.5;
const LEAST_GRADIENT: f64 = 0.5;
const AFTER_DROP: f64 = 0.9;
const LOOK_AT: f64 = 0.5;
const ROUNDS_TO_LOOK: u32 = 20;
/// What a look counts for in the usual latency.
const LOOK_WEIGHT: f64 = 0.5;
/// And one sample from a quiet time.
const QUIET_WEIGHT: f64 = 0.02;

/// What one attempt showed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LatencySample {
    /// To the first byte.
    pub took: Duration,
    /// Attempts in flight as it began, itself included.
    pub in_flight: u32,
    /// [`Adaptive::epoch`] as it began.
    pub epoch: u64,
    /// It failed, was throttled or timed out.
    pub dropped: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct SampleRound {
    left_out: u32,
    samples: u32,
    seconds: f64,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum LimitPhase {
    /// So many rounds since the last look, and the highest limit among them.
    Moving {
        rounds: u32,
        highest: f64,
    },
    Looking {
        back_to: f64,
    },
}

/// One for each provider.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ConcurrencyLimit {
    clamp: f64,
    limit: f64,
    epoch: u64,
    phase: LimitPhase,
    round: SampleRound,
    /// Seconds to the first byte without a queue; none before the first round.
    usual: Option<f64>,
}

impl ConcurrencyLimit {
    /// `clamp` is the highest limit.
    pub fn new(clamp: u32) -> Self {
        let clamp = f64::from(clamp);
        let limit = FIRST_LIMIT.min(clamp);
        let phase = LimitPhase::Moving { rounds: 0, highest: limit };
        Self { clamp, limit, epoch: 0, phase, round: SampleRound::default(), usual: None }
    }

    /// Attempts that may be in flight.
    pub fn limit(&self) -> u32 {
        self.limit as u32
    }

    /// What a sample that begins now carries.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Another clamp; the limit stays where it may.
    pub fn retune(&mut self, clamp: u32) {
        self.clamp = f64::from(clamp);
        self.start(self.limit);
    }

    /// Takes what an attempt showed.
    pub fn observe(&mut self, sample: LatencySample) {
        let took = sample.took.as_secs_f64();
        if sample.epoch != self.epoch {
            return;
        }
        if sample.dropped {
            self.dropped();
        } else if sample.in_flight < self.limit().div_ceil(2) {
            self.learn(took, QUIET_WEIGHT);
        } else if self.round.left_out > 0 {
            self.round.left_out -= 1;
        } else {
            self.round.seconds += took;
            self.round.samples += 1;
            if self.round.samples >= self.round_size() {
                self.end_round();
            }
        }
    }

    fn round_size(&self) -> u32 {
        self.limit().max(LEAST_ROUND)
    }

    fn dropped(&mut self) {
        let limit = match self.phase {
            LimitPhase::Looking { back_to } => back_to,
            LimitPhase::Moving { .. } => self.limit,
        };
        self.looked(limit);
        self.start(limit * AFTER_DROP);
    }

    fn end_round(&mut self) {
        let mean = self.round.seconds / f64::from(self.round.samples);
        self.round = SampleRound::default();
        match self.phase {
            LimitPhase::Looking { back_to } => {
                self.learn(mean, LOOK_WEIGHT);
                self.looked(back_to);
                self.start(back_to);
            }
            LimitPhase::Moving { highest, .. } if self.limit <= highest * LOOK_AT => {
                self.learn(mean, LOOK_WEIGHT);
                self.looked(self.limit);
                self.step(mean);
            }
            LimitPhase::Moving { rounds: ROUNDS_TO_LOOK.., .. } => {
                self.phase = LimitPhase::Looking { back_to: self.limit };
                self.start(self.limit * LOOK_AT);
            }
            LimitPhase::Moving { rounds, highest } => {
                self.step(mean);
                // At the clamp there is nothing to find out.
                let rounds = rounds + u32::from(self.limit < self.clamp);
                self.phase = LimitPhase::Moving { rounds, highest: highest.max(self.limit) };
            }
        }
    }

    fn learn(&mut self, took: f64, weight: f64) {
        self.usual = self.usual.map(|usual| usual + (took - usual) * weight);
    }

    fn looked(&mut self, limit: f64) {
        self.phase = LimitPhase::Moving { rounds: 0, highest: limit };
    }

    fn step(&mut self, mean: f64) {
        let usual = self.usual.map_or(mean, |usual| usual.min(mean));
        self.usual = Some(usual);
        let gradient = (TOLERANCE * usual / mean.max(f64::MIN_POSITIVE)).clamp(LEAST_GRADIENT, 1.0);
        let next = self.limit * gradient + self.limit.sqrt();
        if next < self.limit {
            self.start(next);
        } else {
            self.limit = next.min(self.clamp);
        }
    }

    /// From here on only what begins under this limit counts.
    fn start(&mut self, limit: f64) {
        self.limit = limit.max(LEAST_LIMIT).min(self.clamp);
        self.round = SampleRound { left_out: self.round_size(), ..SampleRound::default() };
        self.epoch += 1;
    }
}

#[cfg(test)]
#[path = "concurrency_limit_tests.rs"]
mod tests;
