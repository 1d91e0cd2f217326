//! Rewriting for a provider: the model's name, values in the JSON body, the path.
//!
//! A body is spliced, never parsed and serialized again: the rest stays byte for byte as the client
//! sent it.

use std::borrow::Cow;
use std::fmt;

use bytes::Bytes;
use http::Uri;
use http::uri::PathAndQuery;
use serde::Deserialize;
use serde::de::{MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::model_name::ModelName;
use crate::credentials::query;
use crate::json::pointer::Pointer;
use crate::json::value;
use crate::policy::sections::model::{ProviderPolicy, Rewrite, RewritePath, Url};

/// The body is not JSON, or the policy's pointers do not apply to it.
#[derive(Debug, PartialEq, Eq)]
pub struct NotJson;

/// Replaces the model's name, if `models` (from, to) has it.
pub fn model(body: &Bytes, name: Option<&ModelName>, models: &[(String, String)]) -> Bytes {
    let Some(ModelName { name, at, is_field }) = name else { return body.clone() };
    let Some((_, theirs)) = models.iter().find(|(ours, _)| **ours == **name) else {
        return body.clone();
    };
    // Exact for a name that needs no escape, so that the vector becomes `Bytes` without another allocation.
    let quotes = if *is_field { 0 } else { 2 };
    let mut out = Vec::with_capacity(body.len() - at.len() + theirs.len() + quotes);
    out.extend_from_slice(&body[..at.start]);
    if *is_field {
        out.extend_from_slice(theirs.as_bytes());
    } else if serde_json::to_writer(&mut out, theirs).is_err() {
        return body.clone();
    }
    out.extend_from_slice(&body[at.end..]);
    out.into()
}

/// The model's name as the provider receives it. A value that `rewrite.body` sets counts most.
pub fn model_sent<'a>(name: Option<&'a str>, provider: &'a ProviderPolicy) -> Option<Cow<'a, str>> {
    let is_model = |pointer: &Pointer| pointer.tokens() == ["model"];
    let set = provider.rewrite.body.set.iter().rfind(|(pointer, _)| is_model(pointer));
    if let Some((_, value)) = set {
        return value::text(value.0.as_bytes());
    }
    let name = name?;
    let theirs = provider.models.iter().find(|(ours, _)| ours == name);
    Some(theirs.map_or(name, |(_, theirs)| theirs).into())
}

/// Sets and removes the policy's values in the body.
///
/// # Errors
/// When the body has no object or array at a step of a pointer.
pub fn body(body: &Bytes, rewrite: &Rewrite) -> Result<Bytes, NotJson> {
    if !rewrite.changes_body() {
        return Ok(body.clone());
    }
    let text = body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body);
    let mut text = Cow::Borrowed(std::str::from_utf8(text).map_err(|_| NotJson)?);
    for (pointer, value) in &rewrite.body.set {
        text = Cow::Owned(put(&text, pointer, Some(&value.0))?);
    }
    for pointer in &rewrite.body.remove {
        text = Cow::Owned(put(&text, pointer, None)?);
    }
    Ok(Bytes::from(text.into_owned()))
}

fn put(text: &str, pointer: &Pointer, value: Option<&str>) -> Result<String, NotJson> {
    let raw: &RawValue = serde_json::from_str(text).map_err(|_| NotJson)?;
    let mut out = String::with_capacity(text.len() + 64);
    write_changed(&mut out, raw.get(), pointer.tokens(), value)?;
    Ok(out)
}

/// Writes `text` with the value at `path` replaced, added, or removed (`None`).
fn write_changed(
    out: &mut String,
    text: &str,
    path: &[String],
    value: Option<&str>,
) -> Result<(), NotJson> {
    let Some((token, rest)) = path.split_first() else {
        out.push_str(value.unwrap_or("null"));
        return Ok(());
    };
    match serde_json::from_str(text).map_err(|_| NotJson)? {
        Shape::Object(pairs) => write_object(out, &pairs, token, rest, value),
        Shape::Array(items) => write_array(out, &items, token, rest, value),
        Shape::Other => Err(NotJson),
    }
}

fn write_object(
    out: &mut String,
    pairs: &[(Cow<'_, str>, &RawValue)],
    token: &str,
    rest: &[String],
    value: Option<&str>,
) -> Result<(), NotJson> {
    out.push('{');
    let mut first = true;
    let mut key = |out: &mut String, key: &str| {
        if !std::mem::take(&mut first) {
            out.push(',');
        }
        out.push_str(&serde_json::Value::from(key).to_string());
        out.push(':');
    };
    for (name, raw) in pairs {
        if name != token {
            key(out, name);
            out.push_str(raw.get());
        } else if !(rest.is_empty() && value.is_none()) {
            key(out, name);
            write_changed(out, raw.get(), rest, value)?;
        }
    }
    if let Some(value) = value.filter(|_| !pairs.iter().any(|(name, _)| name == token)) {
        key(out, token);
        write_changed(out, "{}", rest, Some(value))?;
    }
    out.push('}');
    Ok(())
}

fn write_array(
    out: &mut String,
    items: &[&RawValue],
    token: &str,
    rest: &[String],
    value: Option<&str>,
) -> Result<(), NotJson> {
    let index = token.parse::<usize>().ok();
    out.push('[');
    let mut first = true;
    for (i, item) in items.iter().enumerate() {
        let here = index == Some(i);
        if here && rest.is_empty() && value.is_none() {
            continue;
        }
        if !std::mem::take(&mut first) {
            out.push(',');
        }
        if here {
            write_changed(out, item.get(), rest, value)?;
        } else {
            out.push_str(item.get());
        }
    }
    out.push(']');
    Ok(())
}

/// One level of a document, its values unparsed.
enum Shape<'a> {
    Object(Vec<(Cow<'a, str>, &'a RawValue)>),
    Array(Vec<&'a RawValue>),
    Other,
}

impl<'de: 'a, 'a> Deserialize<'de> for Shape<'a> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Level;
        impl<'de> Visitor<'de> for Level {
            type Value = Shape<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON object or array")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Shape<'de>, A::Error> {
                let mut pairs = Vec::new();
                while let Some((key, value)) = map.next_entry::<Key<'de>, &'de RawValue>()? {
                    pairs.push((key.0, value));
                }
                Ok(Shape::Object(pairs))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Shape<'de>, A::Error> {
                let mut items = Vec::new();
                while let Some(item) = seq.next_element()? {
                    items.push(item);
                }
                Ok(Shape::Array(items))
            }

            fn visit_str<E>(self, _: &str) -> Result<Shape<'de>, E> {
                Ok(Shape::Other)
            }
        }
        deserializer.deserialize_any(Level)
    }
}

#[derive(Deserialize)]
#[serde(transparent)]
struct Key<'a>(#[serde(borrow)] Cow<'a, str>);

/// The target of an attempt: strips the prefix, adds the provider's own path in front, applies the
/// provider's path rewrite, and removes the client's credentials from the query unless the provider
/// receives them (`passes`).
///
/// # Errors
/// When the rewrite results in an invalid path.
pub fn uri(
    uri: &Uri,
    strip: Option<&str>,
    url: &Url,
    rewrite: &Rewrite,
    passes: bool,
) -> Result<Uri, http::uri::InvalidUri> {
    // `OPTIONS *` concerns the server, not a path below its base path (RFC 9112, 3.2.4).
    if uri.path() == "*" {
        return Ok(uri.clone());
    }
    let origin_form = uri.authority().is_none() && uri.path_and_query().is_some();
    let clean = uri.query().filter(|_| !passes).and_then(query::without_credentials);
    let is_plain = strip.is_none() && url.path.is_empty() && rewrite.path.is_none();
    if origin_form && is_plain && clean.is_none() {
        return Ok(uri.clone());
    }
    let path = strip.map_or(uri.path(), |prefix| stripped(uri.path(), prefix));
    let query = match &clean {
        Some(clean) => Some(clean.as_str()).filter(|clean| !clean.is_empty()),
        None => uri.query(),
    };
    let mut target = String::with_capacity(
        url.path.len() + path.len() + query.map_or(1, |query| query.len() + 2),
    );
    target.push_str(&url.path);
    target.push_str(path);
    if let Some(RewritePath { from, to }) = &rewrite.path {
        target = from.replace(&target, to.as_str()).into_owned();
    }
    if !target.starts_with('/') {
        target.insert(0, '/');
    }
    if let Some(query) = query {
        target.push(if target.contains('?') { '&' } else { '?' });
        target.push_str(query);
    }
    PathAndQuery::try_from(target).map(Uri::from)
}

/// A prefix matches whole path segments only.
fn stripped<'a>(path: &'a str, prefix: &str) -> &'a str {
    let prefix = prefix.strip_suffix('/').unwrap_or(prefix);
    match path.strip_prefix(prefix) {
        Some("") => "/",
        Some(rest) if rest.starts_with('/') => rest,
        _ => path,
    }
}

#[cfg(test)]
#[path = "rewrite_tests.rs"]
mod tests;
