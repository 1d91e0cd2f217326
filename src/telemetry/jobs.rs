//! The metrics of the durable lane and its store.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;

use super::family::Series;
use super::labels::{DeliveryLabels, JobLabels, QueueLabels};
use super::metrics::{Known, Level, Metrics, Ratio, seconds};

/// Of a commit.
const CHANGES: [f64; 10] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 192.0, 256.0];

#[derive(Debug)]
pub struct JobMetrics {
    pub deliveries: Series<DeliveryLabels, Counter>,
    /// Read off at the scrape, as is the next.
    pub jobs: Family<JobLabels, Level>,
    pub oldest_seconds: Family<QueueLabels, Ratio>,
    pub commit_seconds: Histogram,
    pub commit_changes: Histogram,
    pub commits_failed: Counter,
    /// Of this host's jobs, those that lie in the fleet's Redis.
    pub shared: Level,
    /// Jobs of other hosts that run here.
    pub foreign: Level,
}

impl JobMetrics {
    pub(super) fn new() -> Self {
        JobMetrics {
            deliveries: Series::new(Counter::default),
            jobs: Family::default(),
            oldest_seconds: Family::default(),
            commit_seconds: seconds(),
            commit_changes: Histogram::new(CHANGES),
            commits_failed: Counter::default(),
            shared: Level::default(),
            foreign: Level::default(),
        }
    }

    pub(super) fn register(metrics: &mut Metrics) {
        let deliveries = metrics.jobs.deliveries.family();
        metrics.tell("job_deliveries", "Runs of jobs and posts of results, by result", deliveries);
        let jobs = metrics.jobs.jobs.clone();
        metrics.tell("jobs", "Jobs in the store, by queue and state", jobs);
        let oldest = metrics.jobs.oldest_seconds.clone();
        metrics.tell("job_oldest_seconds", "Age of a queue's oldest job that is ready", oldest);
        let shared = metrics.jobs.shared.clone();
        metrics.tell("jobs_shared", "Jobs of this host that any host may run now", shared);
        let foreign = metrics.jobs.foreign.clone();
        metrics.tell("jobs_foreign", "Jobs of other hosts that run here", foreign);
        let commits = metrics.jobs.commit_seconds.clone();
        metrics.tell("store_commit_seconds", "Commits of the store, synced to disk", commits);
        let changes = metrics.jobs.commit_changes.clone();
        metrics.tell("store_commit_changes", "Changes that share one commit", changes);
        let failed = metrics.jobs.commits_failed.clone();
        metrics.tell("store_commits_failed", "Commits that could not be written", failed);
    }

    pub(super) fn retain(&self, known: &Known<'_>) {
        self.deliveries.retain(|labels| known.queues.contains(labels.queue.as_str()));
    }

    /// A commit of the store.
    pub fn commit(&self, changes: usize, seconds: f64, failed: bool) {
        self.commit_seconds.observe(seconds);
        self.commit_changes.observe(changes as f64);
        if failed {
            self.commits_failed.inc();
        }
    }
}
