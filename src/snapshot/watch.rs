//! Decides when to reload: on file system events, on a periodic comparison, and on SIGHUP.
//!
//! Directories are watched, never files: editors and ConfigMaps rename files, git-sync swaps a
//! symbolic link, and a watch on a file ends with its first replacement. The watches are renewed
//! before each comparison, because a directory that was deleted and created again is another one.
//!
//! Files are loaded only after they have stopped changing: no event for a moment, and two equal
//! digests a moment apart. A file that is written in two steps is loaded once.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use notify::event::{AccessKind, AccessMode, ModifyKind::Data};
use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use parking_lot::Mutex;
use tokio::sync::mpsc::{Receiver, Sender};
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

use super::loader::Loader;
use super::policy_files::{base_dir, is_yaml};
use crate::telemetry::panics;

/// Time without events before the files are read.
const QUIET: Duration = Duration::from_millis(75);
/// Time between the two digests that have to be equal.
const STEADY: Duration = Duration::from_millis(75);
/// Levels of directories that are watched.
const DEPTH: usize = 8;

/// The reason to read the files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReloadTrigger {
    /// Something happened in a watched directory.
    Changed,
    /// Load even if nothing changed (SIGHUP).
    Load,
}

/// The channel of reload triggers.
#[derive(Debug)]
pub struct ReloadChannel {
    pub sender: Sender<ReloadTrigger>,
    pub inbox: Receiver<ReloadTrigger>,
}

/// Reloads the policy whenever it changes, until the process ends.
///
/// `events`: use file system events. Otherwise only the poll detects changes.
pub async fn watch(loader: Arc<Loader>, triggers: ReloadChannel, events: bool, poll: Duration) {
    let ReloadChannel { sender, mut inbox } = triggers;
    let mut watches = if events { DirectoryWatches::new(sender.clone()) } else { None };
    let mut poll = interval(poll.max(Duration::from_millis(10)));
    poll.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // Keeps the inbox open.
    let _sender = sender;
    loop {
        if let Some(watches) = &mut watches {
            watches.renew(&loader);
        }
        let trigger = tokio::select! {
            trigger = inbox.recv() => trigger,
            _ = poll.tick() => Some(ReloadTrigger::Changed),
        };
        match trigger {
            None => return,
            Some(ReloadTrigger::Load) => {
                run(&loader, Loader::load).await;
            }
            Some(ReloadTrigger::Changed) => {
                if let Some(watches) = &mut watches {
                    watches.renew(&loader);
                }
                if has_settled_change(&loader, &mut inbox).await {
                    run(&loader, Loader::load).await;
                }
            }
        }
    }
}

/// Runs off the thread of the admin side, because the disk may be slow.
async fn run<T: Send + 'static>(
    loader: &Arc<Loader>,
    task: impl FnOnce(&Loader) -> T + Send + 'static,
) -> Option<T> {
    let loader = Arc::clone(loader);
    // A policy that makes the loader panic does not replace the one in force.
    let task = move || panics::contain(|| task(&loader)).ok();
    tokio::task::spawn_blocking(task).await.ok().flatten()
}

/// Waits until the files have stopped changing. False if they are unchanged since the last load
/// and no load was requested.
async fn has_settled_change(loader: &Arc<Loader>, inbox: &mut Receiver<ReloadTrigger>) -> bool {
    let mut is_requested = false;
    loop {
        while let Ok(Some(trigger)) = timeout(QUIET, inbox.recv()).await {
            is_requested |= trigger == ReloadTrigger::Load;
        }
        let Some(Some(first)) = run(loader, Loader::changed_digest).await else {
            return is_requested;
        };
        sleep(STEADY).await;
        match run(loader, Loader::changed_digest).await {
            Some(Some(second)) if second == first => return true,
            Some(Some(_)) => {}
            _ => return is_requested,
        }
    }
}

/// The watched directories.
struct DirectoryWatches {
    watcher: RecommendedWatcher,
    /// The policy's path and the files it refers to. Writes to other files are ignored.
    files: Arc<Mutex<BTreeSet<PathBuf>>>,
    known: BTreeSet<PathBuf>,
    has_warned: bool,
}

impl DirectoryWatches {
    fn new(sender: Sender<ReloadTrigger>) -> Option<DirectoryWatches> {
        let files = Arc::new(Mutex::new(BTreeSet::new()));
        let policy_files = Arc::clone(&files);
        let notify_loader = move |event: notify::Result<Event>| {
            let files = policy_files.lock();
            if event.as_ref().map_or(true, |event| is_change(event, &files)) {
                // A full inbox contains a trigger already.
                let _ = sender.try_send(ReloadTrigger::Changed);
            }
        };
        match notify::recommended_watcher(notify_loader) {
            Ok(watcher) => {
                Some(DirectoryWatches { watcher, files, known: BTreeSet::new(), has_warned: false })
            }
            Err(error) => {
                tracing::warn!(%error, "cannot watch directories; only the poll detects changes");
                None
            }
        }
    }

    /// Renews every watch, at the cost of one system call for each.
    fn renew(&mut self, loader: &Loader) {
        let (path, referenced) = (absolute(loader.path()), loader.referenced_files());
        let base = base_dir(&path);
        let all = referenced.iter().map(|file| base.join(file)).chain([path.clone()]);
        let files = all.flat_map(|file| [file.canonicalize().ok(), Some(file)]).flatten().collect();
        *self.files.lock() = files;
        let wanted = directories(&path, &referenced);
        for gone in self.known.difference(&wanted) {
            let _ = self.watcher.unwatch(gone);
        }
        for directory in &wanted {
            if let Err(error) = self.watcher.watch(directory, RecursiveMode::NonRecursive)
                && !self.has_warned
            {
                self.has_warned = true;
                let directory = directory.display().to_string();
                tracing::warn!(%error, directory, "cannot watch this directory; only the poll detects its changes");
            }
        }
        self.known = wanted;
    }
}

/// Whether the event is a change of a policy file. Reads, and logs in the same directory, are not.
fn is_change(event: &Event, files: &BTreeSet<PathBuf>) -> bool {
    match event.kind {
        EventKind::Access(AccessKind::Close(AccessMode::Write)) | EventKind::Modify(Data(_)) => {
            event.paths.iter().any(|path| is_yaml(path) || files.contains(path))
        }
        EventKind::Access(_) => false,
        _ => true,
    }
}

fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

/// The directories whose events may change the policy.
fn directories(policy: &Path, referenced: &[PathBuf]) -> BTreeSet<PathBuf> {
    let mut directories = BTreeSet::new();
    add_parents(policy, &mut directories);
    add_subdirectories(policy, DEPTH, &mut directories);
    let base = base_dir(policy);
    for file in referenced {
        add_parents(&base.join(file), &mut directories);
    }
    directories
}

/// The directories in which the path, a symbolic link in it, or its target may be replaced.
fn add_parents(path: &Path, directories: &mut BTreeSet<PathBuf>) {
    let exists = path.ancestors().skip(1).find(|ancestor| ancestor.is_dir());
    directories.extend(exists.map(Path::to_owned));
    for link in path.ancestors().filter(|ancestor| ancestor.is_symlink()) {
        directories.insert(parent(link));
    }
    if let Ok(target) = path.canonicalize() {
        directories.insert(parent(&target));
    }
}

fn add_subdirectories(dir: &Path, depth: usize, directories: &mut BTreeSet<PathBuf>) {
    if !dir.is_dir() || depth == 0 {
        return;
    }
    directories.insert(dir.to_owned());
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    for path in entries.map(|entry| entry.path()) {
        let hidden = path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
        if hidden {
            continue;
        }
        if path.is_symlink() {
            add_parents(&path, directories);
        }
        add_subdirectories(&path, depth - 1, directories);
    }
}

fn parent(path: &Path) -> PathBuf {
    path.parent().unwrap_or(Path::new("/")).to_owned()
}
