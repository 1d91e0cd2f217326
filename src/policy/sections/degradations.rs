//! The section `degradations`: when a mode is entered, and what it does.
//!
//! A condition refers to routes, providers and queues, and a route to modes; so routes are known by
//! name here, before they are read. What an action needs of the route that it is for (a class to
//! shed, a cache to serve from) is looked at where a route names the mode (`degraded.rs`).

use std::collections::BTreeMap;
use std::time::Duration;

use super::model::{Degradation, Of, Sign};
use super::raw_degradations::{
    RawCapacityUsed, RawCondition, RawDegradation, RawErrorRate, RawLatency, RawQueueWaiting,
};
use super::routes::Known;
use super::rules::{named, refers_to_nothing};
use crate::policy::section::checker::{Check, DAY, MS};
use crate::policy::yaml::tree::NodeId;
use crate::policy::yaml::types::{At, Share};
use crate::resilience::breaker::EnforcementMode;
use crate::resilience::condition::Condition;

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);
/// One bit each.
pub const MOST_MODES: usize = 64;

/// Names of routes to their places among those that are enabled.
pub(crate) type RouteNames = BTreeMap<String, Option<usize>>;

/// What a mode may refer to.
pub(crate) struct Around<'a> {
    pub(crate) known: &'a Known<'a>,
    pub(crate) routes: &'a RouteNames,
    /// Of providers without one.
    pub(crate) breakerless: &'a [bool],
}

impl Check<'_> {
    pub(crate) fn degradation(
        &mut self,
        name: &str,
        at: &At<RawDegradation>,
        around: &Around<'_>,
    ) -> Degradation {
        let raw = &at.value;
        self.missing(at.id, "when", "the mode has no `when`: expected a condition, like `{ breaker_open: openai }`, or `{ manual: true }`");
        self.missing(
            at.id,
            "actions",
            "the mode has no `actions`: expected at least one, like `{ shed: low }`",
        );
        let when = raw.when.as_ref().map(|at| self.condition(at, around));
        Degradation {
            name: name.to_owned(),
            mode: raw.mode.map_or(EnforcementMode::Enforce, |at| at.value.0),
            when: when.unwrap_or(Condition::Any(Vec::new())),
            hold: self.length(&raw.hold, 5 * SECOND, Duration::ZERO..=DAY),
            recover_after: self.length(&raw.recover_after, 30 * SECOND, Duration::ZERO..=DAY),
            actions: raw
                .actions
                .as_ref()
                .map_or_else(Vec::new, |at| self.actions(at, around.known)),
        }
    }

    fn condition(&mut self, at: &At<RawCondition>, around: &Around<'_>) -> Condition<Sign> {
        let raw = &at.value;
        let given = [
            raw.any.is_some(),
            raw.all.is_some(),
            raw.breaker_open.is_some(),
            raw.error_rate.is_some(),
            raw.latency.is_some(),
            raw.queue_waiting.is_some(),
            raw.capacity_used.is_some(),
            raw.manual.is_some(),
        ];
        let given = given.into_iter().filter(|given| *given).count();
        if given != 1 && !self.tree.damaged(at.id) {
            let found = match given {
                0 => "found none".to_owned(),
                more => format!("found {more} (put them under `any` or `all`)"),
            };
            self.error(at.id, format!("expected one condition, {found}"));
        }
        let (list, make) = match (&raw.any, &raw.all) {
            (Some(list), _) => (list, Condition::Any as fn(_) -> _),
            (None, Some(list)) => (list, Condition::All as fn(_) -> _),
            (None, None) => {
                let sign = self.sign(raw, around);
                return sign.map_or(Condition::Any(Vec::new()), Condition::Is);
            }
        };
        if list.is_empty() && !self.tree.damaged(list.id) {
            self.error(list.id, "no condition: expected at least one");
        }
        if let (None, Some(manual)) = (&raw.any, list.iter().find_map(|at| at.manual.as_ref())) {
            self.error(
                manual.id,
                "what is by hand only is never so by itself: `all` would never hold",
            );
        }
        make(list.iter().map(|at| self.condition(at, around)).collect())
    }

    fn sign(&mut self, raw: &RawCondition, around: &Around<'_>) -> Option<Sign> {
        if let Some(at) = &raw.breaker_open {
            return self.breaker_open(at, around);
        }
        if let Some(at) = &raw.error_rate {
            return self.error_rate(at, around);
        }
        if let Some(at) = &raw.latency {
            return self.latency(at, around);
        }
        if let Some(at) = &raw.queue_waiting {
            return self.queue_waiting(at, around.known);
        }
        if let Some(at) = &raw.capacity_used {
            return self.capacity_used(at, around.known);
        }
        let at = raw.manual.as_ref()?;
        if !at.value {
            self.error(at.id, "expected `true`: a mode is entered by hand, or on a condition");
        }
        Some(Sign::Manual)
    }

    fn breaker_open(&mut self, at: &At<String>, around: &Around<'_>) -> Option<Sign> {
        let provider = self.provider_named(at, around.known)?;
        if around.breakerless.get(provider).is_some_and(|none| *none) {
            let message = format!("`{}` has `breaker: none`: none of it ever opens", at.value);
            self.error(at.id, message);
        }
        Some(Sign::BreakerOpen(provider))
    }

    fn error_rate(&mut self, at: &At<RawErrorRate>, around: &Around<'_>) -> Option<Sign> {
        let raw = &at.value;
        self.missing(at.id, "above", "no `above`: expected a share, like `0.25` or `25%`");
        let above = self.above(&raw.above);
        Some(Sign::ErrorRate {
            above,
            over: self.length(&raw.over, 30 * SECOND, SECOND..=HOUR),
            min_requests: self.count(&raw.min_requests, 20, 1..=1_000_000),
            of: self.of(at.id, &raw.of, around)?,
        })
    }

    fn latency(&mut self, at: &At<RawLatency>, around: &Around<'_>) -> Option<Sign> {
        let raw = &at.value;
        let quantiles = [(&raw.p50_above, 0.5), (&raw.p95_above, 0.95), (&raw.p99_above, 0.99)];
        let given: Vec<_> = quantiles
            .into_iter()
            .filter_map(|(length, quantile)| length.map(|length| (length, quantile)))
            .collect();
        let over = self.length(&raw.over, 60 * SECOND, SECOND..=HOUR);
        let min_requests = self.count(&raw.min_requests, 20, 1..=1_000_000);
        let of = self.of(at.id, &raw.of, around);
        let [(length, quantile)] = given[..] else {
            if !self.tree.damaged(at.id) {
                self.error(at.id, "expected one of `p50_above`, `p95_above` and `p99_above`");
            }
            return None;
        };
        let above = self.length(&Some(length), MS, MS..=HOUR);
        Some(Sign::Latency { of: of?, quantile, above, over, min_requests })
    }

    fn queue_waiting(&mut self, at: &At<RawQueueWaiting>, known: &Known<'_>) -> Option<Sign> {
        let raw = &at.value;
        self.missing(at.id, "of", "no `of`: expected a queue, like `of: default`");
        self.missing(at.id, "above", "no `above`: expected how many wait, like `500`");
        let above = self.count(&raw.above, 1_u64, 0..=1_000_000);
        let queue = named(self, raw.of.as_ref()?, "queue", "queues", known.queues)?;
        Some(Sign::QueueWaiting { queue, above })
    }

    fn capacity_used(&mut self, at: &At<RawCapacityUsed>, known: &Known<'_>) -> Option<Sign> {
        let raw = &at.value;
        self.missing(at.id, "of", "no `of`: expected a provider, like `of: openai`");
        self.missing(at.id, "above", "no `above`: expected a share, like `0.9` or `90%`");
        let above = self.above(&raw.above);
        let provider = self.provider_named(raw.of.as_ref()?, known)?;
        Some(Sign::CapacityUsed { provider, above })
    }

    /// A share that something can be above.
    fn above(&mut self, at: &Option<At<Share>>) -> f64 {
        if let Some(at) = at.filter(|at| at.value.0 >= 1.0) {
            self.error(at.id, "nothing is above all of it: expected less than `1`");
        }
        self.share(at, 1.0)
    }

    /// A route or a provider.
    fn of(&mut self, id: NodeId, at: &Option<At<String>>, around: &Around<'_>) -> Option<Of> {
        self.missing(id, "of", "no `of`: expected a route or a provider, like `of: chat`");
        let name = at.as_ref()?;
        let providers = around.known.providers;
        match (around.routes.get(name.as_str()), providers.get(name.as_str())) {
            (Some(_), Some(_)) => {
                let message = format!("`{}` is a route and a provider", name.value);
                let problem = self.tree.on_value(name.id, message);
                self.problems.push(problem.help("give one of them another name"));
                None
            }
            (Some(place), None) => Some(place.map_or(Of::Nobody, Of::Route)),
            // One that was declared, but could not be read.
            (None, Some(place)) => (*place < usize::MAX).then_some(Of::Provider(*place)),
            (None, None) => {
                let all = around.routes.keys().chain(providers.keys());
                refers_to_nothing(self, name, "route or provider", "routes` or `providers", all);
                None
            }
        }
    }
}
