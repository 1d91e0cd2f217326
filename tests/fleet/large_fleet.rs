//! Twenty hosts: a provider that fails for all, and one that only a single host cannot reach.

use std::thread;
use std::time::Instant;

use crate::fixtures::state;
use crate::scenario::{
    Clocks, KEY, MS, Stop, alone, keep_calling, known, stored, transitions, wait_for_state, yaml,
};
use crate::support::fleet::{fleet_status, host};
use crate::support::listener::ReservedPort;
use crate::support::{Behaviour, Fleet, Origin, RedisServer, eventually, fleet};

const HOSTS: usize = 20;

/// Probes every second.
const STEADY: &str =
    "failure_threshold: 3, recovery_timeout: 1s, max_recovery_timeout: 1s, ramp: 0s";

#[test]
fn a_failing_provider_is_rejected_by_all_hosts_within_200_ms_and_then_probed_once_a_round() {
    let _room = alone();
    let (a, redis) = (Origin::start(Behaviour::Chat), RedisServer::start());
    let fleet = fleet(HOSTS, &redis, &yaml(&a.url(), STEADY));
    let (stop, clocks) = (Stop::default(), Clocks::now());
    let results = thread::scope(|scope| {
        let end = stop.at_end();
        let calls = fleet.iter().map(|host| keep_calling(scope, host, 40 * MS, &stop));
        let calls: Vec<_> = calls.collect();
        a.wait_for_requests(HOSTS * 10);
        a.set(Behaviour::status(500, &[]));
        eventually("four rounds of probes", || {
            let rounds = rounds(&redis);
            (rounds >= 4).then_some(()).ok_or(format!("{rounds}"))
        });
        drop(end);
        calls.into_iter().map(|call| call.join().expect("calls")).collect::<Vec<_>>()
    });
    let all = transitions(&redis);
    let opened = clocks.instant(all[0].at);
    assert_eq!((all[0].register.state, all[0].why.as_str()), ('O', "quorum"));
    // Before the first probe is due, each call that is not rejected is late.
    let until = opened + 700 * MS;
    let after = results.iter().flatten().filter(|result| (opened..until).contains(&result.sent_at));
    let late =
        after.filter(|result| result.status != 503).map(|result| result.sent_at - opened).max();
    let arrived = |from: Instant| a.requests().iter().filter(|request| request.at > from).count();
    let (probes, rounds) = (arrived(opened + 200 * MS), rounds(&redis));
    let at_quorum = arrived(opened) - probes;
    println!(
        "{HOSTS} hosts: the last attempt began {late:?} after the quorum ({at_quorum} arrived meanwhile); \
         {probes} probes in {rounds} rounds"
    );
    assert!(late.is_none_or(|late| late <= 200 * MS), "{late:?}");
    assert!(probes <= rounds, "{probes} attempts in {rounds} rounds: {all:?}");
    // Twenty clients share the cores, so a single one of them may be late.
    let later = results.iter().flatten().filter(|result| result.sent_at > opened + 200 * MS);
    let mut took: Vec<_> = later.map(|result| result.took).collect();
    took.sort();
    let most = took[took.len() * 99 / 100];
    assert!(most < 1000 * MS, "a rejection is immediate, yet 1 in 100 took {most:?}");
}

fn rounds(redis: &RedisServer) -> usize {
    transitions(redis).iter().filter(|entry| entry.register.state == 'H').count()
}

#[test]
fn a_host_with_a_broken_network_opens_its_breaker_alone() {
    let _room = alone();
    let (a, redis) = (Origin::start(Behaviour::Chat), RedisServer::start());
    let unused = ReservedPort::port();
    let broken = format!("http://{}", unused.address());
    let urls = (0..HOSTS).map(|n| if n == 0 { broken.clone() } else { a.url() });
    let fleet = Fleet::of(urls.map(|url| host(&redis.url(), &yaml(&url, STEADY))));
    let stop = Stop::default();
    let results = thread::scope(|scope| {
        let end = stop.at_end();
        let calls = fleet.iter().map(|host| keep_calling(scope, host, 40 * MS, &stop));
        let calls: Vec<_> = calls.collect();
        wait_for_state(&fleet[0], "open");
        let me = fleet_status(&fleet[0])["host"].clone();
        eventually("the others receive its vote", || {
            let status = fleet_status(&fleet[1]);
            status
                .to_string()
                .contains(&format!("\"votes\":[{me}]"))
                .then_some(())
                .ok_or(status.to_string())
        });
        a.wait_for_requests(a.count() + HOSTS * 40);
        drop(end);
        calls.into_iter().map(|call| call.join().expect("calls")).collect::<Vec<_>>()
    });
    let refused = results[0].iter().filter(|result| result.is("breaker-open")).count();
    let served = results[1..].iter().flatten().filter(|result| result.status == 200).count();
    println!("one host refused {refused} of {}; the others served {served}", results[0].len());
    assert!(refused > results[0].len() / 2, "{refused} of {}", results[0].len());
    let others = results[1..].iter().flatten().find(|result| result.status != 200);
    assert!(others.is_none(), "{others:?}");
    for host in &fleet[1..] {
        assert_eq!(state(host, "a"), "closed");
    }
    let of_redis = stored(&redis);
    assert!(of_redis.is_none(), "one host is no quorum: {of_redis:?}");
    let known: Vec<_> = fleet.iter().filter_map(known).filter(|known| known.state != 'C').collect();
    assert!(known.is_empty(), "{KEY}: {known:?}");
}
