//! A request that a provider cannot serve (too long for the model, an unknown model) moves to the
//! fallback without blame. Without a fallback the application gets the provider's own error.

use crate::fixtures::{GENEROUS, access_record, chat, classes, is_from, policy, route, state};
use crate::support::{Behaviour, Origin, Sidecar, Stream};

const LONG: &str = r#"{"error":{"message":"This model's maximum context length is 8192 tokens.","code":"context_length_exceeded"}}"#;
const ANTHROPIC_LONG: &str = r#"{"type":"error","error":{"type":"invalid_request_error","message":"prompt is too long: 210000 tokens > 200000 maximum"}}"#;
const ANTHROPIC_MODEL: &str =
    r#"{"type":"error","error":{"type":"not_found_error","message":"model: claude-9"}}"#;
const MODEL: &str = r#"{"error":{"message":"The model `m` does not exist or you do not have access to it.","code":"model_not_found"}}"#;
const GEMINI_LONG: &str = r#"{"error":{"code":400,"message":"The input token count (9) exceeds the maximum number of tokens allowed (8).","status":"INVALID_ARGUMENT"}}"#;
const KEY: &str = "auth: { bearer: \"${env:ONE}\" }";

fn error(status: u16, body: &str) -> Behaviour {
    let headers = vec![("content-type".to_owned(), "application/json".to_owned())];
    Behaviour::Status(status, headers, body.to_owned())
}

fn start(yaml: &str) -> Sidecar {
    Sidecar::builder().policy("policy", yaml).workers(1).env("ONE", "one").start()
}

/// Statuses and bodies as the providers send them.
fn errors() -> [(u16, &'static str); 8] {
    [
        (400, LONG),
        (400, ANTHROPIC_LONG),
        (400, GEMINI_LONG),
        (404, MODEL),
        (403, MODEL),
        (404, ANTHROPIC_MODEL),
        (413, r#"{"type":"error","error":{"type":"request_too_large","message":"too large"}}"#),
        (200, LONG),
    ]
}

#[test]
fn it_moves_to_the_fallback_and_the_provider_is_not_blamed() {
    for (status, body) in errors() {
        let (a, b) = (Origin::start(error(status, body)), Origin::start(Behaviour::Chat));
        let rest = route("providers: [a], fallback: [b]") + GENEROUS;
        let sidecar = start(&policy(&[("a", &a.url(), KEY), ("b", &b.url(), "")], &rest));
        (0..8).for_each(|_| assert!(is_from(&sidecar.send(&chat()), &b), "{status} {body}"));
        assert_eq!(classes(&access_record(&sidecar, 8)), ["unsupported", "success"], "{body}");
        // Neither a breaker nor a hold keeps the next request away.
        assert_eq!((a.count(), b.count()), (8, 8), "{status} {body}");
        assert_eq!(state(&sidecar, "a"), "closed", "{status} {body}");
    }
}

#[test]
fn without_a_fallback_the_application_gets_the_provider_s_own_error() {
    for (status, body) in errors() {
        let a = Origin::start(error(status, body));
        let rest = route("providers: [a], idempotent: always") + GENEROUS;
        let sidecar = start(&policy(&[("a", &a.url(), KEY)], &rest));
        for _ in 0..4 {
            let response = sidecar.send(&chat());
            assert_eq!((response.status, response.text().as_str()), (status, body));
        }
        assert_eq!(a.count(), 4, "{status} {body}");
        assert_eq!(access_record(&sidecar, 4)["retry_denied"], "no_fallback", "{body}");
    }
}

#[test]
fn an_error_event_before_the_first_content_moves_too() {
    let failed = r#"{"type":"response.failed","response":{"status":"failed","error":{"code":"context_length_exceeded","message":"x"}}}"#;
    for event in [LONG, failed] {
        let a = Origin::start(Stream::of([event.to_owned()]));
        let b = Origin::start(Behaviour::Chat);
        let rest = route("providers: [a], fallback: [b]") + GENEROUS;
        let sidecar = start(&policy(&[("a", &a.url(), KEY), ("b", &b.url(), "")], &rest));
        assert!(is_from(&sidecar.send(&chat()), &b), "{event}");
        assert_eq!(classes(&access_record(&sidecar, 1)), ["unsupported", "success"], "{event}");
    }
}

#[test]
fn other_errors_of_the_client_are_passed_on() {
    for (status, body) in [(404, r#"{"error":{"message":"no such file"}}"#), (400, "{}")] {
        let (a, b) = (Origin::start(error(status, body)), Origin::start(Behaviour::Chat));
        let rest = route("providers: [a], fallback: [b]") + GENEROUS;
        let sidecar = start(&policy(&[("a", &a.url(), KEY), ("b", &b.url(), "")], &rest));
        let response = sidecar.send(&chat());
        assert_eq!((response.status, b.count()), (status, 0));
    }
}
