//! Webhooks: signed messages posted to a URL of the policy or of a client.
//!
//! The headers follow Standard Webhooks (<https://www.standardwebhooks.com>): `webhook-id`
//! identifies a repeated message, `webhook-signature` is an HMAC over id, time and body. Redirects
//! are not followed. Errors name the host but never the path, which may be a secret.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use hmac::{Hmac, Mac};
use http::response::Parts;
use http::{Method, StatusCode};
use sha2::Sha256;
use thiserror::Error;

use super::{AddressScope, DialTarget, OutgoingBody, OutgoingRequest, Pools, Resolver};
use crate::clock;
use crate::policy::sections::model::{ClientTls, PostTo};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(30);
const MAX_TARGETS: usize = 64;

/// Sends messages, over a limited number of connections to each host.
#[derive(Debug)]
pub struct WebhookSender {
    pools: Pools,
    resolver: Resolver,
    max_connections: usize,
    /// One for each scope, scheme (is it HTTPS), host and port.
    targets: RefCell<HashMap<(AddressScope, bool, String), Arc<DialTarget>>>,
}

/// One webhook message.
#[derive(Debug)]
pub struct WebhookMessage {
    pub id: String,
    /// Seconds since 1970.
    pub at: i64,
    /// The HMAC over id, time and body, as [`signature`] returns it.
    pub signature: Option<String>,
    /// Headers other than those of Standard Webhooks.
    pub headers: Vec<(&'static str, String)>,
    pub body: Bytes,
}

/// Why a message was not delivered.
#[derive(Debug, Error)]
pub enum WebhookError {
    #[error("{0}")]
    Unreachable(String),
    #[error("the receiver returned {0}")]
    Rejected(StatusCode),
    #[error("the connection broke before the response was complete")]
    Interrupted,
    #[error("no response within {RESPONSE_TIMEOUT:?}")]
    Timeout,
}

impl WebhookSender {
    pub fn new(pools: Pools, resolver: Resolver, max_connections: usize) -> WebhookSender {
        WebhookSender { pools, resolver, max_connections, targets: RefCell::default() }
    }

    /// Posts a message once. A 2xx response means that it was delivered.
    ///
    /// # Errors
    /// When there was no 2xx response.
    pub async fn send(
        &self,
        to: &PostTo,
        scope: AddressScope,
        message: &WebhookMessage,
    ) -> Result<(), WebhookError> {
        let write = |out: &mut Vec<u8>| message.write(out, to);
        let head = self.post(to, scope, &message.body, write).await?;
        if head.status.is_success() { Ok(()) } else { Err(WebhookError::Rejected(head.status)) }
    }

    /// Posts a body once, and returns the head of the response.
    ///
    /// # Errors
    /// When there was no response.
    pub async fn post(
        &self,
        to: &PostTo,
        scope: AddressScope,
        body: &Bytes,
        write_head: impl FnOnce(&mut Vec<u8>),
    ) -> Result<Parts, WebhookError> {
        let target = self.target(to, scope)?;
        let connection = match self.pools.idle(&target, clock::now()) {
            Some(connection) => connection,
            None => self.pools.dial(&target).await.map_err(unreachable)?,
        };
        let request = OutgoingRequest {
            is_head: false,
            is_upgrade: false,
            fails_over: false,
            sends_zero_length: true,
            body: OutgoingBody::full(body.clone()),
        };
        let exchange = connection.send(request, write_head);
        match tokio::time::timeout(RESPONSE_TIMEOUT, exchange).await {
            Ok(Ok((head, _))) => Ok(head),
            Ok(Err(_)) => Err(WebhookError::Interrupted),
            Err(_) => Err(WebhookError::Timeout),
        }
    }

    fn target(&self, to: &PostTo, scope: AddressScope) -> Result<Arc<DialTarget>, WebhookError> {
        let key = (scope, to.url.https, to.url.authority.clone());
        let mut targets = self.targets.borrow_mut();
        if let Some(target) = targets.get(&key) {
            return Ok(Arc::clone(target));
        }
        let tls = ClientTls::default();
        let target = DialTarget::within(
            scope,
            &to.url,
            &tls,
            None,
            CONNECT_TIMEOUT,
            self.max_connections,
            &self.resolver,
        )
        .map_err(unreachable)?;
        if targets.len() >= MAX_TARGETS {
            targets.clear();
        }
        targets.insert(key, Arc::clone(&target));
        Ok(target)
    }
}

impl WebhookMessage {
    fn write(&self, out: &mut Vec<u8>, to: &PostTo) {
        let mut line = |text: String| {
            out.extend_from_slice(text.as_bytes());
            out.extend_from_slice(b"\r\n");
        };
        line(format!("{} {} HTTP/1.1", Method::POST, to.target));
        line(format!("host: {}", to.url.authority));
        line("user-agent: outrigger".to_owned());
        line(format!("webhook-id: {}", self.id));
        line(format!("webhook-timestamp: {}", self.at));
        if let Some(signature) = &self.signature {
            line(format!("webhook-signature: {signature}"));
        }
        for (name, value) in &self.headers {
            line(format!("{name}: {value}"));
        }
    }
}

impl WebhookError {
    /// The error without the host, for readers who must not see it.
    pub fn without_host(&self) -> String {
        match self {
            WebhookError::Unreachable(_) => "the receiver could not be reached".to_owned(),
            other => other.to_string(),
        }
    }
}

fn unreachable(error: impl fmt::Display) -> WebhookError {
    WebhookError::Unreachable(error.to_string())
}

/// Computes `v1,` and the base64 of an HMAC-SHA256 over `id.timestamp.body`.
pub fn signature(secret: &[u8], id: &str, at: i64, body: &[u8]) -> String {
    // HMAC accepts a key of any length (RFC 2104).
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(secret) else { return String::new() };
    mac.update(format!("{id}.{at}.").as_bytes());
    mac.update(body);
    format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_matches_the_example_of_standard_webhooks() {
        // The secret of the specification's example, decoded.
        let secret = STANDARD.decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").expect("base64");
        let body = br#"{"test": 2432232314}"#;
        let signature = signature(&secret, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, body);
        assert_eq!(signature, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }
}
