//! A `Retry-After` that one host receives holds the provider for all hosts.

use std::thread;
use std::time::Instant;

use crate::fixtures::api;
use crate::scenario::{LONG, MS, SECOND, Stop, alone, beside_others, keep_calling, yaml};
use crate::support::{Behaviour, Fleet, Origin, RedisServer, Request, eventually, fleet};

const HOSTS: usize = 5;

/// The provider responds with 429 to one request; returns that request.
fn rate_limit_once(a: &Origin, after: &'static str) -> Request {
    let before = a.count();
    a.set(Behaviour::Script(vec![
        Behaviour::status(429, &[("retry-after", after)]),
        Behaviour::Chat,
    ]));
    eventually("a request gets a 429", || {
        a.requests().into_iter().nth(before).ok_or("none yet".to_owned())
    })
}

/// The rest of the hold at each host, in milliseconds.
fn left(fleet: &Fleet) -> Vec<Option<u64>> {
    let left = |held: &serde_json::Value| held["held"][0]["remaining_ms"].as_u64();
    fleet.iter().map(|host| left(&api(host, "/api/circuit-breakers"))).collect()
}

#[test]
fn a_429_at_one_host_stops_all_within_100_ms() {
    let _room = alone();
    let (a, redis) = (Origin::start(Behaviour::Chat), RedisServer::start());
    let fleet = fleet(HOSTS, &redis, &yaml(&a.url(), LONG));
    let stop = Stop::default();
    thread::scope(|scope| {
        let end = stop.at_end();
        let calls = fleet.iter().map(|host| keep_calling(scope, host, 10 * MS, &stop));
        let calls: Vec<_> = calls.collect();
        a.wait_for_requests(HOSTS * 20);
        let limited = rate_limit_once(&a, "30");
        let all = eventually("every host holds", || {
            let left = left(&fleet);
            left.iter().copied().collect::<Option<Vec<_>>>().ok_or(format!("{left:?}"))
        });
        let least = 30_000 - u64::try_from(limited.at.elapsed().as_millis()).expect("a short time");
        assert!(all.iter().all(|left| (least..=45_000).contains(left)), "of 30 s: {all:?}");
        eventually("two seconds of calls", || match limited.at.elapsed() {
            passed if passed > 2 * SECOND => Ok(()),
            passed => Err(format!("{passed:?}")),
        });
        drop(end);
        let last = a.last().at - limited.at;
        let all = calls.into_iter().flat_map(|call| call.join().expect("calls"));
        let held = all.filter(|result| result.is("held")).count();
        println!("after a 429, the last of {HOSTS} hosts called after {last:?}; {held} held");
        assert!(last <= 100 * MS, "{last:?}");
        assert!(held > HOSTS * 50, "{held} calls were held");
    });
}

#[test]
fn no_host_calls_before_the_hold_ends_and_all_call_afterwards() {
    let _room = beside_others();
    let (a, redis) = (Origin::start(Behaviour::Chat), RedisServer::start());
    let fleet = fleet(HOSTS, &redis, &yaml(&a.url(), LONG));
    let stop = Stop::default();
    thread::scope(|scope| {
        let end = stop.at_end();
        fleet.iter().for_each(|host| drop(keep_calling(scope, host, 20 * MS, &stop)));
        a.wait_for_requests(HOSTS * 10);
        let limited = rate_limit_once(&a, "2");
        let quiet = limited.at + 500 * MS;
        let again = eventually("calls arrive again", || {
            let after = a.requests().into_iter().find(|request| request.at > quiet);
            after.map(|request| request.at - limited.at).ok_or("none yet".to_owned())
        });
        println!("after a 429 with 2 s, the first call came after {again:?}");
        assert!(again >= 2 * SECOND && again <= 4 * SECOND, "{again:?}");
        let before = Instant::now();
        eventually("every host is served", || {
            match a.requests().iter().filter(|r| r.at > before).count() {
                count if count >= HOSTS * 5 => Ok(()),
                count => Err(format!("{count} calls")),
            }
        });
        drop(end);
    });
}
