//! The `outrigger` command. What it can do is in `cli`.

use std::process::ExitCode;

fn main() -> ExitCode {
    outrigger::cli::main()
}
