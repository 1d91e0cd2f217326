//! Counts of values by their logarithm: a quantile sketch with a fixed relative error.
//!
//! Each octave (from a power of two to the next) is divided into `STEPS` bins of equal width, so
//! the bin of a value takes a few integer operations (as in HdrHistogram; the error bound is that
//! of DDSketch: Masson, Rim and Lee, VLDB 2019). A quantile is the harmonic middle of its bin, so
//! its relative error is at most `1 / (2 STEPS + 1)`: 0.8 % with 64 steps, 4.8 % with 10. No
//! value is stored, and none is compared with another.
//!
//! Values are nanoseconds, or another unit of this range: 131 us to 1,099 s. Values outside it
//! count as its ends. Sketches of the same resolution merge by adding their counts. Stored, only
//! the bins with counts take space.

use std::fmt::{self, Display, Formatter};

use crate::resilience::stored_bytes::{BytesError, StoredForm};

/// Values below 2^17 (131 us) count as that.
const FIRST_OCTAVE: u32 = 17;
/// Values from 2^40 (1,099 s) on count as just below.
const END_OCTAVE: u32 = 40;
const OCTAVES: usize = (END_OCTAVE - FIRST_OCTAVE) as usize;
const FORMAT: u8 = 1;

/// `BINS` is 23 times `STEPS`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogCounts<const STEPS: usize, const BINS: usize>([u32; BINS]);

/// Values within 0.8 %, for roll-ups and their storage.
pub type FineCounts = LogCounts<64, 1_472>;
/// Values within 4.8 %, for sliding windows.
pub type CoarseCounts = LogCounts<10, 230>;

/// Stored bytes that are no sketch of the expected type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SketchError {
    Truncated,
    Format(u8),
    Steps(u8),
    /// A bin or a count that is too large, or a count of zero.
    OutOfRange,
    TrailingBytes(usize),
}

impl<const STEPS: usize, const BINS: usize> Default for LogCounts<STEPS, BINS> {
    fn default() -> Self {
        const { assert!(BINS == OCTAVES * STEPS && STEPS < 256) };
        LogCounts([0; BINS])
    }
}

impl<const STEPS: usize, const BINS: usize> LogCounts<STEPS, BINS> {
    pub fn record(&mut self, value: u64) {
        let count = &mut self.0[Self::bin(value)];
        *count = count.saturating_add(1);
    }

    pub fn count(&self) -> u64 {
        self.0.iter().copied().map(u64::from).sum()
    }

    /// The least value that the share `q`, in [0, 1], of the values does not exceed; none if
    /// there are fewer than `least` values, or none.
    pub fn quantile(&self, q: f64, least: u64) -> Option<u64> {
        // Sums of whole octaves give the total, and the octave to look into.
        let mut octaves = [0; OCTAVES];
        for (sum, octave) in octaves.iter_mut().zip(self.0.chunks_exact(STEPS)) {
            *sum = octave.iter().copied().map(u64::from).sum::<u64>();
        }
        let count: u64 = octaves.iter().sum();
        if count < least.max(1) {
            return None;
        }
        let rank = ((q * count as f64).ceil() as u64).clamp(1, count);
        let mut passed = 0;
        let mut reaches = |count: u64| {
            let reaches = passed + count >= rank;
            passed += if reaches { 0 } else { count };
            reaches
        };
        let start = octaves.iter().position(|sum| reaches(*sum))? * STEPS;
        let step = self.0[start..].iter().position(|count| reaches(u64::from(*count)))?;
        Some(Self::middle(start + step))
    }

    /// Adds the values of another sketch.
    pub fn merge(&mut self, other: &Self) {
        let pairs = self.0.iter_mut().zip(other.0);
        pairs.for_each(|(count, other)| *count = count.saturating_add(other));
    }

    /// Removes the values of a sketch that was merged.
    pub fn subtract(&mut self, expired: &Self) {
        let pairs = self.0.iter_mut().zip(expired.0);
        pairs.for_each(|(count, expired)| *count = count.saturating_sub(expired));
    }

    /// Appends the stored form: format, steps, then for each bin with a count its distance to the
    /// bin before and the count, as LEB128 numbers.
    pub fn encode(&self, bytes: &mut Vec<u8>) {
        bytes.extend([FORMAT, STEPS as u8]);
        let counted = self.0.iter().filter(|count| **count > 0).count();
        (counted as u64).put(bytes);
        let mut next = 0;
        for (bin, count) in self.0.iter().enumerate().filter(|(_, count)| **count > 0) {
            ((bin - next) as u64).put(bytes);
            count.put(bytes);
            next = bin + 1;
        }
    }

    /// Reads the stored form.
    pub fn decode(bytes: &[u8]) -> Result<Self, SketchError> {
        let mut counts = Self::default();
        counts.merge_stored(bytes).map(|()| counts)
    }

    /// Adds the values of a stored sketch. After an error some of them may be added.
    pub fn merge_stored(&mut self, mut bytes: &[u8]) -> Result<(), SketchError> {
        let (format, steps) = (u8::take(&mut bytes)?, u8::take(&mut bytes)?);
        if format != FORMAT {
            return Err(SketchError::Format(format));
        }
        if usize::from(steps) != STEPS {
            return Err(SketchError::Steps(steps));
        }
        let mut bin = 0_usize;
        for _ in 0..u32::take(&mut bytes)? {
            let distance = usize::try_from(u32::take(&mut bytes)?).unwrap_or(usize::MAX);
            bin = distance.saturating_add(bin);
            let count = Some(u32::take(&mut bytes)?).filter(|count| *count > 0);
            let (Some(slot), Some(count)) = (self.0.get_mut(bin), count) else {
                return Err(SketchError::OutOfRange);
            };
            *slot = slot.saturating_add(count);
            bin += 1;
        }
        if bytes.is_empty() { Ok(()) } else { Err(SketchError::TrailingBytes(bytes.len())) }
    }

    fn bin(value: u64) -> usize {
        let value = value.clamp(1 << FIRST_OCTAVE, (1 << END_OCTAVE) - 1);
        let octave = value.ilog2();
        let step = ((value - (1 << octave)) * STEPS as u64) >> octave;
        (octave - FIRST_OCTAVE) as usize * STEPS + step as usize
    }

    /// The harmonic mean of the ends of a bin.
    fn middle(bin: usize) -> u64 {
        let start = (1_u64 << (FIRST_OCTAVE as usize + bin / STEPS)) as f64;
        let end_of = |step: usize| start * (1.0 + step as f64 / STEPS as f64);
        let (low, high) = (end_of(bin % STEPS), end_of(bin % STEPS + 1));
        (2.0 * low * high / (low + high)) as u64
    }
}

impl From<BytesError> for SketchError {
    fn from(error: BytesError) -> Self {
        match error {
            BytesError::Truncated => SketchError::Truncated,
            BytesError::OutOfRange => SketchError::OutOfRange,
        }
    }
}

impl Display for SketchError {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            SketchError::Truncated => write!(f, "the stored sketch ends too early"),
            SketchError::Format(found) => {
                write!(f, "the stored sketch has format {found}, expected {FORMAT}")
            }
            SketchError::Steps(found) => {
                write!(
                    f,
                    "the stored sketch has {found} bins in an octave, expected another number"
                )
            }
            SketchError::OutOfRange => {
                write!(f, "the stored sketch has a bin or a count out of range")
            }
            SketchError::TrailingBytes(count) => {
                write!(f, "the stored sketch is followed by {count} bytes, expected none")
            }
        }
    }
}

impl std::error::Error for SketchError {}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn counts_of(values: &[u64]) -> FineCounts {
        let mut counts = FineCounts::default();
        values.iter().for_each(|value| counts.record(*value));
        counts
    }

    fn encoded(counts: &FineCounts) -> Vec<u8> {
        let mut bytes = Vec::new();
        counts.encode(&mut bytes);
        bytes
    }

    #[test]
    fn no_values_have_no_quantile() {
        assert_eq!(FineCounts::default().quantile(0.5, 0), None);
        assert_eq!(counts_of(&[1]).quantile(0.5, 2), None);
        assert_eq!(FineCounts::decode(&encoded(&FineCounts::default())), Ok(counts_of(&[])));
    }

    #[test]
    fn values_out_of_range_count_as_its_ends() {
        let counts = counts_of(&[0, u64::MAX]);
        let ends = [0.0, 1.0].map(|q| counts.quantile(q, 0).unwrap() as f64);
        assert!((ends[0] / (1_u64 << 17) as f64 - 1.0).abs() < 0.01, "{ends:?}");
        assert!((ends[1] / (1_u64 << 40) as f64 - 1.0).abs() < 0.01, "{ends:?}");
    }

    #[test]
    fn bytes_that_are_no_sketch_are_refused() {
        let good = encoded(&counts_of(&[1_000_000, 2_000_000]));
        let changed = |at: usize, byte: u8| {
            let mut bytes = good.clone();
            bytes[at] = byte;
            FineCounts::decode(&bytes).unwrap_err()
        };
        assert_eq!(FineCounts::decode(&[]), Err(SketchError::Truncated));
        assert_eq!(FineCounts::decode(&good[..good.len() - 1]), Err(SketchError::Truncated));
        assert_eq!(changed(0, 9), SketchError::Format(9));
        assert_eq!(changed(1, 10), SketchError::Steps(10));
        assert_eq!(changed(good.len() - 1, 0), SketchError::OutOfRange);
        let longer = [good.as_slice(), &[0]].concat();
        assert_eq!(FineCounts::decode(&longer), Err(SketchError::TrailingBytes(1)));
        assert_eq!(FineCounts::decode(&[1, 64, 1, 0xff, 0xff, 1, 1]), Err(SketchError::OutOfRange));
        assert_eq!(
            FineCounts::decode(&[1, 64, 0xff, 0xff, 0xff, 0xff, 0xff, 1]),
            Err(SketchError::OutOfRange)
        );
    }

    #[test]
    fn a_stored_roll_up_is_small() {
        let values: Vec<u64> = (0..200).map(|n| 300_000_000 + n * 3_000_000).collect();
        assert!(encoded(&counts_of(&values)).len() < 250);
    }

    proptest! {
        #[test]
        fn a_quantile_is_within_one_percent_of_the_exact_one(
            mut values in prop::collection::vec(200_000u64..1_000_000_000_000, 1..200),
            q in 0.0..=1.0f64,
        ) {
            let found = counts_of(&values).quantile(q, 0).unwrap() as f64;
            values.sort_unstable();
            let rank = ((q * values.len() as f64).ceil() as usize).max(1);
            let exact = values[rank - 1] as f64;
            prop_assert!((found / exact - 1.0).abs() <= 1.0 / 129.0 + 1e-5, "{found} {exact}");
        }

        #[test]
        fn merging_is_recording_in_one_sketch(
            a in prop::collection::vec(any::<u64>(), 0..100),
            b in prop::collection::vec(any::<u64>(), 0..100),
        ) {
            let mut merged = counts_of(&a);
            merged.merge(&counts_of(&b));
            prop_assert_eq!(merged, counts_of(&[a.as_slice(), &b].concat()));
            merged.subtract(&counts_of(&b));
            prop_assert_eq!(merged, counts_of(&a));
        }

        #[test]
        fn a_stored_sketch_is_read_back(values in prop::collection::vec(any::<u64>(), 0..300)) {
            let counts = counts_of(&values);
            let bytes = encoded(&counts);
            prop_assert!(bytes.len() <= 5 + 7 * values.len());
            prop_assert_eq!(FineCounts::decode(&bytes), Ok(counts));
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            let bytes = [&[FORMAT, 64][..], &bytes].concat();
            if let Ok(counts) = FineCounts::decode(&bytes) {
                prop_assert_eq!(FineCounts::decode(&encoded(&counts)), Ok(counts));
            }
        }
    }
}
