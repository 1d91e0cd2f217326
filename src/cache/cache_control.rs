//! `Cache-Control` (RFC 9111, 5.2) of a request or a response, as far as this cache uses it.
//!
//! If a directive is repeated or its value is invalid, the stricter reading applies: the shorter
//! freshness, or none (RFC 9111, 4.2.1).

use std::time::Duration;

use http::HeaderMap;
use http::header::{CACHE_CONTROL, HeaderName, PRAGMA};

const MAX_SECONDS: u64 = 1 << 31;
/// The longest time that a directive can state (RFC 9111, 1.2.2).
const FOREVER: Duration = Duration::from_secs(MAX_SECONDS);

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CacheControl {
    pub no_store: bool,
    pub no_cache: bool,
    pub private: bool,
    pub public: bool,
    pub immutable: bool,
    pub must_revalidate: bool,
    pub proxy_revalidate: bool,
    pub must_understand: bool,
    pub only_if_cached: bool,
    pub max_age: Option<Duration>,
    pub s_maxage: Option<Duration>,
    pub min_fresh: Option<Duration>,
    /// Without a value it has no limit.
    pub max_stale: Option<Duration>,
    pub stale_if_error: Option<Duration>,
    pub stale_while_revalidate: Option<Duration>,
}

impl CacheControl {
    pub fn of_response(headers: &HeaderMap) -> CacheControl {
        let mut control = CacheControl::default();
        for value in headers.get_all(CACHE_CONTROL) {
            // A line that is not text cannot be followed.
            match value.to_str() {
                Ok(line) => list_elements(line).for_each(|element| control.apply(element)),
                Err(_) => control.no_store = true,
            }
        }
        control
    }

    /// `Pragma: no-cache` applies if there is no `Cache-Control` (RFC 9111, 5.4).
    pub fn of_request(headers: &HeaderMap) -> CacheControl {
        let mut control = CacheControl::of_response(headers);
        if !headers.contains_key(CACHE_CONTROL) {
            let mut pragma = headers.get_all(PRAGMA).iter().filter_map(|value| value.to_str().ok());
            control.no_cache = pragma.any(|line| {
                list_elements(line).any(|element| element.trim().eq_ignore_ascii_case("no-cache"))
            });
        }
        control
    }

    fn apply(&mut self, element: &str) {
        let (name, value) = match element.split_once('=') {
            Some((name, value)) => (name.trim(), Some(unquoted(value.trim()))),
            None => (element.trim(), None),
        };
        let seconds = || delta_seconds(value.unwrap_or_default()).unwrap_or_default();
        match name.to_ascii_lowercase().as_str() {
            "no-store" => self.no_store = true,
            "no-cache" => self.no_cache = true,
            "private" => self.private = true,
            "public" => self.public = true,
            "immutable" => self.immutable = true,
            "must-revalidate" => self.must_revalidate = true,
            "proxy-revalidate" => self.proxy_revalidate = true,
            "must-understand" => self.must_understand = true,
            "only-if-cached" => self.only_if_cached = true,
            "max-age" => lower(&mut self.max_age, seconds()),
            "s-maxage" => lower(&mut self.s_maxage, seconds()),
            "min-fresh" => raise(&mut self.min_fresh, seconds()),
            "max-stale" if value.is_none() => lower(&mut self.max_stale, FOREVER),
            "max-stale" => lower(&mut self.max_stale, seconds()),
            "stale-if-error" => lower(&mut self.stale_if_error, seconds()),
            "stale-while-revalidate" => lower(&mut self.stale_while_revalidate, seconds()),
            _ => {}
        }
    }

    /// It must never be served stale (RFC 9111, 4.2.4).
    pub fn forbids_stale(&self) -> bool {
        self.must_revalidate || self.proxy_revalidate || self.no_cache || self.s_maxage.is_some()
    }

    /// The freshness is explicit.
    pub fn has_explicit_lifetime(&self) -> bool {
        self.max_age.is_some() || self.s_maxage.is_some()
    }

    /// The form that `http-cache-semantics` reads: lower case, each once, with valid numbers.
    pub fn canonical(&self) -> String {
        let flags = [
            ("no-store", self.no_store),
            ("no-cache", self.no_cache),
            ("private", self.private),
            ("public", self.public),
            ("immutable", self.immutable),
            ("must-revalidate", self.must_revalidate),
        ];
        let mut parts: Vec<String> =
            flags.iter().filter(|(_, is)| *is).map(|(name, _)| (*name).to_owned()).collect();
        for (name, value) in [("max-age", self.max_age), ("s-maxage", self.s_maxage)] {
            parts.extend(value.map(|value| format!("{name}={}", value.as_secs())));
        }
        parts.join(", ")
    }
}

fn lower(slot: &mut Option<Duration>, value: Duration) {
    *slot = Some(slot.map_or(value, |known| known.min(value)));
}

fn raise(slot: &mut Option<Duration>, value: Duration) {
    *slot = Some(slot.map_or(value, |known| known.max(value)));
}

/// The non-empty elements of a list; a comma in quotes does not separate.
pub fn list_elements(line: &str) -> impl Iterator<Item = &str> {
    let (mut quoted, mut escaped) = (false, false);
    let is_end = move |c: char| {
        let plain = !std::mem::take(&mut escaped);
        escaped = plain && quoted && c == '\\';
        quoted ^= plain && c == '"';
        c == ',' && !quoted
    };
    line.split(is_end).map(str::trim).filter(|element| !element.is_empty())
}

/// The elements of all lines of a header; lines that are not text are skipped.
pub fn header_elements<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Vec<&'h str> {
    let lines = headers.get_all(name).into_iter().filter_map(|value| value.to_str().ok());
    lines.flat_map(list_elements).collect()
}

fn unquoted(value: &str) -> &str {
    value.strip_prefix('"').and_then(|value| value.strip_suffix('"')).unwrap_or(value)
}

/// `delta-seconds` (RFC 9111, 1.2.2).
pub fn delta_seconds(text: &str) -> Option<Duration> {
    let is_number = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    is_number.then(|| Duration::from_secs(text.parse().unwrap_or(MAX_SECONDS).min(MAX_SECONDS)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn control(lines: &[&str]) -> CacheControl {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(CACHE_CONTROL, line.parse().expect("a value"));
        }
        CacheControl::of_response(&headers)
    }

    #[test]
    fn directives_are_read_in_any_case_quoted_or_not() {
        let read = control(&["No-CaChE, MAX-AGE=\"60\",, ext=\"a, no-store\"", "S-maxage=5"]);
        let secs = |s| Some(Duration::from_secs(s));
        let expected = CacheControl {
            no_cache: true,
            max_age: secs(60),
            s_maxage: secs(5),
            ..CacheControl::default()
        };
        assert_eq!(read, expected);
    }

    #[test]
    fn the_stricter_reading_applies() {
        let age = |line: &str| control(&[line]).max_age.map(|age| age.as_secs());
        assert_eq!(age("max-age=60, max-age=5"), Some(5));
        for none in
            ["max-age=a60", "max-age=-1", "max-age=1.5", "max-age", "max-age=", "max-age='60'"]
        {
            assert_eq!(age(none), Some(0), "{none}");
        }
        assert_eq!(age("max-age=99999999999999999999999"), Some(MAX_SECONDS));
        assert_eq!(control(&["max-stale"]).max_stale, Some(FOREVER));
    }

    #[test]
    fn pragma_applies_only_without_cache_control() {
        let mut headers = HeaderMap::new();
        headers.insert(PRAGMA, "No-Cache".parse().expect("a value"));
        assert!(CacheControl::of_request(&headers).no_cache);
        headers.insert(CACHE_CONTROL, "max-age=1".parse().expect("a value"));
        assert!(!CacheControl::of_request(&headers).no_cache);
    }

    proptest! {
        #[test]
        fn the_canonical_form_reads_the_same(
            line in "(no-store|no-cache|private|public|max-age=[0-9]{1,12}|s-maxage=\"?[0-9a]{1,4}\"?|x)(, ?(NO-STORE|immutable|max-age=[0-9]{1,3}|must-revalidate))*"
        ) {
            let read = control(&[&line]);
            prop_assert_eq!(control(&[&read.canonical()]), read);
        }
    }
}
