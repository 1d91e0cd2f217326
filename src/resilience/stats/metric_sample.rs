//! Samples of metrics: the increase of each counter, the level of each gauge and the increase of each
//! histogram over some time.
//!
//! A sample covers one or more slots of 10 s. Its stored form has one section for each metric, so that
//! a query skips the others. A counter or a histogram without an increase has no entry.

use crate::resilience::stored_bytes::{BytesError, StoredForm, take_slice};

/// Upper bounds of the buckets of every histogram of seconds: from 1 ms to 5 min, because an LLM
/// takes minutes to respond and a rejection takes microseconds. Stored samples depend on them.
pub const BUCKET_SECONDS: [f64; 16] = [
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0,
];
/// The last bucket has no bound.
pub const BUCKETS: usize = BUCKET_SECONDS.len() + 1;
/// Seconds of a slot.
pub const SLOT_SECONDS: u64 = 10;

const FORMAT: u8 = 1;
/// Whole numbers up to this are exact.
const MAX_WHOLE: f64 = 9_007_199_254_740_992.0;

/// How the values of a metric are sampled and reported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SampledKind {
    /// The increase of a counter.
    Rate,
    /// The last value of a gauge.
    Level,
    /// The increase of a histogram.
    Quantile,
}

/// The observations of a histogram in some time.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct HistogramSample {
    pub sum: f64,
    /// Not cumulative.
    pub buckets: [u64; BUCKETS],
}

/// The value of one series.
#[derive(Clone, Debug, PartialEq)]
pub enum SampledValue {
    Number(f64),
    Histogram(HistogramSample),
}

#[derive(Clone, Debug, PartialEq)]
pub struct SampleEntry {
    pub series: u32,
    pub value: SampledValue,
}

/// The series of one metric.
#[derive(Clone, Debug, PartialEq)]
pub struct SampleSection {
    /// Its number in the list of sampled metrics.
    pub metric: u16,
    pub kind: SampledKind,
    /// In the order of the series.
    pub entries: Vec<SampleEntry>,
}

/// All sampled metrics in some time.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct MetricSample {
    /// The slots that it covers.
    pub slots: u32,
    /// In the order of the metrics.
    pub sections: Vec<SampleSection>,
}

impl SampledKind {
    pub const fn as_str(self) -> &'static str {
        match self {
            SampledKind::Rate => "rate",
            SampledKind::Level => "level",
            SampledKind::Quantile => "quantile",
        }
    }

    fn from_code(code: u8) -> Result<SampledKind, BytesError> {
        let all = [SampledKind::Rate, SampledKind::Level, SampledKind::Quantile];
        all.get(usize::from(code)).copied().ok_or(BytesError::OutOfRange)
    }
}

impl HistogramSample {
    pub fn count(&self) -> u64 {
        self.buckets.iter().fold(0, |sum, bucket| sum.saturating_add(*bucket))
    }

    pub fn add(&mut self, other: &HistogramSample) {
        self.sum += other.sum;
        for (bucket, more) in self.buckets.iter_mut().zip(other.buckets) {
            *bucket = bucket.saturating_add(more);
        }
    }

    /// The increase since an earlier reading; all of it if the histogram was replaced since.
    pub fn since(&self, earlier: &HistogramSample) -> HistogramSample {
        let mut increase = self.clone();
        for (bucket, before) in increase.buckets.iter_mut().zip(earlier.buckets) {
            let Some(more) = bucket.checked_sub(before) else { return self.clone() };
            *bucket = more;
        }
        increase.sum = (self.sum - earlier.sum).max(0.0);
        increase
    }

    /// Interpolated within its bucket; the highest bound if it is above all bounds.
    pub fn quantile(&self, q: f64) -> Option<f64> {
        let count = self.count();
        let rank = q * count as f64;
        let (mut below, mut low) = (0, 0.0);
        for (inside, high) in self.buckets.into_iter().zip(BUCKET_SECONDS) {
            if inside > 0 && (below + inside) as f64 >= rank {
                let share = ((rank - below as f64) / inside as f64).clamp(0.0, 1.0);
                return Some(low + (high - low) * share);
            }
            (below, low) = (below + inside, high);
        }
        (count > 0).then_some(low)
    }

    pub fn mean(&self) -> Option<f64> {
        let count = self.count();
        (count > 0).then(|| self.sum / count as f64)
    }
}

impl SampledValue {
    fn is_zero(&self) -> bool {
        match self {
            SampledValue::Number(number) => *number == 0.0,
            SampledValue::Histogram(histogram) => histogram.count() == 0,
        }
    }

    fn add(&mut self, other: &SampledValue) {
        match (self, other) {
            (SampledValue::Number(sum), SampledValue::Number(more)) => *sum += more,
            (SampledValue::Histogram(sum), SampledValue::Histogram(more)) => sum.add(more),
            // A kind never changes within a section.
            _ => {}
        }
    }
}

impl SampleSection {
    /// Adds an entry after all others; a counter or histogram without an increase is left out.
    pub fn push(&mut self, series: u32, value: SampledValue) {
        if self.kind == SampledKind::Level || !value.is_zero() {
            self.entries.push(SampleEntry { series, value });
        }
    }

    fn merge(&mut self, later: SampleSection) {
        if self.kind == SampledKind::Level || self.kind != later.kind {
            *self = later;
            return;
        }
        for entry in later.entries {
            match self.entries.binary_search_by_key(&entry.series, |one| one.series) {
                Ok(at) => self.entries[at].value.add(&entry.value),
                Err(at) => self.entries.insert(at, entry),
            }
        }
    }
}

impl MetricSample {
    /// Adds a later sample: increases are summed, and the levels are those of the later one.
    pub fn merge(&mut self, later: MetricSample) {
        self.slots = self.slots.saturating_add(later.slots);
        for section in &mut self.sections {
            if section.kind == SampledKind::Level {
                section.entries.clear();
            }
        }
        for section in later.sections {
            match self.sections.binary_search_by_key(&section.metric, |one| one.metric) {
                Ok(at) => self.sections[at].merge(section),
                Err(at) => self.sections.insert(at, section),
            }
        }
        self.sections.retain(|section| !section.entries.is_empty());
    }

    /// Replaces the numbers of the series; a series without a new one is left out.
    pub fn renumber(&mut self, number: impl Fn(u32) -> Option<u32>) {
        for section in &mut self.sections {
            section.entries.retain_mut(|entry| match number(entry.series) {
                Some(series) => {
                    entry.series = series;
                    true
                }
                None => false,
            });
            section.entries.sort_by_key(|entry| entry.series);
        }
    }

    /// One sample for each metric, and before them one without a metric, which says that there was a
    /// sample: a metric without an entry has none.
    pub fn into_parts(self) -> impl Iterator<Item = MetricSample> {
        let slots = self.slots;
        let of_metrics = self.sections.into_iter().filter(|section| !section.entries.is_empty());
        let parts = of_metrics.map(move |section| MetricSample { slots, sections: vec![section] });
        std::iter::once(MetricSample { slots, sections: Vec::new() }).chain(parts)
    }

    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![FORMAT];
        self.slots.put(&mut bytes);
        let mut body = Vec::new();
        for section in self.sections.iter().filter(|section| !section.entries.is_empty()) {
            body.clear();
            let mut next = 0;
            for SampleEntry { series, value } in &section.entries {
                // A series comes once, in order.
                let Some(distance) = series.checked_sub(next) else { continue };
                distance.put(&mut body);
                next = series.saturating_add(1);
                match value {
                    SampledValue::Number(number) => put_number(*number, &mut body),
                    SampledValue::Histogram(histogram) => put_histogram(histogram, &mut body),
                }
            }
            u64::from(section.metric).put(&mut bytes);
            (section.kind as u8).put(&mut bytes);
            (body.len() as u64).put(&mut bytes);
            bytes.extend(&body);
        }
        bytes
    }

    /// # Errors
    /// If the bytes are no stored form.
    pub fn decode(bytes: &[u8]) -> Result<MetricSample, BytesError> {
        let mut reader = SampleReader::new(bytes)?;
        let mut sample = MetricSample { slots: reader.slots, sections: Vec::new() };
        while let Some(mut section) = reader.next_section()? {
            let SectionReader { metric, kind, .. } = section;
            if sample.sections.last().is_some_and(|last| last.metric >= metric) {
                return Err(BytesError::OutOfRange);
            }
            let mut entries = Vec::new();
            while let Some(entry) = section.next_entry()? {
                entries.push(entry);
            }
            sample.sections.push(SampleSection { metric, kind, entries });
        }
        Ok(sample)
    }
}

/// Reads a stored sample without a copy.
#[derive(Debug)]
pub struct SampleReader<'b> {
    /// The slots that the sample covers; at least one.
    pub slots: u32,
    bytes: &'b [u8],
}

/// The entries of one metric.
#[derive(Debug)]
pub struct SectionReader<'b> {
    pub metric: u16,
    pub kind: SampledKind,
    bytes: &'b [u8],
    next: u32,
}

impl<'b> SampleReader<'b> {
    /// # Errors
    /// If the bytes are no stored form.
    pub fn new(mut bytes: &'b [u8]) -> Result<SampleReader<'b>, BytesError> {
        if u8::take(&mut bytes)? != FORMAT {
            return Err(BytesError::OutOfRange);
        }
        let slots = u32::take(&mut bytes)?.max(1);
        Ok(SampleReader { slots, bytes })
    }

    /// The section of a metric, if it has one.
    ///
    /// # Errors
    /// If the bytes are no stored form.
    pub fn section(mut self, metric: u16) -> Result<Option<SectionReader<'b>>, BytesError> {
        while let Some(section) = self.next_section()? {
            if section.metric == metric {
                return Ok(Some(section));
            }
        }
        Ok(None)
    }

    fn next_section(&mut self) -> Result<Option<SectionReader<'b>>, BytesError> {
        if self.bytes.is_empty() {
            return Ok(None);
        }
        let metric = u32::take(&mut self.bytes)?;
        let metric = u16::try_from(metric).map_err(|_| BytesError::OutOfRange)?;
        let kind = SampledKind::from_code(u8::take(&mut self.bytes)?)?;
        let length = u32::take(&mut self.bytes)? as usize;
        let bytes = take_slice(&mut self.bytes, length)?;
        Ok(Some(SectionReader { metric, kind, bytes, next: 0 }))
    }
}

impl SectionReader<'_> {
    /// # Errors
    /// If the bytes are no stored form.
    pub fn next_entry(&mut self) -> Result<Option<SampleEntry>, BytesError> {
        if self.bytes.is_empty() {
            return Ok(None);
        }
        let distance = u32::take(&mut self.bytes)?;
        let series = self.next.checked_add(distance).filter(|series| *series < u32::MAX);
        let series = series.ok_or(BytesError::OutOfRange)?;
        self.next = series + 1;
        let value = match self.kind {
            SampledKind::Quantile => SampledValue::Histogram(take_histogram(&mut self.bytes)?),
            SampledKind::Rate | SampledKind::Level => {
                SampledValue::Number(take_number(&mut self.bytes)?)
            }
        };
        Ok(Some(SampleEntry { series, value }))
    }
}

/// A small whole number takes a byte or two, any other number nine.
fn put_number(number: f64, bytes: &mut Vec<u8>) {
    if (0.0..MAX_WHOLE).contains(&number) && number.fract() == 0.0 {
        ((number as u64) << 1).put(bytes);
    } else {
        1_u64.put(bytes);
        number.put(bytes);
    }
}

fn take_number(bytes: &mut &[u8]) -> Result<f64, BytesError> {
    match u64::take(bytes)? {
        1 => Some(f64::take(bytes)?).filter(|it| it.is_finite()).ok_or(BytesError::OutOfRange),
        whole if whole & 1 == 0 => Ok((whole >> 1) as f64),
        _ => Err(BytesError::OutOfRange),
    }
}

/// The sum, and the buckets with a count: their distances and counts.
fn put_histogram(histogram: &HistogramSample, bytes: &mut Vec<u8>) {
    histogram.sum.put(bytes);
    let counted = histogram.buckets.iter().filter(|count| **count > 0).count();
    (counted as u8).put(bytes);
    let counts = histogram.buckets.iter().enumerate().filter(|(_, count)| **count > 0);
    for (bucket, count) in counts {
        (bucket as u8).put(bytes);
        count.put(bytes);
    }
}

fn take_histogram(bytes: &mut &[u8]) -> Result<HistogramSample, BytesError> {
    let mut histogram = HistogramSample { sum: f64::take(bytes)?, ..HistogramSample::default() };
    if !histogram.sum.is_finite() {
        return Err(BytesError::OutOfRange);
    }
    for _ in 0..u8::take(bytes)? {
        let bucket = histogram.buckets.get_mut(usize::from(u8::take(bytes)?));
        *bucket.ok_or(BytesError::OutOfRange)? = u64::take(bytes)?;
    }
    Ok(histogram)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn rate(entries: &[(u32, f64)]) -> SampleSection {
        section(3, SampledKind::Rate, entries)
    }

    fn section(metric: u16, kind: SampledKind, entries: &[(u32, f64)]) -> SampleSection {
        let mut section = SampleSection { metric, kind, entries: Vec::new() };
        entries.iter().for_each(|(series, n)| section.push(*series, SampledValue::Number(*n)));
        section
    }

    fn histogram(counts: &[(usize, u64)], sum: f64) -> HistogramSample {
        let mut histogram = HistogramSample { sum, ..HistogramSample::default() };
        counts.iter().for_each(|(bucket, count)| histogram.buckets[*bucket] = *count);
        histogram
    }

    #[test]
    fn increases_are_summed_and_the_last_levels_stay() {
        let level = |entries| section(7, SampledKind::Level, entries);
        let mut sample = MetricSample {
            slots: 1,
            sections: vec![rate(&[(1, 2.0), (4, 0.0)]), level(&[(2, 5.0), (3, 0.0)])],
        };
        let later = MetricSample {
            slots: 2,
            sections: vec![rate(&[(0, 1.5), (1, 1.0)]), level(&[(3, 1.0)])],
        };
        sample.merge(later);
        assert_eq!(sample.sections, [rate(&[(0, 1.5), (1, 3.0)]), level(&[(3, 1.0)])]);
        // A gauge that has vanished has no level.
        sample.merge(MetricSample { slots: 1, sections: Vec::new() });
        assert_eq!(sample.sections, [rate(&[(0, 1.5), (1, 3.0)])]);
        assert_eq!(sample.slots, 4);
    }

    #[test]
    fn quantiles_are_interpolated_within_their_bucket() {
        let latencies = histogram(&[(8, 50), (9, 50)], 60.0);
        assert_eq!(latencies.quantile(0.25), Some(0.375));
        assert_eq!((latencies.quantile(0.5), latencies.quantile(0.75)), (Some(0.5), Some(0.75)));
        assert_eq!((latencies.quantile(1.0), latencies.mean()), (Some(1.0), Some(0.6)));
        assert_eq!(histogram(&[(16, 3)], 1_200.0).quantile(0.5), Some(300.0));
        assert_eq!((histogram(&[], 0.0).quantile(0.5), histogram(&[], 0.0).mean()), (None, None));
    }

    #[test]
    fn a_histogram_that_was_replaced_increases_by_all_that_it_has() {
        let before = histogram(&[(1, 5), (2, 5)], 4.0);
        assert_eq!(histogram(&[(1, 5), (2, 7)], 5.0).since(&before), histogram(&[(2, 2)], 1.0));
        let replaced = histogram(&[(2, 6)], 3.0);
        assert_eq!(replaced.since(&before), replaced);
    }

    fn any_sample() -> impl Strategy<Value = MetricSample> {
        let numbers = prop::collection::btree_map(
            0..5_000_u32,
            prop_oneof![0.0..1e18, (0..900_u32).prop_map(f64::from)],
            0..20,
        );
        let counts = prop::collection::btree_map(0..BUCKETS, 1..u64::MAX >> 8, 1..6);
        let histograms = prop::collection::btree_map(0..5_000_u32, (counts, 0.0..1e9), 0..5);
        (1..900_u32, numbers.clone(), numbers, histograms).prop_map(
            |(slots, rates, levels, histograms)| {
                let of = |metric, kind, numbers: std::collections::BTreeMap<u32, f64>| {
                    section(metric, kind, &Vec::from_iter(numbers))
                };
                let mut last =
                    SampleSection { metric: 9, kind: SampledKind::Quantile, entries: Vec::new() };
                for (series, (counts, sum)) in histograms {
                    last.push(
                        series,
                        SampledValue::Histogram(histogram(&Vec::from_iter(counts), sum)),
                    );
                }
                let mut sections =
                    vec![of(1, SampledKind::Rate, rates), of(2, SampledKind::Level, levels), last];
                sections.retain(|section| !section.entries.is_empty());
                MetricSample { slots, sections }
            },
        )
    }

    proptest! {
        #[test]
        fn a_stored_sample_is_read_back(sample in any_sample()) {
            prop_assert_eq!(MetricSample::decode(&sample.encode()), Ok(sample));
        }

        #[test]
        fn damaged_samples_are_read_or_refused(sample in any_sample(), at in any::<prop::sample::Index>(), byte in any::<u8>()) {
            let mut bytes = sample.encode();
            let at = at.index(bytes.len());
            bytes[at] = byte;
            let _ = MetricSample::decode(&bytes);
            let _ = MetricSample::decode(&bytes[..at]);
        }
    }
}
