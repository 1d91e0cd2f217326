//! The subcommands beside `run`, as people and pipelines meet them: what they print, and how they exit.

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

/// What a command printed, and its exit code.
struct Said {
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
fn outrigger(arguments: &[&str]) -> Said {
    let mut command = Command::new(env!("CARGO_BIN_EXE_outrigger"));
    command.args(arguments).env_remove("OUTRIGGER_POLICIES").env("CLI_TEST_KEY", SECRET);
    let output = command.output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    let (out, err) = (text(output.stdout), text(output.stderr));
    assert!(!out.contains(SECRET) && !err.contains(SECRET), "a secret was printed:\n{out}\n{err}");
    Said { code: output.status.code().unwrap(), out, err }
}

#[track_caller]
fn check(folder: &Path, format: &str) -> Said {
    outrigger(&["check", folder.to_str().unwrap(), "--format", format])
}

#[track_caller]
fn explain(asked: &[&str]) -> Said {
    let folder = policy(GOOD);
    let path = folder.path().to_str().unwrap();
    outrigger(&[&["explain"], asked, &["--policies", path]].concat())
}

/// The first line that holds all of `parts`, and where it is.
#[track_caller]
fn line(text: &str, parts: &[&str]) -> usize {
    let holds = |line: &str| parts.iter().all(|part| line.contains(part));
    text.lines().position(holds).unwrap_or_else(|| panic!("no line with {parts:?} in\n{text}"))
}

fn bad() -> TempDir {
    // A key that is misspelt, and a credential where none belongs.
    policy(&GOOD.replace("idempotent: always", "idempotant: always").replace(
        "\"${env:CLI_TEST_KEY}\" }",
        &format!("\"${{env:CLI_TEST_KEY}}\", password: {SECRET} }}"),
    ))
}

#[test]
fn a_good_policy_is_summed_up_in_one_line() {
    let folder = policy(GOOD);
    let said = check(folder.path(), "human");
    assert_eq!((said.code, said.err.as_str()), (0, ""));
    assert_eq!(said.out.lines().count(), 1, "{}", said.out);
    line(&said.out, &["ok: 1 file", "3 providers", "2 routes"]);
    let hash = said.out.split_whitespace().last().unwrap();
    assert!(hash.len() == 12 && hash.chars().all(|c| c.is_ascii_hexdigit()), "{}", said.out);
}

#[test]
fn one_file_can_be_checked_by_itself() {
    let folder = policy(GOOD);
    fs::write(folder.path().join("broken.yaml"), "version: 7\n").unwrap();
    assert_eq!(check(&folder.path().join("p.yaml"), "human").code, 0);
    assert_eq!(check(folder.path(), "human").code, 1);
}

#[test]
fn every_problem_is_shown_with_its_line_and_fails() {
    let said = check(bad().path(), "human");
    assert_eq!((said.code, said.err.as_str()), (1, ""));
    assert!(!said.out.contains('\u{1b}'), "coloured, though no terminal");
    line(&said.out, &["error: ", "`idempotant`"]);
    line(&said.out, &["--> ", "p.yaml:11:5"]);
    line(&said.out, &["did you mean `idempotent`?"]);
    line(&said.out, &["p.yaml:3:"]);
}

#[test]
fn a_warning_is_shown_and_does_not_fail() {
    let folder = policy(&GOOD.replace("    idempotent: always\n", ""));
    let said = check(folder.path(), "human");
    assert_eq!(said.code, 0);
    assert!(line(&said.out, &["warning: "]) < line(&said.out, &["ok: 1 file"]));
    let found: Value = serde_json::from_str(&check(folder.path(), "json").out).unwrap();
    assert_eq!(found[0]["severity"], "warning");
}

#[test]
fn a_missing_secret_is_a_problem_that_names_it() {
    let folder = policy(&GOOD.replace("CLI_TEST_KEY", "CLI_TEST_KEY_THAT_NOBODY_SET"));
    let said = check(folder.path(), "human");
    assert_eq!(said.code, 1);
    line(&said.out, &["error: ", "CLI_TEST_KEY_THAT_NOBODY_SET"]);
}

#[test]
fn what_is_not_there_is_a_problem_and_not_a_crash() {
    let folder = policy(GOOD);
    let said = check(&folder.path().join("gone"), "human");
    assert_eq!(said.code, 1);
    line(&said.out, &["error: ", "cannot read this policy"]);
}

#[test]
fn json_is_nothing_but_json() {
    let folder = policy(GOOD);
    let good = check(folder.path(), "json");
    assert_eq!((good.code, serde_json::from_str(&good.out).ok()), (0, Some(Value::Array(vec![]))));
    let said = check(bad().path(), "json");
    let found: Value = serde_json::from_str(&said.out).unwrap();
    let lines: Vec<_> = found.as_array().unwrap().iter().map(|one| &one["line"]).collect();
    assert_eq!((said.code, lines), (1, vec![&Value::from(3), &Value::from(11)]));
    assert_eq!(found[1]["path"], "routes.chat.idempotant");
}

#[test]
fn github_is_nothing_but_workflow_commands() {
    let said = check(bad().path(), "github");
    assert_eq!((said.code, said.out.lines().count()), (1, 2), "{}", said.out);
    assert!(said.out.lines().all(|line| line.starts_with("::error file=")), "{}", said.out);
    line(&said.out, &["p.yaml,line=11,col=5::", "did you mean `idempotent`?"]);
    let folder = policy(GOOD);
    let good = check(folder.path(), "github");
    assert_eq!((good.code, good.out.trim()), (0, ""));
}

#[test]
fn sarif_is_one_log_with_a_result_for_each_problem() {
    let said = check(bad().path(), "sarif");
    let log: Value = serde_json::from_str(&said.out).unwrap();
    assert_eq!((said.code, &log["version"]), (1, &Value::from("2.1.0")));
    let results = log["runs"][0]["results"].as_array().unwrap();
    let region = &results[1]["locations"][0]["physicalLocation"]["region"];
    assert_eq!((results.len(), &region["startLine"]), (2, &Value::from(11)));
    let folder = policy(GOOD);
    let good: Value = serde_json::from_str(&check(folder.path(), "sarif").out).unwrap();
    assert_eq!(good["runs"][0]["results"], Value::Array(vec![]));
}

#[test]
fn the_schema_is_the_shipped_one_to_the_last_byte() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("policies/policy.schema.json");
    let said = outrigger(&["schema"]);
    assert_eq!(said.code, 0);
    assert!(said.out == fs::read_to_string(path).unwrap() && said.out.ends_with("}\n"));
}

#[test]
fn a_route_is_explained_with_its_providers_and_where_each_value_stands() {
    let said = explain(&["POST", "/v1/chat/completions?secret=1"]);
    assert_eq!((said.code, said.err.as_str()), (0, ""));
    line(&said.out, &["route", "chat", "p.yaml:7"]);
    let one = line(&said.out, &["75 %", "one", "one.test:443", "p.yaml:3"]);
    let two = line(&said.out, &["25 %", "two", "two.test:443", "p.yaml:4"]);
    assert!(one < two);
    line(&said.out, &["connect", "3s", "p.yaml:3"]);
    line(&said.out, &["timeout", "7s", "p.yaml:12"]);
    line(&said.out, &["idempotent", "always", "p.yaml:11"]);
    line(&said.out, &["replay", "default"]);
    line(&said.out, &["max_attempts", "3", "default"]);
    line(&said.out, &["stream.commit", "by content type", "default"]);
    line(&said.out, &["stream.on_cut", "abort", "p.yaml:13"]);
    line(&said.out, &["requests", "500/min, burst 8.33", "p.yaml:3"]);
    line(&said.out, &["tokens", "none", "default"]);
    line(&said.out, &["queues.default"]);
    line(&said.out, &["classes", "high 8, normal 4, low 1", "default"]);
    line(&said.out, &["price.input", "2.5", "p.yaml:5"]);
    assert!(!said.out.contains("secret=1"), "a query is not printed");
}

#[test]
fn a_route_that_takes_no_jobs_or_has_no_queue_says_so() {
    let text = "version: 1\nproviders: { a: { url: http://a.test } }\nqueues: { own: { max_wait: 5s } }\nroutes:\n  \
                - { name: jobs, match: { path: /jobs }, providers: [a], queue: own }\n  \
                - { name: now, match: { path: /now }, providers: [a], queue: none }\n";
    let folder = policy(text);
    let path = folder.path().to_str().unwrap();
    let said = outrigger(&["explain", "GET", "/jobs", "--policies", path]);
    let queue = line(&said.out, &["queues.own"]);
    assert!(queue < line(&said.out, &["max_wait", "5s", "p.yaml:3"]));
    line(&said.out, &["takes no jobs of this route", "credential"]);
    let said = outrigger(&["explain", "GET", "/now", "--policies", path]);
    line(&said.out, &["queue: none", "p.yaml:6"]);
}

#[test]
fn a_fallback_is_explained_after_the_providers() {
    let said = explain(&["POST", "https://any.test/v1/chat/x"]);
    let two = line(&said.out, &["two.test:443"]);
    let spare = line(&said.out, &["spare", "spare.test:443", "p.yaml:5"]);
    assert!(two < spare);
}

#[test]
fn a_route_that_is_passed_over_says_why() {
    let said = explain(&["GET", "/v1/files", "-H", "x-tenant: gold"]);
    assert_eq!(said.code, 0);
    assert!(line(&said.out, &["chat", "path"]) < line(&said.out, &["route", "gold"]));
    let said = explain(&["GET", "/v1/chat/x"]);
    assert_eq!(said.code, 1);
    line(&said.out, &["chat", "method"]);
    line(&said.out, &["gold", "path"]);
}

#[test]
fn a_request_that_no_route_takes_exits_1_and_says_so() {
    let said = explain(&["GET", "/v1/files", "-H", "x-tenant: tin"]);
    assert_eq!(said.code, 1);
    line(&said.out, &["gold", "header"]);
    line(&said.out, &["no route"]);
}

#[test]
fn nothing_is_explained_by_a_bad_policy() {
    let folder = bad();
    let path = folder.path().to_str().unwrap();
    let said = outrigger(&["explain", "GET", "/", "--policies", path]);
    assert_eq!((said.code, said.out.as_str()), (2, ""));
    line(&said.err, &["error: ", "`idempotant`"]);
}

#[test]
fn arguments_that_make_no_sense_exit_2() {
    for arguments in [
        &["check", ".", "--format", "xml"][..],
        &["explain", "GET"],
        &["explain", "GET", "/", "-H", "no colon"],
        &["explain", "G T", "/"],
    ] {
        assert_eq!(outrigger(arguments).code, 2, "{arguments:?}");
    }
}
