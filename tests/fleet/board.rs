//! The scripts by which hosts share jobs, beside a model of who may run what: whatever three hosts do in
//! whatever order, while Redis forgets, holds nonsense, or has its clock set.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use outrigger::fleet::redis::connection::RedisLink;
use outrigger::fleet::redis::url::RedisAddress;
use outrigger::jobs::sharing::redis::{
    BorrowedJob, ClaimReply, JobDescriptor, JobOutcome, JobsClient, PartitionEntry,
};
use outrigger::store::{JobId, StoredRequest, StoredResponse};
use proptest::prelude::*;
use tokio::task::LocalSet;

use crate::support::fleet::{FLEET, key};
use crate::support::{POLL_INTERVAL, RedisServer};

const HOSTS: usize = 3;
const JOBS: u64 = 6;
const LEASE: u64 = 30_000;
/// What passes while a test speaks with Redis.
const SLACK: u64 = 5_000;
const MOST: u32 = 1_000;
/// Past all that a test sets clocks by.
const LONG: Duration = Duration::from_secs(20 * 86_400);
const LINE: &str = "a-line:normal";

#[derive(Clone, Debug)]
enum Step {
    Publish(u64),
    Look(usize),
    Claim(u64),
    Take(usize, usize),
    Renew(usize),
    Back(usize, bool),
    End(usize, bool),
    Fetch(usize),
    Cancel(u64),
    Resign(usize),
    Wipe,
    Nonsense(usize),
    Pass(i64),
}

fn step() -> impl Strategy<Value = Step> {
    let (job, host, which) = (0..JOBS, 0..HOSTS, 0..100usize);
    prop_oneof![
        6 => job.clone().prop_map(Step::Publish),
        2 => host.clone().prop_map(Step::Look),
        6 => job.clone().prop_map(Step::Claim),
        6 => (host.clone(), 1..4usize).prop_map(|(host, want)| Step::Take(host, want)),
        4 => host.clone().prop_map(Step::Renew),
        3 => (which.clone(), any::<bool>()).prop_map(|(which, spent)| Step::Back(which, spent)),
        6 => (which, any::<bool>()).prop_map(|(which, well)| Step::End(which, well)),
        4 => host.clone().prop_map(Step::Fetch),
        1 => job.prop_map(Step::Cancel),
        1 => host.prop_map(Step::Resign),
        1 => Just(Step::Wipe),
        1 => (0..6usize).prop_map(Step::Nonsense),
        2 => prop_oneof![Just(10), Just(25), Just(36), Just(-3600), Just(3600)].prop_map(Step::Pass),
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

fn place(job: u64) -> PartitionEntry {
    let expires = LONG;
    PartitionEntry { id: id(job), line: LINE.to_owned(), since: -200 + job as i64, expires }
}

fn request(job: u64) -> StoredRequest {
    StoredRequest {
        method: "POST".to_owned(),
        uri: format!("/{job}"),
        headers: b"x-a: b\r\n".to_vec(),
        body: Bytes::from(vec![0xff, job as u8]),
    }
}

fn notice(job: u64) -> JobDescriptor {
    let (keep, flow) = (LONG, vec![1, job as u8]);
    JobDescriptor {
        place: place(job),
        keep,
        attempts: 0,
        deliveries: 0,
        request: request(job),
        flow,
    }
}

fn answer(job: u64) -> StoredResponse {
    let body = Bytes::from(format!("answer {job}"));
    StoredResponse {
        status: 201,
        headers: b"x-b: c\r\n".to_vec(),
        body,
        cut: job.is_multiple_of(2),
    }
}

/// A run that somebody believes to have.
#[derive(Clone, Debug)]
struct Run {
    job: u64,
    host: usize,
    number: u64,
    /// By a clock that is never set back.
    until: u64,
    /// Redis forgot it, maybe: others may begin the job.
    doubtful: bool,
    loan: Option<BorrowedJob>,
}

struct Model<'r> {
    redis: &'r RedisServer,
    boards: Vec<JobsClient>,
    runs: Vec<Run>,
    /// Ends that Redis took and did not lose.
    ended: BTreeSet<u64>,
    /// What owners have written down.
    over: BTreeMap<u64, JobOutcome>,
    /// How far Redis' clock was set forward in all.
    passed: u64,
    offset: i64,
}

impl<'r> Model<'r> {
    fn new(redis: &'r RedisServer, link: &RedisLink) -> Model<'r> {
        redis.ask(&["FLUSHALL"]);
        let boards = (0..HOSTS).map(|host| JobsClient::new(link.clone(), format!("host{host}")));
        let (runs, ended, over) = (Vec::new(), BTreeSet::new(), BTreeMap::new());
        Model { redis, boards: boards.collect(), runs, ended, over, passed: 0, offset: 0 }
    }

    async fn follow(&mut self, step: Step) {
        match step {
            Step::Publish(job) if !self.over.contains_key(&job) => {
                self.boards[owner(job)].publish(&[notice(job)]).await.expect("an answer");
            }
            Step::Look(host) => self.look(host).await,
            Step::Claim(job) if !self.over.contains_key(&job) => self.claim(job).await,
            Step::Take(host, want) => {
                self.take(host, want).await;
            }
            Step::Renew(host) => self.renew(host).await,
            Step::Back(which, spent) => self.back(which, spent).await,
            Step::End(which, well) => self.end(which, well).await,
            Step::Fetch(host) => self.fetch(host).await,
            Step::Cancel(job) if !self.over.contains_key(&job) => {
                self.over.insert(job, JobOutcome::Dead("cancelled".to_owned()));
                self.clear(job).await;
            }
            Step::Resign(host) => {
                self.boards[host].resign().await.expect("an answer");
                self.runs.retain(|run| run.host != host);
            }
            Step::Wipe => {
                self.redis.ask(&["FLUSHALL"]);
                self.forgets();
                self.ended.clear();
            }
            Step::Nonsense(which) => self.nonsense(which),
            Step::Pass(seconds) => self.pass(seconds),
            Step::Publish(_) | Step::Claim(_) | Step::Cancel(_) => {}
        }
    }

    fn forgets(&mut self) {
        self.runs.iter_mut().for_each(|run| run.doubtful = true);
    }

    fn nonsense(&mut self, which: usize) {
        let all = ["j:l", "j:q:a-line:normal", "j:o:host0", "j:d:host1", "j:m:host2", "j:b:"];
        let name = match all[which] {
            "j:b:" => format!("j:b:{}", id(0)),
            name => name.to_owned(),
        };
        self.redis.ask(&["DEL", &key(&name)]);
        self.redis.ask(&["SET", &key(&name), "nonsense"]);
        self.forgets();
        self.ended.clear();
    }

    fn pass(&mut self, seconds: i64) {
        self.offset += seconds;
        self.redis.set_clock(self.offset);
        match u64::try_from(seconds) {
            Ok(forward) => self.passed += forward * 1000,
            // Ends of leases lie too far in the future to be believed.
            Err(_) => self.forgets(),
        }
    }

    /// Somebody begins a job: nobody else runs it.
    fn begins(&mut self, run: Run) {
        let others = self.runs.iter().filter(|other| other.job == run.job);
        for other in others.filter(|other| !other.doubtful && other.host != run.host) {
            assert!(other.until <= self.passed + SLACK, "{run:?} while {other:?}");
        }
        assert!(!self.ended.contains(&run.job), "{run:?} after its end");
        self.runs.retain(|other| (other.job, other.host) != (run.job, run.host));
        self.runs.push(run);
    }

    fn run(&self, job: u64, host: usize, number: u64, loan: Option<BorrowedJob>) -> Run {
        Run { job, host, number, until: self.passed + LEASE, doubtful: false, loan }
    }

    async fn claim(&mut self, job: u64) {
        let board = &self.boards[owner(job)];
        let mut claimed = board.claim(id(job), 0).await.expect("an answer");
        if matches!(claimed, ClaimReply::Unknown(_)) {
            claimed = board.publish_mine(&notice(job)).await.expect("an answer");
        }
        if let ClaimReply::Mine(claim) = claimed {
            self.begins(self.run(job, owner(job), claim.number, None));
        }
    }

    async fn take(&mut self, host: usize, want: usize) -> usize {
        let taken = self.boards[host].take(&[LINE.to_owned()], want, MOST, 0.5).await;
        let loans = taken.expect("an answer").loans;
        assert!(loans.len() <= want);
        for loan in &loans {
            let job = job_of(loan.id);
            assert_eq!((&loan.request, &loan.flow), (&request(job), &vec![1, job as u8]));
            assert_ne!(owner(job), host);
            self.begins(self.run(job, host, loan.claim.number, Some(loan.clone())));
        }
        loans.len()
    }

    async fn renew(&mut self, host: usize) {
        let mine = self.runs.iter().filter(|run| run.host == host);
        let named = |run: &Run| (id(run.job), run.number, format!("host{}", owner(run.job)));
        let held: Vec<_> = mine.map(named).collect();
        if held.is_empty() {
            return;
        }
        let numbers = self.boards[host].renew(&held).await.expect("an answer");
        for ((id, ..), number) in held.into_iter().zip(numbers) {
            let job = job_of(id);
            let at = self.runs.iter().position(|run| (run.job, run.host) == (job, host));
            let mut run = self.runs.remove(at.expect("a run"));
            if number > 0 {
                (run.number, run.until, run.doubtful) = (number, self.passed + LEASE, false);
                self.begins(run);
            }
        }
    }

    fn some_run(&mut self, which: usize) -> Option<Run> {
        let count = self.runs.len();
        (count > 0).then(|| self.runs.remove(which % count))
    }

    async fn back(&mut self, which: usize, spent: bool) {
        let Some(run) = self.some_run(which) else { return };
        let rest = if spent { Duration::from_secs(1) } else { Duration::ZERO };
        let board = &self.boards[run.host];
        board.give_back(id(run.job), run.number, rest, spent).await.expect("an answer");
    }

    async fn end(&mut self, which: usize, well: bool) {
        let Some(run) = self.some_run(which) else { return };
        let end = match well {
            true => JobOutcome::Answered(answer(run.job)),
            false => JobOutcome::Dead("it failed".to_owned()),
        };
        let Some(loan) = run.loan.clone() else {
            // Its owner writes it down first.
            self.over.entry(run.job).or_insert(end);
            return self.clear(run.job).await;
        };
        let counts =
            self.boards[run.host].end(&loan, run.number, 1, &end).await.expect("an answer");
        let lives = !run.doubtful && run.until > self.passed + SLACK;
        if !self.over.contains_key(&run.job) {
            assert!(counts || !lives, "the end of a live lease counts: {loan:?}");
        }
        if counts {
            let other = self.runs.iter().find(|other| other.job == run.job && !other.doubtful);
            let other = other.filter(|other| other.until > self.passed + SLACK);
            assert!(other.is_none(), "{run:?} ended what {other:?} runs");
            self.ended.insert(run.job);
        }
    }

    async fn look(&mut self, host: usize) {
        let mine = (0..JOBS).filter(|job| owner(*job) == host && !self.over.contains_key(job));
        let mine: Vec<u64> = mine.collect();
        let places: Vec<PartitionEntry> = mine.iter().map(|job| place(*job)).collect();
        let (_, missing) = self.boards[host].known(&places, true).await.expect("an answer");
        let missing: Vec<JobDescriptor> =
            missing.into_iter().map(|at: usize| notice(mine[at])).collect();
        self.boards[host].publish(&missing).await.expect("an answer");
        let (_, ids) = self.boards[host].mine(0).await.expect("an answer");
        for job in ids.into_iter().map(job_of).filter(|job| self.over.contains_key(job)) {
            self.boards[host].clear(&[id(job)]).await.expect("an answer");
        }
    }

    async fn fetch(&mut self, host: usize) {
        for ended in self.boards[host].fetch(4).await.expect("an answer") {
            let job = job_of(ended.id);
            assert_eq!(owner(job), host);
            let end = ended.end.expect("it can be read");
            if let JobOutcome::Answered(of) = &end {
                assert_eq!(*of, answer(job));
            }
            self.over.entry(job).or_insert(end);
            self.clear(job).await;
        }
    }

    async fn clear(&mut self, job: u64) {
        self.boards[owner(job)].clear(&[id(job)]).await.expect("an answer");
        self.ended.remove(&job);
        // Whoever runs it still hears of it when it renews.
        self.runs.iter_mut().filter(|run| run.job == job).for_each(|run| run.doubtful = true);
    }

    /// Whatever was done: when hosts look again and leases have ended, every job is run and fetched.
    async fn all_end(&mut self) {
        self.pass(90);
        self.runs.clear();
        for _ in 0..3 {
            for host in 0..HOSTS {
                self.look(host).await;
            }
            for host in 0..HOSTS {
                while self.take(host, 8).await > 0 {}
            }
            while !self.runs.is_empty() {
                self.end(0, true).await;
            }
            for host in 0..HOSTS {
                self.fetch(host).await;
                self.fetch(host).await;
            }
        }
        let left: Vec<u64> = (0..JOBS).filter(|job| !self.over.contains_key(job)).collect();
        assert!(left.is_empty(), "{left:?} never ended");
        for host in 0..HOSTS {
            self.look(host).await;
            let beat = self.boards[host].beat().await.expect("an answer");
            assert_eq!(beat.jobs, 0);
        }
    }
}

#[test]
fn no_job_is_run_by_two_and_none_is_lost_whatever_hosts_do_and_redis_forgets() {
    let redis = RedisServer::builder().clock().start();
    let link = RedisLink::new(RedisAddress::read(&redis.url()).expect("a URL"), FLEET);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.expect("a runtime");
    let here = LocalSet::new();
    let keeping = link.clone();
    here.spawn_local(async move { keeping.keep().await });
    here.block_on(&runtime, async {
        let board = JobsClient::new(link.clone(), "host0".to_owned());
        while board.beat().await.is_err() {
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
                model.follow(step).await;
            }
            model.all_end().await;
        });
    });
}
