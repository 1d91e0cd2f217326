//! The plain text of a response so far, from which another model can continue.

use std::borrow::Cow;
use std::ops::Range;

use super::continuation::{Dialect, PartialResponse};
use super::interpret::DeltaSpan;
use crate::json::value;

/// The contribution of one event.
#[derive(Clone, Debug)]
pub struct Delta<'d> {
    /// `None` for an event of no known dialect, such as `[DONE]`.
    pub dialect: Option<Dialect>,
    pub text: Option<DeltaText<'d>>,
    /// It contains something other than plain text, which cannot be continued.
    pub is_other: bool,
    /// No text follows.
    pub is_end: bool,
}

/// The text of an event.
#[derive(Clone, Debug)]
pub struct DeltaText<'d> {
    /// Its position in the event's data, quotes included.
    pub range: Range<usize>,
    pub value: Cow<'d, str>,
}

/// The text so far, up to a limit.
#[derive(Debug)]
pub struct Transcript {
    text: String,
    dialect: Option<Dialect>,
    limit: usize,
}

impl Delta<'_> {
    /// `is_end`: the event ends the stream, whatever it contains.
    pub fn of(span: Option<DeltaSpan>, data: &[u8], is_end: bool) -> Delta<'_> {
        let Some(DeltaSpan { dialect, text: range, is_other, is_last }) = span else {
            return Delta { dialect: None, text: None, is_other: false, is_end };
        };
        let value = range.as_ref().and_then(|range| value::text(&data[range.clone()]));
        // Half of a surrogate pair, for example, is not text.
        let is_invalid = range.is_some() && value.is_none();
        let text = range.zip(value).map(|(range, value)| DeltaText { range, value });
        Delta {
            dialect: Some(dialect),
            text,
            is_other: is_other || is_invalid,
            is_end: is_end || is_last,
        }
    }

    pub fn text(&self) -> &str {
        self.text.as_ref().map_or("", |text| &text.value)
    }
}

impl Transcript {
    /// Keeps at most `limit` bytes of text.
    pub fn new(limit: usize) -> Transcript {
        Transcript { text: String::new(), dialect: None, limit }
    }

    pub fn from(partial: PartialResponse, limit: usize) -> Transcript {
        Transcript { text: partial.text, dialect: Some(partial.dialect), limit }
    }

    /// Adds an event. Returns whether the response can still be continued.
    pub fn push(&mut self, delta: &Delta<'_>) -> bool {
        let known = delta.dialect.filter(|dialect| self.dialect.is_none_or(|own| own == *dialect));
        self.dialect = known.or(self.dialect);
        known.is_some() && !delta.is_other && !delta.is_end && self.push_text(delta.text())
    }

    /// Adds text. Returns whether it fits.
    pub fn push_text(&mut self, text: &str) -> bool {
        let fits = self.text.len() + text.len() <= self.limit;
        if fits {
            self.text.push_str(text);
        }
        fits
    }

    pub fn len(&self) -> usize {
        self.text.len()
    }

    pub fn partial(&self) -> Option<PartialResponse> {
        Some(PartialResponse { dialect: self.dialect?, text: self.text.clone() })
    }
}
