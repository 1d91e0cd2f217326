//! The lease of scheduled benchmarks: one host starts each run, whatever happens to Redis.

use std::time::Duration;

use crate::support::RedisServer;
use crate::support::fleet::key;

const LEASE_SCRIPT: &str = include_str!("../../src/fleet/scripts/benchmark_lease.lua");
const SETTLE_SCRIPT: &str = include_str!("../../src/fleet/scripts/benchmark_settle.lua");
const HOUR: i64 = 3600;
const EVERY: Duration = Duration::from_secs(6 * 3600);

#[derive(Debug, PartialEq, Eq)]
enum Lease {
    Granted,
    Taken,
    /// Whole seconds since the last start.
    NotDue(i64),
}

/// Requests the lease for a host that knows of a start this many seconds ago.
fn lease(redis: &RedisServer, host: &str, age: Option<i64>) -> Lease {
    let age = age.map_or(-1, |seconds| seconds * 1000).to_string();
    let every = EVERY.as_millis().to_string();
    let key = key("bench:chat");
    let reply = redis.execute(&["EVAL", LEASE_SCRIPT, "1", &key, host, &every, "60000", &age]);
    let number = |at: usize| reply.items()[at].text().parse::<i64>().expect("a number");
    match (number(0), number(1)) {
        (1, _) => Lease::Granted,
        (_, 1) => Lease::Taken,
        _ => Lease::NotDue((number(2) + 500) / 1000),
    }
}

fn settle(redis: &RedisServer, host: &str, started: bool) {
    let every = EVERY.as_millis().to_string();
    let started = if started { "1" } else { "0" };
    redis.execute(&["EVAL", SETTLE_SCRIPT, "1", &key("bench:chat"), host, started, &every]);
}

#[test]
fn one_host_starts_each_run_and_the_others_learn_when() {
    let redis = RedisServer::builder().clock().start();
    assert_eq!(lease(&redis, "a", None), Lease::Granted);
    assert_eq!(lease(&redis, "b", None), Lease::Taken);
    settle(&redis, "a", true);
    redis.set_clock(HOUR);
    assert_eq!(lease(&redis, "b", None), Lease::NotDue(HOUR));
    assert_eq!(lease(&redis, "a", Some(HOUR)), Lease::NotDue(HOUR));
    redis.set_clock(6 * HOUR + 1);
    assert_eq!(lease(&redis, "b", Some(6 * HOUR + 1)), Lease::Granted);
    assert_eq!(lease(&redis, "a", Some(6 * HOUR + 1)), Lease::Taken);
    settle(&redis, "b", true);
    assert_eq!(lease(&redis, "a", Some(6 * HOUR + 1)), Lease::NotDue(0));
}

#[test]
fn a_lease_that_was_not_used_goes_to_another_host() {
    let redis = RedisServer::builder().clock().start();
    assert_eq!(lease(&redis, "a", None), Lease::Granted);
    settle(&redis, "a", false);
    assert_eq!(lease(&redis, "b", None), Lease::Granted);
    // The host ends.
    redis.set_clock(59);
    assert_eq!(lease(&redis, "a", None), Lease::Taken);
    redis.set_clock(61);
    assert_eq!(lease(&redis, "a", None), Lease::Granted);
    // A host that records a start late does not end the lease of another.
    settle(&redis, "b", true);
    assert_eq!(lease(&redis, "c", None), Lease::NotDue(0));
}

#[test]
fn redis_learns_the_last_start_again_after_a_loss_of_data() {
    let redis = RedisServer::builder().clock().start();
    assert_eq!(lease(&redis, "a", None), Lease::Granted);
    settle(&redis, "a", true);
    redis.execute(&["FLUSHALL"]);
    redis.set_clock(HOUR);
    assert_eq!(lease(&redis, "b", Some(HOUR)), Lease::NotDue(HOUR));
    assert_eq!(lease(&redis, "new", None), Lease::NotDue(HOUR));
}

#[test]
fn a_clock_that_is_set_back_delays_a_run_by_one_interval_at_most() {
    let redis = RedisServer::builder().clock().start();
    redis.set_clock(48 * HOUR);
    assert_eq!(lease(&redis, "a", None), Lease::Granted);
    settle(&redis, "a", true);
    redis.set_clock(0);
    assert_eq!(lease(&redis, "b", None), Lease::NotDue(0));
    redis.set_clock(6 * HOUR + 1);
    assert_eq!(lease(&redis, "b", None), Lease::Granted);
}
