//! The section `server`: the sidecar itself.

use std::path::PathBuf;
use std::time::Duration;

use super::tls::Identity;
use crate::policy::section::{Size, section, texts, words};
use crate::policy::yaml::units::{DAY, MS, SECOND};

section! {
    /// The sidecar itself; in one file at most.
    #[derive(Clone, Debug, PartialEq)]
    pub struct Server {
        /// Connections beyond this receive 503 and are closed.
        connections: usize = 10_000, in 1..=1_000_000;
        /// Memory of all replay and stream buffers together: three quarters hold body bytes, the rest is reserved for overhead.
        buffered: u64 as Size = 256 << 20, in 1 << 20..=1 << 40;
        /// The largest head of a request.
        header_bytes: usize as Size = 64 << 10, in 8 << 10..=1 << 20;
        /// Time limit for receiving the head of a request.
        header_time: Duration = 10 * SECOND, in MS..=600 * SECOND;
        /// The minimum average rate of a request body, in bytes per second, beyond the time that `timeouts.idle` allows for one gap; 0 for none.
        body_rate: u64 as Size = 240, in 0..=1 << 30;
        /// How long an idle connection is kept open.
        keep_alive: Duration = 75 * SECOND, in MS..=DAY;
        /// Whether `Via`, `Forwarded` and `X-Forwarded-*` are added to each request.
        forwarded: Forwarded = Forwarded::Off;
        /// The listener's certificate and key; without them it speaks plain HTTP.
        tls: Option<Identity>;
        /// One line for each request.
        access_log: AccessLog;
        /// Requests per second of each worker whose records are kept for `GET /api/requests`; above it, records are missing unless the access log is JSON. 0 keeps none.
        recent_requests: u32 = 50, in 0..=100_000;
        /// After SIGTERM: how long the sidecar reports not ready and still accepts connections.
        drain_delay: Duration = Duration::ZERO, in Duration::ZERO..=DAY;
        /// After `drain_delay`: how long requests may take to finish.
        drain_timeout: Duration = 30 * SECOND, in Duration::ZERO..=DAY;
    }
}

section! {
    /// Where the access log goes.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct AccessLog {
        /// `stderr`, `stdout`, `none`, or a file, which is opened again when it was moved.
        to: LogTarget = LogTarget::Stderr;
        /// One JSON object or one text for each line.
        format: LogFormat = LogFormat::Json;
    }
}

words! {
    /// Whether `Via`, `Forwarded` and `X-Forwarded-*` are added to each request.
    pub enum Forwarded { Off = "off", Append = "append", }
    pub enum LogFormat { Json = "json", Text = "text", }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogTarget {
    Stderr,
    Stdout,
    File(PathBuf),
    None,
}

texts! {
    impl LogTarget for LogTarget: "text", ValueShape::text(), log_target, |target: &LogTarget| match target {
        LogTarget::Stderr => "stderr".to_owned(),
        LogTarget::Stdout => "stdout".to_owned(),
        LogTarget::None => "none".to_owned(),
        LogTarget::File(path) => path.display().to_string(),
    };
}

fn log_target(text: &str) -> Result<LogTarget, String> {
    match text {
        "stderr" => Ok(LogTarget::Stderr),
        "stdout" => Ok(LogTarget::Stdout),
        "none" => Ok(LogTarget::None),
        path if path.is_empty() || path.ends_with('/') => {
            let expected = "`stderr`, `stdout`, `none` or the path of a file";
            Err(format!("`{path}` is not a file: expected {expected}"))
        }
        path => Ok(LogTarget::File(path.into())),
    }
}
