//! Traces: a receiver gets the spans of requests and attempts, providers get their trace context.

use std::time::Duration;

use serde_json::{Value, json};

use crate::fixtures::{
    GENEROUS, access_record, api, chat, policy, problem_type, reload, route, single_worker,
};
use crate::jobs::{accepted_path, data_dir, job_request, start_with_store, wait_for_job};
use crate::support::{Behaviour, Call, Ending, Gate, Origin, Sidecar, Signal, Stream, eventually};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const PARENT: &str = "00f067aa0ba902b7";
const PLAIN: &str = "auth: none, breaker: none";

/// A span without the types of its attributes.
#[derive(Clone, Debug)]
struct SpanSeen {
    raw: Value,
    attributes: serde_json::Map<String, Value>,
}

impl SpanSeen {
    fn of(raw: &Value) -> SpanSeen {
        let pair = |attribute: &Value| {
            let value = attribute["value"].as_object()?.values().next()?.clone();
            Some((attribute["key"].as_str()?.to_owned(), value))
        };
        let attributes = raw["attributes"].as_array().expect("attributes");
        SpanSeen { raw: raw.clone(), attributes: attributes.iter().filter_map(pair).collect() }
    }

    fn text(&self, key: &str) -> &str {
        self.raw[key].as_str().unwrap_or_default()
    }

    fn id(&self) -> &str {
        self.text("spanId")
    }

    fn kind(&self) -> u64 {
        self.raw["kind"].as_u64().expect("a kind")
    }

    fn is_error(&self) -> bool {
        self.raw["status"]["code"] == 2
    }

    fn get(&self, attribute: &str) -> &Value {
        self.attributes.get(attribute).unwrap_or(&Value::Null)
    }

    fn times(&self) -> [u64; 2] {
        let nanos = |key: &str| self.text(key).parse().expect("nanoseconds");
        [nanos("startTimeUnixNano"), nanos("endTimeUnixNano")]
    }

    fn is_within(&self, outer: &SpanSeen) -> bool {
        let [start, end] = self.times();
        let [outer_start, outer_end] = outer.times();
        outer_start <= start && start <= end && end <= outer_end
    }
}

/// A stand-in for a receiver of OTLP.
fn receiver() -> Origin {
    Origin::start(accepting())
}

fn accepting() -> Behaviour {
    Behaviour::Status(200, vec![("content-type".into(), "application/json".into())], "{}".into())
}

fn tracing_to(receiver: &Origin, more: &str) -> String {
    format!("server: {{ traces: {{ endpoint: \"{}\"{more} }} }}\n", receiver.url())
}

/// All spans that the receiver has got, in the order of their starts.
fn received(receiver: &Origin) -> Vec<SpanSeen> {
    let mut all = Vec::new();
    for request in receiver.requests() {
        assert_eq!((request.method.as_str(), request.path.as_str()), ("POST", "/v1/traces"));
        assert_eq!(request.headers.get("content-type"), Some("application/json"));
        let body: Value = serde_json::from_slice(&request.body).expect("JSON");
        for resource in body["resourceSpans"].as_array().expect("resources") {
            for scope in resource["scopeSpans"].as_array().expect("scopes") {
                all.extend(scope["spans"].as_array().expect("spans").iter().map(SpanSeen::of));
            }
        }
    }
    all.sort_by_key(|span| (span.times()[0], span.kind()));
    all
}

#[track_caller]
fn wait_for_spans(receiver: &Origin, count: usize) -> Vec<SpanSeen> {
    let all = eventually(&format!("{count} spans"), || {
        let all = received(receiver);
        if all.len() >= count { Ok(all) } else { Err(format!("{} spans", all.len())) }
    });
    assert_eq!(all.len(), count, "{all:#?}");
    all
}

/// The request's span, and those of its attempts; panics unless they are one tree.
#[track_caller]
fn tree(receiver: &Origin, attempts: usize) -> (SpanSeen, Vec<SpanSeen>) {
    let mut all = wait_for_spans(receiver, attempts + 1);
    let at = all.iter().position(|span| span.kind() == 2).expect("a span of the request");
    let request = all.remove(at);
    for attempt in &all {
        assert_eq!((attempt.kind(), attempt.text("parentSpanId")), (3, request.id()));
        assert_eq!(attempt.text("traceId"), request.text("traceId"));
        assert!(attempt.is_within(&request), "{attempt:#?} {request:#?}");
    }
    (request, all)
}

/// The trace context that a provider got.
fn traceparent(origin: &Origin) -> String {
    origin.last().headers.get("traceparent").expect("a traceparent").to_owned()
}

/// The `traceparent` that a span sends.
fn sent_by(span: &SpanSeen) -> String {
    format!("00-{}-{}-01", span.text("traceId"), span.id())
}

#[test]
fn a_trace_is_continued_and_passed_on() {
    let (a, spans) = (Origin::start(Behaviour::Chat), receiver());
    let yaml = policy(&[("a", &a.url(), "")], &route("providers: [a]")) + &tracing_to(&spans, "");
    let sidecar = single_worker(&yaml);
    let parent = format!("00-{TRACE}-{PARENT}-01");
    let call = chat().header("traceparent", &parent).header("tracestate", "vendor=1");
    assert_eq!(sidecar.send(&call).status, 200);
    let (request, attempts) = tree(&spans, 1);
    assert_eq!((request.text("traceId"), request.text("parentSpanId")), (TRACE, PARENT));
    assert_eq!(traceparent(&a), sent_by(&attempts[0]));
    assert_eq!(a.last().headers.get("tracestate"), Some("vendor=1"));
    assert_eq!((request.text("name"), attempts[0].text("name")), ("POST all", "chat small"));
    assert_eq!(request.get("http.response.status_code"), "200");
    assert_eq!(request.get("url.path"), "/v1/chat/completions");
    let port = a.address().port().to_string();
    assert_eq!(attempts[0].get("server.port"), port.as_str());
    assert_eq!(attempts[0].get("gen_ai.operation.name"), "chat");
    assert!(!request.is_error() && !attempts[0].is_error());
    let record = access_record(&sidecar, 1);
    let ids = [&record["trace_id"], &record["span_id"], &record["parent_span_id"]];
    assert_eq!(ids, [TRACE, request.id(), PARENT]);
    assert_eq!(record["attempts"][0]["span_id"], attempts[0].id());
    assert_eq!(request.get("outrigger.policy"), &record["policy"]);
    sidecar.wait_until(|sidecar| {
        sidecar.metric("outrigger_trace_spans_total{result=\"exported\"}") == Some(2.0)
    });
}

#[test]
fn an_invalid_or_missing_traceparent_begins_a_new_trace() {
    let (a, spans) = (Origin::start(Behaviour::Chat), receiver());
    let yaml = policy(&[("a", &a.url(), "")], &route("providers: [a]")) + &tracing_to(&spans, "");
    let sidecar = single_worker(&yaml);
    let zero = format!("00-{}-{PARENT}-01", "0".repeat(32));
    for (at, header) in [Some("00-nothing"), Some(&zero), None].into_iter().enumerate() {
        let call = chat().header("tracestate", "vendor=1");
        let call = header.into_iter().fold(call, |call, one| call.header("traceparent", one));
        assert_eq!(sidecar.send(&call).status, 200);
        assert_eq!(a.last().headers.get("tracestate"), None);
        let all = wait_for_spans(&spans, 2 * (at + 1));
        let sent = all.iter().find(|span| sent_by(span) == traceparent(&a)).expect("its span");
        assert_eq!(sent.kind(), 3);
        assert!(all.iter().all(|span| span.text("traceId").len() == 32));
    }
    let all = received(&spans);
    let requests: Vec<_> = all.iter().filter(|span| span.kind() == 2).collect();
    assert!(requests.iter().all(|span| span.text("parentSpanId").is_empty()), "{requests:?}");
    let traces: std::collections::HashSet<_> = all.iter().map(|s| s.text("traceId")).collect();
    assert_eq!(traces.len(), 3);
}

#[test]
fn the_sampled_flag_of_the_client_is_respected_and_the_share_is_of_new_traces() {
    let (a, spans) = (Origin::start(Behaviour::Chat), receiver());
    let server = tracing_to(&spans, ", sample: 0");
    let sidecar =
        single_worker(&(policy(&[("a", &a.url(), "")], &route("providers: [a]")) + &server));
    // A new trace, and one that the client does not record.
    assert_eq!(sidecar.send(&chat()).status, 200);
    assert!(traceparent(&a).ends_with("-00"), "{}", traceparent(&a));
    let parent = format!("00-{TRACE}-{PARENT}-00");
    assert_eq!(sidecar.send(&chat().header("traceparent", &parent)).status, 200);
    assert!(traceparent(&a).starts_with(&format!("00-{TRACE}-")), "{}", traceparent(&a));
    assert!(traceparent(&a).ends_with("-00") && !traceparent(&a).contains(PARENT));
    let parent = format!("00-{TRACE}-{PARENT}-01");
    assert_eq!(sidecar.send(&chat().header("traceparent", &parent)).status, 200);
    let (request, attempts) = tree(&spans, 1);
    assert_eq!(request.text("traceId"), TRACE);
    assert_eq!(traceparent(&a), sent_by(&attempts[0]));
}

#[test]
fn the_tree_is_right_over_a_retry() {
    let origins = [Origin::start(Behaviour::status(503, &[])), Origin::start(Behaviour::Chat)];
    let spans = receiver();
    let rest = route("providers: [a, b], balance: first, idempotent: always") + GENEROUS;
    let providers = [("a", &*origins[0].url(), PLAIN), ("b", &*origins[1].url(), PLAIN)];
    let sidecar = single_worker(&(policy(&providers, &rest) + &tracing_to(&spans, "")));
    assert_eq!(sidecar.send(&chat()).status, 200);
    let (request, attempts) = tree(&spans, 2);
    assert!(!request.is_error() && attempts[0].is_error() && !attempts[1].is_error());
    assert_eq!(attempts[0].get("error.type"), "503");
    assert_eq!(attempts[1].get("http.request.resend_count"), "1");
    assert_eq!(attempts[1].get("outrigger.retry_reason"), "failure");
    for (origin, attempt) in origins.iter().zip(&attempts) {
        assert_eq!(traceparent(origin), sent_by(attempt));
    }
    assert!(attempts[0].times()[1] <= attempts[1].times()[0]);
}

#[test]
fn the_tree_is_right_over_a_fallback() {
    let limited = Behaviour::status(429, &[("retry-after", "60")]);
    let (a, b, spans) = (Origin::start(limited), Origin::start(Behaviour::Chat), receiver());
    let rest = route("providers: [a], fallback: [b]") + GENEROUS;
    let providers =
        [("a", &*a.url(), PLAIN), ("b", &*b.url(), "auth: none, models: { small: big }")];
    let sidecar = single_worker(&(policy(&providers, &rest) + &tracing_to(&spans, "")));
    assert_eq!(sidecar.send(&chat()).status, 200);
    let (_, attempts) = tree(&spans, 2);
    let providers: Vec<_> = attempts.iter().map(|one| one.get("outrigger.provider")).collect();
    assert_eq!(providers, ["a", "b"]);
    assert_eq!(attempts[1].get("outrigger.retry_reason"), "throttled");
    assert_eq!(attempts[1].get("gen_ai.request.model"), "big");
    assert_eq!(traceparent(&b), sent_by(&attempts[1]));
}

#[test]
fn the_tree_is_right_over_a_hedge() {
    let (slow, fast) = (Origin::start(Behaviour::Chat), Origin::start(Behaviour::Chat));
    let spans = receiver();
    let hedge = "hedge: { extra_load: 50%, after: 20ms }, timeout: 20s";
    let rest = route(&format!("providers: [a, b], balance: first, idempotent: always, {hedge}"))
        + "retries: { default: { budget: { ratio: 1, min_per_second: 100 } } }\n";
    let providers = [("a", &*slow.url(), PLAIN), ("b", &*fast.url(), PLAIN)];
    let sidecar = single_worker(&(policy(&providers, &rest) + &tracing_to(&spans, "")));
    // Each request earns half a hedge.
    (0..4).for_each(|_| assert_eq!(sidecar.send(&chat()).status, 200));
    slow.set(Behaviour::Silent);
    assert_eq!(sidecar.send(&chat()).status, 200);
    let trace = traceparent(&fast)[3..35].to_owned();
    let all = eventually("the spans of the hedge", || {
        let mut all = received(&spans);
        all.retain(|span| span.text("traceId") == trace);
        if all.len() == 3 { Ok(all) } else { Err(format!("{} spans", all.len())) }
    });
    let request = all.iter().find(|span| span.kind() == 2).expect("a request");
    let attempts: Vec<_> = all.iter().filter(|span| span.kind() == 3).collect();
    let hedge = attempts.iter().find(|one| one.get("outrigger.hedge") == true).expect("a hedge");
    let first = attempts.iter().find(|one| one.id() != hedge.id()).expect("a first attempt");
    assert_eq!(traceparent(&fast), sent_by(hedge));
    assert_eq!(traceparent(&slow), sent_by(first));
    assert!(attempts.iter().all(|one| one.text("parentSpanId") == request.id()));
    assert!(!first.is_error() && !hedge.is_error() && !request.is_error());
    assert_eq!(first.get("outrigger.cancelled"), true);
    assert!(first.times()[0] < hedge.times()[0] && hedge.times()[0] < first.times()[1]);
}

#[test]
fn a_stream_shows_its_tokens_and_the_time_to_its_first_content() {
    let gate = Gate::closed();
    let chunk = |delta: &Value| json!({ "object": "chat.completion.chunk", "choices": [{ "index": 0, "delta": delta }] });
    let usage = json!({ "object": "chat.completion.chunk", "choices": [],
        "usage": { "prompt_tokens": 12, "completion_tokens": 34 } });
    let content = chunk(&json!({ "content": "Hi" })).to_string();
    let frames = vec![content.clone(), content, usage.to_string(), "[DONE]".to_owned()];
    let stream = Stream { frames, gate: gate.clone(), ending: Ending::Complete };
    let (a, spans) = (Origin::start(Behaviour::Sse(stream)), receiver());
    let yaml = policy(&[("a", &a.url(), "generates: [chat]")], &route("providers: [a]"))
        + &tracing_to(&spans, "");
    let sidecar = single_worker(&yaml);
    let call = Call::json("/v1/chat/completions", &json!({ "model": "small", "stream": true }));
    gate.open_wide();
    assert_eq!(sidecar.send(&call).status, 200);
    let (request, attempts) = tree(&spans, 1);
    let attempt = &attempts[0];
    assert_eq!(attempt.get("gen_ai.usage.input_tokens"), "12");
    assert_eq!(attempt.get("gen_ai.usage.output_tokens"), "34");
    assert_eq!(attempt.get("gen_ai.request.stream"), true);
    let first = attempt.get("gen_ai.response.time_to_first_chunk").as_f64().expect("seconds");
    let [start, end] = attempt.times();
    assert!(first > 0.0 && first <= (end - start) as f64 / 1e9, "{first} of {}", end - start);
    assert_eq!(end, request.times()[1]);
}

#[test]
fn a_whole_response_shows_its_tokens_and_a_cached_one_makes_no_attempt() {
    let json_type = vec![("content-type".to_owned(), "application/json".to_owned())];
    let usage = json!({ "prompt_tokens": 5, "completion_tokens": 7 });
    let body = json!({ "choices": [], "usage": usage }).to_string();
    let (a, spans) = (Origin::start(Behaviour::Status(200, json_type, body)), receiver());
    let rest = route("providers: [a], cache: c")
        + "caches: { c: { max_bytes: 1MiB, store: { ttl: 60s, key: [path, body] } } }\n";
    let provider = "generates: [chat], auth: none";
    let yaml = policy(&[("a", &a.url(), provider)], &rest) + &tracing_to(&spans, "");
    let sidecar = single_worker(&yaml);
    assert_eq!(sidecar.send(&chat()).status, 200);
    let (request, attempts) = tree(&spans, 1);
    assert_eq!(request.get("outrigger.cache"), "miss");
    assert_eq!(attempts[0].get("gen_ai.usage.input_tokens"), "5");
    assert_eq!(attempts[0].get("gen_ai.usage.output_tokens"), "7");
    assert_eq!(attempts[0].get("gen_ai.response.time_to_first_chunk"), &Value::Null);
    assert_eq!(sidecar.send(&chat()).status, 200);
    let hit = wait_for_spans(&spans, 3).swap_remove(2);
    assert_eq!((hit.kind(), hit.get("outrigger.cache")), (2, &json!("hit")));
}

#[test]
fn an_interrupted_stream_is_an_error_of_its_request_and_attempt() {
    let chunk = json!({ "object": "chat.completion.chunk",
        "choices": [{ "index": 0, "delta": { "content": "Hi" } }] });
    let frames = vec![chunk.to_string(); 3];
    let stream = Stream { frames, gate: Gate::open(), ending: Ending::Cut };
    let (a, spans) = (Origin::start(Behaviour::Sse(stream)), receiver());
    let yaml = policy(&[("a", &a.url(), "")], &route("providers: [a]")) + &tracing_to(&spans, "");
    let sidecar = single_worker(&yaml);
    let call = Call::json("/v1/chat/completions", &json!({ "model": "small", "stream": true }));
    sidecar.send(&call);
    let (request, attempts) = tree(&spans, 1);
    assert!(request.is_error() && attempts[0].is_error());
    assert_eq!(request.get("outrigger.result"), "interrupted");
    assert_eq!(request.get("error.type"), attempts[0].get("error.type"));
}

#[test]
fn the_runs_of_a_job_belong_to_the_trace_of_its_request() {
    let (origin, spans, data) =
        (Origin::script([Behaviour::status(503, &[]), Behaviour::Chat]), receiver(), data_dir());
    let rest = route("providers: [a], timeout: 20s, retry: none") + GENEROUS;
    let queue = "queues: { default: {} }\n";
    let yaml = policy(&[("a", &origin.url(), PLAIN)], &(rest + queue)) + &tracing_to(&spans, "");
    let sidecar = start_with_store(data.path(), &yaml);
    let parent = format!("00-{TRACE}-{PARENT}-01");
    let path = accepted_path(&sidecar.send(&job_request().header("traceparent", &parent)));
    assert_eq!(wait_for_job(&sidecar, &path).status, 200);
    let all = eventually("two runs", || {
        let mut all = received(&spans);
        all.retain(|span| span.text("traceId") == TRACE);
        if all.len() >= 5 { Ok(all) } else { Err(format!("{} spans", all.len())) }
    });
    let of_kind = |kind: u64| all.iter().filter(move |span| span.kind() == kind);
    let enqueue = of_kind(2).next().expect("a span of the enqueue");
    assert_eq!(enqueue.text("parentSpanId"), PARENT);
    assert_eq!((of_kind(2).count(), of_kind(5).count(), of_kind(3).count()), (1, 2, 2));
    for (run, attempt) in of_kind(5).zip(of_kind(3)) {
        assert_eq!((run.text("parentSpanId"), run.text("name")), (enqueue.id(), "job all"));
        assert_eq!(attempt.text("parentSpanId"), run.id());
        assert_eq!(run.get("outrigger.job"), path.rsplit('/').next().expect("an id"));
    }
    let sent: Vec<_> =
        origin.requests().iter().map(|r| r.headers.get("traceparent").map(str::to_owned)).collect();
    let expected: Vec<_> = of_kind(3).map(|attempt| Some(sent_by(attempt))).collect();
    assert_eq!(sent, expected);
}

#[test]
fn requests_that_reach_no_provider_have_a_span_too() {
    let spans = receiver();
    let rest = "routes: [ { name: chat, match: { path: /v1/** }, providers: [a], retry: none } ]\n";
    let yaml = policy(&[("a", "http://127.0.0.1:9", PLAIN)], rest) + &tracing_to(&spans, "");
    let sidecar = single_worker(&yaml);
    assert_eq!(problem_type(&sidecar.send(&Call::get("/other"))), "no-route");
    let (request, _) = tree(&spans, 0);
    assert_eq!((request.text("name"), request.get("http.route")), ("GET", &Value::Null));
    assert_eq!((request.is_error(), request.get("outrigger.reason")), (false, &json!("no-route")));
    assert_eq!(sidecar.send(&chat()).status, 502);
    let all = wait_for_spans(&spans, 3);
    let failed: Vec<_> = all.iter().filter(|span| span.is_error()).collect();
    assert_eq!(failed.len(), 2);
    assert_eq!(failed[1].get("error.type"), "unsent");
}

#[test]
fn spans_wait_while_the_receiver_is_away_and_the_log_says_so_once() {
    let (a, spans) = (Origin::start(Behaviour::Chat), receiver());
    let yaml = policy(&[("a", &a.url(), "")], &route("providers: [a]")) + &tracing_to(&spans, "");
    let sidecar = single_worker(&yaml);
    let times = |text: &str| sidecar.log().iter().filter(|line| line.contains(text)).count();
    let busy = Behaviour::status(503, &[("retry-after", "0")]);
    for (round, behaviour) in [Behaviour::RefuseConnections, busy].into_iter().enumerate() {
        spans.set(behaviour);
        assert_eq!(sidecar.send(&chat()).status, 200);
        sidecar.wait_until(|_| times("the receiver of traces is away") > round);
        assert_eq!(sidecar.send(&chat()).status, 200);
        spans.set(accepting());
        sidecar.wait_until(|_| times("is back") > round);
    }
    assert_eq!((times("the receiver of traces is away"), times("is back")), (2, 2));
    sidecar.wait_until(|sidecar| {
        sidecar.metric("outrigger_trace_spans_total{result=\"exported\"}") == Some(8.0)
    });
    assert_eq!(sidecar.metric("outrigger_trace_spans_total{result=\"dropped\"}"), None);
}

#[test]
fn a_batch_that_the_receiver_rejects_is_counted_and_not_repeated() {
    let (a, spans) = (Origin::start(Behaviour::Chat), Origin::start(Behaviour::status(400, &[])));
    let yaml = policy(&[("a", &a.url(), "")], &route("providers: [a]")) + &tracing_to(&spans, "");
    let sidecar = single_worker(&yaml);
    assert_eq!(sidecar.send(&chat()).status, 200);
    sidecar.wait_for_log(|line| line.contains("rejects spans") && line.contains("400"));
    sidecar.wait_until(|sidecar| {
        sidecar.metric("outrigger_trace_spans_total{result=\"rejected\"}") == Some(2.0)
    });
    assert_eq!(spans.count(), 1);
}

#[test]
fn no_secret_is_in_a_span_and_the_receiver_gets_its_own() {
    let (a, spans) = (Origin::start(Behaviour::Chat), receiver());
    let more = ", service_name: shop, headers: { x-otlp-key: \"${env:OTLP_KEY}\" }";
    let provider = "auth: { bearer: \"${env:PROVIDER_KEY}\" }";
    let yaml =
        policy(&[("a", &a.url(), provider)], &route("providers: [a]")) + &tracing_to(&spans, more);
    let sidecar = Sidecar::builder()
        .policy("policy", &yaml)
        .env("OTLP_KEY", "receiver-secret")
        .env("PROVIDER_KEY", "provider-secret")
        .start();
    let body =
        json!({ "model": "small", "messages": [{ "role": "user", "content": "body-secret" }] });
    let call = Call::json("/v1/chat/completions?api_key=query-secret", &body)
        .header("authorization", "Bearer client-secret")
        .header("cookie", "session=cookie-secret");
    assert_eq!(sidecar.send(&call).status, 200);
    wait_for_spans(&spans, 2);
    let export = spans.last();
    assert_eq!(export.headers.get("x-otlp-key"), Some("receiver-secret"));
    let text = String::from_utf8(export.body).expect("UTF-8");
    assert!(text.contains("\"shop\"") && !text.contains("secret"), "{text}");
    let shown = api(&sidecar, "/api/policies").to_string() + &sidecar.log().join("\n");
    assert!(!shown.contains("receiver-secret"), "{shown}");
}

#[test]
fn a_reload_switches_traces_on_and_off() {
    let (a, spans) = (Origin::start(Behaviour::Chat), receiver());
    let off = policy(&[("a", &a.url(), "")], &route("providers: [a]"));
    let on = off.clone() + &tracing_to(&spans, "");
    let sidecar = single_worker(&off);
    let parent = format!("00-{TRACE}-{PARENT}-01");
    let send = || assert_eq!(sidecar.send(&chat().header("traceparent", &parent)).status, 200);
    send();
    assert_eq!(traceparent(&a), parent);
    let plain = access_record(&sidecar, 1);
    assert_eq!((&plain["span_id"], &plain["trace_id"]), (&Value::Null, &json!(TRACE)));
    reload(&sidecar, || sidecar.write_policy("policy", &on));
    send();
    assert_ne!(traceparent(&a), parent);
    wait_for_spans(&spans, 2);
    reload(&sidecar, || sidecar.write_policy("policy", &off));
    send();
    assert_eq!(traceparent(&a), parent);
    assert_eq!(received(&spans).len(), 2);
}

#[test]
fn the_last_spans_are_sent_before_the_process_ends() {
    let (a, spans) = (Origin::start(Behaviour::Chat), receiver());
    let yaml = policy(&[("a", &a.url(), "")], &route("providers: [a]")) + &tracing_to(&spans, "");
    let mut sidecar = single_worker(&yaml);
    assert_eq!(sidecar.send(&chat()).status, 200);
    assert!(sidecar.stop().success());
    assert_eq!(received(&spans).len(), 2);
}

#[test]
fn an_absent_receiver_does_not_delay_the_end() {
    let (a, spans) = (Origin::start(Behaviour::Chat), Origin::start(Behaviour::RefuseConnections));
    let yaml = policy(&[("a", &a.url(), "")], &route("providers: [a]")) + &tracing_to(&spans, "");
    let mut sidecar = single_worker(&yaml);
    assert_eq!(sidecar.send(&chat()).status, 200);
    sidecar.wait_for_log(|line| line.contains("the receiver of traces is away"));
    let began = std::time::Instant::now();
    sidecar.signal(Signal::Term);
    assert!(sidecar.wait_for_exit().success());
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
}

#[test]
fn a_provider_whose_policy_removes_the_header_gets_no_trace_context() {
    let (a, spans) = (Origin::start(Behaviour::Chat), receiver());
    let remove = "headers: { remove: [traceparent, tracestate] }";
    let yaml =
        policy(&[("a", &a.url(), remove)], &route("providers: [a]")) + &tracing_to(&spans, "");
    let sidecar = single_worker(&yaml);
    let parent = format!("00-{TRACE}-{PARENT}-01");
    let call = chat().header("traceparent", &parent).header("tracestate", "vendor=1");
    assert_eq!(sidecar.send(&call).status, 200);
    let headers = a.last().headers;
    assert!(!headers.has("traceparent") && !headers.has("tracestate"));
    assert_eq!(tree(&spans, 1).0.text("traceId"), TRACE);
}

#[test]
fn histograms_have_the_newest_trace_as_exemplar_in_open_metrics_only() {
    let (a, spans) = (Origin::start(Behaviour::Chat), receiver());
    let yaml = policy(&[("a", &a.url(), "")], &route("providers: [a]")) + &tracing_to(&spans, "");
    let sidecar = single_worker(&yaml);
    assert_eq!(sidecar.send(&chat()).status, 200);
    let (request, attempts) = tree(&spans, 1);
    let open = Call::get("/metrics").header("accept", "application/openmetrics-text");
    let text = sidecar.admin_send(&open).text();
    for (name, span) in [("request_duration", &request), ("first_byte", &attempts[0])] {
        let start = format!("outrigger_{name}_seconds_bucket{{");
        let with = text.lines().find(|line| line.starts_with(&start) && line.contains(" # {"));
        let with = with.unwrap_or_else(|| panic!("no exemplar of {name}: {text}"));
        let ids = format!("trace_id=\"{}\",span_id=\"{}\"", span.text("traceId"), span.id());
        assert!(with.contains(&ids), "{with}");
    }
    let (_, classic) = sidecar.admin_get("/metrics");
    assert!(!classic.contains(" # {"), "{classic}");
}
