//! Jobs that any host of a fleet may run (QUEUE.md "With Redis and `share: true`").

use std::collections::HashSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use serde_json::json;
use tempfile::TempDir;

use crate::scene::{api, chat, policy, problem, route};
use crate::stage::{alone, beside_others};
use crate::support::fleet::{host, wait_until_attached};
use crate::support::redis::Reply;
use crate::support::{
    Behaviour, Call, Client, Fleet, Gate, Origin, Passing, RedisServer, Response, Sidecar, Signal,
    Wire, seen,
};

/// Shared jobs of one route, with more in the lane's braces.
fn yaml(origin: &Origin, durable: &str) -> String {
    let rest = route("providers: [a], timeout: 20s, retry: none");
    let lane = format!("queues: {{ default: {{ durable: {{ share: true, {durable} }} }} }}\n");
    policy(&[("a", &origin.url(), "auth: none, breaker: none")], &(rest + &lane))
}

struct Hosts {
    folders: Vec<TempDir>,
    fleet: Vec<Sidecar>,
}

impl Hosts {
    fn start(count: usize, redis: &RedisServer, yaml: &str) -> Hosts {
        Hosts::with(redis, &vec![yaml.to_owned(); count])
    }

    fn with(redis: &RedisServer, policies: &[String]) -> Hosts {
        let folder = |_: &String| TempDir::new().expect("a folder");
        let folders: Vec<_> = policies.iter().map(folder).collect();
        let both = folders.iter().zip(policies);
        let mut fleet =
            Fleet::of(both.map(|(data, yaml)| host(&redis.url(), yaml).data(data.path())));
        let fleet = folders.iter().map(|_| fleet.take(0)).collect();
        Hosts { folders, fleet }
    }
}

fn job() -> Call {
    chat().header("prefer", "respond-async")
}

/// The path at which a job is asked for.
#[track_caller]
fn taken(response: &Response) -> String {
    assert_eq!(response.status, 202, "{}", response.text());
    response.header("location").expect("a place").to_owned()
}

fn id(path: &str) -> &str {
    path.rsplit('/').next().expect("an id")
}

fn ask(sidecar: &Sidecar, path: &str) -> Response {
    sidecar.send(&Call::get(path).header("prefer", "wait=20"))
}

/// This host begins no job of its own any more; others may.
fn pause(sidecar: &Sidecar) {
    let (status, text) = sidecar.admin_post("/api/queue/pause/default", &json!({}));
    assert_eq!(status, 200, "{text}");
}

fn runs(sidecar: &Sidecar, result: &str) -> u64 {
    let labels = format!("queue=\"default\",result=\"{result}\"");
    sidecar.metric(&format!("outrigger_job_deliveries_total{{{labels}}}")).unwrap_or(0.0) as u64
}

fn open_jobs(sidecar: &Sidecar) -> u64 {
    let states = &api(sidecar, "/api/queue")["queues"][0]["jobs"]["states"];
    ["ready", "leased", "retry_wait"].iter().map(|state| states[state].as_u64().unwrap_or(0)).sum()
}

#[test]
fn what_one_host_cannot_run_others_do_and_it_has_the_answers() {
    let _room = beside_others();
    let (redis, gate) = (RedisServer::start(), Gate::closed());
    let origin = Origin::start(Behaviour::Chat.held(&gate));
    let hosts = Hosts::start(3, &redis, &yaml(&origin, "workers: 2"));
    let secrets = ["authorization", "x-api-key", "api-key", "cookie", "proxy-authorization"];
    let mine = |call: Call| secrets.iter().fold(call, |call, name| call.header(name, "hunter2"));
    let [owner, ..] = &hosts.fleet[..] else { panic!("no hosts") };
    let paths: Vec<_> = (0..6).map(|_| taken(&owner.send(&mine(job())))).collect();
    origin.wait_for_in_flight(6);
    // While they run, and when they have ended, no credential is in Redis.
    let told = |what: &str| {
        let all = everything(&redis);
        assert!(!all.contains("hunter2"), "a credential is in redis {what}");
        assert!(all.contains(id(&paths[5])) && all.contains(what), "{what}");
    };
    told("messages");
    assert_eq!((runs(owner, "done"), origin.most_in_flight()), (0, 6));
    gate.open_wide();
    for path in &paths {
        let answer = owner.send(&mine(Call::get(path).header("prefer", "wait=20")));
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert_eq!(answer.json()["object"], "chat.completion");
        assert_eq!(owner.send(&Call::get(path)).status, 404, "it is its maker's alone");
    }
    assert_eq!((runs(owner, "done"), runs(owner, "done_elsewhere"), origin.count()), (2, 4, 6));
    let keys: HashSet<_> = origin
        .requests()
        .iter()
        .map(|request| request.headers.get("idempotency-key").expect("a key").to_owned())
        .collect();
    assert_eq!(keys, paths.iter().map(|path| id(path).to_owned()).collect());
    owner.wait_until(|owner| owner.metric("outrigger_jobs_shared") == Some(0.0));
}

#[test]
fn only_who_makes_its_requests_alike_runs_a_job_of_another() {
    let _room = beside_others();
    let (redis, gate) = (RedisServer::start(), Gate::closed());
    let origin = Origin::start(Behaviour::Chat.held(&gate));
    let same = yaml(&origin, "workers: 2");
    let other = same.replace("timeout: 20s", "timeout: 21s");
    let hosts = Hosts::with(&redis, &[same.clone(), other, same]);
    let [owner, other, third] = &hosts.fleet[..] else { panic!("no hosts") };
    let paths: Vec<_> = (0..6).map(|_| taken(&owner.send(&job()))).collect();
    origin.wait_for_in_flight(4);
    gate.let_through(4);
    origin.wait_for_requests(6);
    gate.open_wide();
    paths.iter().for_each(|path| assert_eq!(ask(owner, path).status, 200));
    seen("the third has told", || match runs(third, "foreign_done") {
        0 => Err("nothing".to_owned()),
        _ => Ok(()),
    });
    assert_eq!(runs(other, "foreign_done"), 0);
    // A policy that becomes the same makes them hosts of the same lines.
    pause(owner);
    pause(third);
    let path = taken(&owner.send(&job()));
    other.write_policy("policy", &yaml(&origin, "workers: 2"));
    assert_eq!(ask(owner, &path).status, 200);
    assert_eq!(runs(other, "foreign_done"), 1);
}

#[test]
fn what_fails_elsewhere_is_run_again_and_is_dead_when_it_failed_too_often() {
    let _room = beside_others();
    let redis = RedisServer::start();
    let origin = Origin::script([Behaviour::status(500, &[]), Behaviour::Chat]);
    let hosts = Hosts::start(2, &redis, &yaml(&origin, "max_deliveries: 2"));
    let [owner, other] = &hosts.fleet[..] else { panic!("no hosts") };
    pause(owner);
    let path = taken(&owner.send(&job()));
    assert_eq!(ask(owner, &path).status, 200);
    assert_eq!((runs(other, "foreign_failed"), runs(other, "foreign_done")), (1, 1));
    let shown = api(owner, &format!("/api/queue/jobs/{}", id(&path)));
    assert_eq!((&shown["attempts"], &shown["deliveries"]), (&json!(1), &json!(2)));
    origin.set(Behaviour::status(500, &[]));
    let path = taken(&owner.send(&job()));
    let dead = ask(owner, &path);
    assert_eq!((dead.status, problem(&dead).as_str()), (502, "job-failed"));
    assert!(dead.text().contains("answered 500"), "{}", dead.text());
    assert_eq!((runs(other, "foreign_dead"), runs(owner, "dead_elsewhere")), (1, 1));
    // By hand it is run again, here or there.
    origin.set(Behaviour::Chat);
    let (status, text) = owner.admin_post("/api/queue/requeue/default", &json!({}));
    assert_eq!(status, 200, "{text}");
    let (status, text) = owner.admin_post("/api/queue/resume/default", &json!({}));
    assert_eq!(status, 200, "{text}");
    assert_eq!(ask(owner, &path).status, 200);
}

#[test]
fn a_job_that_is_cancelled_is_run_by_nobody_and_who_runs_it_stops() {
    let _room = beside_others();
    let (redis, gate) = (RedisServer::start(), Gate::closed());
    let origin = Origin::start(Behaviour::Chat.held(&gate));
    let hosts = Hosts::start(2, &redis, &yaml(&origin, "workers: 1"));
    let [owner, other] = &hosts.fleet[..] else { panic!("no hosts") };
    pause(owner);
    let runs_there = taken(&owner.send(&job()));
    origin.wait_for_in_flight(1);
    let waits = taken(&owner.send(&job()));
    for path in [&runs_there, &waits] {
        assert_eq!(owner.send(&Call::new("DELETE", path)).status, 204);
    }
    // Its lease is not renewed any more.
    seen("the run is given up", || match runs(other, "foreign_lost") {
        1 => Ok(()),
        _ => Err("it runs on".to_owned()),
    });
    gate.open_wide();
    let after = taken(&owner.send(&job()));
    assert_eq!(ask(owner, &after).status, 200);
    let key = |request: &crate::support::Request| {
        request.headers.get("idempotency-key").expect("a key").to_owned()
    };
    let keys: Vec<_> = origin.requests().iter().map(key).collect();
    assert_eq!(keys, [id(&runs_there), id(&after)]);
}

#[test]
fn jobs_of_a_host_that_died_are_run_by_others_and_their_answers_wait_for_it() {
    let _room = beside_others();
    let redis = RedisServer::start();
    let origin = Origin::start(Behaviour::Chat);
    let yaml = yaml(&origin, "workers: 2");
    let mut hosts = Hosts::start(2, &redis, &yaml);
    pause(&hosts.fleet[0]);
    pause(&hosts.fleet[1]);
    let paths: Vec<_> = (0..20).map(|_| taken(&hosts.fleet[0].send(&job()))).collect();
    let shared = |host: &Sidecar| host.metric("outrigger_jobs_shared") == Some(20.0);
    hosts.fleet[0].wait_until(shared);
    drop(hosts.fleet.remove(0));
    let (status, text) = hosts.fleet[0].admin_post("/api/queue/resume/default", &json!({}));
    assert_eq!(status, 200, "{text}");
    origin.wait_for_requests(20);
    seen("all are told", || match runs(&hosts.fleet[0], "foreign_done") {
        20 => Ok(()),
        some => Err(some.to_string()),
    });
    let again = host(&redis.url(), &yaml).data(hosts.folders[0].path()).start();
    paths.iter().for_each(|path| assert_eq!(ask(&again, path).status, 200));
    assert_eq!(origin.count(), 20);
}

#[test]
fn without_redis_new_jobs_are_run_here_and_a_fleet_is_not_needed() {
    let _room = beside_others();
    let redis = RedisServer::start();
    let wire = Wire::to(redis.address());
    let origin = Origin::start(Behaviour::Chat);
    let (yaml, data) = (yaml(&origin, ""), TempDir::new().expect("a folder"));
    let sidecar = host(&redis.url_at(wire.address()), &yaml).data(data.path()).start();
    wait_until_attached(&sidecar);
    assert_eq!(ask(&sidecar, &taken(&sidecar.send(&job()))).status, 200);
    for passing in [Passing::Refused, Passing::Stalled] {
        wire.set(passing);
        for _ in 0..5 {
            let answer = ask(&sidecar, &taken(&sidecar.send(&job())));
            assert_eq!(answer.status, 200, "{}", answer.text());
        }
        wire.mend();
        wait_until_attached(&sidecar);
    }
    assert_eq!((origin.count(), open_jobs(&sidecar)), (11, 0));
    // And where there is no fleet, that is said.
    let other = TempDir::new().expect("a folder");
    let sidecar = Sidecar::builder().policy("policy", &yaml).data(other.path()).start();
    sidecar.wait_for_log(|line| line.contains("jobs stay on this host"));
    assert_eq!(ask(&sidecar, &taken(&sidecar.send(&job()))).status, 200);
}

#[test]
fn a_job_that_was_run_is_not_run_again_when_its_host_stops() {
    let _room = beside_others();
    let redis = RedisServer::start();
    let origin = Origin::start(Behaviour::Chat);
    let mut hosts = Hosts::start(2, &redis, &yaml(&origin, ""));
    let mut owner = hosts.fleet.remove(0);
    for _ in 0..50 {
        taken(&owner.send(&job()));
    }
    origin.wait_for_requests(50);
    assert!(owner.stop().success());
    let count = || redis.ask(&["EVAL", "return #redis.call('KEYS', '*:j:q:*')", "0"]);
    seen("no job is left", || {
        let lines = format!("{:?}", count());
        if lines == "Number(0)" { Ok(()) } else { Err(lines) }
    });
    assert_eq!(origin.count(), 50);
}

/// Hands jobs in until there are so many.
fn submit(host: &Sidecar, paths: &Mutex<Vec<String>>, upto: usize, dead: &AtomicBool) {
    let Ok(mut client) = Client::try_to(&host.url("/")) else { return };
    while !dead.load(Ordering::SeqCst) && paths.lock().expect("a lock").len() < upto {
        match client.try_send(&job()) {
            Ok(answer) => paths.lock().expect("a lock").push(taken(&answer)),
            Err(_) => return,
        }
    }
}

/// All keys and what lies in them.
fn everything(redis: &RedisServer) -> String {
    let script = "local all, by = '', { hash = 'HGETALL', set = 'SMEMBERS', string = 'GET' } \
                  for _, k in ipairs(redis.call('KEYS', '*')) do \
                    local read = by[redis.call('TYPE', k).ok] \
                    local of = read and redis.call(read, k) or '' \
                    all = all .. k .. (type(of) == 'table' and table.concat(of, ' ') or of) end \
                  return all";
    match redis.ask(&["EVAL", script, "0"]) {
        Reply::Bytes(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        other => panic!("{other:?}"),
    }
}

/// How many results lie in Redis that nobody fetched, which is empty then.
fn wipe(redis: &RedisServer) -> usize {
    let script = "local n = 0 for _, k in ipairs(redis.call('KEYS', '*:j:d:*')) do \
                  n = n + redis.call('ZCARD', k) end redis.call('FLUSHALL') return tostring(n)";
    redis.ask(&["EVAL", script, "0"]).text().parse().expect("a number")
}

#[test]
fn none_is_lost_while_hosts_are_killed_in_turn_and_redis_is_wiped_twice() {
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
            // Most come to the first host, so that the others have something to do for it.
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
            seen("enough are begun", || match origin.count() {
                count if count >= due => Ok(()),
                count => Err(format!("{count} of {due}")),
            });
            if round == 2 || round == 4 {
                doubtful.fetch_add(wipe(&redis), Ordering::SeqCst);
            }
            // What is in flight at its end, and what it has not told yet.
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
    seen("all are done", || if done(&hosts) { Ok(()) } else { Err("some wait".to_owned()) });
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
    assert_eq!(keys.len(), all, "each key is a job's");
    let (repeats, most) = (requests.len() - all, doubtful.load(Ordering::SeqCst));
    println!("{all} jobs, {repeats} repeats");
    assert!(repeats <= most, "{repeats} repeats, at most {most} were in flight");
}
