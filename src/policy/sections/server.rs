//! The section `server`: the sidecar itself. Defaults and bounds stand here.

use std::time::Duration;

use super::model::{AccessLog, Forwarded, Identity, LogFormat, LogTarget, Server};
use super::raw::{RawAccessLog, RawServer};
use crate::policy::section::checker::{Check, DAY, MS};
use crate::policy::yaml::types::At;

const SECOND: Duration = Duration::from_secs(1);

impl Check<'_> {
    pub(crate) fn server(&mut self, raw: &RawServer) -> Server {
        let default = default_server();
        Server {
            connections: self.count(&raw.connections, default.connections, 1..=1_000_000),
            buffered: self.size(&raw.buffered, default.buffered, 1 << 20..=1 << 40),
            header_bytes: self.size(&raw.header_bytes, default.header_bytes, 8 << 10..=1 << 20),
            header_time: self.length(&raw.header_time, default.header_time, MS..=60 * SECOND * 10),
            keep_alive: self.length(&raw.keep_alive, default.keep_alive, MS..=DAY),
            forwarded: raw.forwarded.map_or(default.forwarded, |at| at.value.0),
            tls: raw
                .tls
                .as_ref()
                .and_then(|tls| self.identity(tls.id, ("cert", &tls.cert), ("key", &tls.key))),
            access_log: raw
                .access_log
                .as_ref()
                .map_or(default.access_log, |at| self.access_log(at)),
            drain_delay: self.length(&raw.drain_delay, default.drain_delay, Duration::ZERO..=DAY),
            drain_timeout: self.length(
                &raw.drain_timeout,
                default.drain_timeout,
                Duration::ZERO..=DAY,
            ),
        }
    }

    fn access_log(&mut self, raw: &RawAccessLog) -> AccessLog {
        let to = match raw.to.as_ref().map(|at| (at.id, at.as_str())) {
            None | Some((_, "stderr")) => LogTarget::Stderr,
            Some((_, "none")) => LogTarget::None,
            Some((id, path)) if path.is_empty() || path.ends_with('/') => {
                self.error(
                    id,
                    format!("`{path}` is no file: expected `stderr`, `none` or the path of a file"),
                );
                LogTarget::None
            }
            Some((_, path)) => LogTarget::File(path.into()),
        };
        AccessLog { to, format: raw.format.map_or(LogFormat::Json, |at| at.value.0) }
    }

    /// A certificate and its key, under the names that they have here.
    pub(crate) fn identity(
        &mut self,
        id: crate::policy::yaml::tree::NodeId,
        cert: (&str, &Option<At<String>>),
        key: (&str, &Option<At<String>>),
    ) -> Option<Identity> {
        self.missing(id, cert.0, format!("`{}` needs a `{}` beside it", key.0, cert.0));
        self.missing(id, key.0, format!("`{}` needs a `{}` beside it", cert.0, key.0));
        let cert = cert.1.as_ref().and_then(|at| self.pem(at, "CERTIFICATE"));
        let key = key.1.as_ref().and_then(|at| self.pem(at, "PRIVATE KEY"));
        Some(Identity { cert: cert?, key: key? })
    }
}

pub(crate) fn default_server() -> Server {
    Server {
        connections: 10_000,
        buffered: 256 << 20,
        header_bytes: 64 << 10,
        header_time: 10 * SECOND,
        keep_alive: 75 * SECOND,
        forwarded: Forwarded::Off,
        tls: None,
        access_log: AccessLog { to: LogTarget::Stderr, format: LogFormat::Json },
        drain_delay: Duration::ZERO,
        drain_timeout: 30 * SECOND,
    }
}
