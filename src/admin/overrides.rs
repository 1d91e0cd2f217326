//! What an operator changes by hand: breakers, and whether a provider is used at all.
//!
//! Each change is one line of the log (`audit: ...`), an event, and a counter. A change lives in
//! memory: it survives a reload of the policy, and not a restart.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Json;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};

use super::Shown;
use super::auth::problem;
use crate::clock;
use crate::fleet::overrides::is_under;
use crate::live::breaker::cell::{BreakerCell, BreakerStatus};
use crate::live::operator_override::{ActiveOverride, AuditNote};
use crate::policy::yaml::units;
use crate::resilience::breaker::{ManualOverride, OverrideState};
use crate::telemetry::metrics::AdminLabels;

const LONGEST: Duration = Duration::from_secs(30 * 24 * 3600);
const WORDS: usize = 200;

/// The body of a change; all of it may be left out.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Body {
    by: String,
    reason: String,
    /// How long, such as `10m`; without, until it is taken off.
    #[serde(rename = "for")]
    length: Option<String>,
    /// At every host of the fleet.
    fleet: bool,
}

/// A change that was asked for, checked.
#[derive(Debug)]
pub(super) struct Asked {
    note: AuditNote,
    length: Option<Duration>,
}

#[derive(Debug, Serialize)]
struct BreakersChanged {
    changed: Vec<BreakerStatus>,
}

#[derive(Debug, Serialize)]
struct ProviderChanged {
    provider: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    by_hand: Option<ActiveOverride>,
}

/// `POST /api/circuit-breakers/{open|close|shadow|reset}/{provider}[/{address}[/{model}]]`: every
/// breaker that is now under that key.
pub async fn breaker(
    State(shown): State<Arc<Shown>>,
    Path((action, key)): Path<(String, String)>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let (name, wish) = match action.as_str() {
        "open" => ("breaker_open", Some(OverrideState::Open)),
        "close" => ("breaker_close", Some(OverrideState::Closed)),
        "shadow" => ("breaker_shadow", Some(OverrideState::Shadow)),
        "reset" => ("breaker_reset", None),
        _ => {
            let detail = format!("`{action}` is no action (expected open, close, shadow or reset)");
            return problem(StatusCode::NOT_FOUND, "no_action", &detail);
        }
    };
    let asked = match Asked::read(&headers, &body) {
        Ok(asked) => asked,
        Err(refusal) => return *refusal,
    };
    let all = shown.live.breakers();
    let under: Vec<&Arc<BreakerCell>> =
        all.iter().filter(|cell| is_under(&cell.key().to_string(), &key)).collect();
    if under.is_empty() && !asked.note.fleet {
        let known: Vec<_> = all.iter().map(|cell| cell.key().to_string()).collect();
        let detail = format!("no breaker is under `{key}` (there are: {})", listed(&known));
        return problem(StatusCode::NOT_FOUND, "no_breaker", &detail);
    }
    if asked.note.fleet
        && let Err(refusal) = shown.force(&key, wish, &asked).await
    {
        return *refusal;
    }
    let now = clock::now();
    let hand = wish.map(|wish| ManualOverride { state: wish, until: asked.until(now) });
    for cell in &under {
        cell.set_override(hand, asked.note.clone(), now);
    }
    shown.audit(name, &key, &asked);
    let changed = under.iter().map(|cell| cell.status(now)).collect();
    Json(BreakersChanged { changed }).into_response()
}

/// `POST /api/providers/{drain|undrain}/{name}`.
pub async fn provider(
    State(shown): State<Arc<Shown>>,
    Path((action, name)): Path<(String, String)>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let asked = match Asked::read(&headers, &body) {
        Ok(asked) => asked,
        Err(refusal) => return *refusal,
    };
    let snapshot = shown.current.load_full();
    let Some(provider) = snapshot.providers.iter().find(|p| p.policy.name == name) else {
        let known: Vec<_> = snapshot.providers.iter().map(|p| p.policy.name.clone()).collect();
        let detail = format!("there is no provider `{name}` (there are: {})", listed(&known));
        return problem(StatusCode::NOT_FOUND, "no_provider", &detail);
    };
    let now = clock::now();
    let change = match action.as_str() {
        "drain" => {
            provider.live.drain(asked.until(now), asked.note.clone());
            "drain"
        }
        "undrain" => {
            provider.live.undrain();
            "undrain"
        }
        _ => {
            let detail = format!("`{action}` is no action (expected drain or undrain)");
            return problem(StatusCode::NOT_FOUND, "no_action", &detail);
        }
    };
    shown.audit(change, &name, &asked);
    Json(ProviderChanged { provider: name, by_hand: provider.live.active_override(now) })
        .into_response()
}

pub(super) fn listed(names: &[String]) -> String {
    match names {
        [] => "none yet".to_owned(),
        names if names.len() > 20 => {
            format!("{}, and {} more", names[..20].join(", "), names.len() - 20)
        }
        names => names.join(", "),
    }
}

impl Asked {
    pub(super) fn read(headers: &HeaderMap, body: &[u8]) -> Result<Asked, Box<Response>> {
        let refuse = |status, name, detail: &str| Err(Box::new(problem(status, name, detail)));
        if body.is_empty() {
            return Ok(Asked { note: AuditNote::default(), length: None });
        }
        let kind =
            headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
        if !kind.starts_with("application/json") {
            let detail = "the body is not said to be JSON (send `Content-Type: application/json`)";
            return refuse(StatusCode::UNSUPPORTED_MEDIA_TYPE, "not_json", detail);
        }
        let body: Body = match serde_json::from_slice(body) {
            Ok(body) => body,
            Err(error) => {
                let detail = format!(
                    "{error} (expected {{\"for\": \"10m\", \"reason\": \"...\", \"by\": \"...\"}}, each optional)"
                );
                return refuse(StatusCode::BAD_REQUEST, "bad_body", &detail);
            }
        };
        let length = match body.length.as_deref().map(units::duration).transpose() {
            Ok(length) if length.is_none_or(|l| !l.is_zero() && l <= LONGEST) => length,
            Ok(_) => {
                return refuse(
                    StatusCode::BAD_REQUEST,
                    "bad_for",
                    "`for` is at least 1ms and at most 30d",
                );
            }
            Err(error) => {
                return refuse(StatusCode::BAD_REQUEST, "bad_for", &format!("`for`: {error}"));
            }
        };
        let note =
            AuditNote { by: words(&body.by), reason: words(&body.reason), fleet: body.fleet };
        Ok(Asked { note, length })
    }

    pub(super) fn has_length(&self) -> bool {
        self.length.is_some()
    }

    /// For so long, where it was not said for how long.
    pub(super) fn lasting(self, usual: Option<Duration>) -> Asked {
        Asked { length: self.length.or(usual), ..self }
    }

    pub(super) fn is_for_the_fleet(&self) -> bool {
        self.note.fleet
    }

    pub(super) fn note(&self) -> &AuditNote {
        &self.note
    }

    pub(super) fn until(&self, now: Instant) -> Option<Instant> {
        self.length.map(|length| now + length)
    }
}

/// One line of bounded length.
fn words(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(WORDS).collect()
}

impl Shown {
    /// The same at every host of the fleet.
    async fn force(
        &self,
        key: &str,
        wish: Option<OverrideState>,
        asked: &Asked,
    ) -> Result<(), Box<Response>> {
        let refuse = |status, name, detail: &str| Err(Box::new(problem(status, name, detail)));
        let Some(fleet) = &self.fleet else {
            let detail = "this host is in no fleet (start it with --redis)";
            return refuse(StatusCode::CONFLICT, "no_fleet", detail);
        };
        match fleet.force(key, wish, asked.length, &asked.note).await {
            Ok(()) => Ok(()),
            Err(failure) => {
                let detail =
                    format!("the fleet's Redis was not reached, nothing was changed: {failure}");
                refuse(StatusCode::SERVICE_UNAVAILABLE, "fleet_away", &detail)
            }
        }
    }

    pub(super) fn audit(&self, action: &'static str, key: &str, asked: &Asked) {
        let Asked { note: AuditNote { by, reason, fleet }, length } = asked;
        let labels = AdminLabels { action, result: "done" };
        self.live.metrics.admin_changes.get_or_create_owned(&labels).inc();
        tracing::info!(action, key, by, reason, fleet, length = ?length, "audit: changed by hand");
        let length = length.map(|length| format!(" for {length:?}")).unwrap_or_default();
        let by = if by.is_empty() { String::new() } else { format!(" by {by}") };
        let reason = if reason.is_empty() { String::new() } else { format!(": {reason}") };
        let everywhere = if *fleet { " at every host" } else { "" };
        let what = format!("{action}{everywhere}{length}{by}{reason}");
        self.live.events.push(clock::wall(), "by_hand", key, what);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_above_what_begins_with_it_up_to_a_slash() {
        assert!(
            is_under("openai/api/gpt-4o", "openai/api") && is_under("openai/api", "openai/api")
        );
        assert!(!is_under("openai-2/api", "openai") && !is_under("openai", "openai/api"));
    }

    #[test]
    fn a_reason_is_one_line_of_bounded_length() {
        assert_eq!(words("two\nlines"), "twolines");
        assert_eq!(words(&"x".repeat(500)).len(), WORDS);
    }
}
