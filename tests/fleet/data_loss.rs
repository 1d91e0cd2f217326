//! Redis loses what it knew, or some of it, or a host does not hear it: one register again within 3 s,
//! and nobody's epoch goes back.

use std::thread;
use std::time::{Duration, Instant};

use crate::fixtures::state;
use crate::scenario::{
    EAGER, MS, SECOND, Stop, alone, beside_others, call, call_until_served, epochs_never_decrease,
    keep_calling, known, one_register, stored, trip, wait_for_state, yaml,
};
use crate::support::fleet::{fleet_at, host, is_attached, wait_until_attached};
use crate::support::redis::Sentinels;
use crate::support::{
    Behaviour, FaultProxy, Fleet, Gate, Origin, ProxyMode, RedisServer, eventually, fleet,
};

const BAR: Duration = Duration::from_secs(3);

/// Until every host and Redis have the same register: how long.
#[track_caller]
fn agreed(fleet: &[crate::support::Sidecar], redis: &RedisServer, since: Instant) -> Duration {
    eventually("one register everywhere", || one_register(fleet, redis));
    since.elapsed()
}

/// Calls go on until every host is closed.
#[track_caller]
fn recovers(fleet: &Fleet) {
    eventually("every host is closed", || {
        call_until_served(fleet);
        let states: Vec<_> = fleet.iter().map(|host| state(host, "a")).collect();
        states.iter().all(|state| state == "closed").then_some(()).ok_or(format!("{states:?}"))
    });
}

#[test]
fn a_half_open_state_that_redis_lost_is_restored() {
    let _room = beside_others();
    let (a, redis) = (Origin::start(Behaviour::Chat), RedisServer::start());
    let fleet = fleet(3, &redis, &yaml(&a.url(), EAGER));
    let stop = Stop::default();
    thread::scope(|scope| {
        let end = stop.at_end();
        epochs_never_decrease(scope, &fleet, &stop);
        trip(&fleet, &a, &redis);
        let gate = Gate::closed();
        a.set(Behaviour::Chat.held(&gate));
        let calls = Stop::default();
        thread::scope(|scope| {
            let end = calls.at_end();
            fleet.iter().for_each(|host| drop(keep_calling(scope, host, 50 * MS, &calls)));
            a.wait_for_in_flight(1);
            for host in fleet.iter() {
                wait_for_state(host, "half_open");
            }
            redis.ask(&["FLUSHALL"]);
            let took = agreed(&fleet, &redis, Instant::now());
            println!("forgotten in half-open: one register everywhere after {took:?}");
            assert!(took <= BAR, "{took:?}");
            assert!(a.in_flight() <= 2, "{} probes", a.in_flight());
            gate.open_wide();
            drop(end);
        });
        recovers(&fleet);
        agreed(&fleet, &redis, Instant::now());
        drop(end);
    });
}

#[test]
fn an_open_state_that_redis_lost_stays_open_everywhere() {
    let _room = beside_others();
    let (a, redis) = (Origin::start(Behaviour::Chat), RedisServer::start());
    let fleet = fleet(3, &redis, &yaml(&a.url(), crate::scenario::LONG));
    trip(&fleet, &a, &redis);
    fleet.iter().for_each(|host| wait_for_state(host, "open"));
    let (before, count) = (stored(&redis), a.count());
    redis.kill();
    redis.start_again();
    let began = Instant::now();
    fleet.iter().for_each(wait_until_attached);
    let took = agreed(&fleet, &redis, began);
    println!("Redis began anew, with nothing: one register everywhere after {took:?}");
    assert_eq!(stored(&redis), before, "it was put back as it was");
    // Who comes new learns it, though Redis had forgotten it.
    let late = host(&redis.url(), &yaml(&a.url(), crate::scenario::LONG)).start();
    wait_until_attached(&late);
    assert!(call(&late).is("breaker-open"));
    assert_eq!(a.count(), count);
}

#[test]
fn a_failover_that_loses_writes_loses_no_transition() {
    let _room = alone();
    let (a, redis) = (Origin::start(Behaviour::Chat), Sentinels::start());
    let fleet = fleet_at(3, &redis.url(), &yaml(&a.url(), EAGER));
    let stop = Stop::default();
    thread::scope(|scope| {
        let end = stop.at_end();
        epochs_never_decrease(scope, &fleet, &stop);
        trip(&fleet, &a, &redis.primary);
        eventually("the replica has heard of it", || {
            let (at, there) = (stored(&redis.primary), stored(&redis.replica));
            (at == there).then_some(()).ok_or(format!("{there:?}, not {at:?}"))
        });
        redis.cut_replication();
        // A probe that fails: half-open, and open again, of which the replica hears nothing.
        let before = stored(&redis.replica);
        eventually("two transitions that are not replicated", || {
            fleet.iter().for_each(|host| drop(call(host)));
            let now = known(&fleet[0]);
            let moved = now.as_ref().map(|now| now.epoch) > before.as_ref().map(|b| b.epoch);
            moved.then_some(()).ok_or(format!("{now:?}"))
        });
        let lost = known(&fleet[0]);
        let began = Instant::now();
        redis.fail_over();
        assert_eq!(stored(&redis.replica), before, "the replica lost the latest");
        let over = began.elapsed();
        fleet.iter().for_each(wait_until_attached);
        let took = agreed(&fleet, &redis.replica, began) - over;
        println!("failed over in {over:?} with a loss: one register everywhere {took:?} later");
        assert!(took <= BAR, "{took:?}");
        assert!(stored(&redis.replica) >= lost, "{:?} after {lost:?}", stored(&redis.replica));
        a.set(Behaviour::Chat);
        recovers(&fleet);
        drop(end);
    });
}

#[test]
fn a_host_that_was_cut_off_for_a_while_learns_what_it_missed() {
    let _room = beside_others();
    let (a, redis) = (Origin::start(Behaviour::Chat), RedisServer::start());
    let (wire, yaml) = (FaultProxy::to(redis.address()), yaml(&a.url(), EAGER));
    let urls = [redis.url_at(wire.address()), redis.url(), redis.url()];
    let fleet = Fleet::of(urls.iter().map(|url| host(url, &yaml)));
    let stop = Stop::default();
    thread::scope(|scope| {
        let end = stop.at_end();
        epochs_never_decrease(scope, &fleet, &stop);
        wire.set(ProxyMode::Stalled);
        eventually("the host is detached", || {
            (!is_attached(&fleet[0])).then_some(()).ok_or("attached".to_owned())
        });
        let slow = call(&fleet[0]);
        assert!(slow.status == 200 && slow.took < SECOND, "{slow:?}");
        // Three transitions and more, of which it hears nothing.
        trip(&fleet, &a, &redis);
        a.set(Behaviour::Chat);
        call_until_served(&fleet[1..]);
        wait_for_state(&fleet[1], "closed");
        trip(&fleet, &a, &redis);
        assert_ne!(known(&fleet[0]), known(&fleet[1]));
        wire.mend();
        let took = agreed(&fleet, &redis, Instant::now());
        println!("cut off and joined again: one register everywhere after {took:?}");
        assert!(took <= BAR, "{took:?}");
        a.set(Behaviour::Chat);
        recovers(&fleet);
        drop(end);
    });
}

/// What a host brought about just before it was cut off is known nowhere else, and is not lost.
#[test]
fn a_state_that_only_one_host_knows_is_restored() {
    let _room = beside_others();
    let (a, redis) = (Origin::start(Behaviour::Chat), RedisServer::start());
    let wire = FaultProxy::to(redis.address());
    let yaml = yaml(&a.url(), crate::scenario::LONG);
    let first = Fleet::of([redis.url_at(wire.address()), redis.url()].map(|url| host(&url, &yaml)));
    trip(&first, &a, &redis);
    first.iter().for_each(|host| wait_for_state(host, "open"));
    let opened = stored(&redis);
    wire.set(ProxyMode::Stalled);
    let mut first = first;
    drop(first.take(1));
    redis.ask(&["FLUSHALL"]);
    let late = host(&redis.url(), &yaml).start();
    wait_until_attached(&late);
    assert_eq!(known(&late).filter(|known| known.epoch > 0), None);
    wire.mend();
    let began = Instant::now();
    first.push(late);
    let took = agreed(&first, &redis, began);
    println!("put back by the only host that knew it after {took:?}");
    assert!(took <= BAR, "{took:?}");
    assert_eq!(stored(&redis), opened);
    assert!(call(&first[1]).is("breaker-open"));
}
