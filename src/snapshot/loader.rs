//! Loading a policy again while traffic flows: a good one is swapped in, a bad one changes nothing.
//!
//! What is in force, and what the last load came to, are kept apart: `/api/policies` tells both.
//! Whether anything changed is told by a digest of all that was read, secrets and certificates
//! included; the digest stays in memory.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::{Mutex, MutexGuard};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::build::SnapshotBuilder;
use super::policy_files::{DiskSources, read_dir};
use super::{CurrentSnapshot, Snapshot};
use crate::clock;
use crate::policy::yaml::diagnostic::Problem;
use crate::policy::{self, Sources, diff};
use crate::telemetry::events::rfc3339;
use crate::telemetry::metrics::ReloadLabels;

/// The result of a load.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LoadResult {
    Applied,
    Unchanged,
    Rejected,
}

/// Which policy is in force, and how the last load went.
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
    pub warnings: Vec<String>,
    /// The differences between the policy in force and the one before it.
    pub changes: Vec<String>,
}

/// A state of the files: equal digests mean that nothing changed.
pub type FilesDigest = [u8; 32];

/// A policy that was read, before it is in force.
#[derive(Debug)]
pub struct PendingPolicy {
    loaded: policy::Loaded,
    files: Vec<String>,
    seen: FilesDigest,
}

/// Loads the policy of one directory, again and again.
#[derive(Debug)]
pub struct Loader {
    path: PathBuf,
    ground: SnapshotBuilder,
    current: Arc<CurrentSnapshot>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    status: PolicyStatus,
    /// The state of the files at the last load, good or bad.
    seen: FilesDigest,
    /// Secrets and certificates beside the policy's own files.
    beside: Vec<PathBuf>,
}

/// Reads and checks the policy at a path.
///
/// # Errors
/// Every problem of the files.
pub fn read(path: &Path) -> Result<PendingPolicy, Vec<Problem>> {
    let files = read_dir(path)?;
    let loaded = policy::load(&files, &disk(path))?;
    let seen = digest(path, &loaded.files_read);
    Ok(PendingPolicy { files: files.into_iter().map(|file| file.name).collect(), loaded, seen })
}

/// Relative paths in a policy begin at its directory.
fn disk(path: &Path) -> DiskSources {
    if path.is_dir() {
        DiskSources::new(path)
    } else {
        DiskSources::new(path.parent().unwrap_or(Path::new("")))
    }
}

/// Of all files of a policy, and of those beside it; what cannot be read counts as such.
fn digest(path: &Path, beside: &[PathBuf]) -> FilesDigest {
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
    let disk = disk(path);
    for path in beside {
        add(path.as_os_str().as_encoded_bytes());
        add(&disk.file(path).unwrap_or_default());
    }
    hash.finalize().into()
}

impl PendingPolicy {
    pub fn warnings(&self) -> &[Problem] {
        &self.loaded.warnings
    }

    /// Names as people know them.
    pub fn files(&self) -> &[String] {
        &self.files
    }

    pub fn hash(&self) -> &str {
        &self.loaded.hash
    }

    pub fn places(&self) -> &policy::Places {
        &self.loaded.places
    }

    pub fn policy(&self) -> &policy::sections::model::Policy {
        &self.loaded.policy
    }
}

impl Loader {
    /// Puts the first policy in force.
    ///
    /// # Errors
    /// When it cannot be used on this machine (a certificate, for instance).
    pub fn start(
        path: &Path,
        ground: SnapshotBuilder,
        read: PendingPolicy,
    ) -> Result<(Arc<Loader>, Arc<CurrentSnapshot>), super::build::BuildError> {
        let PendingPolicy { loaded, files, seen } = read;
        let snapshot = ground.build(loaded.policy, loaded.hash)?;
        let warnings = loaded.warnings.iter().map(ToString::to_string).collect();
        let status = PolicyStatus {
            in_force: in_force(&snapshot, files),
            last_load: last_load(LoadResult::Applied, vec![], warnings, vec![]),
        };
        let metrics = &ground.live.metrics;
        metrics.set_policy(&status.in_force.short);
        metrics.policy_valid.set(1);
        let current = Arc::new(CurrentSnapshot::from_pointee(snapshot));
        let state = Mutex::new(State { status, seen, beside: loaded.files_read });
        let loader = Loader { path: path.to_owned(), ground, current: Arc::clone(&current), state };
        Ok((Arc::new(loader), current))
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Secrets and certificates that the policy in force was made with.
    pub fn referenced_files(&self) -> Vec<PathBuf> {
        self.state().beside.clone()
    }

    pub fn status(&self) -> PolicyStatus {
        self.state().status.clone()
    }

    /// The files as they are now; `None` when they are as at the last load.
    pub fn changed_digest(&self) -> Option<FilesDigest> {
        let now = digest(&self.path, &self.referenced_files());
        (now != self.state().seen).then_some(now)
    }

    /// Loads the files as they are now.
    pub fn load(&self) -> LoadResult {
        let seen = digest(&self.path, &self.referenced_files());
        let outcome = match read(&self.path) {
            Ok(read) => self.apply(read),
            Err(problems) => {
                self.reject(&problems.iter().map(ToString::to_string).collect::<Vec<_>>(), seen)
            }
        };
        let metrics = &self.ground.live.metrics;
        let result = match outcome {
            LoadResult::Applied => "applied",
            LoadResult::Unchanged => "unchanged",
            LoadResult::Rejected => "rejected",
        };
        metrics.policy_reloads.get_or_create_owned(&ReloadLabels { result }).inc();
        metrics.policy_valid.set(i64::from(outcome != LoadResult::Rejected));
        outcome
    }

    fn apply(&self, read: PendingPolicy) -> LoadResult {
        let PendingPolicy { loaded, files, seen } = read;
        let warnings: Vec<String> = loaded.warnings.iter().map(ToString::to_string).collect();
        let before = self.current.load_full();
        let same = before.hash == loaded.hash && self.state().seen == seen;
        let changes = diff::changes(&before.policy, &loaded.policy);
        let snapshot = match self.ground.build(loaded.policy, loaded.hash) {
            Ok(snapshot) => snapshot,
            Err(error) => return self.reject(&[format!("error: {error}")], seen),
        };
        self.ground.live.buffers.retune(snapshot.policy.server.buffered);
        let mut state = self.state();
        state.seen = seen;
        state.beside = loaded.files_read;
        if same {
            state.status.last_load = last_load(LoadResult::Unchanged, vec![], warnings, vec![]);
            return LoadResult::Unchanged;
        }
        let in_force = in_force(&snapshot, files);
        let short = in_force.short.clone();
        // First in force, then told so.
        self.current.store(Arc::new(snapshot));
        let last_load = last_load(LoadResult::Applied, vec![], warnings, changes.clone());
        state.status = PolicyStatus { in_force, last_load };
        drop(state);
        drop(before);
        self.ground.live.forget_unused();
        self.ground.caches.remove_unused();
        self.ground.live.metrics.retain(&self.current.load().names());
        self.ground.live.metrics.set_policy(&short);
        self.ground.live.modes.wake();
        tracing::info!(policy = short, changes = changes.len(), "policy in force");
        for change in &changes {
            tracing::info!(policy = short, "{change}");
        }
        let what = format!("in force: {short}; {}", changes.join("; "));
        self.ground.live.events.push(clock::wall(), "policy", &short, what);
        LoadResult::Applied
    }

    fn reject(&self, problems: &[String], seen: FilesDigest) -> LoadResult {
        for problem in problems {
            tracing::error!("{problem}");
        }
        let mut state = self.state();
        state.seen = seen;
        state.status.last_load = last_load(LoadResult::Rejected, problems.to_vec(), vec![], vec![]);
        let short = state.status.in_force.short.clone();
        drop(state);
        tracing::error!(
            problems = problems.len(),
            in_force = short,
            "the policy was rejected; the last good one stays in force"
        );
        let what = format!("rejected: {} problems; {short} stays in force", problems.len());
        self.ground.live.events.push(clock::wall(), "policy", &short, what);
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
    LastLoad { at: rfc3339(clock::wall()), result, problems, warnings, changes }
}
