//! The last requests: listed, filtered, explained, compared, and sent as they end.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::fixtures::{
    GENEROUS, api, chat, chat_for, cli_command, cli_stdout, policy, route, single_worker,
};
use crate::support::{Behaviour, Origin, Sidecar};

/// A sidecar whose first provider fails, so that each request has two attempts.
fn failing_over(server: &str) -> (Sidecar, Origin, Origin) {
    let (a, b) = (Origin::start(Behaviour::status(503, &[])), Origin::start(Behaviour::Chat));
    let providers = [("a", a.url(), "breaker: none"), ("b", b.url(), "")];
    let providers = providers.each_ref().map(|(name, url, more)| (*name, url.as_str(), *more));
    let route = route("providers: [a], fallback: [b], idempotent: always");
    (single_worker(&(policy(&providers, &route) + GENEROUS + server)), a, b)
}

fn list(sidecar: &Sidecar, query: &str) -> Vec<Value> {
    let page = api(sidecar, &format!("/api/requests?{query}"));
    page["requests"].as_array().expect("a list").clone()
}

fn ids(sidecar: &Sidecar, query: &str) -> Vec<String> {
    let id = |record: &Value| record["request_id"].as_str().expect("an id").to_owned();
    list(sidecar, query).iter().map(id).collect()
}

#[test]
fn the_last_requests_are_listed_newest_first_and_filtered() {
    let (sidecar, _a, _b) = failing_over("");
    for (id, model) in [("one", "small"), ("two", "big"), ("three", "big")] {
        assert_eq!(sidecar.send(&chat_for(model).header("x-request-id", id)).status, 200);
    }
    sidecar.wait_until(|sidecar| ids(sidecar, "").len() == 3);
    assert_eq!(ids(&sidecar, ""), ["three", "two", "one"]);
    for (filter, expected) in [
        ("to:a%20retried", &["three", "two", "one"][..]),
        ("status:5xx", &[]),
        ("model:big", &["three", "two"]),
        ("-model:big%20fallback", &["one"]),
        ("id:two", &["two"]),
    ] {
        assert_eq!(ids(&sidecar, &format!("filter={filter}")), expected, "{filter}");
    }
    let page = api(&sidecar, "/api/requests?limit=2");
    let next = page["next"].as_u64().expect("a next page");
    assert_eq!(ids(&sidecar, &format!("limit=2&before={next}")), ["one"]);
    assert_eq!((&page["kept"], &page["sampled"]), (&3.into(), &false.into()));
    let attempts = list(&sidecar, "limit=1")[0]["attempts"].clone();
    let start = |at: usize| attempts[at]["start_ms"].as_f64().expect("a start");
    assert!(start(0) <= start(1), "{attempts}");
    let (status, text) = sidecar.admin_get("/api/requests?filter=statu:5xx");
    assert_eq!(status, 400);
    assert!(text.contains("did you mean `status`?"), "{text}");
}

#[test]
fn requests_are_kept_where_the_log_is_text_or_off() {
    for log in ["{ format: text }", "{ to: none }"] {
        let server = format!("server: {{ access_log: {log} }}\n");
        let (sidecar, _a, _b) = failing_over(&server);
        assert_eq!(sidecar.send(&chat_for("big").header("x-request-id", "mine")).status, 200);
        sidecar.wait_until(|sidecar| ids(sidecar, "") == ["mine"]);
        let record = list(&sidecar, "")[0].clone();
        assert_eq!((&record["model"], &record["status"]), (&"big".into(), &200.into()), "{log}");
        assert_eq!(api(&sidecar, "/api/requests")["sampled"], true, "{log}");
    }
}

#[test]
fn nothing_is_kept_if_the_policy_says_so() {
    for log in ["json", "text"] {
        let server = format!("server: {{ recent_requests: 0, access_log: {{ format: {log} }} }}\n");
        let (sidecar, _a, _b) = failing_over(&server);
        assert_eq!(sidecar.send(&chat()).status, 200);
        // The line of the log is written after the record would have been kept.
        sidecar.wait_until(|sidecar| {
            sidecar.log().iter().any(|line| line.contains("/v1/chat/completions"))
        });
        assert_eq!(ids(&sidecar, "").len(), 0, "{log}");
    }
}

#[test]
fn a_request_is_explained_with_the_lines_of_the_policy() {
    let (sidecar, a, _b) = failing_over("");
    assert_eq!(sidecar.send(&chat().header("x-request-id", "mine")).status, 200);
    sidecar.wait_until(|sidecar| ids(sidecar, "") == ["mine"]);
    let detail = api(&sidecar, "/api/requests/mine");
    let decisions = detail["decisions"].as_array().expect("a list").clone();
    let step = |part: &str| {
        let has = |step: &&Value| step["text"].as_str().is_some_and(|text| text.contains(part));
        decisions
            .iter()
            .find(has)
            .unwrap_or_else(|| panic!("no step with {part} in {decisions:#?}"))
            .clone()
    };
    let source = |step: &Value| step["source"].as_str().unwrap_or_default().to_owned();
    assert!(source(&step("matched route all")).contains(".yaml:"), "{decisions:#?}");
    assert!(source(&step("attempt 1 to a/")).contains(".yaml:"), "{decisions:#?}");
    step("503 after");
    step(&format!("attempt {} to b/", a.count() + 1));
    step("the client received 200");
    let curl = detail["curl"].as_str().expect("a command");
    assert!(curl.starts_with("curl -X 'POST' 'http://127.0.0.1:"), "{curl}");
    let why = cli_stdout(&sidecar, &["why", "mine"]);
    assert!(why.contains(" to b/") && why.contains(".yaml:"), "{why}");
    let shown = cli_stdout(&sidecar, &["requests", "show", "mine"]);
    assert!(shown.contains("\"request_id\": \"mine\"") && shown.contains(curl), "{shown}");
    let listed = cli_stdout(&sidecar, &["requests", "retried", "!status:5xx"]);
    assert!(listed.contains("b 200") && listed.contains("mine"), "{listed}");
    assert_eq!(sidecar.admin_get("/api/requests/other").0, 404);
}

#[test]
fn the_values_that_set_failed_requests_apart_are_found() {
    let a = Origin::start(Behaviour::Chat);
    let sidecar = single_worker(&policy(&[("a", &a.url(), "")], &route("providers: [a]")));
    for _ in 0..30 {
        assert_eq!(sidecar.send(&chat_for("small")).status, 200);
    }
    a.set(Behaviour::status(400, &[]));
    for _ in 0..10 {
        assert_eq!(sidecar.send(&chat_for("big")).status, 400);
    }
    sidecar.wait_until(|sidecar| ids(sidecar, "limit=1000").len() == 40);
    let found = api(&sidecar, "/api/requests/differences?filter=status:400");
    assert_eq!((&found["selected"], &found["others"]), (&10.into(), &30.into()));
    let first = &found["differences"][0];
    assert_eq!((&first["field"], &first["value"]), (&"model".into(), &"big".into()), "{found}");
    assert_eq!((&first["share_selected"], &first["share_others"]), (&1.0.into(), &0.0.into()));
}

#[test]
fn tap_prints_each_request_as_it_ends() {
    let (sidecar, _a, _b) = failing_over("");
    let mut tap = cli_command(&sidecar, &["tap", "model:big", "--until", "2"]);
    let mut tap = tap.stdout(Stdio::piped()).spawn().expect("outrigger tap starts");
    let lines = BufReader::new(tap.stdout.take().expect("its output")).lines();
    // Requests before the stream is open are not printed.
    sidecar.wait_until(|sidecar| {
        sidecar.send(&chat_for("big"));
        tap.try_wait().expect("a state").is_some()
    });
    assert!(tap.wait().expect("it ends").success());
    let lines: Vec<_> = lines.map(|line| line.expect("a line")).collect();
    assert_eq!(lines.len(), 2, "{lines:?}");
    assert!(lines[0].contains("200 POST /v1/chat/completions [all] a 503, "), "{lines:?}");
}

#[test]
fn a_stream_gives_its_place_back_as_soon_as_its_client_leaves() {
    let (sidecar, _a, _b) = failing_over("");
    let address = sidecar.admin_url("").trim_start_matches("http://").to_owned();
    let open = || {
        let mut stream = TcpStream::connect(&address).expect("the admin listener accepts");
        let head = format!("GET /api/events/stream HTTP/1.1\r\nhost: {address}\r\n\r\n");
        stream.write_all(head.as_bytes()).expect("sent");
        let mut status = String::new();
        BufReader::new(&stream).read_line(&mut status).expect("a status");
        (stream, status.trim_end().to_owned())
    };
    let streams: Vec<_> = (0..16).map(|_| open()).collect();
    assert!(streams.iter().all(|(_, status)| status == "HTTP/1.1 200 OK"), "{streams:?}");
    assert_eq!(open().1, "HTTP/1.1 503 Service Unavailable");
    drop(streams);
    let began = Instant::now();
    sidecar.wait_until(|_| open().1 == "HTTP/1.1 200 OK");
    // A comment, which would fail to be sent, follows after 15 s.
    assert!(began.elapsed() < Duration::from_secs(5));
}
