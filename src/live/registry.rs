//! All live state, found by name.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::breaker::cell::{BreakerCell, BreakerKey};
use super::breaker::overrides::{OverrideRules, is_under};
use super::buffers::Buffers;
use super::credential::CredentialLive;
use super::credential_cell::{CredentialCell, CredentialKey, HeldCredential};
use super::degradation::mode::{ModeCell, Modes};
use super::degradation::outcome_window::{OutcomeWindow, WindowKind};
use super::endpoint::EndpointLive;
use super::fleet::FleetView;
use super::operator_override::AuditNote;
use super::provider::ProviderLive;
use super::queue::QueueLive;
use super::queue::wait_queue::WaitQueueCell;
use super::quota::usage_meter::UsageMeter;
use super::route::RouteLive;
use super::tracking::call_recorder::{CallRecorder, SeriesPlaces};
use super::tracking::regressions::Regressions;
use crate::clock;
use crate::policy::sections::model::{Capacity, Degradation, Queue, RoutePolicy};
use crate::resilience::breaker::{BreakerPolicy, ManualOverride};
use crate::telemetry::events::Events;
use crate::telemetry::exemplars::Exemplars;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::recent_requests::RecentRequests;
use crate::telemetry::trace_records::TraceRecords;

/// State by name: one cell each, however many snapshots use it.
#[derive(Debug)]
pub struct Live {
    pub metrics: Arc<Metrics>,
    pub events: Arc<Events>,
    pub recent_requests: Arc<RecentRequests>,
    pub traces: TraceRecords,
    pub exemplars: Exemplars,
    pub buffers: Arc<Buffers>,
    pub wait_queue: Arc<WaitQueueCell>,
    pub modes: Arc<Modes>,
    /// `None`: this host is not in a fleet.
    pub fleet: Option<Arc<FleetView>>,
    pub override_rules: OverrideRules,
    pub regressions: Arc<Regressions>,
    /// Drained providers, with the end and the note: a provider that leaves the policy and returns
    /// is still drained.
    drains: Mutex<HashMap<String, (Option<Instant>, AuditNote)>>,
    providers: Named<String, ProviderLive>,
    endpoints: Named<(String, String), EndpointLive>,
    breakers: Named<BreakerKey, BreakerCell>,
    credentials: Named<String, CredentialLive>,
    queues: Named<String, QueueLive>,
    routes: Named<String, RouteLive>,
    usage_meters: Named<(String, String), UsageMeter>,
    call_recorders: Named<(String, String), CallRecorder>,
    series_places: Arc<SeriesPlaces>,
    outcome_windows: Named<(&'static str, String), OutcomeWindow>,
    /// Id of the next new endpoint.
    next_id: AtomicU32,
}

type Named<K, V> = Mutex<HashMap<K, Arc<V>>>;

/// Drops cells that only the registry holds.
fn forget_unused<K: Hash + Eq, V>(named: &Named<K, V>) {
    named.lock().retain(|_, cell| Arc::strong_count(cell) > 1);
}

fn all<K, V>(named: &Named<K, V>) -> Vec<Arc<V>> {
    named.lock().values().cloned().collect()
}

/// The cell of that name: created by `make`, or found and retuned.
fn named<K: Hash + Eq, V>(
    named: &Named<K, V>,
    key: K,
    make: impl FnOnce() -> V,
    retune: impl FnOnce(&V),
) -> Arc<V> {
    let mut cells = named.lock();
    if let Some(cell) = cells.get(&key) {
        retune(cell);
        return Arc::clone(cell);
    }
    let cell = Arc::new(make());
    cells.insert(key, Arc::clone(&cell));
    cell
}

impl Live {
    pub fn new(metrics: Arc<Metrics>, buffered: u64, fleet: Option<Arc<FleetView>>) -> Self {
        let buffers = Arc::new(Buffers::new(buffered, metrics.buffered_bytes.clone()));
        Live {
            traces: TraceRecords::new(&metrics),
            exemplars: Exemplars::default(),
            metrics,
            events: Arc::default(),
            recent_requests: Arc::default(),
            buffers,
            wait_queue: Arc::default(),
            modes: Arc::default(),
            fleet,
            override_rules: OverrideRules::default(),
            regressions: Arc::default(),
            drains: Mutex::default(),
            providers: Mutex::default(),
            endpoints: Mutex::default(),
            breakers: Mutex::default(),
            credentials: Mutex::default(),
            queues: Mutex::default(),
            routes: Mutex::default(),
            usage_meters: Mutex::default(),
            call_recorders: Mutex::default(),
            series_places: Arc::default(),
            outcome_windows: Mutex::default(),
            next_id: AtomicU32::default(),
        }
    }

    pub fn provider(&self, name: &str, capacity: &Capacity) -> Arc<ProviderLive> {
        let (wait_queue, metrics, fleet) = (&self.wait_queue, &self.metrics, self.fleet.as_ref());
        let make = || {
            let cell = ProviderLive::new(name, capacity, wait_queue, metrics, fleet);
            if let Some((until, note)) = self.drains.lock().get(name) {
                cell.drain(*until, note.clone());
            }
            cell
        };
        named(&self.providers, name.to_owned(), make, |cell| cell.retune(capacity))
    }

    /// Every provider, ordered by name.
    pub fn providers(&self) -> Vec<Arc<ProviderLive>> {
        let mut providers = all(&self.providers);
        providers.sort_by(|a, b| a.name().cmp(b.name()));
        providers
    }

    pub fn queue(&self, policy: &Queue) -> Arc<QueueLive> {
        let make = || QueueLive::new(policy, &self.wait_queue, &self.metrics);
        named(&self.queues, policy.name.clone(), make, |cell| cell.retune(policy))
    }

    /// Every queue, ordered by name.
    pub fn queues(&self) -> Vec<Arc<QueueLive>> {
        let mut queues = all(&self.queues);
        queues.sort_by(|a, b| a.name.cmp(&b.name));
        queues
    }

    pub fn endpoint(&self, provider: &str, endpoint: &str) -> Arc<EndpointLive> {
        let key = (provider.to_owned(), endpoint.to_owned());
        let make = || {
            let id = self.next_id.fetch_add(1, Ordering::Relaxed);
            EndpointLive::new(provider, endpoint, id, &self.metrics)
        };
        named(&self.endpoints, key, make, |_| ())
    }

    pub fn breaker(&self, key: BreakerKey, policy: BreakerPolicy) -> Arc<BreakerCell> {
        let make = || {
            let Live { metrics, events, modes, fleet, .. } = self;
            let cell =
                BreakerCell::new(key.clone(), policy, metrics, events, modes, fleet.as_ref());
            let now = clock::now();
            if let Some((manual, note)) = self.override_rules.covering(&key.to_string(), now) {
                cell.set_override(Some(manual), note, now);
            }
            cell
        };
        named(&self.breakers, key.clone(), make, |cell| cell.retune(policy))
    }

    /// `key`: without a model.
    pub fn credential(&self, key: CredentialKey) -> Arc<CredentialLive> {
        let name = key.to_string();
        named(&self.credentials, name, || CredentialLive::new(key, self.fleet.as_ref()), |_| ())
    }

    pub fn route(&self, policy: &RoutePolicy) -> Arc<RouteLive> {
        let make = || RouteLive::new(policy);
        named(&self.routes, policy.name.clone(), make, |cell| cell.retune(policy))
    }

    /// Usage of a route's responses from a provider.
    pub fn usage_meter(&self, route: &str, provider: &str) -> Arc<UsageMeter> {
        let key = (route.to_owned(), provider.to_owned());
        named(&self.usage_meters, key, || UsageMeter::new(route, provider, &self.metrics), |_| ())
    }

    /// Records the calls of a route to a provider.
    pub fn call_recorder(&self, route: &str, provider: &str) -> Arc<CallRecorder> {
        let key = (route.to_owned(), provider.to_owned());
        let make = || CallRecorder::new(route, provider, &self.series_places);
        named(&self.call_recorders, key, make, |_| ())
    }

    pub fn call_recorders(&self) -> Vec<Arc<CallRecorder>> {
        all(&self.call_recorders)
    }

    /// Outcomes of a route's requests or a provider's attempts; `what`: `route` or
    /// `provider`.
    pub fn outcome_window(
        &self,
        what: &'static str,
        name: &str,
        wants: &[WindowKind],
    ) -> Arc<OutcomeWindow> {
        let key = (what, name.to_owned());
        named(&self.outcome_windows, key, || OutcomeWindow::new(wants), |cell| cell.retune(wants))
    }

    pub fn mode(&self, policy: &Degradation) -> Arc<ModeCell> {
        self.modes.cell(policy, &self.metrics, &self.events)
    }

    /// Drops what no snapshot uses any longer.
    pub fn forget_unused(&self) {
        forget_unused(&self.providers);
        forget_unused(&self.endpoints);
        forget_unused(&self.breakers);
        forget_unused(&self.credentials);
        forget_unused(&self.queues);
        forget_unused(&self.routes);
        forget_unused(&self.usage_meters);
        forget_unused(&self.call_recorders);
        forget_unused(&self.outcome_windows);
        self.modes.forget_unused();
    }

    /// Overrides every breaker under a key, those created later included; `None` removes the
    /// override and resets them. Returns the breakers, or `None` if there is no place for another
    /// override.
    pub fn override_breakers(
        &self,
        key: &str,
        manual: Option<ManualOverride>,
        note: &AuditNote,
        now: Instant,
    ) -> Option<Vec<Arc<BreakerCell>>> {
        // The rule comes first: a breaker created meanwhile takes it.
        if !self.override_rules.set(key, manual, note.clone(), now) {
            return None;
        }
        let cells = self.breakers_under(key);
        cells.iter().for_each(|cell| cell.set_override(manual, note.clone(), now));
        Some(cells)
    }

    /// Removes the fleet's override of a key; one that this host set later stays.
    pub fn clear_fleet_override(&self, key: &str, now: Instant) {
        self.override_rules.remove_fleet_rule(key);
        self.breakers_under(key).iter().for_each(|cell| {
            cell.clear_fleet_override(now);
            if let Some((manual, note)) = self.override_rules.covering(&cell.key().to_string(), now)
            {
                cell.set_override(Some(manual), note, now);
            }
        });
    }

    /// The breakers under a key, ordered by their keys.
    pub fn breakers_under(&self, key: &str) -> Vec<Arc<BreakerCell>> {
        let mut cells = self.breakers();
        cells.retain(|cell| is_under(&cell.key().to_string(), key));
        cells
    }

    /// Excludes a provider from selection until this time or until it is undrained.
    pub fn drain(&self, provider: &ProviderLive, until: Option<Instant>, note: &AuditNote) {
        let mut drains = self.drains.lock();
        let now = clock::now();
        drains.retain(|_, (until, _)| until.is_none_or(|until| until > now));
        drains.insert(provider.name().to_owned(), (until, note.clone()));
        provider.drain(until, note.clone());
    }

    /// Allows selection of a provider again.
    pub fn undrain(&self, provider: &ProviderLive) {
        self.drains.lock().remove(provider.name());
        provider.undrain();
    }

    /// The breaker with this key, if there is one.
    pub fn find_breaker(&self, key: &str) -> Option<Arc<BreakerCell>> {
        self.breakers.lock().values().find(|cell| cell.key().to_string() == key).cloned()
    }

    /// Applies the hold of another host: of a credential, or of a model at it.
    pub fn hold_from_fleet(&self, key: &str, left: Duration, now: Instant) {
        let credentials = self.credentials.lock();
        let covering = credentials.iter().filter(|(name, _)| is_under(key, name));
        // A reference may be the path of a file, and so the start of another.
        let Some((name, credential)) = covering.max_by_key(|(name, _)| name.len()) else { return };
        credential.hold_from_fleet(key[name.len()..].strip_prefix('/'), left, now);
    }

    /// Ends every hold under a key, and forgets the reported quotas there: `PROVIDER`,
    /// `PROVIDER/ENDPOINT`, `PROVIDER/ENDPOINT/MODEL`, or the key of a hold. Returns how many cells
    /// there are under it.
    pub fn clear_holds(&self, key: &str) -> usize {
        let cells = self.credential_cells();
        let under = cells.iter().filter(|cell| cell.key().is_under(key));
        let cleared = under.inspect(|cell| cell.clear()).count();
        self.recheck_waiters(key.split('/').next().unwrap_or_default());
        cleared
    }

    fn credential_cells(&self) -> Vec<Arc<CredentialCell>> {
        all(&self.credentials).iter().flat_map(|credential| credential.cells()).collect()
    }

    /// Breakers or holds of a provider may have changed: its waiters check again.
    pub fn recheck_waiters(&self, provider: &str) {
        let provider = self.providers.lock().get(provider).cloned();
        provider.iter().for_each(|provider| provider.recheck_waiters());
    }

    /// Waiters of all providers check again.
    pub fn recheck_all_waiters(&self) {
        all(&self.providers).iter().for_each(|provider| provider.recheck_waiters());
    }

    /// Every breaker, ordered by its key.
    pub fn breakers(&self) -> Vec<Arc<BreakerCell>> {
        let mut cells = all(&self.breakers);
        cells.sort_by_key(|cell| cell.key().to_string());
        cells
    }

    /// Credentials, and models at them, on hold.
    pub fn held(&self) -> Vec<HeldCredential> {
        let (cells, now) = (self.credential_cells(), clock::now());
        let mut held: Vec<_> = cells.iter().filter_map(|cell| cell.held(now)).collect();
        held.sort_by(|a, b| a.key.cmp(&b.key));
        held
    }
}
