//! A second attempt beside one that takes long (Dean and Barroso, "The Tail at Scale", 2013): at
//! another address, paid from the hedges' own budget and from the route's; the first good answer
//! wins, and the other attempt is cancelled.
//!
//! Only what may be repeated anywhere is hedged, and only a request's first attempt: what follows
//! a failure is a repeat.

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Instant;

use super::inspect::Tried;
use super::select::{Among, Pick};
use crate::clock;
use crate::live::quota::usage_meter::Turn;
use crate::proxy::access_log::record::Told;
use crate::proxy::downstream::timer::Timer;
use crate::proxy::request::context::Ask;
use crate::resilience::outcome::{Class, Reach};
use crate::snapshot::Route;

/// Where an attempt went, and when.
#[derive(Clone, Copy)]
struct Place {
    tier: usize,
    index: usize,
    credential: usize,
    began: Instant,
    turn: Turn,
}

/// What two attempts beside each other came to.
enum Raced {
    /// The first one's, and whether the second was over too.
    First(Tried, bool),
    /// The second one's, and whether the first was over too.
    Second(Tried, bool),
}

type Attempt<'a> = Pin<Box<dyn Future<Output = Tried> + 'a>>;

impl Ask {
    /// Makes one attempt, and another beside it when it takes long and the route hedges.
    pub async fn attempt_or_hedge(&mut self, route: &Route, pick: Box<Pick>) -> Tried {
        let hedged = route.policy.hedge.is_some()
            && pick.turn == Turn::First
            && self.upgrade.is_none()
            && !pick.permit.is_probe()
            && self.overrides.max_attempts != Some(1)
            && self.reach(Class::Failure) == Reach::Anywhere;
        match hedged {
            true => Box::pin(self.hedged(route, pick)).await,
            false => self.attempt(route, pick).await,
        }
    }

    async fn hedged(&mut self, route: &Route, pick: Box<Pick>) -> Tried {
        let mut place = Place::of(&pick);
        route.live.hedge_first(place.began);
        let delay = route.live.hedge_delay(place.began);
        let at = Rc::new(Cell::new((place.tier, place.index)));
        self.tries.place = Some(Rc::clone(&at));
        let twin = delay.and_then(|_| self.twin());
        let (Some(delay), Some(mut twin)) = (delay, twin) else {
            let tried = self.attempt(route, pick).await;
            sample(route, place, &tried);
            return tried;
        };
        let mut first: Attempt<'_> = Box::pin(self.attempt(route, pick));
        let waited = tokio::time::timeout_at((place.began + delay).into(), &mut first).await;
        if let Ok(tried) = waited {
            sample(route, place, &tried);
            return tried;
        }
        // Where connecting took long it may be elsewhere by now.
        (place.tier, place.index) = at.get();
        twin.tries.beside = Some(at.get());
        let beside = match twin.beside(route, place.tier) {
            Ok(beside) => beside,
            Err(why) => {
                route.hedged(&twin.worker.live.metrics, why);
                let tried = first.await;
                sample(route, place, &tried);
                return tried;
            }
        };
        let other = Place::of(&beside);
        let second: Attempt<'_> = Box::pin(twin.attempt(route, beside));
        let raced = race(first, second).await;
        self.merge(route, *twin, raced, place, other)
    }

    /// The same request again, to be sent elsewhere.
    fn twin(&self) -> Option<Box<Ask>> {
        let payload = self.payload.twin(self.reservation())?;
        let mut tries = self.tries.clone();
        tries.place = None;
        Some(Box::new(Ask {
            worker: Rc::clone(&self.worker),
            client: Rc::clone(&self.client),
            timer: Rc::new(Timer::default()),
            route: Arc::clone(&self.route),
            story: self.story.aside(),
            method: self.method.clone(),
            uri: self.uri.clone(),
            asked_uri: self.asked_uri.clone(),
            headers: self.headers.clone(),
            payload,
            upgrade: None,
            overrides: self.overrides.clone(),
            deadline: self.deadline,
            idempotence: self.idempotence,
            tries,
            partial: None,
            circuits: self.circuits.clone(),
            session: self.session.clone(),
            class: self.class,
            flow: self.flow,
            tokens: self.tokens,
            place: None,
            turns: Vec::new(),
            looks_again: 0,
            stored: None,
            reduced: self.reduced,
            conditions: None,
            hurries: self.hurries,
            is_job: self.is_job,
        }))
    }

    /// Leave for the second attempt.
    fn beside(&self, route: &Route, tier: usize) -> Result<Box<Pick>, &'static str> {
        let now = clock::now();
        let pick = self.choose(route, tier, Among::Others, now).map_err(|_| "nobody")?;
        let paid = route.live.may_spend(now)
            && route.live.balance(now) >= 1.0
            && route.live.hedge_spend(now)
            && route.live.repeat(now);
        if paid { Ok(pick) } else { Err("budget") }
    }

    /// What two attempts came to, as one of this request's.
    fn merge(
        &mut self,
        route: &Route,
        mut twin: Ask,
        raced: Raced,
        first: Place,
        second: Place,
    ) -> Tried {
        let (tried, lost, result) = match raced {
            Raced::First(tried, over) => {
                sample(route, first, &tried);
                (tried, (!over).then_some(second), "lost")
            }
            Raced::Second(tried, true) => (tried, None, "won"),
            Raced::Second(tried, false) => {
                // It would have taken longer: what is known is a lower bound.
                let took = clock::since(first.began);
                route.live.hedge_sample(took, clock::now());
                let slow = Self::candidate(route, first.tier, first.index);
                slow.address.live.answered(took, clock::now());
                (tried, Some(first), "won")
            }
        };
        route.hedged(&self.worker.live.metrics, result);
        if let Some(lost) = lost {
            let story = if result == "won" { &mut self.story } else { &mut twin.story };
            story.attempts.push(lost.cancelled(route));
        }
        self.story.join(&mut twin.story);
        let asked =
            twin.tries.asked.into_iter().filter(|asked| {
                self.tries.asked(asked.tier, asked.index, asked.credential).is_none()
            });
        let asked: Vec<_> = asked.collect();
        self.tries.in_tier += asked.len() as u32;
        self.tries.late.append(&mut twin.tries.late);
        self.tries.asked.splice(0..0, asked);
        tried
    }
}

impl Place {
    fn of(pick: &Pick) -> Place {
        let &Pick { tier, index, credential, turn, started: began, .. } = pick;
        Place { tier, index, credential, began, turn }
    }

    fn cancelled(self, route: &Route) -> Told {
        Told {
            to: Arc::clone(&Ask::candidate(route, self.tier, self.index).address),
            credential: Some(self.credential),
            class: Class::Ignored,
            status: 0,
            took: clock::since(self.began),
            probe: false,
            turn: self.turn,
            error: Some("cancelled: the other attempt was quicker".to_owned()),
        }
    }
}

/// Notes how long an answer took, from the request's first attempt on.
fn sample(route: &Route, place: Place, tried: &Tried) {
    if matches!(tried, Tried::Commit(_)) {
        let now = clock::now();
        route.live.hedge_sample(now.saturating_duration_since(place.began), now);
    }
}

/// Polls both until one has a good answer, or both have failed: then the first one's failure counts.
async fn race(mut first: Attempt<'_>, mut second: Attempt<'_>) -> Raced {
    let (mut failed, mut other_failed) = (None, false);
    poll_fn(|cx| {
        if failed.is_none()
            && let Poll::Ready(tried) = first.as_mut().poll(cx)
        {
            if matches!(tried, Tried::Commit(_)) {
                return Poll::Ready(Raced::First(tried, other_failed));
            }
            failed = Some(tried);
        }
        if !other_failed && let Poll::Ready(tried) = second.as_mut().poll(cx) {
            if matches!(tried, Tried::Commit(_)) {
                return Poll::Ready(Raced::Second(tried, failed.is_some()));
            }
            other_failed = true;
        }
        match failed.take() {
            Some(tried) if other_failed => Poll::Ready(Raced::First(tried, true)),
            kept => {
                failed = kept;
                Poll::Pending
            }
        }
    })
    .await
}
