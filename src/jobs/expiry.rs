//! Transitions that time causes: waits that end, jobs that expire, results that are deleted.

use std::rc::Rc;
use std::time::Duration;

use crate::clock;
use crate::proxy::downstream::worker::Worker;
use crate::store::{Millis, Store};
use crate::telemetry::events::NewEvent;

const INTERVAL: Duration = Duration::from_secs(1);
/// Pause after a full batch.
const SHORT_PAUSE: Duration = Duration::from_millis(1);

pub async fn run(worker: Rc<Worker>, store: Store) {
    let mut logged = false;
    loop {
        let now = Millis::of(clock::wall());
        let pause = match store.upkeep(now).await {
            Ok(report) => {
                logged = false;
                for id in &report.expired {
                    let event = NewEvent::new("job_expired", "jobs", id.to_string());
                    worker.live.events.push(clock::wall(), event.state("expired"));
                }
                match report.next_due {
                    _ if report.more => SHORT_PAUSE,
                    Some(due) => now.until(due).clamp(SHORT_PAUSE, INTERVAL),
                    None => INTERVAL,
                }
            }
            Err(error) => {
                if !std::mem::replace(&mut logged, true) {
                    tracing::warn!(%error, "cannot expire or wake jobs; retrying");
                }
                INTERVAL
            }
        };
        tokio::time::sleep(pause).await;
    }
}
