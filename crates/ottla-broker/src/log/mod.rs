//! A partition's log: the batches as clients sent them, in segments.
//!
//! The leader rewrites only the base offset and the leader epoch of a batch. The batch's checksum
//! does not cover these two fields. The index of all batches is in memory.

mod segment;

use std::io;
use std::path::Path;

use bytes::Bytes;
use ottla_protocol::record::{BatchHeaderView, BatchView};

pub(crate) use segment::{LogSegment, Recovery};

/// The position of a batch in its segment, and the fields that lookups need.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LogIndexEntry {
    pub(crate) base_offset: i64,
    pub(crate) last_offset: i64,
    /// The epoch of the leader that appended the batch.
    pub(crate) leader_epoch: i32,
    pub(crate) max_timestamp: i64,
    pub(crate) position: u64,
    pub(crate) len: u32,
}

/// A batch in a partition's log.
#[derive(Debug, Clone)]
pub struct LogBatch {
    /// The offset of the first record.
    pub base_offset: i64,
    /// The batch's bytes: header and records.
    pub bytes: Bytes,
}

/// A partition's log.
#[derive(Debug)]
pub(crate) struct Log {
    segments: Vec<LogSegment>,
    log_end_offset: i64,
    segment_bytes: u64,
    /// The last append failed, which was logged.
    append_failed: bool,
}

/// The least that [`Log::read`] returns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum MinBytes {
    Zero,
    /// The first batch, even if it exceeds the size limit.
    OneBatch,
}

impl Log {
    /// Creates an empty log in memory.
    pub(crate) fn in_memory(segment_bytes: u64) -> Log {
        Log::new(vec![LogSegment::in_memory(0)], 0, segment_bytes)
    }

    /// Opens the log in a directory and truncates it at the first invalid batch.
    ///
    /// Calls `on_batch` with each batch and its base offset.
    pub(crate) fn open(
        dir: &Path,
        segment_bytes: u64,
        mut on_batch: impl FnMut(&BatchView<'_>, i64),
    ) -> io::Result<Log> {
        std::fs::create_dir_all(dir)?;
        let mut segments = LogSegment::open_all(dir)?;
        let mut log_end_offset = segments.first().map_or(0, |s| s.base_offset);
        let mut valid_segments = 0;
        for segment in &mut segments {
            if segment.base_offset != log_end_offset {
                break;
            }
            valid_segments += 1;
            let recovery = segment.recover(|batch, base| {
                log_end_offset = base + i64::from(batch.header().last_offset_delta) + 1;
                on_batch(batch, base);
            })?;
            if recovery == Recovery::Truncated {
                break;
            }
        }
        // The segments after a gap are not reachable: their offsets do not follow the log's end.
        for unreachable in segments.drain(valid_segments..) {
            unreachable.remove()?;
        }
        if segments.is_empty() {
            segments.push(LogSegment::create(dir, 0)?);
        }
        Ok(Log::new(segments, log_end_offset, segment_bytes))
    }

    fn new(segments: Vec<LogSegment>, log_end_offset: i64, segment_bytes: u64) -> Log {
        Log { segments, log_end_offset, segment_bytes, append_failed: false }
    }

    /// Returns the offset after the last record.
    pub(crate) fn log_end_offset(&self) -> i64 {
        self.log_end_offset
    }

    /// Returns the offset of the first record.
    pub(crate) fn log_start_offset(&self) -> i64 {
        self.segments.first().map_or(0, |s| s.base_offset)
    }

    /// Appends a validated batch and returns its base offset.
    pub(crate) fn append_as_leader(
        &mut self,
        batch: &[u8],
        header: &BatchHeaderView,
        epoch: i32,
    ) -> io::Result<i64> {
        let base = self.log_end_offset;
        let mut bytes = batch.to_vec();
        bytes[..8].copy_from_slice(&base.to_be_bytes());
        bytes[12..16].copy_from_slice(&epoch.to_be_bytes());
        self.append_to_segment(&bytes, header, epoch)?;
        Ok(base)
    }

    /// Appends a batch from the leader's log, without changes.
    pub(crate) fn append_as_follower(
        &mut self,
        bytes: &[u8],
        header: &BatchHeaderView,
    ) -> io::Result<()> {
        if header.header.base_offset != self.log_end_offset {
            return Err(io::Error::other("the fetched batch does not begin at the log end offset"));
        }
        self.append_to_segment(bytes, header, header.header.partition_leader_epoch)
    }

    /// Appends to the last segment. A full disk is logged once, not for every retry of a client.
    fn append_to_segment(
        &mut self,
        bytes: &[u8],
        header: &BatchHeaderView,
        epoch: i32,
    ) -> io::Result<()> {
        let result = self.try_append(bytes, header, epoch);
        let had_failed = std::mem::replace(&mut self.append_failed, result.is_err());
        match &result {
            Err(e) if !had_failed => {
                tracing::error!(
                    "append failed: {e}; clients get KAFKA_STORAGE_ERROR until it works"
                );
            }
            Ok(()) if had_failed => tracing::error!("appends work again"),
            _ => {}
        }
        result
    }

    fn try_append(&mut self, bytes: &[u8], header: &BatchHeaderView, epoch: i32) -> io::Result<()> {
        let base_offset = self.log_end_offset;
        let record_count = i64::from(header.header.last_offset_delta) + 1;
        // Only a file whose name was changed brings a log to the highest offset.
        let end_offset = base_offset.checked_add(record_count);
        let end_offset = end_offset
            .ok_or_else(|| io::Error::other(format!("no offset follows {base_offset}")))?;
        let is_full = self
            .segments
            .last()
            .is_some_and(|s| s.size() > 0 && s.size() + bytes.len() as u64 > self.segment_bytes);
        if is_full
            && let Some(next) = self.segments.last().map(|s| s.roll(base_offset)).transpose()?
        {
            self.segments.push(next);
        }
        if let Some(segment) = self.segments.last_mut() {
            let max_timestamp = header.header.max_timestamp;
            let (position, len) = (segment.size(), bytes.len() as u32);
            segment.append(
                bytes,
                LogIndexEntry {
                    base_offset,
                    last_offset: end_offset - 1,
                    leader_epoch: epoch,
                    max_timestamp,
                    position,
                    len,
                },
            )?;
        }
        self.log_end_offset = end_offset;
        Ok(())
    }

    /// Deletes the oldest segments as long as the others have at least `retention_bytes`. Segments
    /// with records from the offset `end` on stay, and so does the last segment.
    pub(crate) fn delete_old_segments(&mut self, retention_bytes: u64, end: i64) -> io::Result<()> {
        let mut size: u64 = self.segments.iter().map(LogSegment::size).sum();
        while let [oldest, next, ..] = &self.segments[..] {
            size -= oldest.size();
            if size < retention_bytes || next.base_offset > end {
                return Ok(());
            }
            self.segments.remove(0).remove()?;
        }
        Ok(())
    }

    /// Returns the last leader epoch and the log end offset.
    ///
    /// Of two replicas, the one with the greater pair has the more complete log.
    pub(crate) fn epoch_and_end_offset(&self) -> (i32, i64) {
        (self.latest_epoch(), self.log_end_offset)
    }

    /// Returns the leader epoch of the last batch; −1 for an empty log.
    pub(crate) fn latest_epoch(&self) -> i32 {
        self.entries().next_back().map_or(-1, |(_, e)| e.leader_epoch)
    }

    /// Returns the highest epoch up to `epoch` that has batches, and the offset after its last
    /// record.
    pub(crate) fn end_offset_for_epoch(&self, epoch: i32) -> Option<(i32, i64)> {
        let last = self.entries().rev().find(|(_, e)| e.leader_epoch <= epoch);
        last.map(|(_, e)| (e.leader_epoch, e.last_offset + 1))
    }

    /// Returns the offset up to which both logs have the same batches.
    pub(crate) fn common_end_offset(&self, other: &Log) -> i64 {
        // One leader appended each epoch. If both logs have the same batch of an epoch at the same
        // offset, all batches before it are the same, too. So the last common batch is enough.
        for (_, own) in self.entries().rev() {
            let is_same = |e: &&LogIndexEntry| {
                (e.base_offset, e.last_offset, e.leader_epoch, e.len)
                    == (own.base_offset, own.last_offset, own.leader_epoch, own.len)
            };
            if other.entry_with_base_offset(own.base_offset).filter(is_same).is_some() {
                return own.last_offset + 1;
            }
        }
        self.log_start_offset()
    }

    /// Returns the entry of the batch that begins at an offset.
    fn entry_with_base_offset(&self, base: i64) -> Option<&LogIndexEntry> {
        let index = self.segments.partition_point(|s| s.base_offset <= base).checked_sub(1)?;
        let entries = self.segments[index].entries();
        entries
            .get(entries.partition_point(|e| e.base_offset < base))
            .filter(|e| e.base_offset == base)
    }

    /// Removes the batches from `offset` on; a batch begins at `offset`.
    pub(crate) fn truncate_to(&mut self, offset: i64) -> io::Result<()> {
        while self.segments.len() > 1
            && self.segments.last().is_some_and(|s| s.base_offset >= offset)
        {
            if let Some(s) = self.segments.pop() {
                s.remove()?;
            }
        }
        if let Some(s) = self.segments.last_mut() {
            s.truncate_to(offset)?;
        }
        self.log_end_offset = self.log_end_offset.min(offset);
        Ok(())
    }

    /// Returns the bytes of each batch, from the one that begins at `offset`.
    pub(crate) fn read_from(&self, offset: i64) -> io::Result<Vec<Vec<u8>>> {
        let mut out = Vec::new();
        let first = self.segments.partition_point(|s| s.base_offset <= offset).saturating_sub(1);
        for s in &self.segments[first..] {
            let entries = s.entries();
            for e in &entries[entries.partition_point(|e| e.base_offset < offset)..] {
                let mut bytes = Vec::new();
                s.read(e, &mut bytes)?;
                out.push(bytes);
            }
        }
        Ok(out)
    }

    fn entries(&self) -> impl DoubleEndedIterator<Item = (&LogSegment, &LogIndexEntry)> {
        self.segments.iter().flat_map(|s| s.entries().iter().map(move |e| (s, e)))
    }

    /// Returns whole batches from the one that contains `offset` up to `end_offset`.
    ///
    /// They have at most `max_bytes` in total. `MinBytes::OneBatch` returns the first batch even if
    /// it is larger (KIP-74): otherwise a consumer could not pass it.
    pub(crate) fn read(
        &self,
        offset: i64,
        end_offset: i64,
        max_bytes: usize,
        min_bytes: MinBytes,
    ) -> io::Result<Vec<u8>> {
        let mut out = Vec::new();
        let first = self.segments.partition_point(|s| s.base_offset <= offset).saturating_sub(1);
        for segment in &self.segments[first..] {
            let entries = segment.entries();
            let from = entries.partition_point(|e| e.last_offset < offset);
            for e in &entries[from..] {
                let fits = out.len() + e.len as usize <= max_bytes;
                let is_required = min_bytes == MinBytes::OneBatch && out.is_empty();
                if e.last_offset >= end_offset || (!fits && !is_required) {
                    return Ok(out);
                }
                segment.read(e, &mut out)?;
                if !fits {
                    return Ok(out);
                }
            }
        }
        Ok(out)
    }

    /// Returns all batches.
    pub(crate) fn batches(&self) -> io::Result<Vec<LogBatch>> {
        self.batches_from(0)
    }

    /// Returns the batches that begin at an offset or after it.
    pub(crate) fn batches_from(&self, offset: i64) -> io::Result<Vec<LogBatch>> {
        let entries = self.entries().filter(|(_, e)| e.base_offset >= offset);
        entries.map(|(s, e)| read_batch(s, e)).collect()
    }

    /// Returns the batch with the highest timestamp, among those before `end_offset`.
    pub(crate) fn batch_with_max_timestamp(&self, end_offset: i64) -> io::Result<Option<LogBatch>> {
        let entries = self.entries().filter(|(_, e)| e.last_offset < end_offset);
        // `max_by_key` returns the last maximum: in reverse order, that is the first batch.
        let max = entries.rev().max_by_key(|(_, e)| e.max_timestamp);
        max.map(|(s, e)| read_batch(s, e)).transpose()
    }

    /// Returns the first batch before `end_offset` with a timestamp of `timestamp` or later.
    pub(crate) fn find_batch_by_timestamp(
        &self,
        timestamp: i64,
        end_offset: i64,
    ) -> io::Result<Option<LogBatch>> {
        let is_match =
            |e: &LogIndexEntry| e.max_timestamp >= timestamp && e.last_offset < end_offset;
        let first = self.entries().find(|(_, e)| is_match(e));
        first.map(|(s, e)| read_batch(s, e)).transpose()
    }
}

fn read_batch(s: &LogSegment, e: &LogIndexEntry) -> io::Result<LogBatch> {
    let mut bytes = Vec::new();
    s.read(e, &mut bytes)?;
    Ok(LogBatch { base_offset: e.base_offset, bytes: bytes.into() })
}
