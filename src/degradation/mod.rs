//! Modes are entered and left: conditions are looked at, off the request path, and what came of it is
//! written down and told.
//!
//! A look is taken every 100 ms while the policy has modes, and at once when a breaker changed.

pub mod history;
mod notifier;
mod webhook_payload;

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::LocalSet;

use crate::clock;
use crate::degradation::history::EpisodeHistory;
use crate::degradation::notifier::Notifier;
use crate::live::Live;
use crate::snapshot::{CurrentSnapshot, DegradationMode, Snapshot};
use crate::telemetry::metrics::SignalLabels;
use crate::telemetry::process::host_name;
use crate::upstream::Resolver;

/// Between two looks.
const BEAT: Duration = Duration::from_millis(100);

/// Looks at the conditions until the process ends.
pub async fn run(
    current: Arc<CurrentSnapshot>,
    live: Arc<Live>,
    past: Arc<EpisodeHistory>,
    resolver: Resolver,
) {
    let alerts = Notifier::new(Arc::clone(&live), resolver, host_name());
    let local = LocalSet::new();
    // Writing may take its time: nobody is entered later for that.
    let both =
        async { tokio::join!(watch(&current, &live, &past, &alerts), past.run(&live.modes)) };
    local.run_until(both).await;
}

async fn watch(current: &CurrentSnapshot, live: &Live, past: &EpisodeHistory, alerts: &Notifier) {
    let mut told = 0;
    loop {
        let snapshot = current.load_full();
        look(&snapshot, live);
        if std::mem::replace(&mut told, live.modes.changes()) != live.modes.changes() {
            past.news();
        }
        alerts.tell(&snapshot);
        let nothing =
            snapshot.modes.is_empty() && !live.modes.all().iter().any(|cell| cell.is_in_force());
        // Whoever holds a snapshot keeps what only it names from being forgotten.
        drop(snapshot);
        if nothing && alerts.is_quiet() {
            // A reload wakes.
            live.modes.woken().await;
        } else {
            let _ = tokio::time::timeout(BEAT, live.modes.woken()).await;
        }
    }
}

/// Looks at every mode of the policy; what it has no longer is left.
fn look(snapshot: &Snapshot, live: &Live) {
    let now = clock::now();
    for mode in &snapshot.modes {
        look_at(mode, live, now);
    }
    for cell in live.modes.all() {
        if !snapshot.modes.iter().any(|mode| Arc::ptr_eq(&mode.live, &cell)) {
            live.modes.remove(&cell, now);
        }
    }
    live.modes.forget_unused();
}

fn look_at(mode: &DegradationMode, live: &Live, now: Instant) {
    let (holds, seen) = mode.evaluate(now);
    for sign in &seen {
        let labels = SignalLabels { mode: mode.policy.name.clone(), signal: sign.signal.clone() };
        live.metrics.degradation_signal.with(&labels).set(sign.value.unwrap_or(0.0));
    }
    live.modes.update(&mode.live, holds, seen, now);
}
