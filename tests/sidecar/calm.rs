//! Local traffic over twenty series without a change: no alarm. `tests/drill calm` runs it for an hour
//! by the sidecar's clock.
//!
//! The day that baselines need is drawn from roll-ups of the same traffic, measured first.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use outrigger::resilience::baseline::measure::{ROLL_UP_SECONDS, RollUp};
use outrigger::resilience::baseline::{LEARNING_BLOCKS, SeriesBaseline, SeriesKey};
use outrigger::store::TrackingBatch;
use serde_json::Value;

use crate::fixtures::{GENEROUS, api, policy};
use crate::jobs::data_dir;
use crate::regressions::{now, save};
use crate::support::sidecar::Builder;
use crate::support::{Behaviour, Call, Origin, Sidecar};
use crate::tracking::PRICE;

const SPEED: u32 = 10;
const PROVIDERS: usize = 4;
const MODELS: usize = 5;
/// Enough calls for a 95th percentile in each roll-up.
const CLIENTS_PER_SERIES: usize = 3;
/// Roll-ups that the baselines are drawn from.
const MEASURED: usize = 6;

/// Minutes by the sidecar's clock, if the drill sets them.
fn minutes() -> Option<usize> {
    let set = std::env::var("OUTRIGGER_CALM").ok();
    set.map(|text| text.parse().expect("a number of minutes"))
}

/// Takes 100 ms on average, with a spread of 10 %.
fn origin() -> Origin {
    Origin::start(Behaviour::custom(|_| {
        let noise = (0..12).map(|_| fastrand::f64()).sum::<f64>() - 6.0;
        Behaviour::Chat.after(Duration::from_secs_f64(0.1 * (0.1 * noise).exp()))
    }))
}

fn yaml(origins: &[Origin]) -> String {
    let names: Vec<_> = (0..PROVIDERS).map(|n| (format!("p{n}"), origins[n].url())).collect();
    let providers: Vec<_> = names.iter().map(|(name, url)| (&**name, &**url, PRICE)).collect();
    let route = |(name, _): &(String, String)| {
        format!("  - {{ name: {name}r, match: {{ path: /{name} }}, providers: [{name}] }}\n")
    };
    let routes: String = names.iter().map(route).collect();
    policy(&providers, &format!("routes:\n{routes}"))
        + GENEROUS
        + "server: { access_log: { to: none } }\n"
}

fn keys() -> impl Iterator<Item = SeriesKey> {
    (0..PROVIDERS * MODELS).map(|n| {
        let provider = format!("p{}", n % PROVIDERS);
        SeriesKey { route: format!("{provider}r"), provider, model: format!("m{}", n / PROVIDERS) }
    })
}

/// Calls all series until `check` returns true.
fn under_load(sidecar: &Sidecar, mut check: impl FnMut() -> bool) {
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for SeriesKey { provider, model, .. } in keys() {
            let body = serde_json::json!({ "model": model, "messages": [] });
            let call = Call::json(&format!("/{provider}"), &body);
            for _ in 0..CLIENTS_PER_SERIES {
                let (call, stop) = (call.clone(), &stop);
                scope.spawn(move || {
                    let mut client = sidecar.client();
                    while !stop.load(Ordering::Relaxed) {
                        client.send(&call);
                    }
                });
            }
        }
        while !check() {
            std::thread::park_timeout(Duration::from_millis(500));
        }
        stop.store(true, Ordering::Relaxed);
    });
}

/// The roll-ups of a series so far.
fn measured(sidecar: &Sidecar, key: &SeriesKey) -> Vec<Value> {
    let SeriesKey { route, provider, model } = key;
    let path = format!(
        "/api/benchmarks/series/points?route={route}&provider={provider}&model={model}&from=3h"
    );
    api(sidecar, &path)["points"].as_array().expect("points").clone()
}

/// The baseline after a day of roll-ups like these.
fn learned(points: &[Value], last: u64) -> SeriesBaseline {
    let mut baseline = SeriesBaseline::new(LEARNING_BLOCKS);
    for number in last - 8_700..=last {
        let point = &points[fastrand::usize(..points.len())];
        let count = |name: &str| point[name].as_u64().expect("a count") as u32;
        let (calls, failed, timed) = (count("calls"), count("failed"), count("values"));
        let (p50, p95) = (point["p50"].as_f64(), point["p95"].as_f64());
        let _ = baseline.observe(&RollUp {
            number,
            calls,
            failed,
            timed,
            p50,
            p95,
            ..RollUp::default()
        });
        baseline.calibrate(fastrand::f64);
    }
    baseline
}

fn start(data: &Path, yaml: &str) -> Sidecar {
    let builder = Sidecar::builder().policy("policy", yaml).workers(1).data(data);
    Builder::clock(builder, 0, SPEED).start()
}

#[test]
fn calm_traffic_over_twenty_series_is_judged_and_raises_no_alarm() {
    let (first, data) = (data_dir(), data_dir());
    let origins: Vec<_> = (0..PROVIDERS).map(|_| origin()).collect();
    let yaml = yaml(&origins);
    let mut sidecar = start(first.path(), &yaml);
    let minutes = minutes();
    let wanted = MEASURED.max(minutes.unwrap_or(0) * 2);
    under_load(&sidecar, || keys().all(|key| measured(&sidecar, &key).len() > wanted));
    let last = now() / ROLL_UP_SECONDS;
    let baselines = keys().map(|key| {
        // The first roll-up has the start of the clients.
        let baseline = learned(&measured(&sidecar, &key)[1..], last);
        (key, baseline.encode())
    });
    let baselines = baselines.collect();
    save(data.path(), TrackingBatch { at: now(), baselines, ..TrackingBatch::default() });
    sidecar.stop();

    let sidecar = start(data.path(), &yaml);
    sidecar.wait_for_log(|line| line.contains("baselines restored"));
    let roll_ups = minutes.unwrap_or(1) * 6;
    under_load(&sidecar, || keys().all(|key| measured(&sidecar, &key).len() >= roll_ups));
    let states: BTreeMap<String, usize> = api(&sidecar, "/api/benchmarks/series")["series"]
        .as_array()
        .expect("a list of series")
        .iter()
        .fold(BTreeMap::new(), |mut states, series| {
            *states.entry(series["state"].as_str().expect("a state").to_owned()).or_default() += 1;
            states
        });
    let changes = api(&sidecar, "/api/benchmarks/changes")["changes"].clone();
    println!("{} series, {roll_ups} roll-ups each: {states:?}; changes: {changes}", keys().count());
    assert_eq!(states.values().sum::<usize>(), PROVIDERS * MODELS);
    // A minute beside other tests, which load the machine, shows nothing.
    if minutes.is_some() {
        assert_eq!(changes, serde_json::json!([]));
    }
}
