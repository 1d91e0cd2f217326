//! Traffic after a hold: the first requests flow, a spare provider takes the rest.

use serde_json::json;

use crate::fixtures::{
    GENEROUS, access_record, api, chat, cli_stdout, is_from, policy, post_admin, route,
    single_worker,
};
use crate::support::{Behaviour, Origin, Sidecar};

fn held_once(keys: &str, retry_after: &str) -> (Origin, Origin, Sidecar) {
    let throttled = Behaviour::status(429, &[("retry-after", retry_after)]);
    let a = Origin::script([throttled, Behaviour::Chat]);
    let b = Origin::start(Behaviour::Chat);
    let providers = [("a", &*a.url(), ""), ("b", &*b.url(), "")];
    let sidecar = single_worker(&policy(&providers, &(route(keys) + GENEROUS)));
    (a, b, sidecar)
}

fn waited_ms(sidecar: &Sidecar, count: usize) -> f64 {
    access_record(sidecar, count)["wait_ms"].as_f64().unwrap_or_default()
}

fn is_held(sidecar: &Sidecar) -> bool {
    let held = api(sidecar, "/api/circuit-breakers")["held"].clone();
    held.as_array().is_some_and(|held| !held.is_empty())
}

#[test]
fn the_first_requests_after_a_hold_do_not_wait() {
    let (a, _b, sidecar) = held_once("providers: [a]", "1");
    assert_eq!(sidecar.send(&chat()).status, 200);
    for n in 2..=3 {
        assert_eq!(sidecar.send(&chat()).status, 200);
        assert!(waited_ms(&sidecar, n) < 1000.0, "request {n}: {}", access_record(&sidecar, n));
    }
    assert_eq!(a.count(), 4);
}

#[test]
fn a_fallback_takes_the_requests_that_the_slow_start_does_not_admit() {
    let (a, b, sidecar) = held_once("providers: [a], fallback: [b]", "1");
    assert!(is_from(&sidecar.send(&chat()), &a), "a short hold is waited for");
    let mut from_b = 0;
    for n in 2..=20 {
        let response = sidecar.send(&chat());
        from_b += usize::from(is_from(&response, &b));
        assert!(response.status == 200 && waited_ms(&sidecar, n) < 1000.0);
    }
    assert!(a.count() >= 4 && from_b >= 5, "{} at the first, {from_b} at the fallback", a.count());
}

#[test]
fn a_reset_of_the_breaker_ends_its_holds() {
    for by_cli in [false, true] {
        for provider in ["", "breaker: none"] {
            let throttled = Behaviour::status(429, &[("retry-after", "100")]);
            let a = Origin::script([throttled, Behaviour::Chat]);
            let rest = route("providers: [a], retry: none") + GENEROUS;
            let sidecar = single_worker(&policy(&[("a", &a.url(), provider)], &rest));
            assert_eq!(sidecar.send(&chat()).status, 429);
            assert!(is_held(&sidecar));
            if by_cli {
                cli_stdout(&sidecar, &["breakers", "reset", "a"]);
            } else {
                post_admin(&sidecar, "/api/circuit-breakers/reset/a", &json!({}));
            }
            assert!(!is_held(&sidecar));
            (0..10).for_each(|_| assert_eq!(sidecar.send(&chat()).status, 200));
        }
    }
}

#[test]
fn a_retry_after_date_counts_from_the_date_of_its_response() {
    let headers = [
        ("date", "Tue, 15 Nov 1994 08:00:00 GMT"),
        ("retry-after", "Tue, 15 Nov 1994 08:01:40 GMT"),
    ];
    let a = Origin::start(Behaviour::status(429, &headers));
    let sidecar =
        single_worker(&policy(&[("a", &a.url(), "")], &route("providers: [a], retry: none")));
    assert_eq!(sidecar.send(&chat()).status, 429);
    let held = api(&sidecar, "/api/circuit-breakers")["held"][0]["remaining_ms"].as_u64();
    assert!(held.is_some_and(|ms| (90_000..=150_000).contains(&ms)), "{held:?}");
}
