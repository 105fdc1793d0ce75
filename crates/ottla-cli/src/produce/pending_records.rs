//! The records that were sent and have no result yet, in the order of the input.
//!
//! They are kept only if their results need more than a count: `--json` prints each record, and
//! `--on-error FILE` writes those that fail.

use std::collections::VecDeque;

/// The most records that may be pending, so that their number is bounded although one partition
/// may be slower than the others.
const MAX_RECORDS: usize = 1 << 17;
/// The most bytes of contents that may be pending, unless it is one record.
const MAX_CONTENT_BYTES: usize = 64 << 20;

/// Where a record stands in the input.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Place {
    /// The index of the input.
    pub(super) input: usize,
    /// The line, or the number of the value in a raw input.
    pub(super) number: u64,
}

/// A record without a result.
#[derive(Debug)]
pub(super) struct PendingRecord {
    pub(super) place: Place,
    /// The partition that the record names.
    pub(super) partition: Option<i32>,
    /// When it was sent, on the clock of the tokens.
    pub(super) sent_at_us: u64,
    /// Milliseconds since 1970.
    pub(super) timestamp: i64,
    /// The members of its JSON object.
    pub(super) content: Box<[u8]>,
}

/// Finds a record by its token, which is its number in the input.
#[derive(Debug, Default)]
pub(super) struct PendingRecords {
    /// The token of the first entry.
    first: u64,
    /// `None` for a record that has its result, while an earlier one has none.
    entries: VecDeque<Option<PendingRecord>>,
    content_bytes: usize,
}

impl PendingRecords {
    /// Returns whether another record may become pending.
    pub(super) fn has_room(&self) -> bool {
        self.entries.is_empty()
            || self.entries.len() < MAX_RECORDS && self.content_bytes < MAX_CONTENT_BYTES
    }

    /// Adds a record and returns its token.
    pub(super) fn push(&mut self, record: PendingRecord) -> u64 {
        self.content_bytes += record.content.len();
        self.entries.push_back(Some(record));
        self.first + self.entries.len() as u64 - 1
    }

    /// Removes a record that has its result.
    pub(super) fn take(&mut self, token: u64) -> Option<PendingRecord> {
        let index = usize::try_from(token.checked_sub(self.first)?).ok()?;
        let record = self.entries.get_mut(index)?.take()?;
        self.content_bytes -= record.content.len();
        while let Some(None) = self.entries.front() {
            self.entries.pop_front();
            self.first += 1;
        }
        Some(record)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(content: &str) -> PendingRecord {
        PendingRecord {
            place: Place::default(),
            partition: None,
            sent_at_us: 0,
            timestamp: 0,
            content: content.as_bytes().into(),
        }
    }

    #[test]
    fn record_is_found_by_its_token_in_any_order_and_only_once() {
        let mut pending = PendingRecords::default();
        let tokens: Vec<u64> = (0..5).map(|i| pending.push(record(&i.to_string()))).collect();
        for i in [3, 0, 1, 4, 2] {
            let taken = pending.take(tokens[i]).unwrap();
            assert_eq!(&*taken.content, i.to_string().as_bytes());
            assert!(pending.take(tokens[i]).is_none());
        }
        assert!(pending.entries.is_empty() && pending.content_bytes == 0);
        assert_eq!(pending.push(record("")), 5);
    }

    #[test]
    fn number_and_bytes_of_records_are_bounded_but_one_record_always_fits() {
        let mut pending = PendingRecords::default();
        pending.push(record(&"x".repeat(MAX_CONTENT_BYTES)));
        assert!(!pending.has_room());
        pending.take(0);
        for _ in 0..MAX_RECORDS {
            assert!(pending.has_room());
            pending.push(record(""));
        }
        assert!(!pending.has_room());
        // A record behind the first makes no room: the first still holds the place of all.
        pending.take(5);
        assert!(!pending.has_room());
        pending.take(1);
        assert!(pending.has_room());
    }
}
