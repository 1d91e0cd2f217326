//! The `model` of a JSON body, found without parsing the whole body.
//!
//! The body is read only as far as a `model` may follow, so that a long prompt behind it costs little
//! and a body that has arrived in part can be read. Of equal keys the last one counts, as for most
//! parsers. If there is no such string, the body is not rewritten.

use std::ops::Range;

use memchr::memmem;

use crate::json::scan::Members;
use crate::json::value;

/// The top-level `model` of a JSON body.
#[derive(Clone, Debug)]
pub struct ModelName {
    pub name: String,
    /// The position of its value, quotes included.
    pub at: Range<usize>,
}

impl ModelName {
    pub fn find(body: &[u8]) -> Option<ModelName> {
        let mut last = None;
        for at in Members::new(body, "model") {
            let rest = at.end;
            last = Some(at);
            if !may_follow(&body[rest..]) {
                break;
            }
        }
        let at = last.filter(|at| value::is_string(&body[at.clone()]))?;
        let name = value::text(&body[at.clone()])?.into_owned();
        Some(ModelName { name, at })
    }
}

/// Whether the text may contain the key, as it is or with escaped letters.
fn may_follow(rest: &[u8]) -> bool {
    memmem::find(rest, b"model\"").is_some() || memmem::find(rest, b"\\u006").is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_of_equal_keys_counts() {
        for (body, expected) in [
            (r#"{"model":"a","messages":[]}"#, Some("a")),
            (r#"{"model":"a","messages":[{"model":"x"}],"model":"b"}"#, Some("b")),
            (r#"{"model":"a","mod\u0065l":"b"}"#, Some("b")),
            (r#"{"model":"a","x":"model\"" }"#, Some("a")),
            (r#"{"model":"a","model":7}"#, None),
            ("\u{feff}{\"model\":\"a\"}", Some("a")),
            (r#"{"messages":[{"model":"x"}]}"#, None),
        ] {
            let found = ModelName::find(body.as_bytes());
            assert_eq!(found.as_ref().map(|model| model.name.as_str()), expected, "{body}");
            if let Some(found) = found {
                assert_eq!(&body[found.at], format!("\"{}\"", found.name));
            }
        }
    }
}
