//! `outrigger bench`: the series of calls, with their baselines.

mod series;

use clap::Subcommand;

use super::admin_client::AdminArgs;

/// Show how fast each route, provider and model is, compared with its baseline.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    outrigger bench series\n  \
    outrigger bench accept chat/openai/gpt-4o --reason \"the new model is slower\"")]
pub struct BenchArgs {
    #[command(subcommand)]
    command: BenchCommand,
    #[command(flatten)]
    admin: AdminArgs,
}

#[derive(Debug, Subcommand)]
enum BenchCommand {
    /// List the calls of each route, provider and model with their baselines.
    ///
    /// BASELINE is the value that is usual at this hour, CURRENT the median of the last minute. A measure needs 10 calls in 10 seconds (p95: 20), and a day to be learned.
    #[command(after_help = "Example:\n  outrigger bench series")]
    Series,
    Accept(series::AcceptArgs),
}

pub fn run(args: &BenchArgs) -> Result<String, String> {
    match &args.command {
        BenchCommand::Series => series::list(&args.admin),
        BenchCommand::Accept(accept) => series::accept(&args.admin, accept),
    }
}
