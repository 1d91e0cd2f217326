//! `bench run` and `bench ab`: start a run, follow it, report it.

use std::time::Duration;

use serde::Serialize;
use tokio::runtime::Runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::BenchRunArgs;
use super::outcome::BenchOutcome;
use super::progress::Progress;
use super::source;
use crate::admin::change::ChangeRequest;
use crate::benchmark::report::{RunReport, RunState};
use crate::cli::admin_client::{AdminArgs, encode};

const POLL: Duration = Duration::from_millis(500);

/// The two targets of an A/B run.
#[derive(Debug, Serialize)]
struct Targets<'a> {
    a: &'a str,
    b: &'a str,
}

/// SIGINT and SIGTERM, which stop the run instead of this process.
struct Interrupts {
    runtime: Runtime,
    interrupt: Signal,
    terminate: Signal,
}

impl Interrupts {
    fn listen() -> std::io::Result<Interrupts> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let guard = runtime.enter();
        let (interrupt, terminate) =
            (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
        drop(guard);
        Ok(Interrupts { runtime, interrupt, terminate })
    }

    /// Whether a signal came within this time.
    fn wait(&mut self, time: Duration) -> bool {
        let Interrupts { runtime, interrupt, terminate } = self;
        runtime.block_on(async {
            tokio::select! {
                _ = interrupt.recv() => true,
                _ = terminate.recv() => true,
                () = tokio::time::sleep(time) => false,
            }
        })
    }
}

/// Runs a benchmark on the sidecar, with its own target or with two others.
pub fn run(
    admin: &AdminArgs,
    args: &BenchRunArgs,
    targets: Option<[&String; 2]>,
) -> Result<BenchOutcome, String> {
    let benchmark = source::declared(admin, &args.name)?;
    let mut interrupts = Interrupts::listen().map_err(|error| error.to_string())?;
    let path = format!("/api/benchmarks/{}/runs", encode(&args.name));
    let reply = match targets {
        Some([a, b]) => admin.post(&path, &Targets { a, b })?,
        None => admin.post(&path, &ChangeRequest::default())?,
    };
    let mut report: RunReport = reply.read()?;
    let mut progress = Progress::new(args.quiet);
    let path = format!("/api/benchmarks/runs/{}", encode(&report.id));
    while report.state == RunState::Running {
        progress.show(&report);
        if interrupts.wait(POLL) {
            progress.clear();
            admin.delete(&path, &ChangeRequest::default())?;
            let message =
                format!("stopped: run {} is aborted, and none of its figures counts", report.id);
            return Ok(BenchOutcome::stopped(message));
        }
        report = admin.get(&path)?.read()?;
    }
    progress.clear();
    BenchOutcome::of(&report, admin.json, &args.ci, Some(&benchmark.location))
}
