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
pub const PARAMETERS: [&str; 12] = [
    "appid",
    "awsaccesskeyid",
    "code",
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

/// Words that mark a credential wherever they are in a name.
pub const WORDS: [&str; 24] = [
    "apikey",
    "assertion",
    "auth",
    "authentication",
    "authorization",
    "bearer",
    "cookie",
    "credential",
    "credentials",
    "csrf",
    "dpop",
    "hmac",
    "jwt",
    "oauth",
    "otp",
    "passcode",
    "passphrase",
    "passwd",
    "password",
    "pwd",
    "secret",
    "sig",
    "signature",
    "xsrf",
];

/// Parts that mark a credential inside a longer word, like `clientsecret`.
const PARTS: [&str; 7] =
    ["apikey", "authorization", "bearer", "credential", "password", "secret", "signature"];

/// Last words that make a name describe a credential instead of holding it.
const DESCRIPTIONS: [&str; 14] = [
    "algorithm",
    "domain",
    "expires",
    "input",
    "issuer",
    "method",
    "mode",
    "policy",
    "provider",
    "scheme",
    "type",
    "uri",
    "url",
    "version",
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
        _ => rare_header(name.as_bytes()),
    }
}

fn rare_header(name: &[u8]) -> NameKind {
    let is_known = HEADERS.iter().any(|known| known.as_bytes() == name);
    if is_known || has_credential_word(name) {
        return NameKind::Credential;
    }
    match words(name).last() {
        Some(b"referer" | b"referrer" | b"uri" | b"url" | b"location") => NameKind::Url,
        _ => NameKind::Unknown,
    }
}

/// Whether a query parameter of this decoded name holds a credential.
pub fn is_parameter(name: &[u8]) -> bool {
    let is_known = |known: &&str| known.as_bytes().eq_ignore_ascii_case(name);
    PARAMETERS.iter().any(|known| is_known(&known)) || has_credential_word(name)
}

/// Whether a name in any spelling holds a credential by one of its words.
pub fn has_credential_word(name: &[u8]) -> bool {
    let (mut previous, mut last, mut is_found) = (&b""[..], &b""[..], false);
    for word in words(name) {
        is_found |= is_one_of(&WORDS, word) || (word.len() > 6 && has_part(word));
        if !is_number(word) {
            (previous, last) = (last, word);
        }
    }
    match is_found {
        true => !is_one_of(&DESCRIPTIONS, last),
        false => is_token(previous, last) || is_key(previous, last),
    }
}

fn is_token(previous: &[u8], last: &[u8]) -> bool {
    let Some(start) = stem(last, b"token") else { return false };
    let before = if start.is_empty() { previous } else { start };
    !OPEN_TOKENS.iter().any(|open| stem(before, open.as_bytes()).is_some())
}

fn is_key(previous: &[u8], last: &[u8]) -> bool {
    match stem(last, b"key") {
        None => false,
        Some(b"") => !is_one_of(&OPEN_KEYS, previous),
        Some(start) => GLUED_KEYS.iter().any(|glued| stem(start, glued.as_bytes()).is_some()),
    }
}

/// The part of a word before this end, in any case.
fn stem<'w>(word: &'w [u8], end: &[u8]) -> Option<&'w [u8]> {
    let (start, found) = word.split_at_checked(word.len().checked_sub(end.len())?)?;
    found.eq_ignore_ascii_case(end).then_some(start)
}

fn is_one_of(list: &[&str], word: &[u8]) -> bool {
    list.iter().any(|item| item.as_bytes().eq_ignore_ascii_case(word))
}

fn has_part(word: &[u8]) -> bool {
    let holds =
        |part: &&str| word.windows(part.len()).any(|w| w.eq_ignore_ascii_case(part.as_bytes()));
    PARTS.iter().any(|part| holds(&part))
}

/// `2`, `v2` or `sha256`: it changes nothing about the words before it.
fn is_number(word: &[u8]) -> bool {
    let prefix = word.iter().take_while(|byte| byte.is_ascii_alphabetic()).count();
    let (prefix, digits) = word.split_at(prefix);
    !digits.is_empty()
        && digits.iter().all(u8::is_ascii_digit)
        && is_one_of(&["", "v", "sha"], prefix)
}

/// The words of `x-api-key`, `api_key`, `auth[key]` and `apiKey`.
fn words(name: &[u8]) -> impl Iterator<Item = &[u8]> {
    let runs = name.split(|byte| !byte.is_ascii_alphanumeric());
    runs.flat_map(|run| {
        run.chunk_by(|one, next| !(one.is_ascii_lowercase() && next.is_ascii_uppercase()))
    })
}
