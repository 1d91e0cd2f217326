//! Fetches how jobs of this host ended on other hosts, and writes it to the store, which is the
//! truth from then on.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use super::ownership::{Ownership, RedisAvailability};
use crate::clock;
use crate::proxy::downstream::worker::Worker;
use crate::store::{JobId, Millis, RemoteOutcome, Store};
use crate::telemetry::events::NewEvent;
use crate::telemetry::metrics::DeliveryLabels;

const PAGE: usize = 64;
const RETRY: Duration = Duration::from_secs(1);

pub async fn run(worker: Rc<Worker>, store: Store, ownership: Rc<Ownership>) {
    loop {
        ownership.results_ready.notified().await;
        while ownership.availability() == RedisAvailability::Attached
            && fetch_page(&worker, &store, &ownership).await
        {}
    }
}

/// Waits for results as they come. The publisher's heartbeat looks for them each second, too.
pub async fn listen(ownership: Rc<Ownership>) {
    loop {
        if ownership.is_used() {
            let notify = || ownership.results_ready.notify_one();
            if let Err(error) = ownership.client.listen_for_results(notify).await {
                tracing::debug!(%error, "shared jobs: cannot wait for results");
            }
        }
        tokio::time::sleep(RETRY).await;
    }
}

/// Returns whether there may be more.
async fn fetch_page(worker: &Worker, store: &Store, ownership: &Ownership) -> bool {
    let Ok(page) = ownership.client.fetch(PAGE).await else { return false };
    let full = page.len() == PAGE;
    // Results that are written already leave Redis in a moment.
    let mut outcomes: Vec<RemoteOutcome> = Vec::new();
    for (id, outcome) in page {
        match outcome {
            _ if ownership.fetched.borrow().contains(&id) => {}
            Some(outcome) => outcomes.push(outcome),
            None => ownership.to_remove.borrow_mut().push(id),
        }
    }
    if outcomes.is_empty() {
        return false;
    }
    let outcomes = Arc::new(outcomes);
    let now = Millis::of(clock::wall());
    match store.finish_remote(Arc::clone(&outcomes), now).await {
        Ok(queues) => {
            for (outcome, queue) in outcomes.iter().zip(queues) {
                ownership.fetched.borrow_mut().insert(outcome.id);
                ownership.to_remove.borrow_mut().push(outcome.id);
                queue.into_iter().for_each(|queue| report(worker, outcome, queue));
            }
            ownership.publish_due.notify_one();
            full
        }
        Err(error) => {
            tracing::warn!(%error, "cannot write results from other hosts; retrying");
            tokio::time::sleep(RETRY).await;
            true
        }
    }
}

fn report(worker: &Worker, outcome: &RemoteOutcome, queue: String) {
    if let Err(reason) = &outcome.outcome {
        report_dead(worker, outcome.id, &queue, reason);
    }
    let result = if outcome.outcome.is_ok() { "done_elsewhere" } else { "dead_elsewhere" };
    worker.live.metrics.job_deliveries.with(&DeliveryLabels { queue, result }).inc();
}

/// Logs that a job is dead, and records the event.
pub fn report_dead(worker: &Worker, id: JobId, queue: &str, reason: &str) {
    tracing::warn!(%id, queue, reason, "a job is dead; `outrigger queue retry ID` runs it again");
    let event = NewEvent::new("job_dead", queue, format!("{id}: {reason}"));
    worker.live.events.push(clock::wall(), event.state("dead").cause(reason.to_owned()));
}
