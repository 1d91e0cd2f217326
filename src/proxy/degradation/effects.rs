//! What modes did to a request, as it is told: in a header of the answer, in the access log, in the
//! impact of their episodes.

use std::sync::Arc;

use http::HeaderMap;
use http::header::{HeaderName, HeaderValue};

use super::apply::InForce;
use crate::live::degradation::episode::{ActionKind, Episode};
use crate::live::degradation::mode::ModeCell;
use crate::proxy::access_log::json::{key, plain, text};
use crate::proxy::access_log::record::AccessRecord;

/// Names the modes that had a part in an answer.
pub const DEGRADED: HeaderName = HeaderName::from_static("outrigger-degraded");

/// What modes did to a request.
#[derive(Debug, Default)]
pub struct DegradationEffects {
    pub by: Vec<(Arc<ModeCell>, Arc<Episode>, ActionKind)>,
    /// As the answer told it.
    pub request_id: Option<String>,
    /// The body was not kept whole, or is no JSON: it was not changed.
    pub body_left: bool,
    /// It is not counted yet: whether the job is run is not known.
    pub held_back: bool,
    /// None of the route's own providers could be asked: a good answer is an error avoided.
    pub in_need: bool,
}

impl AccessRecord {
    pub fn effects_mut(&mut self) -> &mut DegradationEffects {
        self.effects.get_or_insert_default()
    }

    pub fn touch(&mut self, mode: &InForce<'_>, what: ActionKind) {
        self.effects_mut().note(mode, what);
    }

    /// Says in an answer which modes had a part in it.
    pub fn mark(&self, headers: &mut HeaderMap) {
        let Some(effects) = &self.effects else { return };
        let mut names: Vec<&str> = Vec::new();
        for (cell, ..) in &effects.by {
            if !names.contains(&cell.name.as_str()) {
                names.push(&cell.name);
            }
        }
        if let Ok(value) = HeaderValue::try_from(names.join(", ")) {
            headers.insert(DEGRADED, value);
        }
    }
}

impl DegradationEffects {
    /// Counts what was held back.
    pub fn count(&mut self) {
        if !std::mem::take(&mut self.held_back) {
            return;
        }
        for (at, (cell, episode, what)) in self.by.iter().enumerate() {
            let first = !self.by[..at].iter().any(|(known, ..)| Arc::ptr_eq(known, cell));
            cell.record(episode, *what, first);
        }
    }

    /// It was answered, whole, with this status.
    pub fn answered(&self, status: u16) {
        let good = (200..500).contains(&status) && status != 429;
        let gave = |what: ActionKind| {
            matches!(what, ActionKind::Use | ActionKind::ServeStale | ActionKind::Respond)
        };
        if good && self.in_need {
            let last = self.by.iter().rfind(|(_, _, what)| gave(*what));
            last.iter().for_each(|(_, episode, _)| episode.avoided());
        }
    }

    pub fn write_json(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(b",\"degraded\":[");
        for (at, (cell, _, what)) in self.by.iter().enumerate() {
            out.extend_from_slice(if at == 0 { b"{\"mode\":\"" } else { b",{\"mode\":\"" });
            out.extend_from_slice(cell.name.as_bytes());
            out.push(b'"');
            plain(out, key!("action"), what.as_str());
            out.push(b'}');
        }
        out.push(b']');
        if self.body_left {
            plain(out, key!("not_reduced"), "body");
        }
        if let Some(id) = &self.request_id {
            text(out, key!("request_id"), id);
        }
    }

    pub fn write_text(&self, out: &mut Vec<u8>) {
        use std::io::Write as _;
        for (cell, _, what) in &self.by {
            let _ = write!(out, " degraded={}:{}", cell.name, what.as_str());
        }
        if self.body_left {
            out.extend_from_slice(b" not_reduced=body");
        }
        if let Some(id) = &self.request_id {
            let _ = write!(out, " request_id={}", id.replace(' ', "_"));
        }
    }
}
