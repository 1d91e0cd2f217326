//! The section `degradations`: when a mode of degradation is entered, and what it does.
//!
//! A condition names routes, providers and queues, and a route names modes. The requirements of an
//! action (a class to shed, a cache to serve from) are checked for each route that has the mode
//! (`validate.rs`).

use std::time::Duration;

use super::action::{Action, consistent_actions};
use super::provider::ProviderPolicy;
use super::queue::Queue;
use crate::policy::section::scalars::{ABOVE_NONE, BELOW_ALL};
use crate::policy::section::{
    Checker, Display, Form, KeyText, NameOf, NamedSection, Reference, Required, Share, ValueShape,
    one_of, section, text_form, words,
};
use crate::policy::yaml::tree::NodeId;
use crate::policy::yaml::units::{DAY, HOUR, MINUTE, MS, SECOND, show_duration};
use crate::resilience::baseline::measure::Slowness;
use crate::resilience::breaker::EnforcementMode;
use crate::resilience::condition::Condition;

/// The section of the routes, which names modes in its turn.
const ROUTES: &str = "routes";

/// Modes that may be enabled: one bit each.
pub const MOST_MODES: usize = 64;

section! {
    /// A degradation mode.
    #[derive(Clone, Debug)]
    pub struct Degradation, finish consistent {
        /// Whether the mode is used.
        enabled: bool = true;
        /// `shadow`: the mode is entered, left and reported, but only its `notify` actions are performed.
        mode: EnforcementMode = EnforcementMode::Enforce;
        /// When the mode is entered.
        when: Condition<Sign> as When, like "{ breaker_open: openai }";
        /// How long the condition must hold before the mode is entered.
        hold "for": Duration = 5 * SECOND, in Duration::ZERO..=DAY;
        /// How long the condition must not hold before the mode is left.
        recover_after: Duration = 30 * SECOND, in Duration::ZERO..=DAY;
        /// In order. Where several modes are active, they apply in the order of the route's `degrade`.
        actions: Vec<Action> as Required<Vec<Action>>, like "[{ shed: low }]",
            where some("no action: expected at least one, like `{ shed: low }`");
    }
    computed {
        name: String = String::new();
    }
}

fn consistent(_: &mut Degradation, node: NodeId, check: &mut Checker<'_>) {
    if let Some(list) = check.tree.child(node, "actions") {
        consistent_actions(list, check);
    }
}

impl Degradation {
    /// Replaces a mode that could not be read.
    pub fn stand_in() -> Degradation {
        Degradation {
            enabled: true,
            mode: EnforcementMode::Enforce,
            when: Condition::Any(Vec::new()),
            hold: Duration::ZERO,
            recover_after: Duration::ZERO,
            actions: Vec::new(),
            name: String::new(),
        }
    }
}

one_of! {
    /// A condition on one part of the policy.
    #[derive(Clone, Debug, PartialEq)]
    pub enum Sign as SignKind, one condition {
        /// A provider of which no endpoint admits attempts.
        BreakerOpen "breaker_open": usize as BreakerOpen;
        /// The share of a route's requests, or of a provider's attempts, that failed.
        ErrorRate "error_rate": ErrorRate;
        /// The time of a route's requests to the commit, or of a provider's attempts to the response head.
        Latency "latency": Latency;
        /// Requests that wait in a queue.
        QueueWaiting "queue_waiting": QueueWaiting;
        /// The largest used share of a provider's `capacity`.
        CapacityUsed "capacity_used": CapacityUsed;
        /// Calls that are slower than usual.
        SlowerThanBaseline "slower_than_baseline": SlowerThanBaseline;
        /// `true`: the mode is entered by an operator only.
        Manual "manual": Manual;
    }
}

section! {
    /// The share of a route's requests, or of a provider's attempts, that failed.
    #[derive(Clone, Debug, PartialEq)]
    pub struct ErrorRate {
        /// A route or a provider.
        of: Of, like "chat";
        /// The condition holds above this share.
        above: f64 as Share, in ABOVE_NONE..=BELOW_ALL, like "25%";
        /// The time over which they are counted.
        over: Duration = 30 * SECOND, in SECOND..=HOUR;
        /// The condition does not hold with fewer in that time.
        min_requests: u32 = 20, in 1..=1_000_000;
    }
}

section! {
    /// The time of a route's requests to the commit, or of a provider's attempts to the response head.
    #[derive(Clone, Debug, PartialEq)]
    pub struct Latency {
        /// A route or a provider.
        of: Of, like "chat";
        /// One of the three.
        threshold: Quantile as QuantileAbove;
        /// The time over which they are measured.
        over: Duration = MINUTE, in SECOND..=HOUR;
        /// The condition does not hold with fewer in that time.
        min_requests: u32 = 20, in 1..=1_000_000;
    }
}

section! {
    /// Requests that wait in a queue.
    #[derive(Clone, Debug, PartialEq)]
    pub struct QueueWaiting {
        /// A queue.
        queue "of": usize as NameOf<Queue>, like "default";
        /// The condition holds above this number.
        above: u64, in 0..=1_000_000, like "500";
    }
}

section! {
    /// The largest used share of a provider's `capacity`.
    #[derive(Clone, Debug, PartialEq)]
    pub struct CapacityUsed {
        /// A provider.
        provider "of": usize as NameOf<ProviderPolicy>, like "openai";
        /// The condition holds above this share.
        above: f64 as Share, in ABOVE_NONE..=BELOW_ALL, like "90%";
    }
}

section! {
    /// A latency, a time to the first content or a token rate is worse than its baseline, which is learned from the last day.
    #[derive(Clone, Debug, PartialEq)]
    pub struct SlowerThanBaseline {
        /// A route or a provider: any of its models.
        of: Of, like "openai";
        /// The condition holds only while it is more than this many times as slow.
        factor: Option<f64> = None => "any detected regression", in 1.0..=100.0;
        /// The kind of slowness; `latency` is the median or the 95th percentile.
        measure: Option<Slowness> = None => "any of them";
    }
}

words!(for Slowness: &Slowness::ALL);

// === parts of conditions ===

/// The requests or attempts that are counted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Of {
    /// An index into `Policy::routes`.
    Route(usize),
    /// An index into `Policy::providers`.
    Provider(usize),
    /// A route that is disabled: it has no requests.
    Disabled,
}

text_form! {
    impl Form<Of> for Of {
        read(node, check) {
            let name = check.text(node, "a name")?;
            let (route, provider) =
                (check.names.find(ROUTES, name), check.names.find(ProviderPolicy::KEY, name));
            match (route, provider) {
                (Some(_), Some(_)) => {
                    let message = format!("`{name}` is a route and a provider");
                    check.report(node, |tree| {
                        tree.on_value(node, message).help("give one of them another name")
                    });
                    None
                }
                (Some(index), None) => Some(index.map_or(Of::Disabled, Of::Route)),
                (None, Some(index)) => index.map(Of::Provider),
                (None, None) => {
                    let all = check.names.all(ROUTES).chain(check.names.all(ProviderPolicy::KEY));
                    let all: Vec<_> = all.map(str::to_owned).collect();
                    check.unknown_name(node, "route or provider", "routes` or `providers", &all);
                    None
                }
            }
        }
        show(value, out) {
            let name = match value {
                Of::Route(index) => out.name_of(ROUTES, *index),
                Of::Provider(index) => out.name_of(ProviderPolicy::KEY, *index),
                Of::Disabled => "a disabled route".to_owned(),
            };
            out.text(name);
        }
        describe(_) { ValueShape::OneOf(vec![ValueShape::named("route"), ValueShape::named(ProviderPolicy::ONE)]) }
    }
}

text_form! {
    /// A provider that has a breaker.
    struct BreakerOpen for usize {
        read(node, check) {
            let provider = check.index_of::<ProviderPolicy>(node)?;
            let name = check.tree.text(node).unwrap_or_default();
            let breaker = check.declared(&["providers", name, "breaker"]);
            if breaker.and_then(|at| check.tree.text(at)) == Some("none") {
                check.error(node, format!("`{name}` has `breaker: none`, so this condition is never met"));
            }
            Some(provider)
        }
        show(value, out) { out.text(out.name_of(ProviderPolicy::KEY, *value)); }
        describe(out) { <NameOf<ProviderPolicy>>::describe(out) }
    }
}

/// A part of all requests, and the time that the rest must exceed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Quantile {
    /// In (0, 1).
    pub quantile: f64,
    pub above: Duration,
}

/// One of the keys of `QUANTILES`.
#[derive(Debug)]
pub struct QuantileAbove;

const QUANTILES: [(&str, f64); 3] = [("p50_above", 0.5), ("p95_above", 0.95), ("p99_above", 0.99)];

impl Form<Quantile> for QuantileAbove {
    const FLATTENED: bool = true;

    fn read(node: NodeId, check: &mut Checker<'_>) -> Option<Quantile> {
        let tree = check.tree;
        let given = QUANTILES.into_iter().filter_map(|(key, quantile)| {
            let at = tree.child(node, key)?;
            let above = Duration::read(at, check);
            if let Some(above) = &above {
                check.bounded::<Duration, Duration>(above, at, &(MS..=HOUR));
            }
            Some(above.map(|above| Quantile { quantile, above }))
        });
        let given: Vec<_> = given.collect();
        match given[..] {
            [one] => one,
            _ => check.reject(node, "expected one of `p50_above`, `p95_above` and `p99_above`"),
        }
    }

    fn keys(out: &mut Vec<&'static str>) {
        out.extend(QUANTILES.map(|(key, _)| key));
    }

    fn show(value: &Quantile, out: &mut Display<'_>) {
        let key = QUANTILES.iter().find(|(_, quantile)| *quantile == value.quantile);
        out.key(key.map_or("above", |(key, _)| key), |out| out.text(show_duration(value.above)));
    }

    fn describe(out: &mut Reference) -> ValueShape {
        Duration::describe(out)
    }

    fn describe_keys(out: &mut Reference) -> Vec<KeyText> {
        let key = |(name, quantile): (&'static str, f64)| {
            let share = 100.0 - quantile * 100.0;
            let text = format!("The condition holds when {share}% take longer.");
            KeyText::optional(name, &text, Duration::describe(out))
        };
        QUANTILES.map(key).into()
    }
}

/// `true`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Manual;

text_form! {
    impl Form<Manual> for Manual {
        read(node, check) {
            if !bool::read(node, check)? {
                let message = "expected `true`: a mode is entered by an operator, or on a condition";
                check.error(node, message);
            }
            Some(Manual)
        }
        show(_, out) { out.text("true"); }
        describe(out) { bool::describe(out) }
    }
}

// === conditions made of others ===

text_form! {
    /// One sign, or `any` or `all` of several conditions.
    struct When for Condition<Sign> {
        read(node, check) {
            let mut keys = vec!["any", "all"];
            Sign::keys(&mut keys);
            check.map(node, &keys)?;
            let given = check.present_keys(node, &keys);
            if given.len() > 1 && !check.damaged(node) {
                let found = given.len();
                let message =
                    format!("expected one condition, found {found} (put them under `any` or `all`)");
                return check.reject(node, message);
            }
            let key = check.only(node, "condition", &given)?;
            let tree = check.tree;
            match (key, tree.child(node, key)) {
                ("any", Some(list)) => conditions(list, check).map(Condition::Any),
                ("all", Some(list)) => {
                    let all = conditions(list, check)?;
                    let manual = tree.children(list).find_map(|one| tree.child(one, "manual"));
                    if let Some(manual) = manual {
                        let message =
                            "a manual condition never holds by itself, so `all` would never hold";
                        check.error(manual, message);
                    }
                    Some(Condition::All(all))
                }
                _ => Sign::read_keys(node, check).map(Condition::Is),
            }
        }
        show(value, out) { out.text(condition(value, out)); }
        describe(out) {
            out.section("Condition", &["One of these conditions."], |out| {
                let list = ValueShape::List(Box::new(ValueShape::Section("Condition")));
                let mut keys = vec![
                    KeyText::optional("any", "At least one of them holds.", list.clone()),
                    KeyText::optional("all", "Each of them holds.", list),
                ];
                keys.extend(Sign::describe_keys(out));
                keys
            })
        }
    }
}

fn conditions(list: NodeId, check: &mut Checker<'_>) -> Option<Vec<Condition<Sign>>> {
    let found = <Vec<When>>::read(list, check)?;
    check.some(list, "no condition: expected at least one");
    Some(found)
}

/// `(breaker_open openai or error_rate of chat, above 0.25, over 30s, min_requests 20)`.
fn condition(of: &Condition<Sign>, out: &Display<'_>) -> String {
    let all = |of: &[Condition<Sign>], between: &str| {
        let each: Vec<_> = of.iter().map(|one| condition(one, out)).collect();
        match each.as_slice() {
            [only] => only.clone(),
            _ => format!("({})", each.join(between)),
        }
    };
    match of {
        Condition::Any(of) => all(of, " or "),
        Condition::All(of) => all(of, " and "),
        Condition::Is(sign) => out.one_line::<Sign, Sign>(sign),
    }
}
