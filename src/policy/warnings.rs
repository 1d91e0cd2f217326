//! What is valid, but surely not meant: a route that can never match, a fallback that cannot be
//! used, a body that cannot be kept.

use http::Method;

use super::check::Check;
use super::model::{Policy, Route};
use super::problem::Problem;
use super::tree::NodeId;
use crate::resilience::outcome::{Class, Idempotence};

impl Check<'_> {
    /// Only of a policy without errors; `routes` belong to `policy.routes`.
    pub(super) fn warnings(&self, policy: &Policy, routes: &[NodeId]) -> Vec<Problem> {
        let mut found = Vec::new();
        for (index, (route, id)) in policy.routes.iter().zip(routes).enumerate() {
            let earlier = policy.routes[..index]
                .iter()
                .position(|other| other.matcher.covers(&route.matcher));
            if let Some(earlier) = earlier {
                let message = format!(
                    "route `{}` can never match: `{}` comes first and takes every request that it would",
                    route.name, policy.routes[earlier].name
                );
                let at = self.tree.child(*id, "name").unwrap_or(*id);
                found.push(self.tree.on_value(at, message).with(
                    self.tree,
                    routes[earlier],
                    "this one",
                ));
            }
            found.extend(self.unusable_fallback(route, *id));
            if let Some(at) =
                self.tree.child(*id, "replay").filter(|_| route.replay > policy.server.buffered)
            {
                let message = format!(
                    "`replay` is more than `server.buffered` ({} bytes), which holds all bodies together",
                    policy.server.buffered
                );
                found.push(self.tree.on_value(at, message));
            }
        }
        found.into_iter().map(Problem::warning).collect()
    }

    fn unusable_fallback(&self, route: &Route, id: NodeId) -> Option<Problem> {
        let posts = [Method::POST, Method::PATCH];
        let takes = route.matcher.methods.is_empty()
            || posts.iter().any(|m| route.matcher.methods.contains(m));
        let moves = route.fallback_on.contains(Class::Failure);
        if route.fallback.is_empty() || route.idempotent == Idempotence::Always || !takes || !moves
        {
            return None;
        }
        let at = self.tree.child(id, "fallback")?;
        let message = format!(
            "the fallback of route `{}` can never be used by a POST after a failure",
            route.name
        );
        Some(self.tree.on_key(at, message).help(
            "say `idempotent: always` if a POST may be sent twice, or leave `failure` out of `fallback_on`",
        ))
    }
}
