//! The pass over a JSON text, against serde_json: the same texts, the same values.

use proptest::prelude::*;
use serde::de::IgnoredAny;
use serde_json::Value;

use super::pointer::Pointer;
use super::pointer_set::PointerSet;
use super::scan::*;

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
    fn what_is_found_is_what_the_pointer_means(
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
    fn it_takes_what_serde_json_takes(
        text in "[\\[\\]{}:,\"\\\\a-fu0-9 .eE+\\-\u{1}\nü]{0,12}|(true|false|null|-?[0-9]{1,3}(\\.[0-9]{0,2})?([eE][+-]?[0-9]{0,2})?)",
    ) {
        let ours = scan(text.as_bytes(), &PointerSet::default(), &mut PointerMatches::default());
        prop_assert_eq!(ours.is_ok(), serde_json::from_str::<IgnoredAny>(&text).is_ok());
    }

    #[test]
    fn one_that_was_damaged_is_taken_only_where_serde_json_takes_it(
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
fn what_is_nested_too_deep_is_not_read() {
    let nested = |depth: usize| "[".repeat(depth) + &"]".repeat(depth);
    let scan =
        |text: &str| scan(text.as_bytes(), &PointerSet::default(), &mut PointerMatches::default());
    assert_eq!(scan(&nested(128)), Ok(()));
    assert_eq!(scan(&nested(129)), Err(JsonError));
    assert_eq!(scan(&"[".repeat(1 << 20)), Err(JsonError));
}

#[test]
fn a_value_is_something_unless_it_is_null_false_or_empty() {
    for nothing in ["null", "false", "\"\"", "[]", "[ ]", "{}", "{\n}"] {
        assert!(!is_something(nothing.as_bytes()), "{nothing}");
    }
    for something in ["0", "-1.5", "true", "\" \"", "[null]", "{\"a\":null}"] {
        assert!(is_something(something.as_bytes()), "{something}");
    }
}

#[test]
fn a_text_is_a_string_as_it_is_meant_and_all_else_as_it_is_written() {
    for (value, meant) in [
        (r#""a""#, Some("a")),
        (r#""a\n\u00fc""#, Some("a\nü")),
        (r#""\ud83d\ude00""#, Some("😀")),
        (r#""half of a pair: \ud83d""#, None),
        ("1.50", Some("1.50")),
        ("[1, 2]", Some("[1, 2]")),
    ] {
        assert_eq!(text(value.as_bytes()).as_deref(), meant, "{value}");
    }
    assert_eq!([b"7".as_slice(), b"-7", b"7.5", b"null"].map(number), [Some(7), None, None, None]);
}

#[test]
fn a_string_ends_at_its_quote_wherever_that_stands_and_takes_no_control_character() {
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
