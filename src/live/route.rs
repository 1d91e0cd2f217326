//! What a route remembers: its budget for repeats, whose turn it is, and, where its policy has
//! them, when to hedge, what repeats cost, and where each session was last sent.

use parking_lot::Mutex;
use std::hash::{BuildHasher, RandomState};
use std::time::{Duration, Instant};

use super::optional::Optional;
use crate::clock;
use crate::policy::sections::model::Route;
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
    spend: Optional<CostBudget>,
    affinity: Optional<AffinityTable>,
    /// Makes keys of sessions.
    hashing: RandomState,
}

impl RouteLive {
    pub fn new(policy: &Route) -> Self {
        RouteLive {
            budget: Mutex::new(RetryBudget::new(policy.retry.budget.policy())),
            balancers: Mutex::default(),
            hedge: Optional::new(policy.hedge.map(Hedge::new)),
            spend: Optional::new(cost(policy).map(CostBudget::new)),
            affinity: Optional::new(ttl(policy).map(AffinityTable::new)),
            hashing: clock::hashing(),
        }
    }

    pub fn retune(&self, policy: &Route) {
        self.budget.lock().retune(policy.retry.budget.policy());
        self.hedge.retune(policy.hedge, Hedge::new, Hedge::retune);
        self.spend.retune(cost(policy), CostBudget::new, CostBudget::retune);
        self.affinity.retune(ttl(policy), AffinityTable::new, AffinityTable::retune);
    }

    /// One first attempt: it earns a share of a repeat.
    pub fn record_request(&self, now: Instant) {
        self.budget.lock().deposit(now);
    }

    /// Pays for one repeat; false when the budget is empty.
    pub fn withdraw_retry(&self, now: Instant) -> bool {
        self.budget.lock().withdraw(now)
    }

    /// Repeats that could be paid now.
    pub fn balance(&self, now: Instant) -> f64 {
        self.budget.lock().balance(now)
    }

    /// The balancer's choice among the candidates of a tier.
    pub fn select(
        &self,
        tier: usize,
        how: BalanceAlgorithm,
        candidates: &[BalancerCandidate],
        eligible: impl Fn(usize) -> bool,
        draw: f64,
    ) -> Option<usize> {
        let mut balancers = self.balancers.lock();
        if balancers.len() <= tier {
            balancers.resize_with(tier + 1, Balancer::new);
        }
        balancers[tier].select(how, candidates, eligible, draw)
    }

    /// One request of a route that hedges: it earns a share of a hedge.
    pub fn hedge_first(&self, now: Instant) {
        self.hedge.with(|hedge| hedge.record_request(now));
    }

    /// A first attempt was answered after `took`, or had lost to its hedge by then.
    pub fn hedge_sample(&self, took: Duration, now: Instant) {
        self.hedge.with(|hedge| hedge.record_latency(took, now));
    }

    /// How long a first attempt may take before it is hedged; `None`: it is not.
    pub fn hedge_delay(&self, now: Instant) -> Option<Duration> {
        self.hedge.with(|hedge| hedge.delay(now))?
    }

    /// Pays for one hedge; false when it cannot be paid.
    pub fn hedge_spend(&self, now: Instant) -> bool {
        self.hedge.with(|hedge| hedge.withdraw(now)).unwrap_or(false)
    }

    /// Whether another repeat may cost something; always, where there is no limit.
    pub fn within_cost_budget(&self, now: Instant) -> bool {
        self.spend.with(|spend| spend.allows_retry(now)).unwrap_or(true)
    }

    /// A repeat or a hedge cost this much, in the currency of the limit.
    pub fn record_cost(&self, cost: f64, now: Instant) {
        self.spend.with(|spend| spend.add(cost, now));
    }

    /// What repeats may cost yet; `None`: there is no limit.
    pub fn cost_left(&self, now: Instant) -> Option<f64> {
        self.spend.with(|spend| spend.remaining(now))
    }

    /// The `id` of the address that the session was last sent to.
    pub fn session_address(&self, session: &[u8], now: Instant) -> Option<u32> {
        let key = self.key(session)?;
        self.affinity.with(|affinity| affinity.find(key, now))?
    }

    /// The session is sent to the address of this `id`.
    pub fn pin_session(&self, session: &[u8], address: u32, now: Instant) {
        let Some(key) = self.key(session) else { return };
        self.affinity.with(|affinity| affinity.set(key, address, now));
    }

    /// Hashed before the lock is taken: a header's value may be long.
    fn key(&self, session: &[u8]) -> Option<u64> {
        self.affinity.is_on().then(|| self.hashing.hash_one(session))
    }
}

fn cost(policy: &Route) -> Option<CostBudgetPolicy> {
    policy.retry.budget.cost.as_ref().map(|cost| cost.policy)
}

fn ttl(policy: &Route) -> Option<Duration> {
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

    fn without() -> Route {
        let yaml = "version: 1\nproviders: { one: { url: \"http://127.0.0.1:1\" } }\n\
                    routes: [{ name: all, providers: [one] }]\n";
        let file = SourceFile { name: "policy.yaml".to_owned(), bytes: yaml.into() };
        policy::load(&[file], &Nothing).unwrap().policy.routes.remove(0)
    }

    fn with_all() -> Route {
        let mut route = without();
        route.hedge = Some(HedgePolicy { extra_load: 0.5, after: Some(SECOND) });
        let policy = CostBudgetPolicy { limit: 5.0, window: 3_600 * SECOND };
        route.retry.budget.cost = Some(Cost { policy, currency: "USD".to_owned() });
        let header = http::HeaderName::from_static("x-session");
        route.affinity = Some(AffinityPolicy { header, ttl: 600 * SECOND });
        route
    }

    /// Uses all of it once.
    fn use_it(live: &RouteLive, now: Instant) {
        live.hedge_first(now);
        live.hedge_first(now);
        live.hedge_sample(SECOND, now);
        live.record_cost(4.0, now);
        live.pin_session(b"anna", 7, now);
    }

    #[test]
    fn what_the_policy_leaves_out_says_nothing_and_stops_nothing() {
        let (now, live) = (clock::now(), RouteLive::new(&without()));
        use_it(&live, now);
        assert_eq!((live.hedge_delay(now), live.hedge_spend(now)), (None, false));
        assert_eq!((live.within_cost_budget(now), live.cost_left(now)), (true, None));
        assert_eq!(live.session_address(b"anna", now), None);
    }

    #[test]
    fn what_the_policy_has_is_asked() {
        let (now, live) = (clock::now(), RouteLive::new(&with_all()));
        use_it(&live, now);
        assert_eq!(live.hedge_delay(now), Some(SECOND));
        assert_eq!((live.hedge_spend(now), live.hedge_spend(now)), (true, false));
        assert_eq!((live.within_cost_budget(now), live.cost_left(now)), (true, Some(1.0)));
        live.record_cost(1.0, now);
        assert!(!live.within_cost_budget(now));
        assert_eq!(
            (live.session_address(b"anna", now), live.session_address(b"bert", now)),
            (Some(7), None)
        );
    }

    #[test]
    fn a_reload_forgets_only_what_the_policy_leaves_out() {
        let (now, live) = (clock::now(), RouteLive::new(&with_all()));
        use_it(&live, now);
        let mut retuned = with_all();
        retuned.hedge = None;
        retuned.retry.budget.cost.iter_mut().for_each(|cost| cost.policy.limit = 10.0);
        live.retune(&retuned);
        assert_eq!(live.hedge_delay(now), None);
        assert_eq!(live.cost_left(now), Some(6.0));
        assert_eq!(live.session_address(b"anna", now), Some(7));
        live.retune(&without());
        live.retune(&with_all());
        assert_eq!((live.hedge_delay(now), live.hedge_spend(now)), (Some(SECOND), false));
        assert_eq!((live.cost_left(now), live.session_address(b"anna", now)), (Some(5.0), None));
    }
}
