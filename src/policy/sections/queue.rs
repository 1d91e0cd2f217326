//! The section `queues`: where requests wait for capacity, and which of them become jobs.
//!
//! A request names its class by the class's name or by its position in the list, so a number is not a
//! valid name. A header that carries a credential cannot select a class or a flow.

use std::time::Duration;

use http::HeaderName;

use super::auth::Secret;
use super::rewrite::OpenHeader;
use super::url::{Callback, PostTo};
use crate::policy::section::{
    Checker, Form, MapKey, Required, Size, defaults, section, text_form, words,
};
use crate::policy::text::suggest::did_you_mean;
use crate::policy::yaml::tree::NodeId;
use crate::policy::yaml::units::{DAY, MONTH, MS, SECOND};

section! {
    /// Where requests wait for capacity; all values below have defaults, also in the entry `default`.
    #[derive(Clone, Debug, PartialEq)]
    pub struct Queue, finish class_of_others {
        /// Requests that wait at once.
        max_waiting: usize = 1000, in 1..=1_000_000;
        /// Memory of the bodies of waiting requests.
        max_bytes: u64 as Size = 64 << 20, in 1 << 10..=1 << 40;
        /// How long one request waits.
        max_wait: Duration = 30 * SECOND, in MS..=DAY;
        /// Up to 8 names with their weights, the highest priority first: the order is priority 0, 1, 2.
        classes: Vec<Class> as Classes = usual_classes();
        /// The class of a request.
        class: ClassOf;
        /// Requests with the same value of a header take turns with others of their class.
        flow: Option<QueueFlow>;
        /// Requests that become jobs: acknowledged with 202 once they are stored, and run later.
        durable: Durable;
    }
    computed {
        /// Its name under `queues`.
        name: String = "default".to_owned();
        /// The class of requests that name none: a position in `classes`.
        default_class: usize = 1;
    }
}

section! {
    /// The class of a request.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct ClassOf {
        /// A header whose value is the name or the position of a class.
        header: Option<HeaderName> as Option<OpenHeader>;
        /// The class of requests that name none.
        default: Option<String> = None => "normal, else the last of classes";
    }
}

section! {
    /// Requests with the same value of a header.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct QueueFlow {
        /// The name of the header.
        header: HeaderName as OpenHeader, like "x-tenant";
    }
}

section! {
    /// Requests that become jobs.
    #[derive(Clone, Debug, PartialEq)]
    pub struct Durable {
        /// Which requests become jobs: `prefer` those with `Prefer: respond-async` (RFC 7240).
        accept: Accept = Accept::Prefer;
        /// Jobs that run at once.
        workers: usize = 16, in 1..=1024;
        /// Jobs that are stored at once.
        max_jobs: u64 = 100_000, in 1..=10_000_000;
        /// Size of the bodies of all unfinished jobs.
        max_bytes: u64 as Size = 1 << 30, in 1 << 10..=1 << 40;
        /// Runs of one job that may end without a result; after that the job is dead.
        max_deliveries: u32 = 5, in 1..=100;
        /// A job that has not finished by then expires.
        expire: Duration = DAY, in MS..=MONTH;
        /// How long a result can be fetched.
        keep_result: Duration = DAY, in MS..=MONTH;
        /// The largest body of a result; the rest is cut off, and the result marked.
        max_result: u64 as Size = 1 << 20, in 0..=64 << 20;
        /// Whether any host of the fleet may run the jobs; their bodies go to Redis then. Without `--redis` they stay on their host.
        share: bool = false;
        /// Where results may be posted.
        callback: Option<Callbacks>;
    }
}

section! {
    /// Where results may be posted.
    #[derive(Clone, Debug, PartialEq)]
    pub struct Callbacks {
        /// URLs like `https://app.internal/hooks/**`: scheme, host and port must be equal; in the path `*` stands for one segment and `**` for the rest.
        allow: Vec<Callback> as Required<Vec<Callback>>, like "[\"https://app.internal/**\"]";
        /// Whether a name may resolve to a private IP address. Names that are private themselves (`app`, `localhost`, `*.internal`, `*.local`), and IP addresses in the URL, may be private in any case.
        private_addresses: bool = false;
        /// Signs each post (Standard Webhooks), like `${env:WEBHOOK_SECRET}`; without it posts are unsigned.
        secret: Option<Secret>;
    }
}

words! {
    /// Which requests become jobs.
    pub enum Accept {
        /// Those with `Prefer: respond-async` (RFC 7240).
        Prefer = "prefer",
        Always = "always",
        Never = "never",
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Class {
    pub name: String,
    /// At least 1.
    pub weight: u32,
}

fn usual_classes() -> Vec<Class> {
    let class = |(name, weight): (&str, u32)| Class { name: name.to_owned(), weight };
    [("high", 8), ("normal", 4), ("low", 1)].map(class).to_vec()
}

impl Queue {
    /// The position of the class with this name, or of the one at this position.
    pub fn class(&self, text: &str) -> Option<usize> {
        let named = self.classes.iter().position(|class| class.name == text);
        named.or_else(|| text.parse().ok().filter(|position| *position < self.classes.len()))
    }
}

impl Durable {
    /// Whether a result may be posted there.
    pub fn allows_callback(&self, to: &PostTo) -> bool {
        let callback = self.callback.as_ref();
        callback.is_some_and(|callback| callback.allow.iter().any(|allowed| allowed.allows(to)))
    }

    /// Whether a result may be posted there even if the host has a private address.
    pub fn allows_private_callback(&self, to: &PostTo) -> bool {
        let declared = self.callback.as_ref().is_some_and(|callback| callback.private_addresses);
        self.allows_callback(to) && (declared || to.has_private_name())
    }

    /// The secret that posts are signed with.
    pub fn callback_secret(&self) -> Option<&Secret> {
        self.callback.as_ref()?.secret.as_ref()
    }
}

impl Default for Queue {
    fn default() -> Self {
        defaults()
    }
}

impl Default for Durable {
    fn default() -> Self {
        defaults()
    }
}

/// Checks that `class.default` is one of `classes`, and finds its position.
fn class_of_others(queue: &mut Queue, node: NodeId, check: &mut Checker<'_>) {
    let position = |name: &str| queue.classes.iter().position(|class| class.name == name);
    let usual = position("normal").unwrap_or(queue.classes.len().saturating_sub(1));
    let Some(name) = &queue.class.default else {
        queue.default_class = usual;
        return;
    };
    let found = position(name);
    // The class may be one that could not be read.
    let list = check.tree.child(node, "classes");
    let lost = list.is_some_and(|list| check.damaged(list)) || queue.classes.is_empty();
    if let (None, false, Some(at)) = (found, lost, check.tree.below(node, &["class", "default"])) {
        let names: Vec<_> = queue.classes.iter().map(|class| class.name.as_str()).collect();
        let label = did_you_mean(name, names.iter().copied());
        let message = format!("there is no class `{name}` under `classes`");
        let known = format!("known here: `{}`", names.join("`, `"));
        check.report(at, |tree| {
            let problem = tree.on_value(at, message);
            if label.is_some() { problem.label(label) } else { problem.help(known) }
        });
    }
    queue.default_class = found.unwrap_or(usual);
}

/// Names of classes with their weights.
#[derive(Debug)]
pub struct Classes;

const MOST_CLASSES: usize = 8;

text_form! {
    impl Form<Vec<Class>> for Classes {
        read(node, check) {
            let entries = check.entries(node)?;
            let found: Vec<_> = entries.filter_map(|child| class(child, check)).collect();
            if !(1..=MOST_CLASSES).contains(&found.len()) && !check.damaged(node) {
                let message = format!(
                    "{} classes: expected 1 to {MOST_CLASSES}, like `{{ high: 8, low: 1 }}`",
                    found.len()
                );
                check.error(node, message);
            }
            Some(found)
        }
        show(value, out) {
            let classes: Vec<_> =
                value.iter().map(|class| format!("{} {}", class.name, class.weight)).collect();
            out.text(classes.join(", "));
        }
        describe(out) { ValueShape::Map(String::NAME, Box::new(u32::describe(out))) }
    }
}

fn class(node: NodeId, check: &mut Checker<'_>) -> Option<Class> {
    let tree = check.tree;
    let name = tree.key(node).unwrap_or_default();
    if name.parse::<usize>().is_ok() {
        let message = format!("`{name}` cannot name a class: a number is the position of a class");
        check.error_on_key(node, message);
    } else {
        check.named(node);
    }
    let weight = u32::read(node, check)?;
    check.bounded::<u32, u32>(&weight, node, &(1..=1_000_000));
    Some(Class { name: name.to_owned(), weight })
}
