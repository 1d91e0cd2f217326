//! The body of an answer while it comes: written by who asked for it, read along by all who wait for
//! the same, on whatever worker.
//!
//! What is to be stored is kept from its beginning, and nobody is waited for. Past its bound it is
//! stored no more, and passes only: a frame goes once each reader has it. Who asked is waited for then;
//! other readers that fall back only for a moment, and then they lose it, because one slow reader must
//! hold up neither the others nor the memory.

use std::collections::{HashMap, VecDeque};
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use parking_lot::Mutex;

use super::freshness::Freshness;
use super::vary::VariantKey;

/// An answer whose head is here.
#[derive(Debug)]
pub struct SharedBody {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub freshness: Freshness,
    pub variant: VariantKey,
    /// When it was asked for.
    pub asked: Instant,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    frames: VecDeque<Bytes>,
    bytes: u64,
    /// Frames that are gone.
    dropped: usize,
    /// Nobody may begin to read any more, nothing is kept for longer than it is read, and of that at
    /// most so many bytes.
    window: Option<u64>,
    end: Option<BodyEnd>,
    readers: HashMap<u64, ReaderPosition>,
    next: u64,
    /// The reader who asked: it never loses any.
    first: Option<u64>,
    /// Who writes waits for readers.
    writer: Option<Waker>,
}

#[derive(Debug, Default)]
struct ReaderPosition {
    at: usize,
    waker: Option<Waker>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyEnd {
    Complete,
    Interrupted,
}

/// What reads along.
#[derive(Debug)]
pub struct BodyReader {
    of: std::sync::Arc<SharedBody>,
    id: u64,
    /// That it broke comes in the turn after the last frame: hyper throws away what it has not
    /// written yet when a body fails.
    breaks: bool,
}

impl SharedBody {
    pub fn new(
        (status, headers): (StatusCode, HeaderMap),
        life: Freshness,
        selecting: VariantKey,
        asked: Instant,
    ) -> SharedBody {
        SharedBody {
            status,
            headers,
            freshness: life,
            variant: selecting,
            asked,
            state: Mutex::default(),
        }
    }

    /// Reads from the beginning; `None` where that is gone.
    pub fn reader(self: &std::sync::Arc<Self>) -> Option<BodyReader> {
        let mut state = self.state.lock();
        if state.window.is_some() || state.end == Some(BodyEnd::Interrupted) {
            return None;
        }
        let id = state.next;
        state.next += 1;
        state.readers.insert(id, ReaderPosition::default());
        Some(BodyReader { of: std::sync::Arc::clone(self), id, breaks: false })
    }

    /// Reads as who asked.
    pub fn initiating_reader(self: &std::sync::Arc<Self>) -> Option<BodyReader> {
        let reader = self.reader()?;
        self.state.lock().first = Some(reader.id);
        Some(reader)
    }

    pub fn push(&self, frame: Bytes) {
        self.update(|state| {
            state.bytes += frame.len() as u64;
            state.frames.push_back(frame);
        });
    }

    /// It will not be stored: from here on frames only pass.
    pub fn stop_keeping(&self, window: u64) {
        self.update(|state| state.window = Some(window));
    }

    /// Ready while no reader has fallen back by half of the window.
    pub fn poll_room(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut state = self.state.lock();
        if state.has_room() {
            return Poll::Ready(());
        }
        state.writer = Some(cx.waker().clone());
        Poll::Pending
    }

    /// Ready when nobody reads; then nobody begins to, either.
    pub fn poll_abandoned(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut state = self.state.lock();
        if state.is_deserted() {
            return Poll::Ready(());
        }
        state.writer = Some(cx.waker().clone());
        Poll::Pending
    }

    pub fn is_deserted(&self) -> bool {
        self.state.lock().is_deserted()
    }

    /// Whoever has fallen back loses it, unless it is who asked that is waited for.
    pub fn drop_slow_readers(&self) {
        self.update(|state| {
            let behind =
                state.initiator_position().saturating_sub(state.dropped).min(state.frames.len());
            let ahead = state.frames.iter().skip(behind).map(|frame| frame.len() as u64).sum();
            if state.window.is_some_and(|window| ahead <= window / 2) {
                state.frames.drain(..behind);
                state.dropped += behind;
                state.bytes = ahead;
            }
        });
    }

    pub fn is_interrupted(&self) -> bool {
        self.state.lock().end == Some(BodyEnd::Interrupted)
    }

    pub fn reader_count(&self) -> usize {
        self.state.lock().readers.len()
    }

    pub fn finish(&self, end: BodyEnd) {
        self.update(|state| {
            state.end.get_or_insert(end);
        });
    }

    /// Every frame, where it is whole and all of it is here.
    pub fn complete_frames(&self) -> Option<Vec<Bytes>> {
        let state = self.state.lock();
        state.window.is_none().then(|| state.frames.iter().cloned().collect())
    }

    fn update(&self, change: impl FnOnce(&mut State)) {
        let wakers: Vec<Waker> = {
            let mut state = self.state.lock();
            change(&mut state);
            state.drop_read_frames();
            state.readers.values_mut().filter_map(|place| place.waker.take()).collect()
        };
        wakers.into_iter().for_each(Waker::wake);
    }
}

impl State {
    fn drop_read_frames(&mut self) {
        let Some(window) = self.window else { return };
        let was_full = !self.has_room();
        let places = self.readers.values().map(|place| place.at).filter(|at| *at >= self.dropped);
        let slowest = places.min().unwrap_or(usize::MAX);
        let kept_from = self.initiator_position();
        while self.dropped < slowest || self.bytes > window && self.dropped < kept_from {
            let Some(frame) = self.frames.pop_front() else { break };
            self.bytes -= frame.len() as u64;
            self.dropped += 1;
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
            self.end.get_or_insert(BodyEnd::Interrupted);
        }
        deserted
    }

    /// What who asked has not read yet is kept.
    fn initiator_position(&self) -> usize {
        let first = self.first.and_then(|first| self.readers.get(&first));
        first.map_or(usize::MAX, |place| place.at)
    }

    fn has_room(&self) -> bool {
        self.window.is_none_or(|window| self.bytes <= window / 2)
    }
}

impl BodyReader {
    pub fn of(&self) -> &SharedBody {
        &self.of
    }

    /// The next frame; `None` at the end. An error where the answer broke, or this reader was too slow.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, BodyEnd>>> {
        let mut state = self.of.state.lock();
        let state = &mut *state;
        let Some(place) = state.readers.get_mut(&self.id) else { return Poll::Ready(None) };
        let ahead = place.at.checked_sub(state.dropped);
        if let Some(frame) = ahead.and_then(|ahead| state.frames.get(ahead)).cloned() {
            place.at += 1;
            state.drop_read_frames();
            return Poll::Ready(Some(Ok(frame)));
        }
        match state.end {
            Some(BodyEnd::Complete) if ahead.is_some() => Poll::Ready(None),
            None if ahead.is_some() => {
                place.waker = Some(cx.waker().clone());
                Poll::Pending
            }
            _ if !std::mem::replace(&mut self.breaks, true) => {
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            _ => Poll::Ready(Some(Err(BodyEnd::Interrupted))),
        }
    }
}

impl Drop for BodyReader {
    fn drop(&mut self) {
        let mut state = self.of.state.lock();
        state.readers.remove(&self.id);
        state.drop_read_frames();
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
    use crate::cache::freshness::StaleWindows;
    use crate::cache::key::CacheSecret;
    use std::sync::Arc;
    use std::time::Duration;

    fn growing() -> Arc<SharedBody> {
        let secret = CacheSecret::new().expect("chance");
        let (asked, answer) = (HeaderMap::new(), HeaderMap::new());
        let selecting = VariantKey::of(&asked, &answer, &secret).expect("no names");
        let life =
            Freshness::fixed(Instant::now(), Duration::from_secs(1), StaleWindows::default());
        Arc::new(SharedBody::new((StatusCode::OK, answer), life, selecting, Instant::now()))
    }

    fn next(reader: &mut BodyReader) -> Poll<Option<Result<Bytes, BodyEnd>>> {
        reader.poll(&mut Context::from_waker(Waker::noop()))
    }

    /// In the turn after the last frame.
    fn reports_error(reader: &mut BodyReader) -> bool {
        next(reader).is_pending() && next(reader) == Poll::Ready(Some(Err(BodyEnd::Interrupted)))
    }

    fn frame(text: &'static str) -> Poll<Option<Result<Bytes, BodyEnd>>> {
        Poll::Ready(Some(Ok(Bytes::from_static(text.as_bytes()))))
    }

    #[test]
    fn each_reader_gets_every_frame_and_the_end() {
        let growing = growing();
        let mut early = growing.reader().expect("a reader");
        assert!(next(&mut early).is_pending());
        growing.push(Bytes::from_static(b"a"));
        let mut late = growing.reader().expect("a reader");
        growing.push(Bytes::from_static(b"b"));
        growing.finish(BodyEnd::Complete);
        for reader in [&mut early, &mut late] {
            assert_eq!((next(reader), next(reader)), (frame("a"), frame("b")));
            assert_eq!(next(reader), Poll::Ready(None));
        }
        assert_eq!(growing.complete_frames().map(|frames| frames.len()), Some(2));
    }

    #[test]
    fn a_broken_answer_breaks_for_each_reader() {
        let growing = growing();
        let mut reader = growing.reader().expect("a reader");
        growing.push(Bytes::from_static(b"a"));
        growing.finish(BodyEnd::Interrupted);
        growing.finish(BodyEnd::Complete);
        assert_eq!(next(&mut reader), frame("a"));
        assert!(reports_error(&mut reader));
        assert!(growing.reader().is_none());
    }

    #[test]
    fn who_writes_waits_for_who_falls_back_and_may_leave_it_behind() {
        let growing = growing();
        let (mut quick, mut slow) =
            (growing.reader().expect("one"), growing.reader().expect("two"));
        growing.stop_keeping(4);
        for text in ["aa", "b"] {
            growing.push(Bytes::from_static(text.as_bytes()));
        }
        let mut cx = Context::from_waker(Waker::noop());
        assert!(growing.poll_room(&mut cx).is_pending());
        assert_eq!((next(&mut quick), next(&mut quick)), (frame("aa"), frame("b")));
        assert!(growing.poll_room(&mut cx).is_pending());
        growing.drop_slow_readers();
        assert!(growing.poll_room(&mut cx).is_ready());
        growing.push(Bytes::from_static(b"c"));
        assert_eq!(next(&mut quick), frame("c"));
        assert!(reports_error(&mut slow));
    }

    #[test]
    fn who_asked_loses_nothing_and_others_lose_nothing_by_it() {
        let growing = growing();
        let (mut first, mut other) =
            (growing.initiating_reader().expect("one"), growing.reader().expect("two"));
        growing.stop_keeping(2);
        for text in ["aa", "bb", "cc"] {
            growing.push(Bytes::from_static(text.as_bytes()));
        }
        let mut cx = Context::from_waker(Waker::noop());
        growing.drop_slow_readers();
        assert!(growing.poll_room(&mut cx).is_pending(), "who asked is waited for");
        assert_eq!(next(&mut other), frame("aa"));
        for text in ["aa", "bb", "cc"] {
            assert_eq!(next(&mut first), frame(text));
        }
        growing.drop_slow_readers();
        assert!(growing.poll_room(&mut cx).is_ready() && reports_error(&mut other));
    }

    #[test]
    fn what_is_deserted_is_joined_by_nobody() {
        let growing = growing();
        let reader = growing.initiating_reader().expect("one");
        assert!(!growing.is_deserted());
        drop(reader);
        assert!(growing.poll_abandoned(&mut Context::from_waker(Waker::noop())).is_ready());
        assert!(growing.reader().is_none());
    }

    #[test]
    fn what_only_passes_is_kept_for_the_slowest_reader_within_the_window() {
        let growing = growing();
        let (mut quick, mut slow) =
            (growing.reader().expect("one"), growing.reader().expect("two"));
        growing.stop_keeping(3);
        assert!(growing.reader().is_none() && growing.complete_frames().is_none());
        for text in ["a", "b", "c", "d", "e"] {
            growing.push(Bytes::from_static(text.as_bytes()));
            assert_eq!(next(&mut quick), frame(text));
            assert!(growing.state.lock().bytes <= 3);
        }
        assert!(reports_error(&mut slow));
        drop((quick, slow));
        assert!(growing.poll_room(&mut Context::from_waker(Waker::noop())).is_ready());
        growing.push(Bytes::from_static(b"f"));
        assert_eq!(growing.state.lock().frames.len(), 0);
    }
}
