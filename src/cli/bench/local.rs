//! `bench run --policies` and `bench ab --a policies:DIR`: the calls are made by this process, so
//! that CI needs no sidecar.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use tokio::signal::unix::{SignalKind, signal};

use super::BenchRunArgs;
use super::outcome::BenchOutcome;
use super::progress::Progress;
use crate::benchmark::local::{LocalTarget, run_local};
use crate::cli::check;
use crate::policy::Loaded;
use crate::policy::text::suggest::did_you_mean;
use crate::policy::yaml::diagnostic::render;

/// One side of a run.
#[derive(Debug)]
pub struct LocalSide {
    pub policies: PathBuf,
    /// Put before the target's name, if two policies are compared.
    pub name: String,
    /// In place of the benchmark's own target.
    pub target: Option<String>,
}

/// The sides of a run that this process makes; none if a sidecar makes it.
///
/// # Errors
/// If only one of two targets has a policy.
pub fn sides(args: &BenchRunArgs, targets: &[&String]) -> Result<Vec<LocalSide>, String> {
    let policies = args.policies.as_ref();
    if targets.is_empty() {
        let own = |path: &PathBuf| LocalSide::of(path, "", None);
        return Ok(policies.map(own).into_iter().collect());
    }
    let side = |target: &&String| match (target.strip_prefix("policies:"), policies) {
        (Some(path), _) => Some(LocalSide::of(Path::new(path), path, None)),
        (None, Some(path)) => Some(LocalSide::of(path, "", Some(target.as_str()))),
        (None, None) => None,
    };
    let sides: Vec<_> = targets.iter().filter_map(side).collect();
    if !sides.is_empty() && sides.len() < targets.len() {
        let expected = "name the policy of the other target with --policies PATH";
        return Err(format!("only one of the two targets is policies:PATH ({expected})"));
    }
    Ok(sides)
}

impl LocalSide {
    fn of(policies: &Path, name: &str, target: Option<&str>) -> LocalSide {
        let (policies, name) = (policies.to_owned(), name.to_owned());
        LocalSide { policies, name, target: target.map(str::to_owned) }
    }
}

pub fn run(args: &BenchRunArgs, json: bool, sides: &[LocalSide]) -> Result<BenchOutcome, String> {
    let policies = sides.iter().map(|side| load(&side.policies, &args.name));
    let policies = policies.collect::<Result<Vec<_>, _>>()?;
    let targets = sides.iter().zip(&policies).map(|(side, policy)| LocalTarget {
        policy,
        name: &side.name,
        target: side.target.as_deref(),
    });
    let targets: Vec<_> = targets.collect();
    let is_stopped = interrupts().map_err(|error| error.to_string())?;
    let mut progress = Progress::new(args.quiet);
    let ended = run_local(&targets, &args.name, |report| {
        progress.show(report);
        match is_stopped.load(Ordering::Relaxed) {
            true => Err("stopped by a signal".to_owned()),
            false => Ok(()),
        }
    });
    progress.clear();
    let (report, _) = ended?;
    if is_stopped.load(Ordering::Relaxed) {
        return Ok(BenchOutcome::stopped("stopped: none of the run's figures counts".to_owned()));
    }
    let benchmarks = policies.first().into_iter().flat_map(|loaded| &loaded.policy.benchmarks);
    let mut location =
        benchmarks.filter(|one| one.name == args.name).map(|one| one.location.as_str());
    BenchOutcome::of(&report, json, &args.ci, location.next())
}

/// Reads a policy that has the benchmark.
fn load(path: &Path, name: &str) -> Result<Loaded, String> {
    let read = check::read(path, false);
    let loaded = read
        .map_err(|problems| format!("the policy is not valid\n\n{}", render(&problems, false)))?
        .loaded;
    let names = || loaded.policy.benchmarks.iter().map(|known| known.name.as_str());
    if names().all(|known| known != name) {
        let hint = did_you_mean(name, names()).map(|hint| format!(": {hint}")).unwrap_or_default();
        return Err(format!("no benchmark `{name}` in {}{hint}", path.display()));
    }
    Ok(loaded)
}

/// Becomes true on SIGINT or SIGTERM.
fn interrupts() -> std::io::Result<Arc<AtomicBool>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let guard = runtime.enter();
    let (mut interrupt, mut terminate) =
        (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    drop(guard);
    let is_stopped = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&is_stopped);
    thread::Builder::new().name("signals".to_owned()).spawn(move || {
        runtime.block_on(async {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
        });
        flag.store(true, Ordering::Relaxed);
    })?;
    Ok(is_stopped)
}
