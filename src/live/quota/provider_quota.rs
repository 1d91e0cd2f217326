//! Quotas of a provider for requests and tokens: the limits of the policy, which a fleet shares.
//!
//! Tokens are charged as estimated when an attempt begins and settled on the usage in its
//! response; past responses correct the next estimates, here and for the quotas that headers
//! report. A provider without any limit costs one load.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Mutex, MutexGuard};

use crate::live::fleet::FleetView;
use crate::policy::sections::model::Capacity;
use crate::resilience::rate::gcra::RatePolicy;
use crate::resilience::rate::shared_quota::SharedQuota;

#[derive(Debug)]
pub struct ProviderQuota {
    /// There is a limit.
    is_limited: AtomicBool,
    /// Actual tokens for each estimated one, as the bits of a float: a moving average.
    ratio: AtomicU64,
    pub(crate) rates: Mutex<ProviderRates>,
    fleet: Option<Arc<FleetView>>,
}

#[derive(Debug)]
pub(crate) struct ProviderRates {
    /// A host in no fleet has all of a limit as its local share.
    pub(crate) requests: Option<SharedQuota>,
    pub(crate) tokens: Option<SharedQuota>,
}

/// The charge of an attempt.
#[derive(Clone, Copy, Debug, Default)]
pub struct QuotaCharge {
    pub tokens: f64,
    /// A limit counted it.
    is_counted: bool,
}

/// Weight of the newest response in the average; bounds of the average.
const NEWEST: f64 = 0.1;
const MIN_RATIO: f64 = 0.05;
const MAX_RATIO: f64 = 100.0;

impl ProviderQuota {
    pub fn new(capacity: &Capacity, fleet: Option<&Arc<FleetView>>) -> Self {
        let limit = |policy: Option<RatePolicy>| policy.map(|policy| shared_quota(policy, fleet));
        let rates =
            ProviderRates { requests: limit(capacity.requests), tokens: limit(capacity.tokens) };
        ProviderQuota {
            is_limited: AtomicBool::new(rates.any()),
            ratio: AtomicU64::new(1f64.to_bits()),
            rates: Mutex::new(rates),
            fleet: fleet.cloned(),
        }
    }

    /// Takes another policy; usage is kept.
    pub fn retune(&self, capacity: &Capacity, now: Instant) {
        let mut rates = self.rates.lock();
        let fleet = self.fleet.as_ref();
        retune(&mut rates.requests, capacity.requests, fleet, now);
        retune(&mut rates.tokens, capacity.tokens, fleet, now);
        self.is_limited.store(rates.any(), Ordering::Release);
    }

    /// An estimate of tokens, corrected by past responses.
    pub fn corrected(&self, estimate: f64) -> f64 {
        estimate * f64::from_bits(self.ratio.load(Ordering::Relaxed))
    }

    /// Whether a request of this many tokens may go now. Nothing changes.
    ///
    /// # Errors
    /// The time until it may.
    pub fn check(&self, tokens: f64, now: Instant) -> Result<(), Duration> {
        if !self.is_limited.load(Ordering::Acquire) {
            return Ok(());
        }
        let mut rates = self.rates.lock();
        let checked = rates.check(self.corrected(tokens), now);
        self.changed(rates, now);
        checked
    }

    /// Charges a request of this many tokens.
    ///
    /// # Errors
    /// The time until it may go.
    pub fn take(&self, tokens: f64, now: Instant) -> Result<QuotaCharge, Duration> {
        let tokens = self.corrected(tokens);
        if !self.is_limited.load(Ordering::Acquire) {
            return Ok(QuotaCharge { tokens, is_counted: false });
        }
        let mut rates = self.rates.lock();
        if let Err(wait) = rates.check(tokens, now) {
            self.changed(rates, now);
            return Err(wait);
        }
        rates.requests.iter_mut().for_each(|limit| limit.take(1.0, now));
        rates.tokens.iter_mut().for_each(|limit| limit.take(tokens, now));
        self.changed(rates, now);
        Ok(QuotaCharge { tokens, is_counted: true })
    }

    /// Returns the charge of a request that was not sent. Whether more is available now.
    pub fn give_back(&self, charge: QuotaCharge, now: Instant) -> bool {
        if charge.is_counted {
            let mut rates = self.rates.lock();
            rates.requests.iter_mut().for_each(|limit| limit.give_back(1.0, now));
            rates.tokens.iter_mut().for_each(|limit| limit.give_back(charge.tokens, now));
        }
        charge.is_counted
    }

    /// Settles a charge at `actual` tokens. Whether more is available now.
    pub fn settle(&self, charge: QuotaCharge, actual: f64, now: Instant) -> bool {
        if charge.tokens <= 0.0 {
            return false;
        }
        let ratio = self.corrected(1.0) * (1.0 + NEWEST * (actual / charge.tokens - 1.0));
        self.ratio.store(ratio.clamp(MIN_RATIO, MAX_RATIO).to_bits(), Ordering::Relaxed);
        if !charge.is_counted {
            return false;
        }
        let mut rates = self.rates.lock();
        rates.tokens.iter_mut().for_each(|limit| limit.settle(charge.tokens, actual, now));
        self.changed(rates, now);
        actual < charge.tokens
    }

    /// The used shares of requests and tokens, if limited.
    pub fn used(&self, now: Instant) -> [Option<f64>; 2] {
        let rates = self.rates.lock();
        [&rates.requests, &rates.tokens].map(|limit| Some(limit.as_ref()?.share_used(now)))
    }

    /// Wakes the sync task if a chunk is to be requested.
    fn changed(&self, rates: MutexGuard<'_, ProviderRates>, now: Instant) {
        let Some(fleet) = &self.fleet else { return };
        let due = rates.are_due(now);
        drop(rates);
        if due {
            fleet.wake();
        }
    }
}

impl ProviderRates {
    fn any(&self) -> bool {
        self.requests.is_some() || self.tokens.is_some()
    }

    fn check(&mut self, tokens: f64, now: Instant) -> Result<(), Duration> {
        let wait = |limit: &mut Option<SharedQuota>, amount: f64| {
            limit.as_mut().and_then(|limit| limit.check(amount, now).err())
        };
        let longest = wait(&mut self.requests, 1.0).max(wait(&mut self.tokens, tokens));
        longest.map_or(Ok(()), Err)
    }
}

fn retune(
    limit: &mut Option<SharedQuota>,
    policy: Option<RatePolicy>,
    fleet: Option<&Arc<FleetView>>,
    now: Instant,
) {
    match (limit.as_mut(), policy) {
        (Some(limit), Some(policy)) => limit.retune(policy, now),
        (_, policy) => *limit = policy.map(|policy| shared_quota(policy, fleet)),
    }
}

fn shared_quota(policy: RatePolicy, fleet: Option<&Arc<FleetView>>) -> SharedQuota {
    let (attached, hosts) = fleet.map_or((false, 1), |fleet| (fleet.is_attached(), fleet.hosts()));
    SharedQuota::new(policy, attached, hosts)
}
