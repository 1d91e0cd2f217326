//! Figures of the last hour, and the policy in force as people write it.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::history::memory::MetricHistory;
use crate::policy::Locations;
use crate::policy::sections::model::Policy;
use crate::policy::yaml::locations::child_path;
use crate::resilience::stats::metric_sample::HistogramSample;

pub const WINDOW: Duration = Duration::from_secs(3600);

/// The figures of the last hour, as far as the sidecar ran.
#[derive(Clone, Copy, Debug)]
pub struct HourFigures<'h>(pub &'h MetricHistory);

impl HourFigures<'_> {
    /// The increase of a counter, over all series with these labels.
    pub fn total(self, metric: &str, labels: &[(&str, &str)]) -> f64 {
        self.totals_by(metric, labels, "").into_values().sum()
    }

    /// The increase of a counter by the value of a label, over all series with these labels.
    pub fn totals_by(
        self,
        metric: &str,
        labels: &[(&str, &str)],
        by: &str,
    ) -> BTreeMap<String, f64> {
        let mut totals = BTreeMap::new();
        for (found, total) in self.0.totals(metric, WINDOW) {
            if found.has(labels) {
                let value = found.get(by).unwrap_or_default().to_owned();
                *totals.entry(value).or_default() += total;
            }
        }
        totals
    }

    /// The observations of a histogram, over all series with these labels.
    pub fn histogram(self, metric: &str, labels: &[(&str, &str)]) -> HistogramSample {
        let mut all = HistogramSample::default();
        for (found, histogram) in self.0.histograms(metric, WINDOW) {
            if found.has(labels) {
                all.add(&histogram);
            }
        }
        all
    }

    /// The sampled levels of a gauge, over all series with these labels.
    pub fn levels(self, metric: &str, labels: &[(&str, &str)]) -> Vec<f64> {
        let all = self.0.levels(metric, WINDOW).into_iter();
        all.filter(|one| one.labels.has(labels)).flat_map(|one| one.levels).collect()
    }

    /// How much of the hour there is.
    pub fn seconds(self) -> u64 {
        self.0.covered("retry_denied", WINDOW).as_secs()
    }
}

/// The settings of an entry of the policy, such as `retries.default`, by their keys.
pub fn settings(policy: &Policy, entry: &str) -> BTreeMap<String, String> {
    let names = |section: &str, index: usize| policy.name(section, index);
    let rows = policy.show(&names).rows.into_iter();
    let below = rows.filter_map(|row| {
        let key = row.path.strip_prefix(entry)?.strip_prefix('.')?.to_owned();
        Some((key, row.text))
    });
    below.collect()
}

/// `FILE:LINE` of the first of these entries that the policy declares.
pub fn source(locations: &Locations, entries: &[&str]) -> Option<String> {
    entries.iter().find_map(|entry| locations.find(entry)).map(ToString::to_string)
}

/// The path of a key of a route.
pub fn route_key(route: &str, key: &str) -> String {
    child_path(&child_path("routes", route), key)
}

/// Milliseconds, rounded to a tenth.
pub fn millis(seconds: f64) -> f64 {
    (seconds * 1e4).round() / 10.0
}

pub fn count(total: f64) -> u64 {
    total.round() as u64
}
