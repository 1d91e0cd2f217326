//! Half-open: a fleet probes by leases, one at a time, and closes also where calls are few.

use std::thread;
use std::time::Instant;

use serde_json::json;

use crate::scene::{pace, state};
use crate::stage::{
    MS, SECOND, Stop, beside_others, call, keep_calling, stored, trip, wait_for_state, yaml,
};
use crate::support::fleet::told;
use crate::support::{Behaviour, Gate, Origin, RedisServer, fleet, seen};

#[test]
fn a_provider_that_is_called_seldom_closes_within_three_calls() {
    let _room = beside_others();
    let (a, redis) = (Origin::start(Behaviour::Chat), RedisServer::start());
    let breaker = "failure_threshold: 1, recovery_timeout: 500ms, max_recovery_timeout: 500ms, \
                   success_threshold: 2, ramp: 0s";
    let fleet = fleet(5, &redis, &yaml(&a.url(), breaker));
    trip(&fleet, &a, &redis);
    a.set(Behaviour::Chat);
    let open_until = Instant::now() + 700 * MS;
    let mut calls = Vec::new();
    for (n, host) in fleet.iter().enumerate() {
        pace(open_until + 300 * MS * u32::try_from(n).expect("a few"));
        calls.push(call(host).status);
        if state(host, "a") == "closed" {
            break;
        }
    }
    println!("calls at one host after the other, until its breaker is closed: {calls:?}");
    assert!(calls.len() <= 3, "{calls:?}; now {:?}", stored(&redis));
    assert!(calls.iter().all(|status| *status == 200), "{calls:?}");
    fleet.iter().for_each(|host| wait_for_state(host, "closed"));
}

#[test]
fn an_open_that_is_over_lets_leases_through_and_nothing_else() {
    let _room = beside_others();
    let (a, redis) = (Origin::start(Behaviour::Chat), RedisServer::start());
    let breaker = "failure_threshold: 1, recovery_timeout: 500ms, max_recovery_timeout: 500ms, \
                   success_threshold: 2, probes: 2, ramp: 0s";
    let fleet = fleet(4, &redis, &yaml(&a.url(), breaker));
    trip(&fleet, &a, &redis);
    let (stop, gate, before) = (Stop::default(), Gate::closed(), a.count());
    a.set(Behaviour::Chat.held(&gate));
    thread::scope(|scope| {
        let end = stop.at_end();
        // More clients than probes at each host: one that probes is busy until the gate opens.
        let clients = (0..3).flat_map(|_| fleet.iter());
        let calls: Vec<_> = clients.map(|host| keep_calling(scope, host, 10 * MS, &stop)).collect();
        a.wait_for_in_flight(2);
        let since = Instant::now();
        seen("a second of calls", || match since.elapsed() {
            passed if passed > SECOND => Ok(()),
            passed => Err(format!("{passed:?}")),
        });
        assert_eq!((a.count() - before, a.most_in_flight()), (2, 2), "{:?}", stored(&redis));
        gate.open_wide();
        fleet.iter().for_each(|host| wait_for_state(host, "closed"));
        drop(end);
        let all = calls.into_iter().flat_map(|call| call.join().expect("calls"));
        let refused = all.filter(|told| told.is("breaker-open")).count();
        println!("two probes were let through while {refused} calls were refused");
        assert!(refused > 100, "{refused}");
    });
}

#[test]
fn a_probe_that_fails_keeps_the_whole_fleet_away() {
    let _room = beside_others();
    let (a, redis) = (Origin::start(Behaviour::Chat), RedisServer::start());
    let breaker = "failure_threshold: 1, recovery_timeout: 200ms, max_recovery_timeout: 60s, \
                   backoff_multiplier: 100.0, ramp: 0s";
    let fleet = fleet(3, &redis, &yaml(&a.url(), breaker));
    trip(&fleet, &a, &redis);
    let before = a.count();
    seen("a probe", || {
        fleet.iter().for_each(|host| drop(call(host)));
        (a.count() > before).then_some(()).ok_or_else(|| format!("{:?}", stored(&redis)))
    });
    for host in fleet.iter() {
        seen("a long open", || {
            let told = told(host)["breakers"][0].clone();
            let long = told["left_ms"].as_u64().is_some_and(|ms| ms > 10_000);
            (long && told["trips"] == json!(2)).then_some(()).ok_or(told.to_string())
        });
        assert!(call(host).is("breaker-open"));
    }
    assert_eq!(a.count(), before + 1);
}
