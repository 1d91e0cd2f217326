//! The command line: one file a subcommand. Exit codes: 0 well, 1 what was asked about is wrong,
//! 2 the command could not be carried out.

mod admin_client;
mod backup;
mod breakers;
mod cache;
mod check;
mod degrade;
mod drain;
mod explain;
mod fleet;
mod queue;
mod run;
mod schema;
mod status;

use std::io::Write;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Debug, Parser)]
#[command(
    name = "outrigger",
    version,
    about = "A sidecar that makes an application's calls to providers survive production",
    after_help = "Point an application's base URL at the listener, e.g. http://127.0.0.1:8700/v1, and declare the rest in YAML policies."
)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the sidecar: serve applications by the policies of a directory.
    Run(run::Args),
    /// List every problem of a policy, each with its line and column.
    Check(check::Args),
    /// Print the JSON Schema of a policy file, for editors.
    Schema,
    /// Say which route takes a request, and where each value stands.
    Explain(explain::Args),
    /// Tell what a running sidecar is doing: providers, routes, budgets.
    Status(status::Args),
    /// List a running sidecar's circuit breakers; open, close, shadow or reset them by hand.
    Breakers(breakers::Args),
    /// Tell which modes of degradation are in force and what they did; enter or leave one by hand.
    Degrade(degrade::Args),
    /// Tell who else shares breakers and holds with a running sidecar, and what they know.
    Fleet(fleet::Args),
    /// Tell who waits in a running sidecar and which jobs it keeps; pause, retry, cancel by hand.
    Queue(queue::Args),
    /// Tell what a running sidecar has stored and how often it served; forget it by hand.
    Cache(cache::Args),
    /// Copy the jobs that a sidecar keeps to a file; it may be running.
    Backup(backup::Args),
    /// Send nothing new to a provider, until `undrain`.
    Drain(drain::Args),
    /// Use a drained provider again.
    Undrain(drain::Args),
}

/// Runs the command that the process was started with.
pub fn main() -> ExitCode {
    match Args::parse().command {
        Command::Run(args) => run::run(&args),
        Command::Check(args) => check::run(&args),
        Command::Schema => schema::run(),
        Command::Explain(args) => explain::run(&args),
        Command::Status(args) => print(status::run(&args)),
        Command::Breakers(args) => print(breakers::run(&args)),
        Command::Degrade(args) => print(degrade::run(&args)),
        Command::Fleet(args) => print(fleet::run(&args)),
        Command::Queue(args) => print(queue::run(&args)),
        Command::Cache(args) => print(cache::run(&args)),
        Command::Backup(args) => print(backup::run(&args)),
        Command::Drain(args) => print(drain::run("drain", &args)),
        Command::Undrain(args) => print(drain::run("undrain", &args)),
    }
}

/// What a running sidecar said, or why there is no answer.
fn print(said: Result<String, admin_client::Failed>) -> ExitCode {
    match said {
        Ok(text) => {
            // A reader that has gone needs no answer.
            let _ = writeln!(std::io::stdout(), "{text}");
            ExitCode::SUCCESS
        }
        Err(failed) => {
            eprintln!("error: {failed}");
            ExitCode::from(2)
        }
    }
}
