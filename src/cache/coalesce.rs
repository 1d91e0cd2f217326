//! One flight: of equal requests that find nothing at the same time, one asks and the others wait for
//! its answer.
//!
//! Who asks holds the [`Lead`]. It lands with an answer that all may read along, or without one that
//! could be shared; a lead that is dropped (its client left) lands with nothing, and whoever looks
//! next takes it.

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
    landed: Option<LeaderOutcome>,
    wakers: HashMap<u64, Waker>,
    next: u64,
}

/// What came of it.
#[derive(Clone, Debug)]
pub enum LeaderOutcome {
    Response(Arc<SharedBody>),
    /// Nothing that could be shared: each asks for itself.
    NotShareable,
    /// Nobody answered, or with an error.
    Failed,
    /// Look again: something is stored now, or nobody asks any more.
    LookAgain,
}

/// Whose turn it is.
#[derive(Debug)]
pub enum CoalesceRole {
    Lead(Leader),
    Follow(Arc<InFlight>),
}

/// Leave to ask for all.
#[derive(Debug)]
pub struct Leader {
    of: Arc<Mutex<HashMap<CacheKey, Arc<InFlight>>>>,
    key: CacheKey,
    flight: Arc<InFlight>,
}

impl InFlightRequests {
    pub fn join(&self, key: CacheKey) -> CoalesceRole {
        let mut flights = self.0.lock();
        if let Some(flight) = flights.get(&key) {
            return CoalesceRole::Follow(Arc::clone(flight));
        }
        let flight = Arc::new(InFlight::default());
        flights.insert(key, Arc::clone(&flight));
        CoalesceRole::Lead(Leader { of: Arc::clone(&self.0), key, flight })
    }

    pub fn len(&self) -> usize {
        self.0.lock().len()
    }
}

impl InFlight {
    /// Waits until it has landed.
    pub async fn landed(&self) -> LeaderOutcome {
        let mut waiting = Waiting { flight: self, id: None };
        poll_fn(|cx| {
            let mut state = self.0.lock();
            if let Some(landed) = &state.landed {
                return Poll::Ready(landed.clone());
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

    fn land(&self, landed: LeaderOutcome) {
        let wakers = {
            let mut state = self.0.lock();
            state.landed.get_or_insert(landed);
            std::mem::take(&mut state.wakers)
        };
        wakers.into_values().for_each(Waker::wake);
    }
}

/// Takes its waker along when it goes.
struct Waiting<'f> {
    flight: &'f InFlight,
    id: Option<u64>,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if let Some(id) = self.id {
            self.flight.0.lock().wakers.remove(&id);
        }
    }
}

impl Leader {
    /// All who wait read along; whoever comes while it lasts, too.
    pub fn share(&self, growing: &Arc<SharedBody>) {
        self.flight.land(LeaderOutcome::Response(Arc::clone(growing)));
    }

    /// It ends without an answer for all.
    pub fn finish(self, landed: LeaderOutcome) {
        self.remove();
        self.flight.land(landed);
    }

    fn remove(&self) {
        let mut flights = self.of.lock();
        if flights.get(&self.key).is_some_and(|flight| Arc::ptr_eq(flight, &self.flight)) {
            flights.remove(&self.key);
        }
    }
}

impl Drop for Leader {
    fn drop(&mut self) {
        self.remove();
        self.flight.land(LeaderOutcome::LookAgain);
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
        CacheSecret::new().expect("chance").builder().finish()
    }

    fn lead(flights: &InFlightRequests, key: CacheKey) -> Leader {
        match flights.join(key) {
            CoalesceRole::Lead(lead) => lead,
            CoalesceRole::Follow(_) => panic!("somebody else leads"),
        }
    }

    fn follow(flights: &InFlightRequests, key: CacheKey) -> Arc<InFlight> {
        match flights.join(key) {
            CoalesceRole::Lead(_) => panic!("nobody leads"),
            CoalesceRole::Follow(flight) => flight,
        }
    }

    #[test]
    fn one_leads_and_all_others_hear_how_it_landed() {
        let (flights, key) = (InFlightRequests::default(), key());
        let first = lead(&flights, key);
        let flight = follow(&flights, key);
        let mut waits = pin!(flight.landed());
        let mut cx = Context::from_waker(Waker::noop());
        assert!(waits.as_mut().poll(&mut cx).is_pending());
        first.finish(LeaderOutcome::Failed);
        assert!(matches!(waits.as_mut().poll(&mut cx), Poll::Ready(LeaderOutcome::Failed)));
        assert_eq!(flights.len(), 0);
    }

    #[test]
    fn a_lead_that_is_dropped_is_taken_by_who_looks_next() {
        let (flights, key) = (InFlightRequests::default(), key());
        let first = lead(&flights, key);
        let flight = follow(&flights, key);
        drop(first);
        let mut cx = Context::from_waker(Waker::noop());
        assert!(matches!(
            pin!(flight.landed()).poll(&mut cx),
            Poll::Ready(LeaderOutcome::LookAgain)
        ));
        let _second = lead(&flights, key);
        follow(&flights, key);
    }

    #[test]
    fn whoever_stops_waiting_leaves_nothing_behind() {
        let (flights, key) = (InFlightRequests::default(), key());
        let _lead = lead(&flights, key);
        let flight = follow(&flights, key);
        {
            let mut waits = pin!(flight.landed());
            assert!(waits.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
            assert_eq!(flight.0.lock().wakers.len(), 1);
        }
        assert_eq!(flight.0.lock().wakers.len(), 0);
    }
}
