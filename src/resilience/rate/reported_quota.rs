//! Pacing by the quota that a provider's response headers report, so that no 429 occurs.
//!
//! A report is outdated on arrival: it gives what remained when the provider counted that
//! attempt, or when it responded, and it is unknown which of the attempts sent since had been
//! counted by then. So a report gives two bounds. At least `remaining` is left, less
//! everything taken since that attempt was sent. At most `remaining` is left, plus the refill
//! since then beyond what was taken since.
//!
//! We keep our own count, and it stands while reports allow it; if one does not, the
//! count becomes the lower bound. This matters for slow responses: with half of a quota in
//! flight, a report alone would leave nothing to send.
//!
//! - A *bucket* (OpenAI, Anthropic, Groq) refills evenly and is full after `reset`. We assume
//!   a slightly slower refill than reported: the count then drifts to the lower bound, which
//!   costs nothing, and not to the upper one, which costs 429s.
//! - A *window* (GitHub, the IETF draft) is full again at once after `reset`. Reports about
//!   attempts from before the reset belong to the previous window.
//! - A provider that reports no limit or no reset (Azure) is a window too: when it is used up,
//!   one attempt per second fetches a new report; one per hour if the reset is further away.
//!
//! A report is forgotten some time after its reset; then it has no effect.

use super::gcra::{Gcra, RatePolicy};
use std::time::{Duration, Instant};

/// Share of the reported refill that is relied on.
const REFILL_CAUTION: f64 = 0.98;
/// Attempts sent within this time may arrive in any order.
const SPREAD: Duration = Duration::from_millis(200);
/// Reset to assume if none is reported, or it is over.
const DEFAULT_RESET: Duration = Duration::from_secs(1);
/// Refill period to assume while nothing is missing from the bucket.
const DEFAULT_PERIOD: f64 = 60.0;
const LEAST_MEMORY: Duration = Duration::from_secs(60);
/// Longest reset that is believed.
const LONGEST_RESET: Duration = Duration::from_secs(3_600);

/// How a quota refills.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refill {
    /// Gradually.
    Bucket,
    /// All at once.
    Window,
}

/// One response's report of requests or of tokens.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct QuotaReport {
    pub limit: Option<f64>,
    pub remaining: f64,
    /// Time until the whole limit is available again.
    pub reset: Option<Duration>,
    pub refill: Refill,
}

/// When an attempt took its amount, and the total that the provider has counted once it counts
/// that attempt.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ChargeMark {
    taken: f64,
    at: Instant,
}

/// Bounds of the remaining amount.
#[derive(Clone, Copy, Debug)]
struct RemainingBounds {
    at_least: f64,
    at_most: f64,
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct QuotaWindow {
    left: f64,
    /// None: unknown, and one attempt goes to fetch a report.
    limit: Option<f64>,
    /// When it opened, if we saw that.
    opened: Option<Instant>,
    resets_at: Instant,
    /// From one reset to the next, as far as known.
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
    /// The total ever taken, now and at two moments `SPREAD` apart.
    taken: f64,
    steps: Option<[ChargeMark; 2]>,
    /// When the last report is forgotten.
    until: Option<Instant>,
}

impl QuotaReport {
    fn is_sound(&self) -> bool {
        let limit = self.limit.unwrap_or(1.0);
        self.remaining >= 0.0 && self.remaining.is_finite() && limit > 0.0 && limit.is_finite()
    }

    fn reset(&self) -> Duration {
        self.reset.filter(|reset| !reset.is_zero()).unwrap_or(DEFAULT_RESET).min(LONGEST_RESET)
    }

    /// Refill per second; none if nothing is missing from the limit.
    fn refill_rate(&self, limit: f64) -> Option<f64> {
        let (missing, seconds) = (limit - self.remaining, self.reset?.as_secs_f64());
        (missing > 0.0 && seconds > 0.0).then(|| missing / seconds * REFILL_CAUTION)
    }

    fn bounds(&self, taken_since: f64, refilled_since: f64) -> RemainingBounds {
        let more = (refilled_since - taken_since).max(0.0);
        RemainingBounds { at_least: self.remaining - taken_since, at_most: self.remaining + more }
    }
}

impl RemainingBounds {
    /// The count, if it is within the bounds; else the lower bound.
    fn correct(self, count: f64) -> f64 {
        if (self.at_least..=self.at_most).contains(&count) { count } else { self.at_least }
    }
}

impl QuotaWindow {
    fn is_over(&self, now: Instant) -> bool {
        now >= self.resets_at
    }

    /// Whether this amount may be taken. More than the limit goes when none of it is used.
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

impl ReportedQuota {
    /// Whether a report has an effect now.
    pub fn is_known(&self, now: Instant) -> bool {
        self.known(now).is_some()
    }

    /// Whether this amount may be taken now, by the provider's reports. Nothing changes.
    ///
    /// # Errors
    /// The time until it may, if no report arrives first.
    pub fn check(&self, amount: f64, now: Instant) -> Result<(), Duration> {
        let Some((count, until)) = self.known(now).zip(self.until) else { return Ok(()) };
        let checked = match count {
            QuotaCount::Bucket(bucket) => bucket.check(amount, now),
            QuotaCount::Window(window) => window.check(amount, now),
        };
        checked.map_err(|wait| wait.min(until - now))
    }

    /// Takes this amount for an attempt that is sent now; the mark comes back with its
    /// report.
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

    /// Returns the amount of an attempt that was never sent.
    pub fn give_back(&mut self, amount: f64, now: Instant) {
        let amount = amount.max(0.0);
        match &mut self.count {
            None => {}
            Some(QuotaCount::Bucket(bucket)) => bucket.give_back(amount, now),
            Some(QuotaCount::Window(window)) => window.give_back(amount),
        }
    }

    /// Takes the report in the response to the attempt that took `mark`.
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

    /// The remaining amount, as far as known; below 0 if more was taken than available.
    pub fn remaining(&self, now: Instant) -> Option<f64> {
        match self.known(now)? {
            QuotaCount::Bucket(bucket) => Some(bucket.available(now)),
            QuotaCount::Window(window) if window.is_over(now) => window.limit,
            QuotaCount::Window(window) => Some(window.left),
        }
    }

    /// The used share of the limit, from 0 to 1, if a limit was reported.
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

    /// The total taken `SPREAD` ago or somewhat earlier.
    fn settled(&mut self, now: Instant) -> f64 {
        let here = ChargeMark { taken: self.taken, at: now };
        let [older, newer] = self.steps.unwrap_or([here; 2]);
        let age = now.saturating_duration_since(newer.at);
        let steps = match age >= SPREAD {
            // Nothing was taken within one spread after it.
            true if age >= SPREAD * 2 => [here; 2],
            true => [newer, here],
            false => [older, newer],
        };
        self.steps = Some(steps);
        steps[0].taken
    }

    /// The known bucket, corrected by this report.
    fn bucket(&self, report: QuotaReport, limit: f64, mark: ChargeMark, now: Instant) -> Gcra {
        let known = match self.known(now) {
            Some(QuotaCount::Bucket(bucket)) => Some(bucket),
            _ => None,
        };
        let known_rate = || known.map_or(limit / DEFAULT_PERIOD, |bucket| bucket.policy().rate);
        let policy =
            RatePolicy { rate: report.refill_rate(limit).unwrap_or_else(known_rate), burst: limit };
        let mut bucket = known.unwrap_or(Gcra::new(policy));
        bucket.retune(policy, now);
        let refilled_since = policy.rate * now.saturating_duration_since(mark.at).as_secs_f64();
        let bounds = report.bounds(self.taken - mark.taken, refilled_since);
        let count = known.map_or(bounds.at_least, |_| bounds.correct(bucket.available(now)));
        bucket.settle(0.0, bucket.available(now) - count, now);
        bucket
    }

    /// The known window, corrected by this report; none if the report is about the
    /// previous window.
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
            left: open.map_or(bounds.at_least, |window| bounds.correct(window.left)),
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
