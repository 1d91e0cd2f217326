//! `outrigger healthcheck`: one line and an exit code, for container runtimes and scripts.

use crate::cli::admin_client::AdminArgs;

/// Check whether a running sidecar is ready, or with --live whether it responds at all.
///
/// Requests /readyz, or /healthz with --live, prints one line, and exits with 0, or with 1 if the response is not 200 or the sidecar cannot be reached. It needs no token, and works with the address of a metrics listener too.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    outrigger healthcheck\n  \
    outrigger healthcheck --live --admin 127.0.0.1:9091")]
pub struct HealthcheckArgs {
    /// Check only that the process responds, not that it is ready: a draining sidecar is live.
    #[arg(long)]
    live: bool,
    /// Address of the sidecar's admin listener, or of its metrics listener.
    #[arg(long, env = "OUTRIGGER_ADMIN", default_value = "127.0.0.1:8701", value_name = "ADDR")]
    admin: String,
}

/// The response, or the reason why the check failed; each is one line.
pub fn run(args: &HealthcheckArgs) -> Result<String, String> {
    let path = if args.live { "/healthz" } else { "/readyz" };
    AdminArgs::without_token(&args.admin).get(path).map(|reply| reply.line())
}
