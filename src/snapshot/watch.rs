//! When to load again: the directory's events, a poll of the content as a backstop, SIGHUP.
//!
//! What is watched are directories, never files: editors and ConfigMaps rename, git-sync swaps a
//! symbolic link, and a watch on a file dies with its first replacement. Before each look the
//! watches are set again, because a directory that was deleted and made again is another one.
//!
//! Files are read only when they have stopped changing: events have been quiet for a moment, and
//! two readings a moment apart agree. A file that is written in two halves is seen once, whole.

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

/// Events have to be quiet for so long.
const QUIET: Duration = Duration::from_millis(75);
/// Two readings so far apart have to agree.
const STEADY: Duration = Duration::from_millis(75);
/// Directory levels below the policy's that are watched.
const DEPTH: usize = 8;

/// Why to look at the files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReloadTrigger {
    /// Something happened in a watched directory.
    Changed,
    /// Load, changed or not (SIGHUP).
    Load,
}

/// Loads the policy again whenever it changes, for as long as the process lives.
///
/// `events` is false where the file system tells nothing: then the poll alone sees changes.
pub async fn watch(
    loader: Arc<Loader>,
    wakes: (Sender<ReloadTrigger>, Receiver<ReloadTrigger>),
    events: bool,
    poll: Duration,
) {
    let (sender, mut inbox) = wakes;
    let mut watches = if events { DirectoryWatches::new(sender.clone()) } else { None };
    let mut poll = interval(poll.max(Duration::from_millis(10)));
    poll.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // Keeps the inbox open where nothing else does.
    let _sender = sender;
    loop {
        if let Some(watches) = &mut watches {
            watches.arm(&loader);
        }
        let wake = tokio::select! {
            wake = inbox.recv() => wake,
            _ = poll.tick() => Some(ReloadTrigger::Changed),
        };
        match wake {
            None => return,
            Some(ReloadTrigger::Load) => {
                run(&loader, Loader::load).await;
            }
            Some(ReloadTrigger::Changed) => {
                if let Some(watches) = &mut watches {
                    watches.arm(&loader);
                }
                if settled(&loader, &mut inbox).await {
                    run(&loader, Loader::load).await;
                }
            }
        }
    }
}

/// Off the thread that serves the admin side: files may be on a slow disk.
async fn run<T: Send + 'static>(
    loader: &Arc<Loader>,
    look: impl FnOnce(&Loader) -> T + Send + 'static,
) -> Option<T> {
    let loader = Arc::clone(loader);
    tokio::task::spawn_blocking(move || look(&loader)).await.ok()
}

/// Waits until the files have stopped changing; false when they are as at the last load, and
/// nobody asked for another.
async fn settled(loader: &Arc<Loader>, inbox: &mut Receiver<ReloadTrigger>) -> bool {
    let mut asked = false;
    loop {
        while let Ok(Some(wake)) = timeout(QUIET, inbox.recv()).await {
            asked |= wake == ReloadTrigger::Load;
        }
        let Some(Some(first)) = run(loader, Loader::changed_digest).await else { return asked };
        sleep(STEADY).await;
        match run(loader, Loader::changed_digest).await {
            Some(Some(second)) if second == first => return true,
            Some(Some(_)) => {}
            _ => return asked,
        }
    }
}

/// The directories that are watched.
struct DirectoryWatches {
    watcher: RecommendedWatcher,
    /// The policy's path and the files beside it: what else is written there is not ours.
    files: Arc<Mutex<BTreeSet<PathBuf>>>,
    known: BTreeSet<PathBuf>,
    told: bool,
}

impl DirectoryWatches {
    fn new(sender: Sender<ReloadTrigger>) -> Option<DirectoryWatches> {
        let files = Arc::new(Mutex::new(BTreeSet::new()));
        let ours = Arc::clone(&files);
        let tell = move |event: notify::Result<Event>| {
            let ours = ours.lock();
            if event.as_ref().map_or(true, |event| is_change(event, &ours)) {
                // A full inbox has a wake in it already.
                let _ = sender.try_send(ReloadTrigger::Changed);
            }
        };
        match notify::recommended_watcher(tell) {
            Ok(watcher) => {
                Some(DirectoryWatches { watcher, files, known: BTreeSet::new(), told: false })
            }
            Err(error) => {
                tracing::warn!(%error, "directories cannot be watched; the poll alone sees changes");
                None
            }
        }
    }

    /// Sets every watch again; one on a directory that is the same costs a system call.
    fn arm(&mut self, loader: &Loader) {
        let (path, beside) = (absolute(loader.path()), loader.referenced_files());
        let base = base(&path);
        let named = beside.iter().map(|file| base.join(file)).chain([path.clone()]);
        let files =
            named.flat_map(|file| [file.canonicalize().ok(), Some(file)]).flatten().collect();
        *self.files.lock() = files;
        let wanted = places(&path, &beside);
        for gone in self.known.difference(&wanted) {
            let _ = self.watcher.unwatch(gone);
        }
        for place in &wanted {
            if let Err(error) = self.watcher.watch(place, RecursiveMode::NonRecursive)
                && !self.told
            {
                self.told = true;
                let place = place.display().to_string();
                tracing::warn!(%error, place, "cannot be watched; the poll sees its changes");
            }
        }
        self.known = wanted;
    }
}

/// A change of ours: not somebody's reading, and not a log that grows beside the policy.
fn is_change(event: &Event, files: &BTreeSet<PathBuf>) -> bool {
    match event.kind {
        EventKind::Access(AccessKind::Close(AccessMode::Write)) | EventKind::Modify(Data(_)) => {
            let is_yaml = |path: &PathBuf| {
                path.extension().is_some_and(|extension| extension == "yaml" || extension == "yml")
            };
            event.paths.iter().any(|path| is_yaml(path) || files.contains(path))
        }
        EventKind::Access(_) => false,
        _ => true,
    }
}

fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

/// Where relative paths of the policy begin.
fn base(policy: &Path) -> PathBuf {
    if policy.is_dir() { policy.to_owned() } else { parent(policy) }
}

/// Directories in which something may happen that changes the policy.
fn places(policy: &Path, beside: &[PathBuf]) -> BTreeSet<PathBuf> {
    let mut places = BTreeSet::new();
    around(policy, &mut places);
    below(policy, DEPTH, &mut places);
    let base = base(policy);
    for file in beside {
        around(&base.join(file), &mut places);
    }
    places
}

/// Where a path's own name, any symbolic link in it, or what it leads to may be replaced.
fn around(path: &Path, places: &mut BTreeSet<PathBuf>) {
    let exists = path.ancestors().skip(1).find(|ancestor| ancestor.is_dir());
    places.extend(exists.map(Path::to_owned));
    for link in path.ancestors().filter(|ancestor| ancestor.is_symlink()) {
        places.insert(parent(link));
    }
    if let Ok(target) = path.canonicalize() {
        places.insert(parent(&target));
    }
}

fn below(dir: &Path, depth: usize, places: &mut BTreeSet<PathBuf>) {
    if !dir.is_dir() || depth == 0 {
        return;
    }
    places.insert(dir.to_owned());
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    for path in entries.map(|entry| entry.path()) {
        let hidden = path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
        if hidden {
            continue;
        }
        if path.is_symlink() {
            around(&path, places);
        }
        below(&path, depth - 1, places);
    }
}

fn parent(path: &Path) -> PathBuf {
    path.parent().unwrap_or(Path::new("/")).to_owned()
}
