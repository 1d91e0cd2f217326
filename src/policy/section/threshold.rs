//! The thresholds of a benchmark: `p95 < 2s`.
//!
//! The unit of the value follows from the measure, so that a threshold cannot compare seconds with
//! a share.

use super::texts;
use crate::policy::text::suggest::did_you_mean;
use crate::policy::yaml::units;
use crate::resilience::words::words;

words! {
    /// A time of a call.
    pub enum TimedFigure {
        Latency = "latency",
        FirstByte = "first_byte",
        FirstContent = "first_content",
        TokenGap = "token_gap",
    }

    /// A part of the calls.
    pub enum Percentile {
        P50 = "p50",
        P90 = "p90",
        P95 = "p95",
        P99 = "p99",
        Max = "max",
    }

    /// How the measured value is compared with the limit.
    pub enum ThresholdSign {
        AtMost = "<=",
        AtLeast = ">=",
        Below = "<",
        Above = ">",
    }
}

/// The figure that a threshold limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ThresholdMeasure {
    Time(TimedFigure, Percentile),
    ErrorRate,
    Cost,
    TokensPerSecond,
    Throughput,
}

/// A threshold.
#[derive(Clone, Debug, PartialEq)]
pub struct Threshold {
    /// As it is written.
    pub text: String,
    pub measure: ThresholdMeasure,
    pub sign: ThresholdSign,
    /// Seconds, a share, an amount of money, or a number in a second.
    pub limit: f64,
    /// Of a cost: three capital letters (ISO 4217).
    pub currency: Option<String>,
}

const OTHERS: [(&str, ThresholdMeasure); 4] = [
    ("error_rate", ThresholdMeasure::ErrorRate),
    ("cost", ThresholdMeasure::Cost),
    ("tokens_per_second", ThresholdMeasure::TokensPerSecond),
    ("throughput", ThresholdMeasure::Throughput),
];

texts! {
    impl Threshold for Threshold: "a threshold like `p95 < 2s`",
        ValueShape::Scalar("threshold", serde_json::json!({
            "description": "`p95 < 2s`, `first_content.p95 < 800ms`, `error_rate < 1%`, `cost < 0.50 USD`, `tokens_per_second > 40`, `throughput > 10/s`",
            "type": "string", "pattern": "^[a-z0-9_.]+ *(<|>|<=|>=) *[0-9].*$",
        })),
        Threshold::parse, |threshold: &Threshold| threshold.text.clone();
}

impl Threshold {
    /// Reads a threshold.
    ///
    /// # Errors
    /// With what was expected.
    pub fn parse(text: &str) -> Result<Threshold, String> {
        let wrong = || {
            format!(
                "`{text}` is not a threshold: expected a measure, `<` or `>`, and a value, like `p95 < 2s`"
            )
        };
        let at = text.find(['<', '>']).ok_or_else(wrong)?;
        let (name, rest) = (text[..at].trim(), &text[at..]);
        let signs = ThresholdSign::ALL.into_iter();
        let sign = signs.filter(|sign| rest.starts_with(sign.as_str()));
        let sign = sign.max_by_key(|sign| sign.as_str().len()).ok_or_else(wrong)?;
        let value = rest[sign.as_str().len()..].trim();
        if name.is_empty() || value.is_empty() {
            return Err(wrong());
        }
        let measure = ThresholdMeasure::parse(name)?;
        let (limit, currency) = measure.value(value)?;
        Ok(Threshold { text: text.to_owned(), measure, sign, limit, currency })
    }

    pub fn holds(&self, value: f64) -> bool {
        match self.sign {
            ThresholdSign::Below => value < self.limit,
            ThresholdSign::Above => value > self.limit,
            ThresholdSign::AtMost => value <= self.limit,
            ThresholdSign::AtLeast => value >= self.limit,
        }
    }

    /// Whether it is an upper limit.
    pub fn is_upper(&self) -> bool {
        matches!(self.sign, ThresholdSign::Below | ThresholdSign::AtMost)
    }

    /// A value in the unit of the threshold: `1.32s`.
    pub fn show(&self, value: f64) -> String {
        match self.measure {
            ThresholdMeasure::Time(..) if value < 1.0 => format!("{:.1}ms", value * 1e3),
            ThresholdMeasure::Time(..) => format!("{value:.2}s"),
            ThresholdMeasure::ErrorRate => format!("{:.2}%", value * 100.0),
            ThresholdMeasure::Cost => {
                format!("{value:.4} {}", self.currency.as_deref().unwrap_or_default())
            }
            ThresholdMeasure::TokensPerSecond => format!("{value:.1}"),
            ThresholdMeasure::Throughput => format!("{value:.2}/s"),
        }
    }
}

impl ThresholdMeasure {
    fn parse(name: &str) -> Result<ThresholdMeasure, String> {
        if let Some((_, measure)) = OTHERS.iter().find(|(known, _)| *known == name) {
            return Ok(*measure);
        }
        let (figure, percentile) = name.split_once('.').unwrap_or(("latency", name));
        let figure = TimedFigure::ALL.into_iter().find(|known| known.as_str() == figure);
        let percentile = Percentile::ALL.into_iter().find(|known| known.as_str() == percentile);
        match figure.zip(percentile) {
            Some((figure, percentile)) => Ok(ThresholdMeasure::Time(figure, percentile)),
            None => Err(unknown(name)),
        }
    }

    /// The value and its currency.
    fn value(self, text: &str) -> Result<(f64, Option<String>), String> {
        let open = |number: f64| (number, None);
        match self {
            ThresholdMeasure::Time(..) => {
                units::duration(text).map(|time| open(time.as_secs_f64()))
            }
            ThresholdMeasure::ErrorRate => units::share(text).map(open),
            ThresholdMeasure::TokensPerSecond => units::number(text).map(open),
            ThresholdMeasure::Throughput => units::rate(text).map(|rate| open(rate.per_second())),
            ThresholdMeasure::Cost => {
                let wrong = || {
                    format!(
                        "`{text}` is not a cost: expected an amount and a currency, like `0.50 USD`"
                    )
                };
                let (amount, code) = text.split_once(' ').ok_or_else(wrong)?;
                let amount = units::number(amount).map_err(|_| wrong())?;
                Ok((amount, Some(units::currency(code.trim())?.iter().collect())))
            }
        }
    }
}

fn unknown(name: &str) -> String {
    let times = TimedFigure::ALL.map(TimedFigure::as_str);
    let percentiles = Percentile::ALL.map(Percentile::as_str);
    let others = OTHERS.map(|(known, _)| known);
    let known = percentiles.iter().chain(&others).copied();
    let hint = did_you_mean(name, known).map(|hint| format!(" ({hint})")).unwrap_or_default();
    format!(
        "unknown measure `{name}`{hint}: expected one of {}, a time with a percentile, like `{}.p95`, or one of {}",
        percentiles.join(", "),
        times[2],
        others.join(", ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn threshold(text: &str) -> Threshold {
        Threshold::parse(text).unwrap()
    }

    #[test]
    fn thresholds_are_read_with_the_unit_of_their_measure() {
        let limit = |text| threshold(text).limit;
        assert_eq!([limit("p95 < 2s"), limit("latency.max<=1m30s")], [2.0, 90.0]);
        assert_eq!([limit("error_rate < 1%"), limit("tokens_per_second > 40")], [0.01, 40.0]);
        assert_eq!([limit("throughput >= 30/min"), limit("cost < 0.50 USD")], [0.5, 0.5]);
        assert_eq!(threshold("cost < 0.50 USD").currency.as_deref(), Some("USD"));
        let measure = ThresholdMeasure::Time(TimedFigure::FirstContent, Percentile::P95);
        assert_eq!(threshold("first_content.p95 < 800ms").measure, measure);
    }

    #[test]
    fn a_limit_itself_holds_only_where_the_sign_says_so() {
        let holds = |text| threshold(text).holds(2.0);
        assert_eq!([holds("p95 < 2s"), holds("p95 <= 2s")], [false, true]);
        assert_eq!([holds("p95 > 2s"), holds("p95 >= 2s")], [false, true]);
    }

    proptest! {
        #[test]
        fn no_text_makes_a_threshold_panic(text in "\\PC{0,16}", value in "[0-9.]{0,20}[a-zA-Z%/ ]{0,6}") {
            let _ = Threshold::parse(&text);
            for measure in ["p95", "cost", "error_rate", "throughput", "tokens_per_second"] {
                let _ = Threshold::parse(&format!("{measure} < {value}"));
            }
        }
    }
}
