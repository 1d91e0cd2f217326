//! A rule that a policy may leave out, behind a lock.
//!
//! Where it is left out, asking costs one load and a branch, and no lock. A reload switches it on or
//! off in its place: a request that began before it meets the rule as it is now, as it does with
//! every other rule that is retuned.

use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;

#[derive(Debug)]
pub struct Optional<T> {
    is_on: AtomicBool,
    rule: Mutex<Option<T>>,
}

impl<T> Optional<T> {
    pub fn new(rule: Option<T>) -> Self {
        Optional { is_on: AtomicBool::new(rule.is_some()), rule: Mutex::new(rule) }
    }

    pub fn is_on(&self) -> bool {
        self.is_on.load(Ordering::Acquire)
    }

    /// What the rule says; nothing where it is left out.
    pub fn with<R>(&self, ask: impl FnOnce(&mut T) -> R) -> Option<R> {
        if !self.is_on() {
            return None;
        }
        self.rule.lock().as_mut().map(ask)
    }

    /// Takes another policy: the state stays, but where there is none any longer.
    pub fn retune<P>(
        &self,
        policy: Option<P>,
        make: impl FnOnce(P) -> T,
        retune: impl FnOnce(&mut T, P),
    ) {
        let mut rule = self.rule.lock();
        match (&mut *rule, policy) {
            (Some(rule), Some(policy)) => retune(rule, policy),
            (rule, policy) => *rule = policy.map(make),
        }
        self.is_on.store(rule.is_some(), Ordering::Release);
    }
}
