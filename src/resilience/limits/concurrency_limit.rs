//! Adaptive concurrency limit: how many attempts a provider can work on before they only queue
//! there. The limit moves with latency, below the limit that the policy sets.
//!
//! A full provider does not say so, it queues: with more attempts in flight each response
//! takes longer, and throughput stays the same. So at the end of each *round*, as many samples
//! as the limit, the round's mean latency is compared with the baseline: `limit * (TOLERANCE *
//! baseline / mean, at most 1) + sqrt(limit)`. Steady latency grows the limit up to the clamp;
//! where latency grows with the limit, they meet at about one and a half times what the
//! provider works on (Gradient2 of Netflix' concurrency-limits; Uber's Cinnamon).
//!
//! - The baseline does not follow a longer latency by itself, otherwise it would follow a
//!   queue, and the limit would follow the baseline up. Every so many rounds, and when the
//!   limit has shrunk to a half, a *probe* round at half of the limit, where we cause no
//!   queue, measures the baseline.
//! - Idle samples do not count. A sample counts in a round only if at least half of the limit
//!   was in flight when it began; with less, it adjusts the baseline a little.
//! - A failure or a throttle takes a tenth away, once per round trip: whatever shrinks the
//!   limit begins a new *epoch*. Samples that began before it are ignored, and since the first
//!   responses after it are the quick ones, one round of them is skipped.
//!
//! Latency is measured to the first byte: the length of a stream depends on the prompt.

use std::time::Duration;

const LEAST_LIMIT: f64 = 4.0;
const FIRST_LIMIT: f64 = 20.0;
const LEAST_ROUND: u32 = 20;
const TOLERANCE: f64 = 1.5;
const LEAST_GRADIENT: f64 = 0.5;
const AFTER_DROP: f64 = 0.9;
const PROBE_AT: f64 = 0.5;
const ROUNDS_BETWEEN_PROBES: u32 = 20;
/// Weight of a probe round in the baseline.
const PROBE_WEIGHT: f64 = 0.5;
/// Weight of one idle sample in the baseline.
const IDLE_WEIGHT: f64 = 0.02;

/// The measurement of one attempt.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LatencySample {
    /// Time to the first byte.
    pub took: Duration,
    /// Attempts in flight when it began, itself included.
    pub in_flight: u32,
    /// [`ConcurrencyLimit::epoch`] when it began.
    pub epoch: u64,
    /// It failed, was throttled or timed out.
    pub dropped: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct SampleRound {
    skipped: u32,
    samples: u32,
    seconds: f64,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum LimitPhase {
    /// Rounds since the last probe, and the highest limit among them.
    Adapting {
        rounds: u32,
        highest: f64,
    },
    Probing {
        restore_to: f64,
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
    /// Seconds to the first byte without queueing; none before the first round.
    baseline: Option<f64>,
}

impl ConcurrencyLimit {
    /// `clamp` is the highest limit.
    pub fn new(clamp: u32) -> Self {
        let clamp = f64::from(clamp);
        let limit = FIRST_LIMIT.min(clamp);
        let phase = LimitPhase::Adapting { rounds: 0, highest: limit };
        Self { clamp, limit, epoch: 0, phase, round: SampleRound::default(), baseline: None }
    }

    /// Attempts that may be in flight.
    pub fn limit(&self) -> u32 {
        self.limit as u32
    }

    /// The epoch of a sample that begins now.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Takes another clamp; the limit stays within it.
    pub fn retune(&mut self, clamp: u32) {
        self.clamp = f64::from(clamp);
        self.start(self.limit);
    }

    /// Takes the measurement of an attempt.
    pub fn observe(&mut self, sample: LatencySample) {
        let took = sample.took.as_secs_f64();
        if sample.epoch != self.epoch {
            return;
        }
        if sample.dropped {
            self.dropped();
        } else if sample.in_flight < self.limit().div_ceil(2) {
            self.adjust_baseline(took, IDLE_WEIGHT);
        } else if self.round.skipped > 0 {
            self.round.skipped -= 1;
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
            LimitPhase::Probing { restore_to } => restore_to,
            LimitPhase::Adapting { .. } => self.limit,
        };
        self.end_probe(limit);
        self.start(limit * AFTER_DROP);
    }

    fn end_round(&mut self) {
        let mean = self.round.seconds / f64::from(self.round.samples);
        self.round = SampleRound::default();
        match self.phase {
            LimitPhase::Probing { restore_to } => {
                self.adjust_baseline(mean, PROBE_WEIGHT);
                self.end_probe(restore_to);
                self.start(restore_to);
            }
            LimitPhase::Adapting { highest, .. } if self.limit <= highest * PROBE_AT => {
                self.adjust_baseline(mean, PROBE_WEIGHT);
                self.end_probe(self.limit);
                self.step(mean);
            }
            LimitPhase::Adapting { rounds: ROUNDS_BETWEEN_PROBES.., .. } => {
                self.phase = LimitPhase::Probing { restore_to: self.limit };
                self.start(self.limit * PROBE_AT);
            }
            LimitPhase::Adapting { rounds, highest } => {
                self.step(mean);
                // At the clamp there is nothing to learn.
                let rounds = rounds + u32::from(self.limit < self.clamp);
                self.phase = LimitPhase::Adapting { rounds, highest: highest.max(self.limit) };
            }
        }
    }

    fn adjust_baseline(&mut self, took: f64, weight: f64) {
        self.baseline = self.baseline.map(|baseline| baseline + (took - baseline) * weight);
    }

    fn end_probe(&mut self, limit: f64) {
        self.phase = LimitPhase::Adapting { rounds: 0, highest: limit };
    }

    fn step(&mut self, mean: f64) {
        let baseline = self.baseline.map_or(mean, |baseline| baseline.min(mean));
        self.baseline = Some(baseline);
        let gradient =
            (TOLERANCE * baseline / mean.max(f64::MIN_POSITIVE)).clamp(LEAST_GRADIENT, 1.0);
        let next = self.limit * gradient + self.limit.sqrt();
        if next < self.limit {
            self.start(next);
        } else {
            self.limit = next.min(self.clamp);
        }
    }

    /// Sets the limit; only attempts that begin under it count from now on.
    fn start(&mut self, limit: f64) {
        self.limit = limit.max(LEAST_LIMIT).min(self.clamp);
        self.round = SampleRound { skipped: self.round_size(), ..SampleRound::default() };
        self.epoch += 1;
    }
}

#[cfg(test)]
#[path = "concurrency_limit_tests.rs"]
mod tests;
