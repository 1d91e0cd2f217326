//! The waker of a connection that is driven by whoever uses it.
//!
//! Both ends of hyper's channels, request and response, are polled within one step of one task: a
//! wake-up from one to the other during that step would only have the task polled once more for
//! nothing. So wake-ups during a step are noted, and those between steps go on to the task.

use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Wake, Waker};

const RESTING: u8 = 0;
const DRIVING: u8 = 1;
const WOKEN: u8 = 2;

#[derive(Debug, Default)]
pub(super) struct Relay {
    state: AtomicU8,
    task: Mutex<Option<Waker>>,
}

impl Relay {
    /// Wake-ups between steps go to this task, or to nobody.
    pub(super) fn listen(&self, task: Option<&Waker>) {
        *self.task.lock().unwrap_or_else(PoisonError::into_inner) = task.cloned();
    }

    /// A step begins.
    pub(super) fn begin(&self) {
        self.state.store(DRIVING, Ordering::Release);
    }

    /// A step ends; whether there was a wake-up in it.
    pub(super) fn end(&self) -> bool {
        self.state.swap(RESTING, Ordering::AcqRel) == WOKEN
    }
}

impl Wake for Relay {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        let noted =
            self.state.compare_exchange(DRIVING, WOKEN, Ordering::AcqRel, Ordering::Acquire);
        if noted == Err(RESTING)
            && let Some(task) = &*self.task.lock().unwrap_or_else(PoisonError::into_inner)
        {
            task.wake_by_ref();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn a_wake_up_reaches_the_task_between_steps_only() {
        let (relay, count) = (Arc::new(Relay::default()), Arc::new(Count::default()));
        let (waker, task) = (Waker::from(Arc::clone(&relay)), Waker::from(Arc::clone(&count)));
        let woken = || count.0.load(Ordering::Relaxed);
        waker.wake_by_ref();
        relay.listen(Some(&task));
        relay.begin();
        waker.wake_by_ref();
        waker.wake_by_ref();
        assert!(relay.end());
        assert_eq!(woken(), 0);
        waker.wake_by_ref();
        assert_eq!(woken(), 1);
        relay.begin();
        assert!(!relay.end());
        relay.listen(None);
        waker.wake_by_ref();
        assert_eq!(woken(), 1);
    }
}
