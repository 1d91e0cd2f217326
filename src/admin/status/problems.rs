//! Everything that is wrong now, for `/api/status`, the command line and the dashboard.
//!
//! A problem says what is wrong, why, since when, and which command helps. It disappears when its
//! cause does: nothing is acknowledged by hand.

use std::time::{Duration, Instant};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::rates::{LastMinute, RequestCount};
use crate::admin::breakers::HeldEndpoint;
use crate::admin::queue::QueueStatus;
use crate::admin::state::AdminState;
use crate::clock;
use crate::policy::yaml::units::show_elapsed;
use crate::resilience::breaker::EnforcementMode;
use crate::snapshot::expiries::{CredentialExpiry, ExpiringKind};
use crate::snapshot::loader::LoadResult;
use crate::telemetry::events::{Event, rfc3339};

/// A retry budget with less than this is spent.
const SPENT: f64 = 1.0;
/// A route fails if in the last minute at least this many of its requests failed, and this share.
const FAILED_REQUESTS: f64 = 10.0;
const FAILED_SHARE: f64 = 0.05;
/// From this share on it is critical.
const CRITICAL_SHARE: f64 = 0.5;

/// Something that is wrong now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct OpenProblem {
    /// `critical`: requests fail, or will soon; `warning`: something is not as it should be.
    pub severity: ProblemSeverity,
    /// `policy_rejected`, `breaker_open`, `provider_drained`, `credential_rejected`,
    /// `credential_expiring`, `held`,
    /// `fleet_detached`, `policies_differ`, `store_unusable`, `queue_paused`, `queue_filling`,
    /// `dead_jobs`, `route_failing`, `retry_budget_spent`, `degraded`, `regression` or
    /// `host_regression`.
    pub code: String,
    /// The object in question: a provider, a route, a queue, a breaker's key.
    pub subject: String,
    pub what: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// RFC 3339; absent where it is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<String>,
    /// A command that shows more, or mends it.
    pub command: String,
}

/// How bad a problem is.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum ProblemSeverity {
    Critical,
    Warning,
}

/// Collects problems.
struct ProblemList<'s> {
    admin: &'s AdminState,
    now: Instant,
    events: Vec<Event>,
    problems: Vec<OpenProblem>,
}

/// All problems, critical ones first.
pub(super) async fn open_problems(
    admin: &AdminState,
    queues: &[QueueStatus],
    minute: Option<&LastMinute>,
) -> Vec<OpenProblem> {
    let events = admin.live.events.all();
    let mut list = ProblemList { admin, now: clock::now(), events, problems: Vec::new() };
    list.policy();
    list.breakers();
    list.drained();
    list.held();
    list.expiring();
    list.fleet().await;
    list.store();
    queues.iter().for_each(|queue| list.queue(queue));
    minute.into_iter().for_each(|minute| list.failing_routes(minute));
    list.budgets();
    list.modes();
    list.regressions();
    list.problems.sort_by_key(|problem| problem.severity);
    list.problems
}

impl ProblemList<'_> {
    fn add(
        &mut self,
        severity: ProblemSeverity,
        code: &str,
        subject: &str,
        what: String,
        command: String,
    ) -> &mut OpenProblem {
        let (code, subject) = (code.to_owned(), subject.to_owned());
        let problem =
            OpenProblem { severity, code, subject, what, why: None, since: None, command };
        self.problems.push(problem);
        let last = self.problems.len() - 1;
        &mut self.problems[last]
    }

    fn critical(
        &mut self,
        code: &str,
        subject: &str,
        what: String,
        command: String,
    ) -> &mut OpenProblem {
        self.add(ProblemSeverity::Critical, code, subject, what, command)
    }

    fn warning(
        &mut self,
        code: &str,
        subject: &str,
        what: String,
        command: String,
    ) -> &mut OpenProblem {
        self.add(ProblemSeverity::Warning, code, subject, what, command)
    }

    /// The newest event of a kind about a key.
    fn event(&self, kind: &str, key: &str) -> Option<Event> {
        self.events.iter().rev().find(|event| event.kind == kind && event.key == key).cloned()
    }

    fn policy(&mut self) {
        let status = self.admin.loader.status();
        if status.last_load.result != LoadResult::Rejected {
            return;
        }
        let (path, in_force) = (self.admin.loader.path().display().to_string(), status.in_force);
        let what = format!(
            "the policy was rejected; {} of {} stays in force",
            in_force.short, in_force.since
        );
        let first = status.last_load.problems.first().map(|text| first_line(text));
        let problem =
            self.critical("policy_rejected", &path, what, format!("outrigger check {path}"));
        (problem.why, problem.since) = (first, Some(status.last_load.at));
    }

    fn breakers(&mut self) {
        let shadow = EnforcementMode::Shadow.as_str();
        for cell in self.admin.live.breakers() {
            let status = cell.status(self.now);
            if status.state == "closed" || status.mode == shadow {
                continue;
            }
            let key = cell.key().to_string();
            let state = status.state.replace('_', "-");
            let what = match status.retry_in_ms {
                Some(ms) => {
                    format!("the breaker of {key} is {state}; it probes in {}", seconds(ms))
                }
                None => format!("the breaker of {key} is {state}"),
            };
            let event = self.event("breaker", &key);
            let command = "outrigger breakers".to_owned();
            let problem = self.critical("breaker_open", &key, what, command);
            (problem.since, problem.why) = event.map(|event| (event.at, event.detail)).unzip();
        }
    }

    fn drained(&mut self) {
        let snapshot = self.admin.current.load_full();
        for provider in &snapshot.providers {
            let Some(manual) = provider.live.active_override(self.now) else { continue };
            let name = &provider.policy.name;
            let what = format!("provider {name} is drained{}", manual.note.suffix());
            let since = self.event("override", name).map(|event| event.at);
            let command = format!("outrigger undrain {name}");
            self.warning("provider_drained", name, what, command).since = since;
        }
    }

    fn held(&mut self) {
        for held in self.admin.live.held().into_iter().map(HeldEndpoint::new) {
            let HeldEndpoint { key, remaining_ms, reason, since, .. } = &held;
            // The end of a hold admits requests little by little: nothing is wrong then.
            if reason == "slow_start" {
                continue;
            }
            let (left, why) = (seconds(*remaining_ms), Some(held.cause()));
            let command = "outrigger breakers".to_owned();
            let problem = match reason.as_str() {
                "credential" => {
                    let what = format!(
                        "the provider rejects the credential {key}; it is not used for {left}"
                    );
                    self.critical("credential_rejected", key, what, command)
                }
                _ => self.warning("held", key, format!("{key} is on hold for {left}"), command),
            };
            (problem.why, problem.since) = (why, since.clone());
        }
    }

    fn expiring(&mut self) {
        let (snapshot, now) = (self.admin.current.load_full(), clock::wall());
        for expiry in &snapshot.expiries {
            let CredentialExpiry { kind, owner, reference, at } = expiry;
            let left = at.duration_since(now).unwrap_or_default();
            if left > kind.notice() {
                continue;
            }
            let (what, used) = match kind {
                ExpiringKind::ServerCertificate => ("certificate", "server.tls"),
                ExpiringKind::ClientCertificate => ("client certificate", owner.as_str()),
                ExpiringKind::Token => ("token", owner.as_str()),
            };
            let (severity, ends) = match left.is_zero() {
                true => (ProblemSeverity::Critical, format!("expired at {}", rfc3339(*at))),
                false => (ProblemSeverity::Warning, format!("expires in {}", show_elapsed(left))),
            };
            let text = format!("the {what} {reference} of {used} {ends}");
            let command = match kind {
                ExpiringKind::Token => "outrigger explain".to_owned(),
                _ => format!("openssl x509 -noout -enddate -in {reference}"),
            };
            let why = "a file that changes is read again at once; an environment variable at the \
                       next start"
                .to_owned();
            self.add(severity, "credential_expiring", owner, text, command).why = Some(why);
        }
    }

    async fn fleet(&mut self) {
        let Some(fleet) = &self.admin.fleet else { return };
        let status = fleet.status().await;
        let command = "outrigger fleet".to_owned();
        if !status.attached {
            let what = "Redis does not respond: this host decides alone".to_owned();
            self.warning("fleet_detached", &status.redis, what, command.clone()).since =
                Some(status.since);
        }
        if status.policies_differ {
            let what = "hosts of the fleet have different policies in force".to_owned();
            self.warning("policies_differ", &status.fleet, what, command);
        }
    }

    fn store(&mut self) {
        let Some(store) = &self.admin.store else { return };
        let Some(failure) = store.failure() else { return };
        let path = store.path().display().to_string();
        let what = "the store cannot be written: no job is accepted".to_owned();
        let problem = self.critical("store_unusable", &path, what, format!("df -h {path}"));
        (problem.why, problem.since) = (Some(failure.reason), Some(rfc3339(failure.since)));
    }

    fn queue(&mut self, queue: &QueueStatus) {
        let name = &queue.name;
        if queue.paused {
            let event = self.event("override", name);
            let what = format!("queue {name} is paused: its requests wait");
            let command = format!("outrigger queue resume {name}");
            let problem = self.warning("queue_paused", name, what, command);
            (problem.since, problem.why) = event.map(|event| (event.at, event.detail)).unzip();
        }
        let waiting: u64 = queue.classes.iter().map(|class| class.waiting as u64).sum();
        let oldest = queue.classes.iter().filter_map(|class| class.oldest_ms).max().unwrap_or(0);
        let is_full = waiting * 10 >= queue.max_waiting as u64 * 8;
        if waiting > 0 && (is_full || oldest * 2 > queue.max_wait_ms) {
            let what = format!(
                "queue {name}: {waiting} of {} requests wait, the oldest for {}",
                queue.max_waiting,
                seconds(oldest)
            );
            let command = "outrigger queue".to_owned();
            let why = format!("requests are rejected after {}", seconds(queue.max_wait_ms));
            self.critical("queue_filling", name, what, command).why = Some(why);
        }
        let dead = queue.jobs.as_ref().and_then(|jobs| jobs.states.get("dead")).copied();
        if let Some(dead) = dead.filter(|dead| *dead > 0) {
            let what = format!("queue {name}: {dead} jobs are dead: every run failed");
            let command = format!("outrigger queue jobs {name} --state dead");
            self.warning("dead_jobs", name, what, command);
        }
    }

    fn failing_routes(&mut self, minute: &LastMinute) {
        let snapshot = self.admin.current.load_full();
        for name in snapshot.routes.iter().map(|route| route.policy.name.as_str()) {
            let RequestCount { total, failed } = minute.requests(name);
            if failed < FAILED_REQUESTS || failed < total * FAILED_SHARE {
                continue;
            }
            let what = format!(
                "{failed:.0} of {total:.0} requests of route {name} failed in the last minute"
            );
            let severity = match failed >= total * CRITICAL_SHARE {
                true => ProblemSeverity::Critical,
                false => ProblemSeverity::Warning,
            };
            let command = format!("outrigger requests route:{name} failed");
            self.add(severity, "route_failing", name, what, command);
        }
    }

    fn budgets(&mut self) {
        let snapshot = self.admin.current.load_full();
        for route in &snapshot.routes {
            let left = route.live.balance(self.now);
            if left >= SPENT {
                continue;
            }
            let name = &route.policy.name;
            let what = format!("the retry budget of route {name} is spent: errors are passed on");
            let command = format!("outrigger requests route:{name} retried");
            self.warning("retry_budget_spent", name, what, command);
        }
    }

    fn modes(&mut self) {
        for mode in self.admin.live.modes.all() {
            let Some(episode) = mode.episode().filter(|_| mode.is_in_force()) else { continue };
            let name = mode.name.as_str();
            let what = format!("degradation mode {name} is in force");
            let why = self.event("degradation", name).map(|event| event.detail);
            let command = "outrigger degrade".to_owned();
            let since = rfc3339(episode.began);
            let problem = self.warning("degraded", name, what, command);
            (problem.since, problem.why) = (Some(since), why);
        }
    }

    fn regressions(&mut self) {
        let command = || "outrigger bench series".to_owned();
        if self.admin.tracker.lock().is_host() {
            let since = self.event("regression", "host").map(|event| event.at);
            let what =
                "most calls are slower than usual: this host or its network is the likely cause";
            self.warning("host_regression", "host", what.to_owned(), command()).since = since;
        }
        for slow in self.admin.live.regressions.all() {
            let key = slow.key.path();
            let event = self.event("regression", &key);
            let what = format!("calls of {key} are worse than their baseline");
            let problem = self.warning("regression", &key, what, command());
            (problem.since, problem.why) = event.map(|event| (event.at, event.detail)).unzip();
        }
    }
}

/// The state in one sentence.
pub fn summary(problems: &[OpenProblem], failed_share: Option<f64>) -> String {
    match problems {
        [] => match failed_share.filter(|share| *share > 0.0) {
            Some(share) => {
                let percent = share * 100.0;
                format!("everything works; {percent:.2} % of the last minute's requests failed")
            }
            None => "everything works".to_owned(),
        },
        [only] => only.what.clone(),
        [first, _] => format!("{}; 1 more problem", first.what),
        [first, rest @ ..] => format!("{}; {} more problems", first.what, rest.len()),
    }
}

fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().to_owned()
}

fn seconds(ms: u64) -> String {
    match ms {
        ..10_000 => format!("{:.1}s", ms as f64 / 1e3),
        _ => show_elapsed(Duration::from_millis(ms)),
    }
}
