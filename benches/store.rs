//! Throughput and latency of accepting jobs, on the disk of this machine.
//!
//! `cargo bench --bench store [-- FOLDER]` creates a store in a new folder, inside FOLDER or the
//! system's temporary folder. It enforces no target, because disks differ; the targets are in
//! `docs/design/queue.md "Targets"`.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use outrigger::clock;
use outrigger::store::{EnqueueResult, JobId, Millis, NewJob, QueueLimits, Store, StoredRequest};

const JOBS: u64 = 100_000;
const CLIENTS: [usize; 3] = [1, 64, 256];
const BODY: usize = 1024;
const SYNCS: usize = 500;
const ROOM: QueueLimits = QueueLimits { jobs: u64::MAX >> 1, bytes: u64::MAX >> 1 };

fn main() -> io::Result<()> {
    let folder = std::env::args().skip(1).find(|arg| !arg.starts_with('-'));
    let parent = folder.map_or_else(std::env::temp_dir, Into::into);
    syncs(&parent)?;
    CLIENTS.into_iter().try_for_each(|clients| accepts(&parent, clients))
}

/// Measures one `fdatasync`, the lower bound of a commit on this disk.
fn syncs(parent: &Path) -> io::Result<()> {
    let folder = tempfile::tempdir_in(parent)?;
    let mut file = File::create(folder.path().join("synced"))?;
    let mut took = Vec::with_capacity(SYNCS);
    for _ in 0..SYNCS {
        let began = clock::now();
        file.write_all(&[1; 4096])?;
        file.sync_data()?;
        took.push(clock::since(began));
    }
    let mut out = io::stdout();
    writeln!(out, "a sync of 4 KiB: {}", Percentiles(took))
}

fn accepts(parent: &Path, clients: usize) -> io::Result<()> {
    let folder = tempfile::tempdir_in(parent)?;
    let (commits, slowest) = (Arc::new(AtomicUsize::new(0)), Arc::new(Mutex::new(Duration::ZERO)));
    let (counted, slow) = (Arc::clone(&commits), Arc::clone(&slowest));
    let observer = move |commit: outrigger::store::CommitStats| {
        counted.fetch_add(1, Ordering::Relaxed);
        if let Ok(mut slow) = slow.lock() {
            *slow = commit.took.max(*slow);
        }
    };
    let store = Store::open(folder.path(), Box::new(observer)).map_err(io::Error::other)?;
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    let jobs = if clients == 1 { JOBS / 20 } else { JOBS };
    let began = clock::now();
    let took = tokio::task::LocalSet::new().block_on(&runtime, load(&store, clients, jobs))?;
    let seconds = clock::since(began).as_secs_f64();
    let commits = commits.load(Ordering::Relaxed);
    let slowest = slowest.lock().map(|slowest| *slowest).unwrap_or_default();
    writeln!(
        io::stdout(),
        "{clients} clients: {:.0} accepts/s, {} in {commits} commits (the slowest {slowest:?}), {}",
        took.len() as f64 / seconds,
        took.len(),
        Percentiles(took),
    )
}

async fn load(store: &Store, clients: usize, jobs: u64) -> io::Result<Vec<Duration>> {
    let next = Rc::new(std::cell::Cell::new(0));
    let clients = (0..clients).map(|client| {
        let (store, next) = (store.clone(), Rc::clone(&next));
        tokio::task::spawn_local(async move {
            let mut took = Vec::new();
            while next.get() < jobs {
                next.set(next.get() + 1);
                let job = Arc::new(job(next.get(), client));
                let began = clock::now();
                let now = Millis::of(clock::wall());
                let accepted = store.enqueue(job, ROOM, now).await.map_err(io::Error::other)?;
                took.push(clock::since(began));
                assert_eq!(accepted, EnqueueResult::New);
            }
            Ok::<_, io::Error>(took)
        })
    });
    let clients: Vec<_> = clients.collect();
    let mut all = Vec::new();
    for client in clients {
        all.extend(client.await.map_err(io::Error::other)??);
    }
    Ok(all)
}

fn job(n: u64, client: usize) -> NewJob {
    // Ids are random, so that they are spread over the index.
    let id = u128::from(clock::random()) << 64 | u128::from(n);
    NewJob {
        id: JobId(id.to_be_bytes()),
        queue: "jobs".to_owned(),
        route: "chat".to_owned(),
        class: "normal".to_owned(),
        flow: client.to_be_bytes().to_vec(),
        principal: [1; 32],
        key: None,
        request: StoredRequest {
            method: "POST".to_owned(),
            uri: "/v1/chat/completions".to_owned(),
            headers: b"content-type: application/json\r\n".to_vec(),
            body: Bytes::from_static(&[b'x'; BODY]),
        },
        callback: None,
        expires: Millis::of(clock::wall()).after(Duration::from_secs(3600)),
        keep: Duration::from_secs(3600),
    }
}

/// Durations, displayed as percentiles.
struct Percentiles(Vec<Duration>);

impl std::fmt::Display for Percentiles {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut sorted = self.0.clone();
        sorted.sort_unstable();
        let at = |share: f64| {
            let index = (sorted.len() as f64 * share) as usize;
            sorted.get(index.min(sorted.len().saturating_sub(1))).copied().unwrap_or_default()
        };
        write!(f, "p50 {:.2?}, p99 {:.2?}, p99.9 {:.2?}", at(0.5), at(0.99), at(0.999))
    }
}
