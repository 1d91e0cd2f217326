//! The values of a policy as people would write them, each under its key.
//!
//! One list for all who tell values (`diff.rs` what changes, `outrigger explain` what is in
//! force), so that a new key is told by both. Nothing here can be a secret: of headers only the
//! names are shown, of credentials the references, of certificates the paths.

use std::time::Duration;

use http::Method;

use super::matcher::{HostPattern, PathPattern, Segment};
use super::model::{
    Accept, AllowOverride, Auth, Breaker, Callback, Capacity, Cost, Durable, LogTarget, Mark,
    Match, Pem, Policy, Provider, Queue, Retry, Route, Server, Stream, Timeouts, Url, Usage,
    Weighted,
};
use super::words::word;
use crate::json::pointer::Pointer;
use crate::policy::section::checker::{show, show_size};
use crate::policy::yaml::units::SPANS;
use crate::resilience::outcome::ClassSet;
use crate::resilience::rate::gcra::RatePolicy;

const BUILT_IN: &str = "built in";

/// Keys below what they belong to (`budget.ratio`), and their values.
pub type Shown = Vec<(&'static str, String)>;

pub fn server(server: &Server) -> Shown {
    let identity = server.tls.as_ref();
    let to = match &server.access_log.to {
        LogTarget::Stderr => "stderr".to_owned(),
        LogTarget::None => "none".to_owned(),
        LogTarget::File(path) => path.display().to_string(),
    };
    vec![
        ("connections", server.connections.to_string()),
        ("buffered", show_size(server.buffered)),
        ("header_bytes", show_size(server.header_bytes as u64)),
        ("header_time", show(server.header_time)),
        ("keep_alive", show(server.keep_alive)),
        ("forwarded", word(server.forwarded).to_owned()),
        ("tls.cert", pem(identity.map(|identity| &identity.cert))),
        ("tls.key", pem(identity.map(|identity| &identity.key))),
        ("access_log.to", to),
        ("access_log.format", word(server.access_log.format).to_owned()),
        ("drain_delay", show(server.drain_delay)),
        ("drain_timeout", show(server.drain_timeout)),
    ]
}

pub fn timeouts(timeouts: &Timeouts) -> Shown {
    vec![
        ("connect", show(timeouts.connect)),
        ("headers", show(timeouts.headers)),
        ("first_byte", show(timeouts.first_byte)),
        ("idle", show(timeouts.idle)),
    ]
}

pub fn capacity(capacity: &Capacity) -> Shown {
    vec![
        ("concurrency", capacity.concurrency.to_string()),
        ("adaptive", capacity.adaptive.to_string()),
        ("requests", capacity.requests.map_or_else(|| "none".to_owned(), rate)),
        ("tokens", capacity.tokens.map_or_else(|| "none".to_owned(), rate)),
        ("follow_headers", capacity.follow_headers.to_string()),
        ("connections", capacity.connections.to_string()),
    ]
}

/// What its answers take and cost, and which of its models continue one.
pub fn answers(provider: &Provider) -> Shown {
    let (usage, built_in) = (&provider.usage, Usage::default());
    let mut shown = vec![
        ("prefill", list(provider.prefill.iter(), "none")),
        ("usage.input", pointers(&usage.input, &built_in.input)),
        ("usage.output", pointers(&usage.output, &built_in.output)),
    ];
    let Some(price) = &provider.price else {
        shown.push(("price", "none".to_owned()));
        return shown;
    };
    // To a millionth, so that what is not exact in binary is shown as it was written.
    let of_1m = |one: f64| format!("{} {} per 1M", (one * 1e12).round() / 1e6, price.currency);
    shown.extend([("price.input", of_1m(price.input)), ("price.output", of_1m(price.output))]);
    shown
}

pub fn retry(retry: &Retry) -> Shown {
    vec![
        ("max_attempts", retry.max_attempts.to_string()),
        ("fallback_attempts", retry.fallback_attempts.to_string()),
        ("patience", show(retry.patience)),
        ("initial_delay", show(retry.backoff.initial)),
        ("max_delay", show(retry.backoff.max)),
        ("backoff_multiplier", retry.backoff.multiplier.to_string()),
        ("jitter", retry.backoff.jitter.as_str().to_owned()),
        ("retry_on", classes(retry.retry_on)),
        ("respect_retry_after", retry.respect_retry_after.to_string()),
        ("budget.ratio", retry.budget.ratio.to_string()),
        ("budget.min_per_second", retry.budget.min_per_second.to_string()),
        ("budget.window", show(retry.budget.window)),
        ("budget.cost", retry.cost.as_ref().map_or_else(|| "none".to_owned(), cost)),
    ]
}

pub fn breaker(breaker: &Breaker) -> Shown {
    let policy = &breaker.policy;
    let mut shown = vec![
        ("scope", word(breaker.scope).to_owned()),
        ("failure_threshold", policy.failure_threshold.to_string()),
    ];
    match &policy.failure_rate {
        None => shown.push(("failure_rate", "none".to_owned())),
        Some(rate) => shown.extend([
            ("failure_rate.above", rate.above.to_string()),
            ("failure_rate.over", show(rate.over)),
            ("failure_rate.min_requests", rate.min_requests.to_string()),
        ]),
    }
    match &policy.slow_rate {
        None => shown.push(("slow_rate", "none".to_owned())),
        Some(rate) => shown.extend([
            ("slow_rate.slower_than", show(rate.slower_than)),
            ("slow_rate.above", rate.above.to_string()),
            ("slow_rate.over", show(rate.over)),
            ("slow_rate.min_requests", rate.min_requests.to_string()),
        ]),
    }
    shown.extend([
        ("recovery_timeout", show(policy.recovery_timeout)),
        ("backoff_multiplier", policy.backoff_multiplier.to_string()),
        ("max_recovery_timeout", show(policy.max_recovery_timeout)),
        ("success_threshold", policy.success_threshold.to_string()),
        ("probes", policy.probes.to_string()),
        ("ramp", show(policy.ramp)),
        ("mode", policy.mode.as_str().to_owned()),
    ]);
    match &policy.shared {
        None => shown.push(("shared", "false".to_owned())),
        Some(quorum) => shown.extend([
            ("shared.quorum", quorum.hosts.to_string()),
            ("shared.fraction", quorum.fraction.to_string()),
        ]),
    }
    shown
}

pub fn queue(queue: &Queue) -> Shown {
    let name = |header: &Option<http::HeaderName>| {
        header.as_ref().map_or_else(|| "none".to_owned(), http::HeaderName::to_string)
    };
    let classes = queue.classes.iter().map(|class| format!("{} {}", class.name, class.weight));
    let default = queue.classes.get(queue.default_class);
    let mut shown = vec![
        ("max_waiting", queue.max_waiting.to_string()),
        ("max_bytes", show_size(queue.max_bytes)),
        ("max_wait", show(queue.max_wait)),
        ("classes", list(classes, "none")),
        ("class.header", name(&queue.class_header)),
        ("class.default", default.map_or_else(|| "none".to_owned(), |class| class.name.clone())),
        ("flow.header", name(&queue.flow)),
    ];
    shown.extend(durable(&queue.durable));
    shown
}

fn durable(durable: &Durable) -> Shown {
    let mut shown = vec![("durable.accept", word(durable.accept).to_owned())];
    if durable.accept == Accept::Never {
        return shown;
    }
    shown.extend([
        ("durable.workers", durable.workers.to_string()),
        ("durable.max_jobs", durable.max_jobs.to_string()),
        ("durable.max_bytes", show_size(durable.max_bytes)),
        ("durable.max_deliveries", durable.max_deliveries.to_string()),
        ("durable.expire", show(durable.expire)),
        ("durable.keep_result", show(durable.keep_result)),
        ("durable.max_result", show_size(durable.max_result)),
        ("durable.share", durable.share.to_string()),
        ("durable.callback.allow", list(durable.callback.iter().map(callback), "none")),
    ]);
    shown
}

/// Its own values; what it refers to by name is shown by itself.
pub fn route(route: &Route) -> Shown {
    let mut shown = vec![
        ("balance", route.balance.as_str().to_owned()),
        ("fallback_on", classes(route.fallback_on)),
        ("idempotent", route.idempotent.as_str().to_owned()),
        ("timeout", show(route.timeout)),
        ("replay", show_size(route.replay)),
        ("strip_prefix", route.strip_prefix.clone().unwrap_or_else(|| "none".to_owned())),
        ("allow_override", allowed(route.allow_override)),
    ];
    shown.extend(stream(&route.stream));
    match &route.hedge {
        None => shown.push(("hedge", "none".to_owned())),
        Some(hedge) => shown.extend([
            ("hedge.extra_load", hedge.extra_load.to_string()),
            ("hedge.after", hedge.after.map_or_else(|| "percentile".to_owned(), show)),
        ]),
    }
    match &route.affinity {
        None => shown.push(("affinity", "none".to_owned())),
        Some(affinity) => shown.extend([
            ("affinity.header", affinity.header.to_string()),
            ("affinity.ttl", show(affinity.ttl)),
        ]),
    }
    shown
}

fn stream(stream: &Stream) -> Shown {
    let marks = stream.terminal.iter().flatten().map(|mark| match mark {
        Mark::Text(text) => format!("{text:?}"),
        Mark::Value(pointer, value) => format!("{pointer} = {value:?}"),
        Mark::Present(pointer) => pointer.to_string(),
    });
    vec![
        ("stream.commit", stream.commit.map_or("by kind", word).to_owned()),
        ("stream.buffer.bytes", show_size(stream.buffer.bytes)),
        ("stream.buffer.frames", stream.buffer.frames.to_string()),
        ("stream.buffer.for", show(stream.buffer.time)),
        ("stream.on_cut", word(stream.on_cut).to_owned()),
        ("stream.content", pointers(stream.content.as_deref().unwrap_or_default(), &[])),
        ("stream.terminal", list(marks, BUILT_IN)),
    ]
}

/// Of headers the names only: a value may be a credential.
pub fn matcher(matcher: &Match) -> Shown {
    let methods = matcher.methods.iter().map(Method::as_str);
    let headers = matcher.headers.iter().map(|(name, _)| name.as_str());
    let host = match &matcher.host {
        None | Some(HostPattern::Any) => "any".to_owned(),
        Some(HostPattern::Exact(name)) => name.clone(),
        Some(HostPattern::Below(suffix)) => format!("*{suffix}"),
    };
    vec![
        ("path", path(&matcher.path)),
        ("methods", list(methods, "any")),
        ("host", host),
        ("headers", list(headers, "any")),
    ]
}

fn path(pattern: &PathPattern) -> String {
    match pattern {
        PathPattern::Regex(regex) => format!("regex {}", regex.as_str()),
        PathPattern::Segments { segments, rest } => {
            let text = segments.iter().map(|segment| match segment {
                Segment::Exact(text) => format!("/{text}"),
                Segment::Any => "/*".to_owned(),
            });
            text.chain(rest.then(|| "/**".to_owned())).collect()
        }
    }
}

/// `openai (weight 3), azure`.
pub fn providers(policy: &Policy, listed: &[Weighted]) -> String {
    let named = listed.iter().map(|weighted| {
        let name = &policy.providers[weighted.provider].name;
        match weighted.weight {
            1 => name.clone(),
            weight => format!("{name} (weight {weight})"),
        }
    });
    list(named, "none")
}

pub fn fallback(policy: &Policy, listed: &[usize]) -> String {
    list(listed.iter().map(|index| policy.providers[*index].name.as_str()), "none")
}

pub fn url(url: &Url) -> String {
    let scheme = if url.https { "https" } else { "http" };
    format!("{scheme}://{}{}", url.authority, url.path)
}

/// `authorization from env:OPENAI_API_KEY`: references, never values.
pub fn auth(auth: &Auth) -> String {
    match auth {
        Auth::None => "none".to_owned(),
        Auth::Passthrough => "passthrough".to_owned(),
        Auth::Credentials(all) => {
            let references = list(all.iter().map(|one| one.reference.as_str()), "none");
            match all.first() {
                Some(first) => format!("{} from {references}", first.header),
                None => references,
            }
        }
    }
}

pub fn pem(pem: Option<&Pem>) -> String {
    pem.map_or_else(|| "none".to_owned(), |pem| pem.path.display().to_string())
}

fn callback(allowed: &Callback) -> String {
    let (scheme, usual) = if allowed.https { ("https", 443) } else { ("http", 80) };
    let host = match allowed.host.contains(':') {
        true => format!("[{}]", allowed.host),
        false => allowed.host.clone(),
    };
    let port = if allowed.port == usual { String::new() } else { format!(":{}", allowed.port) };
    format!("{scheme}://{host}{port}{}", allowed.path)
}

/// `500/min, burst 20`: in the shortest span of which it is a whole number.
fn rate(rate: RatePolicy) -> String {
    let amount = |seconds: u64| rate.rate * seconds as f64;
    let whole = |amount: f64| (amount - amount.round()).abs() <= amount * 1e-12;
    let span = SPANS.into_iter().find(|(_, seconds)| whole(amount(*seconds)));
    let (name, seconds) = span.unwrap_or(SPANS[0]);
    format!("{}/{name}, burst {}", hundredths(amount(seconds)), hundredths(rate.burst))
}

fn hundredths(number: f64) -> f64 {
    (number * 100.0).round() / 100.0
}

/// `5 USD/h`
fn cost(cost: &Cost) -> String {
    let window = cost.policy.window;
    let span = SPANS.into_iter().find(|(_, seconds)| Duration::from_secs(*seconds) == window);
    let span = span.map_or_else(|| show(window), |(name, _)| name.to_owned());
    format!("{} {}/{span}", cost.policy.limit, cost.currency)
}

fn pointers(listed: &[Pointer], built_in: &[Pointer]) -> String {
    if listed == built_in {
        return BUILT_IN.to_owned();
    }
    list(listed.iter().map(Pointer::to_string), "none")
}

fn classes(classes: ClassSet) -> String {
    list(classes.iter().map(|class| class.as_str()), "none")
}

fn allowed(allow: AllowOverride) -> String {
    let words = [
        ("timeout", allow.timeout),
        ("retry", allow.retry),
        ("idempotent", allow.idempotent),
        ("priority", allow.priority),
    ];
    list(words.into_iter().filter(|(_, allowed)| *allowed).map(|(word, _)| word), "none")
}

fn list(items: impl Iterator<Item = impl AsRef<str>>, empty: &str) -> String {
    let items: Vec<_> = items.map(|item| item.as_ref().to_owned()).collect();
    if items.is_empty() { empty.to_owned() } else { items.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::yaml::units;
    use proptest::prelude::*;

    #[test]
    fn an_allowed_callback_is_shown_as_it_was_written() {
        use crate::policy::sections::urls::callback_url;
        for text in ["https://app.internal/**", "http://[::1]:8080/a/*", "https://a:8443/"] {
            assert_eq!(callback(&callback_url(text).unwrap()), text);
        }
    }

    proptest! {
        #[test]
        fn a_path_is_shown_as_it_was_written(text in "(/(a|b|\\*)?){0,3}(/\\*\\*)?") {
            if let Ok(pattern) = PathPattern::parse(&text) {
                prop_assert_eq!(path(&pattern), text);
            }
        }

        #[test]
        fn a_rate_is_shown_as_one_that_is_the_same(
            amount in 1u64..=1_000_000_000, span in 0..SPANS.len(), burst in 1u32..1000,
        ) {
            let written = units::rate(&format!("{amount}/{}", SPANS[span].0)).unwrap();
            let policy = RatePolicy { rate: written.a_second(), burst: f64::from(burst) };
            let shown = rate(policy);
            let (shown, shown_burst) = shown.split_once(", burst ").unwrap();
            prop_assert_eq!(units::rate(shown).unwrap().a_second(), policy.rate);
            prop_assert_eq!(shown_burst, burst.to_string());
        }
    }
}
