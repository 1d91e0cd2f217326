//! The wait lane as an application sees it: in which order, how long, how many, and who is told no.

use std::thread::{self, ScopedJoinHandle};
use std::time::{Duration, Instant};

use crate::fixtures::{CHAT, alone, api, chat, policy, problem, route};
use crate::support::{Behaviour, Call, Gate, Origin, Response, Sidecar};

const ONE: &str = "auth: none, breaker: none, capacity: { concurrency: 1 }";

/// A provider that takes one at a time and answers when the gate lets it.
fn narrow(queue: &str) -> (Gate, Origin, Sidecar) {
    let gate = Gate::closed();
    let origin = Origin::start(Behaviour::Chat.held(&gate));
    let queues = format!("queues: {{ default: {{ {queue} }} }}\n");
    let allowed = "providers: [a], timeout: 20s, allow_override: [timeout, priority]";
    let sidecar = alone(&policy(&[("a", &origin.url(), ONE)], &(route(allowed) + &queues)));
    (gate, origin, sidecar)
}

fn waiting(sidecar: &Sidecar, class: &str) -> f64 {
    let series = format!(r#"outrigger_queue_waiting_requests{{queue="default",class="{class}"}}"#);
    sidecar.metric(&series).unwrap_or(0.0)
}

fn wait_for(sidecar: &Sidecar, class: &str, count: usize) {
    sidecar.wait_until(|sidecar| waiting(sidecar, class) == count as f64);
}

fn of_class(class: &str, name: &str) -> Call {
    chat().header("x-outrigger-priority", class).header("x-name", name)
}

/// Sends one that has to wait, and returns when it does.
fn queued<'scope>(
    scope: &'scope thread::Scope<'scope, '_>,
    sidecar: &'scope Sidecar,
    call: Call,
    class: &str,
) -> ScopedJoinHandle<'scope, Response> {
    let before = waiting(sidecar, class) as usize;
    let handle = scope.spawn(move || sidecar.send(&call));
    wait_for(sidecar, class, before + 1);
    handle
}

fn names(origin: &Origin) -> Vec<String> {
    let name = |request: &crate::support::Request| request.headers.get("x-name").map(str::to_owned);
    origin.requests().iter().filter_map(name).collect()
}

#[test]
fn a_higher_class_goes_before_a_lower_one_and_the_lowest_is_not_starved() {
    let (gate, origin, sidecar) = narrow("classes: { high: 2, low: 1 }, class: { default: low }");
    thread::scope(|scope| {
        let sidecar = &sidecar;
        let mut calls = vec![scope.spawn(|| sidecar.send(&chat()))];
        origin.wait_for_in_flight(1);
        for name in ["low-1", "low-2"] {
            calls.push(queued(scope, sidecar, of_class("low", name), "low"));
        }
        for name in ["high-1", "high-2", "high-3"] {
            calls.push(queued(scope, sidecar, of_class("high", name), "high"));
        }
        gate.open_wide();
        for call in calls {
            assert_eq!(call.join().expect("the call ends").status, 200);
        }
    });
    let order = names(&origin);
    assert_eq!(order.len(), 5);
    let low = order.iter().position(|name| name == "low-1").expect("it was served");
    assert!(low <= 2, "two of high for one of low: {order:?}");
    assert!(order[..3].contains(&"high-1".to_owned()), "{order:?}");
    assert_eq!(origin.most_in_flight(), 1);
}

#[test]
fn flows_take_turns_within_a_class() {
    let (gate, origin, sidecar) = narrow("flow: { header: x-tenant }");
    thread::scope(|scope| {
        let sidecar = &sidecar;
        let mut calls = vec![scope.spawn(|| sidecar.send(&chat()))];
        origin.wait_for_in_flight(1);
        for (name, tenant) in [("a-1", "a"), ("a-2", "a"), ("a-3", "a"), ("b-1", "b")] {
            let call = of_class("normal", name).header("x-tenant", tenant);
            calls.push(queued(scope, sidecar, call, "normal"));
        }
        gate.open_wide();
        calls.into_iter().for_each(|call| assert_eq!(call.join().expect("it ends").status, 200));
    });
    assert_eq!(names(&origin), ["a-1", "b-1", "a-2", "a-3"]);
}

#[test]
fn a_full_queue_says_when_to_come_back_and_a_higher_class_takes_a_lower_ones_place() {
    let (gate, origin, sidecar) = narrow("max_waiting: 1");
    thread::scope(|scope| {
        let sidecar = &sidecar;
        let first = scope.spawn(|| sidecar.send(&chat()));
        origin.wait_for_in_flight(1);
        let low = queued(scope, sidecar, of_class("low", "low"), "low");
        let refused = sidecar.send(&of_class("low", "too many"));
        assert_eq!((refused.status, problem(&refused).as_str()), (503, "queue-full"));
        let after = refused.header("retry-after").expect("it says when to come back");
        assert!(after.parse::<u64>().is_ok_and(|seconds| (1..=30).contains(&seconds)), "{after}");
        let high = queued(scope, sidecar, of_class("high", "high"), "high");
        let displaced = low.join().expect("the call ends");
        assert_eq!((displaced.status, problem(&displaced).as_str()), (503, "queue-full"));
        gate.open_wide();
        assert_eq!(high.join().expect("the call ends").status, 200);
        assert_eq!(first.join().expect("the call ends").status, 200);
    });
    assert_eq!(names(&origin), ["high"]);
    let sheds = |reason: &str| {
        let labels = format!(r#"{{queue="default",class="low",reason="{reason}"}}"#);
        sidecar.metric(&format!("outrigger_queue_sheds_total{labels}"))
    };
    assert_eq!((sheds("full"), sheds("displaced")), (Some(1.0), Some(1.0)));
}

#[test]
fn a_flow_that_fills_the_queue_is_told_that_it_is_its_own_doing() {
    let (gate, origin, sidecar) = narrow("max_waiting: 2, flow: { header: x-tenant }");
    let of = |tenant: &str| chat().header("x-tenant", tenant);
    thread::scope(|scope| {
        let sidecar = &sidecar;
        let first = scope.spawn(|| sidecar.send(&chat()));
        origin.wait_for_in_flight(1);
        let greedy = queued(scope, sidecar, of("a"), "normal");
        let newest = queued(scope, sidecar, of("a"), "normal");
        let other = scope.spawn(|| sidecar.send(&of("b")));
        assert_eq!(newest.join().expect("the call ends").status, 503);
        let refused = sidecar.send(&of("a"));
        assert_eq!((refused.status, problem(&refused).as_str()), (429, "queue-share"));
        gate.open_wide();
        for call in [first, greedy, other] {
            assert_eq!(call.join().expect("the call ends").status, 200);
        }
    });
}

#[test]
fn one_who_leaves_is_not_sent_and_one_who_waited_too_long_is_told() {
    let (gate, origin, sidecar) = narrow("max_wait: 300ms");
    thread::scope(|scope| {
        let sidecar = &sidecar;
        let first = scope.spawn(|| sidecar.send(&chat()));
        origin.wait_for_in_flight(1);
        let mut leaving = sidecar.client();
        leaving.send_only(&of_class("high", "left"));
        wait_for(sidecar, "high", 1);
        drop(leaving);
        wait_for(sidecar, "high", 0);
        let late = sidecar.send(&of_class("high", "late"));
        assert_eq!((late.status, problem(&late).as_str()), (503, "no-capacity"));
        assert!(late.header("retry-after").is_some());
        gate.open_wide();
        assert_eq!(first.join().expect("the call ends").status, 200);
    });
    assert_eq!(names(&origin), Vec::<String>::new());
}

#[test]
fn who_waits_for_one_provider_delays_nobody_for_another() {
    let gate = Gate::closed();
    let (a, b) = (Origin::start(Behaviour::Chat.held(&gate)), Origin::start(Behaviour::Chat));
    let routes = "routes: [ { name: a, match: { path: /a }, providers: [a] }, \
                  { name: b, match: { path: /b }, providers: [b] }, { name: both, providers: [a, b] } ]\n";
    let sidecar = alone(&policy(&[("a", &a.url(), ONE), ("b", &b.url(), ONE)], routes));
    thread::scope(|scope| {
        let sidecar = &sidecar;
        let post = |path: &str| sidecar.send(&Call::post(path, "{}")).status;
        let mut calls = vec![scope.spawn(move || post("/a"))];
        a.wait_for_in_flight(1);
        for _ in 0..3 {
            calls.push(scope.spawn(move || post("/a")));
        }
        wait_for(sidecar, "normal", 3);
        for _ in 0..20 {
            assert_eq!((post("/b"), post(CHAT)), (200, 200));
        }
        gate.open_wide();
        calls.into_iter().for_each(|call| assert_eq!(call.join().expect("the call ends"), 200));
    });
    assert_eq!((a.count(), b.count()), (4, 40));
}

#[test]
fn a_full_primary_is_waited_for_as_long_as_patience_then_the_fallback_is_asked() {
    let gate = Gate::closed();
    let (a, b) = (Origin::start(Behaviour::Chat.held(&gate)), Origin::start(Behaviour::Chat));
    let rest =
        route("providers: [a], fallback: [b]") + "retries: { default: { patience: 300ms } }\n";
    let more = "auth: none, breaker: none";
    let sidecar = alone(&policy(&[("a", &a.url(), ONE), ("b", &b.url(), more)], &rest));
    thread::scope(|scope| {
        let first = scope.spawn(|| sidecar.send(&chat()));
        a.wait_for_in_flight(1);
        let began = Instant::now();
        assert_eq!(sidecar.send(&chat()).status, 200);
        let took = began.elapsed();
        assert!(took >= Duration::from_millis(300), "{took:?}");
        assert_eq!((a.count(), b.count()), (1, 1));
        let waits = scope.spawn(|| sidecar.send(&chat()));
        wait_for(&sidecar, "normal", 1);
        gate.open_wide();
        assert_eq!(waits.join().expect("the call ends").status, 200);
        assert_eq!(first.join().expect("the call ends").status, 200);
    });
    assert_eq!((a.count(), b.count()), (2, 1));
}

#[test]
fn a_rate_is_kept_and_used_and_whoever_waits_goes_on_time() {
    let origin = Origin::start(Behaviour::Chat);
    let more = "auth: none, capacity: { requests: { rate: 100/s, burst: 1 } }";
    let sidecar = alone(&policy(&[("a", &origin.url(), more)], &route("providers: [a]")));
    let began = Instant::now();
    thread::scope(|scope| {
        let calls: Vec<_> = (0..8)
            .map(|_| {
                scope.spawn(|| {
                    let mut client = sidecar.client();
                    (0..10).for_each(|_| assert_eq!(client.send(&chat()).status, 200));
                })
            })
            .collect();
        calls.into_iter().for_each(|call| call.join().expect("the calls end"));
    });
    let took = began.elapsed();
    assert!(took >= Duration::from_millis(780), "80 requests at 100/s took {took:?}");
    assert!(took <= Duration::from_millis(1200), "80 requests at 100/s took {took:?}");
}

#[test]
fn tokens_are_charged_as_estimated_and_settled_on_what_the_answer_says() {
    let origin = Origin::start(Behaviour::Chat);
    let capacity = "capacity: { tokens: { rate: 60000/min, burst: 10000 } }";
    let usage = "usage: { input: /usage/prompt_tokens, output: /usage/completion_tokens }";
    let more = format!("auth: none, {capacity}, {usage}");
    let rest = route("providers: [a], timeout: 1s");
    let sidecar = alone(&policy(&[("a", &origin.url(), &more)], &rest));
    let used = |sidecar: &Sidecar| {
        sidecar.metric(r#"outrigger_rate_limit_used{provider="a",of="tokens"}"#).unwrap_or(-1.0)
    };
    // Ten thousand tokens as it is estimated; a few, as the answer says.
    let long =
        Call::post(CHAT, format!(r#"{{"model":"small","messages":["{}"]}}"#, "x".repeat(39_000)));
    assert_eq!(sidecar.send(&long).status, 200);
    assert!(used(&sidecar) < 0.1, "{}", used(&sidecar));
    assert_eq!(sidecar.send(&long).status, 200);
}

#[test]
fn a_class_that_the_queue_does_not_have_is_refused_by_its_name() {
    let (gate, _origin, sidecar) = narrow("class: { header: x-priority, default: low }");
    gate.open_wide();
    for header in ["x-outrigger-priority", "x-priority"] {
        let refused = sidecar.send(&chat().header(header, "urgent"));
        assert_eq!(refused.status, 400);
        let text = refused.text();
        assert!(text.contains(header) && text.contains("high, normal, low"), "{text}");
        assert_eq!(sidecar.send(&chat().header(header, "0")).status, 200);
    }
}

#[test]
fn a_queue_that_is_paused_lets_nobody_through_until_it_is_resumed_and_says_who_waits() {
    let (gate, origin, sidecar) = narrow("flow: { header: x-tenant }");
    gate.open_wide();
    let change = |action: &str, name: &str| {
        sidecar.admin_post(&format!("/api/queue/{action}/{name}"), &serde_json::json!({}))
    };
    assert_eq!(change("pause", "default").0, 200);
    thread::scope(|scope| {
        let call = chat().header("x-tenant", "a");
        let calls = [0, 1].map(|_| queued(scope, &sidecar, call.clone(), "normal"));
        let shown = api(&sidecar, "/api/queue");
        let queue = &shown["queues"][0];
        assert_eq!((&queue["name"], &queue["paused"]), (&"default".into(), &true.into()));
        let normal = &queue["classes"][1];
        assert_eq!((&normal["name"], &normal["waiting"]), (&"normal".into(), &2.into()));
        assert_eq!((&normal["flows"], &normal["at_least_every"]), (&[2].into(), &5.into()));
        assert!(normal["oldest_ms"].is_u64());
        assert_eq!((&shown["providers"][0]["waiting"], origin.count()), (&2.into(), 0));
        assert_eq!(change("resume", "default").0, 200);
        for call in calls {
            assert_eq!(call.join().expect("the call ends").status, 200);
        }
    });
    let (status, text) = change("pause", "other");
    assert!(status == 404 && text.contains("default"), "{status} {text}");
    assert_eq!(change("stop", "default").0, 404);
}

#[test]
fn a_provider_that_queues_gets_a_lower_limit_and_the_limit_is_told() {
    let gate = Gate::open();
    let origin = Origin::start(Behaviour::Chat.held(&gate));
    let more = "auth: none, breaker: none, capacity: { adaptive: true, concurrency: 64 }";
    let sidecar = alone(&policy(&[("a", &origin.url(), more)], &route("providers: [a]")));
    let limit = |sidecar: &Sidecar| {
        sidecar.metric(r#"outrigger_concurrency_limit{provider="a"}"#).unwrap_or(0.0)
    };
    let first = limit(&sidecar);
    assert!((4.0..64.0).contains(&first), "{first}");
    assert_eq!(sidecar.send(&chat()).status, 200);
    origin.set(Behaviour::status(500, &[]));
    // Failures take from it, once a round trip, and never all of it.
    for _ in 0..100 {
        sidecar.send(&chat());
    }
    let least = limit(&sidecar);
    assert!((4.0..first).contains(&least), "{first} -> {least}");
}

#[test]
fn a_provider_that_tells_that_nothing_is_left_is_not_asked_before_there_is() {
    let headers = [
        ("x-ratelimit-limit-requests", "100"),
        ("x-ratelimit-remaining-requests", "0"),
        ("x-ratelimit-reset-requests", "50s"),
    ];
    let origin = Origin::start(Behaviour::status(200, &headers));
    let rest = "routes: [ { name: quick, match: { path: /quick }, providers: [a], timeout: 100ms }, \
                { name: all, providers: [a] } ]\n";
    let sidecar = alone(&policy(&[("a", &origin.url(), "auth: none")], rest));
    assert_eq!(sidecar.send(&chat()).status, 200);
    let told = sidecar.send(&Call::post("/quick", "{}"));
    assert_eq!(told.status, 503, "{}", told.text());
    assert_eq!(origin.count(), 1);
    // A hundred in fifty seconds is one each half second.
    let began = Instant::now();
    assert_eq!(sidecar.send(&chat()).status, 200);
    let took = began.elapsed();
    assert!(took >= Duration::from_millis(300) && took < Duration::from_secs(2), "{took:?}");
}
