//! Quotas of a provider for requests and tokens: the limits of the policy, which a fleet
//! shares, and those reported by the provider's headers.
//!
//! Tokens are charged as estimated when an attempt begins and settled on the usage in its
//! response; past responses correct the next estimates. A provider without any limit costs one
//! load.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Mutex, MutexGuard};

use crate::live::fleet::FleetView;
use crate::policy::sections::model::Capacity;
use crate::resilience::rate::gcra::RatePolicy;
use crate::resilience::rate::reported_quota::{ChargeMark, QuotaReport, ReportedQuota};
use crate::resilience::rate::shared_quota::SharedQuota;

#[derive(Debug)]
pub struct ProviderQuota {
    /// There is a limit, configured or reported.
    is_limited: AtomicBool,
    pub(crate) rates: Mutex<ProviderRates>,
    fleet: Option<Arc<FleetView>>,
}

#[derive(Debug)]
pub(crate) struct ProviderRates {
    pub(crate) requests: QuotaDimension,
    pub(crate) tokens: QuotaDimension,
    /// Actual tokens for each estimated one: a moving average.
    ratio: f64,
}

#[derive(Debug)]
pub(crate) struct QuotaDimension {
    /// The limit of the policy. A host in no fleet has all of it as its local share.
    pub(crate) policy: Option<SharedQuota>,
    reported: ReportedQuota,
}

/// The charge of an attempt.
#[derive(Clone, Copy, Debug, Default)]
pub struct QuotaCharge {
    pub tokens: f64,
    /// Marks of the reported request and token quotas, if counted.
    marks: Option<[ChargeMark; 2]>,
}

/// Weight of the newest response in the average; bounds of the average.
const NEWEST: f64 = 0.1;
const MIN_RATIO: f64 = 0.05;
const MAX_RATIO: f64 = 100.0;

impl ProviderQuota {
    pub fn new(capacity: &Capacity, fleet: Option<&Arc<FleetView>>) -> Self {
        let rates = ProviderRates {
            requests: QuotaDimension::new(capacity.requests, fleet),
            tokens: QuotaDimension::new(capacity.tokens, fleet),
            ratio: 1.0,
        };
        ProviderQuota {
            is_limited: AtomicBool::new(rates.any()),
            rates: Mutex::new(rates),
            fleet: fleet.cloned(),
        }
    }

    /// Takes another policy; usage is kept.
    pub fn retune(&self, capacity: &Capacity, now: Instant) {
        let mut rates = self.rates.lock();
        let (follow, fleet) = (capacity.follow_headers, self.fleet.as_ref());
        rates.requests.retune(capacity.requests, follow, fleet, now);
        rates.tokens.retune(capacity.tokens, follow, fleet, now);
        let reported = rates.requests.reported.is_known(now) || rates.tokens.reported.is_known(now);
        self.is_limited.store(rates.any() || reported, Ordering::Release);
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
        let checked = rates.check(tokens, now);
        self.changed(rates, now);
        checked
    }

    /// Charges a request of this many tokens.
    ///
    /// # Errors
    /// The time until it may go.
    pub fn take(&self, tokens: f64, now: Instant) -> Result<QuotaCharge, Duration> {
        if !self.is_limited.load(Ordering::Acquire) {
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

    /// Returns the charge of a request that was not sent. Whether more is available now.
    pub fn give_back(&self, charge: QuotaCharge, now: Instant) -> bool {
        if charge.marks.is_none() {
            return false;
        }
        let mut rates = self.rates.lock();
        rates.requests.give_back(1.0, now);
        rates.tokens.give_back(charge.tokens, now);
        true
    }

    /// Settles a charge at `actual` tokens. Whether more is available now.
    pub fn settle(&self, charge: QuotaCharge, actual: f64, now: Instant) -> bool {
        if charge.tokens <= 0.0 {
            return false;
        }
        let mut rates = self.rates.lock();
        rates.tokens.policy.iter_mut().for_each(|limit| limit.settle(charge.tokens, actual, now));
        let ratio = rates.ratio * (1.0 + NEWEST * (actual / charge.tokens - 1.0));
        rates.ratio = ratio.clamp(MIN_RATIO, MAX_RATIO);
        self.changed(rates, now);
        actual < charge.tokens
    }

    /// Takes the reports of requests and tokens in the response to a charged attempt.
    /// Deferred waiters may go sooner, or later.
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
            let mark = mark.unwrap_or_else(|| quota.reported.take(0.0, now));
            quota.reported.observe(report, mark, now);
            self.is_limited.store(true, Ordering::Release);
        }
    }

    /// The used shares of requests and tokens, if limited.
    pub fn used(&self, now: Instant) -> [Option<f64>; 2] {
        let rates = self.rates.lock();
        [&rates.requests, &rates.tokens].map(|quota| quota.used(now))
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
            policy: policy.map(|policy| shared_quota(policy, fleet)),
            reported: ReportedQuota::default(),
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
            (_, policy) => self.policy = policy.map(|policy| shared_quota(policy, fleet)),
        }
        if !follow_headers {
            self.reported = ReportedQuota::default();
        }
    }

    fn wait(&mut self, amount: f64, now: Instant) -> Option<Duration> {
        let policy = self.policy.as_mut().and_then(|limit| limit.check(amount, now).err());
        policy.max(self.reported.check(amount, now).err())
    }

    fn take(&mut self, amount: f64, now: Instant) -> ChargeMark {
        self.policy.iter_mut().for_each(|limit| limit.take(amount, now));
        self.reported.take(amount, now)
    }

    fn give_back(&mut self, amount: f64, now: Instant) {
        self.policy.iter_mut().for_each(|limit| limit.give_back(amount, now));
        self.reported.give_back(amount, now);
    }

    fn used(&self, now: Instant) -> Option<f64> {
        let policy = self.policy.as_ref().map(|limit| limit.share_used(now));
        [policy, self.reported.share_used(now)].into_iter().flatten().max_by(f64::total_cmp)
    }
}

fn shared_quota(policy: RatePolicy, fleet: Option<&Arc<FleetView>>) -> SharedQuota {
    let (attached, hosts) = fleet.map_or((false, 1), |fleet| (fleet.is_attached(), fleet.hosts()));
    SharedQuota::new(policy, attached, hosts)
}
