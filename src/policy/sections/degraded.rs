//! What routes make of modes of degradation: which apply to them, and whether they can.

use super::actions::key;
use super::model::{Action, Degradation, Policy, Route};
use super::queues::Lanes;
use super::raw::RawRoute;
use super::routes::Known;
use super::rules::refers_to_nothing;
use crate::policy::section::checker::Check;
use crate::policy::yaml::diagnostic::Problem;
use crate::policy::yaml::tree::NodeId;
use crate::policy::yaml::types::At;

impl Check<'_> {
    /// Places in the list of those that are enabled.
    pub(crate) fn route_degrade(&mut self, raw: &RawRoute, known: &Known<'_>) -> Vec<usize> {
        let mut found = Vec::new();
        let mut named: Vec<&At<String>> = Vec::new();
        for at in raw.degrade.iter().flat_map(|at| &at.value) {
            if named.iter().any(|other| other.value == at.value) {
                self.error(at.id, format!("the mode `{}` is listed twice", at.value));
                continue;
            }
            named.push(at);
            match known.modes.get(at.as_str()) {
                None => {
                    let names = known.modes.keys();
                    refers_to_nothing(self, at, "mode", "degradations", names);
                }
                // One that is disabled, or could not be read.
                Some(&usize::MAX) => {}
                Some(index) => found.push(*index),
            }
        }
        found
    }

    /// Classes that a mode sheds are those of each route that has it.
    pub(crate) fn shed_classes(
        &mut self,
        routes: &[(NodeId, Route)],
        modes: &[Degradation],
        queues: &[Lanes],
    ) {
        for (id, route) in routes {
            for mode in route.degrade.iter().map(|index| &modes[*index]) {
                let class = mode.actions.iter().find_map(|action| match action {
                    Action::Shed(class) => Some(class),
                    _ => None,
                });
                let Some(class) = class else { continue };
                let queue = route.queue.map(|index| &queues[index].queue);
                let why = match queue {
                    None if self
                        .tree
                        .child(*id, "queue")
                        .is_some_and(|at| self.tree.text(at) != Some("none")) =>
                    {
                        continue;
                    }
                    None => format!("route `{}` has no queue, and so no classes", route.name),
                    Some(queue) if queue.classes.iter().any(|one| one.name == *class) => continue,
                    Some(queue) => {
                        let names: Vec<_> = queue.classes.iter().map(|c| c.name.as_str()).collect();
                        format!(
                            "the queue of route `{}` has no class `{class}`, but `{}`",
                            route.name,
                            names.join("`, `")
                        )
                    }
                };
                let problem = self.in_the_mode(
                    *id,
                    &mode.name,
                    format!("`{}` sheds `{class}`: {why}", mode.name),
                );
                self.problems.extend(problem);
            }
        }
    }

    /// A problem of a route with one of its modes, unless something of either could not be read.
    fn in_the_mode(&self, route: NodeId, mode: &str, message: String) -> Option<Problem> {
        let declared = self.find(&["degradations", mode])?;
        let queues = self.roots.iter().filter_map(|root| self.tree.child(*root, "queues"));
        let lost = queues.into_iter().any(|id| self.tree.damaged(id));
        let list = self.tree.child(route, "degrade")?;
        let named = self.tree.children(list).find(|id| self.tree.text(*id) == Some(mode));
        if lost || self.tree.damaged(route) || self.tree.damaged(declared) {
            return None;
        }
        let problem = self.tree.on_value(named.unwrap_or(list), message);
        Some(problem.with(self.tree, declared, "the mode"))
    }

    /// Modes that can do nothing where they are.
    pub(crate) fn idle_modes(&self, policy: &Policy, routes: &[NodeId]) -> Vec<Problem> {
        let mut found = Vec::new();
        for (route, id) in policy.routes.iter().zip(routes) {
            let stale = |mode: &&Degradation| {
                mode.actions.iter().any(|action| matches!(action, Action::ServeStale(_)))
            };
            let modes = route.degrade.iter().map(|index| &policy.degradations[*index]);
            for mode in modes.filter(stale).filter(|_| route.cache.is_none()) {
                let message = format!(
                    "route `{}` has no `cache`: `serve_stale` of `{}` finds nothing there",
                    route.name, mode.name
                );
                found.extend(self.in_the_mode(*id, &mode.name, message));
            }
        }
        for (index, mode) in policy.degradations.iter().enumerate() {
            let only_told = mode.actions.iter().all(|action| matches!(action, Action::Notify(_)));
            if let (Some(what), Some(at)) =
                (never_done(mode), self.find(&["degradations", &mode.name]))
            {
                let message = format!(
                    "`{}` answers every request by its `respond`: its `{what}` is never done",
                    mode.name
                );
                found.push(self.tree.on_key(at, message));
            }
            let unused = policy.routes.iter().all(|route| !route.degrade.contains(&index));
            if let (false, true, Some(at)) =
                (only_told, unused, self.find(&["degradations", &mode.name]))
            {
                let message = format!(
                    "no route has `{}` under `degrade`: of its actions only `notify` is ever done",
                    mode.name
                );
                found.push(self.tree.on_key(at, message));
            }
        }
        found
    }
}

/// What a mode would do to requests, all of which it answers.
fn never_done(mode: &Degradation) -> Option<&'static str> {
    let answers = mode.actions.iter().any(|action| matches!(action, Action::Respond(_)));
    let changes = |action: &&Action| matches!(action, Action::Reduce(_) | Action::Use(_));
    mode.actions.iter().filter(|_| answers).find(changes).map(key)
}

/// Providers that modes of a route may use, and that are not its own.
pub(crate) fn used(route: &Route, modes: &[Degradation]) -> Vec<usize> {
    let mut found = Vec::new();
    for action in route.degrade.iter().flat_map(|index| &modes[*index].actions) {
        let Action::Use(providers) = action else { continue };
        for provider in providers {
            let own = route.providers.iter().any(|weighted| weighted.provider == *provider)
                || route.fallback.contains(provider);
            if !own && !found.contains(provider) {
                found.push(*provider);
            }
        }
    }
    found
}
