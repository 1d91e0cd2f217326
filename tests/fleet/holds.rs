//! A `Retry-After` that one host receives holds the provider for all hosts.

use std::thread;
use std::time::Instant;

use serde_json::json;

use crate::fixtures::{CHAT, api, post_admin, problem_type};
use crate::scenario::{LONG, MS, SECOND, Stop, alone, beside_others, keep_calling, yaml};
use crate::support::fleet::host;
use crate::support::{
    Behaviour, Call, Fleet, Origin, RedisServer, Request, Sidecar, eventually, fleet,
};

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

/// A call for this model.
fn call_for(model: &str) -> Call {
    Call::json(CHAT, &json!({ "model": model }))
}

#[test]
fn a_429_for_one_model_holds_that_model_on_every_host() {
    let _room = beside_others();
    let (a, redis) = (Origin::start(Behaviour::Chat), RedisServer::start());
    a.set(Behaviour::custom(|request| {
        match String::from_utf8_lossy(&request.body).contains("big") {
            true => Behaviour::status(429, &[("retry-after", "100")]),
            false => Behaviour::Chat,
        }
    }));
    let policy = yaml(&a.url(), LONG);
    let mut fleet = fleet(2, &redis, &policy);
    assert_eq!(fleet[0].send(&call_for("vendor/big")).status, 429);
    let held = |host: &Sidecar| {
        let key = api(host, "/api/circuit-breakers")["held"][0]["key"].clone();
        key.as_str().map(str::to_owned)
    };
    let wait_for = |host: &Sidecar, key: Option<&str>| {
        eventually("the hold arrives or is gone", || match held(host) {
            found if found.as_deref() == key => Ok(()),
            found => Err(format!("{found:?}")),
        });
    };
    // A host that starts later reads it from Redis.
    fleet.push(host(&redis.url(), &policy).start());
    for host in fleet.iter() {
        wait_for(host, Some("a/main/-/vendor/big"));
        assert_eq!(problem_type(&host.send(&call_for("vendor/big"))), "held");
        assert_eq!(host.send(&call_for("small")).status, 200);
    }
    assert_eq!(a.count(), 4);
    post_admin(&fleet[0], "/api/circuit-breakers/reset/a/main/vendor%2Fbig", &json!({}));
    wait_for(&fleet[0], None);
    wait_for(&fleet[1], Some("a/main/-/vendor/big"));
    post_admin(&fleet[0], "/api/circuit-breakers/reset/a", &json!({ "fleet": true }));
    fleet.iter().for_each(|host| wait_for(host, None));
}
