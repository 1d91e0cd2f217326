//! The figures of a metric over time, from samples: for charts.

use std::collections::{BTreeMap, HashMap};

use super::memory::{MetricHistory, StoredSample};
use super::metric_list::{kind_of, number_of};
use super::series_table::SeriesLabels;
use crate::resilience::stats::metric_sample::{
    BUCKETS, HistogramSample, SLOT_SECONDS, SampleReader, SampledKind, SampledValue, SectionReader,
};
use crate::store::{Resolution, SampleQuery, Store, StoreError, StoredSamples};

/// Values of all series of one query. A histogram's count for more, because each has its buckets.
const MAX_VALUES: usize = 400_000;

/// The samples of a query, and how they are combined.
#[derive(Clone, Debug)]
pub struct SeriesQuery {
    pub metric: &'static str,
    pub resolution: Resolution,
    /// The labels to keep; the series that differ in the others are summed.
    pub by: Vec<String>,
    /// Values of a label, one of which a series must have; those of each label must hold.
    pub wanted: BTreeMap<String, Vec<String>>,
    /// Unix time in seconds: multiples of the step.
    pub from: u64,
    pub to: u64,
    /// Seconds between two values: a multiple of the resolution.
    pub step: u64,
}

/// The figures of one set of labels.
#[derive(Debug, PartialEq)]
pub struct SeriesValues {
    pub labels: SeriesLabels,
    /// By step; `None` where nothing is known.
    pub values: Vec<Option<f64>>,
}

/// Why a query has no result.
#[derive(Debug, thiserror::Error)]
pub enum SeriesError {
    /// This many values are allowed.
    #[error("too many series and points (expected at most {0} values)")]
    TooMany(usize),
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Combines samples.
#[derive(Debug)]
struct SeriesBuilder {
    query: SeriesQuery,
    metric: u16,
    kind: SampledKind,
    /// By the number of a series; `None` for those that are not wanted.
    groups_of: HashMap<u32, Option<usize>>,
    group_numbers: HashMap<SeriesLabels, usize>,
    groups: Vec<SeriesGroup>,
    steps: Vec<CoveredStep>,
    /// Samples so far.
    samples: u32,
    is_too_large: bool,
}

/// The series that are combined into one.
#[derive(Debug)]
struct SeriesGroup {
    labels: SeriesLabels,
    /// By step. The figures of a gauge are of one sample.
    figures: Vec<StepFigure>,
}

#[derive(Clone, Debug, Default)]
struct StepFigure {
    number: f64,
    /// The sample of the number.
    sample: u32,
    histogram: Option<Box<HistogramSample>>,
}

#[derive(Clone, Copy, Debug, Default)]
struct CoveredStep {
    /// Slots of 10 s that its samples cover.
    slots: u32,
    last_sample: u32,
}

impl MetricHistory {
    /// Reads the figures from memory if it reaches back far enough or if there is no store, else
    /// from the store.
    ///
    /// # Errors
    /// If there are too many values, or the store cannot be read.
    pub async fn series(
        &self,
        query: SeriesQuery,
        store: Option<&Store>,
    ) -> Result<Vec<SeriesValues>, SeriesError> {
        let is_fine = query.resolution == Resolution::TenSeconds;
        let builder = SeriesBuilder::new(query);
        let from = builder.query.from;
        let reaches = self.oldest().is_some_and(|oldest| oldest <= from);
        match store {
            Some(store) if !(is_fine && reaches) => {
                let SeriesQuery { resolution, from, to, .. } = builder.query;
                let query = SampleQuery { metric: builder.metric, resolution, from, to };
                store.samples(query, builder).await?.finish()
            }
            _ => self.series_in_memory(builder).finish(),
        }
    }

    fn series_in_memory(&self, mut builder: SeriesBuilder) -> SeriesBuilder {
        self.with(|state| {
            for (number, labels) in state.table.of_metric(builder.metric) {
                builder.add_series(number, labels);
            }
            for StoredSample { at, data } in state.slots.iter() {
                // Never damaged in memory.
                let Ok(reader) = SampleReader::new(data) else { continue };
                let slots = reader.slots;
                let Ok(section) = reader.section(builder.metric) else { continue };
                builder.sample(*at, slots, section);
            }
        });
        builder
    }

    /// The time of the oldest sample in memory.
    fn oldest(&self) -> Option<u64> {
        self.with(|state| state.slots.iter().next().map(|sample| sample.at))
    }
}

impl StoredSamples for SeriesBuilder {
    fn series(&mut self, number: u32, labels: &str) {
        // Labels that cannot be read are not wanted.
        let labels = SeriesLabels::from_json(labels);
        labels.iter().for_each(|labels| self.add_series(number, labels));
    }

    fn sample(&mut self, at: u64, slots: u32, section: Option<SectionReader<'_>>) {
        let SeriesQuery { from, to, step, .. } = self.query;
        let position = at.checked_sub(from).filter(|_| at < to).map(|since| since / step);
        let Some(position) = position.and_then(|position| usize::try_from(position).ok()) else {
            return;
        };
        let Some(covered) = self.steps.get_mut(position) else { return };
        self.samples += 1;
        covered.slots = covered.slots.saturating_add(slots);
        covered.last_sample = self.samples;
        let Some(mut section) = section else { return };
        while let Ok(Some(entry)) = section.next_entry() {
            if let Some(Some(group)) = self.groups_of.get(&entry.series) {
                let figure = &mut self.groups[*group].figures[position];
                figure.add(entry.value, self.kind, self.samples);
            }
        }
    }
}

impl SeriesBuilder {
    fn new(query: SeriesQuery) -> SeriesBuilder {
        let count = (query.to - query.from).div_ceil(query.step.max(1));
        let count = usize::try_from(count).unwrap_or(MAX_VALUES).min(MAX_VALUES);
        SeriesBuilder {
            metric: number_of(query.metric).unwrap_or(u16::MAX),
            kind: kind_of(query.metric),
            query,
            groups_of: HashMap::new(),
            group_numbers: HashMap::new(),
            groups: Vec::new(),
            steps: vec![CoveredStep::default(); count],
            samples: 0,
            is_too_large: false,
        }
    }

    fn add_series(&mut self, number: u32, labels: &SeriesLabels) {
        let is_wanted = self.query.wanted.iter().all(|(name, values)| {
            labels.get(name).is_some_and(|own| values.iter().any(|value| value == own))
        });
        let group = if is_wanted { self.group(labels) } else { None };
        self.groups_of.insert(number, group);
    }

    fn group(&mut self, labels: &SeriesLabels) -> Option<usize> {
        let by = &self.query.by;
        let kept = labels.0.iter().filter(|(name, _)| by.contains(name)).cloned();
        let labels = SeriesLabels(kept.collect());
        if let Some(group) = self.group_numbers.get(&labels) {
            return Some(*group);
        }
        let weight = if self.kind == SampledKind::Quantile { BUCKETS } else { 1 };
        if (self.groups.len() + 1) * self.steps.len() * weight > MAX_VALUES {
            self.is_too_large = true;
            return None;
        }
        let group = self.groups.len();
        let figures = vec![StepFigure::default(); self.steps.len()];
        self.groups.push(SeriesGroup { labels: labels.clone(), figures });
        self.group_numbers.insert(labels, group);
        Some(group)
    }

    /// The series that have a value, in the order of their labels.
    fn finish(mut self) -> Result<Vec<SeriesValues>, SeriesError> {
        if self.is_too_large {
            return Err(SeriesError::TooMany(MAX_VALUES));
        }
        self.groups.sort_by(|a, b| a.labels.cmp(&b.labels));
        let mut series = Vec::new();
        for SeriesGroup { labels, figures } in self.groups {
            if figures.iter().all(|figure| figure.sample == 0) {
                continue;
            }
            let steps = || figures.iter().zip(&self.steps);
            match self.kind {
                SampledKind::Rate => {
                    let values = steps().map(|(figure, step)| step.rate(figure)).collect();
                    series.push(SeriesValues { labels, values });
                }
                SampledKind::Level => {
                    let values = steps().map(|(figure, step)| step.level(figure)).collect();
                    series.push(SeriesValues { labels, values });
                }
                SampledKind::Quantile => series.extend(quantiles(&labels, &figures)),
            }
        }
        Ok(series)
    }
}

/// The quantiles and the mean, each as a series.
fn quantiles(labels: &SeriesLabels, figures: &[StepFigure]) -> Vec<SeriesValues> {
    let of = |name: &str, value: &dyn Fn(&HistogramSample) -> Option<f64>| {
        let mut labels = labels.clone();
        labels.0.push(("quantile".to_owned(), name.to_owned()));
        let values = figures.iter().map(|figure| value(figure.histogram.as_deref()?));
        SeriesValues { labels, values: values.collect() }
    };
    vec![
        of("0.5", &|histogram| histogram.quantile(0.5)),
        of("0.95", &|histogram| histogram.quantile(0.95)),
        of("0.99", &|histogram| histogram.quantile(0.99)),
        of("mean", &HistogramSample::mean),
    ]
}

impl StepFigure {
    fn add(&mut self, value: SampledValue, kind: SampledKind, sample: u32) {
        match value {
            SampledValue::Number(number) if kind == SampledKind::Level && self.sample != sample => {
                self.number = number;
            }
            SampledValue::Number(number) => self.number += number,
            SampledValue::Histogram(more) => self.histogram.get_or_insert_default().add(&more),
        }
        self.sample = sample;
    }
}

impl CoveredStep {
    /// Events per second of the time that was sampled.
    fn rate(self, figure: &StepFigure) -> Option<f64> {
        let seconds = f64::from(self.slots) * SLOT_SECONDS as f64;
        (self.slots > 0).then(|| figure.number / seconds)
    }

    /// The level at the last sample.
    fn level(self, figure: &StepFigure) -> Option<f64> {
        let is_last = self.last_sample > 0 && figure.sample == self.last_sample;
        is_last.then_some(figure.number)
    }
}

#[cfg(test)]
#[path = "series_tests.rs"]
mod tests;
