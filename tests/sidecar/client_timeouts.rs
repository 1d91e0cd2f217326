//! The client's own timeout, from its SDK's headers, becomes the request's deadline.

use std::time::{Duration, Instant};

use crate::fixtures::{GENEROUS, chat, is_from, policy, problem_type, route, single_worker};
use crate::support::{Behaviour, Origin};

/// Far below the route's timeout, and above what a busy machine adds.
const SOON: Duration = Duration::from_secs(20);

#[test]
fn the_deadline_is_the_sdks_own_and_the_response_comes_before_it() {
    let a = Origin::start(Behaviour::Silent);
    let yaml = policy(&[("a", &a.url(), "")], &route("providers: [a]"));
    let sidecar = single_worker(&yaml);
    for (name, value) in [
        ("x-stainless-read-timeout", "1.0"),
        ("x-stainless-timeout", "1"),
        ("grpc-timeout", "1000m"),
        ("x-request-timeout", "1s"),
    ] {
        let began = Instant::now();
        let response = sidecar.send(&chat().header(name, value));
        let took = began.elapsed();
        assert_eq!(response.status, 504, "{name}: {}", response.text());
        assert!(took >= Duration::from_millis(900) && took < SOON, "{name}: {took:?}");
        problem_type(&response);
    }
    let forwarded = a.last().headers.get("x-request-timeout").map(str::to_owned);
    assert_eq!(forwarded.as_deref(), Some("1s"), "the provider gets the header");
}

#[test]
fn a_silent_provider_leaves_time_for_the_next_within_the_sdks_own_timeout() {
    let (a, b) = (Origin::start(Behaviour::Silent), Origin::start(Behaviour::Chat));
    let rest = route("providers: [a], fallback: [b], idempotent: always") + GENEROUS;
    let sidecar = single_worker(&policy(&[("a", &a.url(), ""), ("b", &b.url(), "")], &rest));
    let began = Instant::now();
    let response = sidecar.send(&chat().header("x-stainless-read-timeout", "4"));
    assert!(is_from(&response, &b) && response.status == 200, "{}", response.text());
    assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
}

#[test]
fn the_policy_lists_the_headers_and_the_routes_timeout_stays_the_longest() {
    let a = Origin::start(Behaviour::Silent);
    for (more, headers) in [
        ("timeout_headers: [], timeout: 1500ms", [("x-stainless-timeout", "1"); 1]),
        ("timeout_headers: [x-mine-ms], timeout: 9s", [("x-mine-ms", "1500")]),
        ("timeout: 1500ms", [("x-stainless-timeout", "600")]),
        ("timeout: 1500ms", [("x-stainless-timeout", "soon")]),
    ] {
        let sidecar = single_worker(&policy(
            &[("a", &a.url(), "")],
            &route(&format!("providers: [a], {more}")),
        ));
        let began = Instant::now();
        let call = headers.iter().fold(chat(), |call, (name, value)| call.header(name, value));
        assert_eq!(sidecar.send(&call).status, 504, "{more}");
        let took = began.elapsed();
        assert!((1400..7000).contains(&took.as_millis()), "{more}: {took:?}");
    }
}
