//! Headers, paths and bodies on the way through the sidecar: end-to-end and hop-by-hop fields
//! (RFC 9110, 7.6), rewrites, and route matching.

use serde_json::json;

use crate::fixtures::{CHAT, GENEROUS, chat, chat_for, is_from, policy, route, single_worker};
use crate::support::{Behaviour, Call, Headers, Origin, Sidecar};

fn start_with_options(provider: &str, rest: &str) -> (Origin, Sidecar) {
    let a = Origin::start(Behaviour::Chat);
    let sidecar =
        single_worker(&policy(&[("a", &a.url(), provider)], &(route("providers: [a]") + rest)));
    (a, sidecar)
}

fn all(headers: &Headers, name: &str) -> Vec<String> {
    headers.all(name).map(str::to_owned).collect()
}

#[test]
fn hop_by_hop_headers_of_a_request_are_removed() {
    let (a, sidecar) = start_with_options("", "");
    let call = Call::get("/thing")
        .header("connection", "keep-alive, X-First")
        .header("Connection", "x-second,x-third")
        .header("x-first", "1")
        .header("x-second", "2")
        .header("X-Second", "3")
        .header("x-third", "4")
        .header("keep-alive", "timeout=5")
        .header("proxy-connection", "keep-alive")
        .header("proxy-authorization", "Basic eDp5")
        .header("te", "gzip")
        .header("upgrade", "h2c")
        .header("x-kept", "5")
        .header("x-kept", "6");
    assert_eq!(sidecar.send(&call).status, 200);
    let received = a.last().headers;
    for name in [
        "x-first",
        "x-second",
        "x-third",
        "keep-alive",
        "proxy-connection",
        "proxy-authorization",
        "te",
        "upgrade",
    ] {
        assert_eq!(received.get(name), None, "{name}");
    }
    assert!(!all(&received, "connection").concat().to_lowercase().contains("x-"), "{received:?}");
    assert_eq!(all(&received, "x-kept"), ["5", "6"]);
}

#[test]
fn hop_by_hop_headers_of_a_response_are_removed() {
    let (a, sidecar) = start_with_options("", "");
    let text = "HTTP/1.1 200 OK\r\nconnection: x-first\r\nConnection: close, x-second\r\n\
                x-first: 1\r\nx-second: 2\r\nkeep-alive: timeout=5\r\nproxy-authenticate: Basic\r\n\
                set-cookie: a=1\r\nset-cookie: b=2\r\ncontent-length: 2\r\n\r\nok";
    a.set(Behaviour::Raw(text.as_bytes().to_vec()));
    let mut client = sidecar.client();
    let response = client.send(&Call::get("/thing"));
    assert_eq!((response.status, response.text().as_str()), (200, "ok"));
    for name in ["x-first", "x-second", "keep-alive", "proxy-authenticate"] {
        assert_eq!(response.header(name), None, "{name}");
    }
    assert_eq!(all(&response.headers, "set-cookie"), ["a=1", "b=2"]);
    a.set(Behaviour::Chat);
    assert_eq!(
        client.send(&chat()).status,
        200,
        "the `close` of the provider closed the downstream connection"
    );
}

#[test]
fn the_host_header_is_that_of_the_provider() {
    let (a, sidecar) = start_with_options("", "");
    let call = chat().header("host", "api.example.com:1234");
    assert_eq!(sidecar.send(&call).status, 200);
    assert_eq!(all(&a.last().headers, "host"), [a.address().to_string()]);
}

#[test]
fn forwarding_headers_are_added_only_if_the_policy_says_so() {
    let names = ["via", "forwarded", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto"];
    let call = chat().header("x-forwarded-for", "10.0.0.1").header("host", "app.local");
    let (a, sidecar) = start_with_options("", "");
    assert_eq!(sidecar.send(&call).status, 200);
    let received = names.map(|name| all(&a.last().headers, name));
    assert_eq!(received, [vec![], vec![], vec!["10.0.0.1".to_owned()], vec![], vec![]]);

    let (a, sidecar) = start_with_options("", "server: { forwarded: append }\n");
    assert_eq!(sidecar.send(&call).status, 200);
    let received = names.map(|name| all(&a.last().headers, name).join(", "));
    assert!(received[0].starts_with("1.1 "), "{received:?}");
    let forwarded = received[1].to_lowercase();
    for part in ["for=127.0.0.1", "host=\"app.local\"", "proto=http"] {
        assert!(forwarded.contains(part), "{forwarded}");
    }
    assert_eq!(received[2..], ["10.0.0.1, 127.0.0.1", "app.local", "http"]);
}

#[test]
fn a_policy_sets_and_removes_headers() {
    let more = "headers: { set: { x-team: blue, User-Agent: ours }, remove: [x-noise, accept] }";
    let (a, sidecar) = start_with_options(more, "");
    let call = chat()
        .header("x-noise", "1")
        .header("X-Noise", "2")
        .header("accept", "*/*")
        .header("user-agent", "theirs")
        .header("x-team", "red");
    assert_eq!(sidecar.send(&call).status, 200);
    let received = a.last().headers;
    assert_eq!(["x-noise", "accept"].map(|name| received.get(name)), [None, None]);
    assert_eq!(all(&received, "x-team"), ["blue"]);
    assert_eq!(all(&received, "user-agent"), ["ours"]);
}

#[test]
fn a_model_name_is_mapped_for_each_provider() {
    let (a, b) = (Origin::start(Behaviour::status(500, &[])), Origin::start(Behaviour::Chat));
    let providers = [
        ("a", &*a.url(), "models: { small: gpt-4o-mini }"),
        ("b", &*b.url(), "models: { small: claude-haiku, large: claude-opus }"),
    ];
    let route = route("providers: [a, b], balance: first, idempotent: always");
    let sidecar = single_worker(&policy(&providers, &(route + GENEROUS)));
    let text = r#"{ "messages": [{"content": "the \"model\": \"small\""}], "model" : "small", "n": 1.10 }"#;
    let response = sidecar.send(&Call::post(CHAT, text).header("content-type", "application/json"));
    assert_eq!(response.json()["model"], "claude-haiku", "not the model name of the provider");
    let received =
        [a.last(), b.last()].map(|request| String::from_utf8_lossy(&request.body).into_owned());
    assert_eq!(received[0], text.replace(r#": "small","#, r#": "gpt-4o-mini","#));
    assert_eq!(received[1], text.replace(r#": "small","#, r#": "claude-haiku","#));
    assert_eq!(b.last().headers.get("content-length"), Some(&*received[1].len().to_string()));
    assert_eq!(sidecar.send(&chat_for("large")).json()["model"], "claude-opus");
    assert_eq!(sidecar.send(&chat_for("unknown")).json()["model"], "unknown");
}

#[test]
fn a_path_is_stripped_then_prefixed_then_rewritten() {
    let a = Origin::start(Behaviour::Chat);
    let url = format!("{}/base", a.url());
    for (more, strip, sent, received) in [
        ("", "", "/v1/chat?x=1&y=%2F", "/base/v1/chat?x=1&y=%2F"),
        ("", ", strip_prefix: /openai", "/openai/v1/chat?x=1", "/base/v1/chat?x=1"),
        ("", ", strip_prefix: /openai", "/other/v1/chat", "/base/other/v1/chat"),
        (
            "rewrite: { path: { from: \"^/base/v1/(.*)$\", to: \"/deployments/$1\" } }",
            "",
            "/v1/chat?x=1",
            "/deployments/chat?x=1",
        ),
        ("", "", "/a%2Fb/../c//d", "/base/a%2Fb/../c//d"),
    ] {
        let sidecar =
            single_worker(&policy(&[("a", &url, more)], &route(&format!("providers: [a]{strip}"))));
        assert_eq!(sidecar.send(&Call::get(sent)).status, 200);
        assert_eq!(a.last().path, received, "{more}{strip}");
    }
}

#[test]
fn values_in_a_body_are_set_and_removed() {
    let more = "rewrite: { body: { set: { /stream_options/include_usage: true, /n: 2 }, remove: [/user] } }";
    let (a, sidecar) = start_with_options(more, "");
    let body = json!({ "model": "m", "stream_options": { "other": 1 }, "user": "u-1", "n": 1 });
    let response = sidecar.send(&Call::json(CHAT, &body));
    assert_eq!(response.status, 200, "{}", response.text());
    let received: serde_json::Value = serde_json::from_slice(&a.last().body).expect("JSON");
    let options = json!({ "other": 1, "include_usage": true });
    assert_eq!(received, json!({ "model": "m", "stream_options": options, "n": 2 }));
}

#[test]
fn the_first_matching_route_serves_a_request() {
    let origins = [(); 4].map(|()| Origin::start(Behaviour::Chat));
    let urls = origins.each_ref().map(Origin::url);
    let names = ["a", "b", "c", "d"];
    let providers: Vec<_> =
        names.iter().zip(&urls).map(|(name, url)| (*name, &**url, "")).collect();
    let routes = "routes:\n\
        - { name: gold, match: { headers: { x-tenant: gold } }, providers: [a] }\n\
        - { name: chat, match: { path: /v1/chat/**, methods: [POST] }, providers: [b] }\n\
        - { name: host, match: { host: \"*.local\" }, providers: [c] }\n\
        - { name: off, enabled: false, providers: [a] }\n\
        - { name: rest, providers: [d] }\n";
    let sidecar = single_worker(&policy(&providers, routes));
    for (call, origin) in [
        (chat().header("x-tenant", "gold"), 0),
        (chat().header("x-tenant", "lead"), 1),
        (Call::get(CHAT), 3),
        (Call::get("/x").header("host", "app.local:80"), 2),
        (Call::get("/v1/chat"), 3),
    ] {
        let response = sidecar.send(&call);
        assert!(
            is_from(&response, &origins[origin]),
            "{call:?} went to {:?}",
            response.header("x-origin")
        );
    }
}
