//! Half-open: a fleet probes by leases, one at a time, and closes even if calls are rare.

use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::fixtures::{sleep_until, state};
use crate::scenario::{
    EAGER, MS, SECOND, Stop, alone, beside_others, call, call_until_served, keep_calling, stored,
    transitions, trip, wait_for_state, yaml, yaml_of,
};
use crate::support::fleet::{fleet_status, key};
use crate::support::{
    Behaviour, Client, Gate, Origin, RedisServer, Sidecar, Signal, eventually, fleet,
};

/// A lease lasts `(connect + first_byte) / 0.9`: 2 s.
const SHORT: &str = "timeouts: { connect: 500ms, headers: 1300ms }";
const LEASE: Duration = Duration::from_secs(2);

/// A host without a lease requests one again after this time.
const LEASE_RETRY: Duration = SECOND;

/// Calls this host until its probe is at the provider, which does not respond; returns when the probe
/// arrived, and the waiting clients (a client that disconnects gives the lease back).
fn probe_that_hangs(a: &Origin, host: &Sidecar, redis: &RedisServer) -> (Instant, Vec<Client>) {
    a.set(Behaviour::Silent);
    let before = a.count();
    let mut waiting = Vec::new();
    let probed = eventually("a probe is at the provider", || {
        let mut client = host.client();
        client.send_only(&crate::fixtures::chat());
        waiting.push(client);
        let probe = a.requests().into_iter().nth(before);
        probe.map(|probe| probe.at).ok_or_else(|| format!("{:?}", stored(redis)))
    });
    (probed, waiting)
}

#[test]
fn a_killed_prober_holds_up_the_others_no_longer_than_its_lease() {
    let _room = alone();
    let (a, redis) = (Origin::start(Behaviour::Chat), RedisServer::start());
    let mut fleet = fleet(3, &redis, &yaml_of(&a.url(), SHORT, EAGER));
    trip(&fleet, &a, &redis);
    let prober = fleet.take(0);
    let (probed, _waiting) = probe_that_hangs(&a, &prober, &redis);
    prober.signal(Signal::Kill);
    a.set(Behaviour::Chat);
    let before = a.count();
    let refused = call(&fleet[0]);
    let seen = transitions(&redis);
    assert!(refused.is("breaker-open") && a.count() == before, "{refused:?}, though {seen:?}");
    let took = call_until_served(&fleet) - probed;
    println!("a prober was killed: another probed {took:?} later (its lease: {LEASE:?})");
    assert!(took <= LEASE + LEASE_RETRY + 200 * MS, "{took:?}");
    assert!(took >= LEASE * 9 / 10, "before the lease was over: {took:?}");
    fleet.iter().for_each(|host| wait_for_state(host, "closed"));
}

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
        sleep_until(open_until + 300 * MS * u32::try_from(n).expect("a few"));
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
fn after_the_open_time_only_leased_probes_are_sent() {
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
        // Each host has more clients than probes: a probing client waits until the gate opens.
        let clients = (0..3).flat_map(|_| fleet.iter());
        let calls: Vec<_> = clients.map(|host| keep_calling(scope, host, 10 * MS, &stop)).collect();
        a.wait_for_in_flight(2);
        let since = Instant::now();
        eventually("a second of calls", || match since.elapsed() {
            passed if passed > SECOND => Ok(()),
            passed => Err(format!("{passed:?}")),
        });
        assert_eq!((a.count() - before, a.most_in_flight()), (2, 2), "{:?}", stored(&redis));
        gate.open_wide();
        fleet.iter().for_each(|host| wait_for_state(host, "closed"));
        drop(end);
        let all = calls.into_iter().flat_map(|call| call.join().expect("calls"));
        let refused = all.filter(|result| result.is("breaker-open")).count();
        println!("two probes were let through while {refused} calls were refused");
        assert!(refused > 100, "{refused}");
    });
}

#[test]
fn a_failed_probe_opens_the_breaker_for_the_whole_fleet() {
    let _room = beside_others();
    let (a, redis) = (Origin::start(Behaviour::Chat), RedisServer::start());
    let breaker = "failure_threshold: 1, recovery_timeout: 200ms, max_recovery_timeout: 60s, \
                   backoff_multiplier: 100.0, ramp: 0s";
    let fleet = fleet(3, &redis, &yaml(&a.url(), breaker));
    trip(&fleet, &a, &redis);
    let before = a.count();
    eventually("a probe", || {
        fleet.iter().for_each(|host| drop(call(host)));
        (a.count() > before).then_some(()).ok_or_else(|| format!("{:?}", stored(&redis)))
    });
    for host in fleet.iter() {
        eventually("a long open", || {
            let breaker = fleet_status(host)["breakers"][0].clone();
            let long = breaker["remaining_ms"].as_u64().is_some_and(|ms| ms > 10_000);
            (long && breaker["trips"] == json!(2)).then_some(()).ok_or(breaker.to_string())
        });
        assert!(call(host).is("breaker-open"));
    }
    assert_eq!(a.count(), before + 1);
}

/// Another writer holds every lease and reports no result.
#[test]
fn a_host_that_gets_no_lease_for_long_probes_by_itself() {
    let _room = beside_others();
    let (a, redis) = (Origin::start(Behaviour::Chat), RedisServer::start());
    let short = "timeouts: { connect: 100ms, headers: 170ms }";
    let lease = 300 * MS;
    let mut fleet = fleet(3, &redis, &yaml_of(&a.url(), short, EAGER));
    trip(&fleet, &a, &redis);
    let script = "local t = redis.call('TIME') \
                  redis.call('ZADD', KEYS[1], t[1] * 1000000 + t[2] + 500000, 'other')";
    let grab = || drop(redis.execute(&["EVAL", script, "1", &key("cb:l:a/main")]));
    let prober = fleet.take(0);
    let (_, _waiting) = probe_that_hangs(&a, &prober, &redis);
    grab();
    prober.signal(Signal::Kill);
    a.set(Behaviour::Chat);
    let (before, began) = (a.count(), Instant::now());
    let served = eventually("a call that is served", || {
        grab();
        let result = call(&fleet[0]);
        (result.status == 200).then_some(result.sent_at).ok_or(format!("{result:?}"))
    });
    println!("refused leases of {lease:?}, a host probed by itself after {:?}", served - began);
    assert!(served - began >= 2 * lease, "{:?}", served - began);
    assert_eq!(a.count(), before + 1);
    let of_redis = stored(&redis).map(|register| register.state);
    assert_eq!(of_redis, Some('H'), "it decides for itself alone");
}
