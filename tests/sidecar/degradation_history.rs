//! Degradation episodes (also after a restart), webhook notifications, the `degrade` command, and
//! jobs during a mode.

use std::time::{Duration, Instant};

use base64::Engine;
use hmac::Mac;
use serde_json::{Value, json};

use crate::degradation::{PLAIN, degraded, degraded_header, mode, post_mode};
use crate::fixtures::{api, chat, cli_stdout, single_worker};
use crate::jobs::{accepted_path, data_dir, job_request, start_with_store, wait_for_job};
use crate::support::{Behaviour, Call, Origin, Request, Sidecar};

const RESPOND: &str =
    "when: { manual: true }, actions: [ { respond: { status: 503, text: \"not now\" } } ]";

fn episode(sidecar: &Sidecar) -> Value {
    api(sidecar, "/api/degradation")["episodes"][0].clone()
}

#[test]
fn an_episode_records_its_impact_and_survives_a_restart() {
    let (data, origin) = (data_dir(), Origin::start(Behaviour::Chat));
    let modes = [
        ("small", "when: { manual: true }, actions: [ { headers: { set: { x-low: a } } } ]"),
        ("busy", "when: { manual: true }, actions: [ { shed: low } ]"),
    ];
    let more = "providers: [a], allow_override: [priority]";
    let yaml = degraded(&[("a", &origin.url(), PLAIN)], more, &modes);
    let mut sidecar = start_with_store(data.path(), &yaml);
    let reason = json!({ "reason": "a drill", "by": "ann" });
    post_mode(&sidecar, "enter", "busy", &reason);
    let mut client = sidecar.client();
    let classes = ["low", "high", "low", "normal", "low"];
    let shed = classes.iter().filter(|class| {
        let response = client.send(&chat().header("x-outrigger-priority", class));
        degraded_header(&response) == Some("busy") && response.status == 503
    });
    let shed = shed.count();
    post_mode(&sidecar, "enter", "small", &json!({}));
    let reduced =
        (0..4).filter(|_| degraded_header(&client.send(&chat())) == Some("small")).count();
    assert_eq!((shed, reduced), (3, 4));
    for name in ["busy", "small"] {
        post_mode(&sidecar, "auto", name, &json!({}));
    }
    let check = |sidecar: &Sidecar| {
        let all = api(sidecar, "/api/degradation")["episodes"].clone();
        assert_eq!(
            (all[0]["mode"].as_str(), all[1]["mode"].as_str()),
            (Some("small"), Some("busy"))
        );
        assert_eq!(all[0]["impact"]["reduce"], reduced);
        assert_eq!(
            (&all[1]["impact"]["shed"], &all[1]["impact"]["requests"]),
            (&json!(shed), &json!(shed))
        );
        assert_eq!(
            (&all[1]["cause"]["by"], &all[1]["cause"]["note"]["reason"]),
            (&json!("override"), &json!("a drill"))
        );
        assert_eq!(all[1]["ended_by"], "override");
        all
    };
    let before = check(&sidecar);
    sidecar.stop();
    let mut sidecar = start_with_store(data.path(), &yaml);
    sidecar.wait_until(|sidecar| episode(sidecar).is_object());
    assert_eq!(check(&sidecar), before);
    post_mode(&sidecar, "enter", "busy", &json!({}));
    assert!(episode(&sidecar)["ended"].is_null());
    // An episode that was stored and not ended is reported as ended by the restart.
    let written =
        || sidecar.metric("outrigger_store_commit_seconds_count").is_some_and(|n| n >= 1.0);
    sidecar.wait_until(|_| written());
    sidecar.stop();
    let sidecar = start_with_store(data.path(), &yaml);
    sidecar.wait_until(|sidecar| episode(sidecar).is_object());
    assert_eq!(
        (&episode(&sidecar)["ended_by"], mode(&sidecar, "busy")["in_force"].as_bool()),
        (&json!("restart"), Some(false))
    );
}

#[test]
fn an_override_lasts_for_its_duration_and_an_hour_by_default() {
    let origin = Origin::start(Behaviour::Chat);
    let yaml = degraded(&[("a", &origin.url(), PLAIN)], "providers: [a]", &[("brownout", RESPOND)]);
    let sidecar = single_worker(&yaml);
    let changed =
        post_mode(&sidecar, "enter", "brownout", &json!({ "for": "300ms", "reason": "a drill" }));
    let began = Instant::now();
    assert_eq!(changed["changed"][0]["override"]["state"], "entered");
    assert_eq!(sidecar.send(&chat()).text(), "not now");
    sidecar.wait_until(|sidecar| mode(sidecar, "brownout")["in_force"] == false);
    let lasted = began.elapsed();
    assert!(
        (Duration::from_millis(290)..Duration::from_millis(500)).contains(&lasted),
        "{lasted:?}"
    );
    let remaining = post_mode(&sidecar, "enter", "brownout", &json!({}))["changed"][0]["override"]
        ["remaining_ms"]
        .as_u64();
    assert!(remaining.is_some_and(|ms| (3_590_000..=3_600_000).contains(&ms)), "{remaining:?}");
    let line = sidecar.wait_for_log(|line| line.contains("degradation_enter"));
    assert!(line.contains("a drill") && line.contains("audit"), "{line}");
    let events = api(&sidecar, "/api/circuit-breakers")["events"].to_string();
    assert!(
        events.contains("entered: manual override: a drill") && events.contains("left by override"),
        "{events}"
    );
}

#[test]
fn an_invalid_override_is_rejected_with_its_reason() {
    let origin = Origin::start(Behaviour::Chat);
    let yaml = degraded(&[("a", &origin.url(), PLAIN)], "providers: [a]", &[("brownout", RESPOND)]);
    let sidecar = single_worker(&yaml);
    for (path, body, status, part) in [
        ("/api/degradation/enter/nobody", "{}", 404, "there are: brownout"),
        ("/api/degradation/burn/brownout", "{}", 404, "expected enter, leave or auto"),
        ("/api/degradation/enter/brownout", "{\"fleet\": true}", 400, "leave `fleet` out"),
        ("/api/degradation/auto/brownout", "{\"for\": \"1h\"}", 400, "leave it out"),
        ("/api/degradation/enter/brownout", "{\"for\": \"90d\"}", 400, "at most 30d"),
    ] {
        let call = Call::post(path, body).header("content-type", "application/json");
        let response = sidecar.admin_send(&call);
        assert_eq!(response.status, status, "{path}: {}", response.text());
        assert!(response.text().contains(part), "{path}: {}", response.text());
    }
    assert_eq!(sidecar.send(&chat()).status, 200);
}

#[test]
fn the_command_shows_and_changes_modes() {
    let origin = Origin::start(Behaviour::Chat);
    let yaml = degraded(&[("a", &origin.url(), PLAIN)], "providers: [a]", &[("brownout", RESPOND)]);
    let sidecar = single_worker(&yaml);
    let degrade_command =
        |arguments: &[&str]| cli_stdout(&sidecar, &[&["degrade"], arguments].concat());
    assert!(
        degrade_command(&[]).contains("brownout  no        not met"),
        "{}",
        degrade_command(&[])
    );
    let entered = degrade_command(&["enter", "brownout", "--reason", "a drill", "--for", "10m"]);
    assert!(entered.contains("entered for") && entered.contains("by tester: a drill"), "{entered}");
    assert_eq!(sidecar.send(&chat()).status, 503);
    assert!(degrade_command(&[]).contains("1 (respond 1)"), "{}", degrade_command(&[]));
    degrade_command(&["leave", "brownout"]);
    assert_eq!(sidecar.send(&chat()).status, 200);
    degrade_command(&["auto", "brownout"]);
    let all = degrade_command(&[]);
    assert!(all.contains("EPISODE") && all.contains("operator by tester: a drill"), "{all}");
    let json: Value = serde_json::from_str(&degrade_command(&["--json"])).expect("JSON");
    assert_eq!(json["modes"][0]["name"], "brownout");
}

/// The payload of a notification; panics unless it is signed with the secret.
#[track_caller]
fn verified_payload(request: &Request, secret: &str) -> Value {
    let header = |name: &str| request.headers.get(name).expect("a header");
    let mut mac = hmac::Hmac::<sha2::Sha256>::new_from_slice(secret.as_bytes()).expect("a key");
    mac.update(format!("{}.{}.", header("webhook-id"), header("webhook-timestamp")).as_bytes());
    mac.update(&request.body);
    let signature = base64::engine::general_purpose::STANDARD.encode(mac.finalize().into_bytes());
    assert_eq!(header("webhook-signature"), format!("v1,{signature}"));
    assert_eq!(header("content-type"), "application/json");
    serde_json::from_slice(&request.body).expect("JSON")
}

#[test]
fn a_webhook_is_notified_of_each_entry_and_exit_and_at_least_of_the_last_state() {
    let (origin, hook) =
        (Origin::start(Behaviour::Chat), Origin::start(Behaviour::status(500, &[])));
    let modes = [(
        "brownout",
        "when: { manual: true }, actions: [ { shed: low }, \
         { notify: { url: \"${env:HOOK}\", secret: \"${env:HOOK_SECRET}\" } } ]",
    )];
    let more = "providers: [a], allow_override: [priority]";
    let yaml = degraded(&[("a", &origin.url(), PLAIN)], more, &modes);
    let url = format!("{}/services/path-is-a-secret", hook.url());
    let mut sidecar = Sidecar::builder()
        .policy("policy", &yaml)
        .env("HOOK", &url)
        .env("HOOK_SECRET", "a-secret-of-the-hook")
        .start();
    post_mode(&sidecar, "enter", "brownout", &json!({ "reason": "a drill", "by": "ann" }));
    hook.wait_for_requests(1);
    hook.set(Behaviour::status(204, &[]));
    // The notification is retried until it is accepted.
    hook.wait_for_requests(2);
    let again = hook.last();
    let entered = verified_payload(&again, "a-secret-of-the-hook");
    assert_eq!((&entered["mode"], &entered["state"]), (&json!("brownout"), &json!("entered")));
    assert_eq!(entered["cause"], "manual override, by ann: a drill");
    assert!(entered["text"].as_str().is_some_and(|text| text.starts_with("brownout entered on ")));
    assert_eq!(hook.requests()[0].headers.get("webhook-id"), again.headers.get("webhook-id"));
    let notifications = |sidecar: &Sidecar, result: &str| {
        let labels = format!(r#"{{mode="brownout",result="{result}"}}"#);
        sidecar.metric(&format!("outrigger_degradation_notifications_total{labels}"))
    };
    sidecar.wait_until(|sidecar| notifications(sidecar, "sent") == Some(1.0));
    let shed = sidecar.send(&chat().header("x-outrigger-priority", "low"));
    assert_eq!(shed.status, 503);
    // The end of a short episode is reported at once.
    post_mode(&sidecar, "auto", "brownout", &json!({}));
    hook.wait_for_requests(3);
    let left = verified_payload(&hook.last(), "a-secret-of-the-hook");
    assert_eq!((&left["state"], &left["skipped_changes"]), (&json!("left"), &Value::Null));
    assert_eq!(left["impact"]["shed"], json!(1));
    assert!(left["duration_seconds"].as_f64().is_some_and(|seconds| seconds > 0.0));
    // Further changes within a minute are coalesced; the last one is sent at the latest at the end.
    for action in ["enter", "auto", "enter"] {
        post_mode(&sidecar, action, "brownout", &json!({ "reason": "again" }));
    }
    sidecar.wait_until(|sidecar| notifications(sidecar, "sent") == Some(2.0));
    assert_eq!(notifications(&sidecar, "failed"), Some(1.0));
    let shown = api(&sidecar, "/api/degradation").to_string();
    assert_eq!(hook.count(), 3);
    assert_eq!(sidecar.stop().code(), Some(0));
    let log = sidecar.log().join("\n");
    hook.wait_for_requests(4);
    let last = verified_payload(&hook.last(), "a-secret-of-the-hook");
    assert_eq!((&last["state"], &last["skipped_changes"]), (&json!("entered"), &json!(2)));
    assert_eq!(last["cause"], "manual override: again");
    assert!(log.contains("a notification failed") && log.contains("env:HOOK"), "{log}");
    for secret in ["path-is-a-secret", "a-secret-of-the-hook"] {
        assert!(!log.contains(secret) && !shown.contains(secret));
    }
}

#[test]
fn a_job_is_reduced_and_delayed_and_never_gets_the_response_of_a_mode() {
    let (data, origin) = (data_dir(), Origin::start(Behaviour::Chat));
    let small = "when: { manual: true }, actions: [ { body: { set: { /max_tokens: 5 } } } ]";
    let modes = [("small", small), ("dead", RESPOND)];
    let yaml = degraded(&[("a", &origin.url(), PLAIN)], "providers: [a]", &modes);
    let other = "routes: [ { name: other, match: { path: /other }, providers: [a] }, ";
    let sidecar = start_with_store(data.path(), &yaml.replace("routes: [ ", other));
    post_mode(&sidecar, "enter", "small", &json!({}));
    post_mode(&sidecar, "enter", "dead", &json!({}));
    let path = accepted_path(&sidecar.send(&job_request()));
    // Jobs of a route without an active mode run meanwhile.
    let others = Call::post("/other", "{}").header("prefer", "respond-async");
    let others = accepted_path(&sidecar.send(&others));
    assert_eq!(wait_for_job(&sidecar, &others).status, 200);
    assert_eq!((origin.count(), origin.last().path.as_str()), (1, "/other"));
    let pending = sidecar.send(&Call::get(&path));
    assert_eq!((pending.status, &pending.json()["state"]), (202, &json!("ready")));
    post_mode(&sidecar, "auto", "dead", &json!({}));
    let response = wait_for_job(&sidecar, &path);
    assert_eq!((response.status, &response.json()["object"]), (200, &json!("chat.completion")));
    let sent: Value = serde_json::from_slice(&origin.last().body).expect("JSON");
    assert_eq!((&sent["max_tokens"], origin.count()), (&json!(5), 2));
}
