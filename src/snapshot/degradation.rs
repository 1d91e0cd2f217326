//! Modes of degradation, resolved: what their conditions are read from, and which providers a route
//! goes to while one is in force.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Provider, Route};
use crate::live::Live;
use crate::live::degradation::episode::SignalReading;
use crate::live::degradation::mode::{ModeCell, Modes};
use crate::live::degradation::outcome_window::{OutcomeWindow, WindowKind};
use crate::live::provider::ProviderLive;
use crate::live::queue::QueueLive;
use crate::policy::sections::model::{
    Action, CapacityUsed, Degradation, ErrorRate, Latency, Of, Policy, Quantile, QueueWaiting, Sign,
};
use crate::resilience::condition::Condition;

#[derive(Debug)]
pub struct DegradationMode {
    pub policy: Degradation,
    pub live: Arc<ModeCell>,
    /// What it does, in the words of the policy.
    pub actions: Vec<String>,
    condition: Condition<ConditionSignal>,
}

/// A sign, and where it is read.
#[derive(Debug)]
struct ConditionSignal {
    words: String,
    of: SignalSource,
}

#[derive(Debug)]
enum SignalSource {
    BreakerOpen(Arc<Provider>),
    ErrorRate {
        of: Arc<OutcomeWindow>,
        above: f64,
        over: Duration,
        least: u32,
    },
    Latency {
        of: Arc<OutcomeWindow>,
        quantile: f64,
        above: Duration,
        over: Duration,
        least: u32,
    },
    QueueWaiting {
        of: Arc<QueueLive>,
        above: u64,
    },
    CapacityUsed {
        of: Arc<ProviderLive>,
        above: f64,
    },
    /// By hand alone, or of a route that is disabled.
    Never,
}

/// The modes of one route.
#[derive(Debug, Default)]
pub struct RouteModes {
    /// Their bits.
    pub mask: u64,
    /// In the order in which their actions apply.
    pub all: Vec<RouteMode>,
}

#[derive(Debug)]
pub struct RouteMode {
    pub mode: Arc<DegradationMode>,
    /// The route as it is where this mode's `use` is in force: those providers, each a tier.
    pub alternate: Option<Arc<Route>>,
}

impl RouteModes {
    /// Whether one of them may be in force: one load, and none where the route has none.
    pub fn may_apply(&self, modes: &Modes) -> bool {
        self.mask != 0 && modes.in_force() & self.mask != 0
    }
}

impl DegradationMode {
    /// Looks at the condition: whether it holds, and what each sign says, in order.
    pub fn evaluate(&self, now: Instant) -> (bool, Vec<SignalReading>) {
        let seen: Vec<_> = self.condition.signals().iter().map(|gauge| gauge.look(now)).collect();
        let mut next = seen.iter();
        let holds = self.condition.map_signals(&mut |_| next.next().is_some_and(|seen| seen.met));
        (holds.holds(&mut |so| *so), seen)
    }

    /// Its name with each sign in words.
    pub(super) fn named_signs(&self) -> Vec<(&str, &str)> {
        let signs = self.condition.signals().into_iter();
        signs.map(|gauge| (self.policy.name.as_str(), gauge.words.as_str())).collect()
    }

    pub(super) fn new(
        policy: &Policy,
        mode: &Degradation,
        live: &Live,
        providers: &[Arc<Provider>],
    ) -> DegradationMode {
        let gauge = |sign: &Sign| ConditionSignal {
            words: policy.one_line::<Sign>(sign),
            of: reading(policy, sign, live, providers),
        };
        DegradationMode {
            live: live.mode(mode),
            actions: mode.actions.iter().map(|one| policy.one_line(one)).collect(),
            condition: mode.when.map_signals(&mut |sign| gauge(sign)),
            policy: mode.clone(),
        }
    }

    /// Whom this mode's last `use` names.
    pub(super) fn used(&self) -> Option<&[usize]> {
        self.policy.actions.iter().rev().find_map(|action| match action {
            Action::Use(providers) => Some(providers.as_slice()),
            _ => None,
        })
    }
}

impl ConditionSignal {
    fn look(&self, now: Instant) -> SignalReading {
        let (value, met) = self.of.look(now);
        SignalReading { signal: self.words.clone(), value, met }
    }
}

impl SignalSource {
    fn look(&self, now: Instant) -> (Option<f64>, bool) {
        let above = |value: Option<f64>, bound: f64| (value, value.is_some_and(|v| v > bound));
        match self {
            SignalSource::BreakerOpen(provider) => {
                let shut = provider.endpoints.iter().all(|address| address.is_unavailable(now));
                (Some(f64::from(u8::from(shut))), shut)
            }
            SignalSource::ErrorRate { of, above: bound, over, least } => {
                above(of.error_rate(*over, *least, now), *bound)
            }
            SignalSource::Latency { of, quantile, above: bound, over, least } => {
                let found = of.latency(*over, *quantile, *least, now);
                above(found.map(|found| found.as_secs_f64()), bound.as_secs_f64())
            }
            SignalSource::QueueWaiting { of, above: bound } => {
                above(Some(of.waiting() as f64), *bound as f64)
            }
            SignalSource::CapacityUsed { of, above: bound } => above(Some(of.used()), *bound),
            SignalSource::Never => (None, false),
        }
    }
}

fn reading(policy: &Policy, sign: &Sign, live: &Live, providers: &[Arc<Provider>]) -> SignalSource {
    match sign {
        Sign::BreakerOpen(index) => SignalSource::BreakerOpen(Arc::clone(&providers[*index])),
        Sign::ErrorRate(rate) => match samples(policy, live, &rate.of) {
            Some(of) => {
                let ErrorRate { above, over, min_requests: least, .. } = *rate;
                SignalSource::ErrorRate { of, above, over, least }
            }
            None => SignalSource::Never,
        },
        Sign::Latency(latency) => match samples(policy, live, &latency.of) {
            Some(of) => {
                let Latency { threshold, over, min_requests: least, .. } = *latency;
                let Quantile { quantile, above } = threshold;
                SignalSource::Latency { of, quantile, above, over, least }
            }
            None => SignalSource::Never,
        },
        Sign::QueueWaiting(QueueWaiting { queue, above }) => {
            SignalSource::QueueWaiting { of: live.queue(&policy.queues[*queue]), above: *above }
        }
        Sign::CapacityUsed(CapacityUsed { provider, above }) => {
            SignalSource::CapacityUsed { of: Arc::clone(&providers[*provider].live), above: *above }
        }
        Sign::Manual(_) => SignalSource::Never,
    }
}

/// What is kept of a route's requests or a provider's attempts; nothing, where no mode wants it.
pub(super) fn samples(policy: &Policy, live: &Live, whose: &Of) -> Option<Arc<OutcomeWindow>> {
    let (what, name) = match whose {
        Of::Route(index) => ("route", &policy.routes[*index].name),
        Of::Provider(index) => ("provider", &policy.providers[*index].name),
        Of::Disabled => return None,
    };
    let mut wants = Vec::new();
    for mode in &policy.degradations {
        for sign in mode.when.signals() {
            let want = match sign {
                Sign::ErrorRate(rate) if rate.of == *whose => WindowKind::Errors(rate.over),
                Sign::Latency(latency) if latency.of == *whose => WindowKind::Latency(latency.over),
                _ => continue,
            };
            if !wants.contains(&want) {
                wants.push(want);
            }
        }
    }
    (!wants.is_empty()).then(|| live.outcome_window(what, name, &wants))
}
