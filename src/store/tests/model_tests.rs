//! The store against a model of the states in docs/design/queue.md "States": after any sequence of
//! calls both return the same and hold the same jobs, and the totals that triggers keep are right.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use tempfile::TempDir;

use super::store_tests::*;
use super::*;

const LIMITS: QueueLimits = QueueLimits { jobs: 8, bytes: 200 };
/// Runs that a job may have.
const MOST: u32 = 3;
const KEEP: u64 = 4_000;
const LIFE: u64 = 6_000;
const KEY: u64 = 86_400_000;
const QUEUES: [&str; 2] = ["jobs", "rare"];

#[derive(Clone, Debug)]
enum Step {
    Accept { queue: usize, flow: u8, bytes: usize, key: Option<(u8, u8, u8)> },
    Lease(usize),
    Complete(usize),
    Fail(usize, Option<u64>),
    Park(usize, Option<u64>),
    Cancel(usize, Option<u8>),
    Retry(usize),
    Requeue(usize),
    Purge(usize, usize),
    Upkeep,
    Pass(u64),
    Reopen,
}

fn step() -> impl Strategy<Value = Step> {
    let which = 0..usize::MAX;
    let wait = proptest::option::of(0..2_000u64);
    let key = proptest::option::weighted(0.3, (1..3u8, 0..2u8, 0..2u8));
    prop_oneof![
        8 => (0..2usize, 0..3u8, 0..60usize, key)
            .prop_map(|(queue, flow, bytes, key)| Step::Accept { queue, flow, bytes, key }),
        10 => which.clone().prop_map(Step::Lease),
        3 => which.clone().prop_map(Step::Complete),
        4 => (which.clone(), wait.clone()).prop_map(|(which, wait)| Step::Fail(which, wait)),
        3 => (which.clone(), wait).prop_map(|(which, wait)| Step::Park(which, wait)),
        1 => (which.clone(), proptest::option::of(1..3u8))
            .prop_map(|(which, principal)| Step::Cancel(which, principal)),
        2 => which.prop_map(Step::Retry),
        1 => (0..2usize).prop_map(Step::Requeue),
        1 => (0..2usize, 0..JobState::ALL.len()).prop_map(|(queue, state)| Step::Purge(queue, state)),
        4 => Just(Step::Upkeep),
        5 => prop_oneof![9 => 0..2_000u64, 1 => Just(KEY)].prop_map(Step::Pass),
        1 => Just(Step::Reopen),
    ]
}

/// A job as the model has it; times in milliseconds.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Job {
    id: JobId,
    queue: &'static str,
    principal: u8,
    bytes: u64,
    state: JobState,
    attempts: u32,
    deliveries: u32,
    lease: i64,
    accepted: i64,
    due: Option<i64>,
    expires: i64,
    finished: Option<i64>,
}

impl Job {
    fn end(&mut self, state: JobState, now: i64) {
        (self.state, self.due, self.finished) = (state, None, Some(now));
    }

    fn again(&mut self, now: i64) {
        if self.state == JobState::Dead {
            (self.attempts, self.deliveries) = (0, 0);
        }
        self.expires = self.expires.max(now + self.expires - self.accepted);
        (self.state, self.due, self.finished) = (JobState::Ready, None, None);
    }
}

struct Known {
    fingerprint: u8,
    id: JobId,
    forget: i64,
}

/// The store and its model.
struct StoreAndModel {
    folder: TempDir,
    store: Option<Store>,
    now: i64,
    /// By `seq`, without deleted jobs.
    jobs: BTreeMap<i64, Job>,
    /// All ids ever used, in the order of `seq`.
    ids: Vec<JobId>,
    keys: BTreeMap<(u8, u8), Known>,
    leases: Vec<RunLease>,
    watches: BTreeMap<i64, JobWatch>,
}

impl StoreAndModel {
    fn new() -> StoreAndModel {
        let folder = folder();
        StoreAndModel {
            store: Some(open(folder.path())),
            folder,
            now: NOW.0,
            jobs: BTreeMap::new(),
            ids: Vec::new(),
            keys: BTreeMap::new(),
            leases: Vec::new(),
            watches: BTreeMap::new(),
        }
    }

    fn store(&self) -> Store {
        self.store.clone().expect("an open store")
    }

    fn now(&self) -> Millis {
        Millis(self.now)
    }

    fn seq(&self, which: usize) -> Option<i64> {
        (!self.ids.is_empty()).then(|| (which % self.ids.len()) as i64 + 1)
    }

    /// Mostly a ready job.
    fn ready(&self, which: usize) -> Option<i64> {
        let ready = self.jobs.iter().filter(|(_, job)| job.state == JobState::Ready);
        let ready: Vec<i64> = ready.map(|(seq, _)| *seq).collect();
        if ready.is_empty() || which.is_multiple_of(7) {
            return self.seq(which / 7);
        }
        Some(ready[(which / 7) % ready.len()])
    }

    /// One of the last leases, which may be invalid; and the job, if it is valid.
    fn lease(&mut self, which: usize) -> Option<(RunLease, JobId, Option<&mut Job>)> {
        let last = self.leases.len().checked_sub(1)?;
        let lease = self.leases[last - which % self.leases.len().min(4)];
        let id = self.ids[usize::try_from(lease.seq).expect("a seq") - 1];
        let holds = |job: &&mut Job| job.state == JobState::Leased && job.lease == lease.number;
        Some((lease, id, self.jobs.get_mut(&lease.seq).filter(holds)))
    }

    async fn take(&mut self, step: Step) {
        match step {
            Step::Accept { queue, flow, bytes, key } => {
                self.accept(QUEUES[queue], flow, bytes, key).await;
            }
            Step::Lease(which) => self.begin(which).await,
            Step::Complete(which) => {
                let (store, now) = (self.store(), self.now);
                let Some((lease, id, job)) = self.lease(which) else { return };
                let holds = job.map(|job| job.end(JobState::Done, now)).is_some();
                let done = store.complete(id, lease, response(), Millis(now)).await;
                assert_eq!(done.expect("written"), holds);
            }
            Step::Fail(which, wait) => self.fail(which, wait).await,
            Step::Park(which, wait) => self.park(which, wait).await,
            Step::Cancel(which, principal) => self.cancel(which, principal).await,
            Step::Retry(which) => self.retry(which).await,
            Step::Requeue(queue) => self.requeue(QUEUES[queue]).await,
            Step::Purge(queue, state) => self.purge(QUEUES[queue], JobState::ALL[state]).await,
            Step::Upkeep => self.upkeep().await,
            Step::Pass(ms) => self.now += ms as i64,
            Step::Reopen => self.reopen(),
        }
    }

    async fn accept(
        &mut self,
        queue: &'static str,
        flow: u8,
        bytes: usize,
        key: Option<(u8, u8, u8)>,
    ) {
        let n = self.ids.len() as u64 + 1_000_000 * (self.now as u64 - NOW.0 as u64) + 1;
        let principal = key.map_or(1, |(principal, ..)| principal);
        let mut new = NewJob {
            queue: queue.to_owned(),
            flow: vec![flow],
            principal: [principal; 32],
            expires: self.now().after(Duration::from_millis(LIFE)),
            keep: Duration::from_millis(KEEP),
            key: key.map(|(_, text, print)| IdempotencyKey {
                text: text.to_string(),
                fingerprint: [print; 32],
            }),
            ..job(n)
        };
        new.request.body = vec![b'x'; bytes].into();
        let known = key.and_then(|(principal, text, print)| {
            let known =
                self.keys.get(&(principal, text)).filter(|known| known.forget > self.now)?;
            let state = self.jobs.values().find(|job| job.id == known.id).map(|job| job.state);
            Some(match known.fingerprint == print {
                true => EnqueueResult::Known(known.id, state),
                false => EnqueueResult::OtherRequest,
            })
        });
        let waiting =
            || self.jobs.values().filter(|job| job.queue == queue && !job.state.is_final());
        let (jobs, held) = (waiting().count() as u64, waiting().map(|job| job.bytes).sum::<u64>());
        let expected = match known {
            Some(known) => known,
            None if jobs >= LIMITS.jobs => EnqueueResult::Full(QueueFull::Jobs(jobs)),
            None if held + bytes as u64 > LIMITS.bytes => {
                EnqueueResult::Full(QueueFull::Bytes(held))
            }
            None => EnqueueResult::New,
        };
        let accepted = self.store().enqueue(Arc::new(new), LIMITS, self.now()).await;
        assert_eq!(accepted.expect("a result"), expected);
        if expected == EnqueueResult::New {
            self.taken(queue, principal, bytes as u64, id(n));
            if let Some((principal, text, fingerprint)) = key {
                let known = Known { fingerprint, id: id(n), forget: self.now + KEY as i64 };
                self.keys.insert((principal, text), known);
            }
        }
    }

    fn taken(&mut self, queue: &'static str, principal: u8, bytes: u64, id: JobId) {
        self.ids.push(id);
        let seq = self.ids.len() as i64;
        let job = Job {
            id,
            queue,
            principal,
            bytes,
            state: JobState::Ready,
            attempts: 0,
            deliveries: 0,
            lease: 0,
            accepted: self.now,
            due: None,
            expires: self.now + LIFE as i64,
            finished: None,
        };
        self.jobs.insert(seq, job);
    }

    async fn begin(&mut self, which: usize) {
        let Some(seq) = self.ready(which) else { return };
        let now = self.now;
        let may = |job: &&mut Job| job.state == JobState::Ready && job.expires > now;
        let expected = match self.jobs.get_mut(&seq).filter(may) {
            None => LeaseResult::Gone,
            Some(job) if job.deliveries >= MOST => {
                job.end(JobState::Dead, now);
                LeaseResult::Exhausted(job.id)
            }
            Some(job) => {
                (job.state, job.lease, job.deliveries) =
                    (JobState::Leased, job.lease + 1, job.deliveries + 1);
                LeaseResult::Run(RunLease { seq, number: job.lease, deliveries: job.deliveries })
            }
        };
        let leased = self.store().lease(seq, MOST, 0, self.now()).await.expect("a result");
        assert_eq!(leased, expected);
        if let LeaseResult::Run(lease) = leased {
            self.leases.push(lease);
        }
    }

    async fn fail(&mut self, which: usize, wait: Option<u64>) {
        let (store, now) = (self.store(), self.now);
        let Some((lease, id, job)) = self.lease(which) else { return };
        let due = wait.map(|ms| now + ms as i64);
        let then = due.map_or(AfterFailure::Dead, |due| AfterFailure::RunAt(Millis(due)));
        let holds = job.is_some();
        if let Some(job) = job {
            job.attempts += 1;
            match due {
                Some(_) => (job.state, job.due) = (JobState::RetryWait, due),
                None => job.end(JobState::Dead, now),
            }
        }
        let failed = store.fail(id, lease, "no".to_owned(), then, Millis(now)).await;
        assert_eq!(failed.expect("written"), holds);
    }

    async fn park(&mut self, which: usize, wait: Option<u64>) {
        let (store, now) = (self.store(), self.now);
        let Some((lease, _, job)) = self.lease(which) else { return };
        let due = wait.map(|ms| now + ms as i64);
        let holds = job.is_some();
        if let Some(job) = job {
            job.deliveries -= 1;
            job.state = if due.is_some() { JobState::RetryWait } else { JobState::Ready };
            job.due = due;
        }
        assert_eq!(store.park(lease, due.map(Millis)).await.expect("written"), holds);
    }

    async fn cancel(&mut self, which: usize, principal: Option<u8>) {
        let Some(seq) = self.seq(which) else { return };
        let (id, now) = (self.ids[seq as usize - 1], self.now);
        let may = |job: &&mut Job| principal.is_none_or(|principal| principal == job.principal);
        let expected = self.jobs.get_mut(&seq).filter(may).map(|job| {
            let stood = job.state;
            if !stood.is_final() {
                job.end(JobState::Cancelled, now);
            }
            stood
        });
        let principal = principal.map(|principal| [principal; 32]);
        let stood = self.store().cancel(id, principal, self.now()).await;
        assert_eq!(stood.expect("written"), expected);
    }

    async fn retry(&mut self, which: usize) {
        let Some(seq) = self.seq(which) else { return };
        let (id, now) = (self.ids[seq as usize - 1], self.now);
        let expected = self.jobs.get_mut(&seq).map(|job| {
            let stood = job.state;
            if matches!(stood, JobState::Dead | JobState::RetryWait) {
                job.again(now);
            }
            (stood, job.queue.to_owned())
        });
        let stood = self.store().retry(id, self.now()).await.expect("written");
        assert_eq!(stood.map(|(state, partition)| (state, partition.queue)), expected);
    }

    async fn requeue(&mut self, queue: &'static str) {
        let now = self.now;
        let dead = self.jobs.values_mut();
        let dead = dead.filter(|job| job.queue == queue && job.state == JobState::Dead);
        let many = dead.map(|job| job.again(now)).count();
        assert_eq!(
            self.store().requeue(queue.to_owned(), self.now()).await.expect("written"),
            many
        );
    }

    async fn purge(&mut self, queue: &'static str, state: JobState) {
        let before = self.jobs.len();
        self.jobs
            .retain(|_, job| !(job.queue == queue && job.state == state && job.state.is_final()));
        let purged = self.store().purge(queue.to_owned(), state).await.expect("written");
        assert_eq!(purged, before - self.jobs.len());
    }

    async fn upkeep(&mut self) {
        let now = self.now;
        let mut expired = Vec::new();
        let mut woken = std::collections::BTreeSet::new();
        for job in self.jobs.values_mut() {
            match job.state {
                JobState::Ready | JobState::RetryWait if job.expires <= now => {
                    job.end(JobState::Expired, now);
                    expired.push(job.id);
                }
                JobState::RetryWait if job.due.is_some_and(|due| due <= now) => {
                    (job.state, job.due) = (JobState::Ready, None);
                    woken.insert(job.queue);
                }
                _ => {}
            }
        }
        let before = self.jobs.len() + self.keys.len();
        self.jobs.retain(|_, job| job.finished.is_none_or(|at| at + KEEP as i64 > now));
        self.keys.retain(|_, known| known.forget > now);
        let forgotten = before - self.jobs.len() - self.keys.len();
        let mut upkept = self.store().upkeep(self.now()).await.expect("written");
        expired.sort_unstable();
        upkept.expired.sort_unstable();
        assert_eq!((upkept.expired, upkept.deleted, upkept.more), (expired, forgotten, false));
        let partitions =
            woken.into_iter().map(|queue| Partition { queue: queue.to_owned(), ..partition() });
        assert_eq!(upkept.woken, partitions.collect::<Vec<_>>());
        let next = self.jobs.values().filter_map(|job| job.due).min();
        assert_eq!(upkept.next_due, next.map(Millis));
    }

    fn reopen(&mut self) {
        self.watches.clear();
        close(self.store.take().expect("an open store"));
        let store = open(self.folder.path());
        let mut recovered = 0;
        for job in self.jobs.values_mut().filter(|job| job.state == JobState::Leased) {
            job.state = JobState::Ready;
            recovered += 1;
        }
        assert_eq!(store.recovered(), recovered);
        self.store = Some(store);
    }

    /// The store has the same jobs as the model, and exactly the watches of finished jobs are complete.
    async fn assert_agree(&mut self) {
        let store = self.store();
        let all = JobFilter { limit: 1_000_000, ..JobFilter::default() };
        let mut found = BTreeMap::new();
        for shown in store.list(all).await.expect("a list") {
            found.insert(shown.seq, self.as_modelled(shown));
        }
        assert_eq!(found, self.jobs);
        assert_totals(&store).await;
        for (seq, mut watch) in std::mem::take(&mut self.watches) {
            let over = self.jobs.get(&seq).is_none_or(|job| job.state.is_final());
            assert_eq!(is_complete(&mut watch).await, over, "job {seq}");
            if !over {
                self.watches.insert(seq, watch);
            }
        }
        for (seq, job) in self.jobs.iter().filter(|(_, job)| !job.state.is_final()) {
            self.watches.entry(*seq).or_insert_with(|| store.watch(job.id));
        }
        assert_eq!(watched(&store), self.watches.len());
        self.assert_upcoming(&store).await;
    }

    /// A record has no lease; leases are checked where they are used.
    fn as_modelled(&self, shown: JobRecord) -> Job {
        Job {
            id: shown.id,
            queue: QUEUES.into_iter().find(|queue| *queue == shown.queue).expect("a queue"),
            principal: shown.principal[0],
            bytes: shown.bytes,
            state: shown.state,
            attempts: shown.attempts,
            deliveries: shown.deliveries,
            lease: self.jobs.get(&shown.seq).map_or(0, |job| job.lease),
            accepted: shown.accepted.0,
            due: shown.due.map(|due| due.0),
            expires: shown.expires.0,
            finished: shown.finished.map(|at| at.0),
        }
    }

    /// `upcoming` returns each ready job once.
    async fn assert_upcoming(&self, store: &Store) {
        for queue in QUEUES {
            let partition = Partition { queue: queue.to_owned(), ..partition() };
            let found = store
                .upcoming(partition.clone(), UpcomingCursor::default(), HashSet::new(), 1_000)
                .await;
            let mut seqs: Vec<i64> =
                found.expect("a read").into_iter().map(|(_, due)| due.seq).collect();
            seqs.sort_unstable();
            let ready = |job: &Job| job.queue == queue && job.state == JobState::Ready;
            let ready = self.jobs.iter().filter(|(_, job)| ready(job)).map(|(seq, _)| *seq);
            assert_eq!(seqs, ready.collect::<Vec<_>>());
            let has = store.partitions().await.expect("partitions").contains(&partition);
            assert_eq!(has, !seqs.is_empty());
            let oldest = store.oldest(vec![queue.to_owned()]).await.expect("a read")[0];
            let accepted = seqs.first().map(|seq| Millis(self.jobs[seq].accepted));
            assert_eq!(oldest, accepted);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]
    #[test]
    fn the_store_and_its_model_agree(steps in prop::collection::vec(step(), 0..120)) {
        let mut both = StoreAndModel::new();
        run(async {
            for step in steps {
                both.take(step).await;
                both.assert_agree().await;
            }
        });
    }
}
