//! How answers pass and what they cost: the keys `stream`, `hedge`, `affinity` of a route, `usage`,
//! `price`, `prefill` of a provider, and `budget.cost`.

use std::time::Duration;

use super::check::{Check, DAY, MS};
use super::forms::{At, Entries, OneOrMany, TextOr};
use super::model::{Affinity, Buffer, Cost, Mark, OnCut, Price, Stream, Usage};
use super::pointer::Pointer;
use super::raw_answers::{RawAffinity, RawBuffer, RawHedge, RawPrice, RawStream, RawUsage};
use super::units;
use crate::resilience::hedge::HedgePolicy;
use crate::resilience::spend::SpendPolicy;

const SECOND: Duration = Duration::from_secs(1);

impl Check<'_> {
    pub(super) fn stream(&mut self, raw: Option<&RawStream>) -> Stream {
        let Some(raw) = raw else { return Stream::default() };
        Stream {
            commit: raw.commit.map(|at| at.value.0),
            buffer: self.buffer(raw.buffer.as_ref().map(|at| &at.value)),
            on_cut: raw.on_cut.map_or(OnCut::ErrorEvent, |at| at.value.0),
            content: raw.content.as_ref().map(|at| {
                self.not_empty(at.id, at.value.is_empty(), "content");
                at.iter().filter_map(|at| self.pointer_value(at)).collect()
            }),
            terminal: raw.terminal.as_ref().map(|at| {
                self.not_empty(at.id, at.value.is_empty(), "terminal");
                at.iter().filter_map(|at| self.mark(at)).collect()
            }),
        }
    }

    fn not_empty(&mut self, id: super::tree::NodeId, empty: bool, key: &str) {
        if empty && !self.tree.damaged(id) {
            self.error(id, format!("nothing is listed: leave `{key}` out for what is built in"));
        }
    }

    fn buffer(&mut self, raw: Option<&RawBuffer>) -> Buffer {
        let default = Stream::default().buffer;
        Buffer {
            bytes: self.size(&raw.and_then(|raw| raw.bytes), default.bytes, 0..=1 << 30),
            frames: self.count(&raw.and_then(|raw| raw.frames), default.frames, 1..=1_000_000),
            time: self.length(&raw.and_then(|raw| raw.time), default.time, Duration::ZERO..=DAY),
        }
    }

    fn mark(&mut self, at: &At<TextOr<Entries<String>>>) -> Option<Mark> {
        match &at.value {
            TextOr::Text(text) if text.starts_with('/') => {
                let at = At { id: at.id, value: text.clone() };
                self.pointer_value(&at).map(Mark::Present)
            }
            TextOr::Text(text) if text.is_empty() => {
                self.error(at.id, "no text: expected an event's data, like `\"[DONE]\"`");
                None
            }
            TextOr::Text(text) => Some(Mark::Text(text.clone())),
            TextOr::Keys(entries) => match &entries.0[..] {
                [(key, value)] => {
                    Some(Mark::Value(self.pointer(value.id, key)?, value.value.clone()))
                }
                others => {
                    if !self.tree.damaged(at.id) {
                        let found = others.len();
                        self.error(at.id, format!("expected one `pointer: value`, found {found}"));
                    }
                    None
                }
            },
        }
    }

    /// A pointer that stands as a value.
    fn pointer_value(&mut self, at: &At<String>) -> Option<Pointer> {
        match Pointer::parse(at) {
            Ok(pointer) if pointer.is_root() => {
                self.error(at.id, "expected a JSON pointer like `/choices/0`, found nothing");
                None
            }
            Ok(pointer) => Some(pointer),
            Err(message) => {
                self.error(at.id, message);
                None
            }
        }
    }

    pub(super) fn hedge(&mut self, at: &At<RawHedge>) -> Option<HedgePolicy> {
        self.missing(at.id, "extra_load", "the hedging has no `extra_load`, like `2%`");
        let load = at.extra_load?;
        let extra_load = load.value.0;
        if !(extra_load > 0.0 && extra_load <= 0.5) {
            self.error(load.id, "expected more than 0 and at most 50%");
            return None;
        }
        let after = at.after.map(|after| self.length(&Some(after), SECOND, MS..=DAY));
        Some(HedgePolicy { extra_load, after })
    }

    pub(super) fn affinity(&mut self, at: &At<RawAffinity>) -> Option<Affinity> {
        self.missing(at.id, "header", "the affinity has no `header`");
        let ttl = self.length(&at.ttl, 600 * SECOND, MS..=DAY);
        let header = at.header.as_ref().and_then(|at| self.header_name(at))?;
        Some(Affinity { header, ttl })
    }

    pub(super) fn usage(&mut self, raw: Option<&RawUsage>) -> Usage {
        let default = Usage::default();
        let Some(raw) = raw else { return default };
        Usage {
            input: self.pointers(raw.input.as_ref(), default.input),
            output: self.pointers(raw.output.as_ref(), default.output),
        }
    }

    fn pointers(
        &mut self,
        at: Option<&At<OneOrMany<String>>>,
        default: Vec<Pointer>,
    ) -> Vec<Pointer> {
        let Some(at) = at else { return default };
        at.0.iter().filter_map(|at| self.pointer_value(at)).collect()
    }

    pub(super) fn price(&mut self, raw: &RawPrice) -> Price {
        let per: u64 = self.count(&raw.per, 1_000_000, 1..=1_000_000_000);
        let one = |total: f64| total / per as f64;
        Price {
            input: one(self.number(&raw.input, 0.0, 0.0..=1e9)),
            output: one(self.number(&raw.output, 0.0, 0.0..=1e9)),
            currency: match &raw.currency {
                None => "USD".to_owned(),
                Some(at) if units::is_currency(at) => at.value.clone(),
                Some(at) => {
                    let message = format!(
                        "`{}` is no currency: expected three capital letters, like `USD`",
                        at.value
                    );
                    self.error(at.id, message);
                    "USD".to_owned()
                }
            },
        }
    }

    pub(super) fn cost(&mut self, at: &At<String>) -> Option<Cost> {
        match units::cost(at) {
            Ok((limit, currency, window)) => {
                Some(Cost { policy: SpendPolicy { limit, window }, currency })
            }
            Err(message) => {
                self.error(at.id, message);
                None
            }
        }
    }
}
