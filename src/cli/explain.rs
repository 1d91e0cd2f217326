//! `outrigger explain`: shows how the policy handles a request, and where each value is declared.

use std::collections::BTreeSet;
use std::fmt;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri};
use serde::Serialize;

use super::admin_client::AdminArgs;
use super::output::{self, count};
use super::{check, live};
use crate::policy::section::display::Row;
use crate::policy::sections::model::{Accept, Match, ProviderPolicy, RoutePolicy};
use crate::policy::yaml::locations::child_path;
use crate::policy::{Locations, Policy};
use crate::resilience::balance::balancer::BalanceAlgorithm;

#[derive(Debug, clap::Args)]
pub struct ExplainArgs {
    /// The request method, such as GET.
    pub(super) method: Method,
    /// A URL, or a path.
    pub(super) url: Uri,
    /// A header of the request; may be repeated.
    #[arg(short = 'H', long = "header", value_name = "NAME: VALUE", value_parser = header)]
    pub(super) headers: Vec<(HeaderName, HeaderValue)>,
    /// Directory of the policies, or one file.
    #[arg(long, env = "OUTRIGGER_POLICIES", default_value = "policies", value_name = "PATH")]
    policies: PathBuf,
    /// Explain where the secrets are not: a secret that is missing here is no problem, and is listed.
    #[arg(long)]
    allow_missing_secrets: bool,
    /// Show the values at their defaults, too.
    #[arg(long)]
    all: bool,
    /// Ask a running sidecar which endpoint it would select now.
    #[arg(long)]
    live: bool,
    /// The model of the request, whose breakers and holds count; with --live.
    #[arg(long, value_name = "MODEL", requires = "live")]
    pub(super) model: Option<String>,
    #[command(flatten)]
    pub(super) admin: AdminArgs,
}

fn header(text: &str) -> Result<(HeaderName, HeaderValue), String> {
    let expected = || format!("`{text}` is not a header (expected one like 'x-tenant: gold')");
    let (name, value) = text.split_once(':').ok_or_else(expected)?;
    let name = name.trim().parse().map_err(|_| expected())?;
    Ok((name, value.trim().parse().map_err(|_| expected())?))
}

/// Exits 1 when no route takes the request, 2 when there is no valid policy or no sidecar.
pub fn run(args: &ExplainArgs) -> ExitCode {
    if args.live {
        return live::run(args);
    }
    let read = match check::read(&args.policies, args.allow_missing_secrets) {
        Ok(read) => read,
        Err(problems) => {
            eprintln!("{}", output::problems(&problems, &std::io::stderr()));
            return ExitCode::from(2);
        }
    };
    let headers: HeaderMap = args.headers.iter().cloned().collect();
    let host = args.url.authority().map(|a| a.as_str().to_owned());
    let host = host.or_else(|| Some(headers.get("host")?.to_str().ok()?.to_owned()));
    let request = Request { args, host: host.unwrap_or_default(), headers };
    let explanation = explain(&request, &read.loaded.policy, &read.loaded.locations);
    let text = match args.admin.json {
        true => format!("{:#}\n", serde_json::to_value(&explanation).unwrap_or_default()),
        false => Page { explanation: &explanation, all: args.all }.to_string(),
    };
    // A closed pipe is not an error.
    let _ = write!(std::io::stdout().lock(), "{text}");
    if explanation.route.is_some() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

struct Request<'a> {
    args: &'a ExplainArgs,
    host: String,
    headers: HeaderMap,
}

/// How the policy handles a request. Each `at` is `FILE:LINE`; without one, a value is a default.
#[derive(Serialize)]
struct Explanation<'a> {
    method: String,
    path: String,
    /// Routes before the first that matches.
    passed_over: Vec<PassedOver<'a>>,
    /// None: no route takes the request.
    route: Option<RouteExplanation<'a>>,
}

#[derive(Serialize)]
struct PassedOver<'a> {
    route: &'a str,
    why: &'static str,
    at: Option<String>,
}

#[derive(Serialize)]
struct RouteExplanation<'a> {
    name: &'a str,
    at: Option<String>,
    balance: &'static str,
    providers: Vec<ProviderUse<'a>>,
    fallback: Vec<ProviderUse<'a>>,
    /// The route, and the entries that it names.
    settings: Vec<EntrySettings>,
    #[serde(skip_serializing_if = "Option::is_none")]
    note: Option<&'static str>,
}

#[derive(Serialize)]
struct ProviderUse<'a> {
    provider: &'a str,
    endpoints: Vec<&'a str>,
    /// Percent of the requests, where the weights count.
    share: Option<f64>,
    at: Option<String>,
}

#[derive(Serialize)]
struct EntrySettings {
    entry: String,
    at: Option<String>,
    values: Vec<SettingValue>,
}

#[derive(Serialize)]
struct SettingValue {
    key: String,
    value: String,
    at: Option<String>,
}

fn explain<'a>(
    request: &Request<'_>,
    policy: &'a Policy,
    locations: &Locations,
) -> Explanation<'a> {
    let (method, path) = (&request.args.method, request.args.url.path());
    let mut explanation = Explanation {
        method: method.to_string(),
        path: path.to_owned(),
        passed_over: Vec::new(),
        route: None,
    };
    if *method == Method::CONNECT || path.starts_with("/.outrigger/") {
        return explanation;
    }
    for route in &policy.routes {
        let Some(why) = mismatch(&route.matcher, request) else {
            explanation.route = Some(RouteExplanation::new(policy, locations, route));
            break;
        };
        let at = place(locations, &child_path("routes", &route.name));
        explanation.passed_over.push(PassedOver { route: &route.name, why, at });
    }
    explanation
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

impl<'a> RouteExplanation<'a> {
    fn new(policy: &'a Policy, locations: &Locations, route: &'a RoutePolicy) -> Self {
        let balance = route.balance;
        let by_weight = matches!(balance, BalanceAlgorithm::Latency | BalanceAlgorithm::Weighted);
        let share = |provider: usize, weight: u32| {
            let addresses = &policy.providers[provider].addresses;
            addresses.iter().map(|a| f64::from(weight) * f64::from(a.weight)).sum::<f64>()
        };
        let all: f64 = route.providers.iter().map(|w| share(w.provider, w.weight)).sum();
        let provider = |index: usize, share: Option<f64>| {
            let ProviderPolicy { name, addresses, .. } = &policy.providers[index];
            let endpoints = addresses.iter().map(|address| address.name.as_str()).collect();
            let at = place(locations, &child_path("providers", name));
            ProviderUse { provider: name, endpoints, share, at }
        };
        let providers = route.providers.iter().map(|weighted| {
            let percent = 100.0 * share(weighted.provider, weighted.weight) / all;
            provider(weighted.provider, by_weight.then_some(percent))
        });
        let path = child_path("routes", &route.name);
        RouteExplanation {
            name: &route.name,
            at: place(locations, &path),
            balance: balance.as_str(),
            providers: providers.collect(),
            fallback: route.fallback.iter().map(|index| provider(*index, None)).collect(),
            settings: settings(policy, locations, &path),
            note: without_jobs(policy, route),
        }
    }
}

fn without_jobs(policy: &Policy, route: &RoutePolicy) -> Option<&'static str> {
    let accepts = |index: usize| policy.queues[index].durable.accept != Accept::Never;
    let why = "the queue takes no jobs of this route: the application's credentials would have to be stored";
    (!route.durable && route.queue.is_some_and(accepts)).then_some(why)
}

/// The values of an entry, and after them those of the entries that it names.
fn settings(policy: &Policy, locations: &Locations, first: &str) -> Vec<EntrySettings> {
    let names = |section: &str, index: usize| policy.name(section, index);
    let rows = policy.show(&names).rows;
    let (mut entries, mut seen) = (Vec::new(), BTreeSet::new());
    let mut open = vec![first];
    while let Some(path) = open.pop() {
        if !seen.insert(path) {
            continue;
        }
        let below = |row: &'_ Row| Some(row.path.strip_prefix(path)?.strip_prefix('.')?.to_owned());
        let of_entry: Vec<_> = rows.iter().filter_map(|row| Some((below(row)?, row))).collect();
        let value = |(key, row): &(String, &Row)| SettingValue {
            key: key.clone(),
            value: row.text.clone(),
            at: row.written.iter().find_map(|path| place(locations, path)),
        };
        entries.push(EntrySettings {
            entry: path.to_owned(),
            at: place(locations, path),
            values: of_entry.iter().map(value).collect(),
        });
        let named = of_entry.iter().flat_map(|(_, row)| &row.names).map(String::as_str);
        open.extend(named.collect::<Vec<_>>().into_iter().rev());
    }
    entries
}

/// `FILE:LINE` of a path that the policy declares.
fn place(locations: &Locations, path: &str) -> Option<String> {
    locations.find(path).map(ToString::to_string)
}

/// An explanation as text.
struct Page<'a> {
    explanation: &'a Explanation<'a>,
    /// Values at their defaults, too.
    all: bool,
}

impl fmt::Display for Page<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Explanation { method, path, passed_over, route } = self.explanation;
        writeln!(f, "{method} {path}")?;
        for PassedOver { route, why, at } in passed_over {
            writeln!(f, "  not {route:<24} {why} ({})", or_default(at))?;
        }
        match route {
            Some(route) => self.route(f, route),
            None if method == "CONNECT" || path.starts_with("/.outrigger/") => {
                let why = "CONNECT is rejected, and paths under /.outrigger/ are reserved";
                writeln!(f, "  no route applies: {why}")
            }
            None => writeln!(f, "  no route matches: the response is 404"),
        }
    }
}

impl Page<'_> {
    fn route(&self, f: &mut fmt::Formatter<'_>, route: &RouteExplanation<'_>) -> fmt::Result {
        writeln!(f, "  route {:<22} ({})", route.name, or_default(&route.at))?;
        writeln!(f, "    first, by {}:", route.balance)?;
        providers(f, &route.providers)?;
        if !route.fallback.is_empty() {
            writeln!(f, "    then:")?;
        }
        providers(f, &route.fallback)?;
        let mut defaults = 0;
        for entry in &route.settings {
            let shown = |value: &&SettingValue| self.all || value.at.is_some();
            let values: Vec<_> = entry.values.iter().filter(shown).collect();
            defaults += entry.values.len() - values.len();
            if values.is_empty() && entry.at.is_none() {
                continue;
            }
            writeln!(f, "    {} ({}):", entry.entry, or_default(&entry.at))?;
            for SettingValue { key, value, at } in values {
                writeln!(f, "      {key}: {value} ({})", or_default(at))?;
            }
        }
        if let Some(note) = route.note {
            writeln!(f, "    {note}")?;
        }
        if defaults > 0 {
            let values = count(defaults, "more value");
            writeln!(f, "    {values} at the default (--all shows them)")?;
        }
        Ok(())
    }
}

fn providers(f: &mut fmt::Formatter<'_>, providers: &[ProviderUse<'_>]) -> fmt::Result {
    for (n, one) in providers.iter().enumerate() {
        let mark = one.share.map_or_else(|| format!("{}.", n + 1), |share| format!("{share:.0} %"));
        let (provider, endpoints) = (one.provider, one.endpoints.join(", "));
        writeln!(f, "      {mark:>5} {provider} at {endpoints} ({})", or_default(&one.at))?;
    }
    Ok(())
}

fn or_default(at: &Option<String>) -> &str {
    at.as_deref().unwrap_or("default")
}
