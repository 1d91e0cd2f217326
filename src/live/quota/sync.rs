//! Fleet sync of a provider's rate limits: requests chunks and applies what was granted.

use std::time::Instant;

use super::provider_quota::{ProviderQuota, ProviderRates};
use crate::live::fleet::FleetView;
use crate::resilience::rate::shared_quota::{
    ChunkGrant, ChunkRequest, SharedQuota, SharedQuotaStatus,
};
use crate::resilience::words::words;

words! {
    /// The unit that a rate limit counts.
    pub enum QuotaUnit {
        Requests = "requests",
        Tokens = "tokens",
    }
}

impl ProviderRates {
    fn shared(&mut self, unit: QuotaUnit) -> Option<&mut SharedQuota> {
        match unit {
            QuotaUnit::Requests => self.requests.as_mut(),
            QuotaUnit::Tokens => self.tokens.as_mut(),
        }
    }

    /// Whether a chunk is to be requested.
    pub(crate) fn are_due(&self, now: Instant) -> bool {
        [&self.requests, &self.tokens].into_iter().flatten().any(|quota| quota.is_due(now))
    }
}

impl ProviderQuota {
    fn with<R>(&self, unit: QuotaUnit, act: impl FnOnce(&mut SharedQuota) -> R) -> Option<R> {
        self.rates.lock().shared(unit).map(act)
    }

    /// The requests for chunks to send now, with this many waiters.
    pub fn chunk_requests(&self, waiting: u32, now: Instant) -> Vec<(QuotaUnit, ChunkRequest)> {
        let request =
            |unit| Some((unit, self.with(unit, |quota| quota.take_request(waiting, now))??));
        QuotaUnit::ALL.into_iter().filter_map(request).collect()
    }

    /// The host attached to the fleet, or detached.
    pub fn attach(&self, view: &FleetView, now: Instant) {
        let (attached, hosts) = (view.is_attached(), view.hosts());
        for unit in QuotaUnit::ALL {
            self.with(unit, |quota| quota.attach(attached, hosts, now));
        }
    }

    /// The reply to a request for a chunk; `None` if there was no reply.
    pub fn chunk_received(
        &self,
        unit: QuotaUnit,
        sent_at: Instant,
        grant: Option<ChunkGrant>,
        now: Instant,
    ) {
        self.with(unit, |quota| match grant {
            Some(grant) => quota.granted(sent_at, grant, now),
            None => quota.request_failed(sent_at, now),
        });
    }

    /// The limits that are shared with a fleet.
    pub fn quota_status(&self, now: Instant) -> Vec<(QuotaUnit, SharedQuotaStatus)> {
        let status_of = |unit| Some((unit, self.with(unit, |quota| quota.status(now))?));
        QuotaUnit::ALL.into_iter().filter_map(status_of).collect()
    }
}
