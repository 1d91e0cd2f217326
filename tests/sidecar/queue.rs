//! The queue as seen by an application: order, waiting time, length, and rejections.

use std::thread::{self, ScopedJoinHandle};
use std::time::{Duration, Instant};

use crate::fixtures::{CHAT, api, chat, policy, problem_type, route, single_worker};
use crate::support::{Behaviour, Call, Gate, Origin, Response, Sidecar};

const CONCURRENCY_1: &str = "auth: none, breaker: none, capacity: { concurrency: 1 }";

/// A provider with a concurrency of 1 that responds when the gate opens.
fn single_slot_provider(queue: &str) -> (Gate, Origin, Sidecar) {
    let gate = Gate::closed();
    let origin = Origin::start(Behaviour::Chat.held(&gate));
    let queues = format!("queues: {{ default: {{ {queue} }} }}\n");
    let allowed = "providers: [a], timeout: 20s, allow_override: [timeout, priority]";
    let sidecar =
        single_worker(&policy(&[("a", &origin.url(), CONCURRENCY_1)], &(route(allowed) + &queues)));
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

/// Sends a request that has to wait, and returns once it is in the queue.
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
fn a_higher_class_goes_first_and_the_lowest_is_not_starved() {
    let (gate, origin, sidecar) =
        single_slot_provider("classes: { high: 2, low: 1 }, class: { default: low }");
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
    assert!(low <= 2, "not two of high for one of low: {order:?}");
    assert!(order[..3].contains(&"high-1".to_owned()), "{order:?}");
    assert_eq!(origin.most_in_flight(), 1);
}

#[test]
fn flows_alternate_within_a_class() {
    let (gate, origin, sidecar) = single_slot_provider("flow: { header: x-tenant }");
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
fn a_full_queue_sends_retry_after_and_a_higher_class_displaces_a_lower_one() {
    let (gate, origin, sidecar) = single_slot_provider("max_waiting: 1");
    thread::scope(|scope| {
        let sidecar = &sidecar;
        let first = scope.spawn(|| sidecar.send(&chat()));
        origin.wait_for_in_flight(1);
        let low = queued(scope, sidecar, of_class("low", "low"), "low");
        let refused = sidecar.send(&of_class("low", "too many"));
        assert_eq!((refused.status, problem_type(&refused).as_str()), (503, "queue-full"));
        let after = refused.header("retry-after").expect("a retry-after");
        assert!(after.parse::<u64>().is_ok_and(|seconds| (1..=30).contains(&seconds)), "{after}");
        let high = queued(scope, sidecar, of_class("high", "high"), "high");
        let displaced = low.join().expect("the call ends");
        assert_eq!((displaced.status, problem_type(&displaced).as_str()), (503, "queue-full"));
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
fn a_flow_that_fills_the_queue_gets_429() {
    let (gate, origin, sidecar) =
        single_slot_provider("max_waiting: 2, flow: { header: x-tenant }");
    let of_tenant = |tenant: &str| chat().header("x-tenant", tenant);
    thread::scope(|scope| {
        let sidecar = &sidecar;
        let first = scope.spawn(|| sidecar.send(&chat()));
        origin.wait_for_in_flight(1);
        let oldest = queued(scope, sidecar, of_tenant("a"), "normal");
        let newest = queued(scope, sidecar, of_tenant("a"), "normal");
        let other = scope.spawn(|| sidecar.send(&of_tenant("b")));
        assert_eq!(newest.join().expect("the call ends").status, 503);
        let refused = sidecar.send(&of_tenant("a"));
        assert_eq!((refused.status, problem_type(&refused).as_str()), (429, "queue-share"));
        gate.open_wide();
        for call in [first, oldest, other] {
            assert_eq!(call.join().expect("the call ends").status, 200);
        }
    });
}

#[test]
fn a_disconnected_waiter_is_not_sent_and_one_past_max_wait_gets_503() {
    let (gate, origin, sidecar) = single_slot_provider("max_wait: 300ms");
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
        assert_eq!((late.status, problem_type(&late).as_str()), (503, "no-capacity"));
        assert!(late.header("retry-after").is_some());
        gate.open_wide();
        assert_eq!(first.join().expect("the call ends").status, 200);
    });
    assert_eq!(names(&origin), Vec::<String>::new());
}

#[test]
fn waiters_for_one_provider_do_not_delay_those_for_another() {
    let gate = Gate::closed();
    let (a, b) = (Origin::start(Behaviour::Chat.held(&gate)), Origin::start(Behaviour::Chat));
    let routes = "routes: [ { name: a, match: { path: /a }, providers: [a] }, \
                  { name: b, match: { path: /b }, providers: [b] }, { name: both, providers: [a, b] } ]\n";
    let sidecar = single_worker(&policy(
        &[("a", &a.url(), CONCURRENCY_1), ("b", &b.url(), CONCURRENCY_1)],
        routes,
    ));
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
fn a_request_waits_for_a_full_primary_up_to_its_patience_then_uses_the_fallback() {
    let gate = Gate::closed();
    let (a, b) = (Origin::start(Behaviour::Chat.held(&gate)), Origin::start(Behaviour::Chat));
    let rest =
        route("providers: [a], fallback: [b]") + "retries: { default: { patience: 300ms } }\n";
    let more = "auth: none, breaker: none";
    let sidecar =
        single_worker(&policy(&[("a", &a.url(), CONCURRENCY_1), ("b", &b.url(), more)], &rest));
    thread::scope(|scope| {
        let first = scope.spawn(|| sidecar.send(&chat()));
        a.wait_for_in_flight(1);
        let began = Instant::now();
        assert_eq!(sidecar.send(&chat()).status, 200);
        let took = began.elapsed();
        assert!(took >= Duration::from_millis(300), "{took:?}");
        assert_eq!((a.count(), b.count()), (1, 1));
        let waiting_call = scope.spawn(|| sidecar.send(&chat()));
        wait_for(&sidecar, "normal", 1);
        gate.open_wide();
        assert_eq!(waiting_call.join().expect("the call ends").status, 200);
        assert_eq!(first.join().expect("the call ends").status, 200);
    });
    assert_eq!((a.count(), b.count()), (2, 1));
}

#[test]
fn waiting_requests_are_sent_at_exactly_the_rate() {
    let origin = Origin::start(Behaviour::Chat);
    let more = "auth: none, capacity: { requests: { rate: 100/s, burst: 1 } }";
    let sidecar = single_worker(&policy(&[("a", &origin.url(), more)], &route("providers: [a]")));
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
    // At least half of the rate is used, also on a busy machine.
    assert!(took <= Duration::from_millis(1600), "80 requests at 100/s took {took:?}");
}

const TOKENS: &str = "auth: none, capacity: { tokens: { rate: 60000/min, burst: 10000 } }";

fn tokens_used(sidecar: &Sidecar) -> f64 {
    sidecar.metric(r#"outrigger_rate_limit_used{provider="a",of="tokens"}"#).unwrap_or(-1.0)
}

#[test]
fn tokens_are_charged_by_estimate_and_settled_by_reported_usage() {
    let usage = ", usage: { input: /usage/prompt_tokens, output: /usage/completion_tokens }";
    for usage in [usage, ""] {
        let origin = Origin::start(Behaviour::Chat);
        let rest = route("providers: [a], timeout: 1s");
        let provider = format!("{TOKENS}{usage}");
        let sidecar = single_worker(&policy(&[("a", &origin.url(), &provider)], &rest));
        // Ten thousand tokens by estimate, a few by reported usage.
        let text = "x ".repeat(19_500);
        let long = Call::post(CHAT, format!(r#"{{"model":"small","messages":["{text}"]}}"#));
        assert_eq!(sidecar.send(&long).status, 200);
        assert!(tokens_used(&sidecar) < 0.1, "{}", tokens_used(&sidecar));
        assert_eq!(sidecar.send(&long).status, 200);
    }
}

#[test]
fn an_image_is_not_estimated_as_text() {
    let gate = Gate::closed();
    let origin = Origin::start(Behaviour::Chat.held(&gate));
    let rest = route("providers: [a]");
    let sidecar = single_worker(&policy(&[("a", &origin.url(), TOKENS)], &rest));
    let image = format!("data:image/png;base64,{}", "iVBORw0KGgo+".repeat(60_000));
    let call = Call::post(CHAT, format!(r#"{{"model":"small","messages":["{image}"]}}"#));
    thread::scope(|scope| {
        let response = scope.spawn(|| sidecar.send(&call).status);
        origin.wait_for_in_flight(1);
        let used = tokens_used(&sidecar);
        assert!((0.0..0.2).contains(&used), "{used} of the burst");
        gate.open_wide();
        assert_eq!(response.join().expect("a response"), 200);
    });
}

#[test]
fn an_unknown_class_is_rejected_by_name() {
    let (gate, _origin, sidecar) =
        single_slot_provider("class: { header: x-priority, default: low }");
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
fn a_paused_queue_holds_requests_and_shows_them_until_it_is_resumed() {
    let (gate, origin, sidecar) = single_slot_provider("flow: { header: x-tenant }");
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
fn failures_lower_the_adaptive_limit_of_a_provider() {
    let gate = Gate::open();
    let origin = Origin::start(Behaviour::Chat.held(&gate));
    let more = "auth: none, breaker: none, capacity: { adaptive: true, concurrency: 64 }";
    let sidecar = single_worker(&policy(&[("a", &origin.url(), more)], &route("providers: [a]")));
    let limit = |sidecar: &Sidecar| {
        sidecar.metric(r#"outrigger_concurrency_limit{provider="a"}"#).unwrap_or(0.0)
    };
    let first = limit(&sidecar);
    assert!((4.0..64.0).contains(&first), "{first}");
    assert_eq!(sidecar.send(&chat()).status, 200);
    origin.set(Behaviour::status(500, &[]));
    // Failures lower the limit once per round trip, down to a minimum.
    for _ in 0..100 {
        sidecar.send(&chat());
    }
    let lowest = limit(&sidecar);
    assert!((4.0..first).contains(&lowest), "{first} -> {lowest}");
}

#[test]
fn a_provider_that_reports_no_remaining_quota_gets_no_request_until_it_resets() {
    let headers = [
        ("x-ratelimit-limit-requests", "100"),
        ("x-ratelimit-remaining-requests", "0"),
        ("x-ratelimit-reset-requests", "50s"),
    ];
    let origin = Origin::start(Behaviour::status(200, &headers));
    let rest = "routes: [ { name: quick, match: { path: /quick }, providers: [a], timeout: 100ms }, \
                { name: all, providers: [a] } ]\n";
    let sidecar = single_worker(&policy(&[("a", &origin.url(), "auth: none")], rest));
    assert_eq!(sidecar.send(&chat()).status, 200);
    let response = sidecar.send(&Call::post("/quick", r#"{"model":"small"}"#));
    assert_eq!(response.status, 503, "{}", response.text());
    assert_eq!(origin.count(), 1);
    // A hundred requests in fifty seconds is one every half second.
    let began = Instant::now();
    assert_eq!(sidecar.send(&chat()).status, 200);
    let took = began.elapsed();
    assert!(took >= Duration::from_millis(300) && took < Duration::from_secs(2), "{took:?}");
}
