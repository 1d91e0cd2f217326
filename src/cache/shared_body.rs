//! A response body in transfer: written by the leading request, read by it and its followers on any
//! worker.
//!
//! A body that is to be stored is kept from its beginning, and the writer waits for no reader. Past
//! the size limit it is no longer kept: a frame is dropped once each reader has it. Then the writer
//! waits for the leader; a follower that falls behind is waited for only briefly and then interrupted,
//! because one slow reader must neither delay the others nor occupy memory.

use std::collections::{HashMap, VecDeque};
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use parking_lot::Mutex;

use super::freshness::Freshness;
use super::vary::VariantKey;

/// A response whose head has arrived.
#[derive(Debug)]
pub struct SharedBody {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub freshness: Freshness,
    pub variant: VariantKey,
    pub requested_at: Instant,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    frames: VecDeque<Bytes>,
    bytes: u64,
    /// The number of dropped frames.
    dropped: usize,
    /// Set when the body is no longer kept: no reader can join, and unread frames are kept up to this
    /// many bytes.
    window: Option<u64>,
    end: Option<BodyEnd>,
    readers: HashMap<u64, ReaderPosition>,
    next: u64,
    /// The reader of the leader, which is never interrupted.
    first: Option<u64>,
    /// The writer waits for readers.
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

/// A reader of a [`SharedBody`].
#[derive(Debug)]
pub struct BodyReader {
    of: std::sync::Arc<SharedBody>,
    id: u64,
    /// The error is returned one poll after the last frame: hyper discards unwritten frames when a
    /// body fails.
    fails_after_last_frame: bool,
}

impl SharedBody {
    pub fn new(
        status: StatusCode,
        headers: HeaderMap,
        freshness: Freshness,
        variant: VariantKey,
        requested_at: Instant,
    ) -> SharedBody {
        SharedBody { status, headers, freshness, variant, requested_at, state: Mutex::default() }
    }

    /// A reader from the beginning; `None` if that was dropped.
    pub fn reader(self: &std::sync::Arc<Self>) -> Option<BodyReader> {
        let mut state = self.state.lock();
        if state.window.is_some() || state.end == Some(BodyEnd::Interrupted) {
            return None;
        }
        let id = state.next;
        state.next += 1;
        state.readers.insert(id, ReaderPosition::default());
        Some(BodyReader { of: std::sync::Arc::clone(self), id, fails_after_last_frame: false })
    }

    /// The reader of the leader.
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

    /// The body will not be stored: from here on frames are dropped once they are read.
    pub fn stop_keeping(&self, window: u64) {
        self.update(|state| state.window = Some(window));
    }

    /// Ready while no reader is behind by half of the window.
    pub fn poll_room(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut state = self.state.lock();
        if state.has_room() {
            return Poll::Ready(());
        }
        state.writer = Some(cx.waker().clone());
        Poll::Pending
    }

    /// Ready when there are no readers; no reader can join after that.
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

    /// Interrupts followers that are behind, unless the leader is behind too.
    pub fn drop_slow_readers(&self) {
        self.update(|state| {
            let behind =
                state.initiator_position().saturating_sub(state.dropped).min(state.frames.len());
            let unread = state.frames.iter().skip(behind).map(|frame| frame.len() as u64).sum();
            if state.window.is_some_and(|window| unread <= window / 2) {
                state.frames.drain(..behind);
                state.dropped += behind;
                state.bytes = unread;
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

    /// Every frame, if none was dropped.
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

    /// Frames from here on are kept for the leader.
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

    /// The next frame; `None` at the end. An error if the body broke or this reader was too slow.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, BodyEnd>>> {
        let mut state = self.of.state.lock();
        let state = &mut *state;
        let Some(place) = state.readers.get_mut(&self.id) else { return Poll::Ready(None) };
        let index = place.at.checked_sub(state.dropped);
        if let Some(frame) = index.and_then(|index| state.frames.get(index)).cloned() {
            place.at += 1;
            state.drop_read_frames();
            return Poll::Ready(Some(Ok(frame)));
        }
        match state.end {
            Some(BodyEnd::Complete) if index.is_some() => Poll::Ready(None),
            None if index.is_some() => {
                place.waker = Some(cx.waker().clone());
                Poll::Pending
            }
            _ if !std::mem::replace(&mut self.fails_after_last_frame, true) => {
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

    fn body() -> Arc<SharedBody> {
        let secret = CacheSecret::new().expect("random bytes");
        let (request, response) = (HeaderMap::new(), HeaderMap::new());
        let variant = VariantKey::of(&request, &response, &secret).expect("no names");
        let freshness =
            Freshness::fixed(Instant::now(), Duration::from_secs(1), StaleWindows::default());
        Arc::new(SharedBody::new(StatusCode::OK, response, freshness, variant, Instant::now()))
    }

    fn next(reader: &mut BodyReader) -> Poll<Option<Result<Bytes, BodyEnd>>> {
        reader.poll(&mut Context::from_waker(Waker::noop()))
    }

    /// One poll after the last frame.
    fn reports_error(reader: &mut BodyReader) -> bool {
        next(reader).is_pending() && next(reader) == Poll::Ready(Some(Err(BodyEnd::Interrupted)))
    }

    fn frame(text: &'static str) -> Poll<Option<Result<Bytes, BodyEnd>>> {
        Poll::Ready(Some(Ok(Bytes::from_static(text.as_bytes()))))
    }

    #[test]
    fn each_reader_gets_every_frame_and_the_end() {
        let body = body();
        let mut early = body.reader().expect("a reader");
        assert!(next(&mut early).is_pending());
        body.push(Bytes::from_static(b"a"));
        let mut late = body.reader().expect("a reader");
        body.push(Bytes::from_static(b"b"));
        body.finish(BodyEnd::Complete);
        for reader in [&mut early, &mut late] {
            assert_eq!((next(reader), next(reader)), (frame("a"), frame("b")));
            assert_eq!(next(reader), Poll::Ready(None));
        }
        assert_eq!(body.complete_frames().map(|frames| frames.len()), Some(2));
    }

    #[test]
    fn an_interrupted_body_fails_for_each_reader() {
        let body = body();
        let mut reader = body.reader().expect("a reader");
        body.push(Bytes::from_static(b"a"));
        body.finish(BodyEnd::Interrupted);
        body.finish(BodyEnd::Complete);
        assert_eq!(next(&mut reader), frame("a"));
        assert!(reports_error(&mut reader));
        assert!(body.reader().is_none());
    }

    #[test]
    fn the_writer_waits_for_a_slow_reader_and_may_interrupt_it() {
        let body = body();
        let (mut quick, mut slow) = (body.reader().expect("one"), body.reader().expect("two"));
        body.stop_keeping(4);
        for text in ["aa", "b"] {
            body.push(Bytes::from_static(text.as_bytes()));
        }
        let mut cx = Context::from_waker(Waker::noop());
        assert!(body.poll_room(&mut cx).is_pending());
        assert_eq!((next(&mut quick), next(&mut quick)), (frame("aa"), frame("b")));
        assert!(body.poll_room(&mut cx).is_pending());
        body.drop_slow_readers();
        assert!(body.poll_room(&mut cx).is_ready());
        body.push(Bytes::from_static(b"c"));
        assert_eq!(next(&mut quick), frame("c"));
        assert!(reports_error(&mut slow));
    }

    #[test]
    fn the_leader_is_never_interrupted_and_delays_no_follower() {
        let body = body();
        let (mut first, mut other) =
            (body.initiating_reader().expect("one"), body.reader().expect("two"));
        body.stop_keeping(2);
        for text in ["aa", "bb", "cc"] {
            body.push(Bytes::from_static(text.as_bytes()));
        }
        let mut cx = Context::from_waker(Waker::noop());
        body.drop_slow_readers();
        assert!(body.poll_room(&mut cx).is_pending(), "the writer waits for the leader");
        assert_eq!(next(&mut other), frame("aa"));
        for text in ["aa", "bb", "cc"] {
            assert_eq!(next(&mut first), frame(text));
        }
        body.drop_slow_readers();
        assert!(body.poll_room(&mut cx).is_ready() && reports_error(&mut other));
    }

    #[test]
    fn an_abandoned_body_has_no_new_readers() {
        let body = body();
        let reader = body.initiating_reader().expect("one");
        assert!(!body.is_deserted());
        drop(reader);
        assert!(body.poll_abandoned(&mut Context::from_waker(Waker::noop())).is_ready());
        assert!(body.reader().is_none());
    }

    #[test]
    fn unread_frames_are_kept_within_the_window() {
        let body = body();
        let (mut quick, mut slow) = (body.reader().expect("one"), body.reader().expect("two"));
        body.stop_keeping(3);
        assert!(body.reader().is_none() && body.complete_frames().is_none());
        for text in ["a", "b", "c", "d", "e"] {
            body.push(Bytes::from_static(text.as_bytes()));
            assert_eq!(next(&mut quick), frame(text));
            assert!(body.state.lock().bytes <= 3);
        }
        assert!(reports_error(&mut slow));
        drop((quick, slow));
        assert!(body.poll_room(&mut Context::from_waker(Waker::noop())).is_ready());
        body.push(Bytes::from_static(b"f"));
        assert_eq!(body.state.lock().frames.len(), 0);
    }
}
