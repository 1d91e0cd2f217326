//! The `model` of a JSON body, found without parsing the whole body.
//!
//! The body is read only as far as a `model` may follow, so that a long prompt behind it costs little
//! and a body that has arrived in part can be read. Of equal keys the last one counts, as for most
//! parsers. If there is no such string, the body is not rewritten.
//!
//! A form (`multipart/form-data`, RFC 7578), as for audio, has a field of that name.

use std::ops::Range;
use std::rc::Rc;
use std::sync::LazyLock;

use memchr::memmem::{self, Finder};

use crate::json::scan::Members;
use crate::json::value;
use crate::proxy::downstream::content_coding::Undecodable;

/// The end of the key, and how each of its letters may be escaped. Built once, because most bodies are
/// searched for both.
static KEY: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(b"model\""));
static ESCAPED: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(b"\\u006"));

/// The parts of a path before and after a model: of Google's APIs, Azure OpenAI and Amazon Bedrock.
const IN_PATH: [(&str, &str); 3] = [("/models/", ":"), ("/deployments/", "/"), ("/model/", "/")];

/// The top-level `model` of a JSON body, or the field of a form.
#[derive(Clone, Debug)]
pub struct ModelName {
    pub name: Rc<str>,
    /// The position of its value, quotes included.
    pub at: Range<usize>,
    /// The value is text without quotes.
    pub is_field: bool,
}

/// Why a body's model is unknown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnknownModel {
    /// The body is encoded.
    Encoded(Undecodable),
    /// The model may be in a part of the body that was not kept.
    NotKept,
}

impl UnknownModel {
    pub fn explain(self) -> &'static str {
        match self {
            UnknownModel::Encoded(why) => why.explain(),
            UnknownModel::NotKept => {
                "it is not in the part of the body that was kept: send `model` first, or raise the \
                 route's `replay`"
            }
        }
    }
}

impl ModelName {
    pub fn find(body: &[u8]) -> Option<ModelName> {
        if body.starts_with(b"--") {
            return ModelName::find_field(body);
        }
        let mut last = None;
        for at in Members::new(body, "model") {
            let rest = at.end;
            last = Some(at);
            if !may_follow(&body[rest..]) {
                break;
            }
        }
        let at = last.filter(|at| value::is_string(&body[at.clone()]))?;
        let name = Rc::from(value::text(&body[at.clone()])?);
        Some(ModelName { name, at, is_field: false })
    }

    /// The last field `model` of a form whose end was received.
    fn find_field(body: &[u8]) -> Option<ModelName> {
        let line = memmem::find(body, b"\r\n")?;
        let delimiter = [b"\r\n", &body[..line]].concat();
        let mut last = None;
        let mut start = line + 2;
        while let Some(length) = memmem::find(&body[start..], &delimiter) {
            let part = &body[start..start + length];
            if let Some(head) =
                memmem::find(part, b"\r\n\r\n").filter(|end| is_model(&part[..*end]))
            {
                last = Some(start + head + 4..start + length);
            }
            start += length + delimiter.len();
        }
        let at = last?;
        let name = Rc::from(std::str::from_utf8(&body[at.clone()]).ok()?);
        Some(ModelName { name, at, is_field: true })
    }
}

/// The model that a path names, as received: `/models/NAME:VERB`, `/deployments/NAME/...` or
/// `/model/NAME/...`.
pub fn model_in_path(path: &str) -> Option<&str> {
    IN_PATH.iter().find_map(|(before, after)| {
        let (_, rest) = path.rsplit_once(before)?;
        let (name, _) = rest.split_once(after)?;
        Some(name).filter(|name| !name.is_empty() && !name.contains('/'))
    })
}

/// Whether the head of a part names the field `model`.
fn is_model(head: &[u8]) -> bool {
    let head = std::str::from_utf8(head).unwrap_or_default();
    let parameters = head.split([';', '\r', '\n']).map(str::trim);
    parameters.filter_map(|parameter| parameter.split_once('=')).any(|(name, value)| {
        name.eq_ignore_ascii_case("name") && value.trim_matches('"') == "model"
    })
}

/// Why the model of a part of a body, or of an encoded one, cannot be known; `None` if it has none. A
/// form with a `purpose` is the upload of a file.
pub fn unknown_model(
    kept: &[u8],
    is_whole: bool,
    undecodable: Option<Undecodable>,
) -> Option<UnknownModel> {
    if let Some(why) = undecodable {
        return Some(UnknownModel::Encoded(why));
    }
    let text = kept.strip_prefix(b"\xef\xbb\xbf").unwrap_or(kept).trim_ascii_start();
    let may_name_one = match text.first() {
        None | Some(b'{') => true,
        Some(b'-') => memmem::find(text, b"name=\"purpose\"").is_none(),
        Some(_) => false,
    };
    (!is_whole && may_name_one).then_some(UnknownModel::NotKept)
}

/// Whether the text may contain the key, as it is or with escaped letters.
fn may_follow(rest: &[u8]) -> bool {
    let is_escaped = |rest: &[u8]| {
        memchr::memchr(b'\\', rest).is_some_and(|at| ESCAPED.find(&rest[at..]).is_some())
    };
    KEY.find(rest).is_some() || is_escaped(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FORM: &str = "--x\r\nContent-Disposition: form-data; name=\"file\"; filename=\"model\"\r\n\r\nmodel\r\n\
                        --x\r\ncontent-disposition: form-data; name=\"model\"\r\n\r\nwhisper\r\n--x--\r\n";

    #[test]
    fn a_form_has_the_model_in_a_field() {
        let found = ModelName::find(FORM.as_bytes()).expect("a model");
        assert_eq!((&*found.name, &FORM[found.at], found.is_field), ("whisper", "whisper", true));
        for form in [
            &FORM[..FORM.len() - 8],
            "--x",
            "--x\r\n\r\n",
            "--",
            &FORM.replace("\"model\"", "\"m\""),
        ] {
            assert!(ModelName::find(form.as_bytes()).is_none(), "{form}");
        }
    }

    #[test]
    fn a_model_that_may_be_in_the_rest_of_the_body_is_unknown() {
        let unknown = |kept: &str, is_whole| unknown_model(kept.as_bytes(), is_whole, None);
        for kept in ["", "{\"messages\":[", " {", "\u{feff}{", "--x\r\n"] {
            assert_eq!(unknown(kept, false), Some(UnknownModel::NotKept), "{kept}");
            assert_eq!(unknown(kept, true), None, "{kept}");
        }
        assert_eq!(unknown("RIFF", false), None);
        assert_eq!(unknown("--x\r\nContent-Disposition: form-data; name=\"purpose\"", false), None);
        let why = Undecodable::Malformed;
        assert_eq!(unknown_model(b"x", true, Some(why)), Some(UnknownModel::Encoded(why)));
    }

    #[test]
    fn a_path_names_a_model() {
        for (path, expected) in [
            ("/v1beta/models/gemini-2.0-flash:streamGenerateContent", Some("gemini-2.0-flash")),
            ("/v1/projects/p/publishers/google/models/gemini:predict", Some("gemini")),
            ("/openai/deployments/gpt-4o/chat/completions", Some("gpt-4o")),
            ("/model/anthropic.claude-v2%3A1/invoke", Some("anthropic.claude-v2%3A1")),
            ("/v1/models", None),
            ("/v1/models/gpt-4o", None),
            ("/v1/models/:verb", None),
            ("/v1/models/a/b:verb", None),
            ("/v1/chat/completions", None),
        ] {
            assert_eq!(model_in_path(path), expected, "{path}");
        }
    }

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
            assert_eq!(found.as_ref().map(|model| &*model.name), expected, "{body}");
            if let Some(found) = found {
                assert_eq!(&body[found.at], format!("\"{}\"", found.name));
            }
        }
    }
}
