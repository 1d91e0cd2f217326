use super::*;
use proptest::prelude::*;

/// A generator for tests (xorshift).
fn generator(seed: u64) -> impl FnMut() -> f64 {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 11) as f64 / (1_u64 << 53) as f64
    }
}

/// Blocks of latencies between 0.5 and 1.5 times `scale(block)`.
fn run(blocks: usize, calls: usize, seed: u64, scale: impl Fn(usize) -> f64) -> Vec<RunBlock> {
    let mut draw = generator(seed);
    let mut block = |at: usize| RunBlock {
        latencies: (0..calls).map(|_| (scale(at) * (0.5 + draw())) as f32).collect(),
        failed: 0,
        seconds: 10.0 * scale(at),
    };
    (0..blocks).map(&mut block).collect()
}

fn verdict_on(comparison: &Comparison, measure: RunMeasure) -> Verdict {
    comparison.differences[measure as usize].verdict
}

#[test]
fn equal_runs_are_the_same() {
    let (a, b) = (run(40, 500, 1, |_| 1.0), run(40, 500, 2, |_| 1.0));
    let comparison = compare(&a, &b, generator(3));
    assert_eq!((comparison.verdict, comparison.more_calls), (Verdict::Same, 0), "{comparison:?}");
}

#[test]
fn a_slower_run_is_worse_and_the_other_way_round_better() {
    let (a, b) = (run(40, 500, 1, |_| 1.0), run(40, 500, 2, |_| 1.2));
    assert_eq!(compare(&a, &b, generator(3)).verdict, Verdict::Worse);
    assert_eq!(compare(&b, &a, generator(3)).verdict, Verdict::Better);
}

#[test]
fn too_few_calls_are_undecided_and_state_how_many_would_settle_it() {
    let (a, b) = (run(12, 20, 1, |_| 1.0), run(12, 20, 2, |_| 1.0));
    let comparison = compare(&a, &b, generator(3));
    assert_eq!(comparison.verdict, Verdict::Undecided);
    assert!(comparison.more_calls >= 24, "{comparison:?}");
    assert!(comparison.more_calls <= 240 * 9, "{comparison:?}");
}

#[test]
fn few_blocks_are_undecided_for_any_number_of_calls() {
    let (a, b) = (run(9, 5_000, 1, |_| 1.0), run(9, 5_000, 2, |_| 2.0));
    assert_eq!(compare(&a, &b, generator(3)).verdict, Verdict::Undecided);
}

#[test]
fn runs_without_calls_are_undecided() {
    let comparison = compare(&[], &[], generator(1));
    assert_eq!(comparison.verdict, Verdict::Undecided);
    assert!(comparison.more_calls > 0);
    let empty = vec![RunBlock::default(); 20];
    assert_eq!(compare_paired(&empty, &empty, generator(1)).verdict, Verdict::Undecided);
}

#[test]
fn more_errors_are_worse() {
    let (a, mut b) = (run(40, 500, 1, |_| 1.0), run(40, 500, 2, |_| 1.0));
    b.iter_mut().for_each(|block| block.failed = 20);
    let comparison = compare(&a, &b, generator(3));
    assert_eq!(verdict_on(&comparison, RunMeasure::ErrorRate), Verdict::Worse);
    assert_eq!(verdict_on(&comparison, RunMeasure::P50), Verdict::Same);
    assert_eq!(comparison.verdict, Verdict::Worse);
}

#[test]
fn a_drift_cancels_out_in_pairs() {
    let drift = |at: usize| 1.0 + 0.3 * at as f64 / 40.0;
    let (a, b) = (run(40, 500, 1, drift), run(40, 500, 2, drift));
    assert_eq!(compare_paired(&a, &b, generator(3)).verdict, Verdict::Same);
    let slower = run(40, 500, 2, |at| 1.1 * drift(at));
    assert_eq!(compare_paired(&a, &slower, generator(3)).verdict, Verdict::Worse);
    assert_eq!(compare_paired(&slower, &a, generator(3)).verdict, Verdict::Better);
}

#[test]
fn latencies_that_are_no_numbers_are_left_out() {
    let (mut a, b) = (run(20, 100, 1, |_| 1.0), run(20, 100, 2, |_| 1.0));
    let expected = compare(&a, &b, generator(3));
    a[3].latencies.extend([f32::NAN, f32::INFINITY]);
    let found = compare(&a, &b, generator(3));
    assert_eq!(verdict_on(&found, RunMeasure::P50), verdict_on(&expected, RunMeasure::P50));
    assert!(found.differences.iter().all(|d| d.estimate.is_some_and(f64::is_finite)));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]
    #[test]
    fn the_unit_of_latencies_does_not_matter(seed in any::<u64>(), unit in 0.001..1_000.0f64) {
        let runs = |unit: f64| (run(12, 50, seed, |_| unit), run(12, 50, seed ^ 7, |_| unit * 1.1));
        let ((a, b), (c, d)) = (runs(1.0), runs(unit));
        let (one, other) = (compare(&a, &b, generator(1)), compare(&c, &d, generator(1)));
        for measure in [RunMeasure::P50, RunMeasure::P95, RunMeasure::P99] {
            let [x, y] = [one, other].map(|c| c.differences[measure as usize].estimate.unwrap());
            prop_assert!((x - y).abs() < 1e-4, "{x} {y}");
        }
    }

    #[test]
    fn exchanged_runs_have_opposite_differences(seed in any::<u64>(), slower in 0.5..2.0f64) {
        let (a, b) = (run(12, 50, seed, |_| 1.0), run(12, 50, seed ^ 7, |_| slower));
        let (one, other) = (compare(&a, &b, generator(1)), compare(&b, &a, generator(1)));
        for (x, y) in one.differences.iter().zip(&other.differences) {
            prop_assert!((x.estimate.unwrap() + y.estimate.unwrap()).abs() < 1e-9);
        }
    }
}
