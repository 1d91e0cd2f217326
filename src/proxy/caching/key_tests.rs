use super::*;
use crate::policy::sections::model::StoreAll;
use proptest::prelude::*;
use std::time::Duration;

/// Headers that identify the principal, and others.
const CREDENTIALS: [&str; 11] = [
    "authorization",
    "x-api-key",
    "api-key",
    "cookie",
    "x-goog-api-key",
    "private-token",
    "apikey",
    "x-session-token",
    "x-vault-token",
    "dpop",
    "proxy-authorization",
];
const OTHERS: [&str; 4] = ["accept", "user-agent", "x-request-id", "accept-language"];

type Lines = Vec<(String, String)>;

fn lines(names: &'static [&'static str]) -> impl Strategy<Value = Lines> {
    let line =
        (0..names.len(), "[a-c]{0,3}").prop_map(|(name, value)| (names[name].to_owned(), value));
    prop::collection::vec(line, 0..4)
}

fn headers(credentials: &Lines, others: &Lines) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in credentials.iter().chain(others) {
        let name = HeaderName::from_bytes(name.as_bytes()).expect("a name");
        headers.append(name, value.parse().expect("a value"));
    }
    headers
}

/// The principal: its credentials, ordered by name.
fn principal(credentials: &Lines) -> Lines {
    let mut credentials = credentials.clone();
    credentials.sort_by(|one, other| one.0.cmp(&other.0));
    credentials
}

fn always(public: bool) -> Keeps {
    let key = vec![KeyPart::Method, KeyPart::Path, KeyPart::Body];
    Keeps::Always(StoreAll { ttl: Duration::from_secs(1), key, public })
}

#[test]
fn a_credential_in_the_query_is_a_principal_though_the_query_is_not_in_the_key() {
    let (secret, none) = (CacheSecret::new().expect("chance"), HeaderMap::new());
    let key = |public: bool, path: &str| key(&secret, &always(public), &none, path);
    assert_ne!(key(false, "/x?n=1&key=a"), key(false, "/x?n=1&key=b"));
    assert_ne!(key(false, "/x?Access_Token=a"), key(false, "/x"));
    assert_ne!(key(false, "/x?%6bey=a"), key(false, "/x?%6bey=b"));
    assert_ne!(key(false, "/x?X-Amz-Signature=a"), key(false, "/x?X-Amz-Signature=b"));
    assert_eq!(key(false, "/x?n=1&key=a"), key(false, "/x?key=a&n=2"));
    assert_eq!(key(true, "/x?key=a"), key(true, "/x?key=b"));
}

fn key(secret: &CacheSecret, keeps: &Keeps, headers: &HeaderMap, path: &str) -> CacheKey {
    let uri: Uri = path.parse().expect("a path");
    let identity = &CallerIdentity::of(headers, &uri);
    KeyedRequest { route: "r", method: &Method::POST, uri: &uri, headers, identity, body: b"{}" }
        .key(secret, keeps)
}

proptest! {
    #[test]
    fn two_principals_never_have_the_same_key_and_one_always_has(
        one in lines(&CREDENTIALS), other in lines(&CREDENTIALS), noise in lines(&OTHERS), more in lines(&OTHERS),
    ) {
        let secret = CacheSecret::new().expect("chance");
        let (a, b) = (headers(&one, &noise), headers(&other, &more));
        let same = principal(&one) == principal(&other);
        for keeps in [Keeps::Http, always(false)] {
            prop_assert_eq!(key(&secret, &keeps, &a, "/x") == key(&secret, &keeps, &b, "/x"), same);
            prop_assert_ne!(key(&secret, &keeps, &a, "/x"), key(&secret, &keeps, &a, "/y"));
        }
        let public = always(true);
        prop_assert_eq!(key(&secret, &public, &a, "/x"), key(&secret, &public, &b, "/x"));
        prop_assert_ne!(key(&secret, &public, &a, "/x"), key(&secret, &always(false), &a, "/x"));
    }

    #[test]
    fn every_listed_part_counts_and_no_other(
        header in "[a-b]{0,2}", other_header in "[a-b]{0,2}",
        body in "[ 12]{1,3}", other_body in "[ 12]{1,3}",
        query in "[a-b]{0,2}", other_query in "[a-b]{0,2}",
    ) {
        let secret = CacheSecret::new().expect("chance");
        let tenant = HeaderName::from_static("x-tenant");
        let of = |parts: &[KeyPart], header: &str, body: &str, query: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(tenant.clone(), header.parse().expect("a value"));
            let uri: Uri = format!("/x?{query}").parse().expect("a path");
            let keeps =
                Keeps::Always(StoreAll { ttl: Duration::from_secs(1), key: parts.to_vec(), public: false });
            let body = body.as_bytes();
            let (method, identity) = (&Method::POST, &CallerIdentity::default());
            KeyedRequest { route: "r", method, uri: &uri, headers: &headers, identity, body }
                .key(&secret, &keeps)
        };
        let says = |body: &str| {
            crate::json::canonical::canonicalize(body.as_bytes()).unwrap_or_else(|| body.as_bytes().to_vec())
        };
        let cases = [
            (KeyPart::Header(tenant.clone()), header == other_header),
            (KeyPart::Body, says(&body) == says(&other_body)),
            (KeyPart::Query, query == other_query),
            (KeyPart::Path, true),
            (KeyPart::Method, true),
        ];
        for (part, same) in cases {
            let parts = [part];
            let one = of(&parts, &header, &body, &query);
            prop_assert_eq!(one == of(&parts, &other_header, &other_body, &other_query), same);
        }
    }
}

#[test]
fn another_route_or_host_is_another_thing() {
    let secret = CacheSecret::new().expect("chance");
    let of = |route, host: &str| {
        let mut headers = HeaderMap::new();
        headers.insert(HOST, host.parse().expect("a value"));
        let uri: Uri = "/x".parse().expect("a path");
        let (method, identity) = (&Method::GET, &CallerIdentity::default());
        KeyedRequest { route, method, uri: &uri, headers: &headers, identity, body: b"" }
            .key(&secret, &Keeps::Http)
    };
    assert_eq!(of("a", "Host"), of("a", "host"));
    assert_ne!(of("a", "host"), of("b", "host"));
    assert_ne!(of("a", "host"), of("a", "other"));
}

#[test]
fn a_range_is_one_of_bytes_within_what_there_is() {
    let part = |range: &str| Part::of(&range.parse().expect("a value"))?.within(10);
    assert_eq!(part("bytes=0-1"), Some((0, 2)));
    assert_eq!(part("bytes=4-"), Some((4, 10)));
    assert_eq!(part("bytes=-3"), Some((7, 10)));
    assert_eq!(part("bytes=-30"), Some((0, 10)));
    assert_eq!(part("bytes=8-99999999999"), Some((8, 10)));
    for bad in ["bytes=10-", "bytes=5-4", "bytes=0-1,3-4", "lines=0-1", "bytes=-0", "bytes=a-b", ""]
    {
        assert_eq!(part(bad), None, "{bad}");
    }
}
