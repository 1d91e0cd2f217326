//! Enters and leaves degradation modes off the request path, records their episodes, and sends
//! notifications.
//!
//! Conditions are evaluated every 100 ms while the policy has modes, and at once when a breaker changes.

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

const INTERVAL: Duration = Duration::from_millis(100);

/// Evaluates the conditions until the process ends.
pub async fn run(
    current: Arc<CurrentSnapshot>,
    live: Arc<Live>,
    history: Arc<EpisodeHistory>,
    resolver: Resolver,
) {
    let notifier = Notifier::new(Arc::clone(&live), resolver, host_name());
    let local = LocalSet::new();
    // Concurrent, so that a slow write delays no mode.
    let both = async {
        tokio::join!(watch(&current, &live, &history, &notifier), history.run(&live.modes))
    };
    local.run_until(both).await;
}

async fn watch(
    current: &CurrentSnapshot,
    live: &Live,
    history: &EpisodeHistory,
    notifier: &Notifier,
) {
    let mut recorded = 0;
    loop {
        let snapshot = current.load_full();
        evaluate_all(&snapshot, live);
        if std::mem::replace(&mut recorded, live.modes.changes()) != live.modes.changes() {
            history.notify_changed();
        }
        notifier.notify(&snapshot);
        let inactive =
            snapshot.modes.is_empty() && !live.modes.all().iter().any(|cell| cell.is_in_force());
        // A held snapshot would keep live state from being forgotten.
        drop(snapshot);
        if inactive && notifier.is_idle() {
            // A reload wakes it.
            live.modes.woken().await;
        } else {
            let _ = tokio::time::timeout(INTERVAL, live.modes.woken()).await;
        }
    }
}

/// Evaluates every mode of the policy, and leaves those that it no longer has.
fn evaluate_all(snapshot: &Snapshot, live: &Live) {
    let now = clock::now();
    for mode in &snapshot.modes {
        evaluate(mode, live, now);
    }
    for cell in live.modes.all() {
        if !snapshot.modes.iter().any(|mode| Arc::ptr_eq(&mode.live, &cell)) {
            live.modes.remove(&cell, now);
        }
    }
    live.modes.forget_unused();
}

fn evaluate(mode: &DegradationMode, live: &Live, now: Instant) {
    let (met, signals) = mode.evaluate(now);
    for reading in &signals {
        let labels =
            SignalLabels { mode: mode.policy.name.clone(), signal: reading.signal.clone() };
        live.metrics.degradation_signal.with(&labels).set(reading.value.unwrap_or(0.0));
    }
    live.modes.update(&mode.live, met, signals, now);
}
