use super::*;
use proptest::prelude::*;

type Lines<'a> = &'a [(&'a str, &'a str)];

const HOUR: Duration = Duration::from_secs(3600);

fn headers(lines: &[(&str, &str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in lines {
        let name = HeaderName::from_bytes(name.as_bytes()).expect("a name");
        headers.append(name, value.parse().expect("a value"));
    }
    headers
}

fn windows() -> StaleWindows {
    StaleWindows { stale_if_error: HOUR, stale_while_revalidate: Duration::ZERO }
}

fn received<'a>(status: u16, headers: &'a HeaderMap, at: Instant) -> ReceivedHead<'a> {
    let status = StatusCode::from_u16(status).expect("a status");
    // Sun, 06 Nov 1994 08:49:37 GMT.
    let wall = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777);
    ReceivedHead { status, headers, requested_at: at, received_at: at, received_wall: wall }
}

fn freshness(status: u16, response: &[(&str, &str)]) -> Option<Freshness> {
    let at = crate::clock::now();
    Freshness::from_http(&HeaderMap::new(), received(status, &headers(response), at), windows())
}

/// Seconds for which a response is fresh.
fn fresh(response: &[(&str, &str)]) -> Option<u64> {
    freshness(200, response).map(|freshness| freshness.remaining(freshness.received_at).as_secs())
}

#[test]
fn the_lifetime_is_read_in_each_form() {
    const DATE: (&str, &str) = ("date", "Sun, 06 Nov 1994 08:49:37 GMT");
    let cases: [(Lines<'_>, Option<u64>); 16] = [
        (&[("cache-control", "max-age=60")], Some(60)),
        (&[("Cache-Control", "MAX-AGE=\"60\"")], Some(60)),
        (&[("cache-control", "max-age=60, s-maxage=5")], Some(5)),
        (&[("cache-control", "max-age=60, proxy-revalidate")], Some(60)),
        (&[("cache-control", "max-age=60"), ("age", "10")], Some(50)),
        (&[("cache-control", "max-age=60"), ("age", "99999999999999999999")], Some(0)),
        (&[("cache-control", "max-age=60"), ("age", "10, 50")], Some(50)),
        (&[("cache-control", "max-age=60"), ("age", "ten")], Some(60)),
        (&[("cache-control", "max-age=60"), ("date", "Sun, 06 Nov 1994 08:49:07 GMT")], Some(30)),
        (&[DATE, ("expires", "Sun, 06 Nov 1994 08:50:37 GMT")], Some(60)),
        (&[DATE, ("expires", "Sunday, 06-Nov-94 08:50:37 GMT")], Some(60)),
        (&[DATE, ("expires", "Sun Nov  6 08:50:37 1994")], Some(60)),
        (&[DATE, ("expires", "0")], Some(0)),
        (&[DATE, ("last-modified", "Sun, 06 Nov 1994 08:48:57 GMT")], Some(4)),
        (&[], Some(0)),
        (&[("cache-control", "no-cache, max-age=60")], Some(0)),
    ];
    for (response, expected) in cases {
        assert_eq!(fresh(response), expected, "{response:?}");
    }
}

#[test]
fn a_response_that_must_not_be_stored_is_not() {
    let cases: [(u16, Lines<'_>, bool); 14] = [
        (200, &[("cache-control", "max-age=60")], true),
        (200, &[("cache-control", "max-age=60, No-Store")], false),
        (200, &[("cache-control", "max-age=60, private")], false),
        (200, &[("cache-control", "no-store, must-understand, max-age=60")], true),
        (299, &[("cache-control", "no-store, must-understand, max-age=60")], false),
        (200, &[("vary", "foo, *")], false),
        (206, &[("cache-control", "max-age=60")], false),
        (304, &[("cache-control", "max-age=60")], false),
        (404, &[], true),
        (500, &[], false),
        (500, &[("cache-control", "max-age=60")], true),
        (200, &[("set-cookie", "a=b")], false),
        (200, &[("set-cookie", "a=b"), ("cache-control", "public")], true),
        (201, &[], false),
    ];
    for (status, response, expected) in cases {
        assert_eq!(freshness(status, response).is_some(), expected, "{status} {response:?}");
    }
}

#[test]
fn a_response_to_a_request_with_authorization_is_stored_only_if_it_permits_that() {
    let request = headers(&[("authorization", "Bearer x")]);
    let stored = |directives| {
        let response = headers(&[("cache-control", directives)]);
        let at = crate::clock::now();
        Freshness::from_http(&request, received(200, &response, at), windows()).is_some()
    };
    let cases = ["max-age=60", "public, max-age=60", "s-maxage=60", "must-revalidate, max-age=60"];
    assert_eq!(cases.map(stored), [false, true, true, true]);
}

#[test]
fn stale_windows_are_those_of_the_response_or_else_of_the_policy() {
    let at = |response: &[(&str, &str)], seconds| {
        let freshness = freshness(200, response).expect("it is stored");
        let now = freshness.received_at + Duration::from_secs(seconds);
        (
            freshness.may_serve_on_error(now),
            freshness.may_serve_while_revalidating(now),
            freshness.may_serve_stale(now, HOUR),
        )
    };
    let own = "max-age=10, stale-if-error=20, stale-while-revalidate=5";
    assert_eq!(at(&[("cache-control", own)], 9), (true, true, true));
    assert_eq!(at(&[("cache-control", own)], 14), (true, true, true));
    assert_eq!(at(&[("cache-control", own)], 29), (true, false, true));
    assert_eq!(at(&[("cache-control", own)], 30), (false, false, true));
    assert_eq!(at(&[("cache-control", "max-age=10")], 3609), (true, false, true));
    assert_eq!(at(&[("cache-control", "max-age=10")], 3611), (false, false, false));
    for strict in ["must-revalidate", "proxy-revalidate", "no-cache", "s-maxage=10"] {
        let directives = format!("max-age=10, stale-if-error=60, {strict}");
        assert_eq!(at(&[("cache-control", &directives)], 11), (false, false, false), "{strict}");
    }
}

#[test]
fn a_response_that_states_no_lifetime_is_revalidated_once_stale() {
    let windows = StaleWindows { stale_if_error: HOUR, stale_while_revalidate: HOUR };
    let after = |response: &[(&str, &str)], seconds| {
        let (at, head) = (crate::clock::now(), headers(response));
        let freshness = Freshness::from_http(&HeaderMap::new(), received(200, &head, at), windows);
        let now = at + Duration::from_secs(seconds);
        let freshness = freshness.expect("it is stored");
        (freshness.may_serve_while_revalidating(now), freshness.may_serve_on_error(now))
    };
    let modified = ("last-modified", "Sun, 06 Nov 1994 08:48:57 GMT");
    assert_eq!(after(&[], 0), (false, true));
    assert_eq!(after(&[("cache-control", "public")], 0), (false, true));
    // Estimated: a tenth of 40 s.
    assert_eq!(after(&[modified], 3), (true, true));
    assert_eq!(after(&[modified], 4), (false, true));
    assert_eq!(after(&[("cache-control", "max-age=10")], 11), (true, true));
    assert_eq!(after(&[("expires", "Sun, 06 Nov 1994 08:49:47 GMT")], 11), (true, true));
    assert_eq!(after(&[("cache-control", "stale-while-revalidate=9")], 5), (true, true));
}

#[test]
fn an_estimated_lifetime_ends_after_a_day() {
    let modified = [("last-modified", "Wed, 06 Nov 1974 08:49:37 GMT")];
    assert_eq!(fresh(&modified), Some(24 * 3600));
}

#[test]
fn the_directives_of_a_request_are_compared_with_age_and_freshness() {
    let freshness = freshness(200, &[("cache-control", "max-age=100")]).expect("it is stored");
    let satisfies = |directives: &str, seconds| {
        let request = CacheControl::of_request(&headers(&[("cache-control", directives)]));
        freshness.satisfies(&request, freshness.received_at + Duration::from_secs(seconds))
    };
    assert!(satisfies("", 50) && !satisfies("", 100));
    assert!(satisfies("max-age=50", 50) && !satisfies("max-age=50", 51));
    assert!(satisfies("min-fresh=50", 50) && !satisfies("min-fresh=50", 51));
    assert!(satisfies("max-stale=10", 110) && !satisfies("max-stale=10", 111));
    assert!(satisfies("max-stale", 10_000) && !satisfies("no-cache", 0));
}

#[test]
fn a_response_stored_by_policy_ignores_headers() {
    let at = crate::clock::now();
    let freshness = Freshness::fixed(at, Duration::from_secs(10), windows());
    assert_eq!(freshness.remaining(at), Duration::from_secs(10));
    assert_eq!(freshness.staleness(at + Duration::from_secs(12)), Some(Duration::from_secs(2)));
    assert!(
        freshness.may_serve_on_error(at + HOUR) && !freshness.may_serve_on_error(at + 2 * HOUR)
    );
}

proptest! {
    #[test]
    fn no_header_panics_and_the_age_never_decreases(
        control in "[a-z0-9=,\" -]{0,40}",
        age in "[0-9]{0,30}",
        date in "[A-Za-z0-9 :,-]{0,32}",
        status in 200u16..600,
        seconds in 0u64..1 << 40,
    ) {
        let response = [("cache-control", &*control), ("age", &*age), ("expires", &*date), ("date", &*date)];
        if let Some(freshness) = freshness(status, &response) {
            let later = freshness.received_at.checked_add(Duration::from_secs(seconds));
            if let Some(now) = later {
                prop_assert!(freshness.age(now) >= freshness.age(freshness.received_at));
                prop_assert!(freshness.remaining(now) <= freshness.remaining(freshness.received_at));
                prop_assert_eq!(freshness.staleness(now).is_some(), freshness.remaining(now).is_zero());
            }
        }
    }
}
