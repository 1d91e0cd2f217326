//! The `outrigger` command; `cli` has its subcommands.

use std::process::ExitCode;

/// Takes fewer instructions per allocation than the C library's, which pays on every request.
#[cfg(feature = "mimalloc")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    outrigger::cli::main()
}
