//! Times as headers write them: a number, a length of Go's (`1h23m31s`, `7.66s`, `120ms`), a moment
//! of RFC 3339 (`2025-08-21T12:40:59Z`). What is none of them is `None`.

use std::time::{Duration, SystemTime};

const DAY: f64 = 86_400.0;

/// How long until a moment, however that is told: from 1e9 on a number counts seconds since 1970,
/// from 1e11 on milliseconds since then, else seconds from now. What has passed is zero.
pub fn until(moment: &str, now: SystemTime) -> Option<Duration> {
    let since_1970 = match number(moment) {
        Some(seconds) if seconds < 1e9 => return Duration::try_from_secs_f64(seconds).ok(),
        Some(seconds) if seconds < 1e11 => seconds,
        Some(millis) => millis / 1e3,
        None => match length(moment) {
            Some(length) => return Some(length),
            None => since_1970(moment)?,
        },
    };
    let since_1970 = Duration::try_from_secs_f64(since_1970).ok()?;
    let moment = SystemTime::UNIX_EPOCH.checked_add(since_1970)?;
    Some(moment.duration_since(now).unwrap_or_default())
}

/// A number that is finite and not below 0; of a list or with parameters, the first.
pub fn number(text: &str) -> Option<f64> {
    let first = text.split([',', ';']).next()?.trim();
    first.parse().ok().filter(|number: &f64| number.is_finite() && *number >= 0.0)
}

fn length(text: &str) -> Option<Duration> {
    let (mut rest, mut seconds) = (text.trim(), 0.0);
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (count, after) = rest.split_at(digits);
        let unit = after.find(|c: char| c.is_ascii_digit()).unwrap_or(after.len());
        let (unit, after) = after.split_at(unit);
        seconds += count.parse::<f64>().ok()? * seconds_in(unit)?;
        rest = after;
    }
    Duration::try_from_secs_f64(seconds).ok().filter(|_| !text.trim().is_empty())
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

/// RFC 3339, in seconds since 1970.
fn since_1970(text: &str) -> Option<f64> {
    let (date, time) = text.trim().split_once(['T', 't', ' '])?;
    let [year, month, day] = parts(date, '-')?;
    let zone = time.find(['Z', 'z', '+', '-'])?;
    let (clock, zone) = time.split_at(zone);
    let [hour, minute, second] = parts(clock, ':')?;
    let east = match zone.split_at(1) {
        ("Z" | "z", "") => 0.0,
        (sign, offset) => {
            let (hours, minutes) = offset.split_once(':')?;
            let seconds = number(hours)? * 3_600.0 + number(minutes)? * 60.0;
            if sign == "-" { -seconds } else { seconds }
        }
    };
    let days = days_since_1970(year as i64, month as i64, day as i64);
    Some(days as f64 * DAY + hour * 3_600.0 + minute * 60.0 + second - east)
}

fn parts(text: &str, between: char) -> Option<[f64; 3]> {
    let mut parts = text.splitn(3, between).map(number);
    let parts = [parts.next()??, parts.next()??, parts.next()??];
    Some(parts).filter(|parts| parts.iter().all(|part| *part < 1e4))
}

/// Of the Gregorian calendar, with years that begin in March.
fn days_since_1970(year: i64, month: i64, day: i64) -> i64 {
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let leap_days = year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400);
    year * 365 + leap_days + (month * 153 + 2) / 5 + day - 1 - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    #[test]
    fn each_form_is_read() {
        let now = at(1_755_780_000);
        for (text, millis) in [
            ("0", 0),
            ("55", 55_000),
            ("1.5", 1_500),
            ("30, 30;w=60", 30_000),
            ("1s", 1_000),
            ("6m0s", 360_000),
            ("120ms", 120),
            ("2m59.56s", 179_560),
            ("1h23m31s", 5_011_000),
            ("23h59m45s", 86_385_000),
            ("1d2h", 93_600_000),
            ("1000µs", 1),
            ("1755780012", 12_000),
            ("1755780012500", 12_500),
            ("1755779000", 0),
            ("2025-08-21T12:41:00Z", 60_000),
            ("2025-08-21t12:41:00.250z", 60_250),
            ("2025-08-21T14:41:00+02:00", 60_000),
            ("2025-08-21T07:11:00-05:30", 60_000),
            ("2025-08-21T12:39:59Z", 0),
        ] {
            assert_eq!(until(text, now), Some(Duration::from_millis(millis)), "{text}");
        }
    }

    #[test]
    fn what_is_no_time_is_none() {
        for text in [
            "",
            " ",
            "-1",
            "inf",
            "NaN",
            "1e400",
            "s",
            "5x",
            "1s2",
            ".s",
            "1.2.3s",
            "soon",
            "Tue Feb 16 2021 09:02:42 GMT+0100",
            "2025-08-21",
            "2025-08-21T12:41:00",
            "2025-08-21T12:41Z",
            "2025-08-21T12:41:00+0200",
            "99999-08-21T12:41:00Z",
            "--T::Z",
        ] {
            assert_eq!(until(text, at(0)), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn a_moment_is_read_as_it_is_written(seconds in 0u64..7_258_118_400) {
            let http = httpdate::fmt_http_date(at(seconds));
            let month = 1 + "JanFebMarAprMayJunJulAugSepOctNovDec".find(&http[8..11]).expect("a month") / 3;
            let text = format!("{}-{month:02}-{}T{}Z", &http[12..16], &http[5..7], &http[17..25]);
            prop_assert_eq!(until(&text, at(0)), Some(Duration::from_secs(seconds)));
        }

        #[test]
        fn no_text_makes_it_panic(text in "[0-9a-zµTZ:+. -]{0,32}|\\PC{0,32}") {
            let _ = until(&text, at(1_755_780_000));
        }
    }
}
