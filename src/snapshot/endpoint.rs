//! A resolved endpoint: its dial target, its credentials, and its breakers.

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
use crate::live::by_model::{MAX_MODEL_NAME, MAX_MODELS};
use crate::live::credential::{CredentialLive, max_shares};
use crate::live::credential_cell::{CredentialCell, CredentialKey};
use crate::live::endpoint::EndpointLive;
use crate::policy::sections::model::{self, Auth, Scope};
use crate::resilience::outcome::AttemptClass;
use crate::telemetry::metrics::{AttemptLabels, EndpointLabels, ProviderRequestLabels};
use crate::upstream::DialTarget;

/// The breaker of a model that was not requested for longer says nothing about its endpoint.
const RECENT: Duration = Duration::from_secs(60);
/// A closed breaker that was unused for this long may be evicted for another model.
const EVICT_AFTER: Duration = Duration::from_secs(600);

/// Sorted, because it has few entries: one for each model, at most `MAX_MODELS`.
type ModelBreakers = BTreeMap<String, Arc<BreakerCell>>;

/// One URL of a provider, with its credentials.
#[derive(Debug)]
pub struct Endpoint {
    pub policy: model::EndpointPolicy,
    /// `provider/endpoint`, which are names or a host and port: no character that a log would escape.
    pub key: String,
    pub host: HeaderValue,
    pub target: Arc<DialTarget>,
    pub live: Arc<EndpointLive>,
    /// One for each credential, but at least one.
    pub credentials: Vec<Arc<CredentialLive>>,
    /// By class of outcome.
    pub attempts: [Counter; AttemptClass::ALL.len()],
    /// Requests that were sent to its provider: those that ended well, and those that failed.
    pub requests: [Counter; 2],
    pub holds: Counter,
    breaker: Option<model::Breaker>,
    next_index: AtomicUsize,
    /// `None`: the provider has no breaker.
    default_breaker: Option<Arc<BreakerCell>>,
    models: ArcSwap<ModelBreakers>,
    models_lock: Mutex<()>,
    registry: Arc<Live>,
}

impl Endpoint {
    pub fn new(
        provider: &model::ProviderPolicy,
        policy: model::EndpointPolicy,
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
        let requests = ["ok", "failed"].map(|result| {
            let labels = ProviderRequestLabels { provider: provider.name.clone(), result };
            registry.metrics.provider_requests.with(&labels)
        });
        let labels =
            EndpointLabels { provider: provider.name.clone(), endpoint: policy.name.clone() };
        let mut endpoint = Endpoint {
            host,
            target,
            live: registry.endpoint(&provider.name, &policy.name),
            credentials: credentials(provider, &policy, registry),
            attempts,
            requests,
            holds: registry.metrics.holds.with(&labels),
            breaker: provider.breaker.clone(),
            next_index: AtomicUsize::new(0),
            default_breaker: None,
            models: ArcSwap::default(),
            models_lock: Mutex::default(),
            registry: Arc::clone(registry),
            policy,
            key,
        };
        endpoint.default_breaker = endpoint.new_breaker(provider, "");
        endpoint.models.store(Arc::new(endpoint.known_models(provider)));
        endpoint
    }

    /// The name of its provider.
    pub fn provider(&self) -> &str {
        self.key.split('/').next().unwrap_or_default()
    }

    /// The breakers that models have from before a reload.
    fn known_models(&self, provider: &model::ProviderPolicy) -> ModelBreakers {
        let cells = self.registry.breakers_under(&self.key).into_iter();
        let models = cells.map(|cell| cell.key().model.clone()).filter(|model| !model.is_empty());
        let models = models.filter(|_| self.is_by_model()).take(MAX_MODELS);
        models
            .filter_map(|model| Some((model.clone(), self.new_breaker(provider, &model)?)))
            .collect()
    }

    fn new_breaker(
        &self,
        provider: &model::ProviderPolicy,
        model: &str,
    ) -> Option<Arc<BreakerCell>> {
        let key = BreakerKey {
            provider: provider.name.clone(),
            endpoint: self.policy.name.clone(),
            model: model.to_owned(),
        };
        let policy = self.breaker.as_ref()?.policy(provider.probe_lease());
        Some(self.registry.breaker(key, policy))
    }

    /// Whether each model has a breaker of its own.
    pub fn is_by_model(&self) -> bool {
        matches!(&self.breaker, Some(breaker) if breaker.scope == Some(Scope::Model))
    }

    /// The breaker for requests for this model.
    pub fn breaker<'m>(
        &self,
        provider: &model::ProviderPolicy,
        model: impl FnOnce() -> Option<&'m str>,
    ) -> Option<Arc<BreakerCell>> {
        let own = if self.is_by_model() { model() } else { None };
        let Some(model) = own.filter(|model| (1..=MAX_MODEL_NAME).contains(&model.len())) else {
            return self.default_breaker.clone();
        };
        if let Some(breaker) = self.models.load().get(model) {
            return Some(Arc::clone(breaker));
        }
        self.add_model(provider, model)
    }

    fn add_model(&self, provider: &model::ProviderPolicy, model: &str) -> Option<Arc<BreakerCell>> {
        let _guard = self.models_lock.lock();
        let known = self.models.load();
        if let Some(breaker) = known.get(model) {
            return Some(Arc::clone(breaker));
        }
        let mut models = ModelBreakers::clone(&known);
        // A model that an operator named has a breaker of its own in any case.
        let named = || {
            let key = format!("{}/{model}", self.key);
            self.registry.override_rules.names(&key, crate::clock::now())
        };
        if models.len() >= MAX_MODELS && !named() {
            let Some(idle) = longest_idle(&models, crate::clock::now()) else {
                return self.default_breaker.clone();
            };
            models.remove(&idle);
        }
        let breaker = self.new_breaker(provider, model)?;
        models.insert(model.to_owned(), Arc::clone(&breaker));
        self.models.store(Arc::new(models));
        Some(breaker)
    }

    /// Whether every attempt would be rejected: by the breaker, or by the breaker of each model
    /// that was requested recently.
    pub fn is_unavailable(&self, now: Instant) -> bool {
        let is_shut = |breaker: &Arc<BreakerCell>| breaker.is_shut(now);
        let is_recent =
            |breaker: &&Arc<BreakerCell>| breaker.idle_for(now).is_none_or(|idle| idle < RECENT);
        let models = self.models.load();
        if models.is_empty() {
            return self.default_breaker.as_ref().is_some_and(is_shut);
        }
        let mut recent = models.values().filter(is_recent).peekable();
        recent.peek().is_some() && recent.all(is_shut)
    }

    /// The index of the next usable credential, in round-robin order.
    pub fn next_credential(&self, usable: impl Fn(usize) -> bool) -> Option<usize> {
        let count = self.credentials.len();
        if count == 1 {
            return usable(0).then_some(0);
        }
        let first = self.next_index.fetch_add(1, Ordering::Relaxed);
        (0..count).map(|i| (first.wrapping_add(i)) % count).find(|&i| usable(i))
    }

    /// The largest used shares of the request and token quotas that headers reported.
    pub fn quotas_used(&self, now: Instant) -> [Option<f64>; 2] {
        let used = self.credentials.iter().map(|credential| credential.used(now));
        used.fold([None; 2], max_shares)
    }

    /// The number of models that no credential may be used for now.
    pub fn held_models(&self, now: Instant) -> usize {
        let cells = self.credentials.iter().take(1).flat_map(|credential| credential.cells());
        let models = cells.filter(|cell| !cell.key().model.is_empty());
        let is_held = |cell: &Arc<CredentialCell>| {
            let model = || Some(cell.key().model.as_str());
            self.credentials.iter().all(|credential| credential.check(model, 0.0, now).is_err())
        };
        models.filter(is_held).count()
    }

    /// The number of configured credentials. Zero if there are none or the client's are passed on.
    pub fn credential_count(&self) -> usize {
        match &self.policy.auth {
            Auth::Credentials(all) => all.len(),
            Auth::None | Auth::Passthrough => 0,
        }
    }
}

fn credentials(
    provider: &model::ProviderPolicy,
    endpoint: &model::EndpointPolicy,
    registry: &Live,
) -> Vec<Arc<CredentialLive>> {
    let references: Vec<&str> = match &endpoint.auth {
        Auth::Credentials(all) => all.iter().map(|c| c.reference.as_str()).collect(),
        Auth::None | Auth::Passthrough => vec!["-"],
    };
    let credential = |reference: &str| {
        let live = registry.credential(CredentialKey {
            provider: provider.name.clone(),
            endpoint: endpoint.name.clone(),
            credential: reference.to_owned(),
            model: String::new(),
        });
        if !provider.capacity.follow_headers {
            live.cells().iter().for_each(|cell| cell.forget_reports());
        }
        live
    };
    references.into_iter().map(credential).collect()
}

fn longest_idle(models: &ModelBreakers, now: Instant) -> Option<String> {
    models
        .iter()
        .filter_map(|(model, breaker)| Some((breaker.idle_for(now)?, model)))
        .filter(|(idle, _)| *idle >= EVICT_AFTER)
        .max()
        .map(|(_, model)| model.clone())
}
