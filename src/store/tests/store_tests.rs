//! Tests of the store's interface: keys, order, watches, commits, and the cost of each call.

use std::collections::HashSet;
use std::future::poll_fn;
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use rusqlite::Connection;
use tempfile::TempDir;
use tokio::task::JoinSet;

use super::open::StoreDirectory;
use super::*;
use crate::clock;

pub(super) const NOW: Millis = Millis(1_790_000_000_000);
pub(super) const ROOM: QueueLimits = QueueLimits { jobs: 1_000_000, bytes: 1 << 30 };
pub(super) const HOUR: Duration = Duration::from_secs(3600);
/// Timeout of each condition that a test waits for.
pub(super) const PATIENCE: Duration = Duration::from_secs(20);

// === shared by the tests of the store ===

pub(super) fn folder() -> TempDir {
    tempfile::tempdir().expect("a folder")
}

pub(super) fn open(path: &Path) -> Store {
    Store::open(path, Box::new(|_| {})).expect("a store")
}

/// Sizes of commits, and whether they failed.
pub(super) type Commits = Arc<Mutex<Vec<(usize, bool)>>>;

/// A store whose commits are recorded.
pub(super) fn open_observed(path: &Path) -> (Store, Commits) {
    let commits = Commits::default();
    let seen = Arc::clone(&commits);
    let observer = move |commit: CommitStats| seen.lock().push((commit.size, commit.failed));
    (Store::open(path, Box::new(observer)).expect("a store"), commits)
}

/// Drops a store and waits until its threads have ended.
pub(super) fn close(store: Store) {
    let path = store.path().to_owned();
    drop(store);
    let until = clock::now() + PATIENCE;
    while let Err(error) = StoreDirectory::lock(&path) {
        assert!(clock::now() < until, "{error}");
        std::thread::yield_now();
    }
}

pub(super) fn run<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime").block_on(future)
}

pub(super) fn id(n: u64) -> JobId {
    JobId(u128::from(n).to_be_bytes())
}

pub(super) fn job(n: u64) -> NewJob {
    NewJob {
        id: id(n),
        queue: "jobs".to_owned(),
        route: "chat".to_owned(),
        class: "normal".to_owned(),
        flow: b"one".to_vec(),
        principal: [1; 32],
        key: None,
        request: StoredRequest {
            method: "POST".to_owned(),
            uri: format!("/v1/chat?n={n}"),
            headers: b"content-type: application/json\r\n".to_vec(),
            body: Bytes::from(format!("the body of job {n}")),
        },
        callback: None,
        expires: NOW.after(HOUR),
        keep: HOUR,
    }
}

pub(super) fn partition() -> Partition {
    job(0).partition()
}

pub(super) fn later(ms: u64) -> Millis {
    NOW.after(Duration::from_millis(ms))
}

pub(super) fn response() -> Arc<StoredResponse> {
    let (headers, body) = (b"x-a: b\r\n".to_vec(), Bytes::from_static(b"a response"));
    Arc::new(StoredResponse { status: 200, headers, body, cut: false })
}

pub(super) async fn accept(store: &Store, job: NewJob) -> Result<EnqueueResult, StoreError> {
    store.enqueue(Arc::new(job), ROOM, NOW).await
}

pub(super) async fn accepted(store: &Store, job: NewJob) -> i64 {
    let id = job.id;
    assert_eq!(accept(store, job).await.expect("accepted"), EnqueueResult::New);
    shown(store, id).await.seq
}

pub(super) async fn shown(store: &Store, id: JobId) -> JobRecord {
    store.job(id).await.expect("a read").expect("a job")
}

pub(super) async fn leased(store: &Store, seq: i64) -> RunLease {
    match store.lease(seq, 3, 0, NOW).await.expect("a lease") {
        LeaseResult::Run(lease) => lease,
        other => panic!("{other:?}"),
    }
}

/// Ids of all jobs in the store, the oldest first; checks their requests.
pub(super) async fn job_ids(store: &Store) -> Vec<JobId> {
    let all = JobFilter { limit: usize::MAX >> 1, ..JobFilter::default() };
    let mut ids = Vec::new();
    for job in store.list(all).await.expect("a list").into_iter().rev() {
        let n = u128::from_be_bytes(job.id.0);
        assert_eq!(job.uri, format!("/v1/chat?n={n}"));
        if let Some(task) = store.runnable_job(job.seq).await.expect("a task") {
            assert_eq!(task.request.body, format!("the body of job {n}"));
        }
        ids.push(job.id);
    }
    ids
}

/// Checks the totals that triggers keep against a count.
pub(super) async fn assert_totals(store: &Store) {
    let mut totals = store.totals().await.expect("totals");
    let count = |db: &Connection| {
        let sql = "SELECT queue, state, count(*), sum(bytes) FROM jobs GROUP BY 1, 2";
        let mut statement = db.prepare(sql)?;
        let rows = statement.query_map([], |row| {
            let (jobs, bytes) = (row.get(2)?, row.get(3)?);
            Ok(QueueTotal { queue: row.get(0)?, state: row.get(1)?, jobs, bytes })
        })?;
        rows.collect::<rusqlite::Result<Vec<_>>>()
    };
    let mut counted = store.0.reader.read(count).await.expect("a count");
    let order = |total: &QueueTotal| (total.queue.clone(), total.state.as_str());
    totals.sort_by_key(order);
    counted.sort_by_key(order);
    assert_eq!(totals, counted);
}

/// Polls a watch once.
pub(super) async fn is_complete(watch: &mut JobWatch) -> bool {
    let mut watch = pin!(watch);
    poll_fn(|cx| Poll::Ready(watch.as_mut().poll(cx).is_ready())).await
}

pub(super) fn watched(store: &Store) -> usize {
    store.0.watches.lock().len()
}

// === group commit ===

#[test]
fn concurrent_changes_share_few_commits() {
    let folder = folder();
    let (store, commits) = open_observed(folder.path());
    run(async {
        let mut all = JoinSet::new();
        for n in 0..256 {
            let store = store.clone();
            all.spawn(async move { accept(&store, job(n)).await });
        }
        while let Some(done) = all.join_next().await {
            assert_eq!(done.expect("no panic").expect("accepted"), EnqueueResult::New);
        }
        assert_eq!(job_ids(&store).await.len(), 256);
        assert_totals(&store).await;
    });
    let commits = commits.lock().clone();
    assert_eq!(commits.iter().map(|(size, _)| size).sum::<usize>(), 256);
    assert!(commits.len() <= 64, "{} commits for 256 jobs: {commits:?}", commits.len());
    assert!(commits.iter().all(|(_, failed)| !failed));
}

// === limits and keys ===

#[test]
fn a_queue_rejects_jobs_beyond_its_limits_of_jobs_and_bytes() {
    let folder = folder();
    let store = open(folder.path());
    run(async {
        let bytes = job(1).request.body.len() as u64;
        let take = async |n: u64, jobs: u64, bytes: u64| {
            let limits = QueueLimits { jobs, bytes };
            store.enqueue(Arc::new(job(n)), limits, NOW).await.expect("a result")
        };
        assert_eq!(take(1, 2, 100).await, EnqueueResult::New);
        assert_eq!(take(2, 1, 100).await, EnqueueResult::Full(QueueFull::Jobs(1)));
        assert_eq!(take(2, 9, 2 * bytes - 1).await, EnqueueResult::Full(QueueFull::Bytes(bytes)));
        assert_eq!(take(2, 2, 2 * bytes).await, EnqueueResult::New);
        // A finished job does not count.
        let seq = shown(&store, id(1)).await.seq;
        let lease = leased(&store, seq).await;
        assert_eq!(take(3, 2, 100).await, EnqueueResult::Full(QueueFull::Jobs(2)));
        assert!(store.complete(id(1), lease, response(), NOW).await.expect("written"));
        assert_eq!(take(3, 2, 100).await, EnqueueResult::New);
    });
}

fn keyed(n: u64, principal: u8, request: u8) -> NewJob {
    let key = IdempotencyKey { text: "order-7".to_owned(), fingerprint: [request; 32] };
    NewJob { principal: [principal; 32], key: Some(key), ..job(n) }
}

#[test]
fn an_idempotency_key_identifies_its_principals_request_for_a_day() {
    const DAY: u64 = 86_400_000;
    let folder = folder();
    let store = open(folder.path());
    run(async {
        let take = async |job: NewJob, at: Millis| {
            store.enqueue(Arc::new(job), ROOM, at).await.expect("a result")
        };
        assert_eq!(take(keyed(1, 1, 1), NOW).await, EnqueueResult::New);
        let known = |state| EnqueueResult::Known(id(1), state);
        assert_eq!(take(keyed(2, 1, 1), NOW).await, known(Some(JobState::Ready)));
        assert_eq!(take(keyed(2, 1, 9), NOW).await, EnqueueResult::OtherRequest);
        // Keys of different principals are independent.
        assert_eq!(take(keyed(3, 2, 9), NOW).await, EnqueueResult::New);
        assert_eq!(take(keyed(4, 2, 1), NOW).await, EnqueueResult::OtherRequest);
        // A known key is recognized even if the queue is full.
        let none = QueueLimits { jobs: 0, bytes: 0 };
        let again = store.enqueue(Arc::new(keyed(2, 1, 1)), none, NOW).await;
        assert_eq!(again.expect("a result"), known(Some(JobState::Ready)));
        let lease = leased(&store, shown(&store, id(1)).await.seq).await;
        assert_eq!(take(keyed(2, 1, 1), NOW).await, known(Some(JobState::Leased)));
        assert!(store.complete(id(1), lease, response(), NOW).await.expect("written"));
        assert_eq!(take(keyed(2, 1, 1), later(1)).await, known(Some(JobState::Done)));
        // The job is deleted before its key.
        assert_eq!(store.upkeep(later(3_600_000)).await.expect("upkeep").deleted, 1);
        assert_eq!(take(keyed(2, 1, 1), later(DAY - 1)).await, known(None));
        assert_eq!(take(keyed(2, 1, 9), later(DAY - 1)).await, EnqueueResult::OtherRequest);
        assert_eq!(take(keyed(2, 1, 9), later(DAY)).await, EnqueueResult::New);
        assert_eq!(
            take(keyed(5, 1, 9), later(DAY)).await,
            EnqueueResult::Known(id(2), Some(JobState::Ready))
        );
    });
}

#[test]
fn expired_keys_are_deleted_in_batches() {
    let folder = folder();
    let store = open(folder.path());
    run(async {
        let many = |db: &Connection| {
            db.execute(
                "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1200)
                 INSERT INTO keys SELECT randomblob(32), 'k' || i, zeroblob(32), randomblob(16), i
                 FROM n",
                [],
            )
        };
        store.0.writer.write(many).await.expect("keys");
        let mut forgotten = Vec::new();
        loop {
            let upkept = store.upkeep(NOW).await.expect("upkeep");
            forgotten.push(upkept.deleted);
            if !upkept.more {
                break;
            }
        }
        assert_eq!(forgotten, [500, 500, 200]);
    });
}

// === order ===

async fn upcoming(store: &Store, after: Option<&str>, taken: &[u64], want: usize) -> Vec<u64> {
    let mut seqs = HashSet::new();
    for n in taken {
        seqs.insert(shown(store, id(*n)).await.seq);
    }
    let after_flow = after.map(|flow| flow.as_bytes().to_vec());
    let cursor = UpcomingCursor { after_flow, after_seq: 0 };
    let found = store.upcoming(partition(), cursor, seqs, want).await.expect("a read");
    found.into_iter().map(|(_, due)| u128::from_be_bytes(due.id.0) as u64).collect()
}

#[test]
fn flows_take_turns_and_in_a_flow_the_oldest_goes_first() {
    let folder = folder();
    let store = open(folder.path());
    run(async {
        let flows = [("a", 1), ("a", 2), ("a", 3), ("c", 4), ("b", 5), ("c", 6)];
        for (flow, n) in flows {
            accepted(&store, NewJob { flow: flow.into(), ..job(n) }).await;
        }
        let elsewhere = [
            NewJob { queue: "other".to_owned(), ..job(90) },
            NewJob { route: "other".to_owned(), ..job(91) },
            NewJob { class: "other".to_owned(), ..job(92) },
        ];
        for job in elsewhere {
            accepted(&store, job).await;
        }
        assert_eq!(upcoming(&store, None, &[], 99).await, [1, 5, 4, 2, 6, 3]);
        assert_eq!(upcoming(&store, Some("a"), &[], 99).await, [5, 4, 1, 6, 2, 3]);
        // The cursor is at a deleted flow, or at the last one.
        assert_eq!(upcoming(&store, Some("bb"), &[], 2).await, [4, 1]);
        assert_eq!(upcoming(&store, Some("c"), &[], 4).await, [1, 5, 4, 2]);
        assert_eq!(upcoming(&store, None, &[1, 5, 6], 99).await, [2, 4, 3]);
        assert_eq!(upcoming(&store, None, &[], 0).await, Vec::<u64>::new());
        // The first flows have no free job; the count is still reached.
        assert_eq!(upcoming(&store, None, &[1, 2, 3], 1).await, [5]);
        assert_eq!(upcoming(&store, Some("b"), &[4, 6], 2).await, [1, 5]);
        let partitions = store.partitions().await.expect("partitions");
        let elsewhere = |queue: &str, route: &str, class: &str| {
            let (queue, route, class) = (queue.to_owned(), route.to_owned(), class.to_owned());
            Partition { queue, route, class }
        };
        let normal = elsewhere("jobs", "chat", "normal");
        let other = elsewhere("jobs", "chat", "other");
        let rest = [elsewhere("jobs", "other", "normal"), elsewhere("other", "chat", "normal")];
        assert_eq!(partitions, [vec![normal, other], rest.to_vec()].concat());
    });
}

#[test]
fn a_list_has_the_newest_first_and_continues_before_the_last() {
    let folder = folder();
    let store = open(folder.path());
    run(async {
        for n in 1..=9 {
            let queue = if n % 3 == 0 { "rare" } else { "jobs" }.to_owned();
            accepted(&store, NewJob { queue, ..job(n) }).await;
        }
        store.cancel(id(4), None, NOW).await.expect("cancelled");
        store.cancel(id(6), None, NOW).await.expect("cancelled");
        let list = async |queue: Option<&str>, state, before: Option<u64>, limit| {
            let before = match before {
                Some(n) => Some(shown(&store, id(n)).await.seq),
                None => None,
            };
            let filter = JobFilter { queue: queue.map(str::to_owned), state, before, limit };
            let found = store.list(filter).await.expect("a list");
            found.iter().map(|job| u128::from_be_bytes(job.id.0) as u64).collect::<Vec<_>>()
        };
        assert_eq!(list(None, None, None, 3).await, [9, 8, 7]);
        assert_eq!(list(None, None, Some(7), 2).await, [6, 5]);
        assert_eq!(list(Some("rare"), None, None, 9).await, [9, 6, 3]);
        assert_eq!(list(Some("rare"), None, Some(9), 1).await, [6]);
        assert_eq!(list(None, Some(JobState::Cancelled), None, 9).await, [6, 4]);
        assert_eq!(list(Some("jobs"), Some(JobState::Ready), Some(7), 3).await, [5, 2, 1]);
        assert_eq!(list(Some("none"), None, None, 9).await, Vec::<u64>::new());
    });
}

// === watches and callbacks ===

#[test]
fn a_watch_completes_at_the_end_of_its_job_and_not_before() {
    let folder = folder();
    let store = open(folder.path());
    run(async {
        let mut seqs = Vec::new();
        for n in 0..6 {
            let expires = if n == 3 { later(10) } else { later(1000) };
            seqs.push(accepted(&store, NewJob { expires, ..job(n) }).await);
        }
        let mut watches: Vec<JobWatch> = (0..6).map(|n| store.watch(id(n))).collect();
        let lease = leased(&store, seqs[0]).await;
        assert!(store.park(lease, None).await.expect("parked"));
        let lease = leased(&store, seqs[0]).await;
        let again = AfterFailure::RunAt(later(1));
        assert!(store.fail(id(0), lease, "no".into(), again, NOW).await.expect("failed"));
        assert!(!is_complete(&mut watches[0]).await);
        store.retry(id(0), NOW).await.expect("retried");
        // The end of a run after the next has started has no effect.
        let second = leased(&store, seqs[0]).await;
        assert!(!store.complete(id(0), lease, response(), NOW).await.expect("refused"));
        assert!(
            !store.fail(id(0), lease, "no".into(), AfterFailure::Dead, NOW).await.expect("refused")
        );
        assert!(!is_complete(&mut watches[0]).await);
        assert!(store.complete(id(0), second, response(), NOW).await.expect("done"));
        let lease = leased(&store, seqs[1]).await;
        assert!(
            store.fail(id(1), lease, "no".into(), AfterFailure::Dead, NOW).await.expect("failed")
        );
        store.cancel(id(2), None, NOW).await.expect("cancelled");
        assert_eq!(store.upkeep(later(10)).await.expect("upkeep").expired, [id(3)]);
        assert_eq!(
            store.lease(seqs[4], 0, 0, NOW).await.expect("dead"),
            LeaseResult::Exhausted(id(4))
        );
        for watch in &mut watches[..5] {
            assert!(is_complete(watch).await);
        }
        assert!(!is_complete(&mut watches[5]).await);
        assert_eq!(watched(&store), 1);
    });
}

#[test]
fn a_dropped_watch_is_removed_and_others_still_complete() {
    let folder = folder();
    let store = open(folder.path());
    run(async {
        accepted(&store, job(1)).await;
        let (left, mut stays) = (store.watch(id(1)), store.watch(id(1)));
        let unknown = store.watch(id(2));
        assert_eq!(watched(&store), 2);
        drop((left, unknown));
        assert_eq!(watched(&store), 1);
        // A client that disconnects while it waits.
        let waiting = tokio::time::timeout(Duration::from_millis(1), store.watch(id(3)));
        assert!(waiting.await.is_err());
        store.cancel(id(1), None, NOW).await.expect("cancelled");
        assert!(is_complete(&mut stays).await);
        drop(stays);
        assert_eq!(watched(&store), 0);
        // A watch of a finished job is not kept either.
        drop(store.watch(id(1)));
        assert_eq!(watched(&store), 0);
    });
}

#[test]
fn the_result_of_a_retried_job_is_posted_even_if_the_first_was_in_flight() {
    let folder = folder();
    let store = open(folder.path());
    run(async {
        let callback = Some("https://a.example/done".to_owned());
        let seq = accepted(&store, NewJob { callback, ..job(1) }).await;
        let die = async |at| {
            let lease = leased(&store, seq).await;
            assert!(
                store
                    .fail(id(1), lease, "no".into(), AfterFailure::Dead, at)
                    .await
                    .expect("failed")
            );
        };
        die(NOW).await;
        let (mut due, next) = store.due_callbacks(NOW).await.expect("postings");
        assert_eq!((due.len(), next), (1, None));
        store.retry(id(1), NOW).await.expect("retried");
        // It runs again: no callback is due.
        assert!(store.due_callbacks(later(9)).await.expect("postings").0.is_empty());
        die(later(1)).await;
        store.record_callback(due.remove(0), CallbackResult::Sent).await.expect("posted");
        let (mut due, _) = store.due_callbacks(later(1)).await.expect("postings");
        assert_eq!(due.len(), 1);
        store
            .record_callback(due.remove(0), CallbackResult::RetryAt(later(5)))
            .await
            .expect("posted");
        let (due, next) = store.due_callbacks(later(1)).await.expect("postings");
        assert_eq!((due.len(), next), (0, Some(later(5))));
        let (mut due, _) = store.due_callbacks(later(5)).await.expect("postings");
        assert_eq!(due[0].attempts, 1);
        store.record_callback(due.remove(0), CallbackResult::Sent).await.expect("posted");
        let callback = shown(&store, id(1)).await.callback.expect("a callback");
        assert_eq!((callback.state, callback.attempts), (CallbackState::Sent, 2));
    });
}

// === cost ===

/// A store with `many` jobs in each state, each in a flow of its own, and a few of a rare queue.
fn filled_database(path: &Path, many: u64) -> Connection {
    let directory = StoreDirectory::lock(path).expect("a lock");
    let db = directory.prepare().expect("a database");
    db.execute_batch("BEGIN").expect("begun");
    let mut n = 0;
    for (queue, many) in [("jobs", many), ("rare", 3)] {
        for state in JobState::ALL {
            for _ in 0..many {
                n += 1;
                add(&db, n, queue, state);
            }
        }
    }
    db.execute_batch("COMMIT").expect("committed");
    db
}

fn add(db: &Connection, n: u64, queue: &str, state: JobState) {
    let key = IdempotencyKey { text: n.to_string(), fingerprint: [0; 32] };
    let callback = Some("https://a.example/".to_owned());
    let (to, flow) = (queue.to_owned(), format!("{n:06}").into_bytes());
    let new = NewJob { queue: to, flow, callback, key: Some(key), ..job(n) };
    assert_eq!(transitions::enqueue(db, &new, ROOM, NOW).expect("accepted"), EnqueueResult::New);
    // The number of leased jobs is limited by the number of workers.
    let state = if state == JobState::Leased && queue == "jobs" { JobState::Done } else { state };
    let sql = "UPDATE jobs SET state = ?2, due = iif(?2 = 'retry_wait', ?3, NULL),
                 finished = iif(?4, ?3, NULL), forget = iif(?4, ?3, NULL) WHERE id = ?1";
    let values = rusqlite::params![new.id, state, NOW.after(HOUR), state.is_final()];
    db.prepare_cached(sql).and_then(|mut sql| sql.execute(values)).expect("moved");
}

type Operation = (&'static str, Box<dyn Fn(&Connection)>);

fn operation<T>(
    name: &'static str,
    act: impl Fn(&Connection) -> rusqlite::Result<T> + 'static,
) -> Operation {
    (name, Box::new(move |db| drop(act(db).expect(name))))
}

fn filter(queue: Option<&str>, state: Option<JobState>) -> JobFilter {
    JobFilter { queue: queue.map(str::to_owned), state, before: None, limit: 50 }
}

fn rare(db: &Connection, state: JobState) -> (i64, JobId) {
    let sql = "SELECT seq, id FROM jobs WHERE queue = 'rare' AND state = ?1 LIMIT 1";
    db.query_row(sql, [state], |row| Ok((row.get(0)?, row.get(1)?))).expect("a rare job")
}

/// All operations of a store.
fn operations() -> Vec<Operation> {
    let lease = |seq| RunLease { seq, number: 0, deliveries: 0 };
    let listed = |queue, state| move |db: &_| queries::list(db, &filter(queue, state));
    let again = AfterFailure::RunAt(later(9));
    vec![
        operation("accept", |db| transitions::enqueue(db, &job(1 << 40), ROOM, NOW)),
        operation("accept with a key", |db| {
            transitions::enqueue(db, &keyed(1 << 41, 1, 1), ROOM, NOW)
        }),
        operation("lease", |db| transitions::lease(db, rare(db, JobState::Ready).0, 9, 0, NOW)),
        operation("poison", |db| transitions::lease(db, rare(db, JobState::Ready).0, 0, 0, NOW)),
        operation("park", move |db| {
            transitions::park(db, lease(rare(db, JobState::Leased).0), None)
        }),
        operation("fail", move |db| {
            transitions::fail(db, lease(rare(db, JobState::Leased).0), "no", again, NOW)
        }),
        operation("complete", move |db| {
            transitions::complete(db, lease(rare(db, JobState::Leased).0), &response(), NOW)
        }),
        operation("cancel", |db| {
            transitions::cancel(db, rare(db, JobState::RetryWait).1, None, NOW)
        }),
        operation("retry", |db| transitions::retry(db, rare(db, JobState::RetryWait).1, NOW)),
        operation("requeue", |db| transitions::requeue(db, "rare", NOW)),
        operation("purge", |db| transitions::purge(db, "rare", JobState::Done)),
        operation("upkeep", |db| transitions::upkeep(db, NOW)),
        operation("recover", transitions::recover),
        operation("job", |db| queries::job(db, id(1))),
        operation("task", |db| queries::runnable_job(db, 1)),
        operation("response", |db| queries::response(db, 1)),
        operation("partitions", queries::partitions),
        operation("upcoming", |db| {
            let cursor = UpcomingCursor::default();
            queries::upcoming(db, &partition(), &cursor, &HashSet::new(), 64)
        }),
        operation("upcoming after another", |db| {
            let cursor = UpcomingCursor { after_flow: Some(b"000150".to_vec()), after_seq: 0 };
            queries::upcoming(db, &partition(), &cursor, &(100..120).collect(), 64)
        }),
        operation("totals", queries::totals),
        operation("oldest", |db| queries::oldest(db, "rare")),
        operation("oldest of none", |db| queries::oldest(db, "none")),
        operation("callbacks", |db| queries::due_callbacks(db, NOW)),
        operation("list", listed(None, None)),
        operation("list of a queue", listed(Some("rare"), None)),
        operation("list of a queue and state", listed(Some("rare"), Some(JobState::Dead))),
        operation("list of a state", listed(None, Some(JobState::Leased))),
    ]
}

/// Steps of SQLite's virtual machine for each operation; each is rolled back.
fn steps(many: u64) -> Vec<(&'static str, u64)> {
    let folder = folder();
    let mut db = filled_database(folder.path(), many);
    let steps = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&steps);
    let count = move || {
        counted.fetch_add(1, Ordering::Relaxed);
        false
    };
    db.progress_handler(1, Some(count)).expect("counted");
    let measured = operations().into_iter().map(|(name, act)| {
        // `list` and `upcoming` start transactions of their own.
        let own = name.starts_with("list") || name.starts_with("upcoming");
        let begin = if own { "" } else { "BEGIN" };
        db.execute_batch(begin).expect("begun");
        let before = steps.load(Ordering::Relaxed);
        act(&db);
        let took = steps.load(Ordering::Relaxed) - before;
        db.execute_batch(if own { "" } else { "ROLLBACK" }).expect("undone");
        (name, took)
    });
    measured.collect()
}

#[test]
fn no_query_costs_more_with_more_jobs_in_the_store() {
    for ((name, few), (_, many)) in steps(300).into_iter().zip(steps(10_000 / 2)) {
        assert!(few > 0, "{name} was not counted");
        assert!(many <= few + few / 2 + 200, "{name}: {few} steps, with more jobs {many}");
    }
}
