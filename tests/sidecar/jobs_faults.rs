//! Jobs under faults: kills, providers that are down, full disks, failing responses.

use std::collections::HashSet;
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use serde_json::{Value, json};

use crate::fixtures::{GENEROUS, api, breaker, policy, post_admin, problem_type, route};
use crate::jobs::{
    accepted_path, data_dir, job_id, job_request, policy_with_queue, start_with_store, wait_for_job,
};
use crate::support::{Behaviour, Call, Gate, Origin, Sidecar, Signal};

/// The number of jobs in a state.
fn count(sidecar: &Sidecar, state: &str) -> u64 {
    let overview = api(sidecar, "/api/queue");
    overview["queues"][0]["jobs"]["states"][state].as_u64().unwrap_or(0)
}

/// The rates of a route in the last minute.
fn rates(sidecar: &Sidecar, route: &str) -> Value {
    let status = api(sidecar, "/api/status");
    let routes = status["routes"].as_array().expect("a list of routes");
    routes.iter().find(|one| one["name"] == route).expect("the route")["rates"].clone()
}

fn job_status(sidecar: &Sidecar, path: &str) -> Value {
    api(sidecar, &format!("/api/queue/jobs/{}", job_id(path)))
}

/// Limits the size of the files that the sidecar may write.
pub fn limit_files(sidecar: &Sidecar, bytes: &str) {
    let limit = Command::new("prlimit")
        .args(["--pid", &sidecar.pid().to_string(), &format!("--fsize={bytes}:unlimited")])
        .status();
    assert!(limit.expect("prlimit can be run").success());
}

#[test]
fn no_accepted_job_is_lost_when_the_sidecar_is_killed_repeatedly() {
    const JOBS: usize = 5_000;
    const KILLS: usize = 10;
    let (origin, data) = (Origin::start(Behaviour::Chat), data_dir());
    let yaml = policy_with_queue(&origin, "");
    let accepted = Mutex::new(Vec::new());
    let tried = AtomicUsize::new(0);
    let mut recovered = 0;
    for round in 0..=KILLS {
        let sidecar = start_with_store(data.path(), &yaml);
        let line = sidecar.wait_for_log(|line| line.contains("recovered="));
        let after = line.split("recovered=").nth(1).expect("a number");
        recovered += after.parse::<usize>().expect("a number");
        let target = JOBS * (round + 1) / (KILLS + 1);
        let stopped = AtomicBool::new(false);
        thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| submit(&sidecar, &accepted, &tried, &stopped));
            }
            while accepted.lock().expect("a lock").len() < target {
                thread::yield_now();
            }
            if round < KILLS {
                sidecar.signal(Signal::Kill);
            }
            stopped.store(true, Ordering::SeqCst);
        });
        if round == KILLS {
            let open = |sidecar: &Sidecar| {
                ["ready", "leased", "retry_wait"]
                    .map(|state| count(sidecar, state))
                    .iter()
                    .sum::<u64>()
            };
            sidecar.wait_until(|sidecar| open(sidecar) == 0);
            let accepted = accepted.lock().expect("a lock");
            for path in accepted.iter() {
                let response = sidecar.send(&crate::support::Call::get(path));
                assert_eq!(response.status, 200, "{path}: {}", response.text());
            }
            // The process may have been killed after it stored a job and before it sent the 202.
            let done = count(&sidecar, "done") as usize;
            assert!(done >= accepted.len() && done <= accepted.len() + 8 * KILLS, "{done}");
            let requests = origin.requests();
            let keys: HashSet<_> =
                requests.iter().map(|r| r.headers.get("idempotency-key").expect("a key")).collect();
            assert_eq!(keys.len(), done);
            let retries = requests.len() - done;
            assert!(retries <= recovered, "{retries} repeats, {recovered} were being run");
        }
    }
}

/// Submits jobs until the sidecar is killed.
fn submit(
    sidecar: &Sidecar,
    accepted: &Mutex<Vec<String>>,
    tried: &AtomicUsize,
    stopped: &AtomicBool,
) {
    let Ok(mut client) = crate::support::Client::try_to(&sidecar.url("/")) else { return };
    while !stopped.load(Ordering::SeqCst) {
        let name = tried.fetch_add(1, Ordering::Relaxed).to_string();
        match client.try_send(&job_request().header("x-name", &name)) {
            Ok(response) => accepted.lock().expect("a lock").push(accepted_path(&response)),
            Err(_) => return,
        }
    }
}

#[test]
fn jobs_waiting_for_a_provider_that_is_down_use_no_deliveries() {
    let (origin, data) = (Origin::start(Behaviour::RefuseConnections), data_dir());
    let provider_options = "auth: none, breaker: eager";
    let rest = route("providers: [a], timeout: 20s")
        + GENEROUS
        + "breakers: { eager: { recovery_timeout: 200ms, max_recovery_timeout: 200ms, ramp: 1s } }\n";
    let sidecar =
        start_with_store(data.path(), &policy(&[("a", &origin.url(), provider_options)], &rest));
    let paths: Vec<_> = (0..12).map(|_| accepted_path(&sidecar.send(&job_request()))).collect();
    sidecar.wait_until(|sidecar| breaker(sidecar, "a")["state"] != "closed");
    for path in &paths {
        assert_eq!(
            (
                job_status(&sidecar, path)["attempts"].as_u64(),
                job_status(&sidecar, path)["deliveries"].as_u64()
            ),
            (Some(0), Some(0))
        );
    }
    origin.set(Behaviour::Chat);
    for path in &paths {
        assert_eq!(wait_for_job(&sidecar, path).status, 200);
        assert_eq!(job_status(&sidecar, path)["attempts"], 0);
    }
    assert_eq!(origin.count(), 12);
    assert_eq!(breaker(&sidecar, "a")["state"], "closed");
}

#[test]
fn a_failing_job_is_retried_then_dead_and_can_be_requeued() {
    let (origin, data) = (Origin::start(Behaviour::status(500, &[])), data_dir());
    let sidecar = start_with_store(
        data.path(),
        &policy_with_queue(&origin, "durable: { max_deliveries: 2 }"),
    );
    let path = accepted_path(&sidecar.send(&job_request()));
    let dead = wait_for_job(&sidecar, &path);
    assert_eq!((dead.status, problem_type(&dead).as_str()), (502, "job-failed"));
    assert!(dead.text().contains("responded with 500"), "{}", dead.text());
    let shown = job_status(&sidecar, &path);
    assert_eq!((&shown["state"], &shown["deliveries"]), (&json!("dead"), &json!(2)));
    let listed = api(&sidecar, "/api/queue/jobs?state=dead&queue=default");
    assert_eq!(listed["jobs"][0]["id"], job_id(&path));
    origin.set(Behaviour::Chat);
    assert_eq!(post_admin(&sidecar, "/api/queue/requeue/default", &json!({}))["changed"], 1);
    assert_eq!(wait_for_job(&sidecar, &path).status, 200);
    let (status, text) =
        sidecar.admin_post(&format!("/api/queue/jobs/retry/{}", job_id(&path)), &json!({}));
    assert_eq!(status, 409, "{text}");
    assert_eq!(
        post_admin(&sidecar, "/api/queue/purge/default?state=done", &json!({}))["changed"],
        1
    );
    assert_eq!(wait_for_job(&sidecar, &path).status, 404);
    let deliveries = |result: &str| {
        sidecar.metric(&format!(
            r#"outrigger_job_deliveries_total{{queue="default",result="{result}"}}"#
        ))
    };
    assert_eq!(
        (deliveries("failed"), deliveries("dead"), deliveries("done")),
        (Some(1.0), Some(1.0), Some(1.0))
    );
}

#[test]
fn failed_runs_of_jobs_do_not_count_as_failed_requests() {
    let (bad, good) = (Origin::start(Behaviour::status(500, &[])), Origin::start(Behaviour::Chat));
    let data = data_dir();
    let routes = "routes:\n\
                  - { name: marker, match: { path: /marker }, providers: [good] }\n\
                  - { name: all, providers: [a], retry: none }\n\
                  queues: { default: { durable: { max_deliveries: 1 } } }\n";
    let origins =
        [("a", &*bad.url(), "auth: none, breaker: none"), ("good", &*good.url(), "auth: none")];
    let sidecar = start_with_store(data.path(), &policy(&origins, routes));
    (0..12).for_each(|_| assert_eq!(sidecar.send(&job_request()).status, 202));
    sidecar.wait_until(|sidecar| count(sidecar, "dead") == 12);
    let metric = |series: &str| sidecar.metric(&format!("outrigger_{series}"));
    assert_eq!(metric(r#"requests_total{route="all",status="2xx"}"#), Some(12.0));
    assert_eq!(metric(r#"requests_total{route="all",status="5xx"}"#), Some(0.0));
    assert_eq!(metric(r#"request_duration_seconds_count{route="all"}"#), Some(12.0));
    let dead = r#"job_deliveries_total{queue="default",result="dead"}"#;
    assert_eq!(metric(dead), Some(12.0));
    let runs = sidecar.wait_for_access(24).into_iter().filter(|record| record["run"] == true);
    let runs: Vec<_> =
        runs.map(|record| (record["status"].clone(), record["job"].is_string())).collect();
    assert_eq!(runs, vec![(json!(500), true); 12]);
    // A sample with this request includes the runs before it.
    assert_eq!(sidecar.send(&Call::get("/marker")).status, 200);
    let is_sampled = |rates: &Value| rates["requests_per_second"].as_f64().is_some_and(|n| n > 0.0);
    sidecar.wait_until(|sidecar| is_sampled(&rates(sidecar, "marker")));
    assert_eq!(rates(&sidecar, "all")["failed_share"], 0.0);
    let problems = api(&sidecar, "/api/status")["problems"].clone();
    let codes = problems.as_array().into_iter().flatten().map(|one| &one["code"]);
    assert_eq!(codes.collect::<Vec<_>>(), ["dead_jobs"]);
}

#[test]
fn failed_runs_of_jobs_open_breakers_and_activate_degradation_modes() {
    let (origin, data) = (Origin::start(Behaviour::status(500, &[])), data_dir());
    let rest = "routes: [ { name: all, providers: [a], retry: none, degrade: [brownout] } ]\n\
                breakers: { default: { failure_threshold: 3, recovery_timeout: 60s } }\n\
                queues: { default: { durable: { max_deliveries: 1 } } }\n\
                degradations: { brownout: { for: 0s, actions: [ { respond: { status: 418 } } ], \
                when: { error_rate: { of: all, above: 0.9, over: 1m, min_requests: 3 } } } }\n";
    let yaml = policy(&[("a", &origin.url(), "auth: none, breaker: default")], rest);
    let sidecar = start_with_store(data.path(), &yaml);
    (0..3).for_each(|_| assert_eq!(sidecar.send(&job_request()).status, 202));
    sidecar.wait_until(|sidecar| breaker(sidecar, "a")["state"] == "open");
    let active = "outrigger_degradation_active{mode=\"brownout\"}";
    sidecar.wait_until(|sidecar| sidecar.metric(active) == Some(1.0));
}

#[test]
fn a_429_delays_a_job_without_counting_as_a_delivery() {
    let busy = Behaviour::status(429, &[("retry-after", "1")]);
    let (origin, data) = (Origin::script([busy, Behaviour::Chat]), data_dir());
    let yaml = policy_with_queue(&origin, "durable: { max_deliveries: 1 }")
        .replace("timeout: 20s", "timeout: 500ms");
    let sidecar = start_with_store(data.path(), &yaml);
    let path = accepted_path(&sidecar.send(&job_request()));
    assert_eq!(wait_for_job(&sidecar, &path).status, 200);
    let shown = job_status(&sidecar, &path);
    assert_eq!((&shown["attempts"], &shown["deliveries"]), (&json!(0), &json!(1)));
}

#[test]
fn a_full_disk_rejects_jobs_before_the_202_and_the_store_recovers() {
    let (gate, data) = (Gate::closed(), data_dir());
    let origin = Origin::start(Behaviour::Chat.held(&gate));
    let sidecar = start_with_store(data.path(), &policy_with_queue(&origin, ""));
    let path = accepted_path(&sidecar.send(&job_request()));
    origin.wait_for_in_flight(1);
    limit_files(&sidecar, "4096");
    for _ in 0..3 {
        let refused = sidecar.send(&job_request());
        assert_eq!((refused.status, problem_type(&refused).as_str()), (503, "store-unavailable"));
        assert!(refused.header("retry-after").is_some());
    }
    let failing = "jobs get 503 until it can be written";
    sidecar.wait_for_log(|line| line.contains(failing));
    gate.open_wide();
    // The result has arrived and cannot be stored yet.
    sidecar.wait_for_log(|line| line.contains("cannot write the end of a job"));
    limit_files(&sidecar, "unlimited");
    assert_eq!(wait_for_job(&sidecar, &path).status, 200);
    let after = accepted_path(&sidecar.send(&job_request()));
    assert_eq!(wait_for_job(&sidecar, &after).status, 200);
    assert_eq!(origin.count(), 2, "a completed job ran again");
    let recovered = "the store can be written again";
    let count = |part: &str| sidecar.log().iter().filter(|line| line.contains(part)).count();
    sidecar.wait_until(|sidecar| {
        sidecar.send(&job_request());
        count(recovered) > 0
    });
    assert_eq!((count(failing), count(recovered)), (1, 1));
    assert!(sidecar.metric("outrigger_store_commits_failed_total").unwrap_or(0.0) >= 3.0);
}

#[test]
fn a_store_belongs_to_one_sidecar_and_a_second_one_names_the_owner() {
    let (origin, data) = (Origin::start(Behaviour::Chat), data_dir());
    let yaml = policy_with_queue(&origin, "");
    let first = start_with_store(data.path(), &yaml);
    let second = Sidecar::builder().policy("policy", &yaml).data(data.path());
    let refused = second.try_start().expect_err("the store is taken").log.join("\n");
    assert!(refused.contains(&format!("in use by process {}", first.pid())), "{refused}");
    // With the default directory, a sidecar without access to the store starts without it.
    let home = data_dir();
    let start_with_default_store = || {
        let builder = Sidecar::builder().policy("policy", &yaml).default_data();
        builder.env("XDG_STATE_HOME", home.path().to_str().expect("text")).start()
    };
    let first_default = start_with_default_store();
    assert_eq!(first_default.send(&job_request()).status, 202);
    let second_default = start_with_default_store();
    second_default.wait_for_log(|line| line.contains("no jobs are accepted"));
    assert_eq!(second_default.send(&job_request()).status, 200);
}

#[test]
fn a_result_is_posted_with_a_signature_until_it_is_accepted() {
    let elsewhere = Origin::start(Behaviour::Chat);
    let redirect = Behaviour::status(307, &[("location", &elsewhere.url())]);
    let hook = Origin::script([redirect, Behaviour::Chat]);
    let (origin, data) = (Origin::start(Behaviour::Chat), data_dir());
    let callback =
        format!("callback: {{ allow: [\"{}/done/**\"], secret: \"${{env:HOOK}}\" }}", hook.url());
    let yaml = policy_with_queue(&origin, &format!("durable: {{ {callback} }}"));
    let builder = Sidecar::builder().policy("policy", &yaml).env("HOOK", "hunter2-hook");
    let sidecar = builder.data(data.path()).start();
    let url = format!("{}/done/1?x=2", hook.url());
    let path = accepted_path(&sidecar.send(&job_request().header("x-outrigger-callback", &url)));
    let response = wait_for_job(&sidecar, &path);
    hook.wait_for_requests(2);
    let posts = hook.requests();
    let header = |name: &str| posts[1].headers.get(name).map(str::to_owned);
    assert_eq!((posts[1].method.as_str(), posts[1].path.as_str()), ("POST", "/done/1?x=2"));
    assert_eq!(posts[1].body, response.body);
    assert_eq!(header("webhook-id").as_deref(), Some(job_id(&path)));
    assert_eq!(header("outrigger-job-status").as_deref(), Some("200"));
    assert!(header("webhook-signature").is_some_and(|text| text.starts_with("v1,")));
    assert!(header("webhook-timestamp").is_some() && header("content-type").is_some());
    sidecar.wait_until(|sidecar| job_status(sidecar, &path)["callback"]["state"] == "sent");
    assert_eq!(elsewhere.count(), 0, "a redirect is not followed");
}

#[test]
fn a_stopped_sidecar_finishes_running_jobs_and_keeps_the_rest_for_the_next_start() {
    let (gate, data) = (Gate::closed(), data_dir());
    let origin = Origin::start(Behaviour::Chat.held(&gate));
    let yaml = policy_with_queue(&origin, "durable: { workers: 1 }");
    let mut sidecar = start_with_store(data.path(), &yaml);
    let paths = [(); 2].map(|()| accepted_path(&sidecar.send(&job_request())));
    origin.wait_for_in_flight(1);
    sidecar.signal(Signal::Term);
    sidecar.wait_for_log(|line| line.contains("the listener is closed"));
    gate.open_wide();
    assert!(sidecar.wait_for_exit().success());
    assert_eq!(origin.count(), 1);
    let sidecar = start_with_store(data.path(), &yaml);
    sidecar.wait_for_log(|line| line.contains("recovered=0"));
    for path in &paths {
        assert_eq!(wait_for_job(&sidecar, path).status, 200);
    }
    assert_eq!(origin.count(), 2);
}
