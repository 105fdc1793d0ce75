//! The log in which a coordinator keeps its state over a restart.
//!
//! The transaction coordinator has one in `__transaction_state-0`, the group coordinator one in
//! `__consumer_offsets-0`, both in the data directory and in Kafka's format. A coordinator appends
//! before it responds, and reads the whole log at the start; of each key the last record counts.
//! When the log has grown, [`CoordinatorLog::compact`] replaces it by a snapshot.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use ottla_protocol::ErrorCode;
use ottla_protocol::record::{
    BATCH_HEADER_LEN, BatchHeader, BatchHeaderView, BatchView, Batches, RecordBody, attributes,
};

use crate::transaction::ProducerIdAndEpoch;

/// A record: its key, and its value or `None`, which deletes the key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CoordinatorRecord {
    pub(crate) key: Vec<u8>,
    pub(crate) value: Option<Vec<u8>>,
}

/// Records that are appended together, as one batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CoordinatorBatch {
    /// The producer whose open transaction has the records.
    pub(crate) producer: Option<ProducerIdAndEpoch>,
    pub(crate) records: Vec<CoordinatorRecord>,
}

/// The log of a coordinator.
#[derive(Debug)]
pub(crate) struct CoordinatorLog {
    dir: PathBuf,
    path: PathBuf,
    file: File,
    end_offset: i64,
    size: u64,
    /// The size at which the log is compacted.
    compact_at: u64,
    /// The last append failed, which was logged.
    append_failed: bool,
}

/// A log that is smaller is not compacted.
const MIN_COMPACT_BYTES: u64 = 1 << 20;
/// How much larger than its last snapshot a log is when it is compacted.
const COMPACT_FACTOR: u64 = 4;
/// The offset of the magic byte in a batch, and its only value.
const MAGIC: (usize, u8) = (16, 2);

impl CoordinatorLog {
    /// Opens a log, or creates it, and calls `on_batch` with each batch.
    ///
    /// A broker that stops during an append leaves a part of a batch, which is removed.
    ///
    /// # Errors
    /// The directory cannot be used, or a file in it is damaged or not such a log.
    pub(crate) fn open(
        data_dir: &Path,
        topic: &str,
        mut on_batch: impl FnMut(&BatchView<'_>) -> Result<(), String>,
    ) -> io::Result<CoordinatorLog> {
        let dir = data_dir.join(format!("{topic}-0"));
        let mut open = || {
            fs::create_dir_all(&dir)?;
            let paths = segment_paths(&dir)?;
            let (mut size, mut end_offset) = (0, 0);
            for (i, path) in paths.iter().enumerate() {
                let segment = Segment {
                    bytes: fs::read(path)?,
                    base_offset: base_offset(path).unwrap_or(0),
                    is_last: i + 1 == paths.len(),
                };
                (size, end_offset) = segment.read_batches(&mut on_batch).map_err(|e| {
                    let text = format!(
                        "{} is damaged: {e}; restore the file, or move the directory away: the \
                         broker then starts without {}",
                        path.display(),
                        content_of(topic),
                    );
                    io::Error::new(io::ErrorKind::InvalidData, text)
                })?;
            }
            let path = paths.last().cloned().unwrap_or_else(|| segment_path(&dir, 0));
            let file = OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .open(&path)?;
            remove_torn_batch(&file, &path, size)?;
            Ok((path, file, end_offset, size))
        };
        let (path, file, end_offset, size) = open().map_err(|e: io::Error| {
            if e.kind() == io::ErrorKind::InvalidData {
                return e;
            }
            io::Error::new(e.kind(), format!("{}: {e}", dir.display()))
        })?;
        let compact_at = MIN_COMPACT_BYTES;
        Ok(CoordinatorLog { dir, path, file, end_offset, size, compact_at, append_failed: false })
    }

    /// Appends records.
    ///
    /// # Errors
    /// COORDINATOR_NOT_AVAILABLE if they cannot be written: the client asks again.
    pub(crate) fn append(
        &mut self,
        batch: &CoordinatorBatch,
        now_ms: i64,
    ) -> Result<(), ErrorCode> {
        let bytes = encode_batch(batch, self.end_offset, now_ms);
        self.append_bytes(&bytes, batch.records.len() as i64)
    }

    /// Appends a batch of one record that is encoded already, such as a marker.
    ///
    /// # Errors
    /// COORDINATOR_NOT_AVAILABLE if it cannot be written.
    pub(crate) fn append_encoded(&mut self, mut batch: Vec<u8>) -> Result<(), ErrorCode> {
        batch[..8].copy_from_slice(&self.end_offset.to_be_bytes());
        batch[12..16].copy_from_slice(&0i32.to_be_bytes());
        self.append_bytes(&batch, 1)
    }

    /// Appends bytes. A full disk is logged once, not for every retry of a client.
    fn append_bytes(&mut self, bytes: &[u8], records: i64) -> Result<(), ErrorCode> {
        let written = checked_end(self.end_offset, records).and_then(|end_offset| {
            self.file.seek(SeekFrom::Start(self.size))?;
            self.file.write_all(bytes)?;
            Ok(end_offset)
        });
        let had_failed = std::mem::replace(&mut self.append_failed, written.is_err());
        match written {
            Ok(end_offset) => self.end_offset = end_offset,
            Err(e) => {
                // The next start must not find a part of a batch in front of others.
                let _ = self.file.set_len(self.size);
                if !had_failed {
                    let file = self.path.display();
                    tracing::error!(
                        "{file}: append failed: {e}; clients get COORDINATOR_NOT_AVAILABLE until \
                         it works"
                    );
                }
                return Err(ErrorCode::COORDINATOR_NOT_AVAILABLE);
            }
        }
        self.size += bytes.len() as u64;
        Ok(())
    }

    /// Returns whether the log has grown enough to be compacted.
    pub(crate) fn should_compact(&self) -> bool {
        self.size >= self.compact_at
    }

    /// Replaces the log by a snapshot of the whole state.
    ///
    /// If that fails, the log stays as it is and grows on, or the old segments stay: the next
    /// compaction removes them.
    pub(crate) fn compact(&mut self, snapshot: &[CoordinatorBatch], now_ms: i64) {
        if let Err(e) = self.try_compact(snapshot, now_ms) {
            tracing::warn!("{}: compaction failed: {e}; trying again later", self.path.display());
        }
        self.compact_at = MIN_COMPACT_BYTES.max(self.size * COMPACT_FACTOR);
    }

    fn try_compact(&mut self, snapshot: &[CoordinatorBatch], now_ms: i64) -> io::Result<()> {
        let (mut bytes, mut end_offset) = (Vec::new(), self.end_offset);
        for batch in snapshot {
            bytes.extend(encode_batch(batch, end_offset, now_ms));
            end_offset = checked_end(end_offset, batch.records.len() as i64)?;
        }
        let old_paths = segment_paths(&self.dir)?;
        let path = segment_path(&self.dir, self.end_offset);
        // The old segment gets a successor: after a power failure, a start would not accept a part
        // of a batch at its end any more.
        self.file.sync_data()?;
        let file = write_segment(&path, &bytes)?;
        // From here on the old segments take no appends: the next start reads them first.
        (self.path, self.file, self.end_offset) = (path, file, end_offset);
        self.size = bytes.len() as u64;
        // The new segment and its name must be on the disk before the old segments are removed.
        sync_dir(&self.dir)?;
        for old in old_paths.iter().filter(|old| **old != self.path) {
            // From the oldest one on, up to the first error: read with all its successors, an old
            // segment changes nothing, but without them it brings deleted keys back.
            fs::remove_file(old)?;
        }
        Ok(())
    }
}

/// Writes a segment under another name and renames it, so that a stop leaves all of it or nothing.
fn write_segment(path: &Path, bytes: &[u8]) -> io::Result<File> {
    let temporary = path.with_extension("half");
    let write = || {
        let mut options = OpenOptions::new();
        let mut file =
            options.read(true).write(true).create(true).truncate(true).open(&temporary)?;
        file.write_all(bytes)?;
        file.sync_data()?;
        fs::rename(&temporary, path)?;
        Ok(file)
    };
    let written: io::Result<File> = write();
    written.inspect_err(|_| {
        let _ = fs::remove_file(&temporary);
    })
}

/// Waits until the names in a directory are on the disk.
fn sync_dir(dir: &Path) -> io::Result<()> {
    // On Windows a directory cannot be opened like a file.
    if cfg!(unix) { File::open(dir)?.sync_all() } else { Ok(()) }
}

/// Returns the offset after some records.
///
/// # Errors
/// The records would pass the highest offset. A file that was changed may bring a log there.
fn checked_end(offset: i64, records: i64) -> io::Result<i64> {
    let too_high = || io::Error::other(format!("no offset follows {offset}"));
    offset.checked_add(records).ok_or_else(too_high)
}

fn content_of(topic: &str) -> &'static str {
    match topic {
        crate::coordinators::OFFSETS_TOPIC => "the offsets of consumer groups",
        _ => {
            "the state of transactional ids, and the transactions that are open stay so in their \
             partitions"
        }
    }
}

fn segment_path(dir: &Path, base_offset: i64) -> PathBuf {
    dir.join(format!("{base_offset:020}.log"))
}

/// Returns the base offset that a segment's name states; `None` for another file.
fn base_offset(path: &Path) -> Option<i64> {
    let name = path.file_name()?.to_str()?;
    name.strip_suffix(".log").filter(|base| base.len() == 20)?.parse().ok()
}

/// Returns the segments of a directory, in order of their base offsets.
fn segment_paths(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if base_offset(&path).is_some() {
            paths.push(path);
        }
    }
    paths.sort_unstable();
    Ok(paths)
}

/// A segment that is read.
struct Segment {
    bytes: Vec<u8>,
    base_offset: i64,
    is_last: bool,
}

impl Segment {
    /// Calls `on_batch` with each batch; returns the length of all of them and the end offset.
    ///
    /// # Errors
    /// A batch is invalid, and it is not the part of a batch that a stopped broker leaves.
    fn read_batches(
        &self,
        on_batch: &mut impl FnMut(&BatchView<'_>) -> Result<(), String>,
    ) -> Result<(u64, i64), String> {
        let (mut position, mut end_offset) = (0, self.base_offset);
        for batch in Batches::new(&self.bytes) {
            let checked = batch.and_then(|b| b.verify().map(|()| b)).map_err(|e| e.to_string());
            let checked = checked.and_then(|batch| {
                let (base, last) = (batch.header().base_offset, batch.header().last_offset_delta);
                if base < end_offset || last < 0 {
                    return Err(format!("offset {base} is out of order"));
                }
                let end = checked_end(base, i64::from(last) + 1).map_err(|e| e.to_string())?;
                Ok((batch, end))
            });
            match checked {
                Ok((batch, end)) => {
                    on_batch(&batch).map_err(|e| format!("the batch at byte {position}: {e}"))?;
                    (position, end_offset) = (position + batch.bytes().len(), end);
                }
                Err(_) if self.is_last && is_torn_batch(&self.bytes[position..], end_offset) => {
                    break;
                }
                Err(e) => return Err(format!("the batch at byte {position}: {e}")),
            }
        }
        Ok((position as u64, end_offset))
    }
}

/// Returns whether bytes are the beginning of the batch at an offset, and not a damaged batch.
fn is_torn_batch(bytes: &[u8], offset: i64) -> bool {
    // After a power failure a file may end with zeros.
    if bytes.iter().all(|b| *b == 0) {
        return true;
    }
    let is_next = bytes.iter().zip(&offset.to_be_bytes()).all(|(a, b)| a == b);
    let has_magic = bytes.get(MAGIC.0).is_none_or(|b| *b == MAGIC.1);
    let is_part = bytes.len() < BATCH_HEADER_LEN
        || BatchHeaderView::parse(bytes).is_ok_and(|h| h.batch_len > bytes.len());
    // If a whole batch follows, a length is damaged, and more than the last append would be lost.
    let is_batch = |at: usize| {
        let batch = BatchView::parse(&bytes[at..]);
        batch.is_ok_and(|b| b.verify().is_ok())
    };
    let mut starts = 1..bytes.len().saturating_sub(BATCH_HEADER_LEN);
    is_next && has_magic && is_part && !starts.any(is_batch)
}

fn remove_torn_batch(file: &File, path: &Path, size: u64) -> io::Result<()> {
    let removed_bytes = file.metadata()?.len().saturating_sub(size);
    if removed_bytes > 0 {
        let file_name = path.display();
        tracing::warn!(file = %file_name, position = size, removed_bytes, "torn batch removed");
        file.set_len(size)?;
    }
    Ok(())
}

fn encode_batch(batch: &CoordinatorBatch, base_offset: i64, now_ms: i64) -> Vec<u8> {
    let mut records = Vec::new();
    for (offset_delta, record) in (0..).zip(&batch.records) {
        let no_headers = std::iter::empty::<(&str, Option<&[u8]>)>();
        let body = RecordBody::new(Some(&record.key), record.value.as_deref(), no_headers);
        body.encode(&mut records, body.measure(offset_delta, 0));
    }
    let count = batch.records.len() as i32;
    let none = ProducerIdAndEpoch { id: -1, epoch: -1 };
    let producer = batch.producer.unwrap_or(none);
    let is_transactional = batch.producer.is_some();
    let header = BatchHeader {
        base_offset,
        partition_leader_epoch: 0,
        attributes: if is_transactional { attributes::TRANSACTIONAL_FLAG_MASK } else { 0 },
        last_offset_delta: count - 1,
        base_timestamp: now_ms,
        max_timestamp: now_ms,
        producer_id: producer.id,
        producer_epoch: producer.epoch,
        // A log with one writer needs no sequences.
        base_sequence: -1,
        record_count: count,
    };
    [&header.encode(&records)[..], &records].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(key: &str) -> CoordinatorBatch {
        let record = CoordinatorRecord { key: key.into(), value: None };
        CoordinatorBatch { producer: None, records: vec![record] }
    }

    fn read_keys(dir: &Path) -> Vec<String> {
        let mut keys = Vec::new();
        let read = |batch: &BatchView<'_>| {
            for record in batch.records(1 << 20).unwrap().to_vec().unwrap() {
                keys.push(String::from_utf8(record.key.unwrap().to_vec()).unwrap());
            }
            Ok(())
        };
        CoordinatorLog::open(dir, "topic", read).unwrap();
        keys
    }

    #[test]
    fn failed_append_changes_nothing_and_a_later_one_succeeds() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = CoordinatorLog::open(dir.path(), "topic", |_| Ok(())).unwrap();
        log.append(&batch("a"), 0).unwrap();
        let writable = std::mem::replace(&mut log.file, File::open(&log.path).unwrap());
        let (size, end_offset) = (log.size, log.end_offset);
        let not_available = Err(ErrorCode::COORDINATOR_NOT_AVAILABLE);
        assert_eq!(log.append(&batch("b"), 0), not_available);
        assert_eq!((log.size, log.end_offset), (size, end_offset));
        log.file = writable;
        log.append(&batch("c"), 0).unwrap();
        drop(log);
        assert_eq!(read_keys(dir.path()), ["a", "c"]);
    }

    #[test]
    fn segments_that_a_stopped_compaction_leaves_are_read_in_order() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = CoordinatorLog::open(dir.path(), "topic", |_| Ok(())).unwrap();
        log.append(&batch("a"), 0).unwrap();
        let (old_path, old) = (log.path.clone(), fs::read(&log.path).unwrap());
        log.compact(&[batch("b")], 0);
        log.append(&batch("c"), 0).unwrap();
        assert!(!old_path.exists());
        drop(log);
        fs::write(&old_path, &old).unwrap();
        fs::write(dir.path().join("topic-0/00000000000000000009.half"), "half").unwrap();
        assert_eq!(read_keys(dir.path()), ["a", "b", "c"]);
        // A segment that has a successor was complete when the successor was written.
        fs::write(&old_path, &old[..old.len() - 1]).unwrap();
        let e = CoordinatorLog::open(dir.path(), "topic", |_| Ok(())).unwrap_err();
        assert!(e.to_string().contains("is damaged"), "{e}");
    }

    #[test]
    fn old_segment_is_kept_if_an_older_one_cannot_be_removed() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = CoordinatorLog::open(dir.path(), "topic", |_| Ok(())).unwrap();
        log.append(&batch("a"), 0).unwrap();
        let oldest = log.path.clone();
        log.compact(&[batch("b")], 0);
        let old = log.path.clone();
        // A directory of this name cannot be removed as a file.
        fs::create_dir(&oldest).unwrap();
        log.compact(&[batch("c")], 0);
        assert!(log.path != old && log.path.exists() && old.exists());
        log.append(&batch("d"), 0).unwrap();
        fs::remove_dir(&oldest).unwrap();
        drop(log);
        assert_eq!(read_keys(dir.path()), ["b", "c", "d"]);
    }

    #[test]
    fn failed_compaction_leaves_the_log_and_no_temporary_file() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = CoordinatorLog::open(dir.path(), "topic", |_| Ok(())).unwrap();
        log.append(&batch("a"), 0).unwrap();
        let (path, blocked) = (log.path.clone(), segment_path(&log.dir, log.end_offset));
        // A file cannot be renamed to a directory.
        fs::create_dir(&blocked).unwrap();
        log.compact(&[batch("b")], 0);
        assert_eq!(log.path, path);
        fs::remove_dir(&blocked).unwrap();
        log.append(&batch("c"), 0).unwrap();
        let names = fs::read_dir(&log.dir).unwrap().map(|e| e.unwrap().path());
        assert_eq!(names.collect::<Vec<_>>(), [path]);
        drop(log);
        assert_eq!(read_keys(dir.path()), ["a", "c"]);
    }

    /// Writes a segment of one batch whose offset is `below_max` below the highest one.
    fn write_last_offsets(dir: &Path, below_max: i64) {
        let base = i64::MAX - below_max;
        fs::create_dir_all(dir.join("topic-0")).unwrap();
        fs::write(segment_path(&dir.join("topic-0"), base), encode_batch(&batch("a"), base, 0))
            .unwrap();
    }

    #[test]
    fn offset_after_the_highest_one_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        write_last_offsets(dir.path(), 0);
        let e = CoordinatorLog::open(dir.path(), "topic", |_| Ok(())).unwrap_err();
        let expected = format!("the batch at byte 0: no offset follows {}", i64::MAX);
        assert!(e.to_string().contains(&expected), "{e}");
    }

    #[test]
    fn append_and_compaction_end_at_the_highest_offset() {
        let dir = tempfile::tempdir().unwrap();
        write_last_offsets(dir.path(), 2);
        let mut log = CoordinatorLog::open(dir.path(), "topic", |_| Ok(())).unwrap();
        log.append(&batch("b"), 0).unwrap();
        let path = log.path.clone();
        assert_eq!(log.append(&batch("c"), 0), Err(ErrorCode::COORDINATOR_NOT_AVAILABLE));
        log.compact(&[batch("d")], 0);
        assert_eq!(log.path, path, "the log is not compacted");
        drop(log);
        assert_eq!(read_keys(dir.path()), ["a", "b"]);
    }
}
