//! `outrigger schema`: the JSON Schema of a policy file, for editors.

use std::io::Write;
use std::process::ExitCode;

use crate::policy::json_schema::schema;

pub fn run() -> ExitCode {
    // A reader that has gone needs no answer.
    let _ = writeln!(std::io::stdout().lock(), "{:#}", schema());
    ExitCode::SUCCESS
}
