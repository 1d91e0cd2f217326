//! Messages that are posted to a URL of the policy's or of a caller's, signed.
//!
//! As Standard Webhooks has it (<https://www.standardwebhooks.com>): `webhook-id` tells a repeat,
//! `webhook-signature` is an HMAC over id, time and body. No redirect is followed. What an error
//! says names the host, never the path: that may be a secret.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use hmac::{Hmac, Mac};
use http::{Method, StatusCode};
use sha2::Sha256;
use thiserror::Error;

use super::{Outgoing, Pools, ReqBody, Resolver, Target};
use crate::clock;
use crate::policy::sections::model::{ClientTls, PostTo};

const CONNECT: Duration = Duration::from_secs(5);
const ANSWER: Duration = Duration::from_secs(30);
const TARGETS: usize = 64;

/// Where messages go out, at most so many to one place at once.
pub struct Posts {
    pools: Pools,
    resolver: Resolver,
    at_once: usize,
    /// One for each host, port and scheme.
    targets: RefCell<HashMap<(bool, String), Arc<Target>>>,
}

/// A message.
#[derive(Debug)]
pub struct Post {
    pub id: String,
    /// Seconds since 1970.
    pub at: i64,
    /// Of the id, the time and the body.
    pub signature: Option<String>,
    /// Beside those of Standard Webhooks.
    pub headers: Vec<(&'static str, String)>,
    pub body: Bytes,
}

/// Why a message was not taken.
#[derive(Debug, Error)]
pub enum Unposted {
    #[error("{0}")]
    Unreachable(String),
    #[error("it answered {0}")]
    Answered(StatusCode),
    #[error("the connection broke")]
    Broke,
    #[error("no answer within {ANSWER:?}")]
    Late,
}

impl Posts {
    pub fn new(pools: Pools, resolver: Resolver, at_once: usize) -> Posts {
        Posts { pools, resolver, at_once, targets: RefCell::default() }
    }

    /// Posts a message once; 2xx takes it.
    ///
    /// # Errors
    /// Why it was not taken.
    pub async fn send(&self, to: &PostTo, post: &Post) -> Result<(), Unposted> {
        let target = self.target(to)?;
        let connection = match self.pools.idle(&target, clock::now()) {
            Some(connection) => connection,
            None => self.pools.dial(&target).await.map_err(unreachable)?,
        };
        let body = post.body.clone();
        let request = Outgoing {
            head: false,
            upgrade: false,
            elsewhere: false,
            sized: true,
            body: if body.is_empty() { ReqBody::Empty } else { ReqBody::full(body) },
        };
        let sending = connection.send(request, |out| post.write(out, to));
        match tokio::time::timeout(ANSWER, sending).await {
            Ok(Ok((head, _))) if head.status.is_success() => Ok(()),
            Ok(Ok((head, _))) => Err(Unposted::Answered(head.status)),
            Ok(Err(_)) => Err(Unposted::Broke),
            Err(_) => Err(Unposted::Late),
        }
    }

    fn target(&self, to: &PostTo) -> Result<Arc<Target>, Unposted> {
        let key = (to.url.https, to.url.authority.clone());
        let mut targets = self.targets.borrow_mut();
        if let Some(target) = targets.get(&key) {
            return Ok(Arc::clone(target));
        }
        let tls = ClientTls::default();
        let target = Target::new(&to.url, &tls, None, CONNECT, self.at_once, &self.resolver)
            .map_err(unreachable)?;
        if targets.len() >= TARGETS {
            targets.clear();
        }
        targets.insert(key, Arc::clone(&target));
        Ok(target)
    }
}

impl fmt::Debug for Posts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Posts({})", self.targets.borrow().len())
    }
}

impl Post {
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

impl Unposted {
    /// Without the host, where that is nobody's business either.
    pub fn without_host(&self) -> String {
        match self {
            Unposted::Unreachable(_) => "it could not be reached".to_owned(),
            other => other.to_string(),
        }
    }
}

fn unreachable(error: impl fmt::Display) -> Unposted {
    Unposted::Unreachable(error.to_string())
}

/// `v1,` and the base64 of an HMAC-SHA256 over `id.timestamp.body`.
pub fn signature(secret: &[u8], id: &str, at: i64, body: &[u8]) -> String {
    // A key of any length is one (RFC 2104).
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(secret) else { return String::new() };
    mac.update(format!("{id}.{at}.").as_bytes());
    mac.update(body);
    format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_is_as_standard_webhooks_computes_it() {
        // The example of the specification, its secret decoded.
        let secret = STANDARD.decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").expect("base64");
        let body = br#"{"test": 2432232314}"#;
        let signed = signature(&secret, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, body);
        assert_eq!(signed, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }
}
