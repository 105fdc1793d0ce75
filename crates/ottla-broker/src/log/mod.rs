//! A partition's log: batches as they were received, one behind the other, in segments; only base offset and
//! leader epoch are rewritten, which no checksum covers.

mod files;

use std::io;
use std::path::Path;

use bytes::Bytes;
use ottla_protocol::record::HeaderView;

pub(crate) use files::Segment;

/// Where a batch stands, and what a look-up needs of it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Entry {
    pub(crate) base: i64,
    pub(crate) last: i64,
    pub(crate) max_timestamp: i64,
    pub(crate) position: u64,
    pub(crate) len: u32,
}

/// A batch's place and bytes, for whoever looks into a log.
#[derive(Debug, Clone)]
pub struct Batch {
    /// Its first offset.
    pub base_offset: i64,
    /// Its bytes, as they stand in the log.
    pub bytes: Bytes,
}

/// The log.
#[derive(Debug)]
pub(crate) struct Log {
    segments: Vec<Segment>,
    next: i64,
    segment_bytes: u64,
}

impl Log {
    /// An empty log in memory.
    pub(crate) fn in_memory() -> Log {
        Log { segments: vec![Segment::memory(0)], next: 0, segment_bytes: u64::MAX }
    }

    /// A log in a directory, recovered: read from its start, cut at the first bad batch.
    pub(crate) fn open(
        dir: &Path,
        segment_bytes: u64,
        mut each: impl FnMut(&HeaderView, i64),
    ) -> io::Result<Log> {
        std::fs::create_dir_all(dir)?;
        let mut segments = Segment::list(dir)?;
        let (mut next, mut whole) = (segments.first().map_or(0, |s| s.base), 0);
        for segment in &mut segments {
            if segment.base != next {
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
            segments.push(Segment::create(dir, 0)?);
        }
        Ok(Log { segments, next, segment_bytes })
    }

    /// The offset behind the last record.
    pub(crate) fn end(&self) -> i64 {
        self.next
    }

    /// The first offset.
    pub(crate) fn start(&self) -> i64 {
        self.segments.first().map_or(0, |s| s.base)
    }

    /// Appends a batch that was checked; its first offset.
    pub(crate) fn append(
        &mut self,
        batch: &[u8],
        header: &HeaderView,
        epoch: i32,
    ) -> io::Result<i64> {
        let base = self.next;
        let mut bytes = batch.to_vec();
        bytes[..8].copy_from_slice(&base.to_be_bytes());
        bytes[12..16].copy_from_slice(&epoch.to_be_bytes());
        let full = self
            .segments
            .last()
            .is_some_and(|s| s.size() > 0 && s.size() + bytes.len() as u64 > self.segment_bytes);
        if full && let Some(next) = self.segments.last().map(|s| s.next(base)).transpose()? {
            self.segments.push(next);
        }
        let last = base + i64::from(header.header.last_offset_delta);
        if let Some(segment) = self.segments.last_mut() {
            segment.append(&bytes, base, last, header.header.max_timestamp)?;
        }
        self.next = last + 1;
        Ok(base)
    }

    fn entries(&self) -> impl DoubleEndedIterator<Item = (&Segment, &Entry)> {
        self.segments.iter().flat_map(|s| s.entries().iter().map(move |e| (s, e)))
    }

    /// Whole batches from the one that holds `offset`, at most `max` bytes; the first even if it is larger
    /// and `first` says so.
    pub(crate) fn read(&self, offset: i64, max: usize, first: bool) -> io::Result<Vec<u8>> {
        let mut out = Vec::new();
        let at = self.segments.partition_point(|s| s.base <= offset).saturating_sub(1);
        for segment in &self.segments[at..] {
            let entries = segment.entries();
            let from = entries.partition_point(|e| e.last < offset);
            for e in &entries[from..] {
                let fits = out.len() + e.len as usize <= max;
                let alone = first && out.is_empty();
                if !fits && !alone {
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
    pub(crate) fn batches(&self) -> io::Result<Vec<Batch>> {
        let read = |(s, e): (&Segment, &Entry)| {
            let mut bytes = Vec::new();
            s.read(e, &mut bytes)?;
            Ok(Batch { base_offset: e.base, bytes: bytes.into() })
        };
        self.entries().map(read).collect()
    }

    /// The batch with the greatest timestamp.
    pub(crate) fn greatest(&self) -> io::Result<Option<Batch>> {
        // Of equals the first.
        let best = self.entries().rev().max_by_key(|(_, e)| e.max_timestamp);
        best.map(|(s, e)| one(s, e)).transpose()
    }

    /// The first batch with a timestamp at or after this one.
    pub(crate) fn at_or_after(&self, timestamp: i64) -> io::Result<Option<Batch>> {
        let found = self.entries().find(|(_, e)| e.max_timestamp >= timestamp);
        found.map(|(s, e)| one(s, e)).transpose()
    }
}

fn one(s: &Segment, e: &Entry) -> io::Result<Batch> {
    let mut bytes = Vec::new();
    s.read(e, &mut bytes)?;
    Ok(Batch { base_offset: e.base, bytes: bytes.into() })
}
