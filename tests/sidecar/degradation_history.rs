//! What is told of modes: episodes with what they did, over a restart too; messages to a webhook;
//! commands; and what becomes of jobs meanwhile.

use std::process::Command;
use std::time::{Duration, Instant};

use base64::Engine;
use hmac::Mac;
use serde_json::{Value, json};

use crate::degradation::{PLAIN, degraded, hand, marks, mode};
use crate::fixtures::{alone, api, chat};
use crate::jobs::{ask, folder, job, started, taken};
use crate::support::{Behaviour, Call, Origin, Request, Sidecar};

const RESPOND: &str =
    "when: { manual: true }, actions: [ { respond: { status: 503, text: \"not now\" } } ]";

fn episode(sidecar: &Sidecar) -> Value {
    api(sidecar, "/api/degradation")["episodes"][0].clone()
}

#[test]
fn an_episode_has_the_impact_that_clients_counted_and_outlives_the_process() {
    let (data, origin) = (folder(), Origin::start(Behaviour::Chat));
    let modes = [
        ("small", "when: { manual: true }, actions: [ { headers: { set: { x-low: a } } } ]"),
        ("busy", "when: { manual: true }, actions: [ { shed: low } ]"),
    ];
    let more = "providers: [a], allow_override: [priority]";
    let yaml = degraded(&[("a", &origin.url(), PLAIN)], more, &modes);
    let mut sidecar = started(data.path(), &yaml);
    let why = json!({ "reason": "a drill", "by": "ann" });
    hand(&sidecar, "enter", "busy", &why);
    let mut client = sidecar.client();
    let classes = ["low", "high", "low", "normal", "low"];
    let shed = classes.iter().filter(|class| {
        let answer = client.send(&chat().header("x-outrigger-priority", class));
        marks(&answer) == Some("busy") && answer.status == 503
    });
    let shed = shed.count();
    hand(&sidecar, "enter", "small", &json!({}));
    let low = (0..4).filter(|_| marks(&client.send(&chat())) == Some("small")).count();
    assert_eq!((shed, low), (3, 4));
    for name in ["busy", "small"] {
        hand(&sidecar, "auto", name, &json!({}));
    }
    let check = |sidecar: &Sidecar| {
        let all = api(sidecar, "/api/degradation")["episodes"].clone();
        assert_eq!(
            (all[0]["mode"].as_str(), all[1]["mode"].as_str()),
            (Some("small"), Some("busy"))
        );
        assert_eq!(all[0]["impact"]["reduce"], low);
        assert_eq!(
            (&all[1]["impact"]["shed"], &all[1]["impact"]["requests"]),
            (&json!(shed), &json!(shed))
        );
        assert_eq!(
            (&all[1]["cause"]["by"], &all[1]["cause"]["note"]["reason"]),
            (&json!("hand"), &json!("a drill"))
        );
        assert_eq!(all[1]["ended_by"], "hand");
        all
    };
    let before = check(&sidecar);
    sidecar.stop();
    let mut sidecar = started(data.path(), &yaml);
    sidecar.wait_until(|sidecar| episode(sidecar).is_object());
    assert_eq!(check(&sidecar), before);
    hand(&sidecar, "enter", "busy", &json!({}));
    assert!(episode(&sidecar)["ended"].is_null());
    // One that nobody ended is told as such after a restart, where it was written by then.
    let written =
        || sidecar.metric("outrigger_store_commit_seconds_count").is_some_and(|n| n >= 1.0);
    sidecar.wait_until(|_| written());
    sidecar.stop();
    let sidecar = started(data.path(), &yaml);
    sidecar.wait_until(|sidecar| episode(sidecar).is_object());
    assert_eq!(
        (&episode(&sidecar)["ended_by"], mode(&sidecar, "busy")["in_force"].as_bool()),
        (&json!("restart"), Some(false))
    );
}

#[test]
fn a_hand_lasts_as_long_as_was_said_and_for_an_hour_where_nothing_was() {
    let origin = Origin::start(Behaviour::Chat);
    let yaml = degraded(&[("a", &origin.url(), PLAIN)], "providers: [a]", &[("brownout", RESPOND)]);
    let sidecar = alone(&yaml);
    let changed =
        hand(&sidecar, "enter", "brownout", &json!({ "for": "300ms", "reason": "a drill" }));
    let began = Instant::now();
    assert_eq!(changed["changed"][0]["override"]["state"], "entered");
    assert_eq!(sidecar.send(&chat()).text(), "not now");
    sidecar.wait_until(|sidecar| mode(sidecar, "brownout")["in_force"] == false);
    let lasted = began.elapsed();
    assert!(
        (Duration::from_millis(290)..Duration::from_millis(500)).contains(&lasted),
        "{lasted:?}"
    );
    let left =
        hand(&sidecar, "enter", "brownout", &json!({}))["changed"][0]["override"]["remaining_ms"]
            .as_u64();
    assert!(left.is_some_and(|ms| (3_590_000..=3_600_000).contains(&ms)), "{left:?}");
    let line = sidecar.wait_for_log(|line| line.contains("degradation_enter"));
    assert!(line.contains("a drill") && line.contains("audit"), "{line}");
    let events = api(&sidecar, "/api/circuit-breakers")["events"].to_string();
    assert!(
        events.contains("entered: by hand: a drill") && events.contains("left by hand"),
        "{events}"
    );
}

#[test]
fn a_hand_that_cannot_be_laid_on_says_why() {
    let origin = Origin::start(Behaviour::Chat);
    let yaml = degraded(&[("a", &origin.url(), PLAIN)], "providers: [a]", &[("brownout", RESPOND)]);
    let sidecar = alone(&yaml);
    for (path, body, status, told) in [
        ("/api/degradation/enter/nobody", "{}", 404, "there are: brownout"),
        ("/api/degradation/burn/brownout", "{}", 404, "expected enter, leave or auto"),
        ("/api/degradation/enter/brownout", "{\"fleet\": true}", 400, "one host"),
        ("/api/degradation/enter/brownout", "{\"for\": \"90d\"}", 400, "at most 30d"),
    ] {
        let call = Call::post(path, body).header("content-type", "application/json");
        let response = sidecar.admin_send(&call);
        assert_eq!(response.status, status, "{path}: {}", response.text());
        assert!(response.text().contains(told), "{path}: {}", response.text());
    }
    assert_eq!(sidecar.send(&chat()).status, 200);
}

#[test]
fn the_command_says_and_does_the_same() {
    let origin = Origin::start(Behaviour::Chat);
    let yaml = degraded(&[("a", &origin.url(), PLAIN)], "providers: [a]", &[("brownout", RESPOND)]);
    let sidecar = alone(&yaml);
    let said = |arguments: &[&str]| {
        let admin = sidecar.admin_url("");
        let mut command = Command::new(env!("CARGO_BIN_EXE_outrigger"));
        command.arg("degrade").args(arguments).args(["--admin", admin.trim_end_matches('/')]);
        let output = command.env("USER", "tester").output().expect("the command can be started");
        let text = String::from_utf8(output.stdout).expect("UTF-8");
        assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
        text
    };
    assert!(said(&[]).contains("brownout  no        not met"), "{}", said(&[]));
    let entered = said(&["enter", "brownout", "--reason", "a drill", "--for", "10m"]);
    assert!(entered.contains("entered for") && entered.contains("by tester: a drill"), "{entered}");
    assert_eq!(sidecar.send(&chat()).status, 503);
    assert!(said(&[]).contains("1 (respond 1)"), "{}", said(&[]));
    said(&["leave", "brownout"]);
    assert_eq!(sidecar.send(&chat()).status, 200);
    said(&["auto", "brownout"]);
    let all = said(&[]);
    assert!(all.contains("EPISODE") && all.contains("operator by tester: a drill"), "{all}");
    let json: Value = serde_json::from_str(&said(&["--json"])).expect("JSON");
    assert_eq!(json["modes"][0]["name"], "brownout");
}

/// What was posted, where its signature is that of the secret.
#[track_caller]
fn letter(request: &Request, secret: &str) -> Value {
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
fn who_is_to_be_told_hears_of_entry_and_leaving_once_a_minute_at_most() {
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
    let sidecar = Sidecar::builder()
        .policy("policy", &yaml)
        .env("HOOK", &url)
        .env("HOOK_SECRET", "a-secret-of-the-hook")
        .start();
    let began = Instant::now();
    hand(&sidecar, "enter", "brownout", &json!({ "reason": "a drill", "by": "ann" }));
    hook.wait_for_requests(1);
    hook.set(Behaviour::status(204, &[]));
    // Tried again until it is taken.
    hook.wait_for_requests(2);
    let again = hook.last();
    let entered = letter(&again, "a-secret-of-the-hook");
    assert_eq!((&entered["mode"], &entered["state"]), (&json!("brownout"), &json!("entered")));
    assert_eq!(entered["cause"], "by hand, by ann: a drill");
    assert!(entered["text"].as_str().is_some_and(|text| text.starts_with("brownout entered on ")));
    assert_eq!(hook.requests()[0].headers.get("webhook-id"), again.headers.get("webhook-id"));
    let shed = sidecar.send(&chat().header("x-outrigger-priority", "low"));
    assert_eq!(shed.status, 503);
    // Three changes within the minute are one message.
    hand(&sidecar, "auto", "brownout", &json!({}));
    hand(&sidecar, "enter", "brownout", &json!({ "reason": "again" }));
    sidecar.send(&chat().header("x-outrigger-priority", "low"));
    hand(&sidecar, "auto", "brownout", &json!({}));
    let of = |result: &str| {
        let labels = format!(r#"{{mode="brownout",result="{result}"}}"#);
        sidecar.metric(&format!("outrigger_degradation_notifications_total{labels}"))
    };
    let deadline = Instant::now() + Duration::from_secs(75);
    while of("sent") != Some(2.0) && Instant::now() < deadline {
        crate::fixtures::pace(Instant::now() + Duration::from_millis(50));
    }
    assert!(began.elapsed() >= Duration::from_secs(60), "{:?}", began.elapsed());
    let left = letter(&hook.last(), "a-secret-of-the-hook");
    assert_eq!((&left["state"], &left["more_changes"]), (&json!("left"), &json!(2)));
    assert_eq!((&left["impact"]["shed"], &left["cause"]), (&json!(1), &json!("by hand: again")));
    assert!(left["duration"].as_f64().is_some_and(|seconds| seconds > 0.0));
    assert_eq!((hook.count(), of("failed"), of("sent")), (3, Some(1.0), Some(2.0)));
    let log = sidecar.log().join("\n");
    assert!(log.contains("an alert was not taken") && log.contains("env:HOOK"), "{log}");
    for secret in ["path-is-a-secret", "a-secret-of-the-hook"] {
        assert!(
            !log.contains(secret)
                && !api(&sidecar, "/api/degradation").to_string().contains(secret)
        );
    }
}

#[test]
fn a_job_is_reduced_and_parked_and_never_answered_by_a_mode() {
    let (data, origin) = (folder(), Origin::start(Behaviour::Chat));
    let small = "when: { manual: true }, actions: [ { body: { set: { /max_tokens: 5 } } } ]";
    let modes = [("small", small), ("dead", RESPOND)];
    let yaml = degraded(&[("a", &origin.url(), PLAIN)], "providers: [a]", &modes);
    let other = "routes: [ { name: other, match: { path: /other }, providers: [a] }, ";
    let sidecar = started(data.path(), &yaml.replace("routes: [ ", other));
    hand(&sidecar, "enter", "small", &json!({}));
    hand(&sidecar, "enter", "dead", &json!({}));
    let path = taken(&sidecar.send(&job()));
    // Jobs are run meanwhile, where no mode stands before them.
    let others = Call::post("/other", "{}").header("prefer", "respond-async");
    let others = taken(&sidecar.send(&others));
    assert_eq!(ask(&sidecar, &others).status, 200);
    assert_eq!((origin.count(), origin.last().path.as_str()), (1, "/other"));
    let pending = sidecar.send(&Call::get(&path));
    assert_eq!((pending.status, &pending.json()["state"]), (202, &json!("ready")));
    hand(&sidecar, "auto", "dead", &json!({}));
    let answer = ask(&sidecar, &path);
    assert_eq!((answer.status, &answer.json()["object"]), (200, &json!("chat.completion")));
    let sent: Value = serde_json::from_slice(&origin.last().body).expect("JSON");
    assert_eq!((&sent["max_tokens"], origin.count()), (&json!(5), 2));
}
