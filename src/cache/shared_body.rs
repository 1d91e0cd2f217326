//! The body of an answer while it comes: written by who asked for it, read along by all who wait for
//! the same, on whatever worker.
//!
//! What is to be stored is kept from its beginning, and nobody is waited for. Past its bound it is
//! stored no more, and passes only: a frame goes once each reader has it. Who asked is waited for then;
//! other readers that fall back only for a moment, and then they lose it, because one slow reader must
//! hold up neither the others nor the memory.

use std::collections::{HashMap, VecDeque};
use std::sync::Mutex;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use bytes::Bytes;
use http::{HeaderMap, StatusCode};

use super::freshness::Lifetime;
use super::lock;
use super::vary::Selecting;

/// An answer whose head is here.
#[derive(Debug)]
pub struct Growing {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub life: Lifetime,
    pub selecting: Selecting,
    /// When it was asked for.
    pub asked: Instant,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    frames: VecDeque<Bytes>,
    bytes: u64,
    /// Frames that are gone.
    gone: usize,
    /// Nobody may begin to read any more, nothing is kept for longer than it is read, and of that at
    /// most so many bytes.
    window: Option<u64>,
    end: Option<End>,
    readers: HashMap<u64, Place>,
    next: u64,
    /// The reader who asked: it never loses any.
    first: Option<u64>,
    /// Who writes waits for readers.
    writer: Option<Waker>,
}

#[derive(Debug, Default)]
struct Place {
    at: usize,
    waker: Option<Waker>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    Whole,
    Broken,
}

/// What reads along.
#[derive(Debug)]
pub struct Reader {
    of: std::sync::Arc<Growing>,
    id: u64,
    /// That it broke comes in the turn after the last frame: hyper throws away what it has not
    /// written yet when a body fails.
    breaks: bool,
}

impl Growing {
    pub fn new(
        (status, headers): (StatusCode, HeaderMap),
        life: Lifetime,
        selecting: Selecting,
        asked: Instant,
    ) -> Growing {
        Growing { status, headers, life, selecting, asked, state: Mutex::default() }
    }

    /// Reads from the beginning; `None` where that is gone.
    pub fn read(self: &std::sync::Arc<Self>) -> Option<Reader> {
        let mut state = lock(&self.state);
        if state.window.is_some() || state.end == Some(End::Broken) {
            return None;
        }
        let id = state.next;
        state.next += 1;
        state.readers.insert(id, Place::default());
        Some(Reader { of: std::sync::Arc::clone(self), id, breaks: false })
    }

    /// Reads as who asked.
    pub fn read_first(self: &std::sync::Arc<Self>) -> Option<Reader> {
        let reader = self.read()?;
        lock(&self.state).first = Some(reader.id);
        Some(reader)
    }

    pub fn push(&self, frame: Bytes) {
        self.change(|state| {
            state.bytes += frame.len() as u64;
            state.frames.push_back(frame);
        });
    }

    /// It will not be stored: from here on frames only pass.
    pub fn pass(&self, window: u64) {
        self.change(|state| state.window = Some(window));
    }

    /// Ready while no reader has fallen back by half of the window.
    pub fn poll_room(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut state = lock(&self.state);
        if state.has_room() {
            return Poll::Ready(());
        }
        state.writer = Some(cx.waker().clone());
        Poll::Pending
    }

    /// Ready when nobody reads; then nobody begins to, either.
    pub fn poll_deserted(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut state = lock(&self.state);
        if state.is_deserted() {
            return Poll::Ready(());
        }
        state.writer = Some(cx.waker().clone());
        Poll::Pending
    }

    pub fn is_deserted(&self) -> bool {
        lock(&self.state).is_deserted()
    }

    /// Whoever has fallen back loses it, unless it is who asked that is waited for.
    pub fn leave_behind(&self) {
        self.change(|state| {
            let behind = state.kept_from().saturating_sub(state.gone).min(state.frames.len());
            let ahead = state.frames.iter().skip(behind).map(|frame| frame.len() as u64).sum();
            if state.window.is_some_and(|window| ahead <= window / 2) {
                state.frames.drain(..behind);
                state.gone += behind;
                state.bytes = ahead;
            }
        });
    }

    pub fn is_broken(&self) -> bool {
        lock(&self.state).end == Some(End::Broken)
    }

    pub fn readers(&self) -> usize {
        lock(&self.state).readers.len()
    }

    pub fn end(&self, end: End) {
        self.change(|state| {
            state.end.get_or_insert(end);
        });
    }

    /// Every frame, where it is whole and all of it is here.
    pub fn whole(&self) -> Option<Vec<Bytes>> {
        let state = lock(&self.state);
        state.window.is_none().then(|| state.frames.iter().cloned().collect())
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        let wakers: Vec<Waker> = {
            let mut state = lock(&self.state);
            change(&mut state);
            state.let_go();
            state.readers.values_mut().filter_map(|place| place.waker.take()).collect()
        };
        wakers.into_iter().for_each(Waker::wake);
    }
}

impl State {
    fn let_go(&mut self) {
        let Some(window) = self.window else { return };
        let was_full = !self.has_room();
        let places = self.readers.values().map(|place| place.at).filter(|at| *at >= self.gone);
        let slowest = places.min().unwrap_or(usize::MAX);
        let kept_from = self.kept_from();
        while self.gone < slowest || self.bytes > window && self.gone < kept_from {
            let Some(frame) = self.frames.pop_front() else { break };
            self.bytes -= frame.len() as u64;
            self.gone += 1;
        }
        if was_full
            && self.has_room()
            && let Some(writer) = self.writer.take()
        {
            writer.wake();
        }
    }

    fn is_deserted(&mut self) -> bool {
        let deserted = self.readers.is_empty();
        if deserted {
            self.end.get_or_insert(End::Broken);
        }
        deserted
    }

    /// What who asked has not read yet is kept.
    fn kept_from(&self) -> usize {
        let first = self.first.and_then(|first| self.readers.get(&first));
        first.map_or(usize::MAX, |place| place.at)
    }

    fn has_room(&self) -> bool {
        self.window.is_none_or(|window| self.bytes <= window / 2)
    }
}

impl Reader {
    pub fn of(&self) -> &Growing {
        &self.of
    }

    /// The next frame; `None` at the end. An error where the answer broke, or this reader was too slow.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, End>>> {
        let mut state = lock(&self.of.state);
        let state = &mut *state;
        let Some(place) = state.readers.get_mut(&self.id) else { return Poll::Ready(None) };
        let ahead = place.at.checked_sub(state.gone);
        if let Some(frame) = ahead.and_then(|ahead| state.frames.get(ahead)).cloned() {
            place.at += 1;
            state.let_go();
            return Poll::Ready(Some(Ok(frame)));
        }
        match state.end {
            Some(End::Whole) if ahead.is_some() => Poll::Ready(None),
            None if ahead.is_some() => {
                place.waker = Some(cx.waker().clone());
                Poll::Pending
            }
            _ if !std::mem::replace(&mut self.breaks, true) => {
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            _ => Poll::Ready(Some(Err(End::Broken))),
        }
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        let mut state = lock(&self.of.state);
        state.readers.remove(&self.id);
        state.let_go();
        if state.readers.is_empty()
            && let Some(writer) = state.writer.take()
        {
            writer.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::freshness::Windows;
    use crate::cache::key::Secret;
    use std::sync::Arc;
    use std::time::Duration;

    fn growing() -> Arc<Growing> {
        let secret = Secret::new().expect("chance");
        let (asked, answer) = (HeaderMap::new(), HeaderMap::new());
        let selecting = Selecting::of(&asked, &answer, &secret).expect("no names");
        let life = Lifetime::fixed(Instant::now(), Duration::from_secs(1), Windows::default());
        Arc::new(Growing::new((StatusCode::OK, answer), life, selecting, Instant::now()))
    }

    fn next(reader: &mut Reader) -> Poll<Option<Result<Bytes, End>>> {
        reader.poll(&mut Context::from_waker(Waker::noop()))
    }

    /// In the turn after the last frame.
    fn breaks(reader: &mut Reader) -> bool {
        next(reader).is_pending() && next(reader) == Poll::Ready(Some(Err(End::Broken)))
    }

    fn frame(text: &'static str) -> Poll<Option<Result<Bytes, End>>> {
        Poll::Ready(Some(Ok(Bytes::from_static(text.as_bytes()))))
    }

    #[test]
    fn each_reader_gets_every_frame_and_the_end() {
        let growing = growing();
        let mut early = growing.read().expect("a reader");
        assert!(next(&mut early).is_pending());
        growing.push(Bytes::from_static(b"a"));
        let mut late = growing.read().expect("a reader");
        growing.push(Bytes::from_static(b"b"));
        growing.end(End::Whole);
        for reader in [&mut early, &mut late] {
            assert_eq!((next(reader), next(reader)), (frame("a"), frame("b")));
            assert_eq!(next(reader), Poll::Ready(None));
        }
        assert_eq!(growing.whole().map(|frames| frames.len()), Some(2));
    }

    #[test]
    fn a_broken_answer_breaks_for_each_reader() {
        let growing = growing();
        let mut reader = growing.read().expect("a reader");
        growing.push(Bytes::from_static(b"a"));
        growing.end(End::Broken);
        growing.end(End::Whole);
        assert_eq!(next(&mut reader), frame("a"));
        assert!(breaks(&mut reader));
        assert!(growing.read().is_none());
    }

    #[test]
    fn who_writes_waits_for_who_falls_back_and_may_leave_it_behind() {
        let growing = growing();
        let (mut quick, mut slow) = (growing.read().expect("one"), growing.read().expect("two"));
        growing.pass(4);
        for text in ["aa", "b"] {
            growing.push(Bytes::from_static(text.as_bytes()));
        }
        let mut cx = Context::from_waker(Waker::noop());
        assert!(growing.poll_room(&mut cx).is_pending());
        assert_eq!((next(&mut quick), next(&mut quick)), (frame("aa"), frame("b")));
        assert!(growing.poll_room(&mut cx).is_pending());
        growing.leave_behind();
        assert!(growing.poll_room(&mut cx).is_ready());
        growing.push(Bytes::from_static(b"c"));
        assert_eq!(next(&mut quick), frame("c"));
        assert!(breaks(&mut slow));
    }

    #[test]
    fn who_asked_loses_nothing_and_others_lose_nothing_by_it() {
        let growing = growing();
        let (mut first, mut other) =
            (growing.read_first().expect("one"), growing.read().expect("two"));
        growing.pass(2);
        for text in ["aa", "bb", "cc"] {
            growing.push(Bytes::from_static(text.as_bytes()));
        }
        let mut cx = Context::from_waker(Waker::noop());
        growing.leave_behind();
        assert!(growing.poll_room(&mut cx).is_pending(), "who asked is waited for");
        assert_eq!(next(&mut other), frame("aa"));
        for text in ["aa", "bb", "cc"] {
            assert_eq!(next(&mut first), frame(text));
        }
        growing.leave_behind();
        assert!(growing.poll_room(&mut cx).is_ready() && breaks(&mut other));
    }

    #[test]
    fn what_is_deserted_is_joined_by_nobody() {
        let growing = growing();
        let reader = growing.read_first().expect("one");
        assert!(!growing.is_deserted());
        drop(reader);
        assert!(growing.poll_deserted(&mut Context::from_waker(Waker::noop())).is_ready());
        assert!(growing.read().is_none());
    }

    #[test]
    fn what_only_passes_is_kept_for_the_slowest_reader_within_the_window() {
        let growing = growing();
        let (mut quick, mut slow) = (growing.read().expect("one"), growing.read().expect("two"));
        growing.pass(3);
        assert!(growing.read().is_none() && growing.whole().is_none());
        for text in ["a", "b", "c", "d", "e"] {
            growing.push(Bytes::from_static(text.as_bytes()));
            assert_eq!(next(&mut quick), frame(text));
            assert!(lock(&growing.state).bytes <= 3);
        }
        assert!(breaks(&mut slow));
        drop((quick, slow));
        assert!(growing.poll_room(&mut Context::from_waker(Waker::noop())).is_ready());
        growing.push(Bytes::from_static(b"f"));
        assert_eq!(lock(&growing.state).frames.len(), 0);
    }
}
