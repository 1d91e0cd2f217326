//! A provider that becomes slower, from the socket to the alarm and back. The baseline comes from a
//! store that the test has filled with a day of roll-ups; the clock of the sidecar runs faster.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use outrigger::resilience::baseline::measure::{ROLL_UP_SECONDS, RollUp};
use outrigger::resilience::baseline::{LEARNING_BLOCKS, SeriesBaseline, SeriesKey};
use outrigger::store::{Store, TrackingBatch};
use serde_json::{Value, json};

use crate::degradation::{degraded, mode};
use crate::fixtures::{GENEROUS, api, chat_for, policy, post_admin, route, state};
use crate::jobs::data_dir;
use crate::support::sidecar::Builder;
use crate::support::{Behaviour, Origin, Sidecar, eventually};
use crate::tracking::{PRICE, series};

/// The sidecar's clock runs this many times as fast.
const SPEED: u32 = 20;
/// The latency of the provider in the time of the test.
const USUAL: Duration = Duration::from_millis(100);
const CLIENTS: usize = 10;
/// Standard deviation of the logarithm of the latency in the seeded day: wide, so that a loaded machine
/// does not look like a slow provider.
const NOISE: f64 = 0.3;

/// Fills a store with what a day of calls to provider `a` has taught.
fn learn_a_day(data: &Path, p95: Option<f64>) {
    let last = now() / ROLL_UP_SECONDS;
    let mut baseline = SeriesBaseline::new(LEARNING_BLOCKS);
    let draws = std::cell::RefCell::new(fastrand::Rng::with_seed(7));
    let noise = || (0..12).map(|_| draws.borrow_mut().f64()).sum::<f64>() - 6.0;
    let usual = (USUAL * SPEED).as_secs_f64();
    for number in last - 8_700..=last {
        let near = |value: f64| value * (NOISE * noise()).exp();
        let p50 = Some(near(usual));
        let (calls, timed) = (50, 50);
        let p95 = p95.map(near);
        let roll_up = RollUp { number, calls, timed, p50, p95, ..RollUp::default() };
        assert_eq!(baseline.observe(&roll_up), []);
        baseline.calibrate(|| draws.borrow_mut().f64());
    }
    let (route, provider, model) = ("all".to_owned(), "a".to_owned(), "m".to_owned());
    let key = SeriesKey { route, provider, model };
    let baselines = vec![(key, baseline.encode())];
    save(data, TrackingBatch { at: now(), baselines, ..TrackingBatch::default() });
}

/// Unix time in seconds.
pub fn now() -> u64 {
    SystemTime::UNIX_EPOCH.elapsed().expect("a time after 1970").as_secs()
}

/// Writes a batch into the store of a sidecar that does not run.
pub fn save(data: &Path, batch: TrackingBatch) {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let store = Store::open(data, Box::new(|_| ())).expect("a store");
    runtime.block_on(store.save_tracking(Arc::new(batch))).expect("saved");
    drop(store);
    // Its threads end in the background.
    let lock = File::open(data.join("lock")).expect("the lock of the store");
    eventually("the store is closed", || lock.try_lock().map_err(|error| error.to_string()));
}

fn start(data: &Path, yaml: &str, offset: u32) -> Sidecar {
    let builder = Sidecar::builder().policy("policy", yaml).workers(1).data(data);
    Builder::clock(builder, offset, SPEED).start()
}

fn after(time: Duration) -> Behaviour {
    Behaviour::Chat.after(time)
}

/// Calls the model from several clients until `check` has returned.
fn under_load(sidecar: &Sidecar, check: impl FnOnce()) {
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..CLIENTS {
            scope.spawn(|| {
                let mut client = sidecar.client();
                while !stop.load(Ordering::Relaxed) {
                    client.send(&chat_for("m"));
                }
            });
        }
        let checked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(check));
        stop.store(true, Ordering::Relaxed);
        if let Err(panic) = checked {
            std::panic::resume_unwind(panic);
        }
    });
}

/// The status of a measure of provider `a`.
fn measure(sidecar: &Sidecar, name: &str) -> Value {
    let of = series(sidecar, "a", "m");
    let measures = of["measures"].as_array().cloned().unwrap_or_default();
    measures.into_iter().find(|one| one["measure"] == name).unwrap_or(Value::Null)
}

fn has_state(sidecar: &Sidecar, state: &str) -> bool {
    measure(sidecar, "p50")["state"] == state
}

fn calls(sidecar: &Sidecar) -> u64 {
    series(sidecar, "a", "m")["calls"].as_u64().unwrap_or(0)
}

const ACTIVE: &str =
    "outrigger_regression_active{route=\"all\",provider=\"a\",model=\"m\",measure=\"p50\"}";

#[test]
fn a_provider_that_slows_down_is_reported_and_enters_a_mode_until_it_recovers() {
    let (data, origin) = (data_dir(), Origin::start(after(USUAL)));
    learn_a_day(data.path(), None);
    let of = |measure: &str| {
        format!(
            "when: {{ slower_than_baseline: {{ of: a, measure: {measure} }} }}, for: 0s, \
             recover_after: 0s, actions: [ {{ headers: {{ set: {{ x-slow: \"1\" }} }} }} ]"
        )
    };
    let modes = [("slow", &*of("latency")), ("chunky", &*of("tokens_per_second"))];
    let yaml = degraded(&[("a", &origin.url(), PRICE)], "providers: [a]", &modes);
    let mut sidecar = start(data.path(), &yaml, 0);
    sidecar.wait_for_log(|line| line.contains("baselines restored") && line.contains("series=1"));
    let baseline = measure(&sidecar, "p50")["baseline"].as_f64().expect("a baseline");
    assert!((1.7..2.3).contains(&baseline), "{baseline}");
    under_load(&sidecar, || {
        // A minute without an alarm.
        sidecar.wait_until(|sidecar| calls(sidecar) > 300 && has_state(sidecar, "normal"));
        assert_eq!(sidecar.metric(ACTIVE).unwrap_or(0.0), 0.0);
        origin.set(after(3 * USUAL));
        sidecar.wait_until(|sidecar| has_state(sidecar, "alarm"));
        sidecar.wait_until(|sidecar| mode(sidecar, "slow")["in_force"] == true);
        assert_eq!(mode(&sidecar, "chunky")["in_force"], false);
        assert_eq!(sidecar.metric(ACTIVE), Some(1.0));
        let line = sidecar.wait_for_log(|line| line.contains("worse than its baseline"));
        assert!(
            line.contains("WARN") && line.contains("all/a/m") && line.contains("p50"),
            "{line}"
        );
        let events = api(&sidecar, "/api/circuit-breakers")["events"].to_string();
        assert!(events.contains("p50: worse than its baseline"), "{events}");
        let change = api(&sidecar, "/api/benchmarks/changes")["changes"][0].clone();
        assert_eq!((&change["change"], &change["model"]), (&json!("regression"), &json!("m")));
        let figures = [&change["before"], &change["current"]].map(|one| one.as_f64().expect("one"));
        assert!((1.7..2.3).contains(&figures[0]) && figures[1] > 1.1 * figures[0], "{change}");
        let has_header = || origin.last().headers.get("x-slow").is_some();
        sidecar.wait_until(|_| has_header());

        origin.set(after(USUAL));
        sidecar.wait_until(|sidecar| mode(sidecar, "slow")["in_force"] == false);
        assert_eq!(sidecar.metric(ACTIVE), Some(0.0));
        let change = api(&sidecar, "/api/benchmarks/changes")["changes"][0].clone();
        assert_eq!(change["change"], "recovery");
    });
    let before = measure(&sidecar, "p50")["baseline"].clone();
    let document = api(&sidecar, "/api/benchmarks/series/points?route=all&provider=a&model=m");
    let points = document["points"].as_array().expect("points").clone();
    assert!(points.len() >= 10 && document["step_seconds"] == 10, "{document}");
    let slowest = points.iter().filter_map(|point| point["p50"].as_f64()).fold(0.0, f64::max);
    assert!(slowest > 3.5, "{document}");

    // The next process knows the baseline and the changes.
    assert!(sidecar.stop().success());
    let sidecar = start(data.path(), &yaml, 3_600);
    sidecar.wait_for_log(|line| line.contains("baselines restored"));
    let baseline = measure(&sidecar, "p50")["baseline"].as_f64();
    let near =
        baseline.zip(before.as_f64()).is_some_and(|(now, then)| (now / then - 1.0).abs() < 0.01);
    assert!(near, "{baseline:?} {before}");
    let changes = api(&sidecar, "/api/benchmarks/changes")["changes"].to_string();
    assert!(changes.contains("recovery") && changes.contains("regression"), "{changes}");
}

#[test]
fn an_operator_makes_a_lasting_change_normal() {
    let (data, origin) = (data_dir(), Origin::start(after(3 * USUAL)));
    learn_a_day(data.path(), None);
    let yaml = policy(&[("a", &origin.url(), PRICE)], &(route("providers: [a]") + GENEROUS));
    let sidecar = start(data.path(), &yaml, 0);
    sidecar.wait_for_log(|line| line.contains("baselines restored"));
    let path = "/api/benchmarks/series/accept?route=all&provider=a&model=";
    let (status, text) = sidecar.admin_post(&format!("{path}other"), &json!({}));
    assert!(status == 404 && text.contains("all/a/m"), "{status} {text}");
    let (status, text) = sidecar.admin_post(&format!("{path}m"), &json!({}));
    assert!(status == 409 && text.contains("no measure of the series alarms"), "{status} {text}");
    under_load(&sidecar, || {
        sidecar.wait_until(|sidecar| has_state(sidecar, "alarm"));
        let accepted = post_admin(&sidecar, &format!("{path}m"), &json!({ "by": "ann" }));
        assert_eq!(accepted["accepted"], json!(["p50"]));
        let calls_then = calls(&sidecar);
        sidecar.wait_until(|sidecar| calls(sidecar) > calls_then + 250);
        let p50 = measure(&sidecar, "p50");
        assert_eq!(p50["state"], "normal");
        assert!(p50["baseline"].as_f64().is_some_and(|now| now > 3.0), "{p50}");
    });
    let line = sidecar.wait_for_log(|line| line.contains("baseline_accept"));
    assert!(line.contains("all/a/m") && line.contains("ann"), "{line}");
}

#[test]
fn a_breaker_opens_when_attempts_take_longer_than_twice_the_usual_p95() {
    let (data, origin) = (data_dir(), Origin::start(after(3 * USUAL)));
    learn_a_day(data.path(), Some((USUAL * SPEED).as_secs_f64()));
    let breakers = "breakers: { default: { slow_rate: { slower_than_baseline: 2, above: 50%, \
                    min_requests: 5 }, recovery_timeout: 1h, max_recovery_timeout: 1h } }\n";
    let price = PRICE.replace(", breaker: none", "");
    let rest = route("providers: [a]") + GENEROUS + breakers;
    let sidecar = start(data.path(), &policy(&[("a", &origin.url(), &price)], &rest), 0);
    under_load(&sidecar, || {
        sidecar.wait_until(|sidecar| calls(sidecar) > 0 && state(sidecar, "a") == "open");
    });
    let line = sidecar.wait_for_log(|line| line.contains("breaker changed"));
    assert!(line.contains("slow_rate"), "{line}");
}

#[test]
fn a_broken_store_is_logged_and_the_calls_are_tracked_all_the_same() {
    let (data, origin) = (data_dir(), Origin::start(after(USUAL)));
    let yaml = policy(&[("a", &origin.url(), PRICE)], &(route("providers: [a]") + GENEROUS));
    let sidecar = start(data.path(), &yaml, 0);
    let database = rusqlite::Connection::open(data.path().join("outrigger.db")).expect("opened");
    database.busy_timeout(Duration::from_secs(5)).expect("a timeout");
    database.execute_batch("DROP TABLE rollups_10s").expect("dropped");
    under_load(&sidecar, || {
        sidecar.wait_for_log(|line| line.contains("cannot store the roll-ups of calls"));
        let before = calls(&sidecar);
        sidecar.wait_until(|sidecar| calls(sidecar) > before + 100);
    });
    let lines = sidecar.log();
    let complaints = lines.iter().filter(|line| line.contains("cannot store the roll-ups"));
    let failures = sidecar.metric("outrigger_store_commits_failed_total").unwrap_or(f64::MAX);
    assert!((complaints.count() as f64) < failures, "{lines:?}");
}
