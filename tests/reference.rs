//! The reference documents are generated from the code. `UPDATE_DOCS=1 cargo test --test reference`
//! writes them; without it, a stale document fails.

#[path = "reference/admin.rs"]
mod admin;
#[path = "reference/cli.rs"]
mod cli;
#[path = "reference/metrics.rs"]
mod metrics;
#[path = "reference/policy.rs"]
mod policy;
#[path = "reference/presets.rs"]
mod presets;

use std::path::Path;
use std::{env, fs};

/// Compares a document with its generated text, or writes it.
fn check(name: &str, generated: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/reference").join(name);
    if env::var_os("UPDATE_DOCS").is_some() {
        fs::write(&path, generated).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    }
    let written = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        written == generated,
        "docs/reference/{name} is stale: run `UPDATE_DOCS=1 cargo test --test reference`"
    );
}

#[test]
fn the_reference_of_the_admin_api_is_current() {
    check("admin-api.md", &admin::reference());
}

#[test]
fn the_reference_of_the_command_line_is_current() {
    check("cli.md", &cli::reference());
}

#[test]
fn the_reference_of_metrics_is_current() {
    check("metrics.md", &metrics::reference());
}

#[test]
fn the_reference_of_problem_types_is_current() {
    check("problem-types.md", &outrigger::proxy::downstream::problem::reference());
}

#[test]
fn the_reference_of_the_policy_is_current() {
    check("policy.md", &policy::reference());
}

#[test]
fn the_reference_of_presets_is_current() {
    check("presets.md", &presets::reference());
}

#[test]
fn the_reference_of_the_access_log_is_current() {
    check("access-log.md", &outrigger::proxy::access_log::keys::reference());
}
