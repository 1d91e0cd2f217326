//! `capacity` and the section `queues`: what a provider takes, and where the rest waits for it.
//!
//! `default` exists without being declared; keys that a queue leaves out keep the documented
//! values (`lanes.rs`). A class is referred to by its name, so a number, which stands for a place,
//! is no name of one. Classes and flows are told by headers, but never by one that carries a
//! credential.
//!
//! A job outlives its request, so a route whose provider is given the application's credentials
//! takes none: they would have to be kept. Only where somebody wrote that jobs are taken is that
//! a problem.

use std::time::Duration;

use super::lanes::Secret;
use super::model::{Accept, Callback, Capacity, Class, Durable, Queue, Route};
use super::providers::Checked;
use super::raw::RawRoute;
use super::raw_queues::{RawCapacity, RawClassOf, RawDurable, RawFlow, RawQueue, RawRate};
use super::routes::{Known, asks, everyone};
use super::rules::refers_to_nothing;
use super::urls::callback_url;
use crate::policy::section::checker::{Check, DAY, MS};
use crate::policy::text::suggest::did_you_mean;
use crate::policy::yaml::diagnostic::Problem;
use crate::policy::yaml::tree::NodeId;
use crate::policy::yaml::types::{At, Count, Entries, TextOr};
use crate::policy::yaml::units::{self, Rate};
use crate::resilience::rate::gcra::RatePolicy;

const CLASSES: usize = 8;
/// Of a rate's amount, and at once.
const MOST: u64 = 1_000_000_000;
const BYTES: std::ops::RangeInclusive<u64> = 1 << 10..=1 << 40;

/// A queue, and where somebody wrote of its durable lane.
pub(crate) struct Lanes {
    pub(crate) queue: Queue,
    pub(crate) durable: Option<NodeId>,
}

// === what a provider takes ===

impl Check<'_> {
    pub(crate) fn capacity(&mut self, at: &Option<At<RawCapacity>>) -> Capacity {
        let none = RawCapacity::default();
        let raw = at.as_ref().map_or(&none, |at| &at.value);
        Capacity {
            concurrency: self.count(&raw.concurrency, 1024, 1..=1_000_000),
            adaptive: raw.adaptive.is_some_and(|at| at.value),
            requests: self.rate(&raw.requests, |rate| rate.a_second()),
            tokens: self.rate(&raw.tokens, |rate| rate.amount as f64 / 10.0),
            follow_headers: raw.follow_headers.is_none_or(|at| at.value),
            connections: self.count(&raw.connections, 256, 1..=1_000_000),
        }
    }

    /// `burst` where none is written, if that is more than 1.
    fn rate(
        &mut self,
        at: &Option<At<TextOr<RawRate>>>,
        burst: fn(Rate) -> f64,
    ) -> Option<RatePolicy> {
        let At { id, value } = at.as_ref()?;
        let (id, rate, written) = match value {
            TextOr::Text(text) if text == "none" => return None,
            TextOr::Text(text) => {
                (*id, units::rate(text).map_err(|e| self.error(*id, e)).ok()?, None)
            }
            TextOr::Keys(raw) => {
                self.missing(*id, "rate", "no `rate`: expected one, like `500/min`");
                let written = raw.burst.map(|at| self.count(&Some(at), 1_u64, 1..=MOST));
                (raw.rate?.id, raw.rate?.value.0, written)
            }
        };
        if !(1..=MOST).contains(&rate.amount) {
            let found = self.tree.text(id).unwrap_or_default();
            self.error(
                id,
                format!("`{found}` is out of bounds: expected from `1` to `{MOST}` in that time (leave it out for no limit)"),
            );
        }
        let burst = written.map_or_else(|| burst(rate).max(1.0), |burst| burst as f64);
        Some(RatePolicy { rate: rate.a_second(), burst })
    }
}

// === the section `queues` ===

impl Check<'_> {
    pub(crate) fn lanes(&mut self, name: &str, raw: &RawQueue) -> Lanes {
        let default = Queue::new(name);
        let classes = raw.classes.as_ref().map(|at| self.classes_of(at));
        let classes = classes.unwrap_or(default.classes);
        let class = raw.class.as_ref();
        let queue = Queue {
            name: name.to_owned(),
            max_waiting: self.count(&raw.max_waiting, default.max_waiting, 1..=1_000_000),
            max_bytes: self.size(&raw.max_bytes, default.max_bytes, BYTES),
            max_wait: self.length(&raw.max_wait, default.max_wait, MS..=DAY),
            class_header: class
                .and_then(|at| at.header.as_ref())
                .and_then(|at| self.open_header_name(at)),
            default_class: self.default_class(class, raw.classes.as_ref(), &classes),
            classes,
            flow: raw.flow.as_ref().and_then(|at| self.flow(at)),
            durable: raw.durable.as_ref().map_or(default.durable, |at| self.durable(at)),
        };
        Lanes { queue, durable: raw.durable.as_ref().map(|at| at.id) }
    }

    fn classes_of(&mut self, at: &At<Entries<Count>>) -> Vec<Class> {
        let (id, listed) = (at.id, &at.value.0);
        if !(1..=CLASSES).contains(&listed.len()) && !self.tree.damaged(id) {
            let found = listed.len();
            self.error(
                id,
                format!("{found} classes: expected 1 to {CLASSES}, like `{{ high: 8, low: 1 }}`"),
            );
        }
        listed.iter().map(|(name, at)| self.class(name, at)).collect()
    }

    fn class(&mut self, name: &str, at: &At<Count>) -> Class {
        if name.parse::<usize>().is_ok() {
            let message = format!("`{name}` is no name of a class: a number stands for its place");
            self.problems.push(self.tree.on_key(at.id, message));
        } else {
            self.name(|tree, message| tree.on_key(at.id, message), name);
        }
        Class { name: name.to_owned(), weight: self.count(&Some(*at), 1, 1..=1_000_000) }
    }

    /// A place in `classes`.
    fn default_class(
        &mut self,
        raw: Option<&At<RawClassOf>>,
        listed: Option<&At<Entries<Count>>>,
        classes: &[Class],
    ) -> usize {
        let place = |name: &str| classes.iter().position(|class| class.name == name);
        let usual = place("normal").unwrap_or(classes.len().saturating_sub(1));
        let Some(at) = raw.and_then(|raw| raw.default.as_ref()) else { return usual };
        let found = place(at);
        // It may be one of those that could not be read.
        let lost = listed.is_some_and(|listed| self.tree.damaged(listed.id)) || classes.is_empty();
        if found.is_none() && !lost {
            let names: Vec<_> = classes.iter().map(|class| class.name.as_str()).collect();
            self.unknown_class(at, &names);
        }
        found.unwrap_or(usual)
    }

    fn unknown_class(&mut self, at: &At<String>, names: &[&str]) {
        let label = did_you_mean(at, names.iter().copied());
        let problem =
            self.tree.on_value(at.id, format!("there is no class `{}` under `classes`", at.value));
        let problem = match label {
            Some(_) => problem.label(label),
            None => problem.help(format!("known here: `{}`", names.join("`, `"))),
        };
        self.problems.push(problem);
    }

    fn flow(&mut self, at: &At<RawFlow>) -> Option<http::HeaderName> {
        let message = "the flow has no `header`: expected the name of one, like `x-tenant`";
        self.missing(at.id, "header", message);
        self.open_header_name(at.header.as_ref()?)
    }

    fn durable(&mut self, raw: &RawDurable) -> Durable {
        const MONTH: Duration = Duration::from_secs(30 * 86_400);
        let default = Durable::default();
        Durable {
            accept: raw.accept.map_or(default.accept, |at| at.value.0),
            workers: self.count(&raw.workers, default.workers, 1..=1024),
            max_jobs: self.count(&raw.max_jobs, default.max_jobs, 1..=10_000_000),
            max_bytes: self.size(&raw.max_bytes, default.max_bytes, BYTES),
            max_deliveries: self.count(&raw.max_deliveries, default.max_deliveries, 1..=100),
            expire: self.length(&raw.expire, default.expire, MS..=MONTH),
            keep_result: self.length(&raw.keep_result, default.keep_result, MS..=MONTH),
            max_result: self.size(&raw.max_result, default.max_result, 0..=64 << 20),
            share: raw.share.map_or(default.share, |at| at.value),
            callback: raw.callback.as_ref().map_or_else(Vec::new, |at| {
                self.missing(
                    at.id,
                    "allow",
                    "no `allow`: expected URLs, like `[\"https://app.internal/**\"]`",
                );
                let urls = at.allow.iter().flat_map(|at| &at.value);
                urls.filter_map(|at| self.callback(at)).collect()
            }),
            callback_secret: raw
                .callback
                .as_ref()
                .and_then(|at| at.secret.as_ref())
                .and_then(|at| self.resolve(at))
                .map(|resolved| Secret::new(resolved.reference, resolved.text)),
        }
    }

    fn callback(&mut self, at: &At<String>) -> Option<Callback> {
        callback_url(at).map_err(|message| self.error(at.id, message)).ok()
    }
}

// === what routes make of it ===

impl Check<'_> {
    /// A place in the list; `None` where nothing waits.
    pub(crate) fn route_queue(&mut self, raw: &RawRoute, known: &Known<'_>) -> Option<usize> {
        let name = raw.queue.as_ref().map_or("default", |at| at.as_str());
        if name == "none" {
            return None;
        }
        let found = known.queues.get(name).copied();
        if let (None, Some(at)) = (found, &raw.queue) {
            refers_to_nothing(self, at, "queue", "queues", known.queues.keys());
        }
        // One that was declared, but could not be read.
        found.filter(|index| *index < usize::MAX)
    }

    /// Which routes take jobs.
    pub(crate) fn jobs(
        &mut self,
        routes: &mut [(NodeId, Route)],
        providers: &[Checked],
        queues: &[Lanes],
    ) {
        for (id, route) in routes {
            let Some(lanes) = route.queue.map(|index| &queues[index]) else { continue };
            if lanes.queue.durable.accept == Accept::Never {
                continue;
            }
            let mut all = everyone(route).into_iter().map(|index| &providers[index]);
            match (all.find(|checked| asks(checked)), lanes.durable) {
                (None, _) => route.durable = true,
                (Some(_), None) => {}
                (Some(checked), Some(written)) => {
                    let problem = self.kept_credential(*id, route, checked, written);
                    self.problems.extend(problem);
                }
            }
        }
    }

    fn kept_credential(
        &self,
        id: NodeId,
        route: &Route,
        checked: &Checked,
        written: NodeId,
    ) -> Option<Problem> {
        // What makes it seem alone, or without `auth`, may be what could not be read.
        let lists =
            ["providers", "fallback"].into_iter().filter_map(|key| self.tree.child(id, key));
        let whole = lists.map(|list| self.tree.children(list).count()).sum::<usize>()
            == everyone(route).len();
        if !whole || self.tree.damaged(id) || self.tree.damaged(checked.id) {
            return None;
        }
        let name = &checked.provider.name;
        let message = format!(
            "route `{}` cannot take jobs: `{name}` is given the application's credential, which would have to be kept",
            route.name
        );
        let at = self.tree.child(id, "queue").or_else(|| self.tree.child(id, "name")).unwrap_or(id);
        let problem =
            self.tree.on_value(at, message).with(self.tree, written, "jobs are taken here");
        Some(problem.help(format!(
            "give `{name}` an `auth` of its own, or the route a queue with `durable: {{ accept: never }}`"
        )))
    }
}
