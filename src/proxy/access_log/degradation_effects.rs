//! The effects of degradation modes on one request: for a response header, the access log and the
//! statistics of the episodes.

use std::sync::Arc;

use http::HeaderMap;
use http::header::{HeaderName, HeaderValue};

use super::keys;
use super::line::LogLine;
use crate::live::degradation::episode::{ActionKind, Episode};
use crate::live::degradation::mode::ModeCell;

/// Names the modes that affected a response.
pub const DEGRADED: HeaderName = HeaderName::from_static("outrigger-degraded");

#[derive(Debug, Default)]
pub struct DegradationEffects {
    applied: Vec<AppliedAction>,
    /// A mode could not change the body, because it was not kept or is not JSON.
    pub body_unchanged: bool,
    /// The actions are not counted yet: it is not known whether the job will run.
    pub count_later: bool,
    /// No provider of the route was usable: a good response is an avoided error.
    pub providers_unusable: bool,
}

/// An action that a mode applied to the request.
#[derive(Debug)]
struct AppliedAction {
    mode: Arc<ModeCell>,
    episode: Arc<Episode>,
    action: ActionKind,
}

impl DegradationEffects {
    pub fn is_empty(&self) -> bool {
        self.applied.is_empty()
    }

    /// Records and counts that a mode applies an action, once for each action.
    pub fn note(&mut self, mode: &Arc<ModeCell>, episode: &Arc<Episode>, action: ActionKind) {
        let of_mode = || self.applied.iter().filter(|known| Arc::ptr_eq(&known.mode, mode));
        if of_mode().any(|known| known.action == action) {
            return;
        }
        if !self.count_later {
            mode.record(episode, action, of_mode().next().is_none());
        }
        let (mode, episode) = (Arc::clone(mode), Arc::clone(episode));
        self.applied.push(AppliedAction { mode, episode, action });
    }

    /// Counts the actions that were to be counted later.
    pub fn count(&mut self) {
        if !std::mem::take(&mut self.count_later) {
            return;
        }
        for (index, AppliedAction { mode, episode, action }) in self.applied.iter().enumerate() {
            let earlier = &self.applied[..index];
            let first = !earlier.iter().any(|known| Arc::ptr_eq(&known.mode, mode));
            mode.record(episode, *action, first);
        }
    }

    /// Counts an avoided error if the response, which was sent completely, is good.
    pub fn response_sent(&self, status: u16) {
        let good = (200..500).contains(&status) && status != 429;
        let responds = |action| {
            matches!(action, ActionKind::Use | ActionKind::ServeStale | ActionKind::Respond)
        };
        if good && self.providers_unusable {
            let last = self.applied.iter().rfind(|known| responds(known.action));
            last.iter().for_each(|known| known.episode.avoided());
        }
    }

    /// Names the modes in the header of a response.
    pub fn add_header(&self, headers: &mut HeaderMap) {
        let mut names: Vec<&str> = Vec::new();
        for AppliedAction { mode, .. } in &self.applied {
            if !names.contains(&mode.name.as_str()) {
                names.push(&mode.name);
            }
        }
        if let Ok(value) = HeaderValue::try_from(names.join(", ")) {
            headers.insert(DEGRADED, value);
        }
    }

    pub fn write<const JSON: bool>(&self, line: &mut LogLine<'_, JSON>) {
        line.list(&keys::DEGRADED, &self.applied, |line, known| {
            line.word(&keys::MODE, &known.mode.name);
            line.word(&keys::ACTION, known.action.as_str());
        });
        if self.body_unchanged {
            line.word(&keys::NOT_REDUCED, "body");
        }
    }
}
