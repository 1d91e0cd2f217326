//! The policy language as users meet it: what is refused, where that is shown, what loads.
//!
//! Each file or folder under `tests/policy/` is one policy; beside it stands what is said about
//! it. `INSTA_UPDATE=always cargo test --test policy` rewrites them, to be read before they
//! are kept.

#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http::{HeaderMap, HeaderValue, Method};
use outrigger::json::pointer::Pointer;
use outrigger::policy::section::describe::{Reference, ValueShape};
use outrigger::policy::sections::model::{
    Accept, Action, Affinity, Auth, Buffer, Callback, Capacity, CapacityUsed, Commit, ErrorRate,
    Keeps, KeyPart, Latency, Manual, Mark, Of, OnCut, Price, Quantile, Queue, QueueWaiting,
    RespondKind, Scope, Sign, SlowerThanBaseline, StoreAll, Usage,
};
use outrigger::policy::yaml::diagnostic::{self, Diagnostic, Severity};
use outrigger::policy::{Loaded, SourceFile, Sources, diff, json_schema, load, presets, sections};
use outrigger::resilience::baseline::measure::Slowness;
use outrigger::resilience::breaker::EnforcementMode;
use outrigger::resilience::condition::Condition;
use outrigger::resilience::outcome::AttemptClass;
use outrigger::resilience::rate::gcra::RatePolicy;
use outrigger::resilience::retry::cost_budget::CostBudgetPolicy;
use outrigger::resilience::retry::hedge::HedgePolicy;
use outrigger::snapshot::policy_files::{DiskSources, read_dir};
use proptest::prelude::*;

const SECRET: &str = "sk-very-secret-0815";
const PEM: &str = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n";
const KEY: &str = "-----BEGIN PRIVATE KEY-----\nMIIC\n-----END PRIVATE KEY-----\n";

const SMALLEST: &str = r#"
version: 1
providers:
  openai: { url: https://openai.example.com, auth: { bearer: "${env:KEY}" } }
routes:
  - { name: all, providers: [openai] }
"#;

/// Secrets and files that exist only here.
struct Known;

impl Sources for Known {
    fn env(&self, name: &str) -> Option<String> {
        match name {
            "KEY" => Some(SECRET.to_owned()),
            "KEY_B" => Some(format!("{SECRET}-b")),
            "LINES" => Some("a\nb".to_owned()),
            "PROXY_PASSWORD" => Some("hunter2".to_owned()),
            "EMPTY" => Some(String::new()),
            "BLANKS" => Some(" \t\n".to_owned()),
            "BOM" => Some(format!("\u{feff}{SECRET}")),
            "KEY_WITH_LINE_BREAK" => Some(format!("{SECRET}\n")),
            _ => None,
        }
    }

    fn file(&self, path: &Path) -> io::Result<Vec<u8>> {
        match path.to_str() {
            Some("cert.pem") => Ok(PEM.into()),
            Some("key.pem") => Ok(KEY.into()),
            Some("bom") => Ok(format!("\u{feff}{SECRET}\n").into()),
            Some("bad.jsonl") => Ok(b"{\"path\": \"/\"}\n{\"url\": \"/\"}\n".into()),
            Some("many.jsonl") => Ok(b"{\"path\": \"/\"}\n".repeat(10_001)),
            Some("large.jsonl") => Err(io::Error::other("it is larger than 1 MiB")),
            Some("/run/secrets/openai_b") => Ok(format!("{SECRET}-file\n").into()),
            _ => Err(io::Error::new(io::ErrorKind::NotFound, "no such file")),
        }
    }
}

fn file(name: &str, text: impl Into<Vec<u8>>) -> SourceFile {
    SourceFile { name: name.to_owned(), bytes: text.into() }
}

fn load_text(text: &str) -> Result<Loaded, Vec<Diagnostic>> {
    load(&[file("policy.yaml", text)], &Known)
}

fn valid(text: &str) -> Loaded {
    load_text(text).unwrap_or_else(|problems| panic!("{}", diagnostic::render(&problems, false)))
}

fn said(result: &Result<Loaded, Vec<Diagnostic>>) -> String {
    match result {
        Ok(loaded) => format!("loads\n\n{}", diagnostic::render(&loaded.warnings, false)),
        Err(problems) => diagnostic::render(problems, false),
    }
}

fn fixtures() -> PathBuf {
    Path::new(file!()).canonicalize().map_or_else(
        |_| Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/policy"),
        |file| file.with_file_name("policy"),
    )
}

/// Name, and the files.
fn cases() -> BTreeMap<String, Vec<SourceFile>> {
    let mut cases: BTreeMap<String, Vec<SourceFile>> = BTreeMap::new();
    for entry in fs::read_dir(fixtures()).unwrap() {
        let path = entry.unwrap().path();
        let case = path.file_stem().unwrap().to_str().unwrap().to_owned();
        let files = match path.extension().and_then(|e| e.to_str()) {
            None => read_dir(&path).unwrap(),
            Some("yaml") => read_dir(&path).unwrap(),
            _ => continue,
        };
        let short = |mut file: SourceFile| {
            file.name = file.name[fixtures().to_str().unwrap().len() + 1..].to_owned();
            file
        };
        cases.insert(case, files.into_iter().map(short).collect());
    }
    cases
}

/// Lists of more than four known names are cut, so that a new key changes no snapshot.
fn without_long_lists(text: &str) -> String {
    let cut = |line: &str| match line.split_once("known here: ") {
        Some((before, known)) if known.matches(", ").count() > 2 => {
            format!("{before}known here: {}, ...", known.split(", ").next().unwrap_or_default())
        }
        _ => line.to_owned(),
    };
    text.split('\n').map(cut).collect::<Vec<_>>().join("\n")
}

#[test]
fn each_wrong_policy_is_refused_at_the_right_place() {
    let cases = cases();
    assert!(cases.len() > 30);
    let mut settings = insta::Settings::clone_current();
    settings.set_snapshot_path("policy");
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    settings.bind(|| {
        for (case, files) in cases {
            insta::assert_snapshot!(case, without_long_lists(&said(&load(&files, &Known))));
        }
    });
}

#[test]
fn no_problem_shows_a_secret() {
    for (case, files) in cases() {
        let said = match load(&files, &Known) {
            Ok(loaded) => format!("{loaded:?}"),
            Err(problems) => format!(
                "{problems:?} {} {} {} {}",
                diagnostic::render(&problems, true),
                diagnostic::to_json(&problems),
                diagnostic::to_github(&problems),
                diagnostic::to_sarif(&problems)
            ),
        };
        for secret in [SECRET, "hunter2", "sk-live", "MIIB"] {
            assert!(!said.contains(secret), "{case} shows {secret}");
        }
    }
}

#[test]
fn each_place_that_is_named_is_in_the_file() {
    for (case, files) in cases() {
        for problem in load(&files, &Known).err().unwrap_or_default() {
            let spot = &problem.spot;
            let found = files.iter().find(|file| file.name == spot.file).unwrap();
            let text = std::str::from_utf8(&found.bytes).unwrap();
            let line = text.split('\n').nth(spot.line.saturating_sub(1)).unwrap();
            assert!(spot.column <= line.chars().count() + 1, "{case}: {problem}");
            assert!(text.get(spot.span.clone()).is_some(), "{case}: {problem}");
        }
    }
}

#[test]
fn files_that_are_no_text_are_refused() {
    let not_utf8 = load(&[file("a.yaml", *b"version: 1\n# \xff")], &Known).unwrap_err();
    let shown = diagnostic::render(&not_utf8, false);
    assert_eq!(shown, "error: the file is not UTF-8: save it in that encoding\n--> a.yaml:2:3");
    let large = load(&[file("a.yaml", vec![b'#'; (1 << 20) + 1])], &Known).unwrap_err();
    assert_eq!(
        large[0].to_string(),
        "a.yaml: the file is larger than 1 MiB: split it, files are merged"
    );
    let none = load(&[], &Known).unwrap_err();
    assert!(none[0].message.contains("no policy file"));
}

#[test]
fn one_bad_file_does_not_hide_the_problems_of_another() {
    let files = [
        file("a.yaml", *b"\xff"),
        file("b.yaml", "version: 2\nfoo: 1\nroutes: [{ name: a, providers: [b] }]"),
    ];
    let problems = load(&files, &Known).unwrap_err();
    let lines: Vec<_> = problems.iter().map(ToString::to_string).collect();
    assert_eq!(lines.len(), 3, "{lines:?}");
    assert!(lines[1].starts_with("b.yaml:1:10: unknown version `2`"));
    assert!(lines[2].starts_with("b.yaml:2:1: unknown key `foo`"));
}

#[test]
fn the_smallest_policy_has_one_provider_and_one_route() {
    let loaded = valid(SMALLEST);
    assert_eq!(loaded.warnings, []);
    let (provider, route) = (&loaded.policy.providers[0], &loaded.policy.routes[0]);
    assert_eq!(provider.addresses[0].name, "openai.example.com:443");
    let Auth::Credentials(credentials) = &provider.addresses[0].auth else { panic!() };
    assert_eq!(credentials[0].reference, "env:KEY");
    assert_eq!(credentials[0].value, HeaderValue::from_str(&format!("Bearer {SECRET}")).unwrap());
    assert!(provider.retry.is_none() && !provider.rewrite.changes_body());
    let breaker = provider.breaker.as_ref().unwrap();
    assert_eq!((breaker.name.as_str(), route.retry.name.as_str()), ("default", "default"));
    assert_eq!(breaker.policy(provider.probe_lease()).probe_lease.as_millis(), 68_888);
    assert_eq!((route.queue, route.durable), (Some(0), true));
    assert!(route.matcher.matches(&Method::GET, "any", "/any/path", &HeaderMap::new()));
}

#[test]
fn each_preset_loads_without_a_warning() {
    for preset in presets::ALL {
        let (name, url) = (preset.name, preset.url().to_lowercase());
        let loaded = valid(&format!(
            "version: 1\nproviders: {{ a: {{ preset: {name}, url: \"{url}\", key: \"${{env:KEY}}\" }} }}\n\
             routes: [{{ name: all, providers: [a] }}]"
        ));
        assert_eq!(loaded.warnings, [], "{name}");
        let provider = &loaded.policy.providers[0];
        assert!(!provider.generates.is_empty(), "{name}");
        assert_eq!(provider.breaker.as_ref().unwrap().scope, Some(Scope::Model), "{name}");
    }
}

/// The keys of a section with their defaults, as YAML.
fn defaults(reference: &Reference, section: &str, indent: usize) -> String {
    let mut out = String::new();
    for key in &reference.sections[section].keys {
        let pad = " ".repeat(indent);
        match (&key.shape, &key.default) {
            (ValueShape::Section(name), None) if *name != "ClientTls" => {
                let below = defaults(reference, name, indent + 2);
                out.push_str(&format!("{pad}{}:\n{below}", key.name));
            }
            (ValueShape::List(of), Some(default)) if matches!(**of, ValueShape::Described(_)) => {
                let list = default.replace("none", "");
                out.push_str(&format!("{pad}{}: [{list}]\n", key.name));
            }
            // Defaults in words are not values.
            (ValueShape::Scalar(..) | ValueShape::Words(_), Some(default))
                if default != "none" && !default.contains(' ') =>
            {
                out.push_str(&format!("{pad}{}: {default}\n", key.name));
            }
            _ => {}
        }
    }
    out
}

#[test]
fn a_key_that_is_left_out_has_the_default_of_the_reference() {
    let mut reference = Reference::default();
    sections::describe(&mut reference);
    let of = |section: &str, indent| defaults(&reference, section, indent);
    let written = format!(
        "version: 1\nserver:\n{}providers:\n  openai:\n    url: http://a\n    auth: none\n    timeouts:\n{}    capacity:\n{}\
         retries:\n  default:\n{}breakers:\n  default:\n{}queues:\n  default:\n{}caches:\n  c:\n{}\
         routes:\n  - name: all\n    providers: [openai]\n{}",
        of("Server", 2),
        of("Timeouts", 6),
        of("Capacity", 6),
        of("Retry", 4),
        of("Breaker", 4),
        of("Queue", 4),
        of("Cache", 4),
        of("Route", 4),
    );
    let left_out = "version: 1\nproviders: { openai: { url: http://a, auth: none } }\ncaches: { c: {} }\n\
         routes: [{ name: all, providers: [openai] }]";
    assert!(written.lines().count() > 60, "{written}");
    let (before, after) = (valid(left_out).policy, valid(&written).policy);
    assert_eq!(diff::changes(&before, &after), Vec::<String>::new());
}

fn classes(queue: &Queue) -> Vec<(&str, u32)> {
    queue.classes.iter().map(|class| (class.name.as_str(), class.weight)).collect()
}

/// The example of the language, less the keys that do not exist yet.
const WHOLE: &str = include_str!("policy/whole/policy.yaml");

#[test]
fn the_whole_language_loads() {
    let loaded = valid(WHOLE);
    let policy = &loaded.policy;
    let openai = policy.providers.iter().find(|provider| provider.name == "openai").unwrap();
    let Auth::Credentials(credentials) = &openai.addresses[0].auth else { panic!() };
    let references: Vec<_> = credentials.iter().map(|c| c.reference.as_str()).collect();
    assert_eq!(references, ["env:KEY", "file:/run/secrets/openai_b"]);
    assert_eq!(
        credentials[1].value,
        HeaderValue::from_str(&format!("Bearer {SECRET}-file")).unwrap()
    );
    assert_eq!(openai.retry.as_ref().unwrap().name, "gentle");
    assert_eq!(openai.rewrite.body.set[0].1.0, "true");
    assert_eq!(policy.routes[0].providers.iter().map(|w| w.weight).collect::<Vec<_>>(), [3, 1]);
    assert_eq!(policy.routes.iter().map(|r| r.name.as_str()).collect::<Vec<_>>(), ["chat", "rest"]);
    let read: Vec<_> = loaded.files_read.iter().map(|path| path.to_str().unwrap()).collect();
    assert_eq!(read, ["/run/secrets/openai_b", "cert.pem", "key.pem"]);
    let place = loaded.locations.find("providers.openai.timeouts.connect").unwrap();
    assert_eq!(WHOLE.lines().nth(place.line - 1).unwrap().trim_start(), "connect: 2s");
    let debug = format!("{loaded:?}");
    assert!(!debug.contains(SECRET) && !debug.contains("hunter2") && !debug.contains("MIIB"));
}

fn pointers(texts: &[&str]) -> Vec<Pointer> {
    texts.iter().map(|text| Pointer::parse(text).unwrap()).collect()
}

#[test]
fn keys_about_responses_are_read() {
    let policy = valid(WHOLE).policy;
    let openai = policy.providers.iter().find(|provider| provider.name == "openai").unwrap();
    assert_eq!(openai.prefill, ["claude-sonnet-4-5"]);
    let output = pointers(&["/usage/completion_tokens", "/usage/output_tokens"]);
    assert_eq!(openai.usage, Usage { input: pointers(&["/usage/prompt_tokens"]), output });
    let (per, currency) = (1_000_000, "USD".to_owned());
    let price = Price { input: 2.5, output: 10.0, per, currency };
    assert_eq!(openai.price, Some(price));
    let rule = &openai.classify[1];
    assert_eq!(
        (&rule.status[..], rule.class, rule.json.len()),
        (&[200][..], AttemptClass::Failure, 0)
    );
    assert_eq!(rule.event[0].0.to_string(), "/error/type");

    let route = &policy.routes[0];
    let stream = &route.stream;
    assert_eq!((stream.commit, stream.on_cut), (Some(Commit::FirstContent), OnCut::ErrorEvent));
    let content = ["/choices/0/delta/content", "/choices/0/delta/tool_calls", "/delta/text"];
    assert_eq!(stream.content, Some(pointers(&content)));
    let [kind, finish] = ["/type", "/choices/0/finish_reason"].map(|p| Pointer::parse(p).unwrap());
    let value = Mark::Value(kind, "message_stop".to_owned());
    let marks = vec![Mark::Text("[DONE]".to_owned()), value, Mark::Present(finish)];
    assert_eq!(stream.terminal, Some(marks));
    let after = Some(Duration::from_millis(300));
    assert_eq!(route.hedge, Some(HedgePolicy { extra_load: 0.02, after }));
    let (header, ttl) = ("x-session".parse().unwrap(), Duration::from_secs(600));
    assert_eq!(route.affinity, Some(Affinity { header, ttl }));
    let cost = route.retry.budget.cost.as_ref().unwrap();
    assert_eq!(cost.policy, CostBudgetPolicy { limit: 5.0, window: Duration::from_secs(3600) });
    assert_eq!(cost.currency, "USD");
}

#[test]
fn omitted_keys_of_usage_price_hedge_and_affinity_have_their_defaults() {
    let loaded = valid(
        "version: 1\nproviders:\n  a: { url: http://a, usage: { output: /out }, price: { input: 3, output: 0 } }\n  \
         b: { url: http://b, price: { input: 0.5, output: 1, per: 1k, currency: EUR } }\n\
         routes: [{ name: all, providers: [a, b], hedge: { extra_load: 0.5 }, affinity: { header: X-A }, \
         stream: { buffer: { for: 1s }, terminal: [{ /done: true }, { /n: 1.0 }] } }]",
    );
    let [a, b] = &loaded.policy.providers[..] else { panic!() };
    let (input, output) = (Usage::default().input, pointers(&["/out"]));
    assert_eq!(a.usage, Usage { input, output });
    let (a, b) = (a.price.as_ref().unwrap(), b.price.as_ref().unwrap());
    assert_eq!((a.cost(1_000_000, 5), a.currency.as_str()), (3.0, "USD"));
    assert_eq!((b.cost(1000, 2000), b.currency.as_str()), (2.5, "EUR"));
    let route = &loaded.policy.routes[0];
    assert_eq!(route.hedge, Some(HedgePolicy { extra_load: 0.5, after: None }));
    let (header, ttl) = ("x-a".parse().unwrap(), Duration::from_secs(600));
    assert_eq!(route.affinity, Some(Affinity { header, ttl }));
    let buffer = Buffer { bytes: 1 << 20, frames: 64, time: Duration::from_secs(1) };
    assert_eq!((route.stream.buffer, route.stream.commit), (buffer, None));
    let [done, number] = ["/done", "/n"].map(|pointer| Pointer::parse(pointer).unwrap());
    let marks = [Mark::Value(done, "true".to_owned()), Mark::Value(number, "1.0".to_owned())];
    assert_eq!(route.stream.terminal.as_deref(), Some(&marks[..]));
}

#[test]
fn keys_of_queues_and_capacity_are_read() {
    let policy = valid(WHOLE).policy;
    let openai = policy.providers.iter().find(|provider| provider.name == "openai").unwrap();
    let requests = Some(RatePolicy { rate: 500.0 / 60.0, burst: 500.0 / 60.0 });
    let tokens = Some(RatePolicy { rate: 200_000.0 / 60.0, burst: 50_000.0 });
    let (concurrency, adaptive, follow_headers, connections) = (1024, true, false, 256);
    let expected =
        Capacity { concurrency, adaptive, requests, tokens, follow_headers, connections };
    assert_eq!(openai.capacity, expected);

    let [default, jobs] = &policy.queues[..] else { panic!() };
    assert_eq!((default.max_waiting, default.max_bytes), (500, 32 << 20));
    assert_eq!(default.max_wait, Duration::from_secs(20));
    assert_eq!(classes(default), [("urgent", 20), ("normal", 4), ("low", 2), ("idle", 1)]);
    assert_eq!(default.class.header.as_ref().unwrap(), "x-class");
    assert_eq!(
        (default.default_class, default.flow.as_ref().unwrap().header.as_str()),
        (2, "x-tenant")
    );

    let durable = &jobs.durable;
    assert_eq!((durable.accept, durable.workers), (Accept::Always, 8));
    assert_eq!((durable.max_jobs, durable.max_bytes), (1000, 512 << 20));
    let hours = |hours: u64| Duration::from_secs(hours * 3600);
    assert_eq!((durable.max_deliveries, durable.expire), (3, hours(12)));
    assert_eq!((durable.keep_result, durable.max_result), (hours(48), 64 << 10));
    assert!(durable.share && !default.durable.share);
    let callback = |https, host: &str, port, path: &str| Callback {
        https,
        host: host.to_owned(),
        port,
        path: path.to_owned(),
    };
    let inside = callback(true, "app.internal", 443, "/hooks/**");
    assert_eq!(
        durable.callback.as_ref().unwrap().allow,
        [inside, callback(false, "127.0.0.1", 9000, "/done")]
    );

    let [chat, rest] = &policy.routes[..] else { panic!() };
    assert_eq!((chat.queue, rest.queue), (Some(0), Some(1)));
    assert_eq!((chat.durable, rest.durable), (false, true));
    assert!(chat.allow_override.priority && !rest.allow_override.priority);
}

#[test]
fn keys_of_caches_are_read() {
    let policy = valid(WHOLE).policy;
    let [chats, pages] = &policy.caches[..] else { panic!() };
    let tenant = KeyPart::Header("x-tenant".parse().unwrap());
    let key = vec![KeyPart::Method, KeyPart::Path, KeyPart::Query, KeyPart::Body, tenant];
    let minutes = |minutes: u64| Duration::from_secs(minutes * 60);
    let expected = Keeps::Always(StoreAll { ttl: minutes(10), key, public: true });
    assert_eq!((chats.max_bytes, &chats.store), (64 << 20, &expected));
    assert_eq!(chats.stale_if_error, minutes(120));
    assert_eq!(chats.stale_while_revalidate, minutes(1));
    assert_eq!((pages.max_bytes, &pages.store), (256 << 20, &Keeps::Http));
    assert_eq!(pages.stale_if_error, minutes(60));
    assert_eq!(pages.stale_while_revalidate, Duration::ZERO);
    let of = |route: &str| policy.routes.iter().find(|r| r.name == route).unwrap().cache;
    assert_eq!((of("chat"), of("rest")), (Some(0), None));
}

#[test]
fn keys_of_degradations_are_read() {
    let policy = valid(WHOLE).policy;
    // Disabled modes are left out.
    let [brownout, closed] = &policy.degradations[..] else { panic!() };
    let provider = |name: &str| policy.providers.iter().position(|p| p.name == name).unwrap();
    let (openai, local) = (provider("openai"), provider("local"));
    let seconds = Duration::from_secs;
    let (of, over, min_requests) = (Of::Route(0), seconds(30), 20);
    let rate = Sign::ErrorRate(ErrorRate { of, above: 0.25, over, min_requests });
    let (of, over) = (Of::Provider(openai), seconds(60));
    let threshold = Quantile { quantile: 0.95, above: seconds(8) };
    let slow = Sign::Latency(Latency { of, threshold, over, min_requests });
    let measure = Some(Slowness::Latency);
    let slower = SlowerThanBaseline { of: Of::Provider(openai), factor: Some(1.5), measure };
    let when = Condition::Any(vec![
        Condition::Is(Sign::BreakerOpen(openai)),
        Condition::All(vec![Condition::Is(rate), Condition::Is(slow)]),
        Condition::Is(Sign::QueueWaiting(QueueWaiting { queue: 0, above: 400 })),
        Condition::Is(Sign::CapacityUsed(CapacityUsed { provider: openai, above: 0.9 })),
        Condition::Is(Sign::SlowerThanBaseline(slower)),
    ]);
    assert_eq!((brownout.mode, &brownout.when), (EnforcementMode::Shadow, &when));
    assert_eq!((brownout.hold, brownout.recover_after), (seconds(5), seconds(30)));
    assert_eq!(
        (closed.mode, &closed.when),
        (EnforcementMode::Enforce, &Condition::Is(Sign::Manual(Manual)))
    );
    assert_eq!((closed.hold, closed.recover_after), (seconds(5), seconds(30)));

    let [reduce, instead, stale, shed, respond, notify] = &brownout.actions[..] else { panic!() };
    let Action::Reduce(reduction) = reduce else { panic!() };
    assert_eq!(reduction.models, [("gpt-4o".to_owned(), "gpt-4o-mini".to_owned())]);
    assert_eq!(reduction.rewrite.body.set[0].1.0, "256");
    assert_eq!(reduction.rewrite.body.remove.len(), 1);
    assert_eq!(reduction.headers.set[0].1.value, "1");
    let Action::Use(providers) = instead else { panic!() };
    assert_eq!(providers, &[local, provider("anthropic")]);
    assert!(matches!(stale, Action::ServeStale(within) if *within == seconds(3600)));
    assert!(matches!(shed, Action::Shed(class) if class == "low"));
    let Action::Respond(respond) = respond else { panic!() };
    assert_eq!((respond.status.as_u16(), respond.kind), (503, RespondKind::Json));
    assert_eq!(respond.body, r#"{"message":"try later","mode":"{{mode}}"}"#);
    let headers: Vec<_> =
        respond.headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    let kind = ("content-type", "application/json");
    assert_eq!(headers, [("retry-after", "{{retry_after}}"), kind]);
    let Action::Notify(notify) = notify else { panic!() };
    assert_eq!(notify.to.url.host, "hooks.slack.com");
    assert_eq!(notify.reference, "env:KEY");
    assert!(notify.secret.is_some());

    assert_eq!(policy.routes[0].degrade, [0, 1]);
    // `local` and `anthropic` are its own.
    assert!(policy.routes[0].used.is_empty());
}

#[test]
fn a_burst_that_is_left_out_follows_from_the_rate() {
    let loaded = |capacity: &str| {
        let provider = format!("{{ url: http://a, capacity: {{ {capacity} }} }}");
        let text = format!(
            "version: 1\nproviders: {{ a: {provider} }}\nroutes: [{{ name: all, providers: [a] }}]"
        );
        valid(&text).policy.providers[0].capacity
    };
    let requests = |text| loaded(&format!("requests: {text}")).requests.map(|r| (r.rate, r.burst));
    let tokens = |text| loaded(&format!("tokens: {text}")).tokens.map(|r| (r.rate, r.burst));
    assert_eq!(requests("5/s"), Some((5.0, 5.0)));
    assert_eq!(requests("6/min"), Some((0.1, 1.0)));
    assert_eq!(requests("{ rate: 300/min, burst: 20 }"), Some((5.0, 20.0)));
    assert_eq!(tokens("300k/min"), Some((5000.0, 30_000.0)));
    assert_eq!(tokens("5/s"), Some((5.0, 1.0)));
    assert_eq!(tokens("{ rate: 300k/min, burst: 1k }"), Some((5000.0, 1000.0)));
    assert_eq!((requests("none"), tokens("none")), (None, None));
}

#[test]
fn queues_are_in_the_order_of_their_names_and_default_is_among_them() {
    let loaded = valid(
        "version: 1\nproviders: { a: { url: http://a, auth: none } }\nqueues: { zoo: {}, \"10\": {} }\n\
         routes: [{ name: one, match: { path: /1 }, providers: [a], queue: zoo }, \
         { name: two, match: { path: /2 }, providers: [a] }, { name: three, providers: [a], queue: none }]",
    );
    let names: Vec<_> = loaded.policy.queues.iter().map(|queue| queue.name.as_str()).collect();
    assert_eq!(names, ["10", "default", "zoo"]);
    let routes = loaded.policy.routes.iter().map(|route| (route.queue, route.durable));
    let expected = [(Some(2), true), (Some(1), true), (None, false)];
    assert_eq!(routes.collect::<Vec<_>>(), expected);
}

#[test]
fn a_class_that_is_left_out_is_normal_or_the_last() {
    let default = |queue: &str| {
        let text = format!("{SMALLEST}queues: {{ default: {{ {queue} }} }}");
        valid(&text).policy.queues[0].default_class
    };
    assert_eq!(default("classes: { low: 1, normal: 2, high: 3 }"), 1);
    assert_eq!(default("classes: { gold: 9, tin: 3, lead: 1 }"), 2);
    assert_eq!(default("classes: { gold: 9, tin: 3 }, class: { default: gold }"), 0);
    assert_eq!(default("class: { header: x-priority }"), 1);
}

#[test]
fn a_route_takes_jobs_unless_its_queue_or_a_credential_forbids_it() {
    let durable = |provider: &str, queue: &str| {
        let text = format!(
            "version: 1\nproviders: {{ a: {{ url: http://a{provider} }} }}\nqueues: {{ default: {{ {queue} }} }}\n\
             routes: [{{ name: all, providers: [a] }}]"
        );
        valid(&text).policy.routes[0].durable
    };
    assert!(durable(", auth: none", ""));
    assert!(durable(", auth: none", "durable: { accept: always }"));
    assert!(!durable(", auth: none", "durable: { accept: never }"));
    assert!(!durable("", ""), "a sole provider has the application's credentials");
    assert!(!durable(", auth: passthrough", "durable: { accept: never }"));
}

#[test]
fn none_switches_off() {
    let loaded = valid(
        "version: 1\nproviders: { a: { url: http://a, breaker: none } }\nbreakers: { default: { failure_rate: none } }\n\
         routes: [{ name: all, providers: [a], retry: none }]",
    );
    assert!(loaded.policy.providers[0].breaker.is_none());
    let retry = &loaded.policy.routes[0].retry;
    assert_eq!(retry.max_attempts, 1);
    assert!(!retry.retry_on.contains(AttemptClass::Unsent));
}

#[test]
fn a_sole_provider_without_auth_gets_the_credentials_of_the_application() {
    let text = |routes: &str| {
        format!(
            "version: 1\nproviders: {{ a: {{ url: http://a }}, b: {{ url: http://b }} }}\nroutes: {routes}"
        )
    };
    let auth = |routes: &str| valid(&text(routes)).policy.providers[0].addresses[0].auth.clone();
    assert!(matches!(auth("[{ name: x, providers: [a] }]"), Auth::Passthrough));
    assert!(matches!(auth("[{ name: x, providers: [a, b] }]"), Auth::None));
    assert!(matches!(auth("[{ name: x, providers: [b], fallback: [a] }]"), Auth::None));
}

#[test]
fn files_are_merged_and_routes_keep_the_order_of_names() {
    let provider =
        "version: 1\nproviders: { a: { url: http://a } }\nroutes: [{ name: last, providers: [a] }]";
    let route = "routes: [{ name: first, match: { path: /x }, providers: [a] }]";
    let loaded = load(&[file("p/b.yaml", provider), file("p/a.yaml", route)], &Known).unwrap();
    assert_eq!(
        loaded.policy.routes.iter().map(|r| r.name.as_str()).collect::<Vec<_>>(),
        ["first", "last"]
    );
    assert_eq!(loaded.locations.find("routes.last").unwrap().file, "p/b.yaml");
    let again = load(&[file("p/a.yaml", route), file("p/b.yaml", provider)], &Known).unwrap();
    assert_eq!(loaded.hash, again.hash);
    assert_eq!(loaded.hash.len(), 64);
    let other =
        load(&[file("p/a.yaml", route), file("p/b.yaml", format!("{provider} "))], &Known).unwrap();
    assert_ne!(loaded.hash, other.hash);
}

#[test]
fn an_alias_is_a_copy() {
    let loaded = valid(
        "version: 1\nproviders:\n  a: { url: http://a, timeouts: &fast { connect: 1s } }\n  b: { url: http://b, timeouts: *fast }\n\
         routes: [{ name: all, providers: [a, b] }]",
    );
    assert_eq!(loaded.policy.providers[1].timeouts.connect, Duration::from_secs(1));
}

#[test]
fn secrets_are_resolved_inside_texts_and_never_shown() {
    let loaded = valid(
        "version: 1\nproviders:\n  a:\n    url: http://a\n    auth: { header: { name: x-key, value: \"Key ${env:KEY}\" } }\n    \
         headers: { set: { x-b: \"${env:KEY_B}\" } }\n    proxy: \"http://user:${env:PROXY_PASSWORD}@proxy:3128\"\n\
         routes: [{ name: all, providers: [a] }]",
    );
    let provider = &loaded.policy.providers[0];
    let Auth::Credentials(credentials) = &provider.addresses[0].auth else { panic!() };
    assert_eq!(credentials[0].value, HeaderValue::from_str(&format!("Key {SECRET}")).unwrap());
    assert!(credentials[0].value.is_sensitive() && provider.headers.set[0].1.value.is_sensitive());
    assert_eq!(
        provider.proxy.as_ref().unwrap().authorization.as_ref().unwrap(),
        "Basic dXNlcjpodW50ZXIy"
    );
    let debug = format!("{loaded:?}");
    assert!(
        !debug.contains(SECRET)
            && !debug.contains("hunter2")
            && !debug.contains("dXNlcjpodW50ZXIy"),
        "{debug}"
    );
}

#[test]
fn the_line_break_at_the_end_of_a_variable_is_not_part_of_the_secret() {
    let loaded = valid(&SMALLEST.replace("env:KEY", "env:KEY_WITH_LINE_BREAK"));
    let Auth::Credentials(credentials) = &loaded.policy.providers[0].addresses[0].auth else {
        panic!()
    };
    assert_eq!(credentials[0].value, HeaderValue::from_str(&format!("Bearer {SECRET}")).unwrap());
}

#[test]
fn a_secret_that_no_header_can_hold_is_not_shown() {
    let problems = load_text(&SMALLEST.replace("env:KEY", "env:LINES")).unwrap_err();
    assert!(problems[0].message.contains("no header can hold"));
}

#[test]
fn a_directory_is_read_and_loaded() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("a.yaml"), SMALLEST.replace("env:KEY", "file:key")).unwrap();
    fs::write(dir.path().join("key"), "s3cret\n").unwrap();
    let loaded = load(&read_dir(dir.path()).unwrap(), &DiskSources::new(dir.path())).unwrap();
    let Auth::Credentials(credentials) = &loaded.policy.providers[0].addresses[0].auth else {
        panic!()
    };
    assert_eq!(credentials[0].value, "Bearer s3cret");
    assert_eq!(loaded.files_read, [PathBuf::from("key")]);
}

#[test]
fn the_schema_knows_each_key_that_the_example_uses() {
    let schema = json_schema::schema();
    let text = schema.to_string();
    let word = |line: &str| line.trim_start().split(':').next().map(str::to_owned);
    let keys: BTreeSet<_> = WHOLE
        .lines()
        .filter(|line| line.starts_with("    ") && line.contains(':'))
        .filter_map(word)
        .collect();
    for key in keys.iter().filter(|key| key.chars().all(|c| c.is_ascii_lowercase() || c == '_')) {
        assert!(
            ["openai", "default", "gentle"].contains(&key.as_str())
                || text.contains(&format!("\"{key}\"")),
            "{key}"
        );
    }
}

#[test]
fn many_problems_of_a_large_file_take_no_long_time() {
    let mut text = String::from("version: 1\nproviders:\n");
    (0..10_000).for_each(|n| text.push_str(&format!("  p{n}: {{ url: http://a, colour: red }}\n")));
    let problems = load_text(&text).unwrap_err();
    assert!(problems.len() > 200 && problems.iter().all(|p| p.severity == Severity::Error));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_text_makes_it_panic(text in "\\PC{0,80}") {
        check_all(&text);
    }

    #[test]
    fn no_yaml_makes_it_panic(tokens in prop::collection::vec(prop::sample::select(TOKENS), 0..60)) {
        check_all(&tokens.concat());
    }

    #[test]
    fn no_change_of_a_valid_policy_makes_it_panic(
        edits in prop::collection::vec((0usize..4000, 0usize..12, prop::sample::select(TOKENS)), 1..5)
    ) {
        check_all(&edited(WHOLE, &edits));
        if let Err(problems) = load_text(&edited(&WHOLE.replace("${env:KEY}", INLINE), &edits)) {
            let shown = diagnostic::render(&problems, false) + &format!("{problems:?}");
            prop_assert!(!shown.contains(INLINE), "{}", shown);
        }
    }
}

fn edited(text: &str, edits: &[(usize, usize, &str)]) -> String {
    let mut text: Vec<char> = text.chars().collect();
    for (at, cut, token) in edits {
        let at = at % text.len();
        let end = (at + cut).min(text.len());
        text.splice(at..end, token.chars());
    }
    text.into_iter().collect()
}

/// A credential that somebody wrote into the policy.
const INLINE: &str = "sk-inline-4711-secret";

const TOKENS: &[&str] = &[
    "version: 1\n",
    "providers:\n",
    "routes:\n",
    "  ",
    "- ",
    "{",
    "}",
    "[",
    "]",
    ": ",
    ",",
    "\n",
    "a",
    "&x ",
    "*x",
    "!t ",
    "? ",
    "|\n",
    ">\n",
    "\"",
    "'",
    "#",
    "---\n",
    "...\n",
    "${env:KEY}",
    "${",
    "name",
    "url: http://a",
    "auth: ",
    "bearer: ",
    "<<: ",
    "\t",
    "é",
    "\u{feff}",
    "~",
    "10s",
    "5",
    "-1",
    "%",
    "match: { path: /** }",
    "\r\n",
    "\0",
    "null",
];

/// Loads, or has errors that can be shown.
fn check_all(text: &str) {
    match load_text(text) {
        Ok(loaded) => assert!(!format!("{loaded:?}").contains(SECRET)),
        Err(problems) => {
            assert!(problems.iter().any(|problem| problem.severity == Severity::Error));
            let shown = diagnostic::render(&problems, true) + &diagnostic::to_github(&problems);
            assert!(!shown.contains(SECRET), "{shown}");
            let _ = (diagnostic::to_json(&problems), diagnostic::to_sarif(&problems));
        }
    }
}
