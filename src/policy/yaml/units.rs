//! Durations, sizes, counts, shares, costs and rates, as people write them.
//!
//! A number has a unit wherever it could be taken for another: `10` is not a duration. Binary and
//! decimal sizes differ (`1MiB`, `1MB`; IEC 80000-13). A currency is any three capital letters, as
//! in ISO 4217. Each error says what was expected, with an example.

use std::time::Duration;

pub const MS: Duration = Duration::from_millis(1);
pub const SECOND: Duration = Duration::from_secs(1);
pub const MINUTE: Duration = Duration::from_secs(60);
pub const HOUR: Duration = Duration::from_secs(3600);
pub const DAY: Duration = Duration::from_secs(86_400);
pub const MONTH: Duration = Duration::from_secs(30 * 86_400);

const DURATIONS: [(&str, f64); 5] =
    [("ms", 0.001), ("s", 1.0), ("m", 60.0), ("h", 3600.0), ("d", 86400.0)];
const SIZES: [(&str, u64); 9] = [
    ("", 1),
    ("B", 1),
    ("kB", 1000),
    ("KB", 1000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
];
const COUNTS: [(&str, u64); 4] = [("", 1), ("k", 1000), ("M", 1_000_000), ("G", 1_000_000_000)];
pub const SPANS: [(&str, u64); 4] = [("s", 1), ("min", 60), ("h", 3600), ("day", 86400)];
const CENTURY: f64 = 100.0 * 365.0 * 86400.0;

/// `250ms`, `10s`, `5m`, `1h30m`, `2d`, or `0`.
pub fn duration(text: &str) -> Result<Duration, String> {
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    let wrong = || {
        let like = text.split(|c: char| !c.is_ascii_digit()).find(|digits| !digits.is_empty());
        let like = like.unwrap_or("10");
        format!(
            "`{text}` is not a duration: expected a number with ms, s, m, h or d, like `{like}s`"
        )
    };
    let (mut rest, mut seconds, mut last) = (text, 0.0, f64::INFINITY);
    while !rest.is_empty() {
        let (number, after) = split_number(rest).ok_or_else(wrong)?;
        let end = after.find(|c: char| c.is_ascii_digit()).unwrap_or(after.len());
        let (_, unit) =
            *DURATIONS.iter().find(|(name, _)| *name == &after[..end]).ok_or_else(wrong)?;
        if unit >= last {
            return Err(wrong());
        }
        seconds += number * unit;
        last = unit;
        rest = &after[end..];
    }
    match seconds {
        _ if text.is_empty() => Err(wrong()),
        _ if seconds > CENTURY => Err(format!("`{text}` is longer than a century")),
        // Through milliseconds, so that `0.1s` and `100ms` are the same.
        _ => Ok(Duration::from_micros((seconds * 1e6).round() as u64)),
    }
}

/// Bytes: `64KiB`, `1MiB`, `10MB`, `512`.
pub fn size(text: &str) -> Result<u64, String> {
    scaled(text, &SIZES).ok_or_else(|| {
        format!(
            "`{text}` is not a size: expected a number with KiB, MiB, GiB, kB, MB or GB, like `64KiB`"
        )
    })
}

/// `200k`, `1M`, `5`.
pub fn count(text: &str) -> Result<u64, String> {
    scaled(text, &COUNTS).ok_or_else(|| {
        format!("`{text}` is not a count: expected a whole number, like `5` or `200k`")
    })
}

/// `0.2` or `20%`, from 0 to the whole.
pub fn share(text: &str) -> Result<f64, String> {
    let (number, whole) = text.strip_suffix('%').map_or((text, 1.0), |number| (number, 100.0));
    match split_number(number) {
        Some((number, "")) if number <= whole => Ok(number / whole),
        Some((_, "")) => {
            Err(format!("`{text}` is more than 100%: expected a share, like `0.2` or `20%`"))
        }
        _ => Err(format!(
            "`{text}` is not a share: expected a number from 0 to 1, like `0.2` or `20%`"
        )),
    }
}

/// `2`, `1.5`.
pub fn number(text: &str) -> Result<f64, String> {
    match split_number(text) {
        Some((number, "")) => Ok(number),
        _ => Err(format!("`{text}` is not a number: expected one like `2.0`")),
    }
}

/// Three capital letters.
pub type Currency = [char; 3];

/// An amount of money per time unit.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spend {
    pub amount: f64,
    pub currency: Currency,
    pub per: Duration,
}

/// `USD`
pub fn currency(text: &str) -> Result<Currency, String> {
    let code = <Currency>::try_from(text.chars().collect::<Vec<_>>()).ok();
    code.filter(|code| code.iter().all(char::is_ascii_uppercase)).ok_or_else(|| {
        format!("`{text}` is not a currency: expected three capital letters, like `USD`")
    })
}

/// `5 USD/h`
pub fn spend(text: &str) -> Result<Spend, String> {
    let wrong = || {
        format!(
            "`{text}` is not a cost per time: expected an amount, a currency and a time unit (s, min, h or day), like `5 USD/h`"
        )
    };
    let (money, span) = text.split_once('/').ok_or_else(wrong)?;
    let (amount, code) = money.split_once(' ').ok_or_else(wrong)?;
    Ok(Spend {
        per: span_named(span).ok_or_else(wrong)?,
        amount: number(amount).map_err(|_| wrong())?,
        currency: currency(code)?,
    })
}

/// A number per time unit.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rate {
    pub amount: u64,
    pub per: Duration,
}

impl Rate {
    pub fn per_second(self) -> f64 {
        self.amount as f64 / self.per.as_secs_f64()
    }
}

/// `500/min`, `5/s`, `1000/h`, `200k/min`
pub fn rate(text: &str) -> Result<Rate, String> {
    let parts = text.split_once('/');
    let found = parts.and_then(|(amount, span)| {
        Some(Rate { amount: scaled(amount, &COUNTS)?, per: span_named(span)? })
    });
    found.ok_or_else(|| {
        format!(
            "`{text}` is not a rate: expected a whole number and s, min, h or day, like `500/min`"
        )
    })
}

/// As it would be written.
pub fn show_duration(duration: Duration) -> String {
    match duration.as_secs() {
        _ if duration.subsec_millis() > 0 => format!("{}ms", duration.as_millis()),
        seconds if seconds > 0 && seconds % 86400 == 0 => format!("{}d", seconds / 86400),
        seconds if seconds > 0 && seconds % 3600 == 0 => format!("{}h", seconds / 3600),
        seconds if seconds > 0 && seconds % 60 == 0 => format!("{}m", seconds / 60),
        seconds => format!("{seconds}s"),
    }
}

/// In at most two units: `850ms`, `12s`, `3m20s`, `4h00m`, `6d23h`.
pub fn show_elapsed(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let (minutes, hours, days) = (seconds / 60, seconds / 3_600, seconds / 86_400);
    match (days, hours, minutes, seconds) {
        (0, 0, 0, 0) => format!("{}ms", duration.as_millis()),
        (0, 0, 0, seconds) => format!("{seconds}s"),
        (0, 0, minutes, seconds) => format!("{minutes}m{:02}s", seconds % 60),
        (0, hours, minutes, _) => format!("{hours}h{:02}m", minutes % 60),
        (days, hours, ..) => format!("{days}d{:02}h", hours % 24),
    }
}

pub fn show_size(bytes: u64) -> String {
    let units = [("GiB", 30), ("MiB", 20), ("KiB", 10)];
    let fits = units.into_iter().find(|(_, bits)| bytes > 0 && bytes.trailing_zeros() >= *bits);
    fits.map_or_else(|| bytes.to_string(), |(unit, bits)| format!("{}{unit}", bytes >> bits))
}

fn span_named(name: &str) -> Option<Duration> {
    let (_, seconds) = SPANS.into_iter().find(|(span, _)| *span == name)?;
    Some(Duration::from_secs(seconds))
}

fn scaled(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (digits, unit) = text.split_at(end);
    let (_, unit) = *units.iter().find(|(name, _)| *name == unit)?;
    if let Ok(whole) = digits.parse::<u64>() {
        return whole.checked_mul(unit);
    }
    let (number, _) = split_number(digits).filter(|(_, rest)| rest.is_empty())?;
    let value = number * unit as f64;
    (value.fract() == 0.0 && value < 9e15).then_some(value as u64)
}

/// Digits with at most one point among them; finite.
fn split_number(text: &str) -> Option<(f64, &str)> {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (digits, rest) = text.split_at(end);
    let good = digits.starts_with(|c: char| c.is_ascii_digit())
        && digits.ends_with(|c: char| c.is_ascii_digit());
    let number = digits.parse::<f64>().ok().filter(|number| good && number.is_finite())?;
    Some((number, rest))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn durations_are_read() {
        let ms = |text| duration(text).unwrap().as_millis();
        assert_eq!(
            [
                ms("250ms"),
                ms("10s"),
                ms("5m"),
                ms("1h30m"),
                ms("2d"),
                ms("0.5s"),
                ms("0"),
                ms("0s")
            ],
            [250, 10_000, 300_000, 5_400_000, 172_800_000, 500, 0, 0]
        );
    }

    #[test]
    fn other_texts_are_rejected_with_an_example() {
        assert_eq!(
            duration("10 sec").unwrap_err(),
            "`10 sec` is not a duration: expected a number with ms, s, m, h or d, like `10s`"
        );
        for text in ["", "10", "s", "-1s", "1s1s", "1m1h", "1.s", ".5s", "1e3s", "1s ", "99999d"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn sizes_counts_and_shares_are_read() {
        assert_eq!(
            [size("64KiB"), size("10MB"), size("1.5KiB"), size("7")],
            [Ok(65536), Ok(10_000_000), Ok(1536), Ok(7)]
        );
        assert_eq!(
            [count("200k"), count("1M"), count("5"), count("2.5k")],
            [Ok(200_000), Ok(1_000_000), Ok(5), Ok(2500)]
        );
        assert_eq!(
            [share("0.2"), share("20%"), share("1"), share("0")],
            [Ok(0.2), Ok(0.2), Ok(1.0), Ok(0.0)]
        );
        for text in
            ["", "KiB", "-1", "1 MiB", "0.3", "99999999999999999999", "99999999999GiB", "1kb"]
        {
            assert!(size(text).is_err(), "{text}");
        }
        assert!(share("120%").unwrap_err().contains("more than 100%"));
        assert!(count("1.5").is_err() && share("x").is_err() && share("-0.1").is_err());
    }

    #[test]
    fn costs_are_read_with_their_currency_and_their_time() {
        let cost = |amount, code: &str, seconds| {
            let currency = currency(code).unwrap();
            Ok(Spend { amount, currency, per: Duration::from_secs(seconds) })
        };
        assert_eq!(spend("5 USD/h"), cost(5.0, "USD", 3600));
        assert_eq!(spend("0.25 EUR/min"), cost(0.25, "EUR", 60));
        assert_eq!(
            [spend("1 XAU/s"), spend("1 JPY/day")],
            [cost(1.0, "XAU", 1), cost(1.0, "JPY", 86400)]
        );
        assert!(spend("5 usd/h").unwrap_err().contains("like `USD`"));
        for text in [
            "",
            "5",
            "USD",
            "5 USD",
            "5USD/h",
            "5/h",
            "-5 USD/h",
            "5 USD/hour",
            "5 USD / h",
            "$5/h",
        ] {
            assert!(spend(text).unwrap_err().contains("like `5 USD/h`"), "{text}");
        }
        assert!(currency("US").is_err() && currency("ÄÖÜ").is_err() && currency("USDT").is_err());
    }

    #[test]
    fn rates_are_read() {
        let rated = |amount, seconds| Ok(Rate { amount, per: Duration::from_secs(seconds) });
        assert_eq!([rate("500/min"), rate("5/s")], [rated(500, 60), rated(5, 1)]);
        assert_eq!([rate("1000/h"), rate("200k/min")], [rated(1000, 3600), rated(200_000, 60)]);
        assert_eq!([rate("1.5k/day"), rate("0/s")], [rated(1500, 86_400), rated(0, 1)]);
        assert_eq!(rate("300/min").unwrap().per_second(), 5.0);
    }

    #[test]
    fn texts_that_are_not_rates_are_rejected_with_an_example() {
        for text in
            ["", "500", "/min", "500/", "500/m", "500 /min", "500/ min", "1.5/s", "-1/s", "5/s/s"]
        {
            assert!(rate(text).unwrap_err().contains("like `500/min`"), "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_a_unit_panic(text in "\\PC{0,12}", digits in "[0-9.]{0,400}[a-zA-Z%]{0,3}") {
            for text in [text, digits] {
                let _ = (duration(&text), size(&text), count(&text), share(&text), number(&text));
                let _ = (currency(&text), spend(&text), spend(&format!("{text} USD/h")));
                let _ = (rate(&text), rate(&format!("{text}/s")));
            }
        }
    }
}
