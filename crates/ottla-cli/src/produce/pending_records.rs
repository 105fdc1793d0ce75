//! The records that were sent and have no result yet, in the order of the input.
//!
//! They are kept only if their results need more than a count: `--json` prints each record,
//! `--on-error FILE` writes those that fail, and `--checkpoint` needs the first without a result.

use std::collections::VecDeque;

/// The most records that may be pending, so that their number is bounded although one partition
/// may be slower than the others.
const MAX_RECORDS: usize = 1 << 17;
/// The most bytes of contents that may be pending, unless it is one record.
const MAX_CONTENT_BYTES: usize = 64 << 20;
/// The most records that may be sent beyond the checkpoint on disk: after a crash, no more of them
/// are stored twice.
const MAX_UNSAVED_RECORDS: u64 = 1 << 20;

/// Where a record stands in the input.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Place {
    /// The index of the input.
    pub(super) input: usize,
    /// The line, or the number of the value in a raw input.
    pub(super) number: u64,
    /// The bytes of the input's text up to the end of the record.
    pub(super) end_bytes: u64,
    /// The lines, or values, up to the end of the record.
    pub(super) end_lines: u64,
    /// The input is an archive.
    pub(super) is_archive: bool,
    /// This is the end of the input, behind its last record.
    pub(super) is_end: bool,
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

impl PendingRecord {
    /// A record without content.
    pub(super) fn at(place: Place) -> PendingRecord {
        let content = Box::default();
        PendingRecord { place, partition: None, sent_at_us: 0, timestamp: 0, content }
    }
}

/// Finds a record by its token, which is its number in the input.
#[derive(Debug, Default)]
pub(super) struct PendingRecords {
    /// The token of the first entry.
    first: u64,
    entries: VecDeque<Entry>,
    content_bytes: usize,
    /// The last record before which every record has its result.
    completed: Option<Place>,
    /// `completed` stays: the record after it has failed and is to be sent again.
    is_completed_fixed: bool,
    /// The ends of the inputs that `completed` has passed since they were last taken.
    ended_inputs: Vec<Place>,
    /// The token up to which a checkpoint is on disk; `None` without checkpoints.
    saved: Option<u64>,
}

#[derive(Debug)]
enum Entry {
    Pending(PendingRecord),
    /// It has its result, while an earlier one has none.
    Done(Place),
    /// It has failed and is to be sent again.
    Failed,
}

impl PendingRecords {
    /// Returns whether another record may become pending.
    pub(super) fn has_room(&self) -> bool {
        let unsaved = self.saved.map_or(0, |saved| self.next_token() - saved);
        let has_memory = self.entries.is_empty()
            || self.entries.len() < MAX_RECORDS && self.content_bytes < MAX_CONTENT_BYTES;
        has_memory && unsaved < MAX_UNSAVED_RECORDS
    }

    fn next_token(&self) -> u64 {
        self.first + self.entries.len() as u64
    }

    /// Returns whether a new checkpoint lets further records be sent soon.
    pub(super) fn needs_save(&self) -> bool {
        self.saved.is_some_and(|saved| self.first - saved >= MAX_UNSAVED_RECORDS / 4)
    }

    /// Records that the checkpoint on disk covers the records before this token.
    pub(super) fn set_saved(&mut self, token: u64) {
        self.saved = Some(token);
    }

    /// Returns the last record before which every record has its result, and the token after it.
    pub(super) fn completed(&self) -> (Option<Place>, u64) {
        (self.completed, self.first)
    }

    /// Returns the ends of the inputs that `completed` has passed since the last call.
    pub(super) fn take_ended_inputs(&mut self) -> Vec<Place> {
        std::mem::take(&mut self.ended_inputs)
    }

    /// Returns whether all records have their results, and count as completed.
    pub(super) fn is_all_completed(&self) -> bool {
        self.entries.is_empty() && !self.is_completed_fixed
    }

    /// Adds a record and returns its token.
    pub(super) fn push(&mut self, record: PendingRecord) -> u64 {
        self.content_bytes += record.content.len();
        self.entries.push_back(Entry::Pending(record));
        self.next_token() - 1
    }

    /// Removes a record that has its result. With `is_sent_again` it does not count as completed.
    pub(super) fn take(&mut self, token: u64, is_sent_again: bool) -> Option<PendingRecord> {
        let index = usize::try_from(token.checked_sub(self.first)?).ok()?;
        let entry = self.entries.get_mut(index)?;
        let Entry::Pending(PendingRecord { place, .. }) = *entry else { return None };
        let result = if is_sent_again { Entry::Failed } else { Entry::Done(place) };
        let Entry::Pending(record) = std::mem::replace(entry, result) else { return None };
        self.content_bytes -= record.content.len();
        while !matches!(self.entries.front(), None | Some(Entry::Pending(_))) {
            let Some(entry) = self.entries.pop_front() else { break };
            self.first += 1;
            match entry {
                Entry::Done(place) if !self.is_completed_fixed => {
                    self.completed = Some(place);
                    self.ended_inputs.extend(place.is_end.then_some(place));
                }
                _ => self.is_completed_fixed = true,
            }
        }
        Some(record)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(content: &str) -> PendingRecord {
        PendingRecord { content: content.as_bytes().into(), ..PendingRecord::at(Place::default()) }
    }

    #[test]
    fn record_is_found_by_its_token_in_any_order_and_only_once() {
        let mut pending = PendingRecords::default();
        let tokens: Vec<u64> = (0..5).map(|i| pending.push(record(&i.to_string()))).collect();
        for i in [3, 0, 1, 4, 2] {
            let taken = pending.take(tokens[i], false).unwrap();
            assert_eq!(&*taken.content, i.to_string().as_bytes());
            assert!(pending.take(tokens[i], false).is_none());
        }
        assert!(pending.entries.is_empty() && pending.content_bytes == 0);
        assert_eq!(pending.push(record("")), 5);
    }

    #[test]
    fn number_and_bytes_of_records_are_bounded_but_one_record_always_fits() {
        let mut pending = PendingRecords::default();
        pending.push(record(&"x".repeat(MAX_CONTENT_BYTES)));
        assert!(!pending.has_room());
        pending.take(0, false);
        for _ in 0..MAX_RECORDS {
            assert!(pending.has_room());
            pending.push(record(""));
        }
        assert!(!pending.has_room());
        // A record behind the first makes no room: the first still holds the place of all.
        pending.take(5, false);
        assert!(!pending.has_room());
        pending.take(1, false);
        assert!(pending.has_room());
    }
}
