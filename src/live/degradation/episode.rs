//! One episode of a degradation mode: when it began and ended, why, and its impact.

use std::collections::BTreeMap;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::live::operator_override::AuditNote;
pub use crate::policy::sections::action::ActionKind;

/// One signal of a mode's condition, as it was last evaluated.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct SignalReading {
    /// In the words of the policy.
    pub signal: String,
    /// Absent when there is no value: a manual override, or too few requests.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<f64>,
    /// The signal's condition is met.
    pub met: bool,
}

/// Why a mode was entered.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct EpisodeCause {
    /// `condition` or `override`.
    pub by: String,
    /// The signals at that moment.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub signals: Vec<SignalReading>,
    /// The operator's note.
    #[serde(default, skip_serializing_if = "AuditNote::is_empty")]
    pub note: AuditNote,
}

/// The effects of a mode, in requests.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct EpisodeImpact {
    /// Each counts once, whatever was done to it.
    pub requests: u64,
    /// By the name of the action.
    #[serde(flatten)]
    #[schemars(schema_with = "action_counts")]
    pub actions: BTreeMap<String, u64>,
    /// Successful responses (below 500, and not 429) from `use`, `serve_stale` or
    /// `respond` while none of the route's own providers was available: each would have
    /// been an error.
    pub errors_avoided: u64,
}

/// The end of an episode.
#[derive(Clone, Copy, Debug)]
pub struct EpisodeEnd {
    pub at: SystemTime,
    pub took: Duration,
    /// `condition`, `override` or `removed`.
    pub by: &'static str,
}

#[derive(Debug)]
pub struct Episode {
    pub mode: String,
    /// Shadow mode: it only counted.
    pub shadow: bool,
    pub began: SystemTime,
    pub since: Instant,
    pub cause: EpisodeCause,
    ended: OnceLock<EpisodeEnd>,
    requests: AtomicU64,
    counts: [AtomicU64; ActionKind::ALL.len()],
    avoided: AtomicU64,
}

impl EpisodeCause {
    /// A description: the signals that were true, or the override's author and reason.
    pub fn words(&self) -> String {
        let met: Vec<_> =
            self.signals.iter().filter(|reading| reading.met).map(SignalReading::words).collect();
        let AuditNote { by, reason, .. } = &self.note;
        match (self.by.as_str(), by.is_empty(), reason.is_empty()) {
            ("condition", ..) => met.join(", "),
            (_, true, true) => "manual override".to_owned(),
            (_, true, false) => format!("manual override: {reason}"),
            (_, false, true) => format!("manual override, by {by}"),
            (_, false, false) => format!("manual override, by {by}: {reason}"),
        }
    }
}

/// A count for each action on requests.
fn action_counts(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    let actions = ActionKind::of_requests();
    let count = |what: ActionKind| {
        let schema = serde_json::json!({ "type": "integer", "format": "uint64", "minimum": 0 });
        (what.as_str().to_owned(), schema)
    };
    let names: Vec<_> = ActionKind::of_requests().map(ActionKind::as_str).collect();
    let properties: serde_json::Map<_, _> = actions.map(count).collect();
    schemars::json_schema!({ "type": "object", "properties": properties, "required": names })
}

impl EpisodeImpact {
    /// The actions that were done, in the order of the policy language.
    pub fn actions(&self) -> Vec<(&'static str, u64)> {
        let count = |what: ActionKind| Some((what.as_str(), *self.actions.get(what.as_str())?));
        ActionKind::of_requests().filter_map(count).filter(|(_, count)| *count > 0).collect()
    }
}

impl SignalReading {
    fn words(&self) -> String {
        match self.value {
            Some(value) => format!("{} ({})", self.signal, (value * 1e4).round() / 1e4),
            None => self.signal.clone(),
        }
    }
}

impl Episode {
    pub fn new(
        mode: &str,
        shadow: bool,
        cause: EpisodeCause,
        began: SystemTime,
        since: Instant,
    ) -> Episode {
        Episode {
            mode: mode.to_owned(),
            shadow,
            began,
            since,
            cause,
            ended: OnceLock::new(),
            requests: AtomicU64::default(),
            counts: Default::default(),
            avoided: AtomicU64::default(),
        }
    }

    /// Counts a request; `first`: the first effect of this mode on it.
    pub fn record(&self, what: ActionKind, first: bool) {
        self.counts[what as usize].fetch_add(1, Ordering::Relaxed);
        self.requests.fetch_add(u64::from(first), Ordering::Relaxed);
    }

    /// Counts a successful response that avoided an error.
    pub fn avoided(&self) {
        self.avoided.fetch_add(1, Ordering::Relaxed);
    }

    pub fn impact(&self) -> EpisodeImpact {
        let of = |what: ActionKind| self.counts[what as usize].load(Ordering::Relaxed);
        let actions = ActionKind::of_requests().map(|what| (what.as_str().to_owned(), of(what)));
        EpisodeImpact {
            requests: self.requests.load(Ordering::Relaxed),
            actions: actions.collect(),
            errors_avoided: self.avoided.load(Ordering::Relaxed),
        }
    }

    /// Sets the end; only the first one counts.
    pub fn end(&self, end: EpisodeEnd) {
        let _ = self.ended.set(end);
    }

    pub fn ended(&self) -> Option<&EpisodeEnd> {
        self.ended.get()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    #[test]
    fn a_request_counts_once_and_each_action_once() {
        let episode =
            Episode::new("brownout", false, EpisodeCause::default(), clock::wall(), clock::now());
        episode.record(ActionKind::Reduce, true);
        episode.record(ActionKind::Use, false);
        episode.avoided();
        let impact = episode.impact();
        assert_eq!((impact.requests, impact.errors_avoided), (1, 1));
        assert_eq!(impact.actions(), [("reduce", 1), ("use", 1)]);
    }
}
