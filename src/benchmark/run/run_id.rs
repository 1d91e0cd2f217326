//! Ids of runs: 48 bits of time and 80 random bits in Crockford's base 32, as in a ULID.

use std::time::SystemTime;

const DIGITS: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";
const LENGTH: u32 = 26;

/// An id that sorts by time.
pub fn run_id(at: SystemTime, random: [u8; 16]) -> String {
    let since = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let value = (since.as_millis() << 80) | (u128::from_be_bytes(random) >> 48);
    let digit = |at: u32| {
        let index = (value >> (5 * at)) & 31;
        char::from(DIGITS[index as usize])
    };
    (0..LENGTH).rev().map(digit).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn ids_have_26_characters_and_sort_by_time() {
        let id = |millis, random| {
            run_id(SystemTime::UNIX_EPOCH + Duration::from_millis(millis), [random; 16])
        };
        let ids = [id(1, 255), id(2, 0), id(1_800_000_000_000, 7)];
        assert!(ids.is_sorted() && ids.iter().all(|id| id.len() == 26), "{ids:?}");
    }
}
