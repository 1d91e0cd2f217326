//! Circuit breakers: when one trips, the responses while it is open, and the outcomes it ignores.

use std::thread::{self, ScopedJoinHandle};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::fixtures::{
    CHAT, api, breaker, chat, chat_for, is_from, policy, post_admin, problem_type, reload, route,
    single_worker, state,
};
use crate::support::{Behaviour, Call, Gate, Origin, Sidecar, Stream};

/// Trips after three failures and stays open for longer than any test runs.
const BREAKER_OPEN_FOR_60S: &str = "breakers: { default: { failure_threshold: 3, recovery_timeout: 60s } }\nretries: { default: { max_attempts: 1 } }\n";

fn failing_provider(more: &str) -> (Origin, Sidecar) {
    let a = Origin::start(Behaviour::status(500, &[]));
    let yaml = policy(&[("a", &a.url(), more)], &(route("providers: [a]") + BREAKER_OPEN_FOR_60S));
    let sidecar = single_worker(&yaml);
    (a, sidecar)
}

fn trip(a: &Origin, sidecar: &Sidecar) {
    let before = a.count();
    for _ in 0..3 {
        assert_eq!(sidecar.send(&chat()).status, 500);
    }
    assert_eq!(a.count() - before, 3);
    assert_eq!(state(sidecar, "a"), "open");
}

#[test]
fn an_open_breaker_rejects_requests_at_once_when_there_is_no_other_provider() {
    let (a, sidecar) = failing_provider("");
    assert_eq!(state(&sidecar, "a"), "closed");
    trip(&a, &sidecar);
    let began = Instant::now();
    for _ in 0..10 {
        let response = sidecar.send(&chat());
        assert_eq!((response.status, problem_type(&response).as_str()), (503, "breaker-open"));
        let after = response.header("retry-after").and_then(|text| text.parse::<u64>().ok());
        assert!(after.is_some_and(|seconds| (1..=72).contains(&seconds)), "{after:?}");
    }
    assert!(began.elapsed() < Duration::from_secs(3), "ten rejections took {:?}", began.elapsed());
    assert_eq!(a.count(), 3);
    let (address, open) = (a.address(), breaker(&sidecar, "a"));
    assert_eq!(
        (open["endpoint"].as_str(), &open["trips"]),
        (Some(&*address.to_string()), &json!(1))
    );
    assert!(open["retry_in_ms"].as_u64().is_some_and(|ms| ms > 40_000), "{open}");
    let gauge = format!(r#"outrigger_breaker_state{{provider="a",endpoint="{address}",model=""}}"#);
    assert_eq!(sidecar.metric(&gauge), Some(2.0));
    let events = &api(&sidecar, "/api/circuit-breakers")["events"];
    assert!(events.to_string().contains("closed -> open"), "{events}");
}

#[test]
fn an_open_breaker_sends_requests_to_the_other_provider() {
    for tiers in ["providers: [a, b], balance: first", "providers: [a], fallback: [b]"] {
        let (a, b) = (Origin::start(Behaviour::status(500, &[])), Origin::start(Behaviour::Chat));
        let yaml = policy(
            &[("a", &a.url(), ""), ("b", &b.url(), "")],
            &(route(tiers) + BREAKER_OPEN_FOR_60S),
        );
        let sidecar = single_worker(&yaml);
        trip(&a, &sidecar);
        for _ in 0..20 {
            assert!(is_from(&sidecar.send(&chat()), &b));
        }
        assert_eq!((a.count(), b.count()), (3, 20), "{tiers}");
    }
}

#[test]
fn a_failure_rate_trips_after_the_minimum_number_of_requests() {
    let a = Origin::start(Behaviour::Cycle(vec![
        Behaviour::status(500, &[]),
        Behaviour::status(500, &[]),
        Behaviour::Chat,
    ]));
    let breakers = "breakers: { default: { failure_threshold: 0, recovery_timeout: 60s, \
                    failure_rate: { above: 0.5, over: 30s, min_requests: 12 } } }\n";
    let yaml = policy(&[("a", &a.url(), "")], &(route("providers: [a], retry: none") + breakers));
    let sidecar = single_worker(&yaml);
    let statuses: Vec<_> = (0..20).map(|_| sidecar.send(&chat()).status).collect();
    assert_eq!(a.count(), 12, "{statuses:?}");
    assert!(statuses[12..].iter().all(|status| *status == 503), "{statuses:?}");
}

#[test]
fn a_failing_model_does_not_block_its_provider() {
    let a = Origin::start(Behaviour::custom(|request| {
        match String::from_utf8_lossy(&request.body).contains("dead") {
            true => Behaviour::status(500, &[]),
            false => Behaviour::Chat,
        }
    }));
    let breakers =
        "breakers: { default: { scope: model, failure_threshold: 3, recovery_timeout: 60s } }\n";
    let yaml = policy(&[("a", &a.url(), "")], &(route("providers: [a], retry: none") + breakers));
    let sidecar = single_worker(&yaml);
    let statuses: Vec<_> = (0..5).map(|_| sidecar.send(&chat_for("dead")).status).collect();
    assert_eq!(statuses, [500, 500, 500, 503, 503]);
    assert_eq!(sidecar.send(&chat_for("alive")).status, 200);
    let all = api(&sidecar, "/api/circuit-breakers")["breakers"].clone();
    let open: Vec<_> =
        all.as_array().into_iter().flatten().filter(|breaker| breaker["state"] == "open").collect();
    assert!(open.len() == 1 && open[0]["model"] == "dead", "{all}");
}

#[test]
fn a_breaker_in_shadow_mode_counts_failures_and_rejects_nothing() {
    let a = Origin::start(Behaviour::status(500, &[]));
    let breakers =
        "breakers: { default: { mode: shadow, failure_threshold: 3, recovery_timeout: 60s } }\n";
    let yaml = policy(&[("a", &a.url(), "")], &(route("providers: [a], retry: none") + breakers));
    let sidecar = single_worker(&yaml);
    for _ in 0..6 {
        assert_eq!(sidecar.send(&chat()).status, 500);
    }
    assert_eq!((a.count(), state(&sidecar, "a").as_str()), (6, "open"));
    assert_eq!(breaker(&sidecar, "a")["mode"], "shadow");
}

#[test]
fn selections_that_a_breaker_excludes_its_endpoint_from_are_counted() {
    let (a, b) = (Origin::start(Behaviour::Chat), Origin::start(Behaviour::Chat));
    let providers = [("a", &*a.url(), ""), ("b", &*b.url(), "")];
    let sidecar = single_worker(&policy(&providers, &route("providers: [a], fallback: [b]")));
    post_admin(&sidecar, "/api/circuit-breakers/open/a", &json!({}));
    (0..3).for_each(|_| assert_eq!(sidecar.send(&chat()).status, 200));
    let metrics = sidecar.admin_get("/metrics").1;
    let of_a = |line: &&str| {
        line.starts_with("outrigger_breaker_rejections_total{") && line.contains("provider=\"a\"")
    };
    let counted = metrics.lines().find(of_a).and_then(|line| line.rsplit(' ').next());
    assert_eq!((counted, a.count(), b.count()), (Some("3"), 0, 3), "{metrics}");
}

#[test]
fn a_hold_does_not_trip_the_breaker() {
    let (a, sidecar) = failing_provider("");
    a.set(Behaviour::status(429, &[("retry-after", "60")]));
    assert_eq!(sidecar.send(&chat()).status, 429);
    for _ in 0..5 {
        let response = sidecar.send(&chat());
        assert_eq!((response.status, problem_type(&response).as_str()), (503, "held"));
        assert!(response.header("retry-after").is_some());
    }
    assert_eq!((a.count(), state(&sidecar, "a").as_str()), (1, "closed"));
    let held = api(&sidecar, "/api/circuit-breakers")["held"].clone();
    let remaining = held[0]["remaining_ms"].as_u64().expect("the remaining time of the hold");
    assert!((50_000..=90_000).contains(&remaining), "{held}");
}

#[test]
fn an_unrelated_policy_change_keeps_the_state_of_a_breaker() {
    let (a, sidecar) = failing_provider("");
    trip(&a, &sidecar);
    let before = breaker(&sidecar, "a");
    let b = Origin::start(Behaviour::Chat);
    let yaml = policy(
        &[("a", &a.url(), "timeouts: { headers: 33s }"), ("b", &b.url(), "")],
        &(route("providers: [a], timeout: 44s") + BREAKER_OPEN_FOR_60S),
    );
    reload(&sidecar, || sidecar.write_policy("policy", &yaml));
    let after = breaker(&sidecar, "a");
    for key in ["state", "trips", "epoch"] {
        assert_eq!(after[key], before[key], "{key}");
    }
    assert_eq!(problem_type(&sidecar.send(&chat())), "breaker-open");
    assert_eq!(a.count(), 3);
}

#[test]
fn a_client_disconnect_does_not_count_as_a_failure() {
    let (a, sidecar) = failing_provider("");
    let silences = [
        Behaviour::Silent,
        Behaviour::HeadersThenSilence,
        Stream::chat(3).gated(&Gate::closed()).into(),
    ];
    let mut disconnected = 0;
    for behaviour in silences {
        a.set(behaviour);
        for _ in 0..4 {
            let mut client = sidecar.client();
            client.send_only(&chat());
            a.wait_for_in_flight(1);
            client.reset();
            a.wait_for_in_flight(0);
            disconnected += 1;
            sidecar.wait_for_access(disconnected);
        }
        assert_eq!(state(&sidecar, "a"), "closed");
    }
    for access_record in sidecar.access_log() {
        assert_eq!(access_record["result"], "client_disconnected", "{access_record}");
    }
    a.set(Behaviour::Chat);
    assert_eq!(sidecar.send(&chat()).status, 200);
}

#[test]
fn rejections_by_the_sidecar_do_not_count_as_failures() {
    let gate = Gate::closed();
    let a = Origin::start(Behaviour::Chat.held(&gate));
    let routes = "routes: [ { name: patient, match: { path: /patient }, providers: [a] }, \
                  { name: hasty, timeout: 200ms, providers: [a] } ]\n";
    let more = "capacity: { concurrency: 1 }";
    let sidecar = Sidecar::start(&policy(
        &[("a", &a.url(), more)],
        &(routes.to_owned() + BREAKER_OPEN_FOR_60S),
    ));
    thread::scope(|scope| {
        let held = scope.spawn(|| sidecar.send(&Call::post("/patient", "{}")).status);
        a.wait_for_in_flight(1);
        let refused = [0; 6].map(|_| scope.spawn(|| sidecar.send(&chat())));
        for response in refused.map(|call| call.join().expect("the call ends")) {
            assert!([503, 504].contains(&response.status), "{}", response.status);
            problem_type(&response);
        }
        for _ in 0..6 {
            assert_eq!(sidecar.send(&chat().header("x-outrigger-retry", "no")).status, 400);
        }
        gate.open_wide();
        assert_eq!(held.join().expect("the call ends"), 200);
    });
    assert_eq!((a.count(), state(&sidecar, "a").as_str()), (1, "closed"));
    assert_eq!(sidecar.send(&chat()).status, 200);
}

#[test]
fn an_incomplete_request_does_not_count_as_a_failure() {
    let (a, sidecar) = failing_provider("timeouts: { idle: 200ms }");
    for _ in 0..4 {
        let mut client = sidecar.client();
        let head = format!("POST {CHAT} HTTP/1.1\r\nhost: a\r\ncontent-length: 3000000\r\n\r\n");
        client.write((head + "{").as_bytes()).expect("a part of the request can be sent");
        let status = client.read_response("POST").expect("a response").status;
        assert_eq!(status, 408);
    }
    assert_eq!((a.count(), state(&sidecar, "a").as_str()), (0, "closed"));
}

#[test]
fn an_outcome_from_an_earlier_epoch_does_not_count() {
    let (first, second) = (Gate::closed(), Gate::closed());
    let (late_success, late_failure) = (Behaviour::Chat, Behaviour::status(500, &[]));
    let (late_success, late_failure, later_failure) =
        (late_success.held(&first), late_failure.clone().held(&first), late_failure.held(&second));
    let a = Origin::start(Behaviour::custom(move |request| match request.path.as_str() {
        "/late/good" => late_success.clone(),
        "/late/bad" => late_failure.clone(),
        "/later/bad" => later_failure.clone(),
        "/sound" => Behaviour::Chat,
        _ => Behaviour::status(500, &[]),
    }));
    let breakers = "breakers: { default: { failure_threshold: 3, recovery_timeout: 100ms, \
                    success_threshold: 3, ramp: 0s } }\n";
    let retry = "providers: [a], retry: none";
    let sidecar = single_worker(&policy(&[("a", &a.url(), "")], &(route(retry) + breakers)));
    let send = |path: &str| sidecar.send(&Call::post(path, "{}")).status;
    let statuses =
        |calls: [ScopedJoinHandle<'_, u16>; 3]| calls.map(|c| c.join().expect("it ends"));
    thread::scope(|scope| {
        let call = |path: &'static str| scope.spawn(move || send(path));
        let late = ["/late/good", "/late/bad", "/late/bad"].map(call);
        let later = ["/later/bad"; 3].map(call);
        a.wait_for_in_flight(6);
        trip(&a, &sidecar);
        // Half-open with one of three probes successful.
        sidecar.wait_until(|_| send("/sound") == 200);
        let before = breaker(&sidecar, "a");
        assert_eq!(before["state"], "half_open");
        first.open_wide();
        assert_eq!(statuses(late), [200, 500, 500]);
        assert_eq!(breaker(&sidecar, "a"), before);
        assert_eq!((send("/sound"), send("/sound")), (200, 200));
        assert_eq!(state(&sidecar, "a"), "closed");
        second.open_wide();
        assert_eq!(statuses(later), [500; 3]);
        assert_eq!(state(&sidecar, "a"), "closed");
    });
    assert_eq!(send("/sound"), 200);
}
