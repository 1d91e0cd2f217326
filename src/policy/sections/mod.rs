//! The sections of the language, each with its keys, defaults, bounds and model.

pub mod action;
pub mod auth;
pub mod benchmark;
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
pub mod url;

use benchmark::BenchmarkPolicy;
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
    /// In the order in which they are tried: file name, then position in the file. Disabled ones are left out.
    pub routes: Vec<RoutePolicy>,
    /// In the order of their names.
    pub benchmarks: Vec<BenchmarkPolicy>,
}

/// The sections whose entries have names, in the order in which they are shown.
macro_rules! named_sections {
    ($($model:ident in $section:ident: $one:literal;)*) => {
        $(impl NamedSection for $model {
            const KEY: &'static str = stringify!($section);
            const ONE: &'static str = $one;

            fn name(&self) -> &str {
                &self.name
            }

            fn set_name(&mut self, name: String) {
                self.name = name;
            }
        })*

        impl Policy {
            /// The name of an entry of a section.
            pub fn name(&self, section: &str, index: usize) -> String {
                let name = match section {
                    $(stringify!($section) => self.$section.get(index).map(NamedSection::name),)*
                    _ => None,
                };
                name.unwrap_or_default().to_owned()
            }

            /// All values of the policy, by path.
            pub fn show<'p>(&self, names: &'p dyn Fn(&str, usize) -> String) -> Display<'p> {
                let mut out = Display::new(names);
                out.key("server", |out| Server::show(&self.server, out));
                $(entries(&mut out, &self.$section);)*
                out
            }
        }
    };
}

named_sections! {
    ProviderPolicy in providers: "provider";
    Retry in retries: "retry policy";
    Breaker in breakers: "breaker";
    Queue in queues: "queue";
    Cache in caches: "cache";
    Degradation in degradations: "mode";
    RoutePolicy in routes: "route";
    BenchmarkPolicy in benchmarks: "benchmark";
}

fn entries<T: Form + NamedSection>(out: &mut Display<'_>, all: &[T]) {
    out.key(T::KEY, |out| {
        for (index, one) in all.iter().enumerate() {
            out.entry(one.name(), index, |out| T::show(one, out));
        }
    });
}

impl Policy {
    /// A part of the policy as one text.
    pub fn one_line<T: Form>(&self, value: &T) -> String {
        let names = |section: &str, index: usize| self.name(section, index);
        Display::new(&names).one_line::<T, T>(value)
    }
}

/// The keys of a policy file, and with them all sections.
pub fn describe(out: &mut Reference) -> Vec<KeyText> {
    let key = KeyText::optional;
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
        key(
            "benchmarks",
            "Calls that the sidecar makes itself to measure a route or a provider, by name.",
            map(BenchmarkPolicy::describe(out)),
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
    pub use super::benchmark::{
        BenchmarkLoad, BenchmarkPolicy, BenchmarkRequest, BenchmarkTarget, Pace,
    };
    pub use super::breaker::{Breaker, Scope};
    pub use super::cache::{Cache, Keeps, KeyPart, StoreAll};
    pub use super::degradation::{
        CapacityUsed, Degradation, ErrorRate, Latency, Manual, Of, Quantile, QueueWaiting, Sign,
        SlowerThanBaseline,
    };
    pub use super::matcher::{Match, PathPattern};
    pub use super::provider::{Capacity, EndpointPolicy, ProviderPolicy, Timeouts};
    pub use super::queue::{Accept, Callbacks, Class, ClassOf, Durable, Queue, QueueFlow};
    pub use super::response::{
        BodyCheck, Buffer, ClassifyRule, Commit, Mark, OnCut, Price, Stream, Usage,
    };
    pub use super::retry::{Budget, Cost, Retry};
    pub use super::rewrite::{Headers, JsonText, Rewrite, RewriteBody, RewritePath, SetHeader};
    pub use super::route::{Affinity, AllowOverride, Redirects, RoutePolicy, Weighted};
    pub use super::server::{
        AccessLog, ClientTls, Forwarded, Identity, LogFormat, LogTarget, Pem, Server, Traces,
    };
    pub use super::url::{Callback, ForwardProxy, PostTo, Url};
}
