//! The cost of each decision on the request path, in nanoseconds.
//!
//! A request takes tens of microseconds, nearly all of them in the kernel. The decisions in between
//! have to stay negligible: `tests/drill micro` compares the means with their limits. `cargo test`
//! runs each benchmark once.
//!
//! The benchmarks use the state of a running process (`live`) with a shipped policy; `rule` is the
//! pure part alone. Time advances from attempt to attempt, so that windows slide as they do under
//! load. The clock is not read, because callers read it once for many decisions.

use std::fs;
use std::hint::black_box;
use std::io;
use std::path::Path;
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use criterion::measurement::WallTime;
use criterion::{Bencher, Criterion, criterion_group, criterion_main};
use http::HeaderName;

use outrigger::cache::CacheRegistry;
use outrigger::clock;
use outrigger::live::Live;
use outrigger::live::breaker::cell::{BreakerCell, BreakerKey};
use outrigger::live::credential::CredentialLive;
use outrigger::live::credential_cell::CredentialKey;
use outrigger::live::degradation::outcome_window::{OutcomeWindow, WindowKind};
use outrigger::live::endpoint::EndpointLive;
use outrigger::live::route::RouteLive;
use outrigger::live::tracking::call_recorder::CallRecorder;
use outrigger::policy::sections::model::{Affinity, Cost, Policy};
use outrigger::policy::{self, SourceFile, Sources};
use outrigger::resilience::balance::balancer::{BalanceAlgorithm, BalancerCandidate};
use outrigger::resilience::breaker::{BreakerPolicy, LocalBreaker};
use outrigger::resilience::outcome::{AttemptClass, Outcome};
use outrigger::resilience::queue::wait_queue::{GroupKey, QueueEntry, WaitQueue};
use outrigger::resilience::queue::waiters::QueuePolicy;
use outrigger::resilience::rate::gcra::RatePolicy;
use outrigger::resilience::retry::cost_budget::CostBudgetPolicy;
use outrigger::resilience::retry::hedge::HedgePolicy;
use outrigger::snapshot::CurrentSnapshot;
use outrigger::snapshot::RouteModes;
use outrigger::snapshot::build::SnapshotBuilder;
use outrigger::stream::framing::StreamFormat;
use outrigger::stream::interpret::Interpreter;
use outrigger::stream::reader::StreamReader;
use outrigger::telemetry::metrics::Metrics;
use outrigger::upstream::Resolver;

/// Time between two attempts: 20,000 per second.
const STEP: Duration = Duration::from_micros(50);
/// Time to the first byte of an attempt.
const TOOK: Duration = Duration::from_millis(80);
const THREADS: usize = 4;
const ENDPOINTS: usize = 8;
const STRATEGIES: [BalanceAlgorithm; 5] = [
    BalanceAlgorithm::Latency,
    BalanceAlgorithm::LeastConnections,
    BalanceAlgorithm::RoundRobin,
    BalanceAlgorithm::Weighted,
    BalanceAlgorithm::First,
];

/// A clock that advances between attempts.
struct Passing(Instant);

/// Every secret has a value.
struct Any;

impl Passing {
    fn new() -> Self {
        Passing(clock::now())
    }

    fn next(&mut self) -> Instant {
        self.0 += STEP;
        self.0
    }
}

impl Sources for Any {
    fn env(&self, _: &str) -> Option<String> {
        Some("not-a-secret".to_owned())
    }

    fn file(&self, path: &Path) -> io::Result<Vec<u8>> {
        panic!("the shipped policy needs {}", path.display())
    }
}

fn shipped() -> Policy {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/policies/llm.yaml");
    let bytes = fs::read(path).expect("the shipped policy can be read");
    let loaded = policy::load(&[SourceFile { name: "llm.yaml".to_owned(), bytes }], &Any);
    loaded.expect("the shipped policy is valid").policy
}

fn live() -> Arc<Live> {
    Arc::new(Live::new(Arc::new(Metrics::new()), 1 << 20, None))
}

fn breaker_policy() -> BreakerPolicy {
    let provider = &shipped().providers[0];
    let breaker = provider.breaker.as_ref().expect("the first provider has a breaker");
    breaker.policy(provider.probe_lease())
}

fn cell() -> Arc<BreakerCell> {
    let [provider, endpoint, model] = ["openai", "api.openai.com:443", "gpt-4o"].map(String::from);
    live().breaker(BreakerKey { provider, endpoint, model }, breaker_policy())
}

fn route() -> Arc<RouteLive> {
    live().route(&shipped().routes[0])
}

/// A route with all optional parts, and the latencies of one minute.
fn route_with_all() -> Arc<RouteLive> {
    let mut policy = shipped().routes[0].clone();
    policy.hedge = Some(HedgePolicy { extra_load: 0.02, after: None });
    let spend = CostBudgetPolicy { limit: 5.0, window: Duration::from_secs(3_600) };
    policy.retry.budget.cost = Some(Cost { policy: spend, currency: "USD".to_owned() });
    let header = HeaderName::from_static("x-session");
    policy.affinity = Some(Affinity { header, ttl: Duration::from_secs(600) });
    let (route, mut time) = (live().route(&policy), Passing::new());
    (1..1_000).for_each(|n| route.hedge_sample(TOOK * n / 100, time.next()));
    route
}

fn attempt(cell: &BreakerCell, now: Instant) {
    let permit = cell.admit(now).expect("a closed breaker admits");
    cell.observe(permit, Outcome::Success, TOOK, now);
}

fn breaker_rule(bencher: &mut Bencher<'_, WallTime>) {
    let (mut rule, mut time) = (LocalBreaker::new(breaker_policy()), Passing::new());
    bencher.iter(|| {
        let now = time.next();
        let (Ok(permit), _) = rule.admit(now) else { panic!("it is closed") };
        rule.observe(permit, Outcome::Success, black_box(TOOK), now, 0.5)
    });
}

fn breaker_live(bencher: &mut Bencher<'_, WallTime>) {
    let (cell, mut time) = (cell(), Passing::new());
    bencher.iter(|| attempt(&cell, time.next()));
}

/// The two calls of an attempt on a thread that competes with three others, as measured by the
/// slowest. Depends on the number of cores.
fn breaker_rivals(bencher: &mut Bencher<'_, WallTime>) {
    let (cell, start) = (cell(), Barrier::new(THREADS));
    let rival = |attempts: u64| {
        let mut time = Passing::new();
        start.wait();
        let began = clock::now();
        (0..attempts).for_each(|_| attempt(&cell, time.next()));
        clock::since(began)
    };
    bencher.iter_custom(|attempts| {
        thread::scope(|scope| {
            let threads = [(); THREADS].map(|()| scope.spawn(|| rival(attempts)));
            let took = threads.map(|thread| thread.join().expect("an attempt does not panic"));
            took.into_iter().max().unwrap_or_default()
        })
    });
}

/// The checks of each endpoint's breaker before one is selected.
fn breaker_look(bencher: &mut Bencher<'_, WallTime>) {
    let (cell, mut time) = (cell(), Passing::new());
    bencher.iter(|| {
        let now = time.next();
        (cell.check(now).is_ok(), cell.wants_probe(now), cell.slow_start(now))
    });
}

fn credential() -> Arc<CredentialLive> {
    live().credential(CredentialKey {
        provider: "openai".to_owned(),
        endpoint: "api.openai.com:443".to_owned(),
        credential: "env:KEY".to_owned(),
        model: String::new(),
    })
}

fn hold_check(bencher: &mut Bencher<'_, WallTime>) {
    let (credential, mut time) = (credential(), Passing::new());
    bencher.iter(|| credential.check(|| Some("gpt-4o"), 100.0, time.next()));
}

fn hold_admit(bencher: &mut Bencher<'_, WallTime>) {
    let (credential, mut time) = (credential(), Passing::new());
    bencher.iter(|| credential.admit(|| Some("gpt-4o"), 100.0, time.next()));
}

fn pick(bencher: &mut Bencher<'_, WallTime>, how: BalanceAlgorithm) {
    let candidates: Vec<_> = (1..=ENDPOINTS as u32)
        .map(|n| BalancerCandidate {
            share: f64::from(n % 3 + 1),
            latency: 1e6 * f64::from(n * 7 % 5 + 1),
            pending: n * 5 % 4,
            slow_start: 1.0,
        })
        .collect();
    let (route, eligible) = (route(), black_box(0xff_u64));
    bencher.iter(|| {
        let among = |index: usize| eligible & (1 << index) != 0;
        route.select(0, how, black_box(&candidates), among, clock::draw())
    });
}

/// The latency estimates of the endpoints, read before each selection.
fn estimates(bencher: &mut Bencher<'_, WallTime>) {
    let (live, mut time) = (live(), Passing::new());
    let endpoints: Vec<Arc<EndpointLive>> =
        (0..ENDPOINTS).map(|n| live.endpoint("openai", &format!("{n}"))).collect();
    endpoints.iter().for_each(|endpoint| endpoint.responded(TOOK, time.next()));
    bencher.iter(|| {
        let now = time.next();
        endpoints.iter().map(|endpoint| endpoint.latency(now)).sum::<f64>()
    });
}

fn budget_first(bencher: &mut Bencher<'_, WallTime>) {
    let (route, mut time) = (route(), Passing::new());
    bencher.iter(|| route.record_request(time.next()));
}

fn budget_repeat(bencher: &mut Bencher<'_, WallTime>) {
    let (route, mut time) = (route(), Passing::new());
    bencher.iter(|| route.withdraw_retry(time.next()));
}

fn hedge_sample(bencher: &mut Bencher<'_, WallTime>) {
    let (route, mut time) = (route_with_all(), Passing::new());
    bencher.iter(|| route.hedge_sample(black_box(TOOK), time.next()));
}

fn hedge_delay(bencher: &mut Bencher<'_, WallTime>) {
    let (route, mut time) = (route_with_all(), Passing::new());
    let now = time.next();
    bencher.iter(|| route.hedge_delay(black_box(now)));
}

fn hedge_left_out(bencher: &mut Bencher<'_, WallTime>) {
    let (route, mut time) = (route(), Passing::new());
    let now = time.next();
    bencher.iter(|| route.hedge_delay(black_box(now)));
}

fn cost_may(bencher: &mut Bencher<'_, WallTime>) {
    let (route, mut time) = (route_with_all(), Passing::new());
    route.record_cost(1.0, time.next());
    bencher.iter(|| route.within_cost_budget(time.next()));
}

fn affinity(bencher: &mut Bencher<'_, WallTime>) {
    let (route, mut time) = (route_with_all(), Passing::new());
    let session = black_box(b"0b3009a8-797d-4403-bfe8-c3ed0203dd9b");
    route.pin_session(session, 7, time.next());
    bencher.iter(|| route.session_endpoint(session, time.next()));
}

/// A route with modes, of which none is in force.
fn degraded_none(bencher: &mut Bencher<'_, WallTime>) {
    let (live, modes) = (live(), RouteModes { mask: 0b101, all: Vec::new() });
    bencher.iter(|| black_box(&modes).may_apply(black_box(&live.modes)));
}

/// One request of a route whose errors and latency a mode observes.
fn degraded_sample(bencher: &mut Bencher<'_, WallTime>) {
    let minute = Duration::from_secs(60);
    let samples = OutcomeWindow::new(&[WindowKind::Errors(minute), WindowKind::Latency(minute)]);
    let mut time = Passing::new();
    bencher.iter(|| samples.record(black_box(false), Some(TOOK), time.next()));
}

fn snapshot_load(bencher: &mut Bencher<'_, WallTime>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.expect("a runtime can be built");
    let live = live();
    let caches = Arc::new(CacheRegistry::new(Arc::clone(&live.metrics)).expect("chance"));
    let ground =
        SnapshotBuilder { live, caches, resolver: Resolver::new(runtime.handle().clone()) };
    let snapshot = ground.build(shipped(), "0123456789abcdef".to_owned());
    let current =
        CurrentSnapshot::from_pointee(snapshot.expect("the shipped policy can be put in force"));
    bencher.iter(|| black_box(&current).load().routes.len());
}

/// A request joins a queue of 100,000 in many flows, and the first one leaves.
fn queue(bencher: &mut Bencher<'_, WallTime>) {
    let (mut queue, mut time) = (WaitQueue::default(), Passing::new());
    let weights = vec![8, 4, 1];
    let (max_waiting, max_bytes, max_wait) = (200_000, 1 << 40, Duration::from_secs(86_400));
    queue.set_queue(1, QueuePolicy { max_waiting, max_bytes, max_wait, weights });
    let mut number = 0u64;
    let mut enter = |queue: &mut WaitQueue, now: Instant| {
        number += 1;
        let group = GroupKey { queue: 1, providers: [1].into(), state: 0 };
        let (class, flow) = (number as usize % 3, number * 7 % 1_000);
        let entry =
            QueueEntry { group, class, flow, bytes: 100, arrived: now, until: now + max_wait };
        let (ticket, _) = queue.enqueue(entry, now).expect("there is a place");
        queue.offers(ticket).iter().for_each(|at| queue.decline(ticket, *at, now));
    };
    (0..100_000).for_each(|_| enter(&mut queue, time.next()));
    bencher.iter(|| {
        let now = time.next();
        enter(&mut queue, now);
        queue.capacity_available(1, now);
        let first = queue.take_woken()[0];
        queue.served(first, 1, now);
        for next in queue.take_woken() {
            queue.decline(next, 1, now);
        }
    });
}

/// Admission at a provider with capacity and both rate limits, and the release.
fn admission(bencher: &mut Bencher<'_, WallTime>) {
    let mut capacity = shipped().providers[0].capacity;
    capacity.requests = Some(RatePolicy { rate: 1e9, burst: 1e9 });
    capacity.tokens = capacity.requests;
    let (provider, mut time) = (live().provider("openai", &capacity), Passing::new());
    bencher.iter(|| {
        provider.enter(black_box(100.0), time.next()).expect("there is room");
        provider.leave();
    });
}

fn read_event(bencher: &mut Bencher<'_, WallTime>) {
    let event = br#"data: {"id":"chatcmpl-B9MHDbslfkBeAs8l4bebGdFOJ6PeG","object":"chat.completion.chunk","created":1741570283,"model":"gpt-4o-2024-08-06","choices":[{"index":0,"delta":{"content":" and"},"finish_reason":null}]}"#;
    let frame = Bytes::from([&event[..], b"\n\n"].concat());
    let policy = shipped();
    let reading = Interpreter::new(&policy.routes[0].stream, &policy.providers[0]);
    let mut reader = StreamReader::new(Arc::new(reading), StreamFormat::Sse, 200, None);
    bencher.iter(|| reader.read(black_box(frame.clone())));
}

/// A call with one of four models.
fn tracked_call(bencher: &mut Bencher<'_>) {
    let recorder = CallRecorder::new("llm", "openai", &Arc::default());
    let models = ["gpt-4o", "gpt-4o-mini", "o3", "o4-mini"].map(Some);
    let mut calls = models.into_iter().cycle();
    bencher.iter(|| {
        let model = calls.next().flatten();
        recorder.record(black_box(model), AttemptClass::Success, black_box(TOOK))
    });
}

fn decisions(criterion: &mut Criterion) {
    criterion.bench_function("breaker/rule", breaker_rule);
    criterion.bench_function("breaker/live", breaker_live);
    criterion.bench_function("breaker/live, 4 threads", breaker_rivals);
    criterion.bench_function("breaker/look", breaker_look);
    criterion.bench_function("hold/check", hold_check);
    criterion.bench_function("hold/admit", hold_admit);
    for how in STRATEGIES {
        criterion.bench_function(&format!("pick of 8/{}", how.as_str()), |b| pick(b, how));
    }
    criterion.bench_function("pick of 8/estimates", estimates);
    criterion.bench_function("budget/first", budget_first);
    criterion.bench_function("budget/repeat", budget_repeat);
    criterion.bench_function("hedge/sample", hedge_sample);
    criterion.bench_function("hedge/delay", hedge_delay);
    criterion.bench_function("hedge/left out", hedge_left_out);
    criterion.bench_function("cost/may", cost_may);
    criterion.bench_function("affinity/sticky", affinity);
    criterion.bench_function("degradation/none", degraded_none);
    criterion.bench_function("degradation/sample", degraded_sample);
    criterion.bench_function("tracking/call", tracked_call);
    criterion.bench_function("queue/one of 100,000", queue);
    criterion.bench_function("admission/with room", admission);
    criterion.bench_function("read an event", read_event);
    criterion.bench_function("snapshot/load", snapshot_load);
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2));
    targets = decisions
}
criterion_main!(benches);
