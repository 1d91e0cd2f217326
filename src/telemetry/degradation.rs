//! The metrics of modes.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;

use super::family::Series;
use super::metrics::{Known, Level, Metrics, Ratio};

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct ModeLabels {
    pub mode: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct ModeChangeLabels {
    pub mode: String,
    /// `entered` or `left`.
    pub to: &'static str,
    /// `condition`, `hand` or `removed`.
    pub cause: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct TouchLabels {
    pub mode: String,
    pub action: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct SignLabels {
    pub mode: String,
    /// In the words of the policy.
    pub sign: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct AlertLabels {
    pub mode: String,
    /// `sent`, `failed` or `given_up`.
    pub result: &'static str,
}

#[derive(Debug)]
pub struct DegradationMetrics {
    pub in_force: Series<ModeLabels, Level>,
    pub changes: Series<ModeChangeLabels, Counter>,
    pub requests: Series<TouchLabels, Counter>,
    pub reading: Series<SignLabels, Ratio>,
    pub alerts: Series<AlertLabels, Counter>,
}

impl DegradationMetrics {
    pub(super) fn new() -> Self {
        DegradationMetrics {
            in_force: Series::new(Level::default),
            changes: Series::new(Counter::default),
            requests: Series::new(Counter::default),
            reading: Series::new(Ratio::default),
            alerts: Series::new(Counter::default),
        }
    }

    pub(super) fn register(metrics: &mut Metrics) {
        let in_force = metrics.degradation.in_force.family();
        metrics.tell("degradation_in_force", "1 while a mode is in force", in_force);
        let changes = metrics.degradation.changes.family();
        metrics.tell("degradation_changes", "Modes entered and left, by cause", changes);
        let requests = metrics.degradation.requests.family();
        metrics.tell(
            "degradation_requests",
            "Requests that a mode in force touched (in shadow: would have touched), by action",
            requests,
        );
        let reading = metrics.degradation.reading.family();
        metrics.tell(
            "degradation_reading",
            "What a mode's condition reads now, in seconds, shares or requests; 1 for what is so",
            reading,
        );
        let alerts = metrics.degradation.alerts.family();
        metrics.tell("degradation_alerts", "Messages that modes had to send, by result", alerts);
    }

    pub(super) fn retain(&self, known: &Known<'_>) {
        let mode = |mode: &String| known.modes.contains(mode.as_str());
        self.in_force.retain(|labels| mode(&labels.mode));
        self.changes.retain(|labels| mode(&labels.mode));
        self.requests.retain(|labels| mode(&labels.mode));
        self.alerts.retain(|labels| mode(&labels.mode));
        self.reading.retain(|labels| {
            known.signs.iter().any(|(m, sign)| *m == labels.mode && *sign == labels.sign)
        });
    }
}
