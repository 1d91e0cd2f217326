use proptest::prelude::*;

use super::*;
use crate::history::metric_list::SAMPLED;
use crate::history::reader::MetricReader;
use crate::telemetry::metrics::{Metrics, PolicyNames, ProviderLabels, RequestLabels, RouteLabels};

const START: u64 = 1_700_000_000;

/// Samples of metrics, one for each slot.
struct Fixture {
    metrics: Metrics,
    reader: MetricReader,
    history: MetricHistory,
    slot: u64,
}

impl Fixture {
    fn new() -> Fixture {
        let metrics = Metrics::new();
        let reader = MetricReader::new(&metrics, SAMPLED);
        Fixture { metrics, reader, history: MetricHistory::default(), slot: 0 }
    }

    fn requests(&self, route: &str, status: &'static str, count: u64) {
        let labels = RequestLabels { route: route.to_owned(), status };
        self.metrics.requests.with(&labels).inc_by(count);
    }

    fn sample(&mut self) {
        let (reader, slot) = (&mut self.reader, self.slot);
        let sample = self.history.with(|state| reader.read(&mut state.table, slot));
        self.history.push_slot(START + slot * SLOT_SECONDS, &sample);
        self.slot += 1;
    }

    /// `labels=value value ...` of each series.
    async fn read(&self, query: SeriesQuery) -> Vec<String> {
        let found = self.history.series(query, None).await.expect("series");
        let value = |value: Option<f64>| value.map_or("-".to_owned(), |value| format!("{value}"));
        let show = |one: SeriesValues| {
            let labels: Vec<_> = one.labels.0.into_iter().map(|(_, value)| value).collect();
            let values: Vec<_> = one.values.into_iter().map(value).collect();
            format!("{}={}", labels.join("/"), values.join(" "))
        };
        found.into_iter().map(show).collect()
    }
}

fn query(metric: &'static str, by: &[&str], steps: u64, step: u64) -> SeriesQuery {
    SeriesQuery {
        metric,
        resolution: Resolution::TenSeconds,
        by: by.iter().map(|label| (*label).to_owned()).collect(),
        wanted: BTreeMap::new(),
        from: START,
        to: START + steps * step,
        step,
    }
}

#[tokio::test]
async fn a_counter_is_a_rate_that_is_summed_over_other_labels() {
    let mut fixture = Fixture::new();
    fixture.requests("a", "2xx", 20);
    fixture.requests("a", "5xx", 10);
    fixture.sample();
    fixture.requests("b", "2xx", 5);
    fixture.sample();
    let all = fixture.read(query("requests", &["route", "status"], 3, 10)).await;
    assert_eq!(all, ["a/2xx=2 0 -", "a/5xx=1 0 -", "b/2xx=0 0.5 -"]);
    let by_route = fixture.read(query("requests", &["route"], 3, 10)).await;
    assert_eq!(by_route, ["a=3 0 -", "b=0 0.5 -"]);
    assert_eq!(fixture.read(query("requests", &[], 1, 20)).await, ["=1.75"]);
    // The second half of a step was not sampled yet.
    assert_eq!(fixture.read(query("requests", &[], 1, 40)).await, ["=1.75"]);
    let mut failed = query("requests", &["route"], 2, 10);
    failed.wanted.insert("status".to_owned(), vec!["5xx".to_owned(), "499".to_owned()]);
    assert_eq!(fixture.read(failed).await, ["a=1 0"]);
}

#[tokio::test]
async fn a_gauge_has_the_last_level_of_each_step() {
    let mut fixture = Fixture::new();
    for (a, b) in [(1, 2), (3, 4), (5, 6), (7, 8)] {
        for (provider, level) in [("a", a), ("b", b)] {
            let labels = ProviderLabels { provider: provider.to_owned() };
            fixture.metrics.concurrency_limit.get_or_create_owned(&labels).set(level);
        }
        fixture.sample();
    }
    fixture.metrics.concurrency_limit.clear();
    fixture.sample();
    let limits = |by: &[&str], steps, step| query("concurrency_limit", by, steps, step);
    let both = fixture.read(limits(&["provider"], 3, 20)).await;
    assert_eq!(both, ["a=3 7 -", "b=4 8 -"]);
    assert_eq!(fixture.read(limits(&[], 5, 10)).await, ["=3 7 11 15 -"]);
}

#[tokio::test]
async fn a_histogram_has_quantiles_and_a_mean() {
    let mut fixture = Fixture::new();
    for route in ["a", "b"] {
        let labels = RouteLabels { route: route.to_owned() };
        let seconds = fixture.metrics.request_duration_seconds.with(&labels);
        [0.3, 0.3, 0.4, 0.4].iter().for_each(|one| seconds.observe(*one));
    }
    fixture.sample();
    fixture.sample();
    let seconds = fixture.read(query("request_duration_seconds", &[], 2, 10)).await;
    assert_eq!(seconds.len(), 4);
    assert_eq!((&*seconds[0], &*seconds[1]), ("0.5=0.375 -", "0.95=0.4875 -"));
    assert!(seconds[3].starts_with("mean=0.35"), "{seconds:?}");
}

#[tokio::test]
async fn samples_of_a_time_that_comes_twice_are_averaged() {
    let mut fixture = Fixture::new();
    fixture.requests("a", "2xx", 20);
    fixture.sample();
    fixture.slot = 0;
    fixture.requests("a", "2xx", 10);
    fixture.sample();
    assert_eq!(fixture.read(query("requests", &[], 1, 10)).await, ["=1.5"]);
}

#[tokio::test]
async fn too_many_values_are_refused() {
    let mut fixture = Fixture::new();
    for route in 0..300 {
        fixture.requests(&route.to_string(), "2xx", 1);
    }
    fixture.sample();
    let all = query("requests", &["route"], 1_500, 10);
    let refused = fixture.history.series(all, None).await;
    assert!(matches!(refused, Err(SeriesError::TooMany(_))), "{refused:?}");
    assert_eq!(fixture.read(query("requests", &[], 1_500, 10)).await.len(), 1);
}

proptest! {
    /// Rates times the length of their steps sum up to what the counter counted.
    #[test]
    fn rates_times_steps_sum_up_to_the_increase(
        increases in prop::collection::vec((0..1_000_u64, prop::bool::weighted(0.1)), 1..60),
        step in 1..7_u64,
    ) {
        let mut fixture = Fixture::new();
        let mut counted = 0;
        for (increase, is_removed) in &increases {
            if *is_removed {
                fixture.metrics.retain(&PolicyNames::default());
            }
            // A series that was removed between two samples begins again: with less than before.
            let seen = fixture.metrics.requests.with(&RequestLabels { route: "a".to_owned(), status: "2xx" }).get();
            prop_assert!(!is_removed || seen == 0);
            if *is_removed {
                fixture.sample();
            }
            fixture.requests("a", "2xx", *increase);
            counted += increase;
            fixture.sample();
        }
        let steps = fixture.slot.div_ceil(step);
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        let query = query("requests", &["route"], steps, step * SLOT_SECONDS);
        let found = runtime.block_on(fixture.history.series(query, None)).expect("series");
        let mut summed = 0.0;
        for (at, rate) in found.iter().flat_map(|one| one.values.iter().enumerate()) {
            // The last step may be incomplete.
            let slots = (fixture.slot - at as u64 * step).min(step);
            summed += rate.expect("sampled") * (slots * SLOT_SECONDS) as f64;
        }
        prop_assert!((summed - counted as f64).abs() < 1e-6 * (counted as f64).max(1.0));
    }
}
