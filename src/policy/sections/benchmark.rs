//! The section `benchmarks`: calls that the sidecar makes itself, to measure a route or a provider.
//!
//! The bounds of a run (calls, length, calls in flight) are checked here, so that no policy can
//! make an endless one. Its requests are in the policy, or in a file with a JSON object in each line.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri};
use serde::Deserialize;
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::provider::ProviderPolicy;
use super::rewrite::{JsonText, MethodName, SetHeader, header_name};
use super::route::RoutePolicy;
use crate::policy::section::display::text_of;
use crate::policy::section::scalars::ABOVE_NONE;
use crate::policy::section::{
    Checker, Form, Map, NameOf, NamedSection, Required, Share, Threshold, one_of, section,
    text_form, texts,
};
use crate::policy::yaml::tree::NodeId;
use crate::policy::yaml::units::{DAY, HOUR, MINUTE, MONTH, Rate, SECOND, show_duration};

/// Requests of a benchmark.
const MOST_REQUESTS: usize = 10_000;
/// Calls of one run.
pub const MOST_CALLS: u64 = 1_000_000;
/// Calls of one run that are in flight.
pub const MOST_IN_FLIGHT: u32 = 1024;

section! {
    /// Calls that the sidecar makes itself, to measure a route or a provider.
    #[derive(Clone, Debug)]
    pub struct BenchmarkPolicy, finish located {
        /// A route with all that applies to it, or a provider alone.
        target: BenchmarkTarget, like "{ route: chat }";
        /// The requests, which are sent in turn: a list, or `{ file: requests.jsonl }` with one request in each line.
        requests: Vec<BenchmarkRequest> as Required<Requests>, like "[{ path: /v1/models }]";
        /// How many calls are made, and for how long.
        load: BenchmarkLoad, like "{ rate: 5/s, for: 60s }";
        /// Limits that must hold, like `p95 < 2s`, `first_content.p95 < 800ms`, `error_rate < 1%`, `cost < 0.50 USD`, `tokens_per_second > 40`, `throughput > 10/s`.
        thresholds: Vec<Threshold>;
        /// Whether a run ends as soon as a threshold is broken.
        abort_on_fail: bool = false;
        /// Time between the starts of two runs; without it runs are started by hand.
        every: Option<Duration>, in MINUTE..=MONTH;
        /// The part of each provider's `capacity` that a run may take.
        share: f64 as Share = 0.1, in ABOVE_NONE..=1.0;
        /// Whether the route's cache is used; it is empty when the run starts.
        cache: bool = false;
    }
    computed {
        name: String = String::new();
        /// Where it is declared, as `FILE:LINE`.
        location: String = String::new();
    }
}

one_of! {
    /// The part of the policy that a benchmark measures.
    #[derive(Clone, Debug, PartialEq)]
    pub enum BenchmarkTarget as BenchmarkTargetKind, one target {
        /// A route with its policy.
        Route "route": usize as EnabledRoute;
        /// A provider alone, without retries and fallback.
        Provider "provider": usize as NameOf<ProviderPolicy>;
    }
}

section! {
    /// How many calls a benchmark makes: `rate` starts them at fixed times, whether or not earlier ones have ended; `concurrency` starts one when another ends.
    #[derive(Clone, Debug, PartialEq)]
    pub struct BenchmarkLoad, finish bounded_load {
        /// Calls per time unit: `5/s`.
        rate: Option<Rate>;
        /// Calls that are in flight at all times.
        concurrency: Option<u32>, in 1..=MOST_IN_FLIGHT;
        /// How long calls are measured.
        length "for": Duration, in SECOND..=DAY, like "60s";
        /// How long calls are made before that, which do not count.
        warm_up: Duration = Duration::ZERO, in Duration::ZERO..=HOUR;
        /// How long the load takes to grow to its full size, before the warm-up; these calls do not count.
        ramp: Duration = Duration::ZERO, in Duration::ZERO..=HOUR;
    }
    computed {
        pace: Pace = Pace::Concurrency(1);
    }
}

/// The rule that decides when a call starts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Pace {
    /// Calls in a second (an open loop).
    Rate(f64),
    /// Calls in flight (a closed loop).
    Concurrency(u32),
}

text_form! {
    /// The name of a route that is used.
    struct EnabledRoute for usize {
        read(node, check) {
            let name = check.text(node, "a name")?;
            if check.names.find(RoutePolicy::KEY, name) == Some(None) {
                return check.reject(node, format!("the route `{name}` is disabled, so it cannot be measured"));
            }
            check.index_of::<RoutePolicy>(node)
        }
        show(value, out) { out.name(RoutePolicy::KEY, *value) }
        describe(_) { ValueShape::named(RoutePolicy::ONE) }
    }
}

impl BenchmarkLoad {
    /// The time before the calls count.
    pub fn lead(&self) -> Duration {
        self.ramp + self.warm_up
    }

    /// `5/s for 60s after a warm-up of 5s`
    pub fn text(&self) -> String {
        let pace = match (self.rate, self.concurrency) {
            (Some(rate), _) => text_of::<Rate, Rate>(&rate),
            (None, count) => format!("{} at once", count.unwrap_or(1)),
        };
        let mut text = format!("{pace} for {}", show_duration(self.length));
        for (what, time) in [("a ramp", self.ramp), ("a warm-up", self.warm_up)] {
            if !time.is_zero() {
                let joint = if text.contains("after") { "and" } else { "after" };
                text.push_str(&format!(" {joint} {what} of {}", show_duration(time)));
            }
        }
        text
    }
}

fn located(benchmark: &mut BenchmarkPolicy, node: NodeId, check: &mut Checker<'_>) {
    let spot = check.tree.on_key(node, "").spot;
    benchmark.location = format!("{}:{}", spot.file, spot.line);
}

fn bounded_load(load: &mut BenchmarkLoad, node: NodeId, check: &mut Checker<'_>) {
    let given = check.present_keys(node, &["rate", "concurrency"]);
    let Some(only) = check.only(node, "of `rate` and `concurrency`", &given) else { return };
    load.pace = match (load.rate, load.concurrency) {
        (Some(rate), _) => Pace::Rate(rate.per_second()),
        (None, Some(count)) => Pace::Concurrency(count),
        (None, None) => return,
    };
    let length = load.length + load.lead();
    if length > DAY {
        let message =
            format!("a run of {} with its warm-up: expected at most 24h", show_duration(length));
        return check.error(node, message);
    }
    let Pace::Rate(rate) = load.pace else { return };
    let calls = rate * length.as_secs_f64();
    let at = check.tree.child(node, only).unwrap_or(node);
    if calls > MOST_CALLS as f64 {
        let message = format!("{calls:.0} calls in one run: expected at most {MOST_CALLS}");
        check.error(at, message);
    } else if rate * load.length.as_secs_f64() < 1.0 {
        let message = format!(
            "no call in {}: expected a higher rate, or a longer run",
            show_duration(load.length)
        );
        check.error(at, message);
    }
}

// === requests ===

/// A request, complete but for the credentials of the provider.
#[derive(Clone, Debug, PartialEq)]
pub struct BenchmarkRequest {
    pub method: Method,
    pub uri: Uri,
    pub headers: HeaderMap,
    pub body: Bytes,
}

section! {
    /// A request of a benchmark.
    #[derive(Clone, Debug)]
    pub struct RequestKeys {
        /// The method.
        method: Option<Method> as Option<MethodName> = None => "`POST` with a body, else `GET`";
        /// The path, with its query.
        path: Uri as RequestPath, like "/v1/chat/completions";
        /// Headers; a value may be a secret like `${env:API_KEY}`. The provider's own credentials are added as to each request.
        headers: Vec<(HeaderName, SetHeader)> as Map<HeaderName, SetHeader>;
        /// The body as a text.
        body: Option<String>;
        /// The body as JSON, instead of `body`.
        json: Option<JsonText>;
    }
}

section! {
    /// Requests in a file.
    #[derive(Clone, Debug)]
    pub struct RequestFile {
        /// A JSON object like `{"method": "POST", "path": "/v1/chat/completions", "json": {}}` in each line; at most 1 MiB and 10,000 lines. The path is relative to the policy's directory.
        file: String, like "requests.jsonl";
    }
}

/// A line of a file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RequestLine {
    method: Option<String>,
    path: String,
    #[serde(default)]
    headers: BTreeMap<String, String>,
    body: Option<String>,
    json: Option<Value>,
}

texts! {
    /// The path and query of a request.
    struct RequestPath for Uri: "a path", ValueShape::named("path"), request_path, Uri::to_string;
}

fn request_path(text: &str) -> Result<Uri, String> {
    let wrong = || format!("`{text}` is not a path: expected one like `/v1/chat/completions`");
    let uri = Uri::try_from(text).map_err(|_| wrong())?;
    if text.starts_with('/') { Ok(uri) } else { Err(wrong()) }
}

text_form! {
    /// A list of requests, or the file that has them.
    struct Requests for Vec<BenchmarkRequest> {
        read(node, check) {
            match check.is_list(node) {
                true => listed(node, check),
                false => from_file(node, check),
            }
        }
        // A body may be long, and may hold a secret.
        show(value, out) {
            let many = if value.len() == 1 { "" } else { "s" };
            out.text(format!("{} request{many} ({})", value.len(), fingerprint(value)));
        }
        describe(out) {
            ValueShape::OneOf(vec![
                ValueShape::List(Box::new(RequestKeys::describe(out))),
                RequestFile::describe(out),
            ])
        }
    }
}

/// Twelve hexadecimal digits that change with the requests; values of headers do not count.
pub fn fingerprint(requests: &[BenchmarkRequest]) -> String {
    let mut sum = Sha256::new();
    for BenchmarkRequest { method, uri, headers, body } in requests {
        let mut names: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        let names = names.join(",");
        for part in [method.as_str().as_bytes(), uri.to_string().as_bytes(), names.as_bytes(), body]
        {
            sum.update((part.len() as u64).to_be_bytes());
            sum.update(part);
        }
    }
    let sum: [u8; 32] = sum.finalize().into();
    sum[..6].iter().map(|byte| format!("{byte:02x}")).collect()
}

fn listed(node: NodeId, check: &mut Checker<'_>) -> Option<Vec<BenchmarkRequest>> {
    check.some(node, "no request: expected at least one, like `{ path: /v1/models }`");
    let read: Vec<_> =
        check.list(node)?.map(|item| (item, RequestKeys::read(item, check))).collect();
    if read.len() > MOST_REQUESTS {
        check.error(node, format!("{} requests: expected at most {MOST_REQUESTS}", read.len()));
    }
    let mut found = Vec::new();
    for (item, keys) in read {
        let Some(RequestKeys { method, path, headers, body, json }) = keys else { continue };
        if body.is_some() && json.is_some() {
            check.error(item, "`body` and `json` exclude each other: keep one of them");
        }
        let headers = headers.into_iter().map(|(name, set)| (name, set.value)).collect();
        found.push(request(method, path, headers, body, json.map(|json| json.0)));
    }
    Some(found)
}

fn from_file(node: NodeId, check: &mut Checker<'_>) -> Option<Vec<BenchmarkRequest>> {
    if !check.is_map(node) {
        check.unexpected(node, "a list of requests, or `{ file: requests.jsonl }`");
        return None;
    }
    let RequestFile { file } = RequestFile::read(node, check)?;
    let at = check.tree.child(node, "file").unwrap_or(node);
    let bytes = check.data_file(at, Path::new(&file))?;
    let text = match String::from_utf8(bytes) {
        Ok(text) => text,
        Err(_) => return check.reject(at, format!("the file `{file}` is not UTF-8")),
    };
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    let mut found = Vec::new();
    for (index, line) in lines {
        if found.len() == MOST_REQUESTS {
            let message =
                format!("`{file}` has more than {MOST_REQUESTS} requests: leave some out");
            return check.reject(at, message);
        }
        match request_line(line) {
            Ok(request) => found.push(request),
            Err(why) => return check.reject(at, format!("`{file}`, line {}: {why}", index + 1)),
        }
    }
    if found.is_empty() {
        return check.reject(at, format!("`{file}` has no request: expected one in each line"));
    }
    Some(found)
}

fn request_line(line: &str) -> Result<BenchmarkRequest, String> {
    let expected = r#"expected one like `{"path": "/v1/models"}`"#;
    let line: RequestLine =
        serde_json::from_str(line).map_err(|error| format!("no request ({error}): {expected}"))?;
    if line.body.is_some() && line.json.is_some() {
        return Err("`body` and `json` exclude each other: keep one of them".to_owned());
    }
    let method = line.method.map(|method| match Method::from_bytes(method.as_bytes()) {
        Ok(known) if known != Method::CONNECT => Ok(known),
        _ => Err(format!("`{method}` is not a method: expected one like `POST`")),
    });
    let mut headers = HeaderMap::new();
    for (name, value) in &line.headers {
        let value = HeaderValue::from_str(value)
            .map_err(|_| format!("no header can hold the value of `{name}`"))?;
        headers.append(header_name(name)?, value);
    }
    let json = line.json.map(|json| json.to_string());
    Ok(request(method.transpose()?, request_path(&line.path)?, headers, line.body, json))
}

fn request(
    method: Option<Method>,
    uri: Uri,
    mut headers: HeaderMap,
    body: Option<String>,
    json: Option<String>,
) -> BenchmarkRequest {
    if json.is_some() && !headers.contains_key(CONTENT_TYPE) {
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    }
    let body: Bytes = json.or(body).unwrap_or_default().into();
    let usual = if body.is_empty() { Method::GET } else { Method::POST };
    BenchmarkRequest { method: method.unwrap_or(usual), uri, headers, body }
}
