//! What an operator does by hand, over the API and by the commands, and who may.

use std::process::{Command, Output};

use serde_json::{Value, json};

use crate::fixtures::{alone, api, breaker, chat, is_from, policy, problem, reload, route, state};
use crate::support::{Behaviour, Call, Gate, Origin, Sidecar};

const TOKEN: &str = "a-token-for-these-tests";

/// `a`, and `b` behind it.
fn pair() -> (Origin, Origin, Sidecar) {
    let (a, b) = (Origin::start(Behaviour::Chat), Origin::start(Behaviour::Chat));
    let providers = [("a", &*a.url(), ""), ("b", &*b.url(), "")];
    let sidecar = alone(&policy(&providers, &route("providers: [a], fallback: [b]")));
    (a, b, sidecar)
}

fn change(sidecar: &Sidecar, path: &str, body: &Value) -> Value {
    let (status, text) = sidecar.admin_post(path, body);
    assert_eq!(status, 200, "{path}: {text}");
    serde_json::from_str(&text).expect("JSON")
}

fn outrigger(sidecar: &Sidecar, arguments: &[&str]) -> Output {
    let admin = sidecar.admin_url("");
    let mut command = Command::new(env!("CARGO_BIN_EXE_outrigger"));
    command.args(arguments).args(["--admin", admin.trim_end_matches('/')]).env("USER", "tester");
    command.output().expect("the command can be started")
}

fn said(sidecar: &Sidecar, arguments: &[&str]) -> String {
    let output = outrigger(sidecar, arguments);
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    text
}

#[test]
fn a_breaker_that_is_opened_by_hand_sends_traffic_elsewhere_until_it_is_reset() {
    let (a, b, sidecar) = pair();
    assert!(is_from(&sidecar.send(&chat()), &a));
    let body = json!({ "for": "10m", "reason": "maintenance", "by": "ann" });
    let changed = change(&sidecar, "/api/circuit-breakers/open/a", &body);
    assert_eq!(changed["changed"][0]["override"]["reason"], "maintenance");
    assert!(is_from(&sidecar.send(&chat()), &b));
    let open = breaker(&sidecar, "a");
    assert_eq!((&open["state"], &open["override"]["state"]), (&json!("open"), &json!("open")));
    assert!(open["retry_in_ms"].as_u64().is_some_and(|ms| (500_000..=600_000).contains(&ms)));
    let line = sidecar.wait_for_log(|line| line.contains("manual change"));
    for part in ["breaker_open", "ann", "maintenance", "audit"] {
        assert!(line.contains(part), "{part}: {line}");
    }
    assert!(api(&sidecar, "/api/circuit-breakers")["events"].to_string().contains("by ann"));
    change(&sidecar, "/api/circuit-breakers/reset/a", &json!({}));
    assert!(is_from(&sidecar.send(&chat()), &a));
    let done = r#"outrigger_admin_changes_total{action="breaker_open",result="done"}"#;
    assert_eq!(sidecar.metric(done), Some(1.0));
}

#[test]
fn a_hand_stays_on_over_a_reload() {
    let (_a, b, sidecar) = pair();
    change(&sidecar, "/api/circuit-breakers/open/a", &json!({}));
    let text = std::fs::read_to_string(sidecar.policies().join("policy.yaml")).expect("a policy");
    reload(&sidecar, || {
        sidecar.write_policy("policy", &text.replace("name: all,", "name: all, timeout: 50s,"));
    });
    assert!(is_from(&sidecar.send(&chat()), &b));
    assert_eq!(state(&sidecar, "a"), "open");
}

#[test]
fn closed_by_hand_a_breaker_does_not_trip_and_in_shadow_it_refuses_nothing() {
    let a = Origin::start(Behaviour::status(500, &[]));
    let rest = route("providers: [a]")
        + "breakers: { default: { failure_threshold: 2, recovery_timeout: 60s } }\n\
           retries: { default: { max_attempts: 1 } }\n";
    let sidecar = alone(&policy(&[("a", &a.url(), "")], &rest));
    for action in ["close", "shadow"] {
        change(&sidecar, &format!("/api/circuit-breakers/{action}/a"), &json!({}));
        let before = a.count();
        for _ in 0..5 {
            assert_eq!(sidecar.send(&chat()).status, 500, "{action}");
        }
        assert_eq!(a.count() - before, 5, "{action}");
    }
    assert_eq!(
        (state(&sidecar, "a").as_str(), &breaker(&sidecar, "a")["mode"]),
        ("open", &json!("shadow"))
    );
    change(&sidecar, "/api/circuit-breakers/reset/a", &json!({}));
    assert_eq!((sidecar.send(&chat()).status, sidecar.send(&chat()).status), (500, 500));
    assert_eq!(problem(&sidecar.send(&chat())), "breaker-open");
}

#[test]
fn a_drained_provider_gets_nothing_new_and_ends_what_it_has() {
    let gate = Gate::closed();
    let (a, b) = (Origin::start(Behaviour::Chat.held(&gate)), Origin::start(Behaviour::Chat));
    let providers = [("a", &*a.url(), ""), ("b", &*b.url(), "")];
    let sidecar = alone(&policy(&providers, &route("providers: [a], fallback: [b]")));
    let mut before = sidecar.client();
    before.send_only(&chat());
    sidecar.wait_until(|_| a.count() == 1);
    let drained = change(&sidecar, "/api/providers/drain/a", &json!({ "reason": "key rotation" }));
    assert_eq!(drained["override"]["state"], "drained");
    assert!(is_from(&sidecar.send(&chat()), &b));
    assert_eq!(sidecar.metric(r#"outrigger_provider_drained{provider="a"}"#), Some(1.0));
    gate.open_wide();
    let answer = before.read_response("POST").expect("an answer").rest();
    assert!(is_from(&answer, &a) && answer.status == 200);
    change(&sidecar, "/api/providers/drain/b", &json!({}));
    assert_eq!(problem(&sidecar.send(&chat())), "drained");
    change(&sidecar, "/api/providers/undrain/a", &json!({}));
    assert!(is_from(&sidecar.send(&chat()), &a));
    assert_eq!((a.count(), b.count()), (2, 1));
}

#[test]
fn a_change_that_cannot_be_made_says_why() {
    let (_a, _b, sidecar) = pair();
    let known = "application/json";
    for (path, body, kind, status, told) in [
        ("/api/circuit-breakers/open/nobody", "{}", known, 404, "there are: a/"),
        ("/api/circuit-breakers/burn/a", "{}", known, 404, "expected open, close, shadow or reset"),
        ("/api/providers/drain/nobody", "{}", known, 404, "there are: a, b"),
        ("/api/providers/burn/a", "{}", known, 404, "expected drain or undrain"),
        ("/api/providers/drain/a", "{\"for\": \"soon\"}", known, 400, "`for`"),
        ("/api/providers/drain/a", "{\"for\": \"90d\"}", known, 400, "at most 30d"),
        ("/api/providers/drain/a", "{\"why\": 1}", known, 400, "unknown field `why`"),
        ("/api/providers/drain/a", "{}", "text/plain", 415, known),
    ] {
        let response = sidecar.admin_send(&Call::post(path, body).header("content-type", kind));
        assert_eq!(response.status, status, "{path}: {}", response.text());
        assert_eq!(response.header("content-type"), Some("application/problem+json"));
        assert!(response.text().contains(told), "{path}: {}", response.text());
    }
    assert_eq!(state(&sidecar, "a"), "closed");
    assert!(api(&sidecar, "/api/status")["providers"][0].get("override").is_none());
}

#[test]
fn changes_from_other_sites_for_other_hosts_and_without_the_token_are_refused() {
    let a = Origin::start(Behaviour::Chat);
    let yaml = policy(&[("a", &a.url(), "")], &route("providers: [a]"));
    let sidecar =
        Sidecar::builder().policy("policy", &yaml).env("OUTRIGGER_ADMIN_TOKEN", TOKEN).start();
    let drain = || Call::post("/api/providers/drain/a", "");
    let bearer = |token: &str| format!("Bearer {token}");
    let allowed = || drain().header("authorization", &bearer(TOKEN));
    for (why, call, status) in [
        ("no token", drain(), 401),
        ("another token", drain().header("authorization", &bearer("a-token-of-somebody")), 401),
        ("another site", allowed().header("sec-fetch-site", "cross-site"), 403),
        ("another origin", allowed().header("origin", "https://evil.example"), 403),
        ("another host", allowed().header("host", "evil.example"), 403),
        ("another host", Call::get("/api/status").header("host", "evil.example"), 403),
    ] {
        assert_eq!(sidecar.admin_send(&call).status, status, "{why}");
    }
    assert!(api(&sidecar, "/api/status")["providers"][0].get("override").is_none());
    assert_eq!(sidecar.admin_send(&allowed()).status, 200);
    assert!(api(&sidecar, "/api/status")["providers"][0].get("override").is_some());
    let log = sidecar.log().join("\n");
    assert!(log.contains("admin request rejected") && !log.contains(TOKEN), "{log}");
}

#[test]
fn the_commands_say_and_do_the_same() {
    let (a, b, sidecar) = pair();
    sidecar.send(&chat());
    let status = said(&sidecar, &["status"]);
    for part in ["ready", "PROVIDER", "IN FLIGHT", "all"] {
        assert!(status.contains(part), "{part}: {status}");
    }
    let json: Value = serde_json::from_str(&said(&sidecar, &["status", "--json"])).expect("JSON");
    assert_eq!(json["providers"][1]["name"], "b");
    let open = said(&sidecar, &["breakers", "open", "a", "--for", "10m", "--reason", "a drill"]);
    assert!(open.contains("open for") && open.contains("by tester: a drill"), "{open}");
    assert!(is_from(&sidecar.send(&chat()), &b));
    let all = said(&sidecar, &["breakers"]);
    let line = all.lines().find(|line| line.starts_with("a/")).expect("the breaker of a");
    assert!(line.contains("open") && line.contains("a drill"), "{all}");
    said(&sidecar, &["breakers", "reset", "a"]);
    assert!(said(&sidecar, &["drain", "b"]).starts_with("b: drained"));
    assert!(said(&sidecar, &["undrain", "b"]).starts_with("b: in use"));
    assert!(is_from(&sidecar.send(&chat()), &a));
    let unknown = outrigger(&sidecar, &["drain", "nobody"]);
    let told = String::from_utf8_lossy(&unknown.stderr).into_owned();
    assert!(unknown.status.code() == Some(2) && told.contains("there are: a, b"), "{told}");
}

#[test]
fn a_command_that_finds_nobody_says_where_it_asked() {
    let closed = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = closed.local_addr().expect("an address").to_string();
    drop(closed);
    let mut command = Command::new(env!("CARGO_BIN_EXE_outrigger"));
    let output = command.args(["status", "--admin", &address]).output().expect("started");
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2));
    assert!(told.contains(&address) && told.contains("is a sidecar running"), "{told}");
}

#[test]
fn admin_off_loopback_is_refused_without_a_token_and_a_short_token_always() {
    let folder = tempfile::tempdir().expect("a folder");
    let yaml = policy(&[("a", "http://127.0.0.1:9", "")], &route("providers: [a]"));
    std::fs::write(folder.path().join("policy.yaml"), yaml).expect("written");
    for (admin, token, told) in [
        ("0.0.0.0:0", None, "--admin-token"),
        ("127.0.0.1:0", Some("short"), "expected at least 16"),
        (
            "127.0.0.1:0",
            Some("file:/nonexistent"),
            "cannot read the admin token from file:/nonexistent",
        ),
    ] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_outrigger"));
        command.args(["run", "--listen", "127.0.0.1:0", "--admin", admin]);
        command.arg("--policies").arg(folder.path());
        command.args(token.into_iter().flat_map(|token| ["--admin-token", token]));
        let output = command.output().expect("the command can be started");
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(2) && stderr.contains(told), "{told}: {stderr}");
    }
}
