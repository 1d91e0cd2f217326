//! Caches and modes of degradation as people would write them; see `shown.rs`.

use super::actions::key;
use super::model::{
    Action, Cache, Degradation, Keeps, KeyPart, Notify, Of, Policy, Reduction, Respond, Route, Sign,
};
use super::shown::Shown;
use crate::policy::section::checker::{show, show_size};
use crate::resilience::condition::Condition;

pub fn cache(cache: &Cache) -> Shown {
    let mut shown = vec![("max_bytes", show_size(cache.max_bytes))];
    match &cache.store {
        Keeps::Http => shown.push(("store", "http".to_owned())),
        Keeps::Always { ttl, key, public } => {
            let parts: Vec<_> = key.iter().map(key_part).collect();
            shown.extend([
                ("store.ttl", show(*ttl)),
                ("store.key", parts.join(", ")),
                ("store.public", public.to_string()),
            ]);
        }
    }
    shown.extend([
        ("stale_if_error", show(cache.stale_if_error)),
        ("stale_while_revalidate", show(cache.stale_while_revalidate)),
    ]);
    shown
}

fn key_part(part: &KeyPart) -> String {
    match part {
        KeyPart::Method => "method".to_owned(),
        KeyPart::Path => "path".to_owned(),
        KeyPart::Query => "query".to_owned(),
        KeyPart::Body => "body".to_owned(),
        KeyPart::Header(name) => format!("header:{name}"),
    }
}

pub fn degradation(policy: &Policy, mode: &Degradation) -> Shown {
    let actions: Vec<_> = mode.actions.iter().map(|one| action(policy, one)).collect();
    vec![
        ("mode", mode.mode.as_str().to_owned()),
        ("when", condition(policy, &mode.when)),
        ("for", show(mode.hold)),
        ("recover_after", show(mode.recover_after)),
        ("actions", actions.join("; ")),
    ]
}

/// The names of a route's modes, in order.
pub fn modes(policy: &Policy, route: &Route) -> String {
    let names: Vec<_> =
        route.degrade.iter().map(|index| policy.degradations[*index].name.as_str()).collect();
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}

pub fn condition(policy: &Policy, of: &Condition<Sign>) -> String {
    let all = |of: &[Condition<Sign>], between: &str| {
        let each: Vec<_> = of.iter().map(|one| condition(policy, one)).collect();
        match each.as_slice() {
            [only] => only.clone(),
            _ => format!("({})", each.join(between)),
        }
    };
    match of {
        Condition::Any(of) => all(of, " or "),
        Condition::All(of) => all(of, " and "),
        Condition::Is(one) => sign(policy, one),
    }
}

/// `error_rate of chat above 0.25 over 30s`: the policy's words in a row.
pub fn sign(policy: &Policy, sign: &Sign) -> String {
    let provider = |index: usize| policy.providers[index].name.as_str();
    let of = |of: &Of| match of {
        Of::Route(index) => policy.routes[*index].name.as_str(),
        Of::Provider(index) => provider(*index),
        Of::Nobody => "a disabled route",
    };
    match sign {
        Sign::BreakerOpen(index) => format!("breaker_open {}", provider(*index)),
        Sign::ErrorRate { of: whose, above, over, min_requests } => format!(
            "error_rate of {} above {above} over {} of at least {min_requests}",
            of(whose),
            show(*over)
        ),
        Sign::Latency { of: whose, quantile, above, over, min_requests } => format!(
            "latency of {}: p{:.0} above {} over {} of at least {min_requests}",
            of(whose),
            quantile * 100.0,
            show(*above),
            show(*over)
        ),
        Sign::QueueWaiting { queue, above } => {
            format!("queue_waiting of {} above {above}", policy.queues[*queue].name)
        }
        Sign::CapacityUsed { provider: index, above } => {
            format!("capacity_used of {} above {above}", provider(*index))
        }
        Sign::Manual => "by hand".to_owned(),
    }
}

/// Of headers the names only, of a webhook the reference.
pub fn action(policy: &Policy, action: &Action) -> String {
    let named = key(action);
    match action {
        Action::Reduce(reduction) => format!("{named} {}", reduced(reduction)),
        Action::Use(providers) => {
            let names: Vec<_> =
                providers.iter().map(|index| policy.providers[*index].name.as_str()).collect();
            format!("{named} {}", names.join(", "))
        }
        Action::ServeStale(within) => format!("{named} {}", show(*within)),
        Action::Shed(class) => format!("{named} {class}"),
        Action::Respond(respond) => format!("{named} {}", responded(respond)),
        Action::Notify(notify) => format!("{named} {}", notified(notify)),
    }
}

fn reduced(reduction: &Reduction) -> String {
    let Reduction { rewrite, models, set_headers, remove_headers } = reduction;
    let set = rewrite.set.iter().map(|(pointer, value)| format!("{pointer} = {value}"));
    let without = rewrite.remove.iter().map(|pointer| format!("without {pointer}"));
    let models = models.iter().map(|(from, to)| format!("model {from} -> {to}"));
    let headers = set_headers.iter().map(|(name, _)| format!("header {name}"));
    let dropped = remove_headers.iter().map(|name| format!("without header {name}"));
    let path = rewrite.path.iter().map(|(from, to)| format!("path {} -> {to}", from.as_str()));
    let parts: Vec<_> =
        set.chain(without).chain(models).chain(headers).chain(dropped).chain(path).collect();
    if parts.is_empty() { "nothing".to_owned() } else { parts.join(", ") }
}

fn responded(respond: &Respond) -> String {
    match respond.body.len() {
        0 => respond.status.as_str().to_owned(),
        bytes => format!("{} with {bytes} bytes", respond.status.as_str()),
    }
}

fn notified(notify: &Notify) -> &str {
    &notify.reference
}
