//! When each benchmark with `every` is due: its time since the last start by the schedule.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Time to the next try of a benchmark that could not start.
const RETRY: Duration = Duration::from_secs(10);

/// The benchmarks of the policy that have `every`.
#[derive(Debug, Default)]
pub struct Timetable {
    entries: BTreeMap<String, ScheduledBenchmark>,
}

#[derive(Clone, Copy, Debug)]
struct ScheduledBenchmark {
    every: Duration,
    /// `None`: the last start is not known yet.
    started: Option<LastStart>,
    /// The reason why it waits was logged.
    is_logged: bool,
    /// It could not start; the next try comes then.
    postponed: Option<Instant>,
}

/// The age of the last start at a moment. Ages and not times: the wall clock may be set, and the
/// start may be before the first `Instant`.
#[derive(Clone, Copy, Debug)]
struct LastStart {
    /// `None`: it was never started.
    age: Option<Duration>,
    at: Instant,
}

impl ScheduledBenchmark {
    fn age(&self, now: Instant) -> Option<Duration> {
        let LastStart { age, at } = self.started?;
        Some(age?.saturating_add(now.saturating_duration_since(at)))
    }

    /// Time until it is due. `None`: the last start is not known yet.
    fn wait(&self, now: Instant) -> Option<Duration> {
        self.started?;
        let until = self.postponed.map(|until| until.saturating_duration_since(now));
        let wait = self.age(now).map_or(Duration::ZERO, |age| self.every.saturating_sub(age));
        Some(wait.max(until.unwrap_or_default()))
    }
}

impl Timetable {
    /// Takes the benchmarks of the policy in force. A last start that is known stays known.
    pub fn update(&mut self, declared: &BTreeMap<String, Duration>) {
        self.entries.retain(|name, _| declared.contains_key(name));
        for (name, every) in declared {
            let new = ScheduledBenchmark {
                every: *every,
                started: None,
                is_logged: false,
                postponed: None,
            };
            self.entries.entry(name.clone()).or_insert(new).every = *every;
        }
    }

    /// The benchmarks whose last start is not known yet.
    pub fn unknown(&self) -> Vec<String> {
        let unknown = self.entries.iter().filter(|(_, entry)| entry.started.is_none());
        unknown.map(|(name, _)| name.clone()).collect()
    }

    /// A benchmark was started this long ago; `None`: never.
    pub fn set_started(&mut self, name: &str, age: Option<Duration>, now: Instant) {
        if let Some(entry) = self.entries.get_mut(name) {
            entry.started = Some(LastStart { age, at: now });
            (entry.is_logged, entry.postponed) = (false, None);
        }
    }

    /// A benchmark that is due could not start.
    pub fn postpone(&mut self, name: &str, now: Instant) {
        if let Some(entry) = self.entries.get_mut(name) {
            entry.postponed = Some(now + RETRY);
        }
    }

    /// The benchmarks that are due, each with its `every`; the one that waits for longest first.
    pub fn due(&self, now: Instant) -> Vec<(String, Duration)> {
        let is_due =
            |entry: &ScheduledBenchmark| entry.wait(now).is_some_and(|wait| wait.is_zero());
        let mut due: Vec<_> = self.entries.iter().filter(|(_, entry)| is_due(entry)).collect();
        due.sort_by_key(|(_, entry)| {
            let late = |age: Duration| age.saturating_sub(entry.every);
            std::cmp::Reverse(entry.age(now).map_or(Duration::MAX, late))
        });
        due.into_iter().map(|(name, entry)| (name.clone(), entry.every)).collect()
    }

    /// The age of the last start, if there was one.
    pub fn age(&self, name: &str, now: Instant) -> Option<Duration> {
        self.entries.get(name)?.age(now)
    }

    /// The time until a benchmark is due.
    pub fn wait(&self, name: &str, now: Instant) -> Option<Duration> {
        self.entries.get(name)?.wait(now)
    }

    /// Whether to log why a benchmark that is due waits: once until it has started.
    pub fn first_log(&mut self, name: &str) -> bool {
        let entry = self.entries.get_mut(name);
        entry.is_some_and(|entry| !std::mem::replace(&mut entry.is_logged, true))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;
    use proptest::prelude::*;

    const HOUR: Duration = Duration::from_secs(3600);

    fn timetable(every: &[(&str, Duration)]) -> Timetable {
        let mut timetable = Timetable::default();
        timetable.update(&every.iter().map(|(name, every)| ((*name).to_owned(), *every)).collect());
        timetable
    }

    fn names(timetable: &Timetable, now: Instant) -> Vec<String> {
        timetable.due(now).into_iter().map(|(name, _)| name).collect()
    }

    #[test]
    fn a_benchmark_is_due_every_six_hours_from_its_last_start() {
        let (start, mut timetable) = (clock::now(), timetable(&[("chat", 6 * HOUR)]));
        assert_eq!(timetable.unknown(), ["chat"]);
        assert!(names(&timetable, start + 99 * HOUR).is_empty(), "its last start is not known");
        timetable.set_started("chat", Some(2 * HOUR), start);
        let minute = Duration::from_secs(60);
        assert!(names(&timetable, start + 4 * HOUR - minute).is_empty());
        assert_eq!(timetable.wait("chat", start + 3 * HOUR), Some(HOUR));
        assert_eq!(names(&timetable, start + 4 * HOUR), ["chat"]);
        timetable.set_started("chat", Some(Duration::ZERO), start + 5 * HOUR);
        assert!(names(&timetable, start + 10 * HOUR).is_empty());
        assert_eq!(names(&timetable, start + 11 * HOUR), ["chat"]);
    }

    #[test]
    fn a_benchmark_that_never_ran_is_due_first_and_then_the_latest() {
        let every = [("a", HOUR), ("b", HOUR), ("c", 4 * HOUR), ("new", 9 * HOUR)];
        let (now, mut timetable) = (clock::now(), timetable(&every));
        for (name, age) in [("a", Some(2 * HOUR)), ("b", Some(3 * HOUR)), ("c", Some(5 * HOUR))] {
            timetable.set_started(name, age, now);
        }
        timetable.set_started("new", None, now);
        assert_eq!(names(&timetable, now), ["new", "b", "a", "c"]);
    }

    #[test]
    fn a_reload_keeps_the_last_start_and_takes_the_new_interval() {
        let (now, mut timetable) = (clock::now(), timetable(&[("a", HOUR), ("b", HOUR)]));
        timetable.set_started("a", Some(HOUR / 2), now);
        timetable.set_started("b", Some(HOUR), now);
        timetable.update(&[("a".to_owned(), HOUR / 4)].into());
        assert_eq!(names(&timetable, now), ["a"]);
        timetable.update(&[("a".to_owned(), HOUR), ("b".to_owned(), HOUR)].into());
        assert_eq!(
            (names(&timetable, now), timetable.unknown()),
            (Vec::new(), vec!["b".to_owned()])
        );
    }

    #[test]
    fn the_reason_to_wait_is_logged_once_until_the_start() {
        let (now, mut timetable) = (clock::now(), timetable(&[("a", HOUR)]));
        assert!(timetable.first_log("a") && !timetable.first_log("a"));
        timetable.set_started("a", Some(Duration::ZERO), now);
        assert!(timetable.first_log("a"));
        assert!(!timetable.first_log("b"));
    }

    #[test]
    fn a_benchmark_that_could_not_start_is_tried_again() {
        let (now, mut timetable) = (clock::now(), timetable(&[("a", HOUR)]));
        timetable.set_started("a", None, now);
        timetable.postpone("a", now);
        assert!(names(&timetable, now).is_empty());
        assert_eq!(names(&timetable, now + RETRY), ["a"]);
    }

    proptest! {
        #[test]
        fn starts_are_never_closer_than_the_interval(
            every in 1..1000u64, steps in proptest::collection::vec(0..500u64, 0..50),
        ) {
            let every = Duration::from_secs(every);
            let (mut now, mut timetable) = (clock::now(), timetable(&[("a", every)]));
            timetable.set_started("a", None, now);
            let mut last: Option<Instant> = None;
            for step in steps {
                now += Duration::from_secs(step);
                if !timetable.due(now).is_empty() {
                    prop_assert!(last.is_none_or(|last| now >= last + every));
                    timetable.set_started("a", Some(Duration::ZERO), now);
                    last = Some(now);
                }
            }
        }
    }
}
