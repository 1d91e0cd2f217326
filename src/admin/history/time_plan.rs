//! The resolution and the steps of figures over time.

use std::time::{Duration, SystemTime};

use crate::admin::error::{ApiError, ApiErrorKind};
use crate::clock;
use crate::policy::yaml::units::{duration, show_duration};
use crate::store::Resolution;

pub const MAX_POINTS: u64 = 1500;

/// The times of a request.
#[derive(Clone, Copy, Debug)]
pub struct TimeQuery<'q> {
    pub from: Option<&'q str>,
    pub to: Option<&'q str>,
    pub step: Option<&'q str>,
}

/// The resolution and the times of the points, in seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimePlan {
    pub resolution: Resolution,
    pub step: u64,
    /// Unix times: multiples of the step.
    pub from: u64,
    pub to: u64,
}

impl TimeQuery<'_> {
    /// `length`: the time until `to` where `from` is not set. `usual_points`: at most this many
    /// unless `step` asks for more.
    ///
    /// # Errors
    /// If a time cannot be read, or there would be too many points.
    pub fn plan(
        &self,
        length: u64,
        usual_points: u64,
        has_store: bool,
    ) -> Result<TimePlan, ApiError> {
        let now = unix(clock::wall());
        let to = self.to.map(|text| time(text, now)).transpose()?.unwrap_or(now);
        let from = self.from.map(|text| time(text, now)).transpose()?;
        let from = from.unwrap_or_else(|| to.saturating_sub(length));
        let step = self.step.map(seconds).transpose()?;
        TimePlan::new(from, to, step, usual_points, now, has_store)
    }
}

impl TimePlan {
    /// `usual_points`: at most this many unless `step` asks for more.
    fn new(
        from: u64,
        to: u64,
        step: Option<u64>,
        usual_points: u64,
        now: u64,
        has_store: bool,
    ) -> Result<TimePlan, ApiError> {
        if from >= to {
            return Err(invalid("`from` is not before `to` (expected an earlier time)".to_owned()));
        }
        let is_kept = |one: &Resolution| now.saturating_sub(from) <= one.kept();
        let kept = Resolution::ALL.into_iter().find(is_kept).unwrap_or(Resolution::Hour);
        let kept = if has_store { kept } else { Resolution::TenSeconds };
        let fits = |one: &Resolution| (to - from) / one.seconds() <= usual_points;
        let of_step = |step: u64| {
            let mut coarsest_first = Resolution::ALL.into_iter().rev();
            coarsest_first.find(|one| one.seconds() <= step).unwrap_or(Resolution::TenSeconds)
        };
        let wanted = match step {
            Some(step) => of_step(step),
            None => Resolution::ALL.into_iter().find(fits).unwrap_or(Resolution::Hour),
        };
        let resolution = if has_store { wanted.max(kept) } else { Resolution::TenSeconds };
        let least = (to - from).div_ceil(MAX_POINTS);
        let unit = resolution.seconds();
        let usual = (to - from).div_ceil(usual_points);
        let step = step.unwrap_or(usual).div_ceil(unit).max(1) * unit;
        let (from, to) = (from / step * step, to.div_ceil(step) * step);
        let count = (to - from) / step;
        // The ends are rounded.
        if count > MAX_POINTS + 1 {
            let least = show_duration(Duration::from_secs(least.div_ceil(unit) * unit));
            return Err(invalid(format!(
                "{count} points (expected at most {MAX_POINTS}: set `step` to at least {least}, or \
                 a shorter time)"
            )));
        }
        Ok(TimePlan { resolution, step, from, to })
    }
}

/// A time in seconds: RFC 3339, or how long ago.
fn time(text: &str, now: u64) -> Result<u64, ApiError> {
    if let Ok(moment) = text.parse::<jiff::Timestamp>() {
        return Ok(unix(SystemTime::from(moment)));
    }
    let ago = duration(text).map_err(|_| {
        let expected = "a time such as 2026-03-01T12:00:00Z, or how long ago, such as 6h";
        invalid(format!("`{text}` is no time (expected {expected})"))
    })?;
    Ok(now.saturating_sub(ago.as_secs()))
}

fn seconds(text: &str) -> Result<u64, ApiError> {
    let step = duration(text).map_err(|error| invalid(format!("`step`: {error}")))?;
    if (10..=90 * 86_400).contains(&step.as_secs()) {
        return Ok(step.as_secs());
    }
    Err(invalid(format!("`step` is `{text}` (expected at least 10s and at most 90d)")))
}

fn unix(at: SystemTime) -> u64 {
    at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs()
}

fn invalid(detail: String) -> ApiError {
    ApiError::new(ApiErrorKind::InvalidQuery, detail)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const HOUR: u64 = 3600;
    const NOW: u64 = 1_700_006_400;
    const DAY: u64 = 86_400;

    fn plan(age: u64, step: Option<u64>) -> (Resolution, u64) {
        let plan = TimePlan::new(NOW - age, NOW, step, MAX_POINTS, NOW, true).expect("a plan");
        (plan.resolution, plan.step)
    }

    #[test]
    fn the_finest_resolution_that_is_kept_and_fits_is_taken() {
        assert_eq!(plan(HOUR, None), (Resolution::TenSeconds, 10));
        assert_eq!(plan(DAY, None), (Resolution::Minute, 60));
        assert_eq!(plan(7 * DAY, None), (Resolution::Hour, 3_600));
        assert_eq!(plan(90 * DAY, None), (Resolution::Hour, 7_200));
        assert_eq!(plan(DAY, Some(600)), (Resolution::Minute, 600));
        assert_eq!(plan(HOUR, Some(15)), (Resolution::TenSeconds, 20));
        assert_eq!(plan(30 * DAY, Some(7_000)), (Resolution::Hour, 7_200));
    }

    #[test]
    fn too_many_points_name_the_step_that_fits() {
        let error =
            TimePlan::new(NOW - 7 * DAY, NOW, Some(60), 360, NOW, true).expect_err("too many");
        let text = format!("{error:?}");
        assert!(text.contains("10080 points") && text.contains("at least 7m"), "{text}");
        assert!(TimePlan::new(NOW, NOW, None, 360, NOW, true).is_err());
    }

    proptest! {
        #[test]
        fn points_are_bounded(
            age in 1..400 * DAY, length in 1..400 * DAY, step in prop::option::of(10..90 * DAY),
            has_store in any::<bool>(), usual in prop_oneof![Just(360_u64), Just(MAX_POINTS)],
        ) {
            let from = NOW - age;
            if let Ok(plan) = TimePlan::new(from, from + length, step, usual, NOW, has_store) {
                prop_assert!((plan.to - plan.from) / plan.step <= MAX_POINTS + 1);
                prop_assert!(plan.from <= from && plan.step.is_multiple_of(plan.resolution.seconds()));
            }
        }
    }
}
