//! Results are posted to who wanted them, signed, and again until they are taken.
//!
//! As Standard Webhooks has it (<https://www.standardwebhooks.com>): `webhook-id` is the job's id, so
//! that a receiver can tell a repeat; `webhook-signature` is an HMAC over id, time and body. Where a
//! result goes was allowed by the policy when the job was taken, and is looked at again now. No
//! redirect is followed.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use hmac::{Hmac, Mac};
use http::Method;
use sha2::Sha256;
use tokio::sync::{Notify, Semaphore};

use crate::clock;
use crate::policy::model::{ClientTls, PostTo};
use crate::proxy::deliver::content_type;
use crate::proxy::worker::Worker;
use crate::resilience::backoff::{BackoffPolicy, Jitter};
use crate::store::{Answer, Millis, Posting, Shown, Store};
use crate::telemetry::metrics::DeliveryLabels;
use crate::upstream::{Outgoing, ReqBody, Resolver, Target};

const CONNECT: Duration = Duration::from_secs(5);
const ANSWER: Duration = Duration::from_secs(30);
const AT_ONCE: usize = 8;
/// With these it is tried for about five hours.
const TIMES: u32 = 12;
const AGAIN: BackoffPolicy = BackoffPolicy {
    initial: Duration::from_secs(5),
    max: Duration::from_secs(3600),
    multiplier: 3.0,
    jitter: Jitter::Equal,
};
/// What is due is found at the latest after this.
const BEAT: Duration = Duration::from_secs(60);
const STORE_AGAIN: Duration = Duration::from_secs(1);
const TARGETS: usize = 64;

pub struct Callbacks {
    worker: Rc<Worker>,
    store: Store,
    resolver: Resolver,
    room: Semaphore,
    on_their_way: RefCell<HashSet<i64>>,
    arrived: Notify,
    /// One for each host, port and scheme.
    targets: RefCell<HashMap<(bool, String), Arc<Target>>>,
}

/// What is posted, and where to.
struct Letter {
    to: PostTo,
    signature: Option<String>,
    job: Shown,
    at: i64,
    answer: Option<Answer>,
}

impl Callbacks {
    pub fn new(worker: Rc<Worker>, store: Store, resolver: Resolver) -> Rc<Callbacks> {
        Rc::new(Callbacks {
            worker,
            store,
            resolver,
            room: Semaphore::new(AT_ONCE),
            on_their_way: RefCell::default(),
            arrived: Notify::new(),
            targets: RefCell::default(),
        })
    }

    pub async fn run(self: Rc<Self>) {
        loop {
            let now = Millis::of(clock::wall());
            let rest = match self.store.postings(now).await {
                Ok((due, next)) => {
                    for posting in due {
                        if self.on_their_way.borrow_mut().insert(posting.seq) {
                            tokio::task::spawn_local(Rc::clone(&self).see_to(posting));
                        }
                    }
                    next.map_or(BEAT, |next| now.until(next).min(BEAT))
                }
                Err(error) => {
                    tracing::warn!(%error, "callbacks: cannot tell which are due");
                    STORE_AGAIN
                }
            };
            tokio::select! {
                () = self.store.ended() => {}
                () = self.arrived.notified() => {}
                () = tokio::time::sleep(rest) => {}
            }
        }
    }

    async fn see_to(self: Rc<Self>, posting: Posting) {
        let seq = posting.seq;
        if let Ok(_permit) = self.room.acquire().await {
            let (again, sent) = self.post(&posting).await;
            let labels = DeliveryLabels {
                queue: posting.queue.clone(),
                result: match (sent, again) {
                    (true, _) => "callback_sent",
                    (false, Some(_)) => "callback_failed",
                    (false, None) => "callback_given_up",
                },
            };
            self.worker.live.metrics.jobs.deliveries.with(&labels).inc();
            if let Err(error) = self.store.posted(posting, again, sent).await {
                tracing::warn!(%error, "a callback's end cannot be written: it is posted again");
            }
        }
        self.on_their_way.borrow_mut().remove(&seq);
        self.arrived.notify_one();
    }

    /// Whether it was taken; else when to try again, if ever.
    async fn post(&self, posting: &Posting) -> (Option<Millis>, bool) {
        let failed = match self.letter(posting).await {
            Ok(letter) => match self.sent(letter).await {
                Ok(()) => return (None, true),
                Err(why) => why,
            },
            Err(why) => {
                tracing::warn!(id = %posting.id, why, "a callback is given up");
                return (None, false);
            }
        };
        let times = posting.attempts + 1;
        let rest = AGAIN.delay(times, clock::draw());
        let again = (times < TIMES).then(|| Millis::of(clock::wall()).after(rest));
        tracing::warn!(id = %posting.id, why = failed, times, again = again.is_some(), "a callback failed");
        (again, false)
    }

    async fn letter(&self, posting: &Posting) -> Result<Letter, String> {
        let to = PostTo::read(&posting.url)?;
        let snapshot = self.worker.current.load_full();
        let queue = snapshot.policy.queues.iter().find(|queue| queue.name == posting.queue);
        let durable = queue.map(|queue| &queue.durable);
        let durable = durable
            .filter(|durable| durable.callback.iter().any(|allowed| allowed.allows(&to)))
            .ok_or("the policy no longer allows its URL")?;
        let unreadable = |error: crate::store::Failure| error.to_string();
        let job = self.store.job(posting.id).await.map_err(unreadable)?;
        let job = job.ok_or("its job is forgotten")?;
        let answer = self.store.answer(job.seq).await.map_err(unreadable)?;
        let at = Millis::of(clock::wall()).0 / 1000;
        let body = answer.as_ref().map_or(&[][..], |answer| &answer.body);
        let id = posting.id.to_string();
        let signature = durable
            .callback_secret
            .as_ref()
            .map(|secret| signature(secret.as_bytes(), &id, at, body));
        Ok(Letter { to, signature, job, at, answer })
    }

    async fn sent(&self, letter: Letter) -> Result<(), String> {
        let target = self.target(&letter.to)?;
        let connection = match self.worker.pools.idle(&target, clock::now()) {
            Some(connection) => connection,
            None => self.worker.pools.dial(&target).await.map_err(|error| error.to_string())?,
        };
        let body = letter.answer.as_ref().map_or_else(Bytes::new, |answer| answer.body.clone());
        let request = Outgoing {
            head: false,
            upgrade: false,
            elsewhere: false,
            sized: true,
            body: if body.is_empty() { ReqBody::Empty } else { ReqBody::full(body) },
        };
        let sending = connection.send(request, |out| letter.write(out, &target));
        match tokio::time::timeout(ANSWER, sending).await {
            Ok(Ok((head, _))) if head.status.is_success() => Ok(()),
            Ok(Ok((head, _))) => Err(format!("{} answered {}", target.url().host, head.status)),
            Ok(Err(_)) => Err(format!("{}: the connection broke", target.url().host)),
            Err(_) => Err(format!("{}: no answer within {ANSWER:?}", target.url().host)),
        }
    }

    fn target(&self, to: &PostTo) -> Result<Arc<Target>, String> {
        let key = (to.url.https, to.url.authority.clone());
        let mut targets = self.targets.borrow_mut();
        if let Some(target) = targets.get(&key) {
            return Ok(Arc::clone(target));
        }
        let (tls, at_once) = (ClientTls::default(), AT_ONCE);
        let target = Target::new(&to.url, &tls, None, CONNECT, at_once, &self.resolver)
            .map_err(|error| error.to_string())?;
        if targets.len() >= TARGETS {
            targets.clear();
        }
        targets.insert(key, Arc::clone(&target));
        Ok(target)
    }
}

impl Letter {
    fn write(&self, out: &mut Vec<u8>, target: &Target) {
        let mut line = |text: String| {
            out.extend_from_slice(text.as_bytes());
            out.extend_from_slice(b"\r\n");
        };
        line(format!("{} {} HTTP/1.1", Method::POST, self.to.target));
        line(format!("host: {}", target.url().authority));
        line("user-agent: outrigger".to_owned());
        line(format!("webhook-id: {}", self.job.id));
        line(format!("webhook-timestamp: {}", self.at));
        line(format!("outrigger-job-state: {}", self.job.state.as_str()));
        if let Some(signature) = &self.signature {
            line(format!("webhook-signature: {signature}"));
        }
        if let Some(answer) = &self.answer {
            line(format!("outrigger-job-status: {}", answer.status));
            if answer.cut {
                line("outrigger-cut: max_result".to_owned());
            }
            if let Some(kind) = content_type(answer) {
                line(format!("content-type: {kind}"));
            }
        }
    }
}

/// `v1,` and the base64 of an HMAC-SHA256 over `id.timestamp.body`.
fn signature(secret: &[u8], id: &str, at: i64, body: &[u8]) -> String {
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
