//! Names of headers and query parameters that hold a credential.
//!
//! Most are recognized by their words. The lists here hold the exceptions. They follow the
//! documentation of the providers, and the lists of gitleaks, mitmproxy and OpenTelemetry.

/// The meaning of a header's name for its value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NameKind {
    Credential,
    /// A standard header without a credential.
    Ordinary,
    /// The value is a URL, which may hold a credential.
    Url,
    Unknown,
}

/// Headers that hold a credential, or identify the caller, without a credential word in their name.
pub const HEADERS: [&str; 13] = [
    "cf-access-client-id",
    "client-cert",
    "client-cert-chain",
    "plaid-client-id",
    "x-amzn-oidc-data",
    "x-amzn-oidc-identity",
    "x-arr-clientcert",
    "x-client-cert",
    "x-forwarded-client-cert",
    "x-honeycomb-team",
    "x-jfrog-art-api",
    "x-ms-client-principal",
    "x-ssl-client-cert",
];

/// Query parameters that hold a credential without a credential word in their name.
pub const PARAMETERS: [&str; 11] = [
    "appid",
    "awsaccesskeyid",
    "device_code",
    "googleaccessid",
    "jsessionid",
    "pass",
    "phpsessid",
    "samlresponse",
    "sas",
    "sessionid",
    "sid",
];

/// A `token` after one of these is a place in a list, or an idempotency key.
const OPEN_TOKENS: [&str; 21] = [
    "after",
    "before",
    "continuation",
    "cursor",
    "delta",
    "eos",
    "idempotency",
    "list",
    "marker",
    "max",
    "next",
    "page",
    "paging",
    "prev",
    "previous",
    "request",
    "resume",
    "resumption",
    "skip",
    "start",
    "sync",
];

/// A `key` after one of these identifies something other than the caller.
const OPEN_KEYS: [&str; 40] = [
    "affinity",
    "branch",
    "cache",
    "component",
    "correlation",
    "dedup",
    "dedupe",
    "deduplication",
    "document",
    "end",
    "evaluated",
    "first",
    "foreign",
    "group",
    "idempotency",
    "issue",
    "last",
    "lookup",
    "message",
    "metric",
    "next",
    "object",
    "order",
    "page",
    "partition",
    "primary",
    "project",
    "public",
    "range",
    "repository",
    "request",
    "routing",
    "row",
    "shard",
    "sort",
    "space",
    "start",
    "surrogate",
    "unique",
    "websocket",
];

/// A word that ends in `key` holds a credential after one of these; `monkey` does not.
const GLUED_KEYS: [&str; 22] = [
    "access",
    "account",
    "admin",
    "api",
    "app",
    "application",
    "auth",
    "client",
    "consumer",
    "encryption",
    "function",
    "functions",
    "host",
    "license",
    "master",
    "private",
    "service",
    "session",
    "signing",
    "subscription",
    "user",
    "ws",
];

/// Classifies the name of a header, in lower case.
pub fn header(name: &str) -> NameKind {
    match name {
        "authorization"
        | "x-api-key"
        | "api-key"
        | "cookie"
        | "proxy-authorization"
        | "sec-websocket-protocol" => NameKind::Credential,
        "accept"
        | "accept-charset"
        | "accept-encoding"
        | "accept-language"
        | "cache-control"
        | "connection"
        | "content-encoding"
        | "content-length"
        | "content-type"
        | "date"
        | "expect"
        | "forwarded"
        | "host"
        | "idempotency-key"
        | "if-match"
        | "if-modified-since"
        | "if-none-match"
        | "if-range"
        | "if-unmodified-since"
        | "keep-alive"
        | "origin"
        | "pragma"
        | "prefer"
        | "range"
        | "te"
        | "traceparent"
        | "tracestate"
        | "trailer"
        | "transfer-encoding"
        | "upgrade"
        | "user-agent"
        | "via"
        | "x-forwarded-for"
        | "x-forwarded-host"
        | "x-forwarded-proto"
        | "x-request-id" => NameKind::Ordinary,
        _ => rare_header(name),
    }
}

fn rare_header(name: &str) -> NameKind {
    // The SDKs of OpenAI and Anthropic send a dozen of these.
    if name.starts_with("x-stainless-") {
        return NameKind::Ordinary;
    }
    if HEADERS.contains(&name) || has_credential_word(name.as_bytes()) {
        return NameKind::Credential;
    }
    match words(name.as_bytes()).last() {
        Some(b"referer" | b"referrer" | b"uri" | b"url" | b"location") => NameKind::Url,
        _ => NameKind::Unknown,
    }
}

/// Whether a query parameter of this decoded name holds a credential.
pub fn is_parameter(name: &[u8]) -> bool {
    let is_known = PARAMETERS.iter().any(|known| known.as_bytes().eq_ignore_ascii_case(name));
    is_known || is_credential_in_any_case(name)
}

/// Whether a name in any spelling, like `apiKey`, holds a credential by one of its words.
pub fn is_credential_in_any_case(name: &[u8]) -> bool {
    // Long enough for all names that are in use; no other name is worth an allocation.
    let mut buffer = [0; 128];
    let mut length = 0;
    let mut previous = 0;
    for &byte in name {
        if length + 2 > buffer.len() {
            return has_credential_word(&lower_case_words(name));
        }
        if previous_ends_word(previous, byte) {
            buffer[length] = b'-';
            length += 1;
        }
        buffer[length] = byte.to_ascii_lowercase();
        length += 1;
        previous = byte;
    }
    has_credential_word(&buffer[..length])
}

fn lower_case_words(name: &[u8]) -> Vec<u8> {
    let words = name.chunk_by(|one, next| !previous_ends_word(*one, *next));
    words.collect::<Vec<_>>().join(&b'-').to_ascii_lowercase()
}

fn previous_ends_word(previous: u8, byte: u8) -> bool {
    previous.is_ascii_lowercase() && byte.is_ascii_uppercase()
}

/// Whether a name in lower case holds a credential by one of its words.
fn has_credential_word(name: &[u8]) -> bool {
    let (mut previous, mut last, mut is_found) = (&b""[..], &b""[..], false);
    for word in words(name) {
        is_found |= is_credential_word(word);
        if !is_number(word) {
            (previous, last) = (last, word);
        }
    }
    match is_found {
        true => !describes_credential(last),
        false => is_token(previous, last) || is_key(previous, last),
    }
}

/// A word that marks a credential wherever it is in a name.
fn is_credential_word(word: &[u8]) -> bool {
    match word.len() {
        0..=2 => false,
        3..=6 => matches!(
            word,
            b"apikey"
                | b"auth"
                | b"bearer"
                | b"cookie"
                | b"csrf"
                | b"dpop"
                | b"hmac"
                | b"jwt"
                | b"oauth"
                | b"otp"
                | b"passwd"
                | b"pwd"
                | b"secret"
                | b"sig"
                | b"xsrf"
        ),
        _ => {
            matches!(word, b"authentication" | b"assertion" | b"passcode" | b"passphrase")
                || has_part(word)
        }
    }
}

/// A longer word that has one of these in it, like `clientsecret`.
fn has_part(word: &[u8]) -> bool {
    (0..word.len()).any(|at| {
        let rest = &word[at..];
        match rest[0] {
            b'a' => rest.starts_with(b"apikey") || rest.starts_with(b"authorization"),
            b'b' => rest.starts_with(b"bearer"),
            b'c' => rest.starts_with(b"credential"),
            b'p' => rest.starts_with(b"password"),
            b's' => rest.starts_with(b"secret") || rest.starts_with(b"signature"),
            _ => false,
        }
    })
}

/// A last word that makes a name describe a credential instead of holding it.
fn describes_credential(last: &[u8]) -> bool {
    matches!(
        last,
        b"algorithm"
            | b"domain"
            | b"expires"
            | b"input"
            | b"issuer"
            | b"method"
            | b"mode"
            | b"policy"
            | b"provider"
            | b"scheme"
            | b"type"
            | b"uri"
            | b"url"
            | b"version"
    )
}

fn is_token(previous: &[u8], last: &[u8]) -> bool {
    let Some(start) = last.strip_suffix(b"token") else { return false };
    let before = if start.is_empty() { previous } else { start };
    !OPEN_TOKENS.iter().any(|open| before.ends_with(open.as_bytes()))
}

fn is_key(previous: &[u8], last: &[u8]) -> bool {
    match last.strip_suffix(b"key") {
        None => false,
        Some(b"") => !OPEN_KEYS.iter().any(|open| open.as_bytes() == previous),
        Some(start) => GLUED_KEYS.iter().any(|glued| start.ends_with(glued.as_bytes())),
    }
}

/// `2`, `v2` or `sha256`: it changes nothing about the words before it.
fn is_number(word: &[u8]) -> bool {
    word.last().is_some_and(u8::is_ascii_digit)
        && matches!(without_digits(word), b"" | b"v" | b"sha")
}

fn without_digits(word: &[u8]) -> &[u8] {
    let digits = word.iter().rev().take_while(|byte| byte.is_ascii_digit()).count();
    &word[..word.len() - digits]
}

/// The words of `x-api-key`, `api_key` and `auth[key]`.
fn words(name: &[u8]) -> impl Iterator<Item = &[u8]> {
    name.split(|byte| !byte.is_ascii_alphanumeric())
}
