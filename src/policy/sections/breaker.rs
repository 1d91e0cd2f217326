//! The section `breakers`: when an endpoint gets no more attempts, and how it comes back.

use std::time::Duration;

use crate::policy::section::scalars::ABOVE_NONE;
use crate::policy::section::{
    Checker, Display, Form, OrNone, Reference, Share, ValueShape, section, words,
};
use crate::policy::yaml::tree::NodeId;
use crate::policy::yaml::units::{DAY, HOUR, MS, SECOND};
use crate::resilience::breaker::{BreakerPolicy, EnforcementMode, Quorum, RateRule, SlowRule};

section! {
    /// When an endpoint gets no more attempts; all values below have defaults, also in the entry `default`.
    #[derive(Clone, Debug, PartialEq)]
    pub struct Breaker, finish longest_open_time_last {
        /// One breaker for each endpoint, or for each model at each endpoint.
        scope: Option<Scope> = None => "`model` for a provider with a preset, else `endpoint`";
        /// Consecutive failures that open it; 0 is off.
        failure_threshold: u32 = 5, in 0..=1_000_000;
        /// The share of failures that opens it.
        failure_rate: Option<RateRule> as OrNone<RateRule> = RateRule::absent();
        /// The share of slow responses that opens it.
        slow_rate: Option<SlowRule> as OrNone<SlowRule>;
        /// How long it stays open the first time.
        recovery_timeout: Duration = 5 * SECOND, in MS..=DAY;
        /// The open time grows by this factor with each trip in a row.
        backoff_multiplier: f64 = 2.0, in 1.0..=100.0;
        /// The longest open time.
        max_recovery_timeout: Duration = 60 * SECOND, in MS..=DAY;
        /// Probes that must succeed before it closes.
        success_threshold: u32 = 2, in 1..=1000;
        /// Probes in flight at once.
        probes: u32 = 1, in 1..=1000;
        /// After closing, traffic grows from 10 % to 100 % of the rate before the trip over this time; 0s is off.
        ramp: Duration = 10 * SECOND, in Duration::ZERO..=HOUR;
        /// `shadow` counts and reports, but rejects nothing.
        mode: EnforcementMode = EnforcementMode::Enforce;
        /// Whether the hosts of a fleet share this breaker through Redis, and the quorum that opens it. `false`: each host decides alone.
        shared: Option<Quorum> as SharedQuorum = Quorum::absent();
    }
    computed {
        /// Its name under `breakers`.
        name: String = "default".to_owned();
    }
}

section! {
    /// More than this share of the attempts failed.
    for RateRule {
        /// The share of failures.
        above: f64 as Share = 0.5, in ABOVE_NONE..=1.0;
        /// The time over which attempts are counted.
        over: Duration = 30 * SECOND, in SECOND..=HOUR;
        /// The rule does not apply to fewer attempts in that time.
        min_requests: u32 = 20, in 1..=1_000_000;
    }
}

section! {
    /// More than this share of the attempts was slow.
    for SlowRule, finish one_limit {
        /// An attempt is slow whose first byte takes longer.
        slower_than: Duration = 20 * SECOND, in MS..=HOUR;
        /// Replaces `slower_than`: an attempt is slow if it takes more than this many times the usual 95th percentile of its route, provider and model. While that is not known, no attempt is counted.
        slower_than_baseline: Option<f64> = None => "none", in 1.0..=100.0;
        /// The share of slow attempts.
        above: f64 as Share = 0.8, in ABOVE_NONE..=1.0;
        /// The time over which attempts are counted.
        over: Duration = 30 * SECOND, in SECOND..=HOUR;
        /// The rule does not apply to fewer attempts in that time.
        min_requests: u32 = 20, in 1..=1_000_000;
    }
}

section! {
    /// The fleet opens the breaker when both hold.
    for Quorum {
        /// Hosts whose own breaker must have tripped, at least.
        hosts "quorum": u32 = 2, in 1..=1000;
        /// Share of the hosts with traffic there whose breaker must have tripped, at least.
        fraction: f64 as Share = 0.3, in ABOVE_NONE..=1.0;
    }
}

words! {
    /// The part that has its own breaker.
    pub enum Scope { Endpoint = "endpoint", Model = "model", }
}
words!(for EnforcementMode: &EnforcementMode::ALL);

impl Breaker {
    /// `probe_lease`: longer than an attempt may take, so that only a lost probe outlives it.
    pub fn policy(&self, probe_lease: Duration) -> BreakerPolicy {
        BreakerPolicy {
            failure_threshold: self.failure_threshold,
            failure_rate: self.failure_rate,
            slow_rate: self.slow_rate,
            recovery_timeout: self.recovery_timeout,
            backoff_multiplier: self.backoff_multiplier,
            max_recovery_timeout: self.max_recovery_timeout,
            success_threshold: self.success_threshold,
            probes: self.probes,
            probe_lease,
            ramp: self.ramp,
            mode: self.mode,
            shared: self.shared,
        }
    }
}

fn longest_open_time_last(breaker: &mut Breaker, node: NodeId, check: &mut Checker<'_>) {
    let times = [breaker.recovery_timeout, breaker.max_recovery_timeout];
    check.in_order(node, ["recovery_timeout", "max_recovery_timeout"], times);
}

fn one_limit(_: &mut SlowRule, node: NodeId, check: &mut Checker<'_>) {
    if let [_, second] = check.present_keys(node, &["slower_than", "slower_than_baseline"])[..]
        && let Some(at) = check.tree.child(node, second)
    {
        check.error(at, "expected `slower_than` or `slower_than_baseline`, found both");
    }
}

/// `true`, `false`, or the keys of a quorum.
#[derive(Debug)]
pub struct SharedQuorum;

impl Form<Option<Quorum>> for SharedQuorum {
    fn read(node: NodeId, check: &mut Checker<'_>) -> Option<Option<Quorum>> {
        match check.tree.text(node) {
            Some("true") => Some(Quorum::absent()),
            Some("false") => Some(None),
            Some(_) => {
                check.unexpected(node, "`true`, `false`, or a map");
                None
            }
            None => Quorum::read(node, check).map(Some),
        }
    }

    fn show(value: &Option<Quorum>, out: &mut Display<'_>) {
        match value {
            Some(quorum) => Quorum::show(quorum, out),
            None => out.text("false"),
        }
    }

    fn describe(out: &mut Reference) -> ValueShape {
        ValueShape::OneOf(vec![Quorum::describe(out), bool::describe(out)])
    }
}
