//! Manual overrides: what an operator forces, until when, and the note that explains it.

use std::borrow::Cow;
use std::time::{Duration, Instant};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The explanation that an operator gives with a change.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct AuditNote {
    /// The operator's name.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub by: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// The override is in force on every host of the fleet.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub fleet: bool,
}

impl AuditNote {
    pub fn is_empty(&self) -> bool {
        *self == AuditNote::default()
    }

    /// `by ann: maintenance`, as far as it is known.
    pub fn text(&self) -> String {
        self.suffix().trim_start_matches([':', ' ']).to_owned()
    }

    /// To follow a word: ` by ann: maintenance`, `: maintenance`.
    pub fn suffix(&self) -> String {
        let AuditNote { by, reason, .. } = self;
        let by = if by.is_empty() { String::new() } else { format!(" by {by}") };
        if reason.is_empty() { by } else { format!("{by}: {reason}") }
    }
}

/// A manual override that is in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ActiveOverride {
    /// The forced state. Of a breaker: `open`, `closed` or `shadow`; of a provider: `drained`; of a
    /// degradation mode: `entered` or `left`.
    pub state: Cow<'static, str>,
    /// Time until it ends; absent when it lasts until it is removed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remaining_ms: Option<u64>,
    #[serde(flatten)]
    pub note: AuditNote,
}

impl ActiveOverride {
    pub fn new(state: &'static str, until: Option<Instant>, note: AuditNote, now: Instant) -> Self {
        let left = |until: Instant| millis(until.saturating_duration_since(now));
        ActiveOverride { state: state.into(), remaining_ms: until.map(left), note }
    }
}

fn millis(length: Duration) -> u64 {
    u64::try_from(length.as_millis()).unwrap_or(u64::MAX)
}
