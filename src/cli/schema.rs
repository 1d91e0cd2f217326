//! `outrigger schema`: the JSON Schema of a policy file.

use std::io::Write;
use std::process::ExitCode;

use crate::policy::json_schema::schema;

pub fn run() -> ExitCode {
    // A closed pipe is not an error.
    let _ = writeln!(std::io::stdout().lock(), "{:#}", schema());
    ExitCode::SUCCESS
}
