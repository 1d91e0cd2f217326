//! A family of metrics that remembers its label sets, so that stale ones can be removed.

use std::collections::HashSet;
use std::fmt;
use std::hash::Hash;

use parking_lot::Mutex;
use prometheus_client::metrics::family::{Family, MetricConstructor};

/// A metric family and the label sets in use.
pub struct Series<L, M, C = fn() -> M> {
    family: Family<L, M, C>,
    known: Mutex<HashSet<L>>,
}

impl<L, M, C> Series<L, M, C>
where
    L: Clone + Eq + Hash,
    M: Clone,
    C: MetricConstructor<M> + Clone,
{
    pub fn new(constructor: C) -> Self {
        Series { family: Family::new_with_constructor(constructor), known: Mutex::default() }
    }

    /// The underlying family, for the registry.
    pub fn family(&self) -> Family<L, M, C> {
        self.family.clone()
    }

    /// The metric with these labels. Keep the handle where it is used often.
    pub fn with(&self, labels: &L) -> M {
        let mut known = self.known.lock();
        if !known.contains(labels) {
            known.insert(labels.clone());
        }
        self.family.get_or_create_owned(labels)
    }

    /// Removes every series whose labels `keep` rejects.
    pub fn retain(&self, keep: impl Fn(&L) -> bool) {
        let mut known = self.known.lock();
        known.retain(|labels| {
            let stays = keep(labels);
            if !stays {
                self.family.remove(labels);
            }
            stays
        });
    }
}

impl<L, M, C> fmt::Debug for Series<L, M, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let known = self.known.lock();
        write!(f, "Series({})", known.len())
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::metrics::counter::Counter;

    use super::*;

    #[test]
    fn a_removed_series_starts_again_at_zero() {
        let series = Series::new(Counter::<u64>::default as fn() -> Counter);
        let label = |name: &str| vec![("name".to_owned(), name.to_owned())];
        series.with(&label("a")).inc();
        series.with(&label("b")).inc();
        series.retain(|labels| labels[0].1 == "b");
        assert_eq!((series.with(&label("a")).get(), series.with(&label("b")).get()), (0, 1));
    }
}
