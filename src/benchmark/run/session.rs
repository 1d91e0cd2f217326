//! The execution of a run on the current thread: the calls in their order, and the checks during
//! them.
//!
//! With one target all calls are one leg. With two, each target has a warm-up, and then the targets
//! take turns block by block, first a then b, then b then a: so a drift of the machine or of the
//! time of day is the same for both. Between two legs no call is in flight.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::task::{JoinSet, spawn_local};
use tokio::time::{interval, sleep_until};

use super::load::{CallTimes, Spans};
use super::plan::RunPlan;
use super::target::{MeasuredTarget, PlannedCall, empty};
use super::thresholds::broken_early;
use crate::benchmark::report::{Arm, RunFigures};
use crate::clock;
use crate::policy::sections::benchmark::MOST_CALLS;
use crate::policy::sections::model::Pace;
use crate::proxy::downstream::worker::TICK;
use crate::resilience::comparison::RunBlock;
use crate::telemetry::access_log::AccessLogSender;

/// Ticks between two updates of the progress.
const UPDATE_TICKS: u32 = 5;

/// A run under way.
#[derive(Debug)]
pub struct RunSession {
    plan: RunPlan,
    spans: Spans,
    targets: Vec<Rc<MeasuredTarget>>,
    began: Instant,
    calls: Cell<u64>,
    /// For each target: the time that counts.
    counted: RefCell<Vec<CountedTime>>,
}

/// The figures of a run so far.
#[derive(Clone, Debug)]
pub struct RunProgress {
    pub progress: f64,
    pub figures: Vec<RunFigures>,
}

/// The time over which calls count.
#[derive(Clone, Copy, Debug, Default)]
struct CountedTime {
    before: Duration,
    /// Since when, and for at most how long.
    running: Option<(Instant, Duration)>,
}

/// A part of a run with one target.
#[derive(Clone, Copy, Debug)]
struct Leg {
    target: usize,
    /// The measured time of the target before this leg.
    from: Duration,
    ramp: Duration,
    length: Duration,
    blocks: LegBlocks,
}

/// Which block a call of a leg belongs to.
#[derive(Clone, Copy, Debug)]
enum LegBlocks {
    None,
    One(usize),
    /// By its time.
    All,
}

impl RunSession {
    /// # Errors
    /// When a policy cannot be used on this machine.
    pub fn new(plan: RunPlan, log: &AccessLogSender) -> Result<Rc<RunSession>, String> {
        let spans = Spans::of(&plan.load);
        let measurements = empty(&spans, plan.targets.len());
        let targets = plan.targets.iter().zip(measurements);
        let targets: Result<Vec<_>, _> =
            targets.map(|(target, empty)| MeasuredTarget::new(target, empty, log)).collect();
        let targets = targets?;
        Ok(Rc::new(RunSession {
            counted: RefCell::new(vec![CountedTime::default(); targets.len()]),
            targets,
            spans,
            began: clock::now(),
            calls: Cell::new(0),
            plan,
        }))
    }

    /// Runs to the end. `check` gets the progress twice a second, and may end the run with a reason.
    ///
    /// # Errors
    /// Why it ended early.
    pub async fn run(
        self: &Rc<Self>,
        mut check: impl FnMut(RunProgress) -> Result<(), String>,
    ) -> Result<(), String> {
        let calls = async {
            for leg in self.legs() {
                self.run_leg(leg).await;
            }
        };
        tokio::select! {
            () = calls => Ok(()),
            reason = self.watch(&mut check) => Err(reason),
        }
    }

    async fn watch(&self, check: &mut impl FnMut(RunProgress) -> Result<(), String>) -> String {
        let mut ticks = interval(TICK);
        for tick in 0_u32.. {
            ticks.tick().await;
            self.targets.iter().for_each(|target| target.tick());
            if tick % UPDATE_TICKS != 0 {
                continue;
            }
            let progress = self.progress();
            let broken = self.broken(&progress);
            if let Some(reason) = check(progress).err().or(broken) {
                return reason;
            }
        }
        String::new()
    }

    fn broken(&self, progress: &RunProgress) -> Option<String> {
        let figures = progress.figures.first().filter(|_| self.plan.abort_on_fail)?;
        let planned = match self.plan.load.pace {
            Pace::Rate(rate) => Some((rate * self.spans.length.as_secs_f64()) as u64),
            Pace::Concurrency(_) => None,
        };
        let threshold = broken_early(&self.plan.thresholds, figures, planned)?;
        Some(format!("the threshold `{}` is broken", threshold.text))
    }

    /// The parts of the run in their order.
    fn legs(&self) -> Vec<Leg> {
        let (load, spans) = (&self.plan.load, &self.spans);
        if self.targets.len() == 1 {
            let blocks = LegBlocks::All;
            let (from, ramp) = (Duration::ZERO, load.ramp);
            return vec![Leg { target: 0, from, ramp, length: spans.end(), blocks }];
        }
        let lead = |target| Leg {
            target,
            from: Duration::ZERO,
            ramp: load.ramp,
            length: spans.lead,
            blocks: LegBlocks::None,
        };
        let block = |block: usize, target| Leg {
            target,
            from: spans.block_length() * block as u32,
            ramp: Duration::ZERO,
            length: spans.block_length(),
            blocks: LegBlocks::One(block),
        };
        let leads = [0, 1].into_iter().filter(|_| !spans.lead.is_zero()).map(lead);
        let pairs = (0..spans.blocks).flat_map(|at| {
            let order = if at % 2 == 0 { [0, 1] } else { [1, 0] };
            order.map(|target| block(at, target))
        });
        leads.chain(pairs).collect()
    }

    async fn run_leg(self: &Rc<Self>, leg: Leg) {
        let began = clock::now();
        let span = match leg.blocks {
            LegBlocks::None => None,
            LegBlocks::One(_) => Some((began, leg.length)),
            LegBlocks::All => Some((began + self.spans.lead, self.spans.length)),
        };
        self.counted.borrow_mut()[leg.target].running = span;
        match self.plan.load.pace {
            Pace::Rate(rate) => self.open_loop(leg, began, rate).await,
            Pace::Concurrency(count) => self.closed_loop(leg, began, count).await,
        }
        if let Some(counted) = self.counted.borrow_mut().get_mut(leg.target) {
            counted.before += counted.running.take().map_or(Duration::ZERO, |(_, length)| length);
        }
    }

    async fn open_loop(self: &Rc<Self>, leg: Leg, began: Instant, rate: f64) {
        let (times, target) = (CallTimes::new(rate, leg.ramp), &self.targets[leg.target]);
        for number in times.first_from(leg.from).. {
            let start = times.start(number).saturating_sub(leg.from);
            if start >= leg.length {
                break;
            }
            let intended = began + start;
            sleep_until(intended.into()).await;
            target.wait_for_place().await;
            let Some(call) = self.next_call(leg, start, intended) else { break };
            spawn_local(Rc::clone(target).call(call));
        }
        sleep_until((began + leg.length).into()).await;
        target.drain().await;
    }

    async fn closed_loop(self: &Rc<Self>, leg: Leg, began: Instant, count: u32) {
        let mut tasks = JoinSet::new();
        for number in 0..count {
            let first = began + leg.ramp * number / count;
            tasks.spawn_local(Rc::clone(self).repeat(leg, began, first));
        }
        while tasks.join_next().await.is_some() {}
    }

    /// Makes one call after another.
    async fn repeat(self: Rc<Self>, leg: Leg, began: Instant, first: Instant) {
        sleep_until(first.into()).await;
        loop {
            let now = clock::now();
            let start = now.saturating_duration_since(began);
            if start >= leg.length {
                break;
            }
            let Some(call) = self.next_call(leg, start, now) else { break };
            Rc::clone(&self.targets[leg.target]).call(call).await;
            tokio::task::yield_now().await;
        }
    }

    /// The requests are sent in turn; `None` after the last call that is allowed.
    fn next_call(&self, leg: Leg, start: Duration, intended: Instant) -> Option<PlannedCall> {
        let number = self.calls.get();
        if number >= MOST_CALLS {
            return None;
        }
        self.calls.set(number + 1);
        let at = usize::try_from(number).unwrap_or_default() % self.plan.requests.len().max(1);
        let block = match leg.blocks {
            LegBlocks::None => None,
            LegBlocks::One(block) => Some(block),
            LegBlocks::All => self.spans.block(start),
        };
        let request = self.plan.requests.get(at)?.clone();
        Some(PlannedCall { request, intended, placed: clock::now(), block })
    }

    pub fn progress(&self) -> RunProgress {
        let figures = self.targets.iter().enumerate().map(|(at, target)| {
            let measurements = target.measurements.borrow();
            measurements.figures(self.seconds(at), target.currency.as_deref(), false)
        });
        let planned = self.spans.end() * self.targets.len() as u32;
        let progress = clock::since(self.began).as_secs_f64() / planned.as_secs_f64();
        RunProgress { progress: progress.min(0.999), figures: figures.collect() }
    }

    /// The arms of the report at the end.
    pub fn arms(&self) -> Vec<Arm> {
        let targets = self.targets.iter().enumerate();
        let arm = |(at, target): (usize, &Rc<MeasuredTarget>)| {
            let measurements = target.measurements.borrow();
            measurements.arm(&target.label, self.seconds(at), target.currency.as_deref())
        };
        targets.map(arm).collect()
    }

    /// The blocks of each target.
    pub fn blocks(&self) -> Vec<Vec<RunBlock>> {
        self.targets.iter().map(|target| target.measurements.borrow().blocks.clone()).collect()
    }

    fn seconds(&self, target: usize) -> f64 {
        let CountedTime { before, running } = self.counted.borrow()[target];
        let running = running.map_or(Duration::ZERO, |(since, most)| clock::since(since).min(most));
        (before + running).as_secs_f64()
    }
}
