//! The hold of one credential at one endpoint, or of one model there, and the quota that response
//! headers report for it.
//!
//! A check costs one load while there is neither.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use parking_lot::Mutex;

use super::breaker::overrides::is_under;
use super::fleet::FleetView;
use crate::clock;
use crate::resilience::limits::hold::{Hold, HoldReason, RETRY_AFTER_MAX};
use crate::resilience::rate::reported_quota::{ChargeMark, QuotaReport, ReportedQuota};

/// The subject of a hold or of a reported quota.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct CredentialKey {
    pub provider: String,
    pub endpoint: String,
    /// The reference of the credential, never its value.
    pub credential: String,
    /// Empty: all models.
    pub model: String,
}

/// Marks of the reported request and token quotas.
pub type QuotaMarks = [ChargeMark; 2];

#[derive(Debug)]
pub struct CredentialCell {
    key: CredentialKey,
    rules: Mutex<CredentialRules>,
    /// False while nothing is imposed and nothing led up to it, so that neither a check nor a
    /// success takes the lock.
    restrains: AtomicBool,
    fleet: Option<Arc<FleetView>>,
}

#[derive(Debug, Default)]
struct CredentialRules {
    hold: Hold,
    requests: ReportedQuota,
    tokens: ReportedQuota,
    /// None if another host of the fleet began the hold.
    cause: Option<HoldCause>,
}

/// The response that began a hold, or extended it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HoldCause {
    pub status: u16,
    /// The code of the error in its body.
    pub code: Option<Box<str>>,
    pub at: SystemTime,
}

/// A hold, or the slow start after one.
#[derive(Clone, Debug)]
pub struct HeldCredential {
    pub key: CredentialKey,
    pub left: Duration,
    /// None in slow start.
    pub reason: Option<HoldReason>,
    pub cause: Option<HoldCause>,
}

/// Why a credential allows no attempt now, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CredentialWait {
    pub wait: Duration,
    pub cause: WaitCause,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WaitCause {
    Hold(HoldReason),
    /// Traffic grows again after a hold.
    SlowStart,
    /// The reported quota is used up.
    Quota,
}

impl fmt::Display for CredentialKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.provider, self.endpoint, self.credential)?;
        if self.model.is_empty() { Ok(()) } else { write!(f, "/{}", self.model) }
    }
}

impl CredentialKey {
    /// Whether the key `above` covers it. `PROVIDER/ENDPOINT/MODEL` covers a model at every
    /// credential.
    pub fn is_under(&self, above: &str) -> bool {
        let of_model = || format!("{}/{}/{}", self.provider, self.endpoint, self.model);
        is_under(&self.to_string(), above) || !self.model.is_empty() && of_model() == above
    }
}

impl CredentialWait {
    /// Whether the provider named no time, so that waiting may not help.
    pub fn is_guess(self) -> bool {
        matches!(self.cause, WaitCause::Hold(HoldReason::Backoff) | WaitCause::SlowStart)
    }
}

impl CredentialCell {
    pub fn new(key: CredentialKey, fleet: Option<&Arc<FleetView>>) -> Self {
        let cell = CredentialCell {
            key,
            rules: Mutex::default(),
            restrains: AtomicBool::new(false),
            fleet: fleet.cloned(),
        };
        let now = clock::now();
        if let Some(left) = fleet.and_then(|fleet| fleet.hold_left(&cell.key.to_string(), now)) {
            cell.hold(Some(left), now);
        }
        cell
    }

    /// The cell of one model at this credential, whose rate so far is at most the credential's.
    pub fn of_model(&self, model: &str) -> CredentialCell {
        let key = CredentialKey { model: model.to_owned(), ..self.key.clone() };
        let cell = CredentialCell::new(key, self.fleet.as_ref());
        cell.rules.lock().hold.start_at_rate_of(&self.rules.lock().hold);
        cell
    }

    pub fn key(&self) -> &CredentialKey {
        &self.key
    }

    pub fn restrains(&self) -> bool {
        self.restrains.load(Ordering::Acquire)
    }

    /// Whether an attempt of this many tokens may begin now. Nothing changes.
    ///
    /// # Errors
    /// Why not, and the remaining time.
    pub fn check(&self, tokens: f64, now: Instant) -> Result<(), CredentialWait> {
        if self.restrains() { self.rules.lock().check(tokens, now) } else { Ok(()) }
    }

    /// Admits one attempt and counts it. The marks come back with the response's report; there
    /// are none without a reported quota.
    ///
    /// # Errors
    /// Why not, and the remaining time.
    pub fn admit(&self, tokens: f64, now: Instant) -> Result<Option<QuotaMarks>, CredentialWait> {
        let mut rules = self.rules.lock();
        if !self.restrains() {
            rules.hold.admit(now).map_err(|wait| rules.hold_wait(wait))?;
            return Ok(None);
        }
        rules.check(tokens, now)?;
        rules.hold.admit(now).map_err(|wait| rules.hold_wait(wait))?;
        let marks = [rules.requests.take(1.0, now), rules.tokens.take(tokens, now)];
        if rules.is_idle(now) {
            self.restrains.store(false, Ordering::Release);
        }
        Ok(Some(marks))
    }

    /// Returns the charge of an attempt that was not sent.
    pub fn give_back(&self, tokens: f64, now: Instant) {
        let mut rules = self.rules.lock();
        rules.requests.give_back(1.0, now);
        rules.tokens.give_back(tokens, now);
    }

    /// Takes the reports of requests and tokens in the response to an attempt with these marks.
    pub fn observe_reports(
        &self,
        marks: Option<QuotaMarks>,
        reports: [Option<QuotaReport>; 2],
        now: Instant,
    ) {
        let mut rules = self.rules.lock();
        let CredentialRules { requests, tokens, .. } = &mut *rules;
        for (at, (quota, report)) in [requests, tokens].into_iter().zip(reports).enumerate() {
            let Some(report) = report else { continue };
            // Nothing was counted before the first report.
            let mark = marks.map(|marks| marks[at]);
            let mark = mark.unwrap_or_else(|| quota.take(0.0, now));
            quota.observe(report, mark, now);
        }
        self.restrains.store(true, Ordering::Release);
    }

    /// Forgets what headers reported.
    pub fn forget_reports(&self) {
        let mut rules = self.rules.lock();
        (rules.requests, rules.tokens) = Default::default();
    }

    /// The used shares of the reported requests and tokens.
    pub fn used(&self, now: Instant) -> [Option<f64>; 2] {
        if !self.restrains() {
            return [None; 2];
        }
        let rules = self.rules.lock();
        [&rules.requests, &rules.tokens].map(|quota| quota.share_used(now))
    }

    /// The provider returned 429, or 503 with Retry-After; returns the end of the hold. An
    /// explicit Retry-After is shared with the fleet.
    pub fn throttled(&self, retry_after: Option<Duration>, now: Instant) -> Instant {
        let wait = retry_after.filter(|wait| !wait.is_zero()).map(|wait| wait.min(RETRY_AFTER_MAX));
        if let (Some(wait), Some(fleet)) = (wait, &self.fleet) {
            fleet.publish_hold(&self.key.to_string(), now + wait, now);
        }
        self.hold(retry_after, now)
    }

    /// Applies the hold of another host of the fleet, for this long.
    pub fn hold_from_fleet(&self, left: Duration, now: Instant) {
        self.hold(Some(left), now);
        self.rules.lock().cause = None;
    }

    /// Notes the response that began the hold.
    pub fn note_cause(&self, status: u16, code: Option<Box<str>>) {
        let at = clock::wall();
        self.rules.lock().cause = Some(HoldCause { status, code, at });
    }

    fn hold(&self, retry_after: Option<Duration>, now: Instant) -> Instant {
        let mut rules = self.rules.lock();
        self.restrains.store(true, Ordering::Release);
        rules.hold.throttled(retry_after, now, clock::draw())
    }

    /// The provider rejected the credential; returns the end of the hold, if there is one
    /// now.
    pub fn rejected(&self, status: u16, now: Instant) -> Option<Instant> {
        let mut rules = self.rules.lock();
        self.restrains.store(true, Ordering::Release);
        rules.hold.credential(status, now)
    }

    pub fn success(&self, now: Instant) {
        if self.restrains() {
            self.rules.lock().hold.success(now);
        }
    }

    /// Ends the hold and forgets the reported quota.
    pub fn clear(&self) {
        self.rules.lock().hold.clear();
        self.forget_reports();
        if let Some(fleet) = &self.fleet {
            fleet.end_hold(&self.key.to_string());
        }
    }

    /// The hold, if there is one.
    pub fn held(&self, now: Instant) -> Option<HeldCredential> {
        if !self.restrains() {
            return None;
        }
        let rules = self.rules.lock();
        let left = rules.hold.check(now).err()?;
        let (reason, cause) = (rules.hold.reason(), rules.cause.clone());
        Some(HeldCredential { key: self.key.clone(), left, reason, cause })
    }

    /// Whether dropping it loses nothing.
    pub fn is_idle(&self, now: Instant) -> bool {
        !self.restrains() || self.rules.lock().is_idle(now)
    }
}

impl CredentialRules {
    /// The longest of the waits that apply.
    fn check(&self, tokens: f64, now: Instant) -> Result<(), CredentialWait> {
        let hold = self.hold.check(now).err().map(|wait| self.hold_wait(wait));
        let quota = self.requests.check(1.0, now).err().max(self.tokens.check(tokens, now).err());
        let quota = quota.map(|wait| CredentialWait { wait, cause: WaitCause::Quota });
        let longest = hold.into_iter().chain(quota).max_by_key(|blocked| blocked.wait);
        longest.map_or(Ok(()), Err)
    }

    fn hold_wait(&self, wait: Duration) -> CredentialWait {
        let cause = self.hold.reason().map_or(WaitCause::SlowStart, WaitCause::Hold);
        CredentialWait { wait, cause }
    }

    fn is_idle(&self, now: Instant) -> bool {
        self.hold.is_idle(now) && !self.requests.is_known(now) && !self.tokens.is_known(now)
    }
}
