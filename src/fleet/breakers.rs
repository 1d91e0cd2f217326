//! What this host's breakers and holds say to the fleet, and what they hear.
//!
//! Each call is a task of its own: a slow answer delays no other. An answer carries the register, so
//! whoever asked knows at once what the stream tells the others.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use redis::{FromRedisValue, ToRedisArgs, Value};
use tokio::task::spawn_local;

use super::redis::connection::{RedisCallError, instant};
use super::redis::scripts::RedisScript;
use super::sync::FleetSync;
use crate::clock;
use crate::live::breaker::cell::BreakerCell;
use crate::live::breaker::sync::BreakerMessages;
use crate::resilience::breaker::replica::{FleetLease, ProbeVerdict};
use crate::resilience::breaker::shared_state::SharedState;
use crate::resilience::breaker::{BreakerPolicy, StateKind};

/// A vote counts for so long; it is said again before.
const VOTE_LASTS_MS: u64 = 9_000;
/// Closed for so long, trips begin to count anew.
const RESET_MS: u64 = 60_000;
/// Of an open time, as a breaker of one host has it.
const JITTER: f64 = 0.2;

/// What a script of a breaker answers.
struct BreakerReply {
    register: SharedState,
    until: Instant,
    more: String,
}

impl FleetSync {
    /// Says whatever is to be said now.
    pub fn say(self: &Rc<Self>, now: Instant) {
        let live = &self.fleet.0.live;
        for cell in live.breakers() {
            if let Some(said) = cell.take_messages(now) {
                self.say_of(&cell, said);
            }
        }
        self.ask_for_limits(now);
        for (key, until) in self.fleet.side().take_unpublished_holds() {
            spawn_local(Rc::clone(self).tell_hold(key, until));
        }
        let mut hands = self.hands.borrow_mut();
        hands.lay_on(live, now);
        hands.news().into_iter().for_each(|on| self.fleet.remember_hands(on));
    }

    fn say_of(self: &Rc<Self>, cell: &Arc<BreakerCell>, said: BreakerMessages) {
        let BreakerMessages { messages, policy, known_epoch } = said;
        if messages.vote {
            spawn_local(Rc::clone(self).vote(Arc::clone(cell), policy, known_epoch));
        }
        for lease in messages.renew {
            spawn_local(Rc::clone(self).renew(Arc::clone(cell), policy, lease));
        }
        for (lease, verdict) in messages.verdicts {
            spawn_local(Rc::clone(self).result(Arc::clone(cell), policy, lease, verdict));
        }
        if messages.lease {
            spawn_local(Rc::clone(self).lease(Arc::clone(cell), policy, known_epoch));
        }
    }

    async fn vote(self: Rc<Self>, cell: Arc<BreakerCell>, policy: BreakerPolicy, known_epoch: u64) {
        let Some(quorum) = policy.shared else { return };
        let (base, multiplier, most, jitter) = open_time(&policy);
        let args = (
            (self.fleet.host(), known_epoch, VOTE_LASTS_MS),
            (quorum.hosts, quorum.fraction),
            (base, multiplier, most, jitter),
            (RESET_MS, "quorum"),
        );
        let _ = self.call("vote", &self.fleet.0.scripts.vote, &cell, args).await;
    }

    async fn lease(
        self: Rc<Self>,
        cell: Arc<BreakerCell>,
        policy: BreakerPolicy,
        known_epoch: u64,
    ) {
        let sent = clock::now();
        let number = self.leases.get() + 1;
        self.leases.set(number);
        let args = (
            (self.fleet.host(), known_epoch, lease_ms(&policy)),
            (policy.probes.max(1), policy.success_threshold.max(1), number),
        );
        match self.call("lease", &self.fleet.0.scripts.lease, &cell, args).await {
            Ok(answer) => {
                let granted = !answer.more.is_empty();
                let lease = granted.then_some(FleetLease { epoch: answer.register.epoch, number });
                cell.lease_answered(lease, sent, clock::now());
            }
            Err(_) => cell.request_failed(clock::now()),
        }
        // Whoever waits for the answer looks.
        self.fleet.0.live.recheck_waiters(&cell.key().provider);
    }

    async fn renew(
        self: Rc<Self>,
        cell: Arc<BreakerCell>,
        policy: BreakerPolicy,
        lease: FleetLease,
    ) {
        let sent = clock::now();
        let args = (self.named(lease), lease_ms(&policy));
        match self.call("renew", &self.fleet.0.scripts.renew, &cell, args).await {
            Ok(answer) => {
                let told = |at: usize| answer.more.as_bytes().get(at) == Some(&b'1');
                cell.renewed(lease, told(0), told(1), sent);
            }
            Err(_) => cell.request_failed(clock::now()),
        }
    }

    async fn result(
        self: Rc<Self>,
        cell: Arc<BreakerCell>,
        policy: BreakerPolicy,
        lease: FleetLease,
        verdict: ProbeVerdict,
    ) {
        let verdict = match verdict {
            ProbeVerdict::Succeeded => "well",
            ProbeVerdict::Failed => "failed",
            ProbeVerdict::Unused => "unused",
        };
        let args = (self.fleet.host(), self.named(lease), verdict, open_time(&policy));
        let _ = self.call("result", &self.fleet.0.scripts.result, &cell, args).await;
    }

    /// Puts back what Redis lost.
    pub async fn assert(&self, key: &str, register: &SharedState) {
        let script = &self.fleet.0.scripts.assert;
        let answer = self.call_by_key("assert", script, key, register.to_string()).await;
        if let Ok(answer) = answer {
            self.learn(key, &answer.register, answer.until, "");
        }
    }

    async fn tell_hold(self: Rc<Self>, key: String, until: Instant) {
        let left = until.saturating_duration_since(clock::now()).as_millis() as u64;
        let fleet = &self.fleet;
        let args = (key, left, fleet.host());
        let told = fleet.link().run::<Value>(&fleet.0.scripts.hold, &["hold", "cb:x"], args).await;
        let _ = fleet.counted("hold", told);
    }

    /// A register was seen: whoever it concerns hears of it.
    pub fn learn(&self, key: &str, register: &SharedState, until: Instant, why: &str) {
        let (fleet, live) = (&self.fleet, &self.fleet.0.live);
        if !fleet.side().update(key, register, until) {
            return;
        }
        if let Some(cell) = live.find_breaker(key) {
            let by = if why.is_empty() { &register.writer } else { why };
            cell.apply_shared_state(register, until, by, clock::now());
            live.recheck_waiters(&cell.key().provider);
        }
    }

    /// Somebody was told to wait: so do we.
    pub fn hear_hold(&self, key: &str, until: Instant, now: Instant) {
        let left = until.saturating_duration_since(now);
        if left.is_zero() || !self.fleet.side().observe_hold(key, until, now) {
            return;
        }
        if let Some(hold) = self.fleet.0.live.find_hold(key) {
            hold.hold_from_fleet(left, now);
        }
    }

    async fn call(
        &self,
        name: &'static str,
        script: &RedisScript,
        cell: &BreakerCell,
        args: impl ToRedisArgs,
    ) -> Result<BreakerReply, RedisCallError> {
        let key = cell.key().to_string();
        let answer = self.call_by_key(name, script, &key, args).await?;
        self.learn(&key, &answer.register, answer.until, "");
        Ok(answer)
    }

    async fn call_by_key(
        &self,
        name: &'static str,
        script: &RedisScript,
        key: &str,
        args: impl ToRedisArgs,
    ) -> Result<BreakerReply, RedisCallError> {
        let of = |what: &str| format!("cb:{what}:{key}");
        let (votes, leases, awaited, busy) = (of("v"), of("l"), of("w"), of("h"));
        let keys = ["cb", "cb:t", "cb:x", &votes, &leases, &awaited, &busy];
        let told = self.fleet.link().run::<Vec<Value>>(script, &keys, (key, args)).await;
        let at = clock::now();
        self.fleet.counted(name, told.and_then(|told| BreakerReply::read(&told, at)))
    }

    /// A lease by the name that it has in Redis.
    fn named(&self, lease: FleetLease) -> String {
        format!("{}:{}:{}", lease.epoch, self.fleet.host(), lease.number)
    }
}

impl BreakerReply {
    fn read(told: &[Value], at: Instant) -> Result<BreakerReply, RedisCallError> {
        let odd = || RedisCallError::Odd(format!("{told:?}"));
        let text = |at: usize| {
            let value = told.get(at).ok_or_else(odd)?;
            String::from_redis_value_ref(value).map_err(|_| odd())
        };
        let now = text(0)?.parse().map_err(|_| odd())?;
        let register: SharedState = text(1)?.parse().map_err(|_| odd())?;
        let until = match register.state {
            StateKind::Open => instant(register.until, now, at),
            StateKind::Closed | StateKind::HalfOpen => at,
        };
        Ok(BreakerReply { register, until, more: text(2)? })
    }
}

fn lease_ms(policy: &BreakerPolicy) -> u64 {
    policy.probe_lease.as_millis().max(1) as u64
}

/// First open time, what it grows by, its most, all in milliseconds, and this time's jitter.
fn open_time(policy: &BreakerPolicy) -> (u64, f64, u64, f64) {
    let jitter = 1.0 + JITTER * (2.0 * clock::draw() - 1.0);
    let ms = |length: std::time::Duration| length.as_millis() as u64;
    (
        ms(policy.recovery_timeout),
        policy.backoff_multiplier,
        ms(policy.max_recovery_timeout),
        jitter,
    )
}
