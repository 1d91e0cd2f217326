use super::*;
use crate::policy::sections::model::{JsonText, RewriteBody};
use proptest::prelude::*;
use regex_lite::Regex;
use serde_json::{Value, json};

fn rewrite(set: &[(&str, &str)], remove: &[&str]) -> Rewrite {
    let pointer = |text: &str| Pointer::parse(text).expect("a pointer");
    let set = set.iter().map(|(p, v)| (pointer(p), JsonText((*v).to_owned()))).collect();
    let remove = remove.iter().map(|p| pointer(p)).collect();
    Rewrite { path: None, body: RewriteBody { set, remove } }
}

fn changed(text: &str, rewrite: &Rewrite) -> String {
    let bytes = body(&Bytes::from(text.to_owned()), rewrite).expect("JSON");
    String::from_utf8(bytes.to_vec()).expect("text")
}

#[test]
fn only_what_is_named_changes() {
    let text = r#"{ "a" : 1.50 , "b":{"c":[1, 2]},"user":"u" }"#;
    let rewrite =
        rewrite(&[("/b/c/0", "9"), ("/stream_options/include_usage", "true")], &["/user"]);
    assert_eq!(
        changed(text, &rewrite),
        r#"{"a":1.50,"b":{"c":[9,2]},"stream_options":{"include_usage":true}}"#
    );
}

#[test]
fn a_body_that_is_not_json_is_rejected() {
    let set = rewrite(&[("/a", "1")], &[]);
    for text in ["", "{", "1", "\"a\"", "{\"a\":}"] {
        assert_eq!(body(&Bytes::from_static(text.as_bytes()), &set), Err(NotJson), "{text}");
    }
}

#[test]
fn the_path_is_stripped_prefixed_and_rewritten_and_keeps_its_query() {
    let url = |path: &str| Url {
        https: false,
        host: "h".into(),
        port: 80,
        authority: "h".into(),
        path: path.into(),
    };
    let to = |from: &str, strip: Option<&str>, prefix: &str, rewrite: &Rewrite| {
        let from: Uri = from.parse().expect("a URI");
        uri(&from, strip, &url(prefix), rewrite, true).expect("a path").to_string()
    };
    let none = Rewrite::default();
    assert_eq!(to("/v1/x?q=1", None, "", &none), "/v1/x?q=1");
    assert_eq!(to("http://other/v1/x?q=1", None, "", &none), "/v1/x?q=1");
    assert_eq!(to("/openai/v1/x?q=1", Some("/openai"), "", &none), "/v1/x?q=1");
    assert_eq!(to("/openai", Some("/openai/"), "/base", &none), "/base/");
    assert_eq!(to("/openaix/v1", Some("/openai"), "", &none), "/openaix/v1");
    assert_eq!(to("*", Some("/openai"), "/base", &none), "*");
    let azure = Rewrite {
        path: Some(RewritePath {
            from: Regex::new("^/v1/(.*)$").expect("a pattern"),
            to: "/openai/v1/$1?api-version=1".into(),
        }),
        ..Rewrite::default()
    };
    assert_eq!(to("/v1/chat?x=y", None, "", &azure), "/openai/v1/chat?api-version=1&x=y");
}

fn object() -> impl Strategy<Value = Value> {
    prop::collection::btree_map("[a-c]", any::<i16>(), 0..4)
        .prop_map(|map| json!({ "o": map, "l": [1, {"a": 2}], "s": "x\"y" }))
}

proptest! {
    #[test]
    fn setting_and_removing_agree_with_a_whole_parse(mut value in object(), key in "[a-c]", new in any::<i32>(), remove in any::<bool>()) {
        let pointer = format!("/o/{key}");
        let text = serde_json::to_string_pretty(&value).expect("json");
        let new = new.to_string();
        let rewrite = if remove { rewrite(&[], &[&pointer]) } else { rewrite(&[(&pointer, &new)], &[]) };
        let read: Value = serde_json::from_str(&changed(&text, &rewrite)).expect("json");
        let inner = value["o"].as_object_mut().expect("an object");
        if remove { inner.shift_remove(&key); } else { inner.insert(key, new.parse().expect("a number")); }
        prop_assert_eq!(read, value);
    }
}
