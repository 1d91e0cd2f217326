//! Policies change while traffic flows: nothing is lost, nothing is forgotten that did not
//! change, and a policy that is wrong is never in force.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use serde_json::Value;

use crate::fixtures::{
    CHAT, access_record, alone, api, chat, in_force, is_from, policy, reload, route, state,
};
use crate::support::{Behaviour, Call, End, Gate, Origin, Sidecar, Signal, Stream};

/// One provider, which sees of each request under which version of the policy it came.
fn versioned(a: &Origin, version: usize) -> String {
    let more = format!("headers: {{ set: {{ x-version: \"{version}\" }} }}");
    policy(&[("a", &a.url(), &more)], &route("providers: [a]"))
}

fn last_load(sidecar: &Sidecar) -> Value {
    api(sidecar, "/api/policies")["last_load"].clone()
}

#[test]
fn what_is_in_force_is_told_alike_everywhere() {
    let a = Origin::start(Behaviour::Chat);
    let sidecar = alone(&versioned(&a, 1));
    for version in 1..=3 {
        if version > 1 {
            reload(&sidecar, || sidecar.write_policy("policy", &versioned(&a, version)));
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
        let told = series[0]
            .strip_prefix("outrigger_policy{hash=\"")
            .and_then(|l| l.strip_suffix("\"} 1"));
        assert!(series.len() == 1 && told.is_some_and(|told| hash.starts_with(told)), "{series:?}");
        assert!(policies["in_force"]["files"].to_string().contains("policy.yaml"), "{policies}");
    }
    let changes = last_load(&sidecar)["changes"].to_string();
    assert!(changes.contains("x-version"), "what changed is told in words: {changes}");
}

#[test]
fn the_same_policy_has_the_same_hash_again() {
    let a = Origin::start(Behaviour::Chat);
    let sidecar = alone(&versioned(&a, 1));
    let first = in_force(&sidecar);
    reload(&sidecar, || sidecar.write_policy("policy", &versioned(&a, 2)));
    reload(&sidecar, || sidecar.write_policy("policy", &versioned(&a, 1)));
    assert_eq!(in_force(&sidecar), first);
}

#[test]
fn what_is_under_way_finishes_on_the_policy_that_it_began_with() {
    let gate = Gate::closed();
    let (a, b) = (Origin::start(Stream::chat(5).gated(&gate)), Origin::start(Behaviour::Chat));
    let sidecar = alone(&policy(&[("a", &a.url(), "")], &route("providers: [a]")));
    let before = in_force(&sidecar);
    let mut client = sidecar.client();
    client.send_only(&chat());
    gate.let_through(2);
    let mut answer = client.read_response("POST").expect("the head of the answer");
    assert!(answer.next_event().is_some());

    let other = policy(&[("b", &b.url(), "")], "routes: [ { name: other, providers: [b] } ]\n");
    reload(&sidecar, || sidecar.write_policy("policy", &other));
    assert!(is_from(&sidecar.send(&chat()), &b));

    gate.open_wide();
    assert_eq!(answer.events().last().map(String::as_str), Some("[DONE]"));
    assert_eq!(answer.end(), End::Complete);
    drop(answer);
    let stories = sidecar.wait_for_access(2);
    let told = stories
        .iter()
        .find(|access_record| access_record["route"] == "all")
        .expect("the first request's line");
    assert!(told["policy"].as_str().is_some_and(|policy| before.starts_with(policy)), "{told}");
    assert!(is_from(&client.send(&chat()), &b), "the next request on its connection is new");
}

#[test]
fn a_policy_that_is_wrong_is_never_in_force() {
    let a = Origin::start(Behaviour::Chat);
    let sidecar = alone(&versioned(&a, 1));
    let before = in_force(&sidecar);
    let good = versioned(&a, 2);
    for (wrong, said) in [
        (good.replace("providers: [a]", "provider: [a]"), "unknown key `provider`"),
        (good.replace("providers: [a]", "providers: [nobody]"), "`nobody`"),
        (good.replace("version: 1", "version: 9"), "`9`"),
        (good.replace('}', ""), "policy.yaml:"),
        (String::new(), "policy.yaml"),
    ] {
        let last = last_load(&sidecar)["at"].clone();
        sidecar.write_policy("policy", &wrong);
        sidecar.wait_until(|sidecar| last_load(sidecar)["at"] != last);
        let load = last_load(&sidecar);
        assert_eq!(load["result"], "rejected", "{wrong}: {load}");
        assert!(load["problems"].to_string().contains(said), "{wrong}: {load}");
        assert_eq!(in_force(&sidecar), before);
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
fn a_problem_is_told_with_its_place() {
    let a = Origin::start(Behaviour::Chat);
    let sidecar = alone(&versioned(&a, 1));
    let wrong = versioned(&a, 2).replace("providers: [a]", "providers: [a], fallbak: [a]");
    sidecar.write_policy("policy", &wrong);
    sidecar.wait_until(|sidecar| last_load(sidecar)["result"] == "rejected");
    let problems = last_load(&sidecar)["problems"].clone();
    let told = problems[0].as_str().expect("a text");
    for part in ["unknown key `fallbak`", "policy.yaml:4:", "did you mean `fallback`?"] {
        assert!(told.contains(part), "{told}");
    }
    sidecar.wait_for_log(|line| line.contains("unknown key `fallbak`"));
}

#[test]
fn sighup_loads_again() {
    let a = Origin::start(Behaviour::Chat);
    let sidecar = alone(&versioned(&a, 1));
    let before = last_load(&sidecar)["at"].clone();
    sidecar.signal(Signal::Hup);
    sidecar.wait_until(|sidecar| last_load(sidecar)["at"] != before);
    assert_eq!(last_load(&sidecar)["result"], "unchanged");
    assert_eq!(sidecar.send(&chat()).status, 200);
    let metric = r#"outrigger_policy_reloads_total{result="unchanged"}"#;
    sidecar.wait_until(|sidecar| sidecar.metric(metric) == Some(1.0));
}

#[test]
fn breaker_and_latency_outlive_a_reload() {
    let (a, b) = (Origin::start(Behaviour::Chat), Origin::start(Behaviour::status(500, &[])));
    let yaml = |more: &str| {
        let routes = "routes: [ { name: dead, match: { path: /dead }, providers: [b], retry: none }, \
                      { name: all, providers: [a], retry: none } ]\n\
                      breakers: { default: { failure_threshold: 3, recovery_timeout: 60s } }\n";
        policy(&[("a", &a.url(), more), ("b", &b.url(), more)], routes)
    };
    let sidecar = alone(&yaml(""));
    for _ in 0..10 {
        assert_eq!(sidecar.send(&chat()).status, 200);
    }
    let dead: Vec<_> = (0..4).map(|_| sidecar.send(&Call::post("/dead", "")).status).collect();
    assert_eq!(dead, [500, 500, 500, 503]);
    let address = || api(&sidecar, "/api/status")["providers"][0]["addresses"][0].clone();
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

/// What the traffic of a test came to.
#[derive(Debug, Default)]
struct Tally {
    over: AtomicBool,
    ordinary: AtomicUsize,
    streamed: AtomicUsize,
}

impl Tally {
    /// Ordinary and streamed calls by turns on one connection after another, until it is over.
    fn call(&self, sidecar: &Sidecar) {
        while !self.over.load(Ordering::Relaxed) {
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

/// Calls it over even when the test panics, so that its threads end.
struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn sixty_reloads_good_and_bad_break_no_request() {
    let a = Origin::start(Behaviour::custom(|request| match request.path.as_str() {
        CHAT => Behaviour::Chat,
        _ => Behaviour::sse(20),
    }));
    let sidecar = Sidecar::start(&versioned(&a, 0));
    let (tally, slow) = (Tally::default(), Gate::closed());
    let long = Origin::start(Stream::chat(60).gated(&slow));
    let with_long = |version: usize| {
        let route = "  - { name: long, match: { path: /long }, providers: [long] }\n  - { name: all, providers: [a] }\n";
        let more = format!("headers: {{ set: {{ x-version: \"{version}\" }} }}");
        policy(&[("a", &a.url(), &more), ("long", &long.url(), "")], &format!("routes:\n{route}"))
    };
    reload(&sidecar, || sidecar.write_policy("policy", &with_long(1)));
    let mut client = sidecar.client();
    client.send_only(&Call::get("/long"));
    slow.let_through(2);
    let mut answer = client.read_response("GET").expect("the head of the answer");
    thread::scope(|scope| {
        let _ends = Ends(&tally.over);
        for _ in 0..3 {
            scope.spawn(|| tally.call(&sidecar));
        }
        for version in 2..32 {
            let before = in_force(&sidecar);
            sidecar.write_policy(
                "policy",
                &with_long(version).replace("providers: [a]", "providers: [z]"),
            );
            sidecar.wait_until(|sidecar| last_load(sidecar)["result"] == "rejected");
            assert_eq!(in_force(&sidecar), before, "a bad policy is in force");
            reload(&sidecar, || sidecar.write_policy("policy", &with_long(version)));
            slow.let_through(1);
            assert!(answer.next_event().is_some(), "the long stream goes on");
        }
    });
    slow.open_wide();
    assert_eq!(answer.events().last().map(String::as_str), Some("[DONE]"));
    assert_eq!(answer.end(), End::Complete);
    let (ordinary, streamed) = (tally.ordinary.into_inner(), tally.streamed.into_inner());
    assert!(ordinary > 100 && streamed > 100, "{ordinary} ordinary and {streamed} streamed calls");
    let stories = sidecar.wait_for_access(ordinary + streamed + 1);
    let failed = stories
        .iter()
        .find(|access_record| access_record["status"] != 200 || access_record["end"] != "answered");
    assert_eq!(failed, None);
}
