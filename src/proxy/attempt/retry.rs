//! What follows an outcome: another endpoint, a wait, the next of `fallback`, or the end.
//!
//! POLICY.md "What may be repeated" decides whether anything may follow at all, and where. Another
//! endpoint is asked at once; the same one after its back-off. A wait of up to `patience` is spent
//! on the route's `providers`; a longer one moves to `fallback`. Where there is none, room is waited
//! for as long as the deadline allows, but a hold is passed on: its Retry-After is the provider's
//! answer, and the application knows better than to keep a connection open for a minute. A provider
//! that says no time is not waited for where another can be asked.

use std::time::Instant;

use super::select::{CandidateFilter, Selection, Unavailable, provider_id};
use super::wait::WaitOutcome;
use crate::clock;
use crate::proxy::downstream::error::Kind;
use crate::proxy::request::context::{ProxyRequest, RetryDenied, RetryTime};
use crate::resilience::outcome::{Class, Reach, reach};
use crate::snapshot::{EndpointCandidate, Route};

/// What a look at the tiers gave.
#[derive(Debug)]
enum NextStep {
    Take(Box<Selection>),
    /// `shared`: for what others wait for too.
    Wait {
        until: Instant,
        shared: bool,
    },
    Nobody(Unavailable),
}

impl ProxyRequest {
    /// Leave for the next attempt; waits where waiting helps.
    ///
    /// # Errors
    /// Why there is none.
    pub async fn next(
        &mut self,
        route: &Route,
        after: Option<Class>,
    ) -> Result<Box<Selection>, RetryDenied> {
        if let Some(class) = after {
            self.may_follow(route, class)?;
        }
        // What was read just now is now; after an attempt or a wait it is not.
        let mut now = if after.is_none() { self.body.taken() } else { clock::now() };
        loop {
            match self.look(route, after, true, now) {
                NextStep::Take(selection) => {
                    self.leaves_lane(Self::candidate(route, selection.tier, selection.index));
                    self.pay(route, after)?;
                    return Ok(selection);
                }
                NextStep::Wait { until, shared } => {
                    if let Err(denied) = self.wait(route, after, until, shared).await {
                        if !self.has_below(route, after) {
                            return Err(denied);
                        }
                        self.go_down();
                    }
                    now = clock::now();
                }
                NextStep::Nobody(blocked) => {
                    let denied = self.nobody(route, after, blocked);
                    self.gives_up_place();
                    return Err(denied);
                }
            }
        }
    }

    /// Leave for another attempt while one is still connecting; never waits.
    pub fn next_at_once(&mut self, route: &Route) -> Option<Box<Selection>> {
        self.may_follow(route, Class::Unsent).ok()?;
        match self.look(route, Some(Class::Unsent), false, clock::now()) {
            NextStep::Take(selection) => {
                self.pay(route, Some(Class::Unsent)).ok().map(|()| selection)
            }
            _ => None,
        }
    }

    /// Might another attempt follow a failure of the one that begins now? Then its limits are cut,
    /// so that a silent provider leaves time for the next.
    pub fn another_is_left(&self, route: &Route, selection: &Selection) -> bool {
        let reach = self.reach(Class::Failure);
        if reach == Reach::Nowhere || !self.body.may_go() {
            return false;
        }
        let here = Self::candidate(route, selection.tier, selection.index);
        let others = |tier: usize| {
            let candidates = route.tiers[tier].candidates.iter().enumerate();
            candidates.filter(move |(i, c)| {
                let same = (tier, *i) == (selection.tier, selection.index);
                let allowed = reach == Reach::Anywhere || provider_id(c) == provider_id(here);
                allowed && !same && self.may_be_asked(tier, *i, c)
            })
        };
        let in_tier =
            self.left_in(route, selection.tier) > 0 && others(selection.tier).next().is_some();
        let below = selection.tier + 1..route.tiers.len();
        in_tier
            || (self.falls_back(route, Class::Failure)
                && below.into_iter().any(|t| others(t).next().is_some()))
    }

    /// Nothing that this request knows stands against it.
    pub fn may_be_asked(&self, tier: usize, index: usize, candidate: &EndpointCandidate) -> bool {
        let attempts = &self.attempts;
        let over = |credential| {
            attempts
                .asked(tier, index, credential)
                .is_some_and(|asked| asked.again == RetryTime::Never)
        };
        let late = attempts.late.contains(&(tier, index)) || attempts.beside == Some((tier, index));
        let other = attempts.only.is_some_and(|only| only != provider_id(candidate));
        let spent = (0..candidate.endpoint.credential_count().max(1)).all(over);
        !(late || other || spent) && self.can_go_on(candidate)
    }

    pub fn reach(&self, class: Class) -> Reach {
        if self.partial.is_some() {
            // The policy says so (`on_cut: continue`): it is no repeat.
            return Reach::Anywhere;
        }
        reach(self.idempotence, self.is_idempotent_method(), self.has_key(), class)
    }

    fn may_follow(&mut self, route: &Route, class: Class) -> Result<(), RetryDenied> {
        let kind = RetryDenied::after(class);
        match self.reach(class) {
            Reach::Nowhere => return Err(RetryDenied::new("may_have_been_processed", kind)),
            Reach::SameProvider => {
                let last = self.attempts.asked.last();
                let last = last.map(|a| provider_id(Self::candidate(route, a.tier, a.index)));
                self.attempts.only = self.attempts.only.or(last);
            }
            Reach::Anywhere => {}
        }
        if !self.body.may_go() {
            return Err(RetryDenied::new("body_went_once", kind));
        }
        if is_paid(class) && route.live.balance(clock::now()) < 1.0 {
            return Err(RetryDenied::new("budget", kind));
        }
        if is_paid(class) && !route.live.may_spend(clock::now()) {
            return Err(RetryDenied::new("cost_budget", kind));
        }
        if clock::now() >= self.deadline {
            return Err(RetryDenied::new("deadline", Kind::Deadline));
        }
        Ok(())
    }

    fn pay(&mut self, route: &Route, after: Option<Class>) -> Result<(), RetryDenied> {
        let Some(class) = after else { return Ok(()) };
        if is_paid(class) && !route.live.repeat(clock::now()) {
            return Err(RetryDenied::new("budget", RetryDenied::after(class)));
        }
        route.metrics.retries[class.index()].inc();
        Ok(())
    }

    fn repeats_here(&self, route: &Route, class: Class) -> bool {
        match class {
            Class::Credential => true,
            Class::TooLarge => false,
            class => self.retry(route).retry_on.contains(class),
        }
    }

    fn falls_back(&self, route: &Route, class: Class) -> bool {
        route.policy.fallback_on.contains(class)
    }

    /// Looks at this tier, then at those below.
    fn look(
        &mut self,
        route: &Route,
        after: Option<Class>,
        may_wait: bool,
        now: Instant,
    ) -> NextStep {
        let mut blocked = Unavailable::default();
        loop {
            let below = self.has_below(route, after);
            let here = match self.look_here(route, after, below, now) {
                Ok(selection) => return NextStep::Take(selection),
                Err(here) => here,
            };
            blocked.merge(here);
            if may_wait && let Some(wait) = self.worth_waiting(route, here, below) {
                return wait;
            }
            if !below {
                return NextStep::Nobody(blocked);
            }
            self.go_down();
        }
    }

    /// To the next of `fallback`, where others wait.
    fn go_down(&mut self) {
        self.gives_up_place();
        self.attempts.down_to(self.attempts.tier + 1);
    }

    fn has_below(&self, route: &Route, after: Option<Class>) -> bool {
        let allowed = after.is_none_or(|class| self.falls_back(route, class));
        allowed && self.attempts.tier + 1 < route.tiers.len()
    }

    fn look_here(
        &self,
        route: &Route,
        after: Option<Class>,
        below: bool,
        now: Instant,
    ) -> Result<Box<Selection>, Unavailable> {
        let tier = self.attempts.tier;
        let fresh = self.attempts.in_tier == 0;
        let allowed = fresh || after.is_none_or(|class| self.repeats_here(route, class));
        if !allowed || self.left_in(route, tier) == 0 {
            return Err(Unavailable::default());
        }
        let mut blocked = match self.choose(route, tier, CandidateFilter::Others, now) {
            Ok(selection) => return Ok(selection),
            Err(blocked) => blocked,
        };
        if !fresh {
            match self.choose(route, tier, CandidateFilter::Again { unreachable: !below }, now) {
                Ok(selection) => return Ok(selection),
                Err(again) => blocked.merge(again),
            }
        }
        Err(blocked)
    }

    /// A wait of up to `patience` where there is a fallback, up to the deadline where there is none;
    /// in the lane never longer than its queue allows.
    fn worth_waiting(
        &mut self,
        route: &Route,
        blocked: Unavailable,
        below: bool,
    ) -> Option<NextStep> {
        if self.hurries {
            return None;
        }
        let uncertain = below && blocked.guess;
        let room = blocked.room && route.queue.is_some();
        if blocked.wait.is_none_or(|_| uncertain) && !room {
            return None;
        }
        let now = clock::now();
        let patience = self.retry(route).patience;
        let patient = *self.attempts.patience.get_or_insert(now + patience);
        let patient_only = below || blocked.held;
        let mut limit = if patient_only { patient.min(self.deadline) } else { self.deadline };
        if let Some(queue) = route.queue.as_ref().filter(|_| room || blocked.shared.is_some()) {
            let since = self.place.as_ref().map_or(now, |place| place.since);
            limit = limit.min(since + queue.policy.max_wait);
        }
        let shared = room || blocked.shared.is_some();
        let wait = blocked.wait.filter(|_| !uncertain);
        match wait.map(|wait| now + wait).filter(|at| *at <= limit) {
            // Whoever stands in the lane is called in time; only its own back-off nobody else knows.
            Some(_) if room => {
                let until = blocked.own.map_or(limit, |own| limit.min(now + own));
                Some(NextStep::Wait { until, shared })
            }
            Some(until) => Some(NextStep::Wait { until, shared }),
            None if room && now < limit => Some(NextStep::Wait { until: limit, shared: true }),
            None => None,
        }
    }

    fn nobody(&self, route: &Route, after: Option<Class>, blocked: Unavailable) -> RetryDenied {
        let kind = match after {
            Some(class) => RetryDenied::after(class),
            None if clock::now() >= self.deadline => Kind::Deadline,
            None if blocked.held || blocked.wait.is_some() => Kind::Held,
            None if blocked.room => Kind::NoRoom,
            None if blocked.drained && blocked.open.is_none() => Kind::Drained,
            None => Kind::BreakerOpen,
        };
        let why = match after {
            None => kind.name(),
            Some(_) if self.attempts.in_tier > 0 && blocked == Unavailable::default() => {
                "attempts_spent"
            }
            Some(_) => "nobody_left",
        };
        let soonest = [blocked.wait, blocked.open].into_iter().flatten().min();
        let in_line = blocked.room || self.place.is_some();
        let retry_after = soonest.max(in_line.then(|| self.backlog(route)));
        if let (Kind::NoRoom | Kind::Deadline, Some(queue), Some(_)) =
            (kind, &route.queue, &self.place)
        {
            self.count_shed(queue, "waited");
        }
        RetryDenied { retry_after, ..RetryDenied::new(why, kind) }
    }

    /// Waits until a moment, or in the lane for what others wait for too.
    ///
    /// # Errors
    /// Why it may not wait.
    async fn wait(
        &mut self,
        route: &Route,
        after: Option<Class>,
        until: Instant,
        shared: bool,
    ) -> Result<(), RetryDenied> {
        let began = clock::now();
        let waited = match &route.queue {
            Some(queue) if shared => {
                Box::pin(self.wait_in_lane(route, queue, after.is_some(), until)).await
            }
            _ => {
                tokio::time::sleep_until(until.into()).await;
                WaitOutcome::Look
            }
        };
        self.record.waited += clock::since(began);
        match waited {
            WaitOutcome::Look => Ok(()),
            WaitOutcome::Shed(denied) => Err(denied),
        }
    }
}

/// POLICY.md: moves for `credential` and `too_large` are free.
fn is_paid(class: Class) -> bool {
    matches!(class, Class::Unsent | Class::Failure | Class::Throttled)
}
