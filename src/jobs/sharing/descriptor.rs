//! A job as others are told of it: in which line it stands, since when, and what it asks.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use super::redis::{JobDescriptor, PartitionEntry};
use crate::clock;
use crate::policy::fingerprint;
use crate::snapshot::Snapshot;
use crate::store::{JobId, Millis, Partition, RunnableJob, StoredRequest, UnfinishedJob};

/// Others leave a new job alone for so many milliseconds: whose it is mostly runs it at once.
const GRACE: i64 = 100;
/// A larger body stays on its host.
pub const LARGEST: u64 = 16 << 20;
/// Clocks may have been set: what lies so many milliseconds from now or more is taken for this.
const FARTHEST: i64 = 31 * 86_400_000;

/// By what others know the lines of a policy: only who makes a route's requests alike has the same names.
#[derive(Default)]
pub struct PartitionNames {
    snapshot: Option<Arc<Snapshot>>,
    /// By the names of routes.
    routes: HashMap<String, String>,
}

impl PartitionNames {
    /// `None`: no route takes such jobs.
    pub fn name(&mut self, snapshot: &Arc<Snapshot>, line: &Partition) -> Option<String> {
        if !self.snapshot.as_ref().is_some_and(|of| Arc::ptr_eq(of, snapshot)) {
            let policy = &snapshot.policy;
            let shared = |queue: usize| policy.queues[queue].durable.share;
            let routes = policy.routes.iter().enumerate();
            let routes = routes.filter(|(_, of)| of.durable && of.queue.is_some_and(shared));
            let (indices, names): (Vec<_>, Vec<_>) =
                routes.map(|(index, of)| (index, of.name.clone())).unzip();
            let fingerprints = fingerprint::of_routes(policy, &indices);
            self.routes = names.into_iter().zip(fingerprints).collect();
            self.snapshot = Some(Arc::clone(snapshot));
        }
        Some(format!("{}:{}", self.routes.get(&line.route)?, line.class))
    }
}

/// Told from now; `due`: when another run may follow one that failed.
fn place(
    id: JobId,
    line: String,
    accepted: Millis,
    due: Option<Millis>,
    expires: Millis,
) -> PartitionEntry {
    let now = Millis::of(clock::wall());
    let from_now = |at: Millis| at.0.saturating_sub(now.0);
    let since = due.map_or_else(|| from_now(accepted).saturating_add(GRACE), from_now);
    PartitionEntry {
        id,
        line,
        since: since.clamp(-FARTHEST, FARTHEST),
        expires: now.until(expires),
    }
}

/// Where a job of the store stands.
pub fn place_of(open: &UnfinishedJob, line: String) -> PartitionEntry {
    place(open.id, line, open.accepted, open.due, open.expires)
}

/// What is told of it.
pub fn of_open(
    open: &UnfinishedJob,
    line: String,
    (request, flow): (StoredRequest, Vec<u8>),
) -> JobDescriptor {
    JobDescriptor {
        place: place_of(open, line),
        keep: open.keep,
        attempts: open.attempts,
        deliveries: open.deliveries,
        request,
        flow,
    }
}

/// The same of one that is about to be run.
pub fn of_task(task: &RunnableJob, line: String, keep: Duration) -> JobDescriptor {
    JobDescriptor {
        place: place(task.id, line, task.accepted, None, task.expires),
        keep,
        attempts: task.attempts,
        deliveries: task.deliveries,
        request: task.request.clone(),
        flow: task.flow.clone(),
    }
}
