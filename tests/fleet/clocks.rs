//! Clocks that disagree, and a clock that jumps: no hold ends early and no host is stuck.

use std::thread;
use std::time::{Duration, Instant};

use crate::scenario::{
    EAGER, MS, SECOND, Stop, beside_others, call, call_until_served, keep_calling, stored, trip,
    wait_for_state, yaml, yaml_of,
};
use crate::support::fleet::{fleet_at, host, is_attached, wait_until_attached};
use crate::support::{Behaviour, Fleet, Origin, RedisServer, eventually};

const HOUR: i64 = 3600;

/// The breaker is open for 1 s, with a jitter of 20 %.
const SECONDS: &str = "failure_threshold: 1, recovery_timeout: 1s, max_recovery_timeout: 1s, \
                       success_threshold: 1, ramp: 0s";

/// Trips the breaker, runs `step`, and calls every host; returns how long the provider got no call.
fn quiet_after_a_trip(
    fleet: &Fleet,
    a: &Origin,
    redis: &RedisServer,
    step: impl FnOnce(),
) -> Duration {
    trip(fleet, a, redis);
    fleet.iter().for_each(|host| wait_for_state(host, "open"));
    // The last request was the failure that opened the breaker.
    let (opened, count) = (a.last().at, a.count());
    a.set(Behaviour::Chat);
    step();
    call_until_served(fleet);
    fleet.iter().for_each(|host| wait_for_state(host, "closed"));
    a.requests()[count].at - opened
}

/// Like [`quiet_after_a_trip`], after a 429 with `Retry-After`.
fn quiet_after_a_hold(fleet: &Fleet, a: &Origin, step: impl FnOnce()) -> Duration {
    let before = a.count();
    let limited = Behaviour::status(429, &[("retry-after", "1")]);
    a.set(Behaviour::Script(vec![limited, Behaviour::Chat]));
    assert_eq!(call(&fleet[0]).status, 429);
    let limited_at = a.requests()[before].at;
    eventually("every host holds", || {
        let held = |host| crate::fixtures::api(host, "/api/circuit-breakers")["held"].clone();
        let held: Vec<_> = fleet.iter().map(held).collect();
        let all = held.iter().all(|held| held[0]["remaining_ms"].is_u64());
        all.then_some(()).ok_or(format!("{held:?}"))
    });
    step();
    let stop = Stop::default();
    thread::scope(|scope| {
        let end = stop.at_end();
        fleet.iter().for_each(|host| drop(keep_calling(scope, host, 20 * MS, &stop)));
        a.wait_for_requests(before + 2);
        drop(end);
    });
    a.requests()[before + 1].at - limited_at
}

fn expect(quiet: Duration, range: std::ops::RangeInclusive<Duration>, what: &str) {
    println!("{what}: no call for {quiet:?}");
    assert!(range.contains(&quiet), "{what}: {quiet:?}, not within {range:?}");
}

/// Range for an open time of 1 s, with the interval between calls.
fn open_range() -> std::ops::RangeInclusive<Duration> {
    800 * MS..=2500 * MS
}

fn hold_range() -> std::ops::RangeInclusive<Duration> {
    SECOND..=3 * SECOND
}

#[test]
fn hosts_whose_clocks_are_an_hour_apart_agree() {
    let _room = beside_others();
    let (a, redis) = (Origin::start(Behaviour::Chat), RedisServer::start());
    let yaml = yaml(&a.url(), SECONDS);
    let off = |seconds: &str| host(&redis.url(), &yaml).env("OUTRIGGER_CLOCK_OFFSET", seconds);
    let fleet = Fleet::of(["3600", "-3600", "0"].map(off));
    for _ in 0..2 {
        let quiet = quiet_after_a_trip(&fleet, &a, &redis, || {});
        expect(quiet, open_range(), "hosts an hour apart, tripped");
    }
    let quiet = quiet_after_a_hold(&fleet, &a, || {});
    expect(quiet, hold_range(), "hosts an hour apart, held");
    assert!(fleet.iter().all(is_attached));
}

/// Sets the clock of Redis forth and back while `quiet` measures.
fn jump(
    quiet: impl Fn(&Fleet, &Origin, &RedisServer, i64) -> Duration,
    range: &std::ops::RangeInclusive<Duration>,
) {
    let a = Origin::start(Behaviour::Chat);
    let redis = RedisServer::builder().clock().start();
    let fleet = fleet_at(3, &redis.url(), &yaml(&a.url(), SECONDS));
    for to in [HOUR, 0, -HOUR, 0] {
        expect(quiet(&fleet, &a, &redis, to), range.clone(), &format!("the clock set to {to:+} s"));
    }
    let log: Vec<_> = fleet.iter().flat_map(|host| host.log()).collect();
    let detached: Vec<_> = log.iter().filter(|line| line.contains("fleet: detached")).collect();
    assert!(detached.is_empty(), "{detached:?}");
}

#[test]
fn the_open_time_is_unchanged_if_the_clock_of_redis_jumps_by_an_hour() {
    let _room = beside_others();
    let quiet = |fleet: &Fleet, a: &Origin, redis: &RedisServer, to| {
        quiet_after_a_trip(fleet, a, redis, || redis.set_clock(to))
    };
    jump(quiet, &open_range());
}

#[test]
fn a_hold_is_unchanged_if_the_clock_of_redis_jumps_by_an_hour() {
    let _room = beside_others();
    let quiet = |fleet: &Fleet, a: &Origin, redis: &RedisServer, to| {
        quiet_after_a_hold(fleet, a, || redis.set_clock(to))
    };
    jump(quiet, &hold_range());
}

#[test]
fn leases_do_not_outlive_a_jump_of_the_clock() {
    let _room = beside_others();
    let a = Origin::start(Behaviour::Chat);
    let redis = RedisServer::builder().clock().start();
    let short = "timeouts: { connect: 500ms, headers: 1300ms }";
    let mut fleet = fleet_at(3, &redis.url(), &yaml_of(&a.url(), short, EAGER));
    trip(&fleet, &a, &redis);
    a.set(Behaviour::Silent);
    let before = a.count();
    let prober = fleet.take(0);
    let mut client = prober.client();
    eventually("a probe is at the provider", || {
        client = prober.client();
        client.send_only(&crate::fixtures::chat());
        (a.count() > before).then_some(()).ok_or(format!("{:?}", stored(&redis)))
    });
    // By the new clock, the lease of the killed host lasts another hour.
    redis.set_clock(-HOUR);
    drop(prober);
    a.set(Behaviour::Chat);
    let began = Instant::now();
    let took = call_until_served(&fleet) - began;
    println!("the clock was set back during a lease of 2 s: another probed after {took:?}");
    assert!(took <= 4 * SECOND, "{took:?}");
}

/// Sets the clock of Redis back by an hour and stops all hosts; returns how long a new host takes to
/// get a response from the provider.
fn starts_late(a: &Origin, redis: &RedisServer, first: Fleet) -> Duration {
    redis.set_clock(-HOUR);
    drop(first);
    a.set(Behaviour::Chat);
    let late = host(&redis.url(), &yaml(&a.url(), SECONDS)).start();
    wait_until_attached(&late);
    let began = Instant::now();
    call_until_served(std::slice::from_ref(&late)) - began
}

#[test]
fn a_new_host_is_not_stuck_if_the_clock_was_set_back_while_the_breaker_was_open() {
    let _room = beside_others();
    let a = Origin::start(Behaviour::Chat);
    let redis = RedisServer::builder().clock().start();
    let first = fleet_at(2, &redis.url(), &yaml(&a.url(), SECONDS));
    trip(&first, &a, &redis);
    let served = starts_late(&a, &redis, first);
    println!("started after the clock was set back during an open of 1 s: served after {served:?}");
    assert!(served <= 5 * SECOND, "{served:?}");
}

#[test]
fn a_new_host_is_not_stuck_if_the_clock_was_set_back_during_a_hold() {
    let _room = beside_others();
    let a = Origin::start(Behaviour::Chat);
    let redis = RedisServer::builder().clock().start();
    let first = fleet_at(2, &redis.url(), &yaml(&a.url(), SECONDS));
    quiet_after_a_hold(&first, &a, || {});
    let served = starts_late(&a, &redis, first);
    println!("started after the clock was set back during a hold of 1 s: served after {served:?}");
    assert!(served <= 5 * SECOND, "{served:?}");
}
