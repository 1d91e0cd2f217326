//! `outrigger run`: starts the sidecar.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::str::FromStr;
use std::time::Duration;

use clap::ValueEnum;
use tracing_subscriber::filter::LevelFilter;

use super::output;
use crate::app::{self, ListenAddress, Options, Shutdown, StartError, StoreDir};
use crate::clock;
use crate::fleet;
use crate::fleet::redis::url::RedisAddress;
use crate::policy::yaml::units;
use crate::telemetry::logging::{self, DaemonLogFormat};

/// Run the sidecar: serve applications by the policies in a directory.
///
/// The policies are reloaded when they change, and on SIGHUP. An invalid policy leaves the last valid one in force. SIGTERM or SIGINT drains: the sidecar stops accepting, finishes what is in flight, and exits. A second signal ends it at once.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    outrigger run --policies my-policy.yaml\n  \
    outrigger run --policies /etc/outrigger --listen unix:/run/outrigger.sock --metrics 0.0.0.0:9091\n  \
    outrigger run --redis redis://10.0.0.5:6379 --fleet production")]
pub struct RunArgs {
    /// A directory of policies, or one file.
    #[arg(long, env = "OUTRIGGER_POLICIES", default_value = "policies", value_name = "PATH")]
    policies: PathBuf,
    /// Where applications connect: ADDR:PORT, or unix:PATH.
    #[arg(
        long,
        env = "OUTRIGGER_LISTEN",
        default_value = "127.0.0.1:8700",
        value_name = "ADDR|unix:PATH"
    )]
    listen: ListenAddress,
    /// Address for the admin API, metrics and health, or `none`. Off loopback it needs --admin-token.
    #[arg(long, env = "OUTRIGGER_ADMIN", default_value = "127.0.0.1:8701", value_name = "ADDR")]
    admin: OptionalAddress,
    /// The token that the admin API requires for changes, and off loopback for reads: env:NAME, file:PATH, or the token itself.
    #[arg(long, env = "OUTRIGGER_ADMIN_TOKEN", hide_env_values = true, value_name = "SOURCE")]
    admin_token: Option<String>,
    /// Address for metrics and health alone, for scrapes and probes from outside the pod, or `none`.
    #[arg(long, env = "OUTRIGGER_METRICS", default_value = "none", value_name = "ADDR")]
    metrics: OptionalAddress,
    /// Number of worker threads. By default the number of cores, at most 4.
    #[arg(long, env = "OUTRIGGER_WORKERS", value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    workers: Option<u16>,
    /// How to detect changes of the policies.
    #[arg(long, env = "OUTRIGGER_WATCH", default_value = "events", value_name = "MODE")]
    watch: WatchMode,
    /// How often to compare the content of the policies.
    #[arg(long, env = "OUTRIGGER_POLL", default_value = "10s", value_name = "TIME", value_parser = units::duration)]
    poll: Duration,
    /// Directory of the job store (SQLite, readable by its owner alone), or `none` to accept no jobs. By default
    /// $STATE_DIRECTORY, or `outrigger` in the user's state directory.
    #[arg(long, env = "OUTRIGGER_DATA", value_name = "DIR")]
    data: Option<StoreDir>,
    /// The Redis through which hosts share breakers, holds, limits and jobs: a URL (redis://, rediss://, unix://,
    /// redis+sentinel://, redis+cluster://), env:NAME or file:PATH.
    #[arg(long, env = "OUTRIGGER_REDIS", hide_env_values = true, value_name = "URL")]
    redis: Option<String>,
    /// Name of the fleet. Hosts with the same name share state.
    #[arg(long, env = "OUTRIGGER_FLEET", default_value = "default", value_name = "NAME", value_parser = fleet_name)]
    fleet: String,
    /// Seconds to add to this host's wall clock, to test a fleet whose clocks disagree.
    #[arg(
        long,
        env = "OUTRIGGER_CLOCK_OFFSET",
        default_value = "0",
        hide = true,
        allow_negative_numbers = true
    )]
    clock_offset: i64,
    /// Format of the sidecar's own log.
    #[arg(long, env = "OUTRIGGER_LOG_FORMAT", default_value = "text", value_name = "FORMAT")]
    log_format: DaemonLogFormat,
    /// Lowest level of the sidecar's own log: error, warn, info, debug or trace.
    #[arg(long, env = "OUTRIGGER_LOG", default_value = "info", value_name = "LEVEL")]
    log: LevelFilter,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum WatchMode {
    /// File system events, and the poll as a backstop.
    Events,
    /// The poll alone, for file systems without events.
    Poll,
}

/// A socket address, or `none`.
#[derive(Clone, Copy, Debug)]
struct OptionalAddress(Option<SocketAddr>);

impl FromStr for OptionalAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "none" {
            return Ok(OptionalAddress(None));
        }
        let invalid = |_| {
            format!("`{text}` is not an address (expected IP:PORT such as 127.0.0.1:8701, or none)")
        };
        text.parse().map(|address| OptionalAddress(Some(address))).map_err(invalid)
    }
}

/// The name becomes part of Redis keys, so it must not contain characters that have a meaning there.
fn fleet_name(text: &str) -> Result<String, String> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
    if text.is_empty() || text.len() > 64 || !text.chars().all(allowed) {
        return Err("expected 1 to 64 letters, digits, `-`, `.` or `_`".to_owned());
    }
    Ok(text.to_owned())
}

/// Runs the sidecar until a signal ends it.
pub fn run(args: &RunArgs) -> ExitCode {
    if let Err(error) = logging::init(args.log_format, args.log) {
        return fail(&format!("error: cannot start the log: {error}"));
    }
    clock::set_off(args.clock_offset);
    let fleet = match args.redis.as_deref().map(RedisAddress::read).transpose() {
        Ok(address) => {
            address.map(|address| fleet::FleetOptions { address, name: args.fleet.clone() })
        }
        Err(error) => return fail(&format!("error: {error}")),
    };
    match app::run(&args.options(fleet)) {
        Ok(Shutdown::Drained) => ExitCode::SUCCESS,
        Ok(Shutdown::Immediate) => ExitCode::from(130),
        Err(StartError::Policy(problems)) => fail(&output::problems(&problems, &std::io::stderr())),
        Err(error) => fail(&format!("error: {error}")),
    }
}

/// Reports why the sidecar does not run, through the log's writer: standard error may be blocked.
fn fail(message: &str) -> ExitCode {
    logging::print(message);
    ExitCode::from(2)
}

impl RunArgs {
    fn options(&self, fleet: Option<fleet::FleetOptions>) -> Options {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Options {
            policies: self.policies.clone(),
            listen: self.listen.clone(),
            admin: self.admin.0,
            admin_token: self.admin_token.clone(),
            metrics: self.metrics.0,
            workers: self.workers.map_or(cores.min(4), usize::from),
            watch: matches!(self.watch, WatchMode::Events),
            poll: self.poll,
            data: self.data.clone().unwrap_or_else(StoreDir::from_environment),
            fleet,
        }
    }
}
