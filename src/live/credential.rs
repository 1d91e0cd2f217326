//! One credential at one endpoint: its holds and reported quotas, for all models and for each.
//!
//! A 429 and quota headers speak of one credential and one model, so each model that a response
//! spoke of has a cell of its own. A response to a request without a model, and a rejected
//! credential, concern all models. An attempt is charged to both cells and needs the permission
//! of both.
//!
//! Model names come from the application, so their number is bounded: models past the bound share
//! one cell. A cell without a state is dropped; while there is none, no model is looked at.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use parking_lot::Mutex;

use super::by_model::{MAX_MODEL_NAME, MAX_MODELS};
use super::credential_cell::{CredentialCell, CredentialKey, CredentialWait, QuotaMarks};
use super::fleet::FleetView;
use crate::clock;
use crate::resilience::rate::reported_quota::QuotaReport;

/// The model of the cell that the models past the bounds share.
const OTHER_MODELS: &str = "*";

type ModelCells = BTreeMap<String, Arc<CredentialCell>>;

#[derive(Debug)]
pub struct CredentialLive {
    all: Arc<CredentialCell>,
    has_models: AtomicBool,
    models: ArcSwap<ModelCells>,
    models_lock: Mutex<()>,
}

/// The charge of one attempt to the reported quotas of its credential.
#[derive(Debug, Default)]
pub struct CredentialCharge {
    /// The cell of the attempt's model, if there was one.
    cell: Option<Arc<CredentialCell>>,
    /// Of the model's cell if there is one, else of the credential's.
    marks: Option<QuotaMarks>,
    tokens: f64,
    /// The credential's own cell counted it.
    in_all: bool,
}

impl CredentialLive {
    /// `key`: without a model.
    pub fn new(key: CredentialKey, fleet: Option<&Arc<FleetView>>) -> Self {
        let known = fleet.map(|fleet| fleet.holds_below(&key.to_string(), clock::now()));
        let live = CredentialLive {
            all: Arc::new(CredentialCell::new(key, fleet)),
            has_models: AtomicBool::new(false),
            models: ArcSwap::default(),
            models_lock: Mutex::default(),
        };
        for (model, left) in known.into_iter().flatten() {
            live.hold_from_fleet(Some(&model), left, clock::now());
        }
        live
    }

    pub fn key(&self) -> &CredentialKey {
        self.all.key()
    }

    /// Whether the state depends on the request's model.
    pub fn has_models(&self) -> bool {
        self.has_models.load(Ordering::Relaxed)
    }

    /// Whether an attempt of this many tokens may begin now. Nothing changes.
    ///
    /// # Errors
    /// Why not, and the remaining time.
    pub fn check<'m>(
        &self,
        model: impl FnOnce() -> Option<&'m str>,
        tokens: f64,
        now: Instant,
    ) -> Result<(), CredentialWait> {
        self.all.check(tokens, now)?;
        if !self.has_models() {
            return Ok(());
        }
        let models = self.models.load();
        model()
            .and_then(|model| find(&models, model))
            .map_or(Ok(()), |cell| cell.check(tokens, now))
    }

    /// Admits one attempt and charges it.
    ///
    /// # Errors
    /// Why not, and the remaining time.
    pub fn admit<'m>(
        &self,
        model: impl FnOnce() -> Option<&'m str>,
        tokens: f64,
        now: Instant,
    ) -> Result<CredentialCharge, CredentialWait> {
        let marks = self.all.admit(tokens, now)?;
        let charge = CredentialCharge { cell: None, marks, tokens, in_all: marks.is_some() };
        if !self.has_models() {
            return Ok(charge);
        }
        match model() {
            Some(model) => self.admit_model(model, charge, now),
            None => Ok(charge),
        }
    }

    fn admit_model(
        &self,
        model: &str,
        mut charge: CredentialCharge,
        now: Instant,
    ) -> Result<CredentialCharge, CredentialWait> {
        let models = self.models.load();
        let Some(cell) = find(&models, model) else {
            // This traffic may be the only one left that can notice that a hold is over.
            self.sweep(models.values().next().filter(|cell| cell.is_idle(now)), now);
            return Ok(charge);
        };
        match cell.admit(charge.tokens, now) {
            Ok(_) if !cell.restrains() => self.sweep(Some(cell), now),
            Ok(marks) => (charge.cell, charge.marks) = (Some(Arc::clone(cell)), marks),
            Err(wait) => {
                self.give_back(charge, now);
                return Err(wait);
            }
        }
        Ok(charge)
    }

    /// Returns the charge of an attempt that was not sent.
    pub fn give_back(&self, charge: CredentialCharge, now: Instant) {
        if charge.in_all {
            self.all.give_back(charge.tokens, now);
        }
        if let Some(cell) = charge.cell {
            cell.give_back(charge.tokens, now);
        }
    }

    /// Takes the reports in the response to an attempt for this model.
    pub fn observe_reports(
        &self,
        model: Option<&str>,
        charge: &CredentialCharge,
        reports: [Option<QuotaReport>; 2],
        now: Instant,
    ) {
        let cell = self.cell(model, now);
        let charged = charge.cell.as_ref().unwrap_or(&self.all);
        let marks = charge.marks.filter(|_| Arc::ptr_eq(&cell, charged));
        cell.observe_reports(marks, reports, now);
    }

    /// The provider served an attempt.
    pub fn success(&self, charge: &CredentialCharge, now: Instant) {
        self.all.success(now);
        charge.cell.iter().for_each(|cell| cell.success(now));
    }

    /// Applies the hold of another host of the fleet.
    pub fn hold_from_fleet(&self, model: Option<&str>, left: Duration, now: Instant) {
        self.cell(model, now).hold_from_fleet(left, now);
    }

    /// The largest used shares of the reported requests and tokens.
    pub fn used(&self, now: Instant) -> [Option<f64>; 2] {
        let all = self.cells().into_iter().map(|cell| cell.used(now));
        all.fold([None; 2], max_shares)
    }

    /// The cells in use: for all models, then for each.
    pub fn cells(&self) -> Vec<Arc<CredentialCell>> {
        let models = self.models.load();
        [&self.all].into_iter().chain(models.values()).cloned().collect()
    }

    /// The cell that a response to a request for this model speaks of.
    pub fn cell(&self, model: Option<&str>, now: Instant) -> Arc<CredentialCell> {
        let Some(model) = model.filter(|model| !model.is_empty()) else {
            return Arc::clone(&self.all);
        };
        if let Some(cell) = self.models.load().get(model) {
            return Arc::clone(cell);
        }
        self.add(model, now)
    }

    fn add(&self, model: &str, now: Instant) -> Arc<CredentialCell> {
        let _guard = self.models_lock.lock();
        let mut models = in_use(&self.models.load(), now);
        let own = models.keys().filter(|name| *name != OTHER_MODELS).count();
        let is_past = own >= MAX_MODELS || model.len() > MAX_MODEL_NAME;
        let name = if is_past && !models.contains_key(model) { OTHER_MODELS } else { model };
        let cell = models.entry(name.to_owned());
        let cell = Arc::clone(cell.or_insert_with(|| Arc::new(self.all.of_model(name))));
        self.models.store(Arc::new(models));
        self.has_models.store(true, Ordering::Relaxed);
        cell
    }

    /// Drops the cells without a state, if this is one that nothing else uses.
    fn sweep(&self, idle: Option<&Arc<CredentialCell>>, now: Instant) {
        if idle.is_none_or(|cell| Arc::strong_count(cell) > 1) {
            return;
        }
        let _guard = self.models_lock.lock();
        let models = in_use(&self.models.load(), now);
        self.has_models.store(!models.is_empty(), Ordering::Relaxed);
        self.models.store(Arc::new(models));
    }
}

/// Of each quota the larger share.
pub fn max_shares(a: [Option<f64>; 2], b: [Option<f64>; 2]) -> [Option<f64>; 2] {
    let larger = |at: usize| [a[at], b[at]].into_iter().flatten().max_by(f64::total_cmp);
    [larger(0), larger(1)]
}

fn find<'c>(models: &'c ModelCells, model: &str) -> Option<&'c Arc<CredentialCell>> {
    models.get(model).or_else(|| models.get(OTHER_MODELS))
}

/// The cells that have a state, or are used by an attempt.
fn in_use(models: &ModelCells, now: Instant) -> ModelCells {
    let used = models.iter().filter(|(_, cell)| Arc::strong_count(cell) > 1 || !cell.is_idle(now));
    used.map(|(model, cell)| (model.clone(), Arc::clone(cell))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resilience::rate::reported_quota::Refill;

    const LONG: Duration = Duration::from_secs(1_000);

    fn live() -> CredentialLive {
        let key = CredentialKey {
            provider: "p".to_owned(),
            endpoint: "e".to_owned(),
            credential: "env:KEY".to_owned(),
            model: String::new(),
        };
        CredentialLive::new(key, None)
    }

    #[test]
    fn a_model_is_not_looked_at_once_its_hold_is_over() {
        let (now, live) = (clock::now(), live());
        let unread = || -> Option<&str> { panic!("nothing is imposed on a model") };
        assert_eq!(live.check(unread, 0.0, now), Ok(()));
        for served in ["a", "b"] {
            live.cell(Some("a"), now).throttled(Some(Duration::from_secs(1)), now);
            assert!(live.check(|| Some("a"), 0.0, now).is_err());
            assert_eq!(live.check(|| Some("b"), 0.0, now), Ok(()));
            let charge = live.admit(|| Some(served), 0.0, now + LONG).expect("no hold");
            live.success(&charge, now + LONG);
            assert!(!live.has_models(), "after a request for {served}");
            assert_eq!(live.check(unread, 0.0, now), Ok(()));
        }
    }

    #[test]
    fn an_attempt_that_was_not_sent_returns_its_charge() {
        for model in [Some("a"), None] {
            let (now, live) = (clock::now(), live());
            let report = QuotaReport {
                limit: Some(10.0),
                remaining: 1.0,
                reset: Some(LONG),
                refill: Refill::Window,
            };
            live.observe_reports(model, &CredentialCharge::default(), [Some(report), None], now);
            let charge = live.admit(|| Some("a"), 0.0, now).expect("one is left");
            assert!(live.check(|| Some("a"), 0.0, now).is_err(), "{model:?}");
            assert_eq!(live.used(now)[0], Some(1.0));
            live.give_back(charge, now);
            assert_eq!(live.check(|| Some("a"), 0.0, now), Ok(()), "{model:?}");
        }
    }

    #[test]
    fn the_state_of_a_model_in_use_is_kept_past_the_bound() {
        let (now, live) = (clock::now(), live());
        let name = |n: usize| format!("m{n}");
        for n in 0..MAX_MODELS + 3 {
            live.cell(Some(&name(n)), now).throttled(Some(LONG), now);
        }
        assert_eq!(live.cells().len(), 1 + MAX_MODELS + 1);
        assert!(live.check(|| Some("m0"), 0.0, now).is_err());
        assert_eq!(live.cell(Some("m66"), now).key().model, OTHER_MODELS);
        // Those whose hold is over make room.
        assert_eq!(live.cell(Some("m66"), now + 2 * LONG).key().model, "m66");
    }

    #[test]
    fn a_key_covers_what_is_below_it_and_a_model_at_every_credential() {
        let key = CredentialKey { model: "m/x".to_owned(), ..live().key().clone() };
        for above in ["p", "p/e", "p/e/env:KEY", "p/e/env:KEY/m/x", "p/e/m/x"] {
            assert!(key.is_under(above), "{above}");
        }
        for other in ["", "q", "p/e/env:K", "p/e/m", "p/e/x", "e"] {
            assert!(!key.is_under(other), "{other}");
        }
    }
}
