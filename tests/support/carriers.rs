//! The parts of a request in which applications send credentials, each with a secret of its own.

use super::{Call, Request};

/// Where a secret is sent. `{}` stands for the secret.
#[derive(Clone, Copy, Debug)]
pub enum Carrier {
    Header(&'static str, &'static str),
    /// A pair of the query.
    Query(&'static str),
}

/// Names of trailers in which a secret is sent.
pub const TRAILERS: [&str; 5] =
    ["authorization", "x-goog-api-key", "x-amz-security-token", "x-unknown-token", "cookie"];

pub const CARRIERS: [Carrier; 50] = [
    Carrier::Header("authorization", "Bearer {}"),
    Carrier::Header("proxy-authorization", "Basic {}"),
    Carrier::Header("cookie", "session={}"),
    Carrier::Header("x-api-key", "{}"),
    Carrier::Header("api-key", "{}"),
    Carrier::Header("apikey", "{}"),
    Carrier::Header("x-goog-api-key", "{}"),
    Carrier::Header("private-token", "{}"),
    Carrier::Header("job-token", "{}"),
    Carrier::Header("x-auth-token", "{}"),
    Carrier::Header("x-auth-key", "{}"),
    Carrier::Header("x-access-token", "{}"),
    Carrier::Header("x-session-token", "{}"),
    Carrier::Header("x-vault-token", "{}"),
    Carrier::Header("x-amz-security-token", "{}"),
    Carrier::Header("ocp-apim-subscription-key", "{}"),
    Carrier::Header("x-functions-key", "{}"),
    Carrier::Header("x-rapidapi-key", "{}"),
    Carrier::Header("x-shopify-access-token", "{}"),
    Carrier::Header("x-figma-token", "{}"),
    Carrier::Header("x-csrf-token", "{}"),
    Carrier::Header("cf-access-client-secret", "{}"),
    Carrier::Header("x-ms-authorization-auxiliary", "{}"),
    Carrier::Header("dpop", "{}"),
    Carrier::Header("x-hub-signature-256", "sha256={}"),
    Carrier::Header("x-tenant-secret", "{}"),
    Carrier::Header("x-unknown", "Bearer {}"),
    Carrier::Header("x-unknown", "AWS4-HMAC-SHA256 Credential=a, Signature={}"),
    Carrier::Header("x-unknown", "sk-{}"),
    Carrier::Header("x-unknown", "eyJhbGciOiJub25lIn0.{}."),
    Carrier::Header("referer", "https://a.example/?key={}"),
    Carrier::Header("sec-websocket-protocol", "realtime, openai-insecure-api-key.{}"),
    Carrier::Header(
        "sec-websocket-protocol",
        "v5.channel.k8s.io, base64url.bearer.authorization.{}",
    ),
    Carrier::Query("key={}"),
    Carrier::Query("%6bey={}"),
    Carrier::Query("KEY={}"),
    Carrier::Query("api_key={}"),
    Carrier::Query("api%5Fkey={}"),
    Carrier::Query("apiKey={}"),
    Carrier::Query("access_token={}"),
    Carrier::Query("%61ccess%5ftoken={}"),
    Carrier::Query("token={}"),
    Carrier::Query("sig={}"),
    Carrier::Query("X-Amz-Signature={}"),
    Carrier::Query("X-Amz-Security-Token={}"),
    Carrier::Query("X-Goog-Signature={}"),
    Carrier::Query("subscription-key={}"),
    Carrier::Query("device_code={}"),
    Carrier::Query("client_secret={}"),
    Carrier::Query("unknown_password={}"),
];

/// The secret of the carrier at this index, for one of several principals.
pub fn secret(index: usize, principal: char) -> String {
    format!("hunter{index:02}{principal}Secret7Qz9")
}

impl Carrier {
    /// The request with a secret in this carrier.
    pub fn add_to(self, mut call: Call, secret: &str) -> Call {
        match self {
            Carrier::Header(name, value) => call.header(name, &value.replace("{}", secret)),
            Carrier::Query(pair) => {
                let separator = if call.target.contains('?') { '&' } else { '?' };
                call.target = format!("{}{separator}{}", call.target, pair.replace("{}", secret));
                call
            }
        }
    }

    /// A provider with `auth: passthrough` receives it.
    pub fn is_passed(self) -> bool {
        !matches!(self, Carrier::Header("proxy-authorization", _))
    }
}

/// Everything that a provider received, as text.
pub fn request_text(request: &Request) -> String {
    let (path, headers) = (&request.path, &request.headers.0);
    format!("{path} {headers:?} {}", String::from_utf8_lossy(&request.body))
}
