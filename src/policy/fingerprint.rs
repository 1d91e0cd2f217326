//! A short text of all that decides how the requests of a route are made: two hosts with the same
//! one make them alike, so that one may run a job of the other (docs/design/fleet.md).
//!
//! It covers the values of the route and, by name, of all that it refers to: providers, queue,
//! cache, retry policy, modes of degradation. Others can read it, and hosts may have keys of their
//! own, so a secret counts with its reference only; a value in the policy itself counts as it is.

use std::collections::BTreeSet;

use sha2::{Digest, Sha256};

use super::section::display::{Hidden, Row};
use super::sections::Policy;
use super::yaml::locations::child_path;

/// Hexadecimal digits.
const DIGITS: usize = 24;

/// The fingerprints of some routes, by their indices.
pub fn of_routes(policy: &Policy, routes: &[usize]) -> Vec<String> {
    let names = |section: &str, index: usize| policy.name(section, index);
    let rows = policy.show(&names).rows;
    let of = |index: &usize| {
        let route = policy.routes.get(*index).map_or("", |route| route.name.as_str());
        of_rows(&rows, &child_path("routes", route))
    };
    routes.iter().map(of).collect()
}

fn of_rows(rows: &[Row], route: &str) -> String {
    let mut sum = Sha256::new();
    let mut seen = BTreeSet::new();
    // `server.forwarded` applies to each request.
    let mut open = vec![route.to_owned(), "server.forwarded".to_owned()];
    while let Some(path) = open.pop() {
        if !seen.insert(path.clone()) {
            continue;
        }
        for row in rows.iter().filter(|row| is_below(&row.path, &path)) {
            add(&mut sum, row.path.as_bytes());
            add(&mut sum, row.text.as_bytes());
            if let Some(Hidden::Inline(digest)) = &row.digest {
                add(&mut sum, digest);
            }
            open.extend(row.names.iter().cloned());
        }
    }
    let sum: [u8; 32] = sum.finalize().into();
    sum[..DIGITS / 2].iter().map(|byte| format!("{byte:02x}")).collect()
}

fn is_below(row: &str, path: &str) -> bool {
    row.strip_prefix(path).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
}

fn add(sum: &mut Sha256, part: &[u8]) {
    sum.update((part.len() as u64).to_be_bytes());
    sum.update(part);
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::path::Path;

    use super::*;
    use crate::policy::{SourceFile, Sources, load};

    struct Env(&'static str);

    impl Sources for Env {
        fn env(&self, _: &str) -> Option<String> {
            Some(self.0.to_owned())
        }

        fn file(&self, _: &Path) -> io::Result<Vec<u8>> {
            Err(io::ErrorKind::NotFound.into())
        }
    }

    const YAML: &str = "version: 1
providers:
  p:
    url: http://a:1
    auth: { bearer: \"${env:KEY}\" }
    headers: { set: { x-version: \"1\", x-secret: \"${env:KEY}\" } }
    models: { small: tiny }
    classify: [{ status: 418, json: { /code: busy }, as: throttled }]
    rewrite: { body: { set: { /n: 1 } } }
  q: { url: http://b:1, auth: none }
  spare: { url: http://s:1, auth: none }
  other: { url: http://c:1, auth: none }
queues: { default: { durable: { share: true } } }
retries: { default: { max_attempts: 2 } }
degradations:
  brownout:
    when: { manual: true }
    actions:
      - { headers: { set: { x-mode: slow } }, body: { set: { /max: 256 } } }
      - { use: [spare] }
      - { respond: { text: busy } }
routes:
  - { name: jobs, match: { path: /jobs, headers: { x-kind: job } }, providers: [p], fallback: [q], timeout: 9s, degrade: [brownout] }
  - { name: rest, providers: [other] }
";

    fn fingerprint(yaml: &str, secret: &'static str) -> String {
        let file = SourceFile { name: "policy.yaml".to_owned(), bytes: yaml.into() };
        let loaded = load(&[file], &Env(secret)).unwrap_or_else(|e| panic!("{yaml}: {e:?}"));
        assert_eq!(loaded.policy.routes[0].name, "jobs");
        of_routes(&loaded.policy, &[0]).remove(0)
    }

    #[test]
    fn each_value_that_changes_how_a_request_is_made_changes_it() {
        let usual = fingerprint(YAML, "one");
        assert_eq!(usual.len(), DIGITS);
        for (from, to) in [
            ("http://a:1", "http://a:2"),
            ("http://b:1", "http://b:2"),
            ("http://s:1", "http://s:2"),
            ("env:KEY}\" }\n    headers", "env:OTHER}\" }\n    headers"),
            ("x-version: \"1\"", "x-version: \"2\""),
            ("x-secret: \"${env:KEY}\"", "x-secret: \"${env:OTHER}\""),
            ("small: tiny", "small: other"),
            ("/code: busy", "/code: idle"),
            ("/n: 1", "/n: 2"),
            ("timeout: 9s", "timeout: 8s"),
            ("x-kind: job", "x-kind: other"),
            ("max_attempts: 2", "max_attempts: 3"),
            ("share: true", "share: true, max_result: 2MiB"),
            (", fallback: [q]", ""),
            // The values that a mode of degradation sets.
            ("x-mode: slow", "x-mode: fast"),
            ("/max: 256", "/max: 512"),
            ("text: busy", "text: idle"),
        ] {
            assert!(YAML.contains(from), "{from}");
            assert_ne!(fingerprint(&YAML.replace(from, to), "one"), usual, "{from} -> {to}");
        }
    }

    #[test]
    fn neither_secrets_nor_other_routes_are_in_it() {
        let usual = fingerprint(YAML, "one");
        assert_eq!(fingerprint(YAML, "two"), usual);
        assert_eq!(fingerprint(&YAML.replace("http://c:1", "http://d:1"), "one"), usual);
        assert_eq!(fingerprint(&format!("# a comment\n{YAML}"), "one"), usual);
    }
}
