//! Names of models are mapped wherever a body has one, or the request is rejected with the reason.

use serde_json::{Value, json};

use crate::fixtures::{CHAT, policy, problem_type, route, single_worker};
use crate::support::{Behaviour, Call, Origin, Sidecar};

fn start(a: &Origin) -> Sidecar {
    let map = "auth: none, models: { small: theirs }";
    single_worker(&policy(&[("a", &a.url(), map)], &route("providers: [a], replay: 4KiB")))
}

fn json_body(body: &str) -> Call {
    Call::post(CHAT, body).header("content-type", "application/json")
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
