//! Tests of the quota headers, in the dialects of the providers' documentation.

use super::*;
use http::HeaderMap;
use proptest::prelude::*;

/// 2025-08-21T12:40:00Z.
const WALL: u64 = 1_755_780_000;

fn wall() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(WALL)
}

fn read(lines: &[(&'static str, &str)]) -> QuotaReports {
    let mut headers = HeaderMap::new();
    for (name, value) in lines {
        headers.append(*name, HeaderValue::from_bytes(value.as_bytes()).expect("a value"));
    }
    reported_quotas(&headers, wall)
}

fn bucket(limit: f64, remaining: f64, millis: u64) -> Option<QuotaReport> {
    let reset = Some(Duration::from_millis(millis));
    Some(QuotaReport { limit: Some(limit), remaining, reset, refill: Refill::Bucket })
}

fn window(limit: f64, remaining: f64, seconds: u64) -> Option<QuotaReport> {
    let report = bucket(limit, remaining, seconds * 1_000);
    report.map(|report| QuotaReport { refill: Refill::Window, ..report })
}

#[test]
fn openai_reports_requests_and_tokens() {
    let left = read(&[
        ("x-ratelimit-limit-requests", "5000"),
        ("x-ratelimit-limit-tokens", "160000"),
        ("x-ratelimit-remaining-requests", "4999"),
        ("x-ratelimit-remaining-tokens", "159976"),
        ("x-ratelimit-reset-requests", "12ms"),
        ("x-ratelimit-reset-tokens", "6m0s"),
    ]);
    assert_eq!(left.requests, bucket(5_000.0, 4_999.0, 12));
    assert_eq!(left.tokens, bucket(160_000.0, 159_976.0, 360_000));
}

#[test]
fn groq_reports_requests_of_a_day() {
    let left = read(&[
        ("x-ratelimit-limit-requests", "1000"),
        ("x-ratelimit-remaining-requests", "942"),
        ("x-ratelimit-reset-requests", "1h23m31.2s"),
    ]);
    assert_eq!(left, QuotaReports { requests: bucket(1_000.0, 942.0, 5_011_200), tokens: None });
}

#[test]
fn azure_reports_the_rest_and_sometimes_the_reset() {
    let bare = |remaining, seconds: Option<u64>| {
        let reset = seconds.map(Duration::from_secs);
        Some(QuotaReport { limit: None, remaining, reset, refill: Refill::Bucket })
    };
    let remaining =
        [("x-ratelimit-remaining-requests", "79"), ("x-ratelimit-remaining-tokens", "61353")];
    let left = read(&remaining);
    assert_eq!(left, QuotaReports { requests: bare(79.0, None), tokens: bare(61_353.0, None) });
    let [a, b] = remaining;
    assert_eq!(read(&[a, b, ("retry-after", "20")]).tokens, bare(61_353.0, Some(20)));
    let left = read(&[
        a,
        ("x-ratelimit-limit-tokens", "-1"),
        ("x-ratelimit-remaining-tokens", "-1"),
        ("x-ratelimit-reset-tokens", "0"),
    ]);
    assert_eq!(left, QuotaReports { requests: bare(79.0, None), tokens: None });
}

#[test]
fn anthropic_reports_times_by_its_own_clock() {
    let lines = [
        ("anthropic-ratelimit-requests-limit", "1000"),
        ("anthropic-ratelimit-requests-remaining", "847"),
        ("anthropic-ratelimit-requests-reset", "2025-08-21T12:40:10Z"),
        ("anthropic-ratelimit-tokens-limit", "80000"),
        ("anthropic-ratelimit-tokens-remaining", "80000"),
        ("anthropic-ratelimit-tokens-reset", "2025-08-21T12:39:59Z"),
    ];
    let expected = QuotaReports {
        requests: bucket(1_000.0, 847.0, 10_000),
        tokens: bucket(80_000.0, 80_000.0, 0),
    };
    assert_eq!(read(&lines), expected);
    let dated = [lines.as_slice(), &[("date", "Thu, 21 Aug 2025 12:40:04 GMT")]].concat();
    assert_eq!(read(&dated).requests, bucket(1_000.0, 847.0, 6_000));
}

#[test]
fn of_anthropics_tokens_the_scarcest_count_and_none_that_rounding_added() {
    let requests = ("anthropic-ratelimit-requests-remaining", "847");
    let input = [
        ("anthropic-ratelimit-input-tokens-limit", "80000"),
        ("anthropic-ratelimit-input-tokens-remaining", "40000"),
        ("anthropic-ratelimit-input-tokens-reset", "2025-08-21T12:40:30Z"),
    ];
    let output = [
        ("anthropic-ratelimit-output-tokens-limit", "20000"),
        ("anthropic-ratelimit-output-tokens-remaining", "5000"),
        ("anthropic-ratelimit-output-tokens-reset", "2025-08-21T12:40:45Z"),
    ];
    let all = [
        ("anthropic-ratelimit-tokens-limit", "90000"),
        ("anthropic-ratelimit-tokens-remaining", "45000"),
        ("anthropic-ratelimit-tokens-reset", "2025-08-21T12:40:30Z"),
    ];
    let tokens = |lines: &[&[(&'static str, &str)]]| {
        read(&[&[requests], lines.concat().as_slice()].concat()).tokens
    };
    assert_eq!(tokens(&[&input]), bucket(80_000.0, 39_500.0, 30_000));
    assert_eq!(tokens(&[&input, &output]), bucket(100_000.0, 22_500.0, 45_000));
    assert_eq!(tokens(&[&all, &input, &output]), bucket(90_000.0, 20_250.0, 45_000));
    assert_eq!(tokens(&[&all, &input]), bucket(90_000.0, 44_437.5, 30_000));
}

#[test]
fn a_window_may_end_at_a_time_or_after_some() {
    for (reset, seconds) in [("1755780600", 600), ("1755780600000", 600), ("591", 591)] {
        let left = read(&[
            ("x-ratelimit-limit", "5000"),
            ("x-ratelimit-remaining", "4987"),
            ("x-ratelimit-used", "13"),
            ("x-ratelimit-reset", reset),
        ]);
        assert_eq!(
            left,
            QuotaReports { requests: window(5_000.0, 4_987.0, seconds), tokens: None }
        );
    }
}

#[test]
fn the_draft_reports_in_one_header_and_its_policy() {
    for (reported, policy, expected) in [
        (r#""default";r=50;t=30"#, r#""default";q=100;w=60"#, window(100.0, 50.0, 30)),
        (r#"default;r=50;t=30"#, r#"default;q=100;w=60"#, window(100.0, 50.0, 30)),
        (
            r#""permin";r=20;t=23, "perhr";r=19;t=2402"#,
            r#""permin";q=50;w=60, "perhr";q=1000;w=3600, "perday";q=5000;w=86400"#,
            window(1_000.0, 19.0, 2_402),
        ),
        (
            r#""big";r=1;t=5, "a,b;\"c";r=7;t=9"#,
            r#""big";q=9;qu="content-bytes", "a,b;\"c";q=8;qu="requests";pk=:c3Q=:"#,
            window(8.0, 7.0, 9),
        ),
        ("limit=100, remaining=50, reset=30", "100;w=60", window(100.0, 50.0, 30)),
    ] {
        let left = read(&[("ratelimit", reported), ("ratelimit-policy", policy)]);
        assert_eq!(left, QuotaReports { requests: expected, tokens: None }, "{reported}");
    }
    let left = read(&[("ratelimit", r#""default";r=50;t=30"#)]);
    assert_eq!(left.requests.map(|report| report.limit), Some(None));
    let lines = read(&[("ratelimit", r#""a";r=50;t=30"#), ("ratelimit", r#""b";r=5;t=3"#)]);
    assert_eq!(lines.requests.map(|report| report.remaining), Some(5.0));
}

#[test]
fn the_older_draft_reports_in_three_headers() {
    let left = read(&[
        ("ratelimit-limit", "100, 100;w=60"),
        ("ratelimit-remaining", "42"),
        ("ratelimit-reset", "17"),
    ]);
    assert_eq!(left, QuotaReports { requests: window(100.0, 42.0, 17), tokens: None });
}

#[test]
fn garbage_is_not_there() {
    for garbage in ["", "-1", "many", "NaN", "inf", "\u{b5}", "0x10", ";;==,,", "\"", "\\"] {
        for sign in [
            "x-ratelimit-remaining-requests",
            "x-ratelimit-remaining",
            "anthropic-ratelimit-requests-remaining",
            "ratelimit",
            "ratelimit-remaining",
        ] {
            assert_eq!(read(&[(sign, garbage)]), QuotaReports::default(), "{sign}: {garbage}");
        }
        let left = read(&[
            ("x-ratelimit-remaining-requests", "3"),
            ("x-ratelimit-limit-requests", garbage),
            ("x-ratelimit-reset-requests", garbage),
        ]);
        let expected =
            QuotaReport { limit: None, remaining: 3.0, reset: None, refill: Refill::Bucket };
        assert_eq!(left.requests, Some(expected), "{garbage}");
    }
    assert_eq!(read(&[("retry-after", "3"), ("x-ratelimit-limit", "5")]), QuotaReports::default());
}

#[test]
fn iso_8601_times_without_seconds_or_with_a_short_offset_are_read() {
    for (text, seconds) in
        [("2025-08-21T12:41Z", 1_755_780_060), ("2025-08-21T14:41:00+0200", 1_755_780_060)]
    {
        assert_eq!(time_until(text, by(0)), Some(Duration::from_secs(seconds)), "{text}");
    }
}

proptest! {
    #[test]
    fn any_header_is_safe(
        values in prop::collection::vec(
            r#"[0-9]{1,20}|[0-9]{1,4}(h|m|s|ms)|[a-z";,=0-9 \\-]{0,40}|\PC{0,20}"#, 24
        )
    ) {
        let families = OPENAI.iter().chain(&ANTHROPIC).chain([&GITHUB, &IETF_THREE]);
        let names = families.flat_map(|names| [&names.limit, &names.remaining, &names.reset]);
        let mut headers = HeaderMap::new();
        for (name, value) in names.chain([&IETF_SINGLE, &IETF_POLICY, &DATE]).zip(values.iter().cycle()) {
            if let Ok(value) = HeaderValue::from_bytes(value.as_bytes()) {
                headers.append(name, value);
            }
        }
        let QuotaReports { requests, tokens } = reported_quotas(&headers, wall);
        for report in requests.into_iter().chain(tokens) {
            prop_assert!(report.remaining >= 0.0 && report.remaining.is_finite());
            prop_assert!(report.limit.is_none_or(f64::is_finite));
        }
    }
}

#[test]
fn retry_after_is_read_in_each_of_its_forms() {
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777);
    for (name, value, expected) in [
        ("retry-after", "7", Some(7_000)),
        ("retry-after", "1.5", Some(1_500)),
        ("retry-after", "Sun, 06 Nov 1994 08:49:47 GMT", Some(10_000)),
        ("retry-after", "Sun, 06 Nov 1994 08:00:00 GMT", Some(0)),
        ("retry-after", "-1", None),
        ("retry-after", "999999999", Some(999_999_999_000)),
        ("retry-after", "1000000000", Some(1_000_000_000_000)),
        ("retry-after", "99999999999999999999999999", Some(1_000_000_000_000)),
        ("retry-after", "1e300", None),
        ("retry-after", "inf", None),
        ("retry-after", ".", None),
        ("retry-after-ms", "99999999999999999999", Some(1_000_000_000_000)),
        ("retry-after", "soon", None),
        ("retry-after-ms", "250", Some(250)),
    ] {
        let mut headers = HeaderMap::new();
        headers.insert(name, value.parse().expect("a value"));
        let expected = expected.map(Duration::from_millis);
        assert_eq!(retry_after(&headers, || now), expected, "{name}: {value}");
    }
}

fn at(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
}

fn by(seconds: u64) -> ResponseClock {
    ResponseClock { date: None, wall: at(seconds) }
}

#[test]
fn a_moment_counts_from_the_date_of_its_response_unless_that_is_wrong() {
    for (date, expected) in [
        // The provider's clock is an hour behind ours, or three hours ahead.
        (WALL - 3_600, 3_660),
        (WALL - 50, 110),
        (WALL + 10_800, 0),
        // Such a wait cannot be meant.
        (WALL - 90_000, 60),
        (0, 60),
    ] {
        let date = httpdate::fmt_http_date(at(date));
        for reset in ["1755780060", "1755780060000", "2025-08-21T12:41:00Z"] {
            let report = read(&[
                ("date", &date),
                ("x-ratelimit-limit", "10"),
                ("x-ratelimit-remaining", "0"),
                ("x-ratelimit-reset", reset),
            ]);
            assert_eq!(report.requests, window(10.0, 0.0, expected), "{date}: {reset}");
        }
        let report =
            read(&[("date", &date), ("ratelimit", "limit=10, remaining=0, reset=1755780060")]);
        assert_eq!(report.requests, window(10.0, 0.0, expected), "{date}");
    }
}

#[test]
fn each_form_of_a_time_is_read() {
    let now = by(1_755_780_000);
    for (text, millis) in [
        ("0", 0),
        ("55", 55_000),
        ("1.5", 1_500),
        ("30, 30;w=60", 30_000),
        ("1s", 1_000),
        ("6m0s", 360_000),
        ("120ms", 120),
        ("2m59.56s", 179_560),
        ("1h23m31s", 5_011_000),
        ("23h59m45s", 86_385_000),
        ("1d2h", 93_600_000),
        ("1000µs", 1),
        ("1755780012", 12_000),
        ("1755780012500", 12_500),
        ("1755779000", 0),
        ("99999999999999999999", 1_000_000_000_000),
        ("99999999999999999999h", 1_000_000_000_000),
        ("2025-08-21T12:41:00Z", 60_000),
        ("2025-08-21t12:41:00.250z", 60_250),
        ("2025-08-21T14:41:00+02:00", 60_000),
        ("2025-08-21T07:11:00-05:30", 60_000),
        ("2025-08-21T12:39:59Z", 0),
    ] {
        assert_eq!(time_until(text, now), Some(Duration::from_millis(millis)), "{text}");
    }
}

#[test]
fn other_texts_are_not_a_time() {
    for text in [
        "",
        " ",
        "-1",
        "inf",
        "NaN",
        "1e400",
        "s",
        "5x",
        "1s2",
        ".s",
        "1.2.3s",
        "soon",
        "Tue Feb 16 2021 09:02:42 GMT+0100",
        "2025-08-21",
        "2025-08-21T12:41:00",
        "99999-08-21T12:41:00Z",
        "--T::Z",
    ] {
        assert_eq!(time_until(text, by(0)), None, "{text}");
    }
}

proptest! {
    #[test]
    fn an_rfc_3339_time_is_read(seconds in 0u64..7_258_118_400) {
        let http = httpdate::fmt_http_date(at(seconds));
        let month = 1 + "JanFebMarAprMayJunJulAugSepOctNovDec".find(&http[8..11]).expect("a month") / 3;
        let text = format!("{}-{month:02}-{}T{}Z", &http[12..16], &http[5..7], &http[17..25]);
        prop_assert_eq!(time_until(&text, by(0)), Some(Duration::from_secs(seconds)));
    }

    #[test]
    fn no_text_makes_it_panic(text in "[0-9a-zµTZ:+. -]{0,32}|\\PC{0,32}") {
        let _ = time_until(&text, by(1_755_780_000));
    }
}
