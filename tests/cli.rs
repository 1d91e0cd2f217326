//! The subcommands that need no sidecar: their output and their exit codes.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;
use tempfile::TempDir;

const SECRET: &str = "hush-0815-do-not-print";

const GOOD: &str = r#"version: 1
providers:
  one: { url: https://one.test, auth: { bearer: "${env:CLI_TEST_KEY}" }, timeouts: { connect: 3s }, capacity: { requests: 500/min } }
  two: { url: https://two.test, auth: none }
  spare: { url: https://spare.test, auth: none, price: { input: 2.50, output: 10 } }
routes:
  - name: chat
    match: { path: /v1/chat/**, methods: [POST] }
    providers: [ { name: one, weight: 3 }, two ]
    fallback: [spare]
    idempotent: always
    timeout: 7s
    stream: { on_cut: abort }
  - { name: gold, match: { path: /v1/files, headers: { x-tenant: gold } }, providers: [two] }
"#;

/// The output of a command and its exit code.
struct Finished {
    code: i32,
    out: String,
    err: String,
}

fn policy(text: &str) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("p.yaml"), text).unwrap();
    folder
}

#[track_caller]
fn outrigger(arguments: &[&str]) -> Finished {
    let mut command = Command::new(env!("CARGO_BIN_EXE_outrigger"));
    command.args(arguments).env_remove("OUTRIGGER_POLICIES").env("CLI_TEST_KEY", SECRET);
    let output = command.output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    let (out, err) = (text(output.stdout), text(output.stderr));
    assert!(!out.contains(SECRET) && !err.contains(SECRET), "a secret was printed:\n{out}\n{err}");
    Finished { code: output.status.code().unwrap(), out, err }
}

#[track_caller]
fn check(folder: &Path, format: &str) -> Finished {
    outrigger(&["check", folder.to_str().unwrap(), "--format", format])
}

#[track_caller]
fn explain(request: &[&str]) -> Finished {
    let folder = policy(GOOD);
    let path = folder.path().to_str().unwrap();
    outrigger(&[&["explain"], request, &["--policies", path]].concat())
}

/// The number of the first line that contains all of `parts`.
#[track_caller]
fn line(text: &str, parts: &[&str]) -> usize {
    let matches = |line: &str| parts.iter().all(|part| line.contains(part));
    text.lines().position(matches).unwrap_or_else(|| panic!("no line with {parts:?} in\n{text}"))
}

fn bad() -> TempDir {
    // A misspelt key, and a credential in an unknown key.
    policy(&GOOD.replace("idempotent: always", "idempotant: always").replace(
        "\"${env:CLI_TEST_KEY}\" }",
        &format!("\"${{env:CLI_TEST_KEY}}\", password: {SECRET} }}"),
    ))
}

#[test]
fn a_valid_policy_prints_one_summary_line() {
    let folder = policy(GOOD);
    let finished = check(folder.path(), "human");
    assert_eq!((finished.code, finished.err.as_str()), (0, ""));
    assert_eq!(finished.out.lines().count(), 1, "{}", finished.out);
    line(&finished.out, &["ok: 1 file", "3 providers", "2 routes"]);
    let hash = finished.out.split_whitespace().last().unwrap();
    assert!(hash.len() == 12 && hash.chars().all(|c| c.is_ascii_hexdigit()), "{}", finished.out);
}

#[test]
fn one_file_of_a_directory_can_be_checked_alone() {
    let folder = policy(GOOD);
    fs::write(folder.path().join("broken.yaml"), "version: 7\n").unwrap();
    assert_eq!(check(&folder.path().join("p.yaml"), "human").code, 0);
    assert_eq!(check(folder.path(), "human").code, 1);
}

#[test]
fn every_problem_is_listed_with_its_line_and_the_check_fails() {
    let finished = check(bad().path(), "human");
    assert_eq!((finished.code, finished.err.as_str()), (1, ""));
    assert!(!finished.out.contains('\u{1b}'), "colours without a terminal");
    line(&finished.out, &["error: ", "`idempotant`"]);
    line(&finished.out, &["--> ", "p.yaml:11:5"]);
    line(&finished.out, &["did you mean `idempotent`?"]);
    line(&finished.out, &["p.yaml:3:"]);
}

#[test]
fn a_warning_is_listed_and_the_check_passes() {
    let folder = policy(&GOOD.replace("    idempotent: always\n", ""));
    let finished = check(folder.path(), "human");
    assert_eq!(finished.code, 0);
    assert!(line(&finished.out, &["warning: "]) < line(&finished.out, &["ok: 1 file"]));
    let found: Value = serde_json::from_str(&check(folder.path(), "json").out).unwrap();
    assert_eq!(found[0]["severity"], "warning");
}

#[test]
fn a_missing_secret_is_a_problem_that_names_the_variable() {
    let folder = policy(&GOOD.replace("CLI_TEST_KEY", "CLI_TEST_KEY_THAT_IS_NOT_SET"));
    let finished = check(folder.path(), "human");
    assert_eq!(finished.code, 1);
    line(&finished.out, &["error: ", "CLI_TEST_KEY_THAT_IS_NOT_SET"]);
}

#[test]
fn a_missing_path_is_a_problem_and_not_a_crash() {
    let folder = policy(GOOD);
    let finished = check(&folder.path().join("gone"), "human");
    assert_eq!(finished.code, 1);
    line(&finished.out, &["error: ", "there is no such file or directory", "outrigger init"]);
}

#[test]
fn the_json_format_prints_only_json() {
    let folder = policy(GOOD);
    let good = check(folder.path(), "json");
    assert_eq!((good.code, serde_json::from_str(&good.out).ok()), (0, Some(Value::Array(vec![]))));
    let finished = check(bad().path(), "json");
    let found: Value = serde_json::from_str(&finished.out).unwrap();
    let lines: Vec<_> = found.as_array().unwrap().iter().map(|one| &one["line"]).collect();
    assert_eq!((finished.code, lines), (1, vec![&Value::from(3), &Value::from(11)]));
    assert_eq!(found[1]["path"], "routes.chat.idempotant");
}

#[test]
fn the_github_format_prints_only_workflow_commands() {
    let finished = check(bad().path(), "github");
    assert_eq!((finished.code, finished.out.lines().count()), (1, 2), "{}", finished.out);
    assert!(finished.out.lines().all(|line| line.starts_with("::error file=")), "{}", finished.out);
    line(&finished.out, &["p.yaml,line=11,col=5::", "did you mean `idempotent`?"]);
    let folder = policy(GOOD);
    let good = check(folder.path(), "github");
    assert_eq!((good.code, good.out.trim()), (0, ""));
}

#[test]
fn the_sarif_format_prints_one_log_with_a_result_per_problem() {
    let finished = check(bad().path(), "sarif");
    let log: Value = serde_json::from_str(&finished.out).unwrap();
    assert_eq!((finished.code, &log["version"]), (1, &Value::from("2.1.0")));
    let results = log["runs"][0]["results"].as_array().unwrap();
    let region = &results[1]["locations"][0]["physicalLocation"]["region"];
    assert_eq!((results.len(), &region["startLine"]), (2, &Value::from(11)));
    let folder = policy(GOOD);
    let good: Value = serde_json::from_str(&check(folder.path(), "sarif").out).unwrap();
    assert_eq!(good["runs"][0]["results"], Value::Array(vec![]));
}

#[test]
fn the_schema_command_prints_the_schema_of_this_version() {
    let finished = outrigger(&["schema"]);
    assert_eq!(finished.code, 0);
    let schema: Value = serde_json::from_str(&finished.out).unwrap();
    assert!(schema == outrigger::policy::json_schema::schema() && finished.out.ends_with("}\n"));
}

#[test]
fn explain_lists_the_providers_and_the_origin_of_each_value() {
    let finished = explain(&["POST", "/v1/chat/completions?secret=1", "--all"]);
    assert_eq!((finished.code, finished.err.as_str()), (0, ""));
    line(&finished.out, &["route", "chat", "p.yaml:7"]);
    let one = line(&finished.out, &["75 %", "one", "one.test:443", "p.yaml:3"]);
    let two = line(&finished.out, &["25 %", "two", "two.test:443", "p.yaml:4"]);
    assert!(one < two);
    line(&finished.out, &["connect", "3s", "p.yaml:3"]);
    line(&finished.out, &["timeout", "7s", "p.yaml:12"]);
    line(&finished.out, &["idempotent", "always", "p.yaml:11"]);
    line(&finished.out, &["replay", "default"]);
    line(&finished.out, &["max_attempts", "3", "default"]);
    line(&finished.out, &["stream.commit", "by content type", "default"]);
    line(&finished.out, &["stream.on_cut", "abort", "p.yaml:13"]);
    line(&finished.out, &["requests", "500/min, burst 8.33", "p.yaml:3"]);
    line(&finished.out, &["tokens", "none", "default"]);
    line(&finished.out, &["queues.default"]);
    line(&finished.out, &["classes", "high 8, normal 4, low 1", "default"]);
    line(&finished.out, &["price.input", "2.5", "p.yaml:5"]);
    assert!(!finished.out.contains("secret=1"), "a query is not printed");
}

#[test]
fn explain_only_counts_the_values_at_their_defaults() {
    let finished = explain(&["POST", "/v1/chat/completions"]);
    line(&finished.out, &["timeout: 7s", "p.yaml:12"]);
    line(&finished.out, &["more values at the default (--all shows them)"]);
    assert!(!finished.out.contains("(default)"), "{}", finished.out);
}

#[test]
fn explain_prints_the_same_as_json() {
    let finished = explain(&["POST", "/v1/chat/completions", "--json"]);
    let json: Value = serde_json::from_str(&finished.out).unwrap();
    assert!(finished.out.ends_with("}\n"));
    assert_eq!(json["route"]["providers"][0]["share"], 75.0);
    let values = json["route"]["settings"][0]["values"].as_array().unwrap();
    let timeout = values.iter().find(|value| value["key"] == "timeout").unwrap();
    assert!(timeout["value"] == "7s" && timeout["at"].as_str().unwrap().ends_with("p.yaml:12"));
    let none = explain(&["GET", "/nowhere", "--json"]);
    let json: Value = serde_json::from_str(&none.out).unwrap();
    assert_eq!((none.code, &json["route"]), (1, &Value::Null));
    assert_eq!(json["passed_over"][0]["why"], "another path");
}

#[test]
fn explain_shows_which_values_come_from_a_preset() {
    let text = "version: 1\nproviders:\n  a:\n    preset: anthropic\n    key: \"${env:CLI_TEST_KEY}\"\n    \
                headers: { default: { x-team: blue } }\nroutes:\n  - { name: all, providers: [a] }\n";
    let folder = policy(text);
    let path = folder.path().to_str().unwrap();
    let finished = outrigger(&["explain", "POST", "/v1/messages", "--policies", path]);
    assert_eq!((finished.code, finished.err.as_str()), (0, ""));
    line(&finished.out, &["url", "https://api.anthropic.com", "(preset anthropic)"]);
    line(&finished.out, &["generates", "chat, messages", "(preset anthropic)"]);
    line(&finished.out, &["auth", "x-api-key from env:CLI_TEST_KEY", "p.yaml:5"]);
    line(&finished.out, &["headers.default.x-team", "p.yaml:6"]);
    line(&finished.out, &["headers.default.anthropic-version", "(preset anthropic)"]);
    line(&finished.out, &["preset", "anthropic", "p.yaml:4"]);
}

#[test]
fn explain_states_that_a_route_takes_no_jobs_or_has_no_queue() {
    let text = "version: 1\nproviders: { a: { url: http://a.test } }\nqueues: { own: { max_wait: 5s } }\nroutes:\n  \
                - { name: jobs, match: { path: /jobs }, providers: [a], queue: own }\n  \
                - { name: now, match: { path: /now }, providers: [a], queue: none }\n";
    let folder = policy(text);
    let path = folder.path().to_str().unwrap();
    let finished = outrigger(&["explain", "GET", "/jobs", "--policies", path]);
    let queue = line(&finished.out, &["queues.own"]);
    assert!(queue < line(&finished.out, &["max_wait", "5s", "p.yaml:3"]));
    line(&finished.out, &["takes no jobs of this route", "credential"]);
    let finished = outrigger(&["explain", "GET", "/now", "--policies", path]);
    line(&finished.out, &["queue: none", "p.yaml:6"]);
}

const DETAILED: &str = r#"version: 1
providers:
  one:
    url: https://one.test
    auth: { header: { name: x-api-key, value: "${env:CLI_TEST_KEY}" } }
    headers: { set: { x-team: search }, remove: [x-trace] }
    models: { small: small-2026 }
    rewrite: { path: { from: ^/v1, to: /v2 }, body: { set: { /user: sidecar } } }
    classify: [ { status: 400, json: { /error/code: too_long }, as: unsupported } ]
    tls: { server_name: other.test }
    proxy: http://proxy.test:3128
routes: [ { name: all, providers: [one] } ]
"#;

#[test]
fn explain_shows_every_setting_of_a_provider() {
    let folder = policy(DETAILED);
    let path = folder.path().to_str().unwrap();
    let finished = outrigger(&["explain", "GET", "/x", "--policies", path]);
    assert_eq!(finished.code, 0, "{}", finished.err);
    for expected in [
        "x-api-key",
        "env:CLI_TEST_KEY",
        "x-team",
        "x-trace",
        "small-2026",
        "/v2",
        "/user",
        "too_long",
        "other.test",
        "proxy.test:3128",
    ] {
        assert!(finished.out.contains(expected), "no `{expected}` in:\n{}", finished.out);
    }
}

#[test]
fn explain_lists_fallbacks_after_providers() {
    let finished = explain(&["POST", "https://any.test/v1/chat/x"]);
    let two = line(&finished.out, &["two.test:443"]);
    let spare = line(&finished.out, &["spare", "spare.test:443", "p.yaml:5"]);
    assert!(two < spare);
}

#[test]
fn explain_gives_the_reason_why_a_route_does_not_match() {
    let finished = explain(&["GET", "/v1/files", "-H", "x-tenant: gold"]);
    assert_eq!(finished.code, 0);
    assert!(line(&finished.out, &["chat", "path"]) < line(&finished.out, &["route", "gold"]));
    let finished = explain(&["GET", "/v1/chat/x"]);
    assert_eq!(finished.code, 1);
    line(&finished.out, &["chat", "method"]);
    line(&finished.out, &["gold", "path"]);
}

#[test]
fn explain_exits_1_when_no_route_matches() {
    let finished = explain(&["GET", "/v1/files", "-H", "x-tenant: tin"]);
    assert_eq!(finished.code, 1);
    line(&finished.out, &["gold", "header"]);
    line(&finished.out, &["no route"]);
}

#[test]
fn explain_exits_2_when_the_policy_is_invalid() {
    let folder = bad();
    let path = folder.path().to_str().unwrap();
    let finished = outrigger(&["explain", "GET", "/", "--policies", path]);
    assert_eq!((finished.code, finished.out.as_str()), (2, ""));
    line(&finished.err, &["error: ", "`idempotant`"]);
}

#[test]
fn invalid_arguments_exit_2() {
    for arguments in [
        &["check", ".", "--format", "xml"][..],
        &["explain", "GET"],
        &["explain", "GET", "/", "-H", "no colon"],
        &["explain", "G T", "/"],
    ] {
        assert_eq!(outrigger(arguments).code, 2, "{arguments:?}");
    }
}

#[test]
fn init_writes_a_policy_that_runs_as_soon_as_its_secret_is_set() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("policies/first.yaml");
    let file = path.to_str().unwrap();
    let written = outrigger(&["init", file]);
    assert_eq!((written.code, written.err.as_str()), (0, ""));
    assert!(written.out.contains(&format!("outrigger run --policies {file}")), "{}", written.out);
    let checked = outrigger(&["check", file]);
    assert_eq!(checked.code, 1);
    line(&checked.out, &["OPENAI_API_KEY"]);
    let lenient = outrigger(&["check", file, "--allow-missing-secrets"]);
    assert_eq!((lenient.code, lenient.err.as_str()), (0, "missing here: env:OPENAI_API_KEY\n"));
    fs::write(&path, "mine").unwrap();
    let again = outrigger(&["init", file]);
    assert_eq!((again.code, fs::read_to_string(&path).unwrap().as_str()), (2, "mine"));
    assert!(again.err.contains("exists and is left as it is"), "{}", again.err);
}

#[test]
fn a_policy_is_checked_and_explained_where_its_secrets_are_missing() {
    let text = GOOD.replace("CLI_TEST_KEY", "NOT_SET_HERE").replace(
        "two: { url: https://two.test, auth: none }",
        "two: { url: https://two.test, auth: { bearer: \"${file:/nowhere/key}\" } }",
    );
    let folder = policy(&text);
    let path = folder.path().to_str().unwrap();
    assert_eq!(outrigger(&["check", path]).code, 1);
    let missing = "missing here: env:NOT_SET_HERE, file:/nowhere/key\n";
    let checked = outrigger(&["check", path, "--allow-missing-secrets"]);
    assert_eq!((checked.code, checked.err.as_str()), (0, missing), "{}", checked.out);
    let request = ["explain", "GET", "/v1/files", "--policies", path, "--allow-missing-secrets"];
    let explained = outrigger(&[&request[..], &["-H", "x-tenant: gold"]].concat());
    assert_eq!((explained.code, explained.err.as_str()), (0, missing), "{}", explained.out);
    // Other problems are reported as ever.
    fs::write(folder.path().join("p.yaml"), text.replace("timeout: 7s", "timeout: soon")).unwrap();
    assert_eq!(outrigger(&["check", path, "--allow-missing-secrets"]).code, 1);
}

#[test]
fn manual_pages_describe_every_command() {
    let folder = tempfile::tempdir().unwrap();
    let directory = folder.path().join("man1");
    let done = outrigger(&["man", directory.to_str().unwrap()]);
    assert_eq!(done.code, 0, "{}", done.err);
    let page = |name: &str| fs::read_to_string(directory.join(name)).unwrap();
    assert!(page("outrigger.1").contains("outrigger\\-run(1)"), "{}", page("outrigger.1"));
    assert!(page("outrigger-run.1").contains("OUTRIGGER_POLICIES"));
    assert!(page("outrigger-bench-run.1").contains("NAME"));
    let mut names = fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().file_name());
    assert!(!names.any(|name| name.to_string_lossy().contains("help")), "a page about help");
}

#[test]
fn completions_know_commands_and_options() {
    for shell in ["bash", "zsh", "fish"] {
        let done = outrigger(&["completions", shell]);
        assert_eq!(done.code, 0, "{}", done.err);
        assert!(done.out.contains("healthcheck") && done.out.contains("admin-token"), "{shell}");
    }
}
