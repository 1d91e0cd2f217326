//! What the fleet's task does with a provider's rates: it asks for parts of them, and hands over
//! what it was given.

use std::time::Instant;

use super::provider_quota::{Pace, Rates};
use crate::live::fleet::FleetSide;
use crate::live::lock;
use crate::live::provider::ProviderLive;
use crate::resilience::rate::leased_quota::{Ask, Chunk, Grant, Shown};

/// Of what a rate is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Of {
    Requests,
    Tokens,
}

impl Of {
    pub fn as_str(self) -> &'static str {
        match self {
            Of::Requests => "requests",
            Of::Tokens => "tokens",
        }
    }
}

impl Rates {
    fn chunk(&mut self, of: Of) -> Option<&mut Chunk> {
        let quota = match of {
            Of::Requests => &mut self.requests,
            Of::Tokens => &mut self.tokens,
        };
        quota.policy.as_mut()?.shared_mut()
    }

    /// Something is to be asked of the fleet.
    pub(crate) fn are_due(&self, now: Instant) -> bool {
        let limits = [&self.requests, &self.tokens].into_iter().flat_map(|quota| &quota.policy);
        limits.filter_map(|limit| limit.shared()).any(|chunk| chunk.is_due(now))
    }
}

impl Pace {
    fn with<R>(&self, of: Of, act: impl FnOnce(&mut Chunk) -> R) -> Option<R> {
        lock(&self.rates).chunk(of).map(act)
    }
}

impl ProviderLive {
    /// What to ask of the fleet now.
    pub fn asks(&self, now: Instant) -> Vec<(Of, Ask)> {
        let waiting = self.waiting();
        let ask = |of| Some((of, self.pace().with(of, |chunk| chunk.asks(waiting, now))??));
        [Of::Requests, Of::Tokens].into_iter().filter_map(ask).collect()
    }

    /// The fleet is there, or it is not.
    pub fn attach(&self, side: &FleetSide, now: Instant) {
        let (attached, hosts) = (side.is_attached(), side.hosts());
        for of in [Of::Requests, Of::Tokens] {
            self.pace().with(of, |chunk| chunk.attach(attached, hosts, now));
        }
    }

    /// What came of an ask; nothing, where there was no answer. Those who wait look again.
    pub fn answered(&self, of: Of, asked_at: Instant, grant: Option<Grant>, now: Instant) {
        self.pace().with(of, |chunk| match grant {
            Some(grant) => chunk.granted(asked_at, grant, now),
            None => chunk.unanswered(asked_at, now),
        });
        self.look_again();
    }

    /// The rates that it shares with a fleet.
    pub fn shared_rates(&self, now: Instant) -> Vec<(Of, Shown)> {
        let shown = |of| Some((of, self.pace().with(of, |chunk| chunk.shown(now))?));
        [Of::Requests, Of::Tokens].into_iter().filter_map(shown).collect()
    }
}
