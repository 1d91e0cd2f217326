//! What the fleet's task does with a provider's rates: it asks for parts of them, and hands over
//! what it was given.

use std::time::Instant;

use super::provider_quota::{ProviderQuota, ProviderRates};
use crate::live::fleet::FleetView;
use crate::live::provider::ProviderLive;
use crate::resilience::rate::leased_quota::{LeaseGrant, LeaseRequest, LeaseStatus, LeasedQuota};

/// Of what a rate is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QuotaUnit {
    Requests,
    Tokens,
}

impl QuotaUnit {
    pub fn as_str(self) -> &'static str {
        match self {
            QuotaUnit::Requests => "requests",
            QuotaUnit::Tokens => "tokens",
        }
    }
}

impl ProviderRates {
    fn chunk(&mut self, of: QuotaUnit) -> Option<&mut LeasedQuota> {
        let quota = match of {
            QuotaUnit::Requests => &mut self.requests,
            QuotaUnit::Tokens => &mut self.tokens,
        };
        quota.policy.as_mut()?.shared_mut()
    }

    /// Something is to be asked of the fleet.
    pub(crate) fn are_due(&self, now: Instant) -> bool {
        let limits = [&self.requests, &self.tokens].into_iter().flat_map(|quota| &quota.policy);
        limits.filter_map(|limit| limit.shared()).any(|chunk| chunk.is_due(now))
    }
}

impl ProviderQuota {
    fn with<R>(&self, of: QuotaUnit, act: impl FnOnce(&mut LeasedQuota) -> R) -> Option<R> {
        self.rates.lock().chunk(of).map(act)
    }
}

impl ProviderLive {
    /// What to ask of the fleet now.
    pub fn lease_requests(&self, now: Instant) -> Vec<(QuotaUnit, LeaseRequest)> {
        let waiting = self.waiting();
        let ask =
            |of| Some((of, self.quota().with(of, |chunk| chunk.take_request(waiting, now))??));
        [QuotaUnit::Requests, QuotaUnit::Tokens].into_iter().filter_map(ask).collect()
    }

    /// The fleet is there, or it is not.
    pub fn attach(&self, side: &FleetView, now: Instant) {
        let (attached, hosts) = (side.is_attached(), side.hosts());
        for of in [QuotaUnit::Requests, QuotaUnit::Tokens] {
            self.quota().with(of, |chunk| chunk.attach(attached, hosts, now));
        }
    }

    /// What came of an ask; nothing, where there was no answer. Those who wait look again.
    pub fn lease_answered(
        &self,
        of: QuotaUnit,
        asked_at: Instant,
        grant: Option<LeaseGrant>,
        now: Instant,
    ) {
        self.quota().with(of, |chunk| match grant {
            Some(grant) => chunk.granted(asked_at, grant, now),
            None => chunk.request_failed(asked_at, now),
        });
        self.recheck_waiters();
    }

    /// The rates that it shares with a fleet.
    pub fn lease_status(&self, now: Instant) -> Vec<(QuotaUnit, LeaseStatus)> {
        let shown = |of| Some((of, self.quota().with(of, |chunk| chunk.status(now))?));
        [QuotaUnit::Requests, QuotaUnit::Tokens].into_iter().filter_map(shown).collect()
    }
}
