//! The numbers of the series: a series is a metric with one set of labels.

use std::collections::HashMap;
use std::sync::Arc;

/// Series at a time. Beyond it, a new series is left out until another has gone.
const MAX_SERIES: usize = 2000;

/// The labels of a series, in the order of the metric.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SeriesLabels(pub Vec<(String, String)>);

/// The series in memory.
#[derive(Debug, Default)]
pub struct SeriesTable {
    numbers: HashMap<SeriesId, u32>,
    series: Vec<Option<KnownSeries>>,
    free: Vec<u32>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct SeriesId {
    metric: u16,
    labels: Arc<SeriesLabels>,
}

#[derive(Debug)]
struct KnownSeries {
    id: SeriesId,
    /// The sample that had it last.
    seen: u64,
}

impl SeriesLabels {
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(label, _)| label == name).map(|(_, value)| value.as_str())
    }

    /// Whether every one of these labels has its value.
    pub fn has(&self, wanted: &[(&str, &str)]) -> bool {
        wanted.iter().all(|(name, value)| self.get(name) == Some(value))
    }

    /// As text that is the same for equal labels.
    pub fn to_json(&self) -> String {
        serde_json::to_string(&self.0).unwrap_or_default()
    }

    pub fn from_json(text: &str) -> Option<SeriesLabels> {
        serde_json::from_str(text).ok().map(SeriesLabels)
    }

    /// Reads `name="value",...` as the metrics have it.
    pub fn parse(text: &str) -> SeriesLabels {
        let (mut labels, mut rest) = (Vec::new(), text);
        while let Some((name, after)) = rest.split_once("=\"") {
            let mut value = String::new();
            let mut characters = after.char_indices();
            let mut end = after.len();
            while let Some((at, character)) = characters.next() {
                match character {
                    '"' => {
                        end = at + 1;
                        break;
                    }
                    '\\' => match characters.next() {
                        Some((_, 'n')) => value.push('\n'),
                        Some((_, escaped)) => value.push(escaped),
                        None => {}
                    },
                    other => value.push(other),
                }
            }
            labels.push((name.trim_start_matches(',').to_owned(), value));
            rest = &after[end..];
        }
        SeriesLabels(labels)
    }
}

impl SeriesTable {
    /// The number of a series, which is added if it is new; none if there is no room.
    pub fn number(&mut self, metric: u16, labels: SeriesLabels, now: u64) -> Option<u32> {
        let id = SeriesId { metric, labels: Arc::new(labels) };
        if let Some(number) = self.numbers.get(&id) {
            return Some(*number);
        }
        if self.numbers.len() >= MAX_SERIES {
            return None;
        }
        let number = self.free.pop().unwrap_or_else(|| {
            self.series.push(None);
            self.series.len() as u32 - 1
        });
        let slot = self.series.get_mut(number as usize)?;
        *slot = Some(KnownSeries { id: id.clone(), seen: now });
        self.numbers.insert(id, number);
        Some(number)
    }

    pub fn labels(&self, number: u32) -> Option<&Arc<SeriesLabels>> {
        self.known(number).map(|known| &known.id.labels)
    }

    /// The series of a metric.
    pub fn of_metric(&self, metric: u16) -> impl Iterator<Item = (u32, &SeriesLabels)> {
        let known = self.series.iter().enumerate();
        known.filter_map(move |(number, known)| {
            let known = known.as_ref().filter(|known| known.id.metric == metric)?;
            Some((number as u32, &*known.id.labels))
        })
    }

    fn known(&self, number: u32) -> Option<&KnownSeries> {
        self.series.get(number as usize)?.as_ref()
    }

    pub fn mark_seen(&mut self, number: u32, now: u64) {
        if let Some(Some(known)) = self.series.get_mut(number as usize) {
            known.seen = now;
        }
    }

    /// Removes the series that no sample since `oldest` had.
    pub fn remove_before(&mut self, oldest: u64) {
        for (number, slot) in self.series.iter_mut().enumerate() {
            if let Some(old) = slot.take_if(|known| known.seen < oldest) {
                self.numbers.remove(&old.id);
                self.free.push(number as u32);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(value: &str) -> SeriesLabels {
        SeriesLabels(vec![("route".to_owned(), value.to_owned())])
    }

    #[test]
    fn labels_are_read_as_the_metrics_write_them() {
        let parsed = SeriesLabels::parse(r#"route="a,\"b\"",reason="c\\d\ne",empty="""#);
        let expected = [("route", "a,\"b\""), ("reason", "c\\d\ne"), ("empty", "")];
        assert_eq!(parsed.0, expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
        assert_eq!(
            (SeriesLabels::parse(""), parsed.get("reason")),
            (SeriesLabels::default(), Some("c\\d\ne"))
        );
        assert!(parsed.has(&[("empty", "")]) && !parsed.has(&[("other", "")]));
    }

    #[test]
    fn the_number_of_series_is_bounded_and_a_series_that_has_gone_makes_room() {
        let mut table = SeriesTable::default();
        let numbers: Vec<_> =
            (0..MAX_SERIES).map(|n| table.number(1, labels(&n.to_string()), 5)).collect();
        assert!(numbers.iter().all(Option::is_some));
        assert_eq!(
            (table.number(2, labels("0"), 6), table.number(1, labels("0"), 6)),
            (None, numbers[0])
        );
        table.mark_seen(0, 9);
        table.remove_before(9);
        assert_eq!(table.number(1, labels("0"), 9), Some(0));
        assert!(table.labels(1).is_none() && table.number(2, labels("0"), 9).is_some());
    }
}
