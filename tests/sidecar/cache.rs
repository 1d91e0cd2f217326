//! Caching by RFC 9111 and RFC 5861. `tests/drill cache_suite` runs the public test suite for HTTP
//! caches; these tests cover principals, background requests, limits and metrics.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::fixtures::{
    GENEROUS, access_record, api, cache_status, policy, problem_type, reload, route, single_worker,
    state,
};
use crate::support::{Behaviour, Call, Gate, Origin, Sidecar};

/// A route for everything with a cache of 1 MiB that has the keys `windows`.
fn yaml(origin: &Origin, windows: &str, more: &str) -> String {
    let caches = format!("caches: {{ c: {{ max_bytes: 1MiB, store: http{windows} }} }}\n");
    let provider =
        [("a", &*origin.url(), "auth: passthrough, breaker: quick, timeouts: { headers: 2s }")];
    let quick = "breakers: { quick: { failure_threshold: 1, recovery_timeout: 60s } }\n";
    policy(
        &provider,
        &(route(&format!("providers: [a], cache: c{more}")) + &caches + quick + GENEROUS),
    )
}

fn ok(headers: &[(&str, &str)], body: &str) -> Behaviour {
    let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    Behaviour::Status(200, headers.collect(), body.to_owned())
}

fn fresh(body: &str) -> Behaviour {
    ok(&[("cache-control", "max-age=60")], body)
}

/// Responses whose body is the number of the request.
fn numbered_responses(headers: &'static [(&'static str, &'static str)]) -> Behaviour {
    let count = std::sync::atomic::AtomicUsize::new(0);
    Behaviour::custom(move |_| {
        let n = count.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        ok(headers, &n.to_string())
    })
}

#[test]
fn a_fresh_response_is_served_again_with_its_age() {
    let a = Origin::start(fresh("hello"));
    let sidecar = single_worker(&yaml(&a, "", ""));
    let first = sidecar.send(&Call::get("/x?y=1"));
    assert_eq!(cache_status(&first), "outrigger; fwd=uri-miss; stored");
    let again = sidecar.send(&Call::get("/x?y=1"));
    assert!(cache_status(&again).starts_with("outrigger; hit; ttl="), "{}", cache_status(&again));
    assert_eq!((again.status, again.text(), again.header("age")), (200, "hello".into(), Some("0")));
    assert_eq!(again.header("content-length"), Some("5"));
    assert_eq!(access_record(&sidecar, 2)["cache"], "hit");
    sidecar.send(&Call::get("/x?y=2"));
    assert_eq!(a.count(), 2, "another query is another resource");
    assert_eq!(
        sidecar.metric("outrigger_cache_requests_total{cache=\"c\",result=\"hit\"}"),
        Some(1.0)
    );
}

#[test]
fn a_stored_response_is_never_served_to_another_principal_even_if_it_is_public() {
    let a = Origin::start(numbered_responses(&[("cache-control", "public, max-age=60")]));
    let sidecar = single_worker(&yaml(&a, "", ""));
    let mut seen = Vec::new();
    for (name, value) in [
        ("authorization", "Bearer one"),
        ("authorization", "Bearer two"),
        ("cookie", "session=one"),
        ("x-api-key", "one"),
        ("api-key", "one"),
        ("x-goog-api-key", "one"),
        ("x-nothing", "one"),
    ] {
        let body = sidecar.send(&Call::get("/me").header(name, value)).text();
        let again = sidecar.send(&Call::get("/me").header(name, value));
        assert_eq!(again.text(), body, "{name}: the same caller is served again");
        seen.push(body);
    }
    assert_eq!(seen, ["0", "1", "2", "3", "4", "5", "6"]);
}

#[test]
fn a_response_to_a_request_with_credentials_is_not_stored_by_default() {
    let a = Origin::start(numbered_responses(&[("cache-control", "max-age=60")]));
    let sidecar = single_worker(&yaml(&a, "", ""));
    let call = Call::get("/x").header("authorization", "Bearer one");
    assert_ne!(sidecar.send(&call).text(), sidecar.send(&call).text());
}

#[test]
fn a_stale_response_is_served_at_once_while_all_providers_are_down() {
    let a = Origin::start(ok(&[("cache-control", "max-age=0"), ("etag", "\"1\"")], "old"));
    let sidecar = single_worker(&yaml(&a, ", stale_if_error: 1h", ""));
    let mut client = sidecar.client();
    assert_eq!(client.send(&Call::get("/x")).text(), "old");
    a.set(Behaviour::RefuseConnections);
    let mut times = Vec::new();
    for n in 0..200 {
        let began = Instant::now();
        let response = client.send(&Call::get("/x"));
        times.push(began.elapsed());
        assert_eq!((response.status, response.text()), (200, "old".into()), "{n}");
        let status = cache_status(&response);
        assert!(
            status.contains("hit; ttl=") && status.ends_with("detail=stale-if-error"),
            "{status}"
        );
    }
    assert_eq!(state(&sidecar, "a"), "open");
    times.sort();
    // Neither an attempt nor a backoff precedes it.
    assert!(times[100] < Duration::from_millis(50), "median {:?}", times[100]);
    let last = access_record(&sidecar, 201);
    assert_eq!(
        (&last["cache"], last["attempts"].as_array().map_or(0, Vec::len)),
        (&json!("stale"), 0)
    );
    assert_eq!(problem_type(&client.send(&Call::get("/cold"))), "breaker-open");
}

#[test]
fn an_error_is_replaced_only_within_the_window_and_if_the_stored_response_allows_it() {
    let cases = [
        ("max-age=0, stale-if-error=60", 200),
        ("max-age=0", 503),
        ("max-age=0, stale-if-error=0", 503),
        ("max-age=0, stale-if-error=60, must-revalidate", 503),
        ("max-age=0, stale-if-error=60, proxy-revalidate", 503),
        ("no-cache, stale-if-error=60", 503),
        ("s-maxage=0, stale-if-error=60", 503),
    ];
    for (directives, status) in cases {
        let broken = Behaviour::status(503, &[]);
        let first = ok(&[("cache-control", directives), ("etag", "\"1\"")], "old");
        let a = Origin::script([first, broken]);
        let sidecar =
            single_worker(&yaml(&a, ", stale_if_error: 0s", ", retry: once").replace(
                "retries: { default: {",
                "retries: { once: { max_attempts: 1 }, default: {",
            ));
        sidecar.send(&Call::get("/x"));
        assert_eq!(sidecar.send(&Call::get("/x")).status, status, "{directives}");
    }
}

#[test]
fn a_response_that_has_started_is_not_replaced() {
    let old = ok(&[("cache-control", "max-age=0"), ("etag", "\"1\"")], "old");
    let a = Origin::script([old, Behaviour::ResetMidBody]);
    let more = ", stream: { commit: headers }";
    let sidecar = single_worker(&yaml(&a, ", stale_if_error: 1h", more));
    sidecar.send(&Call::get("/x"));
    let cut = sidecar.send(&Call::get("/x"));
    assert_ne!((cut.text(), cut.end), ("old".to_owned(), crate::support::End::Complete));
}

#[test]
fn a_stale_response_is_served_during_one_background_revalidation() {
    let gate = Gate::closed();
    let stale = [("cache-control", "max-age=0"), ("etag", "\"1\"")];
    let new = fresh("new").held(&gate);
    let a = Origin::script([ok(&stale, "old"), new]);
    let sidecar = Sidecar::start(&yaml(&a, ", stale_while_revalidate: 1h", ""));
    sidecar.send(&Call::get("/x"));
    for _ in 0..20 {
        let response = sidecar.send(&Call::get("/x"));
        assert_eq!(response.text(), "old");
        assert!(cache_status(&response).ends_with("detail=stale-while-revalidate"));
    }
    a.wait_for_requests(2);
    assert_eq!(a.last().headers.get("if-none-match"), Some("\"1\""));
    gate.open_wide();
    sidecar.wait_until(|sidecar| sidecar.send(&Call::get("/x")).text() == "new");
    assert_eq!(a.count(), 2, "one revalidation makes the response fresh");
    let missed = sidecar.metric("outrigger_cache_requests_total{cache=\"c\",result=\"miss\"}");
    assert_eq!(missed, Some(1.0), "a background revalidation must not count as a request");
}

#[test]
fn a_polled_response_that_states_no_freshness_is_never_old() {
    let window = ", stale_while_revalidate: 1h";
    let modified = ("last-modified", "Mon, 01 Jan 2096 00:00:00 GMT");
    for headers in [&[][..], &[modified], &[("etag", "\"1\"")], &[("cache-control", "public")]] {
        for window in ["", window] {
            let a = Origin::start(numbered_responses(headers.to_vec().leak()));
            let sidecar = single_worker(&yaml(&a, window, ""));
            let polled = [(); 3].map(|()| sidecar.send(&Call::get("/status")).text());
            assert_eq!(polled, ["0", "1", "2"], "{headers:?}{window}");
        }
    }
}

#[test]
fn an_unsafe_request_through_another_route_invalidates_stored_responses() {
    let a = Origin::start(Behaviour::custom(|request| match request.method.as_str() {
        "GET" => fresh("x"),
        _ => ok(&[("location", "/made")], ""),
    }));
    let reads = "{ name: reads, match: { methods: [GET] }, providers: [a], cache: c }";
    let routes = format!("routes: [ {reads}, {{ name: writes, providers: [a] }} ]\n");
    let caches = "caches: { c: { max_bytes: 1MiB, store: http } }\n";
    let sidecar = single_worker(&policy(&[("a", &a.url(), "")], &(routes + caches)));
    let hits = || {
        ["/x", "/made", "/other"]
            .map(|path| cache_status(&sidecar.send(&Call::get(path))).contains("hit"))
    };
    assert_eq!(hits(), [false, false, false]);
    assert_eq!(hits(), [true, true, true]);
    sidecar.send(&Call::post("/x", "change"));
    assert_eq!(hits(), [false, false, true]);
}

#[test]
fn a_304_with_another_etag_leads_to_an_unconditional_request() {
    let old = ok(&[("cache-control", "max-age=0"), ("etag", "\"1\"")], "old");
    let another = Behaviour::Status(304, vec![("etag".into(), "\"2\"".into())], String::new());
    let new = ok(&[("cache-control", "max-age=60"), ("etag", "\"2\"")], "new");
    let a = Origin::script([old, another, new]);
    let sidecar = single_worker(&yaml(&a, ", stale_if_error: 1h", ""));
    sidecar.send(&Call::get("/x"));
    let second = sidecar.send(&Call::get("/x"));
    assert_eq!((second.status, second.text()), (200, "new".into()));
    assert_eq!(cache_status(&second), "outrigger; fwd=stale; stored");
    let conditions: Vec<_> =
        a.requests().iter().map(|r| r.headers.get("if-none-match").map(str::to_owned)).collect();
    assert_eq!(conditions, [None, Some("\"1\"".to_owned()), None]);
    assert_eq!(sidecar.send(&Call::get("/x")).text(), "new");
    assert_eq!(a.count(), 3);
    let attempts = access_record(&sidecar, 2)["attempts"].clone();
    assert_eq!(attempts.as_array().map(Vec::len), Some(2), "{attempts}");
}

#[test]
fn a_response_replaced_at_the_origin_is_not_served_on_errors() {
    let old = ok(&[("cache-control", "max-age=0"), ("etag", "\"1\"")], "old");
    let another = Behaviour::Status(304, vec![("etag".into(), "\"2\"".into())], String::new());
    let not_found = Behaviour::status(404, &[("cache-control", "no-store")]);
    let a = Origin::script([old, another, not_found]);
    let sidecar = single_worker(&yaml(&a, ", stale_if_error: 1h", ""));
    sidecar.send(&Call::get("/x"));
    assert_eq!(sidecar.send(&Call::get("/x")).status, 404);
    a.set(Behaviour::RefuseConnections);
    assert_eq!(sidecar.send(&Call::get("/x")).status, 502);
}

#[test]
fn a_range_of_a_stored_response_is_served() {
    let body: String = (0..40_000).map(|n| format!("{n:05} ")).collect();
    let a = Origin::start(ok(
        &[("cache-control", "max-age=60"), ("content-type", "text/plain")],
        &body,
    ));
    let sidecar = single_worker(&yaml(&a, "", "").replace("1MiB", "8MiB"));
    sidecar.send(&Call::get("/x"));
    for (range, from, to) in
        [("0-0", 0, 1), ("1000-200000", 1000, 200_001), ("-7", body.len() - 7, body.len())]
    {
        let call = Call::get("/x").header("range", &format!("bytes={range}"));
        let part = sidecar.send(&call);
        assert_eq!((part.status, part.text().as_str()), (206, &body[from..to]), "{range}");
        assert_eq!(part.header("content-length"), Some(&*(to - from).to_string()));
        let content_range = format!("bytes {from}-{}/{}", to - 1, body.len());
        assert_eq!(part.header("content-range"), Some(&*content_range));
    }
    assert_eq!(access_record(&sidecar, 4)["bytes_out"], 7);
    assert_eq!(a.count(), 1);
}

#[test]
fn cache_directives_of_a_request_are_followed() {
    let a = Origin::start(numbered_responses(&[("cache-control", "max-age=60")]));
    let sidecar = single_worker(&yaml(&a, "", ""));
    let with =
        |directives: &str| sidecar.send(&Call::get("/x").header("cache-control", directives));
    assert_eq!(problem_type(&with("only-if-cached")), "not-cached");
    assert_eq!(with("only-if-cached").status, 504);
    assert_eq!(with("no-store").text(), "0");
    assert_eq!(with("max-age=60").text(), "1", "a response to `no-store` must not be stored");
    assert_eq!(with("only-if-cached").text(), "1");
    assert_eq!(with("no-cache").text(), "2");
    assert_eq!(with("min-fresh=30").text(), "2");
    assert_eq!(with("min-fresh=90").text(), "3");
}

#[test]
fn a_resource_has_at_most_sixteen_variants_and_none_for_vary_star() {
    let a = Origin::start(ok(&[("cache-control", "max-age=60"), ("vary", "x-it")], "x"));
    let sidecar = single_worker(&yaml(&a, "", ""));
    let with = |value: usize| sidecar.send(&Call::get("/x").header("x-it", &value.to_string()));
    (0..100).for_each(|value| drop(with(value)));
    assert!(cache_status(&with(99)).contains("hit") && cache_status(&with(84)).contains("hit"));
    assert!(cache_status(&with(83)).contains("fwd=vary-miss"));
    let overview = api(&sidecar, "/api/caches");
    assert_eq!(overview["caches"][0]["entries"], 1);
    a.set(ok(&[("cache-control", "max-age=60"), ("vary", "*")], "x"));
    sidecar.send(&Call::get("/all"));
    assert!(cache_status(&sidecar.send(&Call::get("/all"))).contains("fwd="));
}

#[test]
fn a_full_cache_evicts_entries_and_does_not_store_large_responses() {
    let a = Origin::start(Behaviour::custom(|request| match request.path.as_str() {
        "/large" => fresh(&"x".repeat(200 << 10)),
        "/headers" => {
            let mut head: Vec<_> = (0..50).map(|n| (format!("x-{n}"), "v".repeat(1000))).collect();
            head.push(("cache-control".to_owned(), "max-age=60".to_owned()));
            Behaviour::Status(200, head, "x".to_owned())
        }
        _ => fresh(&"y".repeat(20 << 10)),
    }));
    let sidecar = single_worker(&yaml(&a, "", ""));
    let large = sidecar.send(&Call::get("/large"));
    assert_eq!((large.body.len(), cache_status(&large)), (200 << 10, "outrigger; fwd=uri-miss"));
    let head = sidecar.send(&Call::get("/headers"));
    assert_eq!(cache_status(&head), "outrigger; fwd=uri-miss; stored");
    let bytes = |sidecar: &Sidecar| {
        let overview = api(sidecar, "/api/caches");
        overview["caches"][0]["bytes"].as_u64().expect("a number")
    };
    assert!(bytes(&sidecar) > 50_000, "headers count");
    (0..200).for_each(|n| drop(sidecar.send(&Call::get(&format!("/{n}")))));
    let held = bytes(&sidecar);
    assert!((512 << 10..=1 << 20).contains(&held), "{held}");
    let evicted = sidecar.metric("outrigger_cache_evictions_total{cache=\"c\"}");
    assert!(evicted.is_some_and(|count| count > 100.0), "{evicted:?}");
    assert!(cache_status(&sidecar.send(&Call::get("/199"))).contains("hit"));
}

#[test]
fn a_stored_response_survives_a_reload_and_can_be_purged() {
    let a = Origin::start(fresh("x"));
    let sidecar = single_worker(&yaml(&a, "", ""));
    sidecar.send(&Call::get("/x"));
    reload(&sidecar, || {
        sidecar.write_policy("policy", &yaml(&a, ", stale_if_error: 2h", ""));
    });
    assert!(cache_status(&sidecar.send(&Call::get("/x"))).contains("hit"));
    let (status, body) = sidecar.admin_post("/api/caches/purge/c", &json!({ "reason": "a test" }));
    assert_eq!((status, body.trim_end()), (200, r#"{"cache":"c","entries":1}"#));
    sidecar.wait_for_log(|line| line.contains("audit:") && line.contains("cache_purge"));
    assert!(cache_status(&sidecar.send(&Call::get("/x"))).contains("fwd=uri-miss"));
    assert_eq!(sidecar.admin_post("/api/caches/purge/d", &json!({})).0, 404);
}
