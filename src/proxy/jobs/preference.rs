//! `Prefer: respond-async`: whether a request becomes a job, how long the client waits for the
//! result, and where the result is posted.

use std::time::Duration;

use http::header::{HeaderMap, HeaderName};

use crate::policy::sections::model::{Accept, PostTo};
use crate::proxy::downstream::problem::{Problem, ProblemKind};
use crate::proxy::request::overrides::Overrides;
use crate::snapshot::{Route, RouteQueue};

pub const PREFER: HeaderName = HeaderName::from_static("prefer");
/// Upper bound of `wait`.
pub const LONGEST_WAIT: Duration = Duration::from_secs(60);
const KEY_LENGTH: usize = 255;

/// The preferences of a request that becomes a job.
#[derive(Debug)]
pub struct AsyncPreference {
    /// The client preferred it; otherwise the queue requires it.
    pub preferred: bool,
    /// Respond with the result if it is available within this time.
    pub wait: Option<Duration>,
    pub callback: Option<String>,
    /// The value that identifies the flow.
    pub flow: Vec<u8>,
}

/// The supported preferences (RFC 7240).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Preferences {
    pub respond_async: bool,
    pub wait: Option<Duration>,
}

impl AsyncPreference {
    /// `None` if the request is to be served at once. `is_stated`: there is a `Prefer` header.
    ///
    /// # Errors
    /// When a preference or the callback is invalid or not allowed.
    pub fn read(
        headers: &HeaderMap,
        is_stated: bool,
        route: &Route,
        overrides: &mut Overrides,
        can_keep: bool,
    ) -> Result<Option<Box<AsyncPreference>>, Problem> {
        let callback = overrides.callback.take();
        let queue = route.queue.as_ref().filter(|_| route.policy.durable);
        let Some(queue) = queue else { return no_job(route, callback.as_deref()) };
        let always = queue.policy.durable.accept == Accept::Always;
        if !always && callback.is_none() && !is_stated {
            return Ok(None);
        }
        let preferences = Preferences::read(headers)?;
        if !always && !preferences.respond_async {
            return no_job(route, callback.as_deref());
        }
        if !can_keep && !always && callback.is_none() {
            // A preference may be ignored (RFC 7240, 2); the response then lacks Preference-Applied.
            return Ok(None);
        }
        if !can_keep {
            let detail = "this sidecar has no job store (start it with --data DIR)";
            return Err(Problem::new(ProblemKind::StoreUnavailable, detail));
        }
        if let Some(url) = &callback {
            may_be_posted(url, queue)?;
        }
        let key = headers.get(crate::proxy::request::head::IDEMPOTENCY_KEY);
        if key.is_some_and(|key| key.is_empty() || key.len() > KEY_LENGTH) {
            let detail = format!("Idempotency-Key: expected 1 to {KEY_LENGTH} characters");
            return Err(Problem::new(ProblemKind::BadRequest, detail));
        }
        let flow = queue.policy.flow.as_ref().and_then(|flow| headers.get(&flow.header));
        Ok(Some(Box::new(AsyncPreference {
            preferred: preferences.respond_async,
            wait: preferences.wait,
            callback,
            flow: flow.map_or_else(Vec::new, |value| value.as_bytes().to_vec()),
        })))
    }
}

/// A callback requires a job.
fn no_job(route: &Route, callback: Option<&str>) -> Result<Option<Box<AsyncPreference>>, Problem> {
    if callback.is_none() {
        return Ok(None);
    }
    let name = &route.policy.name;
    let detail = match route.policy.durable {
        true => {
            "x-outrigger-callback: the request does not become a job (send `Prefer: respond-async`)"
                .into()
        }
        false => format!("x-outrigger-callback: route `{name}` does not accept jobs"),
    };
    Err(Problem::new(ProblemKind::BadOverride, detail))
}

fn may_be_posted(url: &str, queue: &RouteQueue) -> Result<(), Problem> {
    let durable = &queue.policy.durable;
    let to = PostTo::read(url).map_err(|why| Problem::new(ProblemKind::CallbackNotAllowed, why))?;
    if durable.allows_callback(&to) {
        return Ok(());
    }
    let name = &queue.policy.name;
    let detail = match durable.callback.is_none() {
        true => format!(
            "queue `{name}` allows no callbacks (list their URLs in its durable.callback.allow)"
        ),
        false => format!(
            "queue `{name}` does not allow callbacks to this URL (see its durable.callback.allow)"
        ),
    };
    Err(Problem::new(ProblemKind::CallbackNotAllowed, detail))
}

impl Preferences {
    /// Ignores other preferences; the first of a repeated one counts.
    ///
    /// # Errors
    /// When `wait` is not a number of seconds.
    pub fn read(headers: &HeaderMap) -> Result<Preferences, Problem> {
        let mut found = Preferences::default();
        let lines = headers.get_all(PREFER).iter().filter_map(|line| line.to_str().ok());
        for preference in lines.flat_map(|line| line.split(',')) {
            let preference = preference.split(';').next().unwrap_or_default();
            let (name, value) = preference.split_once('=').unwrap_or((preference, ""));
            let (name, value) = (name.trim(), value.trim().trim_matches('"'));
            if name.eq_ignore_ascii_case("respond-async") {
                found.respond_async = true;
            } else if name.eq_ignore_ascii_case("wait") && found.wait.is_none() {
                let seconds = value.parse::<u32>().map_err(|_| {
                    let detail = format!(
                        "Prefer: wait=`{value}` is not a number of seconds (expected, for example, `respond-async, wait=10`)"
                    );
                    Problem::new(ProblemKind::BadPrefer, detail)
                })?;
                found.wait = Some(Duration::from_secs(u64::from(seconds)).min(LONGEST_WAIT));
            }
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    fn read(lines: &[&'static str]) -> Result<Preferences, ProblemKind> {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(PREFER, HeaderValue::from_static(line));
        }
        Preferences::read(&headers).map_err(|problem| problem.kind)
    }

    #[test]
    fn preferences_are_read_as_rfc_7240_writes_them() {
        let wait = |seconds| Some(Duration::from_secs(seconds));
        let both = Ok(Preferences { respond_async: true, wait: wait(10) });
        assert_eq!(read(&["respond-async, wait=10"]), both);
        assert_eq!(read(&["Respond-Async; foo=\"bar\"", "wait=\"10\", wait=20"]), both);
        assert_eq!(read(&["return=minimal"]), Ok(Preferences::default()));
        assert_eq!(read(&["wait=100000"]).map(|p| p.wait), Ok(Some(LONGEST_WAIT)));
    }

    #[test]
    fn a_wait_that_is_not_a_number_is_refused() {
        for line in ["wait=soon", "respond-async, wait", "wait=-1", "wait=1.5"] {
            assert_eq!(read(&[line]), Err(ProblemKind::BadPrefer), "{line}");
        }
    }
}
