//! The response of the action `respond`: a template of the policy with its placeholders filled in.

use std::borrow::Cow;
use std::time::Duration;

use bytes::Bytes;
use http::Response;
use http::header::HeaderValue;

use crate::policy::sections::model::{Respond, RespondKind};
use crate::proxy::attempt::pending_response::{PendingBody, PendingResponse};
use crate::proxy::downstream::problem::PROXY_STATUS;

/// The response of a mode that stays active for at least `rest`.
pub fn ready(respond: &Respond, mode: &str, id: &str, rest: Duration) -> Box<PendingResponse> {
    let rest = rest.as_secs_f64().ceil().to_string();
    let blanks = [("request_id", id), ("retry_after", &rest), ("mode", mode)];
    let body = filled(&respond.body, &blanks, respond.kind == RespondKind::Json);
    let (mut head, ()) = Response::new(()).into_parts();
    head.status = respond.status;
    for (name, value) in &respond.headers {
        if let Ok(value) = HeaderValue::try_from(filled(value, &blanks, false)) {
            head.headers.append(name, value);
        }
    }
    let status = format!("outrigger; details=\"the mode {mode} is in force\"");
    if let Ok(status) = HeaderValue::try_from(status) {
        head.headers.insert(PROXY_STATUS, status);
    }
    PendingResponse::local(head, PendingBody::Whole(Bytes::from(body), None))
}

/// Fills in the placeholders of a template; values are not searched for placeholders.
fn filled(template: &str, blanks: &[(&str, &str)], escape: bool) -> String {
    let mut text = String::with_capacity(template.len() + 64);
    let mut rest = template;
    while let Some((before, after)) = rest.split_once("{{") {
        text.push_str(before);
        let named = |(name, _): &&(&str, &str)| {
            after.strip_prefix(*name).is_some_and(|after| after.starts_with("}}"))
        };
        match blanks.iter().find(named) {
            Some((name, value)) => {
                text.push_str(&if escape { escaped(value) } else { Cow::Borrowed(*value) });
                rest = &after[name.len() + 2..];
            }
            None => {
                text.push_str("{{");
                rest = after;
            }
        }
    }
    text.push_str(rest);
    text
}

/// Escapes a value for a JSON string.
fn escaped(value: &str) -> Cow<'_, str> {
    let text = serde_json::Value::from(value).to_string();
    match text.len() == value.len() + 2 {
        true => Cow::Borrowed(value),
        false => Cow::Owned(text[1..text.len() - 1].to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn blanks_are_filled_in_once() {
        let blanks = [("request_id", "{{mode}}"), ("mode", "brownout")];
        let text = "{{mode}}: {{request_id}} {{other}} {{mode}";
        assert_eq!(filled(text, &blanks, false), "brownout: {{mode}} {{other}} {{mode}");
    }

    proptest! {
        #[test]
        fn a_value_filled_into_json_cannot_break_out_of_it(id in ".{0,40}") {
            let blanks = [("request_id", id.as_str()), ("mode", "brownout")];
            let text = filled(r#"{"id":"{{request_id}}","mode":"{{mode}}"}"#, &blanks, true);
            let json: serde_json::Value = serde_json::from_str(&text).expect("JSON");
            prop_assert_eq!(json["id"].as_str(), Some(id.as_str()));
            prop_assert_eq!(json["mode"].as_str(), Some("brownout"));
        }
    }
}
