//! `outrigger run`: the sidecar itself.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::str::FromStr;
use std::time::Duration;

use clap::ValueEnum;
use tracing_subscriber::filter::LevelFilter;

use crate::app::{self, Data, Ended, Listen, Options, StartError};
use crate::clock;
use crate::fleet;
use crate::fleet::redis::url::RedisAddress;
use crate::policy::yaml::units;
use crate::telemetry::logging::{self, DaemonLogFormat};

/// What `outrigger run` takes; each also as an environment variable.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Directory of the policies (or one file); reloaded when it changes, and on SIGHUP.
    #[arg(long, env = "OUTRIGGER_POLICIES", default_value = "policies", value_name = "DIR")]
    policies: PathBuf,
    /// Where applications connect: ADDR:PORT, or unix:PATH.
    #[arg(
        long,
        env = "OUTRIGGER_LISTEN",
        default_value = "127.0.0.1:8700",
        value_name = "ADDR|unix:PATH"
    )]
    listen: Listen,
    /// Metrics, health and the API; off loopback only with a token; `none` for without.
    #[arg(long, env = "OUTRIGGER_ADMIN", default_value = "127.0.0.1:8701", value_name = "ADDR")]
    admin: MaybeAddr,
    /// What changes by the API must bring (and reads, off loopback): env:NAME, file:PATH or the token.
    #[arg(long, env = "OUTRIGGER_ADMIN_TOKEN", hide_env_values = true, value_name = "SOURCE")]
    admin_token: Option<String>,
    /// Metrics and health alone, for scrapes and probes from outside the pod.
    #[arg(long, env = "OUTRIGGER_METRICS", default_value = "none", value_name = "ADDR")]
    metrics: MaybeAddr,
    /// Worker threads; by default as many as there are cores, at most 4.
    #[arg(long, env = "OUTRIGGER_WORKERS", value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    workers: Option<u16>,
    /// How to see that the policies change: the file system's events and the poll, or the poll alone.
    #[arg(long, env = "OUTRIGGER_WATCH", default_value = "events", value_name = "HOW")]
    watch: Watch,
    /// How often the content of the policies is compared, as a backstop.
    #[arg(long, env = "OUTRIGGER_POLL", default_value = "10s", value_name = "TIME", value_parser = units::duration)]
    poll: Duration,
    /// Where jobs are kept (an SQLite database, for its owner alone); `none` takes no jobs. By default
    /// `outrigger` in the user's state directory.
    #[arg(long, env = "OUTRIGGER_DATA", value_name = "DIR")]
    data: Option<Data>,
    /// The Redis through which hosts share breakers, holds, limits and jobs: a URL (redis://,
    /// rediss://, unix://, redis+sentinel://, redis+cluster://), or where it is kept: env:NAME, file:PATH.
    #[arg(long, env = "OUTRIGGER_REDIS", hide_env_values = true, value_name = "URL")]
    redis: Option<String>,
    /// Hosts of one name share what they know; another name, and it is another fleet.
    #[arg(long, env = "OUTRIGGER_FLEET", default_value = "default", value_name = "NAME", value_parser = fleet_name)]
    fleet: String,
    /// Seconds by which this host's wall clock is set off, to try a fleet whose clocks disagree.
    #[arg(
        long,
        env = "OUTRIGGER_CLOCK_OFFSET",
        default_value = "0",
        hide = true,
        allow_negative_numbers = true
    )]
    clock_offset: i64,
    /// How lines of the sidecar's own log look.
    #[arg(long, env = "OUTRIGGER_LOG_FORMAT", default_value = "text", value_name = "FORMAT")]
    log_format: LogFormat,
    /// What the sidecar's own log tells: error, warn, info, debug or trace.
    #[arg(long, env = "OUTRIGGER_LOG", default_value = "info", value_name = "LEVEL")]
    log: LevelFilter,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Watch {
    Events,
    Poll,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum LogFormat {
    Text,
    Json,
}

/// An address, or `none`.
#[derive(Clone, Copy, Debug)]
struct MaybeAddr(Option<SocketAddr>);

impl FromStr for MaybeAddr {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "none" {
            return Ok(MaybeAddr(None));
        }
        let expected =
            |_| format!("`{text}` is no address (expected one like 127.0.0.1:8701, or none)");
        text.parse().map(|address| MaybeAddr(Some(address))).map_err(expected)
    }
}

impl FromStr for Listen {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.strip_prefix("unix:") {
            Some("") => Err("`unix:` names no socket (expected unix:/path/to/socket)".to_owned()),
            Some(path) => Ok(Listen::Unix(path.into())),
            None => text.parse().map(Listen::Tcp).map_err(|_| {
                format!("`{text}` is no address (expected one like 127.0.0.1:8700 or unix:/run/outrigger.sock)")
            }),
        }
    }
}

/// What may stand in a key of Redis and means nothing there.
fn fleet_name(text: &str) -> Result<String, String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
    if text.is_empty() || text.len() > 64 || !text.chars().all(plain) {
        return Err("expected up to 64 letters, digits, `-`, `.` or `_`".to_owned());
    }
    Ok(text.to_owned())
}

/// Runs the sidecar until a signal ends it.
pub fn run(args: &Args) -> ExitCode {
    let format = match args.log_format {
        LogFormat::Text => DaemonLogFormat::Text,
        LogFormat::Json => DaemonLogFormat::Json,
    };
    logging::init(format, args.log);
    clock::set_off(args.clock_offset);
    let fleet = match args.redis.as_deref().map(RedisAddress::read).transpose() {
        Ok(address) => {
            address.map(|address| fleet::FleetOptions { address, name: args.fleet.clone() })
        }
        Err(error) => {
            eprintln!("error: {error}");
            return ExitCode::from(2);
        }
    };
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let options = Options {
        policies: args.policies.clone(),
        listen: args.listen.clone(),
        admin: args.admin.0,
        admin_token: args.admin_token.clone(),
        metrics: args.metrics.0,
        workers: args.workers.map_or(cores.min(4), usize::from),
        watch: matches!(args.watch, Watch::Events),
        poll: args.poll,
        data: args.data.clone().unwrap_or_else(|| Data::usual(|name| std::env::var_os(name))),
        fleet,
    };
    match app::run(&options) {
        Ok(Ended::Drained) => ExitCode::SUCCESS,
        Ok(Ended::AtOnce) => ExitCode::from(130),
        Err(StartError::Policy(problems)) => {
            print_problems(&problems);
            ExitCode::from(2)
        }
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(2)
        }
    }
}

fn print_problems(problems: &[crate::policy::yaml::diagnostic::Problem]) {
    use std::io::IsTerminal;
    let colour = std::io::stderr().is_terminal();
    eprintln!("{}", crate::policy::yaml::diagnostic::render(problems, colour));
}
