//! One address of a provider, resolved: where it is dialled, with which credentials, and the
//! breakers and holds that stand before it.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use http::HeaderValue;
use parking_lot::Mutex;
use prometheus_client::metrics::counter::Counter;

use crate::live::Live;
use crate::live::address::AddressLive;
use crate::live::breaker::cell::{BreakerCell, BreakerKey};
use crate::live::hold::HoldCell;
use crate::policy::sections::model::{self, Auth, Scope};
use crate::resilience::outcome::AttemptClass;
use crate::upstream::DialTarget;

/// A model that nobody asked for since says nothing of its address.
const RECENT: Duration = Duration::from_secs(60);
/// Models that get a breaker of their own at one address; the others share the address's.
const MAX_MODELS: usize = 64;
/// A closed breaker unused for this long gives its place to another model's.
const EVICT_AFTER: Duration = Duration::from_secs(600);

/// There are at most `MODELS`: nobody gains by names that collide, and FNV is quick for short ones.
type ModelCircuits = HashMap<String, Arc<Circuit>, BuildHasherDefault<FnvHasher>>;

/// Fowler, Noll, Vo: 1a, 64 bits.
#[derive(Clone)]
struct FnvHasher(u64);

#[derive(Debug)]
pub struct Endpoint {
    pub policy: model::Address,
    /// provider/address.
    pub key: String,
    pub host: HeaderValue,
    pub target: Arc<DialTarget>,
    pub live: Arc<AddressLive>,
    /// By class of outcome.
    pub attempts: [Counter; AttemptClass::ALL.len()],
    pub holds: Counter,
    breaker: Option<model::Breaker>,
    turn: AtomicUsize,
    default_circuit: Arc<Circuit>,
    models: ArcSwap<ModelCircuits>,
    models_lock: Mutex<()>,
    registry: Arc<Live>,
}

/// The breaker, and the holds of each credential, at an address or for one model at it.
#[derive(Debug)]
pub struct Circuit {
    pub breaker: Option<Arc<BreakerCell>>,
    /// One for each credential; one also where there is none.
    pub holds: Vec<Arc<HoldCell>>,
}

impl Endpoint {
    pub fn new(
        provider: &model::Provider,
        policy: model::Address,
        target: Arc<DialTarget>,
        host: HeaderValue,
        cells: &Arc<Live>,
    ) -> Self {
        let key = format!("{}/{}", provider.name, policy.name);
        let attempts = AttemptClass::ALL.map(|class| {
            let labels = crate::telemetry::metrics::AttemptLabels {
                provider: provider.name.clone(),
                endpoint: policy.name.clone(),
                class: class.as_str(),
            };
            cells.metrics.attempts.with(&labels)
        });
        let labels = crate::telemetry::metrics::EndpointLabels {
            provider: provider.name.clone(),
            endpoint: policy.name.clone(),
        };
        let breaker = provider.breaker.clone();
        let whole = Arc::new(Circuit::new(provider, &policy, breaker.as_ref(), "", cells));
        Endpoint {
            key,
            host,
            target,
            live: cells.address(&provider.name, &policy.name),
            attempts,
            holds: cells.metrics.holds.with(&labels),
            breaker,
            turn: AtomicUsize::new(0),
            default_circuit: whole,
            models: ArcSwap::default(),
            models_lock: Mutex::default(),
            registry: Arc::clone(cells),
            policy,
        }
    }

    /// Breaker and holds for requests for this model.
    pub fn circuit(&self, provider: &model::Provider, model: Option<&str>) -> Arc<Circuit> {
        let by_model = matches!(&self.breaker, Some(b) if b.scope == Scope::Model);
        let Some(model) = model.filter(|m| by_model && !m.is_empty()) else {
            return Arc::clone(&self.default_circuit);
        };
        if let Some(circuit) = self.models.load().get(model) {
            return Arc::clone(circuit);
        }
        self.add_model(provider, model)
    }

    fn add_model(&self, provider: &model::Provider, model: &str) -> Arc<Circuit> {
        let _one_at_a_time = self.models_lock.lock();
        let known = self.models.load();
        if let Some(circuit) = known.get(model) {
            return Arc::clone(circuit);
        }
        let mut models = ModelCircuits::clone(&known);
        if models.len() >= MAX_MODELS {
            let Some(oldest) = longest_unused(&models, crate::clock::now()) else {
                return Arc::clone(&self.default_circuit);
            };
            models.remove(&oldest);
        }
        let made =
            Circuit::new(provider, &self.policy, self.breaker.as_ref(), model, &self.registry);
        let circuit = Arc::new(made);
        models.insert(model.to_owned(), Arc::clone(&circuit));
        self.models.store(Arc::new(models));
        circuit
    }

    /// Whether nothing gets through here: the breaker's word, or that of every model's that was asked
    /// for lately.
    pub fn is_unavailable(&self, now: Instant) -> bool {
        let shut =
            |circuit: &Arc<Circuit>| circuit.breaker.as_ref().is_some_and(|b| b.is_shut(now));
        let asked = |circuit: &&Arc<Circuit>| {
            let idle = circuit.breaker.as_ref().and_then(|breaker| breaker.idle_for(now));
            idle.is_none_or(|idle| idle < RECENT)
        };
        let models = self.models.load();
        if models.is_empty() {
            return shut(&self.default_circuit);
        }
        let mut asked = models.values().filter(asked).peekable();
        asked.peek().is_some() && asked.all(shut)
    }

    /// The next credential's index, side by side; `usable` says which may be used now.
    pub fn next_credential(&self, usable: impl Fn(usize) -> bool) -> Option<usize> {
        let count = self.credential_count().max(1);
        if count == 1 {
            return usable(0).then_some(0);
        }
        let first = self.turn.fetch_add(1, Ordering::Relaxed);
        (0..count).map(|i| (first.wrapping_add(i)) % count).find(|&i| usable(i))
    }

    /// Credentials of ours; zero when there are none, or the application's own are passed on.
    pub fn credential_count(&self) -> usize {
        match &self.policy.auth {
            Auth::Credentials(all) => all.len(),
            Auth::None | Auth::Passthrough => 0,
        }
    }
}

impl Default for FnvHasher {
    fn default() -> Self {
        FnvHasher(0xcbf2_9ce4_8422_2325)
    }
}

impl Hasher for FnvHasher {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3);
        }
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

fn longest_unused(models: &ModelCircuits, now: Instant) -> Option<String> {
    models
        .iter()
        .filter_map(|(model, c)| Some((c.breaker.as_ref()?.idle_for(now)?, model)))
        .filter(|(idle, _)| *idle >= EVICT_AFTER)
        .max()
        .map(|(_, model)| model.clone())
}

impl Circuit {
    fn new(
        provider: &model::Provider,
        address: &model::Address,
        breaker: Option<&model::Breaker>,
        model: &str,
        cells: &Live,
    ) -> Self {
        let key = BreakerKey {
            provider: provider.name.clone(),
            address: address.name.clone(),
            model: model.to_owned(),
        };
        let references: Vec<&str> = match &address.auth {
            Auth::Credentials(all) => all.iter().map(|c| c.reference.as_str()).collect(),
            Auth::None | Auth::Passthrough => vec!["-"],
        };
        let suffix = if model.is_empty() { String::new() } else { format!("/{model}") };
        let hold = |reference: &&str| {
            cells.hold(&format!("{}/{}/{reference}{suffix}", key.provider, key.address))
        };
        Circuit {
            holds: references.iter().map(hold).collect(),
            breaker: breaker.map(|b| cells.breaker(key.clone(), b.policy(provider.probe_lease()))),
        }
    }
}
