//! A resolved endpoint: its dial target, its credentials, and its breakers and holds.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use http::HeaderValue;
use parking_lot::Mutex;
use prometheus_client::metrics::counter::Counter;

use crate::live::Live;
use crate::live::breaker::cell::{BreakerCell, BreakerKey};
use crate::live::endpoint::EndpointLive;
use crate::live::hold::HoldCell;
use crate::policy::sections::model::{self, Auth, Scope};
use crate::resilience::outcome::AttemptClass;
use crate::telemetry::metrics::{AttemptLabels, EndpointLabels};
use crate::upstream::DialTarget;

/// The breaker of a model that was not requested for longer says nothing about its endpoint.
const RECENT: Duration = Duration::from_secs(60);
/// Most models with a breaker of their own at one endpoint. The others share the endpoint's.
const MAX_MODELS: usize = 64;
/// A closed breaker that was unused for this long may be evicted for another model.
const EVICT_AFTER: Duration = Duration::from_secs(600);

/// Sorted, because it has few entries: one for each model, at most `MAX_MODELS`.
type ModelCircuits = BTreeMap<String, Arc<Circuit>>;

/// One URL of a provider, with its credentials.
#[derive(Debug)]
pub struct Endpoint {
    pub policy: model::Address,
    /// `provider/endpoint`.
    pub key: String,
    pub host: HeaderValue,
    pub target: Arc<DialTarget>,
    pub live: Arc<EndpointLive>,
    /// By class of outcome.
    pub attempts: [Counter; AttemptClass::ALL.len()],
    pub holds: Counter,
    breaker: Option<model::Breaker>,
    next_index: AtomicUsize,
    default_circuit: Arc<Circuit>,
    models: ArcSwap<ModelCircuits>,
    models_lock: Mutex<()>,
    registry: Arc<Live>,
}

/// The breaker, and the hold of each credential, of an endpoint or of one model at it.
#[derive(Debug)]
pub struct Circuit {
    pub breaker: Option<Arc<BreakerCell>>,
    /// One for each credential, but at least one.
    pub holds: Vec<Arc<HoldCell>>,
}

impl Endpoint {
    pub fn new(
        provider: &model::ProviderPolicy,
        policy: model::Address,
        target: Arc<DialTarget>,
        host: HeaderValue,
        registry: &Arc<Live>,
    ) -> Self {
        let key = format!("{}/{}", provider.name, policy.name);
        let attempts = AttemptClass::ALL.map(|class| {
            let labels = AttemptLabels {
                provider: provider.name.clone(),
                endpoint: policy.name.clone(),
                class: class.as_str(),
            };
            registry.metrics.attempts.with(&labels)
        });
        let labels =
            EndpointLabels { provider: provider.name.clone(), endpoint: policy.name.clone() };
        let breaker = provider.breaker.clone();
        let default_circuit =
            Arc::new(Circuit::new(provider, &policy, breaker.as_ref(), "", registry));
        let known = registry.breakers_under(&key).into_iter();
        let models = known.map(|cell| cell.key().model.clone()).filter(|model| !model.is_empty());
        let models: ModelCircuits = models
            .filter(|_| breaker.as_ref().is_some_and(|breaker| breaker.scope == Some(Scope::Model)))
            .take(MAX_MODELS)
            .map(|model| {
                let circuit = Circuit::new(provider, &policy, breaker.as_ref(), &model, registry);
                (model, Arc::new(circuit))
            })
            .collect();
        Endpoint {
            key,
            host,
            target,
            live: registry.endpoint(&provider.name, &policy.name),
            attempts,
            holds: registry.metrics.holds.with(&labels),
            breaker,
            next_index: AtomicUsize::new(0),
            default_circuit,
            models: ArcSwap::from_pointee(models),
            models_lock: Mutex::default(),
            registry: Arc::clone(registry),
            policy,
        }
    }

    /// The breaker and holds for requests for this model.
    pub fn circuit(&self, provider: &model::ProviderPolicy, model: Option<&str>) -> Arc<Circuit> {
        let by_model = matches!(&self.breaker, Some(b) if b.scope == Some(Scope::Model));
        let Some(model) = model.filter(|m| by_model && !m.is_empty()) else {
            return Arc::clone(&self.default_circuit);
        };
        if let Some(circuit) = self.models.load().get(model) {
            return Arc::clone(circuit);
        }
        self.add_model(provider, model)
    }

    fn add_model(&self, provider: &model::ProviderPolicy, model: &str) -> Arc<Circuit> {
        let _guard = self.models_lock.lock();
        let known = self.models.load();
        if let Some(circuit) = known.get(model) {
            return Arc::clone(circuit);
        }
        let mut models = ModelCircuits::clone(&known);
        // A model that an operator named has a breaker of its own in any case.
        let named = || {
            let key = format!("{}/{model}", self.key);
            self.registry.override_rules.names(&key, crate::clock::now())
        };
        if models.len() >= MAX_MODELS && !named() {
            let Some(idle) = longest_idle(&models, crate::clock::now()) else {
                return Arc::clone(&self.default_circuit);
            };
            models.remove(&idle);
        }
        let breaker = self.breaker.as_ref();
        let circuit =
            Arc::new(Circuit::new(provider, &self.policy, breaker, model, &self.registry));
        models.insert(model.to_owned(), Arc::clone(&circuit));
        self.models.store(Arc::new(models));
        circuit
    }

    /// Whether every attempt would be rejected: by the breaker, or by the breaker of each model
    /// that was requested recently.
    pub fn is_unavailable(&self, now: Instant) -> bool {
        let is_shut =
            |circuit: &Arc<Circuit>| circuit.breaker.as_ref().is_some_and(|b| b.is_shut(now));
        let is_recent = |circuit: &&Arc<Circuit>| {
            let idle = circuit.breaker.as_ref().and_then(|breaker| breaker.idle_for(now));
            idle.is_none_or(|idle| idle < RECENT)
        };
        let models = self.models.load();
        if models.is_empty() {
            return is_shut(&self.default_circuit);
        }
        let mut recent = models.values().filter(is_recent).peekable();
        recent.peek().is_some() && recent.all(is_shut)
    }

    /// The index of the next usable credential, in round-robin order.
    pub fn next_credential(&self, usable: impl Fn(usize) -> bool) -> Option<usize> {
        let count = self.credential_count().max(1);
        if count == 1 {
            return usable(0).then_some(0);
        }
        let first = self.next_index.fetch_add(1, Ordering::Relaxed);
        (0..count).map(|i| (first.wrapping_add(i)) % count).find(|&i| usable(i))
    }

    /// The number of configured credentials. Zero if there are none or the client's are passed on.
    pub fn credential_count(&self) -> usize {
        match &self.policy.auth {
            Auth::Credentials(all) => all.len(),
            Auth::None | Auth::Passthrough => 0,
        }
    }
}

fn longest_idle(models: &ModelCircuits, now: Instant) -> Option<String> {
    models
        .iter()
        .filter_map(|(model, c)| Some((c.breaker.as_ref()?.idle_for(now)?, model)))
        .filter(|(idle, _)| *idle >= EVICT_AFTER)
        .max()
        .map(|(_, model)| model.clone())
}

impl Circuit {
    fn new(
        provider: &model::ProviderPolicy,
        endpoint: &model::Address,
        breaker: Option<&model::Breaker>,
        model: &str,
        registry: &Live,
    ) -> Self {
        let key = BreakerKey {
            provider: provider.name.clone(),
            endpoint: endpoint.name.clone(),
            model: model.to_owned(),
        };
        let references: Vec<&str> = match &endpoint.auth {
            Auth::Credentials(all) => all.iter().map(|c| c.reference.as_str()).collect(),
            Auth::None | Auth::Passthrough => vec!["-"],
        };
        let suffix = if model.is_empty() { String::new() } else { format!("/{model}") };
        let hold = |reference: &&str| {
            registry.hold(&format!("{}/{}/{reference}{suffix}", key.provider, key.endpoint))
        };
        Circuit {
            holds: references.iter().map(hold).collect(),
            breaker: breaker
                .map(|b| registry.breaker(key.clone(), b.policy(provider.probe_lease()))),
        }
    }
}
