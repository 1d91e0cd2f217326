//! The regressions and recoveries that were detected, those of earlier processes included.

use std::borrow::Cow;
use std::collections::VecDeque;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The newest changes that are kept.
const KEPT: usize = 1000;

/// A detected change as the API shows it and the store keeps it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct DetectedChange {
    /// RFC 3339.
    pub at: String,
    /// `regression`, `recovery`, `too_few_calls` (nothing says whether it lasts), `accepted` (an
    /// operator made it normal), or `host_regression` and `host_recovery`, which are about this host.
    pub change: Cow<'static, str>,
    /// Absent if it is about this host.
    #[serde(flatten)]
    pub of: Option<ChangedMeasure>,
}

/// A measure of a series, with its figures.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ChangedMeasure {
    pub route: String,
    pub provider: String,
    pub model: String,
    /// As in `/api/benchmarks/series`.
    pub measure: Cow<'static, str>,
    /// The baseline before the regression.
    pub before: f64,
    /// The median of the last six values.
    pub current: f64,
    /// When the measure became worse (RFC 3339).
    pub since: String,
}

/// The newest changes, the oldest first.
#[derive(Debug, Default)]
pub struct DetectedChanges {
    all: VecDeque<DetectedChange>,
    /// The newest that are not stored yet.
    unsaved: usize,
}

impl DetectedChanges {
    pub fn push(&mut self, change: DetectedChange) {
        if self.all.len() == KEPT {
            self.all.pop_front();
        }
        self.all.push_back(change);
        self.unsaved = (self.unsaved + 1).min(KEPT);
    }

    /// Puts the stored changes of earlier processes before those of this one. A record of another
    /// form is left out.
    pub fn restore(&mut self, stored: &[String]) {
        let earlier = stored.iter().filter_map(|text| serde_json::from_str(text).ok());
        let mut all: VecDeque<_> = earlier.collect();
        all.append(&mut self.all);
        all.drain(..all.len().saturating_sub(KEPT));
        self.all = all;
    }

    /// The newest first.
    pub fn all(&self) -> impl Iterator<Item = &DetectedChange> {
        self.all.iter().rev()
    }

    /// The stored form of the changes since the last time.
    pub fn take_unsaved(&mut self) -> Vec<String> {
        let start = self.all.len().saturating_sub(std::mem::take(&mut self.unsaved));
        self.all.range(start..).filter_map(|one| serde_json::to_string(one).ok()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(n: usize) -> DetectedChange {
        DetectedChange { at: n.to_string(), change: "host_regression".into(), of: None }
    }

    #[test]
    fn the_newest_changes_are_kept_and_stored_once() {
        let mut changes = DetectedChanges::default();
        (0..KEPT + 5).for_each(|n| changes.push(change(n)));
        let stored = changes.take_unsaved();
        assert_eq!((stored.len(), changes.take_unsaved().len()), (KEPT, 0));
        let mut next = DetectedChanges::default();
        next.push(change(9_999));
        next.restore(&[stored, vec!["{".to_owned()]].concat());
        let all: Vec<_> = next.all().map(|one| one.at.as_str()).collect();
        assert_eq!((all.len(), all[0], all[1], all[KEPT - 1]), (KEPT, "9999", "1004", "6"));
        assert_eq!(next.take_unsaved().len(), 1);
    }
}
