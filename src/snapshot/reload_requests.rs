//! Requests to load the policy, and which of them have been carried out.
//!
//! A load carries out every request that was made before it began to read the files.

use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::Notify;
use tokio::sync::watch::{Receiver, Sender};

/// Numbers the requests for loads.
#[derive(Debug, Default)]
pub struct ReloadRequests {
    latest: AtomicU64,
    added: Notify,
    /// The highest number that a finished load has carried out.
    finished: Sender<u64>,
}

/// A load that has begun. Dropping it ends it, also when the load panics.
#[derive(Debug)]
pub struct LoadInProgress<'a> {
    requests: &'a ReloadRequests,
    number: u64,
}

impl ReloadRequests {
    /// Registers a request.
    pub fn add(&self) {
        self.latest.fetch_add(1, Ordering::AcqRel);
        self.added.notify_one();
    }

    /// Waits for the next request; for one task.
    pub async fn added(&self) {
        self.added.notified().await;
    }

    /// The number of the last request.
    pub fn latest(&self) -> u64 {
        self.latest.load(Ordering::Acquire)
    }

    /// Reports the end of each load, with the number of the last request that it carried out.
    pub fn subscribe(&self) -> Receiver<u64> {
        self.finished.subscribe()
    }

    /// Called before a load reads the first file.
    pub fn begin(&self) -> LoadInProgress<'_> {
        LoadInProgress { requests: self, number: self.latest() }
    }
}

impl Drop for LoadInProgress<'_> {
    fn drop(&mut self) {
        self.requests.finished.send_replace(self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_load_carries_out_the_requests_before_it() {
        let requests = ReloadRequests::default();
        let mut finished = requests.subscribe();
        requests.add();
        let load = requests.begin();
        requests.add();
        drop(load);
        assert_eq!(*finished.borrow_and_update(), 1);
        drop(requests.begin());
        assert_eq!((*finished.borrow_and_update(), requests.latest()), (2, 2));
    }
}
