//! Parses the quota headers of a response, in the dialect of each provider, and `Retry-After`.
//!
//! - OpenAI, and Groq: `x-ratelimit-{limit,remaining,reset}-{requests,tokens}`, a bucket; the reset
//!   is a duration as Go writes it (`120ms`, `6m0s`). Azure OpenAI mostly sends `remaining` alone,
//!   and -1 for an unknown value.
//! - Anthropic: `anthropic-ratelimit-{requests,tokens,input-tokens,output-tokens}-…`, a bucket; the
//!   reset is a time (RFC 3339), tokens are rounded to the nearest thousand.
//! - GitHub and many others: `x-ratelimit-{limit,remaining,reset}`, a window; the reset is in
//!   seconds since 1970, in milliseconds since then (OpenRouter), or from now on (Reddit).
//! - IETF drafts (`draft-ietf-httpapi-ratelimit-headers`), a window: `RateLimit: "a";r=50;t=30`
//!   with `RateLimit-Policy: "a";q=100;w=60`, before that `limit=100, remaining=50, reset=30` in
//!   one header, before that three. Of several policies the one with the least left applies.
//!
//! A time is compared with the response's own `Date`, so that clocks need not agree; with this host's
//! clock if there is none, or if the `Date` makes it a wait of more than a day. A header that cannot be
//! read counts as absent.

use std::time::{Duration, SystemTime};

use http::header::{DATE, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER};

use crate::resilience::rate::reported_quota::{QuotaReport, Refill};

/// The quotas that a response reports.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct QuotaReports {
    pub requests: Option<QuotaReport>,
    pub tokens: Option<QuotaReport>,
}

struct HeaderNames {
    limit: HeaderName,
    remaining: HeaderName,
    reset: HeaderName,
}

const fn names(limit: &'static str, remaining: &'static str, reset: &'static str) -> HeaderNames {
    HeaderNames {
        limit: HeaderName::from_static(limit),
        remaining: HeaderName::from_static(remaining),
        reset: HeaderName::from_static(reset),
    }
}

static OPENAI: [HeaderNames; 2] = [
    names(
        "x-ratelimit-limit-requests",
        "x-ratelimit-remaining-requests",
        "x-ratelimit-reset-requests",
    ),
    names("x-ratelimit-limit-tokens", "x-ratelimit-remaining-tokens", "x-ratelimit-reset-tokens"),
];
static ANTHROPIC: [HeaderNames; 4] = [
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
static GITHUB: HeaderNames =
    names("x-ratelimit-limit", "x-ratelimit-remaining", "x-ratelimit-reset");
static IETF_THREE: HeaderNames = names("ratelimit-limit", "ratelimit-remaining", "ratelimit-reset");
static IETF_SINGLE: HeaderName = HeaderName::from_static("ratelimit");
static IETF_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");

/// Anthropic rounds tokens, so there may be this many fewer.
const ROUNDING: f64 = 500.0;

const DAY: f64 = 86_400.0;
/// A longer time is shortened to this: each reader has a far lower maximum of its own.
const LONGEST: f64 = 1e9;
const RETRY_AFTER_MS: HeaderName = HeaderName::from_static("retry-after-ms");

/// Reads the headers that a response has. `wall` supplies the time for a response without a date.
pub fn reported_quotas(headers: &HeaderMap, wall: impl FnOnce() -> SystemTime) -> QuotaReports {
    let reader = QuotaReader { headers, clock: ResponseClock::of(headers, wall()) };
    QuotaReports { requests: reader.requests(), tokens: reader.tokens() }
}

/// The time by which the moments in a response's headers are read.
#[derive(Clone, Copy)]
struct ResponseClock {
    /// The response's own `Date`.
    date: Option<SystemTime>,
    wall: SystemTime,
}

impl ResponseClock {
    fn of(headers: &HeaderMap, wall: SystemTime) -> ResponseClock {
        ResponseClock { date: response_date(headers), wall }
    }

    /// The time until a moment, zero if it has passed. A wait of more than a day says that the `Date`
    /// is wrong.
    fn until(self, moment: SystemTime) -> Duration {
        let wait = |from: SystemTime| moment.duration_since(from).unwrap_or_default();
        let by_response = self.date.map(wait).filter(|wait| wait.as_secs_f64() <= DAY);
        by_response.unwrap_or_else(|| wait(self.wall))
    }
}

fn response_date(headers: &HeaderMap) -> Option<SystemTime> {
    httpdate::parse_http_date(text(headers.get(DATE)?)?).ok()
}

struct QuotaReader<'a> {
    headers: &'a HeaderMap,
    clock: ResponseClock,
}

impl QuotaReader<'_> {
    fn requests(&self) -> Option<QuotaReport> {
        self.report(&OPENAI[0], Refill::Bucket)
            .or_else(|| self.report(&ANTHROPIC[0], Refill::Bucket))
            .or_else(|| self.single_header())
            .or_else(|| self.report(&IETF_THREE, Refill::Window))
            .or_else(|| self.report(&GITHUB, Refill::Window))
    }

    fn tokens(&self) -> Option<QuotaReport> {
        self.report(&OPENAI[1], Refill::Bucket).or_else(|| self.scarcest())
    }

    fn report(&self, names: &HeaderNames, refill: Refill) -> Option<QuotaReport> {
        let remaining = self.number(&names.remaining)?;
        let limit = self.number(&names.limit).filter(|limit| *limit > 0.0);
        let reset = self.headers.get(&names.reset).and_then(text);
        let reset = reset.and_then(|reset| time_until(reset, self.clock));
        // Without a limit, Retry-After is the only time known.
        let wait = || retry_after(self.headers, || self.clock.wall);
        let reset = reset.or_else(|| limit.is_none().then(wait).flatten());
        Some(QuotaReport { limit, remaining, reset, refill })
    }

    /// Anthropic's tokens as one quota: all of them, with the share left of the scarcest kind. A prompt
    /// may be larger than the output limit.
    fn scarcest(&self) -> Option<QuotaReport> {
        let [_, all, input, output] = &ANTHROPIC;
        let read = |names| {
            let report = self.report(names, Refill::Bucket)?;
            let limit = report.limit?;
            let less = if report.remaining < limit { ROUNDING } else { 0.0 };
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

    /// The draft's single header: of its policies for requests, the one with the least left.
    fn single_header(&self) -> Option<QuotaReport> {
        let report = |limit, remaining, reset: Option<f64>| QuotaReport {
            limit,
            remaining,
            reset: reset.map(|reset| time_until_number(reset, self.clock)),
            refill: Refill::Window,
        };
        let of = |key: &str| self.items(&IETF_SINGLE).find_map(|item| value(item, key));
        if let Some(remaining) = of("remaining") {
            return Some(report(of("limit"), remaining, of("reset")));
        }
        let left = self.items(&IETF_SINGLE).filter_map(|item| {
            let policy = self.items(&IETF_POLICY).find(|policy| name(policy) == name(item));
            let unit = policy.and_then(|policy| parameter(policy, "qu")).unwrap_or("\"requests\"");
            let limit = policy.and_then(|policy| value(policy, "q"));
            let of_requests = unit == "\"requests\"";
            of_requests.then_some(report(limit, value(item, "r")?, value(item, "t")))
        });
        left.min_by(|a, b| a.remaining.total_cmp(&b.remaining))
    }

    fn number(&self, name: &HeaderName) -> Option<f64> {
        number(text(self.headers.get(name)?)?)
    }

    /// The members of a list header.
    fn items(&self, name: &HeaderName) -> impl Iterator<Item = &str> {
        let lines = self.headers.get_all(name).into_iter().filter_map(text);
        lines.flat_map(|line| split_field(line, ','))
    }
}

fn text(value: &HeaderValue) -> Option<&str> {
    std::str::from_utf8(value.as_bytes()).ok().map(str::trim)
}

/// Splits a structured field (RFC 9651), but not within quotes.
fn split_field(text: &str, at: char) -> impl Iterator<Item = &str> {
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
    split_field(item, ';').next()
}

fn parameter<'a>(item: &'a str, key: &str) -> Option<&'a str> {
    let pairs = split_field(item, ';').filter_map(|part| part.split_once('='));
    pairs
        .map(|(name, value)| (name.trim(), value.trim()))
        .find(|(name, _)| *name == key)
        .map(|(_, value)| value)
}

fn value(item: &str, key: &str) -> Option<f64> {
    number(parameter(item, key)?)
}

/// `Retry-After` in seconds or as a date (RFC 9110, 10.2.3), or `retry-after-ms`.
pub fn retry_after(headers: &HeaderMap, now: impl FnOnce() -> SystemTime) -> Option<Duration> {
    let text = |name: HeaderName| headers.get(name)?.to_str().ok().map(str::trim);
    if let Some(millis) = text(RETRY_AFTER_MS).and_then(plain_number) {
        return Some(seconds(millis / 1e3));
    }
    let value = text(RETRY_AFTER)?;
    if let Some(after) = plain_number(value) {
        return Some(seconds(after));
    }
    let date = httpdate::parse_http_date(value).ok()?;
    Some(ResponseClock::of(headers, now()).until(date))
}

/// A number of digits with at most one point. Any length counts: a huge number means a long wait, not
/// none.
fn plain_number(text: &str) -> Option<f64> {
    let is_plain = text.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    if is_plain { text.parse().ok() } else { None }
}

/// At most `LONGEST`, so that no arithmetic with it overflows.
fn seconds(seconds: f64) -> Duration {
    Duration::from_secs_f64(seconds.clamp(0.0, LONGEST))
}

/// The time until a moment: a duration as Go writes it, a time of RFC 3339, or a number.
fn time_until(moment: &str, clock: ResponseClock) -> Option<Duration> {
    match number(moment) {
        Some(number) => Some(time_until_number(number, clock)),
        None => go_duration(moment).or_else(|| time_until_rfc_3339(moment, clock)),
    }
}

/// From 1e11 on milliseconds since 1970, from 1e9 on seconds since 1970, else seconds from now.
fn time_until_number(number: f64, clock: ResponseClock) -> Duration {
    let since_1970 = match number {
        after if after < 1e9 => return seconds(after),
        since_1970 if since_1970 < 1e11 => since_1970,
        millis => millis / 1e3,
    };
    let moment = Duration::try_from_secs_f64(since_1970).ok();
    let moment = moment.and_then(|since| SystemTime::UNIX_EPOCH.checked_add(since));
    let longest = seconds(LONGEST);
    moment.map_or(longest, |moment| clock.until(moment)).min(longest)
}

fn time_until_rfc_3339(moment: &str, clock: ResponseClock) -> Option<Duration> {
    let moment = SystemTime::from(moment.trim().parse::<jiff::Timestamp>().ok()?);
    (moment >= SystemTime::UNIX_EPOCH).then(|| clock.until(moment))
}

/// A finite number that is not negative; the first one of a list.
fn number(text: &str) -> Option<f64> {
    let first = text.split([',', ';']).next()?.trim();
    first.parse().ok().filter(|number: &f64| number.is_finite() && *number >= 0.0)
}

fn go_duration(text: &str) -> Option<Duration> {
    let (mut rest, mut total) = (text.trim(), 0.0);
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (count, after) = rest.split_at(digits);
        let unit = after.find(|c: char| c.is_ascii_digit()).unwrap_or(after.len());
        let (unit, after) = after.split_at(unit);
        total += count.parse::<f64>().ok()? * seconds_in(unit)?;
        rest = after;
    }
    (!text.trim().is_empty()).then(|| seconds(total))
}

fn seconds_in(unit: &str) -> Option<f64> {
    Some(match unit {
        "d" => DAY,
        "h" => 3_600.0,
        "m" => 60.0,
        "s" => 1.0,
        "ms" => 1e-3,
        "us" | "µs" => 1e-6,
        "ns" => 1e-9,
        _ => return None,
    })
}

#[cfg(test)]
#[path = "quota_headers_tests.rs"]
mod tests;
