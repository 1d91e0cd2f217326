//! The notification about a mode: JSON with a `text` field, as Slack and similar webhooks expect.

use std::time::Duration;

use serde_json::{Value, json};

use super::history::EpisodeRecord;
use crate::live::degradation::episode::EpisodeImpact;

/// The notification that a mode was entered or left. `skipped`: earlier changes without a notification
/// of their own.
pub fn payload(record: &EpisodeRecord, host: &str, skipped: u64) -> Value {
    let entered = record.ended.is_none();
    let state = if entered { "entered" } else { "left" };
    let at = record.ended.as_ref().unwrap_or(&record.began);
    let cause = record.cause.words();
    let mut payload = json!({
        "text": text(record, host, skipped),
        "mode": record.mode,
        "state": state,
        "host": host,
        "at": at,
        "cause": cause,
        "duration_seconds": record.seconds,
        "impact": record.impact,
    });
    if skipped > 0 {
        payload["skipped_changes"] = skipped.into();
    }
    if record.shadow {
        payload["shadow"] = true.into();
    }
    payload
}

fn text(record: &EpisodeRecord, host: &str, skipped: u64) -> String {
    let mode = &record.mode;
    let shadow = if record.shadow { " (shadow mode)" } else { "" };
    let cause = record.cause.words();
    let note = match skipped {
        0 => String::new(),
        1 => "; one earlier change was not reported".to_owned(),
        count => format!("; {count} earlier changes were not reported"),
    };
    if record.ended.is_none() {
        return format!("{mode}{shadow} entered on {host}: {cause}{note}");
    }
    let took = Duration::from_secs_f64(record.seconds.max(0.0));
    let impact = impact(&record.impact);
    format!(
        "{mode}{shadow} left on {host} after {took:.1?}: {impact}; entered because of {cause}{note}"
    )
}

fn impact(impact: &EpisodeImpact) -> String {
    let EpisodeImpact { requests, errors_avoided, .. } = impact;
    let each = impact.actions().into_iter().map(|(action, count)| format!("{action} {count}"));
    let each: Vec<_> = each.collect();
    let each = if each.is_empty() { String::new() } else { format!(" ({})", each.join(", ")) };
    format!("{requests} requests affected{each}, {errors_avoided} errors avoided")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::live::degradation::episode::{EpisodeCause, SignalReading};

    fn record(ended: bool) -> EpisodeRecord {
        let signal = "error_rate of chat above 0.25 over 30s".to_owned();
        EpisodeRecord {
            mode: "brownout".to_owned(),
            shadow: false,
            began: "2026-01-01T00:00:00.000Z".to_owned(),
            ended: ended.then(|| "2026-01-01T00:01:30.000Z".to_owned()),
            seconds: if ended { 90.0 } else { 0.0 },
            ended_by: ended.then(|| "condition".to_owned()),
            cause: EpisodeCause {
                by: "condition".to_owned(),
                signals: vec![SignalReading { signal, value: Some(0.5), met: true }],
                ..EpisodeCause::default()
            },
            impact: EpisodeImpact {
                requests: 3,
                actions: [("shed".to_owned(), 2), ("respond".to_owned(), 1)].into(),
                errors_avoided: 0,
            },
        }
    }

    #[test]
    fn a_payload_has_a_text_and_the_fields_behind_it() {
        let entered = payload(&record(false), "web-1", 0);
        assert_eq!(
            entered["text"],
            "brownout entered on web-1: error_rate of chat above 0.25 over 30s (0.5)"
        );
        assert_eq!(entered["state"], "entered");
        let left = payload(&record(true), "web-1", 2);
        assert_eq!(
            left["text"],
            "brownout left on web-1 after 90.0s: 3 requests affected (shed 2, respond 1), 0 errors \
             avoided; entered because of error_rate of chat above 0.25 over 30s (0.5); 2 earlier \
             changes were not reported"
        );
        assert_eq!((&left["state"], &left["duration_seconds"]), (&json!("left"), &json!(90.0)));
        assert_eq!((&left["impact"]["shed"], &left["skipped_changes"]), (&json!(2), &json!(2)));
        assert_eq!(left["at"], "2026-01-01T00:01:30.000Z");
    }
}
