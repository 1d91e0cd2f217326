//! What a policy says of waiting: in which order, how long, how many, and what outlives a crash.

use std::time::Duration;

use http::HeaderName;

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
        }
    }
}
