//! What runs beside requests, on a thread of its own: the admin side, the watch on the policy, the
//! looks at conditions.

use std::net::{SocketAddr, TcpListener as StdTcpListener};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::sync::mpsc::{self, Sender};

use super::StartError;
use crate::admin::{self, Shown};
use crate::degradation;
use crate::snapshot::loader::Loader;
use crate::snapshot::watch::{ReloadTrigger, watch};
use crate::upstream::Resolver;

pub(super) struct Side {
    pub admin: Option<StdTcpListener>,
    pub metrics: Option<StdTcpListener>,
    shown: Arc<Shown>,
    resolver: Resolver,
    wake: Sender<ReloadTrigger>,
    wakes: mpsc::Receiver<ReloadTrigger>,
}

impl Side {
    /// With its listeners, what they show, and how a load of the policy is asked for and heard of.
    pub fn new(
        (admin, metrics): (Option<StdTcpListener>, Option<StdTcpListener>),
        shown: &Arc<Shown>,
        resolver: &Resolver,
        (wake, wakes): (Sender<ReloadTrigger>, mpsc::Receiver<ReloadTrigger>),
    ) -> Side {
        let (shown, resolver) = (Arc::clone(shown), resolver.clone());
        Side { admin, metrics, shown, resolver, wake, wakes }
    }

    /// Runs on a thread of its own until the process ends.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn start(
        self,
        runtime: Runtime,
        loader: Arc<Loader>,
        watched: (bool, Duration),
    ) -> std::io::Result<()> {
        let thread = thread::Builder::new().name("control".into());
        thread.spawn(move || runtime.block_on(self.run(loader, watched)))?;
        Ok(())
    }

    async fn run(self, loader: Arc<Loader>, (events, poll): (bool, Duration)) {
        for (listener, all) in [(self.admin, true), (self.metrics, false)] {
            let Some(listener) = listener else { continue };
            let shown = Arc::clone(&self.shown);
            tokio::spawn(async move {
                let served = match TcpListener::from_std(listener) {
                    Ok(listener) if all => admin::serve(listener, shown).await,
                    Ok(listener) => admin::serve_metrics(listener, shown).await,
                    Err(error) => Err(error),
                };
                if let Err(error) = served {
                    tracing::error!(%error, "the admin side ended");
                }
            });
        }
        let Shown { current, live, past, .. } = &*self.shown;
        let (current, live, past) = (Arc::clone(current), Arc::clone(live), Arc::clone(past));
        tokio::join!(
            watch(loader, (self.wake, self.wakes), events, poll),
            degradation::run(current, live, past, self.resolver),
        );
    }
}

/// Binds a listener of the admin side.
///
/// # Errors
/// When the address is taken, or none of this host's.
pub(super) fn bind_side(address: Option<SocketAddr>) -> Result<Option<StdTcpListener>, StartError> {
    let Some(address) = address else { return Ok(None) };
    let bind = |source| StartError::Bind {
        what: address.to_string(),
        source,
        hint: "is another sidecar running? choose another with --admin or --metrics",
    };
    let listener = StdTcpListener::bind(address).map_err(bind)?;
    listener.set_nonblocking(true)?;
    Ok(Some(listener))
}
