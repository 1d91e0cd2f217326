//! Which requests a route takes: by path, method, host and headers.
//!
//! This runs for each request and each route until one matches, so nothing here allocates. The path
//! is compared as received, with its percent-encoding and without the query: the path that is
//! matched is the path that is forwarded, and two spellings of one path are two paths, because the
//! provider may distinguish them. A host has no port and no case (RFC 9110, 4.2.3). A regular
//! expression may match anywhere in the text; `^` and `$` anchor it.

use std::fmt;

use http::{HeaderMap, HeaderName, Method};
use regex_lite::Regex;

use super::rewrite::{MethodName, Pattern, header_name};
use crate::policy::section::{Checker, Map, MapKey, section, text_form, texts};
use crate::policy::yaml::tree::NodeId;

section! {
    /// Which requests a route takes; all that is given must match.
    #[derive(Clone, Debug)]
    pub struct Match {
        /// As received, without the query: exact, `*` for one segment, `**` for the rest; or `{ regex }`.
        path: PathPattern = PathPattern::any();
        /// One of these methods.
        methods: Vec<Method> as Vec<MethodName> = Vec::<Method>::new() => "any",
            where some("no method would match: leave `methods` out for any");
        /// A host, or one like `*.local`; ports are ignored.
        host: Option<HostPattern> = None => "any";
        /// Headers with the value that they must have, `{ regex }`, or `{ present }`.
        headers: Vec<(HeaderName, HeaderMatch)> as Map<MatchedHeader, HeaderMatch>;
    }
}

#[derive(Clone, Debug)]
pub enum PathPattern {
    Segments {
        /// The texts between the slashes; an empty path has none.
        segments: Vec<Segment>,
        /// `**` at the end: anything may follow, or nothing.
        rest: bool,
    },
    Regex(Regex),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Segment {
    Exact(String),
    /// `*`: any segment that is not empty.
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

/// One value of the header must match, if it has several.
#[derive(Clone, Debug)]
pub enum HeaderMatch {
    Exact(String),
    Regex(Regex),
    /// `true`: the header must be present; `false`: it must be absent.
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
            return Err(format!(
                "`{text}` is not a path: expected a `/` first, like `/v1/chat/**`"
            ));
        };
        if let Some(bad) =
            text.chars().find(|c| matches!(c, '?' | '#') || c.is_whitespace() || c.is_control())
        {
            return Err(format!(
                "`{text}` is not a path: it holds {bad:?} (a path is matched as received, without its query)"
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

    /// Whether this pattern matches each path that `other` matches; `false` where that is unknown.
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
    format!(
        "`{text}` is not a path: `*` stands for one whole segment, `**` for the rest, at the end"
    )
}

fn follow(segments: &[Segment], rest: bool, path: &str) -> bool {
    if segments.is_empty() {
        return rest;
    }
    let mut left = path.as_bytes();
    for segment in segments {
        let end = left.strip_prefix(b"/").and_then(|text| segment.end_in(text));
        let Some(end) = end else { return false };
        left = end;
    }
    rest || left.is_empty()
}

impl Segment {
    /// The rest of a path that begins with this segment: nothing, or a slash and more.
    fn end_in<'p>(&self, path: &'p [u8]) -> Option<&'p [u8]> {
        match self {
            Self::Exact(exact) => {
                let rest = path.strip_prefix(exact.as_bytes())?;
                matches!(rest.first(), None | Some(b'/')).then_some(rest)
            }
            Self::Any => {
                let end = memchr::memchr(b'/', path).unwrap_or(path.len());
                (end > 0).then(|| &path[end..])
            }
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
            return Err(format!("`{text}` is not a host: leave the port out, it is ignored"));
        }
        let good =
            |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_' | '[' | ']' | ':');
        if name.is_empty() || !name.chars().all(good) {
            return Err(format!(
                "`{text}` is not a host: expected a name like `api.local` or `*.local`"
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

    /// Whether this matches each request that `other` matches; `false` where that is unknown.
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

// === how they are written ===

section! {
    /// A regular expression for the path.
    #[derive(Clone, Debug)]
    pub struct PathRegex {
        /// May match anywhere; `^` and `$` anchor it.
        regex: Regex as Pattern, like "^/v[12]/";
    }
}

text_form! {
    impl Form<PathPattern> for PathPattern {
        read(node, check) {
            if check.is_map(node) {
                return PathRegex::read(node, check).map(|PathRegex { regex }| Self::Regex(regex));
            }
            let text = check.text(node, "a path, or `{ regex: ... }`")?;
            Self::parse(text).map_err(|message| check.error(node, message)).ok()
        }
        show(value, out) {
            out.text(match value {
                Self::Regex(regex) => format!("regex {}", regex.as_str()),
                Self::Segments { segments, rest } => {
                    let text = segments.iter().map(|segment| match segment {
                        Segment::Exact(text) => format!("/{text}"),
                        Segment::Any => "/*".to_owned(),
                    });
                    text.chain(rest.then(|| "/**".to_owned())).collect()
                }
            });
        }
        describe(out) { ValueShape::OneOf(vec![PathRegex::describe(out), ValueShape::named("path")]) }
    }
}

texts! {
    impl HostPattern for HostPattern: "a host", ValueShape::named("host"), HostPattern::parse, HostPattern::to_string;
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("any"),
            Self::Exact(name) => f.write_str(name),
            Self::Below(suffix) => write!(f, "*{suffix}"),
        }
    }
}

/// The name of a header that a request is matched by.
#[derive(Debug)]
pub struct MatchedHeader;

impl MapKey<HeaderName> for MatchedHeader {
    const NAME: &'static str = "header";

    fn parse(text: &str) -> Result<HeaderName, String> {
        match text.eq_ignore_ascii_case("host") {
            true => Err("the host is matched by `host`, not by `headers`".to_owned()),
            false => header_name(text),
        }
    }
}

section! {
    /// One of the two.
    #[derive(Clone, Debug)]
    pub struct HeaderCondition, finish one_of_two {
        /// May match anywhere; `^` and `$` anchor it.
        regex: Option<Regex> as Option<Pattern>;
        /// `true`: the header must be present; `false`: it must be absent.
        present: Option<bool>;
    }
}

fn one_of_two(_: &mut HeaderCondition, node: NodeId, check: &mut Checker<'_>) {
    if check.present_keys(node, &["regex", "present"]).len() != 1 && !check.damaged(node) {
        check.error(node, "expected one of `regex` and `present`");
    }
}

text_form! {
    impl Form<HeaderMatch> for HeaderMatch {
        // A value may be a credential.
        read(node, check) {
            if !check.is_map(node) {
                return check.text(node, "text, or a map").map(|text| Self::Exact(text.to_owned()));
            }
            match HeaderCondition::read(node, check)? {
                HeaderCondition { regex: Some(regex), .. } => Some(Self::Regex(regex)),
                HeaderCondition { present, .. } => present.map(Self::Present),
            }
        }
        show(value, out) {
            match value {
                Self::Exact(text) => out.inline("not shown", text.as_bytes()),
                Self::Regex(regex) => out.inline("regex, not shown", regex.as_str().as_bytes()),
                Self::Present(present) => out.text(if *present { "present" } else { "absent" }),
            }
        }
        describe(out) { ValueShape::OneOf(vec![ValueShape::text(), HeaderCondition::describe(out)]) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::section::display::text_of;
    use http::HeaderValue;
    use proptest::prelude::*;

    fn path(pattern: &str, path: &str) -> bool {
        PathPattern::parse(pattern).unwrap().matches(path)
    }

    fn host(pattern: &str, host: &str) -> bool {
        HostPattern::parse(pattern).unwrap().matches(host)
    }

    #[test]
    fn one_star_matches_a_segment_and_two_match_the_rest() {
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
    fn ports_and_case_of_a_host_are_ignored() {
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
    fn all_conditions_must_match_and_one_value_of_a_header_is_enough() {
        let tenant = HeaderName::from_static("x-tenant");
        let wanted = |wanted| matcher("/**", &[Method::POST], vec![(tenant.clone(), wanted)]);
        let mut headers = HeaderMap::new();
        let matches =
            |wanted: &Match, headers: &HeaderMap| wanted.matches(&Method::POST, "a", "/", headers);
        assert!(!matches(&wanted(HeaderMatch::Exact("gold".into())), &headers));
        assert!(matches(&wanted(HeaderMatch::Present(false)), &headers));
        headers.append(&tenant, HeaderValue::from_static("tin"));
        headers.append(&tenant, HeaderValue::from_static("gold"));
        assert!(matches(&wanted(HeaderMatch::Exact("gold".into())), &headers));
        assert!(matches(&wanted(HeaderMatch::Regex(Regex::new("^g").unwrap())), &headers));
        assert!(matches(&wanted(HeaderMatch::Present(true)), &headers));
        assert!(!matches(&wanted(HeaderMatch::Exact("gol".into())), &headers));
        let gold = wanted(HeaderMatch::Exact("gold".into()));
        assert!(!gold.matches(&Method::GET, "a", "/", &headers));
    }

    #[test]
    fn a_route_covers_one_with_more_conditions() {
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
        fn a_covered_path_is_matched(one in "(/(a|b|\\*)){0,3}(/\\*\\*)?", two in "(/(a|b|\\*)){0,3}(/\\*\\*)?", given in "(/(a|b|c)?){0,4}") {
            let (one, two) = (PathPattern::parse(&one), PathPattern::parse(&two));
            if let (Ok(one), Ok(two)) = (one, two)
                && one.covers(&two)
                && two.matches(&given)
            {
                prop_assert!(one.matches(&given));
            }
        }

        #[test]
        fn a_path_is_shown_as_it_was_written(text in "(/(a|b|\\*)?){0,3}(/\\*\\*)?") {
            if let Ok(pattern) = PathPattern::parse(&text) {
                prop_assert_eq!(text_of::<PathPattern, PathPattern>(&pattern), text);
            }
        }

        #[test]
        fn no_text_makes_a_match_panic(pattern in "\\PC{0,12}", text in "\\PC{0,12}") {
            let _ = PathPattern::parse(&pattern).map(|pattern| pattern.matches(&text));
            let _ = HostPattern::parse(&pattern).map(|pattern| pattern.matches(&text));
        }
    }
}
