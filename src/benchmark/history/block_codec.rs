//! The stored form of a run's calls: about one byte for each.
//!
//! The order of the latencies within a block does not matter, so they are sorted, rounded to 16
//! bits of precision (0.002 %), and each is stored as its difference to the one before, as a
//! variable-length integer (LEB128). The last bytes are a hash of the others.

use sha2::{Digest, Sha256};

use crate::resilience::comparison::RunBlock;

/// The format.
const VERSION: u8 = 1;
/// As many as a run has requests at most.
const MAX_LATENCIES: usize = 1_000_000;
/// Of all arms.
const MAX_BLOCKS: usize = 100_000;
const MAX_ARMS: usize = 2;
/// Bits of a latency that are not stored.
const ROUNDED: u32 = 8;
const HASH: usize = 8;

/// Encodes the blocks of each arm. `None`: there are too many.
pub fn encode(arms: &[Vec<RunBlock>]) -> Option<Vec<u8>> {
    let blocks = || arms.iter().flatten();
    let latencies: usize = blocks().map(|block| block.latencies.len()).sum();
    let fits =
        arms.len() <= MAX_ARMS && blocks().count() <= MAX_BLOCKS && latencies <= MAX_LATENCIES;
    if !fits {
        return None;
    }
    let mut out = Vec::with_capacity(latencies + latencies / 4 + 64);
    out.push(VERSION);
    write(&mut out, arms.len() as u64);
    for arm in arms {
        write(&mut out, arm.len() as u64);
        arm.iter().for_each(|block| write_block(&mut out, block));
    }
    let hash = hash(&out);
    out.extend(hash);
    Some(out)
}

fn write_block(out: &mut Vec<u8>, block: &RunBlock) {
    // Also of one that is no number.
    let bounded = |latency: f32| if latency > 0.0 { latency.min(f32::MAX) } else { 0.0 };
    let key = |latency: &f32| bounded(*latency).to_bits() >> ROUNDED;
    let mut keys: Vec<u32> = block.latencies.iter().map(key).collect();
    keys.sort_unstable();
    out.extend(block.seconds.to_le_bytes());
    write(out, u64::from(block.failed));
    write(out, keys.len() as u64);
    let mut before = 0;
    for key in keys {
        write(out, u64::from(key - before));
        before = key;
    }
}

/// Decodes blocks.
///
/// # Errors
/// If the bytes are not what was written: the reason.
pub fn decode(bytes: &[u8]) -> Result<Vec<Vec<RunBlock>>, &'static str> {
    let (body, end) = bytes.split_last_chunk::<HASH>().ok_or("it is too short")?;
    if hash(body) != *end {
        return Err("its hash differs");
    }
    let mut input = Input(body);
    if input.byte()? != VERSION {
        return Err("it has an unknown format");
    }
    let arms = input.count(MAX_ARMS)?;
    let (mut blocks, mut latencies) = (MAX_BLOCKS, MAX_LATENCIES);
    let mut decoded = Vec::new();
    for _ in 0..arms {
        let count = input.count(blocks)?;
        blocks -= count;
        let arm: Result<Vec<_>, _> = (0..count).map(|_| input.block(&mut latencies)).collect();
        decoded.push(arm?);
    }
    if input.0.is_empty() { Ok(decoded) } else { Err("it has more bytes than calls") }
}

fn hash(bytes: &[u8]) -> [u8; HASH] {
    let mut short = [0; HASH];
    short.copy_from_slice(&Sha256::digest(bytes)[..HASH]);
    short
}

/// The low seven bits first; the high bit of a byte says that another follows.
fn write(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

/// The bytes that are not read yet.
struct Input<'a>(&'a [u8]);

impl Input<'_> {
    fn byte(&mut self) -> Result<u8, &'static str> {
        let (first, rest) = self.0.split_first().ok_or("it ends early")?;
        self.0 = rest;
        Ok(*first)
    }

    fn number(&mut self) -> Result<u64, &'static str> {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            number |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(number);
            }
        }
        Err("a number is too long")
    }

    /// A number of things, each of at least one byte.
    fn count(&mut self, most: usize) -> Result<usize, &'static str> {
        let count = usize::try_from(self.number()?).unwrap_or(usize::MAX);
        if count > most.min(self.0.len()) { Err("a count is too large") } else { Ok(count) }
    }

    fn block(&mut self, latencies: &mut usize) -> Result<RunBlock, &'static str> {
        let (seconds, rest) = self.0.split_first_chunk().ok_or("it ends early")?;
        self.0 = rest;
        let seconds = f64::from_le_bytes(*seconds);
        let failed = u32::try_from(self.number()?).map_err(|_| "a count is too large")?;
        if !seconds.is_finite() || seconds < 0.0 {
            return Err("a duration is not a number");
        }
        let count = self.count(*latencies)?;
        *latencies -= count;
        let mut key = 0_u64;
        let mut next = || {
            key = key.saturating_add(self.number()?);
            latency(key).ok_or("a latency is not a number")
        };
        let latencies = (0..count).map(|_| next()).collect::<Result<_, _>>()?;
        Ok(RunBlock { latencies, failed, seconds })
    }
}

/// The middle of the latencies that have a key.
fn latency(key: u64) -> Option<f32> {
    let bits = u32::try_from(key)
        .ok()?
        .checked_shl(ROUNDED)
        .filter(|bits| bits >> ROUNDED == key as u32)?;
    let middle = if bits == 0 { 0.0 } else { f32::from_bits(bits | 1 << (ROUNDED - 1)) };
    Some(middle).filter(|latency| latency.is_finite() && *latency >= 0.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn block(latencies: &[f32]) -> RunBlock {
        RunBlock { latencies: latencies.to_vec(), failed: 3, seconds: 10.5 }
    }

    proptest! {
        #[test]
        fn decoded_latencies_are_within_the_precision(
            latencies in proptest::collection::vec(0.0f32..1e6, 0..200),
            empty in 0..3usize,
        ) {
            let arms = vec![vec![RunBlock::default(); empty], vec![block(&latencies)]];
            let decoded = decode(&encode(&arms).expect("it fits")).expect("intact");
            prop_assert_eq!(&decoded[0], &arms[0]);
            let mut sorted = latencies;
            sorted.sort_by(f32::total_cmp);
            prop_assert_eq!(decoded[1][0].latencies.len(), sorted.len());
            for (a, b) in decoded[1][0].latencies.iter().zip(&sorted) {
                prop_assert!((a - b).abs() <= b * 2e-5 + 1e-38, "{} {}", a, b);
            }
            prop_assert_eq!((decoded[1][0].failed, decoded[1][0].seconds), (3, 10.5));
        }

        #[test]
        fn a_changed_byte_is_reported(at in any::<prop::sample::Index>(), flip in 1..=255u8) {
            let mut bytes = encode(&[vec![block(&[0.1, 0.2, 3.0]); 5]]).expect("it fits");
            let at = at.index(bytes.len());
            bytes[at] ^= flip;
            prop_assert!(decode(&bytes).is_err());
        }

        #[test]
        fn any_bytes_with_a_matching_hash_are_decoded_or_rejected(
            mut bytes in proptest::collection::vec(any::<u8>(), 0..200),
        ) {
            bytes.insert(0, VERSION);
            let end = hash(&bytes);
            bytes.extend(end);
            if let Ok(arms) = decode(&bytes) {
                let mut all = arms.iter().flatten().flat_map(|block| &block.latencies);
                prop_assert!(all.all(|latency| latency.is_finite() && *latency >= 0.0));
            }
        }
    }

    #[test]
    fn a_call_takes_about_a_byte() {
        let latencies: Vec<f32> = (0..500).map(|at| 0.8 + at as f32 / 1000.0).collect();
        let bytes = encode(&[vec![block(&latencies); 100]]).expect("it fits");
        assert!(bytes.len() < 60_000, "{}", bytes.len());
    }

    #[test]
    fn more_calls_than_a_run_may_have_are_not_encoded() {
        let many = block(&vec![1.0; 1000]);
        assert!(encode(&[vec![many.clone(); 1000]]).is_some());
        assert!(encode(&[vec![many; 1001]]).is_none());
    }

    #[test]
    fn latencies_that_are_no_numbers_keep_their_count() {
        let odd = [f32::NAN, f32::INFINITY, -1.0, 0.0, f32::MAX];
        let decoded = decode(&encode(&[vec![block(&odd)]]).expect("it fits")).expect("intact");
        let latencies = &decoded[0][0].latencies;
        assert_eq!((latencies.len(), latencies[2]), (5, 0.0));
        assert!(latencies.iter().all(|latency| latency.is_finite()));
    }
}
