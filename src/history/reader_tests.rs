use proptest::prelude::*;

use super::*;
use crate::history::metric_list::SAMPLED;
use crate::telemetry::metrics::{
    PolicyNames, ProviderLabels, ReasonLabels, RequestLabels, RouteLabels,
};

fn request(route: &str, status: &'static str) -> RequestLabels {
    RequestLabels { route: route.to_owned(), status }
}

fn number(sample: &MetricSample, table: &SeriesTable, metric: &str, value: &str) -> Option<f64> {
    let section = sample.sections.iter().find(|one| Some(one.metric) == number_of(metric))?;
    let entry = section.entries.iter().find(|entry| {
        let labels = table.labels(entry.series).expect("known");
        labels.0.iter().any(|(_, own)| own == value)
    })?;
    match &entry.value {
        SampledValue::Number(number) => Some(*number),
        SampledValue::Histogram(_) => None,
    }
}

#[test]
fn counters_are_sampled_as_increases_and_gauges_as_levels() {
    let (metrics, mut table) = (Metrics::new(), SeriesTable::default());
    let mut reader = MetricReader::new(&metrics, SAMPLED);
    metrics.requests.with(&request("chat", "2xx")).inc_by(7);
    let provider = ProviderLabels { provider: "a".to_owned() };
    metrics.attempts_in_flight.get_or_create_owned(&provider).set(3);
    let first = reader.read(&mut table, 1);
    metrics.requests.with(&request("chat", "2xx")).inc_by(2);
    let second = reader.read(&mut table, 2);
    let third = reader.read(&mut table, 3);
    let of = |sample: &_, metric, value| number(sample, &table, metric, value);
    assert_eq!(of(&first, "requests", "chat"), Some(7.0));
    assert_eq!(of(&second, "requests", "chat"), Some(2.0));
    assert_eq!(of(&third, "requests", "chat"), None);
    assert_eq!(of(&third, "attempts_in_flight", "a"), Some(3.0));
}

#[test]
fn a_series_that_vanishes_and_returns_begins_at_zero() {
    let (metrics, mut table) = (Metrics::new(), SeriesTable::default());
    let mut reader = MetricReader::new(&metrics, SAMPLED);
    metrics.requests.with(&request("chat", "2xx")).inc_by(7);
    metrics.request_duration_seconds.with(&RouteLabels { route: "chat".to_owned() }).observe(0.3);
    reader.read(&mut table, 1);
    metrics.retain(&PolicyNames::default());
    let gone = reader.read(&mut table, 2);
    metrics.requests.with(&request("chat", "2xx")).inc_by(9);
    let again = reader.read(&mut table, 3);
    // Between two readings.
    metrics.retain(&PolicyNames::default());
    metrics.requests.with(&request("chat", "2xx")).inc_by(4);
    let replaced = reader.read(&mut table, 4);
    let of = |sample: &_| number(sample, &table, "requests", "chat");
    assert_eq!((of(&gone), of(&again), of(&replaced)), (None, Some(9.0), Some(4.0)));
}

#[test]
fn a_histogram_is_sampled_with_its_sum_and_buckets() {
    let (metrics, mut table) = (Metrics::new(), SeriesTable::default());
    let mut reader = MetricReader::new(&metrics, SAMPLED);
    let seconds = metrics.request_duration_seconds.with(&RouteLabels { route: "chat".to_owned() });
    seconds.observe(0.3);
    reader.read(&mut table, 1);
    [0.3, 0.4, 700.0].iter().for_each(|one| seconds.observe(*one));
    let sample = reader.read(&mut table, 2);
    let section = &sample.sections[0];
    assert_eq!(
        (Some(section.metric), section.entries.len()),
        (number_of("request_duration_seconds"), 1)
    );
    let SampledValue::Histogram(histogram) = &section.entries[0].value else {
        panic!("{section:?}")
    };
    assert!((histogram.sum - 700.7).abs() < 1e-9);
    assert_eq!((histogram.count(), histogram.buckets[8], histogram.buckets[16]), (3, 2, 1));
}

#[test]
fn series_beyond_the_bound_are_counted_and_left_out() {
    let (metrics, mut table) = (Metrics::new(), SeriesTable::default());
    let mut reader = MetricReader::new(&metrics, SAMPLED);
    for route in 0..2_010 {
        let labels = ReasonLabels { route: route.to_string(), reason: "failure" };
        metrics.retries.with(&labels).inc();
    }
    let sample = reader.read(&mut table, 1);
    let entries: usize = sample.sections.iter().map(|section| section.entries.len()).sum();
    // Those without labels, such as `connections`, are there as well.
    assert!(entries <= 2_000 && reader.left_out >= 10, "{entries} {}", reader.left_out);
    assert!(!reader.read(&mut table, 2).sections.is_empty());
}

proptest! {
    /// The increases sum up to all that was ever counted, whatever happens between two readings.
    #[test]
    fn increases_sum_up_to_the_counter(steps in prop::collection::vec((0..50_u64, 0..50_u64, any::<bool>()), 1..40)) {
        let (metrics, mut table) = (Metrics::new(), SeriesTable::default());
        let mut reader = MetricReader::new(&metrics, SAMPLED);
        let (mut counted, mut sampled) = (0, 0.0);
        for (now, (before, after, is_removed)) in steps.into_iter().enumerate() {
            metrics.requests.with(&request("chat", "2xx")).inc_by(before);
            counted += before;
            if is_removed {
                sampled += number(&reader.read(&mut table, 2 * now as u64), &table, "requests", "chat").unwrap_or(0.0);
                metrics.retain(&PolicyNames::default());
                let gone = reader.read(&mut table, 2 * now as u64 + 1);
                prop_assert!(number(&gone, &table, "requests", "chat").is_none());
                metrics.requests.with(&request("chat", "2xx")).inc_by(after);
                counted += after;
            }
        }
        sampled += number(&reader.read(&mut table, 1_000), &table, "requests", "chat").unwrap_or(0.0);
        prop_assert_eq!(sampled, counted as f64);
    }
}
