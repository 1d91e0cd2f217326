//! What the headers of an answer say is left of the provider's quota, in each of their spellings.
//!
//! - OpenAI, and Groq: `x-ratelimit-{limit,remaining,reset}-{requests,tokens}`, a bucket; the reset
//!   is a length as Go writes it (`120ms`, `6m0s`). Azure OpenAI mostly says what remains, and no
//!   more; it writes -1 for what it does not know.
//! - Anthropic: `anthropic-ratelimit-{requests,tokens,input-tokens,output-tokens}-…`, a bucket; the
//!   reset is a time (RFC 3339), tokens are rounded to the nearest thousand.
//! - GitHub and many others: `x-ratelimit-{limit,remaining,reset}`, a window; the reset is in
//!   seconds since 1970, in milliseconds since then (OpenRouter), or from now on (Reddit).
//! - IETF drafts (`draft-ietf-httpapi-ratelimit-headers`), a window: `RateLimit: "a";r=50;t=30`
//!   with `RateLimit-Policy: "a";q=100;w=60`, before that `limit=100, remaining=50, reset=30` in
//!   one header, before that three. Of several policies the one with the least left counts.
//!
//! A time is taken against the answer's own `Date`, so that no clock need agree with another.
//! What cannot be read is not there; whoever reads on is `resilience::told`.

use std::time::{Duration, SystemTime};

use http::header::{DATE, HeaderMap, HeaderName, HeaderValue};

use super::{content_type, quota_times};
use crate::resilience::rate::reported_quota::{QuotaReport, Refill};

/// What is left, as far as the answer told.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct QuotaReports {
    pub requests: Option<QuotaReport>,
    pub tokens: Option<QuotaReport>,
}

struct Names {
    limit: HeaderName,
    remaining: HeaderName,
    reset: HeaderName,
}

const fn names(limit: &'static str, remaining: &'static str, reset: &'static str) -> Names {
    Names {
        limit: HeaderName::from_static(limit),
        remaining: HeaderName::from_static(remaining),
        reset: HeaderName::from_static(reset),
    }
}

static OPENAI: [Names; 2] = [
    names(
        "x-ratelimit-limit-requests",
        "x-ratelimit-remaining-requests",
        "x-ratelimit-reset-requests",
    ),
    names("x-ratelimit-limit-tokens", "x-ratelimit-remaining-tokens", "x-ratelimit-reset-tokens"),
];
static ANTHROPIC: [Names; 4] = [
    names(
        "anthropic-ratelimit-requests-limit",
        "anthropic-ratelimit-requests-remaining",
        "anthropic-ratelimit-requests-reset",
    ),
    names(
        "anthropic-ratelimit-tokens-limit",
        "anthropic-ratelimit-tokens-remaining",
        "anthropic-ratelimit-tokens-reset",
    ),
    names(
        "anthropic-ratelimit-input-tokens-limit",
        "anthropic-ratelimit-input-tokens-remaining",
        "anthropic-ratelimit-input-tokens-reset",
    ),
    names(
        "anthropic-ratelimit-output-tokens-limit",
        "anthropic-ratelimit-output-tokens-remaining",
        "anthropic-ratelimit-output-tokens-reset",
    ),
];
static GITHUB: Names = names("x-ratelimit-limit", "x-ratelimit-remaining", "x-ratelimit-reset");
static THREE: Names = names("ratelimit-limit", "ratelimit-remaining", "ratelimit-reset");
static ONE: HeaderName = HeaderName::from_static("ratelimit");
static POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");

/// Anthropic's tokens may be so many fewer than it says.
const ROUNDED: f64 = 500.0;

/// How each of the names begins.
const SIGNS: [&str; 3] = ["x-ratelimit-", "anthropic-ratelimit-", "ratelimit"];

/// One look at the names where there is nothing to read. `wall` is asked where a time is told without
/// a date.
pub fn left(headers: &HeaderMap, wall: impl FnOnce() -> SystemTime) -> QuotaReports {
    let is_sign = |name: &HeaderName| SIGNS.iter().any(|sign| name.as_str().starts_with(sign));
    if !headers.keys().any(is_sign) {
        return QuotaReports::default();
    }
    let date =
        headers.get(DATE).and_then(text).and_then(|date| httpdate::parse_http_date(date).ok());
    let reading = Reading { headers, now: date.unwrap_or_else(wall) };
    QuotaReports { requests: reading.requests(), tokens: reading.tokens() }
}

struct Reading<'a> {
    headers: &'a HeaderMap,
    now: SystemTime,
}

impl Reading<'_> {
    fn requests(&self) -> Option<QuotaReport> {
        self.report(&OPENAI[0], Refill::Bucket)
            .or_else(|| self.report(&ANTHROPIC[0], Refill::Bucket))
            .or_else(|| self.one())
            .or_else(|| self.report(&THREE, Refill::Window))
            .or_else(|| self.report(&GITHUB, Refill::Window))
    }

    fn tokens(&self) -> Option<QuotaReport> {
        self.report(&OPENAI[1], Refill::Bucket).or_else(|| self.tightest())
    }

    fn report(&self, names: &Names, refill: Refill) -> Option<QuotaReport> {
        let remaining = self.number(&names.remaining)?;
        let limit = self.number(&names.limit).filter(|limit| *limit > 0.0);
        let reset = self.headers.get(&names.reset).and_then(text);
        let reset = reset.and_then(|reset| quota_times::until(reset, self.now));
        // Where nothing else is known, there will at least be something then.
        let reset = reset.or_else(|| {
            limit.is_none().then(|| content_type::retry_after(self.headers, || self.now)).flatten()
        });
        Some(QuotaReport { limit, remaining, reset, refill })
    }

    /// Anthropic's tokens, all of them by the share that is left of the scarcest: a prompt that
    /// is larger than all output may be is not one too large.
    fn tightest(&self) -> Option<QuotaReport> {
        let [_, all, input, output] = &ANTHROPIC;
        let read = |names| {
            let report = self.report(names, Refill::Bucket)?;
            let limit = report.limit?;
            let less = if report.remaining < limit { ROUNDED } else { 0.0 };
            Some((limit, (report.remaining - less).max(0.0) / limit, report.reset))
        };
        let kinds = [all, input, output].map(read);
        let share = |kind: &(f64, f64, _)| kind.1;
        let (_, left, reset) =
            kinds.into_iter().flatten().min_by(|a, b| share(a).total_cmp(&share(b)))?;
        let limit = kinds[0].map_or_else(
            || kinds.iter().flatten().map(|(limit, ..)| limit).sum(),
            |(limit, ..)| limit,
        );
        let remaining = limit * left;
        Some(QuotaReport { limit: Some(limit), remaining, reset, refill: Refill::Bucket })
    }

    /// The draft's one header: of its items about requests, the one with the least left.
    fn one(&self) -> Option<QuotaReport> {
        let report = |limit, remaining, reset: Option<f64>| QuotaReport {
            limit,
            remaining,
            reset: reset.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok()),
            refill: Refill::Window,
        };
        let of = |key: &str| self.items(&ONE).find_map(|item| value(item, key));
        if let Some(remaining) = of("remaining") {
            return Some(report(of("limit"), remaining, of("reset")));
        }
        let left = self.items(&ONE).filter_map(|item| {
            let policy = self.items(&POLICY).find(|policy| name(policy) == name(item));
            let unit = policy.and_then(|policy| parameter(policy, "qu")).unwrap_or("\"requests\"");
            let limit = policy.and_then(|policy| value(policy, "q"));
            let of_requests = unit == "\"requests\"";
            of_requests.then_some(report(limit, value(item, "r")?, value(item, "t")))
        });
        left.min_by(|a, b| a.remaining.total_cmp(&b.remaining))
    }

    fn number(&self, name: &HeaderName) -> Option<f64> {
        quota_times::number(text(self.headers.get(name)?)?)
    }

    /// The members of a list.
    fn items(&self, name: &HeaderName) -> impl Iterator<Item = &str> {
        let lines = self.headers.get_all(name).into_iter().filter_map(text);
        lines.flat_map(|line| parts(line, ','))
    }
}

fn text(value: &HeaderValue) -> Option<&str> {
    std::str::from_utf8(value.as_bytes()).ok().map(str::trim)
}

/// Parts of a structured field (RFC 9651): what is quoted is not parted.
fn parts(text: &str, at: char) -> impl Iterator<Item = &str> {
    let (mut quoted, mut escaped) = (false, false);
    let is_end = move |c: char| {
        let plain = !std::mem::take(&mut escaped);
        escaped = plain && quoted && c == '\\';
        quoted ^= plain && c == '"';
        c == at && !quoted
    };
    text.split(is_end).map(str::trim)
}

fn name(item: &str) -> Option<&str> {
    parts(item, ';').next()
}

fn parameter<'a>(item: &'a str, key: &str) -> Option<&'a str> {
    let pairs = parts(item, ';').filter_map(|part| part.split_once('='));
    pairs
        .map(|(name, value)| (name.trim(), value.trim()))
        .find(|(name, _)| *name == key)
        .map(|(_, value)| value)
}

fn value(item: &str, key: &str) -> Option<f64> {
    quota_times::number(parameter(item, key)?)
}

#[cfg(test)]
#[path = "quota_headers_tests.rs"]
mod tests;
