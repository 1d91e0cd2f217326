//! How fast a line gets shorter: what an honest Retry-After is made of.
//!
//! Counted only while somebody waits: what is served of an idle queue says how much was asked for,
//! not how much could be served. Old counts fade by half every few seconds, so that a provider that
//! became slower is believed. Those who give up are not counted: nobody knows beforehand that they
//! will, and who comes back too late has lost less than who comes back in vain.

use std::time::{Duration, Instant};

/// Of counts older than this only half counts.
const SPAN: Duration = Duration::from_secs(4);
/// Below so many services, or so short a time, nothing is known.
const LEAST: f64 = 10.0;
const SHORTEST: Duration = Duration::from_secs(1);

#[derive(Clone, Copy, Debug, Default)]
pub struct Drain {
    since: Option<Instant>,
    served: f64,
}

impl Drain {
    /// The first one waits.
    pub fn begin(&mut self, now: Instant) {
        *self = Drain { since: Some(now), ..Drain::default() };
    }

    pub fn served(&mut self, now: Instant) {
        self.fade(now);
        self.served += 1.0;
    }

    /// Services a second; nothing while that is not known.
    pub fn rate(&self, now: Instant) -> Option<f64> {
        let over = now.saturating_duration_since(self.since?);
        let known = self.served >= LEAST && over >= SHORTEST;
        known.then(|| self.served / over.as_secs_f64())
    }

    fn fade(&mut self, now: Instant) {
        let Some(since) = self.since else { return };
        let over = now.saturating_duration_since(since);
        if over >= 2 * SPAN {
            let kept = SPAN.as_secs_f64() / over.as_secs_f64();
            self.since = now.checked_sub(SPAN);
            self.served *= kept;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn nothing_is_known_before_some_were_served_in_some_time() {
        let (t0, mut drain) = (Instant::now(), Drain::default());
        assert_eq!(drain.rate(t0), None);
        drain.begin(t0);
        (0..10).for_each(|_| drain.served(t0));
        assert_eq!(drain.rate(t0 + SHORTEST / 2), None);
        assert_eq!(drain.rate(t0 + SHORTEST), Some(10.0));
        drain.begin(t0);
        assert_eq!(drain.rate(t0 + SHORTEST), None);
    }

    #[test]
    fn a_change_of_pace_is_believed_within_some_spans() {
        let (t0, mut drain) = (Instant::now(), Drain::default());
        drain.begin(t0);
        let mut now = t0;
        for _ in 0..2000 {
            now += Duration::from_millis(10);
            drain.served(now);
        }
        for _ in 0..200 {
            now += Duration::from_millis(100);
            drain.served(now);
        }
        let rate = drain.rate(now).expect("many were served");
        assert!((8.0..20.0).contains(&rate), "{rate}");
    }

    proptest! {
        #[test]
        fn a_steady_pace_is_the_rate(
            ms in 6u64..150, count in 200usize..1000
        ) {
            let (t0, mut drain) = (Instant::now(), Drain::default());
            drain.begin(t0);
            let mut now = t0;
            for _ in 0..count {
                now += Duration::from_millis(ms);
                drain.served(now);
            }
            let rate = drain.rate(now).unwrap_or(0.0);
            prop_assert!((rate * ms as f64 / 1000.0 - 1.0).abs() < 0.1, "{}", rate);
        }
    }
}
