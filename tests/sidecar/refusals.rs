//! Errors that say that a retry is useless reach the application at once, or another provider or
//! credential serves the request.

use std::time::{Duration, Instant};

use crate::fixtures::{
    GENEROUS, access_record, breaker, chat, classes, is_from, policy, route, single_worker, state,
};
use crate::support::{Behaviour, Origin, Sidecar};

const QUOTA: &str =
    r#"{"error":{"message":"You exceeded your current quota","code":"insufficient_quota"}}"#;
const CREDIT: &str = r#"{"type":"error","error":{"type":"invalid_request_error","message":"Your credit balance is too low"}}"#;
const DAILY: &str = r#"{"error":{"code":429,"status":"RESOURCE_EXHAUSTED","details":[{"violations":[{"quotaId":"GenerateRequestsPerDayPerProjectPerModel"}]}]}}"#;

fn refusal(status: u16, headers: &[(&str, &str)], body: &str) -> Behaviour {
    let json = ("content-type", "application/json");
    let headers = headers.iter().chain([&json]).map(|(n, v)| (n.to_string(), v.to_string()));
    Behaviour::Status(status, headers.collect(), body.to_owned())
}

fn refusals() -> [Behaviour; 4] {
    [
        refusal(429, &[], QUOTA),
        refusal(429, &[("retry-after", "1")], DAILY),
        refusal(400, &[], CREDIT),
        refusal(429, &[("x-should-retry", "false")], "{}"),
    ]
}

fn start(yaml: &str) -> Sidecar {
    let builder = Sidecar::builder().policy("policy", yaml).workers(1);
    builder.env("K1", "one").env("K2", "two").start()
}

#[test]
fn the_only_provider_s_refusal_is_passed_on_at_once_every_time() {
    for behaviour in refusals() {
        let Behaviour::Status(status, _, body) = behaviour.clone() else { unreachable!() };
        for auth in ["auth: none", "auth: { bearer: \"${env:K1}\" }"] {
            let a = Origin::start(behaviour.clone());
            let sidecar = start(&policy(
                &[("a", &a.url(), auth)],
                &(route("providers: [a], idempotent: always") + GENEROUS),
            ));
            let began = Instant::now();
            for _ in 0..5 {
                let response = sidecar.send(&chat());
                assert_eq!((response.status, response.text()), (status, body.clone()));
            }
            assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
            assert_eq!((a.count(), state(&sidecar, "a").as_str()), (5, "closed"), "{body}");
        }
    }
}

#[test]
fn another_provider_serves_the_request_and_the_refusing_one_gets_one_attempt() {
    for behaviour in refusals() {
        for tiers in ["providers: [a, b], balance: first", "providers: [a], fallback: [b]"] {
            let (a, b) = (Origin::start(behaviour.clone()), Origin::start(Behaviour::Chat));
            let providers = [
                ("a", &*a.url(), "auth: { bearer: \"${env:K1}\" }"),
                ("b", &*b.url(), "auth: { bearer: \"${env:K2}\" }"),
            ];
            let sidecar = start(&policy(&providers, &(route(tiers) + GENEROUS)));
            assert!(is_from(&sidecar.send(&chat()), &b), "{behaviour:?}");
            assert_eq!(classes(&access_record(&sidecar, 1)), ["credential", "success"]);
            assert_eq!(a.count(), 1);
            // After three in a row the credential is held.
            (0..5).for_each(|_| assert!(is_from(&sidecar.send(&chat()), &b)));
            assert_eq!(a.count(), 3, "{behaviour:?}");
        }
    }
}

#[test]
fn another_credential_of_the_provider_serves_the_request() {
    let a =
        Origin::start(Behaviour::custom(|request| match request.headers.get("authorization") {
            Some("Bearer one") => refusal(429, &[], QUOTA),
            _ => Behaviour::Chat,
        }));
    let auth = "auth: { bearer: [\"${env:K1}\", \"${env:K2}\"] }";
    let sidecar = start(&policy(&[("a", &a.url(), auth)], &route("providers: [a]")));
    (0..12).for_each(|_| assert_eq!(sidecar.send(&chat()).status, 200));
    assert_eq!(a.count(), 15, "the first credential is held after three refusals");
}

#[test]
fn a_failure_that_forbids_retries_is_not_repeated_at_its_endpoint() {
    let a = Origin::start(refusal(500, &[("x-should-retry", "false")], "{}"));
    let rest = route("providers: [a], idempotent: always") + GENEROUS;
    let sidecar = single_worker(&policy(&[("a", &a.url(), "")], &rest));
    assert_eq!((sidecar.send(&chat()).status, a.count()), (500, 1));
    assert_eq!(breaker(&sidecar, "a")["state"], "closed");
}

#[test]
fn a_rate_limit_is_still_waited_for() {
    let body = r#"{"error":{"code":"rate_limit_exceeded"}}"#;
    let a = Origin::script([refusal(429, &[("retry-after", "1")], body), Behaviour::Chat]);
    let rest = route("providers: [a]") + GENEROUS;
    let sidecar = single_worker(&policy(&[("a", &a.url(), "")], &rest));
    assert_eq!((sidecar.send(&chat()).status, a.count()), (200, 2));
}
