//! This host's copy of the fleet's state, in memory. `fleet/` keeps it up to date; requests read
//! it and never wait for Redis.
//!
//! A new cell (the breaker of a new model, a hold) takes the fleet's state of its key from here.
//! A cell with a state to publish wakes the sync task, which checks all cells: so no update is
//! lost, and no list of updates grows.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use crate::resilience::breaker::shared_state::SharedState;
use parking_lot::Mutex;
use tokio::sync::Notify;

/// Most states, and most holds, that are kept.
const KEYS: usize = 4096;
/// Ends of a hold closer than this count as the same end.
const ALIKE: Duration = Duration::from_millis(50);
/// Most holds that wait to be published.
const MAX_UNPUBLISHED: usize = 1024;

#[derive(Debug, Default)]
pub struct FleetView {
    attached: AtomicBool,
    /// Live hosts at the last count, this one included; 0: never counted.
    hosts: AtomicU32,
    woken: Notify,
    states: Mutex<HashMap<String, (SharedState, Instant)>>,
    holds: Mutex<HashMap<String, KnownHold>>,
    unpublished: Mutex<Vec<(String, Instant)>>,
}

/// A hold that some host of the fleet reported.
#[derive(Clone, Copy, Debug)]
struct KnownHold {
    until: Instant,
    /// An operator ended it on this host.
    is_ended: bool,
}

impl KnownHold {
    fn left(self, now: Instant) -> Option<Duration> {
        let left = self.until.saturating_duration_since(now);
        Some(left).filter(|left| !self.is_ended && !left.is_zero())
    }
}

impl FleetView {
    pub fn is_attached(&self) -> bool {
        self.attached.load(Ordering::Acquire)
    }

    pub fn attach(&self, attached: bool) {
        self.attached.store(attached, Ordering::Release);
    }

    /// The number of hosts that share a limit: at least this one.
    pub fn hosts(&self) -> u32 {
        self.hosts.load(Ordering::Relaxed).max(1)
    }

    pub fn set_hosts(&self, hosts: u32) {
        self.hosts.store(hosts, Ordering::Relaxed);
    }

    /// Wakes the sync task: there is something to publish.
    pub fn wake(&self) {
        self.woken.notify_one();
    }

    /// Waits for a wake.
    pub async fn woken(&self) {
        self.woken.notified().await;
    }

    /// Stores a shared state if it is newer than the known one, and returns whether it is.
    /// `until`: its end by this host's clock.
    pub fn update(&self, key: &str, state: &SharedState, until: Instant) -> bool {
        let mut states = self.states.lock();
        match states.get_mut(key) {
            Some((known, end)) => {
                let is_newer = state.supersedes(known);
                if is_newer {
                    (*known, *end) = (state.clone(), until);
                }
                is_newer
            }
            None => {
                if states.len() >= KEYS
                    && let Some(oldest) = oldest(&states)
                {
                    states.remove(&oldest);
                }
                states.insert(key.to_owned(), (state.clone(), until));
                true
            }
        }
    }

    pub fn shared_state(&self, key: &str) -> Option<(SharedState, Instant)> {
        self.states.lock().get(key).cloned()
    }

    /// All known states, with their keys.
    pub fn shared_states(&self) -> Vec<(String, SharedState)> {
        let states = self.states.lock();
        states.iter().map(|(key, (state, _))| (key.clone(), state.clone())).collect()
    }

    /// The sum of all known epochs: equal to the fleet's if no message was missed.
    pub fn epoch_sum(&self) -> u64 {
        let states = self.states.lock();
        states.values().fold(0, |sum: u64, (known, _)| sum.wrapping_add(known.epoch))
    }

    /// Removes a key that is no longer used.
    pub fn forget(&self, key: &str) {
        self.states.lock().remove(key);
    }

    /// A provider required this host to wait until this time: publishes the hold if it is new.
    pub fn publish_hold(&self, key: &str, until: Instant, now: Instant) {
        if self.observe_hold(key, until, now) {
            let mut unpublished = self.unpublished.lock();
            if unpublished.len() < MAX_UNPUBLISHED {
                unpublished.push((key.to_owned(), until));
            }
            drop(unpublished);
            self.wake();
        }
    }

    /// A provider required some host of the fleet to wait until this time. Returns whether the
    /// hold is new.
    pub fn observe_hold(&self, key: &str, until: Instant, now: Instant) -> bool {
        let mut holds = self.holds.lock();
        if holds.len() >= KEYS {
            holds.retain(|_, known| known.until > now);
        }
        let known = holds.get(key).is_some_and(|known| known.until + ALIKE >= until);
        if known || holds.len() >= KEYS {
            return false;
        }
        holds.insert(key.to_owned(), KnownHold { until, is_ended: false });
        true
    }

    /// The remaining time of a hold that the fleet knows.
    pub fn hold_left(&self, key: &str, now: Instant) -> Option<Duration> {
        self.holds.lock().get(key)?.left(now)
    }

    /// The holds below a key: the rest of each key, and the remaining time.
    pub fn holds_below(&self, key: &str, now: Instant) -> Vec<(String, Duration)> {
        let below = |known: &str| Some(known.strip_prefix(key)?.strip_prefix('/')?.to_owned());
        let holds = self.holds.lock();
        holds.iter().filter_map(|(known, hold)| Some((below(known)?, hold.left(now)?))).collect()
    }

    /// An operator ended a hold on this host: it does not come back.
    pub fn end_hold(&self, key: &str) {
        self.holds.lock().get_mut(key).into_iter().for_each(|known| known.is_ended = true);
    }

    /// Takes the holds of this host that are not published yet.
    pub fn take_unpublished_holds(&self) -> Vec<(String, Instant)> {
        std::mem::take(&mut *self.unpublished.lock())
    }

    /// Current holds and their remaining time.
    pub fn holds(&self, now: Instant) -> Vec<(String, Duration)> {
        let mut held: Vec<_> = self
            .holds
            .lock()
            .iter()
            .filter_map(|(key, known)| Some((key.clone(), known.left(now)?)))
            .collect();
        held.sort();
        held
    }
}

fn oldest(states: &HashMap<String, (SharedState, Instant)>) -> Option<String> {
    let oldest = states.iter().min_by_key(|(_, (state, _))| state.epoch)?;
    Some(oldest.0.clone())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    fn state_of(epoch: u64) -> SharedState {
        SharedState { epoch, ..SharedState::initial() }
    }

    #[test]
    fn an_older_state_is_not_newer() {
        let (now, view) = (clock::now(), FleetView::default());
        assert!(view.update("p/a", &state_of(5), now));
        assert!(!view.update("p/a", &state_of(5), now) && !view.update("p/a", &state_of(4), now));
        assert!(view.update("p/a", &state_of(6), now));
        assert_eq!(view.shared_state("p/a").map(|(known, _)| known.epoch), Some(6));
    }

    #[test]
    fn keys_are_bounded_and_the_newest_stay() {
        let (now, view) = (clock::now(), FleetView::default());
        for n in 0..KEYS as u64 + 10 {
            view.update(&format!("p/{n}"), &state_of(n + 1), now);
            view.observe_hold(&format!("p/{n}"), now + Duration::from_secs(n), now);
        }
        assert_eq!(view.shared_states().len(), KEYS);
        assert!(view.shared_state("p/0").is_none());
        assert!(view.holds(now).len() <= KEYS);
    }

    #[test]
    fn the_later_end_of_a_hold_is_published_once() {
        let (now, view, second) = (clock::now(), FleetView::default(), Duration::from_secs(1));
        view.publish_hold("p/a/k", now + 5 * second, now);
        view.publish_hold("p/a/k", now + 3 * second, now);
        assert_eq!(view.take_unpublished_holds(), [("p/a/k".to_owned(), now + 5 * second)]);
        assert_eq!(view.hold_left("p/a/k", now + second), Some(4 * second));
        assert_eq!(view.hold_left("p/a/k", now + 5 * second), None);
        assert!(view.take_unpublished_holds().is_empty());
    }
}
