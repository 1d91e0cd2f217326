//! Retries: which requests, where, and how often. A request that may have been processed is not
//! retried (RFC 9110, 9.2.2) unless the policy or an Idempotency-Key allows it.

use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::fixtures::{
    CHAT, GENEROUS, access_record, chat, classes, cli_stdout, is_from, policy, problem_type, route,
    single_worker, sleep_until,
};
use crate::support::{Behaviour, Call, End, Origin, Sidecar};

/// A provider without a breaker and with short timeouts.
const SHORT_TIMEOUTS: &str =
    "breaker: none, timeouts: { headers: 200ms, first_byte: 200ms, idle: 200ms }";

/// Failures after which the request may have been processed.
fn ambiguous_failures() -> Vec<Behaviour> {
    let mut ambiguous_failures: Vec<_> =
        [500, 502, 503, 504].map(|code| Behaviour::status(code, &[])).into_iter().collect();
    ambiguous_failures.extend([Behaviour::Reset, Behaviour::ResetMidBody, Behaviour::HalfBody]);
    ambiguous_failures.extend([Behaviour::Silent, Behaviour::HeadersThenSilence]);
    ambiguous_failures
}

/// Two healthy origins and a route that tries them in order.
fn with_two_providers(more: &str, rest: &str) -> (Origin, Origin, Sidecar) {
    with_route(&format!("providers: [a, b], balance: first{more}"), rest)
}

/// Two healthy origins, the second one as a fallback.
fn with_fallback(more: &str, rest: &str) -> (Origin, Origin, Sidecar) {
    with_route(&format!("providers: [a], fallback: [b]{more}"), rest)
}

fn with_route(keys: &str, rest: &str) -> (Origin, Origin, Sidecar) {
    let (a, b) = (Origin::start(Behaviour::Chat), Origin::start(Behaviour::Chat));
    let providers = [("a", &*a.url(), SHORT_TIMEOUTS), ("b", &*b.url(), SHORT_TIMEOUTS)];
    let sidecar = single_worker(&policy(&providers, &(route(keys) + rest)));
    (a, b, sidecar)
}

fn keyed_chat() -> Call {
    chat().header("idempotency-key", "order-1")
}

#[test]
fn a_post_that_may_have_been_processed_is_not_retried() {
    for (a, b, sidecar) in [with_two_providers("", GENEROUS), with_fallback("", GENEROUS)] {
        for (i, failure) in ambiguous_failures().into_iter().enumerate() {
            a.set(failure.clone());
            let response = sidecar.send(&chat());
            assert!(response.status >= 500, "{failure:?}: {}", response.status);
            assert_eq!(response.end, End::Complete, "{failure:?}");
            assert_eq!((a.count(), b.count()), (i + 1, 0), "{failure:?}");
            let access_record = access_record(&sidecar, i + 1);
            assert_eq!(classes(&access_record), ["failure"], "{failure:?}: {access_record}");
            assert!(access_record["retry_denied"].is_string(), "{failure:?}: {access_record}");
        }
    }
}

#[test]
fn idempotent_always_allows_a_post_to_be_retried_anywhere() {
    for (a, b, sidecar) in [
        with_two_providers(", idempotent: always", GENEROUS),
        with_fallback(", idempotent: always", GENEROUS),
    ] {
        for (i, failure) in ambiguous_failures().into_iter().enumerate() {
            a.set(failure.clone());
            let response = sidecar.send(&chat());
            assert_eq!((response.status, response.end), (200, End::Complete), "{failure:?}");
            assert!(is_from(&response, &b), "{failure:?}");
            assert_eq!(b.count(), i + 1, "{failure:?}");
            assert_eq!(b.last().body, a.last().body, "{failure:?}");
        }
    }
}

#[test]
fn an_idempotent_method_is_retried_anywhere() {
    let (a, b, sidecar) = with_two_providers("", GENEROUS);
    a.set(Behaviour::status(500, &[]));
    for (i, method) in ["GET", "HEAD", "PUT", "DELETE", "OPTIONS"].into_iter().enumerate() {
        assert_eq!(sidecar.send(&Call::new(method, "/thing")).status, 200, "{method}");
        assert_eq!(b.count(), i + 1, "{method}");
    }
    assert_eq!(sidecar.send(&Call::new("PATCH", "/thing")).status, 500);
    assert_eq!(b.count(), 5);
}

#[test]
fn an_idempotency_key_allows_retries_at_the_same_provider_only() {
    for (a, b, sidecar) in [with_two_providers("", GENEROUS), with_fallback("", GENEROUS)] {
        a.set(Behaviour::Script(vec![Behaviour::status(500, &[]), Behaviour::Chat]));
        let response = sidecar.send(&keyed_chat());
        assert!(response.status == 200 && is_from(&response, &a), "{}", response.status);
        assert_eq!((a.count(), b.count()), (2, 0));
        let keys: Vec<_> = a
            .requests()
            .iter()
            .map(|r| r.headers.get("idempotency-key") == Some("order-1"))
            .collect();
        assert_eq!(keys, [true, true]);

        a.set(Behaviour::status(500, &[]));
        assert_eq!(sidecar.send(&keyed_chat()).status, 500);
        assert_eq!((a.count(), b.count()), (2 + 3, 0));
    }
}

#[test]
fn idempotent_never_is_retried_only_if_nothing_was_sent() {
    let (a, b, sidecar) = with_two_providers(", idempotent: never", GENEROUS);
    for (i, code) in [500, 429].into_iter().enumerate() {
        a.set(Behaviour::status(code, &[]));
        assert_eq!(sidecar.send(&Call::get("/thing")).status, code);
        assert_eq!((a.count(), b.count()), (i + 1, i), "{code}");
        // The first provider is held after the 429, or its connection is refused.
        a.set(Behaviour::RefuseConnections);
        assert_eq!(sidecar.send(&keyed_chat()).status, 200);
        assert_eq!(b.count(), i + 1);
    }
}

#[test]
fn a_backoff_is_recorded_apart_from_waiting() {
    let a = Origin::start(Behaviour::Script(vec![Behaviour::status(503, &[]), Behaviour::Chat]));
    let retries = "retries: { default: { initial_delay: 100ms, jitter: none } }\n";
    let route = route("providers: [a], idempotent: always") + retries;
    let sidecar = single_worker(&policy(&[("a", &a.url(), "")], &route));
    assert_eq!(sidecar.send(&chat()).status, 200);
    let record = access_record(&sidecar, 1);
    assert!(record["backoff_ms"].as_f64().is_some_and(|ms| ms >= 99.0), "{record}");
    assert!(record.get("wait_ms").is_none(), "{record}");
    let id = record["request_id"].as_str().expect("an id");
    let why = cli_stdout(&sidecar, &["why", id]);
    assert!(why.contains("it backed off for 1"), "{why}");
}

#[test]
fn a_429_within_patience_is_retried_at_the_same_provider() {
    let (a, b, sidecar) = with_fallback("", GENEROUS);
    a.set(Behaviour::Script(vec![
        Behaviour::status(429, &[("retry-after", "1")]),
        Behaviour::Chat,
    ]));
    let response = sidecar.send(&chat());
    assert!(response.status == 200 && is_from(&response, &a), "{}", response.status);
    assert_eq!((a.count(), b.count()), (2, 0));
    let times: Vec<_> = a.requests().iter().map(|request| request.at).collect();
    assert!(times[1] - times[0] >= Duration::from_secs(1), "{:?}", times[1] - times[0]);
    let access_record = access_record(&sidecar, 1);
    assert_eq!(classes(&access_record), ["throttled", "success"]);
    assert!(access_record["wait_ms"].as_f64().is_some_and(|ms| ms >= 990.0), "{access_record}");
}

#[test]
fn a_429_beyond_patience_moves_to_the_fallback_at_once() {
    let (a, b, sidecar) = with_fallback("", GENEROUS);
    a.set(Behaviour::status(429, &[("retry-after", "30")]));
    let response = sidecar.send(&chat());
    assert!(response.status == 200 && is_from(&response, &b), "{}", response.status);
    assert_eq!((a.count(), b.count()), (1, 1));
    // The provider is held: the next request skips it.
    assert!(is_from(&sidecar.send(&chat()), &b));
    assert_eq!(a.count(), 1);
}

#[test]
fn a_429_beyond_the_deadline_is_the_response() {
    let a = Origin::start(Behaviour::status(429, &[("retry-after", "20")]));
    let yaml = policy(&[("a", &a.url(), SHORT_TIMEOUTS)], &route("providers: [a], timeout: 10s"));
    let sidecar = single_worker(&yaml);
    let response = sidecar.send(&chat());
    assert_eq!((response.status, response.header("retry-after")), (429, Some("20")));
    assert_eq!(a.count(), 1);
    let took = access_record(&sidecar, 1)["duration_ms"].as_f64().expect("a duration");
    assert!(took < 5000.0, "gave up after {took} ms instead of at once");
}

#[test]
fn a_500_is_retried_at_its_provider_before_the_fallback() {
    let (a, b, sidecar) = with_fallback(", idempotent: always", GENEROUS);
    a.set(Behaviour::status(500, &[]));
    assert!(is_from(&sidecar.send(&chat()), &b));
    assert_eq!((a.count(), b.count()), (3, 1));
    assert_eq!(classes(&access_record(&sidecar, 1)), ["failure", "failure", "failure", "success"]);
}

#[test]
fn a_provider_that_timed_out_is_not_retried_for_the_same_request() {
    for silence in [Behaviour::Silent, Behaviour::HeadersThenSilence] {
        let (a, b, sidecar) = with_fallback(", idempotent: always", GENEROUS);
        a.set(silence);
        assert!(is_from(&sidecar.send(&chat()), &b));
        assert_eq!((a.count(), b.count()), (1, 1));
    }
}

#[test]
fn the_policy_limits_the_number_of_attempts() {
    let delays = "initial_delay: 1ms, budget: { ratio: 1, min_per_second: 100 }";
    let always = ", idempotent: always";
    for (values, times) in
        [("max_attempts: 2", (2, 1)), ("max_attempts: 1, fallback_attempts: 2", (1, 2))]
    {
        let retries = format!("retries: {{ default: {{ {values}, {delays} }} }}\n");
        let (a, b, sidecar) = with_fallback(always, &retries);
        a.set(Behaviour::status(500, &[]));
        b.set(Behaviour::status(500, &[]));
        assert_eq!(sidecar.send(&chat()).status, 500);
        assert_eq!((a.count(), b.count()), times, "{values}");
    }
    let (a, b, sidecar) = with_two_providers(", idempotent: always, retry: none", "");
    a.set(Behaviour::status(500, &[]));
    assert_eq!(sidecar.send(&chat()).status, 500);
    assert_eq!((a.count(), b.count()), (1, 0));
}

#[test]
fn a_body_larger_than_the_replay_buffer_is_sent_once_and_logged() {
    let (a, b, sidecar) = with_two_providers(", idempotent: always, replay: 1KiB", GENEROUS);
    a.set(Behaviour::status(500, &[]));
    let large = Call::json(CHAT, &json!({ "model": "m", "prompt": "x".repeat(4096) }));
    let response = sidecar.send(&large);
    assert_eq!(response.status, 500);
    let status = response.header("proxy-status").expect("a Proxy-Status");
    assert!(status.contains("larger than the route's `replay`"), "{status}");
    assert_eq!((a.count(), b.count()), (1, 0));
    assert_eq!(Some(a.last().body), large.body);
    let large = access_record(&sidecar, 1);
    assert_eq!(large["not_replayable"], "larger_than_replay", "{large}");
    let counted = r#"outrigger_not_replayable_total{route="all",reason="larger_than_replay"}"#;
    assert_eq!(sidecar.metric(counted), Some(1.0));

    assert!(is_from(&sidecar.send(&chat()), &b), "a small body is retried");
    assert!(access_record(&sidecar, 2).get("not_replayable").is_none());
}

#[test]
fn a_body_of_some_megabytes_is_retried_under_the_default_policy() {
    let (a, b) = (Origin::start(Behaviour::status(500, &[])), Origin::start(Behaviour::Chat));
    let rest = route("providers: [a, b], balance: first, idempotent: always") + GENEROUS;
    let sidecar = single_worker(&policy(&[("a", &a.url(), ""), ("b", &b.url(), "")], &rest));
    for length in [2 << 20, 15 << 20] {
        let large = Call::json(CHAT, &json!({ "model": "m", "prompt": "x".repeat(length) }));
        assert!(is_from(&sidecar.send(&large), &b), "{length}");
        assert_eq!(Some(b.last().body), large.body);
    }
    assert_eq!(sidecar.metric("outrigger_buffered_bytes"), Some(0.0));
}

#[test]
fn a_lost_connection_names_the_reason_why_its_body_could_be_sent_only_once() {
    let rest =
        route("providers: [a], idempotent: always") + GENEROUS + "server: { buffered: 1MiB }\n";
    let a = Origin::start(Behaviour::Reset);
    let sidecar = single_worker(&policy(&[("a", &a.url(), "")], &rest));
    let large = Call::json(CHAT, &json!({ "model": "m", "prompt": "x".repeat(2 << 20) }));
    let response = sidecar.send(&large);
    assert_eq!(response.status, 502, "{}", response.text());
    assert!(response.text().contains("because `server.buffered` was full"), "{}", response.text());
    assert_eq!(access_record(&sidecar, 1)["not_replayable"], "buffers_full");
}

#[test]
fn a_body_that_cannot_be_replayed_still_moves_on_if_nothing_was_sent() {
    let (a, b, sidecar) = with_two_providers(", replay: 1KiB", GENEROUS);
    a.set(Behaviour::RefuseConnections);
    let large = Call::json(CHAT, &json!({ "model": "m", "prompt": "x".repeat(64 << 10) }));
    assert!(is_from(&sidecar.send(&large), &b));
    assert_eq!(Some(b.last().body), large.body);
}

#[test]
fn a_refused_connection_moves_a_post_to_the_next_provider_at_once() {
    for (a, b, sidecar) in [with_two_providers("", ""), with_fallback("", "")] {
        a.set(Behaviour::RefuseConnections);
        let response = sidecar.send(&chat());
        assert!(response.status == 200 && is_from(&response, &b), "{}", response.status);
        let access_record = access_record(&sidecar, 1);
        assert_eq!(classes(&access_record), ["unsent", "success"]);
        assert!(access_record.get("wait_ms").is_none(), "{access_record}");
    }
}

#[test]
fn a_connection_closed_by_the_provider_between_requests_is_not_an_error() {
    let a = Origin::start(Behaviour::CloseIdle);
    let yaml = policy(&[("a", &a.url(), "")], &route("providers: [a], retry: none"));
    let sidecar = single_worker(&yaml);
    let mut client = sidecar.client();
    for i in 1..=50 {
        assert_eq!(client.send(&chat()).status, 200, "request {i}");
        assert_eq!(a.count(), i);
        a.wait_for_open_connections(0);
    }
}

#[test]
fn a_total_outage_stays_within_the_retry_budget() {
    let (a, b) = (Origin::start(Behaviour::Reset), Origin::start(Behaviour::Reset));
    let (none, always) = ("breaker: none", "providers: [a, b], idempotent: always");
    let yaml = policy(&[("a", &a.url(), none), ("b", &b.url(), none)], &route(always));
    let sidecar = Sidecar::start(&yaml);
    let seconds = std::env::var("OUTRIGGER_OUTAGE").map_or(3, |n| n.parse().expect("a number"));
    let (offered, threads, start) = (100 * seconds, 10, Instant::now());
    thread::scope(|scope| {
        for first in 0..threads {
            let sidecar = &sidecar;
            scope.spawn(move || {
                for i in (first..offered).step_by(threads as usize) {
                    sleep_until(start + Duration::from_millis(10) * i);
                    let response = sidecar.send(&chat());
                    assert_eq!(response.status, 502);
                    assert_eq!(problem_type(&response), "connection-lost");
                }
            });
        }
    });
    let (attempts, seconds) = ((a.count() + b.count()) as f64, start.elapsed().as_secs_f64());
    let floor = 10.0;
    let allowed = 1.2 * f64::from(offered) + seconds + floor;
    println!("{offered} requests in {seconds:.1} s: {attempts} attempts, at most {allowed:.0}");
    assert!(attempts <= allowed, "{attempts} attempts in {seconds:.1} s, at most {allowed:.0}");
    assert!(attempts > f64::from(offered), "the budget was not used");
}
