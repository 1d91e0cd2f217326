//! What decides how the requests of a route are made, as a short text: two hosts that have the same
//! make them alike (QUEUE.md: "a host runs a job of another only under the same policy hash for that
//! route").
//!
//! It goes where others can read it, so nothing secret goes into it: of credentials the references, of
//! header values those that stand in the policy itself. Hosts may have keys of their own, after all.

use http::{HeaderName, HeaderValue};
use sha2::{Digest, Sha256};

use super::sections::model::{Policy, Provider, Route};
use super::sections::routes::everyone;
use super::sections::shown::{self, Shown};
use super::sections::shown_modes;
use super::sections::words::word;

/// Hexadecimal digits of it.
const DIGITS: usize = 24;

#[derive(Default)]
struct Sum(Sha256);

/// The fingerprint of a route with all that it refers to.
pub fn of_route(policy: &Policy, route: &Route) -> String {
    let mut sum = Sum::default();
    sum.add("route", &route.name);
    sum.add("forwarded", word(policy.server.forwarded));
    sum.add("providers", &shown::providers(policy, &route.providers));
    sum.add("fallback", &shown::fallback(policy, &route.fallback));
    sum.all(&shown::matcher(&route.matcher));
    sum.all(&shown::route(route));
    sum.all(&shown::retry(&route.retry));
    if let Some(queue) = route.queue.and_then(|index| policy.queues.get(index)) {
        sum.add("queue", &queue.name);
        sum.all(&shown::queue(queue));
    }
    if let Some(cache) = route.cache {
        sum.all(&shown_modes::cache(&policy.caches[cache]));
    }
    for index in &route.degrade {
        let mode = &policy.degradations[*index];
        sum.add("mode", &mode.name);
        sum.all(&shown_modes::degradation(policy, mode));
    }
    for index in everyone(route) {
        sum.provider(&policy.providers[index]);
    }
    sum.digits()
}

impl Sum {
    fn add(&mut self, key: &str, value: &str) {
        for part in [key, value] {
            self.0.update((part.len() as u64).to_be_bytes());
            self.0.update(part);
        }
    }

    fn all(&mut self, shown: &Shown) {
        shown.iter().for_each(|(key, value)| self.add(key, value));
    }

    fn provider(&mut self, provider: &Provider) {
        self.add("provider", &provider.name);
        for address in &provider.addresses {
            self.add(&address.name, &shown::url(&address.url));
            self.add("weight", &address.weight.to_string());
            self.add("auth", &shown::auth(&address.auth));
        }
        for (name, value) in &provider.set_headers {
            self.header(name, value);
        }
        provider.remove_headers.iter().for_each(|name| self.add("remove", name.as_str()));
        provider.models.iter().for_each(|(from, to)| self.add(from, to));
        self.all(&shown::timeouts(&provider.timeouts));
        self.all(&shown::capacity(&provider.capacity));
        self.all(&shown::answers(provider));
        self.all(&provider.breaker.as_ref().map_or_else(Vec::new, shown::breaker));
        self.all(&provider.retry.as_ref().map_or_else(Vec::new, shown::retry));
        self.add("rewrite", &format!("{:?}", provider.rewrite));
        self.add("classify", &format!("{:?}", provider.classify));
        self.way(provider);
    }

    /// A value that came from elsewhere may be a secret.
    fn header(&mut self, name: &HeaderName, value: &HeaderValue) {
        let shown: &[u8] = if value.is_sensitive() { b"a secret" } else { value.as_bytes() };
        self.add(name.as_str(), &String::from_utf8_lossy(shown));
    }

    /// TLS and the forward proxy.
    fn way(&mut self, provider: &Provider) {
        let (tls, identity) = (&provider.tls, provider.tls.identity.as_ref());
        self.add("tls.ca", &shown::pem(tls.ca.as_ref()));
        self.add("tls.client_cert", &shown::pem(identity.map(|identity| &identity.cert)));
        self.add("tls.server_name", tls.server_name.as_deref().unwrap_or("none"));
        let proxy = provider.proxy.as_ref().map(|proxy| shown::url(&proxy.url));
        self.add("proxy", proxy.as_deref().unwrap_or("none"));
    }

    fn digits(self) -> String {
        let sum: [u8; 32] = self.0.finalize().into();
        sum[..DIGITS / 2].iter().map(|byte| format!("{byte:02x}")).collect()
    }
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
  q: { url: http://b:1, auth: none }
  other: { url: http://c:1, auth: none }
queues: { default: { durable: { share: true } } }
retries: { default: { max_attempts: 2 } }
routes:
  - { name: jobs, match: { path: /jobs }, providers: [p], fallback: [q], timeout: 9s }
  - { name: rest, providers: [other] }
";

    fn fingerprint(yaml: &str, secret: &'static str) -> String {
        let file = SourceFile { name: "policy.yaml".to_owned(), bytes: yaml.into() };
        let loaded = load(&[file], &Env(secret)).unwrap_or_else(|e| panic!("{yaml}: {e:?}"));
        let route = loaded.policy.routes.iter().find(|route| route.name == "jobs");
        of_route(&loaded.policy, route.expect("a route"))
    }

    #[test]
    fn whatever_changes_how_a_request_is_made_changes_it() {
        let usual = fingerprint(YAML, "one");
        assert_eq!(usual.len(), DIGITS);
        for (from, to) in [
            ("http://a:1", "http://a:2"),
            ("http://b:1", "http://b:2"),
            ("env:KEY}\" }\n    headers", "env:OTHER}\" }\n    headers"),
            ("x-version: \"1\"", "x-version: \"2\""),
            ("small: tiny", "small: other"),
            ("timeout: 9s", "timeout: 8s"),
            ("max_attempts: 2", "max_attempts: 3"),
            ("share: true", "share: true, max_result: 2MiB"),
            (", fallback: [q]", ""),
        ] {
            assert!(YAML.contains(from), "{from}");
            assert_ne!(fingerprint(&YAML.replace(from, to), "one"), usual, "{from} -> {to}");
        }
    }

    #[test]
    fn neither_a_secret_nor_what_another_route_does_is_in_it() {
        let usual = fingerprint(YAML, "one");
        assert_eq!(fingerprint(YAML, "two"), usual);
        assert_eq!(fingerprint(&YAML.replace("http://c:1", "http://d:1"), "one"), usual);
        assert_eq!(fingerprint(&format!("# a comment\n{YAML}"), "one"), usual);
    }
}
