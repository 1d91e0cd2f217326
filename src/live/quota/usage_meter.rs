//! What a route's answers from one provider took and cost, by model.
//!
//! A model's name is the application's word, so that how many are told is bounded: the first
//! 64 by name, the others together. Handles are kept, because finding a series by its labels
//! costs more than all else here.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use crate::policy::sections::model::Price;
use crate::telemetry::metrics::{CostCounter, CostLabels, Metrics, TokenLabels};
use parking_lot::Mutex;
use prometheus_client::metrics::counter::Counter;

/// Models that are told by name.
const MODELS: usize = 64;
/// A longer name is nobody's.
const LONGEST: usize = 128;
/// Those past the bounds.
const OTHERS: &str = "other";
/// No model is known.
const NONE: &str = "-";

/// Why an attempt was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttemptKind {
    First,
    Retry,
    Hedge,
    /// It went on from an answer that had been cut.
    Continuation,
}

/// One for each route and provider.
pub struct UsageMeter {
    route: String,
    provider: String,
    metrics: Arc<Metrics>,
    by_model: Mutex<HashMap<String, [Option<UsageCounters>; AttemptKind::COUNT]>>,
}

#[derive(Clone)]
struct UsageCounters {
    input: Counter,
    output: Counter,
    /// With the currency that it is in.
    cost: Option<(String, CostCounter)>,
}

// === impl Turn ===

impl AttemptKind {
    const COUNT: usize = 4;

    pub const fn as_str(self) -> &'static str {
        match self {
            AttemptKind::First => "first",
            AttemptKind::Retry => "retry",
            AttemptKind::Hedge => "hedge",
            AttemptKind::Continuation => "continuation",
        }
    }
}

// === impl Ledger ===

impl UsageMeter {
    pub fn new(route: &str, provider: &str, metrics: &Arc<Metrics>) -> Self {
        UsageMeter {
            route: route.to_owned(),
            provider: provider.to_owned(),
            metrics: Arc::clone(metrics),
            by_model: Mutex::default(),
        }
    }

    /// Counts the tokens of one answer; gives what they cost, where there is a price.
    pub fn settle(
        &self,
        model: Option<&str>,
        turn: AttemptKind,
        (input, output): (u64, u64),
        price: Option<&Price>,
    ) -> Option<f64> {
        let mut models = self.by_model.lock();
        let model = model.filter(|model| !model.is_empty()).unwrap_or(NONE);
        let full = models.len() >= MODELS && !models.contains_key(model);
        let model = if full || model.len() > LONGEST { OTHERS } else { model };
        let known = match models.get_mut(model) {
            Some(known) => known,
            None => models.entry(model.to_owned()).or_default(),
        };
        let handles = known[turn as usize].get_or_insert_with(|| self.handles(model, turn));
        handles.input.inc_by(input);
        handles.output.inc_by(output);
        let price = price?;
        let cost = price.cost(input, output);
        match &handles.cost {
            Some((currency, counter)) if *currency == price.currency => counter.inc_by(cost),
            _ => {
                let counter = self.cost(model, turn, &price.currency);
                let counter = &handles.cost.insert((price.currency.clone(), counter)).1;
                counter.inc_by(cost)
            }
        };
        Some(cost)
    }

    fn handles(&self, model: &str, turn: AttemptKind) -> UsageCounters {
        let tokens = |direction: &'static str| {
            self.metrics.tokens.with(&TokenLabels {
                route: self.route.clone(),
                provider: self.provider.clone(),
                model: model.to_owned(),
                attempt: turn.as_str(),
                direction,
            })
        };
        UsageCounters { input: tokens("input"), output: tokens("output"), cost: None }
    }

    fn cost(&self, model: &str, turn: AttemptKind, currency: &str) -> CostCounter {
        self.metrics.cost.with(&CostLabels {
            route: self.route.clone(),
            provider: self.provider.clone(),
            model: model.to_owned(),
            attempt: turn.as_str(),
            currency: currency.to_owned(),
        })
    }
}

impl fmt::Debug for UsageMeter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Ledger({}, {})", self.route, self.provider)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn models_past_the_bound_are_told_together() {
        let metrics = Arc::new(Metrics::new());
        let ledger = UsageMeter::new("chat", "openai", &metrics);
        let price = Price { input: 2.0, output: 10.0, per: 1, currency: "USD".to_owned() };
        for n in 0..MODELS + 10 {
            let cost =
                ledger.settle(Some(&format!("m{n}")), AttemptKind::First, (3, 1), Some(&price));
            assert_eq!(cost, Some(16.0));
        }
        ledger.settle(Some(&"x".repeat(LONGEST + 1)), AttemptKind::First, (0, 0), None);
        assert_eq!(ledger.settle(Some("m1"), AttemptKind::Hedge, (1, 0), None), None);
        let text = metrics.encode();
        let has = |line: &str| assert!(text.contains(line), "{line}\n{text}");
        let labels = "route=\"chat\",provider=\"openai\"";
        has(&format!(
            "tokens_total{{{labels},model=\"other\",attempt=\"first\",direction=\"input\"}} 30"
        ));
        has(&format!(
            "tokens_total{{{labels},model=\"m1\",attempt=\"hedge\",direction=\"input\"}} 1"
        ));
        has(&format!(
            "cost_total{{{labels},model=\"other\",attempt=\"first\",currency=\"USD\"}} 160"
        ));
        assert_eq!(text.matches("cost_total{").count(), MODELS + 1);
    }
}
