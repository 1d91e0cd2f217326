//! Synchronises breakers and holds with the fleet.
//!
//! Each call is a task of its own, so a slow reply delays no other. A reply carries the shared state
//! of the breaker, so the caller knows at once what the stream reports to the other hosts.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use redis::{FromRedisValue, ParsingError, Script, ToRedisArgs, Value};
use tokio::task::spawn_local;

use super::redis::connection::{RedisCallError, instant};
use super::sync::FleetSync;
use crate::clock;
use crate::live::breaker::cell::BreakerCell;
use crate::live::breaker::sync::BreakerMessages;
use crate::resilience::breaker::replica::{FleetLease, ProbeVerdict};
use crate::resilience::breaker::shared_state::SharedState;
use crate::resilience::breaker::{BreakerPolicy, StateKind};

/// Lifetime of a vote; it is repeated before.
const VOTE_LASTS_MS: u64 = 9_000;
/// A breaker that stays closed for this long resets its trip count.
const RESET_MS: u64 = 60_000;
/// Jitter of the open time, as of a local breaker.
const JITTER: f64 = 0.2;

/// The reply of a breaker script.
struct BreakerReply {
    state: SharedState,
    until: Instant,
    extra: String,
}

impl FleetSync {
    /// Sends what this host has to send now.
    pub fn send_pending(self: &Rc<Self>, now: Instant) {
        let live = &self.fleet.0.live;
        for cell in live.breakers() {
            if let Some(pending) = cell.take_messages(now) {
                self.send_messages(&cell, pending);
            }
        }
        self.request_limits(now);
        for (key, until) in self.fleet.view().take_unpublished_holds() {
            spawn_local(Rc::clone(self).send_hold(key, until));
        }
        let mut overrides = self.overrides.borrow_mut();
        overrides.apply(live, now);
        overrides.take_changed().into_iter().for_each(|all| self.fleet.cache_overrides(all));
    }

    fn send_messages(self: &Rc<Self>, cell: &Arc<BreakerCell>, pending: BreakerMessages) {
        let BreakerMessages { messages, policy, known_epoch } = pending;
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
        let args = (
            (self.fleet.host(), known_epoch, VOTE_LASTS_MS),
            (quorum.hosts, quorum.fraction),
            open_time_args(&policy),
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
            Ok(reply) => {
                let granted = !reply.extra.is_empty();
                let lease = granted.then_some(FleetLease { epoch: reply.state.epoch, number });
                cell.lease_received(lease, sent, clock::now());
            }
            Err(_) => cell.request_failed(clock::now()),
        }
        // Wakes the requests that wait for the lease.
        self.fleet.0.live.recheck_waiters(&cell.key().provider);
    }

    async fn renew(
        self: Rc<Self>,
        cell: Arc<BreakerCell>,
        policy: BreakerPolicy,
        lease: FleetLease,
    ) {
        let sent = clock::now();
        let args = (self.lease_name(lease), lease_ms(&policy));
        match self.call("renew", &self.fleet.0.scripts.renew, &cell, args).await {
            Ok(reply) => {
                let flag = |at: usize| reply.extra.as_bytes().get(at) == Some(&b'1');
                cell.renewed(lease, flag(0), flag(1), sent);
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
            ProbeVerdict::Succeeded => "succeeded",
            ProbeVerdict::Failed => "failed",
            ProbeVerdict::Unused => "unused",
        };
        let args = (self.fleet.host(), self.lease_name(lease), verdict, open_time_args(&policy));
        let _ = self.call("result", &self.fleet.0.scripts.result, &cell, args).await;
    }

    /// Restores a state that Redis lost.
    pub async fn assert(&self, key: &str, state: &SharedState) {
        let script = &self.fleet.0.scripts.assert;
        let reply = self.call_by_key("assert", script, key, state.to_string()).await;
        if let Ok(reply) = reply {
            self.learn(key, &reply.state, reply.until, "");
        }
    }

    async fn send_hold(self: Rc<Self>, key: String, until: Instant) {
        let left = until.saturating_duration_since(clock::now()).as_millis() as u64;
        let fleet = &self.fleet;
        let args = (key, left, fleet.host());
        let reply = fleet.link().run::<Value>(&fleet.0.scripts.hold, &["hold", "cb:x"], args).await;
        let _ = fleet.count_call("hold", reply);
    }

    /// Applies a shared state that was read, if it is newer than the known one.
    pub fn learn(&self, key: &str, state: &SharedState, until: Instant, reason: &str) {
        let (fleet, live) = (&self.fleet, &self.fleet.0.live);
        if !fleet.view().update(key, state, until) {
            return;
        }
        if let Some(cell) = live.find_breaker(key) {
            let by = if reason.is_empty() { &state.writer } else { reason };
            cell.apply_shared_state(state, until, by, clock::now());
            live.recheck_waiters(&cell.key().provider);
        }
    }

    /// Applies a hold of another host.
    pub fn apply_hold(&self, key: &str, until: Instant, now: Instant) {
        let left = until.saturating_duration_since(now);
        if left.is_zero() || !self.fleet.view().observe_hold(key, until, now) {
            return;
        }
        self.fleet.0.live.hold_from_fleet(key, left, now);
    }

    async fn call(
        &self,
        name: &'static str,
        script: &Script,
        cell: &BreakerCell,
        args: impl ToRedisArgs,
    ) -> Result<BreakerReply, RedisCallError> {
        let key = cell.key().to_string();
        let reply = self.call_by_key(name, script, &key, args).await?;
        self.learn(&key, &reply.state, reply.until, "");
        Ok(reply)
    }

    async fn call_by_key(
        &self,
        name: &'static str,
        script: &Script,
        key: &str,
        args: impl ToRedisArgs,
    ) -> Result<BreakerReply, RedisCallError> {
        let keys = breaker_keys(key);
        let keys = keys.each_ref().map(String::as_str);
        let reply = self.fleet.link().run(script, &keys, (key, args)).await;
        let at = clock::now();
        let (now, state, extra): (u64, SharedState, String) = self.fleet.count_call(name, reply)?;
        let until = match state.state {
            StateKind::Open => instant(state.until, now, at),
            StateKind::Closed | StateKind::HalfOpen => at,
        };
        Ok(BreakerReply { state, until, extra })
    }

    /// The name of a lease in Redis.
    fn lease_name(&self, lease: FleetLease) -> String {
        format!("{}:{}:{}", lease.epoch, self.fleet.host(), lease.number)
    }
}

impl FromRedisValue for SharedState {
    fn from_redis_value(value: Value) -> Result<SharedState, ParsingError> {
        Ok(String::from_redis_value(value)?.parse::<SharedState>()?)
    }
}

/// The keys of the scripts of one breaker.
pub(super) fn breaker_keys(key: &str) -> [String; 7] {
    let of_breaker = |part: &str| format!("cb:{part}:{key}");
    let of_fleet = |name: &str| name.to_owned();
    [
        of_fleet("cb"),
        of_fleet("cb:t"),
        of_fleet("cb:x"),
        of_breaker("v"),
        of_breaker("l"),
        of_breaker("w"),
        of_breaker("h"),
    ]
}

fn lease_ms(policy: &BreakerPolicy) -> u64 {
    policy.probe_lease.as_millis().max(1) as u64
}

/// Script arguments for the open time: the first one, its multiplier, its maximum (in milliseconds),
/// and a jitter.
fn open_time_args(policy: &BreakerPolicy) -> (u64, f64, u64, f64) {
    let jitter = 1.0 + JITTER * (2.0 * clock::draw() - 1.0);
    let ms = |length: std::time::Duration| length.as_millis() as u64;
    (
        ms(policy.recovery_timeout),
        policy.backoff_multiplier,
        ms(policy.max_recovery_timeout),
        jitter,
    )
}
