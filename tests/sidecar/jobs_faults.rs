//! Jobs against faults: kills, providers that are down, disks that are full, answers that fail.

use std::collections::HashSet;
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use serde_json::{Value, json};

use crate::fixtures::{GENEROUS, api, breaker, policy, problem, route};
use crate::jobs::{ask, folder, id, job, simple, started, taken};
use crate::support::{Behaviour, Gate, Origin, Sidecar, Signal};

/// How many jobs stand so.
fn count(sidecar: &Sidecar, state: &str) -> u64 {
    let overview = api(sidecar, "/api/queue");
    overview["queues"][0]["jobs"]["states"][state].as_u64().unwrap_or(0)
}

fn change(sidecar: &Sidecar, path: &str) -> Value {
    let (status, text) = sidecar.admin_post(path, &json!({}));
    assert_eq!(status, 200, "{path}: {text}");
    serde_json::from_str(&text).expect("JSON")
}

fn of(sidecar: &Sidecar, path: &str) -> Value {
    api(sidecar, &format!("/api/queue/jobs/{}", id(path)))
}

/// What a process may write to one file, from now on.
fn limit_files(sidecar: &Sidecar, bytes: &str) {
    let limit = Command::new("prlimit")
        .args(["--pid", &sidecar.pid().to_string(), &format!("--fsize={bytes}:unlimited")])
        .status();
    assert!(limit.expect("prlimit can be run").success());
}

#[test]
fn nothing_that_was_taken_is_lost_when_the_sidecar_is_killed_again_and_again() {
    const JOBS: usize = 5_000;
    const KILLS: usize = 10;
    let (origin, data) = (Origin::start(Behaviour::Chat), folder());
    let yaml = simple(&origin, "");
    let accepted = Mutex::new(Vec::new());
    let tried = AtomicUsize::new(0);
    let mut recovered = 0;
    for round in 0..=KILLS {
        let sidecar = started(data.path(), &yaml);
        let line = sidecar.wait_for_log(|line| line.contains("recovered="));
        let after = line.split("recovered=").nth(1).expect("a number");
        recovered += after.parse::<usize>().expect("a number");
        let target = JOBS * (round + 1) / (KILLS + 1);
        let dead = AtomicBool::new(false);
        thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| submit(&sidecar, &accepted, &tried, &dead));
            }
            while round < KILLS && accepted.lock().expect("a lock").len() < target {
                thread::yield_now();
            }
            if round < KILLS {
                sidecar.signal(Signal::Kill);
                dead.store(true, Ordering::SeqCst);
            } else {
                while accepted.lock().expect("a lock").len() < JOBS {
                    thread::yield_now();
                }
                dead.store(true, Ordering::SeqCst);
            }
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
                let answer = sidecar.send(&crate::support::Call::get(path));
                assert_eq!(answer.status, 200, "{path}: {}", answer.text());
            }
            // Of the last few the 202 may have been on its way when the process was killed.
            let done = count(&sidecar, "done") as usize;
            assert!(done >= accepted.len() && done <= accepted.len() + 8 * KILLS, "{done}");
            let requests = origin.requests();
            let keys: HashSet<_> =
                requests.iter().map(|r| r.headers.get("idempotency-key").expect("a key")).collect();
            assert_eq!(keys.len(), done);
            let repeats = requests.len() - done;
            assert!(repeats <= recovered, "{repeats} repeats, {recovered} were being run");
        }
    }
}

/// Hands jobs in until the sidecar is dead.
fn submit(
    sidecar: &Sidecar,
    accepted: &Mutex<Vec<String>>,
    tried: &AtomicUsize,
    dead: &AtomicBool,
) {
    let Ok(mut client) = crate::support::Client::try_to(&sidecar.url("/")) else { return };
    while !dead.load(Ordering::SeqCst) {
        let name = tried.fetch_add(1, Ordering::Relaxed).to_string();
        match client.try_send(&job().header("x-name", &name)) {
            Ok(answer) => accepted.lock().expect("a lock").push(taken(&answer)),
            Err(_) => return,
        }
    }
}

#[test]
fn a_provider_that_is_down_costs_the_jobs_that_wait_for_it_nothing() {
    let (origin, data) = (Origin::start(Behaviour::RefuseConnections), folder());
    let more = "auth: none, breaker: eager";
    let rest = route("providers: [a], timeout: 20s")
        + GENEROUS
        + "breakers: { eager: { recovery_timeout: 200ms, max_recovery_timeout: 200ms, ramp: 1s } }\n";
    let sidecar = started(data.path(), &policy(&[("a", &origin.url(), more)], &rest));
    let paths: Vec<_> = (0..12).map(|_| taken(&sidecar.send(&job()))).collect();
    sidecar.wait_until(|sidecar| breaker(sidecar, "a")["state"] != "closed");
    for path in &paths {
        assert_eq!(
            (of(&sidecar, path)["attempts"].as_u64(), of(&sidecar, path)["deliveries"].as_u64()),
            (Some(0), Some(0))
        );
    }
    origin.set(Behaviour::Chat);
    for path in &paths {
        assert_eq!(ask(&sidecar, path).status, 200);
        assert_eq!(of(&sidecar, path)["attempts"], 0);
    }
    assert_eq!(origin.count(), 12);
    assert_eq!(breaker(&sidecar, "a")["state"], "closed");
}

#[test]
fn what_fails_is_tried_again_then_dead_and_runs_again_when_somebody_says_so() {
    let (origin, data) = (Origin::start(Behaviour::status(500, &[])), folder());
    let sidecar = started(data.path(), &simple(&origin, "durable: { max_deliveries: 2 }"));
    let path = taken(&sidecar.send(&job()));
    let dead = ask(&sidecar, &path);
    assert_eq!((dead.status, problem(&dead).as_str()), (502, "job-failed"));
    assert!(dead.text().contains("answered 500"), "{}", dead.text());
    let shown = of(&sidecar, &path);
    assert_eq!((&shown["state"], &shown["deliveries"]), (&json!("dead"), &json!(2)));
    let listed = api(&sidecar, "/api/queue/jobs?state=dead&queue=default");
    assert_eq!(listed["jobs"][0]["id"], id(&path));
    origin.set(Behaviour::Chat);
    assert_eq!(change(&sidecar, "/api/queue/requeue/default")["changed"], 1);
    assert_eq!(ask(&sidecar, &path).status, 200);
    let (status, text) =
        sidecar.admin_post(&format!("/api/queue/jobs/retry/{}", id(&path)), &json!({}));
    assert_eq!(status, 409, "{text}");
    assert_eq!(change(&sidecar, "/api/queue/purge/default?state=done")["changed"], 1);
    assert_eq!(ask(&sidecar, &path).status, 404);
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
fn a_429_is_waited_for_and_is_no_run() {
    let busy = Behaviour::status(429, &[("retry-after", "1")]);
    let (origin, data) = (Origin::script([busy, Behaviour::Chat]), folder());
    let yaml =
        simple(&origin, "durable: { max_deliveries: 1 }").replace("timeout: 20s", "timeout: 500ms");
    let sidecar = started(data.path(), &yaml);
    let path = taken(&sidecar.send(&job()));
    assert_eq!(ask(&sidecar, &path).status, 200);
    let shown = of(&sidecar, &path);
    assert_eq!((&shown["attempts"], &shown["deliveries"]), (&json!(0), &json!(1)));
}

#[test]
fn a_disk_that_takes_no_more_is_told_before_any_202_and_is_gone_on_from() {
    let (gate, data) = (Gate::closed(), folder());
    let origin = Origin::start(Behaviour::Chat.held(&gate));
    let sidecar = started(data.path(), &simple(&origin, ""));
    let path = taken(&sidecar.send(&job()));
    origin.wait_for_in_flight(1);
    limit_files(&sidecar, "4096");
    for _ in 0..3 {
        let refused = sidecar.send(&job());
        assert_eq!((refused.status, problem(&refused).as_str()), (503, "store-unavailable"));
        assert!(refused.header("retry-after").is_some());
    }
    gate.open_wide();
    // Its answer is here and cannot be written down yet.
    sidecar.wait_for_log(|line| line.contains("the end of a job cannot be written"));
    limit_files(&sidecar, "unlimited");
    assert_eq!(ask(&sidecar, &path).status, 200);
    let after = taken(&sidecar.send(&job()));
    assert_eq!(ask(&sidecar, &after).status, 200);
    assert_eq!(origin.count(), 2, "an answered job was run again");
    assert!(sidecar.metric("outrigger_store_commits_failed_total").unwrap_or(0.0) >= 3.0);
}

#[test]
fn one_sidecar_has_a_store_and_a_second_says_whose_it_is() {
    let (origin, data) = (Origin::start(Behaviour::Chat), folder());
    let yaml = simple(&origin, "");
    let first = started(data.path(), &yaml);
    let second = Sidecar::builder().policy("policy", &yaml).data(data.path());
    let refused = second.try_start().expect_err("the store is taken").log.join("\n");
    assert!(refused.contains(&format!("in use by process {}", first.pid())), "{refused}");
    // Nobody named a directory: it is no reason not to run.
    let home = folder();
    let own = || {
        let builder = Sidecar::builder().policy("policy", &yaml).default_data();
        builder.env("XDG_STATE_HOME", home.path().to_str().expect("text")).start()
    };
    let third = own();
    assert_eq!(third.send(&job()).status, 202);
    let fourth = own();
    fourth.wait_for_log(|line| line.contains("no jobs are accepted"));
    assert_eq!(fourth.send(&job()).status, 200);
}

#[test]
fn a_result_is_posted_signed_and_again_until_it_is_taken() {
    let hook = Origin::script([Behaviour::status(503, &[]), Behaviour::Chat]);
    let (origin, data) = (Origin::start(Behaviour::Chat), folder());
    let callback =
        format!("callback: {{ allow: [\"{}/done/**\"], secret: \"${{env:HOOK}}\" }}", hook.url());
    let yaml = simple(&origin, &format!("durable: {{ {callback} }}"));
    let builder = Sidecar::builder().policy("policy", &yaml).env("HOOK", "hunter2-hook");
    let sidecar = builder.data(data.path()).start();
    let url = format!("{}/done/1?x=2", hook.url());
    let path = taken(&sidecar.send(&job().header("x-outrigger-callback", &url)));
    let answer = ask(&sidecar, &path);
    hook.wait_for_requests(2);
    let posts = hook.requests();
    let header = |name: &str| posts[1].headers.get(name).map(str::to_owned);
    assert_eq!((posts[1].method.as_str(), posts[1].path.as_str()), ("POST", "/done/1?x=2"));
    assert_eq!(posts[1].body, answer.body);
    assert_eq!(header("webhook-id").as_deref(), Some(id(&path)));
    assert_eq!(header("outrigger-job-status").as_deref(), Some("200"));
    assert!(header("webhook-signature").is_some_and(|text| text.starts_with("v1,")));
    assert!(header("webhook-timestamp").is_some() && header("content-type").is_some());
    sidecar.wait_until(|sidecar| of(sidecar, &path)["callback"]["state"] == "sent");
}

#[test]
fn what_runs_when_the_sidecar_is_stopped_is_finished_and_the_rest_waits_for_the_next_start() {
    let (gate, data) = (Gate::closed(), folder());
    let origin = Origin::start(Behaviour::Chat.held(&gate));
    let yaml = simple(&origin, "durable: { workers: 1 }");
    let mut sidecar = started(data.path(), &yaml);
    let paths = [(); 2].map(|()| taken(&sidecar.send(&job())));
    origin.wait_for_in_flight(1);
    sidecar.signal(Signal::Term);
    sidecar.wait_for_log(|line| line.contains("the listener is closed"));
    gate.open_wide();
    assert!(sidecar.wait_for_exit().success());
    assert_eq!(origin.count(), 1);
    let sidecar = started(data.path(), &yaml);
    sidecar.wait_for_log(|line| line.contains("recovered=0"));
    for path in &paths {
        assert_eq!(ask(&sidecar, path).status, 200);
    }
    assert_eq!(origin.count(), 2);
}
