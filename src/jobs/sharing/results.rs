//! How jobs of this host ended elsewhere is fetched and written down: from then on it is the truth.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use super::ownership::{Ownership, RedisAvailability};
use super::redis::{FetchedOutcome, JobOutcome};
use crate::clock;
use crate::jobs::dispatcher::Dispatcher;
use crate::store::{Millis, RemoteOutcome};
use crate::telemetry::metrics::DeliveryLabels;

const AT_ONCE: usize = 64;
/// Where it could not be written down.
const AGAIN: Duration = Duration::from_secs(1);

pub async fn run(desk: Rc<Dispatcher>, share: Rc<Ownership>) {
    loop {
        share.ended.notified().await;
        while share.standing() == RedisAvailability::Attached && some(&desk, &share).await {}
    }
}

/// Hears of them as they come; beside it, they are looked for each second.
pub async fn hear(share: Rc<Ownership>) {
    loop {
        if share.is_used() {
            let told = || share.ended.notify_one();
            if let Err(failure) = share.board.hear_ends(told).await {
                tracing::debug!(%failure, "shared jobs: ends cannot be waited for");
            }
        }
        tokio::time::sleep(AGAIN).await;
    }
}

/// Whether there may be more.
async fn some(desk: &Dispatcher, share: &Ownership) -> bool {
    let Ok(fetched) = share.heard(share.board.fetch(AT_ONCE).await) else { return false };
    let full = fetched.len() == AT_ONCE;
    // Those that are written down already are cleared in a moment.
    let new = |ended: &FetchedOutcome| !share.fetched.borrow().contains(&ended.id);
    let (all, unreadable): (Vec<_>, Vec<_>) =
        fetched.into_iter().filter(new).partition(|ended| ended.end.is_some());
    share.overs.borrow_mut().extend(unreadable.iter().map(|ended| ended.id));
    if all.is_empty() {
        return false;
    }
    let all: Arc<Vec<RemoteOutcome>> = Arc::new(all.into_iter().filter_map(elsewhere).collect());
    let written = desk.store.end_elsewhere(Arc::clone(&all), Millis::of(clock::wall())).await;
    match written {
        Ok(queues) => {
            for (ended, queue) in all.iter().zip(queues) {
                share.fetched.borrow_mut().insert(ended.id);
                share.overs.borrow_mut().push(ended.id);
                queue.into_iter().for_each(|queue| tell(desk, ended, queue));
            }
            share.news.notify_one();
            full
        }
        Err(error) => {
            tracing::warn!(%error, "ends of jobs that ran elsewhere cannot be written: trying on");
            tokio::time::sleep(AGAIN).await;
            true
        }
    }
}

fn elsewhere(ended: FetchedOutcome) -> Option<RemoteOutcome> {
    let FetchedOutcome { id, attempts, deliveries, end } = ended;
    let end = match end? {
        JobOutcome::Answered(answer) => Ok(Arc::new(answer)),
        JobOutcome::Dead(why) => Err(why),
    };
    Some(RemoteOutcome { id, attempts, deliveries, end })
}

fn tell(desk: &Dispatcher, ended: &RemoteOutcome, queue: String) {
    let live = &desk.worker.live;
    if let Err(why) = &ended.end {
        tracing::warn!(id = %ended.id, queue, why, "a job is dead");
        live.events.push(clock::wall(), "job_dead", &queue, format!("{}: {why}", ended.id));
    }
    let result = if ended.end.is_ok() { "done_elsewhere" } else { "dead_elsewhere" };
    live.metrics.job_deliveries.with(&DeliveryLabels { queue, result }).inc();
}
