//! The description of a job that is published to other hosts.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use super::redis::{JobDescriptor, PartitionEntry};
use crate::clock;
use crate::policy::fingerprint;
use crate::snapshot::Snapshot;
use crate::store::{JobContent, Millis, Partition, RunnableJob, UnfinishedJob};

/// Milliseconds for which other hosts leave a new job alone: its owner usually runs it at once.
const GRACE_MS: i64 = 100;
/// A job with a larger body stays on its host.
pub const LARGEST_BODY: u64 = 16 << 20;
/// Bound for a time relative to now, in milliseconds: a clock may have been set.
const LONGEST_MS: i64 = 31 * 86_400_000;

/// The names of partitions in Redis. Two hosts have the same name for a route only if they make its
/// requests alike.
#[derive(Default)]
pub struct PartitionNames {
    snapshot: Option<Arc<Snapshot>>,
    /// Route name to the route's fingerprint.
    routes: HashMap<String, String>,
}

impl PartitionNames {
    /// `None` if the partition's route does not share jobs.
    pub fn name(&mut self, snapshot: &Arc<Snapshot>, partition: &Partition) -> Option<String> {
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
        Some(format!("{}:{}", self.routes.get(&partition.route)?, partition.class))
    }
}

/// Milliseconds from now until a job is ready. `due`: when a failed job may run again.
fn ready_in(accepted: Millis, due: Option<Millis>, now: Millis) -> i64 {
    let from_now = |at: Millis| at.0.saturating_sub(now.0);
    let ready = due.map_or_else(|| from_now(accepted).saturating_add(GRACE_MS), from_now);
    ready.clamp(-LONGEST_MS, LONGEST_MS)
}

pub fn entry_of(job: &UnfinishedJob, partition: String) -> PartitionEntry {
    let now = Millis::of(clock::wall());
    let ready_in = ready_in(job.accepted, job.due, now);
    PartitionEntry { id: job.id, partition, ready_in, expires: now.until(job.expires) }
}

pub fn of_unfinished(job: &UnfinishedJob, partition: String, content: JobContent) -> JobDescriptor {
    JobDescriptor {
        entry: entry_of(job, partition),
        keep: job.keep,
        attempts: job.attempts,
        deliveries: job.deliveries,
        content,
    }
}

pub fn of_runnable(job: &RunnableJob, partition: String, keep: Duration) -> JobDescriptor {
    let now = Millis::of(clock::wall());
    let ready_in = ready_in(job.accepted, None, now);
    let expires = now.until(job.expires);
    JobDescriptor {
        entry: PartitionEntry { id: job.id, partition, ready_in, expires },
        keep,
        attempts: job.attempts,
        deliveries: job.deliveries,
        content: JobContent { request: job.request.clone(), flow: job.flow.clone() },
    }
}
