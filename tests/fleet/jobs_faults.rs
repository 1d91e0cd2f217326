//! Shared jobs while hosts die or stop and Redis fails or loses data (docs/design/queue.md "With Redis
//! and `share: true`"): no job is lost, and none runs twice without need.

use std::collections::HashSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;
use tempfile::TempDir;

use crate::fixtures::api;
use crate::jobs::{Hosts, accepted_path, fetch_result, job, open_jobs, pause, wait_for_runs, yaml};
use crate::scenario::{MS, alone, beside_others};
use crate::support::fleet::{host, wait_until_attached};
use crate::support::redis::Reply;
use crate::support::{
    Behaviour, Call, Client, FaultProxy, Gate, Origin, ProxyMode, RedisServer, Sidecar, Signal,
    eventually,
};

/// An owner publishes its jobs again within this time.
const REPUBLISHED_WITHIN: Duration = Duration::from_secs(10);

#[test]
fn jobs_of_a_dead_host_are_run_by_others_and_their_results_wait_for_it() {
    let _room = beside_others();
    let redis = RedisServer::start();
    let origin = Origin::start(Behaviour::Chat);
    let yaml = yaml(&origin, "workers: 2");
    let mut hosts = Hosts::start(2, &redis, &yaml);
    pause(&hosts.fleet[0]);
    pause(&hosts.fleet[1]);
    let paths: Vec<_> = (0..20).map(|_| accepted_path(&hosts.fleet[0].send(&job()))).collect();
    let shared = |host: &Sidecar| host.metric("outrigger_jobs_shared") == Some(20.0);
    hosts.fleet[0].wait_until(shared);
    drop(hosts.fleet.remove(0));
    let (status, text) = hosts.fleet[0].admin_post("/api/queue/resume/default", &json!({}));
    assert_eq!(status, 200, "{text}");
    origin.wait_for_requests(20);
    wait_for_runs(&hosts.fleet[0], "borrowed_done", 20);
    let again = host(&redis.url(), &yaml).data(hosts.folders[0].path()).start();
    paths.iter().for_each(|path| assert_eq!(fetch_result(&again, path).status, 200));
    assert_eq!(origin.count(), 20);
}

#[test]
fn without_redis_new_jobs_run_on_their_own_host_and_no_fleet_is_needed() {
    let _room = beside_others();
    let redis = RedisServer::start();
    let proxy = FaultProxy::to(redis.address());
    let origin = Origin::start(Behaviour::Chat);
    let (yaml, data) = (yaml(&origin, ""), TempDir::new().expect("a folder"));
    let sidecar = host(&redis.url_at(proxy.address()), &yaml).data(data.path()).start();
    wait_until_attached(&sidecar);
    assert_eq!(fetch_result(&sidecar, &accepted_path(&sidecar.send(&job()))).status, 200);
    for passing in [ProxyMode::Refused, ProxyMode::Stalled] {
        proxy.set(passing);
        for _ in 0..5 {
            let response = fetch_result(&sidecar, &accepted_path(&sidecar.send(&job())));
            assert_eq!(response.status, 200, "{}", response.text());
        }
        proxy.restore();
        wait_until_attached(&sidecar);
    }
    assert_eq!((origin.count(), open_jobs(&sidecar)), (11, 0));
    // Without a fleet, a warning is logged.
    let other = TempDir::new().expect("a folder");
    let sidecar = Sidecar::builder().policy("policy", &yaml).data(other.path()).start();
    sidecar.wait_for_log(|line| line.contains("jobs stay on this host"));
    assert_eq!(fetch_result(&sidecar, &accepted_path(&sidecar.send(&job()))).status, 200);
}

#[test]
fn a_job_that_was_run_is_not_run_again_when_its_host_stops() {
    let _room = beside_others();
    let redis = RedisServer::start();
    let origin = Origin::start(Behaviour::Chat);
    let mut hosts = Hosts::start(2, &redis, &yaml(&origin, ""));
    let mut owner = hosts.fleet.remove(0);
    for _ in 0..50 {
        accepted_path(&owner.send(&job()));
    }
    origin.wait_for_requests(50);
    assert!(owner.stop().success());
    eventually("no job is left", || match keys(&redis, "q") {
        0 => Ok(()),
        partitions => Err(partitions.to_string()),
    });
    assert_eq!(origin.count(), 50);
}

/// How many keys of jobs there are, by the part after the name of the fleet.
fn keys(redis: &RedisServer, of: &str) -> i64 {
    let script = format!("return #redis.call('KEYS', '*:j:{of}:*')");
    match redis.execute(&["EVAL", &script, "0"]) {
        Reply::Number(count) => count,
        other => panic!("{other:?}"),
    }
}

#[test]
fn jobs_that_redis_lost_are_published_again_and_running_ones_do_not_start_twice() {
    let _room = beside_others();
    let (redis, gate) = (RedisServer::start(), Gate::closed());
    let origin = Origin::start(Behaviour::Chat.held(&gate));
    let hosts = Hosts::start(2, &redis, &yaml(&origin, "workers: 1"));
    let [owner, other] = &hosts.fleet[..] else { panic!("no hosts") };
    pause(owner);
    let paths: Vec<_> = (0..5).map(|_| accepted_path(&owner.send(&job()))).collect();
    origin.wait_for_in_flight(1);
    owner.wait_until(|owner| owner.metric("outrigger_jobs_shared") == Some(5.0));
    for _ in 0..2 {
        redis.execute(&["FLUSHALL"]);
        let wiped = Instant::now();
        eventually("all are published again", || match (keys(&redis, "b"), keys(&redis, "q")) {
            (5, 1) => Ok(()),
            some => Err(format!("{some:?}")),
        });
        println!("published again {:?} after a wipe", wiped.elapsed());
        assert!(wiped.elapsed() < REPUBLISHED_WITHIN, "{:?}", wiped.elapsed());
    }
    gate.open_wide();
    paths.iter().for_each(|path| assert_eq!(fetch_result(owner, path).status, 200));
    wait_for_runs(other, "borrowed_done", 5);
    assert_eq!(origin.count(), 5);
}

#[test]
fn a_stopping_host_first_sends_the_results_of_borrowed_jobs() {
    let _room = beside_others();
    let (redis, gate) = (RedisServer::start(), Gate::closed());
    let origin = Origin::start(Behaviour::Chat.held(&gate));
    let yaml = yaml(&origin, "workers: 4");
    let hosts = Hosts::start(1, &redis, &yaml);
    let [owner] = &hosts.fleet[..] else { panic!("no host") };
    pause(owner);
    let (proxy, data) = (FaultProxy::to(redis.address()), TempDir::new().expect("a folder"));
    let mut other = host(&redis.url_at(proxy.address()), &yaml).data(data.path()).start();
    let paths: Vec<_> = (0..4).map(|_| accepted_path(&owner.send(&job()))).collect();
    origin.wait_for_in_flight(4);
    proxy.set(ProxyMode::After(100 * MS));
    other.signal(Signal::Term);
    other.wait_for_log(|line| line.contains("the listener is closed"));
    gate.open_wide();
    assert!(other.wait_for_exit().success());
    paths.iter().for_each(|path| assert_eq!(fetch_result(owner, path).status, 200));
    assert_eq!(origin.count(), 4);
}

/// Submits jobs until the host has `upto`.
fn submit(host: &Sidecar, paths: &Mutex<Vec<String>>, upto: usize, dead: &AtomicBool) {
    let Ok(mut client) = Client::try_to(&host.url("/")) else { return };
    while !dead.load(Ordering::SeqCst) && paths.lock().expect("a lock").len() < upto {
        match client.try_send(&job()) {
            Ok(response) => paths.lock().expect("a lock").push(accepted_path(&response)),
            Err(_) => return,
        }
    }
}

/// Deletes all data of Redis; returns how many unfetched results it had.
fn wipe(redis: &RedisServer) -> usize {
    let script = "local n = 0 for _, k in ipairs(redis.call('KEYS', '*:j:d:*')) do \
                  n = n + redis.call('ZCARD', k) end redis.call('FLUSHALL') return tostring(n)";
    redis.execute(&["EVAL", script, "0"]).text().parse().expect("a number")
}

#[test]
fn no_job_is_lost_while_hosts_are_killed_in_turn_and_redis_is_wiped_twice() {
    const JOBS: usize = 2_000;
    const ROUNDS: usize = 6;
    let _room = alone();
    let redis = RedisServer::start();
    let origin = Origin::start(Behaviour::Chat);
    let yaml = yaml(&origin, "");
    let mut hosts = Hosts::start(3, &redis, &yaml);
    let paths = [(); 3].map(|()| Mutex::new(Vec::new()));
    let doubtful = AtomicUsize::new(0);
    let done = |hosts: &Hosts| hosts.fleet.iter().map(open_jobs).sum::<u64>() == 0;
    for round in 0..ROUNDS {
        let victim = round % 3;
        let dead = AtomicBool::new(false);
        let upto = |host: usize| {
            // Most go to the first host, so that the others run some of them.
            let share = [8, 1, 1][host];
            JOBS * share * (round + 1) / (10 * ROUNDS)
        };
        thread::scope(|scope| {
            for (at, (host, paths)) in hosts.fleet.iter().zip(&paths).enumerate() {
                let dead = &dead;
                (0..3).for_each(|_| {
                    scope.spawn(move || submit(host, paths, upto(at), dead));
                });
            }
            let due = JOBS * (2 * round + 1) / (2 * ROUNDS);
            eventually("enough have started", || match origin.count() {
                count if count >= due => Ok(()),
                count => Err(format!("{count} of {due}")),
            });
            if round == 2 || round == 4 {
                doubtful.fetch_add(wipe(&redis), Ordering::SeqCst);
            }
            // The runs in flight, and the results that are not yet sent.
            doubtful.fetch_add(2 * 16, Ordering::SeqCst);
            hosts.fleet[victim].signal(Signal::Kill);
            if victim == 0 {
                dead.store(true, Ordering::SeqCst);
            }
        });
        drop(hosts.fleet.remove(victim));
        let again = host(&redis.url(), &yaml).data(hosts.folders[victim].path()).start();
        hosts.fleet.insert(victim, again);
    }
    eventually("all are done", || if done(&hosts) { Ok(()) } else { Err("some wait".to_owned()) });
    let all: usize = hosts
        .fleet
        .iter()
        .map(|host| {
            let states = &api(host, "/api/queue")["queues"][0]["jobs"]["states"];
            assert_eq!(states.as_object().map(serde_json::Map::len), Some(1), "{states}");
            states["done"].as_u64().expect("a number") as usize
        })
        .sum();
    for (host, paths) in hosts.fleet.iter().zip(&paths) {
        for path in paths.lock().expect("a lock").iter() {
            assert_eq!(host.send(&Call::get(path)).status, 200, "{path}");
        }
    }
    let requests = origin.requests();
    let key =
        |r: &crate::support::Request| r.headers.get("idempotency-key").expect("a key").to_owned();
    let keys: HashSet<_> = requests.iter().map(key).collect();
    assert_eq!(keys.len(), all, "each key belongs to one job");
    let (repeats, most) = (requests.len() - all, doubtful.load(Ordering::SeqCst));
    println!("{all} jobs, {repeats} repeats");
    assert!(repeats <= most, "{repeats} repeats, at most {most} were in flight");
}
