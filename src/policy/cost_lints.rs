//! Whether `budget.cost` can be counted.
//!
//! What a repeat costs is told by the price of the provider that it goes to. So a route's bound and
//! all of its prices are in one currency: rates between them are nothing that a policy knows. A
//! provider without a price costs nothing, which may be true (it is a machine of one's own), but
//! not of every provider of a route whose costs are bounded.

use std::collections::BTreeSet;

use super::section::checker::Check;
use super::sections::model::{Cost, Policy, Provider, Route};
use super::sections::routes::everyone;
use super::yaml::diagnostic::Problem;
use super::yaml::tree::NodeId;

impl Check<'_> {
    /// One problem for each bound and provider, however many routes bring them together.
    pub(super) fn currencies(&mut self, policy: &Policy) {
        let mut told = BTreeSet::new();
        for route in &policy.routes {
            let Some(cost) = &route.retry.cost else { continue };
            for provider in everyone(route).into_iter().map(|index| &policy.providers[index]) {
                if told.insert((&route.retry.name, &provider.name)) {
                    let problem = self.other_currency(route, cost, provider);
                    self.problems.extend(problem);
                }
            }
        }
    }

    fn other_currency(&self, route: &Route, cost: &Cost, provider: &Provider) -> Option<Problem> {
        let price = provider.price.as_ref().filter(|price| price.currency != cost.currency)?;
        let message = format!(
            "`budget.cost` is in {}, but the `price` of `{}`, a provider of route `{}`, is in {}",
            cost.currency, provider.name, route.name, price.currency
        );
        let priced = self.find(&["providers", &provider.name, "price"])?;
        // Its currency may be what could not be read.
        let cost = self.cost_of(route).filter(|_| !self.tree.damaged(priced))?;
        Some(self.tree.on_value(cost, message).with(self.tree, priced, "its price"))
    }

    pub(super) fn unpriced(&self, policy: &Policy, route: &Route, id: NodeId) -> Option<Problem> {
        let priced = |index: usize| policy.providers[index].price.is_some();
        if route.retry.cost.is_none() || everyone(route).into_iter().any(priced) {
            return None;
        }
        let message = format!(
            "`budget.cost` bounds nothing in route `{}`: none of its providers has a `price`",
            route.name
        );
        let named = self.tree.child(id, "name").unwrap_or(id);
        Some(self.tree.on_value(self.cost_of(route)?, message).with(self.tree, named, "the route"))
    }

    fn cost_of(&self, route: &Route) -> Option<NodeId> {
        self.find(&["retries", &route.retry.name, "budget", "cost"])
    }
}
