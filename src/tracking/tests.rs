use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::{Builder, Runtime};

use super::changes::DetectedChange;
use super::tracker::Tracker;
use crate::cache::CacheRegistry;
use crate::clock;
use crate::live::Live;
use crate::live::tracking::call_recorder::{CallRecorder, StreamTimes};
use crate::policy::{self, SourceFile, Sources};
use crate::resilience::baseline::SeriesKey;
use crate::resilience::baseline::detector::DetectorStatus;
use crate::resilience::baseline::measure::Measure;
use crate::resilience::outcome::AttemptClass;
use crate::snapshot::Snapshot;
use crate::snapshot::build::SnapshotBuilder;
use crate::store::{BASELINE_KEPT, StoredBaseline};
use crate::telemetry::metrics::Metrics;
use crate::upstream::Resolver;

/// An hour is enough to learn.
const LEARNING: u32 = 6;
const HOUR: u64 = 360;
const START: u64 = 20_000 * 8_640;
const MODEL: Option<&str> = Some("m");

/// Two providers with their routes, and a mode for when the first is slow.
const POLICY: &str = "version: 1
providers:
  a: { url: http://127.0.0.1:1, auth: none }
  b: { url: http://127.0.0.1:2, auth: none }
  c: { url: http://127.0.0.1:3, auth: none }
degradations:
  slow: { when: { slower_than_baseline: { of: a } }, for: 0s, recover_after: 0s, actions: [{ use: [b] }] }
  very_slow: { when: { slower_than_baseline: { of: chat, factor: 3 } }, for: 0s, recover_after: 0s, actions: [{ use: [b] }] }
  few_tokens: { when: { slower_than_baseline: { of: a, measure: tokens_per_second } }, for: 0s, recover_after: 0s, actions: [{ use: [b] }] }
  other: { when: { slower_than_baseline: { of: b } }, for: 0s, recover_after: 0s, actions: [{ use: [c] }] }
routes:
  - { name: chat, match: { path: /chat }, providers: [a], fallback: [b, c], degrade: [slow, very_slow, few_tokens, other] }
";

struct NoSources;

impl Sources for NoSources {
    fn env(&self, _: &str) -> Option<String> {
        None
    }

    fn file(&self, path: &Path) -> std::io::Result<Vec<u8>> {
        Err(std::io::Error::other(path.display().to_string()))
    }
}

/// A tracker whose clock and calls the test makes.
struct Tracked {
    tracker: Tracker,
    live: Arc<Live>,
    snapshot: Snapshot,
    number: u64,
    draws: fastrand::Rng,
    _runtime: Runtime,
}

impl Tracked {
    fn new() -> Self {
        let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
        let live = Arc::new(Live::new(Arc::new(Metrics::new()), 1 << 20, None));
        let file = SourceFile { name: "policy.yaml".to_owned(), bytes: POLICY.into() };
        let policy = policy::load(&[file], &NoSources).expect("a valid policy");
        let caches = Arc::new(CacheRegistry::new(Arc::clone(&live.metrics)).expect("a registry"));
        let resolver = Resolver::new(runtime.handle().clone());
        let builder = SnapshotBuilder { live: Arc::clone(&live), caches, resolver };
        let snapshot = builder.build(policy.policy, policy.hash).expect("a snapshot");
        Tracked {
            tracker: Tracker::new(LEARNING),
            live,
            snapshot,
            number: START,
            draws: fastrand::Rng::with_seed(7),
            _runtime: runtime,
        }
    }

    fn recorder(&self, provider: &str) -> Arc<CallRecorder> {
        self.live.call_recorder("chat", provider)
    }

    /// A time near this one.
    fn near(&mut self, milliseconds: f64) -> Duration {
        let noise = (0..12).map(|_| self.draws.f64()).sum::<f64>() - 6.0;
        Duration::from_secs_f64(milliseconds / 1e3 * (0.1 * noise).exp())
    }

    /// Makes roll-ups of 30 calls to each provider, which takes this many milliseconds.
    fn roll_up(&mut self, roll_ups: u64, latencies: &[(&str, f64)]) {
        for _ in 0..roll_ups {
            for (provider, latency) in latencies {
                let recorder = self.recorder(provider);
                for _ in 0..30 {
                    let took = self.near(*latency);
                    recorder.record(MODEL, AttemptClass::Success, took);
                }
            }
            self.end_roll_up();
        }
    }

    fn end_roll_up(&mut self) {
        let _ = self.tracker.roll_up(&self.live, self.number, || 0.5);
        self.number += 1;
    }

    /// Ends the process and starts the next.
    fn restart(&mut self) {
        let stored = self.stored();
        *self = Tracked { number: self.number, ..Tracked::new() };
        self.tracker.restore(&self.live, stored, self.number);
    }

    /// The baselines as a store keeps them.
    fn stored(&mut self) -> Vec<StoredBaseline> {
        let baselines = self.tracker.last_batch().baselines.into_iter();
        baselines.map(|(series, state)| StoredBaseline { series, state }).collect()
    }

    /// The kinds of the detected changes and their providers, the oldest first.
    fn changes(&self) -> Vec<(String, String)> {
        let mut changes: Vec<_> = self.tracker.changes.all().cloned().collect();
        changes.reverse();
        let provider = |one: DetectedChange| one.of.map_or("-".to_owned(), |of| of.provider);
        changes.into_iter().map(|one| (one.change.to_string(), provider(one))).collect()
    }

    fn status(&self, provider: &str) -> Option<DetectorStatus> {
        let key = key(provider);
        let series = self.tracker.series().find(|(one, _)| **one == key);
        series.map(|(_, series)| series.baseline.status(self.tracker.number()))
    }

    /// Whether the condition of a mode holds.
    fn holds(&self, mode: &str) -> bool {
        let mode = self.snapshot.modes.iter().find(|one| one.policy.name == mode);
        mode.expect("the mode").evaluate(clock::now()).0
    }

    fn metric(&self, name: &str, provider: &str) -> Option<f64> {
        let labels =
            format!("{{route=\"chat\",provider=\"{provider}\",model=\"m\",measure=\"p50\"}} ");
        self.value(&format!("outrigger_{name}{labels}"))
    }

    fn value(&self, start: &str) -> Option<f64> {
        let text = self.live.metrics.encode();
        text.lines().find_map(|line| line.strip_prefix(start)?.parse().ok())
    }

    /// The keys and details of the events.
    fn events(&self) -> Vec<(String, String)> {
        let events = self.live.events.all().into_iter().filter(|event| event.kind == "regression");
        events.map(|event| (event.key, event.detail)).collect()
    }
}

fn key(provider: &str) -> SeriesKey {
    let (route, model) = ("chat".to_owned(), "m".to_owned());
    SeriesKey { route, provider: provider.to_owned(), model }
}

#[test]
fn a_slower_provider_is_reported_and_enters_its_mode_until_it_recovers() {
    let mut tracked = Tracked::new();
    tracked.roll_up(3 * HOUR, &[("a", 200.0), ("b", 300.0)]);
    assert_eq!(tracked.status("a"), Some(DetectorStatus::Normal));
    assert_eq!(tracked.events(), []);
    assert!(!tracked.holds("slow") && tracked.metric("regression_active", "a").is_none());

    tracked.roll_up(12, &[("a", 400.0), ("b", 300.0)]);
    assert_eq!(tracked.metric("regression_active", "a"), Some(1.0));
    assert_eq!(tracked.metric("regressions_total", "a"), Some(1.0));
    assert_eq!(tracked.metric("regression_active", "b"), None);
    let holds = ["slow", "very_slow", "other"].map(|mode| tracked.holds(mode));
    assert_eq!(holds, [true, false, false]);
    let events = tracked.events();
    let (key, detail) = &events[0];
    assert!(key == "chat/a/m" && detail.contains("p50: worse than its baseline: "), "{events:?}");
    assert!(detail.contains("ms before, ") && detail.ends_with("ms now"), "{detail}");

    tracked.roll_up(30, &[("a", 200.0), ("b", 300.0)]);
    assert_eq!(tracked.metric("regression_active", "a"), Some(0.0));
    assert_eq!(tracked.status("a"), Some(DetectorStatus::Normal));
    assert!(!tracked.holds("slow"));
    let (key, detail) = tracked.events().pop().expect("an event");
    assert!(key == "chat/a/m" && detail.contains("no longer worse"), "{detail}");
}

#[test]
fn a_mode_that_takes_the_calls_away_is_left_and_entered_again_by_slow_calls() {
    let mut tracked = Tracked::new();
    tracked.roll_up(3 * HOUR, &[("a", 200.0), ("b", 300.0)]);
    tracked.roll_up(12, &[("a", 400.0), ("b", 300.0)]);
    tracked.roll_up(30, &[("b", 300.0)]);
    assert!(tracked.holds("slow"), "a short silence says nothing");
    tracked.roll_up(30, &[("b", 300.0)]);
    assert!(!tracked.holds("slow"));
    let (_, detail) = tracked.events().pop().expect("an event");
    assert!(detail.contains("too few calls"), "{detail}");
    tracked.roll_up(1, &[("a", 400.0), ("b", 300.0)]);
    assert!(tracked.holds("slow"));
    tracked.roll_up(30, &[("a", 200.0), ("b", 300.0)]);
    assert!(!tracked.holds("slow"));
}

#[test]
fn most_series_together_accuse_this_host_and_no_provider() {
    let mut tracked = Tracked::new();
    tracked.roll_up(3 * HOUR, &[("a", 200.0), ("b", 300.0), ("c", 100.0)]);
    tracked.roll_up(15, &[("a", 600.0), ("b", 900.0), ("c", 300.0)]);
    let reported = tracked.events();
    let of_host = reported.iter().filter(|(key, _)| key == "host").count();
    assert_eq!((of_host, tracked.value("outrigger_host_regression ")), (1, Some(1.0)));
    let active = ["a", "b", "c"].map(|name| tracked.metric("regression_active", name));
    assert!(active.iter().all(|active| active.unwrap_or(0.0) == 0.0), "{reported:?}");
    assert!(!tracked.holds("slow") && !tracked.holds("other"));

    tracked.roll_up(30, &[("a", 200.0), ("b", 300.0), ("c", 100.0)]);
    assert_eq!(tracked.value("outrigger_host_regression "), Some(0.0));
}

#[test]
fn all_models_of_a_single_provider_accuse_the_provider() {
    let mut tracked = Tracked::new();
    let call_all = |tracked: &mut Tracked, roll_ups: u64, latency: f64| {
        for _ in 0..roll_ups {
            for model in ["k", "l", "m"] {
                for _ in 0..30 {
                    let took = tracked.near(latency);
                    tracked.recorder("a").record(Some(model), AttemptClass::Success, took);
                }
            }
            tracked.end_roll_up();
        }
    };
    call_all(&mut tracked, 3 * HOUR, 200.0);
    call_all(&mut tracked, 12, 500.0);
    assert_eq!(tracked.value("outrigger_host_regression "), Some(0.0));
    assert_eq!(tracked.metric("regression_active", "a"), Some(1.0));
    assert!(tracked.holds("slow"));
}

#[test]
fn a_slower_stream_counts_by_its_token_rate_and_an_error_rate_does_not() {
    let mut tracked = Tracked::new();
    let stream = |tracked: &mut Tracked, roll_ups: u64, tokens: u64, failures: usize| {
        for _ in 0..roll_ups {
            for index in 0..30 {
                let failed = index < failures;
                let (took, rest) = (tracked.near(200.0), tracked.near(2_000.0));
                let recorder = tracked.recorder("a");
                let class = if failed { AttemptClass::Failure } else { AttemptClass::Success };
                recorder.record(MODEL, class, took);
                let (first_content, output_tokens, content_events) = (took, Some(tokens), tokens);
                recorder.record_stream(
                    MODEL,
                    StreamTimes { first_content, rest, output_tokens, content_events },
                );
            }
            tracked.end_roll_up();
        }
    };
    let details = |tracked: &Tracked| {
        tracked.events().into_iter().map(|(_, detail)| detail).collect::<Vec<_>>().join("\n")
    };
    stream(&mut tracked, 3 * HOUR, 100, 0);
    stream(&mut tracked, 15, 100, 15);
    let events = details(&tracked);
    assert!(events.contains("error_rate: worse than its baseline: 0.0 % before"), "{events}");
    assert!(!tracked.holds("slow"));
    stream(&mut tracked, 40, 100, 0);
    stream(&mut tracked, 15, 50, 0);
    let events = details(&tracked);
    assert!(events.contains("tokens_per_second: worse"), "{events}");
    assert!(events.contains("tokens/s now") && tracked.holds("slow"), "{events}");
    assert!(tracked.holds("few_tokens"));
}

#[test]
fn a_removed_series_is_forgotten_with_its_alarm() {
    let mut tracked = Tracked::new();
    tracked.roll_up(3 * HOUR, &[("a", 200.0), ("b", 300.0)]);
    tracked.roll_up(12, &[("a", 400.0), ("b", 300.0)]);
    assert!(tracked.holds("slow"));
    tracked.snapshot.routes.clear();
    tracked.live.forget_unused();
    tracked.end_roll_up();
    assert_eq!((tracked.status("a"), tracked.holds("slow")), (None, false));
    assert_eq!(tracked.metric("regression_active", "a"), Some(0.0));
}

#[test]
fn a_condition_of_one_measure_ignores_the_others() {
    let mut tracked = Tracked::new();
    tracked.roll_up(3 * HOUR, &[("a", 200.0), ("b", 300.0)]);
    tracked.roll_up(12, &[("a", 400.0), ("b", 300.0)]);
    assert!(tracked.holds("slow") && !tracked.holds("few_tokens"));
}

#[test]
fn a_restart_keeps_the_baselines_and_the_alarm_and_reports_it_once() {
    let mut tracked = Tracked::new();
    tracked.roll_up(3 * HOUR, &[("a", 200.0), ("b", 300.0)]);
    tracked.roll_up(12, &[("a", 400.0), ("b", 300.0)]);
    tracked.restart();
    assert_eq!(tracked.metric("regression_active", "a"), Some(1.0));
    assert!(tracked.holds("slow"));
    tracked.roll_up(1, &[("a", 400.0), ("b", 300.0)]);
    assert_eq!((tracked.events().len(), tracked.status("a")), (0, Some(DetectorStatus::Alarm)));
    assert_eq!(tracked.status("b"), Some(DetectorStatus::Normal));
    let stored = tracked.tracker.changes.take_unsaved();
    assert_eq!(stored, Vec::<String>::new());
    tracked.roll_up(30, &[("a", 200.0), ("b", 600.0)]);
    assert_eq!(tracked.status("a"), Some(DetectorStatus::Normal));
    let of = |change: &str, provider: &str| (change.to_owned(), provider.to_owned());
    let changes = tracked.changes();
    assert!(changes.contains(&of("recovery", "a")), "{changes:?}");
    assert!(changes.contains(&of("regression", "b")), "{changes:?}");
}

#[test]
fn a_damaged_an_old_and_a_future_baseline_are_dropped() {
    let mut tracked = Tracked::new();
    tracked.roll_up(3 * HOUR, &[("a", 200.0), ("b", 300.0)]);
    let kept = |tracked: &mut Tracked, at: u64, change: fn(&mut Vec<u8>)| {
        let mut stored = tracked.stored();
        stored.iter_mut().for_each(|one| change(&mut one.state));
        let mut next = Tracker::new(LEARNING);
        next.restore(&tracked.live, stored, at);
        next.series().count()
    };
    let (now, week) = (tracked.number, BASELINE_KEPT / 10);
    assert_eq!(kept(&mut tracked, now, |_| ()), 2);
    assert_eq!(kept(&mut tracked, now, |state| state.truncate(100)), 0);
    assert_eq!(kept(&mut tracked, now, |state| state[0] = 99), 0);
    assert_eq!(kept(&mut tracked, now + week - 10, |_| ()), 2);
    assert_eq!(kept(&mut tracked, now + week + 1, |_| ()), 0);
    assert_eq!(kept(&mut tracked, now - 100, |_| ()), 0);
}

#[test]
fn baselines_are_saved_within_an_hour_and_a_few_at_once() {
    let mut tracked = Tracked::new();
    let mut saved = Vec::new();
    for _ in 0..2 * HOUR {
        for model in ["k", "l", "m", "n", "o", "p"] {
            tracked.recorder("a").record(Some(model), AttemptClass::Success, Duration::ZERO);
        }
        let batch = tracked.tracker.roll_up(&tracked.live, tracked.number, || 0.5);
        tracked.number += 1;
        saved.push(batch.baselines.len());
    }
    assert_eq!(saved.iter().sum::<usize>(), 6, "{saved:?}");
    assert!(saved.iter().all(|count| *count <= 4), "{saved:?}");
}

#[test]
fn an_accepted_regression_is_the_baseline_and_no_alarm() {
    let mut tracked = Tracked::new();
    tracked.roll_up(3 * HOUR, &[("a", 200.0), ("b", 300.0)]);
    tracked.roll_up(12, &[("a", 400.0), ("b", 300.0)]);
    let accept = |tracked: &mut Tracked, provider: &str, measure| {
        tracked.tracker.accept(&tracked.live, &key(provider), measure)
    };
    assert_eq!(accept(&mut tracked, "b", None), Some(vec![]));
    assert_eq!(accept(&mut tracked, "nobody", None), None);
    assert_eq!(accept(&mut tracked, "a", None), Some(vec![Measure::P50, Measure::P95]));
    assert!(!tracked.holds("slow"));
    assert_eq!(tracked.metric("regression_active", "a"), Some(0.0));
    tracked.roll_up(HOUR, &[("a", 400.0), ("b", 300.0)]);
    assert_eq!((tracked.status("a"), tracked.holds("slow")), (Some(DetectorStatus::Normal), false));
    let kinds: Vec<_> = tracked.changes().into_iter().map(|(change, _)| change).collect();
    assert_eq!(kinds, ["regression", "regression", "accepted", "accepted"]);
    // One that is named needs no alarm.
    assert_eq!(accept(&mut tracked, "b", Some(Measure::P50)), Some(vec![Measure::P50]));
}

#[test]
fn a_call_learns_what_is_usual_once_the_baseline_is_complete() {
    let mut tracked = Tracked::new();
    tracked.roll_up(30, &[("a", 200.0), ("b", 300.0)]);
    let usual = |tracked: &Tracked, provider: &str| {
        tracked.recorder(provider).record(MODEL, AttemptClass::Success, Duration::from_millis(200))
    };
    assert_eq!(usual(&tracked, "a"), None);
    tracked.roll_up(3 * HOUR, &[("a", 200.0), ("b", 300.0)]);
    let p95 = usual(&tracked, "a").expect("a usual latency").as_secs_f64();
    // 200 ms with a noise of 10 %.
    assert!((0.22..0.25).contains(&p95), "{p95}");
    assert_eq!(usual(&tracked, "c"), None);
}
