//! Names of models are mapped wherever a body has one, or the request is rejected with the reason.

use std::io::Write;

use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Value, json};

use crate::fixtures::{CHAT, policy, problem_type, route, single_worker};
use crate::support::{Behaviour, Call, Ending, Origin, Sidecar, Stream};

fn start(a: &Origin) -> Sidecar {
    let map = "auth: none, models: { small: theirs }";
    single_worker(&policy(&[("a", &a.url(), map)], &route("providers: [a], replay: 4KiB")))
}

fn json_body(body: &str) -> Call {
    Call::post(CHAT, body).header("content-type", "application/json")
}

fn gzip(body: &str) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(body.as_bytes()).expect("memory");
    encoder.finish().expect("memory")
}

fn encoded(body: impl AsRef<[u8]>) -> Call {
    let call = Call::post(CHAT, body.as_ref()).header("content-encoding", "gzip");
    call.header("content-type", "application/json")
}

fn form(parts: &[(&str, &str)], file: &str) -> Call {
    let field = |(name, value): &(&str, &str)| {
        format!("--b\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n")
    };
    let fields: String = parts.iter().map(field).collect();
    let body = format!(
        "{fields}--b\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a.wav\"\r\n\r\n{file}\r\n--b--\r\n"
    );
    let call = Call::post("/v1/audio/transcriptions", body);
    call.header("content-type", "multipart/form-data; boundary=b")
}

#[test]
fn the_model_is_mapped_in_every_form_of_a_body() {
    let a = Origin::start(Behaviour::Chat);
    let sidecar = start(&a);
    for body in [
        r#"{"messages":[],"model":"small"}"#,
        "\u{feff}{\"model\":\"small\"}",
        r#"{"model":"other","messages":[],"model":"small"}"#,
        r#"{"mod\u0065l":"small"}"#,
        r#"{"messages":[{"model":"x"}],"model" : "small" }"#,
    ] {
        assert_eq!(sidecar.send(&json_body(body)).status, 200, "{body}");
        let sent = a.last().body;
        let sent = std::str::from_utf8(&sent).expect("text").trim_start_matches('\u{feff}');
        let sent: Value = serde_json::from_str(sent).expect("JSON");
        assert_eq!(sent["model"], "theirs", "{body}");
    }
    for file in ["RIFF", &"x".repeat(100 << 10)] {
        let call = form(&[("language", "en"), ("model", "small")], file);
        assert_eq!(sidecar.send(&call).status, 200);
        let sent = String::from_utf8(a.last().body).expect("text");
        assert!(sent.contains("name=\"model\"\r\n\r\ntheirs\r\n--b"), "{}", &sent[..300]);
        assert!(sent.contains(file));
    }
}

#[test]
fn a_compressed_body_is_decoded_for_a_provider_that_changes_it_and_untouched_otherwise() {
    let (a, b) = (Origin::start(Behaviour::Chat), Origin::start(Behaviour::status(503, &[])));
    let providers =
        [("a", &*a.url(), "auth: none, models: { small: theirs }"), ("b", &*b.url(), "auth: none")];
    let rest = route("providers: [b], fallback: [a], idempotent: always");
    let sidecar = single_worker(&policy(&providers, &rest));
    let body = r#"{"messages":[],"model":"small"}"#;
    assert_eq!(sidecar.send(&encoded(gzip(body))).status, 200);
    let (untouched, changed) = (b.last(), a.last());
    assert_eq!(untouched.body, gzip(body));
    assert_eq!(untouched.headers.get("content-encoding"), Some("gzip"));
    assert_eq!(changed.headers.get("content-encoding"), None);
    assert_eq!(String::from_utf8(changed.body).expect("text"), body.replace("small", "theirs"));
    let record = sidecar.wait_for_access(1).remove(0);
    assert_eq!(record["bytes_in"], gzip(body).len(), "{record}");
    let other = r#"{"messages":[],"model":"other"}"#;
    assert_eq!(sidecar.send(&encoded(gzip(other))).status, 200);
    assert_eq!(a.last().body, gzip(other), "nothing in it is mapped");
    assert_eq!(a.last().headers.get("content-encoding"), Some("gzip"));
}

#[test]
fn a_stream_that_a_compressed_body_requests_is_read() {
    let a = Origin::start(Stream::chat(3).ending(Ending::Cut));
    let b = Origin::start(Stream::chat(3));
    let providers = [("a", &*a.url(), "auth: none"), ("b", &*b.url(), "auth: none")];
    let rest =
        route("providers: [a], fallback: [b], idempotent: always, stream: { commit: complete }");
    let sidecar = single_worker(&policy(&providers, &rest));
    let body = gzip(r#"{"messages":[],"model":"small","stream":true}"#);
    let response = sidecar.send(&encoded(&body).header("accept-encoding", "gzip"));
    assert!(response.text().contains("[DONE]"), "{}", response.text());
    assert_eq!(b.last().headers.get("accept-encoding"), Some("identity"));
    let body = gzip(r#"{"messages":[],"model":"small"}"#);
    b.set(Behaviour::Chat);
    a.set(Behaviour::Chat);
    assert_eq!(sidecar.send(&encoded(&body).header("accept-encoding", "gzip")).status, 200);
    assert_eq!(a.last().headers.get("accept-encoding"), Some("gzip"), "it requests no stream");
}

#[test]
fn a_request_whose_model_cannot_be_known_is_rejected_with_the_reason() {
    let a = Origin::start(Behaviour::Chat);
    let sidecar = start(&a);
    let long = "x".repeat(100 << 10);
    let late = json!({ "messages": [long], "model": "small" }).to_string();
    for (call, reason) in [
        (json_body(&late), "raise the route's `replay`"),
        (form(&[], &long), "raise the route's `replay`"),
        (json_body("\u{1f}...").header("content-encoding", "gzip"), "Content-Encoding"),
        (json_body("...").header("content-encoding", "br"), "Content-Encoding"),
        (json_body("...").header("content-encoding", "compress"), "none of gzip, deflate, br"),
        (json_body("...").header("content-encoding", "gzip, gzip"), "none of gzip, deflate, br"),
        (encoded(gzip(&late)), "larger than the route's `replay`"),
        (encoded(&long), "was not kept whole"),
    ] {
        let response = sidecar.send(&call);
        assert_eq!(
            (response.status, problem_type(&response).as_str()),
            (413, "body-not-rewritable")
        );
        assert!(response.text().contains(reason), "{}", response.text());
    }
    assert_eq!(a.count(), 0);
    for call in [
        form(&[("purpose", "batch")], &long),
        Call::post("/v1/upload", long.clone()).header("content-type", "application/octet-stream"),
        json_body("{}").header("content-encoding", "identity"),
    ] {
        assert_eq!(sidecar.send(&call).status, 200, "it names no model");
    }
    let plain = single_worker(&policy(&[("a", &a.url(), "auth: none")], &route("providers: [a]")));
    let call = json_body("...").header("content-encoding", "gzip");
    assert_eq!(plain.send(&call).status, 200, "nothing is mapped");
}
