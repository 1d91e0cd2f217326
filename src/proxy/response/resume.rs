//! Going on from an answer that was cut in its middle (`on_cut: continue`).
//!
//! What was said so far is sent as the last message of the assistant's, to a provider whose policy
//! says that this model continues one (`prefill`); its stream is joined on where the first stopped.
//! Only plain text is gone on from, and each try is paid like any other repeat. The application
//! sees one stream, with a comment at the joint.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use http::StatusCode;

use super::stream_error::Cut;
use crate::clock;
use crate::policy::sections::model::OnCut;
use crate::proxy::access_log::record::Story;
use crate::proxy::attempt::connect::self_delay;
use crate::proxy::attempt::inspect::{AtHand, Tried};
use crate::proxy::attempt::pending_response::{Ready, ReadyBody};
use crate::proxy::attempt::report::Bill;
use crate::proxy::request::context::{Again, Ask, IDEMPOTENCY_KEY};
use crate::resilience::outcome::{Class, Idempotence};
use crate::snapshot::{Candidate, Route};
use crate::stream::continuation::Partial;
use crate::stream::interpret::Tokens;

/// Who tells the story of an answer under way.
#[derive(Debug)]
pub enum Teller {
    Story(Box<Story>),
    /// The request is kept, so that another provider can go on.
    Ask(Box<Ask>),
    /// A provider is being asked to go on.
    Away,
}

/// The request, and the stream of one that goes on.
type GoneOn = (Box<Ask>, Option<Box<Ready>>);

/// Another provider is asked; what comes of it.
pub struct GoingOn {
    future: Pin<Box<dyn Future<Output = GoneOn>>>,
    /// What it is to mend.
    pub cut: Cut,
}

impl Teller {
    /// Keeps the request where its answer may be gone on from.
    pub fn of(ask: Box<Ask>) -> Teller {
        if ask.goes_on() {
            return Teller::Ask(ask);
        }
        let Ask { mut story, payload, .. } = *ask;
        story.lighten();
        story.model = payload.model().map(str::to_owned);
        Teller::Story(story)
    }

    pub fn story(&mut self) -> Option<&mut Box<Story>> {
        match self {
            Teller::Story(story) => Some(story),
            Teller::Ask(ask) => Some(&mut ask.story),
            Teller::Away => None,
        }
    }

    /// The answer's head told of nothing bad, so that it counts as good (`Ask::sample`).
    pub fn is_good(&self) -> bool {
        let status = match self {
            Teller::Story(story) => story.status,
            Teller::Ask(ask) => ask.story.status,
            Teller::Away => return false,
        };
        status < 500 && status != StatusCode::TOO_MANY_REQUESTS.as_u16()
    }

    /// Takes the request, where it was kept.
    pub fn ask(&mut self) -> Option<Box<Ask>> {
        match std::mem::replace(self, Teller::Away) {
            Teller::Ask(ask) => Some(ask),
            other => {
                *self = other;
                None
            }
        }
    }

    pub fn settle(&mut self, bill: Bill, route: &Route, tokens: Tokens) {
        match self {
            Teller::Story(story) => {
                let model = story.model.take();
                bill.settle(route, model.as_deref(), story, tokens);
            }
            Teller::Ask(ask) => ask.settle(bill, tokens),
            Teller::Away => {}
        }
    }
}

impl GoingOn {
    pub fn begin(ask: Box<Ask>, partial: Partial, of: (Bill, usize), cut: Cut) -> GoingOn {
        GoingOn { future: Box::pin(ask.go_on(partial, of)), cut }
    }

    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<GoneOn> {
        self.future.as_mut().poll(cx)
    }
}

impl Ask {
    /// Its answer, if it is cut, may be gone on from.
    pub fn goes_on(&self) -> bool {
        self.route.policy.stream.on_cut == OnCut::Continue
            && self.idempotence != Idempotence::Never
            && self.payload.kept().is_some()
    }

    /// Where an answer is to be gone on from: this provider says that it can, with this model.
    pub fn can_go_on(&self, candidate: &Candidate) -> bool {
        if self.partial.is_none() {
            return true;
        }
        let provider = &candidate.provider.policy;
        let Some(model) = self.payload.model() else { return false };
        let theirs = provider.models.iter().find(|(ours, _)| ours == model);
        let theirs = theirs.map_or(model, |(_, theirs)| theirs.as_str());
        provider.prefill.iter().any(|name| name == theirs)
    }

    /// The stream of one that goes on; `None` where nobody can.
    async fn go_on(
        mut self: Box<Self>,
        partial: Partial,
        (bill, credential): (Bill, usize),
    ) -> GoneOn {
        let route = std::sync::Arc::clone(&self.route);
        let ready = match self.payload.kept().and_then(|body| partial.request(body)) {
            Some(body) => {
                let now = clock::now();
                self.payload.replace(body.into());
                // It stands for the request as it was.
                self.headers.remove(IDEMPOTENCY_KEY);
                self.partial = Some(partial);
                self.deadline = now + self.overrides.timeout.unwrap_or(route.policy.timeout);
                self.tries.patience = None;
                let cut = Self::candidate(&route, bill.tier, bill.index);
                self.tries.end(bill.tier, bill.index, credential, |times| {
                    Again::At(now + self_delay(&route, cut, times))
                });
                self.joined(&route).await
            }
            None => None,
        };
        let result = if ready.is_some() { "joined" } else { "nobody" };
        route.continued(&self.worker.live.metrics, result);
        (self, ready)
    }

    async fn joined(&mut self, route: &Route) -> Option<Box<Ready>> {
        let mut after = Class::Failure;
        loop {
            let pick = match self.next(route, Some(after)).await {
                Ok(pick) => pick,
                Err(stop) => {
                    self.story.stopped = Some(stop.why);
                    return None;
                }
            };
            match Box::pin(self.attempt(route, pick)).await {
                Tried::Commit(ready) if matches!(ready.body, ReadyBody::Tunnel { .. }) => {
                    return None;
                }
                Tried::Commit(ready) => return Some(ready),
                Tried::Failed(Class::Ignored, AtHand::Ours(_)) => return None,
                Tried::Failed(class, hand) => {
                    self.put_down(&hand);
                    after = class;
                }
            }
        }
    }
}

impl fmt::Debug for GoingOn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "GoingOn({:?})", self.cut)
    }
}
