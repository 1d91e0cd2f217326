//! Tokens and cost of a route's responses from one provider, by model.
//!
//! Handles are kept, because looking up a series by its labels costs more than everything else
//! here.

use crate::resilience::words::words;
use std::sync::Arc;

use crate::live::by_model::ByModel;
use crate::policy::sections::model::Price;
use crate::telemetry::metrics::{CostCounter, CostLabels, Metrics, TokenLabels};
use parking_lot::Mutex;
use prometheus_client::metrics::counter::Counter;

words! {
    /// Why an attempt was made.
    pub enum AttemptKind {
        First = "first",
        Retry = "retry",
        Hedge = "hedge",
        /// It continued an interrupted stream.
        Continuation = "continuation",
    }
}

/// One for each route and provider.
#[derive(Debug)]
pub struct UsageMeter {
    route: String,
    provider: String,
    metrics: Arc<Metrics>,
    by_model: Mutex<ByModel<[Option<UsageCounters>; AttemptKind::ALL.len()]>>,
}

#[derive(Clone, Debug)]
struct UsageCounters {
    input: Counter,
    output: Counter,
    /// With its currency.
    cost: Option<(String, CostCounter)>,
}

impl UsageMeter {
    pub fn new(route: &str, provider: &str, metrics: &Arc<Metrics>) -> Self {
        UsageMeter {
            route: route.to_owned(),
            provider: provider.to_owned(),
            metrics: Arc::clone(metrics),
            by_model: Mutex::default(),
        }
    }

    /// Counts the tokens of one response; returns their cost, if there is a price.
    pub fn settle(
        &self,
        model: Option<&str>,
        kind: AttemptKind,
        input: u64,
        output: u64,
        price: Option<&Price>,
    ) -> Option<f64> {
        let mut models = self.by_model.lock();
        let (model, known) = models.get_or_add(model, || true);
        let handles = known[kind as usize].get_or_insert_with(|| self.handles(model, kind));
        handles.input.inc_by(input);
        handles.output.inc_by(output);
        let price = price?;
        let cost = price.cost(input, output);
        match &handles.cost {
            Some((currency, counter)) if *currency == price.currency => counter.inc_by(cost),
            _ => {
                let counter = self.cost(model, kind, &price.currency);
                let counter = &handles.cost.insert((price.currency.clone(), counter)).1;
                counter.inc_by(cost)
            }
        };
        Some(cost)
    }

    fn handles(&self, model: &str, kind: AttemptKind) -> UsageCounters {
        let tokens = |direction: &'static str| {
            self.metrics.tokens.with(&TokenLabels {
                route: self.route.clone(),
                provider: self.provider.clone(),
                model: model.to_owned(),
                attempt: kind.as_str(),
                direction,
            })
        };
        UsageCounters { input: tokens("input"), output: tokens("output"), cost: None }
    }

    fn cost(&self, model: &str, kind: AttemptKind, currency: &str) -> CostCounter {
        self.metrics.cost.with(&CostLabels {
            route: self.route.clone(),
            provider: self.provider.clone(),
            model: model.to_owned(),
            attempt: kind.as_str(),
            currency: currency.to_owned(),
        })
    }
}
