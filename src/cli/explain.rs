//! `outrigger explain`: shows how the policy handles a request, and where each value is declared.

use std::collections::BTreeSet;
use std::fmt::{self, Write as _};
use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri};

use super::check;
use crate::policy::section::display::Row;
use crate::policy::sections::model::{Accept, Match, ProviderPolicy, RoutePolicy};
use crate::policy::yaml::diagnostic::render;
use crate::policy::yaml::locations::child_path;
use crate::policy::{Locations, Policy};
use crate::resilience::balance::balancer::BalanceAlgorithm;

#[derive(Debug, clap::Args)]
pub struct ExplainArgs {
    /// The request method, such as GET.
    method: Method,
    /// A URL, or a path.
    url: Uri,
    /// A header of the request; may be repeated.
    #[arg(short = 'H', long = "header", value_name = "NAME: VALUE", value_parser = header)]
    headers: Vec<(HeaderName, HeaderValue)>,
    /// Directory of the policies, or one file.
    #[arg(long, env = "OUTRIGGER_POLICIES", default_value = "policies", value_name = "PATH")]
    policies: PathBuf,
    /// Explain where the secrets are not: a secret that is missing here is no problem, and is listed.
    #[arg(long)]
    allow_missing_secrets: bool,
}

fn header(text: &str) -> Result<(HeaderName, HeaderValue), String> {
    let expected = || format!("`{text}` is not a header (expected one like 'x-tenant: gold')");
    let (name, value) = text.split_once(':').ok_or_else(expected)?;
    let name = name.trim().parse().map_err(|_| expected())?;
    Ok((name, value.trim().parse().map_err(|_| expected())?))
}

/// Exits 1 when no route takes the request, 2 when there is no valid policy.
pub fn run(args: &ExplainArgs) -> ExitCode {
    let read = match check::read(&args.policies, args.allow_missing_secrets) {
        Ok(read) => read,
        Err(problems) => {
            eprintln!("{}", render(&problems, std::io::stderr().is_terminal()));
            return ExitCode::from(2);
        }
    };
    let headers: HeaderMap = args.headers.iter().cloned().collect();
    let host = args.url.authority().map(|a| a.as_str().to_owned());
    let host = host.or_else(|| Some(headers.get("host")?.to_str().ok()?.to_owned()));
    let request = Request { args, host: host.unwrap_or_default(), headers };
    let mut text = String::new();
    let found = explain(&mut text, &request, &read.loaded.policy, &read.loaded.locations);
    // A closed pipe is not an error.
    let _ = write!(std::io::stdout().lock(), "{text}");
    if matches!(found, Ok(true)) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

struct Request<'a> {
    args: &'a ExplainArgs,
    host: String,
    headers: HeaderMap,
}

fn explain(
    out: &mut String,
    request: &Request<'_>,
    policy: &Policy,
    locations: &Locations,
) -> Result<bool, fmt::Error> {
    let (method, path) = (&request.args.method, request.args.url.path());
    writeln!(out, "{method} {path}")?;
    if *method == Method::CONNECT || path.starts_with("/.outrigger/") {
        writeln!(
            out,
            "  no route applies: CONNECT is rejected, and paths under /.outrigger/ are reserved"
        )?;
        return Ok(false);
    }
    let names = |section: &str, index: usize| policy.name(section, index);
    let rows = policy.show(&names).rows;
    for route in &policy.routes {
        let route_path = child_path("routes", &route.name);
        let at = place(locations, &route_path);
        if let Some(why) = mismatch(&route.matcher, request) {
            writeln!(out, "  not {:<24} {why} ({at})", route.name)?;
            continue;
        }
        writeln!(out, "  route {:<22} ({at})", route.name)?;
        order(out, policy, locations, route)?;
        let mut page = Page { out, rows: &rows, locations, printed: BTreeSet::new() };
        page.entry(&route_path, 4)?;
        without_jobs(out, policy, route)?;
        return Ok(true);
    }
    writeln!(out, "  no route matches: the response is 404")?;
    Ok(false)
}

/// The part of a match that fails.
fn mismatch(matcher: &Match, request: &Request<'_>) -> Option<&'static str> {
    let (method, path) = (&request.args.method, request.args.url.path());
    if matcher.matches(method, &request.host, path, &request.headers) {
        return None;
    }
    let methods = &matcher.methods;
    Some(match () {
        () if !matcher.path.matches(path) => "another path",
        () if !(methods.is_empty() || methods.contains(method)) => "another method",
        () if matcher.host.as_ref().is_some_and(|h| !h.matches(&request.host)) => "another host",
        () => "other headers",
    })
}

/// The providers in the order in which they are used, with their shares where the weights count.
fn order(
    out: &mut String,
    policy: &Policy,
    locations: &Locations,
    route: &RoutePolicy,
) -> fmt::Result {
    let share = |provider: usize, weight: u32| {
        let addresses = &policy.providers[provider].addresses;
        addresses.iter().map(|a| f64::from(weight) * f64::from(a.weight)).sum::<f64>()
    };
    let all: f64 = route.providers.iter().map(|w| share(w.provider, w.weight)).sum();
    let by_weight = matches!(route.balance, BalanceAlgorithm::Latency | BalanceAlgorithm::Weighted);
    writeln!(out, "    first, by {}:", route.balance.as_str())?;
    for (n, weighted) in route.providers.iter().enumerate() {
        let percent = 100.0 * share(weighted.provider, weighted.weight) / all;
        let mark = if by_weight { format!("{percent:.0} %") } else { format!("{}.", n + 1) };
        addresses(out, &policy.providers[weighted.provider], locations, &mark)?;
    }
    if !route.fallback.is_empty() {
        writeln!(out, "    then:")?;
    }
    for (n, index) in route.fallback.iter().enumerate() {
        addresses(out, &policy.providers[*index], locations, &format!("{}.", n + 1))?;
    }
    Ok(())
}

fn addresses(
    out: &mut String,
    provider: &ProviderPolicy,
    locations: &Locations,
    mark: &str,
) -> fmt::Result {
    let at = place(locations, &child_path("providers", &provider.name));
    let addresses: Vec<_> = provider.addresses.iter().map(|a| a.name.as_str()).collect();
    writeln!(out, "      {mark:>5} {} at {} ({at})", provider.name, addresses.join(", "))
}

fn without_jobs(out: &mut String, policy: &Policy, route: &RoutePolicy) -> fmt::Result {
    let accepts = |index: usize| policy.queues[index].durable.accept != Accept::Never;
    if route.durable || !route.queue.is_some_and(accepts) {
        return Ok(());
    }
    let why = "the application's credentials would have to be stored";
    writeln!(out, "    the queue takes no jobs of this route: {why}")
}

/// The values of an entry, and after them those of the entries that it names.
struct Page<'a> {
    out: &'a mut String,
    rows: &'a [Row],
    locations: &'a Locations,
    printed: BTreeSet<&'a str>,
}

impl<'a> Page<'a> {
    fn entry(&mut self, path: &'a str, indent: usize) -> fmt::Result {
        if !self.printed.insert(path) {
            return Ok(());
        }
        let below = |row: &'a Row| Some((row.path.strip_prefix(path)?.strip_prefix('.')?, row));
        let rows: Vec<_> = self.rows.iter().filter_map(below).collect();
        let at = place(self.locations, path);
        writeln!(self.out, "{:indent$}{path} ({at}):", "")?;
        for (key, row) in &rows {
            let at = row.written.iter().find_map(|path| self.locations.find(path));
            let at =
                at.map_or_else(|| "default".to_owned(), |at| format!("{}:{}", at.file, at.line));
            writeln!(self.out, "{:1$}{key}: {2} ({at})", "", indent + 2, row.text)?;
        }
        rows.iter().flat_map(|(_, row)| &row.names).try_for_each(|path| self.entry(path, indent))
    }
}

/// `file:line` of a path, or `default`.
fn place(locations: &Locations, path: &str) -> String {
    locations.find(path).map_or_else(|| "default".to_owned(), |p| format!("{}:{}", p.file, p.line))
}
