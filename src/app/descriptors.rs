//! File descriptors: raises the limit at the start, and divides it among the listeners.
//!
//! A connection of the application needs a second descriptor for its attempt at a provider. The
//! admin and metrics listeners have small shares of their own, so that no client of theirs takes the
//! last descriptor, and some stay for the parts that need a few: the store, logs, DNS, the policy.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Connections of the admin listener, and of the metrics listener.
const ADMIN_CONNECTIONS: u64 = 64;
/// Descriptors for everything else.
const RESERVED: u64 = 64;

/// The number of connections that each listener may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ConnectionShares {
    /// Connections of the application, whatever `server.connections` is.
    pub clients: usize,
    /// Connections of the admin listener, and as many of the metrics listener.
    pub admin: usize,
}

/// Raises the soft limit of open files to the hard limit, and divides it. Warns when it is too low
/// for `connections`, the value of `server.connections`.
pub(super) fn prepare(connections: usize) -> ConnectionShares {
    let before = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: before.maximum, maximum: before.maximum };
    let raised = setrlimit(Resource::Nofile, raised);
    let limit = getrlimit(Resource::Nofile).current;
    let (soft, now) = (show(before.current), show(limit));
    match raised {
        Ok(()) => tracing::info!(limit = now, was = soft, "limit of open files"),
        Err(error) => {
            tracing::warn!(%error, limit = now, "cannot raise the limit of open files; keeping the current one");
        }
    }
    let shares = ConnectionShares::of(limit);
    if shares.clients < connections {
        tracing::warn!(
            limit = now,
            connections,
            usable = shares.clients,
            "the limit of open files is too low for server.connections; more connections than are \
             usable get 503 (raise the limit with `ulimit -Hn` or LimitNOFILE, or lower \
             server.connections)"
        );
    }
    shares
}

fn show(limit: Option<u64>) -> String {
    limit.map_or_else(|| "unlimited".to_owned(), |limit| limit.to_string())
}

impl ConnectionShares {
    fn of(limit: Option<u64>) -> ConnectionShares {
        let limit = limit.unwrap_or(u64::MAX);
        let admin = (limit / 32).clamp(4, ADMIN_CONNECTIONS);
        let others = RESERVED.min(limit / 2) + 2 * admin;
        let clients = (limit.saturating_sub(others) / 2).max(1);
        let count = |share| usize::try_from(share).unwrap_or(usize::MAX);
        ConnectionShares { clients: count(clients), admin: count(admin) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shares_of_all_listeners_fit_into_the_limit() {
        for (limit, clients, admin) in [
            (Some(64), 12, 4),
            (Some(1024), 448, 32),
            (Some(20_000), 9_904, 64),
            (Some(1 << 20), 524_192, 64),
            (None, usize::MAX / 2 - 96, 64),
        ] {
            let shares = ConnectionShares::of(limit);
            assert_eq!(shares, ConnectionShares { clients, admin }, "{limit:?}");
        }
    }
}
