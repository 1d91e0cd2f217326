//! Policy reloads under traffic: no request fails, unchanged parts keep their state, and an invalid
//! policy never becomes active.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use serde_json::Value;

use crate::fixtures::{
    CHAT, access_record, api, chat, is_from, last_load, policy, policy_hash, reload, route,
    single_worker, state,
};
use crate::support::{Behaviour, Call, End, Gate, Origin, Sidecar, Signal, Stream};

/// A policy whose provider receives the version of the policy in a header.
fn policy_version(a: &Origin, version: usize) -> String {
    let more = format!("headers: {{ set: {{ x-version: \"{version}\" }} }}");
    policy(&[("a", &a.url(), &more)], &route("providers: [a]"))
}

#[test]
fn the_active_policy_is_reported_consistently() {
    let a = Origin::start(Behaviour::Chat);
    let sidecar = single_worker(&policy_version(&a, 1));
    for version in 1..=3 {
        if version > 1 {
            reload(&sidecar, || sidecar.write_policy("policy", &policy_version(&a, version)));
        }
        assert_eq!(sidecar.send(&chat()).status, 200);
        assert_eq!(a.last().headers.get("x-version"), Some(&*version.to_string()));
        let policies = api(&sidecar, "/api/policies");
        let text = |key: &str| policies["in_force"][key].as_str().expect("a text").to_owned();
        let (hash, short) = (text("hash"), text("short"));
        assert!(hash.len() == 64 && short.len() == 12 && hash.starts_with(&short), "{policies}");
        assert_eq!(access_record(&sidecar, version)["policy"], short);
        assert_eq!(api(&sidecar, "/api/status")["policy"], short);
        let (_, metrics) = sidecar.admin_get("/metrics");
        let series: Vec<_> =
            metrics.lines().filter(|l| l.starts_with("outrigger_policy{")).collect();
        let exported = series[0]
            .strip_prefix("outrigger_policy{hash=\"")
            .and_then(|l| l.strip_suffix("\"} 1"));
        assert!(series.len() == 1 && exported.is_some_and(|h| hash.starts_with(h)), "{series:?}");
        assert!(policies["in_force"]["files"].to_string().contains("policy.yaml"), "{policies}");
    }
    let changes = last_load(&sidecar)["changes"].to_string();
    assert!(changes.contains("x-version"), "the change is not described: {changes}");
}

#[test]
fn equal_policies_have_equal_hashes() {
    let a = Origin::start(Behaviour::Chat);
    let sidecar = single_worker(&policy_version(&a, 1));
    let first = policy_hash(&sidecar);
    reload(&sidecar, || sidecar.write_policy("policy", &policy_version(&a, 2)));
    reload(&sidecar, || sidecar.write_policy("policy", &policy_version(&a, 1)));
    assert_eq!(policy_hash(&sidecar), first);
}

#[test]
fn a_running_request_finishes_with_the_policy_it_started_with() {
    let gate = Gate::closed();
    let (a, b) = (Origin::start(Stream::chat(5).gated(&gate)), Origin::start(Behaviour::Chat));
    let sidecar = single_worker(&policy(&[("a", &a.url(), "")], &route("providers: [a]")));
    let before = policy_hash(&sidecar);
    let mut client = sidecar.client();
    client.send_only(&chat());
    gate.let_through(2);
    let mut response = client.read_response("POST").expect("the head of the response");
    assert!(response.next_event().is_some());

    let other = policy(&[("b", &b.url(), "")], "routes: [ { name: other, providers: [b] } ]\n");
    reload(&sidecar, || sidecar.write_policy("policy", &other));
    assert!(is_from(&sidecar.send(&chat()), &b));

    gate.open_wide();
    assert_eq!(response.events().last().map(String::as_str), Some("[DONE]"));
    assert_eq!(response.end(), End::Complete);
    drop(response);
    let records = sidecar.wait_for_access(2);
    let record = records.iter().find(|record| record["route"] == "all").expect("the first record");
    assert!(record["policy"].as_str().is_some_and(|policy| before.starts_with(policy)), "{record}");
    assert!(
        is_from(&client.send(&chat()), &b),
        "the next request on the connection uses the new policy"
    );
}

#[test]
fn an_invalid_policy_never_becomes_active() {
    let a = Origin::start(Behaviour::Chat);
    let sidecar = single_worker(&policy_version(&a, 1));
    let before = policy_hash(&sidecar);
    let good = policy_version(&a, 2);
    for (invalid, expected) in [
        (good.replace("providers: [a]", "provider: [a]"), "unknown key `provider`"),
        (good.replace("providers: [a]", "providers: [nobody]"), "`nobody`"),
        (good.replace("version: 1", "version: 9"), "`9`"),
        (good.replace('}', ""), "policy.yaml:"),
        (String::new(), "policy.yaml"),
    ] {
        let last = last_load(&sidecar)["at"].clone();
        sidecar.write_policy("policy", &invalid);
        sidecar.wait_until(|sidecar| last_load(sidecar)["at"] != last);
        let load = last_load(&sidecar);
        assert_eq!(load["result"], "rejected", "{invalid}: {load}");
        assert!(load["problems"].to_string().contains(expected), "{invalid}: {load}");
        assert_eq!(policy_hash(&sidecar), before);
        sidecar.wait_until(|sidecar| sidecar.metric("outrigger_policy_valid") == Some(0.0));
        assert_eq!(sidecar.send(&chat()).status, 200);
        assert_eq!(a.last().headers.get("x-version"), Some("1"));
        assert_eq!(sidecar.admin_get("/readyz").0, 200);
    }
    reload(&sidecar, || sidecar.write_policy("policy", &good));
    let load = last_load(&sidecar);
    assert_eq!((&load["result"], &load["problems"]), (&"applied".into(), &Value::Array(vec![])));
    sidecar.wait_until(|sidecar| sidecar.metric("outrigger_policy_valid") == Some(1.0));
}

#[test]
fn a_problem_is_reported_with_its_location() {
    let a = Origin::start(Behaviour::Chat);
    let sidecar = single_worker(&policy_version(&a, 1));
    let invalid = policy_version(&a, 2).replace("providers: [a]", "providers: [a], fallbak: [a]");
    sidecar.write_policy("policy", &invalid);
    sidecar.wait_until(|sidecar| last_load(sidecar)["result"] == "rejected");
    let problems = last_load(&sidecar)["problems"].clone();
    let problem = problems[0].as_str().expect("a text");
    for part in ["unknown key `fallbak`", "policy.yaml:4:", "did you mean `fallback`?"] {
        assert!(problem.contains(part), "{problem}");
    }
    sidecar.wait_for_log(|line| line.contains("unknown key `fallbak`"));
}

#[test]
fn sighup_reloads_the_policy() {
    let a = Origin::start(Behaviour::Chat);
    let sidecar = single_worker(&policy_version(&a, 1));
    let before = last_load(&sidecar)["at"].clone();
    sidecar.signal(Signal::Hup);
    sidecar.wait_until(|sidecar| last_load(sidecar)["at"] != before);
    assert_eq!(last_load(&sidecar)["result"], "unchanged");
    assert_eq!(sidecar.send(&chat()).status, 200);
    let metric = r#"outrigger_policy_reloads_total{result="unchanged"}"#;
    sidecar.wait_until(|sidecar| sidecar.metric(metric) == Some(1.0));
}

#[test]
fn breakers_and_latencies_survive_a_reload() {
    let (a, b) = (Origin::start(Behaviour::Chat), Origin::start(Behaviour::status(500, &[])));
    let yaml = |more: &str| {
        let routes = "routes: [ { name: dead, match: { path: /dead }, providers: [b], retry: none }, \
                      { name: all, providers: [a], retry: none } ]\n\
                      breakers: { default: { failure_threshold: 3, recovery_timeout: 60s } }\n";
        policy(&[("a", &a.url(), more), ("b", &b.url(), more)], routes)
    };
    let sidecar = single_worker(&yaml(""));
    for _ in 0..10 {
        assert_eq!(sidecar.send(&chat()).status, 200);
    }
    let dead: Vec<_> = (0..4).map(|_| sidecar.send(&Call::post("/dead", "")).status).collect();
    assert_eq!(dead, [500, 500, 500, 503]);
    let address = || api(&sidecar, "/api/status")["providers"][0]["endpoints"][0].clone();
    let before = address();
    assert!(before["latency_ms"].as_f64().is_some_and(|ms| ms > 0.0), "{before}");
    for (i, more) in ["timeouts: { connect: 1s }", "breaker: default", ""].into_iter().enumerate() {
        reload(&sidecar, || sidecar.write_policy("policy", &yaml(more)));
        assert_eq!((state(&sidecar, "a"), state(&sidecar, "b")), ("closed".into(), "open".into()));
        let after = address();
        assert_eq!(after["selected"], before["selected"], "reload {i}");
        assert!(after["latency_ms"].as_f64().is_some_and(|ms| ms > 0.0), "{after}");
    }
    assert_eq!((sidecar.send(&Call::post("/dead", "")).status, b.count()), (503, 3));
}

/// The traffic of a test: a stop flag and counts of completed requests.
#[derive(Debug, Default)]
struct Traffic {
    stopped: AtomicBool,
    ordinary: AtomicUsize,
    streamed: AtomicUsize,
}

impl Traffic {
    /// Sends ordinary and streamed requests in turn until stopped, ten of each per connection.
    fn send_until_stopped(&self, sidecar: &Sidecar) {
        while !self.stopped.load(Ordering::Relaxed) {
            let mut client = sidecar.client();
            for _ in 0..10 {
                let response = client.send(&chat());
                assert_eq!((response.status, response.end), (200, End::Complete));
                self.ordinary.fetch_add(1, Ordering::Relaxed);
                let response = client.send(&Call::get("/stream"));
                assert_eq!((response.status, response.end), (200, End::Complete));
                assert!(response.text().ends_with("data: [DONE]\n\n"), "{}", response.text());
                self.streamed.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

/// Sets the stop flag even when the test panics, so that its threads end.
struct StopOnDrop<'a>(&'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn sixty_reloads_of_valid_and_invalid_policies_fail_no_request() {
    let a = Origin::start(Behaviour::custom(|request| match request.path.as_str() {
        CHAT => Behaviour::Chat,
        _ => Behaviour::sse(20),
    }));
    let sidecar = Sidecar::start(&policy_version(&a, 0));
    let (traffic, gate) = (Traffic::default(), Gate::closed());
    let long = Origin::start(Stream::chat(60).gated(&gate));
    let with_long = |version: usize| {
        let route = "  - { name: long, match: { path: /long }, providers: [long] }\n  - { name: all, providers: [a] }\n";
        let more = format!("headers: {{ set: {{ x-version: \"{version}\" }} }}");
        policy(&[("a", &a.url(), &more), ("long", &long.url(), "")], &format!("routes:\n{route}"))
    };
    reload(&sidecar, || sidecar.write_policy("policy", &with_long(1)));
    let mut client = sidecar.client();
    client.send_only(&Call::get("/long"));
    gate.let_through(2);
    let mut response = client.read_response("GET").expect("the head of the response");
    thread::scope(|scope| {
        let _ends = StopOnDrop(&traffic.stopped);
        for _ in 0..3 {
            scope.spawn(|| traffic.send_until_stopped(&sidecar));
        }
        for version in 2..32 {
            let before = policy_hash(&sidecar);
            sidecar.write_policy(
                "policy",
                &with_long(version).replace("providers: [a]", "providers: [z]"),
            );
            sidecar.wait_until(|sidecar| last_load(sidecar)["result"] == "rejected");
            assert_eq!(policy_hash(&sidecar), before, "an invalid policy became active");
            reload(&sidecar, || sidecar.write_policy("policy", &with_long(version)));
            gate.let_through(1);
            assert!(response.next_event().is_some(), "the long stream stopped");
        }
    });
    gate.open_wide();
    assert_eq!(response.events().last().map(String::as_str), Some("[DONE]"));
    assert_eq!(response.end(), End::Complete);
    let (ordinary, streamed) = (traffic.ordinary.into_inner(), traffic.streamed.into_inner());
    assert!(ordinary > 100 && streamed > 100, "{ordinary} ordinary and {streamed} streamed calls");
    let records = sidecar.wait_for_access(ordinary + streamed + 1);
    let failed = records.iter().find(|access_record| {
        access_record["status"] != 200 || access_record["result"] != "complete"
    });
    assert_eq!(failed, None);
}
