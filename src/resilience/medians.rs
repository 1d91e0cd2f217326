//! Medians and quantiles of small lists.

/// The median, the mean of the two middle values of an even number; none of an empty list.
pub(crate) fn median(values: &mut [f32]) -> Option<f32> {
    let middle = values.len() / 2;
    if values.is_empty() {
        return None;
    }
    let even = values.len().is_multiple_of(2);
    let (below, upper, _) = values.select_nth_unstable_by(middle, f32::total_cmp);
    let lower = below.iter().copied().max_by(f32::total_cmp).filter(|_| even);
    Some(lower.map_or(*upper, |lower| lower + (*upper - lower) / 2.0))
}

/// The rank, from 0, of the quantile `q` in a sorted list of `count` values.
pub(crate) fn rank(q: f64, count: usize) -> usize {
    ((q * count as f64).ceil() as usize).clamp(1, count.max(1)) - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_median_is_between_the_halves() {
        assert_eq!(median(&mut []), None);
        assert_eq!(median(&mut [3.0]), Some(3.0));
        assert_eq!(median(&mut [4.0, 1.0]), Some(2.5));
        assert_eq!(median(&mut [9.0, 1.0, 4.0]), Some(4.0));
        assert_eq!(median(&mut [9.0, 1.0, 4.0, 5.0]), Some(4.5));
    }

    #[test]
    fn a_rank_is_inside_the_list() {
        assert_eq!([rank(0.0, 10), rank(0.5, 10), rank(0.95, 100), rank(1.0, 10)], [0, 4, 94, 9]);
        assert_eq!(rank(0.5, 0), 0);
    }
}
