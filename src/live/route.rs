//! State of a route: its retry budget and balancers and, if its policy has them, hedging, the
//! cost budget and session affinity.

use parking_lot::Mutex;
use std::hash::{BuildHasher, RandomState};
use std::time::{Duration, Instant};

use super::optional::Optional;
use crate::clock;
use crate::policy::sections::model::RoutePolicy;
use crate::resilience::balance::affinity::AffinityTable;
use crate::resilience::balance::balancer::{BalanceAlgorithm, Balancer, BalancerCandidate};
use crate::resilience::retry::budget::RetryBudget;
use crate::resilience::retry::cost_budget::{CostBudget, CostBudgetPolicy};
use crate::resilience::retry::hedge::Hedge;

#[derive(Debug)]
pub struct RouteLive {
    budget: Mutex<RetryBudget>,
    /// One for the route's `providers`, one for each of `fallback`.
    balancers: Mutex<Vec<Balancer>>,
    hedge: Optional<Hedge>,
    cost_budget: Optional<CostBudget>,
    affinity: Optional<AffinityTable>,
    /// Hashes sessions into keys.
    hashing: RandomState,
}

impl RouteLive {
    pub fn new(policy: &RoutePolicy) -> Self {
        RouteLive {
            budget: Mutex::new(RetryBudget::new(policy.retry.budget.policy())),
            balancers: Mutex::default(),
            hedge: Optional::new(policy.hedge.map(Hedge::new)),
            cost_budget: Optional::new(cost(policy).map(CostBudget::new)),
            affinity: Optional::new(ttl(policy).map(AffinityTable::new)),
            hashing: clock::hashing(),
        }
    }

    pub fn retune(&self, policy: &RoutePolicy) {
        self.budget.lock().retune(policy.retry.budget.policy());
        self.hedge.retune(policy.hedge, Hedge::new, Hedge::retune);
        self.cost_budget.retune(cost(policy), CostBudget::new, CostBudget::retune);
        self.affinity.retune(ttl(policy), AffinityTable::new, AffinityTable::retune);
    }

    /// Records a first attempt: it earns a share of a retry.
    pub fn record_request(&self, now: Instant) {
        self.budget.lock().deposit(now);
    }

    /// Takes one retry from the budget; false if it is empty.
    pub fn withdraw_retry(&self, now: Instant) -> bool {
        self.budget.lock().withdraw(now)
    }

    /// Retries left in the budget.
    pub fn balance(&self, now: Instant) -> f64 {
        self.budget.lock().balance(now)
    }

    /// Selects among the candidates of a tier.
    pub fn select(
        &self,
        tier: usize,
        algorithm: BalanceAlgorithm,
        candidates: &[BalancerCandidate],
        eligible: impl Fn(usize) -> bool,
        draw: f64,
    ) -> Option<usize> {
        let mut balancers = self.balancers.lock();
        if balancers.len() <= tier {
            balancers.resize_with(tier + 1, Balancer::default);
        }
        balancers[tier].select(algorithm, candidates, eligible, draw)
    }

    /// The position that `select` would return now. Nothing changes.
    pub fn preview(
        &self,
        tier: usize,
        algorithm: BalanceAlgorithm,
        candidates: &[BalancerCandidate],
        eligible: impl Fn(usize) -> bool,
    ) -> Option<usize> {
        let balancer = self.balancers.lock().get(tier).cloned();
        balancer.unwrap_or_default().select(algorithm, candidates, eligible, 0.0)
    }

    /// Records a request of a route that hedges: it earns a share of a hedge.
    pub fn hedge_first(&self, now: Instant) {
        self.hedge.with(|hedge| hedge.record_request(now));
    }

    /// Records the latency of a first attempt, or its time until its hedge won.
    pub fn hedge_sample(&self, took: Duration, now: Instant) {
        self.hedge.with(|hedge| hedge.record_latency(took, now));
    }

    /// How long a first attempt may take before it is hedged; `None`: it is not hedged.
    pub fn hedge_delay(&self, now: Instant) -> Option<Duration> {
        self.hedge.with(|hedge| hedge.delay(now))?
    }

    /// Takes one hedge from the budget; false if it is empty.
    pub fn hedge_spend(&self, now: Instant) -> bool {
        self.hedge.with(|hedge| hedge.withdraw(now)).unwrap_or(false)
    }

    /// Whether another retry is within the cost budget; always, without a budget.
    pub fn within_cost_budget(&self, now: Instant) -> bool {
        self.cost_budget.with(|cost_budget| cost_budget.allows_retry(now)).unwrap_or(true)
    }

    /// Records the cost of a retry or hedge, in the currency of the budget.
    pub fn record_cost(&self, cost: f64, now: Instant) {
        self.cost_budget.with(|cost_budget| cost_budget.add(cost, now));
    }

    /// The remaining cost budget; `None`: there is none.
    pub fn cost_left(&self, now: Instant) -> Option<f64> {
        self.cost_budget.with(|cost_budget| cost_budget.remaining(now))
    }

    /// The `id` of the endpoint that the session was last sent to.
    pub fn session_endpoint(&self, session: &[u8], now: Instant) -> Option<u32> {
        let key = self.key(session)?;
        self.affinity.with(|affinity| affinity.find(key, now))?
    }

    /// Records that the session is sent to this endpoint.
    pub fn pin_session(&self, session: &[u8], endpoint: u32, now: Instant) {
        let Some(key) = self.key(session) else { return };
        self.affinity.with(|affinity| affinity.set(key, endpoint, now));
    }

    /// Hashed before the lock is taken: a header value may be long.
    fn key(&self, session: &[u8]) -> Option<u64> {
        self.affinity.is_on().then(|| self.hashing.hash_one(session))
    }
}

fn cost(policy: &RoutePolicy) -> Option<CostBudgetPolicy> {
    policy.retry.budget.cost.as_ref().map(|cost| cost.policy)
}

fn ttl(policy: &RoutePolicy) -> Option<Duration> {
    policy.affinity.as_ref().map(|affinity| affinity.ttl)
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::path::Path;

    use super::*;
    use crate::policy::sections::model::{Affinity as AffinityPolicy, Cost};
    use crate::policy::{self, SourceFile, Sources};
    use crate::resilience::retry::hedge::HedgePolicy;

    const SECOND: Duration = Duration::from_secs(1);

    struct Nothing;

    impl Sources for Nothing {
        fn env(&self, _: &str) -> Option<String> {
            None
        }

        fn file(&self, _: &Path) -> io::Result<Vec<u8>> {
            Err(io::ErrorKind::NotFound.into())
        }
    }

    fn route_without() -> RoutePolicy {
        let yaml = "version: 1\nproviders: { one: { url: \"http://127.0.0.1:1\" } }\n\
                    routes: [{ name: all, providers: [one] }]\n";
        let file = SourceFile { name: "policy.yaml".to_owned(), bytes: yaml.into() };
        policy::load(&[file], &Nothing).unwrap().policy.routes.remove(0)
    }

    fn route_with_all() -> RoutePolicy {
        let mut route = route_without();
        route.hedge = Some(HedgePolicy { extra_load: 0.5, after: Some(SECOND) });
        let policy = CostBudgetPolicy { limit: 5.0, window: 3_600 * SECOND };
        route.retry.budget.cost = Some(Cost { policy, currency: "USD".to_owned() });
        let header = http::HeaderName::from_static("x-session");
        route.affinity = Some(AffinityPolicy { header, ttl: 600 * SECOND });
        route
    }

    /// Uses every rule once.
    fn use_all_rules(live: &RouteLive, now: Instant) {
        live.hedge_first(now);
        live.hedge_first(now);
        live.hedge_sample(SECOND, now);
        live.record_cost(4.0, now);
        live.pin_session(b"anna", 7, now);
    }

    #[test]
    fn an_omitted_rule_has_no_effect() {
        let (now, live) = (clock::now(), RouteLive::new(&route_without()));
        use_all_rules(&live, now);
        assert_eq!((live.hedge_delay(now), live.hedge_spend(now)), (None, false));
        assert_eq!((live.within_cost_budget(now), live.cost_left(now)), (true, None));
        assert_eq!(live.session_endpoint(b"anna", now), None);
    }

    #[test]
    fn a_configured_rule_applies() {
        let (now, live) = (clock::now(), RouteLive::new(&route_with_all()));
        use_all_rules(&live, now);
        assert_eq!(live.hedge_delay(now), Some(SECOND));
        assert_eq!((live.hedge_spend(now), live.hedge_spend(now)), (true, false));
        assert_eq!((live.within_cost_budget(now), live.cost_left(now)), (true, Some(1.0)));
        live.record_cost(1.0, now);
        assert!(!live.within_cost_budget(now));
        assert_eq!(
            (live.session_endpoint(b"anna", now), live.session_endpoint(b"bert", now)),
            (Some(7), None)
        );
    }

    #[test]
    fn a_reload_drops_only_the_state_of_omitted_rules() {
        let (now, live) = (clock::now(), RouteLive::new(&route_with_all()));
        use_all_rules(&live, now);
        let mut retuned = route_with_all();
        retuned.hedge = None;
        retuned.retry.budget.cost.iter_mut().for_each(|cost| cost.policy.limit = 10.0);
        live.retune(&retuned);
        assert_eq!(live.hedge_delay(now), None);
        assert_eq!(live.cost_left(now), Some(6.0));
        assert_eq!(live.session_endpoint(b"anna", now), Some(7));
        live.retune(&route_without());
        live.retune(&route_with_all());
        assert_eq!((live.hedge_delay(now), live.hedge_spend(now)), (Some(SECOND), false));
        assert_eq!((live.cost_left(now), live.session_endpoint(b"anna", now)), (Some(5.0), None));
    }
}
