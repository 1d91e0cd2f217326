//! The unmodified OpenAI SDK for Python, with its `base_url` set to the sidecar and its own retries
//! disabled, observes the same responses as an application.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use crate::fixtures::policy;
use crate::support::{Behaviour, Origin, Request, Sidecar};

const ORDINARY: usize = 200;
const STREAMED: usize = 50;

/// Faults of the first provider, in turn.
fn faults() -> [Behaviour; 5] {
    [
        Behaviour::status(500, &[]),
        Behaviour::status(503, &[]),
        Behaviour::status(429, &[("retry-after", "1")]),
        Behaviour::RefuseConnections,
        Behaviour::Reset,
    ]
}

fn is_streaming(request: &Request) -> bool {
    let body: serde_json::Value = serde_json::from_slice(&request.body).unwrap_or_default();
    body["stream"] == true
}

fn python() -> String {
    std::env::var("OUTRIGGER_TEST_PYTHON").unwrap_or_else(|_| {
        panic!(
            "OUTRIGGER_TEST_PYTHON is not set: expected the path of a Python that has the \
             `openai` package (tests/run makes one in target/venv)"
        )
    })
}

#[test]
fn the_openai_sdk_sees_no_error_while_the_first_provider_fails_in_every_way() {
    let first = Origin::start(Behaviour::status(500, &[]));
    let second = Origin::start(Behaviour::custom(|request| match is_streaming(request) {
        true => Behaviour::sse(5),
        false => Behaviour::Chat,
    }));
    let providers = [
        ("first", &*first.url(), "auth: { bearer: \"${env:FIRST_KEY}\" }"),
        ("second", &*second.url(), "auth: { bearer: \"${env:SECOND_KEY}\" }"),
    ];
    let route = "routes: [ { name: chat, match: { path: /v1/chat/** }, providers: [first], \
                 fallback: [second], idempotent: always } ]\n";
    let builder = Sidecar::builder().policy("policy", &policy(&providers, route));
    let sidecar = builder.env("FIRST_KEY", "one").env("SECOND_KEY", "two").start();

    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/sdk/openai_calls.py");
    let mut child = Command::new(python())
        .arg(script)
        .arg(sidecar.url("/v1"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("OUTRIGGER_TEST_PYTHON names a Python that can be started");
    let mut input = child.stdin.take().expect("its input is piped");
    let mut output = BufReader::new(child.stdout.take().expect("its output is piped")).lines();
    let mut results = Vec::new();
    for i in 0..ORDINARY + STREAMED {
        first.set(faults()[i % faults().len()].clone());
        let kind = if i % 5 == 4 { "streamed" } else { "ordinary" };
        writeln!(input, "{kind}").expect("the SDK process reads its input");
        let result = output.next().expect("the SDK process runs").expect("a line of text");
        results.push(format!("{kind}: {result}"));
    }
    drop(input);
    assert!(child.wait().expect("the SDK process exits").success());
    let errors: Vec<_> = results.iter().filter(|result| !result.ends_with(": ok")).collect();
    assert!(errors.is_empty(), "{} errors: {errors:#?}", errors.len());
    let streamed = results.iter().filter(|result| result.starts_with("streamed")).count();
    assert_eq!((results.len() - streamed, streamed), (ORDINARY, STREAMED));
    assert_eq!(second.count(), ORDINARY + STREAMED);
    assert!(first.count() > 0, "the first provider got no request");
}
