//! The built-in stream formats, recognized by fields that are specific to each, so that another
//! vendor's stream is never mistaken for one of them.

use super::api::Api;
use super::continuation::Dialect;
use super::interpret::{DeltaSpan, EventOrigin};
use crate::json::pointer::Pointer;
use crate::json::pointer_set::PointerSet;
use crate::json::scan::PointerMatches;
use crate::json::value;

/// Content that is not plain text and cannot be continued.
pub const NON_TEXT_CONTENT: [&str; 12] = [
    "/choices/0/delta/tool_calls",
    "/choices/0/delta/function_call",
    "/choices/0/delta/refusal",
    "/choices/0/delta/reasoning_content",
    "/choices/0/delta/reasoning",
    "/choices/0/delta/audio",
    "/choices/0/text",
    "/delta/partial_json",
    "/delta/thinking",
    "/delta/message/content/text",
    "/delta/message/tool_plan",
    "/delta/message/tool_calls",
];
/// Google's name of a reason that is not set.
const UNSPECIFIED: &[u8] = b"\"FINISH_REASON_UNSPECIFIED\"";
/// Longest `id` or `model` that is kept.
const MAX_IDENTITY: usize = 256;
/// How the types of Cohere's events begin.
const COHERE_TYPES: [&str; 4] = ["message-", "content-", "tool-", "citation-"];
/// Further fields that prevent a continuation.
const NON_TEXT_FIELDS: [&str; 3] = ["/choices/1", "/content_block/text", "/delta/citation"];

/// Whether a field that ends a stream is set. Some APIs send it in every event.
pub fn is_end_value(value: &[u8]) -> bool {
    value::is_set(value) && value != UNSPECIFIED
}

/// The slots of the fields by which a format is recognized and its text is found.
#[derive(Debug)]
pub struct KnownFormats {
    pub event_type: usize,
    object: usize,
    choices: usize,
    /// Each choice of OpenAI's chat completions has one of these.
    choice_fields: [usize; 3],
    /// Each candidate of Google's has one of these.
    candidate_fields: [usize; 2],
    done: usize,
    model: usize,
    message: usize,
    delta: usize,
    /// Each event of OpenAI's responses has one of these.
    response_fields: [usize; 2],
    error: usize,
    error_fields: [usize; 3],
    json_rpc: usize,
    id: usize,
    /// Of the choice or the content block, by dialect. Only the first one is continued.
    index: [usize; 2],
    /// By dialect.
    text: [usize; 2],
    block_type: usize,
    delta_finish: usize,
    non_text: Vec<usize>,
}

impl KnownFormats {
    pub fn new(pointers: &mut PointerSet) -> KnownFormats {
        let mut slot = |text: &str| match Pointer::parse(text) {
            Ok(pointer) => pointers.slot(&pointer),
            Err(_) => 0,
        };
        KnownFormats {
            event_type: slot("/type"),
            object: slot("/object"),
            choices: slot("/choices"),
            choice_fields: ["/choices/0/finish_reason", "/choices/0/delta", "/choices/0/text"]
                .map(&mut slot),
            candidate_fields: ["/candidates/0/content", "/candidates/0/finishReason"]
                .map(&mut slot),
            done: slot("/done"),
            model: slot("/model"),
            message: slot("/message"),
            delta: slot("/delta"),
            response_fields: ["/response", "/sequence_number"].map(&mut slot),
            error: slot("/error"),
            error_fields: ["/error/message", "/error/type", "/error/code"].map(&mut slot),
            json_rpc: slot("/jsonrpc"),
            id: slot("/id"),
            index: ["/choices/0/index", "/index"].map(&mut slot),
            text: ["/choices/0/delta/content", "/delta/text"].map(&mut slot),
            block_type: slot("/content_block/type"),
            delta_finish: slot("/delta/finish_reason"),
            non_text: NON_TEXT_CONTENT.iter().chain(&NON_TEXT_FIELDS).map(|p| slot(p)).collect(),
        }
    }

    /// Which kind of stream the event belongs to, and its text if that can be continued.
    pub fn classify(
        &self,
        event_type: &str,
        data: &[u8],
        found: &PointerMatches,
    ) -> (EventOrigin, Option<DeltaSpan>) {
        let has = |slot: usize| found.at(slot).is_some();
        if let Some(choices) = found.value(self.choices, data) {
            let origin = self.chat_origin(choices, data, found);
            let finish = found.value(self.choice_fields[0], data);
            let is_last = finish.is_some_and(is_end_value);
            let delta = self.delta(Dialect::Chat, is_last, false, data, found);
            return (origin, Some(delta));
        }
        let is_message = match event_type {
            "ping" => return (EventOrigin::Neutral, None),
            "message_start" => has(self.message),
            "content_block_start" | "content_block_delta" | "content_block_stop" => {
                has(self.index[1])
            }
            "message_delta" => has(self.delta),
            "message_stop" => true,
            _ => false,
        };
        if is_message {
            let is_last =
                matches!(event_type, "content_block_stop" | "message_delta" | "message_stop");
            let block = found.value(self.block_type, data);
            let is_other = block.is_some_and(|block| block != b"\"text\"");
            let delta = self.delta(Dialect::Messages, is_last, is_other, data, found);
            return (EventOrigin::Known(Api::Messages), Some(delta));
        }
        let api = self.other_api(event_type, data, found);
        (api.map_or(EventOrigin::Other, EventOrigin::Known), None)
    }

    /// The API of an event that cannot be continued.
    fn other_api(&self, event_type: &str, data: &[u8], found: &PointerMatches) -> Option<Api> {
        let has = |slot: usize| found.at(slot).is_some();
        let has_done =
            || found.value(self.done, data).is_some_and(|v| v == b"true" || v == b"false");
        if event_type.starts_with("response.") {
            self.response_fields.iter().any(|slot| has(*slot)).then_some(Api::Responses)
        } else if self.candidate_fields.iter().any(|slot| has(*slot)) {
            Some(Api::Google)
        } else if has(self.model) && has_done() {
            Some(Api::Ollama)
        } else {
            let is_cohere = COHERE_TYPES.iter().any(|start| event_type.starts_with(start));
            (is_cohere && (has(self.delta) || has(self.index[1]))).then_some(Api::Cohere)
        }
    }

    /// The `id` and `model` of a chunk.
    pub fn identity(&self, data: &[u8], found: &PointerMatches) -> [Option<String>; 2] {
        let text = |slot: usize| {
            let value = found.value(slot, data).filter(|v| v.len() <= MAX_IDENTITY)?;
            value::is_string(value).then(|| value::text(value)).flatten()
        };
        [self.id, self.model].map(|slot| text(slot).map(|text| text.into_owned()))
    }

    /// The number of an event of OpenAI's responses.
    pub fn sequence(&self, data: &[u8], found: &PointerMatches) -> Option<u64> {
        found.value(self.response_fields[1], data).and_then(value::count)
    }

    fn chat_origin(&self, choices: &[u8], data: &[u8], found: &PointerMatches) -> EventOrigin {
        let object = found.value(self.object, data);
        let is_named =
            matches!(object, Some(b"\"chat.completion.chunk\"" | b"\"text_completion\""));
        if is_named || self.choice_fields.iter().any(|slot| found.at(*slot).is_some()) {
            EventOrigin::Known(Api::Chat)
        } else if value::is_present(choices) {
            EventOrigin::Other
        } else {
            EventOrigin::Neutral
        }
    }

    /// Whether the event is an error in the form of these APIs. The error of a JSON-RPC call, or
    /// of one record among others, is a normal response.
    pub fn is_error(
        &self,
        name: &[u8],
        event_type: &str,
        is_known: bool,
        data: &[u8],
        found: &PointerMatches,
    ) -> bool {
        let has = |slot: usize| found.at(slot).is_some();
        let is_record = has(self.json_rpc) || has(self.id) && !is_known;
        let has_error = found.value(self.error, data).is_some_and(|error| {
            let mut details = self.error_fields.iter().filter_map(|slot| found.value(*slot, data));
            details.any(value::is_set) || value::is_string(error) && value::is_set(error)
        });
        let is_named = name == b"error" || event_type == "error";
        let ended_by_error = is_known
            && (found.value(self.choice_fields[0], data) == Some(b"\"error\"")
                || found.value(self.delta_finish, data) == Some(b"\"ERROR\""));
        event_type == "response.failed" || ended_by_error || !is_record && (has_error || is_named)
    }

    /// Whether the event belongs to a choice other than the first.
    pub fn is_other_choice(&self, data: &[u8], found: &PointerMatches) -> bool {
        let index = found.value(self.index[0], data);
        index.is_some_and(|index| index != b"0")
    }

    fn delta(
        &self,
        dialect: Dialect,
        is_last: bool,
        is_other: bool,
        data: &[u8],
        found: &PointerMatches,
    ) -> DeltaSpan {
        let value_of = |slot: &usize| found.value(*slot, data);
        let text = found.at(self.text[dialect as usize]);
        let text = text.filter(|range| value::is_present(&data[range.clone()]));
        // Content may be a list of parts instead of a string.
        let is_list = text.as_ref().is_some_and(|range| !value::is_string(&data[range.clone()]));
        let index = value_of(&self.index[dialect as usize]);
        let is_other_index = index.is_some_and(|index| index != b"0");
        let has_non_text = self.non_text.iter().filter_map(value_of).any(value::is_present);
        let is_other = is_other || is_list || is_other_index || has_non_text;
        DeltaSpan { dialect, text, is_other, is_last }
    }
}
