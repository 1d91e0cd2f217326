//! The scripts of shared jobs against a model of which host may run which job: three hosts act in random
//! order, while Redis loses data, holds malformed values, or has its clock set.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use outrigger::fleet::redis::connection::RedisLink;
use outrigger::fleet::redis::url::RedisAddress;
use outrigger::jobs::sharing::redis::{
    BorrowedJob, ClaimReply, JobDescriptor, JobsClient, LeaseRef, PartitionEntry,
};
use outrigger::store::{JobContent, JobId, JobOutcome, StoredRequest, StoredResponse};
use proptest::prelude::*;
use tokio::task::LocalSet;

use crate::support::fleet::{FLEET, key};
use crate::support::{POLL_INTERVAL, RedisServer};

const HOSTS: usize = 3;
const JOBS: u64 = 6;
const LEASE: u64 = 30_000;
/// Time that a test's calls may take.
const SLACK: u64 = 5_000;
const MOST: u32 = 1_000;
/// Longer than any step of the clock.
const LONG: Duration = Duration::from_secs(20 * 86_400);
const PARTITION: &str = "fingerprint:normal";

#[derive(Clone, Debug)]
enum Step {
    Publish(u64),
    Sweep(usize),
    Claim(u64),
    Take(usize, usize),
    Renew(usize),
    GiveBack(usize, bool),
    Finish(usize, bool),
    Fetch(usize),
    Cancel(u64),
    Resign(usize),
    Flush,
    Corrupt(usize),
    SetClock(i64),
}

fn step() -> impl Strategy<Value = Step> {
    let (job, host, which) = (0..JOBS, 0..HOSTS, 0..100usize);
    prop_oneof![
        6 => job.clone().prop_map(Step::Publish),
        2 => host.clone().prop_map(Step::Sweep),
        6 => job.clone().prop_map(Step::Claim),
        6 => (host.clone(), 1..4usize).prop_map(|(host, want)| Step::Take(host, want)),
        4 => host.clone().prop_map(Step::Renew),
        3 => (which.clone(), any::<bool>()).prop_map(|(which, failed)| Step::GiveBack(which, failed)),
        6 => (which, any::<bool>()).prop_map(|(which, succeeds)| Step::Finish(which, succeeds)),
        4 => host.clone().prop_map(Step::Fetch),
        1 => job.prop_map(Step::Cancel),
        1 => host.prop_map(Step::Resign),
        1 => Just(Step::Flush),
        1 => (0..6usize).prop_map(Step::Corrupt),
        2 => prop_oneof![Just(10), Just(25), Just(36), Just(-3600), Just(3600)].prop_map(Step::SetClock),
    ]
}

fn id(job: u64) -> JobId {
    JobId(u128::from(job + 1).to_be_bytes())
}

fn job_of(id: JobId) -> u64 {
    u64::try_from(u128::from_be_bytes(id.0)).expect("a small one") - 1
}

fn owner(job: u64) -> usize {
    job as usize % HOSTS
}

fn entry(job: u64) -> PartitionEntry {
    let (partition, ready_in) = (PARTITION.to_owned(), -200 + job as i64);
    PartitionEntry { id: id(job), partition, ready_in, expires: LONG }
}

fn request(job: u64) -> StoredRequest {
    StoredRequest {
        method: "POST".to_owned(),
        uri: format!("/{job}"),
        headers: b"x-a: b\r\n".to_vec(),
        body: Bytes::from(vec![0xff, job as u8]),
    }
}

fn descriptor(job: u64) -> JobDescriptor {
    let content = JobContent { request: request(job), flow: vec![1, job as u8] };
    JobDescriptor { entry: entry(job), keep: LONG, attempts: 0, deliveries: 0, content }
}

fn response(job: u64) -> StoredResponse {
    let body = Bytes::from(format!("response {job}"));
    StoredResponse {
        status: 201,
        headers: b"x-b: c\r\n".to_vec(),
        body,
        cut: job.is_multiple_of(2),
    }
}

/// A run that a host believes to have.
#[derive(Clone, Debug)]
struct Run {
    job: u64,
    host: usize,
    number: u64,
    /// By the model's clock, which is never set back.
    until: u64,
    /// Redis may have lost the lease: another host may start the job.
    doubtful: bool,
    borrowed: Option<BorrowedJob>,
}

struct Model<'r> {
    redis: &'r RedisServer,
    clients: Vec<JobsClient>,
    runs: Vec<Run>,
    /// Jobs whose results Redis accepted and did not lose.
    ended: BTreeSet<u64>,
    /// The outcomes that the owners have stored.
    over: BTreeMap<u64, JobOutcome>,
    /// The sum of all forward steps of Redis' clock.
    passed: u64,
    offset: i64,
}

impl<'r> Model<'r> {
    fn new(redis: &'r RedisServer, link: &RedisLink) -> Model<'r> {
        redis.execute(&["FLUSHALL"]);
        let clients = (0..HOSTS).map(|host| JobsClient::new(link.clone(), format!("host{host}")));
        let (runs, ended, over) = (Vec::new(), BTreeSet::new(), BTreeMap::new());
        Model { redis, clients: clients.collect(), runs, ended, over, passed: 0, offset: 0 }
    }

    async fn apply(&mut self, step: Step) {
        match step {
            Step::Publish(job) if !self.over.contains_key(&job) => {
                self.clients[owner(job)].publish(&[descriptor(job)]).await.expect("a reply");
            }
            Step::Sweep(host) => self.sweep(host).await,
            Step::Claim(job) if !self.over.contains_key(&job) => self.claim(job).await,
            Step::Take(host, want) => {
                self.take(host, want).await;
            }
            Step::Renew(host) => self.renew(host).await,
            Step::GiveBack(which, failed) => self.give_back(which, failed).await,
            Step::Finish(which, succeeds) => self.finish(which, succeeds).await,
            Step::Fetch(host) => self.fetch(host).await,
            Step::Cancel(job) if !self.over.contains_key(&job) => {
                self.over.insert(job, Err("cancelled".to_owned()));
                self.remove(job).await;
            }
            Step::Resign(host) => {
                self.clients[host].resign().await.expect("a reply");
                self.runs.retain(|run| run.host != host);
            }
            Step::Flush => {
                self.redis.execute(&["FLUSHALL"]);
                self.doubt_all();
                self.ended.clear();
            }
            Step::Corrupt(which) => self.corrupt(which),
            Step::SetClock(seconds) => self.set_clock(seconds),
            Step::Publish(_) | Step::Claim(_) | Step::Cancel(_) => {}
        }
    }

    fn doubt_all(&mut self) {
        self.runs.iter_mut().for_each(|run| run.doubtful = true);
    }

    fn corrupt(&mut self, which: usize) {
        let all = ["j:l", "j:q:fingerprint:normal", "j:o:host0", "j:d:host1", "j:m:host2", "j:b:"];
        let name = match all[which] {
            "j:b:" => format!("j:b:{}", id(0)),
            name => name.to_owned(),
        };
        self.redis.execute(&["DEL", &key(&name)]);
        self.redis.execute(&["SET", &key(&name), "malformed"]);
        self.doubt_all();
        self.ended.clear();
    }

    fn set_clock(&mut self, seconds: i64) {
        self.offset += seconds;
        self.redis.set_clock(self.offset);
        match u64::try_from(seconds) {
            Ok(forward) => self.passed += forward * 1000,
            // The ends of leases are implausibly far ahead now, so the scripts ignore them.
            Err(_) => self.doubt_all(),
        }
    }

    /// A host starts a job: no other host may be running it.
    fn start(&mut self, run: Run) {
        let others = self.runs.iter().filter(|other| other.job == run.job);
        for other in others.filter(|other| !other.doubtful && other.host != run.host) {
            assert!(other.until <= self.passed + SLACK, "{run:?} while {other:?}");
        }
        assert!(!self.ended.contains(&run.job), "{run:?} after its result");
        self.runs.retain(|other| (other.job, other.host) != (run.job, run.host));
        self.runs.push(run);
    }

    fn run(&self, job: u64, host: usize, number: u64, borrowed: Option<BorrowedJob>) -> Run {
        Run { job, host, number, until: self.passed + LEASE, doubtful: false, borrowed }
    }

    async fn claim(&mut self, job: u64) {
        let client = &self.clients[owner(job)];
        let mut reply = client.claim(id(job), 0).await.expect("a reply");
        if matches!(reply, ClaimReply::Unknown(_)) {
            reply = client.publish_and_claim(&descriptor(job)).await.expect("a reply");
        }
        if let ClaimReply::Claimed(claim) = reply {
            self.start(self.run(job, owner(job), claim.number, None));
        }
    }

    async fn take(&mut self, host: usize, want: usize) -> usize {
        let taken = self.clients[host].take(&[PARTITION.to_owned()], want, MOST, 0.5).await;
        let jobs = taken.expect("a reply").jobs;
        assert!(jobs.len() <= want);
        for borrowed in &jobs {
            let job = job_of(borrowed.id);
            assert_eq!((&borrowed.request, &borrowed.flow), (&request(job), &vec![1, job as u8]));
            assert_ne!(owner(job), host);
            self.start(self.run(job, host, borrowed.claim.number, Some(borrowed.clone())));
        }
        jobs.len()
    }

    async fn renew(&mut self, host: usize) {
        let mine = self.runs.iter().filter(|run| run.host == host);
        let lease = |run: &Run| LeaseRef {
            id: id(run.job),
            number: run.number,
            owner: format!("host{}", owner(run.job)),
        };
        let leases: Vec<_> = mine.map(lease).collect();
        if leases.is_empty() {
            return;
        }
        let numbers = self.clients[host].renew(&leases).await.expect("a reply");
        for (lease, number) in leases.into_iter().zip(numbers) {
            let job = job_of(lease.id);
            let at = self.runs.iter().position(|run| (run.job, run.host) == (job, host));
            let mut run = self.runs.remove(at.expect("a run"));
            if number > 0 {
                (run.number, run.until, run.doubtful) = (number, self.passed + LEASE, false);
                self.start(run);
            }
        }
    }

    fn some_run(&mut self, which: usize) -> Option<Run> {
        let count = self.runs.len();
        (count > 0).then(|| self.runs.remove(which % count))
    }

    async fn give_back(&mut self, which: usize, failed: bool) {
        let Some(run) = self.some_run(which) else { return };
        let delay = if failed { Duration::from_secs(1) } else { Duration::ZERO };
        let client = &self.clients[run.host];
        client.give_back(id(run.job), run.number, delay, failed).await.expect("a reply");
    }

    async fn finish(&mut self, which: usize, succeeds: bool) {
        let Some(run) = self.some_run(which) else { return };
        let outcome = match succeeds {
            true => Ok(response(run.job)),
            false => Err("it failed".to_owned()),
        };
        let Some(borrowed) = run.borrowed.clone() else {
            // The owner stores it first.
            self.over.entry(run.job).or_insert(outcome);
            return self.remove(run.job).await;
        };
        let counts = self.clients[run.host]
            .finish(&borrowed, run.number, 1, &outcome)
            .await
            .expect("a reply");
        let lives = !run.doubtful && run.until > self.passed + SLACK;
        if !self.over.contains_key(&run.job) {
            assert!(counts || !lives, "a result under a valid lease counts: {borrowed:?}");
        }
        if counts {
            let other = self.runs.iter().find(|other| other.job == run.job && !other.doubtful);
            let other = other.filter(|other| other.until > self.passed + SLACK);
            assert!(other.is_none(), "{run:?} ended a job that {other:?} runs");
            self.ended.insert(run.job);
        }
    }

    async fn sweep(&mut self, host: usize) {
        let mine = (0..JOBS).filter(|job| owner(*job) == host && !self.over.contains_key(job));
        let mine: Vec<u64> = mine.collect();
        let entries: Vec<PartitionEntry> = mine.iter().map(|job| entry(*job)).collect();
        let (_, missing) = self.clients[host].known(&entries, true).await.expect("a reply");
        let missing: Vec<JobDescriptor> =
            missing.into_iter().map(|at: usize| descriptor(mine[at])).collect();
        self.clients[host].publish(&missing).await.expect("a reply");
        let (_, ids) = self.clients[host].scan_own(0).await.expect("a reply");
        for job in ids.into_iter().map(job_of).filter(|job| self.over.contains_key(job)) {
            self.clients[host].remove(&[id(job)]).await.expect("a reply");
        }
    }

    async fn fetch(&mut self, host: usize) {
        for (id, fetched) in self.clients[host].fetch(4).await.expect("a reply") {
            let job = job_of(id);
            assert_eq!(owner(job), host);
            let outcome = fetched.expect("it can be decoded").outcome;
            if let Ok(of) = &outcome {
                assert_eq!(*of, response(job));
            }
            self.over.entry(job).or_insert(outcome);
            self.remove(job).await;
        }
    }

    async fn remove(&mut self, job: u64) {
        self.clients[owner(job)].remove(&[id(job)]).await.expect("a reply");
        self.ended.remove(&job);
        // A host that still runs it learns of it when it renews the lease.
        self.runs.iter_mut().filter(|run| run.job == job).for_each(|run| run.doubtful = true);
    }

    /// Once leases have ended and hosts have swept, every job runs and is fetched.
    async fn all_end(&mut self) {
        self.set_clock(90);
        self.runs.clear();
        for _ in 0..3 {
            for host in 0..HOSTS {
                self.sweep(host).await;
            }
            for host in 0..HOSTS {
                while self.take(host, 8).await > 0 {}
            }
            while !self.runs.is_empty() {
                self.finish(0, true).await;
            }
            for host in 0..HOSTS {
                self.fetch(host).await;
                self.fetch(host).await;
            }
        }
        let left: Vec<u64> = (0..JOBS).filter(|job| !self.over.contains_key(job)).collect();
        assert!(left.is_empty(), "{left:?} never ended");
        for host in 0..HOSTS {
            self.sweep(host).await;
            let reply = self.clients[host].heartbeat().await.expect("a reply");
            assert_eq!(reply.jobs, 0);
        }
    }
}

#[test]
fn no_job_runs_on_two_hosts_and_none_is_lost_in_any_order_of_faults() {
    let redis = RedisServer::builder().clock().start();
    let link = RedisLink::new(RedisAddress::read(&redis.url()).expect("a URL"), FLEET);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.expect("a runtime");
    let here = LocalSet::new();
    let maintained = link.clone();
    here.spawn_local(async move { maintained.maintain().await });
    here.block_on(&runtime, async {
        let client = JobsClient::new(link.clone(), "host0".to_owned());
        while client.heartbeat().await.is_err() {
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    });
    let cases = ProptestConfig {
        cases: 48,
        max_shrink_iters: 500,
        failure_persistence: None,
        ..ProptestConfig::default()
    };
    proptest!(cases, |(steps in prop::collection::vec(step(), 1..80))| {
        redis.set_clock(0);
        let mut model = Model::new(&redis, &link);
        here.block_on(&runtime, async {
            for step in steps {
                model.apply(step).await;
            }
            model.all_end().await;
        });
    });
}
