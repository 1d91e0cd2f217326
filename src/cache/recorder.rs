//! Writes an answer down while it goes to who asked for it, frame by frame and without delay.
//!
//! It is stored at its end, if that is a whole one. Past a bound it is not stored any more, and not even
//! copied unless somebody reads along.

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
use super::store::Cache;
use super::vary::VariantKey;

/// What those who read along an answer that is too large to store may fall back.
const PASS_WINDOW: u64 = 256 << 10;

/// What is known of an answer before its body.
#[derive(Debug)]
pub struct RecordingHead {
    pub key: CacheKey,
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub freshness: Freshness,
    pub variant: VariantKey,
    pub asked: Instant,
    pub generation: u64,
}

#[derive(Debug)]
pub struct ResponseRecorder {
    cache: Arc<Cache>,
    key: CacheKey,
    asked: Instant,
    generation: u64,
    body: Arc<SharedBody>,
    /// Others may join until it is over.
    leader: Option<Leader>,
    /// What it weighs so far, taken from the cache's room for recordings.
    weight: u64,
    frames: usize,
    is_storing: bool,
    is_finished: bool,
}

impl ResponseRecorder {
    /// Begins; `None` where the head alone is too heavy, or `length` says that the body is.
    pub fn begin(
        cache: &Arc<Cache>,
        draft: RecordingHead,
        length: Option<u64>,
    ) -> Option<ResponseRecorder> {
        let RecordingHead {
            key,
            status,
            headers,
            freshness: life,
            variant: selecting,
            asked,
            generation,
        } = draft;
        let weight = CachedResponse::weight_of(&headers, &selecting, 0, 0);
        if weight + length.unwrap_or(0) > cache.max_entry_bytes() || !cache.reserve(weight) {
            return None;
        }
        let growing = Arc::new(SharedBody::new((status, headers), life, selecting, asked));
        Some(ResponseRecorder {
            cache: Arc::clone(cache),
            key,
            asked,
            generation,
            body: growing,
            leader: None,
            weight,
            frames: 0,
            is_storing: true,
            is_finished: false,
        })
    }

    /// Those who wait for the answer read along from here.
    pub fn share(&mut self, lead: Leader) {
        lead.share(&self.body);
        self.leader = Some(lead);
    }

    /// Who asked reads it like those who wait, where it is shared.
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
        // Bytes of its own where it is kept: else it keeps the buffer alive that it was read into.
        let passes = !self.is_storing && readers == 1;
        self.body.push(if passes { data.clone() } else { Bytes::copy_from_slice(data) });
    }

    /// It will not be stored.
    pub fn stop_storing(&mut self) {
        self.is_storing = false;
        self.body.stop_keeping(self.weight.max(PASS_WINDOW));
        self.leader = None;
    }

    /// Ready while those who read along keep up; always, while it is stored.
    pub fn poll_room(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.body.poll_room(cx)
    }

    /// Whoever has fallen back loses it.
    pub fn drop_slow_readers(&self) {
        self.body.drop_slow_readers();
    }

    /// Ready when nobody reads; then nobody begins to, either.
    pub fn poll_abandoned(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.body.poll_abandoned(cx)
    }

    pub fn is_abandoned(&self) -> bool {
        self.body.is_deserted()
    }

    /// It came whole.
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
                requested_at: self.asked,
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
    /// What did not end whole is broken.
    fn drop(&mut self) {
        self.cache.release(self.weight);
        self.body.finish(BodyEnd::Interrupted);
    }
}
