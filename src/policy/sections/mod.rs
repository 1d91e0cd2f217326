//! The sections of the language, each with its keys, defaults, bounds and model.

pub mod action;
pub mod auth;
pub mod breaker;
pub mod cache;
pub mod degradation;
pub mod matcher;
pub mod provider;
pub mod queue;
pub mod response;
pub mod retry;
pub mod rewrite;
pub mod route;
pub mod server;
pub mod tls;
pub mod url;

use breaker::Breaker;
use cache::Cache;
use degradation::Degradation;
use provider::ProviderPolicy;
use queue::Queue;
use retry::Retry;
use route::RoutePolicy;
use server::Server;

use super::section::{Display, Form, KeyText, NamedSection, Reference, ValueShape};

/// A valid policy: all files, merged and checked.
///
/// The types of the model cannot hold a wrong value: references are resolved to indices, patterns
/// are compiled, times and sizes are numbers, defaults are filled in.
#[derive(Clone, Debug)]
pub struct Policy {
    pub server: Server,
    /// In the order of their names; routes refer to them by index.
    pub providers: Vec<ProviderPolicy>,
    /// In the order of their names. `default` is always there.
    pub retries: Vec<Retry>,
    /// In the order of their names. `default` is always there.
    pub breakers: Vec<Breaker>,
    /// In the order of their names; routes refer to them by index. `default` is always there.
    pub queues: Vec<Queue>,
    /// In the order of their names; routes refer to them by index.
    pub caches: Vec<Cache>,
    /// In the order of their names; routes refer to them by index. Disabled ones are left out.
    pub degradations: Vec<Degradation>,
    /// In the order in which they are tried: file name, then place in the file. Disabled ones are left out.
    pub routes: Vec<RoutePolicy>,
}

impl Policy {
    /// The name of an entry of a section.
    pub fn name(&self, section: &str, index: usize) -> String {
        let name = match section {
            provider::ProviderSection::KEY => self.providers.get(index).map(|one| &one.name),
            retry::RetrySection::KEY => self.retries.get(index).map(|one| &one.name),
            breaker::BreakerSection::KEY => self.breakers.get(index).map(|one| &one.name),
            queue::QueueSection::KEY => self.queues.get(index).map(|one| &one.name),
            cache::CacheSection::KEY => self.caches.get(index).map(|one| &one.name),
            degradation::DegradationSection::KEY => {
                self.degradations.get(index).map(|one| &one.name)
            }
            degradation::RouteSection::KEY => self.routes.get(index).map(|one| &one.name),
            _ => None,
        };
        name.cloned().unwrap_or_default()
    }

    /// A part of the policy as one text.
    pub fn one_line<T: Form>(&self, value: &T) -> String {
        let names = |section: &str, index: usize| self.name(section, index);
        Display::new(&names).one_line::<T, T>(value)
    }

    /// All values of the policy, by path.
    pub fn show<'p>(&self, names: &'p dyn Fn(&str, usize) -> String) -> Display<'p> {
        let mut out = Display::new(names);
        out.key("server", |out| Server::show(&self.server, out));
        entries(&mut out, provider::ProviderSection::KEY, &self.providers, |one| &one.name);
        entries(&mut out, retry::RetrySection::KEY, &self.retries, |one| &one.name);
        entries(&mut out, breaker::BreakerSection::KEY, &self.breakers, |one| &one.name);
        entries(&mut out, queue::QueueSection::KEY, &self.queues, |one| &one.name);
        entries(&mut out, cache::CacheSection::KEY, &self.caches, |one| &one.name);
        entries(&mut out, degradation::DegradationSection::KEY, &self.degradations, |one| {
            &one.name
        });
        out.key(degradation::RouteSection::KEY, |out| {
            for (index, route) in self.routes.iter().enumerate() {
                out.entry(&route.name, index, |out| {
                    RoutePolicy::show(route, out);
                    // Not a key: it follows from the queue and the credentials.
                    out.key("takes_jobs", |out| bool::show(&route.durable, out));
                });
            }
        });
        out
    }
}

fn entries<T: Form>(out: &mut Display<'_>, section: &str, all: &[T], name: impl Fn(&T) -> &String) {
    out.key(section, |out| {
        for (index, one) in all.iter().enumerate() {
            out.entry(name(one), index, |out| T::show(one, out));
        }
    });
}

/// The keys of a policy file, and with them all sections.
pub fn describe(out: &mut Reference) -> Vec<KeyText> {
    let key = |name, text: &str, shape| KeyText {
        name,
        text: text.to_owned(),
        required: false,
        default: None,
        limits: None,
        shape,
    };
    let map = |shape| ValueShape::Map("name", Box::new(shape));
    let version = ValueShape::Scalar("version", serde_json::json!({ "const": 1 }));
    vec![
        KeyText {
            required: true,
            ..key("version", "The version of the language, in one file at least.", version)
        },
        key("server", "The sidecar itself; in one file at most.", Server::describe(out)),
        key("providers", "Upstream APIs, by name.", map(ProviderPolicy::describe(out))),
        key(
            "routes",
            "Maps requests to providers. The first matching route handles the request.",
            ValueShape::List(Box::new(RoutePolicy::describe(out))),
        ),
        key("retries", "When an attempt is repeated, by name.", map(Retry::describe(out))),
        key(
            "breakers",
            "When an endpoint gets no more attempts, by name.",
            map(Breaker::describe(out)),
        ),
        key("queues", "Where requests wait for capacity, by name.", map(Queue::describe(out))),
        key("caches", "Stored responses, by name.", map(Cache::describe(out))),
        key(
            "degradations",
            "Modes of degradation, by name; up to 64 are enabled.",
            map(Degradation::describe(out)),
        ),
    ]
}

/// The keys of a policy file.
pub fn keys() -> Vec<&'static str> {
    describe(&mut Reference::default()).into_iter().map(|key| key.name).collect()
}

/// The types of the model.
pub mod model {
    pub use super::Policy;
    pub use super::action::{Action, ActionKind, Notify, Reduction, Respond, RespondKind};
    pub use super::auth::{Auth, Credential, Secret};
    pub use super::breaker::{Breaker, Scope};
    pub use super::cache::{Cache, Keeps, KeyPart, StoreAll};
    pub use super::degradation::{
        CapacityUsed, Degradation, ErrorRate, Latency, Manual, Of, Quantile, QueueWaiting, Sign,
    };
    pub use super::matcher::Match;
    pub use super::provider::{Address, Capacity, ProviderPolicy, Timeouts};
    pub use super::queue::{Accept, Callbacks, Class, ClassOf, Durable, Queue, QueueFlow};
    pub use super::response::{
        BodyCheck, Buffer, ClassifyRule, Commit, Mark, OnCut, Price, Stream, Usage,
    };
    pub use super::retry::{Budget, Cost, Retry};
    pub use super::rewrite::{Headers, JsonText, Rewrite, RewriteBody, RewritePath, SetHeader};
    pub use super::route::{Affinity, AllowOverride, RoutePolicy, Weighted};
    pub use super::server::{AccessLog, Forwarded, LogFormat, LogTarget, Server};
    pub use super::tls::{ClientTls, Identity, Pem};
    pub use super::url::{Callback, ForwardProxy, PostTo, Url};
}
