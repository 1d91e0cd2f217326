//! The comparison of runs: equal, 10 % slower, and interleaved on a machine that drifts.

use std::time::Instant;

use outrigger::resilience::comparison::{RunBlock, Verdict, compare, compare_paired};

use crate::Targets;
use crate::noise::Noise;

/// Calls of a block: 10 s at 20 calls per second.
const CALLS: usize = 200;
const FIRST_BLOCKS: usize = 30;
/// More calls than this are not made; the comparison stays open.
const MOST_CALLS: usize = 400_000;
const SIGMA: f64 = 0.5;

/// Two runs to compare.
struct Case {
    name: &'static str,
    /// How much slower the second run is.
    slower: f64,
    /// How much slower the machine is at the end than at the start.
    drift: f64,
    is_paired: bool,
    expected: Verdict,
    /// Of 100.
    least: usize,
}

const CASES: [Case; 5] = [
    Case {
        name: "equal runs",
        slower: 1.0,
        drift: 1.0,
        is_paired: false,
        expected: Verdict::Same,
        least: 99,
    },
    Case {
        name: "10 % slower",
        slower: 1.1,
        drift: 1.0,
        is_paired: false,
        expected: Verdict::Worse,
        least: 95,
    },
    Case {
        name: "pairs, drift 30 %, equal",
        slower: 1.0,
        drift: 1.3,
        is_paired: true,
        expected: Verdict::Same,
        least: 95,
    },
    Case {
        name: "pairs, drift 30 %, 10 % slower",
        slower: 1.1,
        drift: 1.3,
        is_paired: true,
        expected: Verdict::Worse,
        least: 95,
    },
    Case {
        name: "pairs, drift 30 %, 10 % faster",
        slower: 1.0 / 1.1,
        drift: 1.3,
        is_paired: true,
        expected: Verdict::Better,
        least: 95,
    },
];

/// A block of a closed loop: the time is the sum of the latencies, of 16 connections.
fn block(noise: &mut Noise, scale: f64) -> RunBlock {
    // Calls of a block have 3 % in common.
    let scale = scale * (0.03 * noise.normal()).exp();
    let mut block = RunBlock::default();
    for _ in 0..CALLS {
        if noise.uniform() < 0.005 {
            block.failed += 1;
            continue;
        }
        let latency = scale * (SIGMA * noise.normal()).exp();
        block.seconds += latency / 16.0;
        block.latencies.push(latency as f32);
    }
    block
}

/// The verdict, with as many calls as the comparisons request, and the calls of each run.
fn settle(case: &Case, seed: u64) -> (Verdict, usize) {
    let mut noise = Noise::new(seed);
    let mut blocks = FIRST_BLOCKS;
    loop {
        let drift = |at: usize| 1.0 + (case.drift - 1.0) * at as f64 / blocks as f64;
        let mut run = |scale: f64| -> Vec<RunBlock> {
            (0..blocks).map(|at| block(&mut noise, scale * drift(at))).collect()
        };
        let (a, b) = (run(1.0), run(case.slower));
        let draw = || noise.uniform();
        let found =
            if case.is_paired { compare_paired(&a, &b, draw) } else { compare(&a, &b, draw) };
        let calls = blocks * CALLS + found.more_calls as usize;
        if found.verdict != Verdict::Undecided || calls > MOST_CALLS {
            return (found.verdict, blocks * CALLS);
        }
        blocks = calls.div_ceil(CALLS);
    }
}

pub fn comparisons(targets: &mut Targets, runs: usize) {
    for case in &CASES {
        let started = Instant::now();
        let (mut right, mut calls) = (0, Vec::new());
        for run in 0..runs {
            let (verdict, count) = settle(case, run as u64 + 1);
            right += usize::from(verdict == case.expected);
            calls.push(count);
            eprint!("\r{}: {} of {runs}, {:.0?}   ", case.name, run + 1, started.elapsed());
        }
        eprintln!();
        calls.sort_unstable();
        let word = case.expected.as_str();
        let (median, most) = (calls[runs / 2], calls[runs - 1]);
        let target = format!("{word}: {} of 100", case.least);
        let seen = format!("{right} of {runs}; calls: median {median}, most {most}");
        targets.add(case.name, target, seen, right * 100 >= case.least * runs);
    }
}
