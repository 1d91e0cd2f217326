//! The command line: one file per subcommand.

mod admin_client;
mod analytics;
mod backup;
mod bench;
mod breakers;
mod cache;
mod check;
mod degrade;
mod drain;
mod explain;
mod fleet;
mod live;
mod output;
mod queue;
mod run;
mod setup;
mod status;
mod top;
mod watch;

use std::io::Write;
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

use self::admin_client::AdminArgs;
use self::setup::{healthcheck, init, man};

use crate::telemetry::escape::escape_lines;

/// The exit codes and their meanings.
pub const EXIT_CODES: [(u8, &str); 6] = [
    (0, "success"),
    (
        1,
        "the policy has an error (`check`), no route takes the request (`explain`), there is a problem (`status`), `healthcheck` found the sidecar not ready, or a run is worse than the baseline or than the run or target that it is compared with (`bench`)",
    ),
    (
        2,
        "the command cannot be carried out: invalid arguments, an invalid policy (`run`, `explain`), or the sidecar cannot be reached or rejects the change",
    ),
    (99, "a threshold of a benchmark is broken (`bench run`, `bench ab`)"),
    (101, "a panic outside the handling of a request ended `run`; the log has its location"),
    (
        130,
        "a second SIGINT or SIGTERM ended `run` before everything in flight was finished, or the first one stopped a run of `bench`",
    ),
];

const AFTER_HELP: &str = "\
Getting started:
  outrigger init      # writes a commented policy to policies/outrigger.yaml
  outrigger run
  outrigger status    # in another terminal

Then set the application's base URL to http://127.0.0.1:8700/v1.

Exit codes: 0 success, 1 `check`, `explain`, `status` or `bench` found a problem, 2 the command failed,
99 a threshold of a benchmark is broken.
`outrigger COMMAND --help` has examples.";

#[derive(Debug, Parser)]
#[command(
    name = "outrigger",
    version = env!("OUTRIGGER_VERSION"),
    about = "A sidecar proxy that keeps an application's calls to LLM APIs and other HTTP APIs working",
    after_help = AFTER_HELP
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Run(run::RunArgs),
    Init(init::InitArgs),
    Check(check::CheckArgs),
    /// Print the JSON Schema of a policy file, for completion and checks in an editor.
    #[command(after_help = "Example:\n  outrigger schema > policies/policy.schema.json")]
    Schema,
    /// Show which route matches a request, its providers in order, and where the policy sets each value.
    ///
    /// Values that the policy leaves at their defaults are only counted, unless --all is given. With --live, a running sidecar says which endpoint it would select now, and why not the others; no policy file is read.
    #[command(after_help = "Examples:\n  \
        outrigger explain POST /v1/chat/completions -H 'x-tenant: gold'\n  \
        outrigger explain POST /v1/chat/completions --live --model gpt-4o")]
    Explain(explain::ExplainArgs),
    /// Show the state of a running sidecar: problems, providers, routes, connections.
    ///
    /// PROBLEMS NOW comes first: each with its cause, its start, and a command that helps; the exit code is 1 while there is one. STATE says why an endpoint takes no requests now. IN FLIGHT is the number of attempts and the limit of the provider, WAITING the requests that wait for that limit. SELECTED counts the attempts since the start, FIRST BYTE is the recent time to the first byte of a response. RETRIES LEFT is the route's retry budget.
    #[command(after_help = "Examples:\n  \
        outrigger status\n  \
        outrigger status --admin 10.0.0.7:8701 --admin-token file:/run/secrets/admin --json")]
    Status(AdminArgs),
    /// Show the retries and hedges of each route in the last hour, and the retry policy in force.
    ///
    /// RETRIES counts the attempts after the first by the outcome that caused them. SAVED is the number of requests that a retry completed after their first attempt had failed, ADDED the median time that such a request spent before its last attempt. NOT RETRIED counts failed attempts that no retry followed, by reason. BUDGET is the retries allowed for each request, EXTRA COST the cost of retries and hedges, AT the place of the policy.
    #[command(after_help = "Examples:\n  \
        outrigger retry\n  \
        outrigger retry --json")]
    Retry(AdminArgs),
    /// Show how the attempts of each route were spread over its endpoints in the last hour.
    ///
    /// WANTED is the share that the policy wants, SEEN the share of the attempts. P50 and P95 are times to the first byte at the provider, CAPACITY is the used share of its limits now. STATE says why an endpoint takes no requests now.
    #[command(after_help = "Examples:\n  \
        outrigger balance\n  \
        outrigger balance --json")]
    Balance(AdminArgs),
    /// Show changes of the policy that the figures of the last hour call for.
    ///
    /// Each with its figures, the place in the policy and a change that helps. Nothing is shown without a minimum of traffic.
    #[command(after_help = "Examples:\n  \
        outrigger recommendations\n  \
        outrigger recommendations --json")]
    Recommendations(AdminArgs),
    Top(top::TopArgs),
    Requests(watch::requests::RequestsArgs),
    Why(watch::requests::WhyArgs),
    Tap(watch::tap::TapArgs),
    Events(watch::events::EventsArgs),
    Breakers(breakers::BreakersArgs),
    Degrade(degrade::DegradeArgs),
    /// Show the hosts that share state with a running sidecar through Redis, and that state.
    ///
    /// Lists hosts, shared breakers, overrides, holds, rate limits, and the latest breaker transitions. DETACHED means that Redis cannot be reached and that this host decides alone. THIS HOST is a breaker's state here; VOTES TO OPEN counts hosts that want a breaker open. Of a rate limit, FLEET is the limit of all hosts, THIS HOST ALONE the part that this host uses while it is detached, and GRANTED the amount that it may use at once.
    #[command(after_help = "Example:\n  outrigger fleet")]
    Fleet(AdminArgs),
    Queue(queue::QueueArgs),
    Cache(cache::CacheArgs),
    Backup(backup::BackupArgs),
    Bench(bench::BenchArgs),
    Drain(drain::DrainArgs),
    Undrain(drain::UndrainArgs),
    Healthcheck(healthcheck::HealthcheckArgs),
    Man(man::ManArgs),
    Completions(man::CompletionsArgs),
}

/// Runs the command that the process was started with.
pub fn main() -> ExitCode {
    match Cli::parse().command {
        Command::Run(args) => run::run(&args),
        Command::Init(args) => print(init::run(&args)),
        Command::Check(args) => check::run(&args),
        Command::Schema => check::schema(),
        Command::Explain(args) => explain::run(&args),
        Command::Status(admin) => status::run(&admin),
        Command::Top(args) => exit(top::run(args)),
        Command::Retry(admin) => print(analytics::retry(&admin)),
        Command::Balance(admin) => print(analytics::balance(&admin)),
        Command::Recommendations(admin) => print(analytics::recommendations(&admin)),
        Command::Requests(args) => print(watch::requests::run(&args)),
        Command::Why(args) => print(watch::requests::why(&args)),
        Command::Events(args) => exit(watch::events::run(&args)),
        Command::Tap(args) => exit(watch::tap::run(&args)),
        Command::Breakers(args) => print(breakers::run(&args)),
        Command::Degrade(args) => print(degrade::run(&args)),
        Command::Fleet(admin) => print(fleet::run(&admin)),
        Command::Queue(args) => print(queue::run(&args)),
        Command::Cache(args) => print(cache::run(&args)),
        Command::Bench(args) => bench::run(&args),
        Command::Backup(args) => print(backup::run(&args)),
        Command::Drain(args) => print(drain::drain(&args)),
        Command::Undrain(args) => print(drain::undrain(&args)),
        Command::Healthcheck(args) => verdict(healthcheck::run(&args)),
        Command::Man(args) => print(man::man(&args, command())),
        Command::Completions(args) => man::completions(&args, command()),
    }
}

/// The definition of the command line.
pub fn command() -> clap::Command {
    Cli::command()
}

fn print(result: Result<String, String>) -> ExitCode {
    // A closed pipe is not an error.
    exit(result.map(|text| drop(writeln!(std::io::stdout(), "{}", escape_lines(&text)))))
}

/// Prints a result that is printed on standard output also where it is a failure.
fn verdict(result: Result<String, String>) -> ExitCode {
    let is_failure = result.is_err();
    match print(result.or_else(Ok)) {
        ExitCode::SUCCESS if is_failure => ExitCode::FAILURE,
        code => code,
    }
}

/// The exit code of a command that has printed its result.
fn exit(result: Result<(), String>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {}", escape_lines(&error.to_string()));
            ExitCode::from(2)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn assert_help(command: &clap::Command) {
        let name = command.get_bin_name().unwrap_or_default().to_owned();
        assert!(command.get_about().is_some(), "{name} has no description");
        let examples = command.get_after_help().map(ToString::to_string).unwrap_or_default();
        assert!(examples.contains(&name), "{name} has no example");
        for argument in command.get_arguments() {
            assert!(argument.get_help().is_some(), "{name}: {} has no help", argument.get_id());
        }
        command.get_subcommands().for_each(assert_help);
    }

    #[test]
    fn each_command_has_a_description_and_an_example_and_each_argument_has_help() {
        let mut command = Cli::command().disable_help_subcommand(true);
        command.build();
        assert_help(&command);
    }
}
