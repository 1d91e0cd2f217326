//! Names to addresses: asked when first wanted, and again every 30 s while a target lives.
//!
//! The last good answer stays in force on error: a resolver that is down takes no provider with
//! it. A name that never had an answer is asked again at most once a second, and only for a
//! request that wants it. When no address could be reached the question is put again after 5 s.
//! Addresses that vanish from an answer are drained: the version goes up, and an idle connection
//! to one of them is not used again. No state but connections belongs to an address, so a new
//! answer forgets nothing.
//!
//! `getaddrinfo` knows no TTL, hence the timer. It runs on the control runtime, never on a worker.

use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tokio::sync::{Notify, watch};

use super::tls;
use crate::clock;

const REFRESH: Duration = Duration::from_secs(30);
const REFRESH_IN_DOUBT: Duration = Duration::from_secs(5);
const ASK_AGAIN: Duration = Duration::from_secs(1);

pub(super) type Answered = Pin<Box<dyn Future<Output = io::Result<Vec<IpAddr>>> + Send>>;
type Lookup = Arc<dyn Fn(String) -> Answered + Send + Sync>;

/// What the targets of one process share: names that are kept resolved, and TLS sessions.
#[derive(Clone)]
pub struct Resolver {
    handle: Handle,
    lookup: Lookup,
    names: Arc<Mutex<HashMap<String, Weak<Name>>>>,
    pub(super) tls: Arc<tls::Configs>,
}

/// One host, and what is known of it.
pub(super) struct Name {
    host: String,
    answer: watch::Sender<Answer>,
    /// Goes up when an address vanished.
    version: AtomicU64,
    doubted: Arc<Notify>,
    handle: Handle,
    lookup: Lookup,
}

#[derive(Clone, Debug)]
enum Answer {
    Unasked,
    Asked,
    Known(Arc<[IpAddr]>),
    Failed { reason: Arc<str>, at: Instant },
}

// === impl Resolver ===

impl Resolver {
    /// Lookups run on `handle`'s runtime, which needs its timer.
    pub fn new(handle: Handle) -> Self {
        Self::with_lookup(handle, |host| Box::pin(getaddrinfo(host)))
    }

    pub(super) fn with_lookup(
        handle: Handle,
        lookup: impl Fn(String) -> Answered + Send + Sync + 'static,
    ) -> Self {
        Self { handle, lookup: Arc::new(lookup), names: Arc::default(), tls: Arc::default() }
    }

    pub(super) fn name(&self, host: &str) -> Arc<Name> {
        let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(name) = names.get(host).and_then(Weak::upgrade) {
            return name;
        }
        names.retain(|_, name| name.strong_count() > 0);
        let name = Arc::new(Name::new(host, self));
        names.insert(host.to_owned(), Arc::downgrade(&name));
        name
    }
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

// === impl Name ===

impl Name {
    fn new(host: &str, resolver: &Resolver) -> Self {
        let answer = match host.parse::<IpAddr>() {
            Ok(address) => Answer::Known(Arc::new([address])),
            Err(_) => Answer::Unasked,
        };
        Self {
            host: host.to_owned(),
            answer: watch::Sender::new(answer),
            version: AtomicU64::new(0),
            doubted: Arc::default(),
            handle: resolver.handle.clone(),
            lookup: Arc::clone(&resolver.lookup),
        }
    }

    pub(super) fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    pub(super) fn has(&self, address: IpAddr) -> bool {
        matches!(&*self.answer.borrow(), Answer::Known(known) if known.contains(&address))
    }

    /// What is known, at once; else what the question brings. The caller bounds the wait.
    pub(super) async fn addresses(self: &Arc<Self>) -> Result<Arc<[IpAddr]>, Arc<str>> {
        self.ask();
        let mut answers = self.answer.subscribe();
        let settled =
            answers.wait_for(|answer| matches!(answer, Answer::Known(_) | Answer::Failed { .. }));
        match settled.await.as_deref() {
            Ok(Answer::Known(addresses)) => Ok(Arc::clone(addresses)),
            Ok(Answer::Failed { reason, .. }) => Err(Arc::clone(reason)),
            _ => Err("the resolver has stopped".into()),
        }
    }

    /// No address could be reached: the answer may be out of date.
    pub(super) fn doubt(&self) {
        self.doubted.notify_one();
    }

    fn ask(self: &Arc<Self>) {
        let asks = self.answer.send_if_modified(|answer| {
            let asks = match answer {
                Answer::Unasked => true,
                Answer::Failed { at, .. } => {
                    clock::now().saturating_duration_since(*at) >= ASK_AGAIN
                }
                Answer::Asked | Answer::Known(_) => false,
            };
            if asks {
                *answer = Answer::Asked;
            }
            asks
        });
        if asks {
            let (name, host) = (Arc::downgrade(self), self.host.clone());
            self.handle.spawn(keep(
                name,
                Arc::clone(&self.lookup),
                host,
                Arc::clone(&self.doubted),
            ));
        }
    }

    /// Takes what a lookup brought; says whether there is an answer to keep fresh.
    pub(super) fn publish(&self, found: io::Result<Vec<IpAddr>>) -> bool {
        match found.map(without_repeats) {
            Ok(found) if found.is_empty() => self.publish_failed("the name has no address"),
            Ok(found) => {
                self.publish_known(found.into());
                true
            }
            Err(error) => self.publish_failed(&error.to_string()),
        }
    }

    fn publish_known(&self, found: Arc<[IpAddr]>) {
        self.answer.send_modify(|answer| {
            let vanished = match answer {
                Answer::Known(known) => known.iter().any(|address| !found.contains(address)),
                _ => false,
            };
            *answer = Answer::Known(found);
            if vanished {
                self.version.fetch_add(1, Ordering::Release);
            }
        });
    }

    fn publish_failed(&self, reason: &str) -> bool {
        let failed = self.answer.send_if_modified(|answer| {
            let failed = !matches!(answer, Answer::Known(_));
            if failed {
                *answer = Answer::Failed { reason: reason.into(), at: clock::now() };
            }
            failed
        });
        if !failed {
            tracing::warn!(
                host = self.host,
                reason,
                "cannot resolve, the last good answer is kept"
            );
        }
        !failed
    }
}

/// In the order of the answer, which is the order of preference (RFC 6724).
fn without_repeats(found: Vec<IpAddr>) -> Vec<IpAddr> {
    let mut kept = Vec::with_capacity(found.len());
    for address in found {
        if !kept.contains(&address) {
            kept.push(address);
        }
    }
    kept
}

/// Asks until there is no answer to keep fresh, or nobody who wants one.
async fn keep(name: Weak<Name>, lookup: Lookup, host: String, doubted: Arc<Notify>) {
    loop {
        let found = lookup(host.clone()).await;
        match name.upgrade() {
            Some(name) if name.publish(found) => {}
            _ => return,
        }
        tokio::time::sleep(REFRESH_IN_DOUBT).await;
        let _ = tokio::time::timeout(REFRESH - REFRESH_IN_DOUBT, doubted.notified()).await;
        if name.strong_count() == 0 {
            return;
        }
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Name({}: {:?})", self.host, *self.answer.borrow())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;

    fn resolver(lookup: impl Fn() -> io::Result<Vec<IpAddr>> + Send + Sync + 'static) -> Resolver {
        let lookup = move |_| -> Answered { Box::pin(std::future::ready(lookup())) };
        Resolver::with_lookup(Handle::current(), lookup)
    }

    fn one(last: u8) -> Vec<IpAddr> {
        vec![IpAddr::from([10, 0, 0, last])]
    }

    #[tokio::test]
    async fn the_last_good_answer_is_kept_on_error() {
        let name = resolver(|| Ok(one(1))).name("api.test");
        assert_eq!(*name.addresses().await.expect("an answer"), one(1));
        assert!(name.publish(Err(io::Error::other("the resolver is down"))));
        assert!(name.publish(Ok(Vec::new())));
        assert_eq!(*name.addresses().await.expect("an answer"), one(1));
        assert_eq!(name.version(), 0);
    }

    #[tokio::test]
    async fn the_version_goes_up_only_when_an_address_vanished() {
        let name = resolver(|| Ok(one(1))).name("api.test");
        name.addresses().await.expect("an answer");
        name.publish(Ok([one(2), one(1), one(2)].concat()));
        assert_eq!((name.version(), name.has(one(2)[0])), (0, true));
        assert_eq!(*name.addresses().await.expect("an answer"), [one(2), one(1)].concat());
        name.publish(Ok(one(2)));
        assert_eq!((name.version(), name.has(one(1)[0])), (1, false));
    }

    #[tokio::test]
    async fn a_name_without_an_answer_is_asked_again_after_a_second_only() {
        let asked = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&asked);
        let name = resolver(move || match count.fetch_add(1, Ordering::SeqCst) {
            0 => Err(io::Error::other("no such host")),
            _ => Ok(one(1)),
        })
        .name("api.test");
        for _ in 0..3 {
            assert_eq!(&*name.addresses().await.expect_err("no answer"), "no such host");
        }
        assert_eq!(asked.load(Ordering::SeqCst), 1);
        name.answer.send_modify(|answer| match answer {
            Answer::Failed { at, .. } => *at -= ASK_AGAIN,
            other => panic!("{other:?}"),
        });
        assert_eq!(*name.addresses().await.expect("an answer"), one(1));
    }

    #[tokio::test]
    async fn an_address_in_numbers_is_not_asked_for() {
        let resolver = resolver(|| panic!("asked"));
        let name = resolver.name("::1");
        assert_eq!(
            *name.addresses().await.expect("an answer"),
            ["::1".parse::<IpAddr>().expect("an address")]
        );
    }

    #[tokio::test]
    async fn a_name_is_shared_while_it_is_in_use() {
        let resolver = resolver(|| Ok(one(1)));
        let name = resolver.name("api.test");
        assert!(Arc::ptr_eq(&name, &resolver.name("api.test")));
        drop(name);
        resolver.name("other.test");
        assert_eq!(resolver.names.lock().expect("no panic").len(), 1);
    }
}
