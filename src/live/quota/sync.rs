//! Fleet sync of a provider's rate limits: requests leases and applies what was granted.

use std::time::Instant;

use super::provider_quota::{ProviderQuota, ProviderRates};
use crate::live::fleet::FleetView;
use crate::resilience::rate::leased_quota::{LeaseGrant, LeaseRequest, LeaseStatus, LeasedQuota};
use crate::resilience::words::words;

words! {
    /// The unit that a rate limit counts.
    pub enum QuotaUnit {
        Requests = "requests",
        Tokens = "tokens",
    }
}

impl ProviderRates {
    fn lease(&mut self, unit: QuotaUnit) -> Option<&mut LeasedQuota> {
        let quota = match unit {
            QuotaUnit::Requests => &mut self.requests,
            QuotaUnit::Tokens => &mut self.tokens,
        };
        quota.policy.as_mut()?.shared_mut()
    }

    /// Whether a lease is to be requested.
    pub(crate) fn are_due(&self, now: Instant) -> bool {
        let limits = [&self.requests, &self.tokens].into_iter().flat_map(|quota| &quota.policy);
        limits.filter_map(|limit| limit.shared()).any(|lease| lease.is_due(now))
    }
}

impl ProviderQuota {
    fn with<R>(&self, unit: QuotaUnit, act: impl FnOnce(&mut LeasedQuota) -> R) -> Option<R> {
        self.rates.lock().lease(unit).map(act)
    }

    /// The lease requests to send now, with this many waiters.
    pub fn lease_requests(&self, waiting: u32, now: Instant) -> Vec<(QuotaUnit, LeaseRequest)> {
        let request =
            |unit| Some((unit, self.with(unit, |lease| lease.take_request(waiting, now))??));
        QuotaUnit::ALL.into_iter().filter_map(request).collect()
    }

    /// The host attached to the fleet, or detached.
    pub fn attach(&self, view: &FleetView, now: Instant) {
        let (attached, hosts) = (view.is_attached(), view.hosts());
        for unit in QuotaUnit::ALL {
            self.with(unit, |lease| lease.attach(attached, hosts, now));
        }
    }

    /// The reply to a lease request; `None` if there was no reply.
    pub fn lease_received(
        &self,
        unit: QuotaUnit,
        sent_at: Instant,
        grant: Option<LeaseGrant>,
        now: Instant,
    ) {
        self.with(unit, |lease| match grant {
            Some(grant) => lease.granted(sent_at, grant, now),
            None => lease.request_failed(sent_at, now),
        });
    }

    /// The limits that are shared with a fleet.
    pub fn lease_status(&self, now: Instant) -> Vec<(QuotaUnit, LeaseStatus)> {
        let status_of = |unit| Some((unit, self.with(unit, |lease| lease.status(now))?));
        QuotaUnit::ALL.into_iter().filter_map(status_of).collect()
    }
}
