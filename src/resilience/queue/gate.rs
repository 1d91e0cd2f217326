//! The gate before one provider: whose turn it is to see whether the provider has room.
//!
//! It knows lines by number, and how many of each class stand in those that are open; who stands
//! in a line is the lane's to know. One has the turn at a time.

use std::collections::BTreeMap;
use std::time::Instant;

use super::drain_rate::DrainRate;
use super::stride::Stride;
use super::wait_queue::Ticket;

/// A class of a queue.
pub(crate) type ClassKey = (u32, usize);

#[derive(Clone, Debug, Default)]
pub(crate) struct Gate {
    pub(crate) shares: Stride<ClassKey>,
    lines: BTreeMap<u32, GateGroup>,
    /// The line that was served last, of each class.
    last: BTreeMap<ClassKey, u32>,
    turn: Option<Dispatch>,
    pub(crate) drain: DrainRate,
}

#[derive(Clone, Copy, Debug)]
struct GateGroup {
    queue: u32,
    open: bool,
}

#[derive(Clone, Copy, Debug)]
struct Dispatch {
    whose: Ticket,
    rests: bool,
    /// There was room again while it looked.
    again: bool,
    /// What stands before the provider changed while it looked.
    reopened: bool,
}

impl Gate {
    /// A line stands here from now on, open unless it was closed.
    pub(crate) fn stands(&mut self, line: u32, queue: u32) {
        self.lines.entry(line).or_insert(GateGroup { queue, open: true });
    }

    /// The last one left the line.
    pub(crate) fn vanishes(&mut self, line: u32) {
        self.lines.remove(&line);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    pub(crate) fn is_open(&self, line: u32) -> bool {
        self.lines.get(&line).is_some_and(|standing| standing.open)
    }

    /// Whether that changed anything.
    pub(crate) fn set_open(&mut self, line: u32, open: bool) -> bool {
        let standing = self.lines.get_mut(&line);
        standing.is_some_and(|standing| std::mem::replace(&mut standing.open, open) != open)
    }

    pub(crate) fn closed(&self) -> Vec<u32> {
        self.lines.iter().filter(|(_, standing)| !standing.open).map(|(line, _)| *line).collect()
    }

    pub(crate) fn join(&mut self, share: ClassKey, weight: u32, count: usize, now: Instant) {
        if count > 0 && self.shares.total() == 0 {
            self.drain.begin(now);
        }
        self.shares.join(share, weight, count);
    }

    /// Open lines in the order in which they are to be served, with the class to serve.
    pub(crate) fn order(&self) -> impl Iterator<Item = (ClassKey, u32)> {
        self.shares.order().flat_map(move |share| {
            let last = self.last.get(&share).copied();
            let after = last.map_or(0, |last| last.saturating_add(1));
            let lines = self.lines.range(after..).chain(self.lines.range(..after));
            let open = lines.filter(move |(_, s)| s.open && s.queue == share.0);
            open.map(move |(line, _)| (share, *line))
        })
    }

    pub(crate) fn served(&mut self, share: ClassKey, line: u32) {
        self.shares.served(share);
        self.last.insert(share, line);
    }

    // === the turn ===

    pub(crate) fn give(&mut self, whose: Ticket) {
        self.turn = Some(Dispatch { whose, rests: false, again: false, reopened: false });
    }

    pub(crate) fn whose(&self) -> Option<Ticket> {
        self.turn.map(|turn| turn.whose)
    }

    pub(crate) fn rests(&self) -> bool {
        self.turn.is_some_and(|turn| turn.rests)
    }

    pub(crate) fn set_rests(&mut self, rests: bool) {
        if let Some(turn) = &mut self.turn {
            turn.rests = rests;
        }
    }

    /// Whoever has the turn has to look once more before it gives the turn back.
    pub(crate) fn again(&mut self) {
        if let Some(turn) = &mut self.turn {
            turn.again = true;
        }
    }

    /// What whoever has the turn saw of breakers and holds may be over.
    pub(crate) fn reopen(&mut self) {
        if let Some(turn) = &mut self.turn {
            turn.reopened = true;
        }
    }

    pub(crate) fn is_reopened(&self) -> bool {
        self.turn.is_some_and(|turn| turn.reopened)
    }

    /// Ends the turn; was there room meanwhile?
    pub(crate) fn end(&mut self) -> bool {
        self.turn.take().is_some_and(|turn| turn.again)
    }
}
