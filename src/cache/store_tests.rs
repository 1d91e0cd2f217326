use super::*;
use crate::cache::Caches;
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

fn cache(max_bytes: u64) -> Arc<Cache> {
    let caches = Caches::new(Arc::new(Metrics::new())).expect("chance");
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

fn key(cache: &Cache, n: usize) -> CacheKey {
    let mut making = cache.secret.builder();
    making.part(&n.to_be_bytes());
    making.finish()
}

fn draft(cache: &Cache, key: CacheKey, headers: HeaderMap) -> RecordingHead {
    let now = crate::clock::now();
    let selecting = VariantKey::of(&HeaderMap::new(), &headers, &cache.secret);
    RecordingHead {
        key,
        status: StatusCode::OK,
        headers,
        freshness: Freshness::fixed(now, Duration::from_secs(60), StaleWindows::default()),
        variant: selecting.expect("a few names"),
        asked: now,
        generation: cache.generation(),
    }
}

/// Records an answer of so many bytes in frames of a kilobyte.
fn record(cache: &Arc<Cache>, n: usize, bytes: usize) {
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
fn what_ended_whole_is_found_in_the_frames_in_which_it_came() {
    let cache = cache(1 << 20);
    record(&cache, 1, 2500);
    let slot = cache.get(&key(&cache, 1)).expect("it is stored");
    let lengths: Vec<_> = slot.variants[0].frames.iter().map(Bytes::len).collect();
    assert_eq!((lengths, slot.variants[0].length), (vec![1024, 1024, 452], 2500));
    assert_eq!(cache.statistics().recording, 0);
}

#[test]
fn what_broke_is_not_stored_and_gives_its_room_back() {
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
fn what_is_too_large_is_not_begun_and_not_gone_on_with() {
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
fn recordings_together_take_a_quarter_at_most() {
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
fn what_was_asked_for_before_a_purge_is_not_stored_after_it() {
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
fn under_one_key_are_sixteen_at_most_and_an_eighth_of_the_bytes() {
    let vary = |value: usize, bytes: usize| {
        let mut asked = HeaderMap::new();
        asked.insert("x-it", HeaderValue::from(value));
        (asked, bytes)
    };
    for (bytes, most) in [(10, 16), (20 << 10, 6)] {
        let cache = cache(1 << 20);
        let key = key(&cache, 1);
        for value in 0..40 {
            let (asked, bytes) = vary(value, bytes);
            let mut answer = HeaderMap::new();
            answer.insert("vary", HeaderValue::from_static("x-it"));
            let mut draft = draft(&cache, key, answer.clone());
            draft.variant = VariantKey::of(&asked, &answer, &cache.secret).expect("one name");
            let mut recorder = ResponseRecorder::begin(&cache, draft, None).expect("room");
            recorder.push(&Bytes::from(vec![b'x'; bytes]));
            recorder.finish();
        }
        let slot = cache.get(&key).expect("it is stored");
        assert_eq!(slot.variants.len(), most);
        let (asked, _) = vary(39, 0);
        assert!(slot.find(&asked, &cache.secret, |_| true).is_some(), "the newest stay");
    }
}

#[test]
fn a_cache_outlives_a_reload_and_is_made_smaller_by_it() {
    let caches = Caches::new(Arc::new(Metrics::new())).expect("chance");
    let cache = caches.cache(&policy(1 << 20));
    (0..40).for_each(|n| record(&cache, n, 20 << 10));
    let again = caches.cache(&policy(1 << 18));
    assert!(Arc::ptr_eq(&cache, &again));
    let figures = again.statistics();
    assert!(figures.entries > 0 && figures.bytes <= 1 << 18, "{figures:?}");
    drop((cache, again));
    caches.remove_unused();
    assert!(caches.all().is_empty());
}

#[test]
fn who_reads_along_what_is_given_up_still_gets_all_of_it() {
    let cache = cache(1 << 20);
    let draft = draft(&cache, key(&cache, 1), HeaderMap::new());
    let mut recorder = ResponseRecorder::begin(&cache, draft, None).expect("room");
    let CoalesceRole::Lead(lead) = cache.in_flight.join(key(&cache, 1)) else {
        panic!("somebody else leads")
    };
    recorder.share(lead);
    let CoalesceRole::Follow(flight) = cache.in_flight.join(key(&cache, 1)) else {
        panic!("nobody leads")
    };
    let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
    let landed = std::pin::pin!(flight.landed()).as_mut().poll(&mut cx);
    let std::task::Poll::Ready(LeaderOutcome::Response(growing)) = landed else {
        panic!("no answer to read along")
    };
    let mut reader = growing.reader().expect("its beginning is here");
    let mut got = 0;
    for _ in 0..64 {
        recorder.push(&Bytes::from(vec![b'x'; 16 << 10]));
        while let std::task::Poll::Ready(Some(Ok(frame))) = reader.poll(&mut cx) {
            got += frame.len();
        }
    }
    recorder.finish();
    assert_eq!(
        (got, reader.poll(&mut cx)),
        (1 << 20, std::task::Poll::Ready(None::<Result<_, BodyEnd>>))
    );
    assert!(cache.get(&key(&cache, 1)).is_none());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    #[test]
    fn it_never_weighs_more_than_its_bound(
        answers in prop::collection::vec((0usize..50, 0usize..200_000), 1..100),
        shift in 14u32..20,
    ) {
        let cache = cache(1 << shift);
        for (n, bytes) in answers {
            record(&cache, n, bytes);
            let figures = cache.statistics();
            prop_assert!(figures.bytes <= 1 << shift, "{:?}", figures);
            prop_assert_eq!(figures.recording, 0);
        }
    }
}
