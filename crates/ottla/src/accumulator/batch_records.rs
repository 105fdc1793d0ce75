//! The records of a closed batch: its buffers, and the large values that they do not contain.
//!
//! A value of 4 KB or more that the caller passed as [`Bytes`] is not copied into a buffer of the
//! batch. Checksum and socket take the pieces one after the other.

use bytes::Bytes;

/// A value that is not in the batch's buffers.
#[derive(Debug, Clone)]
pub(crate) struct ValuePiece {
    /// The index of the buffer that the value belongs to.
    pub(crate) buffer: usize,
    /// The offset in that buffer where the value belongs.
    pub(crate) offset: usize,
    pub(crate) value: Bytes,
}

/// The records of a closed batch as they go on the wire. They cannot be written.
#[derive(Debug, Clone, Default)]
#[allow(unreachable_pub, reason = "the doctests of `sim::types` use this type")]
pub struct BatchRecords {
    first: Bytes,
    /// The pieces behind the first one. Most batches have none.
    more: Vec<Bytes>,
    len: usize,
}

#[allow(unreachable_pub, reason = "the doctests of `sim::types` use this type")]
impl BatchRecords {
    /// Takes the batch's full buffers, its last one, and the values in the order of their
    /// positions.
    pub(super) fn new(
        full: impl ExactSizeIterator<Item = Bytes>,
        last: Bytes,
        values: &[ValuePiece],
    ) -> BatchRecords {
        if full.len() == 0 && values.is_empty() {
            return BatchRecords { len: last.len(), first: last, more: Vec::new() };
        }
        let mut pieces = Vec::with_capacity(full.len() + 1 + 2 * values.len());
        let mut values = values.iter().peekable();
        for (index, buffer) in full.chain([last]).enumerate() {
            let mut start = 0;
            while let Some(v) = values.next_if(|v| v.buffer == index) {
                pieces.push(buffer.slice(start..v.offset));
                pieces.push(v.value.clone());
                start = v.offset;
            }
            pieces.push(buffer.slice(start..));
        }
        pieces.retain(|piece| !piece.is_empty());
        let len = pieces.iter().map(Bytes::len).sum();
        let mut pieces = pieces.into_iter();
        BatchRecords { first: pieces.next().unwrap_or_default(), more: pieces.collect(), len }
    }

    /// Returns the number of bytes.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Returns the pieces in their order. They share the batch's memory and keep it alive.
    pub fn pieces(&self) -> impl Iterator<Item = Bytes> {
        std::iter::once(&self.first).chain(&self.more).cloned()
    }

    /// Returns the pieces as slices.
    pub(super) fn slices(&self) -> impl Iterator<Item = &[u8]> {
        std::iter::once(&self.first).chain(&self.more).map(|piece| &piece[..])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_in_the_order_of_the_wire() {
        let value = |buffer, offset, value: &'static str| ValuePiece {
            buffer,
            offset,
            value: value.into(),
        };
        let one = || vec![Bytes::from_static(b"abcdef")];
        let two = || vec![Bytes::from_static(b"abc"), Bytes::from_static(b"def")];
        for (buffers, values, expected) in [
            (one(), vec![], &["abcdef"][..]),
            (one(), vec![value(0, 2, "12"), value(0, 5, "345")], &["ab", "12", "cde", "345", "f"]),
            (
                one(),
                vec![value(0, 0, "1"), value(0, 0, "2"), value(0, 6, "3")],
                &["1", "2", "abcdef", "3"],
            ),
            (two(), vec![], &["abc", "def"]),
            (
                two(),
                vec![value(0, 3, "1"), value(1, 0, "2"), value(1, 1, "3")],
                &["abc", "1", "2", "d", "3", "ef"],
            ),
            (two(), vec![value(1, 3, "1")], &["abc", "def", "1"]),
        ] {
            let (mut full, last) = (buffers.clone(), buffers[buffers.len() - 1].clone());
            full.pop();
            let records = BatchRecords::new(full.into_iter(), last, &values);
            assert_eq!(records.pieces().collect::<Vec<_>>(), expected);
            assert_eq!(records.slices().collect::<Vec<_>>().concat(), expected.concat().as_bytes());
            assert_eq!(records.len(), expected.concat().len());
        }
    }
}
