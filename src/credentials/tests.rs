use http::{HeaderMap, Uri};
use proptest::prelude::*;

use super::identity::CallerIdentity;
use super::sub_protocols::SubProtocolFilter;
use super::*;

/// Headers that hold a credential, by name or by value.
const HEADERS: [(&str, &str); 56] = [
    ("authorization", "secret-1"),
    ("proxy-authorization", "secret-1"),
    ("cookie", "session=secret-1"),
    ("x-api-key", "secret-1"),
    ("api-key", "secret-1"),
    ("apikey", "secret-1"),
    ("x-goog-api-key", "secret-1"),
    ("x-goog-iap-jwt-assertion", "secret-1"),
    ("private-token", "secret-1"),
    ("job-token", "secret-1"),
    ("x-gitlab-token", "secret-1"),
    ("x-github-token", "secret-1"),
    ("x-auth-token", "secret-1"),
    ("x-auth-key", "secret-1"),
    ("x-auth-user", "secret-1"),
    ("x-access-token", "secret-1"),
    ("x-session-token", "secret-1"),
    ("x-vault-token", "secret-1"),
    ("x-consul-token", "secret-1"),
    ("x-figma-token", "secret-1"),
    ("x-shopify-access-token", "secret-1"),
    ("x-amz-security-token", "secret-1"),
    ("x-amz-signature", "secret-1"),
    ("x-amz-server-side-encryption-customer-key", "secret-1"),
    ("x-amzn-oidc-accesstoken", "secret-1"),
    ("ocp-apim-subscription-key", "secret-1"),
    ("x-functions-key", "secret-1"),
    ("x-ms-authorization-auxiliary", "secret-1"),
    ("x-ms-token-aad-access-token", "secret-1"),
    ("x-ms-client-principal", "secret-1"),
    ("x-rapidapi-key", "secret-1"),
    ("x-csrf-token", "secret-1"),
    ("x-xsrf-token", "secret-1"),
    ("cf-access-client-id", "secret-1"),
    ("cf-access-client-secret", "secret-1"),
    ("cf-access-jwt-assertion", "secret-1"),
    ("cf-aig-authorization", "secret-1"),
    ("dpop", "secret-1"),
    ("dd-application-key", "secret-1"),
    ("xi-api-key", "secret-1"),
    ("x-plex-token", "secret-1"),
    ("x-nuget-apikey", "secret-1"),
    ("x-jfrog-art-api", "secret-1"),
    ("x-hub-signature-256", "secret-1"),
    ("x-shopify-hmac-sha256", "secret-1"),
    ("x-tenant-password", "secret-1"),
    ("x-client-cert", "secret-1"),
    ("sec-websocket-protocol", "secret-1"),
    ("x-custom", "Bearer secret-1"),
    ("x-custom", "Basic c2VjcmV0LTE="),
    ("x-custom", "AWS4-HMAC-SHA256 Credential=a/b, Signature=secret-1"),
    ("x-custom", "DPoP secret-1"),
    ("x-custom", "sk-proj-secret-1"),
    ("x-custom", "eyJhbGciOiJub25lIn0.eyJzdWIiOiJhIn0."),
    ("referer", "https://a.example/?key=secret-1"),
    ("x-original-url", "https://user:secret-1@a.example/"),
];

/// Pairs of a query that hold a credential.
const QUERIES: [&str; 34] = [
    "key=secret-1",
    "KEY=secret-1",
    "%6bey=secret-1",
    "%6B%65%79=secret-1",
    "api_key=secret-1",
    "api-key=secret-1",
    "apiKey=secret-1",
    "api%5Fkey=secret-1",
    "api+key=secret-1",
    "apikey=secret-1",
    "access_token=secret-1",
    "accessToken=secret-1",
    "refresh_token=secret-1",
    "token=secret-1",
    "auth=secret-1",
    "auth%5Btoken%5D=secret-1",
    "sig=secret-1",
    "signature=secret-1",
    "X-Amz-Signature=secret-1",
    "X-Amz-Credential=secret-1",
    "X-Amz-Security-Token=secret-1",
    "X-Goog-Signature=secret-1",
    "AWSAccessKeyId=secret-1",
    "subscription-key=secret-1",
    "device_code=secret-1",
    "client_secret=secret-1",
    "clientSecret=secret-1",
    "password=secret-1",
    "appid=secret-1",
    "PHPSESSID=secret-1",
    "oauth_verifier=secret-1",
    "hapikey=secret-1",
    "x=sk-proj-secret-1",
    "x=Bearer%20secret-1",
];

/// Headers without a credential, though some have its words.
const ORDINARY: [(&str, &str); 40] = [
    ("accept", "*/*"),
    ("accept-language", "sk-SK,sk;q=0.9"),
    ("anthropic-version", "2023-06-01"),
    ("content-type", "application/json"),
    ("idempotency-key", "Bearer secret-1"),
    ("x-idempotency-key", "1"),
    ("x-request-key", "1"),
    ("x-request-id", "1"),
    ("x-cache-key", "1"),
    ("surrogate-key", "a b"),
    ("xkey", "a"),
    ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ("x-ratelimit-limit-tokens", "1000"),
    ("x-max-tokens", "10"),
    ("x-next-page-token", "2"),
    ("x-token-count", "2"),
    ("x-auth-type", "oidc"),
    ("x-goog-user-project", "p"),
    ("x-goog-api-client", "gl-python/3.12"),
    ("x-amz-date", "20260101T000000Z"),
    ("x-amz-content-sha256", "UNSIGNED-PAYLOAD"),
    ("x-ms-client-request-id", "1"),
    ("x-session-id", "1"),
    ("mcp-session-id", "1"),
    ("openai-organization", "org-1"),
    ("x-stainless-lang", "python"),
    ("x-title", "Token Counter"),
    ("x-title", "Basic chat"),
    ("x-author", "monkey"),
    ("x-turkey", "1"),
    ("baggage", "key=value"),
    ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
    ("referer", "https://a.example/?page=2"),
    ("x-original-url", "/a?page=2"),
    ("x-tenant", "eyJ"),
    ("x-tenant", "sk-SK"),
    ("x-signature-version", "4"),
    ("x-public-key", "1"),
    ("x-designation", "1"),
    ("x-keynote", "1"),
];

fn header(name: &str, value: &str) -> (HeaderName, HeaderValue) {
    let name = HeaderName::from_bytes(name.as_bytes()).expect("a name");
    (name, HeaderValue::from_str(value).expect("a value"))
}

fn identity(headers: &[(&str, &str)], target: &str) -> CallerIdentity {
    let lines = headers.iter().map(|(name, value)| header(name, value));
    let target: Uri = target.parse().expect("a target");
    CallerIdentity::of(&lines.collect::<HeaderMap>(), &target)
}

#[test]
fn each_carrier_is_recognized_in_any_case() {
    for (name, value) in HEADERS {
        let (name, value) = header(&name.to_ascii_uppercase(), value);
        assert!(is_carrier(&name, &value), "{name}: {value:?}");
    }
    for pair in QUERIES {
        assert!(query::holds_credential(pair), "{pair}");
        assert!(query::holds_credential(&format!("a=1;{pair}")), "{pair}");
        assert_eq!(
            query::without_credentials(&format!("a=1&{pair}&b=2")).as_deref(),
            Some("a=1&b=2")
        );
        assert_eq!(query::target_without_credentials(&format!("/a?{pair}")), "/a");
    }
}

#[test]
fn ordinary_headers_and_parameters_are_not_carriers() {
    for (name, value) in ORDINARY {
        let (name, value) = header(name, value);
        assert!(!is_carrier(&name, &value), "{name}: {value:?}");
    }
    let query = "code=EUR&page_token=1&pageToken=1&next=1&max_tokens=5&continuation-token=1&sort_key=a&\
                 projectKey=A&monkey=1&key&token_type=jwt&q=basic+chat;x&nextPageToken=a&%zz=%";
    for pair in query.split('&') {
        assert!(!query::holds_credential(pair), "{pair}");
    }
    assert_eq!(query::without_credentials(query), None);
}

#[test]
fn sub_protocols_lose_their_credentials_and_keep_the_others() {
    let kept = |lines: &[&str]| {
        let mut filter = SubProtocolFilter::default();
        let kept = lines.iter().flat_map(|line| {
            let items = filter
                .harmless_items(line.as_bytes())
                .map(|i| String::from_utf8_lossy(i).into_owned());
            items.collect::<Vec<_>>()
        });
        kept.collect::<Vec<_>>().join(",")
    };
    assert_eq!(
        kept(&["realtime, openai-insecure-api-key.sk-1, openai-beta.realtime-v1"]),
        "realtime,openai-beta.realtime-v1"
    );
    assert_eq!(
        kept(&["v5.channel.k8s.io, base64url.bearer.authorization.k8s.io.c2VjcmV0"]),
        "v5.channel.k8s.io"
    );
    assert_eq!(kept(&["graphql-transport-ws, bearer, secret"]), "graphql-transport-ws");
    assert_eq!(kept(&["access_token", "secret, chat"]), "chat");
    assert_eq!(kept(&["mqtt, 0a7651916cd43dd8448eb211c80319c"]), "mqtt");
    let registered = "graphql-ws,v12.stomp,wamp.2.json,ocpp1.6,v10.pcp.sap.com,ship";
    assert_eq!(kept(&[registered]), registered);
}

#[test]
fn callers_that_differ_in_one_carrier_have_different_identities() {
    let none = identity(&[("accept", "*/*"), ("x-tenant", "a")], "/a?page=1");
    assert_eq!(none, CallerIdentity::default());
    for (name, value) in HEADERS {
        let other = format!("{value}2");
        let of = |value: &str| identity(&[("accept", "*/*"), (name, value)], "/a?page=1");
        assert!(of(value) != none && of(value) != of(&other), "{name}: {value}");
        assert_eq!(of(value), identity(&[(name, value), ("accept", "a/b")], "/other"), "{name}");
    }
    for pair in QUERIES {
        let of = |pair: &str| identity(&[], &format!("/a?page=1&{pair}"));
        assert!(of(pair) != none && of(pair) != of(&format!("{pair}2")), "{pair}");
        assert_eq!(of(pair), identity(&[], &format!("/b?{pair}&page=2")), "{pair}");
    }
}

#[test]
fn the_design_document_lists_every_known_name() {
    let document = include_str!("../../docs/design/credentials.md");
    for name in names::HEADERS.iter().chain(&names::PARAMETERS) {
        assert!(document.contains(&format!("`{name}`")), "{name}");
    }
}

#[test]
fn a_long_name_is_recognized_by_its_end() {
    let long = format!("{}AccessToken", "longName".repeat(40));
    assert!(names::is_parameter(long.as_bytes()));
    assert!(!names::is_parameter(format!("{long}s").as_bytes()));
}

proptest! {
    #[test]
    fn identities_are_equal_only_for_equal_credentials(
        one in prop::collection::vec((0..HEADERS.len(), "[a-c]{1,3}"), 0..4),
        other in prop::collection::vec((0..HEADERS.len(), "[a-c]{1,3}"), 0..4),
    ) {
        let of = |carriers: &[(usize, String)]| {
            let lines = carriers.iter().map(|(at, tail)| {
                let (name, value) = HEADERS[*at];
                header(name, &format!("{value}{tail}"))
            });
            let mut headers = HeaderMap::new();
            lines.for_each(|(name, value)| { headers.append(name, value); });
            CallerIdentity::of(&headers, &Uri::from_static("/"))
        };
        let sorted = |carriers: &[(usize, String)]| {
            let mut lines: Vec<_> = carriers.iter().map(|(at, tail)| (HEADERS[*at].0, format!("{}{tail}", HEADERS[*at].1))).collect();
            lines.sort_by_key(|line| line.0);
            lines
        };
        prop_assert_eq!(of(&one) == of(&other), sorted(&one) == sorted(&other));
    }

    #[test]
    fn a_query_keeps_every_byte_but_its_credentials(query in "[a-z=&;%+]{0,30}") {
        let with = format!("{query}&key=secret-1");
        let kept = query::without_credentials(&with).expect("a credential");
        prop_assert!(!kept.contains("secret-1") && !query::holds_credential(&kept));
        match query::without_credentials(&query) {
            None => prop_assert_eq!(kept, query),
            Some(clean) => prop_assert!(clean.len() < query.len()),
        }
    }

    #[test]
    fn any_bytes_can_be_checked(name in "[!-~]{1,40}", value in "\\PC{0,40}") {
        let _ = (names::is_credential_in_any_case(name.as_bytes()), values::is_credential(value.as_bytes()));
        let _ = (query::credentials(&value).count(), values::has_key_in_text(&value));
        let _ = SubProtocolFilter::default().harmless_items(value.as_bytes()).count();
    }
}
