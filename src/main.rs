//! The `outrigger` command; `cli` has its subcommands.

use std::process::ExitCode;

fn main() -> ExitCode {
    outrigger::cli::main()
}
