//! The scan agrees with serde_json on which texts are JSON and on the values in them.

use proptest::prelude::*;
use serde::de::IgnoredAny;
use serde_json::Value;

use super::*;
use crate::json::pointer::Pointer;

fn pointer(text: &str) -> Pointer {
    Pointer::parse(text).expect("a pointer")
}

fn json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i32>().prop_map(Value::from),
        any::<i16>().prop_map(|n| Value::from(f64::from(n) / 4.0)),
        "[a-c\"\\\\\u{1}ü ]{0,4}".prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::vec(("[a-c\"ü]{0,2}", inner), 0..4)
                .prop_map(|pairs| Value::Object(pairs.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn a_scan_finds_the_value_that_the_pointer_names(
        value in json(),
        pointers in prop::collection::vec("(/([a-c\"ü]{0,2}|[0-3])){0,3}", 1..5),
        pretty in any::<bool>(),
    ) {
        let text = if pretty { serde_json::to_string_pretty(&value) } else { serde_json::to_string(&value) };
        let text = text.expect("text");
        let mut compiled = PointerSet::default();
        let slots: Vec<_> = pointers.iter().map(|p| compiled.slot(&pointer(p))).collect();
        let mut found = PointerMatches::default();
        for reads in [scan, find] {
            prop_assert_eq!(reads(text.as_bytes(), &compiled, &mut found), Ok(()));
            for (p, slot) in pointers.iter().zip(&slots) {
                let raw = found.value(*slot, text.as_bytes());
                let read = raw.map(|raw| serde_json::from_slice::<Value>(raw).expect("a value"));
                prop_assert_eq!(read.as_ref(), value.pointer(p), "{}", p);
            }
        }
    }

    #[test]
    fn a_scan_accepts_exactly_what_serde_json_accepts(
        text in "[\\[\\]{}:,\"\\\\a-fu0-9 .eE+\\-\u{1}\nü]{0,12}|(true|false|null|-?[0-9]{1,3}(\\.[0-9]{0,2})?([eE][+-]?[0-9]{0,2})?)",
    ) {
        let ours = scan(text.as_bytes(), &PointerSet::default(), &mut PointerMatches::default());
        prop_assert_eq!(ours.is_ok(), serde_json::from_str::<IgnoredAny>(&text).is_ok());
    }

    #[test]
    fn a_scan_accepts_a_damaged_text_only_if_serde_json_does(
        value in json(), at in any::<prop::sample::Index>(), byte in any::<u8>(), cut in any::<bool>(),
    ) {
        let mut text = value.to_string().into_bytes();
        let at = at.index(text.len());
        if cut { text.truncate(at) } else { text[at] = byte }
        let ours = scan(&text, &PointerSet::default(), &mut PointerMatches::default());
        let theirs = std::str::from_utf8(&text).is_ok_and(|t| serde_json::from_str::<IgnoredAny>(t).is_ok());
        prop_assert_eq!(ours.is_ok(), theirs);
    }
}

#[test]
fn of_equal_keys_the_last_counts() {
    let mut pointers = PointerSet::default();
    let (deep, flat) = (pointers.slot(&pointer("/a/b")), pointers.slot(&pointer("/c")));
    let mut found = PointerMatches::default();
    let text = br#"{"a":{"b":1},"a":{},"c":1,"\u0063":2}"#;
    assert_eq!(scan(text, &pointers, &mut found), Ok(()));
    assert_eq!((found.value(deep, text), found.value(flat, text)), (None, Some(&b"2"[..])));
}

#[test]
fn a_text_that_is_nested_too_deep_is_rejected() {
    let nested = |depth: usize| "[".repeat(depth) + &"]".repeat(depth);
    let scan =
        |text: &str| scan(text.as_bytes(), &PointerSet::default(), &mut PointerMatches::default());
    assert_eq!(scan(&nested(128)), Ok(()));
    assert_eq!(scan(&nested(129)), Err(JsonError));
    assert_eq!(scan(&"[".repeat(1 << 20)), Err(JsonError));
}

#[test]
fn a_string_of_any_length_ends_at_its_quote_and_contains_no_control_character() {
    let mut found = PointerMatches::default();
    for length in 0..40 {
        let mut text =
            format!("\"{}\"", "ÿ\u{7f} ~".repeat(10).chars().take(length).collect::<String>());
        assert_eq!(scan(text.as_bytes(), &PointerSet::default(), &mut found), Ok(()), "{text:?}");
        let at = text.len() - 1;
        text.insert(at, '\u{1f}');
        assert_eq!(
            scan(text.as_bytes(), &PointerSet::default(), &mut found),
            Err(JsonError),
            "{text:?}"
        );
    }
}

#[test]
fn of_equal_keys_the_last_counts_among_many_pointers_too() {
    let mut pointers = PointerSet::default();
    for number in 0..100 {
        pointers.slot(&pointer(&format!("/a/{number}x")));
    }
    let (first, last) = (pointers.slot(&pointer("/a/1x")), pointers.slot(&pointer("/a/99x/deep")));
    let mut found = PointerMatches::default();
    let text = br#"{"a":{"1x":1,"99x":{"deep":1},"99x":2,"1x":3},"b":0}"#;
    assert_eq!(scan(text, &pointers, &mut found), Ok(()));
    assert_eq!((found.value(first, text), found.value(last, text)), (Some(&b"3"[..]), None));
}

fn member(text: &str) -> Option<&str> {
    Members::new(text.as_bytes(), "model").last().map(|range| &text[range])
}

#[test]
fn a_member_is_found_anywhere_on_the_top_level() {
    assert_eq!(member(r#"{"model":"a"}"#), Some(r#""a""#));
    assert_eq!(
        member(r#" { "x" : {"model":"no"}, "y":[1,"]"], "model" : "a\"b" } "#),
        Some(r#""a\"b""#)
    );
    assert_eq!(
        member(r#"{"n":-1.5e3,"t":true,"model":"a","messages":[{"#),
        Some(r#""a""#),
        "the text may be incomplete behind it"
    );
    assert_eq!(member(r#"{"model":"a""#), Some(r#""a""#));
    assert_eq!(member("\u{feff}{\"model\":\"a\"}"), Some(r#""a""#));
    assert_eq!(member(r#"{"model":"a","x":1,"model":"b"}"#), Some(r#""b""#), "the last one counts");
    assert_eq!(member(r#"{"model":"a","\u006dodel":[1] , "x":{}}"#), Some("[1]"));
    let is_complete = |text: &str| {
        let mut members = Members::new(text.as_bytes(), "model");
        members.by_ref().for_each(drop);
        members.is_complete()
    };
    assert!(
        is_complete(r#"{"model":"a" }"#) && is_complete("{}") && !is_complete(r#"{"model":"a","#)
    );
}

#[test]
fn a_member_that_is_missing_nested_or_incomplete_is_not_found() {
    for text in [
        "",
        "{",
        "[]",
        "\"model\"",
        r#"{"model":1"#,
        r#"{"model":"a"#,
        r#"{"a":{"model":"b"}}"#,
        r#"{"a":"b" "model":"c"}"#,
    ] {
        assert_eq!(member(text), None, "{text}");
    }
}

proptest! {
    #[test]
    fn a_member_is_the_one_that_serde_json_reads(value in json(), pretty in any::<bool>()) {
        let text = if pretty { serde_json::to_string_pretty(&value) } else { serde_json::to_string(&value) };
        let text = text.expect("text");
        let found = Members::new(text.as_bytes(), "a").last().map(|range| serde_json::from_str::<Value>(&text[range]).expect("a value"));
        prop_assert_eq!(found.as_ref(), value.get("a"));
    }

    #[test]
    fn no_input_causes_a_panic(bytes in prop::collection::vec(prop::sample::select(b"{}[]\",:\\model1 \n".to_vec()), 0..64)) {
        let _ = Members::new(&bytes, "model").last();
    }
}
