//! The shipped policies, checked against the JSON Schema too, the policies in the README and in
//! the pages of docs/, and the paths and links in the documents.
//!
//! Each policy is loaded as `outrigger run --policies FILE` loads it, with a value for every secret
//! that it names.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use outrigger::policy::sections::model::{LogFormat, LogTarget, Policy, Scope};
use outrigger::policy::yaml::diagnostic::render;
use outrigger::policy::yaml::tree::Tree;
use outrigger::policy::{self, SourceFile, Sources};
use outrigger::resilience::outcome::{AttemptClass, Idempotence};
use regex_lite::Regex;
use serde_json::{Value, json};

const SHIPPED: [&str; 7] = [
    "examples/policies/benchmark.yaml",
    "examples/policies/brownout.yaml",
    "examples/policies/llm.yaml",
    "examples/policies/quickstart.yaml",
    "examples/policies/regression.yaml",
    "examples/policies/rest-api.yaml",
    "policies/outrigger.yaml",
];
const SCHEMA: &str = "policies/policy.schema.json";

/// Has a value for each secret that the text names, and for no other.
struct NamedSecrets<'a>(&'a str);

impl Sources for NamedSecrets<'_> {
    fn env(&self, name: &str) -> Option<String> {
        self.0.contains(&format!("${{env:{name}}}")).then(|| "not-a-secret".to_owned())
    }

    fn file(&self, path: &Path) -> io::Result<Vec<u8>> {
        panic!("a shipped policy needs the file {}, which users do not have", path.display())
    }
}

fn read(path: &str) -> String {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

#[track_caller]
fn load(name: &str) -> Policy {
    let text = read(name);
    let file = SourceFile { name: name.to_owned(), bytes: text.clone().into_bytes() };
    let loaded = policy::load(&[file], &NamedSecrets(&text));
    let loaded = loaded.unwrap_or_else(|problems| panic!("\n{}\n", render(&problems, false)));
    assert!(loaded.warnings.is_empty(), "\n{}\n", render(&loaded.warnings, false));
    loaded.policy
}

/// The names in `${env:NAME}`.
fn secrets(text: &str) -> BTreeSet<&str> {
    let after = text.split("${env:").skip(1);
    after.filter_map(|rest| rest.split_once('}')).map(|(name, _)| name).collect()
}

#[test]
fn each_shipped_policy_is_valid_and_names_its_schema() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let yaml_in = |folder: &'static str| {
        let entries = fs::read_dir(root.join(folder)).expect("the folder is there");
        let names = entries.map(|entry| entry.expect("the folder can be read").file_name());
        let paths = names.map(move |name| format!("{folder}/{}", name.to_string_lossy()));
        paths.filter(|path| path.ends_with(".yaml"))
    };
    let mut found: Vec<_> = yaml_in("policies").chain(yaml_in("examples/policies")).collect();
    found.sort();
    assert_eq!(found, SHIPPED);
    for name in SHIPPED {
        load(name);
        let text = read(name);
        let line = text.lines().next().unwrap_or_default();
        let schema = line.strip_prefix("# yaml-language-server: $schema=").expect("a schema");
        let folder = root.join(name).parent().expect("a folder").canonicalize().expect("a path");
        let up = schema.matches("../").count();
        let base = folder.ancestors().nth(up).expect("a folder");
        let named = base.join(schema.trim_start_matches("../").trim_start_matches("./"));
        assert_eq!(named, root.canonicalize().expect("a path").join(SCHEMA), "{name}");
    }
}

#[test]
fn the_header_of_each_shipped_policy_names_the_variables_to_set() {
    for name in SHIPPED {
        let text = read(name);
        let comment = text.split("\nversion:").next().unwrap_or_default();
        let words: BTreeSet<_> = comment.split_whitespace().collect();
        let missing: Vec<_> =
            secrets(&text).into_iter().filter(|name| !words.contains(name)).collect();
        assert!(missing.is_empty(), "{name} does not name {missing:?}");
    }
}

#[test]
fn each_shipped_policy_follows_the_schema() {
    let schema = policy::json_schema::schema();
    for name in SHIPPED {
        let mut tree = Tree::default();
        let root = tree.parse(name, read(name), &mut Vec::new());
        let value = tree.json(root.expect("it is YAML"));
        assert_eq!(mismatch(&value, &schema, &schema, ""), None, "{name}");
    }
    let unknown = json!({ "providers": { "a": { "urll": "http://a" } } });
    let found = mismatch(&unknown, &schema, &schema, "");
    assert_eq!(found.as_deref(), Some("/providers/a/urll: unknown key"));
}

/// The first part of `value` that does not follow `schema`, by the keywords that our schema uses.
fn mismatch(value: &Value, schema: &Value, root: &Value, path: &str) -> Option<String> {
    if let Some(name) = schema["$ref"].as_str().and_then(|name| name.strip_prefix("#/$defs/")) {
        let target = root["$defs"].get(name).unwrap_or_else(|| panic!("no definition `{name}`"));
        return mismatch(value, target, root, path);
    }
    if let Some(any) = schema["anyOf"].as_array() {
        let found: Option<Vec<_>> =
            any.iter().map(|schema| mismatch(value, schema, root, path)).collect();
        return found.map(|all| all.join(", or "));
    }
    let wrong = |what: &str| Some(format!("{path}: {what}"));
    if let Some(types) = schema.get("type")
        && ![types]
            .into_iter()
            .chain(types.as_array().into_iter().flatten())
            .any(|t| is_a(value, t))
    {
        return wrong("wrong type");
    }
    if schema["enum"].as_array().is_some_and(|words| !words.contains(value))
        || schema.get("const").is_some_and(|only| only != value)
    {
        return wrong("wrong value");
    }
    if let (Some(text), Some(pattern)) = (value.as_str(), schema["pattern"].as_str())
        && !Regex::new(pattern).expect("a pattern").is_match(text)
    {
        return wrong("wrong form");
    }
    let items = value.as_array().into_iter().flatten().enumerate().find_map(|(index, item)| {
        mismatch(item, schema.get("items")?, root, &format!("{path}/{index}"))
    });
    let keys = value.as_object().into_iter().flatten().find_map(|(key, value)| {
        let path = format!("{path}/{key}");
        match schema["properties"].get(key).or(schema.get("additionalProperties"))? {
            Value::Bool(false) => Some(format!("{path}: unknown key")),
            schema => mismatch(value, schema, root, &path),
        }
    });
    items.or(keys)
}

fn is_a(value: &Value, name: &Value) -> bool {
    match name.as_str() {
        Some("string") => value.is_string(),
        Some("integer") => value.is_u64() || value.is_i64(),
        Some("number") => value.is_number(),
        Some("boolean") => value.is_boolean(),
        Some("array") => value.is_array(),
        Some("object") => value.is_object(),
        _ => false,
    }
}

#[test]
fn the_llm_policy_has_fallbacks_for_a_failed_provider_and_a_failed_model() {
    let policy = load("examples/policies/llm.yaml");
    assert_eq!(policy.server.access_log.format, LogFormat::Json);
    assert_ne!(policy.server.access_log.to, LogTarget::None);
    for provider in &policy.providers {
        let breaker = provider.breaker.as_ref().expect("a breaker");
        assert_eq!(breaker.scope, Some(Scope::Model), "{}", provider.name);
    }
    let chat = policy.routes.iter().find(|route| route.name == "chat").expect("a route for chats");
    assert_eq!((chat.idempotent, chat.retry.name.as_str()), (Idempotence::Auto, "llm"));
    assert!(chat.retry.max_attempts > 1 && chat.retry.retry_on.contains(AttemptClass::Throttled));
    let first = chat.providers.iter().map(|weighted| weighted.provider);
    let providers: Vec<_> = first.chain(chat.fallback.iter().copied()).collect();
    assert!(providers.len() >= 4 && !chat.fallback.is_empty());
    // Each other provider maps the application's model name.
    for other in &providers[1..] {
        let provider = &policy.providers[*other];
        assert!(provider.models.iter().any(|(ours, _)| ours == "gpt-4o"), "{}", provider.name);
    }
}

#[test]
fn the_llm_policy_has_capacity_for_more_than_64_connections() {
    let policy = load("examples/policies/llm.yaml");
    let chat = policy.routes.iter().find(|route| route.name == "chat").expect("a route for chats");
    for provider in chat.providers.iter().map(|weighted| &policy.providers[weighted.provider]) {
        assert!(provider.capacity.concurrency >= 1024, "{}", provider.name);
    }
}

#[test]
fn the_rest_policy_sends_writes_to_one_provider_only() {
    let policy = load("examples/policies/rest-api.yaml");
    let post = |route: &&policy::sections::model::RoutePolicy| {
        route.matcher.methods.contains(&http::Method::POST)
    };
    let writes: Vec<_> = policy.routes.iter().filter(post).collect();
    assert!(writes.len() >= 2);
    for route in writes {
        assert!(route.providers.len() == 1 && route.fallback.is_empty(), "{}", route.name);
        assert_ne!(route.idempotent, Idempotence::Always, "{}", route.name);
        assert!(!route.allow_override.idempotent, "{}", route.name);
    }
    let reads =
        policy.routes.iter().find(|route| route.name == "reads").expect("a route for reads");
    assert!(!reads.fallback.is_empty());
}

/// Providers and a route that fragments of policies refer to.
const CONTEXT: &str = "version: 1
providers:
  azure: { url: https://azure.example, auth: none }
  anthropic: { url: https://anthropic.example, auth: none }
routes: [{ name: rest, providers: [azure] }]
";

/// The YAML blocks of a document that are policies, or fragments of one with a route.
fn policies_in(text: &str) -> impl Iterator<Item = &str> {
    let blocks = text.split("```yaml\n").skip(1).filter_map(|rest| rest.split_once("```"));
    let is_policy = |text: &&str| text.contains("version: 1") || text.contains("routes:");
    blocks.map(|(text, _)| text).filter(is_policy)
}

/// Loads a policy of a document, a fragment together with `CONTEXT`.
fn load_block(document: &Path, text: &str) {
    let is_whole = text.starts_with("version");
    let name = document.display().to_string();
    let mut files = vec![SourceFile { name: name.clone(), bytes: text.as_bytes().to_vec() }];
    if !is_whole {
        let openai = "  openai: { url: https://openai.example, auth: none }\nroutes:";
        let declares = text.contains("openai: {");
        let context = CONTEXT.replace("routes:", if declares { "routes:" } else { openai });
        files.push(SourceFile { name: "context.yaml".to_owned(), bytes: context.into_bytes() });
    }
    let loaded = policy::load(&files, &NamedSecrets(text));
    let loaded =
        loaded.unwrap_or_else(|problems| panic!("\n{name}\n{}\n", render(&problems, false)));
    let warnings = render(&loaded.warnings, false);
    assert!(loaded.warnings.is_empty() || !is_whole, "\n{name}\n{warnings}\n");
}

#[test]
fn every_policy_in_the_readme_and_the_pages_is_valid() {
    let is_page = |document: &&PathBuf| {
        document.starts_with("docs") && document.components().count() == 2
            || document.as_os_str() == "README.md"
    };
    let mut count = 0;
    for document in documents().iter().filter(is_page) {
        for text in policies_in(&text_of(document)) {
            load_block(document, text);
            count += 1;
        }
    }
    assert!(count >= 12, "the pages show {count} policies");
}

#[test]
fn each_page_is_in_the_index() {
    let index = read("docs/README.md");
    let is_missing =
        |page: &&String| page.as_str() != "README.md" && !index.contains(&format!("]({page})"));
    let paths = documents();
    let pages = paths.iter().filter_map(|document| document.strip_prefix("docs").ok());
    let pages: Vec<_> = pages.map(|page| page.display().to_string()).collect();
    let missing: Vec<_> = pages.iter().filter(is_missing).collect();
    assert!(missing.is_empty(), "docs/README.md does not link to {missing:?}");
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The documents, relative to the root.
fn documents() -> Vec<PathBuf> {
    let mut found = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"].map(PathBuf::from).to_vec();
    for folder in ["docs", "docs/design", "docs/reference"].map(Path::new) {
        let names = fs::read_dir(root().join(folder)).expect("the folder is there");
        let paths = names.map(|entry| folder.join(entry.expect("an entry").file_name()));
        found.extend(paths.filter(|path| path.extension().is_some_and(|end| end == "md")));
    }
    found
}

fn text_of(document: &Path) -> String {
    read(document.to_str().expect("a path in UTF-8"))
}

/// `NAME`, `AREA.rs` and `*.yaml` stand for many names.
fn is_placeholder(path: &str) -> bool {
    let stem = |part: &str| part.split('.').next().unwrap_or_default().to_owned();
    let is_capital = |stem: &str| stem.len() > 1 && stem.bytes().all(|b| b.is_ascii_uppercase());
    path.contains('*') || path.split('/').any(|part| is_capital(&stem(part)))
}

#[test]
fn each_path_in_the_documents_exists() {
    let mut missing = Vec::new();
    for document in documents() {
        let text = text_of(&document);
        let words = text.split('`').filter_map(|span| span.split_whitespace().next());
        let is_ours = |word: &&str| {
            ["src/", "tests/", "policies/", "docs/"].iter().any(|f| word.starts_with(f))
        };
        for path in words.filter(is_ours).filter(|path| !is_placeholder(path)) {
            if !root().join(path).exists() {
                missing.push(format!("{}: {path}", document.display()));
            }
        }
    }
    assert!(missing.is_empty(), "{missing:#?}");
}

/// The anchors of a document's headings, as GitHub makes them.
fn anchors(text: &str) -> BTreeSet<String> {
    let headings = text.lines().filter(|line| line.starts_with('#'));
    let headings = headings.map(|line| line.trim_start_matches('#').trim().to_lowercase());
    let is_kept = |c: &char| c.is_alphanumeric() || " -_".contains(*c);
    headings
        .map(|heading| heading.chars().filter(is_kept).collect::<String>().replace(' ', "-"))
        .collect()
}

#[test]
fn each_relative_link_in_the_documents_resolves() {
    let mut broken = Vec::new();
    for document in documents() {
        let text = text_of(&document);
        let links = text.split("](").skip(1).filter_map(|rest| Some(rest.split_once(')')?.0));
        for link in links.filter(|link| !link.contains("://")) {
            let (path, anchor) = link.split_once('#').unwrap_or((link, ""));
            let target = match path {
                "" => document.clone(),
                path => document.parent().unwrap_or(Path::new("")).join(path),
            };
            let is_found = root().join(&target).exists()
                && (anchor.is_empty() || anchors(&text_of(&target)).contains(anchor));
            if !is_found {
                broken.push(format!("{}: {link}", document.display()));
            }
        }
    }
    assert!(broken.is_empty(), "{broken:#?}");
}
