//! The fleet's task: heartbeats, and what follows when they are answered or not.
//!
//! A heartbeat goes out every second, whether the last was answered or not: a Redis that takes two
//! seconds for everything is slow, not gone. Its answer tells what all registers come to; who counts
//! otherwise reads them all, puts back what Redis lost, and reads the stream from there.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::{Duration, Instant};

use redis::{FromRedisValue, Value};
use tokio::sync::watch;
use tokio::task::spawn_local;

use super::Fleet;
use super::overrides::FleetOverrides;
use super::redis::connection::{AWAY, RedisCallError, instant};
use super::status::HostInfo;
use super::stream;
use crate::clock;
use crate::resilience::breaker::shared_state::SharedState;

const BEAT: Duration = Duration::from_secs(1);
/// How often is looked, beside each wake: leases are renewed by time alone.
const LOOK: Duration = Duration::from_millis(100);
/// A host that has not been heard for so long is gone.
const HOST_LIVES: Duration = Duration::from_secs(5);
/// Of traffic, that a host counts among those who vote.
const BUSY: Duration = Duration::from_secs(30);
/// Registers that closed so long ago need not be put back.
const OLD: u64 = 86_400 * 1_000_000;

/// No arguments.
const NOTHING: &[u8] = b"";

/// The host's part, on its thread.
#[derive(Debug)]
pub struct FleetSync {
    pub fleet: Fleet,
    pub hands: RefCell<FleetOverrides>,
    /// Where the stream is read from; empty: not yet.
    pub position: watch::Sender<String>,
    /// Redis' clock, and when it was read.
    pub time: Cell<Option<(u64, Instant)>>,
    /// The last heartbeat that was answered.
    heard: Cell<Option<Instant>>,
    /// A snapshot is on its way.
    reading: Cell<bool>,
    /// Since when somebody has been waited for who was never there; told once.
    missing: Cell<Option<Instant>>,
    /// Leases of this host so far.
    pub leases: Cell<u64>,
}

/// What a snapshot says.
#[derive(Debug)]
pub struct FleetSnapshot {
    now: u64,
    last: String,
    registers: Vec<(String, String)>,
    holds: Vec<(String, String)>,
    hands: Vec<(String, String)>,
    hosts: Vec<(String, String)>,
    facts: Vec<(String, String)>,
}

/// Takes part for as long as the process lives.
pub async fn run(fleet: Fleet) {
    let task = Rc::new(FleetSync {
        fleet: fleet.clone(),
        hands: RefCell::default(),
        position: watch::Sender::new(String::new()),
        time: Cell::new(None),
        heard: Cell::new(None),
        reading: Cell::new(false),
        missing: Cell::new(Some(clock::now())),
        leases: Cell::new(0),
    });
    let link = fleet.link().clone();
    spawn_local(async move { link.keep().await });
    spawn_local(stream::read(Rc::clone(&task)));
    spawn_local(Rc::clone(&task).beats());
    let mut look = tokio::time::interval(LOOK);
    look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = fleet.side().woken() => {}
            _ = look.tick() => {}
        }
        task.look();
    }
}

impl FleetSync {
    async fn beats(self: Rc<Self>) {
        let mut beat = tokio::time::interval(BEAT);
        beat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            beat.tick().await;
            spawn_local(Rc::clone(&self).heartbeat());
        }
    }

    fn look(self: &Rc<Self>) {
        let now = clock::now();
        let away = self.heard.get().is_none_or(|at| now.saturating_duration_since(at) >= AWAY);
        if away && self.fleet.link().is_attached() {
            self.detach(now);
        }
        if self.fleet.link().is_attached() {
            self.say(now);
        } else if self.missing.get().is_some_and(|since| now >= since + AWAY) {
            self.missing.set(None);
            let (redis, trouble) =
                (self.fleet.link().address().shown(), self.fleet.link().trouble());
            tracing::warn!(redis, trouble, "fleet: not attached; this host decides by itself");
        }
    }

    async fn heartbeat(self: Rc<Self>) {
        let sent = clock::now();
        let (fleet, link) = (&self.fleet, self.fleet.link());
        let used = |key: &String| format!("cb:h:{key}");
        let busy: Vec<String> = fleet
            .0
            .live
            .breakers()
            .iter()
            .filter(|cell| cell.is_used(BUSY, sent))
            .map(|cell| used(&cell.key().to_string()))
            .collect();
        let mut keys = vec!["hosts", "facts", "cb:t", "cb", "cb:x", "hold", "cb:f"];
        keys.extend(busy.iter().map(String::as_str));
        let facts = HostInfo::of(fleet).written();
        let args = (fleet.host(), facts, HOST_LIVES.as_millis() as u64);
        let answer = link.run::<Vec<Value>>(&fleet.0.scripts.heartbeat, &keys, args).await;
        match fleet.counted("heartbeat", answer.and_then(|told| HeartbeatReply::read(&told))) {
            Ok(beat) => self.beat_was_heard(beat).await,
            // What hangs may do so for its connection alone.
            Err(RedisCallError::Silent) => link.give_up(),
            Err(_) => {}
        }
    }

    async fn beat_was_heard(self: &Rc<Self>, beat: HeartbeatReply) {
        let now = clock::now();
        self.heard.set(Some(now));
        self.time.set(Some((beat.now, now)));
        self.fleet.side().set_hosts(beat.hosts);
        self.fleet.0.live.metrics.fleet_hosts.set(i64::from(beat.hosts));
        let same = beat.sum == self.fleet.side().epoch_sum();
        if (!same || !self.fleet.link().is_attached()) && !self.reading.replace(true) {
            let read = self.snapshot().await;
            self.reading.set(false);
            if self.fleet.counted("snapshot", read).is_ok() && !self.fleet.link().is_attached() {
                self.attach(clock::now());
            }
        }
    }

    fn attach(&self, now: Instant) {
        let fleet = &self.fleet;
        self.missing.set(None);
        self.tell_cells(true, now);
        fleet.told().since = clock::wall();
        let (name, redis, host) = (&fleet.0.name, fleet.link().address().shown(), fleet.host());
        tracing::info!(name, redis, host, hosts = fleet.side().hosts(), "fleet: attached");
        let what = format!("attached to {redis} as {host}");
        fleet.0.live.events.push(clock::wall(), "fleet", name, what);
    }

    fn detach(&self, now: Instant) {
        let fleet = &self.fleet;
        let trouble = fleet.link().trouble();
        fleet.link().give_up();
        self.tell_cells(false, now);
        fleet.told().since = clock::wall();
        let (name, redis) = (&fleet.0.name, fleet.link().address().shown());
        tracing::warn!(name, redis, trouble, "fleet: detached; this host decides by itself");
        let what = format!("detached: no answer for {AWAY:?}, last: {trouble}");
        fleet.0.live.events.push(clock::wall(), "fleet", name, what);
    }

    fn tell_cells(&self, attached: bool, now: Instant) {
        let (fleet, live) = (&self.fleet, &self.fleet.0.live);
        fleet.side().attach(attached);
        live.breakers().iter().for_each(|cell| cell.attach(attached, now));
        live.providers().iter().for_each(|provider| provider.attach(fleet.side(), now));
        fleet.link().attach(attached);
        live.metrics.fleet_connected.set(i64::from(attached));
        live.recheck_all_waiters();
    }

    /// Reads all that Redis knows, and puts back what it lost.
    async fn snapshot(self: &Rc<Self>) -> Result<(), RedisCallError> {
        let fleet = &self.fleet;
        let snapshot = FleetSnapshot::of(fleet).await?;
        let at = clock::now();
        self.time.set(Some((snapshot.now, at)));
        for (key, line) in &snapshot.registers {
            if let Ok(register) = line.parse::<SharedState>() {
                let until = instant(register.until, snapshot.now, at);
                self.learn(key, &register, until, "");
            }
        }
        for (key, until) in &snapshot.holds {
            if let Some(left) = hold_left(until, snapshot.now) {
                self.hear_hold(key, at + left, at);
            }
        }
        self.hands.borrow_mut().all(&snapshot.hands, snapshot.now, at);
        fleet.told().hosts = snapshot.living();
        self.put_back(&snapshot).await;
        self.position.send_replace(snapshot.last);
        Ok(())
    }

    /// What is known here and newer than in Redis, which lost it.
    async fn put_back(self: &Rc<Self>, snapshot: &FleetSnapshot) {
        for (key, known) in self.fleet.side().shared_states() {
            let stored = snapshot.registers.iter().find(|(stored, _)| *stored == key);
            let stored = stored.and_then(|(_, line)| line.parse().ok());
            let stored = stored.unwrap_or_else(SharedState::initial);
            if !known.supersedes(&stored) {
                continue;
            }
            let closed = known.state == crate::resilience::breaker::StateKind::Closed;
            if closed && known.epoch.saturating_add(OLD) < snapshot.now {
                self.fleet.side().forget(&key);
            } else {
                self.assert(&key, &known).await;
            }
        }
    }
}

/// What a heartbeat is answered with.
struct HeartbeatReply {
    now: u64,
    hosts: u32,
    sum: u64,
}

impl HeartbeatReply {
    fn read(told: &[Value]) -> Result<HeartbeatReply, RedisCallError> {
        let odd = || RedisCallError::Odd(format!("{told:?}"));
        let number = |at: usize| {
            let value = told.get(at).ok_or_else(odd)?;
            let text = String::from_redis_value_ref(value).map_err(|_| odd())?;
            text.parse::<u64>().map_err(|_| odd())
        };
        let hosts = u32::try_from(number(1)?).map_err(|_| odd())?;
        Ok(HeartbeatReply { now: number(0)?, hosts, sum: number(3)? })
    }
}

impl FleetSnapshot {
    /// All that Redis knows, at one moment.
    pub async fn of(fleet: &Fleet) -> Result<FleetSnapshot, RedisCallError> {
        let keys = ["cb", "cb:t", "cb:x", "hold", "cb:f", "hosts", "facts"];
        let read = fleet.link().run::<Value>(&fleet.0.scripts.snapshot, &keys, NOTHING).await?;
        FleetSnapshot::read(&read).ok_or_else(|| RedisCallError::Odd("no snapshot".to_owned()))
    }

    pub fn read(value: &Value) -> Option<FleetSnapshot> {
        let Value::Array(parts) = value else { return None };
        let [now, last, registers, holds, hands, hosts, facts] = &parts[..] else { return None };
        let text = |value: &Value| String::from_redis_value_ref(value).ok();
        Some(FleetSnapshot {
            now: text(now)?.parse().ok()?,
            last: text(last)?,
            registers: pairs(registers)?,
            holds: pairs(holds)?,
            hands: pairs(hands)?,
            hosts: pairs(hosts)?,
            facts: pairs(facts)?,
        })
    }

    /// Hosts that live, and what they say of themselves.
    pub fn living(&self) -> Vec<(String, HostInfo)> {
        let mut living: Vec<(String, HostInfo)> = self
            .hosts
            .iter()
            .filter(|(_, until)| until.parse::<f64>().is_ok_and(|until| until > self.now as f64))
            .map(|(host, _)| {
                let facts = self.facts.iter().find(|(name, _)| name == host);
                (host.clone(), facts.map(|(_, facts)| HostInfo::read(facts)).unwrap_or_default())
            })
            .collect();
        living.sort_by(|a, b| a.0.cmp(&b.0));
        living
    }
}

/// What is left of `end at`: never more than it was when it was told, should the clock have been set.
fn hold_left(line: &str, now: u64) -> Option<Duration> {
    let (end, at) = line.split_once(' ')?;
    let (end, at): (u64, u64) = (end.parse().ok()?, at.parse().ok()?);
    let left = end.saturating_sub(now).min(end.saturating_sub(at));
    (left > 0).then(|| Duration::from_micros(left))
}

fn pairs(value: &Value) -> Option<Vec<(String, String)>> {
    let flat = Vec::<Value>::from_redis_value_ref(value).ok()?;
    // Bytes that are no text are of nobody's here.
    let text = |value: &Value| String::from_redis_value_ref(value).unwrap_or_default();
    Some(flat.chunks_exact(2).map(|pair| (text(&pair[0]), text(&pair[1]))).collect())
}
