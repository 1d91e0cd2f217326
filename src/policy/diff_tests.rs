use std::io;
use std::path::Path;

use proptest::prelude::*;

use super::diff::changes;
use super::{Policy, SourceFile, Sources, load};

/// Each name has a value of its own, which ends in the number.
struct Secrets(u8);

impl Sources for Secrets {
    fn env(&self, name: &str) -> Option<String> {
        Some(format!("hush-{name}-{}", self.0))
    }

    fn file(&self, path: &Path) -> io::Result<Vec<u8>> {
        let block = if path.ends_with("key.pem") { "PRIVATE KEY" } else { "CERTIFICATE" };
        Ok(format!("-----BEGIN {block}-----\nhush-{}\n-----END {block}-----\n", self.0).into())
    }
}

const WHOLE: &str = r#"
version: 1
server:
  connections: 100
  tls: { cert: cert.pem, key: key.pem }
  access_log: { to: none }
providers:
  openai:
    endpoints:
      - { url: https://a, weight: 2 }
      - { url: https://b }
    auth: { bearer: "${env:OPENAI}" }
    headers: { set: { x-team: "${env:TEAM}", x-plain: one }, remove: [cookie] }
    tls: { ca: ca.pem, client_cert: cert.pem, client_key: key.pem }
    proxy: "http://${env:PROXY}@proxy:3128"
    models: { gpt: gpt-1 }
    timeouts: { headers: 10s }
    price: { input: 2.50, output: 10.00 }
    breaker: careful
    classify:
      - { status: 400, as: too_large }
  azure:
    url: https://c/openai
    auth: { header: { name: api-key, value: "${env:AZURE}" } }
    rewrite: { body: { set: { /a: 1 } } }
    retry: slow
routes:
  - name: chat
    match: { path: /v1/chat/**, methods: [POST], headers: { x-tenant: gold } }
    providers: [ { name: openai, weight: 3 } ]
    fallback: [azure]
    idempotent: always
    affinity: { header: x-session }
    stream: { on_cut: abort, terminal: ["[DONE]"] }
    retry: slow
    queue: patient
  - { name: files, match: { path: /v1/files }, providers: [azure] }
  - { name: all, providers: [openai] }
retries:
  slow: { max_attempts: 3, initial_delay: 1s, budget: { cost: 5 USD/h } }
  fast: { max_attempts: 2, initial_delay: 10ms }
breakers:
  careful: { failure_threshold: 2 }
queues:
  patient: { max_wait: 5m, flow: { header: x-tenant } }
"#;

fn policy(text: &str, secrets: u8) -> Policy {
    let file = SourceFile { name: "a.yaml".to_owned(), bytes: text.into() };
    let loaded = load(&[file], &Secrets(secrets));
    loaded
        .unwrap_or_else(|problems| panic!("{}", super::yaml::diagnostic::render(&problems, false)))
        .policy
}

fn changed(edits: &[(&str, &str)]) -> Vec<String> {
    let text = edits.iter().fold(WHOLE.to_owned(), |text, (from, to)| {
        assert!(text.contains(from), "{from}");
        text.replacen(from, to, 1)
    });
    changes(&policy(WHOLE, 1), &policy(&text, 1))
}

#[track_caller]
fn assert_changed(from: &str, to: &str, expected: &[&str]) {
    assert_eq!(changed(&[(from, to)]), expected);
}

#[test]
fn a_provider_that_comes_or_goes_is_told_with_where_it_is() {
    let more = "  local: { url: http://127.0.0.1:11434, auth: none }\nroutes:";
    assert_changed("routes:", more, &["provider `local` is new: http://127.0.0.1:11434"]);
    let with = policy(&WHOLE.replacen("routes:", more, 1), 1);
    assert_eq!(changes(&with, &policy(WHOLE, 1)), ["provider `local` is gone"]);
}

#[test]
fn addresses_are_told_by_name() {
    let b = "      - { url: https://b }\n";
    assert_changed(b, "", &["provider `openai`: address `b:443` is gone"]);
    assert_changed(
        b,
        &format!("{b}      - {{ url: https://d }}\n"),
        &["provider `openai`: address `d:443` is new"],
    );
    assert_changed(
        "weight: 2",
        "weight: 5",
        &["provider `openai`: address `a:443`: weight 2 -> 5"],
    );
    assert_changed(
        "https://c/openai",
        "https://c/other",
        &["provider `azure`: address `c:443`: url https://c/openai -> https://c/other"],
    );
}

#[test]
fn values_of_a_provider_are_told_old_and_new() {
    assert_changed(
        "timeouts: { headers: 10s }",
        "timeouts: { headers: 2m, first_byte: 10s, connect: 1s }\n    capacity: { concurrency: 8 }",
        &[
            "provider `openai`: timeouts.connect 2s -> 1s",
            "provider `openai`: timeouts.headers 10s -> 2m",
            "provider `openai`: capacity.concurrency 1024 -> 8",
        ],
    );
    assert_changed(
        "timeouts: { headers: 10s }",
        "timeouts: { headers: 10s }\n    capacity: { adaptive: true, requests: 500/min, tokens: 200k/min, follow_headers: false }",
        &[
            "provider `openai`: capacity.adaptive false -> true",
            "provider `openai`: capacity.requests none -> 500/min, burst 8.33",
            "provider `openai`: capacity.tokens none -> 200000/min, burst 20000",
            "provider `openai`: capacity.follow_headers true -> false",
        ],
    );
    assert_changed(
        "{ gpt: gpt-1 }",
        "{ gpt: gpt-2, o: o-1 }",
        &[
            "provider `openai`: model `gpt` `gpt-1` -> `gpt-2`",
            "provider `openai`: model `o` is set to `o-1`",
        ],
    );
    assert_changed(
        "status: 400",
        "status: 413",
        &["provider `openai`: classify changes (1 rules before, 1 now)"],
    );
    assert_changed("{ /a: 1 }", "{ /a: 2 }", &["provider `azure`: rewrite changes"]);
    assert_changed(
        "proxy:3128",
        "other:3128",
        &["provider `openai`: proxy http://proxy:3128 -> http://other:3128"],
    );
    assert_changed("ca: ca.pem", "ca: new.pem", &["provider `openai`: tls.ca ca.pem -> new.pem"]);
}

#[test]
fn what_answers_take_and_cost_is_told_old_and_new() {
    assert_changed(
        "price: { input: 2.50, output: 10.00 }",
        "price: { input: 0.0025, output: 12, per: 1k }\n    usage: { output: /out }\n    prefill: [gpt-1]",
        &[
            "provider `openai`: prefill none -> gpt-1",
            "provider `openai`: usage.output built in -> /out",
            "provider `openai`: price.output 10 USD per 1M -> 12000 USD per 1M",
        ],
    );
    assert_changed(
        "    price: { input: 2.50, output: 10.00 }\n",
        "",
        &[
            "provider `openai`: price.input 2.5 USD per 1M -> none",
            "provider `openai`: price.output 10 USD per 1M -> none",
        ],
    );
    assert_changed(
        "cost: 5 USD/h",
        "cost: 0.5 USD/min",
        &["retries `slow`: budget.cost 5 USD/h -> 0.5 USD/min"],
    );
}

#[test]
fn headers_are_told_by_name_only() {
    assert_changed(
        "x-plain: one }, remove: [cookie]",
        "x-plain: two, x-more: three }, remove: [cookie, x-old]",
        &[
            "provider `openai`: header `x-plain` is set to another value",
            "provider `openai`: header `x-more` is set",
            "provider `openai`: headers.remove cookie -> cookie, x-old",
        ],
    );
    assert_changed(", x-plain: one", "", &["provider `openai`: header `x-plain` is no longer set"]);
}

#[test]
fn what_several_share_is_told_once_under_its_name() {
    assert_changed(
        "max_attempts: 3, initial_delay: 1s",
        "max_attempts: 5, initial_delay: 1s",
        &["retries `slow`: max_attempts 3 -> 5"],
    );
    assert_changed(
        "failure_threshold: 2",
        "failure_threshold: 2, slow_rate: { above: 50% }",
        &[
            "breaker `careful`: slow_rate.slower_than none -> 20s",
            "breaker `careful`: slow_rate.above none -> 0.5",
            "breaker `careful`: slow_rate.over none -> 30s",
            "breaker `careful`: slow_rate.min_requests none -> 20",
        ],
    );
}

#[test]
fn another_name_is_told_with_what_it_brings() {
    assert_changed(
        "retry: slow\n    queue",
        "retry: fast\n    queue",
        &[
            "route `chat`: retry slow -> fast, max_attempts 3 -> 2, initial_delay 1s -> 10ms, budget.cost 5 USD/h -> none",
        ],
    );
    assert_changed(
        "    retry: slow\nroutes",
        "routes",
        &["provider `azure`: retry slow -> the route's"],
    );
    assert_changed(
        "breaker: careful",
        "breaker: none",
        &["provider `openai`: breaker careful -> none"],
    );
    assert_changed(
        "breaker: careful",
        "breaker: default",
        &["provider `openai`: breaker careful -> default, failure_threshold 2 -> 5"],
    );
}

#[test]
fn routes_are_told_in_their_order() {
    let files = "  - { name: files, match: { path: /v1/files }, providers: [azure] }\n";
    assert_changed(files, "", &["route `files` is gone"]);
    let more = "  - { name: new, match: { path: /x }, providers: [azure] }\n";
    assert_changed(
        files,
        &format!("{more}{files}"),
        &["route `new` is new, before `files`: to azure"],
    );
    assert_eq!(
        changed(&[(files, ""), ("routes:\n", &format!("routes:\n{files}"))]),
        ["route `files` moves before `chat`"]
    );
}

#[test]
fn values_of_a_route_are_told_old_and_new() {
    assert_changed(
        "[ { name: openai, weight: 3 } ]\n    fallback: [azure]\n    idempotent: always",
        "[ azure, openai ]\n    balance: first\n    timeout: 5s\n    replay: 64KiB",
        &[
            "route `chat`: providers openai (weight 3) -> azure, openai",
            "route `chat`: fallback azure -> none",
            "route `chat`: balance latency -> first",
            "route `chat`: idempotent always -> auto",
            "route `chat`: timeout 2m -> 5s",
            "route `chat`: replay 1MiB -> 64KiB",
        ],
    );
    assert_changed(
        "/v1/chat/**, methods: [POST], headers: { x-tenant: gold }",
        "/v1/*/x, headers: { x-tenant: tin }",
        &[
            "route `chat`: match.path /v1/chat/** -> /v1/*/x",
            "route `chat`: match.methods POST -> any",
            "route `chat`: the headers that it matches have other values",
        ],
    );
}

#[test]
fn how_answers_pass_is_told_old_and_new() {
    assert_changed(
        "stream: { on_cut: abort, terminal: [\"[DONE]\"] }",
        "stream: { commit: complete, buffer: { bytes: 64KiB, for: 2s }, content: [/text, /more], terminal: [{ /type: end }, /done] }",
        &[
            "route `chat`: stream.commit by kind -> complete",
            "route `chat`: stream.buffer.bytes 1MiB -> 64KiB",
            "route `chat`: stream.buffer.for 10s -> 2s",
            "route `chat`: stream.on_cut abort -> error_event",
            "route `chat`: stream.content built in -> /text, /more",
            "route `chat`: stream.terminal \"[DONE]\" -> /type = \"end\", /done",
        ],
    );
}

#[test]
fn queues_are_told_once_under_their_name() {
    assert_changed(
        "max_wait: 5m, flow: { header: x-tenant }",
        "max_wait: 4m, classes: { gold: 2, tin: 1 }, class: { header: x-class, default: gold }",
        &[
            "queue `patient`: max_wait 5m -> 4m",
            "queue `patient`: classes high 8, normal 4, low 1 -> gold 2, tin 1",
            "queue `patient`: class.header none -> x-class",
            "queue `patient`: class.default normal -> gold",
            "queue `patient`: flow.header x-tenant -> none",
        ],
    );
    assert_changed(
        "max_wait: 5m",
        "max_wait: 5m, durable: { workers: 4, keep_result: 2d, callback: { allow: [\"https://app.internal/**\"] } }",
        &[
            "queue `patient`: durable.workers 16 -> 4",
            "queue `patient`: durable.keep_result 1d -> 2d",
            "queue `patient`: durable.callback.allow none -> https://app.internal/**",
        ],
    );
}

#[test]
fn another_queue_is_told_with_what_it_brings() {
    assert_changed(
        "    queue: patient\n",
        "",
        &[
            "route `chat`: queue patient -> default, max_wait 5m -> 30s, flow.header x-tenant -> none",
        ],
    );
    assert_changed(
        "queue: patient",
        "queue: none\n    allow_override: [priority]",
        &[
            "route `chat`: allow_override none -> priority",
            "route `chat`: queue patient -> none",
            "route `chat`: takes jobs yes -> no",
        ],
    );
}

#[test]
fn hedges_and_affinity_are_told_when_they_come_and_go() {
    assert_changed(
        "affinity: { header: x-session }",
        "hedge: { extra_load: 2% }",
        &[
            "route `chat`: hedge.extra_load none -> 0.02",
            "route `chat`: hedge.after none -> percentile",
            "route `chat`: affinity.header x-session -> none",
            "route `chat`: affinity.ttl 10m -> none",
        ],
    );
}

#[test]
fn keys_of_the_server_are_told() {
    assert_changed(
        "connections: 100\n",
        "connections: 100\n  drain_timeout: 1m\n",
        &["server: drain_timeout 30s -> 1m"],
    );
}

#[test]
fn a_rotated_secret_is_told_and_never_shown() {
    let found = changes(&policy(WHOLE, 1), &policy(WHOLE, 2));
    let expected = [
        "server: the certificate or key of tls has new content",
        "provider `azure`: credentials change (api-key from env:AZURE)",
        "provider `openai`: credentials change (authorization from env:OPENAI)",
        "provider `openai`: header `x-team` is set to another value",
        "provider `openai`: a certificate or key of tls has new content",
        "provider `openai`: the credentials for the proxy change",
    ];
    assert_eq!(found, expected);
}

#[test]
fn other_references_are_told() {
    assert_changed(
        "\"${env:OPENAI}\"",
        "[\"${env:OPENAI}\", \"${env:SECOND}\"]",
        &[
            "provider `openai`: credentials change: authorization from env:OPENAI -> authorization from env:OPENAI, env:SECOND",
        ],
    );
    assert_changed(
        "{ url: https://b }",
        "{ url: https://b, auth: passthrough }",
        &[
            "provider `openai`: address `b:443`: credentials change: authorization from env:OPENAI -> passthrough",
            "route `chat`: takes jobs yes -> no",
            "route `all`: takes jobs yes -> no",
        ],
    );
}

/// Places in the text that can be edited, each by itself.
const EDITS: [(&str, &str); 18] = [
    ("connections: 100", "connections: 200"),
    ("{ url: https://b }", "{ url: https://b, weight: 7 }"),
    ("env:OPENAI}", "env:OTHER}"),
    ("x-plain: one", "x-plain: hush-inline"),
    ("gpt: gpt-1", "gpt: gpt-2"),
    ("headers: 10s", "headers: 11s"),
    ("breaker: careful", "breaker: none"),
    ("idempotent: always", "idempotent: never"),
    ("x-tenant: gold", "x-tenant: hush-tenant"),
    ("path: /v1/files", "path: /v1/file"),
    ("failure_threshold: 2", "failure_threshold: 3"),
    ("remove: [cookie]", "remove: []"),
    ("input: 2.50", "input: 2.60"),
    ("x-session", "x-conversation"),
    ("[DONE]", "[END]"),
    ("cost: 5 USD/h", "cost: 5 USD/day"),
    ("max_wait: 5m", "max_wait: 6m"),
    ("queue: patient", "queue: patient\n    allow_override: [priority]"),
];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn equal_policies_give_nothing_and_others_something_without_a_secret(
        one in any::<u32>(), two in any::<u32>(), secrets in 1u8..3,
    ) {
        let edited = |bits: u32| {
            let chosen = EDITS.iter().enumerate().filter(|(index, _)| bits & (1 << index) != 0);
            chosen.fold(WHOLE.to_owned(), |text, (_, (from, to))| text.replacen(from, to, 1))
        };
        // A threshold of a breaker that nobody uses is no difference.
        let used = |bits: u32| if bits & 1 << 6 != 0 { bits & !(1 << 10) } else { bits };
        let (one, two) = (edited(used(one)), edited(used(two)));
        prop_assert_eq!(changes(&policy(&one, 1), &policy(&one, 1)), Vec::<String>::new());
        let found = changes(&policy(&one, 1), &policy(&two, secrets));
        prop_assert_eq!(found.is_empty(), one == two && secrets == 1);
        prop_assert!(!found.join("\n").contains("hush"), "{:?}", found);
    }
}
