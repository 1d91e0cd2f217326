//! What a provider's rates leave of requests and tokens: those that the policy names, which a fleet
//! shares, and those that the provider's own headers tell.
//!
//! Tokens are charged as estimated when an attempt begins, and settled on what its answer says; what
//! the answers said corrects the next estimates. A provider without rates, and which tells of none,
//! costs one load.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Mutex, MutexGuard};

use super::rate_limit::RateLimit;
use crate::live::fleet::FleetView;
use crate::policy::sections::model::Capacity;
use crate::resilience::rate::gcra::RatePolicy;
use crate::resilience::rate::reported_quota::{ChargeMark, QuotaReport, ReportedQuota};

#[derive(Debug)]
pub struct ProviderQuota {
    /// There is a rate, or the provider told of one.
    paces: AtomicBool,
    pub(crate) rates: Mutex<ProviderRates>,
    fleet: Option<Arc<FleetView>>,
}

#[derive(Debug)]
pub(crate) struct ProviderRates {
    pub(crate) requests: QuotaDimension,
    pub(crate) tokens: QuotaDimension,
    /// What answers came to, for one token that was estimated: a moving average.
    ratio: f64,
}

#[derive(Debug)]
pub(crate) struct QuotaDimension {
    pub(crate) policy: Option<RateLimit>,
    told: ReportedQuota,
}

/// What an attempt was charged.
#[derive(Clone, Copy, Debug, Default)]
pub struct QuotaCharge {
    pub tokens: f64,
    /// Of the requests' and the tokens' count, where one is kept.
    marks: Option<[ChargeMark; 2]>,
}

/// Of a newest answer in the average; bounds of the average.
const NEWEST: f64 = 0.1;
const RATIOS: (f64, f64) = (0.05, 100.0);

impl ProviderQuota {
    pub fn new(capacity: &Capacity, fleet: Option<&Arc<FleetView>>) -> Self {
        let rates = ProviderRates {
            requests: QuotaDimension::new(capacity.requests, fleet),
            tokens: QuotaDimension::new(capacity.tokens, fleet),
            ratio: 1.0,
        };
        ProviderQuota {
            paces: AtomicBool::new(rates.any()),
            rates: Mutex::new(rates),
            fleet: fleet.cloned(),
        }
    }

    /// What was used stays used.
    pub fn retune(&self, capacity: &Capacity, now: Instant) {
        let mut rates = self.rates.lock();
        let (follow, fleet) = (capacity.follow_headers, self.fleet.as_ref());
        rates.requests.retune(capacity.requests, follow, fleet, now);
        rates.tokens.retune(capacity.tokens, follow, fleet, now);
        let told = rates.requests.told.is_known(now) || rates.tokens.told.is_known(now);
        self.paces.store(rates.any() || told, Ordering::Release);
    }

    /// May a request of so many tokens go now? Nothing changes.
    ///
    /// # Errors
    /// How long it may not.
    pub fn check(&self, tokens: f64, now: Instant) -> Result<(), Duration> {
        if !self.paces.load(Ordering::Acquire) {
            return Ok(());
        }
        let mut rates = self.rates.lock();
        let checked = rates.check(tokens, now);
        self.changed(rates, now);
        checked
    }

    /// Takes leave for a request of so many tokens; says what it was charged.
    ///
    /// # Errors
    /// How long there is none.
    pub fn take(&self, tokens: f64, now: Instant) -> Result<QuotaCharge, Duration> {
        if !self.paces.load(Ordering::Acquire) {
            return Ok(QuotaCharge::default());
        }
        let mut rates = self.rates.lock();
        if let Err(wait) = rates.check(tokens, now) {
            self.changed(rates, now);
            return Err(wait);
        }
        let tokens = tokens * rates.ratio;
        let marks = [rates.requests.take(1.0, now), rates.tokens.take(tokens, now)];
        self.changed(rates, now);
        Ok(QuotaCharge { tokens, marks: Some(marks) })
    }

    /// The request was not made. Is there more than was thought?
    pub fn give_back(&self, charge: QuotaCharge, now: Instant) -> bool {
        if charge.marks.is_none() {
            return false;
        }
        let mut rates = self.rates.lock();
        rates.requests.give_back(1.0, now);
        rates.tokens.give_back(charge.tokens, now);
        true
    }

    /// What was charged came to `actual` tokens. Is there more than was thought?
    pub fn settle(&self, charge: QuotaCharge, actual: f64, now: Instant) -> bool {
        if charge.tokens <= 0.0 {
            return false;
        }
        let mut rates = self.rates.lock();
        rates.tokens.policy.iter_mut().for_each(|limit| limit.settle(charge.tokens, actual, now));
        let ratio = rates.ratio * (1.0 + NEWEST * (actual / charge.tokens - 1.0));
        rates.ratio = ratio.clamp(RATIOS.0, RATIOS.1);
        self.changed(rates, now);
        actual < charge.tokens
    }

    /// The answer to what was charged told what is left of requests, of tokens. Those who rest may
    /// go sooner, or not yet.
    pub fn observe_reports(
        &self,
        charge: QuotaCharge,
        left: [Option<QuotaReport>; 2],
        now: Instant,
    ) {
        let mut rates = self.rates.lock();
        let ProviderRates { requests, tokens, .. } = &mut *rates;
        for (at, (quota, report)) in [requests, tokens].into_iter().zip(left).enumerate() {
            let Some(report) = report else { continue };
            // Nothing was counted before the first report.
            let mark = charge.marks.map(|marks| marks[at]);
            let mark = mark.unwrap_or_else(|| quota.told.take(0.0, now));
            quota.told.observe(report, mark, now);
            self.paces.store(true, Ordering::Release);
        }
    }

    /// What is used of requests and of tokens, where there is a rate.
    pub fn used(&self, now: Instant) -> [Option<f64>; 2] {
        let rates = self.rates.lock();
        [&rates.requests, &rates.tokens].map(|quota| quota.used(now))
    }

    /// Where the fleet is to be asked for more, its task looks.
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
        self.requests.policy.is_some() || self.tokens.policy.is_some()
    }

    fn check(&mut self, tokens: f64, now: Instant) -> Result<(), Duration> {
        match self.requests.wait(1.0, now).max(self.tokens.wait(tokens * self.ratio, now)) {
            None => Ok(()),
            Some(wait) => Err(wait),
        }
    }
}

impl QuotaDimension {
    fn new(policy: Option<RatePolicy>, fleet: Option<&Arc<FleetView>>) -> Self {
        QuotaDimension {
            policy: policy.map(|policy| RateLimit::new(policy, fleet)),
            told: ReportedQuota::new(),
        }
    }

    fn retune(
        &mut self,
        policy: Option<RatePolicy>,
        follow_headers: bool,
        fleet: Option<&Arc<FleetView>>,
        now: Instant,
    ) {
        match (self.policy.as_mut(), policy) {
            (Some(limit), Some(policy)) => limit.retune(policy, now),
            (_, policy) => self.policy = policy.map(|policy| RateLimit::new(policy, fleet)),
        }
        if !follow_headers {
            self.told = ReportedQuota::new();
        }
    }

    fn wait(&mut self, amount: f64, now: Instant) -> Option<Duration> {
        let policy = self.policy.as_mut().and_then(|limit| limit.check(amount, now).err());
        policy.max(self.told.check(amount, now).err())
    }

    fn take(&mut self, amount: f64, now: Instant) -> ChargeMark {
        self.policy.iter_mut().for_each(|limit| limit.take(amount, now));
        self.told.take(amount, now)
    }

    fn give_back(&mut self, amount: f64, now: Instant) {
        self.policy.iter_mut().for_each(|limit| limit.give_back(amount, now));
        self.told.give_back(amount, now);
    }

    fn used(&self, now: Instant) -> Option<f64> {
        let policy = self.policy.as_ref().map(|limit| limit.share_used(now));
        [policy, self.told.share_used(now)].into_iter().flatten().max_by(f64::total_cmp)
    }
}
