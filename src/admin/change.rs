//! The parts that all changes share: the path, the body, and the audit trail.
//!
//! A change leaves a log line (`audit: ...`), an event and a counter. It lives in memory: it survives
//! a reload of the policy, and not a restart.

use std::time::{Duration, Instant};

use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, PathRejection};
use axum::extract::{FromRequest, FromRequestParts, Path, Request};
use axum::http::header::CONTENT_TYPE;
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::error::{ApiError, ApiErrorKind};
use super::state::AdminState;
use crate::clock;
use crate::live::operator_override::AuditNote;
use crate::policy::yaml::units;
use crate::telemetry::events::NewEvent;
use crate::telemetry::metrics::AdminLabels;

const MAX_DURATION: Duration = Duration::from_secs(30 * 24 * 3600);
/// Characters of a name or a reason that are kept.
const MAX_TEXT: usize = 200;

/// The body of a change. Each field is optional.
#[derive(Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ChangeRequest {
    /// The operator's name, for the audit log.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    /// The reason, for the audit log.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// How long the change lasts, such as `10m`; at most `30d`. Without it, the change lasts until it
    /// is undone.
    #[serde(rename = "for", skip_serializing_if = "Option::is_none")]
    pub duration: Option<String>,
    /// Makes the change on every host of the fleet. Circuit breakers only.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub fleet: bool,
}

/// A checked change.
#[derive(Debug)]
pub struct Change {
    pub note: AuditNote,
    pub duration: Option<Duration>,
}

/// The action of a change and the name of its object, from the path.
#[derive(Debug)]
pub struct Target<A> {
    pub action: A,
    pub name: String,
}

#[derive(Deserialize)]
struct RawTarget {
    action: String,
    #[serde(alias = "key", alias = "id")]
    name: String,
}

/// The actions of one kind of object.
pub trait Action: Copy + PartialEq + 'static {
    /// Each action with its path segment and its name in the audit log.
    const NAMES: &'static [(Self, &'static str, &'static str)];

    fn as_str(self) -> &'static str {
        Self::NAMES.iter().find(|(action, ..)| *action == self).map_or("", |(_, name, _)| name)
    }

    fn audit_name(self) -> &'static str {
        Self::NAMES.iter().find(|(action, ..)| *action == self).map_or("", |(_, _, name)| name)
    }
}

impl<S: Send + Sync, A: Action> FromRequestParts<S> for Target<A> {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Response> {
        let path = Path::<RawTarget>::from_request_parts(parts, state).await;
        let path = path.map_err(|rejection| invalid_path(&rejection).into_response());
        let Path(RawTarget { action, name }) = path?;
        match A::NAMES.iter().find(|(_, known, _)| *known == action) {
            Some(&(action, ..)) => Ok(Target { action, name }),
            None => Err(unknown_action::<A>(&action).into_response()),
        }
    }
}

fn unknown_action<A: Action>(found: &str) -> ApiError {
    let names: Vec<_> = A::NAMES.iter().map(|(_, name, _)| *name).collect();
    let expected = match names.split_last() {
        Some((last, rest)) if !rest.is_empty() => format!("{} or {last}", rest.join(", ")),
        _ => names.concat(),
    };
    let detail = format!("unknown action `{found}` (expected {expected})");
    ApiError::new(ApiErrorKind::UnknownAction, detail)
}

fn invalid_path(rejection: &PathRejection) -> ApiError {
    ApiError::new(ApiErrorKind::InvalidPath, rejection.body_text())
}

/// The error of a body that cannot be read, or is too large.
pub fn unreadable_body(rejection: &BytesRejection) -> ApiError {
    let kind = match rejection.status() {
        StatusCode::PAYLOAD_TOO_LARGE => ApiErrorKind::BodyTooLarge,
        _ => ApiErrorKind::InvalidBody,
    };
    ApiError::new(kind, rejection.body_text())
}

/// The only parameter of a path, such as a name.
#[derive(Debug)]
pub struct PathName(pub String);

impl<S: Send + Sync> FromRequestParts<S> for PathName {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let path = Path::<String>::from_request_parts(parts, state).await;
        path.map(|Path(name)| PathName(name)).map_err(|rejection| invalid_path(&rejection))
    }
}

impl<S: Send + Sync> FromRequest<S> for Change {
    type Rejection = Response;

    async fn from_request(request: Request, state: &S) -> Result<Self, Response> {
        let headers = request.headers().clone();
        let body = Bytes::from_request(request, state).await;
        let body = body.map_err(|rejection| unreadable_body(&rejection).into_response())?;
        Change::read(&headers, &body).map_err(IntoResponse::into_response)
    }
}

impl Change {
    fn read(headers: &HeaderMap, body: &[u8]) -> Result<Change, ApiError> {
        if body.is_empty() {
            return Ok(Change { note: AuditNote::default(), duration: None });
        }
        let expected = r#"{"for": "10m", "reason": "...", "by": "..."}, each field optional"#;
        let request: ChangeRequest = read_json(headers, body, expected)?;
        let duration = request.duration.as_deref().map(duration).transpose()?;
        let mut change = Change::by(request.by, request.reason);
        (change.note.fleet, change.duration) = (request.fleet, duration);
        Ok(change)
    }

    /// A change on this host, without an end.
    pub fn by(by: Option<String>, reason: Option<String>) -> Change {
        let text = |text: Option<String>| text.as_deref().map(one_line).unwrap_or_default();
        let note = AuditNote { by: text(by), reason: text(reason), fleet: false };
        Change { note, duration: None }
    }

    /// Rejects `for` where a change has no end of its own.
    ///
    /// # Errors
    /// With the reason: `why` the change has none.
    pub fn without_end(&self, why: &str) -> Result<(), ApiError> {
        let detail = || format!("`for` has no effect: {why} (leave it out)");
        let error = |_| Err(ApiError::new(ApiErrorKind::InvalidDuration, detail()));
        self.duration.map_or(Ok(()), error)
    }

    /// Rejects `fleet` where a change is of one host.
    ///
    /// # Errors
    /// With the reason.
    pub fn on_this_host(&self) -> Result<(), ApiError> {
        if !self.note.fleet {
            return Ok(());
        }
        let detail = "only circuit breakers are overridden on the whole fleet (leave `fleet` out)";
        Err(ApiError::new(ApiErrorKind::PerHostOnly, detail))
    }

    pub fn until(&self, now: Instant) -> Option<Instant> {
        self.duration.map(|duration| now + duration)
    }
}

/// Reads a body of JSON; `expected` describes it.
///
/// # Errors
/// If it is not declared as JSON, or has another form.
pub fn read_json<T: DeserializeOwned>(
    headers: &HeaderMap,
    body: &[u8],
    expected: &str,
) -> Result<T, ApiError> {
    let content_type = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    if !content_type.unwrap_or_default().starts_with("application/json") {
        let detail = "the body is not declared as JSON (send `Content-Type: application/json`)";
        return Err(ApiError::new(ApiErrorKind::NotJson, detail));
    }
    serde_json::from_slice(body).map_err(|error| {
        ApiError::new(ApiErrorKind::InvalidBody, format!("{error} (expected {expected})"))
    })
}

fn duration(text: &str) -> Result<Duration, ApiError> {
    let invalid = |detail| ApiError::new(ApiErrorKind::InvalidDuration, detail);
    let duration = units::duration(text).map_err(|error| invalid(format!("`for`: {error}")))?;
    if duration.is_zero() || duration > MAX_DURATION {
        return Err(invalid(format!("`for` is `{text}` (expected at least 1ms and at most 30d)")));
    }
    Ok(duration)
}

/// Removes control characters and limits the length.
fn one_line(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(MAX_TEXT).collect()
}

impl AdminState {
    pub fn audit(&self, action: &'static str, key: &str, change: &Change) {
        let Change { note, duration } = change;
        let AuditNote { by, reason, fleet } = note;
        let labels = AdminLabels { action, result: "done" };
        self.live.metrics.admin_changes.get_or_create_owned(&labels).inc();
        let duration = duration.map(units::show_duration);
        let shown = duration.as_deref();
        tracing::info!(action, key, by, reason, fleet, duration = shown, "audit: manual change");
        let duration = duration.map(|duration| format!(" for {duration}")).unwrap_or_default();
        let scope = if *fleet { " on every host" } else { "" };
        let text = format!("{action}{scope}{duration}{}", note.suffix());
        let event = NewEvent::new("override", key, text).state(action).cause(note.text());
        self.live.events.push(clock::wall(), event);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_is_one_line_of_bounded_length() {
        assert_eq!(one_line("two\nlines"), "twolines");
        assert_eq!(one_line(&"x".repeat(500)).len(), MAX_TEXT);
    }
}
