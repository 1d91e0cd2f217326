//! Records a response for the cache while it is sent, frame by frame and without delay.
//!
//! A complete response is stored at its end. Past the size limit it is not stored, and not even
//! copied unless followers read it.

use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use bytes::Bytes;
use http::{HeaderMap, StatusCode};

use super::coalesce::{Leader, LeaderOutcome};
use super::entry::CachedResponse;
use super::freshness::Freshness;
use super::key::CacheKey;
use super::shared_body::{BodyEnd, BodyReader, SharedBody};
use super::store::ResponseCache;
use super::vary::VariantKey;

/// How far followers of a response that is too large to store may fall behind.
const PASS_WINDOW: u64 = 256 << 10;

/// The parts of a cached response that are known before its body.
#[derive(Debug)]
pub struct RecordingHead {
    pub key: CacheKey,
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub freshness: Freshness,
    pub variant: VariantKey,
    pub requested_at: Instant,
    pub generation: u64,
}

#[derive(Debug)]
pub struct ResponseRecorder {
    cache: Arc<ResponseCache>,
    key: CacheKey,
    requested_at: Instant,
    generation: u64,
    body: Arc<SharedBody>,
    /// Followers may join until the body ends.
    leader: Option<Leader>,
    /// The weight so far, reserved in the cache's budget for recordings.
    weight: u64,
    frames: usize,
    is_storing: bool,
    is_finished: bool,
}

impl ResponseRecorder {
    /// Begins a recording; `None` if the head, or the body according to `length`, is too large.
    pub fn begin(
        cache: &Arc<ResponseCache>,
        draft: RecordingHead,
        length: Option<u64>,
    ) -> Option<ResponseRecorder> {
        let RecordingHead { key, status, headers, freshness, variant, requested_at, generation } =
            draft;
        let weight = CachedResponse::weight_of(&headers, &variant, 0, 0);
        if weight + length.unwrap_or(0) > cache.max_entry_bytes() || !cache.reserve(weight) {
            return None;
        }
        let body = Arc::new(SharedBody::new(status, headers, freshness, variant, requested_at));
        Some(ResponseRecorder {
            cache: Arc::clone(cache),
            key,
            requested_at,
            generation,
            body,
            leader: None,
            weight,
            frames: 0,
            is_storing: true,
            is_finished: false,
        })
    }

    /// Shares the body with the followers.
    pub fn share(&mut self, lead: Leader) {
        lead.share(&self.body);
        self.leader = Some(lead);
    }

    /// The reader of the leading request, if the body is shared.
    pub fn initiating_reader(&self) -> Option<BodyReader> {
        self.leader.as_ref().and_then(|_| self.body.initiating_reader())
    }

    pub fn push(&mut self, data: &Bytes) {
        let readers = self.body.reader_count();
        if data.is_empty() || !self.is_storing && readers == 0 {
            return;
        }
        let frame = CachedResponse::frame_weight(data.len());
        if self.is_storing
            && (self.weight + frame > self.cache.max_entry_bytes() || !self.cache.reserve(frame))
        {
            self.stop_storing();
        } else if self.is_storing {
            self.weight += frame;
        }
        self.frames += 1;
        // A kept frame is copied: otherwise it would keep its whole read buffer alive.
        let passes = !self.is_storing && readers == 1;
        self.body.push(if passes { data.clone() } else { Bytes::copy_from_slice(data) });
    }

    /// The response will not be stored.
    pub fn stop_storing(&mut self) {
        self.is_storing = false;
        self.body.stop_keeping(self.weight.max(PASS_WINDOW));
        self.leader = None;
    }

    /// Ready while the readers keep up; always ready while the response is to be stored.
    pub fn poll_room(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.body.poll_room(cx)
    }

    /// Interrupts followers that have fallen behind.
    pub fn drop_slow_readers(&self) {
        self.body.drop_slow_readers();
    }

    /// Ready when there are no readers; no reader can join after that.
    pub fn poll_abandoned(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.body.poll_abandoned(cx)
    }

    pub fn is_abandoned(&self) -> bool {
        self.body.is_deserted()
    }

    /// The body is complete.
    pub fn finish(&mut self) {
        if std::mem::replace(&mut self.is_finished, true) {
            return;
        }
        if self.is_storing
            && let Some(frames) = self.body.complete_frames()
        {
            let length = frames.iter().map(|frame| frame.len() as u64).sum();
            let stored = CachedResponse {
                status: self.body.status,
                headers: self.body.headers.clone(),
                frames: frames.into(),
                length,
                freshness: self.body.freshness.clone(),
                variant: self.body.variant.clone(),
                requested_at: self.requested_at,
            };
            self.cache.put(self.key, stored, self.generation);
        }
        self.body.finish(BodyEnd::Complete);
        if let Some(lead) = self.leader.take() {
            lead.finish(LeaderOutcome::LookAgain);
        }
    }
}

impl Drop for ResponseRecorder {
    /// A body that was not finished is interrupted.
    fn drop(&mut self) {
        self.cache.release(self.weight);
        self.body.finish(BodyEnd::Interrupted);
    }
}
