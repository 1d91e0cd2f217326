//! Exemplars: for each bucket of a latency histogram the newest traced value, with its trace.
//!
//! The exporter of spans notes them, so that the histograms of the request path stay as they are.
//! They are added to the text of a scrape, because `prometheus_client` takes them only together
//! with an observation.

use std::collections::HashMap;
use std::fmt::Write;

use parking_lot::Mutex;

/// Series that are kept, if no scrape finds out which of them are gone.
const MAX_SERIES: usize = 4096;

/// A histogram with exemplars.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TracedHistogram {
    /// By route.
    RequestDuration,
    /// By provider.
    FirstByte,
}

/// A value and the span that it belongs to.
#[derive(Clone, Debug, PartialEq)]
pub struct Exemplar {
    pub trace_id: String,
    pub span_id: String,
    /// In seconds.
    pub value: f64,
    /// Seconds since 1970.
    pub at: f64,
}

/// The newest exemplars: of each series by its bucket.
#[derive(Debug, Default)]
pub struct Exemplars {
    series: Mutex<HashMap<(TracedHistogram, String), Buckets>>,
}

#[derive(Debug, Default)]
struct Buckets {
    exemplars: Vec<Option<Exemplar>>,
    /// A scrape has found the series: it is removed when one no longer does.
    is_known: bool,
}

impl TracedHistogram {
    const ALL: [TracedHistogram; 2] =
        [TracedHistogram::RequestDuration, TracedHistogram::FirstByte];

    /// The start of a line of a bucket, up to its labels.
    fn prefix(self) -> &'static str {
        match self {
            TracedHistogram::RequestDuration => "outrigger_request_duration_seconds_bucket{",
            TracedHistogram::FirstByte => "outrigger_first_byte_seconds_bucket{",
        }
    }

    /// The label that names the series.
    fn label(self) -> &'static str {
        match self {
            TracedHistogram::RequestDuration => "route",
            TracedHistogram::FirstByte => "provider",
        }
    }
}

impl Exemplars {
    /// Notes a value of a series; `bounds` are the upper bounds of its buckets but the last.
    pub fn note(&self, histogram: TracedHistogram, series: &str, bounds: &[f64], new: Exemplar) {
        let bucket = bounds.partition_point(|bound| *bound < new.value);
        let mut all = self.series.lock();
        let key = (histogram, series.to_owned());
        if all.len() >= MAX_SERIES && !all.contains_key(&key) {
            return;
        }
        let known = all.entry(key).or_default();
        known.exemplars.resize(bounds.len() + 1, None);
        known.exemplars[bucket] = Some(new);
    }

    /// Adds the exemplars to OpenMetrics text.
    pub fn add_to(&self, open_metrics: String) -> String {
        let mut all = self.series.lock();
        if all.is_empty() {
            return open_metrics;
        }
        all.values_mut().for_each(|buckets| buckets.is_known = false);
        let mut text = String::with_capacity(open_metrics.len() + 4096);
        // The lines of a series follow each other, in the order of its buckets.
        let (mut last, mut at) = (None, 0);
        for line in open_metrics.lines() {
            text.push_str(line);
            if let Some(series) = series_of(line) {
                at = if last.as_ref() == Some(&series) { at + 1 } else { 0 };
                if let Some(buckets) = all.get_mut(&series) {
                    buckets.is_known = true;
                    if let Some(Some(exemplar)) = buckets.exemplars.get(at) {
                        exemplar.write(&mut text);
                    }
                }
                last = Some(series);
            }
            text.push('\n');
        }
        all.retain(|_, buckets| buckets.is_known);
        text
    }
}

impl Exemplar {
    fn write(&self, text: &mut String) {
        let Exemplar { trace_id, span_id, value, at } = self;
        let labels = format!("trace_id=\"{trace_id}\",span_id=\"{span_id}\"");
        let _ = write!(text, " # {{{labels}}} {value} {at:.3}");
    }
}

/// The series of a line of a bucket.
fn series_of(line: &str) -> Option<(TracedHistogram, String)> {
    TracedHistogram::ALL.into_iter().find_map(|histogram| {
        let labels = line.strip_prefix(histogram.prefix())?;
        let start = format!("{}=\"", histogram.label());
        let (_, rest) = labels.split_once(&start)?;
        Some((histogram, rest.split_once('"')?.0.to_owned()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resilience::stats::metric_sample::BUCKET_SECONDS;
    use crate::telemetry::metrics::{Metrics, PolicyNames, RouteLabels};
    use crate::telemetry::prometheus_text::classic;

    fn exemplar(value: f64) -> Exemplar {
        Exemplar { trace_id: "ab".to_owned(), span_id: "cd".to_owned(), value, at: 5.25 }
    }

    fn with_exemplars(text: &str) -> Vec<&str> {
        text.lines().filter(|line| line.contains(" # {")).collect()
    }

    #[test]
    fn a_bucket_shows_its_newest_traced_value_in_open_metrics_only() {
        let (metrics, exemplars) = (Metrics::new(), Exemplars::default());
        for route in ["a", "b"] {
            metrics.request_duration_seconds.with(&RouteLabels { route: route.to_owned() });
        }
        assert!(with_exemplars(&exemplars.add_to(metrics.encode())).is_empty());
        for value in [0.3, 0.4, 0.5, 1000.0] {
            exemplars.note(TracedHistogram::RequestDuration, "b", &BUCKET_SECONDS, exemplar(value));
        }
        let plain = metrics.encode();
        let text = exemplars.add_to(plain.clone());
        assert_eq!(
            with_exemplars(&text),
            [
                "outrigger_request_duration_seconds_bucket{le=\"0.5\",route=\"b\"} 0 \
                 # {trace_id=\"ab\",span_id=\"cd\"} 0.5 5.250",
                "outrigger_request_duration_seconds_bucket{le=\"+Inf\",route=\"b\"} 0 \
                 # {trace_id=\"ab\",span_id=\"cd\"} 1000 5.250",
            ]
        );
        assert!(text.ends_with("# EOF\n"));
        assert!(with_exemplars(&classic(&plain)).is_empty());
    }

    #[test]
    fn exemplars_of_a_removed_route_are_forgotten() {
        let (metrics, exemplars) = (Metrics::new(), Exemplars::default());
        metrics.request_duration_seconds.with(&RouteLabels { route: "a".to_owned() });
        exemplars.note(TracedHistogram::RequestDuration, "a", &BUCKET_SECONDS, exemplar(1.0));
        metrics.retain(&PolicyNames::default());
        exemplars.add_to(metrics.encode());
        assert!(exemplars.series.lock().is_empty());
    }
}
