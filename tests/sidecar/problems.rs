//! Everything that is wrong now is listed with its cause and a command, and goes when its cause does.

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::sync::mpsc;
use std::thread;
use std::time::SystemTime;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use crate::fixtures::{
    api, chat, cli_command, cli_stdout, last_load, policy, post_admin, reload, route, run_cli,
    single_worker,
};
use crate::support::{Behaviour, Origin, RedisServer, Sidecar, fleet};

/// The problems by code, with their subjects.
fn problems(sidecar: &Sidecar) -> Vec<(String, String)> {
    let status = api(sidecar, "/api/status");
    let text = |value: &Value| value.as_str().expect("text").to_owned();
    let all = status["problems"].as_array().expect("a list").clone();
    all.iter().map(|one| (text(&one["code"]), text(&one["subject"]))).collect()
}

fn codes(sidecar: &Sidecar) -> Vec<String> {
    problems(sidecar).into_iter().map(|(code, _)| code).collect()
}

/// A JSON Web Token that expires in some seconds, and the Unix time at which it does.
fn token(lifetime: u64) -> (String, u64) {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("a time");
    let expires = now.as_secs() + lifetime;
    let part = |value: Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let (head, claims) = (part(json!({ "alg": "RS256" })), part(json!({ "exp": expires })));
    (format!("{head}.{claims}.c2lnbmF0dXJl"), expires)
}

#[test]
fn a_token_that_was_not_replaced_in_time_is_a_problem_until_it_is() {
    let a = Origin::start(Behaviour::Chat);
    let builder = Sidecar::builder();
    let file = builder.policies().with_file_name("token");
    let (soon, expires) = token(120);
    fs::write(&file, soon).expect("a token");
    let auth = format!("auth: {{ bearer: \"${{file:{}}}\" }}", file.display());
    let yaml = policy(&[("a", &a.url(), &auth)], &route("providers: [a]"));
    let sidecar = builder.policy("policy", &yaml).start();
    assert_eq!(problems(&sidecar), [("credential_expiring".to_owned(), "a".to_owned())]);
    let problem = &api(&sidecar, "/api/status")["problems"][0];
    let what = problem["what"].as_str().expect("text");
    assert!(what.starts_with("the token file:") && what.contains("of a expires in "), "{what}");
    assert_eq!(problem["severity"], "warning");
    let expiry = "outrigger_credential_expiry_timestamp_seconds{kind=\"token\",owner=\"a\"}";
    assert_eq!(sidecar.metric(expiry), Some(expires as f64));
    let (later, expires) = token(3_600);
    fs::write(&file, later).expect("a token");
    sidecar.wait_until(|sidecar| problems(sidecar).is_empty());
    assert_eq!(sidecar.metric(expiry), Some(expires as f64));
}

#[test]
fn a_change_by_an_operator_is_a_problem_until_it_is_undone() {
    let (a, b) = (Origin::start(Behaviour::Chat), Origin::start(Behaviour::Chat));
    let providers = [("a", &*a.url(), ""), ("b", &*b.url(), "")];
    let more = "queues: { main: {} }\n\
                degradations: { less: { when: { manual: true }, actions: [ { shed: low } ] } }\n";
    let route = route("providers: [a], fallback: [b], queue: main, degrade: [less]");
    let sidecar = single_worker(&(policy(&providers, &route) + more));
    let status = api(&sidecar, "/api/status");
    assert_eq!((&status["problems"], &status["summary"]), (&json!([]), &json!("everything works")));
    assert!(run_cli(&sidecar, &["status"]).status.success());
    let note = json!({ "by": "ann", "reason": "ticket 4711" });
    for (code, make, undo) in [
        ("breaker_open", "circuit-breakers/open/a", "circuit-breakers/reset/a"),
        ("provider_drained", "providers/drain/a", "providers/undrain/a"),
        ("queue_paused", "queue/pause/main", "queue/resume/main"),
        ("degraded", "degradation/enter/less", "degradation/auto/less"),
    ] {
        post_admin(&sidecar, &format!("/api/{make}"), &note);
        assert_eq!(codes(&sidecar), [code]);
        let problem = &api(&sidecar, "/api/status")["problems"][0];
        let shown = run_cli(&sidecar, &["status"]);
        let text = String::from_utf8(shown.stdout).expect("UTF-8");
        assert_eq!(shown.status.code(), Some(1), "{text}");
        assert!(text.starts_with("PROBLEMS NOW\n"), "{text}");
        let part = |key: &str| problem[key].as_str().expect("text").to_owned();
        assert!(text.contains(&part("what")) && text.contains(&part("command")), "{text}");
        let command = part("command");
        let mut arguments: Vec<_> = command.split(' ').skip(1).collect();
        arguments.push("--help");
        assert!(run_cli(&sidecar, &arguments).status.success(), "{command}");
        assert!(problem["since"].is_string(), "{problem}");
        assert!(problem.to_string().contains("ticket 4711"), "{problem}");
        post_admin(&sidecar, &format!("/api/{undo}"), &note);
        sidecar.wait_until(|sidecar| codes(sidecar).is_empty());
    }
}

#[test]
fn a_breaker_that_tripped_is_listed_with_its_cause_until_it_closes() {
    let a = Origin::start(Behaviour::status(500, &[]));
    let breaker = "breaker: quick";
    let more = "breakers: { quick: { failure_threshold: 2, recovery_timeout: 100ms, ramp: 0s } }\n";
    let providers = [("a", &*a.url(), breaker)];
    let sidecar =
        single_worker(&(policy(&providers, &route("providers: [a], idempotent: always")) + more));
    sidecar.wait_until(|sidecar| {
        sidecar.send(&chat());
        problems(sidecar).iter().any(|(code, _)| code == "breaker_open")
    });
    let status = api(&sidecar, "/api/status");
    let all = status["problems"].as_array().expect("a list").clone();
    let open = all.iter().find(|one| one["code"] == "breaker_open").expect("the breaker");
    assert!(open["why"].is_string() && open["since"].is_string(), "{open}");
    assert_eq!((&open["severity"], &all[0]["severity"]), (&json!("critical"), &json!("critical")));
    a.set(Behaviour::Chat);
    sidecar.wait_until(|sidecar| {
        sidecar.send(&chat());
        !codes(sidecar).contains(&"breaker_open".to_owned())
    });
}

#[test]
fn a_rejected_policy_is_listed_with_its_first_error_until_it_is_mended() {
    let a = Origin::start(Behaviour::Chat);
    let yaml = policy(&[("a", &a.url(), "")], &route("providers: [a]"));
    let sidecar = single_worker(&yaml);
    sidecar.write_policy("policy", &yaml.replace("providers: [a]", "provider: [a]"));
    sidecar.wait_until(|sidecar| last_load(sidecar)["result"] == "rejected");
    let details = last_load(&sidecar)["details"][0].to_string();
    assert!(details.contains("policy.yaml:") && details.contains("provider: [a]"), "{details}");
    let problem = &api(&sidecar, "/api/status")["problems"][0];
    assert_eq!(problem["code"], "policy_rejected");
    assert!(
        problem["why"].as_str().is_some_and(|why| why.contains("missing key `providers`")),
        "{problem}"
    );
    reload(&sidecar, || {
        let mended = yaml.replace("providers: [a]", "providers: [a], timeout: 9s");
        sidecar.write_policy("policy", &mended);
    });
    assert_eq!(codes(&sidecar), [] as [&str; 0]);
}

#[test]
fn a_lost_redis_is_listed_until_it_is_back() {
    let (a, redis) = (Origin::start(Behaviour::Chat), RedisServer::start());
    let yaml = policy(&[("a", &a.url(), "")], &route("providers: [a]"));
    let sidecar = fleet::host(&redis.url(), &yaml).start();
    sidecar.wait_until(|sidecar| codes(sidecar).is_empty());
    redis.kill();
    sidecar.wait_until(|sidecar| codes(sidecar) == ["fleet_detached"]);
    redis.start_again();
    sidecar.wait_until(|sidecar| codes(sidecar).is_empty());
}

#[test]
fn a_route_whose_requests_fail_is_listed_with_their_number() {
    let a = Origin::start(Behaviour::status(500, &[]));
    let route = route("providers: [a], retry: none");
    let sidecar = single_worker(&policy(&[("a", &a.url(), "breaker: none")], &route));
    (0..20).for_each(|_| assert_eq!(sidecar.send(&chat()).status, 500));
    sidecar.wait_until(|sidecar| codes(sidecar) == ["route_failing"]);
    sidecar.wait_until(|sidecar| {
        let status = api(sidecar, "/api/status");
        let what = "20 of 20 requests of route all failed in the last minute";
        status["summary"] == what && status["problems"][0]["severity"] == "critical"
    });
}

#[test]
fn events_are_listed_newest_first_by_kind_and_key() {
    let a = Origin::start(Behaviour::Chat);
    let sidecar = single_worker(&policy(&[("a", &a.url(), "")], &route("providers: [a]")));
    for action in ["open", "reset"] {
        let note = json!({ "reason": format!("to {action}") });
        post_admin(&sidecar, &format!("/api/circuit-breakers/{action}/a"), &note);
    }
    let page = api(&sidecar, "/api/events?kind=override&key=a");
    let details: Vec<_> =
        page["events"].as_array().expect("a list").iter().map(|it| it["detail"].clone()).collect();
    assert_eq!(details.len(), 2, "{page}");
    assert!(details[0].to_string().contains("to reset"), "{page}");
    let first = api(&sidecar, "/api/events?kind=override&limit=1");
    let next = &first["next"];
    let second = api(&sidecar, &format!("/api/events?kind=override&before={next}"));
    assert_eq!(second["events"][0]["detail"], details[1], "{second}");
    let listed = cli_stdout(&sidecar, &["events", "--kind", "override"]);
    assert!(listed.contains("to open") && listed.contains("to reset"), "{listed}");
}

#[test]
fn events_are_followed_as_they_happen() {
    let a = Origin::start(Behaviour::Chat);
    let sidecar = single_worker(&policy(&[("a", &a.url(), "")], &route("providers: [a]")));
    let mut follow = cli_command(&sidecar, &["events", "--follow", "--kind", "override"]);
    let mut follow = follow.stdout(Stdio::piped()).spawn().expect("outrigger events starts");
    let (sender, lines) = mpsc::channel();
    let output = BufReader::new(follow.stdout.take().expect("its output"));
    let reader = thread::spawn(move || {
        output.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)).ok()
    });
    // Events before the stream is open are not printed.
    let mut printed = None;
    sidecar.wait_until(|sidecar| {
        post_admin(sidecar, "/api/circuit-breakers/reset/a", &json!({ "reason": "once more" }));
        printed = lines.try_recv().ok();
        printed.is_some() || follow.try_wait().expect("a state").is_some()
    });
    follow.kill().expect("it is killed");
    follow.wait().expect("it ends");
    reader.join().expect("it reads to the end");
    assert!(printed.is_some_and(|line| line.contains("once more")));
}
