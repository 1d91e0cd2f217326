use super::*;
use crate::cache::Caches;
use crate::cache::coalesce::{Landed, Turn};
use crate::cache::freshness::{Lifetime, Windows};
use crate::cache::recorder::{Draft, Recorder};
use crate::cache::shared_body::End;
use crate::cache::vary::Selecting;
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

fn key(cache: &Cache, n: usize) -> Key {
    let mut making = cache.secret.make();
    making.part(&n.to_be_bytes());
    making.end()
}

fn draft(cache: &Cache, key: Key, headers: HeaderMap) -> Draft {
    let now = crate::clock::now();
    let selecting = Selecting::of(&HeaderMap::new(), &headers, &cache.secret);
    Draft {
        key,
        status: StatusCode::OK,
        headers,
        life: Lifetime::fixed(now, Duration::from_secs(60), Windows::default()),
        selecting: selecting.expect("a few names"),
        asked: now,
        generation: cache.generation(),
    }
}

/// Records an answer of so many bytes in frames of a kilobyte.
fn record(cache: &Arc<Cache>, n: usize, bytes: usize) {
    let key = key(cache, n);
    let Some(mut recorder) = Recorder::begin(cache, draft(cache, key, HeaderMap::new()), None)
    else {
        return;
    };
    for frame in vec![b'x'; bytes].chunks(1024) {
        recorder.push(&Bytes::copy_from_slice(frame));
    }
    recorder.ends();
}

#[test]
fn what_ended_whole_is_found_in_the_frames_in_which_it_came() {
    let cache = cache(1 << 20);
    record(&cache, 1, 2500);
    let slot = cache.find(&key(&cache, 1)).expect("it is stored");
    let lengths: Vec<_> = slot.variants[0].frames.iter().map(Bytes::len).collect();
    assert_eq!((lengths, slot.variants[0].length), (vec![1024, 1024, 452], 2500));
    assert_eq!(cache.figures().recording, 0);
}

#[test]
fn what_broke_is_not_stored_and_gives_its_room_back() {
    let cache = cache(1 << 20);
    let key = key(&cache, 1);
    let mut recorder =
        Recorder::begin(&cache, draft(&cache, key, HeaderMap::new()), None).expect("room");
    recorder.push(&Bytes::from_static(b"half"));
    assert!(cache.figures().recording > 0);
    drop(recorder);
    assert!(cache.find(&key).is_none());
    assert_eq!(cache.figures().recording, 0);
}

#[test]
fn what_is_too_large_is_not_begun_and_not_gone_on_with() {
    let cache = cache(1 << 20);
    let key = key(&cache, 1);
    let begin =
        |length| Recorder::begin(&cache, draft(&cache, key, HeaderMap::new()), Some(length));
    assert!(begin(1 << 17).is_none() && begin(1 << 16).is_some());
    let mut headers = HeaderMap::new();
    for n in 0..200 {
        headers.append("x-giant", HeaderValue::try_from(format!("{n:01000}")).expect("a value"));
    }
    assert!(Recorder::begin(&cache, draft(&cache, key, headers), None).is_none());
    record(&cache, 1, 1 << 18);
    assert!(cache.find(&key).is_none());
}

#[test]
fn recordings_together_take_a_quarter_at_most() {
    let cache = cache(1 << 20);
    let mut all = Vec::new();
    for n in 0..20 {
        let draft = draft(&cache, key(&cache, n), HeaderMap::new());
        let Some(mut recorder) = Recorder::begin(&cache, draft, None) else { continue };
        recorder.push(&Bytes::from(vec![b'x'; 60 << 10]));
        all.push(recorder);
    }
    assert!(cache.figures().recording <= 1 << 18);
    all.iter_mut().for_each(Recorder::ends);
    drop(all);
    assert_eq!((cache.figures().recording, cache.figures().entries), (0, 4));
}

#[test]
fn what_was_asked_for_before_a_purge_is_not_stored_after_it() {
    let cache = cache(1 << 20);
    record(&cache, 1, 10);
    let draft = draft(&cache, key(&cache, 2), HeaderMap::new());
    let mut recorder = Recorder::begin(&cache, draft, None).expect("room");
    assert_eq!(cache.purge(), 1);
    recorder.push(&Bytes::from_static(b"x"));
    recorder.ends();
    assert_eq!((cache.figures().entries, cache.figures().bytes), (0, 0));
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
            draft.selecting = Selecting::of(&asked, &answer, &cache.secret).expect("one name");
            let mut recorder = Recorder::begin(&cache, draft, None).expect("room");
            recorder.push(&Bytes::from(vec![b'x'; bytes]));
            recorder.ends();
        }
        let slot = cache.find(&key).expect("it is stored");
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
    let figures = again.figures();
    assert!(figures.entries > 0 && figures.bytes <= 1 << 18, "{figures:?}");
    drop((cache, again));
    caches.forget_unused();
    assert!(caches.all().is_empty());
}

#[test]
fn who_reads_along_what_is_given_up_still_gets_all_of_it() {
    let cache = cache(1 << 20);
    let draft = draft(&cache, key(&cache, 1), HeaderMap::new());
    let mut recorder = Recorder::begin(&cache, draft, None).expect("room");
    let Turn::Lead(lead) = cache.flights.enter(key(&cache, 1)) else {
        panic!("somebody else leads")
    };
    recorder.share(lead);
    let Turn::Follow(flight) = cache.flights.enter(key(&cache, 1)) else { panic!("nobody leads") };
    let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
    let landed = std::pin::pin!(flight.landed()).as_mut().poll(&mut cx);
    let std::task::Poll::Ready(Landed::Answer(growing)) = landed else {
        panic!("no answer to read along")
    };
    let mut reader = growing.read().expect("its beginning is here");
    let mut got = 0;
    for _ in 0..64 {
        recorder.push(&Bytes::from(vec![b'x'; 16 << 10]));
        while let std::task::Poll::Ready(Some(Ok(frame))) = reader.poll(&mut cx) {
            got += frame.len();
        }
    }
    recorder.ends();
    assert_eq!(
        (got, reader.poll(&mut cx)),
        (1 << 20, std::task::Poll::Ready(None::<Result<_, End>>))
    );
    assert!(cache.find(&key(&cache, 1)).is_none());
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
            let figures = cache.figures();
            prop_assert!(figures.bytes <= 1 << shift, "{:?}", figures);
            prop_assert_eq!(figures.recording, 0);
        }
    }
}
