//! Manual overrides through the admin API and the CLI, and the protection of the admin API.

use std::process::Command;

use serde_json::{Value, json};

use crate::fixtures::{
    api, breaker, chat, chat_for, cli_stdout, is_from, policy, post_admin, problem_type, reload,
    route, run_cli, single_worker, state,
};
use crate::support::{Behaviour, Call, Client, Gate, Origin, Sidecar};

const TOKEN: &str = "a-token-for-these-tests";

/// Two healthy providers: `a` with the fallback `b`.
fn start_with_fallback() -> (Origin, Origin, Sidecar) {
    let (a, b) = (Origin::start(Behaviour::Chat), Origin::start(Behaviour::Chat));
    let providers = [("a", &*a.url(), ""), ("b", &*b.url(), "")];
    let sidecar = single_worker(&policy(&providers, &route("providers: [a], fallback: [b]")));
    (a, b, sidecar)
}

#[test]
fn a_breaker_opened_manually_diverts_traffic_until_it_is_reset() {
    let (a, b, sidecar) = start_with_fallback();
    assert!(is_from(&sidecar.send(&chat()), &a));
    let body = json!({ "for": "10m", "reason": "maintenance", "by": "ann" });
    let changed = post_admin(&sidecar, "/api/circuit-breakers/open/a", &body);
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
    post_admin(&sidecar, "/api/circuit-breakers/reset/a", &json!({}));
    assert!(is_from(&sidecar.send(&chat()), &a));
    let done = r#"outrigger_admin_changes_total{action="breaker_open",result="done"}"#;
    assert_eq!(sidecar.metric(done), Some(1.0));
}

#[test]
fn a_manual_override_survives_a_reload() {
    let (_a, b, sidecar) = start_with_fallback();
    post_admin(&sidecar, "/api/circuit-breakers/open/a", &json!({}));
    let text = std::fs::read_to_string(sidecar.policies().join("policy.yaml")).expect("a policy");
    reload(&sidecar, || {
        sidecar.write_policy("policy", &text.replace("name: all,", "name: all, timeout: 50s,"));
    });
    assert!(is_from(&sidecar.send(&chat()), &b));
    assert_eq!(state(&sidecar, "a"), "open");
}

const BY_MODEL: &str = "breakers: { default: { scope: model, failure_threshold: 2, \
                        recovery_timeout: 60s } }\nretries: { default: { max_attempts: 1 } }\n";

#[test]
fn an_override_covers_models_that_were_not_requested_before() {
    for (action, status, expected) in
        [("open", 200, [503, 503, 503]), ("close", 500, [500; 3]), ("shadow", 500, [500; 3])]
    {
        let a = Origin::start(Behaviour::status(status, &[]));
        let sidecar =
            single_worker(&policy(&[("a", &a.url(), "")], &(route("providers: [a]") + BY_MODEL)));
        post_admin(&sidecar, &format!("/api/circuit-breakers/{action}/a"), &json!({}));
        for model in ["new", "newer"] {
            let statuses = [(); 3].map(|()| sidecar.send(&chat_for(model)).status);
            assert_eq!(statuses, expected, "{action} {model}");
        }
        let overrides = api(&sidecar, "/api/circuit-breakers")["overrides"].clone();
        assert_eq!(overrides[0]["key"], "a", "{overrides}");
    }
}

#[test]
fn an_override_of_one_model_may_come_before_its_first_request_and_is_reset_with_its_provider() {
    let a = Origin::start(Behaviour::Chat);
    let yaml = policy(&[("a", &a.url(), "")], &(route("providers: [a]") + BY_MODEL));
    let sidecar = single_worker(&yaml);
    let key = format!("a/{}/new", a.address());
    post_admin(&sidecar, &format!("/api/circuit-breakers/open/{key}"), &json!({}));
    assert_eq!(sidecar.send(&chat_for("new")).status, 503);
    assert_eq!(sidecar.send(&chat_for("other")).status, 200);
    post_admin(&sidecar, "/api/circuit-breakers/reset/a", &json!({}));
    assert_eq!(sidecar.send(&chat_for("new")).status, 200);
    assert_eq!(api(&sidecar, "/api/circuit-breakers")["overrides"], json!([]));
}

#[test]
fn an_override_covers_an_endpoint_that_a_reload_adds() {
    let (a, b) = (Origin::start(Behaviour::Chat), Origin::start(Behaviour::Chat));
    let of = |urls: &[String]| {
        let list: Vec<_> = urls.iter().map(|url| format!("{{ url: \"{url}\" }}")).collect();
        let list = list.join(", ");
        format!(
            "version: 1\nproviders: {{ a: {{ endpoints: [{list}] }} }}\n{}",
            route("providers: [a]")
        )
    };
    let sidecar = single_worker(&of(&[a.url()]));
    post_admin(&sidecar, "/api/circuit-breakers/open/a", &json!({}));
    reload(&sidecar, || sidecar.write_policy("policy", &of(&[a.url(), b.url()])));
    assert_eq!(problem_type(&sidecar.send(&chat())), "breaker-open");
    assert_eq!((a.count(), b.count()), (0, 0));
}

#[test]
fn a_reload_keeps_the_breaker_and_the_hold_of_a_model() {
    let a = Origin::start(Behaviour::custom(|request| {
        match String::from_utf8_lossy(&request.body).contains("held") {
            true => Behaviour::status(429, &[("retry-after", "60")]),
            false => Behaviour::status(500, &[]),
        }
    }));
    let yaml = policy(&[("a", &a.url(), "")], &(route("providers: [a]") + BY_MODEL));
    let sidecar = single_worker(&yaml);
    assert_eq!([(); 2].map(|()| sidecar.send(&chat_for("dead")).status), [500, 500]);
    assert_eq!(sidecar.send(&chat_for("held")).status, 429);
    let text = yaml.replace("name: all,", "name: all, timeout: 50s,");
    reload(&sidecar, || sidecar.write_policy("policy", &text));
    assert_eq!(problem_type(&sidecar.send(&chat_for("dead"))), "breaker-open");
    assert_eq!(problem_type(&sidecar.send(&chat_for("held"))), "held");
    assert_eq!(a.count(), 3);
}

#[test]
fn a_drained_provider_that_leaves_the_policy_and_returns_is_still_drained() {
    let (_a, b, sidecar) = start_with_fallback();
    post_admin(&sidecar, "/api/providers/drain/a", &json!({ "reason": "key rotation" }));
    let with = std::fs::read_to_string(sidecar.policies().join("policy.yaml")).expect("a policy");
    let without = policy(&[("b", &b.url(), "")], &route("providers: [b]"));
    reload(&sidecar, || sidecar.write_policy("policy", &without));
    reload(&sidecar, || sidecar.write_policy("policy", &with));
    assert!(is_from(&sidecar.send(&chat()), &b));
    post_admin(&sidecar, "/api/providers/undrain/a", &json!({}));
    assert!(!is_from(&sidecar.send(&chat()), &b));
}

#[test]
fn a_breaker_closed_manually_does_not_trip_and_one_in_shadow_rejects_nothing() {
    let a = Origin::start(Behaviour::status(500, &[]));
    let rest = route("providers: [a]")
        + "breakers: { default: { failure_threshold: 2, recovery_timeout: 60s } }\n\
           retries: { default: { max_attempts: 1 } }\n";
    let sidecar = single_worker(&policy(&[("a", &a.url(), "")], &rest));
    for action in ["close", "shadow"] {
        post_admin(&sidecar, &format!("/api/circuit-breakers/{action}/a"), &json!({}));
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
    post_admin(&sidecar, "/api/circuit-breakers/reset/a", &json!({}));
    assert_eq!((sidecar.send(&chat()).status, sidecar.send(&chat()).status), (500, 500));
    assert_eq!(problem_type(&sidecar.send(&chat())), "breaker-open");
}

#[test]
fn a_drained_provider_gets_no_new_requests_and_finishes_current_ones() {
    let gate = Gate::closed();
    let (a, b) = (Origin::start(Behaviour::Chat.held(&gate)), Origin::start(Behaviour::Chat));
    let providers = [("a", &*a.url(), ""), ("b", &*b.url(), "")];
    let sidecar = single_worker(&policy(&providers, &route("providers: [a], fallback: [b]")));
    let mut before = sidecar.client();
    before.send_only(&chat());
    sidecar.wait_until(|_| a.count() == 1);
    let drained =
        post_admin(&sidecar, "/api/providers/drain/a", &json!({ "reason": "key rotation" }));
    assert_eq!(drained["override"]["state"], "drained");
    assert!(is_from(&sidecar.send(&chat()), &b));
    assert_eq!(sidecar.metric(r#"outrigger_provider_drained{provider="a"}"#), Some(1.0));
    gate.open_wide();
    let response = before.read_response("POST").expect("a response").rest();
    assert!(is_from(&response, &a) && response.status == 200);
    post_admin(&sidecar, "/api/providers/drain/b", &json!({}));
    assert_eq!(problem_type(&sidecar.send(&chat())), "drained");
    post_admin(&sidecar, "/api/providers/undrain/a", &json!({}));
    assert!(is_from(&sidecar.send(&chat()), &a));
    assert_eq!((a.count(), b.count()), (2, 1));
}

#[test]
fn an_invalid_change_is_rejected_with_its_reason() {
    let (_a, _b, sidecar) = start_with_fallback();
    let json_type = "application/json";
    for (path, body, kind, status, message) in [
        ("/api/circuit-breakers/open/nobody", "{}", json_type, 404, "there are: a/"),
        (
            "/api/circuit-breakers/burn/a",
            "{}",
            json_type,
            404,
            "expected open, close, shadow or reset",
        ),
        ("/api/providers/drain/missing", "{}", json_type, 404, "there are: a, b"),
        ("/api/providers/burn/a", "{}", json_type, 404, "expected drain or undrain"),
        ("/api/providers/drain/a", "{\"for\": \"soon\"}", json_type, 400, "`for`"),
        ("/api/providers/drain/a", "{\"for\": \"90d\"}", json_type, 400, "at most 30d"),
        ("/api/providers/drain/a", "{\"fleet\": true}", json_type, 400, "leave `fleet` out"),
        ("/api/providers/undrain/a", "{\"for\": \"1h\"}", json_type, 400, "leave it out"),
        ("/api/circuit-breakers/reset/a", "{\"for\": \"1h\"}", json_type, 400, "leave it out"),
        ("/api/providers/drain/a", "{\"why\": 1}", json_type, 400, "unknown field `why`"),
        ("/api/providers/drain/a", "{}", "text/plain", 415, json_type),
    ] {
        let response = sidecar.admin_send(&Call::post(path, body).header("content-type", kind));
        assert_eq!(response.status, status, "{path}: {}", response.text());
        assert_eq!(response.header("content-type"), Some("application/problem+json"));
        assert!(response.text().contains(message), "{path}: {}", response.text());
    }
    assert_eq!(state(&sidecar, "a"), "closed");
    assert!(api(&sidecar, "/api/status")["providers"][0].get("override").is_none());
}

/// A sidecar whose admin API needs [`TOKEN`] for changes, and its provider.
fn start_with_token() -> (Origin, Sidecar) {
    let a = Origin::start(Behaviour::Chat);
    let yaml = policy(&[("a", &a.url(), "")], &route("providers: [a]"));
    let builder = Sidecar::builder().policy("policy", &yaml).env("OUTRIGGER_ADMIN_TOKEN", TOKEN);
    (a, builder.start())
}

#[test]
fn admin_requests_from_other_sites_or_without_the_token_are_rejected() {
    let (_a, sidecar) = start_with_token();
    let drain = || Call::post("/api/providers/drain/a", "");
    let bearer = |token: &str| format!("Bearer {token}");
    let allowed = || drain().header("authorization", &bearer(TOKEN));
    for (reason, call, status) in [
        ("no token", drain(), 401),
        ("another token", drain().header("authorization", &bearer("another-long-token")), 401),
        ("another site", allowed().header("sec-fetch-site", "cross-site"), 403),
        ("another origin", allowed().header("origin", "https://evil.example"), 403),
        ("another host", allowed().header("host", "evil.example"), 403),
        ("another host", Call::get("/api/status").header("host", "evil.example"), 403),
    ] {
        assert_eq!(sidecar.admin_send(&call).status, status, "{reason}");
    }
    assert!(api(&sidecar, "/api/status")["providers"][0].get("override").is_none());
    assert_eq!(sidecar.admin_send(&allowed()).status, 200);
    assert!(api(&sidecar, "/api/status")["providers"][0].get("override").is_some());
    let log = sidecar.log().join("\n");
    assert!(log.contains("admin request rejected") && !log.contains(TOKEN), "{log}");
}

#[test]
fn ten_thousand_wrong_tokens_are_rejected_and_logged_once() {
    let (_a, sidecar) = start_with_token();
    let drain = |token: &str| {
        let bearer = format!("Bearer {token}");
        Call::post("/api/providers/drain/a", "").header("authorization", &bearer)
    };
    let mut client = Client::to(&sidecar.admin_url(""));
    for n in 0..10_000 {
        // The right length and beginning, in half of them.
        let wrong = if n % 2 == 0 { format!("{}{n}", &TOKEN[..8]) } else { "x".repeat(n % 500) };
        assert_eq!(client.send(&drain(&wrong)).status, 401);
    }
    assert_eq!(client.send(&drain(TOKEN)).status, 200);
    let rejected = "outrigger_admin_changes_total{action=\"rejected\",result=\"token-required\"}";
    assert_eq!(sidecar.metric(rejected), Some(10_000.0));
    let log = sidecar.log();
    let lines = log.iter().filter(|line| line.contains("admin request rejected")).count();
    // One a minute, should it take that long.
    assert!((1..=2).contains(&lines), "{lines} lines");
}

#[test]
fn the_commands_show_and_change_state() {
    let (a, b, sidecar) = start_with_fallback();
    sidecar.send(&chat());
    let status = cli_stdout(&sidecar, &["status"]);
    for part in ["ready", "ENDPOINT", "IN FLIGHT", "all"] {
        assert!(status.contains(part), "{part}: {status}");
    }
    let json: Value =
        serde_json::from_str(&cli_stdout(&sidecar, &["status", "--json"])).expect("JSON");
    assert_eq!(json["providers"][1]["name"], "b");
    let open =
        cli_stdout(&sidecar, &["breakers", "open", "a", "--for", "10m", "--reason", "a drill"]);
    assert!(open.contains("open for") && open.contains("by tester: a drill"), "{open}");
    assert!(is_from(&sidecar.send(&chat()), &b));
    let all = cli_stdout(&sidecar, &["breakers"]);
    let line = all.lines().find(|line| line.starts_with("a/")).expect("the breaker of a");
    assert!(line.contains("open for"), "{all}");
    assert!(all.contains("OVERRIDE OF") && all.contains("by tester: a drill"), "{all}");
    cli_stdout(&sidecar, &["breakers", "reset", "a"]);
    assert!(cli_stdout(&sidecar, &["drain", "b"]).starts_with("b: drained"));
    assert!(cli_stdout(&sidecar, &["undrain", "b"]).starts_with("b: in use"));
    assert!(is_from(&sidecar.send(&chat()), &a));
    let unknown = run_cli(&sidecar, &["drain", "nobody"]);
    let message = String::from_utf8_lossy(&unknown.stderr).into_owned();
    assert!(unknown.status.code() == Some(2) && message.contains("there are: a, b"), "{message}");
}

#[test]
fn a_command_without_a_sidecar_names_the_address_it_tried() {
    let closed = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = closed.local_addr().expect("an address").to_string();
    drop(closed);
    let mut command = Command::new(env!("CARGO_BIN_EXE_outrigger"));
    let output = command.args(["status", "--admin", &address]).output().expect("started");
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2));
    assert!(message.contains(&address) && message.contains("is a sidecar running"), "{message}");
}

#[test]
fn a_public_admin_listener_requires_a_token_and_short_tokens_are_rejected() {
    let folder = tempfile::tempdir().expect("a folder");
    let yaml = policy(&[("a", "http://127.0.0.1:9", "")], &route("providers: [a]"));
    std::fs::write(folder.path().join("policy.yaml"), yaml).expect("written");
    for (admin, token, message) in [
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
        assert!(output.status.code() == Some(2) && stderr.contains(message), "{message}: {stderr}");
    }
}
