//! A rule that a policy may omit, behind a lock.
//!
//! If it is omitted, a call costs one load and a branch, and no lock. A reload switches it on
//! or off in place: a request that began before the reload sees the current rule, as with
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

    /// Calls the rule; none if it is omitted.
    pub fn with<R>(&self, act: impl FnOnce(&mut T) -> R) -> Option<R> {
        if !self.is_on() {
            return None;
        }
        self.rule.lock().as_mut().map(act)
    }

    /// Takes another policy; the state is kept, unless the rule is now omitted.
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
