//! Results are posted to who wanted them, signed, and again until they are taken.
//!
//! As `upstream/webhook.rs` has it; `webhook-id` is the job's id, so that a receiver can tell a repeat.
//! Where a result goes was allowed by the policy when the job was taken, and is looked at again now.

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
use crate::store::{JobRecord, Millis, PendingCallback, Store, StoredResponse};
use crate::telemetry::metrics::DeliveryLabels;
use crate::upstream::{Resolver, WebhookMessage, WebhookSender, signature};

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

pub struct CallbackSender {
    worker: Rc<Worker>,
    store: Store,
    posts: WebhookSender,
    room: Semaphore,
    on_their_way: RefCell<HashSet<i64>>,
    arrived: Notify,
}

/// What is posted, and where to.
struct CallbackMessage {
    to: PostTo,
    post: WebhookMessage,
}

impl CallbackSender {
    pub fn new(worker: Rc<Worker>, store: Store, resolver: Resolver) -> Rc<CallbackSender> {
        Rc::new(CallbackSender {
            posts: WebhookSender::new(worker.pools.clone(), resolver, AT_ONCE),
            worker,
            store,
            room: Semaphore::new(AT_ONCE),
            on_their_way: RefCell::default(),
            arrived: Notify::new(),
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

    async fn see_to(self: Rc<Self>, posting: PendingCallback) {
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
            self.worker.live.metrics.job_deliveries.with(&labels).inc();
            if let Err(error) = self.store.posted(posting, again, sent).await {
                tracing::warn!(%error, "a callback's end cannot be written: it is posted again");
            }
        }
        self.on_their_way.borrow_mut().remove(&seq);
        self.arrived.notify_one();
    }

    /// Whether it was taken; else when to try again, if ever.
    async fn post(&self, posting: &PendingCallback) -> (Option<Millis>, bool) {
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

    async fn letter(&self, posting: &PendingCallback) -> Result<CallbackMessage, String> {
        let to = PostTo::read(&posting.url)?;
        let snapshot = self.worker.current.load_full();
        let queue = snapshot.policy.queues.iter().find(|queue| queue.name == posting.queue);
        let durable = queue.map(|queue| &queue.durable);
        let durable = durable
            .filter(|durable| durable.callbacks().iter().any(|allowed| allowed.allows(&to)))
            .ok_or("the policy no longer allows its URL")?;
        let unreadable = |error: crate::store::StoreError| error.to_string();
        let job = self.store.job(posting.id).await.map_err(unreadable)?;
        let job = job.ok_or("its job is forgotten")?;
        let answer = self.store.answer(job.seq).await.map_err(unreadable)?;
        let at = Millis::of(clock::wall()).0 / 1000;
        let headers = told(&job, answer.as_ref());
        let (id, body) = (posting.id.to_string(), answer.map(|answer| answer.body));
        let body = body.unwrap_or_default();
        let secret = durable.callback_secret();
        let signature = secret.map(|secret| signature(secret.as_bytes(), &id, at, &body));
        Ok(CallbackMessage { to, post: WebhookMessage { id, at, signature, headers, body } })
    }

    async fn sent(&self, letter: CallbackMessage) -> Result<(), String> {
        let CallbackMessage { to, post } = letter;
        let sent = self.posts.send(&to, &post).await;
        sent.map_err(|error| format!("{}: {error}", to.url.host))
    }
}

/// What is told of a job beside its result.
fn told(job: &JobRecord, answer: Option<&StoredResponse>) -> Vec<(&'static str, String)> {
    let mut told = vec![("outrigger-job-state", job.state.as_str().to_owned())];
    let Some(answer) = answer else { return told };
    told.push(("outrigger-job-status", answer.status.to_string()));
    if answer.cut {
        told.push(("outrigger-cut", "max_result".to_owned()));
    }
    told.extend(content_type(answer).map(|kind| ("content-type", kind)));
    told
}
