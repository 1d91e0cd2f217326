//! Numbers as bytes, for the stored forms of pure types.
//!
//! Whole numbers are LEB128, so that small ones take a byte. Reading never panics and never
//! allocates more than the bytes hold.

use std::collections::VecDeque;

/// Why bytes cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BytesError {
    Truncated,
    OutOfRange,
}

/// A type with a stored form.
pub(crate) trait StoredForm: Sized {
    fn put(&self, bytes: &mut Vec<u8>);
    fn take(bytes: &mut &[u8]) -> Result<Self, BytesError>;
}

/// The stored form of a struct: its fields, in this order.
macro_rules! stored_fields {
    ($($type:ident { $($field:ident),* $(,)? })*) => {$(
        impl $crate::resilience::stored_bytes::StoredForm for $type {
            fn put(&self, bytes: &mut Vec<u8>) {
                $($crate::resilience::stored_bytes::StoredForm::put(&self.$field, bytes);)*
            }

            fn take(
                bytes: &mut &[u8],
            ) -> Result<Self, $crate::resilience::stored_bytes::BytesError> {
                Ok($type { $($field: $crate::resilience::stored_bytes::StoredForm::take(bytes)?),* })
            }
        }
    )*};
}

pub(crate) use stored_fields;

/// Takes this many bytes.
pub(crate) fn take_slice<'b>(bytes: &mut &'b [u8], count: usize) -> Result<&'b [u8], BytesError> {
    let (first, rest) = bytes.split_at_checked(count).ok_or(BytesError::Truncated)?;
    *bytes = rest;
    Ok(first)
}

fn take_array<const N: usize>(bytes: &mut &[u8]) -> Result<[u8; N], BytesError> {
    let (first, rest) = bytes.split_first_chunk().ok_or(BytesError::Truncated)?;
    *bytes = rest;
    Ok(*first)
}

/// Takes the number of elements of a list. Each has at least a byte.
fn take_count(bytes: &mut &[u8]) -> Result<usize, BytesError> {
    let count = usize::try_from(u64::take(bytes)?).map_err(|_| BytesError::OutOfRange)?;
    if count <= bytes.len() { Ok(count) } else { Err(BytesError::Truncated) }
}

impl StoredForm for u64 {
    fn put(&self, bytes: &mut Vec<u8>) {
        let mut number = *self;
        while number >= 0x80 {
            bytes.push(number as u8 | 0x80);
            number >>= 7;
        }
        bytes.push(number as u8);
    }

    fn take(bytes: &mut &[u8]) -> Result<Self, BytesError> {
        let mut number = 0;
        for shift in (0..u64::BITS).step_by(7) {
            let [byte] = take_array(bytes)?;
            let part = u64::from(byte & 0x7f);
            if part << shift >> shift != part {
                return Err(BytesError::OutOfRange);
            }
            number |= part << shift;
            if byte < 0x80 {
                return Ok(number);
            }
        }
        Err(BytesError::OutOfRange)
    }
}

impl StoredForm for u32 {
    fn put(&self, bytes: &mut Vec<u8>) {
        u64::from(*self).put(bytes);
    }

    fn take(bytes: &mut &[u8]) -> Result<Self, BytesError> {
        u32::try_from(u64::take(bytes)?).map_err(|_| BytesError::OutOfRange)
    }
}

impl StoredForm for u8 {
    fn put(&self, bytes: &mut Vec<u8>) {
        bytes.push(*self);
    }

    fn take(bytes: &mut &[u8]) -> Result<Self, BytesError> {
        take_array(bytes).map(|[byte]| byte)
    }
}

impl StoredForm for i8 {
    fn put(&self, bytes: &mut Vec<u8>) {
        bytes.extend(self.to_le_bytes());
    }

    fn take(bytes: &mut &[u8]) -> Result<Self, BytesError> {
        take_array(bytes).map(i8::from_le_bytes)
    }
}

impl StoredForm for f32 {
    fn put(&self, bytes: &mut Vec<u8>) {
        bytes.extend(self.to_le_bytes());
    }

    fn take(bytes: &mut &[u8]) -> Result<Self, BytesError> {
        take_array(bytes).map(f32::from_le_bytes)
    }
}

impl StoredForm for f64 {
    fn put(&self, bytes: &mut Vec<u8>) {
        bytes.extend(self.to_le_bytes());
    }

    fn take(bytes: &mut &[u8]) -> Result<Self, BytesError> {
        take_array(bytes).map(f64::from_le_bytes)
    }
}

impl StoredForm for bool {
    fn put(&self, bytes: &mut Vec<u8>) {
        bytes.push(u8::from(*self));
    }

    fn take(bytes: &mut &[u8]) -> Result<Self, BytesError> {
        match u8::take(bytes)? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(BytesError::OutOfRange),
        }
    }
}

impl<T: StoredForm> StoredForm for Option<T> {
    fn put(&self, bytes: &mut Vec<u8>) {
        self.is_some().put(bytes);
        self.iter().for_each(|value| value.put(bytes));
    }

    fn take(bytes: &mut &[u8]) -> Result<Self, BytesError> {
        bool::take(bytes)?.then(|| T::take(bytes)).transpose()
    }
}

impl<T: StoredForm> StoredForm for Vec<T> {
    fn put(&self, bytes: &mut Vec<u8>) {
        (self.len() as u64).put(bytes);
        self.iter().for_each(|value| value.put(bytes));
    }

    fn take(bytes: &mut &[u8]) -> Result<Self, BytesError> {
        (0..take_count(bytes)?).map(|_| T::take(bytes)).collect()
    }
}

impl<T: StoredForm> StoredForm for VecDeque<T> {
    fn put(&self, bytes: &mut Vec<u8>) {
        (self.len() as u64).put(bytes);
        self.iter().for_each(|value| value.put(bytes));
    }

    fn take(bytes: &mut &[u8]) -> Result<Self, BytesError> {
        Vec::take(bytes).map(VecDeque::from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_stored_number_is_read_back(number in any::<u64>(), small in any::<u32>()) {
            let mut bytes = Vec::new();
            number.put(&mut bytes);
            small.put(&mut bytes);
            let mut rest = &bytes[..];
            prop_assert_eq!((u64::take(&mut rest), u32::take(&mut rest)), (Ok(number), Ok(small)));
            prop_assert!(rest.is_empty());
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            let mut rest = &bytes[..];
            if let Ok(list) = Vec::<Option<u64>>::take(&mut rest) {
                prop_assert!(list.len() <= bytes.len() - rest.len());
            }
        }
    }

    #[test]
    fn a_count_beyond_the_bytes_is_refused() {
        let mut bytes = Vec::new();
        u64::MAX.put(&mut bytes);
        assert_eq!(Vec::<u8>::take(&mut &bytes[..]), Err(BytesError::Truncated));
        assert_eq!(u64::take(&mut &[0xff; 11][..]), Err(BytesError::OutOfRange));
        assert_eq!(u32::take(&mut &bytes[..]), Err(BytesError::OutOfRange));
        assert_eq!(bool::take(&mut &[2][..]), Err(BytesError::OutOfRange));
    }
}
