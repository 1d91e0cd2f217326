//! The output of commands on a terminal, and the admin API as a person reads it.

use serde_json::{Value, json};

use crate::fixtures::{chat_for, cli_stdout, policy, post_admin, run_cli, single_worker};
use crate::support::{Behaviour, Call, Origin, Sidecar};

const WIDTH: usize = 80;

/// Providers with long names, and one of each thing that a command lists.
fn start_with_everything(a: &Origin, b: &Origin) -> Sidecar {
    let providers = [
        ("openai-europe-west-production", &*a.url(), "breaker: by-model"),
        ("anthropic-through-the-compatible-api", &*b.url(), ""),
    ];
    let more = "breakers: { by-model: { scope: model, failure_threshold: 2, recovery_timeout: 60s } }\n\
                caches: { answers-of-the-assistant: { store: { ttl: 60s } } }\n\
                queues: { requests-of-all-tenants: { max_wait: 5s } }\n\
                degradations: { brownout-of-everything: { when: { manual: true }, actions: [ { shed: low } ] } }\n\
                routes: [ { name: all, providers: [openai-europe-west-production], \
                fallback: [anthropic-through-the-compatible-api], idempotent: always, \
                cache: answers-of-the-assistant, queue: requests-of-all-tenants, \
                degrade: [brownout-of-everything] } ]\n";
    single_worker(&policy(&providers, more))
}

/// The output of a command on a terminal of eighty columns.
#[track_caller]
fn narrow_stdout(sidecar: &Sidecar, arguments: &[&str]) -> String {
    let output = crate::fixtures::cli_command(sidecar, arguments).env("COLUMNS", "80").output();
    let output = output.expect("the command can be started");
    // `status` exits with 1 while there is a problem.
    assert_ne!(output.status.code(), Some(2), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("UTF-8")
}

#[test]
fn every_list_fits_into_eighty_columns() {
    let (a, b) = (Origin::start(Behaviour::status(500, &[])), Origin::start(Behaviour::Chat));
    let sidecar = start_with_everything(&a, &b);
    for _ in 0..3 {
        sidecar.send(&chat_for("a-model-with-a-rather-long-name-2026"));
    }
    let note =
        json!({ "by": "ann", "reason": "maintenance until the provider calls back, ticket 4711" });
    let provider = "anthropic-through-the-compatible-api";
    post_admin(&sidecar, &format!("/api/circuit-breakers/open/{provider}"), &note);
    post_admin(&sidecar, &format!("/api/providers/drain/{provider}"), &note);
    post_admin(&sidecar, "/api/degradation/enter/brownout-of-everything", &note);
    for command in [
        &["status"][..],
        &["breakers"],
        &["queue"],
        &["cache"],
        &["degrade"],
        &["explain", "POST", "/v1/chat/completions", "--live"],
    ] {
        let text = narrow_stdout(&sidecar, command);
        let wide: Vec<_> = text.lines().filter(|line| line.chars().count() > WIDTH).collect();
        assert!(wide.is_empty(), "{command:?}: {wide:#?}\n{text}");
        let first = text.lines().next().unwrap_or_default();
        assert!(!first.is_empty() && !text.contains("-0"), "{command:?}:\n{text}");
    }
}

#[test]
fn explain_live_names_the_endpoint_that_is_selected_now_and_why_the_others_are_not() {
    let (a, b) = (Origin::start(Behaviour::status(500, &[])), Origin::start(Behaviour::Chat));
    let throttled = Behaviour::status(429, &[("retry-after", "60")]);
    let c = Origin::start(throttled);
    let providers =
        [("a", &*a.url(), "breaker: by-model"), ("b", &*b.url(), ""), ("c", &*c.url(), "")];
    let more = "breakers: { by-model: { scope: model, failure_threshold: 2, recovery_timeout: 60s } }\n\
                routes:\n  - { name: chat, match: { path: /v1/chat/**, headers: { x-tenant: gold } }, \
                providers: [a], fallback: [c, b], idempotent: always }\n";
    let sidecar = single_worker(&policy(&providers, more));
    let request = || chat_for("big").header("x-tenant", "gold");
    let explain = |model: &str| {
        let request = ["POST", "/v1/chat/completions", "-H", "x-tenant: gold", "--model", model];
        cli_stdout(&sidecar, &[&["explain", "--live"], &request[..]].concat())
    };
    let row = |text: &str, provider: &str| {
        let row = text.lines().find(|line| line.starts_with(provider)).map(str::to_owned);
        row.unwrap_or_else(|| panic!("no row of {provider} in:\n{text}"))
    };
    let text = explain("big");
    assert!(text.contains("route chat"), "{text}");
    assert!(row(&text, "a/").contains("selected"), "{text}");
    assert!(row(&text, "c/").contains("fallback 1  available"), "{text}");
    (0..2).for_each(|_| assert_eq!(sidecar.send(&request()).status, 200));
    let before = (a.count(), b.count(), c.count());
    let text = explain("big");
    assert!(row(&text, "a/").contains("its breaker is open, next probe in"), "{text}");
    assert!(row(&text, "c/").contains("on hold for"), "{text}");
    assert!(row(&text, "b/").contains("fallback 2  selected"), "{text}");
    // Another model has a breaker of its own.
    assert!(row(&explain("small"), "a/").contains("selected"), "{}", explain("small"));
    let note = json!({ "by": "ann", "reason": "key rotation" });
    post_admin(&sidecar, "/api/providers/drain/b", &note);
    let text = explain("big");
    assert!(row(&text, "b/").contains("drained manually by ann: key rotation"), "{text}");
    assert!(!text.contains("selected"), "{text}");
    assert_eq!((a.count(), b.count(), c.count()), before, "nothing is sent");
    let other = run_cli(&sidecar, &["explain", "GET", "/v1/other", "--live"]);
    assert_eq!(other.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&other.stdout).contains("no route takes it"));
    let (status, text) = sidecar.admin_get("/api/selection?method=POST&url=/v1&tenant=gold");
    assert!(status == 400 && text.contains("expected method, url, model, header"), "{text}");
}

#[test]
fn the_root_of_the_admin_listener_lists_what_there_is() {
    let a = Origin::start(Behaviour::Chat);
    let sidecar =
        single_worker(&policy(&[("a", &*a.url(), "")], &crate::fixtures::route("providers: [a]")));
    let (status, text) = sidecar.admin_get("/");
    assert_eq!(status, 200);
    for path in ["GET    /metrics", "GET    /api/status", "POST   /api/providers/{action}/{name}"] {
        assert!(text.contains(path), "{path}: {text}");
    }
    let (status, text) = sidecar.admin_get("/api");
    assert!(status == 404 && text.contains("`/` lists"), "{text}");
}

#[test]
fn json_of_the_admin_api_ends_with_a_line_break() {
    let a = Origin::start(Behaviour::Chat);
    let sidecar =
        single_worker(&policy(&[("a", &*a.url(), "")], &crate::fixtures::route("providers: [a]")));
    let fine = sidecar.admin_get("/api/status").1;
    let wrong = sidecar.admin_send(&Call::post("/api/providers/drain/missing", "{}")).text();
    for text in [fine, wrong] {
        assert!(text.ends_with("}\n") && serde_json::from_str::<Value>(&text).is_ok(), "{text}");
    }
}
