//! Whether a target takes calls of the application now.

use std::time::Instant;

use crate::snapshot::obstacle::{EndpointObstacle, ObstacleKind};
use crate::snapshot::{Endpoint, Provider, Snapshot};

/// The reason why none of these providers takes calls; `None` if one does, or is not known.
pub fn obstacle(snapshot: &Snapshot, providers: &[String], now: Instant) -> Option<String> {
    let mut first = None;
    for name in providers {
        let found = snapshot.providers.iter().find(|provider| provider.policy.name == *name)?;
        let reason = of_provider(found, now)?;
        first.get_or_insert_with(|| format!("provider `{name}`: {reason}"));
    }
    first
}

fn of_provider(provider: &Provider, now: Instant) -> Option<String> {
    let mut first = None;
    for endpoint in &provider.endpoints {
        let reason = of_endpoint(provider, endpoint, now)?;
        first.get_or_insert(reason);
    }
    first
}

fn of_endpoint(provider: &Provider, endpoint: &Endpoint, now: Instant) -> Option<String> {
    let found = EndpointObstacle::of(provider, endpoint, || None, 0.0, now);
    let stops = |kind| {
        matches!(kind, ObstacleKind::Drained | ObstacleKind::Held | ObstacleKind::BreakerOpen)
    };
    match found.filter(|found| stops(found.kind)) {
        Some(found) => Some(found.why),
        None if endpoint.is_unavailable(now) => Some("its breakers are open".to_owned()),
        None => None,
    }
}
