//! What this host asks of the limits that the fleet shares.
//!
//! Each ask is a task of its own, and of each limit one is out at a time. An answer is handed to the
//! provider that asked; whoever waits there looks again.

use std::borrow::Cow;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use redis::{FromRedisValue, Value};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::task::spawn_local;

use super::Fleet;
use super::redis::connection::RedisCallError;
use super::sync::FleetSync;
use crate::clock;
use crate::live::provider::ProviderLive;
use crate::live::quota::sync::QuotaUnit;
use crate::resilience::rate::leased_quota::{LeaseGrant, LeaseRequest, LeaseStatus};

/// A rate limit that the fleet shares, as the admin API reports it.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct SharedLimit {
    pub provider: String,
    /// `requests` or `tokens`.
    pub kind: Cow<'static, str>,
    /// Per second, for the whole fleet.
    pub rate: f64,
    /// Per second, for this host while it is detached.
    pub share: f64,
    /// Leased by this host and not used yet.
    pub available: f64,
}

impl FleetSync {
    /// Asks for what is wanted now.
    pub fn ask_for_limits(self: &Rc<Self>, now: Instant) {
        for provider in self.fleet.0.live.providers() {
            provider.attach(self.fleet.side(), now);
            for (of, ask) in provider.lease_requests(now) {
                spawn_local(Rc::clone(self).ask_for(Arc::clone(&provider), of, ask));
            }
        }
    }

    async fn ask_for(
        self: Rc<Self>,
        provider: Arc<ProviderLive>,
        of: QuotaUnit,
        ask: LeaseRequest,
    ) {
        let fleet = &self.fleet;
        let key = format!("lim:{}:{}", provider.name(), of.as_str());
        let args = [ask.policy.rate, ask.policy.burst, ask.want, ask.least, ask.debt];
        let told = fleet.link().run::<Vec<Value>>(&fleet.0.scripts.chunk, &[&key], &args).await;
        let told = fleet.counted("chunk", told.and_then(|told| read(&told)));
        provider.lease_answered(of, ask.at, told.ok(), clock::now());
    }
}

impl Fleet {
    pub(super) fn limits(&self, now: Instant) -> Vec<SharedLimit> {
        let providers = self.0.live.providers();
        let of_one = |provider: &Arc<ProviderLive>| {
            let limit = |(of, shown)| SharedLimit::new(provider.name(), of, shown);
            provider.lease_status(now).into_iter().map(limit).collect::<Vec<_>>()
        };
        providers.iter().flat_map(of_one).collect()
    }
}

impl SharedLimit {
    fn new(provider: &str, of: QuotaUnit, shown: LeaseStatus) -> SharedLimit {
        let LeaseStatus { rate, share, in_hand: available } = shown;
        SharedLimit {
            provider: provider.to_owned(),
            kind: of.as_str().into(),
            rate,
            share,
            available,
        }
    }
}

/// Redis' time, what was given, in how many microseconds, and what of the burst is used.
fn read(told: &[Value]) -> Result<LeaseGrant, RedisCallError> {
    let odd = || RedisCallError::Odd(format!("{told:?}"));
    let number = |at: usize| {
        let value = told.get(at).ok_or_else(odd)?;
        let text = String::from_redis_value_ref(value).map_err(|_| odd())?;
        text.parse::<f64>().map_err(|_| odd())
    };
    let wait = Duration::try_from_secs_f64(number(2)? / 1e6).map_err(|_| odd())?;
    Ok(LeaseGrant { amount: number(1)?, wait, used: number(3)? })
}
