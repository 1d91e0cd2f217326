//! Reads the metrics and takes samples: the increases since the last reading, and levels.
//!
//! The metrics library shows the buckets of a histogram only as text, so that all are read from the
//! text. A line that was seen before costs one lookup, and its labels are not read again.

use std::collections::HashMap;

use prometheus_client::encoding::text::encode_registry;
use prometheus_client::registry::Registry;

use super::metric_list::{kind_of, number_of};
use super::series_table::{SeriesLabels, SeriesTable};
use crate::resilience::stats::metric_sample::{
    BUCKETS, HistogramSample, MetricSample, SampleSection, SampledKind, SampledValue,
};
use crate::telemetry::metrics::Metrics;

/// Reads some of the metrics again and again.
#[derive(Debug)]
pub struct MetricReader {
    registry: Registry,
    text: String,
    /// By their text without the value.
    lines: HashMap<Box<str>, KnownLine>,
    last: HashMap<u32, LastValue>,
    /// The series without a number, which are left out.
    pub left_out: usize,
}

/// The meaning of a line.
#[derive(Clone, Copy, Debug)]
struct KnownLine {
    metric: u16,
    kind: SampledKind,
    part: MetricPart,
    /// `None`: left out.
    series: Option<u32>,
    seen: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum MetricPart {
    Number,
    Sum,
    Count,
    /// The next bucket of its histogram.
    Bucket,
}

#[derive(Debug)]
struct LastValue {
    value: SampledValue,
    seen: u64,
}

/// The present value of a series.
#[derive(Debug)]
struct SeriesReading {
    metric: u16,
    kind: SampledKind,
    series: u32,
    value: SampledValue,
    /// Buckets read so far, and the observations in them.
    buckets: usize,
    below: u64,
}

impl MetricReader {
    pub fn new(metrics: &Metrics, names: &[&str]) -> MetricReader {
        MetricReader {
            registry: metrics.registry_of(names),
            text: String::new(),
            lines: HashMap::new(),
            last: HashMap::new(),
            left_out: 0,
        }
    }

    /// The sample since the last reading. Counters begin at zero with the process, and the first
    /// sample has all that they counted. `now` numbers the samples.
    pub fn read(&mut self, table: &mut SeriesTable, now: u64) -> MetricSample {
        self.text.clear();
        // Writing into a string cannot fail.
        let _ = encode_registry(&mut self.text, &self.registry);
        let text = std::mem::take(&mut self.text);
        let readings = self.readings(&text, table, now);
        self.text = text;
        let mut sample = MetricSample { slots: 1, sections: Vec::new() };
        for SeriesReading { metric, kind, series, value, .. } in readings {
            table.mark_seen(series, now);
            let increase = self.increase(series, kind, value, now);
            match sample.sections.last_mut().filter(|section| section.metric == metric) {
                Some(section) => section.push(series, increase),
                None => {
                    let mut section = SampleSection { metric, kind, entries: Vec::new() };
                    section.push(series, increase);
                    sample.sections.push(section);
                }
            }
        }
        self.last.retain(|_, last| last.seen == now);
        self.lines.retain(|_, line| line.seen == now);
        sample
    }

    /// All present values, by metric and series.
    fn readings(&mut self, text: &str, table: &mut SeriesTable, now: u64) -> Vec<SeriesReading> {
        let mut readings: Vec<SeriesReading> = Vec::with_capacity(self.last.len());
        self.left_out = 0;
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let Some((name, value)) = line.rsplit_once(' ') else { continue };
            let Some(known) = self.line(name, table, now) else { continue };
            let Some(series) = known.series else {
                self.left_out +=
                    usize::from(matches!(known.part, MetricPart::Number | MetricPart::Count));
                continue;
            };
            match readings.last_mut().filter(|reading| reading.series == series) {
                Some(reading) => reading.add(known.part, value),
                None => {
                    let mut reading = SeriesReading::new(known, series);
                    reading.add(known.part, value);
                    readings.push(reading);
                }
            }
        }
        readings.sort_unstable_by_key(|reading| (reading.metric, reading.series));
        readings
    }

    fn line(&mut self, name: &str, table: &mut SeriesTable, now: u64) -> Option<KnownLine> {
        if let Some(known) = self.lines.get_mut(name) {
            known.seen = now;
            // There may be room by now.
            if known.series.is_some() {
                return Some(*known);
            }
        }
        let (metric, labels) = name.split_once('{').unwrap_or((name, "}"));
        let parts = [
            ("_total", MetricPart::Number),
            ("_sum", MetricPart::Sum),
            ("_count", MetricPart::Count),
            ("_bucket", MetricPart::Bucket),
            ("", MetricPart::Number),
        ];
        let (metric, part) = parts.into_iter().find_map(|(suffix, part)| {
            let metric = metric.strip_suffix(suffix)?;
            number_of(metric).map(|_| (metric, part))
        })?;
        let mut labels = SeriesLabels::parse(labels.strip_suffix('}').unwrap_or(labels));
        if part == MetricPart::Bucket {
            labels.0.retain(|(label, _)| label != "le");
        }
        let (number, kind) = (number_of(metric)?, kind_of(metric));
        let series = table.number(number, labels, now);
        let known = KnownLine { metric: number, kind, part, series, seen: now };
        self.lines.insert(name.into(), known);
        Some(known)
    }

    fn increase(
        &mut self,
        series: u32,
        kind: SampledKind,
        value: SampledValue,
        now: u64,
    ) -> SampledValue {
        if kind == SampledKind::Level {
            return value;
        }
        let last = self.last.insert(series, LastValue { value: value.clone(), seen: now });
        match (value, last.map(|last| last.value)) {
            // A series that was removed begins again at zero.
            (SampledValue::Number(value), Some(SampledValue::Number(last))) if last <= value => {
                SampledValue::Number(value - last)
            }
            (SampledValue::Histogram(value), Some(SampledValue::Histogram(last))) => {
                SampledValue::Histogram(value.since(&last))
            }
            (value, _) => value,
        }
    }
}

impl SeriesReading {
    fn new(line: KnownLine, series: u32) -> SeriesReading {
        let value = match line.kind {
            SampledKind::Quantile => SampledValue::Histogram(HistogramSample::default()),
            SampledKind::Rate | SampledKind::Level => SampledValue::Number(0.0),
        };
        let KnownLine { metric, kind, .. } = line;
        SeriesReading { metric, kind, series, value, buckets: 0, below: 0 }
    }

    fn add(&mut self, part: MetricPart, text: &str) {
        let number = text.parse().ok().filter(|number: &f64| number.is_finite()).unwrap_or(0.0);
        match (&mut self.value, part) {
            (SampledValue::Number(value), MetricPart::Number) => *value = number,
            (SampledValue::Histogram(histogram), MetricPart::Sum) => histogram.sum = number,
            (SampledValue::Histogram(histogram), MetricPart::Bucket) if self.buckets < BUCKETS => {
                let count: u64 = text.parse().unwrap_or(self.below);
                histogram.buckets[self.buckets] = count.saturating_sub(self.below);
                self.buckets += 1;
                self.below = count;
            }
            _ => {}
        }
    }
}

#[cfg(test)]
#[path = "reader_tests.rs"]
mod tests;
