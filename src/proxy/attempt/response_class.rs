//! The class of a response: by the policy's rules, by its status, and by an error in disguise.

use http::response::Parts;
use http_body::Body;

use super::context::ProxyRequest;
use super::inspect::ReceivedResponse;
use super::prebuffer::Prebuffered;
use crate::policy::sections::model::ClassifyRule;
use crate::proxy::access_log::attempt_record::AttemptDetails;
use crate::proxy::downstream::header_marks::HeaderMarks;
use crate::proxy::downstream::request_id::provider_request_id;
use crate::proxy::signals::classify::ResponseSignals;
use crate::proxy::signals::disguised_errors::{is_disguised_error, is_unwanted_page};
use crate::resilience::outcome::AttemptClass;
use crate::stream::known_errors::{class_of_failure, code_of_error};

/// The class, unless it depends on the body.
pub fn class_by_head(
    request: &ProxyRequest,
    received: &ReceivedResponse,
    signals: ResponseSignals,
) -> Option<AttemptClass> {
    let rules = rules(request, received);
    let is_page = is_unwanted_page(&request.head, received.head.status, received.content_type);
    match is_page && signals.rule_for(rules, b"").is_none() {
        true => Some(AttemptClass::Failure),
        false => signals.class(rules),
    }
}

/// The class by the head and the body as far as it was read.
pub fn class_of(
    request: &ProxyRequest,
    received: &ReceivedResponse,
    signals: ResponseSignals,
    by_head: Option<AttemptClass>,
    body: &Prebuffered,
) -> AttemptClass {
    let rules = rules(request, received);
    let whole = match body {
        Prebuffered::Error(class, _) => return *class,
        Prebuffered::Complete(bytes, _) => Some(&bytes[..]),
        Prebuffered::Part(first, _) if first.is_empty() && received.body.is_end_stream() => {
            Some(&[][..])
        }
        Prebuffered::Part(..) | Prebuffered::Failed(_) => None,
    };
    let is_document = received.reader.as_ref().is_none_or(|reader| reader.is_document());
    let is_error = |body: &&[u8]| {
        let (status, content_type) = (received.head.status, received.content_type);
        is_disguised_error(&request.head, status, content_type, body)
            && signals.rule_for(rules, body).is_none()
    };
    match (by_head, whole) {
        (Some(AttemptClass::Success) | None, Some(body)) if is_document && is_error(&body) => {
            class_of_failure(body)
        }
        (Some(class), _) => class,
        (None, Some(body)) => signals.class_of(rules, body),
        (None, None) => signals.built_in(),
    }
}

/// The code of an error, and the provider's own id of the response if the log is to name it.
pub fn details_of(
    request: &ProxyRequest,
    received: &ReceivedResponse,
    body: &Prebuffered,
) -> AttemptDetails {
    let Parts { status, headers, .. } = &received.head;
    let code = match body {
        Prebuffered::Complete(bytes, _) if status.as_u16() >= 400 => code_of_error(bytes),
        _ => None,
    };
    let may_have_id = received.marks.has(HeaderMarks::REQUEST_ID | HeaderMarks::PROVIDER_ID);
    let provider_request_id = match may_have_id && request.record.is_logged() {
        true => provider_request_id(headers),
        false => None,
    };
    AttemptDetails { code, model: None, provider_request_id }
}

/// The rules of the provider that responded.
fn rules<'r>(request: &'r ProxyRequest, received: &ReceivedResponse) -> &'r [ClassifyRule] {
    &received.selection.endpoint.candidate(&request.route).provider.policy.classify
}
