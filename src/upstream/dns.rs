//! DNS: a name is resolved on first use, then refreshed every 30 s while a target uses it.
//!
//! The last good addresses are kept on error, so that an outage of the resolver does not take
//! providers down. A name that never resolved is looked up at most once a second, and only when a
//! request needs it. After a failed dial the next refresh comes within 5 s. When an address
//! disappears, the version of its entry increases and idle connections to that address are not
//! used again. Only connections depend on an address, so that new addresses reset no other state.
//!
//! `getaddrinfo` reports no TTL, hence the fixed interval. Lookups run on the control runtime,
//! never on a worker.

use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::{Notify, watch};

use super::tls;
use crate::clock;

const REFRESH: Duration = Duration::from_secs(30);
const MIN_REFRESH: Duration = Duration::from_secs(5);
const RETRY_AFTER: Duration = Duration::from_secs(1);

pub(super) type LookupFuture = Pin<Box<dyn Future<Output = io::Result<Vec<IpAddr>>> + Send>>;
type Lookup = Arc<dyn Fn(String) -> LookupFuture + Send + Sync>;

/// The DNS entries and TLS configurations shared by all targets of the process.
#[derive(Clone)]
pub struct Resolver {
    handle: Handle,
    lookup: Lookup,
    entries: Arc<Mutex<HashMap<String, Weak<DnsEntry>>>>,
    pub(super) tls: Arc<tls::TlsConfigs>,
}

/// One host and its addresses.
pub(super) struct DnsEntry {
    host: String,
    state: watch::Sender<LookupState>,
    /// Increases when an address disappears.
    version: AtomicU64,
    refresh_requested: Arc<Notify>,
    handle: Handle,
    lookup: Lookup,
}

#[derive(Clone, Debug)]
enum LookupState {
    Idle,
    Pending,
    Resolved(Arc<[IpAddr]>),
    Failed { reason: Arc<str>, at: Instant },
}

impl Resolver {
    /// Lookups run on `handle`'s runtime, which needs its timer.
    pub fn new(handle: Handle) -> Self {
        Self::with_lookup(handle, |host| Box::pin(getaddrinfo(host)))
    }

    pub(super) fn with_lookup(
        handle: Handle,
        lookup: impl Fn(String) -> LookupFuture + Send + Sync + 'static,
    ) -> Self {
        Self { handle, lookup: Arc::new(lookup), entries: Arc::default(), tls: Arc::default() }
    }

    pub(super) fn entry(&self, host: &str) -> Arc<DnsEntry> {
        let mut entries = self.entries.lock();
        if let Some(entry) = entries.get(host).and_then(Weak::upgrade) {
            return entry;
        }
        entries.retain(|_, entry| entry.strong_count() > 0);
        let entry = Arc::new(DnsEntry::new(host, self));
        entries.insert(host.to_owned(), Arc::downgrade(&entry));
        entry
    }
}

/// The loopback interface has two addresses. The name means it and needs no resolver (RFC 6761,
/// 6.3), which often knows one of them only, and does not know the name with a dot at its end.
const LOCALHOST: [IpAddr; 2] = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];

fn is_localhost(host: &str) -> bool {
    let host = host.strip_suffix('.').unwrap_or(host);
    let last = host.rsplit('.').next().unwrap_or_default();
    last.eq_ignore_ascii_case("localhost")
}

async fn getaddrinfo(host: String) -> io::Result<Vec<IpAddr>> {
    let found = tokio::net::lookup_host((host, 0)).await?;
    Ok(found.map(|address| address.ip()).collect())
}

impl fmt::Debug for Resolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Resolver")
    }
}

impl DnsEntry {
    fn new(host: &str, resolver: &Resolver) -> Self {
        let state = match host.parse::<IpAddr>() {
            Ok(address) => LookupState::Resolved(Arc::new([address])),
            Err(_) if is_localhost(host) => LookupState::Resolved(Arc::new(LOCALHOST)),
            Err(_) => LookupState::Idle,
        };
        Self {
            host: host.to_owned(),
            state: watch::Sender::new(state),
            version: AtomicU64::new(0),
            refresh_requested: Arc::default(),
            handle: resolver.handle.clone(),
            lookup: Arc::clone(&resolver.lookup),
        }
    }

    pub(super) fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    pub(super) fn contains(&self, address: IpAddr) -> bool {
        matches!(&*self.state.borrow(), LookupState::Resolved(known) if known.contains(&address))
    }

    /// The known addresses, or the result of a lookup. The caller limits the wait.
    pub(super) async fn addresses(self: &Arc<Self>) -> Result<Arc<[IpAddr]>, Arc<str>> {
        self.start_lookup();
        let mut state = self.state.subscribe();
        let result = state.wait_for(|state| {
            matches!(state, LookupState::Resolved(_) | LookupState::Failed { .. })
        });
        match result.await.as_deref() {
            Ok(LookupState::Resolved(addresses)) => Ok(Arc::clone(addresses)),
            Ok(LookupState::Failed { reason, .. }) => Err(Arc::clone(reason)),
            _ => Err("the resolver has stopped".into()),
        }
    }

    /// Requests an early refresh, because no address could be reached.
    pub(super) fn request_refresh(&self) {
        self.refresh_requested.notify_one();
    }

    fn start_lookup(self: &Arc<Self>) {
        let starts = self.state.send_if_modified(|state| {
            let starts = match state {
                LookupState::Idle => true,
                LookupState::Failed { at, .. } => {
                    clock::now().saturating_duration_since(*at) >= RETRY_AFTER
                }
                LookupState::Pending | LookupState::Resolved(_) => false,
            };
            if starts {
                *state = LookupState::Pending;
            }
            starts
        });
        if starts {
            let (entry, host) = (Arc::downgrade(self), self.host.clone());
            self.handle.spawn(refresh_loop(
                entry,
                Arc::clone(&self.lookup),
                host,
                Arc::clone(&self.refresh_requested),
            ));
        }
    }

    /// Stores the result of a lookup. Returns whether there are addresses to refresh.
    pub(super) fn publish(&self, found: io::Result<Vec<IpAddr>>) -> bool {
        match found.map(deduplicate) {
            Ok(found) if found.is_empty() => self.publish_failed("the name has no address"),
            Ok(found) => {
                self.publish_resolved(found.into());
                true
            }
            Err(error) => self.publish_failed(&error.to_string()),
        }
    }

    fn publish_resolved(&self, found: Arc<[IpAddr]>) {
        self.state.send_modify(|state| {
            let has_vanished = match state {
                LookupState::Resolved(known) => {
                    known.iter().any(|address| !found.contains(address))
                }
                _ => false,
            };
            *state = LookupState::Resolved(found);
            if has_vanished {
                self.version.fetch_add(1, Ordering::Release);
            }
        });
    }

    fn publish_failed(&self, reason: &str) -> bool {
        let is_unresolved = self.state.send_if_modified(|state| {
            let is_unresolved = !matches!(state, LookupState::Resolved(_));
            if is_unresolved {
                *state = LookupState::Failed { reason: reason.into(), at: clock::now() };
            }
            is_unresolved
        });
        if !is_unresolved {
            tracing::warn!(
                host = self.host,
                reason,
                "cannot resolve the host; keeping its last known addresses"
            );
        }
        !is_unresolved
    }
}

/// Keeps the order, which is the order of preference (RFC 6724).
fn deduplicate(found: Vec<IpAddr>) -> Vec<IpAddr> {
    let mut kept = Vec::with_capacity(found.len());
    for address in found {
        if !kept.contains(&address) {
            kept.push(address);
        }
    }
    kept
}

/// Looks the host up until that fails with no known address, or no target uses the entry.
async fn refresh_loop(entry: Weak<DnsEntry>, lookup: Lookup, host: String, doubted: Arc<Notify>) {
    loop {
        let found = lookup(host.clone()).await;
        match entry.upgrade() {
            Some(entry) if entry.publish(found) => {}
            _ => return,
        }
        tokio::time::sleep(MIN_REFRESH).await;
        let _ = tokio::time::timeout(REFRESH - MIN_REFRESH, doubted.notified()).await;
        if entry.strong_count() == 0 {
            return;
        }
    }
}

impl fmt::Debug for DnsEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Name({}: {:?})", self.host, *self.state.borrow())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;

    fn resolver(lookup: impl Fn() -> io::Result<Vec<IpAddr>> + Send + Sync + 'static) -> Resolver {
        let lookup = move |_| -> LookupFuture { Box::pin(std::future::ready(lookup())) };
        Resolver::with_lookup(Handle::current(), lookup)
    }

    fn one(last: u8) -> Vec<IpAddr> {
        vec![IpAddr::from([10, 0, 0, last])]
    }

    #[tokio::test]
    async fn the_last_known_addresses_are_kept_on_error() {
        let name = resolver(|| Ok(one(1))).entry("api.test");
        assert_eq!(*name.addresses().await.expect("addresses"), one(1));
        assert!(name.publish(Err(io::Error::other("the resolver is down"))));
        assert!(name.publish(Ok(Vec::new())));
        assert_eq!(*name.addresses().await.expect("addresses"), one(1));
        assert_eq!(name.version(), 0);
    }

    #[tokio::test]
    async fn the_version_increases_only_when_an_address_disappears() {
        let name = resolver(|| Ok(one(1))).entry("api.test");
        name.addresses().await.expect("addresses");
        name.publish(Ok([one(2), one(1), one(2)].concat()));
        assert_eq!((name.version(), name.contains(one(2)[0])), (0, true));
        assert_eq!(*name.addresses().await.expect("addresses"), [one(2), one(1)].concat());
        name.publish(Ok(one(2)));
        assert_eq!((name.version(), name.contains(one(1)[0])), (1, false));
    }

    #[tokio::test]
    async fn a_name_that_never_resolved_is_looked_up_at_most_once_a_second() {
        let lookups = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&lookups);
        let name = resolver(move || match count.fetch_add(1, Ordering::SeqCst) {
            0 => Err(io::Error::other("no such host")),
            _ => Ok(one(1)),
        })
        .entry("api.test");
        for _ in 0..3 {
            assert_eq!(&*name.addresses().await.expect_err("a failed lookup"), "no such host");
        }
        assert_eq!(lookups.load(Ordering::SeqCst), 1);
        name.state.send_modify(|state| match state {
            LookupState::Failed { at, .. } => *at -= RETRY_AFTER,
            other => panic!("{other:?}"),
        });
        assert_eq!(*name.addresses().await.expect("addresses"), one(1));
    }

    #[tokio::test]
    async fn an_ip_address_is_not_looked_up() {
        let resolver = resolver(|| panic!("looked up"));
        let name = resolver.entry("::1");
        assert_eq!(
            *name.addresses().await.expect("addresses"),
            ["::1".parse::<IpAddr>().expect("an address")]
        );
    }

    #[tokio::test]
    async fn localhost_is_both_loopback_addresses_without_a_lookup() {
        let resolver = resolver(|| panic!("looked up"));
        for host in ["localhost", "LOCALHOST.", "api.localhost"] {
            let entry = resolver.entry(host);
            assert_eq!(*entry.addresses().await.expect("addresses"), LOCALHOST, "{host}");
        }
        assert!(!is_localhost("localhost.test") && !is_localhost("notlocalhost"));
    }

    #[tokio::test]
    async fn an_entry_is_shared_while_it_is_in_use() {
        let resolver = resolver(|| Ok(one(1)));
        let name = resolver.entry("api.test");
        assert!(Arc::ptr_eq(&name, &resolver.entry("api.test")));
        drop(name);
        resolver.entry("other.test");
        assert_eq!(resolver.entries.lock().len(), 1);
    }
}
