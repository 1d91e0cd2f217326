//! `outrigger explain`: what the policy would do with a request, and where it says so.

use std::fmt::{self, Write as _};
use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri};

use crate::policy::sections::model::{Accept, Match, Provider, Retry, Route};
use crate::policy::sections::shown::{self, Shown};
use crate::policy::sections::shown_modes;
use crate::policy::yaml::diagnostic::render;
use crate::policy::{Places, Policy};
use crate::resilience::balance::balancer::BalanceAlgorithm;
use crate::resilience::outcome::{AttemptClass, ClassSet};
use crate::snapshot::loader;

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
    let read = match loader::read(&args.policies) {
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
        values(out, policy, places, route)?;
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
    let by_weight = matches!(route.balance, BalanceAlgorithm::Latency | BalanceAlgorithm::Weighted);
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
    let above = format!("providers.{name}");
    rows(out, places, &format!("{above}.timeouts"), &shown::timeouts(&provider.timeouts), 12)?;
    rows(out, places, &format!("{above}.capacity"), &shown::capacity(&provider.capacity), 12)?;
    rows(out, places, &above, &shown::answers(provider), 12)?;
    match &provider.breaker {
        Some(own) => {
            named(out, places, ("breaker", "breakers", &own.name), &shown::breaker(own), 12)?
        }
        None => rows(out, places, &above, &vec![("breaker", "none".to_owned())], 12)?,
    }
    match &provider.retry {
        Some(own) => retry(out, places, own, 12),
        None => Ok(()),
    }
}

fn values(out: &mut String, policy: &Policy, places: &Places, route: &Route) -> fmt::Result {
    writeln!(out, "    with:")?;
    rows(out, places, &format!("routes.{}", route.name), &shown::route(route), 6)?;
    retry(out, places, &route.retry, 6)?;
    queue(out, policy, places, route)?;
    hard_times(out, policy, places, route)
}

/// What is stored of its answers, and the modes that may change them.
fn hard_times(out: &mut String, policy: &Policy, places: &Places, route: &Route) -> fmt::Result {
    let above = format!("routes.{}", route.name);
    match route.cache.map(|index| &policy.caches[index]) {
        None => rows(out, places, &above, &vec![("cache", "none".to_owned())], 6)?,
        Some(cache) => {
            named(out, places, ("cache", "caches", &cache.name), &shown_modes::cache(cache), 6)?;
        }
    }
    if route.degrade.is_empty() {
        return rows(out, places, &above, &vec![("degrade", "none".to_owned())], 6);
    }
    route.degrade.iter().map(|index| &policy.degradations[*index]).try_for_each(|mode| {
        let shown = shown_modes::degradation(policy, mode);
        named(out, places, ("degrade", "degradations", &mode.name), &shown, 6)
    })
}

fn queue(out: &mut String, policy: &Policy, places: &Places, route: &Route) -> fmt::Result {
    let Some(queue) = route.queue.map(|index| &policy.queues[index]) else {
        let above = format!("routes.{}", route.name);
        return rows(out, places, &above, &vec![("queue", "none".to_owned())], 6);
    };
    named(out, places, ("queue", "queues", &queue.name), &shown::queue(queue), 6)?;
    if route.durable || queue.durable.accept == Accept::Never {
        return Ok(());
    }
    let why = "the application's credential would have to be kept";
    writeln!(out, "        takes no jobs of this route: {why}")
}

fn retry(out: &mut String, places: &Places, retry: &Retry, indent: usize) -> fmt::Result {
    named(out, places, ("retry", "retries", &retry.name), &shown::retry(retry), indent)
}

/// What stands under a name in a section of its own.
fn named(
    out: &mut String,
    places: &Places,
    (what, section, name): (&str, &str, &str),
    shown: &Shown,
    indent: usize,
) -> fmt::Result {
    writeln!(out, "{:indent$}{what} {name}:", "")?;
    rows(out, places, &format!("{section}.{name}"), shown, indent + 2)
}

fn rows(
    out: &mut String,
    places: &Places,
    above: &str,
    shown: &Shown,
    indent: usize,
) -> fmt::Result {
    shown.iter().try_for_each(|(key, value)| {
        let at = place(places, &format!("{above}.{key}"));
        writeln!(out, "{:indent$}{key}: {value} ({at})", "")
    })
}

/// `file:line` of what stands at a path, or `default`.
fn place(places: &Places, path: &str) -> String {
    places.find(path).map_or_else(|| "default".to_owned(), |p| format!("{}:{}", p.file, p.line))
}

fn classes(set: ClassSet) -> String {
    let names: Vec<_> = AttemptClass::ALL
        .into_iter()
        .filter(|c| set.contains(*c))
        .map(AttemptClass::as_str)
        .collect();
    if names.is_empty() { "nothing".to_owned() } else { names.join(", ") }
}
