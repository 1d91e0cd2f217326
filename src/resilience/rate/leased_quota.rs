//! A limit that a fleet shares, as one host sees it: what it has in hand of it.
//!
//! The limit itself is a GCRA that all hosts debit (Redis); asking it is a matter of milliseconds,
//! and no request waits for that where it can be helped. So a host asks beforehand for what it needs
//! in the next 100 ms, and spends that from memory. Whatever is in hand is debited already:
//! however many hosts there are, and whenever one dies, the fleet stays within the limit.
//!
//! - *In hand* are lots: each usable from a moment on (what is not there yet is given for later, so
//!   that hosts take turns) and for one second. What nobody used until then is told, and is
//!   everybody's again.
//! - *Owed* is what was taken without being in hand: by the first call of a cold host, which waits for
//!   nothing, and by answers that cost more than was estimated. It is told with the next ask.
//! - The *own share*, the limit divided by the hosts, is what counts while the fleet is away, and
//!   while it is silent: an ask without an answer for a quarter of a second.
//!
//! In hand and not yet told is never more than one chunk, or what one request needs: that is by how
//! much a fleet may exceed the limit in a span of any length, for each host.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::gcra::{Gcra, RatePolicy};

/// What is asked for: the demand of so long.
const AHEAD: f64 = 0.1;
/// Of the burst, or of what a minute brings.
const MOST: f64 = 0.1;
const MINUTE: f64 = 60.0;
/// What is in hand lasts so long; without a call for so long a host is cold.
const LASTS: Duration = Duration::from_secs(1);
/// Whoever finds nothing in hand looks again after this, or when the answer comes.
const LOOK: Duration = Duration::from_millis(100);
/// An answer that takes longer is not waited for.
const SILENT: Duration = Duration::from_millis(250);
/// Until the next ask, when the last came to nothing.
const AGAIN: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));
/// Over which demand is averaged, in seconds.
const MEMORY: f64 = 0.3;
/// Of the newest request in the size of one.
const NEWEST: f64 = 0.1;
const LONGEST: Duration = Duration::from_secs(86_400);
/// No amount is more.
const MUCH: f64 = 1e12;
/// Sums of fractions come out a little below what they are.
const NEARLY: f64 = 1e-4;

/// A piece of the limit.
#[derive(Clone, Copy, Debug, PartialEq)]
struct QuotaLot {
    amount: f64,
    from: Instant,
    until: Instant,
}

/// What this host takes.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Demand {
    /// Taken lately, and when that was counted.
    lately: f64,
    at: Instant,
    /// The size of a request.
    each: f64,
    /// What whoever is first and found too little needs.
    need: f64,
}

/// What a host asks of the shared limit.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LeaseRequest {
    pub policy: RatePolicy,
    pub want: f64,
    /// With less nobody is helped.
    pub least: f64,
    /// Taken beyond what was given; below 0, given and not used.
    pub debt: f64,
    pub at: Instant,
}

/// What came of it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LeaseGrant {
    pub amount: f64,
    /// Until it may be used; where nothing was given, until there is something.
    pub wait: Duration,
    /// Of the burst, by all.
    pub used: f64,
}

/// As people see it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LeaseStatus {
    /// A second, of the fleet and of this host by itself.
    pub rate: f64,
    pub share: f64,
    pub in_hand: f64,
}

#[derive(Clone, Debug)]
pub struct LeasedQuota {
    policy: RatePolicy,
    hosts: u32,
    share: Gcra,
    attached: bool,
    lots: VecDeque<QuotaLot>,
    owed: f64,
    demand: Option<Demand>,
    asked: Option<LeaseRequest>,
    /// The first ask since the last answer that came soon.
    unheard: Option<Instant>,
    /// No ask before.
    again: Option<Instant>,
    /// There is nothing before, as the last answer said.
    nothing_until: Option<Instant>,
    /// Of the burst, by all, as the last answer said.
    used: Option<(f64, Instant)>,
}

// === impl Demand ===

impl Demand {
    fn new(now: Instant) -> Self {
        Demand { lately: 0.0, at: now, each: 0.0, need: 0.0 }
    }

    fn counted(self, now: Instant) -> Self {
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        Demand { lately: self.lately * (-passed / MEMORY).exp(), at: self.at.max(now), ..self }
    }

    fn taken(self, amount: f64, now: Instant) -> Self {
        let counted = self.counted(now);
        let first = self.each <= 0.0;
        let each = if first { amount } else { self.each + NEWEST * (amount - self.each) };
        Demand { lately: counted.lately + amount, each, need: 0.0, ..counted }
    }

    /// With so many who wait, of the time for which is asked.
    fn ahead(self, waiting: u32, now: Instant) -> f64 {
        let rate = self.counted(now).lately / MEMORY;
        (rate * AHEAD + f64::from(waiting) * self.each).max(self.each)
    }

    fn is_over(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.at) >= LASTS
    }
}

// === impl Chunk ===

impl LeasedQuota {
    pub fn new(policy: RatePolicy, attached: bool, hosts: u32) -> Self {
        LeasedQuota {
            policy,
            hosts: hosts.max(1),
            share: Gcra::new(share_of(policy, hosts)),
            attached,
            lots: VecDeque::new(),
            owed: 0.0,
            demand: None,
            asked: None,
            unheard: None,
            again: None,
            nothing_until: None,
            used: None,
        }
    }

    /// What was taken already stays taken.
    pub fn retune(&mut self, policy: RatePolicy, now: Instant) {
        self.policy = policy;
        self.share.retune(share_of(policy, self.hosts), now);
    }

    /// The fleet is there, or it is not; so many hosts were there last.
    pub fn attach(&mut self, attached: bool, hosts: u32, now: Instant) {
        if self.hosts != hosts.max(1) {
            self.hosts = hosts.max(1);
            self.share.retune(share_of(self.policy, hosts), now);
        }
        if self.attached == attached {
            return;
        }
        self.attached = attached;
        (self.asked, self.unheard, self.again, self.nothing_until) = (None, None, None, None);
        // Nobody was told what was taken meanwhile; what has come back by now need not be.
        self.owed = if attached { self.share.used(now) } else { 0.0 };
    }

    /// May so much be taken now?
    ///
    /// # Errors
    /// How long it may not, as far as is known.
    pub fn check(&mut self, amount: f64, now: Instant) -> Result<(), Duration> {
        self.expire(now);
        if self.usable(now) + NEARLY >= amount {
            return Ok(());
        }
        let alone = self.is_alone(now).then(|| self.share.check(amount, now));
        if alone == Some(Ok(())) {
            return Ok(());
        }
        let demand = self.demand.map_or_else(|| Demand::new(now), |demand| demand.counted(now));
        self.demand = Some(Demand { need: sound(amount), ..demand });
        alone.unwrap_or_else(|| Err(self.wait(amount, now)))
    }

    /// Takes so much, there or not.
    pub fn take(&mut self, amount: f64, now: Instant) {
        let demand = self.demand.unwrap_or_else(|| Demand::new(now));
        self.demand = Some(demand.taken(sound(amount), now));
        self.charge(amount, now);
    }

    /// What was taken was not needed.
    pub fn give_back(&mut self, amount: f64, now: Instant) {
        self.expire(now);
        let mut amount = sound(amount);
        if !self.attached {
            self.share.give_back(amount, now);
            return;
        }
        let untold = amount.min(self.owed.max(0.0));
        (self.owed, amount) = (self.owed - untold, amount - untold);
        let room = (self.most() - self.available(now)).clamp(0.0, amount);
        if let Some(lot) = self.lots.iter_mut().find(|lot| lot.from <= now) {
            (lot.amount, amount) = (lot.amount + room, amount - room);
        }
        self.owed -= amount;
    }

    /// What was taken as `estimated` came to `actual`.
    pub fn settle(&mut self, estimated: f64, actual: f64, now: Instant) {
        if actual > estimated {
            self.charge(actual - estimated, now);
        } else {
            self.give_back(estimated - actual, now);
        }
    }

    /// What of the burst is gone, from 0 to 1: of all hosts, or of the own share.
    pub fn share_used(&self, now: Instant) -> f64 {
        match self.used.filter(|_| self.attached) {
            Some((used, at)) => {
                let back = now.saturating_duration_since(at).as_secs_f64() * self.whole().rate;
                ((used - back) / self.whole().burst).clamp(0.0, 1.0)
            }
            None => self.share.share_used(now),
        }
    }

    pub fn status(&self, now: Instant) -> LeaseStatus {
        let share = self.policy.rate / f64::from(self.hosts);
        LeaseStatus { rate: self.policy.rate, share, in_hand: self.available(now) }
    }

    /// Whether there is something to ask.
    pub fn is_due(&self, now: Instant) -> bool {
        self.ask(0, now).is_some()
    }

    /// What to ask now, where so many wait; the next only after its answer.
    pub fn take_request(&mut self, waiting: u32, now: Instant) -> Option<LeaseRequest> {
        self.expire(now);
        let ask = self.ask(waiting, now)?;
        (self.asked, self.owed) = (Some(ask), 0.0);
        self.unheard = self.unheard.or(Some(now));
        Some(ask)
    }

    /// The answer to what was asked at that moment.
    pub fn granted(&mut self, asked_at: Instant, grant: LeaseGrant, now: Instant) {
        let Some(ask) = self.asked.take_if(|ask| ask.at == asked_at) else { return };
        self.used = Some((sound(grant.used), now));
        if now.saturating_duration_since(asked_at) < SILENT {
            self.unheard = None;
        }
        let wait = grant.wait.min(LONGEST);
        if grant.amount > 0.0 {
            let (amount, from) = (grant.amount.min(ask.want), now + wait);
            let until = if wait.is_zero() { asked_at + LASTS } else { from + LASTS };
            self.lots.push_back(QuotaLot { amount, from, until });
            self.nothing_until = None;
        } else if ask.want > 0.0 {
            self.nothing_until = Some(now + wait);
            self.again = Some(now + wait.clamp(AGAIN.0, AGAIN.1));
        }
    }

    /// There is no answer to that. What was owed is told again: better twice than never.
    pub fn request_failed(&mut self, asked_at: Instant, now: Instant) {
        let Some(ask) = self.asked.take_if(|ask| ask.at == asked_at) else { return };
        self.owed += ask.debt.max(0.0);
        self.again = Some(now + LOOK);
    }

    fn ask(&self, waiting: u32, now: Instant) -> Option<LeaseRequest> {
        if !self.attached || self.asked.is_some() || self.again.is_some_and(|again| now < again) {
            return None;
        }
        let demand = self.demand.filter(|demand| waiting > 0 || !demand.is_over(now));
        let need = demand.map_or(0.0, |demand| demand.need);
        let ahead = demand.map_or(0.0, |demand| demand.ahead(waiting, now));
        let (hand, goal) = (self.available(now), ahead.min(self.most()).max(need));
        let runs_out = goal > 0.0 && hand + NEARLY < need.max(goal / 2.0);
        let want = if runs_out { goal - hand } else { 0.0 };
        let telling = demand.is_none() || self.owed.abs() > goal / 2.0;
        if want <= 0.0 && (self.owed.abs() < NEARLY || !telling) {
            return None;
        }
        let turn = self.policy.rate / f64::from(self.hosts) * AHEAD;
        let least = turn.max(need - hand).max(1.0).min(want);
        Some(LeaseRequest { policy: self.whole(), want, least, debt: self.owed, at: now })
    }

    /// As the fleet counts it.
    fn whole(&self) -> RatePolicy {
        self.policy.with_slack().sound()
    }

    /// What may be in hand: a tenth of the burst, or what 100 ms bring; at least one.
    fn most(&self) -> f64 {
        let RatePolicy { rate, burst } = self.whole();
        let tenth = MOST * burst.max(rate * MINUTE);
        (rate * AHEAD).max(burst * MOST).min(tenth).max(1.0)
    }

    /// It decides by its own share: nobody answers, or it is cold.
    fn is_alone(&self, now: Instant) -> bool {
        let silent = self.unheard.is_some_and(|at| now.saturating_duration_since(at) >= SILENT);
        let refused = self.nothing_until.is_some_and(|until| now < until);
        let idle = self.demand.is_none_or(|demand| demand.is_over(now));
        !self.attached || silent || (idle && !refused && self.lots.is_empty())
    }

    /// Until there is so much in hand; where nobody knows, until it is worth a look.
    fn wait(&self, amount: f64, now: Instant) -> Duration {
        let (mut sum, mut from) = (0.0, now);
        for lot in &self.lots {
            (sum, from) = (sum + lot.amount, from.max(lot.from));
            if sum + NEARLY >= amount {
                return from.saturating_duration_since(now);
            }
        }
        let told = self.nothing_until.map(|until| until.saturating_duration_since(now));
        told.filter(|wait| !wait.is_zero()).unwrap_or(LOOK)
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
            self.owed += if self.attached { rest } else { 0.0 };
        }
    }

    /// What nobody used is to be told.
    fn expire(&mut self, now: Instant) {
        let over: f64 = self.lots.iter().filter(|lot| lot.until <= now).map(|lot| lot.amount).sum();
        if over > 0.0 {
            self.owed -= if self.attached { over } else { 0.0 };
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
    if amount > 0.0 { amount.min(MUCH) } else { 0.0 }
}

/// Of so many hosts, what each has.
fn share_of(policy: RatePolicy, hosts: u32) -> RatePolicy {
    let hosts = f64::from(hosts.max(1));
    RatePolicy { rate: policy.rate / hosts, burst: (policy.burst / hosts).max(1.0) }.with_slack()
}

#[cfg(test)]
#[path = "leased_quota_tests.rs"]
mod tests;
