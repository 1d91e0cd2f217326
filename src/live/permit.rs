//! The slot and the permit of one attempt. Each is returned exactly once, at the latest when it
//! is dropped.
//!
//! An `AttemptSlot` counts the attempt at its provider, endpoint and credential until the response
//! body ends.
//! A `Permit` is the breaker's permission; it is returned with an outcome when the response is
//! committed. A permit that is dropped before that reports the outcome *ignored*.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::breaker::cell::{BreakerCell, CellPermit};
use super::credential::{CredentialCharge, CredentialLive};
use super::credential_cell::CredentialWait;
use super::endpoint::EndpointLive;
use super::provider::{NoCapacity, ProviderLive, ProviderSlot};
use super::quota::provider_quota::QuotaCharge;
use crate::clock;
use crate::resilience::breaker::AttemptLatency;
use crate::resilience::outcome::Outcome;
use crate::resilience::rate::reported_quota::QuotaReport;

/// A slot at a provider, one of its endpoints, and a credential there.
#[derive(Debug)]
pub struct AttemptSlot {
    provider: Arc<ProviderLive>,
    endpoint: Arc<EndpointLive>,
    credential: Arc<CredentialLive>,
    provider_slot: ProviderSlot,
    credential_charge: CredentialCharge,
}

/// Why no slot is free.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoSlot {
    Provider(NoCapacity),
    Credential(CredentialWait),
}

impl AttemptSlot {
    /// Takes a slot for an attempt of this many tokens.
    ///
    /// # Errors
    /// Why there is none.
    pub fn begin<'m>(
        provider: &Arc<ProviderLive>,
        endpoint: &Arc<EndpointLive>,
        credential: &Arc<CredentialLive>,
        model: impl FnOnce() -> Option<&'m str>,
        tokens: f64,
        now: Instant,
    ) -> Result<AttemptSlot, NoSlot> {
        let provider_slot = provider.enter(tokens, now).map_err(NoSlot::Provider)?;
        endpoint.begin();
        let mut slot = AttemptSlot {
            provider: Arc::clone(provider),
            endpoint: Arc::clone(endpoint),
            credential: Arc::clone(credential),
            provider_slot,
            credential_charge: CredentialCharge::default(),
        };
        match credential.admit(model, provider_slot.charge.tokens, now) {
            Ok(charge) => slot.credential_charge = charge,
            Err(wait) => {
                slot.give_back();
                return Err(NoSlot::Credential(wait));
            }
        }
        Ok(slot)
    }

    pub fn credential(&self) -> &CredentialLive {
        &self.credential
    }

    /// The response to an attempt for this model reported the remaining requests and tokens.
    pub fn observe_reports(
        &self,
        model: Option<&str>,
        reports: [Option<QuotaReport>; 2],
        now: Instant,
    ) {
        self.credential.observe_reports(model, &self.credential_charge, reports, now);
        self.provider.recheck_waiters();
    }

    /// The provider served the attempt.
    pub fn success(&self, now: Instant) {
        self.credential.success(&self.credential_charge, now);
    }

    /// The charge to the provider's quotas.
    pub fn charge(&self) -> QuotaCharge {
        self.provider_slot.charge
    }

    /// The first byte arrived after `took`, or the attempt failed.
    pub fn observe(&self, took: Duration, failed: bool) {
        self.provider.observe(self.provider_slot, took, failed);
    }

    /// Returns the charges: nothing reached the provider.
    pub fn give_back(&mut self) {
        self.credential.give_back(std::mem::take(&mut self.credential_charge), clock::now());
        self.provider.give_back(std::mem::take(&mut self.provider_slot.charge));
    }
}

impl Drop for AttemptSlot {
    fn drop(&mut self) {
        self.endpoint.end();
        self.provider.leave();
    }
}

/// Permission of a breaker for one attempt.
#[derive(Debug)]
pub struct Permit {
    breaker: Option<(Arc<BreakerCell>, CellPermit)>,
    probe: bool,
}

/// The rest of a returned permit: reports a later interruption of the stream.
#[derive(Debug)]
pub struct ReportedPermit {
    breaker: Arc<BreakerCell>,
    epoch: u64,
}

impl Permit {
    pub fn new(breaker: Option<(Arc<BreakerCell>, CellPermit)>) -> Self {
        let probe = breaker.as_ref().is_some_and(|(_, permit)| permit.is_probe());
        Permit { breaker, probe }
    }

    pub fn is_probe(&self) -> bool {
        self.probe
    }

    /// Returns the permit with this outcome. The result reports a later interruption of the
    /// stream; there is none for a probe.
    pub fn report(
        &mut self,
        outcome: Outcome,
        latency: impl Into<AttemptLatency>,
        now: Instant,
    ) -> Option<ReportedPermit> {
        let (cell, cell_permit) = self.breaker.take()?;
        let epoch = match &cell_permit {
            CellPermit::Local(permit) if !permit.is_probe() => Some(permit.epoch()),
            CellPermit::Local(_) | CellPermit::Lease(_) => None,
        };
        cell.observe(cell_permit, outcome, latency, now);
        epoch.map(|epoch| ReportedPermit { breaker: cell, epoch })
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if let Some((cell, cell_permit)) = self.breaker.take() {
            cell.observe(cell_permit, Outcome::Ignored, Duration::ZERO, clock::now());
        }
    }
}

impl ReportedPermit {
    pub fn observe_interruption(self, now: Instant) {
        self.breaker.observe_interruption(self.epoch, now);
    }
}
