//! Sends the notifications of modes (`notify`) off the request path. They are signed if the policy has a
//! secret, and repeated for about ten minutes until they are accepted.
//!
//! Each mode sends at most two messages a minute to each target, so that a short episode is reported at
//! its entry and at its end. Further changes wait, and then one message states the current mode and
//! counts the changes in between. When the process ends, they do not wait. A newer message replaces one that is
//! still being repeated, so at most one is in flight per target.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::task::{JoinHandle, spawn_local};

use super::history::EpisodeRecord;
use super::webhook_payload::payload;
use crate::clock;
use crate::live::Live;
use crate::live::degradation::mode::ModeCell;
use crate::policy::sections::model::{Action, Notify};
use crate::resilience::retry::backoff::{BackoffPolicy, Jitter};
use crate::snapshot::{DegradationMode, Snapshot};
use crate::store::Millis;
use crate::telemetry::metrics::NotificationLabels;
use crate::telemetry::panics::{Contained, PanicId};
use crate::upstream::{AddressScope, Pools, Resolver, WebhookMessage, WebhookSender, signature};

const MINUTE: Duration = Duration::from_secs(60);
/// Together with the backoff: about ten minutes.
const MAX_ATTEMPTS: u32 = 9;
const BACKOFF: BackoffPolicy = BackoffPolicy {
    initial: Duration::from_secs(2),
    max: Duration::from_secs(180),
    multiplier: 2.5,
    jitter: Jitter::Equal,
};

pub struct Notifier {
    live: Arc<Live>,
    sender: Rc<WebhookSender>,
    pools: Pools,
    host: String,
    modes: RefCell<HashMap<String, ModeNotifications>>,
}

/// The notifications of one mode.
struct ModeNotifications {
    cell: Arc<ModeCell>,
    targets: Vec<Notify>,
    /// Changes that the latest message does not report.
    skipped: u64,
    /// When the last two messages were sent.
    sent: [Option<Instant>; 2],
    in_flight: Vec<JoinHandle<Result<(), PanicId>>>,
}

impl Notifier {
    pub fn new(live: Arc<Live>, resolver: Resolver, host: String) -> Notifier {
        let pools = Pools::new(MINUTE);
        let sender = Rc::new(WebhookSender::new(pools.clone(), resolver, 2));
        Notifier { live, sender, pools, host, modes: RefCell::default() }
    }

    /// Sends notifications of the modes that changed, if a message may be sent now.
    pub fn notify(&self, snapshot: &Snapshot) {
        let now = clock::now();
        self.pools.sweep(now);
        // Before a change counts as reported.
        self.live.modes.set_notifying(true);
        let mut modes = self.modes.borrow_mut();
        for mode in &snapshot.modes {
            let notifications = modes
                .entry(mode.policy.name.clone())
                .or_insert_with(|| ModeNotifications::new(mode));
            notifications.update(mode);
        }
        for notifications in modes.values_mut() {
            notifications.in_flight.retain(|task| !task.is_finished());
            if let Some((record, skipped)) = notifications.due(now, self.live.modes.is_ending()) {
                self.send(notifications, &record, skipped);
            }
        }
        let in_flight = modes.values().any(|it| !it.in_flight.is_empty());
        self.live.modes.set_notifying(in_flight);
        let known = |name: &str| snapshot.modes.iter().any(|mode| mode.policy.name == name);
        modes.retain(|name, it| known(name) || !it.is_idle());
    }

    /// Nothing is to be sent, and nothing is in flight.
    pub fn is_idle(&self) -> bool {
        self.modes.borrow().values().all(ModeNotifications::is_idle)
    }

    fn send(&self, notifications: &mut ModeNotifications, record: &EpisodeRecord, skipped: u64) {
        notifications.in_flight.drain(..).for_each(|older| older.abort());
        let body = Bytes::from(payload(record, &self.host, skipped).to_string());
        let id = format!("mode_{:016x}{:016x}", clock::random(), clock::random());
        for notify in &notifications.targets {
            let (live, sender) = (Arc::clone(&self.live), Rc::clone(&self.sender));
            let (mode, notify) = (notifications.cell.name.clone(), notify.clone());
            let (id, body) = (id.clone(), body.clone());
            let task = async move {
                let notification = Notification { live, sender, mode, notify, id, body };
                notification.send().await;
            };
            notifications.in_flight.push(spawn_local(Contained::new(task)));
        }
    }
}

impl ModeNotifications {
    fn new(mode: &DegradationMode) -> ModeNotifications {
        ModeNotifications {
            cell: Arc::clone(&mode.live),
            targets: Vec::new(),
            skipped: 0,
            sent: [None; 2],
            in_flight: Vec::new(),
        }
    }

    fn update(&mut self, mode: &DegradationMode) {
        self.cell = Arc::clone(&mode.live);
        let notify = |action: &Action| match action {
            Action::Notify(notify) => Some((**notify).clone()),
            _ => None,
        };
        self.targets = mode.policy.actions.iter().filter_map(notify).collect();
    }

    /// The record to report now, and the number of earlier changes that were not reported.
    fn due(&mut self, now: Instant, is_ending: bool) -> Option<(EpisodeRecord, u64)> {
        let new = self.cell.unreported_changes();
        if new == 0 || self.targets.is_empty() {
            self.cell.mark_reported();
            return None;
        }
        let early = |sent: Instant| now.saturating_duration_since(sent) < MINUTE;
        if self.sent[0].is_some_and(early) && !is_ending {
            return None;
        }
        self.sent = [self.sent[1], Some(now)];
        self.cell.mark_reported();
        // A message in flight is replaced by the newer one, which counts it.
        let replaced = if self.in_flight.is_empty() { 0 } else { 1 + self.skipped };
        self.skipped = new - 1 + replaced;
        Some((EpisodeRecord::of(&*self.cell.latest()?), self.skipped))
    }

    fn is_idle(&self) -> bool {
        self.cell.unreported_changes() == 0 && self.in_flight.iter().all(JoinHandle::is_finished)
    }
}

/// A message to one target.
struct Notification {
    live: Arc<Live>,
    sender: Rc<WebhookSender>,
    mode: String,
    notify: Notify,
    id: String,
    body: Bytes,
}

impl Notification {
    async fn send(self) {
        let (mode, to) = (&self.mode, &self.notify.reference);
        for attempt in 1..=MAX_ATTEMPTS {
            let Err(error) =
                self.sender.send(&self.notify.to, AddressScope::Any, &self.message()).await
            else {
                self.count("sent");
                return;
            };
            self.count(if attempt < MAX_ATTEMPTS { "failed" } else { "given_up" });
            let reason = error.without_host();
            tracing::warn!(mode, to, reason, attempt, "a notification failed");
            if attempt < MAX_ATTEMPTS {
                tokio::time::sleep(BACKOFF.delay(attempt, clock::draw())).await;
            }
        }
    }

    fn message(&self) -> WebhookMessage {
        let at = Millis::of(clock::wall()).0 / 1000;
        let secret = self.notify.secret.as_ref();
        WebhookMessage {
            id: self.id.clone(),
            at,
            signature: secret.map(|key| signature(key.as_bytes(), &self.id, at, &self.body)),
            headers: vec![("content-type", "application/json".to_owned())],
            body: self.body.clone(),
        }
    }

    fn count(&self, result: &'static str) {
        let labels = NotificationLabels { mode: self.mode.clone(), result };
        self.live.metrics.degradation_notifications.with(&labels).inc();
    }
}
