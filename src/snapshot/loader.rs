//! Reloads the policy under traffic: a valid policy is swapped in, an invalid one changes nothing.
//!
//! `/api/policies` reports the policy in force and the result of the last load separately. Changes
//! are detected by a digest of everything that was read, secrets and certificates included. The
//! digest never leaves memory.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::{Mutex, MutexGuard};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::build::SnapshotBuilder;
use super::policy_files::{DiskSources, PlaceholderSources, read_dir};
use super::reload_requests::ReloadRequests;
use super::{CurrentSnapshot, Snapshot};
use crate::clock;
use crate::policy::yaml::diagnostic::{Diagnostic, render};
use crate::policy::{self, Locations, Sources, diff};
use crate::resilience::words::words;
use crate::telemetry::events::NewEvent;
use crate::telemetry::events::rfc3339;
use crate::telemetry::metrics::ReloadLabels;

words! {
    /// The result of a load.
    #[derive(Serialize, Deserialize, JsonSchema)]
    #[serde(rename_all = "snake_case")]
    pub enum LoadResult {
        Applied = "applied",
        Unchanged = "unchanged",
        Rejected = "rejected",
    }
}

/// The policy in force and the result of the last load.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct PolicyStatus {
    pub in_force: ActivePolicy,
    pub last_load: LastLoad,
}

#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct ActivePolicy {
    pub hash: String,
    /// The first 12 characters of the hash, as in metrics and log lines.
    pub short: String,
    pub since: String,
    pub files: Vec<String>,
}

#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct LastLoad {
    pub at: String,
    pub result: LoadResult,
    pub problems: Vec<String>,
    /// The problems with the lines of the files that they are about.
    #[serde(default)]
    pub details: Vec<String>,
    pub warnings: Vec<String>,
    /// The differences between the policy in force and the one before it.
    pub changes: Vec<String>,
}

/// A digest of all files; equal digests mean that nothing changed.
pub type FilesDigest = [u8; 32];

/// A valid policy that is not in force yet.
#[derive(Debug)]
pub struct PendingPolicy {
    pub loaded: policy::Loaded,
    /// The displayed names of the files.
    pub files: Vec<String>,
    digest: FilesDigest,
}

/// Loads and reloads the policy of one directory.
#[derive(Debug)]
pub struct Loader {
    /// Loads that were requested, as by SIGHUP.
    pub requests: ReloadRequests,
    path: PathBuf,
    builder: SnapshotBuilder,
    current: Arc<CurrentSnapshot>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    status: PolicyStatus,
    /// Of the policy in force.
    locations: Arc<Locations>,
    /// The files at the last load, whether it was applied or rejected.
    digest: FilesDigest,
    /// The secrets and certificates that the policy refers to.
    referenced: Vec<PathBuf>,
}

/// Reads and validates the policy at a path.
///
/// # Errors
/// All problems of the files.
pub fn read(path: &Path) -> Result<PendingPolicy, Vec<Diagnostic>> {
    read_with(path, &DiskSources::of_policy(path))
}

/// Reads and validates the policy at a path, with a placeholder for each secret that is missing
/// here. Returns their references too, like `env:NAME`.
///
/// # Errors
/// All problems of the files.
pub fn read_without_secrets(
    path: &Path,
) -> Result<(PendingPolicy, BTreeSet<String>), Vec<Diagnostic>> {
    let sources = PlaceholderSources::new(DiskSources::of_policy(path));
    let read = read_with(path, &sources)?;
    Ok((read, sources.into_missing()))
}

fn read_with(path: &Path, sources: &dyn Sources) -> Result<PendingPolicy, Vec<Diagnostic>> {
    let files = read_dir(path)?;
    let loaded = policy::load(&files, sources)?;
    let digest = files_digest(path, &loaded.files_read);
    Ok(PendingPolicy { files: files.into_iter().map(|file| file.name).collect(), loaded, digest })
}

/// The digest of a policy's files and of the files it refers to, read errors included.
fn files_digest(path: &Path, referenced: &[PathBuf]) -> FilesDigest {
    let mut hash = Sha256::new();
    let mut add = |part: &[u8]| {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    };
    match read_dir(path) {
        Ok(files) => files.iter().for_each(|file| {
            add(file.name.as_bytes());
            add(&file.bytes);
        }),
        Err(problems) => problems.iter().for_each(|problem| add(problem.to_string().as_bytes())),
    }
    let sources = DiskSources::of_policy(path);
    for path in referenced {
        add(path.as_os_str().as_encoded_bytes());
        add(&sources.file(path).unwrap_or_default());
    }
    hash.finalize().into()
}

impl Loader {
    /// Applies the first policy.
    ///
    /// # Errors
    /// When it cannot be used on this machine (a certificate, for instance).
    pub fn start(
        path: &Path,
        builder: SnapshotBuilder,
        policy: PendingPolicy,
    ) -> Result<(Arc<Loader>, Arc<CurrentSnapshot>), super::build::BuildError> {
        let PendingPolicy { loaded, files, digest } = policy;
        let snapshot = builder.build(loaded.policy, loaded.hash)?;
        let warnings = loaded.warnings.iter().map(ToString::to_string).collect();
        let status = PolicyStatus {
            in_force: in_force(&snapshot, files),
            last_load: last_load(LoadResult::Applied, vec![], warnings, vec![]),
        };
        let metrics = &builder.live.metrics;
        metrics.set_policy(&status.in_force.short);
        metrics.policy_valid.set(1);
        let current = Arc::new(CurrentSnapshot::from_pointee(snapshot));
        let (locations, referenced) = (Arc::new(loaded.locations), loaded.files_read);
        let state = Mutex::new(State { status, locations, digest, referenced });
        let (path, requests) = (path.to_owned(), ReloadRequests::default());
        let loader = Loader { requests, path, builder, current: Arc::clone(&current), state };
        Ok((Arc::new(loader), current))
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The secrets and certificates that the policy in force refers to.
    pub fn referenced_files(&self) -> Vec<PathBuf> {
        self.state().referenced.clone()
    }

    pub fn status(&self) -> PolicyStatus {
        self.state().status.clone()
    }

    /// The place of each key of the policy in force.
    pub fn locations(&self) -> Arc<Locations> {
        Arc::clone(&self.state().locations)
    }

    /// The digest of the current files; `None` if it is that of the last load.
    pub fn changed_digest(&self) -> Option<FilesDigest> {
        let now = files_digest(&self.path, &self.referenced_files());
        (now != self.state().digest).then_some(now)
    }

    /// Loads the current files.
    pub fn load(&self) -> LoadResult {
        let _in_progress = self.requests.begin();
        let digest = files_digest(&self.path, &self.referenced_files());
        let result = match read(&self.path) {
            Ok(policy) => self.apply(policy),
            Err(problems) => {
                let texts: Vec<_> = problems.iter().map(ToString::to_string).collect();
                let quote = |problem| render(std::slice::from_ref(problem), false);
                self.reject(&texts, problems.iter().map(quote).collect(), digest)
            }
        };
        let metrics = &self.builder.live.metrics;
        let labels = ReloadLabels { result: result.as_str() };
        metrics.policy_reloads.get_or_create_owned(&labels).inc();
        metrics.policy_valid.set(i64::from(result != LoadResult::Rejected));
        result
    }

    fn apply(&self, policy: PendingPolicy) -> LoadResult {
        let PendingPolicy { loaded, files, digest } = policy;
        let warnings: Vec<String> = loaded.warnings.iter().map(ToString::to_string).collect();
        let before = self.current.load_full();
        let is_same = before.hash == loaded.hash && self.state().digest == digest;
        let changes = diff::changes(&before.policy, &loaded.policy);
        let snapshot = match self.builder.build(loaded.policy, loaded.hash) {
            Ok(snapshot) => snapshot,
            Err(error) => return self.reject(&[format!("error: {error}")], vec![], digest),
        };
        self.builder.live.buffers.retune(snapshot.policy.server.buffered);
        let mut state = self.state();
        state.digest = digest;
        state.referenced = loaded.files_read;
        state.locations = Arc::new(loaded.locations);
        if is_same {
            state.status.last_load = last_load(LoadResult::Unchanged, vec![], warnings, vec![]);
            return LoadResult::Unchanged;
        }
        let in_force = in_force(&snapshot, files);
        let short = in_force.short.clone();
        // The swap comes before the status that reports it.
        self.current.store(Arc::new(snapshot));
        let last_load = last_load(LoadResult::Applied, vec![], warnings, changes.clone());
        state.status = PolicyStatus { in_force, last_load };
        drop(state);
        drop(before);
        self.builder.live.forget_unused();
        self.builder.caches.remove_unused();
        self.builder.live.metrics.retain(&self.current.load().names());
        self.builder.live.metrics.set_policy(&short);
        self.builder.live.modes.wake();
        tracing::info!(policy = short, changes = changes.len(), "policy in force");
        for change in &changes {
            tracing::info!(policy = short, "{change}");
        }
        let text = format!("in force: {short}; {}", changes.join("; "));
        let event = NewEvent::new("policy", &short, text).state("applied");
        self.builder.live.events.push(clock::wall(), event);
        LoadResult::Applied
    }

    /// `details`: the problems with the lines that they quote.
    fn reject(&self, problems: &[String], details: Vec<String>, digest: FilesDigest) -> LoadResult {
        for problem in problems {
            tracing::error!("{problem}");
        }
        let mut state = self.state();
        state.digest = digest;
        let rejected = last_load(LoadResult::Rejected, problems.to_vec(), vec![], vec![]);
        state.status.last_load = LastLoad { details, ..rejected };
        let short = state.status.in_force.short.clone();
        drop(state);
        tracing::error!(
            problems = problems.len(),
            in_force = short,
            "policy rejected; the last valid policy stays in force"
        );
        let text = format!("rejected: {} problems; {short} stays in force", problems.len());
        let cause = problems.first().and_then(|problem| problem.lines().next());
        let event = NewEvent::new("policy", &short, text).state("rejected");
        let event = event.cause(cause.unwrap_or_default().to_owned());
        self.builder.live.events.push(clock::wall(), event);
        LoadResult::Rejected
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }
}

fn in_force(snapshot: &Snapshot, files: Vec<String>) -> ActivePolicy {
    ActivePolicy {
        short: snapshot.hash.chars().take(12).collect(),
        hash: snapshot.hash.clone(),
        since: rfc3339(snapshot.since),
        files,
    }
}

fn last_load(
    result: LoadResult,
    problems: Vec<String>,
    warnings: Vec<String>,
    changes: Vec<String>,
) -> LastLoad {
    let (at, details) = (rfc3339(clock::wall()), Vec::new());
    LastLoad { at, result, problems, details, warnings, changes }
}
