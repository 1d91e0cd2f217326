//! What an answer says in plain text, event by event, and all that it said so far: that much, and
//! no more than that, another model can go on from.

use std::borrow::Cow;
use std::ops::Range;

use super::continuation::{Dialect, PartialResponse};
use super::interpret::DeltaSpan;
use crate::json::scan;

/// What one event adds.
#[derive(Clone, Debug)]
pub struct Delta<'d> {
    /// `None` where it is of no dialect that is known here, as the `[DONE]` of all of them.
    pub dialect: Option<Dialect>,
    /// The text, and where in the event's data it stands, quotes and all.
    pub text: Option<(Range<usize>, Cow<'d, str>)>,
    /// It is something that cannot be gone on from.
    pub other: bool,
    /// Nothing more is said behind it.
    pub end: bool,
}

/// What was said so far, within a bound.
#[derive(Debug)]
pub struct Transcript {
    text: String,
    dialect: Option<Dialect>,
    most: usize,
}

impl Delta<'_> {
    /// `end`: it is an end whatever it says.
    pub fn of(said: Option<DeltaSpan>, data: &[u8], end: bool) -> Delta<'_> {
        let Some(DeltaSpan { dialect, text: place, other, over }) = said else {
            return Delta { dialect: None, text: None, other: false, end };
        };
        let text = place.as_ref().and_then(|at| scan::text(&data[at.clone()]));
        // Half of a surrogate pair, for example, is no text.
        let odd = place.is_some() && text.is_none();
        let text = place.zip(text);
        Delta { dialect: Some(dialect), text, other: other || odd, end: end || over }
    }

    pub fn text(&self) -> &str {
        self.text.as_ref().map_or("", |(_, text)| text)
    }
}

impl Transcript {
    /// Bytes of text that are kept at most.
    pub fn new(most: usize) -> Transcript {
        Transcript { text: String::new(), dialect: None, most }
    }

    pub fn from(partial: PartialResponse, most: usize) -> Transcript {
        Transcript { text: partial.text, dialect: Some(partial.dialect), most }
    }

    /// Adds an event; whether the answer can be gone on from still.
    pub fn hear(&mut self, heard: &Delta<'_>) -> bool {
        let known = heard.dialect.filter(|dialect| self.dialect.is_none_or(|own| own == *dialect));
        self.dialect = known.or(self.dialect);
        known.is_some() && !heard.other && !heard.end && self.say(heard.text())
    }

    /// Adds text; whether it fits.
    pub fn say(&mut self, text: &str) -> bool {
        let fits = self.text.len() + text.len() <= self.most;
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
