//! A host's part in its fleet, where it has one.

use std::sync::Arc;

use super::Options;
use crate::fleet::Fleet;
use crate::live::Live;
use crate::live::fleet::FleetView;
use crate::snapshot::CurrentSnapshot;
use crate::telemetry::metrics::Metrics;

/// What outlives a reload; with a part in the fleet, where there is one.
pub fn state(options: &Options, buffered: u64) -> Live {
    let side = options.fleet.as_ref().map(|_| Arc::new(FleetView::default()));
    Live::new(Arc::new(Metrics::new()), buffered, side)
}

/// Begins to take part in the fleet.
pub fn join(
    options: &Options,
    live: &Arc<Live>,
    current: &Arc<CurrentSnapshot>,
) -> std::io::Result<Option<Fleet>> {
    let part = options.fleet.clone().zip(live.fleet.clone());
    let start =
        |(options, side)| Fleet::start(options, Arc::clone(live), side, Arc::clone(current));
    part.map(start).transpose()
}
