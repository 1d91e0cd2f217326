//! Requests chunks of the rate limits that the fleet shares.
//!
//! Each call is a task of its own; one per limit is in flight at a time. The reply goes to the
//! provider, which wakes its waiting requests.

use std::borrow::Cow;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use redis::Value;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::task::spawn_local;

use super::Fleet;
use super::sync::FleetSync;
use crate::clock;
use crate::live::provider::ProviderLive;
use crate::live::quota::sync::QuotaUnit;
use crate::resilience::rate::shared_quota::{ChunkGrant, ChunkRequest, SharedQuotaStatus};

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
            for (unit, request) in provider.quota().chunk_requests(provider.waiting(), now) {
                spawn_local(Rc::clone(self).request_chunk(Arc::clone(&provider), unit, request));
            }
        }
    }

    async fn request_chunk(
        self: Rc<Self>,
        provider: Arc<ProviderLive>,
        unit: QuotaUnit,
        request: ChunkRequest,
    ) {
        let fleet = &self.fleet;
        let key = format!("lim:{}:{}", provider.name(), unit.as_str());
        let ChunkRequest { policy, want, least, debt, .. } = request;
        let args = [policy.rate, policy.burst, want, least, debt];
        // Redis' time, the granted amount, its delay in microseconds, and the used part of the burst.
        let reply = fleet.link().run(&fleet.0.scripts.chunk, &[&key], &args).await;
        let grant = fleet.count_call("chunk", reply).ok();
        let grant = grant.map(|(_, amount, wait, used): (Value, f64, u64, f64)| ChunkGrant {
            amount,
            wait: Duration::from_micros(wait),
            used,
        });
        provider.chunk_received(unit, request.at, grant, clock::now());
    }
}

impl Fleet {
    pub(super) fn limits(&self, now: Instant) -> Vec<SharedLimit> {
        let providers = self.0.live.providers();
        let of_one = |provider: &Arc<ProviderLive>| {
            let limit = |(unit, status)| SharedLimit::new(provider.name(), unit, status);
            provider.quota().quota_status(now).into_iter().map(limit).collect::<Vec<_>>()
        };
        providers.iter().flat_map(of_one).collect()
    }
}

impl SharedLimit {
    fn new(provider: &str, unit: QuotaUnit, status: SharedQuotaStatus) -> SharedLimit {
        let SharedQuotaStatus { rate, share, available } = status;
        SharedLimit {
            provider: provider.to_owned(),
            kind: unit.as_str().into(),
            rate,
            share,
            available,
        }
    }
}
