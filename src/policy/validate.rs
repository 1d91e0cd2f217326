//! From what the files say to a valid policy, or every problem at once.
//!
//! Files are merged first: a name stands for one thing over all of them. Then each section is
//! checked by its own file (`server.rs`, `rules.rs`, `queues.rs`, `providers.rs`, `routes.rs`), in the order in
//! which they refer to each other; what concerns several of them comes last.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use super::Sources;
use super::section::checker::Check;
use super::sections::degradations::{Around, MOST_MODES, RouteNames};
use super::sections::degraded::used;
use super::sections::model::{Cache, Degradation, Policy, Route};
use super::sections::providers::Checked;
use super::sections::queues::Lanes;
use super::sections::raw::{RawFile, RawRoute};
use super::sections::raw_queues::RawQueue;
use super::sections::routes::Known;
use super::sections::rules::Rules;
use super::sections::server::default_server;
use super::yaml::diagnostic::{Problem, Severity};
use super::yaml::tree::{NodeId, Tree};
use super::yaml::types::{At, Entries};

/// One file that could be read.
pub(super) struct ReadFile {
    pub(super) root: NodeId,
    pub(super) raw: RawFile,
}

/// Places of what has a name; of what was declared but could not be read, none.
struct Names {
    providers: BTreeMap<String, usize>,
    queues: BTreeMap<String, usize>,
    caches: BTreeMap<String, usize>,
    modes: BTreeMap<String, usize>,
}

impl Names {
    fn known<'a>(&'a self, rules: &'a Rules) -> Known<'a> {
        let Names { providers, queues, caches, modes } = self;
        Known { rules, providers, queues, caches, modes }
    }
}

pub(super) struct Outcome {
    /// Only without errors.
    pub(super) policy: Option<Policy>,
    pub(super) problems: Vec<Problem>,
    pub(super) files_read: Vec<PathBuf>,
}

/// `incomplete`: some file could not be read at all; `failed`: there are problems already.
pub(super) fn validate(
    tree: &Tree,
    files: &[ReadFile],
    sources: &dyn Sources,
    incomplete: bool,
    failed: bool,
) -> Outcome {
    let roots = files.iter().map(|file| file.root).collect();
    let (problems, files_read) = (Vec::new(), BTreeSet::new());
    let mut check = Check { tree, sources, problems, files_read, roots, incomplete };
    check.incomplete |= files.iter().any(|file| check.lost_a_section(file));
    check.version(files);
    let server = check.only_server(files).unwrap_or_else(default_server);
    let rules = check.rules(files);
    let mut providers = check.providers(files, &rules);
    let queues = check.queues(files);
    let caches = check.caches(files);
    let mut names = check.names(files, &providers, &queues, &caches);
    let degradations = check.degradations(files, &names.known(&rules), &providers);
    names.modes = check.by_name(files, "degradations", degradations.iter().map(|mode| &mode.name));
    let (mut routes, disabled) = check.routes(files, &names.known(&rules));
    routes.iter_mut().for_each(|(_, route)| route.used = used(route, &degradations));
    check.shed_classes(&routes, &degradations, &queues);
    check.passthrough(&routes, &mut providers);
    check.jobs(&mut routes, &providers, &queues);
    let (ids, routes): (Vec<_>, Vec<_>) = routes.into_iter().unzip();
    let providers = providers.into_iter().map(|checked| checked.provider).collect();
    let queues = queues.into_iter().map(|lanes| lanes.queue).collect();
    let policy = Policy { server, providers, queues, caches, degradations, routes };
    check.currencies(&policy);
    let failed = failed || !check.problems.is_empty();
    if !failed {
        let warnings = check.warnings(&policy, &ids);
        check.problems.extend(warnings);
        check.no_route(files, ids.len() + disabled);
    }
    Outcome {
        policy: (!failed && !incomplete).then_some(policy),
        problems: check.problems,
        files_read: check.files_read.into_iter().collect(),
    }
}

impl Check<'_> {
    /// A section that is not the map or list it should be.
    fn lost_a_section(&self, file: &ReadFile) -> bool {
        let sections = ["providers", "retries", "breakers", "queues", "caches", "degradations"];
        let lost = |key: &&str| {
            self.tree.child(file.root, key).is_some_and(|id| self.tree.node(id).pruned)
        };
        self.tree.node(file.root).pruned || sections.iter().any(lost)
    }

    fn version(&mut self, files: &[ReadFile]) {
        for at in files.iter().filter_map(|file| file.raw.version.as_ref()) {
            if at.as_str() != "1" {
                self.error(
                    at.id,
                    format!("version `{}` is not known here: expected `1`", at.value),
                );
            }
        }
        let given = files.iter().any(|file| self.tree.child(file.root, "version").is_some());
        if let (Some(first), false, false) = (files.first(), given, self.incomplete) {
            let start = self.tree.in_file(
                self.tree.node(first.root).file,
                0..0,
                "no file says which version of the language it is written in".to_owned(),
            );
            self.problems.push(start.help("put `version: 1` first"));
        }
    }

    fn only_server(&mut self, files: &[ReadFile]) -> Option<super::sections::model::Server> {
        let mut all = files.iter().filter_map(|file| file.raw.server.as_ref());
        let first = all.next()?;
        for second in all {
            let problem = self
                .tree
                .on_key(second.id, "`server` stands in two files: expected it in one at most");
            self.problems.push(problem.with(self.tree, first.id, "first defined here"));
        }
        Some(self.server(&first.value))
    }

    /// Those of all files by name; a second one of a name is reported.
    fn merged<'f, T>(
        &mut self,
        files: &'f [ReadFile],
        what: &str,
        section: impl Fn(&'f RawFile) -> Option<&'f Entries<T>>,
    ) -> BTreeMap<&'f str, &'f At<T>> {
        let mut merged: BTreeMap<&str, &At<T>> = BTreeMap::new();
        for (name, at) in
            files.iter().filter_map(|file| section(&file.raw)).flat_map(|entries| &entries.0)
        {
            self.name(|tree, message| tree.on_key(at.id, message), name);
            match merged.get(name.as_str()) {
                Some(first) => self.twice(what, name, at.id, first.id),
                None => {
                    merged.insert(name, at);
                }
            }
        }
        merged
    }

    fn twice(&mut self, what: &str, name: &str, second: NodeId, first: NodeId) {
        let problem = self.tree.on_key(second, format!("the {what} `{name}` is defined twice"));
        self.problems.push(problem.with(self.tree, first, "first defined here"));
    }

    fn rules(&mut self, files: &[ReadFile]) -> Rules {
        let mut rules = Rules::new(self);
        for (name, at) in self.merged(files, "retry policy", |raw| raw.retries.as_ref()) {
            let retry = self.retry(name, &at.value);
            rules.retries.insert(name.to_owned(), retry);
        }
        for (name, at) in self.merged(files, "breaker", |raw| raw.breakers.as_ref()) {
            let breaker = self.breaker(name, &at.value);
            rules.breakers.insert(name.to_owned(), breaker);
        }
        rules
    }

    fn providers(&mut self, files: &[ReadFile], rules: &Rules) -> Vec<Checked> {
        let merged = self.merged(files, "provider", |raw| raw.providers.as_ref());
        merged.into_iter().map(|(name, at)| self.provider(name, at, rules)).collect()
    }

    /// In the order of their names, `default` among them.
    fn queues(&mut self, files: &[ReadFile]) -> Vec<Lanes> {
        let default = self.lanes("default", &RawQueue::default());
        let mut queues = BTreeMap::from([("default", default)]);
        for (name, at) in self.merged(files, "queue", |raw| raw.queues.as_ref()) {
            queues.insert(name, self.lanes(name, &at.value));
        }
        queues.into_values().collect()
    }

    /// In the order of their names.
    fn caches(&mut self, files: &[ReadFile]) -> Vec<Cache> {
        let merged = self.merged(files, "cache", |raw| raw.caches.as_ref());
        merged.into_iter().map(|(name, at)| self.cache(name, &at.value)).collect()
    }

    /// Those that are enabled, in the order of their names.
    fn degradations(
        &mut self,
        files: &[ReadFile],
        known: &Known<'_>,
        providers: &[Checked],
    ) -> Vec<Degradation> {
        let routes = route_names(files);
        let breakerless: Vec<_> =
            providers.iter().map(|checked| checked.provider.breaker.is_none()).collect();
        let around = Around { known, routes: &routes, breakerless: &breakerless };
        let mut modes = Vec::new();
        for (name, at) in self.merged(files, "mode", |raw| raw.degradations.as_ref()) {
            let mode = self.degradation(name, at, &around);
            if at.enabled.is_none_or(|at| at.value) {
                if modes.len() == MOST_MODES {
                    let message = format!("more than {MOST_MODES} modes are enabled");
                    self.problems.push(self.tree.on_key(at.id, message));
                }
                modes.push(mode);
            }
        }
        modes
    }

    fn names(
        &self,
        files: &[ReadFile],
        providers: &[Checked],
        queues: &[Lanes],
        caches: &[Cache],
    ) -> Names {
        let providers = providers.iter().map(|checked| &checked.provider.name);
        let queues = queues.iter().map(|lanes| &lanes.queue.name);
        Names {
            providers: self.by_name(files, "providers", providers),
            queues: self.by_name(files, "queues", queues),
            caches: self.by_name(files, "caches", caches.iter().map(|cache| &cache.name)),
            modes: BTreeMap::new(),
        }
    }

    /// Those that are enabled, and how many are not.
    fn routes(&mut self, files: &[ReadFile], known: &Known<'_>) -> (Vec<(NodeId, Route)>, usize) {
        let mut names: BTreeMap<&str, NodeId> = BTreeMap::new();
        let (mut routes, mut disabled) = (Vec::new(), 0);
        for at in files.iter().filter_map(|file| file.raw.routes.as_ref()).flatten() {
            let route = self.route(at, known);
            if let Some(name) = &at.name {
                match names.get(name.as_str()) {
                    Some(first) => self.twice("route", name, name.id, *first),
                    None => {
                        names.insert(name, name.id);
                    }
                }
            }
            match is_enabled(&at.value) {
                true => routes.push((at.id, route)),
                false => disabled += 1,
            }
        }
        (routes, disabled)
    }

    /// The places of `names`, and the other names of the section: entries that could not be read.
    fn by_name<'n>(
        &self,
        files: &[ReadFile],
        section: &str,
        names: impl Iterator<Item = &'n String>,
    ) -> BTreeMap<String, usize> {
        let sections = files.iter().filter_map(|file| self.tree.child(file.root, section));
        let declared = sections.flat_map(|id| self.tree.all_keys(id));
        let mut places: BTreeMap<_, _> = declared.map(|name| (name, usize::MAX)).collect();
        places.extend(names.enumerate().map(|(place, name)| (name.clone(), place)));
        places
    }

    fn no_route(&mut self, files: &[ReadFile], routes: usize) {
        if let (Some(first), 0) = (files.first(), routes) {
            let file = self.tree.node(first.root).file;
            let mut problem = self.tree.in_file(
                file,
                0..0,
                "there is no route: no request can go anywhere".to_owned(),
            );
            problem.severity = Severity::Warning;
            self.problems.push(problem);
        }
    }
}

/// Of all files, to their places among those that are enabled.
fn route_names(files: &[ReadFile]) -> RouteNames {
    let mut place = 0;
    let mut names = RouteNames::new();
    for at in files.iter().filter_map(|file| file.raw.routes.as_ref()).flatten() {
        let enabled = is_enabled(&at.value);
        if let Some(name) = &at.name {
            names.entry(name.value.clone()).or_insert(enabled.then_some(place));
        }
        place += usize::from(enabled);
    }
    names
}

fn is_enabled(raw: &RawRoute) -> bool {
    raw.enabled.is_none_or(|at| at.value)
}
