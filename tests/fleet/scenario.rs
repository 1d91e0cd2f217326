//! Shared parts of the fleet tests: a policy with one provider, repeated calls, and the registers of
//! hosts and Redis.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::thread::{Scope, ScopedJoinHandle};
use std::time::{Duration, Instant, SystemTime};

use crate::fixtures::{chat, sleep_until, state};
use crate::support::fleet::{fleet_status, key};
use crate::support::redis::Reply;
use crate::support::{Behaviour, Fleet, Origin, RedisServer, Sidecar, eventually};

/// The breaker of the only provider.
pub const KEY: &str = "a/main";
pub const MS: Duration = Duration::from_millis(1);
pub const SECOND: Duration = Duration::from_secs(1);

/// Opens at the first failure of each of two hosts, and probes again soon.
pub const EAGER: &str = "failure_threshold: 1, recovery_timeout: 300ms, max_recovery_timeout: 300ms, \
                         success_threshold: 1, ramp: 0s";
/// Opens for longer than any test.
pub const LONG: &str =
    "failure_threshold: 1, recovery_timeout: 60s, success_threshold: 1, ramp: 0s";

static ROOM: RwLock<()> = RwLock::new(());

/// For a test that measures or is heavy: no other test runs meanwhile.
pub fn alone() -> RwLockWriteGuard<'static, ()> {
    ROOM.write().unwrap_or_else(PoisonError::into_inner)
}

pub fn beside_others() -> RwLockReadGuard<'static, ()> {
    ROOM.read().unwrap_or_else(PoisonError::into_inner)
}

/// One provider, `a`, whose only endpoint is named `main`, with this breaker.
pub fn yaml(origin: &str, breaker: &str) -> String {
    yaml_of(origin, "", breaker)
}

/// Like [`yaml`], with more settings of the provider.
pub fn yaml_of(origin: &str, provider: &str, breaker: &str) -> String {
    let comma = if provider.is_empty() { "" } else { ", " };
    format!(
        "version: 1\nserver: {{ access_log: {{ to: none }} }}\n\
         providers: {{ a: {{ endpoints: [ {{ name: main, url: \"{origin}\" }} ], auth: none{comma}{provider} }} }}\n\
         routes: [ {{ name: all, providers: [a], retry: none, timeout: 10s }} ]\n\
         breakers: {{ default: {{ failure_rate: none, {breaker} }} }}\n"
    )
}

// === repeated calls ===

/// The outcome of a call.
#[derive(Clone, Debug)]
pub struct CallResult {
    pub sent_at: Instant,
    pub took: Duration,
    pub status: u16,
    /// The type of a problem that the sidecar returned.
    pub problem: Option<String>,
}

impl CallResult {
    pub fn is(&self, kind: &str) -> bool {
        self.problem.as_deref() == Some(kind)
    }
}

/// Ends repeated calls, also when their test fails.
#[derive(Debug, Default)]
pub struct Stop(AtomicBool);

pub struct AtEnd<'a>(&'a Stop);

impl Stop {
    pub fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// Sets the stop when it is dropped; keep it inside the scope of the calls.
    pub fn at_end(&self) -> AtEnd<'_> {
        AtEnd(self)
    }
}

impl Drop for AtEnd<'_> {
    fn drop(&mut self) {
        self.0.0.store(true, Ordering::Relaxed);
    }
}

/// One call on a connection of its own.
pub fn call(sidecar: &Sidecar) -> CallResult {
    call_on(&mut sidecar.client())
}

fn call_on(client: &mut crate::support::Client) -> CallResult {
    let sent_at = Instant::now();
    let response = client.send(&chat());
    let took = sent_at.elapsed();
    let kind = response.text();
    let kind = kind.split("urn:outrigger:problem:").nth(1).and_then(|rest| rest.split('"').next());
    CallResult { sent_at, took, status: response.status, problem: kind.map(str::to_owned) }
}

/// Calls the host at this interval until the stop is set; returns all results.
pub fn keep_calling<'scope>(
    scope: &'scope Scope<'scope, '_>,
    sidecar: &'scope Sidecar,
    every: Duration,
    stop: &'scope Stop,
) -> ScopedJoinHandle<'scope, Vec<CallResult>> {
    scope.spawn(move || {
        let (mut client, mut all) = (sidecar.client(), Vec::new());
        while !stop.is_set() {
            let result = call_on(&mut client);
            sleep_until(result.sent_at + every);
            all.push(result);
        }
        all
    })
}

// === registers ===

/// The fields of a register that the tests check.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Register {
    pub epoch: u64,
    pub writer: String,
    pub state: char,
}

/// An entry of the stream.
#[derive(Clone, Debug)]
pub struct Entry {
    pub register: Register,
    pub why: String,
    /// The time of Redis, in microseconds.
    pub at: u64,
}

/// Maps the time of Redis on this machine to an [`Instant`].
#[derive(Clone, Copy, Debug)]
pub struct Clocks(Instant, SystemTime);

impl Register {
    fn read(line: &str) -> Self {
        let fields: Vec<_> = line.split('|').collect();
        let [epoch, writer, state, ..] = fields[..] else { panic!("no register: `{line}`") };
        Self {
            epoch: epoch.parse().expect("an epoch"),
            writer: writer.to_owned(),
            state: state.chars().next().expect("a state"),
        }
    }
}

impl Clocks {
    pub fn now() -> Self {
        Self(Instant::now(), SystemTime::now())
    }

    /// The instant of a time of Redis.
    pub fn instant(&self, us: u64) -> Instant {
        let at = SystemTime::UNIX_EPOCH + Duration::from_micros(us);
        match at.duration_since(self.1) {
            Ok(later) => self.0 + later,
            Err(earlier) => self.0 - earlier.duration(),
        }
    }
}

/// The register in Redis.
pub fn stored(redis: &RedisServer) -> Option<Register> {
    match redis.execute(&["HGET", &key("cb"), KEY]) {
        Reply::Nil => None,
        line => Some(Register::read(&line.text())),
    }
}

/// The register that a host knows.
pub fn known(sidecar: &Sidecar) -> Option<Register> {
    let status = fleet_status(sidecar);
    let breakers =
        status["breakers"].as_array().unwrap_or_else(|| panic!("no breakers in {status}"));
    let found = breakers.iter().find(|breaker| breaker["key"] == KEY)?;
    Some(Register {
        epoch: found["epoch"].as_u64().unwrap_or_else(|| panic!("no epoch in {found}")),
        writer: found["writer"].as_str().unwrap_or_default().to_owned(),
        state: match found["state"].as_str() {
            Some("closed") => 'C',
            Some("open") => 'O',
            Some("half_open") => 'H',
            _ => panic!("no state in {found}"),
        },
    })
}

/// All transitions in the stream, oldest first; checks that their epochs increase.
pub fn transitions(redis: &RedisServer) -> Vec<Entry> {
    let entries = redis.execute(&["XRANGE", &key("cb:x"), "-", "+"]);
    let entries = entries.items().iter().map(|entry| &entry.items()[1]);
    let ours = entries.filter(|e| e.field("k").as_deref() == Some("r"));
    let read = |entry: &Reply| {
        let text = |name: &str| entry.field(name).unwrap_or_else(|| panic!("no {name}: {entry:?}"));
        let at = text("n").parse().expect("a time of redis");
        Entry { register: Register::read(&text("r")), why: text("w"), at }
    };
    let all: Vec<_> = ours.filter(|e| e.field("p").as_deref() == Some(KEY)).map(read).collect();
    for pair in all.windows(2) {
        let (before, after) = (&pair[0], &pair[1]);
        let increased = before.register.epoch < after.register.epoch || after.why == "asserted";
        assert!(increased, "the stream's epochs decrease: {before:?}, then {after:?}");
    }
    all
}

/// The register, if Redis and every host have the same epoch and writer.
pub fn one_register(fleet: &[Sidecar], redis: &RedisServer) -> Result<Register, String> {
    let stored = stored(redis);
    let known: Vec<_> = fleet.iter().map(known).collect();
    let name = |r: &Option<Register>| r.as_ref().map(|r| (r.epoch, r.writer.clone()));
    let same = known.iter().all(|known| name(known) == name(&stored));
    let seen = || format!("in redis {stored:?}, at the hosts {known:?}");
    stored.clone().filter(|_| same).ok_or_else(seen)
}

/// Checks every host until the stop is set: its epoch never decreases.
pub fn epochs_never_decrease<'scope>(
    scope: &'scope Scope<'scope, '_>,
    fleet: &'scope [Sidecar],
    stop: &'scope Stop,
) {
    scope.spawn(move || {
        let mut last = vec![None; fleet.len()];
        while !stop.is_set() {
            for (host, last) in fleet.iter().zip(&mut last) {
                let now = known(host).map(|register| (register.epoch, register.writer));
                assert!(now >= *last, "a host went back from {last:?} to {now:?}");
                *last = now;
            }
            sleep_until(Instant::now() + 20 * MS);
        }
    });
}

#[track_caller]
pub fn wait_for_state(sidecar: &Sidecar, wanted: &str) {
    eventually(&format!("the breaker of a host is {wanted}"), || {
        let state = state(sidecar, "a");
        (state == wanted).then_some(()).ok_or(state)
    });
}

/// Makes the provider fail until the breaker in Redis is open.
#[track_caller]
pub fn trip(fleet: &Fleet, a: &Origin, redis: &RedisServer) {
    let before = stored(redis);
    a.set(Behaviour::status(500, &[]));
    eventually("the fleet's breaker is open", || {
        for host in fleet.iter() {
            call(host);
        }
        let now = stored(redis);
        let open = now.as_ref().is_some_and(|now| now.state == 'O') && now > before;
        open.then_some(()).ok_or_else(|| format!("{now:?}"))
    });
}

/// Calls one host after the other until the provider responds; returns when that call was sent.
#[track_caller]
pub fn call_until_served(fleet: &[Sidecar]) -> Instant {
    let mut turns = fleet.iter().cycle();
    eventually("a call that is served", || {
        let result = call(turns.next().expect("a host"));
        (result.status == 200).then_some(result.sent_at).ok_or_else(|| format!("{result:?}"))
    })
}
