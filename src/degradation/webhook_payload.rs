//! What is posted when a mode is entered or left: JSON with a `text` that webhooks like Slack's show.

use std::time::Duration;

use serde_json::{Value, json};

use super::history::EpisodeRecord;
use crate::live::degradation::episode::EpisodeImpact;

/// What is told of a mode that was entered, or left. `more`: changes before this one that were not
/// told by themselves.
pub fn letter(record: &EpisodeRecord, host: &str, more: u64) -> Value {
    let entered = record.ended.is_none();
    let state = if entered { "entered" } else { "left" };
    let at = record.ended.as_ref().unwrap_or(&record.began);
    let cause = record.cause.words();
    let mut letter = json!({
        "text": text(record, host, more),
        "mode": record.mode,
        "state": state,
        "host": host,
        "at": at,
        "cause": cause,
        "duration": record.seconds,
        "impact": record.impact,
    });
    if more > 0 {
        letter["more_changes"] = more.into();
    }
    if record.shadow {
        letter["shadow"] = true.into();
    }
    letter
}

fn text(record: &EpisodeRecord, host: &str, more: u64) -> String {
    let mode = &record.mode;
    let shadow = if record.shadow { " (in shadow)" } else { "" };
    let cause = record.cause.words();
    let folded = match more {
        0 => String::new(),
        1 => "; one change before it was not told".to_owned(),
        more => format!("; {more} changes before it were not told"),
    };
    if record.ended.is_none() {
        return format!("{mode}{shadow} entered on {host}: {cause}{folded}");
    }
    let took = Duration::from_secs_f64(record.seconds.max(0.0));
    let impact = impact(&record.impact);
    format!("{mode}{shadow} left on {host} after {took:.1?}: {impact}; entered for {cause}{folded}")
}

fn impact(impact: &EpisodeImpact) -> String {
    let EpisodeImpact { requests, reduce, elsewhere, serve_stale, shed, respond, errors_avoided } =
        impact;
    let each = [
        ("reduce", reduce),
        ("use", elsewhere),
        ("serve_stale", serve_stale),
        ("shed", shed),
        ("respond", respond),
    ];
    let each: Vec<_> = each
        .iter()
        .filter(|(_, count)| **count > 0)
        .map(|(action, count)| format!("{action} {count}"))
        .collect();
    let each = if each.is_empty() { String::new() } else { format!(" ({})", each.join(", ")) };
    format!("{requests} requests touched{each}, {errors_avoided} errors avoided")
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
            impact: EpisodeImpact { requests: 3, shed: 2, respond: 1, ..EpisodeImpact::default() },
        }
    }

    #[test]
    fn a_letter_says_what_people_and_programs_want_to_know() {
        let entered = letter(&record(false), "web-1", 0);
        assert_eq!(
            entered["text"],
            "brownout entered on web-1: error_rate of chat above 0.25 over 30s (0.5)"
        );
        assert_eq!(entered["state"], "entered");
        let left = letter(&record(true), "web-1", 2);
        assert_eq!(
            left["text"],
            "brownout left on web-1 after 90.0s: 3 requests touched (shed 2, respond 1), 0 errors \
             avoided; entered for error_rate of chat above 0.25 over 30s (0.5); 2 changes before it \
             were not told"
        );
        assert_eq!((&left["state"], &left["duration"]), (&json!("left"), &json!(90.0)));
        assert_eq!((&left["impact"]["shed"], &left["more_changes"]), (&json!(2), &json!(2)));
        assert_eq!(left["at"], "2026-01-01T00:01:30.000Z");
    }
}
