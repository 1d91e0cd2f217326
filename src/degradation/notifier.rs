//! Who is told that a mode was entered or left (`notify`): posted off the request path, signed where
//! the policy has a secret, and again for about ten minutes until it is taken.
//!
//! At most one message goes out a minute for each mode and place; what changes meanwhile is told with
//! the next. A newer message takes the place of one that is still tried. So there is never more than
//! one on its way to each place.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::task::{JoinHandle, spawn_local};

use super::history::EpisodeRecord;
use super::webhook_payload::letter;
use crate::clock;
use crate::live::Live;
use crate::live::degradation::mode::ModeCell;
use crate::policy::sections::model::{Action, Notify};
use crate::resilience::retry::backoff::{BackoffPolicy, Jitter};
use crate::snapshot::{DegradationMode, Snapshot};
use crate::store::Millis;
use crate::telemetry::metrics::NotificationLabels;
use crate::upstream::{Pools, Resolver, WebhookMessage, WebhookSender, signature};

const MINUTE: Duration = Duration::from_secs(60);
/// With these it is tried for about ten minutes.
const TIMES: u32 = 9;
const AGAIN: BackoffPolicy = BackoffPolicy {
    initial: Duration::from_secs(2),
    max: Duration::from_secs(180),
    multiplier: 2.5,
    jitter: Jitter::Equal,
};

pub struct Notifier {
    live: Arc<Live>,
    posts: Rc<WebhookSender>,
    pools: Pools,
    host: String,
    modes: RefCell<HashMap<String, ModeNotifications>>,
}

/// What was told of a mode.
struct ModeNotifications {
    cell: Arc<ModeCell>,
    to: Vec<Notify>,
    /// Changes that the message under way leaves out.
    more: u64,
    last: Option<Instant>,
    under_way: Vec<JoinHandle<()>>,
}

impl Notifier {
    pub fn new(live: Arc<Live>, resolver: Resolver, host: String) -> Notifier {
        let pools = Pools::new(MINUTE);
        let posts = Rc::new(WebhookSender::new(pools.clone(), resolver, 2));
        Notifier { live, posts, pools, host, modes: RefCell::default() }
    }

    /// Tells of the modes that changed, where a message may go out now.
    pub fn tell(&self, snapshot: &Snapshot) {
        let now = clock::now();
        self.pools.sweep(now);
        let mut modes = self.modes.borrow_mut();
        for mode in &snapshot.modes {
            let told = modes
                .entry(mode.policy.name.clone())
                .or_insert_with(|| ModeNotifications::new(mode));
            told.retune(mode);
        }
        for told in modes.values_mut() {
            told.under_way.retain(|task| !task.is_finished());
            if let Some((record, more)) = told.due(now) {
                self.send(told, &record, more);
                told.last = Some(now);
            }
        }
        let known = |name: &str| snapshot.modes.iter().any(|mode| mode.policy.name == name);
        modes.retain(|name, told| known(name) || !told.is_quiet());
    }

    /// Nothing is to be told, and nothing is on its way.
    pub fn is_quiet(&self) -> bool {
        self.modes.borrow().values().all(ModeNotifications::is_quiet)
    }

    fn send(&self, told: &mut ModeNotifications, record: &EpisodeRecord, more: u64) {
        told.under_way.drain(..).for_each(|older| older.abort());
        let body = Bytes::from(letter(record, &self.host, more).to_string());
        let id = format!("mode_{:016x}{:016x}", clock::random(), clock::random());
        for notify in &told.to {
            let (live, posts) = (Arc::clone(&self.live), Rc::clone(&self.posts));
            let (mode, notify) = (told.cell.name.clone(), notify.clone());
            let (id, body) = (id.clone(), body.clone());
            let task = async move {
                let alert = Notification { live, posts, mode, notify, id, body };
                alert.send().await;
            };
            told.under_way.push(spawn_local(task));
        }
    }
}

impl ModeNotifications {
    fn new(mode: &DegradationMode) -> ModeNotifications {
        ModeNotifications {
            cell: Arc::clone(&mode.live),
            to: Vec::new(),
            more: 0,
            last: None,
            under_way: Vec::new(),
        }
    }

    fn retune(&mut self, mode: &DegradationMode) {
        self.cell = Arc::clone(&mode.live);
        let notify = |action: &Action| match action {
            Action::Notify(notify) => Some((**notify).clone()),
            _ => None,
        };
        self.to = mode.policy.actions.iter().filter_map(notify).collect();
    }

    /// What is to be told now, and how many changes before it were not.
    fn due(&mut self, now: Instant) -> Option<(EpisodeRecord, u64)> {
        let new = self.cell.unreported_changes();
        if new == 0 || self.to.is_empty() {
            self.cell.mark_reported();
            return None;
        }
        let early = |last: Instant| now.saturating_duration_since(last) < MINUTE;
        if self.last.is_some_and(early) {
            return None;
        }
        self.cell.mark_reported();
        // One that is still on its way makes room for the newer one, which says so.
        let lost = if self.under_way.is_empty() { 0 } else { 1 + self.more };
        self.more = new - 1 + lost;
        Some((EpisodeRecord::of(&*self.cell.latest()?), self.more))
    }

    fn is_quiet(&self) -> bool {
        self.cell.unreported_changes() == 0 && self.under_way.iter().all(JoinHandle::is_finished)
    }
}

/// A message to one place.
struct Notification {
    live: Arc<Live>,
    posts: Rc<WebhookSender>,
    mode: String,
    notify: Notify,
    id: String,
    body: Bytes,
}

impl Notification {
    async fn send(self) {
        let (mode, to) = (&self.mode, &self.notify.reference);
        for times in 1..=TIMES {
            let Err(error) = self.posts.send(&self.notify.to, &self.post()).await else {
                self.count("sent");
                return;
            };
            self.count(if times < TIMES { "failed" } else { "given_up" });
            let why = error.without_host();
            tracing::warn!(mode, to, why, times, "an alert was not taken");
            if times < TIMES {
                tokio::time::sleep(AGAIN.delay(times, clock::draw())).await;
            }
        }
    }

    fn post(&self) -> WebhookMessage {
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
