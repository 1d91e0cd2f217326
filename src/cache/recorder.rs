//! Writes an answer down while it goes to who asked for it, frame by frame and without delay.
//!
//! It is stored at its end, if that is a whole one. Past a bound it is not stored any more, and not even
//! copied unless somebody reads along.

use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use bytes::Bytes;
use http::{HeaderMap, StatusCode};

use super::coalesce::{Landed, Lead};
use super::entry::Stored;
use super::freshness::Lifetime;
use super::key::Key;
use super::shared_body::{End, Growing, Reader};
use super::store::Cache;
use super::vary::Selecting;

/// What those who read along an answer that is too large to store may fall back.
const WINDOW: u64 = 256 << 10;

/// What is known of an answer before its body.
#[derive(Debug)]
pub struct Draft {
    pub key: Key,
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub life: Lifetime,
    pub selecting: Selecting,
    pub asked: Instant,
    pub generation: u64,
}

#[derive(Debug)]
pub struct Recorder {
    cache: Arc<Cache>,
    key: Key,
    asked: Instant,
    generation: u64,
    growing: Arc<Growing>,
    /// Others may join until it is over.
    lead: Option<Lead>,
    /// What it weighs so far, taken from the cache's room for recordings.
    weight: u64,
    frames: usize,
    stores: bool,
    over: bool,
}

impl Recorder {
    /// Begins; `None` where the head alone is too heavy, or `length` says that the body is.
    pub fn begin(cache: &Arc<Cache>, draft: Draft, length: Option<u64>) -> Option<Recorder> {
        let Draft { key, status, headers, life, selecting, asked, generation } = draft;
        let weight = Stored::weight_of(&headers, &selecting, 0, 0);
        if weight + length.unwrap_or(0) > cache.most_of_one() || !cache.reserve(weight) {
            return None;
        }
        let growing = Arc::new(Growing::new((status, headers), life, selecting, asked));
        Some(Recorder {
            cache: Arc::clone(cache),
            key,
            asked,
            generation,
            growing,
            lead: None,
            weight,
            frames: 0,
            stores: true,
            over: false,
        })
    }

    /// Those who wait for the answer read along from here.
    pub fn share(&mut self, lead: Lead) {
        lead.answer(&self.growing);
        self.lead = Some(lead);
    }

    /// Who asked reads it like those who wait, where it is shared.
    pub fn read_first(&self) -> Option<Reader> {
        self.lead.as_ref().and_then(|_| self.growing.read_first())
    }

    pub fn push(&mut self, data: &Bytes) {
        let readers = self.growing.readers();
        if data.is_empty() || !self.stores && readers == 0 {
            return;
        }
        let frame = Stored::weight_of_frame(data.len());
        if self.stores
            && (self.weight + frame > self.cache.most_of_one() || !self.cache.reserve(frame))
        {
            self.give_up();
        } else if self.stores {
            self.weight += frame;
        }
        self.frames += 1;
        // Bytes of its own where it is kept: else it keeps the buffer alive that it was read into.
        let passes = !self.stores && readers == 1;
        self.growing.push(if passes { data.clone() } else { Bytes::copy_from_slice(data) });
    }

    /// It will not be stored.
    pub fn give_up(&mut self) {
        self.stores = false;
        self.growing.pass(self.weight.max(WINDOW));
        self.lead = None;
    }

    /// Ready while those who read along keep up; always, while it is stored.
    pub fn poll_room(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.growing.poll_room(cx)
    }

    /// Whoever has fallen back loses it.
    pub fn leave_behind(&self) {
        self.growing.leave_behind();
    }

    /// Ready when nobody reads; then nobody begins to, either.
    pub fn poll_deserted(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.growing.poll_deserted(cx)
    }

    pub fn is_deserted(&self) -> bool {
        self.growing.is_deserted()
    }

    /// It came whole.
    pub fn ends(&mut self) {
        if std::mem::replace(&mut self.over, true) {
            return;
        }
        if self.stores
            && let Some(frames) = self.growing.whole()
        {
            let length = frames.iter().map(|frame| frame.len() as u64).sum();
            let stored = Stored {
                status: self.growing.status,
                headers: self.growing.headers.clone(),
                frames: frames.into(),
                length,
                life: self.growing.life.clone(),
                selecting: self.growing.selecting.clone(),
                asked: self.asked,
            };
            self.cache.put(self.key, stored, self.generation);
        }
        self.growing.end(End::Whole);
        if let Some(lead) = self.lead.take() {
            lead.ends(Landed::Again);
        }
    }
}

impl Drop for Recorder {
    /// What did not end whole is broken.
    fn drop(&mut self) {
        self.cache.give_back(self.weight);
        self.growing.end(End::Broken);
    }
}
