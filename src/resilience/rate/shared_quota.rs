//! A fleet-wide limit as one host sees it: the part of it that was granted to the host.
//!
//! The limit itself is a GCRA in Redis that all hosts debit. A round trip takes milliseconds,
//! and a request does not wait for it where that can be avoided. So a host requests *chunks*
//! in advance, each for the next 100 ms, and spends them from memory. Every granted chunk is already
//! debited: however many hosts there are, and whenever one fails, the fleet stays within the
//! limit.
//!
//! - *Lots* are granted chunks: each is usable from a given moment on (an amount that is not
//!   there yet is granted for later, so that hosts alternate) and for one second. An unused
//!   rest is returned.
//! - *Debt* was taken beyond the chunks: by the first call of a cold host, which does not wait,
//!   and by responses that cost more than estimated. It is reported with the next request.
//! - The *local share*, the limit divided by the number of hosts, applies while the host is
//!   detached, and while the fleet is silent: a request without a reply for a quarter of a
//!   second. After a second of silence, as after a detach, only the debt is reported that the share
//!   has not paid off. A host in no fleet is detached for ever, and its share is the whole limit.
//!
//! The granted and not yet reported amount is never more than one chunk, or what one request
//! needs: a fleet may exceed the limit by that much per host, in a span of any length.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::gcra::{Gcra, RatePolicy};

/// Seconds of demand that a chunk covers.
const CHUNK_SECONDS: f64 = 0.1;
/// Largest chunk, as a share of the burst or of a minute's amount.
const MAX_SHARE: f64 = 0.1;
const MINUTE: f64 = 60.0;
/// Lifetime of a chunk; a host without a call for this long is cold.
const CHUNK_LIFETIME: Duration = Duration::from_secs(1);
/// Longest wait until a caller without a chunk checks again.
const CHECK_INTERVAL: Duration = Duration::from_millis(100);
/// A reply that takes longer is not waited for.
const REPLY_TIMEOUT: Duration = Duration::from_millis(250);
/// Bounds of the pause before the next request after an empty grant.
const MIN_PAUSE: Duration = Duration::from_millis(50);
const MAX_PAUSE: Duration = Duration::from_secs(1);
/// Time constant of the demand average, in seconds.
const DEMAND_AVERAGE: f64 = 0.3;
/// Weight of the newest request in the average request size.
const NEWEST: f64 = 0.1;
const LONGEST: Duration = Duration::from_secs(86_400);
/// Largest amount.
const MAX_AMOUNT: f64 = 1e12;
/// Tolerance: sums of fractions come out a little low.
const TOLERANCE: f64 = 1e-4;

/// A granted chunk.
#[derive(Clone, Copy, Debug, PartialEq)]
struct QuotaLot {
    amount: f64,
    from: Instant,
    until: Instant,
}

/// The demand of this host.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Demand {
    /// Amount taken recently, and when that was counted.
    recent: f64,
    at: Instant,
    /// The average size of a request.
    each: f64,
    /// The amount needed by the first caller that found too little.
    need: f64,
}

/// A request for a chunk.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ChunkRequest {
    pub policy: RatePolicy,
    pub want: f64,
    /// A smaller amount does not help.
    pub least: f64,
    /// Amount taken beyond the chunks; below 0, granted and not used.
    pub debt: f64,
    pub at: Instant,
}

/// The reply to a request for a chunk.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ChunkGrant {
    pub amount: f64,
    /// Time until the amount may be used; with an amount of 0, until there is something.
    pub wait: Duration,
    /// The fleet's use of the burst.
    pub used: f64,
}

/// For display.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SharedQuotaStatus {
    /// Per second: of the fleet, and of this host alone.
    pub rate: f64,
    pub share: f64,
    pub available: f64,
}

#[derive(Clone, Debug)]
pub struct SharedQuota {
    policy: RatePolicy,
    hosts: u32,
    share: Gcra,
    attached: bool,
    lots: VecDeque<QuotaLot>,
    debt: f64,
    demand: Option<Demand>,
    pending: Option<ChunkRequest>,
    /// The first request since the last prompt reply.
    silent_since: Option<Instant>,
    /// No request before this.
    not_before: Option<Instant>,
    /// Nothing is available before this, by the last reply.
    nothing_until: Option<Instant>,
    /// The fleet's use of the burst, by the last reply.
    used: Option<(f64, Instant)>,
}

impl Demand {
    fn new(now: Instant) -> Self {
        Demand { recent: 0.0, at: now, each: 0.0, need: 0.0 }
    }

    /// The demand with its average as of `now`.
    fn decayed(self, now: Instant) -> Self {
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        Demand {
            recent: self.recent * (-passed / DEMAND_AVERAGE).exp(),
            at: self.at.max(now),
            ..self
        }
    }

    fn taken(self, amount: f64, now: Instant) -> Self {
        let decayed = self.decayed(now);
        let first = self.each <= 0.0;
        let each = if first { amount } else { self.each + NEWEST * (amount - self.each) };
        Demand { recent: decayed.recent + amount, each, need: 0.0, ..decayed }
    }

    /// The demand of the time that a chunk covers, with this many waiters.
    fn upcoming(self, waiting: u32, now: Instant) -> f64 {
        let rate = self.decayed(now).recent / DEMAND_AVERAGE;
        (rate * CHUNK_SECONDS + f64::from(waiting) * self.each).max(self.each)
    }

    fn is_over(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.at) >= CHUNK_LIFETIME
    }
}

impl SharedQuota {
    pub fn new(policy: RatePolicy, attached: bool, hosts: u32) -> Self {
        SharedQuota {
            policy,
            hosts: hosts.max(1),
            share: Gcra::new(share_of(policy, hosts)),
            attached,
            lots: VecDeque::new(),
            debt: 0.0,
            demand: None,
            pending: None,
            silent_since: None,
            not_before: None,
            nothing_until: None,
            used: None,
        }
    }

    /// Takes another policy; what was taken stays taken.
    pub fn retune(&mut self, policy: RatePolicy, now: Instant) {
        self.policy = policy;
        self.share.retune(share_of(policy, self.hosts), now);
    }

    /// The host attached or detached; `hosts` share the limit.
    pub fn attach(&mut self, attached: bool, hosts: u32, now: Instant) {
        if self.hosts != hosts.max(1) {
            self.hosts = hosts.max(1);
            self.share.retune(share_of(self.policy, hosts), now);
        }
        if self.attached == attached {
            return;
        }
        self.attached = attached;
        (self.pending, self.silent_since, self.not_before, self.nothing_until) =
            (None, None, None, None);
        // The fleet does not know what was taken meanwhile; what has come back by now
        // need not be reported.
        self.debt = if attached { self.share.used(now) } else { 0.0 };
    }

    /// Whether this amount may be taken now.
    ///
    /// # Errors
    /// The time until it may, as far as known.
    pub fn check(&mut self, amount: f64, now: Instant) -> Result<(), Duration> {
        self.expire(now);
        if self.usable(now) + TOLERANCE >= amount {
            return Ok(());
        }
        let local = self.uses_local_share(now).then(|| self.share.check(amount, now));
        if local == Some(Ok(())) {
            return Ok(());
        }
        if self.attached {
            let demand = self.demand.map_or_else(|| Demand::new(now), |demand| demand.decayed(now));
            self.demand = Some(Demand { need: sound(amount), ..demand });
        }
        local.unwrap_or_else(|| Err(self.wait(amount, now)))
    }

    /// Takes this amount, granted or not.
    pub fn take(&mut self, amount: f64, now: Instant) {
        if self.attached {
            let demand = self.demand.unwrap_or_else(|| Demand::new(now));
            self.demand = Some(demand.taken(sound(amount), now));
        }
        self.charge(amount, now);
    }

    /// Returns an amount that was taken but not used.
    pub fn give_back(&mut self, amount: f64, now: Instant) {
        self.expire(now);
        let mut amount = sound(amount);
        if !self.attached {
            self.share.give_back(amount, now);
            return;
        }
        let unreported = amount.min(self.debt.max(0.0));
        (self.debt, amount) = (self.debt - unreported, amount - unreported);
        let room = (self.largest_chunk() - self.available(now)).clamp(0.0, amount);
        if let Some(lot) = self.lots.iter_mut().find(|lot| lot.from <= now) {
            (lot.amount, amount) = (lot.amount + room, amount - room);
        }
        self.debt -= amount;
    }

    /// Corrects an amount that was taken as `estimated` to `actual`.
    pub fn settle(&mut self, estimated: f64, actual: f64, now: Instant) {
        if actual > estimated {
            self.charge(actual - estimated, now);
        } else {
            self.give_back(estimated - actual, now);
        }
    }

    /// The used share of the burst, from 0 to 1: of all hosts, or of the local share.
    pub fn share_used(&self, now: Instant) -> f64 {
        match self.used.filter(|_| self.attached) {
            Some((used, at)) => {
                let back = now.saturating_duration_since(at).as_secs_f64() * self.whole().rate;
                ((used - back) / self.whole().burst).clamp(0.0, 1.0)
            }
            None => self.share.share_used(now),
        }
    }

    pub fn status(&self, now: Instant) -> SharedQuotaStatus {
        let share = self.policy.rate / f64::from(self.hosts);
        SharedQuotaStatus { rate: self.policy.rate, share, available: self.available(now) }
    }

    /// Whether there is something to request.
    pub fn is_due(&self, now: Instant) -> bool {
        self.request(0, now).is_some()
    }

    /// The request to send now, with this many waiters; the next only after its reply.
    pub fn take_request(&mut self, waiting: u32, now: Instant) -> Option<ChunkRequest> {
        self.expire(now);
        let request = self.request(waiting, now)?;
        (self.pending, self.debt) = (Some(request), 0.0);
        self.silent_since = self.silent_since.or(Some(now));
        Some(request)
    }

    /// The reply to the request sent at that moment.
    pub fn granted(&mut self, sent_at: Instant, grant: ChunkGrant, now: Instant) {
        let Some(request) = self.pending.take_if(|request| request.at == sent_at) else { return };
        self.used = Some((sound(grant.used), now));
        if now.saturating_duration_since(sent_at) < REPLY_TIMEOUT {
            self.silent_since = None;
        }
        self.end_silence(sent_at, now);
        let wait = grant.wait.min(LONGEST);
        if grant.amount > 0.0 {
            let (amount, from) = (grant.amount.min(request.want), now + wait);
            let until =
                if wait.is_zero() { sent_at + CHUNK_LIFETIME } else { from + CHUNK_LIFETIME };
            self.lots.push_back(QuotaLot { amount, from, until });
            self.nothing_until = None;
        } else if request.want > 0.0 {
            self.nothing_until = Some(now + wait);
            self.not_before = Some(now + wait.clamp(MIN_PAUSE, MAX_PAUSE));
        }
    }

    /// The request got no reply. Its debt is reported again: twice is better than never.
    pub fn request_failed(&mut self, sent_at: Instant, now: Instant) {
        let Some(request) = self.pending.take_if(|request| request.at == sent_at) else { return };
        self.debt += request.debt.max(0.0);
        self.not_before = Some(now + CHECK_INTERVAL);
        self.end_silence(sent_at, now);
    }

    /// A silence is over. If it was long, the fleet's bucket has filled meanwhile, so debt of which the
    /// local share has come back is not reported: all hosts together would owe the rate of the whole
    /// silence and then stop for as long.
    fn end_silence(&mut self, since: Instant, now: Instant) {
        if now.saturating_duration_since(since) >= CHUNK_LIFETIME {
            self.debt = self.debt.min(self.share.used(now));
        }
    }

    fn request(&self, waiting: u32, now: Instant) -> Option<ChunkRequest> {
        if !self.attached
            || self.pending.is_some()
            || self.not_before.is_some_and(|not_before| now < not_before)
        {
            return None;
        }
        let demand = self.demand.filter(|demand| waiting > 0 || !demand.is_over(now));
        let need = demand.map_or(0.0, |demand| demand.need);
        let upcoming = demand.map_or(0.0, |demand| demand.upcoming(waiting, now));
        let (held, goal) = (self.available(now), upcoming.min(self.largest_chunk()).max(need));
        let runs_out = goal > 0.0 && held + TOLERANCE < need.max(goal / 2.0);
        let want = if runs_out { goal - held } else { 0.0 };
        let reports_debt = demand.is_none() || self.debt.abs() > goal / 2.0;
        if want <= 0.0 && (self.debt.abs() < TOLERANCE || !reports_debt) {
            return None;
        }
        let host_share = self.policy.rate / f64::from(self.hosts) * CHUNK_SECONDS;
        let least = host_share.max(need - held).max(1.0).min(want);
        Some(ChunkRequest { policy: self.whole(), want, least, debt: self.debt, at: now })
    }

    /// The policy as the fleet counts it.
    fn whole(&self) -> RatePolicy {
        self.policy.with_slack().sound()
    }

    /// The most that a chunk may be: a tenth of the burst, or the amount of 100 ms; at
    /// least one.
    fn largest_chunk(&self) -> f64 {
        let RatePolicy { rate, burst } = self.whole();
        let tenth = MAX_SHARE * burst.max(rate * MINUTE);
        (rate * CHUNK_SECONDS).max(burst * MAX_SHARE).min(tenth).max(1.0)
    }

    /// Whether the local share decides: the fleet is silent, or the host is cold.
    fn uses_local_share(&self, now: Instant) -> bool {
        let silent =
            self.silent_since.is_some_and(|at| now.saturating_duration_since(at) >= REPLY_TIMEOUT);
        let refused = self.nothing_until.is_some_and(|until| now < until);
        let idle = self.demand.is_none_or(|demand| demand.is_over(now));
        !self.attached || silent || (idle && !refused && self.lots.is_empty())
    }

    /// The time until this amount is granted; if unknown, until it is worth a check.
    fn wait(&self, amount: f64, now: Instant) -> Duration {
        let (mut sum, mut from) = (0.0, now);
        for lot in &self.lots {
            (sum, from) = (sum + lot.amount, from.max(lot.from));
            if sum + TOLERANCE >= amount {
                return from.saturating_duration_since(now);
            }
        }
        let known = self.nothing_until.map(|until| until.saturating_duration_since(now));
        known.filter(|wait| !wait.is_zero()).unwrap_or(CHECK_INTERVAL)
    }

    fn charge(&mut self, amount: f64, now: Instant) {
        self.expire(now);
        let mut rest = sound(amount);
        for lot in self.lots.iter_mut().filter(|lot| lot.from <= now) {
            let part = rest.min(lot.amount);
            (rest, lot.amount) = (rest - part, lot.amount - part);
        }
        self.lots.retain(|lot| lot.amount > 0.0);
        if rest > 0.0 {
            self.share.take(rest, now);
            self.debt += if self.attached { rest } else { 0.0 };
        }
    }

    /// Drops expired lots; their rest is to be reported.
    fn expire(&mut self, now: Instant) {
        let over: f64 = self.lots.iter().filter(|lot| lot.until <= now).map(|lot| lot.amount).sum();
        if over > 0.0 {
            self.debt -= if self.attached { over } else { 0.0 };
            self.lots.retain(|lot| lot.until > now);
        }
    }

    fn usable(&self, now: Instant) -> f64 {
        self.lots.iter().filter(|lot| lot.from <= now).map(|lot| lot.amount).sum()
    }

    fn available(&self, now: Instant) -> f64 {
        self.lots.iter().filter(|lot| lot.until > now).map(|lot| lot.amount).sum()
    }
}

fn sound(amount: f64) -> f64 {
    if amount > 0.0 { amount.min(MAX_AMOUNT) } else { 0.0 }
}

/// The share of each of this many hosts.
fn share_of(policy: RatePolicy, hosts: u32) -> RatePolicy {
    let hosts = f64::from(hosts.max(1));
    RatePolicy { rate: policy.rate / hosts, burst: (policy.burst / hosts).max(1.0) }.with_slack()
}

#[cfg(test)]
#[path = "shared_quota_tests.rs"]
mod tests;
