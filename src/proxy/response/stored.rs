//! Bodies of answers that a cache has to do with: from the store, read along, or written down while
//! they pass.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::CONTENT_LENGTH;
use http_body::Frame;
use tokio::time::Sleep;

use super::stream::{Polled, Streaming};
use crate::cache::entry::CachedResponse;
use crate::cache::recorder::ResponseRecorder;
use crate::cache::shared_body::BodyReader;
use crate::clock;
use crate::proxy::access_log::record::{AccessRecord, End};
use crate::proxy::attempt::context::ProxyRequest;

/// A stored body, or a part of it, in the frames in which it came; nothing is copied.
#[derive(Debug)]
pub struct Replay {
    stored: Arc<CachedResponse>,
    /// The next frame, and what of it is not asked for.
    at: usize,
    skip: u64,
    /// Bytes that are still to come.
    left: u64,
}

/// The answer that another request asked for.
pub struct Followed {
    reader: BodyReader,
    record: Box<AccessRecord>,
    /// Of the body, where it is told: nobody asks for its end then.
    length: Option<u64>,
    idle: Duration,
    last: Instant,
    timer: Option<Pin<Box<Sleep>>>,
}

/// An answer that is written down while it passes.
#[derive(Debug)]
pub struct Recorded {
    inner: Box<Streaming>,
    /// `None` once it is over, or broke.
    recorder: Option<Box<ResponseRecorder>>,
}

// === impl Replay ===

impl Replay {
    pub fn new(stored: Arc<CachedResponse>) -> Replay {
        let length = stored.length;
        Replay::part(stored, 0, length)
    }

    /// The bytes from `from` up to, but not including, `to`.
    pub fn part(stored: Arc<CachedResponse>, from: u64, to: u64) -> Replay {
        let left = to.min(stored.length).saturating_sub(from);
        Replay { stored, at: 0, skip: from, left }
    }

    pub fn next(&mut self) -> Option<Bytes> {
        while !self.is_at_end() {
            let frame = self.stored.frames.get(self.at)?;
            self.at += 1;
            let length = frame.len() as u64;
            let from = self.skip.min(length);
            self.skip -= from;
            let to = length.min(from.saturating_add(self.left));
            if from < to {
                self.left -= to - from;
                return Some(frame.slice(from as usize..to as usize));
            }
        }
        None
    }

    pub fn is_at_end(&self) -> bool {
        self.left == 0
    }

    pub fn left(&self) -> u64 {
        self.left
    }

    /// What its answer says; an event stream is a stream again, and says nothing of its length.
    pub fn told(&self) -> Option<u64> {
        (!self.stored.is_event_stream()).then_some(self.left)
    }
}

// === impl Followed ===

impl Followed {
    pub fn new(reader: BodyReader, request: Box<ProxyRequest>) -> Followed {
        // Whoever asked keeps the provider's limit; this one is for when its client is waited for.
        let idle = request.route.tiers[0].candidates[0].provider.policy.timeouts.idle;
        let ProxyRequest { mut record, .. } = *request;
        record.lighten();
        let length = reader.of().headers.get(CONTENT_LENGTH);
        let length = length.and_then(|length| length.to_str().ok()?.parse().ok());
        Followed { reader, record, length, idle, last: clock::now(), timer: None }
    }

    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Polled {
        match self.reader.poll(cx) {
            Poll::Ready(Some(Ok(data))) => {
                self.last = clock::now();
                self.record.bytes_out += data.len() as u64;
                if self.length == Some(self.record.bytes_out) {
                    self.record.finish(End::Answered);
                }
                Poll::Ready(Some(Ok(Frame::data(data))))
            }
            Poll::Ready(None) => {
                self.record.finish(End::Answered);
                Poll::Ready(None)
            }
            Poll::Ready(Some(Err(_))) => self.cut("broken"),
            Poll::Pending => {
                ready!(self.poll_late(cx));
                self.cut("idle")
            }
        }
    }

    fn cut(&mut self, why: &'static str) -> Polled {
        self.record.finish(End::Cut(why));
        Poll::Ready(Some(Err(format!("the answer was cut: {why}").into())))
    }

    /// Ready when nothing came for too long.
    fn poll_late(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let at = self.last + self.idle;
        let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(at.into())));
        if timer.deadline() != at.into() {
            timer.as_mut().reset(at.into());
        }
        timer.as_mut().poll(cx)
    }
}

impl fmt::Debug for Followed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Followed({:?})", self.reader)
    }
}

// === impl Recorded ===

impl Recorded {
    pub fn new(inner: Box<Streaming>, recorder: Box<ResponseRecorder>) -> Recorded {
        Recorded { inner, recorder: Some(recorder) }
    }

    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Polled {
        let polled = ready!(self.inner.poll_next(cx));
        let Some(recorder) = &mut self.recorder else { return Poll::Ready(polled) };
        match &polled {
            Some(Ok(frame)) => match frame.data_ref() {
                Some(data) => recorder.push(data),
                // What is given out again would not have them.
                None => recorder.stop_storing(),
            },
            Some(Err(_)) => self.recorder = None,
            None => self.ends(),
        }
        // hyper does not ask a body that says it is at its end.
        if self.is_at_end() {
            self.ends();
        }
        Poll::Ready(polled)
    }

    fn ends(&mut self) {
        let failed = self.inner.has_failed();
        if let Some(mut recorder) = self.recorder.take() {
            if failed {
                recorder.stop_storing();
            }
            recorder.finish();
        }
    }

    pub fn is_at_end(&self) -> bool {
        self.inner.is_at_end()
    }

    pub fn left(&self) -> Option<u64> {
        self.inner.left()
    }

    /// Who writes it down, until it is over, or broke.
    pub fn recorder(&self) -> Option<&ResponseRecorder> {
        self.recorder.as_deref()
    }

    /// Lets go of it: what did not end before is not stored. Gives what was learned of it.
    pub fn close(mut self) -> Option<Box<AccessRecord>> {
        self.recorder = None;
        self.inner.close();
        self.inner.take_story()
    }
}

impl Drop for Recorded {
    fn drop(&mut self) {
        if self.is_at_end() {
            self.ends();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::freshness::{Freshness, StaleWindows};
    use crate::cache::key::CacheSecret;
    use crate::cache::vary::VariantKey;
    use http::{HeaderMap, StatusCode};

    fn stored(frames: &[&'static str]) -> Arc<CachedResponse> {
        let (secret, headers) = (CacheSecret::new().expect("chance"), HeaderMap::new());
        let selecting = VariantKey::of(&headers, &headers, &secret).expect("no names");
        let (now, whole) = (clock::now(), Duration::from_secs(1));
        Arc::new(CachedResponse {
            status: StatusCode::OK,
            headers,
            frames: frames.iter().map(|frame| Bytes::from_static(frame.as_bytes())).collect(),
            length: frames.iter().map(|frame| frame.len() as u64).sum(),
            freshness: Freshness::fixed(now, whole, StaleWindows::default()),
            variant: selecting,
            requested_at: now,
        })
    }

    #[test]
    fn a_part_is_what_it_says_and_is_not_copied() {
        let stored = stored(&["abc", "d", "efgh"]);
        let kept = |piece: &Bytes| {
            let (at, end) = (piece.as_ptr() as usize, piece.as_ptr() as usize + piece.len());
            let mut frames = stored.frames.iter().map(|f| f.as_ptr_range());
            frames.any(|frame| frame.start as usize <= at && end <= frame.end as usize)
        };
        for (from, to) in (0..9).flat_map(|from| (from..10).map(move |to| (from, to))) {
            let mut replay = Replay::part(Arc::clone(&stored), from, to);
            let expected: String =
                "abcdefgh".chars().skip(from as usize).take((to - from) as usize).collect();
            assert_eq!(replay.left(), expected.len() as u64);
            let pieces: Vec<_> = std::iter::from_fn(|| replay.next()).collect();
            assert_eq!(pieces.concat(), expected.as_bytes(), "{from}-{to}");
            assert!(pieces.iter().all(kept) && replay.is_at_end());
        }
    }
}
