use super::*;
use proptest::prelude::*;

const HOSTS: u32 = 5;
const POLICY: RatePolicy = RatePolicy { rate: 50.0, burst: 10.0 };

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

fn new_quota() -> SharedQuota {
    SharedQuota::new(POLICY, true, HOSTS)
}

fn grant(amount: f64) -> ChunkGrant {
    ChunkGrant { amount, wait: Duration::ZERO, used: 0.0 }
}

/// Takes one, as an attempt does.
fn admit(quota: &mut SharedQuota, amount: f64, now: Instant) -> Result<(), Duration> {
    quota.check(amount, now).map(|()| quota.take(amount, now))
}

/// A host that called before and was granted this amount.
fn warm(amount: f64, now: Instant) -> SharedQuota {
    let mut quota = new_quota();
    admit(&mut quota, 1.0, now).unwrap();
    let request = quota.take_request(100, now).unwrap();
    quota.granted(request.at, grant(amount), now);
    quota
}

#[test]
fn the_first_call_of_a_cold_host_goes_and_is_reported_as_debt() {
    let (t0, mut quota) = (Instant::now(), new_quota());
    assert_eq!(admit(&mut quota, 1.0, t0), Ok(()));
    let request = quota.take_request(0, t0).unwrap();
    assert_eq!((request.want, request.least, request.debt), (1.0, 1.0, 1.0));
    assert_eq!(quota.take_request(0, t0 + ms(100)), None);
    assert_eq!(quota.check(1.0, t0 + ms(1)), Err(CHECK_INTERVAL));
    quota.granted(request.at, grant(1.0), t0 + ms(2));
    assert_eq!(admit(&mut quota, 1.0, t0 + ms(2)), Ok(()));
    assert_eq!(quota.take_request(0, t0 + ms(3)).unwrap().debt, 0.0);
}

#[test]
fn waiting_demand_is_requested_up_to_one_chunk() {
    let (t0, mut few) = (Instant::now(), new_quota());
    admit(&mut few, 1.0, t0).unwrap();
    let mut many = few.clone();
    assert!((3.0..4.0).contains(&few.take_request(3, t0).unwrap().want));
    assert_eq!(many.take_request(1_000, t0).unwrap().want, many.largest_chunk());
    assert_eq!(many.largest_chunk(), 5.0);
}

#[test]
fn a_request_larger_than_a_chunk_is_requested_whole() {
    let (t0, mut quota) = (Instant::now(), warm(2.0, Instant::now()));
    assert_eq!(quota.check(40.0, t0), Err(CHECK_INTERVAL));
    let request = quota.take_request(3, t0).unwrap();
    assert_eq!((request.want, request.least), (38.0, 38.0));
    quota.granted(request.at, ChunkGrant { wait: ms(600), ..grant(38.0) }, t0 + ms(1));
    assert_eq!(quota.check(40.0, t0 + ms(1)), Err(ms(600)));
    assert_eq!(admit(&mut quota, 40.0, t0 + ms(601)), Ok(()));
}

#[test]
fn a_later_grant_is_waited_for_exactly() {
    let t0 = Instant::now();
    let mut quota = warm(1.0, t0);
    admit(&mut quota, 1.0, t0).unwrap();
    let request = quota.take_request(4, t0).unwrap();
    quota.granted(request.at, ChunkGrant { wait: ms(40), ..grant(1.0) }, t0 + ms(2));
    assert_eq!(quota.check(1.0, t0 + ms(2)), Err(ms(40)));
    assert_eq!(quota.check(1.0, t0 + ms(41)), Err(ms(1)));
    assert_eq!(admit(&mut quota, 1.0, t0 + ms(42)), Ok(()));
}

#[test]
fn an_empty_grant_is_waited_out_and_requested_again() {
    let t0 = Instant::now();
    let mut quota = warm(1.0, t0);
    admit(&mut quota, 1.0, t0).unwrap();
    let request = quota.take_request(4, t0).unwrap();
    quota.granted(request.at, ChunkGrant { wait: ms(7_000), ..grant(0.0) }, t0);
    assert_eq!(quota.check(1.0, t0), Err(ms(7_000)));
    assert_eq!(quota.take_request(4, t0 + ms(999)), None);
    quota.check(1.0, t0 + ms(1_000)).unwrap_err();
    assert!(quota.take_request(4, t0 + ms(1_000)).is_some());
}

#[test]
fn an_unused_chunk_expires_and_is_reported() {
    let t0 = Instant::now();
    let mut quota = warm(5.0, t0);
    admit(&mut quota, 1.0, t0 + ms(10)).unwrap();
    assert_eq!(quota.take_request(0, t0 + ms(900)), None);
    assert_eq!(quota.status(t0 + ms(1_000)).available, 0.0);
    let request = quota.take_request(0, t0 + ms(1_010)).unwrap();
    assert_eq!((request.want, request.debt), (0.0, -4.0));
    quota.granted(request.at, grant(0.0), t0 + ms(1_020));
    assert_eq!(quota.take_request(0, t0 + ms(1_030)), None);
}

#[test]
fn settling_adds_debt_or_returns_to_the_chunk() {
    let t0 = Instant::now();
    let mut quota = warm(3.0, t0);
    quota.settle(1.0, 2.0, t0);
    assert_eq!(quota.status(t0).available, 2.0);
    quota.settle(2.0, 1.0, t0);
    assert_eq!(quota.status(t0).available, 3.0);
    quota.settle(1.0, 24.0, t0);
    assert_eq!(quota.take_request(0, t0).unwrap().debt, 20.0);
}

#[test]
fn a_return_beyond_one_chunk_goes_to_the_fleet() {
    let t0 = Instant::now();
    let mut quota = warm(4.0, t0);
    quota.give_back(10.0, t0);
    assert_eq!(quota.status(t0).available, quota.largest_chunk());
    assert_eq!(quota.take_request(0, t0).unwrap().debt, -9.0);
}

#[test]
fn the_local_share_applies_while_detached_and_is_reported_on_return() {
    let (t0, mut quota) = (Instant::now(), SharedQuota::new(POLICY, false, HOSTS));
    assert_eq!(quota.take_request(8, t0), None);
    let count = (0..5_000).filter(|n| admit(&mut quota, 1.0, t0 + ms(*n)).is_ok()).count();
    assert!((51..=53).contains(&count), "{count} in 5 s at a fifth of 50/s, two at once");
    assert!(quota.share_used(t0 + ms(5_000)) > 0.5);
    quota.attach(true, HOSTS, t0 + ms(5_000));
    let request = quota.take_request(0, t0 + ms(5_000)).unwrap();
    assert!((1.0..2.1).contains(&request.debt), "{request:?}");
}

#[test]
fn the_number_of_hosts_changes_the_share() {
    let (t0, mut quota) = (Instant::now(), SharedQuota::new(POLICY, false, 0));
    assert_eq!(quota.status(t0).share, 50.0);
    quota.attach(false, 10, t0);
    assert_eq!(quota.status(t0).share, 5.0);
    quota.retune(RatePolicy { rate: 100.0, ..POLICY }, t0);
    assert_eq!(quota.status(t0), SharedQuotaStatus { rate: 100.0, share: 10.0, available: 0.0 });
}

#[test]
fn a_silent_fleet_is_not_waited_for() {
    let t0 = Instant::now();
    let mut quota = warm(1.0, t0);
    admit(&mut quota, 1.0, t0).unwrap();
    let request = quota.take_request(0, t0).unwrap();
    assert_eq!(quota.check(1.0, t0 + ms(249)), Err(CHECK_INTERVAL));
    assert_eq!(admit(&mut quota, 1.0, t0 + ms(250)), Ok(()));
    quota.request_failed(request.at, t0 + ms(300));
    assert_eq!(admit(&mut quota, 1.0, t0 + ms(400)), Ok(()));
    let again = quota.take_request(0, t0 + ms(400)).unwrap();
    assert_eq!(again.debt, 2.0);
    quota.granted(request.at, grant(9.0), t0 + ms(401));
    assert_eq!(quota.status(t0 + ms(401)).available, 0.0);
    quota.granted(again.at, grant(1.0), t0 + ms(402));
    assert_eq!(admit(&mut quota, 1.0, t0 + ms(402)), Ok(()));
}

#[test]
fn an_unacknowledged_debt_is_reported_again_and_a_credit_is_not() {
    let (t0, mut debtor) = (Instant::now(), new_quota());
    admit(&mut debtor, 1.0, t0).unwrap();
    let request = debtor.take_request(0, t0).unwrap();
    debtor.request_failed(request.at, t0);
    assert_eq!(debtor.take_request(0, t0 + CHECK_INTERVAL).unwrap().debt, 1.0);

    let mut idle = warm(5.0, t0);
    let request = idle.take_request(0, t0 + ms(2_000)).unwrap();
    assert_eq!(request.debt, -5.0);
    idle.request_failed(request.at, t0 + ms(2_000));
    assert_eq!(idle.take_request(0, t0 + ms(3_000)), None);
}

#[test]
fn odd_numbers_never_panic() {
    let odd = [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, -1.0, 0.0, f64::MAX, 1e-300];
    for (a, b) in odd.into_iter().flat_map(|a| odd.map(|b| (a, b))) {
        let t0 = Instant::now();
        let mut quota = SharedQuota::new(RatePolicy { rate: a, burst: b }, true, 0);
        let _ = admit(&mut quota, a, t0);
        quota.take(1.0, t0);
        if let Some(request) = quota.take_request(u32::MAX, t0) {
            quota.granted(request.at, ChunkGrant { amount: a, wait: Duration::MAX, used: b }, t0);
        }
        quota.settle(a, b, t0 + ms(1));
        quota.attach(false, u32::MAX, t0 + ms(2));
        quota.attach(true, 1, t0 + ms(3));
        assert!((0.0..=1.0).contains(&quota.share_used(t0 + ms(4))), "{a} {b}");
        assert!(quota.status(t0).available >= 0.0, "{a} {b}");
    }
}

// === A fleet ===

/// The limit as Redis keeps it: `chunk.lua`, in seconds.
#[derive(Default)]
struct Limit {
    queued: f64,
    at: Option<Instant>,
}

impl Limit {
    fn request(&mut self, request: &ChunkRequest, now: Instant) -> ChunkGrant {
        let RatePolicy { rate, burst } = request.policy;
        let passed = self.at.map_or(0.0, |at| (now - at).as_secs_f64());
        let queued = ((self.queued - passed).max(0.0) + request.debt / rate).max(0.0);
        let room = burst - queued * rate;
        let (mut amount, mut wait) = (0.0, 0.0);
        if request.want > 0.0 && room + 1e-6 >= request.least {
            amount = request.want.min(room.max(request.least));
        } else if request.want > 0.0 {
            wait = (request.least.min(burst) - room) / rate;
            amount = if wait <= 5.0 + request.least / rate { request.least } else { 0.0 };
        }
        (self.queued, self.at) = (queued + amount / rate, Some(now));
        let wait = Duration::from_secs_f64(wait.max(0.0));
        ChunkGrant { amount, wait, used: self.queued * rate }
    }
}

/// The traffic of a host.
#[derive(Clone, Copy, Debug)]
enum Calls {
    /// This many requests always wait.
    Always(u32),
    /// This many per second, one by one.
    Evenly(u32),
    /// This many at once, every second.
    Together(u32),
    Never,
}

/// A message in flight: to Redis, or back.
enum Message {
    There(ChunkRequest),
    Back(Instant, ChunkGrant),
}

struct Host {
    quota: SharedQuota,
    calls: Calls,
    waiting: u32,
    served: f64,
    on_its_way: Option<(Instant, Message)>,
}

/// A fleet, and its excess over the limit.
struct Fleet {
    hosts: Vec<Host>,
    limit: Limit,
    chance: u64,
    slowest: u64,
    policy: RatePolicy,
    /// Redis reads no message.
    silent: bool,
    /// The excess over the rate, as a leaky bucket.
    level: f64,
    highest: f64,
    at: Instant,
}

impl Fleet {
    fn new(policy: RatePolicy, calls: &[Calls], chance: u64, slowest: u64) -> Self {
        let hosts = u32::try_from(calls.len()).unwrap();
        let host = |calls: &Calls| Host {
            quota: SharedQuota::new(policy, true, hosts),
            calls: *calls,
            waiting: 0,
            served: 0.0,
            on_its_way: None,
        };
        let hosts = calls.iter().map(host).collect();
        let (limit, at) = (Limit::default(), Instant::now());
        let (silent, level, highest) = (false, 0.0, 0.0);
        Fleet { hosts, limit, chance, slowest, policy, silent, level, highest, at }
    }

    /// Delay of a message.
    fn delay(&mut self) -> Duration {
        self.chance = self.chance.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        Duration::from_micros(100 + (self.chance >> 33) % (self.slowest * 1_000))
    }

    fn run(&mut self, length: u64) {
        for n in 0..length {
            self.at += ms(1);
            self.level = (self.level - self.policy.rate / 1_000.0).max(0.0);
            for host in 0..self.hosts.len() {
                self.step(host, n);
            }
        }
    }

    fn step(&mut self, host: usize, n: u64) {
        let (now, delay, silent) = (self.at, self.delay(), self.silent);
        let host = &mut self.hosts[host];
        host.waiting = match host.calls {
            Calls::Always(count) => count,
            Calls::Evenly(count) if n.is_multiple_of(1_000 / u64::from(count)) => host.waiting + 1,
            Calls::Together(count) if n.is_multiple_of(1_000) => host.waiting + count,
            _ => host.waiting,
        };
        let is_read = |message: &Message| !silent || matches!(message, Message::Back(..));
        match host.on_its_way.take_if(|(at, message)| *at <= now && is_read(message)) {
            Some((_, Message::There(request))) => {
                let grant = self.limit.request(&request, now);
                host.on_its_way = Some((now + delay, Message::Back(request.at, grant)));
            }
            Some((_, Message::Back(sent_at, grant))) => {
                host.quota.granted(sent_at, grant, now);
            }
            None => {}
        }
        while host.waiting > 0 && admit(&mut host.quota, 1.0, now).is_ok() {
            (host.waiting, host.served) = (host.waiting - 1, host.served + 1.0);
            self.level += 1.0;
            self.highest = self.highest.max(self.level);
            if let Calls::Always(count) = host.calls {
                host.waiting = count;
            }
        }
        if let Some(request) = host.quota.take_request(host.waiting, now) {
            host.on_its_way = Some((now + delay, Message::There(request)));
        }
    }

    fn served(&self) -> f64 {
        self.hosts.iter().map(|host| host.served).sum()
    }

    /// The burst, the slack for late timers, and one chunk per host.
    fn bound(&self) -> f64 {
        let chunks: f64 = self.hosts.iter().map(|host| host.quota.largest_chunk()).sum();
        self.policy.with_slack().burst + chunks
    }
}

fn calls() -> impl Strategy<Value = Calls> {
    prop_oneof![
        (1u32..20).prop_map(Calls::Always),
        (1u32..200).prop_map(Calls::Evenly),
        (1u32..60).prop_map(Calls::Together),
        Just(Calls::Never),
    ]
}

#[test]
fn greedy_hosts_get_about_the_same() {
    let mut fleet = Fleet::new(POLICY, &[Calls::Always(8); 5], 1, 3);
    fleet.run(20_000);
    let served: Vec<_> = fleet.hosts.iter().map(|host| host.served).collect();
    assert!(served.iter().all(|one| (180.0..230.0).contains(one)), "{served:?}");
}

#[test]
fn a_modest_host_gets_its_demand_beside_greedy_ones() {
    let calls = [Calls::Evenly(5), Calls::Always(50), Calls::Always(50), Calls::Always(50)];
    let mut fleet = Fleet::new(POLICY, &calls, 1, 3);
    fleet.run(20_000);
    assert!(fleet.hosts[0].served >= 95.0, "{}", fleet.hosts[0].served);
}

#[test]
fn a_fleet_keeps_its_rate_after_a_silence() {
    let mut fleet = Fleet::new(POLICY, &[Calls::Always(8); 5], 1, 3);
    fleet.run(1_000);
    for silence in [1_100, 2_500, 4_500] {
        fleet.silent = true;
        fleet.run(silence);
        fleet.silent = false;
        fleet.run(500);
        let before = fleet.served();
        fleet.run(2_000);
        let served = fleet.served() - before;
        assert!(served >= 0.9 * 2.0 * POLICY.rate, "{served} in 2 s after {silence} ms of silence");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn a_fleet_never_exceeds_the_limit_by_more_than_the_burst_and_one_chunk_per_host(
        calls in prop::collection::vec(calls(), 5),
        (rate, burst) in (5.0f64..500.0, 1.0f64..60.0),
        (chance, slowest) in (any::<u64>(), 1u64..60),
    ) {
        let mut fleet = Fleet::new(RatePolicy { rate, burst }, &calls, chance, slowest);
        fleet.run(8_000);
        prop_assert!(fleet.highest <= fleet.bound() + 1e-3, "{} {}", fleet.highest, fleet.bound());
    }

    #[test]
    fn a_fleet_that_wants_more_uses_nearly_all_of_the_limit(
        greedy in 1usize..=5,
        others in prop_oneof![Just(Calls::Never), Just(Calls::Evenly(2)), Just(Calls::Together(5))],
        (rate, burst) in (20.0f64..500.0, 5.0f64..60.0),
        (chance, slowest) in (any::<u64>(), 1u64..20),
    ) {
        let mut calls = [others; 5];
        calls[..greedy].fill(Calls::Always(40));
        let mut fleet = Fleet::new(RatePolicy { rate, burst }, &calls, chance, slowest);
        fleet.run(2_000);
        let before = fleet.served();
        fleet.run(8_000);
        let used = (fleet.served() - before) / (8.0 * rate);
        prop_assert!(used >= 0.95, "{used}");
    }
}
