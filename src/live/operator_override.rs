//! Who put a hand on something, why, and until when.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

/// What an operator said with a change.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct AuditNote {
    #[serde(skip_serializing_if = "String::is_empty")]
    pub by: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// It is on every host.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub fleet: bool,
}

impl AuditNote {
    pub fn is_empty(&self) -> bool {
        *self == AuditNote::default()
    }
}

/// A hand that is on something.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ActiveOverride {
    /// `open`, `closed`, `shadow` or `drained`; of a mode, `entered` or `left`.
    pub what: &'static str,
    /// Absent: until it is taken off.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub left_ms: Option<u64>,
    #[serde(flatten)]
    pub note: AuditNote,
}

impl ActiveOverride {
    pub fn new(what: &'static str, until: Option<Instant>, note: AuditNote, now: Instant) -> Self {
        let left = |until: Instant| millis(until.saturating_duration_since(now));
        ActiveOverride { what, left_ms: until.map(left), note }
    }
}

fn millis(length: Duration) -> u64 {
    u64::try_from(length.as_millis()).unwrap_or(u64::MAX)
}
