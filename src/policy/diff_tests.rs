use std::io;
use std::path::Path;

use proptest::prelude::*;

use super::diff::changes;
use super::{Policy, SourceFile, Sources, load};

/// Each name has its own value, which ends in the number.
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
      - { status: 400, as: unsupported }
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
fn an_added_provider_is_reported_with_its_url() {
    let more = "  local: { url: http://127.0.0.1:11434, auth: none }\nroutes:";
    assert_changed("routes:", more, &["providers.local: added (url: http://127.0.0.1:11434)"]);
    let with = policy(&WHOLE.replacen("routes:", more, 1), 1);
    assert_eq!(changes(&with, &policy(WHOLE, 1)), ["providers.local: removed"]);
}

#[test]
fn endpoints_are_compared_by_name() {
    let b = "      - { url: https://b }\n";
    assert_changed(b, "", &["providers.openai.endpoints[\"b:443\"]: removed"]);
    assert_changed(
        b,
        &format!("{b}      - {{ url: https://d }}\n"),
        &["providers.openai.endpoints[\"d:443\"]: added (url: https://d)"],
    );
    assert_changed(
        "weight: 2",
        "weight: 5",
        &["providers.openai.endpoints[\"a:443\"].weight: 2 -> 5"],
    );
    assert_changed(
        "https://c/openai",
        "https://c/other",
        &["providers.azure.url: https://c/openai -> https://c/other"],
    );
}

#[test]
fn changes_of_a_provider_have_the_old_and_the_new_value() {
    assert_changed(
        "timeouts: { headers: 10s }",
        "timeouts: { headers: 2m, first_byte: 10s, connect: 1s }\n    capacity: { concurrency: 8 }",
        &[
            "providers.openai.timeouts.connect: 2s -> 1s",
            "providers.openai.timeouts.headers: 10s -> 2m",
            "providers.openai.timeouts.first_byte: as `headers` -> 10s",
            "providers.openai.capacity.concurrency: 1024 -> 8",
        ],
    );
    assert_changed(
        "timeouts: { headers: 10s }",
        "timeouts: { headers: 10s }\n    capacity: { adaptive: true, requests: 500/min, tokens: 200k/min, follow_headers: false }",
        &[
            "providers.openai.capacity.adaptive: false -> true",
            "providers.openai.capacity.requests: none -> 500/min, burst 8.33",
            "providers.openai.capacity.tokens: none -> 200000/min, burst 20000",
            "providers.openai.capacity.follow_headers: true -> false",
        ],
    );
    assert_changed(
        "{ gpt: gpt-1 }",
        "{ gpt: gpt-2, o: o-1 }",
        &["providers.openai.models.gpt: gpt-1 -> gpt-2", "providers.openai.models.o: none -> o-1"],
    );
    assert_changed(
        "status: 400",
        "status: 413",
        &["providers.openai.classify[0].status: 400 -> 413"],
    );
    assert_changed("{ /a: 1 }", "{ /a: 2 }", &["providers.azure.rewrite.body.set[\"/a\"]: 1 -> 2"]);
    assert_changed(
        "proxy:3128",
        "other:3128",
        &[
            "providers.openai.proxy: http://proxy:3128 with credentials -> http://other:3128 with credentials",
        ],
    );
    assert_changed("ca: ca.pem", "ca: new.pem", &["providers.openai.tls.ca: ca.pem -> new.pem"]);
}

#[test]
fn changes_of_usage_and_price_have_the_old_and_the_new_value() {
    assert_changed(
        "price: { input: 2.50, output: 10.00 }",
        "price: { input: 0.0025, output: 12, per: 1k }\n    usage: { output: /out }\n    prefill: [gpt-1]",
        &[
            "providers.openai.prefill: none -> gpt-1",
            "providers.openai.usage.output: built in -> /out",
            "providers.openai.price.input: 2.5 -> 0.0025",
            "providers.openai.price.output: 10 -> 12",
            "providers.openai.price.per: 1000000 -> 1000",
        ],
    );
    assert_changed(
        "    price: { input: 2.50, output: 10.00 }\n",
        "",
        &[
            "providers.openai.price.input: 2.5 -> none",
            "providers.openai.price.output: 10 -> none",
            "providers.openai.price.per: 1000000 -> none",
            "providers.openai.price.currency: USD -> none",
        ],
    );
    assert_changed(
        "cost: 5 USD/h",
        "cost: 0.5 USD/min",
        &["retries.slow.budget.cost: 5 USD/h -> 0.5 USD/min"],
    );
}

#[test]
fn values_of_headers_are_not_shown() {
    assert_changed(
        "x-plain: one }, remove: [cookie]",
        "x-plain: two, x-more: three }, remove: [cookie, x-old]",
        &[
            "providers.openai.headers.set.x-plain: changed (not shown)",
            "providers.openai.headers.set.x-more: none -> not shown",
            "providers.openai.headers.remove: cookie -> cookie, x-old",
        ],
    );
    assert_changed(
        ", x-plain: one",
        "",
        &["providers.openai.headers.set.x-plain: not shown -> none"],
    );
}

#[test]
fn a_shared_entry_is_reported_once_under_its_name() {
    assert_changed(
        "max_attempts: 3, initial_delay: 1s",
        "max_attempts: 5, initial_delay: 1s",
        &["retries.slow.max_attempts: 3 -> 5"],
    );
    assert_changed(
        "failure_threshold: 2",
        "failure_threshold: 2, slow_rate: { above: 50% }",
        &[
            "breakers.careful.slow_rate.slower_than: none -> 20s",
            "breakers.careful.slow_rate.above: none -> 0.5",
            "breakers.careful.slow_rate.over: none -> 30s",
            "breakers.careful.slow_rate.min_requests: none -> 20",
        ],
    );
}

#[test]
fn another_name_is_reported_with_the_values_that_differ() {
    assert_changed(
        "retry: slow\n    queue",
        "retry: fast\n    queue",
        &[
            "routes.chat.retry: slow -> fast, budget.cost: 5 USD/h -> none, initial_delay: 1s -> 10ms, max_attempts: 3 -> 2",
        ],
    );
    assert_changed(
        "    retry: slow\nroutes",
        "routes",
        &["providers.azure.retry: slow -> the route's"],
    );
    assert_changed(
        "breaker: careful",
        "breaker: none",
        &["providers.openai.breaker: careful -> none"],
    );
    assert_changed(
        "breaker: careful",
        "breaker: default",
        &["providers.openai.breaker: careful -> default, failure_threshold: 2 -> 5"],
    );
}

#[test]
fn routes_are_reported_with_their_position() {
    let files = "  - { name: files, match: { path: /v1/files }, providers: [azure] }\n";
    assert_changed(files, "", &["routes.files: removed"]);
    let more = "  - { name: new, match: { path: /x }, providers: [azure] }\n";
    assert_changed(
        files,
        &format!("{more}{files}"),
        &["routes.new: added before `files` (providers: azure)"],
    );
    assert_eq!(
        changed(&[(files, ""), ("routes:\n", &format!("routes:\n{files}"))]),
        ["routes.files: moved before `chat`"]
    );
}

#[test]
fn changes_of_a_route_have_the_old_and_the_new_value() {
    assert_changed(
        "[ { name: openai, weight: 3 } ]\n    fallback: [azure]\n    idempotent: always",
        "[ azure, openai ]\n    balance: first\n    timeout: 5s\n    replay: 64KiB",
        &[
            "routes.chat.providers: openai (weight 3) -> azure, openai",
            "routes.chat.balance: latency -> first",
            "routes.chat.fallback: azure -> none",
            "routes.chat.idempotent: always -> auto",
            "routes.chat.timeout: 2m -> 5s",
            "routes.chat.replay: 16MiB -> 64KiB",
        ],
    );
    assert_changed(
        "/v1/chat/**, methods: [POST], headers: { x-tenant: gold }",
        "/v1/*/x, headers: { x-tenant: tin }",
        &[
            "routes.chat.match.path: /v1/chat/** -> /v1/*/x",
            "routes.chat.match.methods: POST -> any",
            "routes.chat.match.headers.x-tenant: changed (not shown)",
        ],
    );
}

#[test]
fn changes_of_a_stream_have_the_old_and_the_new_value() {
    assert_changed(
        "stream: { on_cut: abort, terminal: [\"[DONE]\"] }",
        "stream: { commit: complete, buffer: { bytes: 64KiB, for: 2s }, content: [/text, /more], terminal: [{ /type: end }, /done] }",
        &[
            "routes.chat.stream.commit: by content type -> complete",
            "routes.chat.stream.buffer.bytes: 1MiB -> 64KiB",
            "routes.chat.stream.buffer.for: 10s -> 2s",
            "routes.chat.stream.on_cut: abort -> error_event",
            "routes.chat.stream.content: built in -> /text, /more",
            "routes.chat.stream.terminal: \"[DONE]\" -> /type = \"end\", /done",
        ],
    );
}

#[test]
fn changes_of_a_queue_have_the_old_and_the_new_value() {
    assert_changed(
        "max_wait: 5m, flow: { header: x-tenant }",
        "max_wait: 4m, classes: { gold: 2, tin: 1 }, class: { header: x-class, default: gold }",
        &[
            "queues.patient.max_wait: 5m -> 4m",
            "queues.patient.classes: high 8, normal 4, low 1 -> gold 2, tin 1",
            "queues.patient.class.header: none -> x-class",
            "queues.patient.class.default: normal, else the last of classes -> gold",
            "queues.patient.flow.header: x-tenant -> none",
        ],
    );
    assert_changed(
        "max_wait: 5m",
        "max_wait: 5m, durable: { workers: 4, keep_result: 2d, callback: { allow: [\"https://app.internal/**\"] } }",
        &[
            "queues.patient.durable.workers: 16 -> 4",
            "queues.patient.durable.keep_result: 1d -> 2d",
            "queues.patient.durable.callback.allow: none -> https://app.internal/**",
            "queues.patient.durable.callback.private_addresses: none -> false",
        ],
    );
}

#[test]
fn another_queue_is_reported_with_the_values_that_differ() {
    assert_changed(
        "    queue: patient\n",
        "",
        &[
            "routes.chat.queue: patient -> default, flow.header: x-tenant -> none, max_wait: 5m -> 30s",
        ],
    );
    assert_changed(
        "queue: patient",
        "queue: none\n    allow_override: [priority]",
        &[
            "routes.chat.queue: patient -> none",
            "routes.chat.allow_override: none -> priority",
            "routes.chat.takes_jobs: true -> false",
        ],
    );
}

#[test]
fn an_optional_section_appears_and_disappears_with_its_values() {
    assert_changed(
        "affinity: { header: x-session }",
        "hedge: { extra_load: 2% }",
        &[
            "routes.chat.hedge.extra_load: none -> 0.02",
            "routes.chat.hedge.after: none -> by percentile",
            "routes.chat.affinity.header: x-session -> none",
            "routes.chat.affinity.ttl: 10m -> none",
        ],
    );
}

#[test]
fn actions_of_a_mode_are_compared_key_by_key() {
    let mode = |actions: &str| {
        let text = format!(
            "{WHOLE}degradations: {{ low: {{ when: {{ manual: true }}, actions: [{actions}] }} }}\n"
        );
        policy(&text, 1)
    };
    let before = mode("{ body: { set: { /max: 256 } } }, { respond: { text: busy } }");
    let after = mode("{ body: { set: { /max: 512 } } }, { respond: { text: idle, status: 429 } }");
    let expected = [
        "degradations.low.actions[0].body.set[\"/max\"]: 256 -> 512",
        "degradations.low.actions[1].respond.status: 503 -> 429",
        "degradations.low.actions[1].respond.body: changed (text, 4 bytes)",
    ];
    assert_eq!(changes(&before, &after), expected);
}

#[test]
fn changes_of_the_server_are_reported() {
    assert_changed(
        "connections: 100\n",
        "connections: 100\n  drain_timeout: 1m\n",
        &["server.drain_timeout: 30s -> 1m"],
    );
}

#[test]
fn a_rotated_secret_is_reported_and_never_shown() {
    let found = changes(&policy(WHOLE, 1), &policy(WHOLE, 2));
    let expected = [
        "server.tls.cert: changed (cert.pem)",
        "server.tls.key: changed (key.pem)",
        "providers.azure.auth: changed (api-key from env:AZURE)",
        "providers.openai.endpoints[\"a:443\"].auth: changed (authorization from env:OPENAI)",
        "providers.openai.endpoints[\"b:443\"].auth: changed (authorization from env:OPENAI)",
        "providers.openai.headers.set.x-team: changed (env:TEAM)",
        "providers.openai.tls.ca: changed (ca.pem)",
        "providers.openai.tls.client_cert: changed (cert.pem)",
        "providers.openai.tls.client_key: changed (key.pem)",
        "providers.openai.proxy: changed (http://proxy:3128 with credentials)",
    ];
    assert_eq!(found, expected);
}

#[test]
fn other_references_are_reported() {
    assert_changed(
        "\"${env:OPENAI}\"",
        "[\"${env:OPENAI}\", \"${env:SECOND}\"]",
        &[
            "providers.openai.endpoints[\"a:443\"].auth: authorization from env:OPENAI -> authorization from env:OPENAI, env:SECOND",
            "providers.openai.endpoints[\"b:443\"].auth: authorization from env:OPENAI -> authorization from env:OPENAI, env:SECOND",
        ],
    );
    assert_changed(
        "{ url: https://b }",
        "{ url: https://b, auth: passthrough }",
        &[
            "providers.openai.endpoints[\"b:443\"].auth: authorization from env:OPENAI -> passthrough",
            "routes.chat.takes_jobs: true -> false",
            "routes.all.takes_jobs: true -> false",
        ],
    );
}

/// Edits of the text, each independent of the others.
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
    fn equal_policies_have_no_changes_and_others_some_without_a_secret(
        one in any::<u32>(), two in any::<u32>(), secrets in 1u8..3,
    ) {
        let edited = |bits: u32| {
            let chosen = EDITS.iter().enumerate().filter(|(index, _)| bits & (1 << index) != 0);
            chosen.fold(WHOLE.to_owned(), |text, (_, (from, to))| text.replacen(from, to, 1))
        };
        let (one, two) = (edited(one), edited(two));
        prop_assert_eq!(changes(&policy(&one, 1), &policy(&one, 1)), Vec::<String>::new());
        let found = changes(&policy(&one, 1), &policy(&two, secrets));
        prop_assert_eq!(found.is_empty(), one == two && secrets == 1);
        prop_assert!(!found.join("\n").contains("hush"), "{:?}", found);
    }
}
