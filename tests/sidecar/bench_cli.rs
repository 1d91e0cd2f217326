//! `outrigger bench` against a running sidecar: exit codes, lists, baselines and reports.

use std::fs;
use std::path::Path;
use std::process::Output;
use std::time::Duration;

use serde_json::Value;

use crate::fixtures::{cli_command, policy};
use crate::jobs::data_dir;
use crate::support::{Behaviour, Origin, Sidecar};

/// Of the whole response.
const DELAY: Duration = Duration::from_millis(20);

/// A benchmark whose thresholds hold, and one with a threshold that is broken.
fn start(origin: &Origin, data: &Path) -> Sidecar {
    let benchmark = |threshold: &str| {
        format!(
            "target: {{ provider: a }}, requests: [ {{ path: /v1/chat/completions, json: \
             {{ model: m, messages: [] }} }} ], load: {{ rate: 40/s, for: 1s }}, \
             thresholds: [\"{threshold}\"]"
        )
    };
    let (good, bad) = (benchmark("p95 < 20s"), benchmark("p50 < 1ms"));
    let rest = format!(
        "routes: [ {{ name: all, providers: [a] }} ]\n\
         benchmarks:\n  chat-latency: {{ {good} }}\n  too-strict: {{ {bad} }}\n"
    );
    let yaml = policy(&[("a", &origin.url(), ""), ("b", &origin.url(), "")], &rest);
    Sidecar::builder().policy("policy", &yaml).workers(1).data(data).start()
}

/// Runs `outrigger bench`, and returns its exit code, standard output and standard error.
#[track_caller]
fn bench(sidecar: &Sidecar, arguments: &[&str]) -> (i32, String, String) {
    let arguments: Vec<_> = ["bench"].iter().chain(arguments).copied().collect();
    let output = cli_command(sidecar, &arguments).env("COLUMNS", "200").output();
    let Output { status, stdout, stderr } = output.expect("the command can be started");
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
    (status.code().expect("an exit code"), text(stdout), text(stderr))
}

/// Runs a benchmark that is done, and returns its report.
#[track_caller]
fn done(sidecar: &Sidecar, name: &str) -> Value {
    let (_, text, error) = bench(sidecar, &["run", name, "--quiet", "--json"]);
    let report: Value =
        serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}{error}"));
    assert_eq!(report["state"], "done", "{report}");
    report
}

fn id(report: &Value) -> String {
    report["id"].as_str().expect("an id").to_owned()
}

#[test]
fn the_exit_code_says_whether_the_thresholds_hold() {
    let (data, origin) = (data_dir(), Origin::start(Behaviour::Chat.after(DELAY)));
    let sidecar = start(&origin, data.path());
    let (code, text, error) = bench(&sidecar, &["run", "chat-latency"]);
    assert_eq!(code, 0, "{text}{error}");
    assert!(text.contains("✓ p95 < 20s") && text.contains("calls         40"), "{text}");
    assert!(error.contains("chat-latency  ░"), "no progress: {error}");
    let junit = data.path().join("bench.xml");
    let file = junit.to_str().expect("UTF-8");
    let (code, text, error) =
        bench(&sidecar, &["run", "too-strict", "--quiet", "--github", "--junit", file]);
    assert_eq!(code, 99, "{text}{error}");
    assert!(text.contains("✗ p50 < 1ms") && error.is_empty(), "{text}{error}");
    let annotation =
        text.lines().find(|line| line.starts_with("::error file=")).unwrap_or_default();
    assert!(annotation.contains(",line=") && annotation.contains("too-strict"), "{text}");
    let xml = fs::read_to_string(junit).expect("the report");
    assert!(xml.contains(r#"name="p50 &lt; 1ms"><failure"#), "{xml}");
}

#[test]
fn a_run_that_is_worse_than_the_baseline_exits_1() {
    let (data, origin) = (data_dir(), Origin::start(Behaviour::Chat.after(DELAY)));
    let sidecar = start(&origin, data.path());
    let first = id(&done(&sidecar, "chat-latency"));
    let (code, text, _) = bench(&sidecar, &["baseline", "set", "chat-latency"]);
    assert!(code == 0 && text.contains(&first), "{text}");
    origin.set(Behaviour::Chat.after(10 * DELAY));
    let second = done(&sidecar, "chat-latency");
    assert_eq!(second["baseline_comparison"]["verdict"], "worse", "{second}");
    let (code, text, _) = bench(&sidecar, &["compare", "baseline", &id(&second)]);
    assert!(code == 1 && text.contains("✗ B is worse than A"), "{code} {text}");
    let (code, text, _) = bench(&sidecar, &["compare", &id(&second), &first]);
    assert!(code == 0 && text.contains("better"), "{code} {text}");
    let (_, text, _) = bench(&sidecar, &["history", "chat-latency"]);
    let runs: Vec<_> = text.lines().skip(1).collect();
    assert!(runs.len() == 2 && runs[0].contains("✗ worse") && runs[1].contains(&first), "{text}");
    let (_, text, _) = bench(&sidecar, &["list"]);
    assert!(text.contains(&first) && text.contains("provider a"), "{text}");
    let (code, text, _) = bench(&sidecar, &["baseline", "clear", "chat-latency"]);
    assert!(code == 0 && text.contains("no baseline"), "{text}");
}

#[test]
fn a_report_is_written_from_the_sidecar_and_from_a_file() {
    let (data, origin) = (data_dir(), Origin::start(Behaviour::Chat.after(DELAY)));
    let sidecar = start(&origin, data.path());
    let report = done(&sidecar, "chat-latency");
    let [json, html] = ["run.json", "run.html"].map(|name| data.path().join(name));
    fs::write(&json, report.to_string()).expect("written");
    for run in [id(&report).as_str(), json.to_str().expect("UTF-8")] {
        let (code, text, error) =
            bench(&sidecar, &["report", run, "--html", html.to_str().expect("UTF-8")]);
        assert_eq!(code, 0, "{text}{error}");
        let page = fs::read_to_string(&html).expect("the report");
        assert!(
            page.contains("<svg") && page.contains("chat-latency") && !page.contains("<script")
        );
        fs::remove_file(&html).expect("removed");
    }
}

#[test]
fn wrong_names_are_explained() {
    let (data, origin) = (data_dir(), Origin::start(Behaviour::Chat));
    let sidecar = start(&origin, data.path());
    for (arguments, expected) in [
        (&["run", "chat-latncy"][..], "did you mean `chat-latency`?"),
        (&["baseline", "show", "x"], "it has `chat-latency` or `too-strict`"),
        (&["show", "01K0000000000000000000000"], "no run"),
        (&["report", "absent.json", "--html", "x.html"], "absent.json: "),
        (&["compare", "baseline", "baseline"], "one side of a comparison is a run"),
        (&["ab", "chat-latency", "--a", "x", "--b", "provider:a"], "expected route:NAME"),
    ] {
        let (code, text, error) = bench(&sidecar, arguments);
        assert!(code == 2 && error.contains(expected), "{arguments:?}: {code} {text}{error}");
    }
}
