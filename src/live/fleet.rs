//! What a host knows of its fleet, where requests can see it: memory, kept up to date by `shared/`.
//!
//! Nothing here waits for Redis. A cell that is made (a breaker for a new model, a hold) finds what
//! the fleet said of its key before; a cell that has something to say wakes the fleet's task, which
//! looks at all of them: nothing can be lost, and nothing grows.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use crate::resilience::breaker::shared_state::SharedState;
use parking_lot::Mutex;
use tokio::sync::Notify;

/// Keys that are remembered of each kind.
const KEYS: usize = 4096;
/// Ends that lie no further apart are one end, read twice.
const ALIKE: Duration = Duration::from_millis(50);
/// Holds that were not told yet.
const UNTOLD: usize = 1024;

#[derive(Debug, Default)]
pub struct FleetView {
    attached: AtomicBool,
    /// Live hosts as they were last counted, this one included; 0: never.
    hosts: AtomicU32,
    woken: Notify,
    registers: Mutex<HashMap<String, (SharedState, Instant)>>,
    holds: Mutex<HashMap<String, Instant>>,
    untold: Mutex<Vec<(String, Instant)>>,
}

impl FleetView {
    pub fn is_attached(&self) -> bool {
        self.attached.load(Ordering::Acquire)
    }

    pub fn attach(&self, attached: bool) {
        self.attached.store(attached, Ordering::Release);
    }

    /// How many hosts share a limit: at least this one.
    pub fn hosts(&self) -> u32 {
        self.hosts.load(Ordering::Relaxed).max(1)
    }

    pub fn set_hosts(&self, hosts: u32) {
        self.hosts.store(hosts, Ordering::Relaxed);
    }

    /// There is something to say: the fleet's task looks.
    pub fn wake(&self) {
        self.woken.notify_one();
    }

    /// Waits for a wake.
    pub async fn woken(&self) {
        self.woken.notified().await;
    }

    /// A register was seen; `until` is its end by this host's clock. Whether it is news.
    pub fn update(&self, key: &str, register: &SharedState, until: Instant) -> bool {
        let mut registers = self.registers.lock();
        match registers.get_mut(key) {
            Some((known, end)) => {
                let news = register.supersedes(known);
                if news {
                    (*known, *end) = (register.clone(), until);
                }
                news
            }
            None => {
                if registers.len() >= KEYS
                    && let Some(oldest) = oldest(&registers)
                {
                    registers.remove(&oldest);
                }
                registers.insert(key.to_owned(), (register.clone(), until));
                true
            }
        }
    }

    pub fn shared_state(&self, key: &str) -> Option<(SharedState, Instant)> {
        self.registers.lock().get(key).cloned()
    }

    /// All that is known, by its key.
    pub fn shared_states(&self) -> Vec<(String, SharedState)> {
        let registers = self.registers.lock();
        registers.iter().map(|(key, (register, _))| (key.clone(), register.clone())).collect()
    }

    /// What the epochs of all that is known come to: equal to the fleet's where nothing was missed.
    pub fn epoch_sum(&self) -> u64 {
        let registers = self.registers.lock();
        registers.values().fold(0, |sum: u64, (known, _)| sum.wrapping_add(known.epoch))
    }

    /// Nobody has to know it any longer.
    pub fn forget(&self, key: &str) {
        self.registers.lock().remove(key);
    }

    /// This host was asked to wait until then.
    pub fn publish_hold(&self, key: &str, until: Instant, now: Instant) {
        if self.observe_hold(key, until, now) {
            let mut untold = self.untold.lock();
            if untold.len() < UNTOLD {
                untold.push((key.to_owned(), until));
            }
            drop(untold);
            self.wake();
        }
    }

    /// Somebody of the fleet was. Whether that is news.
    pub fn observe_hold(&self, key: &str, until: Instant, now: Instant) -> bool {
        let mut holds = self.holds.lock();
        if holds.len() >= KEYS {
            holds.retain(|_, until| *until > now);
        }
        let known = holds.get(key).is_some_and(|known| *known + ALIKE >= until);
        if known || holds.len() >= KEYS {
            return false;
        }
        holds.insert(key.to_owned(), until);
        true
    }

    /// What is left of a hold that the fleet knows.
    pub fn hold_left(&self, key: &str, now: Instant) -> Option<Duration> {
        let until = *self.holds.lock().get(key)?;
        Some(until.saturating_duration_since(now)).filter(|left| !left.is_zero())
    }

    /// Holds of this host that the fleet has not heard of.
    pub fn take_unpublished_holds(&self) -> Vec<(String, Instant)> {
        std::mem::take(&mut *self.untold.lock())
    }

    /// Holds that last, and what is left of each.
    pub fn holds(&self, now: Instant) -> Vec<(String, Duration)> {
        let mut held: Vec<_> = self
            .holds
            .lock()
            .iter()
            .map(|(key, until)| (key.clone(), until.saturating_duration_since(now)))
            .filter(|(_, left)| !left.is_zero())
            .collect();
        held.sort();
        held
    }
}

fn oldest(registers: &HashMap<String, (SharedState, Instant)>) -> Option<String> {
    let oldest = registers.iter().min_by_key(|(_, (register, _))| register.epoch)?;
    Some(oldest.0.clone())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    fn register(epoch: u64) -> SharedState {
        SharedState { epoch, ..SharedState::initial() }
    }

    #[test]
    fn an_older_register_is_no_news() {
        let (now, side) = (clock::now(), FleetView::default());
        assert!(side.update("p/a", &register(5), now));
        assert!(!side.update("p/a", &register(5), now) && !side.update("p/a", &register(4), now));
        assert!(side.update("p/a", &register(6), now));
        assert_eq!(side.shared_state("p/a").map(|(known, _)| known.epoch), Some(6));
    }

    #[test]
    fn keys_are_bounded_and_the_newest_stay() {
        let (now, side) = (clock::now(), FleetView::default());
        for n in 0..KEYS as u64 + 10 {
            side.update(&format!("p/{n}"), &register(n + 1), now);
            side.observe_hold(&format!("p/{n}"), now + Duration::from_secs(n), now);
        }
        assert_eq!(side.shared_states().len(), KEYS);
        assert!(side.shared_state("p/0").is_none());
        assert!(side.holds(now).len() <= KEYS);
    }

    #[test]
    fn of_two_holds_the_later_end_counts_and_is_told_once() {
        let (now, side, second) = (clock::now(), FleetView::default(), Duration::from_secs(1));
        side.publish_hold("p/a/k", now + 5 * second, now);
        side.publish_hold("p/a/k", now + 3 * second, now);
        assert_eq!(side.take_unpublished_holds(), [("p/a/k".to_owned(), now + 5 * second)]);
        assert_eq!(side.hold_left("p/a/k", now + second), Some(4 * second));
        assert_eq!(side.hold_left("p/a/k", now + 5 * second), None);
        assert!(side.take_unpublished_holds().is_empty());
    }
}
