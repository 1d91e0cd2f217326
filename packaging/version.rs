//! The build script: sets `OUTRIGGER_VERSION`, the version that `outrigger --version` prints.
//!
//! A release build adds the commit: `OUTRIGGER_COMMIT` if it is set, otherwise that of the git
//! repository. Without either (a source archive, no git) it is the version alone. Other builds do not
//! read the commit, so that a commit does not make them compile again.

#![allow(clippy::print_stdout)]

use std::env;
use std::path::Path;
use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=packaging/version.rs");
    println!("cargo::rerun-if-env-changed=OUTRIGGER_COMMIT");
    let given = env::var("OUTRIGGER_COMMIT").ok().filter(|commit| !commit.is_empty());
    let is_release = env::var("PROFILE").is_ok_and(|profile| profile == "release");
    let commit = given.or_else(|| if is_release { commit_of_repository() } else { None });
    let version = env::var("CARGO_PKG_VERSION").unwrap_or_default();
    let commit = commit.map(|commit| format!(" ({commit})")).unwrap_or_default();
    println!("cargo::rustc-env=OUTRIGGER_VERSION={version}{commit}");
}

/// The first 12 digits of the commit that is checked out. `None` outside a repository of our own: a
/// source archive may be unpacked inside another one.
fn commit_of_repository() -> Option<String> {
    if !Path::new(".git").exists() {
        return None;
    }
    for file in ["HEAD", "logs/HEAD"] {
        let path = git(&["rev-parse", "--git-path", file])?;
        if Path::new(&path).exists() {
            println!("cargo::rerun-if-changed={path}");
        }
    }
    git(&["rev-parse", "--short=12", "HEAD"])
}

fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim().to_owned()).filter(|text| !text.is_empty())
}
