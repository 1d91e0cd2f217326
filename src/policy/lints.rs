//! What is valid, but surely not meant: a route that can never match, a fallback, a hedge or a
//! continuation that cannot be used, a body that cannot be kept.

use http::Method;

use super::section::checker::Check;
use super::sections::model::{OnCut, Policy, Route};
use super::sections::routes::everyone;
use super::yaml::diagnostic::Problem;
use super::yaml::tree::NodeId;
use crate::resilience::outcome::{AttemptClass, Idempotence};

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
            found.extend(self.more_than_all_buffers(policy, route, *id));
            found.extend(self.unusable_continue(policy, route, *id));
            found.extend(self.unusable_hedge(policy, route, *id));
            found.extend(self.unpriced(policy, route, *id));
        }
        found.extend(self.idle_modes(policy, routes));
        found.into_iter().map(Problem::warning).collect()
    }

    fn unusable_fallback(&self, route: &Route, id: NodeId) -> Option<Problem> {
        let posts = [Method::POST, Method::PATCH];
        let takes = route.matcher.methods.is_empty()
            || posts.iter().any(|m| route.matcher.methods.contains(m));
        let moves = route.fallback_on.contains(AttemptClass::Failure);
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

    fn more_than_all_buffers(&self, policy: &Policy, route: &Route, id: NodeId) -> Vec<Problem> {
        let kept = [
            (&["replay"][..], route.replay),
            (&["stream", "buffer", "bytes"], route.stream.buffer.bytes),
        ];
        let larger = kept.into_iter().filter(|(_, bytes)| *bytes > policy.server.buffered);
        let warning = |(keys, _): (&[&str], u64)| {
            let message = format!(
                "`{}` is more than `server.buffered` ({} bytes), which holds all bodies together",
                keys.join("."),
                policy.server.buffered
            );
            Some(self.tree.on_value(self.tree.below(id, keys)?, message))
        };
        larger.filter_map(warning).collect()
    }

    fn unusable_continue(&self, policy: &Policy, route: &Route, id: NodeId) -> Option<Problem> {
        let declares = |index: usize| !policy.providers[index].prefill.is_empty();
        if route.stream.on_cut != OnCut::Continue || everyone(route).into_iter().any(declares) {
            return None;
        }
        let at = self.tree.below(id, &["stream", "on_cut"])?;
        let message = format!(
            "a cut answer of route `{}` can never be continued: none of its providers has `prefill`",
            route.name
        );
        Some(self.tree.on_value(at, message).help(
            "list under `prefill` the models that continue a last message of the assistant's; without one, it is told by an error event",
        ))
    }

    fn unusable_hedge(&self, policy: &Policy, route: &Route, id: NodeId) -> Option<Problem> {
        let never = route.idempotent == Idempotence::Never && !route.allow_override.idempotent;
        let addresses = |index: usize| policy.providers[index].addresses.len();
        let alone = everyone(route).into_iter().map(addresses).sum::<usize>() == 1;
        let why = match (never, alone) {
            (true, _) => "none may be repeated (`idempotent: never`)",
            (false, true) => "it has only one address",
            (false, false) => return None,
        };
        let at = self.tree.child(id, "hedge").filter(|_| route.hedge.is_some())?;
        let message = format!("a request of route `{}` can never be hedged: {why}", route.name);
        Some(self.tree.on_key(at, message))
    }
}
