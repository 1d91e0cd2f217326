//! Which requests a route takes: by path, method, host and headers.
//!
//! Runs for each request and each route until one matches, so nothing here allocates. The path
//! is compared as it was received, percent-encoding and all, and without the query: what is
//! matched is what is sent on, and no two spellings are folded into one that the provider may
//! tell apart. A host has no port and no case (RFC 9110, 4.2.3). A regex may match anywhere in
//! the text; `^` and `$` tie it to the ends.

use http::{HeaderMap, Method};
use regex_lite::Regex;

use super::model::Match;

#[derive(Clone, Debug)]
pub enum PathPattern {
    Segments {
        /// Between the slashes; none is the empty path's.
        segments: Vec<Segment>,
        /// `**` at the end: anything may follow, nothing too.
        rest: bool,
    },
    Regex(Regex),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Segment {
    Exact(String),
    /// `*`: any one that is not empty.
    Any,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HostPattern {
    Any,
    /// In lower case.
    Exact(String),
    /// `*.local` is kept as `.local`.
    Below(String),
}

/// One value of the header must match, where it has several.
#[derive(Clone, Debug)]
pub enum HeaderMatch {
    Exact(String),
    Regex(Regex),
    /// Whether it is there at all.
    Present(bool),
}

// === impl PathPattern ===

impl PathPattern {
    /// Every path.
    pub fn any() -> Self {
        Self::Segments { segments: Vec::new(), rest: true }
    }

    pub fn parse(text: &str) -> Result<Self, String> {
        let Some(inner) = text.strip_prefix('/') else {
            return Err(format!("`{text}` is no path: expected a `/` first, like `/v1/chat/**`"));
        };
        if let Some(bad) =
            text.chars().find(|c| matches!(c, '?' | '#') || c.is_whitespace() || c.is_control())
        {
            return Err(format!(
                "`{text}` is no path: it holds {bad:?} (a path is matched as received, without its query)"
            ));
        }
        let (inner, rest) = match inner.strip_suffix("**") {
            Some("") => return Ok(Self::any()),
            Some(before) if before.ends_with('/') => (&before[..before.len() - 1], true),
            Some(_) => return Err(stars(text)),
            None => (inner, false),
        };
        let segments = inner.split('/').map(|segment| match segment {
            "*" => Ok(Segment::Any),
            _ if segment.contains('*') => Err(stars(text)),
            _ => Ok(Segment::Exact(segment.to_owned())),
        });
        Ok(Self::Segments { segments: segments.collect::<Result<_, _>>()?, rest })
    }

    pub fn matches(&self, path: &str) -> bool {
        match self {
            Self::Regex(regex) => regex.is_match(path),
            Self::Segments { segments, rest } => follow(segments, *rest, path),
        }
    }

    /// Whether each path that `other` matches is matched by this one, as far as can be told.
    pub fn covers(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Segments { segments, rest: true }, _) if segments.is_empty() => true,
            (Self::Regex(one), Self::Regex(two)) => one.as_str() == two.as_str(),
            (
                Self::Segments { segments: a, rest: a_rest },
                Self::Segments { segments: b, rest: b_rest },
            ) => {
                let length =
                    if *a_rest { a.len() <= b.len() } else { a.len() == b.len() && !b_rest };
                length && a.iter().zip(b).all(|(a, b)| a.covers(b))
            }
            _ => false,
        }
    }
}

fn stars(text: &str) -> String {
    format!("`{text}` is no path: `*` stands for one whole segment, `**` for the rest, at the end")
}

fn follow(segments: &[Segment], rest: bool, path: &str) -> bool {
    if segments.is_empty() {
        return rest;
    }
    let Some(path) = path.strip_prefix('/') else { return false };
    let mut given = path.split('/');
    segments.iter().all(|segment| given.next().is_some_and(|text| segment.matches(text)))
        && (rest || given.next().is_none())
}

impl Segment {
    fn matches(&self, text: &str) -> bool {
        match self {
            Self::Exact(exact) => exact == text,
            Self::Any => !text.is_empty(),
        }
    }

    fn covers(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Any, Self::Exact(exact)) => !exact.is_empty(),
            _ => self == other,
        }
    }
}

// === impl HostPattern ===

impl HostPattern {
    pub fn parse(text: &str) -> Result<Self, String> {
        let below = text.strip_prefix("*.").map(|rest| (rest, true));
        let (name, below) = below.unwrap_or((text, false));
        let address = name.starts_with('[') && name.ends_with(']');
        if name == "*" {
            return Ok(Self::Any);
        }
        if !address && name.contains(':') {
            return Err(format!("`{text}` is no host: leave the port out, it is not looked at"));
        }
        let good =
            |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_' | '[' | ']' | ':');
        if name.is_empty() || !name.chars().all(good) {
            return Err(format!(
                "`{text}` is no host: expected a name like `api.local` or `*.local`"
            ));
        }
        let name = name.to_ascii_lowercase();
        Ok(if below { Self::Below(format!(".{name}")) } else { Self::Exact(name) })
    }

    /// `host` as in the `Host` header, with or without a port.
    pub fn matches(&self, host: &str) -> bool {
        let host = without_port(host).as_bytes();
        match self {
            Self::Any => true,
            Self::Exact(name) => host.eq_ignore_ascii_case(name.as_bytes()),
            Self::Below(suffix) => {
                host.len() > suffix.len()
                    && host[host.len() - suffix.len()..].eq_ignore_ascii_case(suffix.as_bytes())
            }
        }
    }

    pub fn covers(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Any, _) => true,
            (Self::Below(suffix), Self::Exact(name) | Self::Below(name)) => {
                self == other || (name.len() > suffix.len() && name.ends_with(suffix.as_str()))
            }
            _ => self == other,
        }
    }
}

fn without_port(host: &str) -> &str {
    match host.rfind(']') {
        Some(end) if host.starts_with('[') => &host[..=end],
        _ => host.split(':').next().unwrap_or(host),
    }
}

// === impl HeaderMatch ===

impl HeaderMatch {
    fn matches(&self, headers: &HeaderMap, name: &http::HeaderName) -> bool {
        let mut values = headers.get_all(name).iter();
        match self {
            Self::Present(wanted) => headers.contains_key(name) == *wanted,
            Self::Exact(exact) => values.any(|value| value.as_bytes() == exact.as_bytes()),
            Self::Regex(regex) => values.any(|value| {
                std::str::from_utf8(value.as_bytes()).is_ok_and(|text| regex.is_match(text))
            }),
        }
    }

    fn covers(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Present(true), Self::Exact(_) | Self::Regex(_)) => true,
            (Self::Present(a), Self::Present(b)) => a == b,
            (Self::Exact(a), Self::Exact(b)) => a == b,
            (Self::Regex(a), Self::Regex(b)) => a.as_str() == b.as_str(),
            (Self::Regex(a), Self::Exact(b)) => a.is_match(b),
            _ => false,
        }
    }
}

// === impl Match ===

impl Match {
    /// `host` is the authority or `Host`; `path` as received, without the query.
    pub fn matches(&self, method: &Method, host: &str, path: &str, headers: &HeaderMap) -> bool {
        (self.methods.is_empty() || self.methods.contains(method))
            && self.path.matches(path)
            && self.host.as_ref().is_none_or(|pattern| pattern.matches(host))
            && self.headers.iter().all(|(name, wanted)| wanted.matches(headers, name))
    }

    /// Whether each request that `other` matches is matched by this one, as far as can be told.
    pub fn covers(&self, other: &Self) -> bool {
        let methods = self.methods.is_empty()
            || (!other.methods.is_empty()
                && other.methods.iter().all(|m| self.methods.contains(m)));
        let host = match (&self.host, &other.host) {
            (None, _) => true,
            (Some(one), Some(two)) => one.covers(two),
            (Some(one), None) => *one == HostPattern::Any,
        };
        let headers = self.headers.iter().all(|(name, one)| {
            other.headers.iter().any(|(other_name, two)| name == other_name && one.covers(two))
        });
        methods && host && headers && self.path.covers(&other.path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::{HeaderName, HeaderValue};
    use proptest::prelude::*;

    fn path(pattern: &str, path: &str) -> bool {
        PathPattern::parse(pattern).unwrap().matches(path)
    }

    fn host(pattern: &str, host: &str) -> bool {
        HostPattern::parse(pattern).unwrap().matches(host)
    }

    #[test]
    fn a_star_is_one_segment_and_two_are_the_rest() {
        assert!(path("/v1/models", "/v1/models") && !path("/v1/models", "/v1/models/"));
        assert!(
            path("/v1/*/x", "/v1/a/x")
                && !path("/v1/*/x", "/v1//x")
                && !path("/v1/*/x", "/v1/a/b/x")
        );
        assert!(path("/v1/**", "/v1/a/b") && path("/v1/**", "/v1/") && path("/v1/**", "/v1"));
        assert!(!path("/v1/**", "/v10") && !path("/v1/**", "/") && !path("/v1/**", "v1/a"));
        assert!(path("/**", "/") && path("/**", "*") && path("/**", ""));
        assert!(path("/", "/") && !path("/", "/a") && !path("/", ""));
        assert!(path("/*", "/a") && !path("/*", "/"));
    }

    #[test]
    fn two_spellings_of_a_path_are_two_paths() {
        assert!(!path("/a/b", "/a%2Fb") && !path("/a", "/%61") && !path("/a", "/A"));
        assert!(path("/*", "/a%2Fb"));
    }

    #[test]
    fn a_host_has_no_port_and_no_case() {
        assert!(host("api.local", "API.local:8700") && host("*.local", "a.b.LOCAL"));
        assert!(
            !host("*.local", ".local") && !host("*.local", "local") && !host("*.local", "xlocal")
        );
        assert!(host("[::1]", "[::1]:80") && host("[::1]", "[::1]") && !host("[::1]", "[::2]:80"));
        assert!(host("*", "") && !host("a", ""));
    }

    fn matcher(
        pattern: &str,
        methods: &[Method],
        headers: Vec<(HeaderName, HeaderMatch)>,
    ) -> Match {
        let (path, methods) = (PathPattern::parse(pattern).unwrap(), methods.to_vec());
        Match { path, methods, host: None, headers }
    }

    #[test]
    fn all_that_is_given_must_match_and_one_value_of_a_header_is_enough() {
        let tenant = HeaderName::from_static("x-tenant");
        let wanted = |wanted| matcher("/**", &[Method::POST], vec![(tenant.clone(), wanted)]);
        let mut headers = HeaderMap::new();
        let asked =
            |wanted: &Match, headers: &HeaderMap| wanted.matches(&Method::POST, "a", "/", headers);
        assert!(!asked(&wanted(HeaderMatch::Exact("gold".into())), &headers));
        assert!(asked(&wanted(HeaderMatch::Present(false)), &headers));
        headers.append(&tenant, HeaderValue::from_static("tin"));
        headers.append(&tenant, HeaderValue::from_static("gold"));
        assert!(asked(&wanted(HeaderMatch::Exact("gold".into())), &headers));
        assert!(asked(&wanted(HeaderMatch::Regex(Regex::new("^g").unwrap())), &headers));
        assert!(asked(&wanted(HeaderMatch::Present(true)), &headers));
        assert!(!asked(&wanted(HeaderMatch::Exact("gol".into())), &headers));
        let gold = wanted(HeaderMatch::Exact("gold".into()));
        assert!(!gold.matches(&Method::GET, "a", "/", &headers));
    }

    #[test]
    fn a_route_covers_what_asks_for_more() {
        let any = matcher("/**", &[], vec![]);
        let posts = matcher("/v1/**", &[Method::POST], vec![]);
        let chat = matcher(
            "/v1/*",
            &[Method::POST],
            vec![(HeaderName::from_static("a"), HeaderMatch::Present(true))],
        );
        assert!(any.covers(&posts) && any.covers(&any) && posts.covers(&chat));
        assert!(!posts.covers(&any) && !chat.covers(&posts));
        let other = matcher("/v2/**", &[], vec![]);
        assert!(!posts.covers(&other) && !other.covers(&posts));
    }

    proptest! {
        #[test]
        fn what_is_covered_is_matched(one in "(/(a|b|\\*)){0,3}(/\\*\\*)?", two in "(/(a|b|\\*)){0,3}(/\\*\\*)?", given in "(/(a|b|c)?){0,4}") {
            let (one, two) = (PathPattern::parse(&one), PathPattern::parse(&two));
            if let (Ok(one), Ok(two)) = (one, two)
                && one.covers(&two)
                && two.matches(&given)
            {
                prop_assert!(one.matches(&given));
            }
        }

        #[test]
        fn no_text_makes_a_match_panic(pattern in "\\PC{0,12}", text in "\\PC{0,12}") {
            let _ = PathPattern::parse(&pattern).map(|pattern| pattern.matches(&text));
            let _ = HostPattern::parse(&pattern).map(|pattern| pattern.matches(&text));
        }
    }
}
