//! Token usage and cost by route, provider, model and attempt, and the cost budget of retries.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use serde_json::{Value, json};

use crate::fixtures::{CHAT, access_record, chat, policy, problem_type, route, single_worker};
use crate::support::{Behaviour, Call, Ending, Origin, Sidecar, Stream};

const CALLS: u64 = 10_000;
const PRICE: &str = "price: { input: 2.50, output: 10.00, per: 1M, currency: USD }";

/// Tokens and calls counted by the origin.
#[derive(Debug, Default)]
struct Counted {
    input: AtomicU64,
    output: AtomicU64,
    calls: AtomicU64,
}

impl Counted {
    fn add(&self, input: u64, output: u64) {
        self.input.fetch_add(input, Ordering::Relaxed);
        self.output.fetch_add(output, Ordering::Relaxed);
    }
}

fn json_type() -> Vec<(String, String)> {
    vec![("content-type".to_owned(), "application/json".to_owned())]
}

/// Responses of different kinds in turn, each with its own usage.
fn cycle_of_responses(counted: &Arc<Counted>) -> Behaviour {
    let counted = Arc::clone(counted);
    Behaviour::custom(move |_| {
        let n = counted.calls.fetch_add(1, Ordering::Relaxed);
        let (input, output) = (n % 97 + 1, n % 31);
        match n % 6 {
            0 | 1 => {
                counted.add(input, output);
                let usage = json!({ "prompt_tokens": input, "completion_tokens": output });
                let body =
                    json!({ "choices": [{ "message": { "content": "hi" } }], "usage": usage });
                Behaviour::Status(200, json_type(), body.to_string())
            }
            2 => {
                counted.add(input, output);
                let mut stream = Stream::chat(2);
                let usage = json!({ "prompt_tokens": input, "completion_tokens": output });
                let last =
                    json!({ "object": "chat.completion.chunk", "choices": [], "usage": usage });
                stream.frames.insert(4, last.to_string());
                stream.into()
            }
            3 => {
                counted.add(input, output);
                let text = json!({ "type": "content_block_delta", "index": 0,
                                   "delta": { "type": "text_delta", "text": "hi" } });
                let start = json!({ "type": "message_start", "message": { "content": [],
                                    "usage": { "input_tokens": input, "output_tokens": 1 } } });
                let delta = json!({ "type": "message_delta", "delta": { "stop_reason": "end_turn" },
                                    "usage": { "output_tokens": output } });
                let stop = json!({ "type": "message_stop" });
                Stream::of([start, text, delta, stop].map(|event| event.to_string())).into()
            }
            4 => Behaviour::Status(200, json_type(), json!({ "choices": [] }).to_string()),
            _ => Behaviour::status(400, &[]),
        }
    })
}

fn sum(sidecar: &Sidecar, prefix: &str, with: &str) -> f64 {
    let (_, text) = sidecar.admin_get("/metrics");
    let lines = text.lines().filter(|line| line.starts_with(prefix) && line.contains(with));
    lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
}

#[test]
fn tokens_and_cost_equal_the_counts_of_the_origin() {
    let counted = Arc::new(Counted::default());
    let a = Origin::start(cycle_of_responses(&counted));
    let yaml = policy(&[("a", &a.url(), PRICE)], &route("providers: [a]"));
    let sidecar = Sidecar::start(&yaml);
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let mut client = sidecar.client();
                (0..CALLS / 4).for_each(|_| {
                    client.send(&chat());
                });
            });
        }
    });
    assert_eq!(counted.calls.load(Ordering::Relaxed), CALLS);
    let (input, output) = (
        counted.input.load(Ordering::Relaxed) as f64,
        counted.output.load(Ordering::Relaxed) as f64,
    );
    let tokens = |direction: &str| sum(&sidecar, "outrigger_tokens_total{", direction);
    sidecar.wait_until(|_| tokens("direction=\"output\"") >= output);
    assert_eq!((tokens("direction=\"input\""), tokens("direction=\"output\"")), (input, output));
    let cost = sum(&sidecar, "outrigger_cost_total{", "currency=\"USD\"");
    let expected = (input * 2.5 + output * 10.0) / 1e6;
    assert!((cost - expected).abs() < expected * 1e-9, "{cost} instead of {expected}");
    let by_model = sum(&sidecar, "outrigger_cost_total{", "model=\"small\",attempt=\"first\"");
    assert_eq!(by_model, cost);
}

/// A 200 that the policy classifies as a failure; its tokens are charged.
fn paid_failure(output: u64) -> Behaviour {
    let usage = json!({ "prompt_tokens": 0, "completion_tokens": output });
    let body = json!({ "error": "overloaded", "usage": usage }).to_string();
    Behaviour::Status(200, json_type(), body)
}

#[test]
fn the_cost_of_retries_is_counted_separately() {
    let a = Origin::script([paid_failure(100), paid_failure(10), Behaviour::Chat]);
    let classify = format!("{PRICE}, classify: [ {{ json: {{ /error: \".*\" }}, as: failure }} ]");
    let rest = "retries: { default: { initial_delay: 1ms } }\n";
    let route = route("providers: [a], idempotent: always");
    let sidecar = single_worker(&policy(&[("a", &a.url(), &classify)], &(route + rest)));
    assert_eq!(sidecar.send(&chat()).status, 200);
    let cost =
        |attempt: &str| sum(&sidecar, "outrigger_cost_total{", &format!("attempt=\"{attempt}\""));
    assert!((cost("first") - 100.0 * 10.0 / 1e6).abs() < 1e-12, "{}", cost("first"));
    assert!((cost("retry") - 10.0 * 10.0 / 1e6).abs() < 1e-3, "{}", cost("retry"));
    let record = access_record(&sidecar, 1);
    assert!(record["tokens_out"].as_u64().is_some_and(|tokens| tokens >= 110), "{record}");
    assert!(record["cost"].as_f64().is_some_and(|cost| cost > 0.001), "{record}");
}

#[test]
fn a_cost_budget_stops_retries_and_the_response_says_so() {
    // Each retry costs a dollar.
    let a = Origin::start(paid_failure(100_000));
    let classify = format!(
        "{PRICE}, breaker: none, classify: [ {{ json: {{ /error: \".*\" }}, as: failure }} ]"
    );
    let rest = "retries: { default: { max_attempts: 100, initial_delay: 1ms, budget: { ratio: 1, min_per_second: 100, cost: 3 USD/h } } }\n";
    let route = route("providers: [a], idempotent: always");
    let sidecar = single_worker(&policy(&[("a", &a.url(), &classify)], &(route + rest)));
    let response = sidecar.send(&chat());
    assert_eq!(a.count(), 1 + 3, "the first attempt must not count against the cost budget");
    let proxy_status = response.header("proxy-status").expect("a Proxy-Status");
    assert!(proxy_status.contains("cost budget"), "{proxy_status}");
    assert_eq!(access_record(&sidecar, 1)["retry_denied"], "cost_budget");
    for _ in 0..5 {
        sidecar.send(&chat());
    }
    assert_eq!(a.count(), 4 + 5, "first attempts must still be made");
    assert_eq!(sidecar.metric("outrigger_retry_cost_budget{route=\"all\"}"), Some(0.0));
    a.set(Behaviour::RefuseConnections);
    let response = sidecar.send(&chat());
    assert_eq!(problem_type(&response), "unreachable");
    assert!(response.text().contains("cost budget"), "{}", response.text());
}

#[test]
fn an_interrupted_stream_is_charged_for_the_tokens_it_reported() {
    let start = json!({ "type": "message_start", "message": { "content": [],
                        "usage": { "input_tokens": 25, "output_tokens": 1 } } });
    let text = json!({ "type": "content_block_delta", "index": 0,
                       "delta": { "type": "text_delta", "text": "hi" } });
    let stream =
        Stream::of([start, text].map(|event: Value| event.to_string())).ending(Ending::Cut);
    let a = Origin::start(stream);
    let sidecar = single_worker(&policy(&[("a", &a.url(), PRICE)], &route("providers: [a]")));
    let call = Call::json(CHAT, &json!({ "model": "claude", "messages": [], "stream": true }));
    let _ = sidecar.client().start(&call).rest();
    sidecar.wait_until(|sidecar| sum(sidecar, "outrigger_tokens_total{", "model=\"claude\"") > 0.0);
    assert_eq!(sum(&sidecar, "outrigger_tokens_total{", "direction=\"input\""), 25.0);
    assert_eq!(access_record(&sidecar, 1)["tokens_in"], 25);
}

#[test]
fn a_response_that_the_sidecar_reads_is_requested_uncompressed() {
    let (a, b) = (Origin::start(Behaviour::Chat), Origin::start(Behaviour::Chat));
    let yaml = policy(
        &[("a", &a.url(), PRICE), ("b", &b.url(), "auth: none")],
        "routes: [ { name: a, match: { path: /a }, providers: [a] }, { name: b, providers: [b] } ]\n",
    );
    let sidecar = single_worker(&yaml);
    for path in ["/a", "/b"] {
        let call = Call::json(path, &json!({})).header("accept-encoding", "gzip, br");
        assert_eq!(sidecar.send(&call).status, 200);
    }
    assert_eq!(a.last().headers.get("accept-encoding"), Some("identity"));
    assert_eq!(b.last().headers.get("accept-encoding"), Some("gzip, br"));
}
