//! `outrigger explain`: what the policy would do with a request, and where it says so.

use std::fmt::{self, Write as _};
use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri};

use crate::policy::model::{Breaker, Match, Provider, Retry, Route, Scope};
use crate::policy::problem::render;
use crate::policy::{Places, Policy};
use crate::resilience::balancer::Balance;
use crate::resilience::outcome::{Class, ClassSet};
use crate::snapshot::reload;

#[derive(Debug, clap::Args)]
pub struct Args {
    method: Method,
    /// A whole URL, or a path.
    url: Uri,
    /// A header of the request, as often as needed.
    #[arg(short = 'H', long = "header", value_name = "NAME: VALUE", value_parser = header)]
    headers: Vec<(HeaderName, HeaderValue)>,
    /// Directory of the policies, or one file.
    #[arg(long, env = "OUTRIGGER_POLICIES", default_value = "policies", value_name = "PATH")]
    policies: PathBuf,
}

fn header(text: &str) -> Result<(HeaderName, HeaderValue), String> {
    let expected = || format!("`{text}` is no header (expected one like 'x-tenant: gold')");
    let (name, value) = text.split_once(':').ok_or_else(expected)?;
    let name = name.trim().parse().map_err(|_| expected())?;
    Ok((name, value.trim().parse().map_err(|_| expected())?))
}

/// Exits 1 when no route takes the request, 2 when there is no valid policy.
pub fn run(args: &Args) -> ExitCode {
    let read = match reload::read(&args.policies) {
        Ok(read) => read,
        Err(problems) => {
            eprintln!("{}", render(&problems, std::io::stderr().is_terminal()));
            return ExitCode::from(2);
        }
    };
    let headers: HeaderMap = args.headers.iter().cloned().collect();
    let host = args.url.authority().map(|a| a.as_str().to_owned());
    let host = host.or_else(|| Some(headers.get("host")?.to_str().ok()?.to_owned()));
    let asked = Asked { args, host: host.unwrap_or_default(), headers };
    let mut text = String::new();
    let found = explain(&mut text, &asked, read.policy(), read.places());
    // A reader that has gone needs no answer.
    let _ = write!(std::io::stdout().lock(), "{text}");
    if matches!(found, Ok(true)) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

struct Asked<'a> {
    args: &'a Args,
    host: String,
    headers: HeaderMap,
}

fn explain(
    out: &mut String,
    asked: &Asked<'_>,
    policy: &Policy,
    places: &Places,
) -> Result<bool, fmt::Error> {
    let (method, path) = (&asked.args.method, asked.args.url.path());
    writeln!(out, "{method} {path}")?;
    if *method == Method::CONNECT || path.starts_with("/.outrigger/") {
        writeln!(
            out,
            "  no route is asked: CONNECT is refused, and paths under /.outrigger/ are ours"
        )?;
        return Ok(false);
    }
    for route in &policy.routes {
        let at = place(places, &format!("routes.{}", route.name));
        if let Some(why) = passed_over(&route.matcher, asked) {
            writeln!(out, "  not {:<24} {why} ({at})", route.name)?;
            continue;
        }
        writeln!(out, "  route {:<22} ({at})", route.name)?;
        providers(out, policy, places, route)?;
        values(out, places, route)?;
        return Ok(true);
    }
    writeln!(out, "  no route takes it: the answer is 404")?;
    Ok(false)
}

/// Which part of a match fails.
fn passed_over(matcher: &Match, asked: &Asked<'_>) -> Option<&'static str> {
    let (method, path) = (&asked.args.method, asked.args.url.path());
    if matcher.matches(method, &asked.host, path, &asked.headers) {
        return None;
    }
    let methods = &matcher.methods;
    Some(match () {
        () if !matcher.path.matches(path) => "another path",
        () if !(methods.is_empty() || methods.contains(method)) => "another method",
        () if matcher.host.as_ref().is_some_and(|h| !h.matches(&asked.host)) => "another host",
        () => "other headers",
    })
}

fn providers(out: &mut String, policy: &Policy, places: &Places, route: &Route) -> fmt::Result {
    let share = |provider: usize, weight: u32| {
        let addresses = &policy.providers[provider].addresses;
        addresses.iter().map(|a| f64::from(weight) * f64::from(a.weight)).sum::<f64>()
    };
    let all: f64 = route.providers.iter().map(|w| share(w.provider, w.weight)).sum();
    writeln!(out, "    first, by {}:", route.balance.as_str())?;
    let by_weight = matches!(route.balance, Balance::Latency | Balance::Weighted);
    for (n, weighted) in route.providers.iter().enumerate() {
        let percent = 100.0 * share(weighted.provider, weighted.weight) / all;
        let mark = if by_weight { format!("{percent:.0} %") } else { format!("{}.", n + 1) };
        provider(out, &policy.providers[weighted.provider], places, &mark)?;
    }
    for (n, index) in route.fallback.iter().enumerate() {
        if n == 0 {
            writeln!(out, "    then, after {}:", classes(route.fallback_on))?;
        }
        provider(out, &policy.providers[*index], places, &format!("{}.", n + 1))?;
    }
    Ok(())
}

fn provider(out: &mut String, provider: &Provider, places: &Places, mark: &str) -> fmt::Result {
    let name = &provider.name;
    let at = place(places, &format!("providers.{name}"));
    let addresses: Vec<_> = provider.addresses.iter().map(|a| a.name.as_str()).collect();
    writeln!(out, "      {mark:>5} {name} at {} ({at})", addresses.join(", "))?;
    let timeouts = provider.timeouts;
    let path = |key: &str| format!("providers.{name}.{key}");
    value(out, places, &path("timeouts.connect"), "connect", &timeouts.connect, 12)?;
    value(out, places, &path("timeouts.headers"), "headers", &timeouts.headers, 12)?;
    value(out, places, &path("timeouts.first_byte"), "first_byte", &timeouts.first_byte, 12)?;
    value(out, places, &path("timeouts.idle"), "idle", &timeouts.idle, 12)?;
    match &provider.breaker {
        Some(of) => breaker(out, places, of)?,
        None => value(out, places, &path("breaker"), "breaker", &"none", 12)?,
    }
    match &provider.retry {
        Some(own) => retry(out, places, own, 12),
        None => Ok(()),
    }
}

fn breaker(out: &mut String, places: &Places, of: &Breaker) -> fmt::Result {
    let path = |key: &str| format!("breakers.{}.{key}", of.name);
    let rule = of.policy;
    let scope = if of.scope == Scope::Model { "model" } else { "address" };
    let rate = |above: f64, over: Duration, from: u32| {
        format!("above {:.0} % over {over:?}, from {from} requests", above * 100.0)
    };
    let failing = rule.failure_rate.map(|r| rate(r.above, r.over, r.min_requests));
    let slow = rule.slow_rate.map(|r| {
        format!("slower than {:?} {}", r.slower_than, rate(r.above, r.over, r.min_requests))
    });
    let or_none = |rule: Option<String>| rule.unwrap_or_else(|| "none".to_owned());
    writeln!(out, "            breaker {}:", of.name)?;
    let rows: [(&str, &dyn fmt::Debug); 9] = [
        ("scope", &scope),
        ("failure_threshold", &rule.failure_threshold),
        ("failure_rate", &or_none(failing)),
        ("slow_rate", &or_none(slow)),
        ("recovery_timeout", &rule.recovery_timeout),
        ("max_recovery_timeout", &rule.max_recovery_timeout),
        ("success_threshold", &rule.success_threshold),
        ("probes", &rule.probes),
        ("ramp", &rule.ramp),
    ];
    rows.iter().try_for_each(|(key, shown)| value(out, places, &path(key), key, shown, 14))
}

fn values(out: &mut String, places: &Places, route: &Route) -> fmt::Result {
    let path = |key: &str| format!("routes.{}.{key}", route.name);
    writeln!(out, "    with:")?;
    value(out, places, &path("timeout"), "timeout", &route.timeout, 6)?;
    value(out, places, &path("idempotent"), "idempotent", &route.idempotent.as_str(), 6)?;
    value(out, places, &path("replay"), "replay", &format!("{} bytes", route.replay), 6)?;
    retry(out, places, &route.retry, 6)
}

fn retry(out: &mut String, places: &Places, retry: &Retry, indent: usize) -> fmt::Result {
    let path = |key: &str| format!("retries.{}.{key}", retry.name);
    writeln!(out, "{:indent$}retry {}:", "", retry.name)?;
    let budget = &retry.budget;
    let (share, floor) = (budget.ratio * 100.0, budget.min_per_second);
    let budget = format!("{share:.0} % of first attempts and {floor}/s, over {:?}", budget.window);
    let rows: [(&str, &dyn fmt::Debug); 7] = [
        ("max_attempts", &retry.max_attempts),
        ("fallback_attempts", &retry.fallback_attempts),
        ("patience", &retry.patience),
        ("initial_delay", &retry.backoff.initial),
        ("max_delay", &retry.backoff.max),
        ("respect_retry_after", &retry.respect_retry_after),
        ("budget", &budget),
    ];
    for (key, shown) in rows {
        value(out, places, &path(key), key, shown, indent + 2)?;
    }
    value(out, places, &path("retry_on"), "retry_on", &classes(retry.retry_on), indent + 2)
}

fn value(
    out: &mut String,
    places: &Places,
    path: &str,
    key: &str,
    shown: &dyn fmt::Debug,
    indent: usize,
) -> fmt::Result {
    let shown = format!("{shown:?}");
    let shown = shown.trim_matches('"');
    writeln!(out, "{:indent$}{key}: {shown} ({})", "", place(places, path))
}

/// `file:line` of what stands at a path, or `default`.
fn place(places: &Places, path: &str) -> String {
    places.find(path).map_or_else(|| "default".to_owned(), |p| format!("{}:{}", p.file, p.line))
}

fn classes(set: ClassSet) -> String {
    let names: Vec<_> =
        Class::ALL.into_iter().filter(|c| set.contains(*c)).map(Class::as_str).collect();
    if names.is_empty() { "nothing".to_owned() } else { names.join(", ") }
}
