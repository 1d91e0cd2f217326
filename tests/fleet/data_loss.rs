//! Redis loses all or some data, or a host is cut off: within 3 s all hosts and Redis have the same
//! register, and no epoch decreases.

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

/// Waits until every host and Redis have the same register; returns the time since `since`.
#[track_caller]
fn wait_until_agreed(
    fleet: &[crate::support::Sidecar],
    redis: &RedisServer,
    since: Instant,
) -> Duration {
    eventually("one register everywhere", || one_register(fleet, redis));
    since.elapsed()
}

/// Calls until the breaker of every host is closed.
#[track_caller]
fn call_until_closed(fleet: &Fleet) {
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
            redis.execute(&["FLUSHALL"]);
            let took = wait_until_agreed(&fleet, &redis, Instant::now());
            println!("lost in half-open: one register everywhere after {took:?}");
            assert!(took <= BAR, "{took:?}");
            assert!(a.in_flight() <= 2, "{} probes", a.in_flight());
            gate.open_wide();
            drop(end);
        });
        call_until_closed(&fleet);
        wait_until_agreed(&fleet, &redis, Instant::now());
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
    let took = wait_until_agreed(&fleet, &redis, began);
    println!("Redis restarted empty: one register everywhere after {took:?}");
    assert_eq!(stored(&redis), before, "the register is restored unchanged");
    // A new host reads the restored register.
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
        eventually("the register is replicated", || {
            let (at, there) = (stored(&redis.primary), stored(&redis.replica));
            (at == there).then_some(()).ok_or(format!("{there:?}, not {at:?}"))
        });
        redis.cut_replication();
        // A failed probe: half-open, then open again; neither is replicated.
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
        assert_eq!(stored(&redis.replica), before, "the replica lacks the latest transitions");
        let over = began.elapsed();
        fleet.iter().for_each(wait_until_attached);
        let took = wait_until_agreed(&fleet, &redis.replica, began) - over;
        println!("failed over in {over:?} with a loss: one register everywhere {took:?} later");
        assert!(took <= BAR, "{took:?}");
        assert!(stored(&redis.replica) >= lost, "{:?} after {lost:?}", stored(&redis.replica));
        a.set(Behaviour::Chat);
        call_until_closed(&fleet);
        drop(end);
    });
}

#[test]
fn a_reconnected_host_receives_the_transitions_that_it_missed() {
    let _room = beside_others();
    let (a, redis) = (Origin::start(Behaviour::Chat), RedisServer::start());
    let (proxy, yaml) = (FaultProxy::to(redis.address()), yaml(&a.url(), EAGER));
    let urls = [redis.url_at(proxy.address()), redis.url(), redis.url()];
    let fleet = Fleet::of(urls.iter().map(|url| host(url, &yaml)));
    let stop = Stop::default();
    thread::scope(|scope| {
        let end = stop.at_end();
        epochs_never_decrease(scope, &fleet, &stop);
        proxy.set(ProxyMode::Stalled);
        eventually("the host is detached", || {
            (!is_attached(&fleet[0])).then_some(()).ok_or("attached".to_owned())
        });
        let slow = call(&fleet[0]);
        assert!(slow.status == 200 && slow.took < SECOND, "{slow:?}");
        // At least three transitions that the detached host does not receive.
        trip(&fleet, &a, &redis);
        a.set(Behaviour::Chat);
        call_until_served(&fleet[1..]);
        wait_for_state(&fleet[1], "closed");
        trip(&fleet, &a, &redis);
        assert_ne!(known(&fleet[0]), known(&fleet[1]));
        proxy.restore();
        let took = wait_until_agreed(&fleet, &redis, Instant::now());
        println!("cut off and joined again: one register everywhere after {took:?}");
        assert!(took <= BAR, "{took:?}");
        a.set(Behaviour::Chat);
        call_until_closed(&fleet);
        drop(end);
    });
}

/// The transition is in no other host and not in Redis.
#[test]
fn a_state_that_only_one_host_knows_is_restored() {
    let _room = beside_others();
    let (a, redis) = (Origin::start(Behaviour::Chat), RedisServer::start());
    let proxy = FaultProxy::to(redis.address());
    let yaml = yaml(&a.url(), crate::scenario::LONG);
    let first =
        Fleet::of([redis.url_at(proxy.address()), redis.url()].map(|url| host(&url, &yaml)));
    trip(&first, &a, &redis);
    first.iter().for_each(|host| wait_for_state(host, "open"));
    let opened = stored(&redis);
    proxy.set(ProxyMode::Stalled);
    let mut first = first;
    drop(first.take(1));
    redis.execute(&["FLUSHALL"]);
    let late = host(&redis.url(), &yaml).start();
    wait_until_attached(&late);
    assert_eq!(known(&late).filter(|known| known.epoch > 0), None);
    proxy.restore();
    let began = Instant::now();
    first.push(late);
    let took = wait_until_agreed(&first, &redis, began);
    println!("restored by the only host that had it after {took:?}");
    assert!(took <= BAR, "{took:?}");
    assert_eq!(stored(&redis), opened);
    assert!(call(&first[1]).is("breaker-open"));
}
