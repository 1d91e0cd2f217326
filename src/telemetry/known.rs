//! What a policy names: series of anything else are removed.

use std::collections::HashSet;

use super::metrics::{Metrics, NO_ROUTE};

/// The names of a policy.
#[derive(Debug, Default)]
pub struct Known<'a> {
    pub routes: HashSet<&'a str>,
    pub providers: HashSet<&'a str>,
    pub addresses: HashSet<(&'a str, &'a str)>,
    pub queues: HashSet<&'a str>,
    pub caches: HashSet<&'a str>,
    pub modes: HashSet<&'a str>,
    /// Of each mode's condition.
    pub signs: HashSet<(&'a str, &'a str)>,
}

impl Metrics {
    /// Removes what is told of routes, providers and addresses that are no more.
    pub fn retain(&self, known: &Known<'_>) {
        let route = |route: &String| known.routes.contains(route.as_str());
        let provider = |provider: &String| known.providers.contains(provider.as_str());
        let address = |provider: &String, address: &String| {
            known.addresses.contains(&(provider.as_str(), address.as_str()))
        };
        self.requests.retain(|labels| route(&labels.route));
        self.request_seconds.retain(|labels| route(&labels.route));
        self.events_dropped.retain(|labels| route(&labels.route));
        self.tokens.retain(|labels| route(&labels.route) && provider(&labels.provider));
        self.cost.retain(|labels| route(&labels.route) && provider(&labels.provider));
        let reasons = [
            &self.repeats,
            &self.not_repeated,
            &self.refused,
            &self.unbuffered,
            &self.hedges,
            &self.cuts,
            &self.continuations,
        ];
        for family in reasons {
            family.retain(|labels| route(&labels.route) || labels.route == NO_ROUTE);
        }
        self.queue_seconds.retain(|labels| known.queues.contains(labels.queue.as_str()));
        self.queue_sheds.retain(|labels| known.queues.contains(labels.queue.as_str()));
        self.jobs.retain(known);
        self.cache.retain(known);
        self.degradation.retain(known);
        self.first_byte_seconds.retain(|labels| provider(&labels.provider));
        self.attempts.retain(|labels| address(&labels.provider, &labels.address));
        self.holds.retain(|labels| address(&labels.provider, &labels.address));
        self.breaker_transitions.retain(|labels| address(&labels.provider, &labels.address));
    }
}
