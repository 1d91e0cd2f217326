//! Posts results to the callback URLs of their jobs, signed, until they are accepted
//! (docs/design/queue.md "Webhooks").
//!
//! `webhook-id` is the job's id, so that a receiver can detect a repetition. The policy allowed the
//! URL when the job was accepted; it is checked again before each post.

use std::cell::RefCell;
use std::collections::HashSet;
use std::rc::Rc;
use std::time::Duration;

use tokio::sync::{Notify, Semaphore};

use crate::clock;
use crate::policy::sections::model::PostTo;
use crate::proxy::downstream::worker::Worker;
use crate::proxy::jobs::run::content_type;
use crate::resilience::retry::backoff::{BackoffPolicy, Jitter};
use crate::store::{
    CallbackResult, JobRecord, Millis, PendingCallback, Store, StoreError, StoredResponse,
};
use crate::telemetry::metrics::DeliveryLabels;
use crate::telemetry::panics::Contained;
use crate::upstream::{AddressScope, Resolver, WebhookMessage, WebhookSender, signature};

const CONCURRENCY: usize = 8;
/// Together with the backoff: about five hours.
const MAX_ATTEMPTS: u32 = 12;
const BACKOFF: BackoffPolicy = BackoffPolicy {
    initial: Duration::from_secs(5),
    max: Duration::from_secs(3600),
    multiplier: 3.0,
    jitter: Jitter::Equal,
};
/// Longest time between two looks at the store.
const INTERVAL: Duration = Duration::from_secs(60);
const STORE_RETRY: Duration = Duration::from_secs(1);

pub struct CallbackSender {
    worker: Rc<Worker>,
    store: Store,
    posts: WebhookSender,
    permits: Semaphore,
    /// Sequence numbers of the jobs whose callbacks are being sent.
    in_flight: RefCell<HashSet<i64>>,
    finished: Notify,
}

/// A message and its destination.
struct CallbackMessage {
    to: PostTo,
    scope: AddressScope,
    post: WebhookMessage,
}

impl CallbackSender {
    pub fn new(worker: Rc<Worker>, store: Store, resolver: Resolver) -> Rc<CallbackSender> {
        Rc::new(CallbackSender {
            posts: WebhookSender::new(worker.pools.clone(), resolver, CONCURRENCY),
            worker,
            store,
            permits: Semaphore::new(CONCURRENCY),
            in_flight: RefCell::default(),
            finished: Notify::new(),
        })
    }

    pub async fn run(self: Rc<Self>) {
        loop {
            let now = Millis::of(clock::wall());
            let pause = match self.store.due_callbacks(now).await {
                Ok((due, next)) => {
                    for callback in due {
                        if self.in_flight.borrow_mut().insert(callback.seq) {
                            let process = Rc::clone(&self).process(callback);
                            tokio::task::spawn_local(Contained::new(process));
                        }
                    }
                    next.map_or(INTERVAL, |next| now.until(next).min(INTERVAL))
                }
                Err(error) => {
                    tracing::warn!(%error, "callbacks: cannot read which callbacks are due; retrying");
                    STORE_RETRY
                }
            };
            tokio::select! {
                () = self.store.wait_finished() => {}
                () = self.finished.notified() => {}
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    async fn process(self: Rc<Self>, callback: PendingCallback) {
        let seq = callback.seq;
        if let Ok(_permit) = self.permits.acquire().await {
            let result = self.post(&callback).await;
            let labels = DeliveryLabels {
                queue: callback.queue.clone(),
                result: match result {
                    CallbackResult::Sent => "callback_sent",
                    CallbackResult::RetryAt(_) => "callback_failed",
                    CallbackResult::GivenUp => "callback_given_up",
                },
            };
            self.worker.live.metrics.job_deliveries.with(&labels).inc();
            if let Err(error) = self.store.record_callback(callback, result).await {
                tracing::warn!(%error, "cannot write the result of a callback; it is sent again");
            }
        }
        self.in_flight.borrow_mut().remove(&seq);
        self.finished.notify_one();
    }

    async fn post(&self, callback: &PendingCallback) -> CallbackResult {
        let message = match self.message(callback).await {
            Ok(message) => message,
            Err(reason) => {
                tracing::warn!(id = %callback.id, reason, "a callback cannot be sent; giving it up");
                return CallbackResult::GivenUp;
            }
        };
        let Err(reason) = self.send(message).await else { return CallbackResult::Sent };
        let attempts = callback.attempts + 1;
        let again = attempts < MAX_ATTEMPTS;
        tracing::warn!(id = %callback.id, reason, attempts, again, "a callback failed");
        if !again {
            return CallbackResult::GivenUp;
        }
        let delay = BACKOFF.delay(attempts, clock::draw());
        CallbackResult::RetryAt(Millis::of(clock::wall()).after(delay))
    }

    async fn message(&self, callback: &PendingCallback) -> Result<CallbackMessage, String> {
        let to = PostTo::read(&callback.url)?;
        let snapshot = self.worker.current.load_full();
        let queue = snapshot.policy.queues.iter().find(|queue| queue.name == callback.queue);
        let durable = queue.map(|queue| &queue.durable);
        let durable = durable
            .filter(|durable| durable.allows_callback(&to))
            .ok_or("the policy no longer allows its URL")?;
        let unreadable = |error: StoreError| error.to_string();
        let job = self.store.job(callback.id).await.map_err(unreadable)?;
        let job = job.ok_or("its job was deleted")?;
        let response = self.store.response(job.seq).await.map_err(unreadable)?;
        let at = Millis::of(clock::wall()).0 / 1000;
        let headers = headers(&job, response.as_ref());
        let (id, body) = (callback.id.to_string(), response.map(|response| response.body));
        let body = body.unwrap_or_default();
        let secret = durable.callback_secret();
        let signature = secret.map(|secret| signature(secret.as_bytes(), &id, at, &body));
        let scope = match durable.allows_private_callback(&to) {
            true => AddressScope::Any,
            false => AddressScope::Public,
        };
        Ok(CallbackMessage { to, scope, post: WebhookMessage { id, at, signature, headers, body } })
    }

    async fn send(&self, message: CallbackMessage) -> Result<(), String> {
        let CallbackMessage { to, scope, post } = message;
        let sent = self.posts.send(&to, scope, &post).await;
        sent.map_err(|error| format!("{}: {error}", to.url.host))
    }
}

/// The headers that describe the job of a result.
fn headers(job: &JobRecord, response: Option<&StoredResponse>) -> Vec<(&'static str, String)> {
    let mut headers = vec![("outrigger-job-state", job.state.as_str().to_owned())];
    let Some(response) = response else { return headers };
    headers.push(("outrigger-job-status", response.status.to_string()));
    if response.cut {
        headers.push(("outrigger-cut", "max_result".to_owned()));
    }
    headers.extend(content_type(response).map(|kind| ("content-type", kind)));
    headers
}
