//! Shared jobs without faults: which host runs a job, and which host gets its result.

use std::collections::HashSet;

use serde_json::json;
use tempfile::TempDir;

use crate::fixtures::{api, chat, policy, problem_type, route};
use crate::scenario::beside_others;
use crate::support::fleet::host;
use crate::support::redis::{Cluster, Reply};
use crate::support::{
    Behaviour, Call, Fleet, Gate, Origin, RedisServer, Response, Sidecar, eventually,
};

/// A policy with shared jobs of one route; `durable` has more settings of the queue.
pub fn yaml(origin: &Origin, durable: &str) -> String {
    let rest = route("providers: [a], timeout: 20s, retry: none");
    let queue = format!("queues: {{ default: {{ durable: {{ share: true, {durable} }} }} }}\n");
    policy(&[("a", &origin.url(), "auth: none, breaker: none")], &(rest + &queue))
}

/// Hosts of a fleet, each with a store of its own.
pub struct Hosts {
    pub folders: Vec<TempDir>,
    pub fleet: Vec<Sidecar>,
}

impl Hosts {
    pub fn start(count: usize, redis: &RedisServer, yaml: &str) -> Hosts {
        Hosts::with(redis, &vec![yaml.to_owned(); count])
    }

    fn with(redis: &RedisServer, policies: &[String]) -> Hosts {
        Hosts::at(&redis.url(), policies)
    }

    /// By the URL of a Redis.
    fn at(url: &str, policies: &[String]) -> Hosts {
        let folder = |_: &String| TempDir::new().expect("a folder");
        let folders: Vec<_> = policies.iter().map(folder).collect();
        let both = folders.iter().zip(policies);
        let mut fleet = Fleet::of(both.map(|(data, yaml)| host(url, yaml).data(data.path())));
        let fleet = folders.iter().map(|_| fleet.take(0)).collect();
        Hosts { folders, fleet }
    }
}

pub fn job() -> Call {
    chat().header("prefer", "respond-async")
}

/// The path of an accepted job.
#[track_caller]
pub fn accepted_path(response: &Response) -> String {
    assert_eq!(response.status, 202, "{}", response.text());
    response.header("location").expect("a location").to_owned()
}

pub fn id(path: &str) -> &str {
    path.rsplit('/').next().expect("an id")
}

pub fn fetch_result(sidecar: &Sidecar, path: &str) -> Response {
    sidecar.send(&Call::get(path).header("prefer", "wait=20"))
}

/// Pauses the queue at this host; other hosts may still run its jobs.
pub fn pause(sidecar: &Sidecar) {
    let (status, text) = sidecar.admin_post("/api/queue/pause/default", &json!({}));
    assert_eq!(status, 200, "{text}");
}

pub fn runs(sidecar: &Sidecar, result: &str) -> u64 {
    let labels = format!("queue=\"default\",result=\"{result}\"");
    sidecar.metric(&format!("outrigger_job_deliveries_total{{{labels}}}")).unwrap_or(0.0) as u64
}

/// Waits until a host has counted this many runs with a result. It counts a run once its result is
/// sent, when the owner may have responded already.
pub fn wait_for_runs(sidecar: &Sidecar, result: &str, count: u64) {
    eventually(&format!("{count} runs are {result}"), || match runs(sidecar, result) {
        found if found == count => Ok(()),
        found => Err(found.to_string()),
    });
}

pub fn open_jobs(sidecar: &Sidecar) -> u64 {
    let states = &api(sidecar, "/api/queue")["queues"][0]["jobs"]["states"];
    ["ready", "leased", "retry_wait"].iter().map(|state| states[state].as_u64().unwrap_or(0)).sum()
}

#[test]
fn other_hosts_run_jobs_beyond_the_owners_workers_and_the_owner_has_the_results() {
    let _room = beside_others();
    let (redis, gate) = (RedisServer::start(), Gate::closed());
    let origin = Origin::start(Behaviour::Chat.held(&gate));
    let hosts = Hosts::start(3, &redis, &yaml(&origin, "workers: 2"));
    let secrets = ["authorization", "x-api-key", "api-key", "cookie", "proxy-authorization"];
    let mine = |call: Call| secrets.iter().fold(call, |call, name| call.header(name, "hunter2"));
    let [owner, ..] = &hosts.fleet[..] else { panic!("no hosts") };
    let paths: Vec<_> = (0..6).map(|_| accepted_path(&owner.send(&mine(job())))).collect();
    origin.wait_for_in_flight(6);
    // Redis never has a credential.
    let assert_no_credential = |part: &str| {
        let all = dump(&redis);
        assert!(!all.contains("hunter2"), "a credential is in redis: {part}");
        assert!(all.contains(id(&paths[5])) && all.contains(part), "{part}");
    };
    assert_no_credential("messages");
    assert_eq!((runs(owner, "done"), origin.most_in_flight()), (0, 6));
    gate.open_wide();
    for path in &paths {
        let response = owner.send(&mine(Call::get(path).header("prefer", "wait=20")));
        assert_eq!(response.status, 200, "{}", response.text());
        assert_eq!(response.json()["object"], "chat.completion");
        assert_eq!(owner.send(&Call::get(path)).status, 404, "only its principal may read it");
    }
    wait_for_runs(owner, "done", 2);
    wait_for_runs(owner, "done_elsewhere", 4);
    assert_eq!(origin.count(), 6);
    let keys: HashSet<_> = origin
        .requests()
        .iter()
        .map(|request| request.headers.get("idempotency-key").expect("a key").to_owned())
        .collect();
    assert_eq!(keys, paths.iter().map(|path| id(path).to_owned()).collect());
    owner.wait_until(|owner| owner.metric("outrigger_jobs_shared") == Some(0.0));
}

#[test]
fn only_hosts_that_would_send_the_same_request_run_a_job_of_another() {
    let _room = beside_others();
    let (redis, gate) = (RedisServer::start(), Gate::closed());
    let origin = Origin::start(Behaviour::Chat.held(&gate));
    let same = yaml(&origin, "workers: 2");
    let other = same.replace("timeout: 20s", "timeout: 21s");
    let hosts = Hosts::with(&redis, &[same.clone(), other, same]);
    let [owner, other, third] = &hosts.fleet[..] else { panic!("no hosts") };
    let paths: Vec<_> = (0..6).map(|_| accepted_path(&owner.send(&job()))).collect();
    origin.wait_for_in_flight(4);
    gate.let_through(4);
    origin.wait_for_requests(6);
    gate.open_wide();
    paths.iter().for_each(|path| assert_eq!(fetch_result(owner, path).status, 200));
    eventually("the third host has sent its result", || match runs(third, "borrowed_done") {
        0 => Err("none".to_owned()),
        _ => Ok(()),
    });
    assert_eq!(runs(other, "borrowed_done"), 0);
    // With the same policy, the other host serves the same partitions.
    pause(owner);
    pause(third);
    let path = accepted_path(&owner.send(&job()));
    other.write_policy("policy", &yaml(&origin, "workers: 2"));
    assert_eq!(fetch_result(owner, &path).status, 200);
    wait_for_runs(other, "borrowed_done", 1);
}

#[test]
fn a_job_that_fails_elsewhere_runs_again_and_is_dead_after_too_many_failures() {
    let _room = beside_others();
    let redis = RedisServer::start();
    let origin = Origin::script([Behaviour::status(500, &[]), Behaviour::Chat]);
    let hosts = Hosts::start(2, &redis, &yaml(&origin, "max_deliveries: 2"));
    let [owner, other] = &hosts.fleet[..] else { panic!("no hosts") };
    pause(owner);
    let path = accepted_path(&owner.send(&job()));
    assert_eq!(fetch_result(owner, &path).status, 200);
    wait_for_runs(other, "borrowed_failed", 1);
    wait_for_runs(other, "borrowed_done", 1);
    let shown = api(owner, &format!("/api/queue/jobs/{}", id(&path)));
    assert_eq!((&shown["attempts"], &shown["deliveries"]), (&json!(1), &json!(2)));
    origin.set(Behaviour::status(500, &[]));
    let path = accepted_path(&owner.send(&job()));
    let dead = fetch_result(owner, &path);
    assert_eq!((dead.status, problem_type(&dead).as_str()), (502, "job-failed"));
    assert!(dead.text().contains("responded with 500"), "{}", dead.text());
    wait_for_runs(other, "borrowed_dead", 1);
    wait_for_runs(owner, "dead_elsewhere", 1);
    // A requeued job runs again, on either host.
    origin.set(Behaviour::Chat);
    let (status, text) = owner.admin_post("/api/queue/requeue/default", &json!({}));
    assert_eq!(status, 200, "{text}");
    let (status, text) = owner.admin_post("/api/queue/resume/default", &json!({}));
    assert_eq!(status, 200, "{text}");
    assert_eq!(fetch_result(owner, &path).status, 200);
}

#[test]
fn a_cancelled_job_does_not_run_and_a_running_one_stops() {
    let _room = beside_others();
    let (redis, gate) = (RedisServer::start(), Gate::closed());
    let origin = Origin::start(Behaviour::Chat.held(&gate));
    let hosts = Hosts::start(2, &redis, &yaml(&origin, "workers: 1"));
    let [owner, other] = &hosts.fleet[..] else { panic!("no hosts") };
    pause(owner);
    let runs_there = accepted_path(&owner.send(&job()));
    origin.wait_for_in_flight(1);
    let waits = accepted_path(&owner.send(&job()));
    for path in [&runs_there, &waits] {
        assert_eq!(owner.send(&Call::new("DELETE", path)).status, 204);
    }
    // Its lease is not renewed any more.
    wait_for_runs(other, "borrowed_lost", 1);
    gate.open_wide();
    let after = accepted_path(&owner.send(&job()));
    assert_eq!(fetch_result(owner, &after).status, 200);
    let key = |request: &crate::support::Request| {
        request.headers.get("idempotency-key").expect("a key").to_owned()
    };
    let keys: Vec<_> = origin.requests().iter().map(key).collect();
    assert_eq!(keys, [id(&runs_there), id(&after)]);
}

/// All keys and values.
fn dump(redis: &RedisServer) -> String {
    let script = "local all, by = '', { hash = 'HGETALL', set = 'SMEMBERS', string = 'GET' } \
                  for _, k in ipairs(redis.call('KEYS', '*')) do \
                    local read = by[redis.call('TYPE', k).ok] \
                    local of = read and redis.call(read, k) or '' \
                    all = all .. k .. (type(of) == 'table' and table.concat(of, ' ') or of) end \
                  return all";
    match redis.execute(&["EVAL", script, "0"]) {
        Reply::Bytes(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn in_a_cluster_all_keys_of_a_job_are_on_one_server() {
    let _room = beside_others();
    let (cluster, origin) = (Cluster::start(), Origin::start(Behaviour::Chat));
    let yaml = yaml(&origin, "workers: 2");
    let hosts = Hosts::at(&cluster.url(), &[yaml.clone(), yaml]);
    let [owner, other] = &hosts.fleet[..] else { panic!("no hosts") };
    pause(owner);
    let paths: Vec<_> = (0..5).map(|_| accepted_path(&owner.send(&job()))).collect();
    paths.iter().for_each(|path| assert_eq!(fetch_result(owner, path).status, 200));
    wait_for_runs(other, "borrowed_done", 5);
    assert_eq!(origin.count(), 5);
}
