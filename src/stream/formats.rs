//! The shapes of streams that are known here, told apart by what is specific to each, so that a
//! stream of somebody else's is never taken for one of them.

use super::continuation::Dialect;
use super::interpret::{DeltaSpan, EventOrigin};
use crate::json::pointer::Pointer;
use crate::json::pointer_set::PointerSet;
use crate::json::scan::{self, PointerMatches};

/// Content that is no plain text, and cannot be gone on from.
pub const NOT_TEXT: [&str; 9] = [
    "/choices/0/delta/tool_calls",
    "/choices/0/delta/function_call",
    "/choices/0/delta/refusal",
    "/choices/0/delta/reasoning_content",
    "/choices/0/delta/reasoning",
    "/choices/0/delta/audio",
    "/choices/0/text",
    "/delta/partial_json",
    "/delta/thinking",
];
/// Neither can what stands beside content here.
const NEITHER: [&str; 3] = ["/choices/1", "/content_block/text", "/delta/citation"];

/// Where the known shapes show, and what of them can be gone on from.
#[derive(Debug)]
pub struct KnownFormats {
    pub kind: usize,
    object: usize,
    choices: usize,
    /// One of them is in each choice of OpenAI's.
    choice: [usize; 3],
    /// One of them is in each candidate of Google's.
    candidate: [usize; 2],
    done: usize,
    model: usize,
    /// What events of Anthropic's and of OpenAI's responses have beside their type.
    message: usize,
    delta: usize,
    response: [usize; 2],
    error: [usize; 4],
    rpc: [usize; 2],
    /// Of the choice or the block; only the first is gone on from.
    index: [usize; 2],
    text: [usize; 2],
    block: usize,
    /// Something that is no plain text.
    other: Vec<usize>,
}

impl KnownFormats {
    pub fn new(pointers: &mut PointerSet) -> KnownFormats {
        let mut slot = |text: &str| match Pointer::parse(text) {
            Ok(pointer) => pointers.slot(&pointer),
            Err(_) => 0,
        };
        KnownFormats {
            kind: slot("/type"),
            object: slot("/object"),
            choices: slot("/choices"),
            choice: ["/choices/0/finish_reason", "/choices/0/delta", "/choices/0/text"]
                .map(&mut slot),
            candidate: ["/candidates/0/content", "/candidates/0/finishReason"].map(&mut slot),
            done: slot("/done"),
            model: slot("/model"),
            message: slot("/message"),
            delta: slot("/delta"),
            response: ["/response", "/sequence_number"].map(&mut slot),
            error: ["/error", "/error/message", "/error/type", "/error/code"].map(&mut slot),
            rpc: ["/jsonrpc", "/id"].map(&mut slot),
            index: ["/choices/0/index", "/index"].map(&mut slot),
            text: ["/choices/0/delta/content", "/delta/text"].map(&mut slot),
            block: slot("/content_block/type"),
            other: NOT_TEXT.iter().chain(&NEITHER).map(|text| slot(text)).collect(),
        }
    }

    /// What kind of stream it shows, and what it adds where it could be gone on from.
    pub fn of(
        &self,
        kind: &str,
        data: &[u8],
        found: &PointerMatches,
    ) -> (EventOrigin, Option<DeltaSpan>) {
        let is = |slot: usize| found.at(slot).is_some();
        if let Some(choices) = found.value(self.choices, data) {
            let object = found.value(self.object, data);
            let named =
                matches!(object, Some(b"\"chat.completion.chunk\"" | b"\"text_completion\""));
            let sort = if named || self.choice.iter().any(|slot| is(*slot)) {
                EventOrigin::Known
            } else if scan::is_something(choices) {
                EventOrigin::Other
            } else {
                EventOrigin::Neutral
            };
            let finish = found.value(self.choice[0], data).is_some_and(|v| !scan::is_null(v));
            return (sort, Some(self.said(Dialect::Chat, finish, false, data, found)));
        }
        let messages = match kind {
            "ping" => return (EventOrigin::Neutral, None),
            "message_start" => is(self.message),
            "content_block_start" | "content_block_delta" | "content_block_stop" => {
                is(self.index[1])
            }
            "message_delta" => is(self.delta),
            "message_stop" => true,
            _ => false,
        };
        if messages {
            let over = matches!(kind, "content_block_stop" | "message_delta" | "message_stop");
            let block = found.value(self.block, data);
            let other = block.is_some_and(|block| block != b"\"text\"");
            return (
                EventOrigin::Known,
                Some(self.said(Dialect::Messages, over, other, data, found)),
            );
        }
        let done = found.value(self.done, data).is_some_and(|v| v == b"true" || v == b"false");
        let known = kind.starts_with("response.") && self.response.iter().any(|slot| is(*slot))
            || self.candidate.iter().any(|slot| is(*slot))
            || done && is(self.model);
        (if known { EventOrigin::Known } else { EventOrigin::Other }, None)
    }

    /// It is an error as these APIs tell one; that of a call in JSON-RPC, or of one record among
    /// others, is an answer.
    pub fn failed(
        &self,
        name: &[u8],
        kind: &str,
        known: bool,
        data: &[u8],
        found: &PointerMatches,
    ) -> bool {
        let is = |slot: usize| found.at(slot).is_some();
        let of_a_call = is(self.rpc[0]) || is(self.rpc[1]) && !known;
        let told = found.value(self.error[0], data).is_some_and(|error| {
            let detailed = self.error[1..].iter().any(|slot| is(*slot));
            detailed || scan::is_string(error) && scan::is_something(error)
        });
        let named = name == b"error" || kind == "error";
        kind == "response.failed" || !of_a_call && (told || named)
    }

    /// It is of another choice than the first.
    pub fn is_another(&self, data: &[u8], found: &PointerMatches) -> bool {
        let index = found.value(self.index[0], data);
        index.is_some_and(|index| index != b"0")
    }

    fn said(
        &self,
        dialect: Dialect,
        over: bool,
        other: bool,
        data: &[u8],
        found: &PointerMatches,
    ) -> DeltaSpan {
        let value = |slot: &usize| found.value(*slot, data);
        let text = found.at(self.text[dialect as usize]);
        let text = text.filter(|at| scan::is_something(&data[at.clone()]));
        // Parts of different kinds, for example.
        let parts = text.as_ref().is_some_and(|at| !scan::is_string(&data[at.clone()]));
        let another = value(&self.index[dialect as usize]).is_some_and(|index| index != b"0");
        let others = self.other.iter().filter_map(value).any(scan::is_something);
        DeltaSpan { dialect, text, other: other || parts || another || others, over }
    }
}
