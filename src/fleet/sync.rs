//! The task of a fleet member: heartbeats, and attaching and detaching.
//!
//! A heartbeat is sent every second, even if the last one has not returned: a Redis that takes two
//! seconds for everything is slow, not gone. The reply contains the sum of all epochs. If it differs
//! from this host's own, the host reads a snapshot, restores what Redis lost, and reads the stream
//! from there.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::{Duration, Instant};

use redis::{FromRedisValue, Value};
use tokio::sync::watch;
use tokio::task::spawn_local;

use super::Fleet;
use super::overrides::FleetOverrides;
use super::redis::connection::{DETACH_AFTER, NO_ARGS, RedisCallError, instant};
use super::status::HostInfo;
use super::stream;
use crate::clock;
use crate::resilience::breaker::shared_state::SharedState;
use crate::telemetry::events::NewEvent;

const HEARTBEAT: Duration = Duration::from_secs(1);
/// How often pending messages are sent even without a wake, because leases are renewed by time.
const INTERVAL: Duration = Duration::from_millis(100);
/// A host without a heartbeat for this long is gone.
const HOST_TTL: Duration = Duration::from_secs(5);
/// A host with traffic within this time counts for the quorum.
const TRAFFIC_WINDOW: Duration = Duration::from_secs(30);
/// Closed states older than this are not restored; in microseconds.
const OLD: u64 = 86_400 * 1_000_000;

/// The state of the thread.
#[derive(Debug)]
pub struct FleetSync {
    pub fleet: Fleet,
    pub overrides: RefCell<FleetOverrides>,
    /// Position in the stream; empty before the first snapshot.
    pub position: watch::Sender<String>,
    /// Redis' clock, and when it was read.
    pub time: Cell<Option<(u64, Instant)>>,
    /// When the last successful heartbeat returned.
    last_heartbeat: Cell<Option<Instant>>,
    /// A snapshot is being read.
    reading_snapshot: Cell<bool>,
    /// Start of the wait for the first attach; `None` once logged.
    waiting_since: Cell<Option<Instant>>,
    /// Number of leases that this host has requested.
    pub leases: Cell<u64>,
}

/// All shared state in Redis at one moment.
#[derive(Debug)]
pub struct FleetSnapshot {
    now: u64,
    last: String,
    registers: Vec<(String, String)>,
    holds: Vec<(String, String)>,
    overrides: Vec<(String, String)>,
    hosts: Vec<(String, String)>,
    facts: Vec<(String, String)>,
}

/// Runs until the process ends.
pub async fn run(fleet: Fleet) {
    let sync = Rc::new(FleetSync {
        fleet: fleet.clone(),
        overrides: RefCell::default(),
        position: watch::Sender::new(String::new()),
        time: Cell::new(None),
        last_heartbeat: Cell::new(None),
        reading_snapshot: Cell::new(false),
        waiting_since: Cell::new(Some(clock::now())),
        leases: Cell::new(0),
    });
    let link = fleet.link().clone();
    spawn_local(async move { link.maintain().await });
    spawn_local(stream::read(Rc::clone(&sync)));
    spawn_local(Rc::clone(&sync).send_heartbeats());
    let mut interval = tokio::time::interval(INTERVAL);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = fleet.view().woken() => {}
            _ = interval.tick() => {}
        }
        sync.tick();
    }
}

impl FleetSync {
    async fn send_heartbeats(self: Rc<Self>) {
        let mut interval = tokio::time::interval(HEARTBEAT);
        interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            interval.tick().await;
            spawn_local(Rc::clone(&self).heartbeat());
        }
    }

    fn tick(self: &Rc<Self>) {
        let now = clock::now();
        let silent = self
            .last_heartbeat
            .get()
            .is_none_or(|at| now.saturating_duration_since(at) >= DETACH_AFTER);
        if silent && self.fleet.link().is_attached() {
            self.detach(now);
        }
        if self.fleet.link().is_attached() {
            self.send_pending(now);
        } else if self.waiting_since.get().is_some_and(|since| now >= since + DETACH_AFTER) {
            self.waiting_since.set(None);
            let (redis, error) =
                (self.fleet.link().address().display(), self.fleet.link().last_error());
            tracing::warn!(redis, error, "fleet: not attached; this host decides alone");
        }
    }

    async fn heartbeat(self: Rc<Self>) {
        let sent = clock::now();
        let (fleet, link) = (&self.fleet, self.fleet.link());
        let busy: Vec<String> = fleet
            .0
            .live
            .breakers()
            .iter()
            .filter(|cell| cell.is_used(TRAFFIC_WINDOW, sent))
            .map(|cell| format!("cb:h:{}", cell.key()))
            .collect();
        let mut keys = vec!["hosts", "facts", "cb:t", "cb", "cb:x", "hold", "cb:f"];
        keys.extend(busy.iter().map(String::as_str));
        let info = HostInfo::of(fleet).to_json();
        let args = (fleet.host(), info, HOST_TTL.as_millis() as u64);
        // Redis' time, the number of hosts, and of breakers, and the sum of all epochs.
        let reply = link.run::<(u64, u32, Value, u64)>(&fleet.0.scripts.heartbeat, &keys, args);
        match fleet.count_call("heartbeat", reply.await) {
            Ok((now, hosts, _, epoch_sum)) => self.on_heartbeat(now, hosts, epoch_sum).await,
            // Only this connection may hang.
            Err(RedisCallError::TimedOut) => link.reconnect(),
            Err(_) => {}
        }
    }

    async fn on_heartbeat(self: &Rc<Self>, redis_now: u64, hosts: u32, epoch_sum: u64) {
        let now = clock::now();
        self.last_heartbeat.set(Some(now));
        self.time.set(Some((redis_now, now)));
        self.fleet.view().set_hosts(hosts);
        self.fleet.0.live.metrics.fleet_hosts.set(i64::from(hosts));
        let same = epoch_sum == self.fleet.view().epoch_sum();
        if (!same || !self.fleet.link().is_attached()) && !self.reading_snapshot.replace(true) {
            let read = self.read_snapshot().await;
            self.reading_snapshot.set(false);
            if self.fleet.count_call("snapshot", read).is_ok() && !self.fleet.link().is_attached() {
                self.attach(clock::now());
            }
        }
    }

    fn attach(&self, now: Instant) {
        let fleet = &self.fleet;
        self.waiting_since.set(None);
        self.set_attached(true, now);
        fleet.cache().since = clock::wall();
        let (name, redis, host) = (&fleet.0.name, fleet.link().address().display(), fleet.host());
        tracing::info!(name, redis, host, hosts = fleet.view().hosts(), "fleet: attached");
        let text = format!("attached to {redis} as {host}");
        let event = NewEvent::new("fleet", name, text).state("attached");
        fleet.0.live.events.push(clock::wall(), event);
    }

    fn detach(&self, now: Instant) {
        let fleet = &self.fleet;
        let error = fleet.link().last_error();
        fleet.link().reconnect();
        self.set_attached(false, now);
        fleet.cache().since = clock::wall();
        let (name, redis) = (&fleet.0.name, fleet.link().address().display());
        tracing::warn!(name, redis, error, "fleet: detached; this host decides alone");
        let text = format!("detached: no heartbeat for {DETACH_AFTER:?}, last error: {error}");
        let event = NewEvent::new("fleet", name, text).state("detached").cause(error);
        fleet.0.live.events.push(clock::wall(), event);
    }

    fn set_attached(&self, attached: bool, now: Instant) {
        let (fleet, live) = (&self.fleet, &self.fleet.0.live);
        fleet.view().attach(attached);
        live.breakers().iter().for_each(|cell| cell.attach(attached, now));
        live.providers().iter().for_each(|provider| provider.quota().attach(fleet.view(), now));
        fleet.link().set_attached(attached);
        live.metrics.fleet_connected.set(i64::from(attached));
        live.recheck_all_waiters();
    }

    /// Reads a snapshot, applies it, and restores what Redis lost.
    async fn read_snapshot(self: &Rc<Self>) -> Result<(), RedisCallError> {
        let fleet = &self.fleet;
        let snapshot = FleetSnapshot::fetch(fleet).await?;
        let at = clock::now();
        self.time.set(Some((snapshot.now, at)));
        for (key, line) in &snapshot.registers {
            if let Ok(state) = line.parse::<SharedState>() {
                let until = instant(state.until, snapshot.now, at);
                self.learn(key, &state, until, "");
            }
        }
        for (key, value) in &snapshot.holds {
            if let Some(left) = hold_left(value, snapshot.now) {
                self.apply_hold(key, at + left, at);
            }
        }
        self.overrides.borrow_mut().replace_all(&snapshot.overrides, snapshot.now, at);
        fleet.cache().hosts = snapshot.live_hosts();
        self.restore(&snapshot).await;
        self.position.send_replace(snapshot.last);
        Ok(())
    }

    /// Restores states that are newer here than in Redis.
    async fn restore(self: &Rc<Self>, snapshot: &FleetSnapshot) {
        for (key, known) in self.fleet.view().shared_states() {
            let stored = snapshot.registers.iter().find(|(stored, _)| *stored == key);
            let stored = stored.and_then(|(_, line)| line.parse().ok());
            let stored = stored.unwrap_or_else(SharedState::initial);
            if !known.supersedes(&stored) {
                continue;
            }
            let closed = known.state == crate::resilience::breaker::StateKind::Closed;
            if closed && known.epoch.saturating_add(OLD) < snapshot.now {
                self.fleet.view().forget(&key);
            } else {
                self.assert(&key, &known).await;
            }
        }
    }
}

impl FleetSnapshot {
    pub async fn fetch(fleet: &Fleet) -> Result<FleetSnapshot, RedisCallError> {
        let keys = ["cb", "cb:t", "cb:x", "hold", "cb:f", "hosts", "facts"];
        let reply = fleet.link().run(&fleet.0.scripts.snapshot, &keys, NO_ARGS).await;
        let (now, last, registers, holds, overrides, hosts, facts) = reply?;
        let [registers, holds, overrides, hosts, facts] =
            [registers, holds, overrides, hosts, facts].map(pairs);
        Ok(FleetSnapshot { now, last, registers, holds, overrides, hosts, facts })
    }

    /// The hosts whose heartbeat has not expired.
    pub fn live_hosts(&self) -> Vec<(String, HostInfo)> {
        let mut live: Vec<(String, HostInfo)> = self
            .hosts
            .iter()
            .filter(|(_, until)| until.parse::<f64>().is_ok_and(|until| until > self.now as f64))
            .map(|(host, _)| {
                let facts = self.facts.iter().find(|(name, _)| name == host);
                (host.clone(), facts.map(|(_, facts)| HostInfo::parse(facts)).unwrap_or_default())
            })
            .collect();
        live.sort_by(|a, b| a.0.cmp(&b.0));
        live
    }
}

/// The remaining time of a hold `end at`; never more than its length when it was stored, because the
/// clock may have been set.
fn hold_left(value: &str, now: u64) -> Option<Duration> {
    let (end, at) = value.split_once(' ')?;
    let (end, at): (u64, u64) = (end.parse().ok()?, at.parse().ok()?);
    let left = end.saturating_sub(now).min(end.saturating_sub(at));
    (left > 0).then(|| Duration::from_micros(left))
}

fn pairs(flat: Vec<Value>) -> Vec<(String, String)> {
    // No host writes bytes that are not UTF-8.
    let text = |value: &Value| String::from_redis_value_ref(value).unwrap_or_default();
    flat.chunks_exact(2).map(|pair| (text(&pair[0]), text(&pair[1]))).collect()
}
