//! What time alone does: jobs whose wait is over, whose time has passed, whose result is old.

use std::rc::Rc;
use std::time::Duration;

use crate::clock;
use crate::proxy::downstream::worker::Worker;
use crate::store::{Millis, Store};

const BEAT: Duration = Duration::from_secs(1);
/// After a batch that was full.
const AT_ONCE: Duration = Duration::from_millis(1);

pub async fn run(worker: Rc<Worker>, store: Store) {
    let mut told = false;
    loop {
        let now = Millis::of(clock::wall());
        let rest = match store.upkeep(now).await {
            Ok(upkept) => {
                told = false;
                for id in &upkept.expired {
                    worker.live.events.push(clock::wall(), "job_expired", "jobs", id.to_string());
                }
                match upkept.next_due {
                    _ if upkept.more => AT_ONCE,
                    Some(due) => now.until(due).clamp(AT_ONCE, BEAT),
                    None => BEAT,
                }
            }
            Err(error) => {
                if !std::mem::replace(&mut told, true) {
                    tracing::warn!(%error, "jobs that wait cannot be looked after: trying on");
                }
                BEAT
            }
        };
        tokio::time::sleep(rest).await;
    }
}
