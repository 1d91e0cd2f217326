//! The delay until a host enforces a transition of another host.

use serde_json::Value;

use crate::fixtures::{api, state};
use crate::scenario::{alone, call, call_until_served, yaml};
use crate::support::{Behaviour, Fleet, Origin, RedisServer, Sidecar, eventually, fleet};

const ROUNDS: usize = 20;
const DAY_MS: i64 = 86_400_000;

/// The wall clock, in milliseconds of the day: hosts stamp their events with it.
fn time_of_day() -> i64 {
    let since = std::time::SystemTime::UNIX_EPOCH.elapsed().expect("a time after 1970");
    i64::try_from(since.as_millis()).expect("a time before the end of time") % DAY_MS
}

/// Parses `2026-03-01T12:00:00.123Z` into milliseconds of the day.
fn time_of_event(event: &Value) -> i64 {
    let at = event["at"].as_str().unwrap_or_else(|| panic!("no time in {event}"));
    let digits = |from: usize, to: usize| at[from..to].parse::<i64>().expect("digits");
    ((digits(11, 13) * 60 + digits(14, 16)) * 60 + digits(17, 19)) * 1000 + digits(20, 23)
}

/// When this host's breaker made this transition, each time.
fn arrivals(host: &Sidecar, wanted: &str) -> Vec<i64> {
    let breakers = api(host, "/api/circuit-breakers");
    let events = breakers["events"].as_array().expect("a list of events").iter();
    let came = |event: &&Value| {
        event["kind"] == "breaker"
            && event["detail"].as_str().is_some_and(|detail| detail.starts_with(wanted))
    };
    events.filter(came).map(time_of_event).collect()
}

fn wait_for_all(fleet: &Fleet, wanted: &str) {
    eventually(&format!("every host is {wanted}"), || {
        let states: Vec<_> = fleet.iter().map(|host| state(host, "a")).collect();
        states.iter().all(|state| state == wanted).then_some(()).ok_or(format!("{states:?}"))
    });
}

/// Measured from before the call that causes the transition until another host enforces it, by the
/// wall clock of this machine, to the millisecond.
#[test]
fn a_transition_is_enforced_by_every_other_host_within_50_ms() {
    let _room = alone();
    let (a, redis) = (Origin::start(Behaviour::Chat), RedisServer::start());
    let breaker = "failure_threshold: 1, recovery_timeout: 200ms, max_recovery_timeout: 200ms, \
                   success_threshold: 1, ramp: 0s, shared: { quorum: 1, fraction: 0.01 }";
    let fleet = fleet(3, &redis, &yaml(&a.url(), breaker));
    fleet.iter().for_each(|host| assert_eq!(call(host).status, 200));
    let (mut opened, mut closed) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        let host = round % 3..=round % 3;
        a.set(Behaviour::status(500, &[]));
        opened.push(time_of_day());
        assert_eq!(call(&fleet[round % 3]).status, 500);
        wait_for_all(&fleet, "open");
        a.set(Behaviour::Chat);
        let began = std::time::Instant::now();
        let before = time_of_day();
        call_until_served(&fleet[host]);
        // From when the provider responded to the probe, which may have waited before.
        let probed = a.last().at.saturating_duration_since(began);
        closed.push(before + i64::try_from(probed.as_millis()).expect("a short time"));
        wait_for_all(&fleet, "closed");
    }
    let mut took = Vec::new();
    for (n, host) in fleet.iter().enumerate() {
        for (step, began) in [("closed -> open", &opened), ("half_open -> closed", &closed)] {
            let came = arrivals(host, step);
            assert_eq!(came.len(), ROUNDS, "{step} at host {n}");
            let others = came.iter().zip(began).enumerate().filter(|(round, _)| round % 3 != n);
            took.extend(others.map(|(_, (came, began))| (came - began).rem_euclid(DAY_MS)));
        }
    }
    took.sort_unstable();
    let (median, p99) = (took[took.len() / 2], took[took.len() * 99 / 100]);
    println!(
        "{} transitions reached another host: {median} ms (median), {p99} ms (p99)",
        took.len()
    );
    // One pass through Redis; the tail belongs to the scheduler of a busy machine.
    assert!(median <= 50 && p99 <= 1000, "{took:?}");
}
