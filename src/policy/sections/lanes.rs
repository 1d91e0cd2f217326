//! What a policy says of waiting: in which order, how long, how many, and what outlives a crash.

use std::time::Duration;

use http::HeaderName;

use super::matcher::PathPattern;
use super::model::Url;
use super::urls::callback_target;

/// Where requests wait when no provider has room.
#[derive(Clone, Debug, PartialEq)]
pub struct Queue {
    pub name: String,
    pub max_waiting: usize,
    /// Of the bodies that wait.
    pub max_bytes: u64,
    pub max_wait: Duration,
    /// The highest first: a place here is the class's priority. 1 to 8.
    pub classes: Vec<Class>,
    /// Tells a request's class by its name or its place.
    pub class_header: Option<HeaderName>,
    /// Of requests that say nothing: a place in `classes`.
    pub default_class: usize,
    /// Requests with the same value take turns with those of others.
    pub flow: Option<HeaderName>,
    pub durable: Durable,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Class {
    pub name: String,
    /// At least 1.
    pub weight: u32,
}

/// The durable lane of a queue.
#[derive(Clone, Debug, PartialEq)]
pub struct Durable {
    pub accept: Accept,
    /// Jobs that run at once.
    pub workers: usize,
    pub max_jobs: u64,
    /// Of the bodies of jobs that are not done.
    pub max_bytes: u64,
    /// A job that was begun so often without an end is dead.
    pub max_deliveries: u32,
    pub expire: Duration,
    pub keep_result: Duration,
    /// Of a result's body; more is cut off, and marked so.
    pub max_result: u64,
    /// Other hosts of the fleet may run the jobs.
    pub share: bool,
    /// Where results may be posted to; empty: nowhere.
    pub callback: Vec<Callback>,
    /// What results are signed with.
    pub callback_secret: Option<Secret>,
}

/// A text that nobody prints; known by how the policy refers to it.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret {
    pub reference: String,
    text: String,
}

impl Secret {
    pub(crate) fn new(reference: String, text: String) -> Secret {
        Secret { reference, text }
    }

    pub fn as_bytes(&self) -> &[u8] {
        self.text.as_bytes()
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Secret({})", self.reference)
    }
}

/// Which requests become jobs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accept {
    /// Those with `Prefer: respond-async` (RFC 7240).
    Prefer,
    Always,
    Never,
}

/// An allowed callback: scheme, host and port must be equal, the path must match.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Callback {
    pub https: bool,
    pub host: String,
    pub port: u16,
    /// As a route's path: exact, `*` one segment, `**` the rest.
    pub path: String,
}

/// Where one result is posted to.
#[derive(Clone, Debug)]
pub struct PostTo {
    pub url: Url,
    path: String,
    /// Path and query.
    pub target: http::Uri,
}

impl PostTo {
    /// # Errors
    /// What is wrong with it. A path that leads up is refused: whoever serves it may read it as
    /// another than the one that was allowed.
    pub fn read(text: &str) -> Result<PostTo, String> {
        let (before, query) = text.split_once('?').map_or((text, ""), |(b, q)| (b, q));
        let up = |segment: &str| {
            let plain = segment.to_ascii_lowercase().replace("%2e", ".");
            matches!(plain.as_str(), "." | "..")
        };
        let rest = before.split_once("://").map_or("", |(_, rest)| rest);
        if rest.split('/').any(up) || rest.contains('\\') || text.contains(['@', '#']) {
            return Err("expected a plain URL, like `https://host/path`".to_owned());
        }
        let url = callback_target(before)?;
        let path = rest.find('/').map_or("/", |at| &rest[at..]).to_owned();
        let target = if query.is_empty() { path.clone() } else { format!("{path}?{query}") };
        let whole: http::Uri = target.parse().map_err(|error| format!("{error}"))?;
        Ok(PostTo { url, path, target: whole })
    }
}

impl Callback {
    /// Whether a result may be posted there.
    pub fn allows(&self, to: &PostTo) -> bool {
        let Url { https, host, port, .. } = &to.url;
        (*https, host, *port) == (self.https, &self.host, self.port)
            && PathPattern::parse(&self.path).is_ok_and(|pattern| pattern.matches(&to.path))
    }
}

impl Queue {
    /// The queue of that name as it is where nothing else is said.
    pub fn new(name: &str) -> Queue {
        let class = |name: &str, weight| Class { name: name.to_owned(), weight };
        Queue {
            name: name.to_owned(),
            max_waiting: 1000,
            max_bytes: 64 << 20,
            max_wait: Duration::from_secs(30),
            classes: vec![class("high", 8), class("normal", 4), class("low", 1)],
            class_header: None,
            default_class: 1,
            flow: None,
            durable: Durable::default(),
        }
    }

    /// The place of the class that is called so, by its name or by its place.
    pub fn class(&self, text: &str) -> Option<usize> {
        let named = self.classes.iter().position(|class| class.name == text);
        named.or_else(|| text.parse().ok().filter(|place| *place < self.classes.len()))
    }
}

impl Default for Durable {
    fn default() -> Self {
        let day = Duration::from_secs(86_400);
        Durable {
            accept: Accept::Prefer,
            workers: 16,
            max_jobs: 100_000,
            max_bytes: 1 << 30,
            max_deliveries: 5,
            expire: day,
            keep_result: day,
            max_result: 1 << 20,
            share: false,
            callback: Vec::new(),
            callback_secret: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_callback_is_allowed_by_host_port_scheme_and_path() {
        let allowed = Callback {
            https: true,
            host: "app.internal".to_owned(),
            port: 443,
            path: "/jobs/**".to_owned(),
        };
        let allows = |text: &str| PostTo::read(text).is_ok_and(|to| allowed.allows(&to));
        for good in [
            "https://app.internal/jobs/1",
            "https://APP.internal:443/jobs/a/b?x=1",
            "https://app.internal/jobs/",
        ] {
            assert!(allows(good), "{good}");
        }
        for bad in [
            "http://app.internal/jobs/1",
            "https://app.internal:444/jobs/1",
            "https://app.internal/other",
            "https://app.internal/jobs/../admin",
            "https://app.internal/jobs/%2E%2e/admin",
            "https://app.internal/jobs/..\\admin",
            "https://app.internal.evil/jobs/1",
            "https://app.internal@evil/jobs/1",
            "https://evil/jobs/1?https://app.internal/jobs/",
            "https://evil#@app.internal/jobs/1",
            "//app.internal/jobs/1",
            "file:///jobs/1",
            "",
        ] {
            assert!(!allows(bad), "{bad}");
        }
    }
}
