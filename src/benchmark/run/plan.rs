//! The plan of a run: its targets, each with a policy of its own, its requests and its load.
//!
//! The policy of a target is the one in force, changed so that a run can harm nothing: the capacity
//! of each provider is a share of itself, and jobs, degradation modes, notifications and the access
//! log are off.

use std::sync::Arc;

use crate::policy::section::Threshold;
use crate::policy::sections::benchmark::fingerprint;
use crate::policy::sections::model::{
    Accept, BenchmarkLoad, BenchmarkPolicy, BenchmarkRequest, BenchmarkTarget, Capacity, LogTarget,
    Policy, RoutePolicy,
};
use crate::resilience::rate::gcra::RatePolicy;

/// A run, before it begins.
#[derive(Clone, Debug)]
pub struct RunPlan {
    pub benchmark: String,
    /// One, or the two that are measured alternately.
    pub targets: Vec<TargetPlan>,
    pub requests: Arc<[BenchmarkRequest]>,
    pub fingerprint: String,
    pub load: BenchmarkLoad,
    pub thresholds: Vec<Threshold>,
    pub abort_on_fail: bool,
}

/// A target, and the policy under which it is called.
#[derive(Clone, Debug)]
pub struct TargetPlan {
    /// `route chat` or `provider openai`.
    pub label: String,
    pub policy: Policy,
    pub hash: String,
    /// An index into the routes of `policy`.
    pub route: usize,
    /// The names of the providers to which calls go first.
    pub providers: Vec<String>,
    /// Of its prices.
    pub currency: Option<String>,
}

impl RunPlan {
    /// `targets`: of the benchmark itself, or two to compare.
    pub fn new(benchmark: &BenchmarkPolicy, targets: Vec<TargetPlan>) -> RunPlan {
        RunPlan {
            benchmark: benchmark.name.clone(),
            targets,
            requests: benchmark.requests.clone().into(),
            fingerprint: fingerprint(&benchmark.requests),
            load: benchmark.load.clone(),
            thresholds: benchmark.thresholds.clone(),
            abort_on_fail: benchmark.abort_on_fail,
        }
    }
}

impl TargetPlan {
    pub fn new(
        policy: &Policy,
        hash: &str,
        benchmark: &BenchmarkPolicy,
        target: &BenchmarkTarget,
    ) -> TargetPlan {
        let (label, mut policy) = (label(policy, target), harmless(policy, benchmark));
        let route = match *target {
            BenchmarkTarget::Route(index) => index,
            BenchmarkTarget::Provider(index) => {
                let queue = policy.queues.iter().position(|queue| queue.name == "default");
                policy.providers[index].retry = None;
                policy.routes.push(RoutePolicy::direct(&benchmark.name, index, queue));
                policy.routes.len() - 1
            }
        };
        let providers = &policy.routes[route].providers;
        let first =
            providers.iter().map(|weighted| policy.providers[weighted.provider].name.clone());
        let own = policy.routes[route].own_providers();
        let currency = own.iter().find_map(|index| policy.providers[*index].price.as_ref());
        TargetPlan {
            label,
            hash: hash.to_owned(),
            route,
            providers: first.collect(),
            currency: currency.map(|price| price.currency.clone()),
            policy,
        }
    }
}

/// `route chat` or `provider openai`.
pub fn label(policy: &Policy, target: &BenchmarkTarget) -> String {
    let index = match *target {
        BenchmarkTarget::Route(index) => policy.routes.get(index).map(|one| &one.name),
        BenchmarkTarget::Provider(index) => policy.providers.get(index).map(|one| &one.name),
    };
    format!("{} {}", target.kind().as_str(), index.map_or("", String::as_str))
}

/// The target with a name like `route:chat` or `provider:openai`.
///
/// # Errors
/// With what was expected.
pub fn named_target(policy: &Policy, text: &str) -> Result<BenchmarkTarget, String> {
    let expected = "expected `route:NAME` or `provider:NAME`";
    let (kind, name) =
        text.split_once(':').ok_or_else(|| format!("`{text}` is not a target: {expected}"))?;
    let unknown = || format!("there is no {kind} `{name}` in the policy");
    match kind {
        "route" => {
            let at = policy.routes.iter().position(|route| route.name == name);
            at.map(BenchmarkTarget::Route).ok_or_else(unknown)
        }
        "provider" => {
            let at = policy.providers.iter().position(|provider| provider.name == name);
            at.map(BenchmarkTarget::Provider).ok_or_else(unknown)
        }
        _ => Err(format!("`{text}` is not a target: {expected}")),
    }
}

fn harmless(policy: &Policy, benchmark: &BenchmarkPolicy) -> Policy {
    let mut policy = policy.clone();
    policy.server.access_log.to = LogTarget::None;
    policy.server.tls = None;
    policy.degradations.clear();
    policy.benchmarks.clear();
    policy.queues.iter_mut().for_each(|queue| queue.durable.accept = Accept::Never);
    for route in &mut policy.routes {
        route.degrade.clear();
        route.used.clear();
        route.durable = false;
        route.cache = route.cache.filter(|_| benchmark.cache);
    }
    for provider in &mut policy.providers {
        scale(&mut provider.capacity, benchmark.share);
    }
    policy
}

/// At least one call at a time.
fn scale(capacity: &mut Capacity, share: f64) {
    let part = |whole: f64| (whole * share).floor().max(1.0);
    let rate = |rate: RatePolicy| RatePolicy {
        rate: rate.rate * share,
        burst: (rate.burst * share).max(1.0),
    };
    capacity.concurrency = part(f64::from(capacity.concurrency)) as u32;
    capacity.connections = part(capacity.connections as f64) as usize;
    capacity.requests = capacity.requests.map(rate);
    capacity.tokens = capacity.tokens.map(rate);
}
