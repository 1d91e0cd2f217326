//! The endpoints that could not be selected for a request, and why.
//!
//! A selection that finds every endpoint usable notes nothing. One that waits selects again and again,
//! so each endpoint and reason is noted once. The words of `snapshot::obstacle` are the same where they
//! mean the same; there are more of them here.

use std::cell::RefCell;
use std::sync::Arc;

use super::keys;
use super::line::LogLine;
use crate::resilience::words::words;
use crate::snapshot::Endpoint;

/// Most entries that are kept, and most that are written.
const MAX_KEPT: usize = 64;
const MAX_WRITTEN: usize = 8;

words! {
    /// Why an endpoint cannot be selected.
    pub enum PassOverReason {
        Drained = "drained",
        Held = "held",
        /// Traffic grows again after a hold.
        SlowStart = "slow_start",
        /// The quota that the provider reported is used up.
        Quota = "quota",
        BreakerOpen = "breaker_open",
        HalfOpen = "half_open",
        /// Another host of the fleet probes.
        ProbeLease = "probe_lease",
        /// Traffic grows again after an outage.
        Ramp = "ramp",
        RateLimited = "rate_limited",
        NoCapacity = "no_capacity",
        /// The request was sent there, and the time to repeat it has not come.
        Backoff = "backoff",
        NotAllowed = "not_allowed",
    }
}

#[derive(Debug, Default)]
pub struct PassedOverList(RefCell<Vec<PassedOverEndpoint>>);

#[derive(Clone, Debug)]
struct PassedOverEndpoint {
    endpoint: Arc<Endpoint>,
    reason: PassOverReason,
    /// The number of the attempt that was to be made.
    attempt: usize,
}

impl PassedOverList {
    pub fn note(&self, endpoint: &Arc<Endpoint>, reason: PassOverReason, attempt: usize) {
        let mut all = self.0.borrow_mut();
        let is_known =
            |one: &PassedOverEndpoint| one.reason == reason && Arc::ptr_eq(&one.endpoint, endpoint);
        if all.len() < MAX_KEPT && !all.iter().any(is_known) {
            let endpoint = Arc::clone(endpoint);
            all.push(PassedOverEndpoint { endpoint, reason, attempt });
        }
    }

    pub fn append(&self, other: &PassedOverList) {
        for one in other.0.borrow().iter() {
            self.note(&one.endpoint, one.reason, one.attempt);
        }
    }

    pub fn write<const JSON: bool>(&self, line: &mut LogLine<'_, JSON>) {
        let all = self.0.borrow();
        let (written, more) = all.split_at(all.len().min(MAX_WRITTEN));
        if written.is_empty() {
            return;
        }
        line.list(&keys::PASSED_OVER, written, |line, one| {
            line.word(&keys::PASSED_ENDPOINT, &one.endpoint.key);
            line.word(&keys::PASSED_REASON, one.reason.as_str());
            line.number(&keys::PASSED_BEFORE, one.attempt as u64);
        });
        if !more.is_empty() {
            line.number(&keys::MORE_PASSED_OVER, more.len() as u64);
        }
    }
}
