//! The short form of `tests/drill matrix`: the README's smallest policy rescues requests from the
//! faults of a provider.

use std::path::Path;
use std::process::Command;

use serde_json::Value;

#[test]
fn the_smallest_policy_rescues_requests_from_every_quick_fault() {
    let drill = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/drills/matrix");
    let arguments = ["--short", "--json", "--binary", env!("CARGO_BIN_EXE_outrigger")];
    let output = Command::new(drill).args(arguments).output().expect("the drill starts");
    let report: Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&output.stderr)));
    let cells = report["cells"].as_array().expect("a list of cells");
    let failed: Vec<_> = cells.iter().filter(|cell| cell["passed"] != true).collect();
    assert!(failed.is_empty(), "{failed:#?}");
    assert!(cells.len() > 50, "{} cells", cells.len());
}
