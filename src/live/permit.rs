//! The slot and the permit of one attempt. Each is returned exactly once, at the latest when it
//! is dropped.
//!
//! An `AttemptSlot` counts the attempt at its provider and endpoint until the response body ends.
//! A `Permit` is the breaker's permission; it is returned with an outcome when the response is
//! committed. A permit that is dropped before that reports the outcome *ignored*.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::breaker::cell::{BreakerCell, CellPermit};
use super::endpoint::EndpointLive;
use super::hold::HoldCell;
use super::provider::{NoCapacity, ProviderLive, ProviderSlot};
use super::quota::provider_quota::QuotaCharge;
use crate::clock;
use crate::resilience::outcome::Outcome;

/// A slot at a provider and at one of its endpoints.
#[derive(Debug)]
pub struct AttemptSlot {
    provider: Arc<ProviderLive>,
    endpoint: Arc<EndpointLive>,
    provider_slot: ProviderSlot,
}

impl AttemptSlot {
    /// Takes a slot for an attempt of this many tokens.
    ///
    /// # Errors
    /// The capacity that the provider lacks.
    pub fn begin(
        provider: &Arc<ProviderLive>,
        endpoint: &Arc<EndpointLive>,
        tokens: f64,
        now: Instant,
    ) -> Result<AttemptSlot, NoCapacity> {
        let provider_slot = provider.enter(tokens, now)?;
        endpoint.begin();
        Ok(AttemptSlot {
            provider: Arc::clone(provider),
            endpoint: Arc::clone(endpoint),
            provider_slot,
        })
    }

    /// The charge to the provider's quotas.
    pub fn charge(&self) -> QuotaCharge {
        self.provider_slot.charge
    }

    /// The first byte arrived after `took`, or the attempt failed.
    pub fn observe(&self, took: Duration, failed: bool) {
        self.provider.observe(self.provider_slot, took, failed);
    }

    /// Returns the charge: nothing reached the provider.
    pub fn give_back(&mut self) {
        self.provider.give_back(std::mem::take(&mut self.provider_slot.charge));
    }
}

impl Drop for AttemptSlot {
    fn drop(&mut self) {
        self.endpoint.end();
        self.provider.leave();
    }
}

/// Permission of a breaker and a hold for one attempt.
#[derive(Debug)]
pub struct Permit {
    breaker: Option<(Arc<BreakerCell>, CellPermit)>,
    hold: Option<Arc<HoldCell>>,
    probe: bool,
}

/// The rest of a returned permit: reports a later interruption of the stream.
#[derive(Debug)]
pub struct ReportedPermit {
    breaker: Arc<BreakerCell>,
    epoch: u64,
}

impl Permit {
    pub fn new(
        breaker: Option<(Arc<BreakerCell>, CellPermit)>,
        hold: Option<Arc<HoldCell>>,
    ) -> Self {
        let probe = breaker.as_ref().is_some_and(|(_, permit)| permit.is_probe());
        Permit { breaker, hold, probe }
    }

    pub fn is_probe(&self) -> bool {
        self.probe
    }

    pub fn hold(&self) -> Option<&Arc<HoldCell>> {
        self.hold.as_ref()
    }

    /// Returns the permit with this outcome. The result reports a later interruption of the
    /// stream; there is none for a probe.
    pub fn report(
        &mut self,
        outcome: Outcome,
        took: Duration,
        now: Instant,
    ) -> Option<ReportedPermit> {
        let (cell, cell_permit) = self.breaker.take()?;
        let epoch = match &cell_permit {
            CellPermit::Local(permit) if !permit.is_probe() => Some(permit.epoch()),
            CellPermit::Local(_) | CellPermit::Lease(_) => None,
        };
        cell.observe(cell_permit, outcome, took, now);
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
