//! A partition's log: batches as they were received, one behind the other, in segments; only base offset and
//! leader epoch are rewritten, which no checksum covers.

mod segment;

use std::io;
use std::path::Path;

use bytes::Bytes;
use ottla_protocol::record::BatchHeaderView;

pub(crate) use segment::LogSegment;

/// Where a batch stands, and what a look-up needs of it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LogIndexEntry {
    pub(crate) base_offset: i64,
    pub(crate) last_offset: i64,
    /// Of the leader that appended it.
    pub(crate) leader_epoch: i32,
    pub(crate) max_timestamp: i64,
    pub(crate) position: u64,
    pub(crate) len: u32,
}

/// A batch's place and bytes, for whoever looks into a log.
#[derive(Debug, Clone)]
pub struct LogBatch {
    /// Its first offset.
    pub base_offset: i64,
    /// Its bytes, as they stand in the log.
    pub bytes: Bytes,
}

/// The log.
#[derive(Debug)]
pub(crate) struct Log {
    segments: Vec<LogSegment>,
    log_end_offset: i64,
    segment_bytes: u64,
}

impl Log {
    /// An empty log in memory.
    pub(crate) fn in_memory() -> Log {
        Log { segments: vec![LogSegment::in_memory(0)], log_end_offset: 0, segment_bytes: u64::MAX }
    }

    /// A log in a directory, recovered: read from its start, cut at the first bad batch.
    pub(crate) fn open(
        dir: &Path,
        segment_bytes: u64,
        mut each: impl FnMut(&BatchHeaderView, i64),
    ) -> io::Result<Log> {
        std::fs::create_dir_all(dir)?;
        let mut segments = LogSegment::open_all(dir)?;
        let (mut next, mut whole) = (segments.first().map_or(0, |s| s.base_offset), 0);
        for segment in &mut segments {
            if segment.base_offset != next {
                break;
            }
            whole += 1;
            let cut = segment.recover(|header, base| {
                next = base + i64::from(header.header.last_offset_delta) + 1;
                each(header, base);
            })?;
            if cut {
                break;
            }
        }
        // What stands behind a cut has no place any more.
        for lost in segments.drain(whole..) {
            lost.remove()?;
        }
        if segments.is_empty() {
            segments.push(LogSegment::create(dir, 0)?);
        }
        Ok(Log { segments, log_end_offset: next, segment_bytes })
    }

    /// The offset behind the last record.
    pub(crate) fn log_end_offset(&self) -> i64 {
        self.log_end_offset
    }

    /// The first offset.
    pub(crate) fn log_start_offset(&self) -> i64 {
        self.segments.first().map_or(0, |s| s.base_offset)
    }

    /// Appends a batch that was checked; its first offset.
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

    /// Appends a batch as the leader's log has it.
    pub(crate) fn append_as_follower(
        &mut self,
        bytes: &[u8],
        header: &BatchHeaderView,
    ) -> io::Result<()> {
        if header.header.base_offset != self.log_end_offset {
            return Err(io::Error::other("a copied batch does not fit behind the last"));
        }
        self.append_to_segment(bytes, header, header.header.partition_leader_epoch)
    }

    fn append_to_segment(
        &mut self,
        bytes: &[u8],
        header: &BatchHeaderView,
        epoch: i32,
    ) -> io::Result<()> {
        let base = self.log_end_offset;
        let full = self
            .segments
            .last()
            .is_some_and(|s| s.size() > 0 && s.size() + bytes.len() as u64 > self.segment_bytes);
        if full && let Some(next) = self.segments.last().map(|s| s.roll(base)).transpose()? {
            self.segments.push(next);
        }
        let last = base + i64::from(header.header.last_offset_delta);
        if let Some(segment) = self.segments.last_mut() {
            let max_timestamp = header.header.max_timestamp;
            let (position, len) = (segment.size(), bytes.len() as u32);
            segment.append(
                bytes,
                LogIndexEntry {
                    base_offset: base,
                    last_offset: last,
                    leader_epoch: epoch,
                    max_timestamp,
                    position,
                    len,
                },
            )?;
        }
        self.log_end_offset = last + 1;
        Ok(())
    }

    /// The last leader epoch and the end: of two replicas, the greater has more.
    pub(crate) fn epoch_and_end_offset(&self) -> (i32, i64) {
        (self.latest_epoch(), self.log_end_offset)
    }

    /// The epoch of the last batch; −1 without one.
    pub(crate) fn latest_epoch(&self) -> i32 {
        self.entries().next_back().map_or(-1, |(_, e)| e.leader_epoch)
    }

    /// The end of an epoch: the greatest epoch up to it that has batches here, and the offset behind its last.
    pub(crate) fn end_offset_for_epoch(&self, epoch: i32) -> Option<(i32, i64)> {
        let within = self.entries().rev().find(|(_, e)| e.leader_epoch <= epoch);
        within.map(|(_, e)| (e.leader_epoch, e.last_offset + 1))
    }

    /// The offset up to which both hold the same batches.
    pub(crate) fn common_end_offset(&self, other: &Log) -> i64 {
        // Where both have a batch of one epoch at one place, all before it is the same, too.
        for (_, mine) in self.entries().rev() {
            let same = |e: &&LogIndexEntry| {
                (e.base_offset, e.last_offset, e.leader_epoch, e.len)
                    == (mine.base_offset, mine.last_offset, mine.leader_epoch, mine.len)
            };
            if other.entry_with_base_offset(mine.base_offset).filter(same).is_some() {
                return mine.last_offset + 1;
            }
        }
        self.log_start_offset()
    }

    /// The batch that begins at this offset.
    fn entry_with_base_offset(&self, base: i64) -> Option<&LogIndexEntry> {
        let at = self.segments.partition_point(|s| s.base_offset <= base).checked_sub(1)?;
        let entries = self.segments[at].entries();
        entries
            .get(entries.partition_point(|e| e.base_offset < base))
            .filter(|e| e.base_offset == base)
    }

    /// Cuts off everything from `offset` on, which a batch begins.
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

    /// The bytes of every batch from the one that begins at `offset`.
    pub(crate) fn read_from(&self, offset: i64) -> io::Result<Vec<Vec<u8>>> {
        let mut out = Vec::new();
        let at = self.segments.partition_point(|s| s.base_offset <= offset).saturating_sub(1);
        for s in &self.segments[at..] {
            let entries = s.entries();
            for e in &entries[entries.partition_point(|e| e.base_offset < offset)..] {
                let mut bytes = Vec::new();
                s.read(e, &mut bytes)?;
                out.push(bytes);
            }
        }
        Ok(out)
    }

    /// Every batch's header.
    pub(crate) fn batch_headers(&self) -> io::Result<Vec<Vec<u8>>> {
        let mut all = self.read_from(self.log_start_offset())?;
        all.iter_mut().for_each(|b| b.truncate(ottla_protocol::record::BATCH_HEADER_LEN));
        Ok(all)
    }

    fn entries(&self) -> impl DoubleEndedIterator<Item = (&LogSegment, &LogIndexEntry)> {
        self.segments.iter().flat_map(|s| s.entries().iter().map(move |e| (s, e)))
    }

    /// Whole batches from the one that holds `offset` to `end`, at most `max` bytes; the first even if it is larger
    /// and `first` says so.
    pub(crate) fn read(
        &self,
        offset: i64,
        end: i64,
        max: usize,
        first: bool,
    ) -> io::Result<Vec<u8>> {
        let mut out = Vec::new();
        let at = self.segments.partition_point(|s| s.base_offset <= offset).saturating_sub(1);
        for segment in &self.segments[at..] {
            let entries = segment.entries();
            let from = entries.partition_point(|e| e.last_offset < offset);
            for e in &entries[from..] {
                let fits = out.len() + e.len as usize <= max;
                let alone = first && out.is_empty();
                if e.last_offset >= end || (!fits && !alone) {
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

    /// Every batch.
    pub(crate) fn batches(&self) -> io::Result<Vec<LogBatch>> {
        let read = |(s, e): (&LogSegment, &LogIndexEntry)| {
            let mut bytes = Vec::new();
            s.read(e, &mut bytes)?;
            Ok(LogBatch { base_offset: e.base_offset, bytes: bytes.into() })
        };
        self.entries().map(read).collect()
    }

    /// The batch with the greatest timestamp, of those before `end`.
    pub(crate) fn batch_with_max_timestamp(&self, end: i64) -> io::Result<Option<LogBatch>> {
        // Of equals the first.
        let known = self.entries().filter(|(_, e)| e.last_offset < end);
        let best = known.rev().max_by_key(|(_, e)| e.max_timestamp);
        best.map(|(s, e)| read_batch(s, e)).transpose()
    }

    /// The first batch with a timestamp at or after this one, of those before `end`.
    pub(crate) fn find_batch_by_timestamp(
        &self,
        timestamp: i64,
        end: i64,
    ) -> io::Result<Option<LogBatch>> {
        let fits = |e: &LogIndexEntry| e.max_timestamp >= timestamp && e.last_offset < end;
        let found = self.entries().find(|(_, e)| fits(e));
        found.map(|(s, e)| read_batch(s, e)).transpose()
    }
}

fn read_batch(s: &LogSegment, e: &LogIndexEntry) -> io::Result<LogBatch> {
    let mut bytes = Vec::new();
    s.read(e, &mut bytes)?;
    Ok(LogBatch { base_offset: e.base_offset, bytes: bytes.into() })
}
