//! The client's overrides in `x-outrigger-*` headers, within the limits of the route.
//!
//! A header that the route does not allow, or that cannot be read, is rejected with a 400 that names
//! it: a client must not assume that an ignored header took effect.

use std::time::Duration;

use http::HeaderMap;

use super::headers::is_override;
use crate::policy::sections::model::{AllowOverride, Queue, Retry, RoutePolicy};
use crate::policy::yaml::units;
use crate::proxy::downstream::problem::{Problem, ProblemKind};
use crate::resilience::outcome::Idempotence;

/// Values that a request sets in place of its route's.
#[derive(Clone, Debug, Default)]
pub struct Overrides {
    pub timeout: Option<Duration>,
    pub idempotent: Option<Idempotence>,
    /// Name or index of a class.
    pub priority: Option<String>,
    pub max_attempts: Option<u32>,
    pub fallback_attempts: Option<u32>,
    /// The URL that a job's result is posted to.
    pub callback: Option<String>,
}

impl Overrides {
    /// Reads the headers of a request.
    ///
    /// # Errors
    /// A 400 that names the header, its value, and what was expected.
    pub fn read(headers: &HeaderMap, route: &RoutePolicy) -> Result<Overrides, Problem> {
        let mut overrides = Overrides::default();
        for (name, value) in headers.iter().filter(|(name, _)| is_override(name)) {
            let what = &name.as_str()["x-outrigger-".len()..];
            let refuse =
                |why: String| Problem::new(ProblemKind::BadOverride, format!("{name}: {why}"));
            if !allowed(what, route.allow_override) {
                return Err(refuse(format!(
                    "route `{}` does not allow it (see its allow_override)",
                    route.name
                )));
            }
            let value =
                value.to_str().map_err(|_| refuse("the value is not visible ASCII".to_owned()))?;
            overrides.set(what, value.trim()).map_err(refuse)?;
        }
        Ok(overrides)
    }

    fn set(&mut self, what: &str, value: &str) -> Result<(), String> {
        match what {
            "timeout" => {
                let timeout = units::duration(value)?;
                if timeout.is_zero() {
                    return Err("`0s` leaves no time (expected more than zero)".to_owned());
                }
                self.timeout = Some(timeout);
            }
            "idempotent" => {
                self.idempotent = Some(match value {
                    "auto" => Idempotence::Auto,
                    "always" => Idempotence::Always,
                    "never" => Idempotence::Never,
                    _ => return Err(format!("`{value}` (expected auto, always or never)")),
                });
            }
            "priority" => self.priority = Some(value.to_owned()),
            "callback" => self.callback = Some(value.to_owned()),
            _ => {
                for part in value.split(',') {
                    self.set_retry(part.trim())?;
                }
            }
        }
        Ok(())
    }

    fn set_retry(&mut self, part: &str) -> Result<(), String> {
        let expected = || {
            format!("`{part}` (expected max_attempts=N or fallback_attempts=N, N from 0 to 100)")
        };
        let (key, value) = part.split_once('=').ok_or_else(expected)?;
        let value: u32 = value.trim().parse().ok().filter(|n| *n <= 100).ok_or_else(expected)?;
        match key.trim() {
            "max_attempts" if value > 0 => self.max_attempts = Some(value),
            "fallback_attempts" => self.fallback_attempts = Some(value),
            _ => return Err(expected()),
        }
        Ok(())
    }

    /// The index of the request's class in its queue.
    ///
    /// # Errors
    /// A 400 if there is no such class.
    pub fn class(&self, headers: &HeaderMap, queue: &Queue) -> Result<usize, Problem> {
        let own = queue.class.header.as_ref().filter(|_| self.priority.is_none());
        let header = own.and_then(|name| Some((name.as_str(), headers.get(name)?)));
        let (name, text) = match (&self.priority, header) {
            (Some(text), _) => ("x-outrigger-priority", text.as_str()),
            (None, Some((name, value))) => (name, value.to_str().unwrap_or_default().trim()),
            (None, None) => return Ok(queue.default_class),
        };
        queue.class(text).ok_or_else(|| {
            let known: Vec<_> = queue.classes.iter().map(|class| class.name.as_str()).collect();
            let known = known.join(", ");
            let detail = format!(
                "{name}: `{text}` is no class of queue `{}` (expected one of {known}, or a position from 0 to {})",
                queue.name,
                queue.classes.len() - 1
            );
            Problem::new(ProblemKind::BadOverride, detail)
        })
    }

    /// Attempts on the route's providers (`fallback` false) or on each of its fallbacks.
    pub fn attempts(&self, retry: &Retry, fallback: bool) -> u32 {
        if fallback {
            self.fallback_attempts.unwrap_or(retry.fallback_attempts)
        } else {
            self.max_attempts.unwrap_or(retry.max_attempts)
        }
    }
}

fn allowed(what: &str, allow: AllowOverride) -> bool {
    match what {
        "timeout" => allow.timeout,
        "retry" => allow.retry,
        "idempotent" => allow.idempotent,
        "priority" => allow.priority,
        // What a job may do stands with its queue.
        "callback" => true,
        _ => false,
    }
}
