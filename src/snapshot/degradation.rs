//! Resolved degradation modes: the sources of their conditions, and the routes with the providers
//! that they use.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Provider, Route};
use crate::live::Live;
use crate::live::degradation::episode::SignalReading;
use crate::live::degradation::mode::{ModeCell, Modes};
use crate::live::degradation::outcome_window::{OutcomeWindow, WindowKind};
use crate::live::queue::QueueLive;
use crate::live::tracking::regressions::{Regressions, SeriesOf};
use crate::policy::sections::model::{
    Action, CapacityUsed, Degradation, ErrorRate, Latency, Of, Policy, Quantile, QueueWaiting,
    Sign, SlowerThanBaseline,
};
use crate::resilience::baseline::measure::Slowness;
use crate::resilience::condition::Condition;

#[derive(Debug)]
pub struct DegradationMode {
    pub policy: Degradation,
    pub live: Arc<ModeCell>,
    /// Its actions, as displayed.
    pub actions: Vec<String>,
    condition: Condition<ConditionSignal>,
}

/// One signal of a condition, and its source.
#[derive(Debug)]
struct ConditionSignal {
    text: String,
    source: SignalSource,
}

#[derive(Debug)]
enum SignalSource {
    BreakerOpen(Arc<Provider>),
    ErrorRate {
        of: Arc<OutcomeWindow>,
        above: f64,
        over: Duration,
        min_requests: u32,
    },
    Latency {
        of: Arc<OutcomeWindow>,
        quantile: f64,
        above: Duration,
        over: Duration,
        min_requests: u32,
    },
    QueueWaiting {
        of: Arc<QueueLive>,
        above: u64,
    },
    CapacityUsed {
        of: Arc<Provider>,
        above: f64,
    },
    SlowerThanBaseline {
        regressions: Arc<Regressions>,
        of: SeriesOf,
        factor: f64,
        by: Option<Slowness>,
    },
    /// A mode without a condition, or a route without a queue or limit.
    Never,
}

/// The degradation modes of one route.
#[derive(Clone, Debug, Default)]
pub struct RouteModes {
    /// The bits of all of them.
    pub mask: u64,
    /// In the order in which their actions are applied.
    pub all: Vec<RouteMode>,
}

#[derive(Clone, Debug)]
pub struct RouteMode {
    pub mode: Arc<DegradationMode>,
    /// The route with the providers of this mode's `use` action.
    pub alternate: Option<Arc<Route>>,
}

impl RouteModes {
    /// Whether one of them may be in force. At most one atomic load.
    pub fn may_apply(&self, modes: &Modes) -> bool {
        self.mask != 0 && modes.in_force() & self.mask != 0
    }
}

impl DegradationMode {
    /// Evaluates the condition. Returns whether it holds, and each signal in order.
    pub fn evaluate(&self, now: Instant) -> (bool, Vec<SignalReading>) {
        let readings: Vec<_> =
            self.condition.signals().iter().map(|signal| signal.read(now)).collect();
        let mut next = readings.iter();
        let holds =
            self.condition.map_signals(&mut |_| next.next().is_some_and(|reading| reading.met));
        (holds.holds(&mut |met| *met), readings)
    }

    /// The name of the mode with each signal, as displayed.
    pub(super) fn named_signals(&self) -> Vec<(&str, &str)> {
        let signals = self.condition.signals().into_iter();
        signals.map(|signal| (self.policy.name.as_str(), signal.text.as_str())).collect()
    }

    pub(super) fn new(
        policy: &Policy,
        mode: &Degradation,
        live: &Live,
        providers: &[Arc<Provider>],
    ) -> DegradationMode {
        let signal = |sign: &Sign| ConditionSignal {
            text: policy.one_line::<Sign>(sign),
            source: SignalSource::new(policy, sign, live, providers),
        };
        DegradationMode {
            live: live.mode(mode),
            actions: mode.actions.iter().map(|one| policy.one_line(one)).collect(),
            condition: mode.when.map_signals(&mut |sign| signal(sign)),
            policy: mode.clone(),
        }
    }

    /// The providers of this mode's last `use` action.
    pub(super) fn used_providers(&self) -> Option<&[usize]> {
        self.policy.actions.iter().rev().find_map(|action| match action {
            Action::Use(providers) => Some(providers.as_slice()),
            _ => None,
        })
    }
}

impl ConditionSignal {
    fn read(&self, now: Instant) -> SignalReading {
        let (value, met) = self.source.read(now);
        SignalReading { signal: self.text.clone(), value, met }
    }
}

impl SignalSource {
    fn new(policy: &Policy, sign: &Sign, live: &Live, providers: &[Arc<Provider>]) -> SignalSource {
        match sign {
            Sign::BreakerOpen(index) => SignalSource::BreakerOpen(Arc::clone(&providers[*index])),
            Sign::ErrorRate(rate) => match outcome_window(policy, live, &rate.of) {
                Some(of) => {
                    let ErrorRate { above, over, min_requests, .. } = *rate;
                    SignalSource::ErrorRate { of, above, over, min_requests }
                }
                None => SignalSource::Never,
            },
            Sign::Latency(latency) => match outcome_window(policy, live, &latency.of) {
                Some(of) => {
                    let Latency { threshold, over, min_requests, .. } = *latency;
                    let Quantile { quantile, above } = threshold;
                    SignalSource::Latency { of, quantile, above, over, min_requests }
                }
                None => SignalSource::Never,
            },
            Sign::QueueWaiting(QueueWaiting { queue, above }) => {
                SignalSource::QueueWaiting { of: live.queue(&policy.queues[*queue]), above: *above }
            }
            Sign::CapacityUsed(CapacityUsed { provider, above }) => {
                SignalSource::CapacityUsed { of: Arc::clone(&providers[*provider]), above: *above }
            }
            Sign::SlowerThanBaseline(SlowerThanBaseline { of, factor, measure }) => {
                let (regressions, by) = (Arc::clone(&live.regressions), *measure);
                let factor = factor.unwrap_or(0.0);
                match series_of(policy, of) {
                    Some(of) => SignalSource::SlowerThanBaseline { regressions, of, factor, by },
                    None => SignalSource::Never,
                }
            }
            Sign::Manual(_) => SignalSource::Never,
        }
    }

    /// The value, and whether it is beyond its bound.
    fn read(&self, now: Instant) -> (Option<f64>, bool) {
        let above = |value: Option<f64>, bound: f64| (value, value.is_some_and(|v| v > bound));
        match self {
            SignalSource::BreakerOpen(provider) => {
                let is_open = provider.endpoints.iter().all(|one| one.is_unavailable(now));
                (Some(f64::from(u8::from(is_open))), is_open)
            }
            SignalSource::ErrorRate { of, above: bound, over, min_requests } => {
                above(of.error_rate(*over, *min_requests, now), *bound)
            }
            SignalSource::Latency { of, quantile, above: bound, over, min_requests } => {
                let latency = of.latency(*over, *quantile, *min_requests, now);
                above(latency.map(|latency| latency.as_secs_f64()), bound.as_secs_f64())
            }
            SignalSource::QueueWaiting { of, above: bound } => {
                above(Some(of.waiting() as f64), *bound as f64)
            }
            SignalSource::CapacityUsed { of, above: bound } => above(Some(of.used(now)), *bound),
            SignalSource::SlowerThanBaseline { regressions, of, factor, by } => {
                above(regressions.slowdown(of, *by), *factor)
            }
            SignalSource::Never => (None, false),
        }
    }
}

fn series_of(policy: &Policy, subject: &Of) -> Option<SeriesOf> {
    match subject {
        Of::Route(index) => Some(SeriesOf::Route(policy.routes[*index].name.clone())),
        Of::Provider(index) => Some(SeriesOf::Provider(policy.providers[*index].name.clone())),
        Of::Disabled => None,
    }
}

/// The outcomes of a route's requests or a provider's attempts, if a mode observes them.
pub(super) fn outcome_window(
    policy: &Policy,
    live: &Live,
    subject: &Of,
) -> Option<Arc<OutcomeWindow>> {
    let (kind, name) = match subject {
        Of::Route(index) => ("route", &policy.routes[*index].name),
        Of::Provider(index) => ("provider", &policy.providers[*index].name),
        Of::Disabled => return None,
    };
    let mut windows = Vec::new();
    for mode in &policy.degradations {
        for sign in mode.when.signals() {
            let window = match sign {
                Sign::ErrorRate(rate) if rate.of == *subject => WindowKind::Errors(rate.over),
                Sign::Latency(latency) if latency.of == *subject => {
                    WindowKind::Latency(latency.over)
                }
                _ => continue,
            };
            if !windows.contains(&window) {
                windows.push(window);
            }
        }
    }
    (!windows.is_empty()).then(|| live.outcome_window(kind, name, &windows))
}
