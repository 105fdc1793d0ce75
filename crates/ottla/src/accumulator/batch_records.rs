//! The records of a closed batch: one buffer, and the large values that it does not contain.
//!
//! A value of 4 KB or more that the caller passed as [`Bytes`] is not copied into the batch's
//! buffer. Checksum and socket take the pieces one after the other.

use bytes::Bytes;

/// A value that is not in the batch's buffer.
#[derive(Debug, Clone)]
pub(crate) struct ValuePiece {
    /// The offset in the buffer where the value belongs.
    pub(crate) offset: usize,
    pub(crate) value: Bytes,
}

/// The records of a closed batch as they go on the wire. They cannot be written.
#[derive(Debug, Clone, Default)]
#[allow(unreachable_pub, reason = "the doctests of `sim::types` use this type")]
pub struct BatchRecords {
    /// The encoded records without `values`.
    encoded: Bytes,
    values: Vec<ValuePiece>,
    len: usize,
}

#[allow(unreachable_pub, reason = "the doctests of `sim::types` use this type")]
impl BatchRecords {
    pub(super) fn new(encoded: Bytes, values: Vec<ValuePiece>) -> BatchRecords {
        let len = encoded.len() + values.iter().map(|v| v.value.len()).sum::<usize>();
        BatchRecords { encoded, values, len }
    }

    /// Returns the number of bytes.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Returns the pieces in their order. They share the batch's memory and keep it alive.
    pub fn pieces(&self) -> impl Iterator<Item = Bytes> {
        let mut start = 0;
        let before_and_value = self.values.iter().flat_map(move |v| {
            let before = self.encoded.slice(std::mem::replace(&mut start, v.offset)..v.offset);
            [before, v.value.clone()]
        });
        let last_offset = self.values.last().map_or(0, |v| v.offset);
        let last = move || self.encoded.slice(last_offset..);
        before_and_value.chain(std::iter::once_with(last))
    }

    /// Returns the pieces as slices.
    pub(super) fn slices(&self) -> impl Iterator<Item = &[u8]> {
        let mut start = 0;
        let before_and_value = self.values.iter().flat_map(move |v| {
            let before = &self.encoded[std::mem::replace(&mut start, v.offset)..v.offset];
            [before, &v.value[..]]
        });
        let last_offset = self.values.last().map_or(0, |v| v.offset);
        before_and_value.chain(std::iter::once(&self.encoded[last_offset..]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_in_the_order_of_the_wire() {
        let value = |offset, value: &'static str| ValuePiece { offset, value: value.into() };
        let encoded = || Bytes::from_static(b"abcdef");
        for (values, expected) in [
            (vec![], "abcdef"),
            (vec![value(2, "12"), value(5, "345")], "ab12cde345f"),
            (vec![value(0, "1"), value(0, "2"), value(6, "3")], "12abcdef3"),
        ] {
            let records = BatchRecords::new(encoded(), values);
            assert_eq!(records.pieces().collect::<Vec<_>>().concat(), expected.as_bytes());
            assert_eq!(records.slices().collect::<Vec<_>>().concat(), expected.as_bytes());
            assert_eq!(records.len(), expected.len());
        }
    }
}
