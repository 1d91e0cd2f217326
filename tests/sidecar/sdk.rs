//! OpenAI's unmodified SDKs for Python and Node, with their `base_url` set to the sidecar and their
//! own retries disabled, while two providers fail by turns. `tests/drill clients` does the same with
//! other libraries.

use std::io::{BufRead, BufReader, Lines, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use serde_json::Value;

use crate::fixtures::{GENEROUS, policy, route};
use crate::support::{Behaviour, Ending, Origin, Request, Sidecar, Stream};

const WORDS: usize = 5;

/// A process that makes the calls of one SDK (`tests/sdk/`).
struct Calls {
    child: Child,
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
}

fn is_streaming(request: &Request) -> bool {
    let body: Value = serde_json::from_slice(&request.body).unwrap_or_default();
    body["stream"] == true
}

fn healthy() -> Behaviour {
    Behaviour::custom(|request| match is_streaming(request) {
        true => Behaviour::sse(WORDS),
        false => Behaviour::Chat,
    })
}

/// The opening of a stream and then this ending, or that part of a document.
fn before_content(ending: Ending, document: &Behaviour) -> Behaviour {
    let document = document.clone();
    Behaviour::custom(move |request| match is_streaming(request) {
        true => Stream::chat(WORDS).first(1).ending(ending).into(),
        false => document.clone(),
    })
}

fn faults() -> [(&'static str, Behaviour); 5] {
    [
        ("429", Behaviour::status(429, &[])),
        ("500", Behaviour::status(500, &[])),
        ("reset", Behaviour::Reset),
        ("cut before content", before_content(Ending::Cut, &Behaviour::HalfBody)),
        ("stall before content", before_content(Ending::Hang, &Behaviour::HeadersThenSilence)),
    ]
}

/// The value of a variable that `tests/run` sets.
fn variable(name: &str, what: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set: expected {what}"))
}

fn python(client: &str, url: &str) -> Calls {
    let what = "the path of a Python with the package `openai` (tests/run makes target/venv)";
    let mut command = Command::new(variable("OUTRIGGER_TEST_PYTHON", what));
    Calls::start(command.arg(sdk("calls.py")), client, url)
}

fn node(client: &str, url: &str) -> Calls {
    let what =
        "a folder whose `node_modules` has the package `openai` (tests/run makes target/node)";
    let mut command = Command::new("node");
    command.current_dir(variable("OUTRIGGER_TEST_NODE", what));
    Calls::start(command.arg(sdk("calls.mjs")), client, url)
}

fn sdk(file: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/sdk").join(file)
}

impl Calls {
    fn start(command: &mut Command, client: &str, url: &str) -> Calls {
        command.args([client, url]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("the SDK's interpreter can be started");
        let input = child.stdin.take().expect("its input is piped");
        let output = BufReader::new(child.stdout.take().expect("its output is piped")).lines();
        Calls { child, input, output }
    }

    fn make(&mut self, style: &str) -> Value {
        writeln!(self.input, "{style}").expect("the SDK's process reads its input");
        let line = self.output.next().expect("the SDK's process runs").expect("a line of text");
        serde_json::from_str(&line).expect("JSON")
    }

    /// Closes the input and waits for the exit.
    fn end(mut self) {
        drop(self.input);
        assert!(self.child.wait().expect("the SDK's process exits").success());
    }
}

/// Two providers, and a sidecar with little patience for silence. Each call meets a fault, which no
/// ordinary budget of retries is made for.
fn start() -> ([Origin; 2], Sidecar) {
    let providers = [Origin::start(healthy()), Origin::start(healthy())];
    let limits = "timeouts: { headers: 1s, idle: 1s }";
    let [first, second] = providers.each_ref().map(|provider| provider.url());
    let named = [("first", &*first, limits), ("second", &*second, limits)];
    let rest = route("providers: [first], fallback: [second], idempotent: always");
    (providers, Sidecar::start(&policy(&named, &(rest + GENEROUS))))
}

#[track_caller]
fn sees_no_error_while_providers_fail_by_turns(client: &str, start_calls: fn(&str, &str) -> Calls) {
    let (providers, sidecar) = start();
    let mut calls = start_calls(client, &sidecar.url(""));
    let words: String = (0..WORDS).map(|n| format!("word{n} ")).collect();
    for (fault, behaviour) in faults() {
        for (style, text) in [("ordinary", "hello there"), ("streamed", &*words)] {
            for bad in [0, 1] {
                providers[bad].set(behaviour.clone());
                providers[1 - bad].set(healthy());
                let result = calls.make(style);
                assert_eq!(result["error"], Value::Null, "{style}, {fault} at {bad}");
                assert_eq!(result["text"], text, "{style}, {fault} at {bad}");
            }
        }
    }
    for provider in &providers {
        assert!(provider.count() > 0, "a provider got no request");
        provider.set(Stream::chat(WORDS).first(3).ending(Ending::Cut));
    }
    let result = calls.make("streamed");
    assert_eq!(result["text"], "word0 word1 ", "{result}");
    assert_eq!(result["is_own"], true, "not an error of the SDK: {result}");
    calls.end();
}

#[test]
fn the_openai_sdk_sees_no_error_while_providers_fail_by_turns() {
    sees_no_error_while_providers_fail_by_turns("openai", python);
}

#[test]
fn the_asynchronous_openai_sdk_sees_no_error_while_providers_fail_by_turns() {
    sees_no_error_while_providers_fail_by_turns("openai-async", python);
}

#[test]
fn the_openai_sdk_for_node_sees_no_error_while_providers_fail_by_turns() {
    sees_no_error_while_providers_fail_by_turns("openai-node", node);
}
