//! A segment of a log: a file in Kafka's format, or memory.
//!
//! The file's name is the base offset in 20 digits. Only [`crate::log`] uses segments.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use ottla_protocol::record::{BatchView, Batches};

use super::LogIndexEntry;

/// A segment and the index of its batches.
#[derive(Debug)]
pub(crate) struct LogSegment {
    pub(crate) base_offset: i64,
    storage: SegmentStorage,
    entries: Vec<LogIndexEntry>,
    size: u64,
}

/// Whether a recovered segment was whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Recovery {
    Complete,
    /// The segment ended at an invalid batch.
    Truncated,
}

#[derive(Debug)]
enum SegmentStorage {
    Memory(Vec<u8>),
    File { file: File, path: PathBuf },
}

/// Puts the path in front of an error's message.
fn with_path(path: &Path, e: &io::Error) -> io::Error {
    io::Error::new(e.kind(), format!("{}: {e}", path.display()))
}

impl LogSegment {
    pub(super) fn in_memory(base: i64) -> LogSegment {
        LogSegment {
            base_offset: base,
            storage: SegmentStorage::Memory(Vec::new()),
            entries: Vec::new(),
            size: 0,
        }
    }

    pub(super) fn create(dir: &Path, base: i64) -> io::Result<LogSegment> {
        let path = dir.join(format!("{base:020}.log"));
        let file =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
        let file = file.map_err(|e| with_path(&path, &e))?;
        Ok(LogSegment {
            base_offset: base,
            storage: SegmentStorage::File { file, path },
            entries: Vec::new(),
            size: 0,
        })
    }

    /// Creates the segment that follows this one.
    pub(super) fn roll(&self, base: i64) -> io::Result<LogSegment> {
        match &self.storage {
            SegmentStorage::Memory(_) => Ok(LogSegment::in_memory(base)),
            SegmentStorage::File { path, .. } => {
                LogSegment::create(path.parent().unwrap_or(Path::new(".")), base)
            }
        }
    }

    /// Opens the segments of a directory, in order of their base offsets.
    pub(super) fn open_all(dir: &Path) -> io::Result<Vec<LogSegment>> {
        let mut bases = Vec::new();
        for entry in fs::read_dir(dir)? {
            let name = entry?.file_name();
            let name = name.to_string_lossy();
            if let Some(base) = name.strip_suffix(".log").filter(|b| b.len() == 20) {
                bases.extend(base.parse::<i64>());
            }
        }
        bases.sort_unstable();
        bases.into_iter().map(|base| LogSegment::create(dir, base)).collect()
    }

    /// Reads the whole file, builds the index, and truncates the file at the first invalid batch.
    ///
    /// A broker that stops during a write leaves a part of a batch. Calls `on_batch` with
    /// each valid batch and its base offset.
    pub(super) fn recover(
        &mut self,
        mut on_batch: impl FnMut(&BatchView<'_>, i64),
    ) -> io::Result<Recovery> {
        let SegmentStorage::File { file, path } = &mut self.storage else {
            return Ok(Recovery::Complete);
        };
        let mut bytes = Vec::new();
        file.seek(SeekFrom::Start(0))?;
        file.read_to_end(&mut bytes)?;
        let (mut position, mut expected_offset) = (0u64, self.base_offset);
        for batch in Batches::new(&bytes) {
            let Ok(batch) = batch else { break };
            let (base_offset, len) = (batch.header().base_offset, batch.bytes().len());
            let last_offset_delta = batch.header().last_offset_delta;
            let is_valid =
                batch.verify().is_ok() && base_offset == expected_offset && last_offset_delta >= 0;
            let end_offset = base_offset.checked_add(i64::from(last_offset_delta) + 1);
            let Some(end_offset) = end_offset.filter(|_| is_valid) else { break };
            let last_offset = end_offset - 1;
            self.entries.push(LogIndexEntry {
                base_offset,
                last_offset,
                leader_epoch: batch.header().partition_leader_epoch,
                max_timestamp: batch.header().max_timestamp,
                position,
                len: len as u32,
            });
            on_batch(&batch, base_offset);
            position += len as u64;
            expected_offset = end_offset;
        }
        self.size = position;
        let removed_bytes = bytes.len() as u64 - position;
        if removed_bytes == 0 {
            return Ok(Recovery::Complete);
        }
        tracing::warn!(
            file = %path.display(), position, removed_bytes, "log truncated at an invalid batch"
        );
        file.set_len(position)?;
        Ok(Recovery::Truncated)
    }

    pub(super) fn size(&self) -> u64 {
        self.size
    }

    pub(super) fn entries(&self) -> &[LogIndexEntry] {
        &self.entries
    }

    pub(super) fn append(&mut self, bytes: &[u8], entry: LogIndexEntry) -> io::Result<()> {
        match &mut self.storage {
            SegmentStorage::Memory(all) => all.extend_from_slice(bytes),
            SegmentStorage::File { file, path } => {
                file.seek(SeekFrom::Start(self.size))?;
                if let Err(e) = file.write_all(bytes) {
                    // Recovery and readers must not find a part of a batch.
                    let _ = file.set_len(self.size);
                    return Err(with_path(path, &e));
                }
            }
        }
        self.entries.push(entry);
        self.size += bytes.len() as u64;
        Ok(())
    }

    /// Removes the batches from `offset` on.
    pub(super) fn truncate_to(&mut self, offset: i64) -> io::Result<()> {
        let keep = self.entries.partition_point(|e| e.base_offset < offset);
        let Some(first) = self.entries.get(keep) else { return Ok(()) };
        let size = first.position;
        match &mut self.storage {
            SegmentStorage::Memory(all) => all.truncate(size as usize),
            SegmentStorage::File { file, .. } => file.set_len(size)?,
        }
        self.entries.truncate(keep);
        self.size = size;
        Ok(())
    }

    /// Appends a batch's bytes to `out`.
    pub(super) fn read(&self, e: &LogIndexEntry, out: &mut Vec<u8>) -> io::Result<()> {
        let (from, len) = (e.position, e.len as usize);
        match &self.storage {
            SegmentStorage::Memory(all) => {
                out.extend_from_slice(&all[from as usize..from as usize + len]);
            }
            SegmentStorage::File { file, .. } => {
                let (mut file, at) = (file, out.len());
                file.seek(SeekFrom::Start(from))?;
                out.resize(at + len, 0);
                file.read_exact(&mut out[at..])?;
            }
        }
        Ok(())
    }

    pub(super) fn remove(self) -> io::Result<()> {
        match self.storage {
            SegmentStorage::Memory(_) => Ok(()),
            SegmentStorage::File { path, .. } => fs::remove_file(path),
        }
    }
}
