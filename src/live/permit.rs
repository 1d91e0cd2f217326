//! One attempt's leave: returned exactly once, with what was learned.
//!
//! A `AttemptSlot` is the attempt's place at its provider and address, held to the end of the answer's
//! body. A `Permit` is the breaker's, returned at the commit. Either is given back when it is
//! dropped, whatever ended the request: a permit that nobody reported teaches nothing.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::address::AddressLive;
use super::breaker::cell::{BreakerCell, CellPermit};
use super::hold::HoldCell;
use super::provider::{NoCapacity, ProviderLive, ProviderSlot};
use super::quota::provider_quota::QuotaCharge;
use crate::clock;
use crate::resilience::outcome::Outcome;

/// A place at a provider and at one of its addresses.
#[derive(Debug)]
pub struct AttemptSlot {
    provider: Arc<ProviderLive>,
    address: Arc<AddressLive>,
    entered: ProviderSlot,
}

impl AttemptSlot {
    /// Takes a place for an attempt of so many tokens.
    ///
    /// # Errors
    /// What the provider lacks.
    pub fn begin(
        provider: &Arc<ProviderLive>,
        address: &Arc<AddressLive>,
        tokens: f64,
        now: Instant,
    ) -> Result<AttemptSlot, NoCapacity> {
        let entered = provider.enter(tokens, now)?;
        address.begin();
        Ok(AttemptSlot { provider: Arc::clone(provider), address: Arc::clone(address), entered })
    }

    /// What it was charged of its provider's rates.
    pub fn charge(&self) -> QuotaCharge {
        self.entered.charge
    }

    /// Its first byte came after `took`, or it failed.
    pub fn observe(&self, took: Duration, failed: bool) {
        self.provider.observe(self.entered, took, failed);
    }

    /// Nothing of it reached the provider: its rates were not used.
    pub fn give_back(&mut self) {
        self.provider.give_back(std::mem::take(&mut self.entered.charge));
    }

    pub fn address(&self) -> &AddressLive {
        &self.address
    }
}

impl Drop for AttemptSlot {
    fn drop(&mut self) {
        self.address.end();
        self.provider.leave();
    }
}

/// Leave of a breaker and of a hold to make one attempt.
#[derive(Debug)]
pub struct Permit {
    breaker: Option<(Arc<BreakerCell>, CellPermit)>,
    hold: Option<Arc<HoldCell>>,
    probe: bool,
}

/// What stays after a permit was returned: enough to tell of a stream that was cut later.
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

    /// Gives the permit back. A cut later counts too, but never as a probe's.
    pub fn report(
        &mut self,
        outcome: Outcome,
        took: Duration,
        now: Instant,
    ) -> Option<ReportedPermit> {
        if let (Outcome::Success, Some(hold)) = (outcome, &self.hold) {
            hold.success(now);
        }
        let (cell, leave) = self.breaker.take()?;
        let epoch = match &leave {
            CellPermit::Own(permit) if !permit.is_probe() => Some(permit.epoch()),
            CellPermit::Own(_) | CellPermit::Lease(_) => None,
        };
        cell.observe(leave, outcome, took, now);
        epoch.map(|epoch| ReportedPermit { breaker: cell, epoch })
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if let Some((cell, leave)) = self.breaker.take() {
            cell.observe(leave, Outcome::Ignored, Duration::ZERO, clock::now());
        }
    }
}

impl ReportedPermit {
    pub fn observe_interruption(self, now: Instant) {
        self.breaker.observe_interruption(self.epoch, now);
    }
}
