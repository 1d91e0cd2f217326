use super::*;
use crate::cache::CacheRegistry;
use crate::cache::coalesce::{CoalesceRole, LeaderOutcome};
use crate::cache::freshness::{Freshness, StaleWindows};
use crate::cache::recorder::{RecordingHead, ResponseRecorder};
use crate::cache::shared_body::BodyEnd;
use crate::cache::vary::VariantKey;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode};
use proptest::prelude::*;
use std::future::Future;
use std::time::Duration;

fn cache(max_bytes: u64) -> Arc<ResponseCache> {
    let caches = CacheRegistry::new(Arc::new(Metrics::new())).expect("random bytes");
    caches.cache(&policy(max_bytes))
}

fn policy(max_bytes: u64) -> model::Cache {
    model::Cache {
        name: "c".to_owned(),
        max_bytes,
        store: model::Keeps::Http,
        stale_if_error: Duration::ZERO,
        stale_while_revalidate: Duration::ZERO,
    }
}

fn key(cache: &ResponseCache, n: usize) -> CacheKey {
    let mut builder = cache.secret.builder();
    builder.part(&n.to_be_bytes());
    builder.finish()
}

fn draft(cache: &ResponseCache, key: CacheKey, headers: HeaderMap) -> RecordingHead {
    let now = crate::clock::now();
    let variant = VariantKey::of(&HeaderMap::new(), &headers, &cache.secret);
    RecordingHead {
        key,
        status: StatusCode::OK,
        headers,
        freshness: Freshness::fixed(now, Duration::from_secs(60), StaleWindows::default()),
        variant: variant.expect("a few names"),
        requested_at: now,
        generation: cache.generation(),
    }
}

/// Records a response of this many bytes in frames of 1 KiB.
fn record(cache: &Arc<ResponseCache>, n: usize, bytes: usize) {
    let key = key(cache, n);
    let Some(mut recorder) =
        ResponseRecorder::begin(cache, draft(cache, key, HeaderMap::new()), None)
    else {
        return;
    };
    for frame in vec![b'x'; bytes].chunks(1024) {
        recorder.push(&Bytes::copy_from_slice(frame));
    }
    recorder.finish();
}

#[test]
fn a_complete_response_is_stored_in_its_frames() {
    let cache = cache(1 << 20);
    record(&cache, 1, 2500);
    let slot = cache.get(&key(&cache, 1)).expect("it is stored");
    let lengths: Vec<_> = slot.variants[0].frames.iter().map(Bytes::len).collect();
    assert_eq!((lengths, slot.variants[0].length), (vec![1024, 1024, 452], 2500));
    assert_eq!(cache.statistics().recording, 0);
}

#[test]
fn only_an_entry_that_made_room_for_another_counts_as_evicted() {
    let cache = cache(1 << 16);
    (0..3).for_each(|_| record(&cache, 1, 4096));
    assert_eq!((cache.statistics().entries, cache.statistics().evictions), (1, 0));
    (2..42).for_each(|n| record(&cache, n, 4096));
    let full = cache.statistics();
    assert_eq!(full.entries + full.evictions, 41);
    cache.retune(1 << 14);
    let smaller = cache.statistics();
    assert!(smaller.entries < full.entries);
    assert_eq!(smaller.entries + smaller.evictions, 41);
    cache.purge();
    assert_eq!(cache.statistics().evictions, smaller.evictions);
}

#[test]
fn an_interrupted_response_is_not_stored_and_releases_its_reservation() {
    let cache = cache(1 << 20);
    let key = key(&cache, 1);
    let mut recorder =
        ResponseRecorder::begin(&cache, draft(&cache, key, HeaderMap::new()), None).expect("room");
    recorder.push(&Bytes::from_static(b"half"));
    assert!(cache.statistics().recording > 0);
    drop(recorder);
    assert!(cache.get(&key).is_none());
    assert_eq!(cache.statistics().recording, 0);
}

#[test]
fn a_response_that_is_too_large_is_not_recorded() {
    let cache = cache(1 << 20);
    let key = key(&cache, 1);
    let begin = |length| {
        ResponseRecorder::begin(&cache, draft(&cache, key, HeaderMap::new()), Some(length))
    };
    assert!(begin(1 << 17).is_none() && begin(1 << 16).is_some());
    let mut headers = HeaderMap::new();
    for n in 0..200 {
        headers.append("x-giant", HeaderValue::try_from(format!("{n:01000}")).expect("a value"));
    }
    assert!(ResponseRecorder::begin(&cache, draft(&cache, key, headers), None).is_none());
    record(&cache, 1, 1 << 18);
    assert!(cache.get(&key).is_none());
}

#[test]
fn recordings_take_at_most_a_quarter() {
    let cache = cache(1 << 20);
    let mut all = Vec::new();
    for n in 0..20 {
        let draft = draft(&cache, key(&cache, n), HeaderMap::new());
        let Some(mut recorder) = ResponseRecorder::begin(&cache, draft, None) else { continue };
        recorder.push(&Bytes::from(vec![b'x'; 60 << 10]));
        all.push(recorder);
    }
    assert!(cache.statistics().recording <= 1 << 18);
    all.iter_mut().for_each(ResponseRecorder::finish);
    drop(all);
    assert_eq!((cache.statistics().recording, cache.statistics().entries), (0, 4));
}

#[test]
fn a_response_requested_before_a_purge_is_not_stored() {
    let cache = cache(1 << 20);
    record(&cache, 1, 10);
    let draft = draft(&cache, key(&cache, 2), HeaderMap::new());
    let mut recorder = ResponseRecorder::begin(&cache, draft, None).expect("room");
    assert_eq!(cache.purge(), 1);
    recorder.push(&Bytes::from_static(b"x"));
    recorder.finish();
    assert_eq!((cache.statistics().entries, cache.statistics().bytes), (0, 0));
}

#[test]
fn an_entry_has_at_most_sixteen_variants_and_an_eighth_of_the_bytes() {
    let vary = |value: usize, bytes: usize| {
        let mut request = HeaderMap::new();
        request.insert("x-it", HeaderValue::from(value));
        (request, bytes)
    };
    for (bytes, most) in [(10, 16), (20 << 10, 6)] {
        let cache = cache(1 << 20);
        let key = key(&cache, 1);
        for value in 0..40 {
            let (request, bytes) = vary(value, bytes);
            let mut response = HeaderMap::new();
            response.insert("vary", HeaderValue::from_static("x-it"));
            let mut draft = draft(&cache, key, response.clone());
            draft.variant = VariantKey::of(&request, &response, &cache.secret).expect("one name");
            let mut recorder = ResponseRecorder::begin(&cache, draft, None).expect("room");
            recorder.push(&Bytes::from(vec![b'x'; bytes]));
            recorder.finish();
        }
        let slot = cache.get(&key).expect("it is stored");
        assert_eq!(slot.variants.len(), most);
        let (request, _) = vary(39, 0);
        assert!(slot.find(&request, &cache.secret, |_| true).is_some(), "the newest stay");
    }
}

#[test]
fn a_cache_survives_a_reload_and_can_shrink() {
    let caches = CacheRegistry::new(Arc::new(Metrics::new())).expect("random bytes");
    let cache = caches.cache(&policy(1 << 20));
    (0..40).for_each(|n| record(&cache, n, 20 << 10));
    let again = caches.cache(&policy(1 << 18));
    assert!(Arc::ptr_eq(&cache, &again));
    let statistics = again.statistics();
    assert!(statistics.entries > 0 && statistics.bytes <= 1 << 18, "{statistics:?}");
    drop((cache, again));
    caches.remove_unused();
    assert!(caches.all().is_empty());
}

#[test]
fn followers_of_a_response_that_is_not_stored_receive_all_of_it() {
    let cache = cache(1 << 20);
    let draft = draft(&cache, key(&cache, 1), HeaderMap::new());
    let mut recorder = ResponseRecorder::begin(&cache, draft, None).expect("room");
    let CoalesceRole::Lead(leader) = cache.in_flight.join(key(&cache, 1)) else {
        panic!("another request leads")
    };
    recorder.share(leader);
    let CoalesceRole::Follow(flight) = cache.in_flight.join(key(&cache, 1)) else {
        panic!("no request leads")
    };
    let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
    let outcome = std::pin::pin!(flight.outcome()).as_mut().poll(&mut cx);
    let std::task::Poll::Ready(LeaderOutcome::Response(body)) = outcome else {
        panic!("no body to follow")
    };
    let mut reader = body.reader().expect("the beginning is kept");
    let mut received = 0;
    for _ in 0..64 {
        recorder.push(&Bytes::from(vec![b'x'; 16 << 10]));
        while let std::task::Poll::Ready(Some(Ok(frame))) = reader.poll(&mut cx) {
            received += frame.len();
        }
    }
    recorder.finish();
    assert_eq!(
        (received, reader.poll(&mut cx)),
        (1 << 20, std::task::Poll::Ready(None::<Result<_, BodyEnd>>))
    );
    assert!(cache.get(&key(&cache, 1)).is_none());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    #[test]
    fn the_weight_never_exceeds_the_bound(
        responses in prop::collection::vec((0usize..50, 0usize..200_000), 1..100),
        shift in 14u32..20,
    ) {
        let cache = cache(1 << shift);
        for (n, bytes) in responses {
            record(&cache, n, bytes);
            let statistics = cache.statistics();
            prop_assert!(statistics.bytes <= 1 << shift, "{:?}", statistics);
            prop_assert_eq!(statistics.recording, 0);
        }
    }
}
