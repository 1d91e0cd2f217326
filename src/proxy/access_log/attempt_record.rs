//! The record of one attempt within the access record of its request.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::keys;
use super::line::LogLine;
use crate::live::quota::usage_meter::AttemptKind;
use crate::policy::sections::model::Auth;
use crate::proxy::downstream::trace_context::RequestTrace;
use crate::resilience::outcome::AttemptClass;
use crate::snapshot::Endpoint;

#[derive(Debug)]
pub struct AttemptRecord {
    pub endpoint: Arc<Endpoint>,
    /// Index of the credential.
    pub credential: Option<usize>,
    pub class: AttemptClass,
    /// 0: no response arrived.
    pub status: u16,
    pub began: Instant,
    pub took: Duration,
    pub probe: bool,
    pub kind: AttemptKind,
    pub error: Option<String>,
    pub details: AttemptDetails,
}

/// Facts about an attempt beyond its outcome, for the access log.
#[derive(Clone, Debug, Default)]
pub struct AttemptDetails {
    /// The code of the error in the provider's response.
    pub code: Option<Box<str>>,
    /// The model that was sent, if it was renamed.
    pub model: Option<Box<str>>,
    pub provider_request_id: Option<Box<str>>,
}

impl AttemptRecord {
    /// `request_began`: the start of the request, if the line says when the attempt began.
    pub(super) fn write<const JSON: bool>(
        &self,
        line: &mut LogLine<'_, JSON>,
        request_began: Option<Instant>,
        trace: Option<&RequestTrace>,
    ) {
        line.word(&keys::ENDPOINT, &self.endpoint.key);
        if let Some(index) = self.credential
            && let Auth::Credentials(all) = &self.endpoint.policy.auth
            && let Some(credential) = all.get(index)
            && all.len() > 1
        {
            line.string(&keys::CREDENTIAL, &credential.reference);
        }
        line.word(&keys::CLASS, self.class.as_str());
        if self.status > 0 {
            line.number(&keys::ATTEMPT_STATUS, u64::from(self.status));
        }
        if let Some(request_began) = request_began {
            let began = self.began.saturating_duration_since(request_began);
            line.millis(&keys::ATTEMPT_START, began);
        }
        line.millis(&keys::ATTEMPT_DURATION, self.took);
        if self.probe {
            line.flag(&keys::PROBE);
        }
        if matches!(self.kind, AttemptKind::Hedge | AttemptKind::Continuation) {
            line.word(&keys::KIND, self.kind.as_str());
        }
        if let Some(error) = &self.error {
            line.string(&keys::ERROR, error);
        }
        let AttemptDetails { code, model, provider_request_id } = &self.details;
        for (key, value) in [
            (&keys::CODE, code),
            (&keys::SENT_MODEL, model),
            (&keys::PROVIDER_REQUEST_ID, provider_request_id),
        ] {
            if let Some(value) = value {
                line.string(key, value);
            }
        }
        if let Some(trace) = trace {
            self.write_trace(line, trace);
        }
    }

    fn write_trace<const JSON: bool>(&self, line: &mut LogLine<'_, JSON>, trace: &RequestTrace) {
        let span = trace.attempt(self.endpoint.live.id, self.began);
        line.word(&keys::ATTEMPT_SPAN_ID, span.to_string());
        let Some(facts) = trace.facts(self.began) else { return };
        if let Some((input, output)) = facts.tokens {
            line.number(&keys::ATTEMPT_TOKENS_IN, input);
            line.number(&keys::ATTEMPT_TOKENS_OUT, output);
        }
        if facts.is_stream {
            line.flag(&keys::ATTEMPT_STREAM);
        }
    }
}
