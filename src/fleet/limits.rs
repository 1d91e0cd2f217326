//! Requests chunks of the rate limits that the fleet shares.
//!
//! Each call is a task of its own; one per limit is in flight at a time. The reply goes to the
//! provider, which wakes its waiting requests.

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

/// A shared limit in `/api/fleet`.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct SharedLimit {
    pub provider: String,
    /// `requests` or `tokens`.
    pub kind: Cow<'static, str>,
    /// Per second, of the whole fleet.
    pub rate: f64,
    /// Per second, of this host while it is detached.
    pub share: f64,
    /// The amount that this host was granted and has not used.
    pub available: f64,
}

impl FleetSync {
    /// Requests the chunks that providers need now.
    pub fn request_limits(self: &Rc<Self>, now: Instant) {
        for provider in self.fleet.0.live.providers() {
            provider.quota().attach(self.fleet.view(), now);
            for (unit, request) in provider.quota().lease_requests(provider.waiting(), now) {
                spawn_local(Rc::clone(self).request_chunk(Arc::clone(&provider), unit, request));
            }
        }
    }

    async fn request_chunk(
        self: Rc<Self>,
        provider: Arc<ProviderLive>,
        unit: QuotaUnit,
        request: LeaseRequest,
    ) {
        let fleet = &self.fleet;
        let key = format!("lim:{}:{}", provider.name(), unit.as_str());
        let LeaseRequest { policy, want, least, debt, .. } = request;
        let args = [policy.rate, policy.burst, want, least, debt];
        let reply = fleet.link().run::<Vec<Value>>(&fleet.0.scripts.chunk, &[&key], &args).await;
        let grant = fleet.counted("chunk", reply.and_then(|reply| read_grant(&reply)));
        provider.lease_received(unit, request.at, grant.ok(), clock::now());
    }
}

impl Fleet {
    pub(super) fn limits(&self, now: Instant) -> Vec<SharedLimit> {
        let providers = self.0.live.providers();
        let of_one = |provider: &Arc<ProviderLive>| {
            let limit = |(unit, status)| SharedLimit::new(provider.name(), unit, status);
            provider.quota().lease_status(now).into_iter().map(limit).collect::<Vec<_>>()
        };
        providers.iter().flat_map(of_one).collect()
    }
}

impl SharedLimit {
    fn new(provider: &str, unit: QuotaUnit, status: LeaseStatus) -> SharedLimit {
        let LeaseStatus { rate, share, available } = status;
        SharedLimit {
            provider: provider.to_owned(),
            kind: unit.as_str().into(),
            rate,
            share,
            available,
        }
    }
}

/// Reads Redis' time, the granted amount, its delay in microseconds, and the used part of the burst.
fn read_grant(reply: &[Value]) -> Result<LeaseGrant, RedisCallError> {
    let unexpected = || RedisCallError::Unexpected(format!("{reply:?}"));
    let number = |at: usize| {
        let value = reply.get(at).ok_or_else(unexpected)?;
        let text = String::from_redis_value_ref(value).map_err(|_| unexpected())?;
        text.parse::<f64>().map_err(|_| unexpected())
    };
    let wait = Duration::try_from_secs_f64(number(2)? / 1e6).map_err(|_| unexpected())?;
    Ok(LeaseGrant { amount: number(1)?, wait, used: number(3)? })
}
