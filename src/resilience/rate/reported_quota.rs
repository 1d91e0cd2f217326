//! What a provider's own headers say is left of its requests, or of its tokens: pace by it, and
//! there is no 429.
//!
//! A report is old when it comes: it tells what was left when the provider counted that attempt,
//! or when it answered, and nobody knows which of those sent since had been counted by then. So it
//! gives two bounds. For certain there is `remaining`, less everything taken since that attempt was
//! sent. At most there is `remaining`, and what came back since beyond what was taken since.
//!
//! We keep count ourselves, and our count stands while the reports leave it possible; when one
//! does not, what it leaves for certain is the count. It matters where answers take long: with
//! half of a quota in flight, a report alone would leave nothing for certain.
//!
//! - A *bucket* (OpenAI, Anthropic, Groq) refills evenly, and is full when `reset` has passed. We
//!   let it refill a little slower than told: the count then sinks to what is certain, which
//!   costs nothing, and not towards what is just possible, which costs 429s.
//! - A *window* (GitHub, the IETF draft) is full again at once when `reset` has passed. Reports
//!   about attempts from before then are about the window before.
//! - Who says no limit or no reset (Azure) has a window too: when it is used up, one attempt
//!   goes each second and asks for a new report; each hour, where the reset is further away.
//!
//! A report is forgotten a while after its reset: then it restrains nothing.

use super::gcra::{Gcra, RatePolicy};
use std::time::{Duration, Instant};

/// Share of the told refill that is counted on.
const CAUTION: f64 = 0.98;
/// Attempts that are sent so close to one another may arrive in any order.
const SPREAD: Duration = Duration::from_millis(200);
/// The reset, where none is said, or one that is over.
const ASK_AGAIN: Duration = Duration::from_secs(1);
/// In which a bucket fills, while nothing is missing that could tell.
const USUAL_PERIOD: f64 = 60.0;
const LEAST_MEMORY: Duration = Duration::from_secs(60);
/// Nothing is believed for more than twice as long.
const LONGEST_RESET: Duration = Duration::from_secs(3_600);

/// How a quota comes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refill {
    /// Bit by bit.
    Bucket,
    /// All at once.
    Window,
}

/// What one answer's headers say of requests, or of tokens.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct QuotaReport {
    pub limit: Option<f64>,
    pub remaining: f64,
    /// Until all of the limit is there again.
    pub reset: Option<Duration>,
    pub refill: Refill,
}

/// When an attempt took its amount, and how much the provider has counted when it counts that.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ChargeMark {
    taken: f64,
    at: Instant,
}

/// What may be left, between what is certain and what is possible.
#[derive(Clone, Copy, Debug)]
struct RemainingBounds {
    certain: f64,
    possible: f64,
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct QuotaWindow {
    left: f64,
    /// None: nobody knows, and one attempt goes to ask.
    limit: Option<f64>,
    /// Since when, if we saw it open.
    opened: Option<Instant>,
    resets_at: Instant,
    /// From one reset to the next, as far as is known.
    span: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum QuotaCount {
    Bucket(Gcra),
    Window(QuotaWindow),
}

/// One quota of one provider: of requests, or of tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ReportedQuota {
    count: Option<QuotaCount>,
    /// Everything that was ever taken, and by two moments a `SPREAD` apart.
    taken: f64,
    steps: Option<[ChargeMark; 2]>,
    /// When the last report is forgotten.
    until: Option<Instant>,
}

// === impl Report ===

impl QuotaReport {
    fn is_sound(&self) -> bool {
        let limit = self.limit.unwrap_or(1.0);
        self.remaining >= 0.0 && self.remaining.is_finite() && limit > 0.0 && limit.is_finite()
    }

    fn reset(&self) -> Duration {
        self.reset.filter(|reset| !reset.is_zero()).unwrap_or(ASK_AGAIN).min(LONGEST_RESET)
    }

    /// What comes back a second; none if nothing is missing that could tell.
    fn refill_rate(&self, limit: f64) -> Option<f64> {
        let (missing, seconds) = (limit - self.remaining, self.reset?.as_secs_f64());
        (missing > 0.0 && seconds > 0.0).then(|| missing / seconds * CAUTION)
    }

    fn bounds(&self, taken_since: f64, came_since: f64) -> RemainingBounds {
        let more = (came_since - taken_since).max(0.0);
        RemainingBounds { certain: self.remaining - taken_since, possible: self.remaining + more }
    }
}

// === impl Bounds ===

impl RemainingBounds {
    /// The count, if it is possible; else what is certain.
    fn correct(self, count: f64) -> f64 {
        if (self.certain..=self.possible).contains(&count) { count } else { self.certain }
    }
}

// === impl Window ===

impl QuotaWindow {
    fn is_over(&self, now: Instant) -> bool {
        now >= self.resets_at
    }

    /// May so much go? More than the limit goes when none of it is used.
    fn check(&self, amount: f64, now: Instant) -> Result<(), Duration> {
        let enough = amount.min(self.limit.unwrap_or(amount));
        let free = self.is_over(now) || enough <= self.left;
        if free { Ok(()) } else { Err(self.resets_at - now) }
    }

    fn take(&mut self, amount: f64, now: Instant) {
        if self.is_over(now) {
            self.left = self.limit.unwrap_or(amount);
            self.opened = Some(now);
            self.resets_at = now + self.span;
        }
        self.left -= amount;
    }

    fn give_back(&mut self, amount: f64) {
        self.left = (self.left + amount).min(self.limit.unwrap_or(f64::INFINITY));
    }
}

// === impl Told ===

impl ReportedQuota {
    /// Nothing is known yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Does a report restrain anything now?
    pub fn is_known(&self, now: Instant) -> bool {
        self.known(now).is_some()
    }

    /// May so much be taken now, as far as the provider told? Nothing changes.
    ///
    /// # Errors
    /// How long until it may, if no report comes first.
    pub fn check(&self, amount: f64, now: Instant) -> Result<(), Duration> {
        let Some((count, until)) = self.known(now).zip(self.until) else { return Ok(()) };
        let said = match count {
            QuotaCount::Bucket(bucket) => bucket.check(amount, now),
            QuotaCount::Window(window) => window.check(amount, now),
        };
        said.map_err(|wait| wait.min(until - now))
    }

    /// Takes so much for an attempt that is sent now; the mark comes back with its report.
    pub fn take(&mut self, amount: f64, now: Instant) -> ChargeMark {
        let amount = amount.max(0.0);
        match &mut self.count {
            None => {}
            Some(QuotaCount::Bucket(bucket)) => bucket.take(amount, now),
            Some(QuotaCount::Window(window)) => window.take(amount, now),
        }
        let mark = ChargeMark { taken: self.settled(now) + amount, at: now };
        self.taken += amount;
        mark
    }

    /// The attempt was never sent.
    pub fn give_back(&mut self, amount: f64, now: Instant) {
        let amount = amount.max(0.0);
        match &mut self.count {
            None => {}
            Some(QuotaCount::Bucket(bucket)) => bucket.give_back(amount, now),
            Some(QuotaCount::Window(window)) => window.give_back(amount),
        }
    }

    /// The attempt that took `mark` was answered, with this report.
    pub fn observe(&mut self, report: QuotaReport, mark: ChargeMark, now: Instant) {
        if !report.is_sound() {
            return;
        }
        let next = match (report.refill, report.limit.zip(report.reset)) {
            (Refill::Bucket, Some((limit, _))) => {
                Some(QuotaCount::Bucket(self.bucket(report, limit, mark, now)))
            }
            _ => self.window(report, mark, now).map(QuotaCount::Window),
        };
        let Some(next) = next else { return };
        self.count = Some(next);
        self.until = Some(now + report.reset() + report.reset().max(LEAST_MEMORY));
    }

    /// What is left, as far as is known; below 0 if more was taken than there was.
    pub fn remaining(&self, now: Instant) -> Option<f64> {
        match self.known(now)? {
            QuotaCount::Bucket(bucket) => Some(bucket.left(now)),
            QuotaCount::Window(window) if window.is_over(now) => window.limit,
            QuotaCount::Window(window) => Some(window.left),
        }
    }

    /// What of the limit is gone, from 0 to 1, if a limit was said.
    pub fn share_used(&self, now: Instant) -> Option<f64> {
        match self.known(now)? {
            QuotaCount::Bucket(bucket) => Some(bucket.share_used(now)),
            QuotaCount::Window(window) if window.is_over(now) => Some(0.0),
            QuotaCount::Window(window) => Some((1.0 - window.left / window.limit?).clamp(0.0, 1.0)),
        }
    }

    fn known(&self, now: Instant) -> Option<QuotaCount> {
        self.count.filter(|_| self.until.is_some_and(|until| now < until))
    }

    /// What was taken by `SPREAD` ago or somewhat earlier.
    fn settled(&mut self, now: Instant) -> f64 {
        let here = ChargeMark { taken: self.taken, at: now };
        let [older, newer] = self.steps.unwrap_or([here; 2]);
        let age = now.saturating_duration_since(newer.at);
        let steps = match age >= SPREAD {
            // Nothing was taken since one spread after it.
            true if age >= SPREAD * 2 => [here; 2],
            true => [newer, here],
            false => [older, newer],
        };
        self.steps = Some(steps);
        steps[0].taken
    }

    /// The bucket that this report leaves of the one that is known.
    fn bucket(&self, report: QuotaReport, limit: f64, mark: ChargeMark, now: Instant) -> Gcra {
        let known = match self.known(now) {
            Some(QuotaCount::Bucket(bucket)) => Some(bucket),
            _ => None,
        };
        let usual = || known.map_or(limit / USUAL_PERIOD, |bucket| bucket.policy().rate);
        let policy =
            RatePolicy { rate: report.refill_rate(limit).unwrap_or_else(usual), burst: limit };
        let mut bucket = known.unwrap_or(Gcra::new(policy));
        bucket.retune(policy, now);
        let came_since = policy.rate * now.saturating_duration_since(mark.at).as_secs_f64();
        let bounds = report.bounds(self.taken - mark.taken, came_since);
        let count = known.map_or(bounds.certain, |_| bounds.correct(bucket.left(now)));
        bucket.settle(0.0, bucket.left(now) - count, now);
        bucket
    }

    /// The window that this report leaves of the one that is known; none if it is about the one
    /// before.
    fn window(&self, report: QuotaReport, mark: ChargeMark, now: Instant) -> Option<QuotaWindow> {
        let known = match self.known(now) {
            Some(QuotaCount::Window(window)) => Some(window),
            _ => None,
        };
        if known.and_then(|window| window.opened).is_some_and(|opened| mark.at < opened) {
            return None;
        }
        let open = known.filter(|window| !window.is_over(now));
        let bounds = report.bounds(self.taken - mark.taken, 0.0);
        Some(QuotaWindow {
            left: open.map_or(bounds.certain, |window| bounds.correct(window.left)),
            limit: report.limit.filter(|_| report.reset == Some(report.reset())),
            opened: open.and_then(|window| window.opened),
            resets_at: now + report.reset(),
            span: open.map_or(report.reset(), |window| window.span.max(report.reset())),
        })
    }
}

#[cfg(test)]
#[path = "reported_quota_tests.rs"]
mod tests;
