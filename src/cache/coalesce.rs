//! Request coalescing: of equal requests without a usable cached response, one is sent, and the
//! others wait for its response.
//!
//! The request that is sent holds the [`Leader`]. It ends with a response that the followers read as
//! well, or without one that can be shared. If a leader is dropped because its client disconnected,
//! the next request that joins becomes the leader.

use std::collections::HashMap;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Poll, Waker};

use parking_lot::Mutex;

use super::key::CacheKey;
use super::shared_body::SharedBody;

#[derive(Debug, Default)]
pub struct InFlightRequests(Arc<Mutex<HashMap<CacheKey, Arc<InFlight>>>>);

#[derive(Debug, Default)]
pub struct InFlight(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    outcome: Option<LeaderOutcome>,
    wakers: HashMap<u64, Waker>,
    next: u64,
}

/// The outcome of the leader, for its followers.
#[derive(Clone, Debug)]
pub enum LeaderOutcome {
    Response(Arc<SharedBody>),
    /// The response cannot be shared: each follower sends its own request.
    NotShareable,
    /// No provider responded, or with an error.
    Failed,
    /// The response is stored now, or the leader is gone: look up again.
    LookAgain,
}

/// The role of a request among equal ones.
#[derive(Debug)]
pub enum CoalesceRole {
    Lead(Leader),
    Follow(Arc<InFlight>),
}

/// The request that is sent for all.
#[derive(Debug)]
pub struct Leader {
    requests: Arc<Mutex<HashMap<CacheKey, Arc<InFlight>>>>,
    key: CacheKey,
    request: Arc<InFlight>,
}

impl InFlightRequests {
    pub fn join(&self, key: CacheKey) -> CoalesceRole {
        let mut requests = self.0.lock();
        if let Some(request) = requests.get(&key) {
            return CoalesceRole::Follow(Arc::clone(request));
        }
        let request = Arc::new(InFlight::default());
        requests.insert(key, Arc::clone(&request));
        CoalesceRole::Lead(Leader { requests: Arc::clone(&self.0), key, request })
    }

    pub fn count(&self) -> usize {
        self.0.lock().len()
    }
}

impl InFlight {
    /// Waits for the outcome of the leader.
    pub async fn outcome(&self) -> LeaderOutcome {
        let mut waiting = Waiting { request: self, id: None };
        poll_fn(|cx| {
            let mut state = self.0.lock();
            if let Some(outcome) = &state.outcome {
                return Poll::Ready(outcome.clone());
            }
            let id = *waiting.id.get_or_insert_with(|| {
                state.next += 1;
                state.next
            });
            state.wakers.insert(id, cx.waker().clone());
            Poll::Pending
        })
        .await
    }

    fn set_outcome(&self, outcome: LeaderOutcome) {
        let wakers = {
            let mut state = self.0.lock();
            state.outcome.get_or_insert(outcome);
            std::mem::take(&mut state.wakers)
        };
        wakers.into_values().for_each(Waker::wake);
    }
}

/// Removes its waker when it is dropped.
struct Waiting<'f> {
    request: &'f InFlight,
    id: Option<u64>,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if let Some(id) = self.id {
            self.request.0.lock().wakers.remove(&id);
        }
    }
}

impl Leader {
    /// Shares the body with the followers, also with those that join until it ends.
    pub fn share(&self, body: &Arc<SharedBody>) {
        self.request.set_outcome(LeaderOutcome::Response(Arc::clone(body)));
    }

    /// Ends without sharing a body.
    pub fn finish(self, outcome: LeaderOutcome) {
        self.remove();
        self.request.set_outcome(outcome);
    }

    fn remove(&self) {
        let mut requests = self.requests.lock();
        if requests.get(&self.key).is_some_and(|request| Arc::ptr_eq(request, &self.request)) {
            requests.remove(&self.key);
        }
    }
}

impl Drop for Leader {
    fn drop(&mut self) {
        self.remove();
        self.request.set_outcome(LeaderOutcome::LookAgain);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::key::CacheSecret;
    use std::future::Future;
    use std::pin::pin;
    use std::task::Context;

    fn key() -> CacheKey {
        CacheSecret::new().expect("random bytes").builder().finish()
    }

    fn lead(requests: &InFlightRequests, key: CacheKey) -> Leader {
        match requests.join(key) {
            CoalesceRole::Lead(lead) => lead,
            CoalesceRole::Follow(_) => panic!("another request leads"),
        }
    }

    fn follow(requests: &InFlightRequests, key: CacheKey) -> Arc<InFlight> {
        match requests.join(key) {
            CoalesceRole::Lead(_) => panic!("no request leads"),
            CoalesceRole::Follow(request) => request,
        }
    }

    #[test]
    fn followers_receive_the_outcome_of_the_leader() {
        let (requests, key) = (InFlightRequests::default(), key());
        let first = lead(&requests, key);
        let request = follow(&requests, key);
        let mut outcome = pin!(request.outcome());
        let mut cx = Context::from_waker(Waker::noop());
        assert!(outcome.as_mut().poll(&mut cx).is_pending());
        first.finish(LeaderOutcome::Failed);
        assert!(matches!(outcome.as_mut().poll(&mut cx), Poll::Ready(LeaderOutcome::Failed)));
        assert_eq!(requests.count(), 0);
    }

    #[test]
    fn after_a_dropped_leader_the_next_request_leads() {
        let (requests, key) = (InFlightRequests::default(), key());
        let first = lead(&requests, key);
        let request = follow(&requests, key);
        drop(first);
        let mut cx = Context::from_waker(Waker::noop());
        assert!(matches!(
            pin!(request.outcome()).poll(&mut cx),
            Poll::Ready(LeaderOutcome::LookAgain)
        ));
        let _second = lead(&requests, key);
        follow(&requests, key);
    }

    #[test]
    fn a_follower_that_stops_waiting_removes_its_waker() {
        let (requests, key) = (InFlightRequests::default(), key());
        let _lead = lead(&requests, key);
        let request = follow(&requests, key);
        {
            let mut outcome = pin!(request.outcome());
            assert!(outcome.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
            assert_eq!(request.0.lock().wakers.len(), 1);
        }
        assert_eq!(request.0.lock().wakers.len(), 0);
    }
}
