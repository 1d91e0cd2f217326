//! The metrics of a fleet: whether this host hears of it, and how it is spoken to.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;

use super::labels::CallLabels;
use super::metrics::{Level, Metrics};

#[derive(Debug, Default)]
pub struct FleetMetrics {
    pub attached: Level,
    pub hosts: Level,
    pub calls: Family<CallLabels, Counter>,
}

impl FleetMetrics {
    pub(super) fn register(metrics: &mut Metrics) {
        let attached = metrics.fleet.attached.clone();
        metrics.tell("fleet_attached", "1 while the fleet's Redis answers", attached);
        let hosts = metrics.fleet.hosts.clone();
        metrics.tell("fleet_hosts", "Hosts of the fleet that live, this one included", hosts);
        let calls = metrics.fleet.calls.clone();
        metrics.tell("fleet_calls", "Calls to the fleet's Redis, by what was asked", calls);
    }

    /// A call was answered, or not.
    pub fn called(&self, call: &'static str, well: bool) {
        let labels = CallLabels { call, result: if well { "answered" } else { "failed" } };
        self.calls.get_or_create_owned(&labels).inc();
    }
}
