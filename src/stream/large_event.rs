//! An event that is too long to be kept, reduced to what it means while it passes.
//!
//! Its fields are split as in `framing`, but without its lines: a `data` field goes into the skeleton
//! of its JSON in pieces, and any other field but the name is skipped.

use memchr::memchr2;

use super::framing::StreamFormat;
use crate::json::pointer_set::PointerSet;
use crate::json::skeleton::Skeleton;

/// Longest field name or event name that is kept.
const MAX_NAME: usize = 64;

#[derive(Debug)]
pub struct LargeEvent {
    format: StreamFormat,
    skeleton: Skeleton,
    name: Vec<u8>,
    /// The name of the field, up to its colon.
    field: Vec<u8>,
    part: LinePart,
    /// The beginning of the element was found (arrays only).
    has_begun: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum LinePart {
    Field,
    /// After the colon: one blank belongs to neither part.
    Blank,
    Value,
}

impl LargeEvent {
    pub fn new(format: StreamFormat) -> LargeEvent {
        LargeEvent {
            format,
            skeleton: Skeleton::default(),
            name: Vec::new(),
            field: Vec::new(),
            part: LinePart::Field,
            has_begun: false,
        }
    }

    /// Takes the next part of the event's raw bytes.
    pub fn push(&mut self, raw: &[u8], pointers: &PointerSet) {
        match self.format {
            StreamFormat::Sse => self.lines(raw, pointers),
            StreamFormat::Array if !self.has_begun => {
                if let Some(at) = raw.iter().position(|byte| *byte == b'{') {
                    self.has_begun = true;
                    self.skeleton.push(&raw[at..], pointers);
                }
            }
            _ => self.skeleton.push(raw, pointers),
        }
    }

    /// The event's name and the skeleton of its data; `None` if that is not JSON.
    pub fn finish(self) -> Option<(Vec<u8>, Vec<u8>)> {
        let data = self.skeleton.finish()?;
        Some((self.name.trim_ascii_end().to_vec(), data))
    }

    fn lines(&mut self, mut raw: &[u8], pointers: &PointerSet) {
        while !raw.is_empty() {
            let end = memchr2(b'\n', b'\r', raw).unwrap_or(raw.len());
            self.line(&raw[..end], pointers);
            if end < raw.len() {
                if self.field == b"data" {
                    self.skeleton.push(b"\n", pointers);
                }
                self.field.clear();
                self.part = LinePart::Field;
            }
            raw = raw.get(end + 1..).unwrap_or_default();
        }
    }

    /// A part of a line.
    fn line(&mut self, mut text: &[u8], pointers: &PointerSet) {
        if self.part == LinePart::Field {
            let colon = text.iter().position(|byte| *byte == b':');
            keep(&mut self.field, &text[..colon.unwrap_or(text.len())]);
            let Some(colon) = colon else { return };
            self.part = LinePart::Blank;
            text = &text[colon + 1..];
            if self.field == b"event" {
                self.name.clear();
            }
        }
        if self.part == LinePart::Blank && !text.is_empty() {
            text = text.strip_prefix(b" ").unwrap_or(text);
            self.part = LinePart::Value;
        }
        match &self.field[..] {
            b"data" => self.skeleton.push(text, pointers),
            b"event" => keep(&mut self.name, text),
            _ => {}
        }
    }
}

fn keep(name: &mut Vec<u8>, more: &[u8]) {
    let fits = more.len().min(MAX_NAME - name.len());
    name.extend_from_slice(&more[..fits]);
}
