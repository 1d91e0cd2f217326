//! A cached response, and the entry of a key with its variants.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use http::header::{
    AGE, CONNECTION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG,
    HeaderMap, HeaderName, IF_MODIFIED_SINCE, IF_NONE_MATCH, LAST_MODIFIED, SET_COOKIE,
    TRANSFER_ENCODING,
};
use http::{HeaderValue, StatusCode};

use super::cache_control::list_elements;
use super::freshness::Freshness;
use super::key::CacheSecret;
use super::vary::VariantKey;

/// Approximate cost of a hash map entry and an allocation.
const ALLOCATION_OVERHEAD: u64 = 64;
/// Size of a cached response apart from its headers and its body.
const RESPONSE_OVERHEAD: u64 = 512;
/// Variants of one key; the oldest is dropped.
pub const MAX_VARIANTS: usize = 16;

/// Headers that a 304 does not update, because they describe the body (RFC 9111, 3.2).
const BODY_HEADERS: [HeaderName; 5] = [
    CONTENT_LENGTH,
    CONTENT_ENCODING,
    CONTENT_RANGE,
    TRANSFER_ENCODING,
    HeaderName::from_static("content-md5"),
];

/// A complete response; a refreshed one shares the body.
#[derive(Clone, Debug)]
pub struct CachedResponse {
    pub status: StatusCode,
    /// The headers as sent, except `Age`.
    pub headers: HeaderMap,
    /// The frames in which the body arrived, each in its own allocation.
    pub frames: Arc<[Bytes]>,
    pub length: u64,
    pub freshness: Freshness,
    pub variant: VariantKey,
    pub requested_at: Instant,
}

/// The responses stored under one key.
#[derive(Clone, Debug, Default)]
pub struct CacheEntry {
    /// Newest first.
    pub variants: Vec<Arc<CachedResponse>>,
}

impl CachedResponse {
    /// The headers to store: without those of one hop, of one client or of one moment.
    pub fn storable_headers(mut headers: HeaderMap) -> HeaderMap {
        // A cookie belongs to one client.
        for name in [AGE, CONNECTION, TRANSFER_ENCODING, SET_COOKIE] {
            headers.remove(name);
        }
        headers
    }

    /// The weight of a response of this size.
    pub fn weight_of(headers: &HeaderMap, variant: &VariantKey, frames: usize, bytes: u64) -> u64 {
        let lines = headers.iter().map(|(name, value)| (name.as_str().len() + value.len()) as u64);
        let frames = frames as u64 * Self::frame_weight(0);
        RESPONSE_OVERHEAD
            + variant.bytes()
            + lines.map(|line| line + ALLOCATION_OVERHEAD).sum::<u64>()
            + frames
            + bytes
    }

    /// The weight of a frame of this size.
    pub fn frame_weight(bytes: usize) -> u64 {
        ALLOCATION_OVERHEAD + size_of::<Bytes>() as u64 + bytes as u64
    }

    pub fn weight(&self) -> u64 {
        Self::weight_of(&self.headers, &self.variant, self.frames.len(), self.length)
    }

    pub fn is_event_stream(&self) -> bool {
        let kind = self.headers.get(CONTENT_TYPE).map(HeaderValue::as_bytes).unwrap_or_default();
        kind.len() >= 17 && kind[..17].eq_ignore_ascii_case(b"text/event-stream")
    }

    /// It has a validator.
    pub fn can_be_revalidated(&self) -> bool {
        self.status == StatusCode::OK
            && (self.headers.contains_key(ETAG) || self.headers.contains_key(LAST_MODIFIED))
    }

    /// Makes a request conditional on this response (RFC 9111, 4.3.1).
    pub fn add_validators(&self, request: &mut HeaderMap) {
        for (own, name) in [(ETAG, IF_NONE_MATCH), (LAST_MODIFIED, IF_MODIFIED_SINCE)] {
            request.remove(&name);
            if let Some(value) = self.headers.get(own) {
                request.insert(name, value.clone());
            }
        }
    }

    /// A 304 refers to this response (RFC 9111, 4.3.4).
    pub fn matches_not_modified(&self, response: &HeaderMap) -> bool {
        match (response.get(ETAG), self.headers.get(ETAG)) {
            (Some(new), Some(old)) => opaque_tag(new.as_bytes()) == opaque_tag(old.as_bytes()),
            // The request had this validator, and the 304 names no other.
            (None, _) => true,
            (Some(_), None) => false,
        }
    }

    /// This response with the headers of a 304 or of a response to HEAD.
    pub fn refreshed(
        &self,
        response: &HeaderMap,
        freshness: Freshness,
        requested_at: Instant,
    ) -> CachedResponse {
        let mut headers = self.headers.clone();
        let update = Self::storable_headers(response.clone());
        for name in update.keys().filter(|name| !BODY_HEADERS.contains(name)) {
            headers.remove(name);
        }
        for (name, value) in update.iter().filter(|(name, _)| !BODY_HEADERS.contains(name)) {
            headers.append(name.clone(), value.clone());
        }
        CachedResponse {
            headers,
            freshness,
            requested_at,
            frames: Arc::clone(&self.frames),
            ..self.clone()
        }
    }

    /// A client with these conditions already has it (RFC 9110, 13.2.2).
    pub fn is_unchanged_for(&self, request: &HeaderMap) -> bool {
        if self.status != StatusCode::OK {
            return false;
        }
        if request.contains_key(IF_NONE_MATCH) {
            let own = self.headers.get(ETAG).map(HeaderValue::as_bytes);
            let lines = request.get_all(IF_NONE_MATCH).iter().filter_map(|v| v.to_str().ok());
            return lines.flat_map(list_elements).any(|tag| {
                tag == "*" || own.is_some_and(|own| opaque_tag(own) == opaque_tag(tag.as_bytes()))
            });
        }
        let date = |headers: &HeaderMap, name| {
            let value: &HeaderValue = headers.get(name)?;
            httpdate::parse_http_date(value.to_str().ok()?).ok()
        };
        let since = date(request, IF_MODIFIED_SINCE);
        let own =
            date(&self.headers, LAST_MODIFIED).or_else(|| date(&self.headers, http::header::DATE));
        since.zip(own).is_some_and(|(since, own)| own <= since)
    }
}

/// An entity tag, compared weakly (RFC 9110, 8.8.3.2).
fn opaque_tag(tag: &[u8]) -> &[u8] {
    let tag = tag.trim_ascii();
    tag.strip_prefix(b"W/").unwrap_or(tag)
}

impl CacheEntry {
    /// The newest valid response that this request selects.
    pub fn find(
        &self,
        request: &HeaderMap,
        secret: &CacheSecret,
        valid: impl Fn(&CachedResponse) -> bool,
    ) -> Option<Arc<CachedResponse>> {
        let mut fitting = self.variants.iter().filter(|stored| valid(stored));
        fitting.find(|stored| stored.variant.matches(request, secret)).cloned()
    }

    /// This entry with another response, which replaces the one of the same variant.
    pub fn with(&self, stored: Arc<CachedResponse>, most: u64) -> CacheEntry {
        let mut weight = 0;
        let others = self.variants.iter().filter(|other| other.variant != stored.variant);
        let fits = |stored: &&Arc<CachedResponse>| {
            weight += stored.weight();
            weight <= most
        };
        let variants = std::iter::once(&stored).chain(others).take(MAX_VARIANTS).take_while(fits);
        CacheEntry { variants: variants.cloned().collect() }
    }

    pub fn without(&self, stored: &Arc<CachedResponse>) -> CacheEntry {
        let others = self.variants.iter().filter(|other| !Arc::ptr_eq(other, stored));
        CacheEntry { variants: others.cloned().collect() }
    }

    pub fn weight(&self) -> u64 {
        ALLOCATION_OVERHEAD + self.variants.iter().map(|stored| stored.weight()).sum::<u64>()
    }
}

/// The body of a cached response, or a range of it, in the frames in which it arrived; nothing is
/// copied.
#[derive(Debug)]
pub struct CachedBody {
    response: Arc<CachedResponse>,
    next_frame: usize,
    /// Bytes of the following frames that are before the range.
    skip: u64,
    remaining: u64,
}

impl CachedBody {
    pub fn new(response: Arc<CachedResponse>) -> CachedBody {
        let length = response.length;
        CachedBody::range(response, 0, length)
    }

    /// The bytes from `from` up to, but not including, `to`.
    pub fn range(response: Arc<CachedResponse>, from: u64, to: u64) -> CachedBody {
        let remaining = to.min(response.length).saturating_sub(from);
        CachedBody { response, next_frame: 0, skip: from, remaining }
    }

    pub fn next_piece(&mut self) -> Option<Bytes> {
        while !self.is_at_end() {
            let frame = self.response.frames.get(self.next_frame)?;
            self.next_frame += 1;
            let length = frame.len() as u64;
            let from = self.skip.min(length);
            self.skip -= from;
            let to = length.min(from.saturating_add(self.remaining));
            if from < to {
                self.remaining -= to - from;
                return Some(frame.slice(from as usize..to as usize));
            }
        }
        None
    }

    pub fn is_at_end(&self) -> bool {
        self.remaining == 0
    }

    pub fn remaining(&self) -> u64 {
        self.remaining
    }

    /// The length for `Content-Length`; an event stream has none.
    pub fn declared_length(&self) -> Option<u64> {
        (!self.response.is_event_stream()).then_some(self.remaining)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::freshness::StaleWindows;
    use std::time::Duration;

    fn stored(frames: &[&'static str]) -> Arc<CachedResponse> {
        let (secret, headers) = (CacheSecret::new().expect("random bytes"), HeaderMap::new());
        let variant = VariantKey::of(&headers, &headers, &secret).expect("no names");
        let (now, whole) = (crate::clock::now(), Duration::from_secs(1));
        Arc::new(CachedResponse {
            status: StatusCode::OK,
            headers,
            frames: frames.iter().map(|frame| Bytes::from_static(frame.as_bytes())).collect(),
            length: frames.iter().map(|frame| frame.len() as u64).sum(),
            freshness: Freshness::fixed(now, whole, StaleWindows::default()),
            variant,
            requested_at: now,
        })
    }

    #[test]
    fn a_range_has_its_bytes_and_is_not_copied() {
        let stored = stored(&["abc", "d", "efgh"]);
        let kept = |piece: &Bytes| {
            let (at, end) = (piece.as_ptr() as usize, piece.as_ptr() as usize + piece.len());
            let mut frames = stored.frames.iter().map(|f| f.as_ptr_range());
            frames.any(|frame| frame.start as usize <= at && end <= frame.end as usize)
        };
        for (from, to) in (0..9).flat_map(|from| (from..10).map(move |to| (from, to))) {
            let mut body = CachedBody::range(Arc::clone(&stored), from, to);
            let expected: String =
                "abcdefgh".chars().skip(from as usize).take((to - from) as usize).collect();
            assert_eq!(body.remaining(), expected.len() as u64);
            let pieces: Vec<_> = std::iter::from_fn(|| body.next_piece()).collect();
            assert_eq!(pieces.concat(), expected.as_bytes(), "{from}-{to}");
            assert!(pieces.iter().all(kept) && body.is_at_end());
        }
    }
}
