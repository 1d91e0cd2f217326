//! What a provider's rates leave of requests and tokens.
//!
//! Tokens are charged as estimated when an attempt begins, and settled on what its answer says; what
//! the answers said corrects the next estimates. A provider without rates costs one load.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::lock;
use crate::policy::model::Capacity;
use crate::resilience::gcra::{Gcra, RatePolicy};

#[derive(Debug)]
pub struct Pace {
    /// There is a rate.
    paces: AtomicBool,
    rates: Mutex<Rates>,
}

#[derive(Debug)]
struct Rates {
    requests: Option<Gcra>,
    tokens: Option<Gcra>,
    /// What answers came to, for one token that was estimated: a moving average.
    ratio: f64,
}

/// A timer is late by so much: what that costs may be made good.
const LATE: Duration = Duration::from_millis(5);
/// Of a newest answer in the average; bounds of the average.
const NEWEST: f64 = 0.1;
const RATIOS: (f64, f64) = (0.05, 100.0);

impl Pace {
    pub fn new(capacity: &Capacity) -> Self {
        let rates = Rates {
            requests: capacity.requests.map(slack).map(Gcra::new),
            tokens: capacity.tokens.map(slack).map(Gcra::new),
            ratio: 1.0,
        };
        Pace { paces: AtomicBool::new(rates.any()), rates: Mutex::new(rates) }
    }

    /// What was used stays used.
    pub fn retune(&self, capacity: &Capacity, now: Instant) {
        let mut rates = lock(&self.rates);
        retune(&mut rates.requests, capacity.requests.map(slack), now);
        retune(&mut rates.tokens, capacity.tokens.map(slack), now);
        self.paces.store(rates.any(), Ordering::Release);
    }

    /// May a request of so many tokens go now? Nothing changes.
    ///
    /// # Errors
    /// How long it may not.
    pub fn check(&self, tokens: f64, now: Instant) -> Result<(), Duration> {
        if !self.paces.load(Ordering::Acquire) {
            return Ok(());
        }
        lock(&self.rates).check(tokens, now)
    }

    /// Takes leave for a request of so many tokens; says how many it was charged.
    ///
    /// # Errors
    /// How long there is none.
    pub fn take(&self, tokens: f64, now: Instant) -> Result<f64, Duration> {
        if !self.paces.load(Ordering::Acquire) {
            return Ok(0.0);
        }
        let mut rates = lock(&self.rates);
        rates.check(tokens, now)?;
        let charged = tokens * rates.ratio;
        rates.requests.iter_mut().for_each(|gcra| gcra.take(1.0, now));
        rates.tokens.iter_mut().for_each(|gcra| gcra.take(charged, now));
        Ok(charged)
    }

    /// The request was not made. Is there more than was thought?
    pub fn give_back(&self, charged: f64, now: Instant) -> bool {
        let mut rates = lock(&self.rates);
        rates.requests.iter_mut().for_each(|gcra| gcra.give_back(1.0, now));
        rates.tokens.iter_mut().for_each(|gcra| gcra.give_back(charged, now));
        rates.any()
    }

    /// What was charged came to `actual` tokens. Is there more than was thought?
    pub fn settle(&self, charged: f64, actual: f64, now: Instant) -> bool {
        let mut rates = lock(&self.rates);
        let Some(gcra) = rates.tokens.as_mut().filter(|_| charged > 0.0) else { return false };
        gcra.settle(charged, actual, now);
        let ratio = rates.ratio * (1.0 + NEWEST * (actual / charged - 1.0));
        rates.ratio = ratio.clamp(RATIOS.0, RATIOS.1);
        actual < charged
    }

    /// What of each burst is used, where there is a rate: requests, tokens.
    pub fn used(&self, now: Instant) -> [Option<f64>; 2] {
        let rates = lock(&self.rates);
        [&rates.requests, &rates.tokens].map(|gcra| gcra.as_ref().map(|gcra| gcra.share_used(now)))
    }
}

impl Rates {
    fn any(&self) -> bool {
        self.requests.is_some() || self.tokens.is_some()
    }

    fn check(&self, tokens: f64, now: Instant) -> Result<(), Duration> {
        let wait = |gcra: &Option<Gcra>, amount| gcra.as_ref()?.check(amount, now).err();
        match wait(&self.requests, 1.0).max(wait(&self.tokens, tokens * self.ratio)) {
            None => Ok(()),
            Some(wait) => Err(wait),
        }
    }
}

/// Without it a burst of one would lose each timer's delay for good.
fn slack(policy: RatePolicy) -> RatePolicy {
    RatePolicy { burst: policy.burst + policy.rate * LATE.as_secs_f64(), ..policy }
}

fn retune(gcra: &mut Option<Gcra>, policy: Option<RatePolicy>, now: Instant) {
    match (gcra.as_mut(), policy) {
        (Some(gcra), Some(policy)) => gcra.retune(policy, now),
        (_, policy) => *gcra = policy.map(Gcra::new),
    }
}
