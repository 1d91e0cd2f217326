//! Finds the points at which the level of a series of figures changed.
//!
//! E-divisive (Matteson and James, "A nonparametric approach for multiple change point analysis of
//! multivariate data", Journal of the American Statistical Association 2014), with exponent 1: the
//! series is split where the energy distance between both sides is largest. The split counts if at
//! most one of 199 random orders of the same values has a larger distance (permutation test, 1 %);
//! then each side is searched in the same way. It assumes no distribution, so a single outlier is
//! no change. Figures of benchmark runs are searched like this by MongoDB (Daly et al., "The use of
//! change point detection to identify software performance regressions", ICPE 2020).
//!
//! The work is bounded: at most 20 changes of at most 1,000 values, about 0.2 s each.

/// The newest values that are searched.
const MOST_VALUES: usize = 1_000;
/// Fewer values on one side are not a level.
const LEAST_VALUES: usize = 5;
const MOST_CHANGES: usize = 20;
const PERMUTATIONS: usize = 199;
/// So many random orders may be as far apart as the series.
const MOST_EXTREME: usize = 1;

/// The positions of the first values after each change, ascending. `draw` is in [0, 1).
pub fn change_points(series: &[f64], mut draw: impl FnMut() -> f64) -> Vec<usize> {
    let first = series.len().saturating_sub(MOST_VALUES);
    let mut found = Vec::new();
    let mut segments = vec![(first, series.len())];
    while let Some((from, to)) = segments.pop() {
        let Some((at, distance)) = best_split(&series[from..to]) else { continue };
        if found.len() < MOST_CHANGES && is_significant(&series[from..to], distance, &mut draw) {
            found.push(from + at);
            segments.extend([(from, from + at), (from + at, to)]);
        }
    }
    found.sort_unstable();
    found
}

/// The split with the largest energy distance between both sides, and this distance.
fn best_split(values: &[f64]) -> Option<(usize, f64)> {
    let count = values.len();
    let distance_to = |others: &[f64], value: f64| -> f64 {
        others.iter().map(|other| (other - value).abs()).sum()
    };
    // Sums over the pairs within each side, and over the pairs of both.
    let (mut left, mut cross) = (0.0, 0.0);
    let mut right: f64 = (0..count).map(|at| distance_to(&values[at + 1..], values[at])).sum();
    let mut best: Option<(usize, f64)> = None;
    for (at, value) in values.iter().enumerate() {
        let (to_left, to_right) =
            (distance_to(&values[..at], *value), distance_to(&values[at + 1..], *value));
        left += to_left;
        right -= to_right;
        cross += to_right - to_left;
        let (n, m) = (at + 1, count - at - 1);
        if n < LEAST_VALUES || m < LEAST_VALUES {
            continue;
        }
        let pairs = |size: f64| size * (size - 1.0) / 2.0;
        let (n, m) = (n as f64, m as f64);
        let energy = 2.0 * cross / (n * m) - left / pairs(n) - right / pairs(m);
        let distance = energy * n * m / (n + m);
        if distance.is_finite() && best.is_none_or(|(_, largest)| distance > largest) {
            best = Some((at + 1, distance));
        }
    }
    best.filter(|(_, distance)| *distance > 0.0)
}

fn is_significant(values: &[f64], distance: f64, draw: &mut impl FnMut() -> f64) -> bool {
    let mut shuffled = values.to_vec();
    let mut extreme = 0;
    for _ in 0..PERMUTATIONS {
        shuffle(&mut shuffled, draw);
        extreme += usize::from(best_split(&shuffled).is_some_and(|(_, found)| found >= distance));
        if extreme > MOST_EXTREME {
            return false;
        }
    }
    true
}

/// Fisher and Yates.
fn shuffle(values: &mut [f64], draw: &mut impl FnMut() -> f64) {
    for at in (1..values.len()).rev() {
        let other = (draw() * (at + 1) as f64) as usize;
        values.swap(at, other.min(at));
    }
}

#[cfg(test)]
mod tests {
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

    /// Each level for so many values, with noise of 10 %.
    fn series(levels: &[(f64, usize)], seed: u64) -> Vec<f64> {
        let mut draw = generator(seed);
        let mut noisy = |level: f64| level * (0.95 + 0.1 * draw());
        levels.iter().flat_map(|(level, count)| vec![*level; *count]).map(&mut noisy).collect()
    }

    #[test]
    fn each_change_of_level_is_found() {
        let values = series(&[(1.0, 30), (1.3, 20), (1.0, 25)], 1);
        assert_eq!(change_points(&values, generator(2)), [30, 50]);
    }

    #[test]
    fn an_outlier_is_no_change() {
        let mut values = series(&[(1.0, 40)], 1);
        values[20] = 50.0;
        assert_eq!(change_points(&values, generator(2)), Vec::<usize>::new());
    }

    #[test]
    fn a_level_of_few_values_is_no_change() {
        assert!(change_points(&series(&[(1.0, 4), (9.0, 5)], 1), generator(2)).is_empty());
        assert!(change_points(&[], generator(2)).is_empty());
        assert!(change_points(&[1.0; 50], generator(2)).is_empty());
    }

    #[test]
    fn values_that_are_no_numbers_find_nothing() {
        assert!(change_points(&[f64::NAN; 40], generator(2)).is_empty());
        let mut values = series(&[(1.0, 20), (2.0, 20)], 1);
        values[3] = f64::INFINITY;
        assert!(change_points(&values, generator(2)).len() <= 1);
    }

    #[test]
    fn changes_in_series_without_one_are_rare() {
        let with = |seed| !change_points(&series(&[(1.0, 40)], seed), generator(seed)).is_empty();
        let found = (1..=200).filter(|seed| with(*seed)).count();
        assert!(found <= 8, "{found} of 200");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn positions_ascend_and_leave_levels_of_five(
            values in proptest::collection::vec(0.0..10.0f64, 0..60), seed in any::<u64>(),
        ) {
            let found = change_points(&values, generator(seed));
            let ends = [&[0], &found[..], &[values.len()]].concat();
            prop_assert!(found.is_empty() || ends.windows(2).all(|two| two[1] - two[0] >= 5));
        }

        #[test]
        fn the_unit_of_the_values_does_not_matter(seed in any::<u64>(), unit in 0.001..1e3f64) {
            let values = series(&[(1.0, 20), (1.5, 20)], seed);
            let scaled: Vec<f64> = values.iter().map(|value| value * unit).collect();
            prop_assert_eq!(
                change_points(&values, generator(seed)),
                change_points(&scaled, generator(seed))
            );
        }
    }
}
